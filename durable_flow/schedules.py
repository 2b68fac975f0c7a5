"""What is to be done about a schedule at a time: computed by plain functions, without clock, store or `await`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping

import msgspec
from msgspec.structs import replace

from durable_flow.clock import moment
from durable_flow.definition.schedules import ticks_of
from durable_flow.expr.ticks import Ticks
from durable_flow.model.schedule import Occasion, Range, ScheduleState, Told
from durable_flow.model.workflow import ScheduleDef

IN_TIME = 60.0
"""Seconds by which a worker may be late for a tick that does not count as missed."""

REMEMBERED = 10
"""Of what happened last, so much is kept with a schedule."""

WATCHED = 20
"""Of the executions that a schedule started, so many are known to it, the newest: it may start any number at once."""

LONG = 86_400.0

OVERLAPS = ("skip", "buffer_one", "allow_all", "cancel_other")

IN_ORDER = "in_order"
"""What people ask for without saying what to do about overlaps: one after the other, and none is left out."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done: executions to `cancel` now, one to `start` together with keeping `state`; and when to look
    again: at the time `due`, and when the execution `awaits` is over."""

    state: ScheduleState
    start: Occasion | None = None
    cancel: tuple[str, ...] = ()
    due: float | None = None
    awaits: str | None = None


def tick_name(schedule_id: str, occasion: Occasion) -> str:
    """The id of the execution that is started for an occasion: for a tick it follows from the tick, so whoever starts
    it, however often, means the same one."""
    if occasion.name is not None:
        return occasion.name
    time = moment(occasion.time)
    stamp = time.isoformat(timespec="milliseconds" if time.microsecond else "seconds").replace("+00:00", "Z")
    name = f"{schedule_id}:{stamp}"
    return name if len(name) <= 255 else f"{hashlib.sha256(schedule_id.encode()).hexdigest()}:{stamp}"


def decide(
    state: ScheduleState,
    schedule: ScheduleDef,
    *,
    schedule_id: str,
    now: float,
    running: Collection[str],
    refused: Mapping[str, tuple[str, str | None]] = {},
) -> Decision:
    """What comes next in the course of a schedule. `running` are those of its active executions that are not over;
    `refused` are executions that cannot be started: what became of them instead, and why.

    Raises ValueError where the schedule does not say when.
    """

    def next_of(state: ScheduleState, running: Collection[str]) -> _Course:
        return _Course(state, schedule, ticks_of(schedule), schedule_id, now, frozenset(running), refused)

    course = next_of(state, running)
    course.go()
    first = course.decision()
    if first.start is None:
        return first
    # What is to be done besides, as long as it starts and cancels nothing, goes along.
    course = next_of(first.state, [*running, tick_name(schedule_id, first.start)])
    course.go()
    more = course.decision()
    if more.start is not None or more.cancel:
        return replace(first, due=now, awaits=None)
    return replace(more, start=first.start, cancel=first.cancel)


class _Course:
    """One decision in the making."""

    def __init__(
        self,
        state: ScheduleState,
        schedule: ScheduleDef,
        ticks: Ticks,
        schedule_id: str,
        now: float,
        running: frozenset[str],
        refused: Mapping[str, tuple[str, str | None]],
    ) -> None:
        self.state = state
        self.schedule = schedule
        self.ticks = ticks
        self.schedule_id = schedule_id
        self.now = now
        self.refused = refused
        self.after = state.after
        self.active = [name for name in state.active if name in running]
        self.waiting = state.waiting
        self.asked = list(state.asked)
        self.ranges = list(state.ranges)
        self.told = list(state.told)
        self.blocked = False
        self.start: Occasion | None = None
        self.cancel: tuple[str, ...] = ()

    def decision(self) -> Decision:
        due = None if self.state.hold is not None else self.ticks.after(self.after)
        awaits = self.active[0] if self.active and (self.waiting is not None or self.blocked) else None
        if due is None and awaits is not None:
            due = self.now + LONG  # workers listen to what is awaited by what will be due
        return Decision(
            state=replace(
                self.state,
                after=self.after,
                active=tuple(self.active[-WATCHED:]),
                waiting=self.waiting,
                asked=tuple(self.asked),
                ranges=tuple(self.ranges),
                told=tuple(self.told[-REMEMBERED:]),
            ),
            start=self.start,
            cancel=self.cancel,
            due=due,
            awaits=awaits,
        )

    def go(self) -> None:
        """Goes on until something is to be started, or nothing is to be done."""
        if self.waiting is not None and not self.active:
            waiting, self.waiting = self.waiting, None
            self._meet(waiting, "skip")
        while self.asked and self.start is None:
            occasion = self.asked.pop(0)
            self._meet(occasion, occasion.overlap or self.schedule.overlap)
        for wanted in list(self.ranges):
            if self.start is None:
                self._go_through(wanted)
        while self.start is None and self.state.hold is None and self._tick():
            pass

    def _meet(self, occasion: Occasion, overlap: str, last: float | None = None) -> None:
        """Does for an occasion, and for the ticks after it up to `last`, what is to be done in view of what runs."""
        name = tick_name(self.schedule_id, occasion)
        last = None if last == occasion.time else last
        if name in self.refused:
            outcome, why = self.refused[name]
            self._tell(occasion.time, outcome, execution=name, error=why)
        elif not self.active or overlap == "allow_all":
            self.start = occasion
            self.active.append(name)
            self._tell(occasion.time, "started", execution=name)
        elif overlap == "cancel_other":
            if self.waiting is not None:
                self._tell(self.waiting.time, "skipped")
            if last is not None:
                self._tell(occasion.time, "skipped", last=self.ticks.latest(occasion.time, math.nextafter(last, 0)))
                occasion = Occasion(time=last)
            self.waiting = occasion
            self.cancel = tuple(self.active)
        elif overlap == "buffer_one" and self.waiting is None:
            self.waiting = occasion
            if last is not None:
                self._tell(self.ticks.after(occasion.time) or last, "skipped", last=last)
        else:
            self._tell(occasion.time, "skipped", last=last)

    def _go_through(self, wanted: Range) -> None:
        """Meets the ticks of a range, as far as that is possible now."""
        place = self.ranges.index(wanted)
        while self.start is None:
            time = self.ticks.after(wanted.after)
            if time is None or time > wanted.until:
                del self.ranges[place]
                return
            occasion = Occasion(time=time)
            if (
                wanted.overlap == IN_ORDER
                and (self.active or self.waiting is not None)
                and tick_name(self.schedule_id, occasion) not in self.refused
            ):
                self.blocked = True
                return
            wanted = self.ranges[place] = replace(wanted, after=time)
            self._meet(occasion, wanted.overlap)

    def _tick(self) -> bool:
        """Meets what the clock has brought; False where that is nothing."""
        first = self.ticks.after(self.after)
        if first is None or first > self.now:
            return False
        chosen = self._caught_up(first)
        if chosen is None or chosen > first:
            last = self.ticks.latest(self.after, self.now if chosen is None else math.nextafter(chosen, 0))
            self._tell(first, "missed", last=last)
            self.after = last or first
        if chosen is None:
            return True
        overlap = self.schedule.overlap
        refused = tick_name(self.schedule_id, Occasion(time=chosen)) in self.refused
        if not self.active or overlap == "allow_all" or refused:
            last = chosen
        else:  # the same is done about all of them, as nothing changes in between
            last = self.ticks.latest(self.after, self.now) or chosen
        self._meet(Occasion(time=chosen), overlap, last)
        self.after = last
        return True

    def _caught_up(self, first: float) -> float | None:
        """The first tick that is not to be left out, of those that the clock has brought."""
        catch_up = self.schedule.catch_up
        if catch_up == "all":
            return first
        back = IN_TIME if isinstance(catch_up, str) else catch_up
        found = self.ticks.after(max(self.after, math.nextafter(self.now - back, 0)))
        if found is not None and found <= self.now:
            return found
        return self.ticks.latest(self.after, self.now) if catch_up == "latest" else None

    def _tell(
        self,
        time: float,
        outcome: str,
        *,
        last: float | None = None,
        execution: str | None = None,
        error: str | None = None,
    ) -> None:
        last = None if last == time else last
        before = self.told[-1] if self.told else None
        if before is not None and before.outcome == outcome and outcome in ("skipped", "missed") and before.time < time:
            self.told[-1] = replace(before, last=last or time, at=self.now)
        else:
            self.told.append(Told(time=time, at=self.now, outcome=outcome, last=last, execution=execution, error=error))
