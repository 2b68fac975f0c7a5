"""The loop that drives executions: attempt, advance, commit, publish; and the leases under which it may.

One recursive function (`body`) drives a frame, nested or not; one place (`flush`) commits; events follow their commit.
The rules it keeps:

* Before anything happens outside (a service is called, a child is started, a task goes to sleep or waits), everything
  before it is durable. Instant steps only add to the buffer: they share the commit of what follows.
* At most one commit of an execution is under way. Concurrent branches share the next one; so do executions, below, in
  the store.
* A frame that waits parks in its task. When no task of the execution is active, the execution is halted: the commit
  that says so gives the lease back, if the inbox is empty, and the tasks are unwound.
* A cancelled caller, a lost lease and a closing runtime unwind the tasks without a trace; a cancelled execution or
  branch leaves an entry for what was in flight.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
from msgspec.structs import replace

from durable_flow import machine
from durable_flow.admission import Admission
from durable_flow.answers import sent_at
from durable_flow.children import Children
from durable_flow.clock import Clock, StoreTime, SystemClock, Timer, moment
from durable_flow.context import Fatal, NotBegun, StepVisit, step_error
from durable_flow.definition.inputs import concurrency_key
from durable_flow.endings import Endings, may_have_happened
from durable_flow.errors import (
    ConflictError,
    CorruptState,
    DurableFlowError,
    KeyTaken,
    LeaseLost,
    LimitExceeded,
    NonRetryableError,
    OutputError,
    RetryAfter,
    StepError,
    StoreError,
    StoreUnavailable,
    ValidationError,
)
from durable_flow.events import Subject, event_of
from durable_flow.extension import Language
from durable_flow.ids import Ids
from durable_flow.journal import Journal
from durable_flow.limits import Limits
from durable_flow.live import AlreadyExists, LiveFrame, Run, Stopped
from durable_flow.migration import Migration, checked_mapping, judged, renamed
from durable_flow.model.codec import Info, decode_info, decode_record, encode
from durable_flow.model.event import Event
from durable_flow.model.execution import (
    Action,
    ErrorInfo,
    ErrorWait,
    RetryWait,
    Status,
    UncertainWait,
)
from durable_flow.model.frame import FrameState, Message, Record, Transition
from durable_flow.model.mask import redact, secret_texts
from durable_flow.model.trace import check_traceparent
from durable_flow.model.value import normalise
from durable_flow.model.workflow import StepDef, WorkflowDef
from durable_flow.patience import PatientStore
from durable_flow.pieces import PieceFailed, Pieces
from durable_flow.rehearsal import unanswered
from durable_flow.services import Gates, Services
from durable_flow.steps.base import KEEP, Again, ChildEnd, Done, Failed, Outcome, Suspend, every_step
from durable_flow.stores.base import (
    Busy,
    Commit,
    Committed,
    Landing,
    New,
    Slot,
    StepTransaction,
    Store,
    Stored,
    line_of,
)
from durable_flow.waiting import LINGER, Alarm, Waits, answerable, begins

logger = Journal("durable_flow.engine")
T = TypeVar("T")

BUFFER = 64
"""Transitions of instant steps that may wait for one commit."""

POLL = 0.25
"""Seconds between two looks at what other processes did, where the store does not tell."""

BACKSTOP = 2.0
"""The same where it does: the safety net under its wake-ups."""

SKEW = 1.0
"""Seconds by which the clocks of machines may differ without anybody doing anything about it."""

HISTORY = 1000

MINUTE, HOUR = 60.0, 3600.0

UNCERTAIN = "it was under way when its process died, and nobody knows whether it happened"

OUTPUTS = frozenset({"response", "payload"})
"""What an answer carries that becomes the output of its step, and need not be written twice."""

SUSPECTED = 2
"""So many processes died with an execution, and it did not get anywhere in between: perhaps it is what kills them."""
UNREPEATABLE = ("ServiceNotFound", "ServiceError", "SecretNotFound", "TransactionUnsupported")
"""Kinds of step errors that another attempt would meet again."""

CLEANUP = 1.0
"""Seconds a timed-out attempt has to clean up; after them the execution goes on without it."""


REVISITS = 100
"""How often a dry run comes to a step that something outside decides about, before it has gone round in circles."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Undone(Exception):
    """A commit did not land, and cannot be repeated: what it carried must be done again."""


