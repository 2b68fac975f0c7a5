"""How executions wait: frames that are parked until a message comes, the inbox, time that closes waits, and pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from durable_flow import machine
from durable_flow.clock import Clock, Timer, moment
from durable_flow.events import asked_by
from durable_flow.live import CLOCK, LiveFrame, Run, Stopped, signal_ids, timeout_of
from durable_flow.model.codec import decode_record, encode
from durable_flow.model.execution import Action, AnyWait, PauseWait, SignalWait, Status
from durable_flow.model.frame import PAUSE, FrameState, Message
from durable_flow.model.workflow import StepDef

if TYPE_CHECKING:
    from durable_flow.engine import Engine

LINGER = 1.0
"""Seconds that an execution of which all waits for time is kept in memory for, instead of being halted."""

REMEMBERED = 10_000
"""Entries at the end of a trail in which a signal that is sent again is looked for."""


class Waits:
    """The waits of the executions that an engine drives."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def park(self, run: Run, live: LiveFrame) -> None:
        """Returns when the wait of this frame has a message. Unwinds the run if everything waits."""
        wait = live.record.wait
        assert wait is not None
        timer: Timer | None = None
        live.wake = asyncio.Event()
        run.parked[wait.wait_id] = live
        if wait.deadline is not None:
            timer = Alarm(
                self._engine.clock, wait.deadline.timestamp(), lambda: self._engine.spawn(self.expire(run, wait))
            )
        run.active -= 1
        try:
            await (self._engine.flush(run) if run.active else self.quiet(run))
            while not run.mailbox.get(wait.wait_id):
                live.wake.clear()
                await live.wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
            live.wake = None
            del run.parked[wait.wait_id]
            if not run.woken.pop(wait.wait_id, False):
                run.active += 1

    async def quiet(self, run: Run) -> None:
        """No task of this execution is active: it is halted, unless a message came or a wait is out of time."""
        over = run.quieting = asyncio.Event()
        try:
            await self._quiet(run)
        finally:
            if run.quieting is over:
                run.quieting = None
            over.set()

    async def _quiet(self, run: Run) -> None:
        closed: set[str] = set()
        if run.sweep is not None:
            run.sweep.cancel()
            return
        if run.draining:  # some of its frames stand still, and do not wait
            self._engine.stop(run, "shutdown")
            return
        while True:
            await self.sort(run)
            if run.active or run.stop_reason is not None:
                return
            now = self._engine.clock.now()
            waits = answerable(run)
            late = {wait.wait_id: wait for wait in waits if wait.deadline and wait.deadline.timestamp() <= now}
            if not late.keys() <= closed:
                await self._engine.flush(run)
                for wait_id in sorted(late.keys() - closed):
                    await self._close_wait(run, late[wait_id])
                closed |= late.keys()
                await self.collect(run)
                continue
            waits = list(run.waiting.values())
            soon = min((wait.deadline.timestamp() for wait in waits if wait.deadline), default=None)
            if soon is not None and soon - now <= LINGER and not any(wait.outside for wait in waits):
                await self._engine.flush(run)  # parked as it is: its alarm will ring
                return
            if run.status is not Status.HALTED:
                kinds = sorted({str(wait.__struct_config__.tag) for wait in waits})
                # Until its entry is told, some of these may be over.
                run.asked = asked_by(run.waiting)
                run.emit(
                    machine.noted(
                        Action.HALTED,
                        now=self._engine.clock.now(),
                        status=Status.HALTED,
                        metadata={"blocked_on": kinds},
                    )
                )
            if await self._engine.flush(run, release=True):
                self._engine.stop(run, "halted")
                return
            await self.collect(run)

    async def collect(self, run: Run) -> None:
        """Reads the inbox of an execution this process drives and wakes what it is for."""
        inbox = await self._engine.store.inbox(run.id)
        if not run.leaving and run.version:
            run.take_mail(inbox)
            if await self.sort(run):
                self._engine.spawn(self._pass_on(run))

    async def sort(self, run: Run) -> bool:
        """Gives messages to the frames that wait for them; what nothing waits for is taken note of and forgotten.
        Whether the execution was paused or unpaused."""
        held = False
        if run.signal_ids is None and any("signal_id" in message.body for _, message in run.loose_mail):
            await self._remember_signals(run)
            if run.leaving:
                return False
        known = {wait.wait_id for wait in run.waiting.values()}
        known.update(f"{run.id}:{path}" for path in run.child_memos)  # a child may end before its parent waits
        for wait_id in list(run.mailbox):
            if not self._deliver(run, wait_id) and wait_id not in known:
                run.consume(number for number, _ in run.mailbox.pop(wait_id))
        while run.loose_mail:
            number, message = run.loose_mail.pop(0)
            if message.kind == "signal":
                self._signal(run, number, message)
            elif message.kind == "cancel" and (run.cutting or run.info.closing is not None):
                run.consume((number,))  # it ends already
            elif message.kind == "cancel":
                run.stop_actor, run.stop_mail = message.actor, (number,)
                self._engine.stop(run, "cancelled", detail=message.body.get("reason"))
            elif message.kind == "note":
                run.emit(
                    machine.noted(
                        Action.NOTED,
                        now=self._engine.clock.now(),
                        actor=message.actor,
                        metadata=message.body,
                        consumed=(number,),
                    )
                )
            elif message.kind == "pause":
                held |= self.pause(run, message.actor, message.body, consumed=(number,))
            elif message.kind == "unpause":
                held |= self.unpause(run, message.actor, message.body, consumed=(number,))
            else:
                run.consume((number,))
        return held

    def pause(self, run: Run, actor: str | None, body: Mapping[str, Any], *, consumed: tuple[int, ...] = ()) -> bool:
        """From now on no step begins, in this execution and in the children it waits for. False if it is paused."""
        if run.paused is not None:
            run.consume(consumed)
            return False
        told = {name: body[name] for name in ("reason", "above") if body.get(name) is not None}
        messages = self._tell_children(run, "pause", actor, {**told, "above": run.id})
        now = self._engine.clock.now()
        wait = PauseWait(
            wait_id=f"{run.id}:{PAUSE}",
            path="",
            step_id="",
            since=moment(now),
            by=actor,
            above=told.get("above"),
            data={"type": "pause", "by": actor, **told},
        )
        run.emit(
            machine.held(
                Action.PAUSED,
                now=now,
                actor=actor,
                metadata={"wait_id": wait.wait_id, **told},
                consumed=consumed,
                messages=messages,
            )
        )
        run.pause(wait)
        return True

    def unpause(self, run: Run, actor: str | None, body: Mapping[str, Any], *, consumed: tuple[int, ...] = ()) -> bool:
        """Steps may begin again, here and in the children that were paused with it. False if it is not paused, or was
        paused for itself where only its parent was unpaused."""
        above = body.get("above")
        if run.paused is None or (above is not None and run.paused.above != above):
            run.consume(consumed)
            return False
        messages = self._tell_children(run, "unpause", actor, {"above": run.id})
        run.emit(
            machine.held(
                Action.UNPAUSED,
                now=self._engine.clock.now(),
                actor=actor,
                metadata=None if above is None else {"above": above},
                consumed=consumed,
                messages=messages,
            )
        )
        run.unpause()
        return True

    def _tell_children(self, run: Run, kind: str, actor: str | None, body: dict[str, Any]) -> tuple[Message, ...]:
        """The messages that pause or unpause the children which an execution waits for, with it."""
        messages = []
        for child in run.child_memos.values():
            local = self._engine.runs.get(child)
            if local is not None and not local.version:  # there is no inbox yet
                (self.pause if kind == "pause" else self.unpause)(local, actor, body)
            messages.append(
                Message(
                    kind=kind,
                    execution_id=child,
                    key=f"{kind}:{run.id}:{run.seq}",
                    time=self._engine.clock.now(),
                    actor=actor,
                    body=body,
                )
            )
            run.farewells.append(child)
        return tuple(messages)

    async def _pass_on(self, run: Run) -> None:
        """Makes durable that an execution was paused or unpaused, and sees that its children hear of it."""
        try:
            await self._engine.flush(run)
        except Stopped:
            return
        if not run.over.is_set():
            told, run.farewells = run.farewells, []
            for execution_id in told:  # each may go on for long
                self._engine.spawn(self._engine.tell(execution_id))

    def _deliver(self, run: Run, wait_id: str) -> bool:
        """Wakes the frame that is parked at this wait; False where there is none."""
        live = run.parked.get(wait_id)
        if live is None or live.wake is None:
            return False
        if not live.wake.is_set() and wait_id not in run.woken:
            run.woken[wait_id] = True
            run.active += 1
            if live.record.wait is not None and not live.record.wait.polls:
                self.goes_on(run)
            live.wake.set()
        return True

    def _signal(self, run: Run, number: int, message: Message) -> None:
        """Gives a signal to the first frame that waits for it, or keeps it; one that was sent before is forgotten."""
        if (known := message.body.get("signal_id")) is not None and run.signal_ids is not None:
            if known in run.signal_ids:
                run.consume((number,))
                return
            run.signal_ids.add(known)
        name = message.body.get("name")
        # An execution that is about to end takes nothing any more, and may be retried: then the signal is there.
        for wait in () if run.stop_reason in ("timeout", "cancelled") else run.waiting.values():
            if isinstance(wait, SignalWait) and wait.name == name and wait.wait_id not in run.mailbox:
                run.mailbox[wait.wait_id] = [(number, message)]
                self._deliver(run, wait.wait_id)
                return
        run.keep_signal(number, message)

    async def _remember_signals(self, run: Run) -> None:
        """Reads which signals an execution had: the keys of messages tell only of those that are unread."""
        found = await self._engine.store.read(run.id, after=max(0, run.durable - REMEMBERED))
        if run.signal_ids is None:
            records = [decode_record(blob, execution_id=run.id) for _, blob in found]
            waiting = (message for queue in run.mailbox.values() for _, message in queue)
            run.signal_ids = signal_ids((*records, *run.unwritten()))
            run.signal_ids.update(message.body["signal_id"] for message in waiting if "signal_id" in message.body)

    def goes_on(self, run: Run) -> None:
        """Something goes on in an execution that may have been halted."""
        if run.status is Status.HALTED:
            run.emit(machine.noted(Action.RESUMED, now=self._engine.clock.now(), status=Status.RUNNING))

    async def expire(self, run: Run, wait: AnyWait) -> None:
        """Closes a wait whose deadline passed, unless it was answered before, and drives on what waited."""
        while not await self._close_wait(run, wait):  # by the time of the store it has not passed: our clock is ahead
            await self.collect(run)  # or it was answered just now
            await self._engine.clock.sleep(self._engine.poll)
            if run.stop_reason is not None or wait.wait_id not in run.parked:
                return
        if not wait.by_time:
            await self._engine.nudge(run.id)

    async def _close_wait(self, run: Run, wait: AnyWait) -> bool:
        """Whether a wait is closed by time, now or already."""
        message = timeout_of(wait.wait_id, now=self._engine.clock.now())
        if not wait.by_time:
            return (await self._engine.store.append(message, encode(message))).outcome != "closed"
        if wait.wait_id not in run.mailbox:  # nobody else could answer, so there is no race to win
            run.mailbox[wait.wait_id] = [(CLOCK, message)]
            self._deliver(run, wait.wait_id)
        return True

    async def stand_still(self, run: Run) -> None:
        """A frame between two steps, while others of its execution may be at work: until it is unpaused (what that
        says is durable then), or all are unwound."""
        while run.draining or run.paused is not None or run.sweep is not None:
            call = asyncio.Event()
            run.standing.append(call)
            run.active -= 1
            try:
                if run.active == 0:
                    await self.quiet(run)
                elif not run.draining:
                    await self._engine.flush(run)
                await call.wait()
            finally:
                if call in run.standing:
                    run.standing.remove(call)
                    run.active += 1
            self.goes_on(run)
            await self._engine.flush(run)


class Alarm:
    """Calls back when the wall clock has reached a time: a timer counts seconds, and the clock may be set meanwhile."""

    def __init__(self, clock: Clock, when: float, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._when = when
        self._callback = callback
        self._arm()

    def _arm(self) -> None:
        self._timer = self._clock.call_later(max(0.0, self._when - self._clock.now()), self._ring)

    def _ring(self) -> None:
        if self._clock.now() < self._when:
            self._arm()
        else:
            self._callback()

    def cancel(self) -> None:
        self._timer.cancel()


def begins(run: Run, live: LiveFrame, step: StepDef) -> bool:
    """Whether what a frame does next is to begin a step, or an attempt of one: not, to go on with one that began."""
    record, kind = live.record, step.type
    if record.state is not FrameState.RUNNING:
        return False
    if kind.instant or kind.works_outside:
        return True
    path = live.step_path(step.id)
    return record.memo is None and path not in run.entered and not run.has_bodies(path)


def answerable(run: Run) -> list[AnyWait]:
    """The waits that can end now: while an execution is paused, no gate is asked whether it is open."""
    return [wait for wait in run.waiting.values() if run.paused is None or not wait.polls]
