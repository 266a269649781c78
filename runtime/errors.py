"""Errors of the runtime layer.

RuntimeFault
├── ModelError                    the model did not give a reply that counts
│   ├── ModelUnavailableError     try again later: overload, rate limit, network, server fault
│   ├── ModelReplyInvalidError    the reply was cut or malformed; asking again is safe, no tool ran
│   └── ModelRequestError         the request itself is refused; asking again gives the same answer
├── ToolError                     the tool refused; its message is for the model or the person
│   ├── UnknownToolError          no tool has this name
│   └── ToolArgumentsError        the arguments do not fit the tool's schema
├── ApprovalGoneError             the approval of this call is used up, or its time is over
├── AppError                      a module is no program that a worker could run
├── DuplicateNameError            two agents or tools would have one name
├── LeaseLostError                another worker drives this session; nothing of ours was written
└── NotAuthorisedError            nobody was named, or the key or the name is not valid
"""

from collections.abc import Sequence


class RuntimeFault(Exception):  # noqa: N818 -- RuntimeError is taken
    """Base of every error that the runtime raises on purpose."""


class ModelError(RuntimeFault):
    """The model did not give a reply that counts."""


class ModelUnavailableError(ModelError):
    """The provider cannot answer now."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        wait = "" if retry_after_s is None else f"; the provider asks for {retry_after_s:g} s of patience"
        super().__init__(f"the model is unavailable: {reason}{wait}")
        self.reason = reason
        self.retry_after_s = retry_after_s


class ModelReplyInvalidError(ModelError):
    """The reply was cut or malformed, so none of it counts."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the model's reply does not count: {reason}")
        self.reason = reason


class ModelRequestError(ModelError):
    """The provider refuses the request as it is."""

    def __init__(self, reason: str, *, status: int | None = None) -> None:
        super().__init__(f"the model refuses the request: {reason}")
        self.reason = reason
        self.status = status


class ToolError(RuntimeFault):
    """A tool refused. The text goes to the model, so it says what would be right."""


class UnknownToolError(ToolError):
    """No tool has this name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no tool {name!r}; known: {', '.join(sorted(known))}")
        self.name = name
        self.known = tuple(known)


class ToolArgumentsError(ToolError):
    """The arguments do not fit the tool's schema."""

    def __init__(self, name: str, problems: Sequence[str]) -> None:
        super().__init__(f"invalid arguments for {name!r}: {'; '.join(problems)}")
        self.name = name
        self.problems = tuple(problems)


class ApprovalGoneError(RuntimeFault):
    """The approval of this call is used up, or its time is over."""

    def __init__(self, approval_id: int) -> None:
        super().__init__(f"approval {approval_id} is used up or has expired; ask again")
        self.approval_id = approval_id


class LeaseLostError(RuntimeFault):
    """Another worker drives this session; the transaction that met this wrote nothing."""

    def __init__(self, session_id: int, epoch: int) -> None:
        super().__init__(f"session {session_id} is no longer leased under epoch {epoch}")
        self.session_id = session_id
        self.epoch = epoch


class NotAuthorisedError(RuntimeFault):
    """Nobody was named, or the key or the name is not valid."""


class AppError(RuntimeFault):
    """A module is no program that a worker could run."""

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(f"cannot load the app {module!r}: {reason}")
        self.module = module


class DuplicateNameError(RuntimeFault):
    """Two agents or tools would have one name."""

    def __init__(self, what: str, name: str, one: str, other: str) -> None:
        super().__init__(f"two {what}s are named {name!r}: {one} and {other}; rename one of them")
        self.name = name
        self.definitions = (one, other)
