"""Parameters that several tools share."""

from typing import Annotated

from pydantic import Field

from storage.values import BIGINT

EntityName = Annotated[str, Field(max_length=100, description="Entity, e.g. agencyTasks.")]
RowId = Annotated[int | str, Field(description="The row's id.")]
Number = Annotated[int, Field(ge=1, le=BIGINT)]
"""A key of ours."""
Limit = Annotated[int, Field(ge=1, le=100, description="At most this many rows.")]
IdempotencyKey = Annotated[
    str | None,
    Field(min_length=1, max_length=255, description="Your name for this call: repeating it does nothing twice."),
]
