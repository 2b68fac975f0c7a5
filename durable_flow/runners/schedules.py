"""Schedules: who starts what they say, and what people may do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import anyio.lowlevel
import msgspec
from msgspec.structs import replace

from durable_flow.answers import person, remark
from durable_flow.clock import moment
from durable_flow.definition.inputs import check_input
from durable_flow.definition.schedules import given_at, ticks_of
from durable_flow.engine import Engine
from durable_flow.errors import (
    ConfigError,
    ConflictError,
    CorruptState,
    DurableFlowError,
    KeyTaken,
    LeaseLost,
    LimitExceeded,
    StepError,
    StoreError,
    ValidationError,
)
from durable_flow.expr.ticks import Ticks
from durable_flow.journal import Journal
from durable_flow.live import AlreadyExists, Run
from durable_flow.model.codec import decode_schedule, encode
from durable_flow.model.execution import Status
from durable_flow.model.frame import Hold, Message
from durable_flow.model.problem import suggest
from durable_flow.model.schedule import Occasion, Range, ScheduleState
from durable_flow.model.workflow import ScheduleDef, WorkflowDef
from durable_flow.runners.correspondence import fingerprint_of
from durable_flow.schedules import IN_ORDER, OVERLAPS, Decision, decide, tick_name
from durable_flow.stores.base import Mark, ScheduleRow, check_id

logger = Journal("durable_flow.schedules")

BATCH = 100
"""Schedules that are looked at together."""

DAY = 86_400.0
"""Seconds between two looks at a store that only this process can reach, at most."""

LONGEST = 5.0
"""Seconds between two tries while the store cannot be reached, at most."""

ASKED = 100
"""So many requests of people may wait with one schedule."""

MOST = 100_000
"""So many ticks are made up for at once."""

AHEAD = 5
"""So many of the next ticks are shown."""

Workflows = Mapping[str, WorkflowDef]


class ScheduledTick(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a tick of a schedule, or of all from `time` to `last`. `outcome` is started, skipped (another one
    was going on), missed (no worker ran in time), exists (its execution was there already), rejected (by the
    `concurrency` of the workflow) or failed (`error` says why); `at` is when that was decided."""

    time: datetime
    outcome: str
    at: datetime
    last: datetime | None = None
    execution_id: str | None = None
    error: str | None = None


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as the workers know it. `id` is the workflow's and its own: `report:nightly`.

    `next` are its next ticks; none where it is `paused` (by whom and why, where that was said). `active` are executions
    it started that may still be going on, `waiting` is the tick that comes when they are over, `requests` how many
    requests of people are to be met, and `recent` what happened last, the newest first. `error` says why nothing can be
    told about when it ticks; then `cron` and the like are not known.
    """

    id: str
    workflow_id: str
    definition_hash: str
    cron: str | None = None
    every: float | None = None
    timezone: str = "UTC"
    overlap: str = "skip"
    catch_up: str | float = "latest"
    start: str | None = None
    end: str | None = None
    queue: str | None = None
    description: str = ""
    paused: bool = False
    paused_at: datetime | None = None
    paused_by: str | None = None
    paused_reason: str | None = None
    next: list[datetime] = []
    active: list[str] = []
    waiting: datetime | None = None
    requests: int = 0
    recent: list[ScheduledTick] = []
    error: str | None = None


class Scheduler:
    """Starts what schedules say, for a worker: those of the workflows that this runtime knows."""

    def __init__(self, engine: Engine, workflows: Workflows) -> None:
        self._engine = engine
        self._workflows = workflows
        self._registered: dict[str, str] = {}
        self._scheduled: list[str] = []
        self._left: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        engine = self._engine
        failures = 0
        awaited: tuple[str, ...] = ()
        while True:
            with engine.follow("", *awaited) as changed:
                before = awaited
                try:
                    seconds, awaited = await self._look()
                    failures = 0
                except StoreError as error:
                    failures += 1
                    logger.warning("looking for schedules failed: %s", error)
                    seconds = min(LONGEST, 0.1 * 2 ** min(failures, 10))
                except Exception:  # whatever is wrong with schedules, executions are driven all the same
                    logger.exception("looking for schedules failed")
                    seconds = LONGEST
                if seconds <= 0 or before != awaited:
                    await anyio.lowlevel.checkpoint()
                elif engine.store.alone:
                    await changed(until=engine.clock.now() + seconds)
                else:
                    await changed(at_most=seconds)

    async def _look(self) -> tuple[float, tuple[str, ...]]:
        """Does what is to be done now; in how many seconds to look again, and what to listen to meanwhile."""
        if len(self._registered) < len(self._workflows):
            await self._register()
        engine = self._engine
        if not self._scheduled:
            return DAY, ()
        most = BATCH + len(self._left)
        now, rows = await engine.store.schedules(workflows=self._scheduled, limit=most)
        longest = DAY if engine.store.alone and len(rows) < most else engine.poll
        rows = [row for row in rows if (row.id, row.definition_hash) not in self._left]
        due = [row for row in rows if row.due is not None and row.due <= now]
        if due:
            outcomes = await asyncio.gather(*(self._meet(row, now) for row in due), return_exceptions=True)
            for row, outcome in zip(due, outcomes, strict=True):
                self._take_note(row, outcome)
            return 0.0, ()
        first = min((row.due for row in rows if row.due is not None), default=None)
        seconds = longest if first is None else min(longest, first - now)
        return seconds, tuple(row.awaits for row in rows if row.awaits is not None)

    def _take_note(self, row: ScheduleRow, outcome: BaseException | None) -> None:
        """What this process cannot make anything of, another one may."""
        if isinstance(outcome, CorruptState | ValidationError | ConfigError | ValueError):
            self._left.add((row.id, row.definition_hash))
            logger.warning("schedule %s is left to other workers: %s", row.id, outcome)
        elif isinstance(outcome, StoreError) or not isinstance(outcome, Exception | None):
            raise outcome
        elif outcome is not None:
            self._left.add((row.id, row.definition_hash))
            logger.error("schedule %s is left to other workers", row.id, exc_info=outcome)

    # -- what is known of schedules -----------------------------------------------------------------------------------

    async def _register(self) -> None:
        """Tells the store of the schedules of workflows that are new here. Who comes last is right: a process that was
        there before leaves it at that."""
        new = {name: known for name, known in self._workflows.items() if name not in self._registered}
        now, rows = await self._engine.store.schedules(workflows=list(new))
        found = {row.id: row for row in rows}
        for workflow in new.values():
            for schedule in workflow.schedules:
                name = f"{workflow.id}:{schedule.id}"
                try:
                    await self._put(name, workflow, schedule, found.pop(name, None), now)
                except CorruptState as error:
                    logger.warning("schedule %s stays as it is: %s", name, error)
        for row in found.values():
            if await self._engine.store.mark(self._mark(row, None, None)):
                logger.info("schedule %s is gone: workflow %r has it no more", row.id, row.workflow_id)
        for name, known in new.items():
            self._registered[name] = known.hash
            if known.schedules:
                self._scheduled.append(name)

    async def _put(
        self, name: str, workflow: WorkflowDef, schedule: ScheduleDef, row: ScheduleRow | None, now: float
    ) -> None:
        engine = self._engine
        while True:
            state = None
            if row is not None:
                if row.definition_hash == workflow.hash:
                    return
                state = decode_schedule(row.body, schedule_id=name)
            if state is None:
                state = ScheduleState(timing=schedule.timing, after=now)
            elif state.timing != schedule.timing:
                state = replace(state, timing=schedule.timing, after=max(now, state.after))
            mark = Mark(
                schedule_id=name,
                workflow_id=workflow.id,
                expected=None if row is None else row.nonce,
                nonce=engine.ids.nonce(),
                due=now,
                definition_hash=workflow.hash,
                definition=workflow.text,
                body=encode(state),
            )
            if await engine.store.mark(mark):
                return
            now, rows = await engine.store.schedules(workflows=[workflow.id])
            row = next((other for other in rows if other.id == name), None)

    # -- what is due --------------------------------------------------------------------------------------------------

    async def _meet(self, row: ScheduleRow, now: float) -> None:
        """Decides about one schedule, and does it. Who finds that somebody else was faster leaves it."""
        engine = self._engine
        state = decode_schedule(row.body, schedule_id=row.id)
        workflow, schedule = await defined(engine, row)
        refused: dict[str, tuple[str, str | None]] = {}
        while True:
            running = await self._running(state, schedule)
            decision = decide(state, schedule, schedule_id=row.id, now=now, running=running, refused=refused)
            for name in decision.cancel:
                await self._cancel(row.id, name)
            mark = self._mark(row, decision, decision.state)
            if decision.start is None:
                await engine.store.mark(mark)
                return
            name = tick_name(row.id, decision.start)
            try:
                other = await self._start(workflow, schedule, row.id, name, decision.start.time, mark)
                if other != name:
                    refused[name] = ("rejected", f"execution {other!r} is there in its place")
                    continue
            except AlreadyExists:
                refused[name] = ("exists", None)
            except KeyTaken as error:
                refused[name] = ("rejected", str(error)[:500])
            except LeaseLost:
                return
            except (ValidationError, LimitExceeded, StepError) as error:
                logger.error("schedule %s could not start execution %s: %s", row.id, name, error)
                refused[name] = ("failed", str(error)[:500])
            else:
                engine.heard(name)
                return

    async def _start(
        self, workflow: WorkflowDef, schedule: ScheduleDef, schedule_id: str, name: str, time: float, mark: Mark
    ) -> str:
        """Creates an execution together with the mark; its id, or that of the one its workflow has in its place."""
        engine = self._engine
        given = given_at(schedule, time)
        checked = check_input(workflow, given, limits=engine.limits)

        def make() -> Run:
            run = engine.create(
                workflow,
                checked,
                execution_id=name,
                trigger="schedule",
                labels={"schedule": schedule_id, **schedule.labels},
                queue=schedule.queue,
                priority=schedule.priority,
                fingerprint=fingerprint_of(given, engine.limits),
                begins=False,
            )
            run.mark = mark
            return run

        if workflow.concurrency is not None:
            return await engine.admission.enter(make)
        await engine.enqueue(make())
        return name

    async def _running(self, state: ScheduleState, schedule: ScheduleDef) -> list[str]:
        """Those of the active executions that are not over, as far as that matters."""
        if schedule.overlap == "allow_all" and state.waiting is None and not state.asked and not state.ranges:
            return list(state.active)
        rows = await asyncio.gather(*(self._engine.store.row(name) for name in state.active))
        return [row.id for row in rows if row is not None and not Status(row.status).over]

    async def _cancel(self, schedule_id: str, name: str) -> None:
        engine = self._engine
        message = Message(
            kind="cancel",
            execution_id=name,
            key="cancel",
            time=engine.clock.now(),
            actor=f"schedule {schedule_id}",
            body={"reason": "the next tick of its schedule came"},
        )
        await engine.store.append(message, encode(message))
        engine.heard(name)

    def _mark(self, row: ScheduleRow, decision: Decision | None, state: ScheduleState | None) -> Mark:
        if decision is None:
            return marked(self._engine, row, state, due=None)
        return marked(self._engine, row, state, due=decision.due, awaits=decision.awaits)


def marked(
    engine: Engine, row: ScheduleRow, state: ScheduleState | None, *, due: float | None, awaits: str | None = None
) -> Mark:
    """The record with another state, or (without one) its end."""
    return Mark(
        schedule_id=row.id,
        workflow_id=row.workflow_id,
        expected=row.nonce,
        nonce=engine.ids.nonce(),
        due=due,
        awaits=awaits,
        definition_hash=row.definition_hash,
        body=None if state is None else encode(state),
    )


async def defined(engine: Engine, row: ScheduleRow) -> tuple[WorkflowDef, ScheduleDef]:
    """The workflow and the schedule, as they were registered last. Raises CorruptState where they are not there, and
    ValidationError where this process does not know what is in them."""
    workflow = await engine.load_definition(row.definition_hash, row.id)
    _, _, own = row.id.rpartition(":")
    for schedule in workflow.schedules:
        if schedule.id == own:
            return workflow, schedule
    raise CorruptState(row.id, f"its definition {row.definition_hash[:12]}… has no such schedule")


# -- what people do ---------------------------------------------------------------------------------------------------


async def listed(engine: Engine, workflow_id: str | None = None) -> list[Schedule]:
    """All schedules (of a workflow), by id."""
    now, rows = await engine.store.schedules(workflows=None if workflow_id is None else [workflow_id])
    return [await _shown(engine, row, now) for row in sorted(rows, key=lambda row: row.id)]


async def _shown(engine: Engine, row: ScheduleRow, now: float) -> Schedule:
    facts: dict[str, Any] = {"id": row.id, "workflow_id": row.workflow_id, "definition_hash": row.definition_hash}
    try:
        state = decode_schedule(row.body, schedule_id=row.id)
    except CorruptState as error:
        return Schedule(**facts, error=str(error))
    hold = state.hold
    facts |= {
        "paused": hold is not None,
        "paused_at": None if hold is None else moment(hold.time),
        "paused_by": None if hold is None else hold.actor,
        "paused_reason": None if hold is None else hold.reason,
        "active": list(state.active),
        "waiting": None if state.waiting is None else moment(state.waiting.time),
        "requests": len(state.asked) + len(state.ranges),
        "recent": [
            ScheduledTick(
                time=moment(told.time),
                outcome=told.outcome,
                at=moment(told.at),
                last=None if told.last is None else moment(told.last),
                execution_id=told.execution,
                error=told.error,
            )
            for told in reversed(state.told)
        ],
    }
    try:
        _, schedule = await defined(engine, row)
        ticks = ticks_of(schedule)
    except (DurableFlowError, ValueError) as error:
        return Schedule(**facts, error=str(error))
    for name in "cron", "every", "timezone", "overlap", "catch_up", "start", "end", "queue", "description":
        facts[name] = getattr(schedule, name)
    if hold is None:
        facts["next"] = [moment(time) for time in _next(ticks, max(state.after, now))]
    return Schedule(**facts)


def _next(ticks: Ticks, time: float) -> Iterable[float]:
    for _ in range(AHEAD):
        found = ticks.after(time)
        if found is None:
            return
        yield found
        time = found


async def pause(engine: Engine, schedule_id: str, *, by: str | None, reason: str | None) -> bool:
    """Lets it start nothing by itself; False where somebody did that already."""
    actor, why = person(by), remark(reason, "reason")

    def change(state: ScheduleState, now: float) -> ScheduleState | None:
        if state.hold is not None:
            return None
        waiting = None if state.waiting is None or state.waiting.name is None else state.waiting
        return replace(state, hold=Hold(time=now, actor=actor, reason=why), waiting=waiting)

    return await _change(engine, schedule_id, change)


async def unpause(engine: Engine, schedule_id: str) -> bool:
    """Lets it go on with the ticks that come; False if it was not paused."""

    def change(state: ScheduleState, now: float) -> ScheduleState | None:
        return None if state.hold is None else replace(state, hold=None, after=max(state.after, now))

    return await _change(engine, schedule_id, change)


async def trigger(engine: Engine, schedule_id: str, *, overlap: str | None, execution_id: str | None) -> str:
    """Asks for an execution now; its id."""
    name = engine.ids.execution() if execution_id is None else check_id(execution_id)
    _check_overlap(overlap)

    def change(state: ScheduleState, now: float) -> ScheduleState | None:
        if any(occasion.name == name for occasion in state.asked):
            return None
        _check_room(state, schedule_id)
        return replace(state, asked=(*state.asked, Occasion(time=now, name=name, overlap=overlap)))

    await _change(engine, schedule_id, change)
    return name


async def backfill(engine: Engine, schedule_id: str, *, start: datetime, end: datetime, overlap: str | None) -> int:
    """Asks for the ticks from `start` to `end`; how many there are."""
    _check_overlap(overlap)
    first, last = seconds_of(start, "start"), seconds_of(end, "end")
    if first > last:
        raise ValidationError([f"the end ({end.isoformat()}) is before the start ({start.isoformat()})"])
    row, now = await _row(engine, schedule_id)
    if last > now:
        raise ValidationError([f"{end.isoformat()} is yet to come: only ticks that have been are made up for"])
    _, schedule = await defined(engine, row)
    ticks, count = ticks_of(schedule), 0
    time = ticks.after(first - 0.000_5)
    while time is not None and time <= last:
        count += 1
        if count > MOST:
            raise ValidationError([f"there are more than {MOST:,} ticks between these times"])
        time = ticks.after(time)
    if not count:
        return 0
    wanted = Range(after=first - 0.000_5, until=last, overlap=overlap or IN_ORDER)

    def change(state: ScheduleState, now: float) -> ScheduleState | None:
        if wanted in state.ranges:
            return None
        _check_room(state, schedule_id)
        return replace(state, ranges=(*state.ranges, wanted))

    await _change(engine, schedule_id, change)
    return count


def seconds_of(time: Any, what: str) -> float:
    """Epoch seconds of a time that somebody gave. Raises ValidationError for one without a zone."""
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise ValidationError([f"{what} is a datetime with a time zone, not {time!r:.100}"])
    return time.timestamp()


def _check_overlap(overlap: object) -> None:
    if overlap is not None and overlap not in OVERLAPS:
        hint = suggest(str(overlap), OVERLAPS) or f"there are {', '.join(OVERLAPS)}"
        raise ValidationError([f"{overlap!r:.100} says nothing about overlaps ({hint})"])


def _check_room(state: ScheduleState, schedule_id: str) -> None:
    if len(state.asked) + len(state.ranges) >= ASKED:
        raise ConflictError(f"{ASKED} requests wait with schedule {schedule_id!r} already; does a worker run?")


async def _row(engine: Engine, schedule_id: str) -> tuple[ScheduleRow, float]:
    """The record of a schedule, and the store's time. Raises ValidationError where there is none."""
    workflow_id = str(schedule_id).rpartition(":")[0]
    now, rows = await engine.store.schedules(workflows=[workflow_id])
    for row in rows:
        if row.id == schedule_id:
            return row, now
    _, rows = await engine.store.schedules()
    hint = suggest(str(schedule_id), [row.id for row in rows])
    told = hint or "a worker that knows its workflow makes it known when it starts"
    raise ValidationError([f"there is no schedule {schedule_id!r:.200} in this store ({told})"])


async def _change(
    engine: Engine, schedule_id: str, change: Callable[[ScheduleState, float], ScheduleState | None]
) -> bool:
    """Changes the state of a schedule, and has the workers look at it; False where there was nothing to change."""
    while True:
        row, now = await _row(engine, schedule_id)
        changed = change(decode_schedule(row.body, schedule_id=row.id), now)
        if changed is None:
            return False
        if await engine.store.mark(marked(engine, row, changed, due=now)):
            engine.heard("")
            return True
