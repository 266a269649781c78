"""Settings of the runtime: which model, on whose behalf, in which time zone."""

from typing import Literal
from zoneinfo import available_timezones

from pydantic import AliasChoices, Field, SecretStr, field_validator

from storage.settings import LayeredSettings


class RuntimeSettings(LayeredSettings):
    """Which model, on whose behalf, in which time zone."""

    anthropic_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("ANTHROPIC_API_KEY", "anthropic_api_key")
    )
    """Without it the offline model answers."""
    anthropic_base_url: str = Field(
        default="https://api.anthropic.com", validation_alias=AliasChoices("ANTHROPIC_BASE_URL", "anthropic_base_url")
    )
    model: str = "claude-sonnet-5-5"
    """`offline` chooses the offline model even when there is a key."""
    model_stream: bool = True
    """False: ask for whole JSON replies instead of server-sent events."""
    model_deadline_s: float = Field(default=600, gt=0)
    """Longest wait for one reply, pings included."""
    max_tokens: int = Field(default=8192, ge=1)
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    """How much effort a model puts into a reply; None: the model's default."""
    thinking: bool | None = None
    """True: the model decides when and how much to think; False: it does not; None: the model's default."""
    small_model: str | None = None
    """A cheaper model for work that needs less, such as the summary of a long session; None: the same model."""
    strict_tools: bool = True
    """False: do not ask the provider to hold a model to the schemas of tools; our own check stays."""
    context_tokens: int = Field(default=160_000, ge=1_000)
    """Tokens of a request beyond which the older part of a session is summed up."""
    timezone: str = "UTC"
    """IANA zone of users who have not said theirs."""

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in available_timezones():
            message = f"no time zone {name!r}; give an IANA name such as Europe/Berlin"
            raise ValueError(message)
        return name

    apps: str | None = None
    """Modules with agents and tools of your own that a worker runs, separated by commas."""
    user: str | None = None
    """Username to act as on a database that is not the embedded one."""
    api_key: SecretStr | None = None
    """Key to act under on a database that is not the embedded one."""
