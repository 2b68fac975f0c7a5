"""`start`: marks the entry of a workflow."""

from __future__ import annotations

import msgspec

from durable_flow.steps.base import Done, Outcome, StepType, Visit


class StartConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A start step has no keys of its own."""


class Start(StepType[StartConfig]):
    name = "start"
    summary = "Marks the entry; optional."
    Config = StartConfig
    instant = True
    entry = True

    def evaluate(self, visit: Visit, config: StartConfig) -> Outcome:
        return Done()
