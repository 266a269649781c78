"""Settings of storage: which database, which keys, where the embedded server lives.

Read once in a composition root and handed down. Sources, first wins: arguments, environment, `config.toml` in the
user's configuration directory (a desktop app does not inherit the shell's environment; `agency mcp install` writes it).
"""

from pathlib import Path

from platformdirs import user_config_path, user_data_path
from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


def config_file() -> Path:
    """Return where `config.toml` is expected on this platform."""
    return user_config_path("agency", appauthor=False) / "config.toml"


class LayeredSettings(BaseSettings):
    """Arguments, then environment, then the user's `config.toml`."""

    model_config = SettingsConfigDict(env_prefix="AGENCY_", frozen=True, extra="ignore", populate_by_name=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the file last, so that a shell can override what a desktop app was given."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config_file())


class StorageSettings(LayeredSettings):
    """Which database, which keys, where the embedded server lives."""

    database_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("DATABASE_URL", "database_url"))
    """Any PostgreSQL 15+; unset: the embedded one."""
    database_url_direct: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("DATABASE_URL_DIRECT", "database_url_direct")
    )
    """The same database without a pooler in between, for LISTEN and migrations."""
    secret_keys: SecretStr | None = None
    """Base64 32-byte keys, newest first, separated by commas."""
    data_dir: Path = Field(default_factory=lambda: user_data_path("agency", appauthor=False))
    """Where the embedded server and its key file live."""
    pg_bin: Path | None = None
    """Directory of PostgreSQL server binaries to use instead of the bundled ones."""
    pool_size: int = Field(default=10, ge=1, le=200)
    connect_timeout_s: float = Field(default=10, gt=0)
    command_timeout_s: float = Field(default=60, gt=0)
