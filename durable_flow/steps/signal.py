"""`signal`: waits for a signal from outside."""

from __future__ import annotations

from typing import Any

import msgspec

from durable_flow.clock import moment
from durable_flow.errors import StepError
from durable_flow.expr.reference import Template
from durable_flow.model.execution import SignalWait
from durable_flow.model.fixture import Fixture
from durable_flow.model.frame import Message
from durable_flow.steps.base import Done, Duration, Outcome, StepType, Suspend, TargetName, VariableName, Visit


class SignalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is what `runner.signal` calls it; the payload becomes the output."""

    name: Template
    output: VariableName | None = None
    timeout: Duration | None = None
    on_timeout: TargetName | None = None


class Signal(StepType[SignalConfig]):
    name = "signal"
    summary = "Waits for `runner.signal`; signals that came early were kept, and are taken in the order they came in."
    Config = SignalConfig
    instant = True
    can_wait = True
    asks = True

    def evaluate(self, visit: Visit, config: SignalConfig) -> Outcome:
        name = visit.resolve(config.name)
        if not isinstance(name, str) or not name:
            raise StepError("the name of a signal must be text", kind="SignalError")
        early = visit.early_signal(name)
        if early is not None:
            key, payload = early
            return Done(payload, _same(config), metadata={"signal": key}, normal=True)
        now = visit.now
        return Suspend(
            SignalWait(
                wait_id=visit.wait_id,
                path=visit.path,
                step_id=visit.step_id,
                since=moment(now),
                deadline=None if config.timeout is None else moment(now + config.timeout),
                data={"type": "signal", "name": name},
                name=name,
            )
        )

    def answered(self, visit: Visit, config: SignalConfig, wait: SignalWait, message: Message) -> Outcome:
        if message.kind == "timeout":
            if config.on_timeout is None:
                raise StepError(f"no signal {wait.name!r} within {config.timeout:g} s", kind="TimeoutError")
            return Done(next=config.on_timeout)
        return Done(message.body.get("payload"), _same(config), normal=True)

    def deed(self, visit: Visit, config: SignalConfig) -> tuple[str, Any]:
        return f"wait for the signal {visit.resolve(config.name)}", None

    def assumed(self, wait: SignalWait, fixture: Fixture | None) -> tuple[str | None, dict[str, Any]]:
        return None, {"payload": None if fixture is None else fixture.answer}


def _same(config: SignalConfig) -> tuple[str, ...]:
    return () if config.output is None else (config.output,)
