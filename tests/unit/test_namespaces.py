"""The namespaces of memory: five forms, and nothing that only looks like one."""

import pytest

from storage.errors import InvalidValueError
from storage.namespaces import (
    USER,
    check_namespace,
    client_namespace,
    conversation_namespace,
    files_namespace,
    swarm_namespace,
)


def test_every_function_makes_a_legal_namespace() -> None:
    made = [
        USER,
        client_namespace(12),
        conversation_namespace(7),
        files_namespace("shop.agents:clerk"),
        swarm_namespace("swm_1"),
        swarm_namespace("swm_1", "plan"),
    ]
    assert [check_namespace(namespace) for namespace in made] == [
        "user",
        "client/12",
        "conversation/7",
        "files/shop.agents:clerk",
        "swarm/swm_1",
        "swarm/swm_1/plan",
    ]


@pytest.mark.parametrize(
    "namespace",
    [
        "",
        "User",
        "user/1",
        "client",
        "client/",
        "client/0",
        "client/x",
        "client/1/2",
        "files/a/b",
        "swarm/a/b/c",
        "x/1",
    ],
)
def test_what_only_looks_like_a_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        check_namespace(namespace)
    assert refused.value.where == "namespace"


@pytest.mark.parametrize("part", ["", "a/b", "a\x00", "x" * 255])
def test_a_part_that_would_name_another_namespace_is_refused(part: str) -> None:
    with pytest.raises(InvalidValueError):
        files_namespace(part)
    with pytest.raises(InvalidValueError):
        swarm_namespace("swm_1", part)
