"""`gate`: waits until something outside says yes or no."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from durable_flow.clock import moment
from durable_flow.errors import StepError
from durable_flow.expr.reference import Template
from durable_flow.model.execution import Gate as Verdict
from durable_flow.model.execution import GateWait
from durable_flow.model.frame import Message
from durable_flow.steps.base import (
    Again,
    Done,
    Duration,
    Outcome,
    StepType,
    Suspend,
    TargetName,
    VariableName,
    Visit,
    decision,
    wrong_decision,
)


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
        if verdict is not Verdict.PENDING:
            return self._decided(config, verdict is Verdict.APPROVED, output)
        now, until = visit.now, memo["until"]
        if until is not None and now >= until:
            return self._expired(config)
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

    def _decided(self, config: GateConfig, approved: bool, output: Any) -> Outcome:
        same = () if config.output is None else (config.output,)
        if approved:
            return Done(output, same)
        if config.on_reject is None:
            raise StepError(f"the gate {config.resolver!r} rejected", kind="GateRejected")
        return Done(output, same, next=config.on_reject)

    def _expired(self, config: GateConfig) -> Outcome:
        if config.on_timeout is None:
            raise StepError(f"the gate did not open within {config.timeout:g} s", kind="TimeoutError")
        return Done(next=config.on_timeout)

    def answered(self, visit: Visit, config: GateConfig, wait: GateWait, message: Message) -> Outcome | Again:
        return Again()

    def deed(self, visit: Visit, config: GateConfig) -> tuple[str, Any]:
        return f"gate {config.resolver}", visit.resolve(config.params)

    def wrong_fixture(self, config: GateConfig, answer: Any) -> Iterable[str]:
        return wrong_decision(answer, optional={"output"})

    def rehearse(self, visit: Visit, config: GateConfig) -> Outcome | Again:
        given = visit.fixture
        if given is not None and given.expires and config.timeout is not None:
            return self._expired(config)
        if given is not None and given.error is None:
            said = decision(given)
            return self._decided(config, said["approved"], said.get("output"))
        return super().rehearse(visit, config)
