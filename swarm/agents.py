"""Agents of a swarm: functions and models, defined once, each with one or more instances.

A function agent runs its body. A model agent (a body of `...`, or an `Agent` value) is an execution of the runtime.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypedDict, TypeVar, Unpack, overload

from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

import runtime.agents
from runtime.errors import UnknownToolError
from runtime.toolbox import operations_named
from swarm.blackboard import Memory
from swarm.calls import Signature
from swarm.errors import DefinitionError

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one attempt of an agent may use."""

    turns: int = 100
    """Model replies."""
    minutes: float | None = None
    """Wall time; None: as long as it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ctx:
    """What a function agent may know about its attempt: a parameter annotated with `Ctx` gets it."""

    swarm_id: str
    task_id: str
    agent: str
    """The name of the instance, such as `writer-1`."""
    attempt: int
    """From 1."""
    key: str
    """Stable across every run of this task, retries and re-runs after a crash included: give it to outside services as
    their idempotency key."""
    memory: Memory
    """The swarm's blackboard."""


class Options(TypedDict, total=False):
    """What every kind of agent may be given."""

    model: str | None
    """None: the model of the settings."""
    tools: Sequence[str]
    """Names of the runtime's operations, for model agents."""
    capabilities: Collection[str]
    """What tasks may ask for with `needs`."""
    instances: int
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """An agent without its static types: what the scheduler works with."""

    name: str
    """The type of its instances."""
    agent_name: str
    """What executions call it: `module:qualname`."""
    instructions: str
    function: Callable[..., Awaitable[Any]] | None
    """None: a model answers."""
    signature: Signature | None
    """None: one text."""
    output: TypeAdapter[Any]
    is_text: bool
    """The output is whatever words the model answers with."""
    model: str | None
    tools: tuple[str, ...]
    capabilities: frozenset[str]
    instances: int
    limits: Limits

    @property
    def is_model(self) -> bool:
        """A model answers, driven by the runtime."""
        return self.function is None

    def runtime_agent(self) -> runtime.agents.Agent:
        """Return the agent as the runtime drives it."""
        instructions = self.instructions
        if not self.is_text:
            schema = self.output.json_schema()
            instructions += f"\n\nAnswer with one JSON value that fits this JSON Schema, and nothing else:\n{schema}"
        return runtime.agents.Agent(name=self.agent_name, instructions=instructions, tools=self.tools, model=self.model)


class Agent(Generic[P, T]):
    """An agent that takes `P` and gives `T`.

    ```python
    reviewer = Agent("reviewer", "Reject claims without a source.", output=Verdict)
    ```
    """

    @overload
    def __init__(self: "Agent[[str], str]", name: str, instructions: str, **options: Unpack[Options]) -> None: ...

    @overload
    def __init__(
        self: "Agent[[str], V]", name: str, instructions: str, *, output: type[V], **options: Unpack[Options]
    ) -> None: ...

    def __init__(self, name: str, instructions: str, *, output: Any = str, **options: Unpack[Options]) -> None:
        if not instructions.strip():
            raise DefinitionError(name, "has no instructions", "say what it is to do")
        self.definition = _definition(
            name=name, agent_name=f"agent:{name}", instructions=instructions, output=output, options=options
        )

    @classmethod
    def of_function(cls, function: Callable[..., Awaitable[T]], options: Options) -> "Agent[P, T]":
        """Return the agent that `@agent` makes of a function.

        Raises:
            DefinitionError: the function cannot be an agent; the message says why.
        """
        made = cls.__new__(cls)
        made.definition = _function_definition(function, options)
        return made

    @property
    def name(self) -> str:
        """The type of its instances."""
        return self.definition.name

    def __repr__(self) -> str:
        return f"Agent({self.name!r})"


class _Decorator:
    """What `agent(...)` returns: it makes an agent of a function and keeps the function's types, without `Ctx`."""

    def __init__(self, options: Options) -> None:
        self._options = options

    @overload
    def __call__(self, function: Callable[Concatenate[Ctx, P], Awaitable[T]], /) -> Agent[P, T]: ...

    @overload
    def __call__(self, function: Callable[P, Awaitable[T]], /) -> Agent[P, T]: ...

    def __call__(self, function: Callable[..., Awaitable[Any]], /) -> Agent[..., Any]:
        return Agent[..., Any].of_function(function, self._options)


def agent(**options: Unpack[Options]) -> _Decorator:
    """Make an agent of an async function.

    The body runs at least once per task: after a crash, or for another attempt, it runs again. A parameter annotated
    with `Ctx` (the first one, where the types are to be checked) gets a key that is the same each time. What the
    function returns is accepted once, as JSON that fits its return annotation.

    A body of `...` makes a model answer instead: the docstring is its instructions, the return annotation its output.

    Raises:
        DefinitionError: the function cannot be an agent; the message says why.
    """
    return _Decorator(options)


def _function_definition(function: Callable[..., Awaitable[Any]], options: Options) -> Definition:
    name = function.__name__
    signature = Signature.of(function, name, injected=Ctx)
    is_model = signature.has_empty_body
    instructions = signature.docstring
    if is_model and not instructions:
        raise DefinitionError(
            name, "has neither a body nor a docstring", "write what it does, or what a model is to do as its docstring"
        )
    return _definition(
        name=name,
        agent_name=f"{function.__module__}:{function.__qualname__}"[:255],
        instructions=instructions,
        output=signature.output,
        options=options,
        function=None if is_model else function,
        signature=signature,
    )


def _definition(
    *,
    name: str,
    agent_name: str,
    instructions: str,
    output: Any,
    options: Options,
    function: Callable[..., Awaitable[Any]] | None = None,
    signature: Signature | None = None,
) -> Definition:
    instances = options.get("instances", 1)
    if instances < 1:
        raise DefinitionError(name, f"has instances={instances}", "give it at least one")
    capabilities = options.get("capabilities", ())
    if isinstance(capabilities, str):
        raise DefinitionError(name, "has a text as capabilities", f"write capabilities={{{capabilities!r}}}")
    tools = tuple(options.get("tools", ()))
    if tools and function is not None:
        raise DefinitionError(name, "has tools and a body", "tools are for models: leave the body `...`, or call them")
    try:
        operations_named(tools)
    except UnknownToolError as error:
        raise DefinitionError(
            name, f"has the tool {error.name!r}", f"known: {', '.join(sorted(error.known))}"
        ) from error
    return Definition(
        name=name,
        agent_name=agent_name,
        instructions=instructions,
        function=function,
        signature=signature,
        output=output_adapter(name, output),
        is_text=output in (str, Any, None, type(None)),
        model=options.get("model"),
        tools=tools,
        capabilities=frozenset(capabilities),
        instances=instances,
        limits=options.get("limits", Limits()),
    )


def output_adapter(name: str, output: Any) -> TypeAdapter[Any]:
    """Return what checks an output and writes it as JSON.

    Raises:
        DefinitionError: values of this type cannot become JSON.
    """
    try:
        return TypeAdapter(output)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise DefinitionError(
            name,
            f"returns {output!r}, which has no JSON form",
            "return plain data, a dataclass, a TypedDict or a pydantic model",
        ) from error
