"""The Messages API of Anthropic as a `Model`.

Owns one call: the request's body (`anthropic_request`), the reply's rules (`anthropic_reply`), the deadline and the
translation of errors (`anthropic_errors`). Above it, the driver decides about retries: they are durable, so the SDK's
own, which sleep in this process while it holds a lease, are off. Importing this module costs seconds (the SDK).
"""

import logging
from contextlib import suppress
from typing import Any, Literal

import anthropic
import anyio
import httpx2
from anthropic import AsyncStream

from runtime.errors import ModelRequestError, ModelUnavailableError
from runtime.events import ModelReplied
from runtime.models.anthropic_errors import is_about_grammar, translated_opening, translated_reading
from runtime.models.anthropic_reply import ReplyAssembly, counted_tokens, whole_reply
from runtime.models.anthropic_request import request_body
from runtime.models.words import tell
from runtime.ports import Json, ModelRequest, OnText

logger = logging.getLogger(__name__)

Effort = Literal["low", "medium", "high", "xhigh", "max"]

_DRAIN_S = 1.0
"""Longest wait for the end of the body after message_stop; only a body read to its end leaves a reusable connection."""


def anthropic_client(
    *,
    api_key: str,
    base_url: str = "https://api.anthropic.com",
    connect_timeout_s: float = 10.0,
    read_timeout_s: float = 60.0,
) -> anthropic.AsyncAnthropic:
    """Return a client made from these values alone, without retries; the caller closes it (`async with`).

    `read_timeout_s` is the longest silence within a stream, which the API breaks with pings. The key and the base URL
    are always given to the SDK, which would otherwise read both from the environment or a profile on disk.

    Raises:
        ModelRequestError: the key cannot be sent in a header.
    """
    if not api_key or not all("!" <= character <= "~" for character in api_key):
        # h11 would refuse it too, but with the key in the text of its error.
        reason = (
            "the API key is empty or has spaces or other characters that no header carries; check ANTHROPIC_API_KEY"
        )
        raise ModelRequestError(reason)
    timeout = httpx2.Timeout(read_timeout_s, connect=connect_timeout_s)
    return anthropic.AsyncAnthropic(api_key=api_key, base_url=base_url, timeout=timeout, max_retries=0)


