"""What is kept of a schedule beside its definition."""

from __future__ import annotations

import msgspec

from durable_flow.model.frame import Hold


class Occasion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that a schedule is to start an execution for. `time` is that of its tick, or of the request; `name` is
    the id of the execution where somebody asked for one, `overlap` what to do instead of what the schedule says."""

    time: float
    name: str | None = None
    overlap: str | None = None


class Range(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ticks from `after` (which is none of them) to `until` that somebody asked for."""

    after: float
    until: float
    overlap: str


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a tick, or of all from `time` to `last`, and `at` what time."""

    time: float
    at: float
    outcome: str
    last: float | None = None
    execution: str | None = None
    error: str | None = None


class ScheduleState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a schedule stands. Times are epoch seconds.

    About ticks up to `after` it is decided. `timing` is what the schedule said about when, as text: where that changes,
    its ticks begin anew. `active` are executions it started that were not known to be over; `waiting` is what comes
    when they are. `asked` and `ranges` are what people asked for. `told` has the last things that happened, newest
    last.
    """

    timing: str
    after: float
    hold: Hold | None = None
    active: tuple[str, ...] = ()
    waiting: Occasion | None = None
    asked: tuple[Occasion, ...] = ()
    ranges: tuple[Range, ...] = ()
    told: tuple[Told, ...] = ()
