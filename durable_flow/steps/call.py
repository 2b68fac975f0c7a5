"""`call`: calls a registered service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from durable_flow.errors import OutputError
from durable_flow.expr.reference import Template
from durable_flow.expr.schema import Schema
from durable_flow.model.workflow import RetryPolicy
from durable_flow.steps.base import Compensate, Done, Duration, Interval, Outcome, StepType, VariableName, Visit


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """Where a result goes, and what it must look like."""

    shorthand: ClassVar[str] = "key"

    key: VariableName | None = None
    schema: Schema | None = None


class CallConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`retries`, `retry_delay` and `retry_backoff` are the short form of `retry`; one of the two may be used.

    `heartbeat_timeout`: an attempt whose service has not called `context.heartbeat` for so long has failed.
    `delivery`: what becomes of a call that was under way when its process died. It is made again, or, at most once,
    a person is asked. `compensate`: the call that undoes this one, if the execution fails or is cancelled later.
    """

    service: str
    method: str
    input: Template | None = None
    output: Output | None = None
    retries: Annotated[int, msgspec.Meta(ge=0)] | None = None
    retry_delay: Interval | None = None
    retry_backoff: Annotated[float, msgspec.Meta(ge=1)] | None = None
    heartbeat_timeout: Duration | None = None
    delivery: Literal["at_least_once", "at_most_once"] = "at_least_once"
    compensate: Compensate | None = None


class Call(StepType[CallConfig]):
    name = "call"
    summary = "Calls a method of a registered service."
    Config = CallConfig
    works_outside = True

    def at_most_once(self, config: CallConfig) -> bool:
        return config.delivery == "at_most_once"

    def needs(self, config: CallConfig) -> Iterable[tuple[str, str]]:
        yield "service", config.service
        if config.compensate is not None:
            yield "service", config.compensate.service

    def heartbeat_timeout(self, config: CallConfig) -> float | None:
        return None if config.heartbeat_timeout is None else float(config.heartbeat_timeout)

    def compensation(self, config: CallConfig) -> Compensate | None:
        return config.compensate

    def retry_policy(self, config: CallConfig) -> RetryPolicy | None:
        if config.retries is None and config.retry_delay is None and config.retry_backoff is None:
            return None
        return RetryPolicy(
            max_attempts=1 + (config.retries or 0),
            initial_interval=1.0 if config.retry_delay is None else float(config.retry_delay),
            backoff=2.0 if config.retry_backoff is None else config.retry_backoff,
            max_interval=float("inf"),
            jitter=0.0,
        )

    async def run(self, visit: Visit, config: CallConfig) -> Outcome:
        return self._done(config, await visit.call(config.service, config.method, config.input), normal=True)

    def replaced(self, config: CallConfig, value: Any) -> Outcome:
        return self._done(config, value, normal=False)

    def _done(self, config: CallConfig, value: Any, *, normal: bool) -> Outcome:
        output = config.output
        if output is None:
            return Done(value, normal=normal)
        problems = self._misfits(config, value)
        if problems:
            raise OutputError("does not fit the output schema: " + "; ".join(problems))
        return Done(value, () if output.key is None else (output.key,), normal=normal)

    def _misfits(self, config: CallConfig, value: Any) -> list[str]:
        schema = None if config.output is None else config.output.schema
        return [] if schema is None else schema.problems(value)

    def deed(self, visit: Visit, config: CallConfig) -> tuple[str, Any]:
        return f"{config.service}.{config.method}", visit.resolve(config.input)

    def wrong_fixture(self, config: CallConfig, answer: Any) -> Iterable[str]:
        return (f"does not fit the output schema: {problem}" for problem in self._misfits(config, answer))
