"""What undoes a completed step. No document names this type: a `call` says with `compensate` what undoes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from durable_flow.expr.reference import Template
from durable_flow.model.execution import Action
from durable_flow.steps.base import Done, Outcome, StepType, Visit


class CompensationConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`input` is the value that was resolved when the step completed."""

    service: str
    method: str
    input: Template | None = None


class Compensation(StepType[CompensationConfig]):
    name = "compensation"
    summary = "Undoes a completed step of an execution that failed or was cancelled."
    Config = CompensationConfig
    works_outside = True
    completes_as = Action.COMPENSATED

    def needs(self, config: CompensationConfig) -> Iterable[tuple[str, str]]:
        yield "service", config.service

    async def run(self, visit: Visit, config: CompensationConfig) -> Outcome:
        return Done(await visit.call(config.service, config.method, config.input), normal=True)

    def deed(self, visit: Visit, config: CompensationConfig) -> tuple[str, Any]:
        return f"{config.service}.{config.method}", visit.resolve(config.input)


COMPENSATION = Compensation()
