"""`halt`: waits for a response."""

from __future__ import annotations

from typing import Any

import msgspec

from durable_flow.clock import moment
from durable_flow.errors import StepError
from durable_flow.expr.reference import Template
from durable_flow.model.execution import HaltWait
from durable_flow.model.frame import Message
from durable_flow.steps.base import Done, Duration, Outcome, StepType, Suspend, TargetName, Visit


class HaltConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`data` is what the answering side is shown; `resume_step` is where it goes on (default: `next`)."""

    reason: Template | None = None
    data: Template | None = None
    resume_step: TargetName | None = None
    timeout: Duration | None = None
    on_timeout: TargetName | None = None


class Halt(StepType[HaltConfig]):
    name = "halt"
    summary = "Suspends until `resume`; the response becomes the variable `response`."
    Config = HaltConfig
    instant = True
    can_wait = True
    asks = True

    def writes(self, config: HaltConfig) -> frozenset[str]:
        return frozenset({"response"})

    def evaluate(self, visit: Visit, config: HaltConfig) -> Outcome:
        shown: dict[str, Any] = {"type": "halt", "reason": visit.resolve(config.reason)}
        data = visit.resolve(config.data)
        if isinstance(data, dict):
            shown = {**data, **shown}
        elif config.data is not None:
            shown["data"] = data
        now = visit.now
        return Suspend(
            HaltWait(
                wait_id=visit.wait_id,
                path=visit.path,
                step_id=visit.step_id,
                since=moment(now),
                deadline=None if config.timeout is None else moment(now + config.timeout),
                data=shown,
                resume_step=config.resume_step,
            )
        )

    def answered(self, visit: Visit, config: HaltConfig, wait: HaltWait, message: Message) -> Outcome:
        if message.kind == "timeout":
            if config.on_timeout is None:
                raise StepError(f"nobody responded within {config.timeout:g} s", kind="TimeoutError")
            return Done(next=config.on_timeout)
        return Done(message.body.get("response"), ("response",), next=config.resume_step)

    def deed(self, visit: Visit, config: HaltConfig) -> tuple[str, Any]:
        asked = {"reason": visit.resolve(config.reason), "data": visit.resolve(config.data)}
        return "wait for a response", {name: value for name, value in asked.items() if value is not None} or None
