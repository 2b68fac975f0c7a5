"""`wait`: lets time go by."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from durable_flow.clock import moment
from durable_flow.errors import StepError
from durable_flow.expr.duration import parse_duration
from durable_flow.expr.reference import Template
from durable_flow.model.execution import TimerWait
from durable_flow.model.frame import Message
from durable_flow.model.value import type_name
from durable_flow.steps.base import Done, Outcome, StepType, Suspend, Visit


class WaitConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly one of `for` (seconds, or text such as `2h`) and `until` (a time in RFC 3339, with its zone)."""

    for_: Template | None = msgspec.field(name="for", default=None)
    until: Template | None = None


class Wait(StepType[WaitConfig]):
    name = "wait"
    summary = "Waits for so long (`for`) or until a time (`until`), across restarts."
    Config = WaitConfig
    instant = True
    can_wait = True

    def check(self, config: WaitConfig) -> Iterable[tuple[str, str]]:
        if (config.for_ is None) == (config.until is None):
            yield "for", "a wait has exactly one of 'for' and 'until'"
        for key, template, read in ("for", config.for_, _seconds), ("until", config.until, _time):
            if template is not None and template.constant:
                try:
                    read(template.source)
                except ValueError as error:
                    yield key, str(error)

    def evaluate(self, visit: Visit, config: WaitConfig) -> Outcome:
        now = visit.now
        try:
            if config.for_ is not None:
                end = now + _seconds(visit.resolve(config.for_))
            else:
                end = _time(visit.resolve(config.until))
        except ValueError as error:
            raise StepError(str(error), kind="WaitError") from None
        if end <= now:
            return Done()
        return Suspend(
            TimerWait(
                wait_id=visit.wait_id,
                path=visit.path,
                step_id=visit.step_id,
                since=moment(now),
                deadline=moment(end),
                data={"type": "timer"},
            )
        )

    def answered(self, visit: Visit, config: WaitConfig, wait: TimerWait, message: Message) -> Outcome:
        return Done()

    def deed(self, visit: Visit, config: WaitConfig) -> tuple[str, Any]:
        if config.for_ is not None:
            return f"wait for {visit.resolve(config.for_)}", None
        return f"wait until {visit.resolve(config.until)}", None

    def wrong_fixture(self, config: WaitConfig, answer: Any) -> Iterable[str]:
        yield "only time ends a wait: in a dry run it has passed at once, and there is nothing to answer"


def _seconds(value: object) -> float:
    if not isinstance(value, int | float | str):
        raise ValueError(f"a duration is seconds or text such as 15m, not {type_name(value)}")
    return parse_duration(value, allow_zero=True)


def _time(value: object) -> float:
    """Epoch seconds of a time, which must have a zone."""
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value[:100]!r} is not a time: write 2031-05-01T09:00:00+02:00") from None
    elif isinstance(value, datetime):
        time = value
    else:
        raise ValueError(f"a time is text such as 2031-05-01T09:00:00Z, not {type_name(value)}")
    if time.tzinfo is None:
        raise ValueError(f"{time.isoformat()!r} has no time zone: write {time.isoformat()}Z, or an offset")
    return time.timestamp()
