"""Operations on the agent's own course: plan, advance to the next phase."""

from typing import Annotated

from pydantic import Field

from runtime.errors import ToolError
from runtime.labels import Tier
from runtime.operation import Context, operation
from runtime.ports import Json
from storage.queries import executions


def _execution_id(ctx: Context, name: str) -> int:
    if ctx.execution_id is None:
        raise ToolError(f"{name} works inside an execution only")
    return ctx.execution_id


@operation(effect="db", tier=Tier.T2)
async def plan(
    ctx: Context,
    goal: Annotated[str, Field(min_length=1, max_length=2_000, description="What will be true when it is done.")],
    phases: Annotated[list[str], Field(min_length=1, max_length=20, description="Short names, in order.")],
) -> Json:
    """Say how you will do the work, before or together with the first action. Planning again replaces the plan."""
    await executions.write_plan(ctx.db, _execution_id(ctx, "plan"), goal=goal, phases=phases)
    return {"goal": goal, "phases": phases, "current": phases[0]}


@operation(effect="db", tier=Tier.T2)
async def advance_phase(ctx: Context) -> Json:
    """Say that the current phase of your plan is done and move to the next one."""
    name = await executions.advance_phase(ctx.db, _execution_id(ctx, "advance_phase"))
    if name is None:
        raise ToolError("the plan has no further phase; finish with your answer")
    return {"current": name}
