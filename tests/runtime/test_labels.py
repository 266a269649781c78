"""Labels and tiers: the whole table of verdicts, the join as a semilattice, and what events say about themselves."""

from itertools import product

import pytest

from runtime.events import ModelReplied, ToolReturned, UserSpoke
from runtime.labels import (
    NOTHING_READ,
    Ask,
    Confidentiality,
    Integrity,
    Label,
    Refuse,
    Tier,
    kept_label,
    label_from,
    label_of,
    verdict,
)
from runtime.operation import DEFAULT_TIERS, Context, Effect
from runtime.toolbox import OPERATIONS
from runtime.tools import tool

LABELS = [Label(*pair) for pair in product(Integrity, Confidentiality)]
PAIRS = list(product(LABELS, LABELS))

SAID = ModelReplied(content=(), stop_reason="end_turn", model="m")

TABLE = {
    # tier: {(integrity, confidentiality): what becomes of a call}; what is not listed runs
    Tier.T0: {},
    Tier.T1: {},
    Tier.T2: {},
    Tier.T3: {
        ("external", "tenant"): Ask,
        ("external", "secret"): Refuse,
        ("staff", "secret"): Refuse,
        ("system", "secret"): Refuse,
    },
    Tier.T4: {
        ("external", "public"): Ask,
        ("external", "participant"): Ask,
        ("external", "tenant"): Ask,
        ("external", "secret"): Refuse,
        ("staff", "secret"): Refuse,
        ("system", "secret"): Refuse,
    },
}


@pytest.mark.parametrize("tier", list(Tier))
@pytest.mark.parametrize("label", LABELS, ids=str)
def test_every_tier_in_every_context_has_the_verdict_of_the_table(tier: Tier, label: Label) -> None:
    expected = TABLE[tier].get((label.integrity.value, label.confidentiality.value))
    found = verdict(tier, label)
    assert (None if found is None else type(found)) is expected


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=str)
def test_reading_more_never_allows_more(one: Label, other: Label) -> None:
    strictness = {type(None): 0, Ask: 1, Refuse: 2}
    for tier in Tier:
        before, after = verdict(tier, one), verdict(tier, one.join(other))
        assert strictness[type(after)] >= strictness[type(before)]


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=str)
def test_a_join_is_the_worst_of_both_in_any_order(one: Label, other: Label) -> None:
    joined = one.join(other)
    assert joined == other.join(one) == joined.join(one) == joined.join(other)
    assert one.join(NOTHING_READ) == one == one.join()
    assert joined.is_external == (one.is_external or other.is_external)
    assert joined.is_for_participant == (one.is_for_participant and other.is_for_participant)


@pytest.mark.parametrize("label", LABELS, ids=str)
def test_a_label_is_read_back_as_it_was_written(label: Label) -> None:
    assert label_from(**label.as_json()) == label
    assert kept_label(SAID, label) == (None if label == NOTHING_READ else label)
    assert kept_label(ToolReturned(call_id="1", name="t", content="?"), label) == label


@pytest.mark.parametrize("pair", [(None, None), ("staff", None), ("staff", "unheard of"), ("", "public")])
def test_what_is_no_label_is_none(pair: tuple[str | None, str | None]) -> None:
    assert label_from(*pair) is None


def test_events_say_what_they_can_about_themselves() -> None:
    assert label_of(UserSpoke(text="x", origin="participant")) == Label(Integrity.EXTERNAL, Confidentiality.PARTICIPANT)
    assert label_of(UserSpoke(text="x", origin="staff")) == Label(Integrity.STAFF, Confidentiality.PARTICIPANT)
    assert label_of(UserSpoke(text="x", origin="system")) == NOTHING_READ
    assert label_of(SAID) == NOTHING_READ
    unlabelled = label_of(ToolReturned(call_id="1", name="t", content="?"))
    assert unlabelled == Label(Integrity.EXTERNAL, Confidentiality.TENANT), "nobody knows: the strictest"


@pytest.mark.parametrize(
    ("effect", "tier"), [("none", Tier.T1), ("db", Tier.T2), ("external", Tier.T4), ("outbox", Tier.T4)]
)
def test_a_tool_that_says_nothing_has_the_strictest_tier(effect: Effect, tier: Tier) -> None:
    @tool(effect=effect)
    async def act() -> str:
        """Act."""
        return "done"

    assert act.tier is tier
    assert not act.label.is_external, "whoever wrote the tool answers for it"
    assert act.label.is_for_participant == (effect == "db")
    assert set(DEFAULT_TIERS) == {"none", "db", "external", "outbox"}


def test_a_tool_says_its_tier_and_what_it_returns() -> None:
    public = Label(Integrity.EXTERNAL, Confidentiality.PUBLIC)

    @tool(tier=Tier.T0, returns=public)
    async def opening_hours(day: str) -> str:
        """Look up when we are open."""
        return day

    assert (opening_hours.tier, opening_hours.label) == (Tier.T0, public)


def test_every_built_in_tool_declares_its_tier() -> None:
    assert {name: found.declared_tier for name, found in OPERATIONS.items()} == {
        "plan": Tier.T2,
        "advance_phase": Tier.T2,
        "create_task": Tier.T2,
        "update_task": Tier.T2,
        "find_tasks": Tier.T0,
        "get_client": Tier.T0,
        "remember": Tier.T2,
        "recall": Tier.T0,
        "forget": Tier.T2,
        "reply": Tier.T3,
        "ask_person": Tier.T2,
        "hand_over": Tier.T2,
        "memory": Tier.T2,
        "learn": Tier.T2,
        "search_knowledge": Tier.T0,
        "find_documents": Tier.T0,
        "save_project_files": Tier.T2,
        "fetch_page": Tier.T4,
        "delegate": Tier.T2,
        "schedule": Tier.T4,
    }


def test_what_an_operation_saw_is_the_label_of_its_result() -> None:
    read = [Label(Integrity.STAFF, Confidentiality.TENANT), Label(Integrity.EXTERNAL, Confidentiality.PUBLIC)]
    ctx = Context.__new__(Context)
    object.__setattr__(ctx, "_read", [])  # no transaction is needed to look at labels
    assert ctx.label_of_result(NOTHING_READ) == NOTHING_READ
    ctx.saw(*read)
    assert ctx.label_of_result(NOTHING_READ) == Label(Integrity.EXTERNAL, Confidentiality.TENANT)
