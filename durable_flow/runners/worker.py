"""`Worker`: drives what is due: timers, expired leases, answers nobody acted on, queued executions; and schedules."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Protocol

import anyio
import anyio.abc
import msgspec

from durable_flow.clock import moment
from durable_flow.engine import Engine
from durable_flow.errors import ConfigError, ConflictError, DurableFlowError, LeaseLost, StoreError
from durable_flow.journal import Journal
from durable_flow.live import Run
from durable_flow.model.workflow import WorkflowDef
from durable_flow.runners.queues import check_queue
from durable_flow.runners.schedules import Scheduler

logger = Journal("durable_flow.worker")

BATCH = 100
"""Executions that are taken in one transaction at most."""

DAY = 86_400.0
"""Seconds between two looks at a store that only this process can reach: what comes sooner is told or known."""

PAUSE = 0.02
"""Seconds between two looks at least: hints come in crowds."""

PROBATION = 1.0
"""Seconds after which an execution with which its processes died has shown that it does not kill at once."""

LONGEST = 5.0
"""Seconds between two tries while the store cannot be reached, at most."""


class Host(Protocol):
    """What a worker needs of its runtime."""

    @property
    def engine(self) -> Engine: ...

    @property
    def grace(self) -> float: ...

    @property
    def workflows(self) -> Mapping[str, WorkflowDef]: ...


class WorkerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker of this process is. `running`: it has begun and neither returned nor been stopped. `active` is how
    many executions it drives.

    `last_look` is when it last saw in the store what is due. One that has nothing to do looks seldom, and one that is
    full looks when it has room, so what tells trouble is `overdue`: for how many seconds it has been trying to look and
    has not been able to.
    """

    running: bool
    active: int
    concurrency: int
    last_look: datetime | None = None
    overdue: float = 0.0


