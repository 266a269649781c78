"""`OfflineModel`: the deterministic model without a network that drives the product when there is no API key.

It behaves as a model in the agent loop: calls tools, reads their results from the messages, and ends with a text.
Below: `offline_parse` says what the person asked for, `offline_work` what each request needs.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from runtime.events import ModelReplied
from runtime.models import offline_slots as slots
from runtime.models.offline_grammar import ACTING
from runtime.models.offline_history import Card, Exchange, Made, Result, exchanges, touched
from runtime.models.offline_parse import Request, parse
from runtime.models.offline_work import QUESTION, Call, Outcome, Scene, work_on
from runtime.models.words import tell
from runtime.ports import Json, ModelRequest, OnText

_EMPTY = "I see no words in this message. Tell me what to put on the board, or write 'help'."
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_MAX_PHASES = 19
_ABOUT_CARDS = ("change", "move", "show")


class OfflineModel:
    """A model without a network: understands the sentences of docs/offline.md and guesses nothing."""

    @property
    def name(self) -> str:
        """What output calls it, so that nobody takes it for a language model."""
        return "offline"

    async def reply(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReplied:
        """Answer from the request alone; the same request always gets the same reply."""
        reply = self.answer(request)
        tell(reply, on_text)
        return reply

    def answer(self, request: ModelRequest) -> ModelReplied:
        """Return what `reply` does, for callers that are not async: nothing is waited for."""
        calls, text = _next(request)
        content: list[Json] = [{"type": "text", "text": text}] if text else []
        content += [
            {"type": "tool_use", "id": call_id, "name": call.name, "input": call.arguments}
            for call_id, call in zip(_ids(request, len(calls)), calls, strict=True)
        ]
        return ModelReplied(content=tuple(content), stop_reason="tool_use" if calls else "end_turn", model=self.name)


def _ids(request: ModelRequest, count: int) -> list[str]:
    """Name the calls by their place in the history and by what they answer.

    The digest tells apart conversations, and places that a compacted history has twice: the message it is made from
    holds the ids of the calls before, or the clock.
    """
    last = json.dumps(request.messages[-1], sort_keys=True) if request.messages else ""
    digest = hashlib.sha256(last.encode()).hexdigest()[:12]
    return [f"toolu_offline_{len(request.messages)}_{number}_{digest}" for number in range(count)]


def _next(request: ModelRequest) -> tuple[list[Call], str]:
    """Return the calls of the next reply, or no calls and the text that ends the execution."""
    history = exchanges(request.messages)
    exchange, offered = history[-1], frozenset(tool.name for tool in request.tools)
    if exchange.answer is not None:
        return [], _after_reply(exchange)
    requests = _asked(history)
    if not requests:
        return [], _EMPTY
    scene = Scene(offered=offered, now=exchange.now, earlier=[touched(earlier) for earlier in history[:-1]])
    pool = _Pool(made=[call for call in exchange.calls if call.result])
    progress = _carry_out(requests, scene, pool)
    if plan := _plan(exchange, requests, progress, offered):
        return [plan, *progress.calls], ""
    if progress.calls:
        return progress.calls, ""
    text = "\n".join(outcome.text for outcome in progress.outcomes)
    closing = _closing(text, scene, pool)
    return closing, "" if closing else text


def _after_reply(exchange: Exchange) -> str:
    replies = [call for call in exchange.calls if call.name == "reply"]
    if replies and replies[-1].result and replies[-1].result.is_error:
        return f"The answer could not be sent: {replies[-1].result.text}"
    return "The answer is sent (offline model)."


# --- carrying out the requests ---


@dataclass(slots=True, kw_only=True)
class _Pool:
    """The results that the exchange already has; each answers one equal call."""

    made: list[Made] = field(default_factory=list[Made])

    def take(self, call: Call) -> Result | None:
        """Take the result of a call out of the pool; None when it has not been made."""
        for place, made in enumerate(self.made):
            if made.name == call.name and made.arguments == call.arguments:
                return self.made.pop(place).result
        return None


@dataclass(slots=True, kw_only=True)
class _Progress:
    """How far the requests of a message have come."""

    calls: list[Call] = field(default_factory=list[Call])
    """To be made next, together."""
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    missing: list[str] = field(default_factory=list[str])
    """Tools that a request needs and the agent does not have."""


def _carry_out(requests: Sequence[Request], scene: Scene, pool: _Pool) -> _Progress:
    """Take every request as far as the results go; one that refers to a card waits for those before it."""
    progress = _Progress()
    for request in requests:
        if progress.calls and request.intent in _ABOUT_CARDS:
            break
        _advance(request, scene, pool, progress)
    return progress


def _advance(request: Request, scene: Scene, pool: _Pool, progress: _Progress) -> None:
    work = work_on(request, scene)
    try:
        call = next(work)
        while call.name in scene.offered and (result := pool.take(call)):
            call = work.send(result)
    except StopIteration as end:
        # A generator's return value travels on StopIteration, untyped.
        outcome: Outcome = end.value
        progress.outcomes.append(outcome)
        scene.current.update({card.id: card for card in outcome.touched})
        return
    if call.name in scene.offered:
        progress.calls.append(call)
    else:
        progress.missing.append(call.name)
        progress.outcomes.append(Outcome(text=f"For that I need the tool '{call.name}', which I do not have here."))


def _plan(exchange: Exchange, requests: Sequence[Request], progress: _Progress, offered: frozenset[str]) -> Call | None:
    """Plan once, before the first calls, where there is more than one thing to do.

    A tool that is missing may come after the plan: an agent that must plan is first offered nothing that acts.
    """
    if "plan" not in offered or exchange.calls:
        return None
    several = len([request for request in requests if request.intent in ACTING]) > 1
    makes_card = any(request.intent == "add" for request in requests) and offered & {"remember", "reply"}
    if not (progress.missing or (progress.calls and (several or len(requests) > 1 or makes_card))):
        return None
    phases = [_phase(request) for request in requests][:_MAX_PHASES]
    if "reply" in offered:
        phases.append("answer")
    return Call(name="plan", arguments={"goal": exchange.text[:500], "phases": phases})


def _phase(request: Request) -> str:
    subject = request.title or request.ref or request.text or request.name or request.goal or request.value
    return f"{request.intent}: {subject}"[:100] if subject else request.intent


def _closing(text: str, scene: Scene, pool: _Pool) -> list[Call]:
    """After the work: remember which card it was about, and send the answer."""
    calls: list[Call] = []
    if scene.current and "remember" in scene.offered:
        note = Call(name="remember", arguments={"key": "last_card", "value": _last_card(list(scene.current.values()))})
        if pool.take(note) is None:
            calls.append(note)
    if "reply" in scene.offered:
        calls.append(Call(name="reply", arguments={"text": text}))
    return calls


def _last_card(cards: Sequence[Card]) -> Json:
    """Describe one card, or all of several: then a later "it" is ambiguous and has to be asked for."""
    views = [{"id": card.id, "title": card.title, "client": card.client or None} for card in cards]
    return views[0] if len(views) == 1 else {"cards": views}


# --- answers to the model's own question ---


def _asked(history: Sequence[Exchange]) -> tuple[Request, ...]:
    """Return the requests of the last exchange; an answer to "which card do you mean" completes the ones before."""
    exchange = history[-1]
    requests = parse(exchange.text, exchange.now)
    before = history[-2] if len(history) > 1 else None
    if len(requests) != 1 or requests[0].intent not in ("choose", "unknown") or before is None:
        return requests
    question = before.answer or ""
    earlier = [request for request in parse(before.text, before.now) if request.intent in _ABOUT_CARDS]
    if QUESTION not in question or len(earlier) != 1:
        return requests
    ref = _chosen(requests[0].choice or exchange.text, question, history[:-1])
    return requests if ref is None else (replace(earlier[0], ref=ref),)


def _chosen(choice: str, question: str, history: Sequence[Exchange]) -> str | None:
    """Find the card that an answer picks from the numbers in the question."""
    listed = [word.strip("'?:,") for word in question.partition(QUESTION)[2].split() if word[:1] == "#"]
    first = choice.lower().split()[0] if choice else ""
    if listed and (first in _ORDINALS or first == "last"):
        place = len(listed) - 1 if first == "last" else _ORDINALS.index(first)
        return listed[place] if place < len(listed) else None
    ref = slots.reference(choice)
    if ref is None or ref in (slots.IT, slots.THEM):
        return None
    fitting = [
        f"#{number}" for number, title in _titles(history).items() if f"#{number}" in listed and _names(ref, title)
    ]
    return ref if not listed or ref in listed else fitting[0] if len(fitting) == 1 else None


def _titles(history: Sequence[Exchange]) -> dict[int, str]:
    return {card.id: f"{card.title} {card.client}" for exchange in history for card in touched(exchange)}


def _names(ref: str, title: str) -> bool:
    return slots.content_words(ref) <= slots.content_words(title)