class AnthropicModel:
    """Claude, asked through the Messages API; safe to use from several tasks at once."""

    def __init__(
        self,
        client: anthropic.AsyncAnthropic,
        *,
        model: str,
        deadline_s: float = 600.0,
        max_tokens: int | None = None,
        stream: bool = True,
        thinking: bool | None = None,
        effort: Effort | None = None,
        small_model: str | None = None,
        strict_tools: bool = True,
    ) -> None:
        """Configure every call of this model.

        Args:
            client: Stays the caller's to close; its retries are not used.
            model: Id of the model, unless a request names one.
            deadline_s: Longest time for one whole reply (monotonic); a stream of pings never times out by itself.
            max_tokens: The most one reply may use, whatever the request says; None: no such ceiling.
            stream: Ask for server-sent events; otherwise for one JSON body, which long replies make slow to arrive.
            thinking: True: the model decides when and how much to think (adaptive thinking); False: it does not
                think; None: the model's default.
            effort: How much effort it puts into a reply; None: the model's default.
            small_model: Id of the model for minor requests; it gets neither `thinking` nor `effort`, which not every
                small model takes. None: minor requests are as any other.
            strict_tools: Let the provider hold the model to the schemas of tools, where they qualify.
        """
        self._client = client.with_options(max_retries=0)
        self._model = model
        self._deadline_s = deadline_s
        self._max_tokens = max_tokens
        self._small_model = small_model
        self._stream = stream
        self._options: Json = {}
        if thinking is not None:
            self._options["thinking"] = {"type": "adaptive" if thinking else "disabled"}
        if effort is not None:
            self._options["output_config"] = {"effort": effort}
        self._strict_tools = strict_tools
        self._too_complex: set[tuple[str, ...]] = set()
        """Sets of tools, by name, whose grammar the provider refused to compile."""
        self._timeout = httpx2.Timeout(client.timeout)
        if not stream:
            # One JSON body is silent until it is whole, so the deadline is the only limit for its read.
            self._timeout.read = None

    @property
    def name(self) -> str:
        """The id of the model."""
        return self._model

    async def reply(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReplied:
        """Return one whole reply that counts.

        A trailing tool call of a reply that was cut at `max_tokens` is left out: see `anthropic_reply.whole_reply`.

        Raises:
            ModelUnavailableError: try again later, after `retry_after_s` if the provider said so.
            ModelReplyInvalidError: the reply was cut or malformed; asking again is safe.
            ModelRequestError: the provider refuses this request.
        """
        try:
            with anyio.fail_after(self._deadline_s):
                return await self._reply(request, on_text)
        except TimeoutError as error:
            reason = f"no whole reply within {self._deadline_s:g} s"
            raise ModelUnavailableError(reason) from error

    async def count_tokens(self, request: ModelRequest) -> int:
        """Return how many tokens the request's prompt has, as the provider counts them.

        Raises:
            ModelUnavailableError, ModelReplyInvalidError, ModelRequestError: as for `reply`.
        """
        body = self._body(request)
        del body["max_tokens"]  # refused here
        send: Any = self._client.messages.with_raw_response.count_tokens
        try:
            with anyio.fail_after(self._deadline_s), translated_opening(body["model"]):
                answered = await send(**body)
        except TimeoutError as error:
            reason = f"no count within {self._deadline_s:g} s"
            raise ModelUnavailableError(reason) from error
        return counted_tokens(answered.http_response.content)

    async def _reply(self, request: ModelRequest, on_text: OnText | None) -> ModelReplied:
        body = self._body(request)
        try:
            return await self._ask(body, on_text)
        except ModelRequestError as error:
            # Beyond its documented limits the API has one on the size of the whole grammar, which nobody can compute.
            if not (_has_strict_tools(body) and is_about_grammar(error)):
                raise
            logger.warning("the provider refuses these tools as strict ones", extra={"reason": error.reason})
            self._too_complex.add(_names(request))
        return await self._ask(self._body(request), on_text)

    def _body(self, request: ModelRequest) -> Json:
        is_small = request.is_minor and request.model is None and self._small_model is not None
        model = self._small_model if is_small and self._small_model else self._model
        strict = self._strict_tools and _names(request) not in self._too_complex
        body = request_body(request, model=model, max_tokens=self._max_tokens, strict=strict)
        return body if is_small else body | self._options

    async def _ask(self, body: Json, on_text: OnText | None) -> ModelReplied:
        # Not `messages.stream`: it hides the raw text of tool inputs and rebuilds blocks from its own types, while
        # this door hands out the bytes. The SDK's span then has no usage; the caller has it in the reply.
        send: Any = self._client.messages.with_streaming_response.create
        with translated_opening(body["model"]):
            async with send(**body, stream=self._stream, timeout=self._timeout) as opened:
                response: httpx2.Response = opened.http_response
                with translated_reading():
                    # By what came, not by what was asked: a gateway may answer a stream request with one JSON body.
                    if response.headers.get("content-type", "").startswith("text/event-stream"):
                        return await _streamed(response, on_text)
                    reply = whole_reply(await response.aread())
        tell(reply, on_text)
        return reply


def _names(request: ModelRequest) -> tuple[str, ...]:
    return tuple(spec.name for spec in request.tools)


def _has_strict_tools(body: Json) -> bool:
    return any(tool.get("strict") for tool in body.get("tools", ()))


async def _streamed(response: httpx2.Response, on_text: OnText | None) -> ModelReplied:
    assembly = ReplyAssembly(on_text)
    events = AsyncStream[object].raw_events(response)
    async for event in events:
        assembly.feed(event.event, event.data)
        if assembly.is_complete:
            break
    reply = assembly.finish()
    # The reply counts from here on, so nothing that happens after it may take it back.
    with anyio.move_on_after(_DRAIN_S), suppress(httpx2.HTTPError, ValueError):
        async for _ in events:
            pass
    return reply