class Worker:
    """Drives whatever is due in the store of a runtime, until it is stopped.

    That is: executions whose process died, timers and timeouts, answers and ends of children that nobody acted on, and
    pending executions of `queues` (all of them by default; None among them stands for those without a queue), the most
    urgent first. It also starts what the `schedules` of the runtime's workflows say. `concurrency` is how many it
    drives at once, `queue_concurrency` how many of a queue, by its name: no more of that begin here, whatever the
    limits of the queue allow. Any number of workers may share a store.

    What a worker cannot drive it leaves to others: definitions that need a service, a workflow or a step type that its
    runtime does not have.

    >>> import asyncio, durable_flow as df
    >>> async def main():
    ...     async with df.Runtime("sqlite://:memory:") as runtime:
    ...         worker = df.Worker(runtime, concurrency=10)
    ...         task = asyncio.create_task(worker.run())
    ...         worker.stop()
    ...         await task
    >>> asyncio.run(main())
    """

    def __init__(
        self,
        runtime: Host,
        *,
        queues: Collection[str | None] | None = None,
        concurrency: int = 100,
        queue_concurrency: Mapping[str, int] | None = None,
    ) -> None:
        if not isinstance(getattr(runtime, "engine", None), Engine):
            raise ConfigError(f"a worker works for a Runtime, not for {runtime!r:.100}")
        if type(concurrency) is not int or concurrency < 1:
            raise ConfigError(f"concurrency must be a number from 1, got {concurrency!r:.100}")
        if isinstance(queues, str):
            raise ConfigError(f"queues is a list: queues=[{queues!r}]")
        for queue in queues or ():
            check_queue(queue)
        if not isinstance(queue_concurrency, Mapping | None):
            raise ConfigError(f"queue_concurrency is a mapping such as {{'mail': 5}}, not {queue_concurrency!r:.100}")
        for queue, most in (queue_concurrency or {}).items():
            if type(queue) is not str or type(most) is not int or most < 1:
                raise ConfigError(
                    f"queue_concurrency maps names of queues to numbers from 1, not {queue!r:.100} to {most!r:.100}"
                )
            if queues is not None and queue not in queues:
                raise ConfigError(f"queue_concurrency limits {queue!r:.100}, which is none of queues")
        self.queues = None if queues is None else tuple(queues)
        self.concurrency = concurrency
        self.queue_concurrency = dict(queue_concurrency or {})
        self._engine = runtime.engine
        self._grace = runtime.grace
        self._scheduler = Scheduler(runtime.engine, runtime.workflows)
        self._stopping = False
        self._running = False
        self._runs: dict[str, Run] = {}
        self._without: set[str] = set()
        self._served: set[str] = set()
        self._wake = asyncio.Event()
        self._last_look: float | None = None
        self._looking_since: float | None = None

    @property
    def active(self) -> int:
        """How many executions it is driving."""
        return len(self._runs)

    @property
    def health(self) -> WorkerHealth:
        """How it is at this moment; asks nobody."""
        clock, since = self._engine.clock, self._looking_since
        return WorkerHealth(
            running=self._running and not self._stopping and not self._engine.closing,
            active=self.active,
            concurrency=self.concurrency,
            last_look=None if self._last_look is None else moment(self._last_look),
            overdue=0.0 if since is None else clock.monotonic() - since,
        )

    def stop(self) -> None:
        """Takes nothing new from now on; `run` returns when steps that run have ended or the runtime's `grace` is over,
        and what was not over by then has been given back for others to take."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Works until `stop`. A cancellation gives no grace. Raises ConfigError where the runtime is not open."""
        if self._running:
            raise ConfigError("this worker is running already")
        if not self._engine.opened:
            raise ConfigError("open the runtime first: async with Runtime(…) as runtime")
        self._running = True
        self._engine.watchers.append(self._wake.set)
        try:
            async with anyio.create_task_group() as tasks:
                scheduling = anyio.CancelScope()
                tasks.start_soon(self._schedule, scheduling)
                try:
                    await self._work(tasks)
                    scheduling.cancel()  # nothing more is started
                    await self._drain(self._grace)
                finally:
                    scheduling.cancel()
                    with anyio.CancelScope(shield=True):
                        await self._drain(0.0)
        except Exception:  # a fault of ours; who began it as a task may not look at how that ended
            logger.exception("the worker has ended")
            raise
        finally:
            self._engine.watchers.remove(self._wake.set)
            self._running = False
            self._looking_since = None

    async def _schedule(self, scope: anyio.CancelScope) -> None:
        with scope:
            await self._scheduler.run()

    async def _work(self, tasks: anyio.abc.TaskGroup) -> None:
        engine = self._engine
        failures = 0
        while not self._stopping and not engine.closing:
            self._wake.clear()
            wanted = min(BATCH, self.concurrency - len(self._runs))
            found = 0
            try:
                if wanted:
                    self._look()
                    runs, found = await engine.take(
                        wanted, queues=self.queues, avoid=self._lacks, without=self._without, room=self._room()
                    )
                    self._seen()
                    for run in runs:
                        self._runs[run.id] = run
                        tasks.start_soon(self._drive, run)
                    for run in runs:
                        await self._watch(run)
                if found < wanted or not wanted:
                    await self._rest(full=not wanted)
                failures = 0
            except StoreError as error:
                failures += 1
                logger.warning("looking for work failed: %s", error)
                await engine.clock.sleep(min(LONGEST, 0.1 * 2 ** min(failures, 10)))
            except Exception:  # a fault of ours is no reason to drive nothing any more; `health` tells of it as well
                logger.exception("looking for work failed")
                await engine.clock.sleep(LONGEST)

    async def _watch(self, run: Run) -> None:
        """Takes nothing while it is to be seen whether an execution kills this process, as it may have killed others:
        until it has got somewhere, or for a moment."""
        if not self._engine.suspected(run.recoveries):
            return
        clock = self._engine.clock
        end = clock.monotonic() + PROBATION
        timer = clock.call_later(PROBATION, self._wake.set)
        try:
            while run.recoveries and not run.over.is_set() and not self._stopping and clock.monotonic() < end:
                self._wake.clear()
                await self._wake.wait()
        finally:
            timer.cancel()

    async def _rest(self, *, full: bool) -> None:
        """Returns when something may be due; a full worker when it has room."""
        engine = self._engine
        if full:
            self._looking_since = None
        await engine.clock.sleep(PAUSE)
        if full:
            await self._wake.wait()
            return
        seconds = DAY if engine.store.alone else engine.poll
        if not self._wake.is_set():
            self._look()
            due = await engine.store.next_due(queues=self.queues, without=tuple(self._without), room=self._room())
            self._seen()
            seconds = seconds if due is None else min(seconds, max(due, 0.0))
        timer = engine.clock.call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _look(self) -> None:
        """It begins to look at the store, unless it has been trying to for a while."""
        if self._looking_since is None:
            self._looking_since = self._engine.clock.monotonic()

    def _seen(self) -> None:
        """It has seen in the store what is due."""
        self._last_look = self._engine.clock.now()
        self._looking_since = None

    def _room(self) -> Mapping[str, int]:
        """How many more of each queue may begin here; children take no place of their own."""
        room = dict(self.queue_concurrency)
        for run in self._runs.values():
            if run.queue in room and run.parent_id is None:
                room[run.queue] = max(0, room[run.queue] - 1)
        return room

    async def _drive(self, run: Run) -> None:
        try:
            await self._engine.execute(run)
        except LeaseLost:
            logger.info("execution %s was taken over by another process", run.id)
        except ConflictError as error:
            if not self._stopping:
                logger.warning("%s", error)
        except DurableFlowError as error:
            logger.warning("execution %s was left: %s", run.id, error)
        except Exception:
            logger.exception("execution %s was left", run.id)
        finally:
            if self._runs.get(run.id) is run:  # else it was given back and taken again meanwhile
                del self._runs[run.id]
            self._wake.set()

    def _lacks(self, definition: WorkflowDef) -> bool:
        """Whether the runtime lacks something that a definition needs; says so once."""
        if definition.hash in self._served:
            return False
        lacking = self._engine.lacks(definition)
        if not lacking:
            self._served.add(definition.hash)
        if lacking:
            logger.warning(
                "executions of workflow %r (definition %.12s…) are left to other workers: there is no %s here",
                definition.id,
                definition.hash,
                ", ".join(lacking),
            )
        return bool(lacking)

    async def _drain(self, grace: float) -> None:
        """Lets steps that run end, for so long; then gives back what is not over."""
        engine = self._engine
        runs = list(self._runs.values())
        for run in runs:
            engine.drain(run)
        if runs and grace > 0:
            timer = engine.clock.call_later(grace, lambda: self._give_back(runs))
            try:
                for run in runs:
                    await run.over.wait()
            finally:
                timer.cancel()
        runs = list(self._runs.values())
        self._give_back(runs)
        for run in runs:
            await run.over.wait()
            if run.task is not None:  # nobody may have come to see how it ended
                await asyncio.wait([run.task])
                run.task.exception()

    def _give_back(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self._engine.stop(run, "shutdown")
