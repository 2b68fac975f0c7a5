"""`workflow`: runs another workflow as a child execution."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from durable_flow.errors import StepError
from durable_flow.expr.reference import Template
from durable_flow.model.frame import Message
from durable_flow.steps.base import Done, Duration, Outcome, StepType, VariableName, Visit


class WorkflowConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`wait: false` starts the child and goes on; it then outlives its parent."""

    workflow_id: Template
    input: Template | None = None
    output: VariableName | None = None
    timeout: Duration | None = None
    wait: bool = True


class Workflow(StepType[WorkflowConfig]):
    name = "workflow"
    summary = "Runs a child execution; its failure is a step error."
    Config = WorkflowConfig
    can_wait = True

    def needs(self, config: WorkflowConfig) -> Iterable[tuple[str, str]]:
        if config.workflow_id.constant and isinstance(config.workflow_id.source, str):
            yield "workflow", config.workflow_id.source

    def carries_over(self, old: WorkflowConfig, new: WorkflowConfig, *, waits: bool) -> str | None:
        if old.wait != new.wait:
            return "it waited for its child and now does not, or the other way round"
        return None

    async def run(self, visit: Visit, config: WorkflowConfig) -> Outcome:
        workflow_id = visit.resolve(config.workflow_id)
        if not isinstance(workflow_id, str):
            raise StepError("workflow_id must be text", kind="ConfigError")
        same = () if config.output is None else (config.output,)
        value = await visit.child(workflow_id, visit.resolve(config.input), wait=config.wait, timeout=config.timeout)
        return Done(value, same, normal=True)

    def answered(self, visit: Visit, config: WorkflowConfig, wait: object, message: Message) -> Outcome:
        raise StepError("a child execution answers for itself", kind="ConflictError")

    def deed(self, visit: Visit, config: WorkflowConfig) -> tuple[str, Any]:
        return f"workflow {visit.resolve(config.workflow_id)}", visit.resolve(config.input)
