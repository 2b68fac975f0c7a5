"""`end`: completes the workflow."""

from __future__ import annotations

import msgspec

from durable_flow.expr.reference import Template
from durable_flow.model.frame import FINISHED
from durable_flow.steps.base import Done, Outcome, StepType, Visit


class EndConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`result` is what the execution returns; without it, all variables."""

    result: Template | None = None


class End(StepType[EndConfig]):
    name = "end"
    summary = "Completes the workflow with `result` (default: all variables)."
    Config = EndConfig
    instant = True
    ends = True
    reaches_next = False

    def evaluate(self, visit: Visit, config: EndConfig) -> Outcome:
        if config.result is None:
            return Done(output=visit.variables(), same=("result",), next=FINISHED, normal=True)
        return Done(output=visit.resolve(config.result), same=("result",), next=FINISHED)
