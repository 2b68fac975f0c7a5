"""`transform`: a pipeline of operations on one value."""

from __future__ import annotations

import msgspec

from durable_flow.expr.reference import Reference
from durable_flow.expr.transform import Transform as Pipeline
from durable_flow.steps.base import Done, Outcome, StepType, VariableName, Visit


class TransformConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`input` is the path of the value, `expression` what is done to it, in order."""

    input: Reference
    expression: Pipeline
    output: VariableName


class Transform(StepType[TransformConfig]):
    name = "transform"
    summary = "Sends a value through a pipeline of operations."
    Config = TransformConfig
    instant = True

    def evaluate(self, visit: Visit, config: TransformConfig) -> Outcome:
        value = config.expression.apply(config.input.resolve(visit), visit)
        return Done(value, (config.output,))
