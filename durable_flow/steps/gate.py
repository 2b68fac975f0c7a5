"""`gate`: waits until something outside says yes or no."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from durable_flow.clock import moment
from durable_flow.errors import StepError
from durable_flow.expr.reference import Template
from durable_flow.model.execution import Gate as Verdict
from durable_flow.model.execution import GateWait
from durable_flow.model.frame import Message
from durable_flow.steps.base import Again, Done, Duration, Outcome, StepType, Suspend, TargetName, VariableName, Visit


class GateConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`resolver` is registered with the runtime (`gates=`) and asked with `params` every `poll_interval` seconds."""

    resolver: str
    params: Template | None = None
    poll_interval: Duration = Duration(30)
    timeout: Duration | None = None
    on_timeout: TargetName | None = None
    on_reject: TargetName | None = None
    output: VariableName | None = None


class Gate(StepType[GateConfig]):
    name = "gate"
    summary = "Asks a registered resolver again and again until it approves or rejects."
    Config = GateConfig
    works_outside = True
    can_wait = True
    asks = True

    def needs(self, config: GateConfig) -> Iterable[tuple[str, str]]:
        yield "gate", config.resolver

    async def run(self, visit: Visit, config: GateConfig) -> Outcome:
        memo = visit.memo
        if memo is None:
            memo = {"attempt": 0, "until": None if config.timeout is None else visit.now + config.timeout}
            visit.remember(memo)
        verdict, output = await visit.gate(config.resolver, config.params)
        same = () if config.output is None else (config.output,)
        if verdict is Verdict.APPROVED:
            return Done(output, same)
        if verdict is Verdict.REJECTED:
            if config.on_reject is None:
                raise StepError(f"the gate {config.resolver!r} rejected", kind="GateRejected")
            return Done(output, same, next=config.on_reject)
        now, until = visit.now, memo["until"]
        if until is not None and now >= until:
            if config.on_timeout is None:
                raise StepError(f"the gate did not open within {config.timeout:g} s", kind="TimeoutError")
            return Done(next=config.on_timeout)
        again = now + config.poll_interval
        wait = GateWait(
            wait_id=visit.wait_id,
            path=visit.path,
            step_id=visit.step_id,
            since=moment(now),
            deadline=moment(again if until is None else min(again, until)),
            resolver=config.resolver,
            data={"type": "gate", "resolver": config.resolver, "params": visit.resolve(config.params)},
        )
        return Suspend(wait, quietly=True)

    def answered(self, visit: Visit, config: GateConfig, wait: GateWait, message: Message) -> Outcome | Again:
        return Again()