class Engine:
    """Drives executions against one store. `Runtime` makes it; nothing here knows which store it is."""

    def __init__(
        self,
        store: Store,
        services: Services,
        gates: Gates,
        *,
        find_workflow: Callable[[str], WorkflowDef | None],
        load_definition: Callable[[str, str], Awaitable[WorkflowDef]],
        secrets: Mapping[str, Any] | Callable[[str], Any] | None,
        language: Language,
        limits: Limits,
        lease_ttl: float,
        max_recoveries: int,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self.admission = Admission(self)
        self.children = Children(self)
        self.endings = Endings(self)
        self.waits = Waits(self)
        self.store = PatientStore(store, clock, patience=lease_ttl * 0.8)
        self.services = services
        self.gates = gates
        self.find_workflow = find_workflow
        self.load_definition = load_definition
        self.secrets = secrets
        self.language = language
        self.resources: dict[str, Any] = {}
        self.limits = limits
        self.lease_ttl = lease_ttl
        self.max_recoveries = max_recoveries
        self.clock: Clock = StoreTime(clock) if type(clock) is SystemClock else clock
        self.ids = ids
        self.owner = ids.owner()
        self.runs: dict[str, Run] = {}
        self._taking: dict[str, asyncio.Event] = {}
        self._takes = 0
        self.watchers: list[Callable[[], object]] = []
        self.observers: list[Callable[[Event], None]] = []
        self._background: set[asyncio.Task[Any]] = set()
        self._left: set[asyncio.Future[Any]] = set()
        self._heart: asyncio.Task[None] | None = None
        self._deaf: Callable[[], None] = lambda: None
        self._followed: dict[str, set[asyncio.Event]] = {}
        self._unsettled: dict[str, asyncio.Future[Any]] = {}
        self._overtaken: set[str] = set()
        self._renewed = 0.0
        self._occupied = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop
        self.closing = False

    @property
    def opened(self) -> bool:
        return self._heart is not None and not self.closing

    def lacks(self, definition: WorkflowDef) -> list[str]:
        """What a definition needs and this process does not have, as texts."""
        needed = {need for step in every_step(definition) for need in step.type.needs(step.config)}
        return self.missing(needed.union(self.language.needs(definition)))

    def missing(self, needed: Iterable[tuple[str, str]]) -> list[str]:
        """What of this, as (kind, name), this process does not have, as texts."""
        has: dict[str, Callable[[str], object]] = {
            "service": self.services.may_have,
            "gate": self.gates.has,
            "workflow": self.find_workflow,
        }
        return [f"{kind} {name!r}" for kind, name in sorted(needed) if kind in has and not has[kind](name)]

    # -- life ----------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Starts the heart: renewing leases and looking for mail."""
        self.loop = asyncio.get_running_loop()
        self._renewed = self.clock.monotonic()
        self._deaf = self.store.listen(self.heard)
        self._heart = self.loop.create_task(self._beat(), name="durable_flow.heart")

    async def go_by_store(self) -> None:
        """Takes the time of the store for the present, if the clock of this machine is not set like the store's: the
        deadlines that are written here are judged there."""
        clock = self.clock
        if not isinstance(clock, StoreTime):
            return
        before = clock.monotonic()
        present = await self.store.present()
        took = clock.monotonic() - before
        ahead = present - (clock.clock.now() - took / 2)
        if abs(ahead - clock.ahead) <= SKEW + took:
            return
        clock.adjust(ahead if abs(ahead) > SKEW + took else 0.0)
        if clock.ahead:
            how = "behind" if ahead > 0 else "ahead of"
            logger.warning("this machine's clock is %.1f s %s the store's, which counts", abs(ahead), how)

    async def close(self, grace: float) -> None:
        """Lets running executions go on for `grace` seconds, then stops them where they are and gives leases back."""
        self.closing = True
        self._deaf()
        if self.runs and grace > 0:
            waiting = [asyncio.ensure_future(run.over.wait()) for run in list(self.runs.values())]
            timer = self.clock.call_later(grace, lambda: [task.cancel() for task in waiting])
            await asyncio.gather(*waiting, return_exceptions=True)
            timer.cancel()
        while self.runs or self._taking:
            for run in list(self.runs.values()):
                self.stop(run, "shutdown")
            ends = [run.over for run in self.runs.values()]
            await asyncio.gather(*(event.wait() for event in (*ends, *self._taking.values())))
        tasks = list(self._background)
        if self._heart is not None:
            tasks.append(self._heart)
            self._heart = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Runs something beside the executions; what it raises is logged. A closing engine begins nothing."""
        if self.closing:
            work.close()
            return
        self.adopt(asyncio.get_running_loop().create_task(work))

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Keeps a task that nobody waits for any more; what it raises is logged."""
        self._background.add(task)
        task.add_done_callback(self._look_back)

    def _look_back(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, DurableFlowError):
            logger.warning("%s", error)
        elif error is not None:
            logger.error("a background task of the engine failed", exc_info=error)

    @property
    def poll(self) -> float:
        """Seconds between two looks at what other processes did."""
        return min(BACKSTOP, self.lease_ttl / 6) if self.store.wakes else POLL

    def heard(self, execution_id: str) -> None:
        """Somebody else did something to an execution: its owner, and who follows it, look at once."""
        if (run := self.runs.get(execution_id)) is not None and not run.leaving and run.version:
            self.spawn(self.waits.collect(run))
        self._stir(execution_id)
        self.look()

    def _stir(self, execution_id: str) -> None:
        """Who follows an execution looks at it."""
        for changed in self._followed.get(execution_id, ()):
            changed.set()

    def look(self) -> None:
        """Something may be due sooner than the workers know."""
        for look in self.watchers:
            look()

    @contextmanager
    def follow(self, *execution_ids: str) -> Iterator[Callable[..., Awaitable[None]]]:
        """Gives a function that returns when something may have happened to the executions since it was called last,
        or after `at_most` so many seconds; if it is told `until` when nothing but time goes by there, it looks less and
        less often."""
        changed = asyncio.Event()
        for execution_id in execution_ids:
            self._followed.setdefault(execution_id, set()).add(changed)

        async def look_again(until: float | None = None, *, at_most: float | None = None) -> None:
            seconds = self.poll if at_most is None else min(self.poll, at_most)
            if until is not None:
                left = max(0.0, until - self.clock.now())
                if self.store.alone:
                    seconds = left
                else:
                    seconds = min(left, max(seconds, left / 10), HOUR if self.store.wakes else MINUTE)
            timer = self.clock.call_later(seconds, changed.set)
            try:
                await changed.wait()
            finally:
                timer.cancel()
            changed.clear()

        try:
            yield look_again
        finally:
            for execution_id in execution_ids:
                followers = self._followed.get(execution_id, set())
                followers.discard(changed)
                if not followers:
                    self._followed.pop(execution_id, None)

    async def _idle(self) -> None:
        """Returns when there is something to hold a lease of: a process that drives nothing asks the store nothing."""
        self._occupied.clear()
        await self._occupied.wait()
        self._renewed = self.clock.monotonic()

    async def _beat(self) -> None:
        while True:
            if not self.runs:
                await self._idle()
            await self.clock.sleep(self.poll)
            if not self.runs:
                continue
            try:
                if self.clock.monotonic() - self._renewed >= self.lease_ttl / 3:
                    asked = self.clock.monotonic()
                    known = [run for run in self.runs.values() if run.version]
                    held = await self.store.renew(self.owner, ttl=self.lease_ttl)
                    self._renewed = asked
                    for run in known:
                        if held.get(run.id) != run.generation and not run.releasing:
                            self.stop(run, "lease_lost")
                    for execution_id, generation in held.items():
                        if execution_id not in self.runs and execution_id not in self._taking and not self._takes:
                            await self.store.release(execution_id, owner=self.owner, generation=generation)
                    await self.go_by_store()
                for execution_id in await self.store.mail(self.owner):
                    if (found := self.runs.get(execution_id)) is not None:
                        try:
                            await self.waits.collect(found)
                        except CorruptState as error:
                            logger.warning("%s", error)
            except StoreError as error:
                logger.warning("renewing leases failed: %s", error)
            except Exception:
                logger.exception("renewing leases failed")
            if self._silent_since():
                # The store is silent and the leases may run out: whoever takes over must find nobody at work.
                for run in list(self.runs.values()):
                    self.stop(run, "lease_lost")

    def _silent_since(self, leased_at: float = 0.0) -> bool:
        """Whether a lease that was taken then may have run out, because renewing it failed, or because this process
        stood still: what it holds to be its own may be somebody else's by now."""
        return self.clock.monotonic() - max(self._renewed, leased_at) >= self.lease_ttl * 0.9

    # -- committing ----------------------------------------------------------------------------------------------------

    async def flush(self, run: Run, *, release: bool = False) -> bool:
        """Returns when everything emitted so far is durable; with `release`, whether the lease was given back."""
        if release:
            return await self._flush_and_release(run)
        goal = run.seq
        if goal == run.taken_over:
            return False  # the entry that says so waits for company: a commit would look like progress
        while run.durable < goal:
            _still_held(run)
            if run.inflight is None:
                if run.bar is not None:
                    await run.bar.wait()
                    continue
                self._submit(run, release=False)
            await self._landing(run)
        return False

    async def _flush_and_release(self, run: Run) -> bool:
        await self._quiesce(run)
        run.releasing, run.released = True, False
        self._submit(run, release=True)
        await self._quiesce(run)
        run.releasing = run.released
        if run.released:
            self.look()  # it may have to be taken up again soon
        return run.released

    async def _quiesce(self, run: Run) -> None:
        """Returns when no commit is under way."""
        while run.inflight is not None:
            await self._landing(run)
        _still_held(run)

    async def reserve(self, run: Run) -> None:
        """Returns when no commit of this execution is under way, and none will be until the bar is lifted: a step has
        a transaction that keeps everybody else from writing, so it would wait for that one, and that one for it."""
        await self._unbarred(run)
        run.bar = asyncio.Event()

    async def _unbarred(self, run: Run) -> None:
        """Returns when no commit is under way, and none is kept from beginning."""
        await self._quiesce(run)
        while run.bar is not None:
            await run.bar.wait()
            await self._quiesce(run)

    async def save(self, run: Run) -> None:
        """Writes what is in memory and has no entry: the last heartbeats of steps."""
        with suppress(Stopped):
            await self._unbarred(run)
            if run.unsaved and run.version and run.stop_reason is None and not run.leaving:
                self._submit(run, release=False)
                await self._landing(run)

    def _submit(self, run: Run, *, release: bool, through: StepTransaction | None = None) -> None:
        commit = run.batch(nonce=self.ids.nonce(), release=release, wake_at=_wake_at(run))
        run.inflight_commit = commit
        try:
            if through is None:
                run.inflight = self.store.commit(commit)
            else:
                run.inflight = asyncio.get_running_loop().create_task(self._commit_through(through, commit))
        except BaseException:
            # What it carried is in the store or it is not: nothing may be written on top of that.
            self.stop(run, "lease_lost")
            raise

    async def _landing(self, run: Run) -> None:
        """Waits for the commit under way and takes note of its outcome, once, whoever else waits for it."""
        assert run.inflight is not None
        future: asyncio.Future[Any] = run.inflight
        if not future.done():
            if type(future) is Landing:
                try:  # noqa: SIM105 - at every commit; a context manager would take as long as the commit's encoding
                    await future
                except Exception:
                    pass  # it is told below, once
            else:  # unlike a Landing, the task that settles an unknown outcome could be cancelled
                await asyncio.wait([future])
        commit = run.inflight_commit
        if run.inflight is not future or commit is None:
            return
        error = future.exception()
        if error is None:
            run.inflight = None
            run.version, run.durable = commit.version + 1, commit.seq
            run.created.set()
            if commit.version == 0 and run.info.parent_wait is not None:
                self.spawn(self.children.look_up(run))
            if run.recoveries:
                run.recoveries = 0
                self.look()  # a worker may be watching whether it gets anywhere
            records, run.inflight_records = run.inflight_records, []
            if self.observers:
                self._publish(run, records, commit.seq)
            self._stir(run.id)
            run.released = future.result().released
            return
        if isinstance(error, StoreUnavailable):
            run.inflight = asyncio.get_running_loop().create_task(self._settle_unknown(commit))
            self._unsettled[run.id] = run.inflight
            run.inflight.add_done_callback(lambda settled: self._settled(run.id, settled))
            return
        run.inflight = None
        if isinstance(error, LeaseLost | Undone):
            run.undone = isinstance(error, Undone)
            self.stop(run, "lease_lost")
            raise Stopped
        self.stop(run, "lease_lost")
        if isinstance(error, ConflictError) and not isinstance(error, KeyTaken) and commit.version == 0:
            raise AlreadyExists(f"execution {run.id!r} exists already")
        raise error

    async def _commit_through(self, transaction: StepTransaction, commit: Commit) -> Committed:
        """Commits a transition and what a service executed. Where the answer is lost, the row's nonce tells whether it
        landed. If it is not there we cannot repeat it: whoever claims the execution next, which ends all that still may
        be on its way, finds out whether the step is to be attempted again."""
        try:
            return await transaction.commit(commit)
        except StoreUnavailable as error:
            logger.warning("the commit of a transaction of execution %s: %s", commit.execution_id, error)
        try:
            row = await self.store.row(commit.execution_id)
        except StoreUnavailable:
            raise StoreError(
                f"the store did not answer while execution {commit.execution_id!r} was committed; "
                "it goes on from its last committed step with recover()"
            ) from None
        if row is not None and row.nonce == commit.nonce:
            return Committed()
        raise Undone

    def _settled(self, execution_id: str, commit: asyncio.Future[Any]) -> None:
        """It is known what became of a commit. Who waited for it may have had to give up first: then nobody asks."""
        if self._unsettled.get(execution_id) is commit:
            del self._unsettled[execution_id]
        if not commit.cancelled():
            commit.exception()

    async def _settle_unknown(self, commit: Commit) -> Committed:
        """The answer of a commit was lost: finds out whether it landed, and repeats it if not, until the lease is over.

        The row tells by its nonce. A repeated commit is a compare-and-set, so one that was only late cannot land twice.
        """
        delay = 0.05
        end = self.clock.monotonic() + self.lease_ttl * 0.8
        while True:
            try:
                row = await self.store.row(commit.execution_id)
                if row is not None and row.nonce == commit.nonce:
                    return Committed(released=commit.release and row.owner is None)
                if row is None and commit.version:
                    raise LeaseLost(commit.execution_id)
                if row is not None and commit.version == 0:
                    raise ConflictError(f"execution {commit.execution_id!r} exists already")
                if row is not None and (row.generation, row.version) != (commit.generation, commit.version):
                    raise LeaseLost(commit.execution_id, owner=row.owner)
                return await self.store.commit(commit)
            except StoreUnavailable:
                if self.clock.monotonic() + delay > end:
                    raise StoreError(
                        f"the store did not answer while execution {commit.execution_id!r} was committed; "
                        "it goes on from its last committed step with recover()"
                    ) from None
            except (LeaseLost, ConflictError):
                row = await self.store.row(commit.execution_id)
                if row is not None and row.nonce == commit.nonce:
                    return Committed(released=commit.release and row.owner is None)
                raise
            await self.clock.sleep(delay)
            delay = min(delay * 2, 1.0)

    async def uninterrupted(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives, done to its end however often the caller is cancelled; then the cancellation goes on."""
        task = asyncio.get_running_loop().create_task(work)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                # Shielded, because a cancelled scope would interrupt again and again.
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
        except asyncio.CancelledError as error:
            cancelled = error
        if cancelled is not None:
            if not task.cancelled() and (failure := task.exception()) is not None:
                logger.warning("after a cancellation: %s", failure)
            raise cancelled
        return task.result()

    # -- events --------------------------------------------------------------------------------------------------------

    def _publish(self, run: Run, records: list[Record], last: int) -> None:
        first = last - len(records) + 1
        subject = Subject(
            execution_id=run.id,
            workflow_id=run.definition.id,
            masks=run.masks,
            input=run.input,
            result=run.root.values.get("result"),
            dry_run=run.info.dry_run,
        )
        for number, record in enumerate(records, first):
            if (event := event_of(record, number, subject, asked=run.asked)) is not None:
                self.emit(event)

    def emit(self, event: Event) -> None:
        """Tells the observers; what they raise changes nothing."""
        for observer in list(self.observers):
            try:
                observer(event)
            except (Exception, asyncio.CancelledError):
                logger.exception("a subscriber raised on %s", event.type)

    def announce(self, run: Run, visit: StepVisit) -> None:
        """Tells the observers that a step starts; this one is not durable."""
        self.tell_of(run, visit, "step.started")

    def tell_of(self, run: Run, visit: StepVisit, event: str, **more: Any) -> None:
        """Tells the observers of something a step does that has no entry."""
        if self.observers:
            data = {
                "workflow_id": run.definition.id,
                "execution_id": run.id,
                "step_id": visit.step.id,
                "step_type": visit.step.type.name,
                "path": visit.path,
                "attempt": visit.attempt,
                **more,
            }
            self.emit(Event(type=event, data=data, timestamp=moment(self.clock.now())))

    # -- driving frames ------------------------------------------------------------------------------------------------

    async def body(self, run: Run, live: LiveFrame, key: int | str) -> ChildEnd:
        """Drives a frame from where it is to its end."""
        steps = live.body.by_id
        while True:
            record = live.record
            at = record.at
            step = steps.get(at) if at is not None else None
            if step is None:
                break
            if run.stop_reason is not None:
                raise Stopped
            if run.sweep is not None and not self._to_sweep(run, live, step):
                await self.waits.stand_still(run)
            if run.draining or (run.paused is not None and run.sweep is None and begins(run, live, step)):
                await self.waits.stand_still(run)
            if run.sweep is None and run.status is Status.HALTED and begins(run, live, step):
                self.waits.goes_on(run)
            state = record.state
            if state is FrameState.FAILED or state is FrameState.CANCELLED:
                error = record.error or ErrorInfo(
                    type="Cancelled", message="cancelled", step=at, path=live.step_path(step.id)
                )
                return ChildEnd(key=key, state=state, error=error)
            if run.seq - run.free >= self.limits.transitions:
                bound = machine.too_many(self.limits, step, record)
                self.fail(run, live, step, StepVisit(self, run, live, step), bound, handled=False)
                continue
            if run.info.dry_run and (circling := self._circling(run, live, step)) is not None:
                self.fail(run, live, step, StepVisit(self, run, live, step), circling, handled=False)
                continue
            if step.needs_history:
                await self._load_history(run)
            kind = step.type
            if run.info.dry_run and self._stands_in(run, live, step):
                self._rehearse(run, live, step)
                if run.buffered >= BUFFER:
                    await self._breathe(run)
            elif state is FrameState.WAITING and kind.instant:
                await self._answered(run, live, step)
            elif kind.instant:
                self._instant(run, live, step)
                if run.buffered >= BUFFER:
                    await self._breathe(run)
            elif kind.works_outside:
                await self._work(run, live, step)
            else:
                await self._compose(run, live, step)
        state = FrameState.COMPLETED
        return ChildEnd(
            key=key,
            state=state,
            exit=live.record.at,
            output=live.output,
            breaks=live.values.get("break_loop") is True and "break_loop" in live.seqs,
        )

    async def _breathe(self, run: Run) -> None:
        """After many steps that waited for nothing: what is in the buffer is committed, and others have a turn."""
        await self.flush(run)
        await self.clock.sleep(0)

    def _to_sweep(self, run: Run, live: LiveFrame, step: StepDef) -> bool:
        """Whether a frame is driven on to find what below it was under way in a process that died; a step with no
        frames below it that may have been is noted."""
        record = live.record
        if not (step.type.instant or step.type.works_outside or step.type.performs):
            return True  # it tells itself if it had not begun
        begun = record.path in run.inherited or record.path not in run.frames  # its first step writes it
        if begun and step.compensate is not None and may_have_happened(record):
            visit = StepVisit(self, run, live, step)
            self._cut_off(run, live, step, visit, reason="crashed", in_flight=True, ms=None)
        return False

    def _instant(self, run: Run, live: LiveFrame, step: StepDef) -> None:
        visit = StepVisit(self, run, live, step)
        try:
            outcome = step.type.evaluate(visit, step.config)
            if type(outcome) is Done:
                outcome = self._normal(outcome)
            elif type(outcome) is Suspend and (shown := getattr(outcome.wait, "data", None)) is not None:
                shown = normalise(shown, limits=self.limits, what="what is shown")
                outcome = replace(outcome, wait=replace(outcome.wait, data=shown))
        except Exception as error:
            self.fail(run, live, step, visit, self.describe(run, step, visit, error))
            return
        self._conclude(run, live, step, visit, outcome)

    def _stands_in(self, run: Run, live: LiveFrame, step: StepDef) -> bool:
        """Whether a step of a dry run is rehearsed. What gets nothing from outside runs as ever, and what only drives
        others as long as nothing stands in for these."""
        kind = step.type
        if not kind.takes_fixture:
            return False
        return (
            kind.instant
            or kind.works_outside
            or kind.performs
            or run.fixture(live.step_path(step.id), step.id) is not None
        )

    def _circling(self, run: Run, live: LiveFrame, step: StepDef) -> ErrorInfo | None:
        """The error of a dry run that comes to a step again and again: what it asks is always answered the same."""
        place = f"{live.base}{step.id}"
        if not step.type.takes_fixture or live.record.state is not FrameState.RUNNING:
            return None
        run.visits[place] += 1
        if run.visits[place] <= REVISITS:
            return None
        return ErrorInfo(
            type="DryRunCircles",
            message=f"the dry run came here {REVISITS} times and goes round in circles: give a fixture for one visit "
            f"of the step whose answer leads out, such as {place}#3",
            step=step.id,
            path=live.step_path(step.id),
        )

    def _rehearse(self, run: Run, live: LiveFrame, step: StepDef) -> None:
        """A step of a dry run has its outcome without anything outside."""
        visit = StepVisit(self, run, live, step)
        try:
            outcome = self._normal(visit.rehearse())
            if isinstance(outcome, Suspend):
                raise StepError("waits in a dry run: its type does not say what it assumes", kind="ConfigError")
        except Exception as error:
            self.fail(run, live, step, visit, self.describe(run, step, visit, error), metadata=visit.played)
            return
        told = {**(visit.played or {}), **(getattr(outcome, "metadata", None) or {})}
        if isinstance(outcome, Done):
            outcome = replace(outcome, metadata=told)
        self._conclude(run, live, step, visit, outcome, metadata=told, action=step.type.completes_as)

    def _normal(self, done: Outcome | Again) -> Outcome:
        """The outcome with values as they will be after a restart. (What services return was made so already.)"""
        if isinstance(done, Again):
            raise StepError("an instant step cannot be run again", kind="ConfigError")
        if not isinstance(done, Done):
            return done
        output = done.output
        if output is not KEEP and not done.normal:
            output = normalise(output, limits=self.limits)
        changes, metadata = done.changes, done.metadata
        if changes:
            changes = {name: normalise(value, limits=self.limits) for name, value in changes.items()}
        if metadata:
            metadata = normalise(metadata, limits=self.limits, what="metadata")
        return replace(done, output=output, changes=changes, metadata=metadata)

    def _shown_of(self, visit: StepVisit, done: Outcome) -> Outcome:
        """The outcome of what was done outside, as it may be stored: without the secrets that were used for it."""
        if type(done) is not Done:
            return done
        if not done.normal or done.changes or done.metadata:
            done = self._normal(done)
        if visit.scrub and type(done) is Done:
            output, changes, metadata = redact([done.output, done.changes, done.metadata], visit.scrub)
            done = replace(done, output=KEEP if done.output is KEEP else output, changes=changes, metadata=metadata)
        return done

    async def _work(self, run: Run, live: LiveFrame, step: StepDef) -> None:
        """Attempts of a step that does something outside, until it completes or fails for good."""
        policy = step.retry
        while True:
            if live.record.state is FrameState.WAITING and not await self._decided(run, live, step):
                return
            if run.durable < run.seq:
                await self.flush(run)
            if run.draining or run.paused is not None:
                await self.waits.stand_still(run)
            record = live.record
            if record.due is not None:
                left = record.due - self.clock.now()
                if left > 0:
                    await self.clock.sleep(left)
                    if run.draining or run.paused is not None:
                        await self.waits.stand_still(run)
            if self._silent_since(run.leased_at):
                self.stop(run, "lease_lost")
                raise Stopped
            if step.at_most_once and not await self._mark(run, live, step):
                continue
            visit = StepVisit(self, run, live, step)
            self.announce(run, visit)
            began = self.clock.now()
            start = self.clock.monotonic()
            try:
                outcome = await self._attempt(run, step, visit, began)
            except asyncio.CancelledError as error:
                if not self._cut(run, live, step, visit, start, in_flight=True):
                    failure = self.describe(run, step, visit, error)
                else:
                    raise
                cause: BaseException = error
            except Exception as error:
                failure = self.describe(run, step, visit, error)
                cause = error
            else:
                if run.stop_reason == "lease_lost":
                    raise Stopped
                if run.status is Status.HALTED and type(outcome) is not Suspend:
                    self.waits.goes_on(run)
                ms = (self.clock.monotonic() - start) * 1000
                done = self._conclude(run, live, step, visit, outcome, ms=ms, action=step.type.completes_as)
                if visit.own is not None and visit.own.begun:
                    if done:
                        self._submit(run, release=False, through=visit.own.hand_over())
                    else:
                        await self.uninterrupted(visit.own.end())
                return
            ms = (self.clock.monotonic() - start) * 1000
            self.waits.goes_on(run)
            delay: float | None
            if policy is None or _unrepeatable(cause):
                delay = None
            else:
                now = self.clock.now()
                first = live.record.first_try if live.record.first_try is not None else began
                delay = machine.retry_delay(
                    policy,
                    failure,
                    failures=live.record.tries + 1,
                    elapsed=now - first,
                    jitter=self.ids.jitter() if policy.jitter else 0.0,
                    not_before=cause.seconds if isinstance(cause, RetryAfter) else None,
                )
            if delay is None and policy is not None and policy.halts and not failure.fatal:
                wait = ErrorWait(
                    **self._wait(run, visit),
                    error=failure,
                    data={"type": "error", "error": msgspec.to_builtins(failure)},
                )
                run.emit(
                    machine.blocked(
                        live.record, step, wait, path=visit.path, now=self.clock.now(), ms=ms, shown=visit.shown
                    )
                )
                continue
            if delay is None:
                self.fail(run, live, step, visit, failure, ms=ms)
                return
            now = self.clock.now()
            run.emit(
                machine.retried(
                    live.record,
                    step,
                    failure,
                    path=visit.path,
                    now=now,
                    began=began,
                    delay=delay,
                    ms=ms,
                    shown=visit.shown,
                    wait=None
                    if delay <= LINGER
                    else RetryWait(
                        **self._wait(run, visit),
                        deadline=moment(now + delay),
                        attempt=live.record.tries + 2,
                        error=failure,
                        data={"type": "retry", "error": failure.text, "attempt": live.record.tries + 2},
                    ),
                )
            )

    async def _attempt(self, run: Run, step: StepDef, visit: StepVisit, began: float) -> Outcome:
        """What one attempt gives. A transaction that the service shares with it is rolled back if it fails, whatever
        makes it fail; if not, it can be committed when this returns: no other commit is under way."""
        try:
            if step.timeout is None and visit.heartbeat_timeout is None:
                outcome = await step.type.run(visit, step.config)
            else:
                outcome = await self._timed(step, visit, began)
            outcome = self._shown_of(visit, outcome)
            if (own := visit.own) is not None:
                await own.ready()
                if not own.begun or isinstance(outcome, Failed):
                    await own.end()
                elif not isinstance(outcome, Done):
                    raise StepError("a step cannot wait with a transaction of its service", kind="TransactionError")
                else:
                    await self._quiesce(run)
        except BaseException:
            if visit.own is not None:
                await self.uninterrupted(visit.own.end())
            raise
        finally:
            visit.end()
        return outcome

    def _wait(self, run: Run, visit: StepVisit) -> dict[str, Any]:
        """What a wait of a working step says of it. It may come to wait again in the same visit, and an answer belongs
        to one wait: hence the number of the entry in the id."""
        return {
            "wait_id": f"{visit.wait_id}~{run.seq + 1}",
            "path": visit.path,
            "step_id": visit.step_id,
            "since": moment(self.clock.now()),
        }

    async def _mark(self, run: Run, live: LiveFrame, step: StepDef) -> bool:
        """Notes durably that an attempt begins. False where one had begun before, in a process that is gone: then the
        step is blocked until a person says what became of it."""
        record = live.record
        visit = StepVisit(self, run, live, step)
        if record.memo is not None:
            wait = UncertainWait(**self._wait(run, visit), data={"type": "uncertain", "attempt": record.tries + 1})
            run.emit(machine.blocked(record, step, wait, path=visit.path, now=self.clock.now()))
            return False
        visit.remember({"attempt": record.tries + 1})
        await self.flush(run)
        return True

    async def _decided(self, run: Run, live: LiveFrame, step: StepDef) -> bool:
        """A working step that waits takes its next message. True if it makes an attempt now, False if it is over."""
        wait = live.record.wait
        number, message = await self._word(run, live, step)
        visit = StepVisit(self, run, live, step)
        told = {name: value for name, value in message.body.items() if name not in OUTPUTS}
        sent = sent_at(message)
        answered: dict[str, Any] = {"actor": message.actor, "consumed": (number,), "metadata": {"answer": told, **sent}}
        anew = False
        try:
            match wait, message.body.get("decision"):
                case RetryWait(), _:
                    pass
                case ErrorWait() | UncertainWait(), "retry":
                    anew = True
                case ErrorWait() | UncertainWait(), "skip":
                    outcome = self._normal(step.type.replaced(step.config, message.body.get("response")))
                    self._conclude(run, live, step, visit, outcome, action=Action.ANSWERED, **answered)
                    return False
                case ErrorWait() | UncertainWait(), _:
                    reason = message.body.get("reason")
                    if isinstance(wait, ErrorWait):
                        error = wait.error
                    else:
                        error = self.describe(run, step, visit, StepError(UNCERTAIN, kind="Uncertain"))
                    if reason:
                        error = replace(error, message=f"{error.message} ({reason})")
                    self.fail(run, live, step, visit, error, **answered)
                    return False
                case _:
                    given = step.type.answered(visit, step.config, wait, message)
                    if isinstance(given, Again):
                        return True  # it still waits, unless it learns something
                    self._conclude(run, live, step, visit, self._normal(given), action=Action.ANSWERED, **answered)
                    return False
        except Exception as error:
            self.fail(run, live, step, visit, self.describe(run, step, visit, error), **answered)
            return False
        run.emit(
            machine.resumed(
                live.record,
                step,
                path=visit.path,
                now=self.clock.now(),
                actor=message.actor,
                consumed=(number,),
                anew=anew,
                metadata=sent,
            )
        )
        return True

    async def _timed(self, step: StepDef, visit: StepVisit, began: float) -> Outcome:
        """One attempt under the step's timeouts. What a timed-out attempt still returns is ignored, and one that does
        not even notice is left behind."""
        visit.alive = start = self.clock.monotonic()
        visit.deadline = None if step.timeout is None else began + step.timeout
        attempt = asyncio.ensure_future(step.type.run(visit, step.config))
        try:
            while not attempt.done():
                left, error = self._time_left(step, visit, start)
                if not await self._ends_within(attempt, left) and self._time_left(step, visit, start)[0] <= 0:
                    attempt.cancel()
                    await self._ends_within(attempt, CLEANUP)
                    self._leave(attempt)
                    raise error
        except asyncio.CancelledError:
            attempt.cancel()
            self._leave(attempt)
            with anyio.CancelScope(shield=True):
                await asyncio.wait([attempt])
            raise
        return attempt.result()

    def _time_left(self, step: StepDef, visit: StepVisit, start: float) -> tuple[float, StepError]:
        """How many seconds an attempt has, and what it fails with then."""
        now, beat = self.clock.monotonic(), visit.heartbeat_timeout
        left = math.inf if step.timeout is None else start + step.timeout - now
        if beat is not None and visit.alive + beat - now < left:
            return visit.alive + beat - now, StepError(f"no heartbeat for {beat:g} s", kind="HeartbeatTimeout")
        return left, StepError(f"timed out after {step.timeout or 0:g} s", kind="TimeoutError")

    async def _ends_within(self, attempt: asyncio.Future[Any], seconds: float) -> bool:
        over = asyncio.get_running_loop().create_future()

        def wake(_: object = None) -> None:
            if not over.done():
                over.set_result(None)

        attempt.add_done_callback(wake)
        timer = self.clock.call_later(seconds, wake)
        try:
            await over
        finally:
            timer.cancel()
            attempt.remove_done_callback(wake)
        return attempt.done()

    def _leave(self, attempt: asyncio.Future[Any]) -> None:
        """Nobody wants to know how the attempt ends."""
        self._left.add(attempt)

        def forget(_: asyncio.Future[Any]) -> None:
            self._left.discard(attempt)
            if not attempt.cancelled():
                attempt.exception()

        attempt.add_done_callback(forget)

    async def _compose(self, run: Run, live: LiveFrame, step: StepDef) -> None:
        visit = StepVisit(self, run, live, step)
        if live.record.memo is None:
            self.announce(run, visit)
        start = self.clock.monotonic()
        try:
            if step.type.performs:
                outcome = await Pieces(self, run, visit).drive()
            else:
                outcome = await step.type.run(visit, step.config)
            outcome = self._shown_of(visit, outcome)
        except asyncio.CancelledError as error:
            if self._cut(run, live, step, visit, start, in_flight=False):
                raise
            self.fail(run, live, step, visit, self.describe(run, step, visit, error))
            return
        except (Stopped, LeaseLost, StoreError):
            raise
        except Fatal as fatal:
            self.fail(run, live, step, visit, fatal.error)
            return
        except PieceFailed as failure:
            self.fail(run, live, step, visit, failure.error)
            return
        except NotBegun:
            await self.waits.stand_still(run)
            return
        except Exception as error:
            self.fail(run, live, step, visit, self.describe(run, step, visit, error))
            return
        ms = (self.clock.monotonic() - start) * 1000
        self._conclude(run, live, step, visit, outcome, ms=ms, metadata=visit.played)

    def _cut(
        self, run: Run, live: LiveFrame, step: StepDef, visit: StepVisit, start: float, *, in_flight: bool
    ) -> bool:
        """A step got a CancelledError. True if we are being cancelled (and it leaves an entry if the execution or
        its branch is); False if the step raised it by itself."""
        branch = live.cut()
        if branch is None and run.stop_reason is None:
            task = asyncio.current_task()
            return task is None or task.cancelling() > 0
        if branch is not None or run.stop_reason in ("cancelled", "timeout"):
            reason = branch or (
                run.stop_reason if run.stop_reason == "timeout" else run.stop_detail or "user_requested"
            )
            if live.record.state in (FrameState.RUNNING, FrameState.WAITING):
                ms = (self.clock.monotonic() - start) * 1000
                in_flight = in_flight or isinstance(live.record.wait, UncertainWait)
                self._cut_off(run, live, step, visit, reason=reason, in_flight=in_flight, ms=ms)
        return True

    def _cut_off(
        self,
        run: Run,
        live: LiveFrame,
        step: StepDef,
        visit: StepVisit,
        *,
        reason: str,
        in_flight: bool,
        ms: float | None,
    ) -> None:
        """A step ends without an end of its own. If it was in flight it is undone as if it had completed."""
        undo = None
        if in_flight and step.compensate is not None and run.info.closing is None:
            try:
                undo = visit.undo(step.compensate, {})
            except Exception as error:
                told = self.describe(run, step, visit, error).text
                logger.error("execution %s: step %s cannot be undone: %s", run.id, visit.path, told)
        cut = machine.cut(
            live.record, step, path=visit.path, now=self.clock.now(), reason=reason, in_flight=in_flight, ms=ms
        )
        run.emit_undoing(cut, undo)

    def _conclude(
        self,
        run: Run,
        live: LiveFrame,
        step: StepDef,
        visit: StepVisit,
        outcome: Outcome,
        *,
        ms: float | None = None,
        action: Action = Action.COMPLETED,
        actor: str | None = None,
        consumed: tuple[int, ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Turns an outcome into a transition and applies it. False where the step failed: that may turn out here."""
        if type(outcome) is Done:
            undo = None
            if step.compensate is not None and run.info.closing is None:
                set_now = {**dict.fromkeys(outcome.same, outcome.output), **(outcome.changes or {})}
                try:
                    undo = visit.undo(step.compensate, set_now)
                except Exception as raised:
                    failure = self.describe(run, step, visit, raised)
                    self.fail(run, live, step, visit, failure, ms=ms, actor=actor, consumed=consumed, metadata=metadata)
                    return False
            seq = run.seq + 1
            merged: list[tuple[str, int]] = []
            for key in outcome.merge:
                merged += visit.take_over(run.body_of(visit.frame_path(key)))
            output, changes = outcome.output, outcome.changes
            for name in outcome.same:
                live.values[name] = output
                live.seqs[name] = seq
            if changes:
                live.values.update(changes)
                live.seqs.update(dict.fromkeys(changes, seq))
            if output is not KEEP:
                live.output = output
            transition = machine.completed(
                live.record,
                step,
                live.body,
                seq=seq,
                path=visit.path,
                now=self.clock.now(),
                target=outcome.next if outcome.next is not None else step.follow,
                output=output,
                same=outcome.same,
                changes=changes,
                merged=merged,
                metadata=({**metadata, **(outcome.metadata or {})} if metadata else outcome.metadata) or None,
                ms=ms,
                shown=visit.shown,
                actor=actor,
                action=action,
            )
            if consumed:
                transition = replace(transition, consumed=consumed)
            if run.has_bodies(visit.path):
                transition = replace(
                    transition, dropped=(visit.path,), messages=self.children.farewell(run, (visit.path,), "not_needed")
                )
            if undo is None:
                run.emit(transition)
            else:
                run.emit_undoing(transition, undo)
        elif type(outcome) is Suspend:
            wait = outcome.wait
            if live.record.wait is not None and live.record.wait.wait_id == wait.wait_id:
                if outcome.quietly:
                    run.wait_on(live.record, wait)
                    return True
                run.emit(
                    machine.voted(
                        live.record,
                        step,
                        wait,
                        path=visit.path,
                        now=self.clock.now(),
                        actor=actor,
                        metadata=metadata,
                        consumed=consumed,
                    )
                )
            else:
                run.emit(
                    machine.waiting(
                        live.record, step, wait, path=visit.path, now=self.clock.now(), data=getattr(wait, "data", None)
                    ),
                    needed=outcome.needed,
                )
        elif type(outcome) is Failed:
            self.fail(
                run,
                live,
                step,
                visit,
                outcome.error,
                ms=ms,
                actor=actor,
                consumed=consumed,
                metadata=metadata,
                changes=outcome.changes,
            )
            return False
        else:
            error = ErrorInfo(
                type="ConfigError",
                message=f"step type {step.type.name!r} returned {type(outcome).__name__}, not an outcome",
                step=step.id,
                path=visit.path,
            )
            self.fail(run, live, step, visit, error, ms=ms)
            return False
        return True

    def fail(
        self,
        run: Run,
        live: LiveFrame,
        step: StepDef,
        visit: StepVisit,
        error: ErrorInfo,
        *,
        ms: float | None = None,
        actor: str | None = None,
        consumed: tuple[int, ...] = (),
        metadata: dict[str, Any] | None = None,
        changes: dict[str, Any] | None = None,
        handled: bool = True,
    ) -> None:
        """A step failed for good: its frame goes to a handler (with these changes of variables), or has failed. What is
        fatal, or not to be `handled`, has no handler; only the rest of `finally` goes on after a fatal error."""
        handler = step.on_error
        if handler is None and live is run.root and not run.info.handled and not error.fatal:
            handler = run.definition.on_error
            if handler is not None:
                run.change_info(handled=True)
        if not handled or (error.fatal and live.record.path != machine.FINALLY):
            handler = None
        seq = run.seq + 1
        dropped: tuple[str, ...] = ()
        if handler is not None:
            if run.has_bodies(visit.path):
                dropped = (visit.path,)
            changes = {**(changes or {}), machine.LAST_ERROR: machine.last_error(error)}
            live.values.update(changes)
            live.seqs.update(dict.fromkeys(changes, seq))
        run.emit(
            machine.failed(
                live.record,
                step,
                live.body,
                error,
                seq=seq,
                path=visit.path,
                now=self.clock.now(),
                handler=handler,
                changes=changes if handler is not None else None,
                ms=ms,
                shown=visit.shown,
                actor=actor,
                metadata=metadata,
                dropped=dropped,
                consumed=consumed,
                messages=self.children.farewell(run, dropped, "parent_failed") if dropped else (),
            )
        )

    def describe(self, run: Run, step: StepDef, visit: StepVisit, error: BaseException) -> ErrorInfo:
        kind, message = step_error(error)
        if run.info.dry_run and visit.fixture is None:
            message += unanswered(run.definition, step, visit, visit.has_fixture)
        if run.masks or visit.scrub:
            message = redact(message, (*run.masks, *visit.scrub))
        if len(message) > 4096:
            message = message[:4096] + "…"
        message = message.encode("utf-8", "replace").decode()
        return ErrorInfo(
            type=kind,
            message=message,
            step=step.id,
            path=visit.path,
            attempts=visit.attempt,
            fatal=isinstance(error, LimitExceeded),
        )

    async def _load_history(self, run: Run) -> None:
        await self.flush(run)
        found = await self.store.read(run.id, after=max(0, run.seq - HISTORY), limit=HISTORY)
        run.history = [
            {
                "step_id": record.step,
                "path": record.path,
                "action": str(record.action),
                "timestamp": moment(record.time).isoformat().replace("+00:00", "Z"),
            }
            for _, blob in found
            for record in (decode_record(blob, execution_id=run.id),)
        ]

    # -- waiting -------------------------------------------------------------------------------------------------------

    async def _answered(self, run: Run, live: LiveFrame, step: StepDef) -> None:
        """A waiting frame takes its next message, when there is one."""
        wait = live.record.wait
        number, message = await self._word(run, live, step)
        visit = StepVisit(self, run, live, step)
        told = dict(message.body) or None
        if message.kind == "timeout":
            told = {"timeout": True}
        sent = sent_at(message)
        try:
            outcome = self._normal(step.type.answered(visit, step.config, wait, message))
        except Exception as error:
            self.fail(
                run,
                live,
                step,
                visit,
                self.describe(run, step, visit, error),
                actor=message.actor,
                consumed=(number,),
                metadata={"answer": told, **sent},
            )
            return
        self._conclude(
            run,
            live,
            step,
            visit,
            outcome,
            action=Action.ANSWERED,
            actor=message.actor,
            consumed=(number,),
            metadata={"answer": {name: value for name, value in (told or {}).items() if name not in OUTPUTS}, **sent}
            if type(outcome) is Done
            else {"answer": told, **sent},
        )

    async def _word(self, run: Run, live: LiveFrame, step: StepDef) -> tuple[int, Message]:
        """The next message to the wait of a frame, when there is one."""
        wait = live.record.wait
        assert wait is not None
        queue = run.mailbox.get(wait.wait_id)
        if not queue:
            start = self.clock.monotonic()
            try:
                await self.waits.park(run, live)
            except asyncio.CancelledError:
                self._cut(run, live, step, StepVisit(self, run, live, step), start, in_flight=False)
                raise
            queue = run.mailbox[wait.wait_id]
        if not wait.polls:
            self.waits.goes_on(run)
        first = queue.pop(0)
        if not queue:
            del run.mailbox[wait.wait_id]
        return first

    # -- whole executions ----------------------------------------------------------------------------------------------

    def create(
        self,
        definition: WorkflowDef,
        given: dict[str, Any],
        *,
        execution_id: str,
        trigger: str,
        labels: Mapping[str, str],
        parent: Run | None = None,
        parent_wait: str | None = None,
        queue: str | None = None,
        priority: int = 5,
        fingerprint: str = "",
        traceparent: str | None = None,
        dry_run: bool = False,
        fixtures: Mapping[str, Any] = NOTHING,
        begins: bool = True,
    ) -> Run:
        """A new execution in memory; its first commit creates it, with the lease. Unless it `begins`, its first entry
        is still to be written. A child of a dry run is one, too."""
        now = self.clock.now()
        run = Run(execution_id, definition, owner=self.owner, generation=1)
        run.input = given
        run.created_at = run.updated_at = now
        run.lease_ttl = self.lease_ttl
        run.leased_at = self.clock.monotonic()
        if parent is not None:
            run.parent_id, run.root_id, queue = parent.id, parent.root_id, parent.queue
        run.queue = queue
        if parent is not None:
            dry_run = parent.info.dry_run
        key = None if dry_run else concurrency_key(definition, given, hidden=self.store.sealed)
        if key is not None and definition.concurrency is not None:
            run.line = line_of(definition.id, key)
            run.slot = Slot(key=run.line, limit=definition.concurrency.limit)
        run.new = New(
            workflow_id=definition.id,
            workflow_version=definition.version,
            definition_hash=definition.hash,
            definition=definition.text,
            input=encode(given),
            created_at=now,
            parent_id=run.parent_id,
            root_id=run.root_id,
            labels=dict(labels),
            trigger=trigger,
            queue=queue,
            priority=priority,
            concurrency_key=key,
        )
        run.info = Info(
            started_at=now,
            depth=0 if parent is None else parent.info.depth + 1,
            secrets=definition.secrets,
            parent_wait=parent_wait,
            given=fingerprint,
            traceparent=check_traceparent(traceparent) if parent is None else parent.info.traceparent,
            dry_run=dry_run,
            fixtures=dict(fixtures),
        )
        run.change_info(deadline=run.deadline(now))
        run.masks = secret_texts(given, definition.secrets)
        if begins:
            run.emit(_started(run, now, trigger))
        if parent is not None and parent.paused is not None and parent_wait is not None:
            self.waits.pause(run, parent.paused.by, {"reason": parent.paused.data.get("reason"), "above": parent.id})
        return run

    @contextmanager
    def _settling(self, execution_id: str) -> Iterator[None]:
        """Meanwhile it is being found out whose an execution is: nobody else here takes it, and the heart does not give
        a lease of it back that nobody seems to want."""
        settled = self._taking[execution_id] = asyncio.Event()
        try:
            yield
        finally:
            del self._taking[execution_id]
            self._overtaken.discard(execution_id)
            settled.set()

    async def _give_back(self, run: Run) -> None:
        """Gives the lease back as it is; a worker of this process may be the one who goes on."""
        try:
            await self.store.release(run.id, owner=self.owner, generation=run.generation)
        finally:
            self.look()

    async def enqueue(self, run: Run, *, at: float | None = None) -> None:
        """Creates an execution that has not begun (see `create`) as one that nobody owns: pending, and due then, or at
        once. Its time counts from when somebody takes it up. Raises AlreadyExists, KeyTaken, and
        LeaseLost where its mark does not apply."""
        run.status = Status.PENDING
        run.begins_at = at
        run.lease_ttl = None
        run.change_info(started_at=None, deadline=None)
        try:
            await self.flush(run, release=True)
        except Stopped:  # of several that share a commit, only one is told why it failed
            if run.mark is not None:
                raise LeaseLost(run.id) from None
            raise AlreadyExists(f"execution {run.id!r} exists already") from None

    async def establish(self, run: Run) -> Run:
        """Creates an execution in the store, and gives what is to be driven: the same as it was read back. Raises
        AlreadyExists."""
        while (settled := self._taking.get(run.id)) is not None:
            await settled.wait()
        with self._settling(run.id):
            try:
                await self.uninterrupted(self.flush(run))
                stored = await self.store.fetch(run.id)
                if stored is None or stored.row.generation != run.generation:
                    raise LeaseLost(run.id)
                loaded = Run.load(stored, run.definition, owner=self.owner)
                loaded.leased_at = run.leased_at
                return loaded
            except BaseException:
                if run.version:
                    await self.uninterrupted(self._give_back(run))
                raise

    async def claim(
        self,
        execution_id: str,
        statuses: tuple[Status, ...] = (Status.PENDING, Status.RUNNING, Status.HALTED),
        *,
        prepare: Callable[[Run], Awaitable[None]] | None = None,
    ) -> Run | None:
        """Takes an execution that nobody drives; None if somebody does, or it has another status. `prepare` is called
        while nobody else here can take it."""
        if execution_id in self.runs or execution_id in self._taking:
            return None
        stored: Stored | None = None
        asked = self.clock.monotonic()

        async def take() -> None:
            nonlocal stored
            stored = await self._lease(execution_id, statuses)

        with self._settling(execution_id):
            try:
                await self.uninterrupted(take())
                if stored is None:
                    return None
                await self._displace(execution_id)
                return await self._adopt(stored, asked, prepare)
            except BaseException:
                if stored is not None:
                    await self.uninterrupted(
                        self.store.release(execution_id, owner=self.owner, generation=stored.row.generation)
                    )
                raise

    async def _displace(self, execution_id: str) -> None:
        """A new lease was taken of an execution that is driven here under an older one: that drive ends first."""
        if (before := self.runs.get(execution_id)) is not None:
            if before.stop_reason not in ("halted", "finished"):
                self.stop(before, "lease_lost")
            await before.over.wait()

    async def _lease(self, execution_id: str, statuses: tuple[Status, ...]) -> Stored | None:
        """An execution whose lease is ours now; None if it is somebody else's, or the status is another one."""
        stored = await self.store.claim(execution_id, owner=self.owner, ttl=self.lease_ttl, statuses=statuses)
        if not isinstance(stored, Busy):
            return stored
        if stored.owner != self.owner or stored.status not in statuses:
            return None
        # Ours already, and nobody here knows: the answer of an earlier claim or release was lost, or we gave it up by
        # our own clock. What was being written then may still land.
        if (unsettled := self._unsettled.get(execution_id)) is not None:
            await asyncio.wait([unsettled])
        found = await self.store.fetch(execution_id)
        if found is None or found.row.owner != self.owner or self._takes or execution_id in self.runs:
            return None
        # A worker of ours may have taken it and driven it to its end since it was read.
        return None if execution_id in self._overtaken else found

    async def _adopt(
        self, stored: Stored, asked: float, prepare: Callable[[Run], Awaitable[None]] | None = None
    ) -> Run:
        """The run of an execution whose lease was taken, after it was asked for."""
        definition = await self.load_definition(stored.row.definition_hash, stored.row.id)
        run = Run.load(stored, definition, owner=self.owner)
        run.leased_at = asked
        if not run.status.over:
            await self.children.look_up(run)
        run.recoveries = stored.row.recoveries + run.waited_out
        if prepare is not None:
            await prepare(run)
        await self.admission.look(run)
        metadata = {"recoveries": run.recoveries} if run.recoveries else {}
        now = self.clock.now()
        if stored.row.status == Status.PENDING:
            run.change_info(started_at=now, deadline=run.deadline(now))
            run.emit(_started(run, now, stored.row.trigger, metadata))
        elif stored.row.status == Status.RUNNING:
            run.emit(machine.noted(Action.RECOVERED, now=now, status=Status.RUNNING, metadata=metadata or None))
            run.taken_over = run.seq
        return run

    async def take(
        self,
        limit: int,
        *,
        queues: Collection[str | None] | None,
        avoid: Callable[[WorkflowDef], bool],
        without: set[str],
        room: Mapping[str, int],
    ) -> tuple[list[Run], int]:
        """Takes up to `limit` executions that are due and begins to drive them; tells how many there were, too. Of the
        queues in `room` no more than it says begin.

        What this process cannot drive is given back: an execution whose definition it cannot read or wants to `avoid`
        (its hash is put among those that it goes `without` from then on), and one that cannot be decoded, which is
        left alone until the next beat of the heart. Of those that may be what kills their processes it begins one, the
        most suspected: should this process die now, that is not held against the others, which are given back.
        """
        found: list[Run] = []
        asked = self.clock.monotonic()
        self._takes += 1
        try:
            taken = await self.store.take(
                self.owner, ttl=self.lease_ttl, limit=limit, queues=queues, without=tuple(without), room=room
            )
            for stored in await self._apart(taken):
                row = stored.row
                await self._displace(row.id)
                try:
                    definition = await self.load_definition(row.definition_hash, row.id)
                    if avoid(definition):
                        without.add(row.definition_hash)
                    else:
                        run = await self._adopt(stored, asked)
                        # Nobody drove it, so it is due by the time of the store, which may be ahead of ours.
                        free = row.status == Status.HALTED and not row.recoveries
                        run.overdue = free and row.wake_at is not None and row.wake_at == run.info.deadline
                        found.append(run)
                        self._begin(run)
                        continue
                except CorruptState as error:
                    logger.error("%s", error)
                    continue
                except ValidationError as error:
                    logger.warning("execution %s cannot be driven here: %s", row.id, error)
                    without.add(row.definition_hash)
                await self.store.release(row.id, owner=self.owner, generation=row.generation)
        except StoreError as error:
            if not found:
                raise
            logger.warning("taking up what is due: %s", error)  # what has begun is driven by whoever asked
        finally:
            self._takes -= 1
        return found, len(taken)

    def suspected(self, recoveries: int) -> bool:
        """Whether an execution may be what kills its processes; one that is to be failed for it is not begun at all."""
        return max(1, min(SUSPECTED, self.max_recoveries)) <= recoveries <= self.max_recoveries

    async def _apart(self, taken: Sequence[Stored]) -> list[Stored]:
        """What is above suspicion, and the most suspected one: the others are given back before anything begins. Among
        equals chance decides, so that no innocent one dies as often as the one that kills."""
        suspects = [stored for stored in taken if self.suspected(stored.row.recoveries)]
        suspects.sort(key=lambda stored: (-stored.row.recoveries, self.ids.jitter()))
        for stored in suspects[1:]:
            await self.store.release(stored.row.id, owner=self.owner, generation=stored.row.generation)
        return [stored for stored in taken if not self.suspected(stored.row.recoveries)] + suspects[:1]

    async def revive(
        self, execution_id: str, statuses: tuple[Status, ...] = (Status.FAILED,), *, actor: str | None = None
    ) -> Run | None:
        """Takes a failed execution up again, at its innermost failed step; None if it is not failed (any more). Raises
        ConflictError where a child that failed with it was undone, and KeyTaken where others hold its concurrency
        key."""
        now = self.clock.now()
        memos: dict[str, dict[str, Any]] = {}
        forgotten: list[str] = []

        async def see_children(run: Run) -> None:
            for frame in (run.root.record, *run.frames.values()):
                if frame.memo is None or frame.state is FrameState.RUNNING:
                    continue
                if "attempt" in frame.memo:
                    forgotten.append(frame.path)  # whoever retries takes it on themselves that it may have happened
                if "child" not in frame.memo:
                    continue
                changes = memos[frame.path] = {}
                if frame.memo.get("timeout") is not None:
                    changes["deadline"] = now + frame.memo["timeout"]
                row = await self.store.row(frame.memo["child"])
                if row is not None and row.status in (Status.FAILED, Status.CANCELLED):
                    if decode_info(row.info, execution_id=row.id).compensated:
                        raise ConflictError(
                            f"execution {run.id!r} cannot go on: its child {row.id!r} was undone; start a new one"
                        )
                    changes["again"] = row.finished_at

        async def revive(run: Run) -> None:
            await see_children(run)
            run.forgive()
            frames = [run.root.record, *run.frames.values()]
            if (deadline := run.deadline(now)) is not None:
                run.change_info(deadline=deadline)
            run.emit(machine.revived(frames, now=now, memos=memos, forgotten=forgotten, actor=actor))
            await self.admission.enter_again(run)

        return await self.claim(execution_id, statuses, prepare=revive)

    async def migrate(
        self, execution_id: str, definition: WorkflowDef, *, mapping: Mapping[str, str] | None, actor: str | None
    ) -> Migration | None:
        """Gives an execution that nobody drives another definition, if it can go on with it: what was found, or None if
        somebody drives it, or it is over and not failed."""
        while (settled := self._taking.get(execution_id)) is not None:
            await settled.wait()
        if execution_id in self.runs:
            return None
        try:
            with self._settling(execution_id):
                return await self.uninterrupted(self._migrate(execution_id, definition, mapping, actor))
        finally:
            self.look()  # who looked meanwhile found it taken

    async def _migrate(
        self, execution_id: str, definition: WorkflowDef, mapping: Mapping[str, str] | None, actor: str | None
    ) -> Migration | None:
        statuses = (Status.PENDING, Status.RUNNING, Status.HALTED, Status.FAILED)
        stored = await self._lease(execution_id, statuses)
        if stored is None:
            return None
        row = stored.row
        try:
            old = await self.load_definition(row.definition_hash, execution_id)
            names = checked_mapping(mapping, old, definition)
            run = Run.load(stored, old, owner=self.owner)
            frames = {"": run.root.record, **run.frames}
            verdict = judged(execution_id, old, definition, frames=frames, undo=run.undo, mapping=names, info=run.info)
            if not verdict.safe or old.hash == definition.hash:
                return verdict
            info = run.info
            deadline = info.deadline
            if old.timeout != definition.timeout and not info.dry_run:
                begun = info.started_at if deadline is None or old.timeout is None else deadline - old.timeout
                deadline = None if definition.timeout is None or begun is None else begun + definition.timeout
            run.change_info(
                began_as=info.began_as or old.hash,
                secrets=tuple(dict.fromkeys((*info.secrets, *definition.secrets))),
                deadline=deadline,
            )
            told = {
                "from": {"hash": old.hash, "version": old.version},
                "to": {"hash": definition.hash, "version": definition.version},
            }
            root = renamed(run.root.record, names)
            metadata = {**told, "renamed": {run.root.record.at: root.at}} if root.at != run.root.record.at else told
            run.emit(machine.migrated(root, now=self.clock.now(), actor=actor, metadata=metadata))
            commit = replace(
                run.batch(nonce=self.ids.nonce(), release=True, wake_at=None),
                definition=(definition.hash, definition.version, definition.text),
                current_step=root.at if root.at in definition.body.by_id else None,
                finished_at=row.finished_at,
                wake_at=row.wake_at if run.status in (Status.PENDING, Status.FAILED) else _wake_at(run),
            )
            if not (await self.land(commit)).released:  # it has mail, for which somebody must look at it
                look = replace(commit, version=commit.version + 1, nonce=self.ids.nonce(), wake_at=self.clock.now())
                await self.land(
                    replace(look, entries=(), frames=(), rewritten=(), definition=None, info=None, release=False)
                )
            return verdict
        finally:
            await self.store.release(execution_id, owner=self.owner, generation=row.generation)

    async def land(self, commit: Commit) -> Committed:
        """A commit of an execution that is not driven."""
        try:
            return await self.store.commit(commit)
        except StoreUnavailable:
            return await self._settle_unknown(commit)

    async def lay_down(self, run: Run) -> None:
        """Commits what an execution that was taken up has become, and gives it back: it is driven by whoever takes it.
        Raises LeaseLost."""
        try:
            if not await self.flush(run, release=True):
                await self._give_back(run)
        except Stopped:
            raise LeaseLost(run.id) from None

    async def execute(self, run: Run) -> None:
        """Drives an execution this process holds until it is over, halted, or taken from it.

        It runs in a task of its own, so that a cancellation of the caller cannot be mistaken for one of the scopes in
        which branches are unwound: it stops the run, and goes on when that is left in good order.
        """
        task = run.task or self._begin(run)
        ended = asyncio.get_running_loop().create_future()  # as asyncio.wait does it, in half the time
        task.add_done_callback(lambda _: None if ended.done() else ended.set_result(None))
        try:
            await ended
        except asyncio.CancelledError:
            if (reason := run.cancelled_for()) is not None:
                self.stop(run, "cancelled", detail=reason)
            else:
                self.stop(run, "abandoned")
            await self.uninterrupted(asyncio.wait([task]))
            if (failure := task.exception()) is not None and not isinstance(failure, DurableFlowError):
                logger.warning("execution %s was left: %r", run.id, failure)
            raise
        task.result()
        for execution_id in run.farewells:
            await self.tell(execution_id)
        if run.status.over and run.parent_id is not None and run.info.parent_wait is not None:
            await self.tell(run.parent_id)

    def _begin(self, run: Run) -> asyncio.Task[None]:
        if run.id in self._taking:
            self._overtaken.add(run.id)
        self.runs[run.id] = run
        self._occupied.set()
        run.task = asyncio.get_running_loop().create_task(self._execute(run), name=f"durable_flow {run.id}")
        return run.task

    async def _execute(self, run: Run) -> None:
        try:
            await self._play(run, self.endings.drive)
            if run.stop_reason in ("cancelled", "timeout"):
                run.cut_by = run.stop_reason, run.stop_detail
                run.stop_reason, run.active = None, 1
                await self._play(run, self.endings.cut_short)
            match run.stop_reason:
                case None | "halted" | "finished":
                    pass
                case "abandoned":
                    await self._abandon(run)
                case "lease_lost":
                    await self._until_created(run)
                    raise LeaseLost(run.id)
                case "shutdown":
                    await self._abandon(run)
                    raise ConflictError(
                        f"the runtime was closed while execution {run.id!r} ran; it goes on with recover()"
                    )
        except asyncio.CancelledError:
            await self._abandon(run)
            raise
        except Stopped:
            raise LeaseLost(run.id) from None
        except (LeaseLost, ConflictError):
            raise
        except BaseException:
            await self._abandon(run)
            raise
        finally:
            try:
                if run.undone:
                    await self.uninterrupted(self._undo(run))
            finally:
                if self.runs.get(run.id) is run:
                    del self.runs[run.id]
                run.over.set()
                run.created.set()
                self._stir(run.id)
                if run.queue is not None:
                    self.look()  # another one of its queue may begin

    async def _until_created(self, run: Run) -> None:
        """Returns when it is known whether an execution is there: who stops by its own clock while it is created does
        not take it for one that does not exist."""
        while not run.version and run.inflight is not None:
            with suppress(Stopped, DurableFlowError):
                await self._landing(run)

    async def _play(self, run: Run, work: Callable[[Run], Awaitable[None]]) -> None:
        """Does its work in a scope that `stop` cancels; whether it was stopped is seen at its `stop_reason`."""
        deadline: Timer | None = None
        try:
            with anyio.CancelScope() as scope:
                run.scope = scope
                if run.info.deadline is not None and not run.cutting:
                    if run.overdue or run.info.deadline <= self.clock.now():
                        self.stop(run, "timeout")
                    else:
                        deadline = Alarm(self.clock, run.info.deadline, lambda: self.stop(run, "timeout"))
                await self.waits.sort(run)
                if run.stop_reason is None:
                    with suppress(Stopped):
                        await work(run)
        finally:
            if deadline is not None:
                deadline.cancel()

    async def _abandon(self, run: Run) -> None:
        """The caller is gone: what was done is committed and the lease given back; anybody can go on with it."""

        async def leave() -> None:
            try:
                if run.stop_reason not in ("lease_lost", "halted", "finished"):
                    await self.flush(run)
                    await self._give_back(run)
            except (Stopped, DurableFlowError) as error:
                logger.warning("leaving execution %s: %s", run.id, error)
            except Exception:
                logger.exception("leaving execution %s failed", run.id)

        await self.uninterrupted(leave())

    async def _undo(self, run: Run) -> None:
        """What is in memory is not what is stored: the lease is given back as it is, and whoever is first goes on with
        what is stored."""
        try:
            await self._give_back(run)
        except DurableFlowError as error:
            logger.warning("leaving execution %s: %s", run.id, error)

    def stop(self, run: Run, reason: str, *, detail: str | None = None) -> None:
        """Unwinds the tasks of a run. The first reason counts, except that a lost lease overrides all. What ends
        already goes on to its end."""
        if run.ending and reason != "lease_lost":
            return
        if reason in ("cancelled", "timeout") and (run.cutting or run.info.closing is not None):
            return
        if run.stop_reason is None or reason == "lease_lost":
            run.stop_reason, run.stop_detail = reason, detail
            if run.scope is not None:
                run.scope.cancel()

    def drain(self, run: Run) -> None:
        """Lets the steps under way end, and none begin after them; then the execution is given back."""
        run.draining = True
        if run.active == 0:
            self.stop(run, "shutdown")

    async def nudge(self, execution_id: str) -> Run | None:
        """An execution has mail: it is read here if it is driven here, and driven if nobody does. What was driven."""
        while True:
            run = self.runs.get(execution_id)
            if run is None:
                if (settled := self._taking.get(execution_id)) is None:
                    break
                await settled.wait()
            elif not run.leaving:
                await self.waits.collect(run)
                if not run.leaving:
                    return None
            elif run.inflight is not None:
                await asyncio.wait([run.inflight])
            else:
                await run.over.wait()
        taken = await self.claim(execution_id)
        if taken is not None:
            await self.execute(taken)
        return taken

    async def tell(self, execution_id: str) -> None:
        """An execution has mail from another one, to which it makes no difference what comes of it."""
        try:
            await self.nudge(execution_id)
        except DurableFlowError as error:
            logger.warning("execution %s has mail from another one: %s", execution_id, error)

    async def secret(self, name: str) -> Any:
        """A secret from the host. Raises StepError for one it does not have."""
        value: Any = None
        if callable(self.secrets):
            value = self.secrets(name)
            if inspect.isawaitable(value):
                value = await value
        elif self.secrets is not None:
            value = self.secrets.get(name)
        if value is None:
            raise StepError(f"the host has no secret named {name!r}", kind="SecretNotFound")
        return value


def _started(run: Run, now: float, trigger: str, told: Mapping[str, Any] = NOTHING) -> Transition:
    marks = {"dry_run": True} if run.info.dry_run else {}
    return machine.started(now=now, metadata={"trigger": trigger, **marks, **told})


def _still_held(run: Run) -> None:
    """Raises Stopped once the lease is lost: nothing is written any more."""
    if run.stop_reason == "lease_lost":
        raise Stopped


def _unrepeatable(error: BaseException) -> bool:
    """What would fail the same way again: the value it returns cannot be stored, or nothing can be called."""
    if isinstance(error, StepError):
        return isinstance(error, OutputError) or error.kind in UNREPEATABLE
    return isinstance(error, NonRetryableError | LimitExceeded)


def _wake_at(run: Run) -> float | None:
    """When time alone makes something happen in this execution."""
    if run.status is Status.PENDING:
        return run.begins_at
    if not run.delayed and not run.waiting and run.info.deadline is None:
        return None
    times = [] if run.paused is not None else list(run.delayed.values())
    times += [wait.deadline.timestamp() for wait in answerable(run) if wait.deadline is not None]
    if run.info.deadline is not None:
        times.append(run.info.deadline)
    return min(times) if times and not run.status.over else None
