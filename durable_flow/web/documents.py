"""What is sent to the API and what it answers, as Structs: their JSON Schemas are in its OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

import durable_flow as df

WORDS = (
    r" -~\u00a1-\u00ac\u00ae-\u0377\u0400-\u052f\u05d0-\u05ea\u0621-\u064a\u0904-\u0939"
    r"\u0e01-\u0e3a\u3041-\u3096\u30a1-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
)
"""What names are written with: of what is printable, that which a pattern can say and no new Unicode changes."""

Text = Annotated[str, Meta(min_length=1, max_length=255)]
Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=f"^[{WORDS}]+$")]
LabelText = Annotated[str, Meta(max_length=255, pattern=f"^[{WORDS}]*$")]
Remark = Annotated[str, Meta(max_length=10_000)]
By = Annotated[
    Text | None, Meta(description="Who decided this, if it is not who sends it: only for who may speak for others.")
]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in the body of a request. Nothing else may."""


class Start(Body, frozen=True, kw_only=True):
    """What to start an execution with."""

    input: dict[str, Any] = {}
    labels: dict[Name, LabelText] = {}
    queue: Name | None = None
    priority: Annotated[float, Meta(ge=1, le=100, multiple_of=1, extra_json_schema={"type": "integer"})] = 5


class Decision(Body, frozen=True, kw_only=True):
    """Which wait is answered (needed where several are open)."""

    step: Text | None = None
    wait_id: Text | None = None
    by: By = None
    comment: Remark | None = None


class Vote(Decision, frozen=True, kw_only=True):
    """An answer to an approval."""

    selections: list[Any] | None = None


class Resume(Decision, frozen=True, kw_only=True):
    """An answer to a halt, or what stands for the result of a step about which a person is to decide."""

    response: Any | UnsetType = UNSET


class Signal(Body, frozen=True, kw_only=True):
    """A signal. Of several with one `signal_id` the first counts."""

    name: Text
    payload: Any = None
    signal_id: Name | None = None
    by: By = None


class Reason(Body, frozen=True, kw_only=True):
    """Why something is done, and by whom."""

    reason: Remark | None = None
    by: By = None


class Act(Body, frozen=True, kw_only=True):
    """By whom something is done."""

    by: By = None


class ExecutionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Where an execution stands."""

    id: str
    workflow_id: str
    workflow_version: str
    status: df.Status
    current_step: str | None
    error: str | None
    labels: dict[str, str]
    queue: str | None
    priority: int
    trigger: str
    dry_run: bool
    parent_id: str | None
    root_id: str | None
    created_at: datetime | None
    updated_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


class ExecutionView(ExecutionSummary, frozen=True, kw_only=True):
    """An execution: what it was started with, what it came to, and what it waits for (`halts`)."""

    input: Any
    output: Any
    halts: list[df.Halt]
    error_info: df.ErrorInfo | None
    compensated: bool


class ExecutionList(msgspec.Struct, frozen=True, kw_only=True):
    """Executions, newest first. With `next_cursor` the list goes on; null where it is complete."""

    executions: list[ExecutionSummary]
    next_cursor: str | None


class EntryList(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the audit trail. What follows is behind `next_after`; null where this is the end of it."""

    entries: list[df.Entry]
    next_after: int | None


class WhyList(msgspec.Struct, frozen=True, kw_only=True):
    """What an execution waits for, and what would make it go on."""

    reasons: list[df.Why]


class WorkflowView(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow that can be started here. `input_schema` is the JSON Schema of its input."""

    id: str
    name: str
    version: str
    description: str
    input_schema: dict[str, Any]


class WorkflowList(msgspec.Struct, frozen=True, kw_only=True):
    """The workflows that can be started here, by id."""

    workflows: list[WorkflowView]


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """The process answers."""

    status: str = "alive"


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The store can be reached, and the workers of this process look at it."""

    status: str = "ready"
    workers: list[df.WorkerHealth]


def whole(workflow: df.WorkflowDef, given: Mapping[str, Any]) -> dict[str, Any]:
    """An input in which 3.0 is 3 where an integer is declared: to JSON they are the same number."""
    integers = {declared.name for declared in workflow.inputs if declared.type == "integer"}
    return {
        name: int(value) if name in integers and isinstance(value, float) and value.is_integer() else value
        for name, value in given.items()
    }


Summary = TypeVar("Summary", bound=ExecutionSummary)


def summary(execution: df.Execution, kind: type[Summary], **more: Any) -> Summary:
    """What is told of an execution, as a struct of this kind, which may have `more`."""
    told = {name: getattr(execution, name) for name in ExecutionSummary.__struct_fields__}
    return kind(**{**told, **more})


def input_schema(workflow: df.WorkflowDef) -> dict[str, Any]:
    """The JSON Schema of the input of a workflow. Inputs that it does not declare may come with it.

    >>> workflow = df.load({"id": "w", "name": "W", "inputs": {"n": "integer"}, "steps": [{"id": "a", "type": "end"}]})
    >>> input_schema(workflow)["properties"]["n"], input_schema(workflow)["required"]
    ({'type': 'integer'}, ['n'])
    """
    properties: dict[str, Any] = {}
    for declared in workflow.inputs:
        said: dict[str, Any] = {} if declared.type == "any" else {"type": declared.type}
        if isinstance(declared.schema, Mapping):
            said = {"allOf": [said, dict(declared.schema)]} if said else dict(declared.schema)
        if declared.description:
            said["description"] = declared.description
        if declared.secret:
            said["writeOnly"] = True
        elif declared.default is not UNSET:
            said["default"] = declared.default
        properties[declared.name] = said
    required = [one.name for one in workflow.inputs if one.required and one.default is UNSET]
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}
