"""The rules of a swarm, without a database."""

import pytest

from storage.models.swarm import QueenMode, Topology
from swarm.decide import (
    AGENT_MOVES,
    SWARM_MOVES,
    TASK_MOVES,
    MemberView,
    TaskView,
    agent_becomes,
    chains,
    check_shape,
    match,
    may_retry,
    qualified,
    swarm_becomes,
    task_becomes,
    urgency,
)
from swarm.errors import IllegalTransitionError, TopologyError


def member(
    name: str, *capabilities: str, is_idle: bool = True, is_queen: bool = False, taken: int = 0, kind: str = ""
) -> MemberView:
    return MemberView(
        id=name,
        agent_type=kind or name.rstrip("0123456789"),
        capabilities=frozenset(capabilities),
        is_idle=is_idle,
        is_queen=is_queen,
        taken=taken,
    )


def task(
    name: str, *needs: str, types: str = "a b", pri: int = 1, seq: int = 0, tried: str = "", tried_types: str = ""
) -> TaskView:
    return TaskView(
        id=name,
        types=frozenset(types.split()),
        needs=frozenset(needs),
        pri=pri,
        seq=seq,
        tried=frozenset(tried.split()),
        tried_types=frozenset(tried_types.split()),
    )


def placed(tasks: list[TaskView], members: list[MemberView], **options: str) -> dict[str, str]:
    queen_mode: QueenMode = "centralized" if options.get("queen") else "distributed"
    strategy = "specialized" if options.get("strategy") else "balanced"
    ready = sorted(tasks, key=urgency)
    return {one.task_id: one.agent_id for one in match(ready, members, queen_mode=queen_mode, strategy=strategy)}


def test_a_task_goes_only_to_an_idle_agent_that_can_do_all_it_needs() -> None:
    members = [
        member("a1", "write"),
        member("b1", "write", "research", is_idle=False),
        member("b2", "write", "research"),
    ]
    assert placed([task("t", "write", "research")], members) == {"t": "b2"}


def test_a_task_goes_to_no_type_that_does_not_take_its_input() -> None:
    assert placed([task("t", types="b")], [member("a1"), member("b1", taken=9)]) == {"t": "b1"}


def test_the_urgent_task_comes_first_and_among_equals_the_older_one() -> None:
    tasks = [task("old", seq=1), task("new", seq=2), task("urgent", pri=3, seq=3)]
    assert placed(tasks, [member("a1")]) == {"urgent": "a1"}
    assert placed(tasks, [member("a1"), member("a2", taken=1)]) == {"urgent": "a1", "old": "a2"}


def test_a_task_without_a_free_agent_holds_up_nobody() -> None:
    tasks = [task("first", "research", pri=3), task("second", "write", seq=1)]
    members = [member("a1", "research", is_idle=False), member("b1", "write")]
    assert placed(tasks, members) == {"second": "b1"}


def test_the_least_loaded_agent_is_preferred() -> None:
    assert placed([task("t")], [member("a1", taken=2), member("a2", taken=1)]) == {"t": "a2"}


def test_a_type_and_an_agent_that_have_not_failed_the_task_are_preferred() -> None:
    members = [member("a1"), member("a2", taken=5), member("b1", taken=9)]
    assert placed([task("t", tried="a1", tried_types="a")], members) == {"t": "b1"}
    assert placed([task("t", types="a", tried="a1", tried_types="a")], members) == {"t": "a2"}


def test_specialized_prefers_whoever_can_do_the_least_else() -> None:
    members = [member("a1", "write", "code", "draw"), member("b1", "write", taken=5)]
    assert placed([task("t", "write")], members, strategy="specialized") == {"t": "b1"}
    assert placed([task("t", "write")], members) == {"t": "a1"}


def test_the_hub_delegates_and_executes_only_what_no_spoke_can() -> None:
    hub, spoke = member("a1", "write", is_queen=True), member("b1", "write", is_idle=False)
    waiting, alone = task("t", "write"), task("u", "write", types="a")
    assert qualified(waiting, [hub, spoke], queen_mode="centralized") == [spoke]
    assert placed([waiting, alone], [hub, spoke], queen="yes") == {"u": "a1"}
    assert placed([waiting], [hub, spoke]) == {"t": "a1"}


@pytest.mark.parametrize(
    ("topology", "queen_mode", "members", "max_agents", "hint"),
    [
        ("star", "distributed", 2, 8, "topology='mesh'"),
        ("hierarchical", "distributed", 2, 8, "queen='centralized'"),
        ("hierarchical", "centralized", 10, 20, "9 agents"),
        ("ring", "centralized", 2, 8, "after="),
        ("star", "centralized", 9, 8, "max_agents=9"),
        ("star", "centralized", 0, 8, "swarm(researcher, writer)"),
    ],
)
def test_a_shape_that_contradicts_itself_is_refused_with_a_way_out(
    topology: Topology, queen_mode: QueenMode, members: int, max_agents: int, hint: str
) -> None:
    with pytest.raises(TopologyError) as caught:
        check_shape(topology, queen_mode, members=members, max_agents=max_agents)
    assert hint in caught.value.remedy


@pytest.mark.parametrize(
    ("topology", "queen_mode"),
    [("star", "centralized"), ("hierarchical", "centralized"), ("mesh", "centralized"), ("mesh", "distributed")],
)
def test_a_sound_shape_is_accepted(topology: Topology, queen_mode: QueenMode) -> None:
    check_shape(topology, queen_mode, members=8, max_agents=8)


def test_every_legal_transition_is_accepted_and_every_other_one_names_both_states() -> None:
    for moves, becomes in (
        (SWARM_MOVES, swarm_becomes),
        (AGENT_MOVES, agent_becomes),
        (TASK_MOVES, task_becomes),
    ):
        for before, legal in moves.items():
            for after in moves:
                if after in legal:
                    assert becomes(before, after) == after  # pyright: ignore[reportArgumentType] -- a table over three types
                else:
                    with pytest.raises(IllegalTransitionError) as caught:
                        becomes(before, after)  # pyright: ignore[reportArgumentType] -- as above
                    assert (caught.value.before, caught.value.after) == (before, after)
                    assert caught.value.legal == tuple(sorted(legal))


def test_what_has_ended_stays_as_it_is() -> None:
    ended = [SWARM_MOVES["destroyed"], AGENT_MOVES["terminated"]]
    ended += [TASK_MOVES["completed"], TASK_MOVES["failed"], TASK_MOVES["cancelled"]]
    assert not any(ended)


def test_the_last_attempt_has_no_successor() -> None:
    assert [may_retry(attempts, 3) for attempts in (1, 2, 3)] == [True, True, False]


def test_a_failure_takes_everything_that_waits_for_it_along_by_the_shortest_chain() -> None:
    dependents = {"a": ["b", "c"], "b": ["d"], "c": ["d", "e"], "d": ["f"], "x": ["y"]}
    assert chains("a", dependents) == {
        "b": ("a",),
        "c": ("a",),
        "d": ("b", "a"),
        "e": ("c", "a"),
        "f": ("d", "b", "a"),
    }
    assert chains("f", dependents) == {}
