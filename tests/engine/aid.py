"""What tests of running workflows are made of: a clock that stands still, a service that takes notes, a process that
can die.
"""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import durable_flow as df
from durable_flow.engine import BACKSTOP
from durable_flow.model.frame import Message
from durable_flow.stores.base import (
    Appended,
    Blob,
    Busy,
    Commit,
    Committed,
    Filter,
    InLine,
    Mark,
    QueueRow,
    QueueSetting,
    Row,
    ScheduleRow,
    StepTransaction,
    Store,
    Stored,
)
from durable_flow.testing import CountedIds, FakeClock

START = 1_700_000_000.0


async def idle() -> None:
    """Returns when nothing of the event loop can run before a timer, a thread or this task does something."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    for _ in range(100_000):
        await asyncio.sleep(0)
        if not ready:
            return
    raise AssertionError("the event loop does not come to rest")


class Clock(FakeClock):
    """Stands still until a test moves it, and waits for all that follows when it does."""

    def __init__(self) -> None:
        super().__init__(START)

    @property
    def time(self) -> float:
        return self.now()

    @time.setter
    def time(self, moment: float) -> None:
        """Nothing fires before the clock is advanced."""
        self._steady += moment - self.now()
        self._began = moment - self._steady

    async def advance(self, seconds: float = 0.0) -> None:
        """Time goes by: every timer fires at its time, and what follows from it happens before the next one."""
        end = self.monotonic() + seconds
        await idle()
        while (left := self.next()) is not None and self.monotonic() + left <= end:
            self.jump(left)
            await idle()
        self.time += max(0.0, end - self.monotonic())

    async def leap(self, seconds: float) -> None:
        """Much time goes by at once: whatever was due meanwhile is late."""
        self.time += seconds
        await self.advance()

    @property
    def pending(self) -> list[float]:
        """In how many seconds timers will fire, the heart of the engine left out."""
        left = [due - self.monotonic() for due, _, timer in self._timers if timer.callback is not None]
        return sorted(seconds for seconds in left if seconds > BACKSTOP)


class Ids(CountedIds):
    """Ids that count, and randomness that a test can choose: `share`."""

    share = 0.0

    def jitter(self) -> float:
        return self.share


class Dead(BaseException):
    """What a killed process gets from its store."""


class WireTransaction(StepTransaction):
    """A transaction over the connection of one process: it is rolled back when that is cut."""

    exclusive = True

    def __init__(self, wire: Wire, inner: StepTransaction) -> None:
        self.wire = wire
        self.inner = inner

    @property
    def begun(self) -> bool:  # type: ignore[override]
        return self.inner.begun

    async def execute(self, sql: str, parameters: Sequence[Any]) -> int:
        return await self._alive("execute").execute(sql, parameters)

    async def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._alive("executemany").executemany(sql, rows)

    async def fetch(self, sql: str, parameters: Sequence[Any], *, limit: int | None = None) -> list[Any]:
        return await self._alive("fetch").fetch(sql, parameters, limit=limit)

    async def ready(self) -> None:
        await self._alive("ready").ready()

    async def commit(self, commit: Commit) -> Committed:
        committed = await self._alive("commit_transaction").commit(commit)
        self._alive("committed_transaction")
        return committed

    async def rollback(self) -> None:
        await self.inner.rollback()

    def _alive(self, verb: str) -> StepTransaction:
        self.wire.pass_on(verb)
        return self.inner


class Wire(Store):
    """The connection of one process to a store that outlives it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.cut = False
        self.watchers: list[Callable[[str], None]] = []

    @property
    def clock(self) -> Any:
        return self.store.clock

    @clock.setter
    def clock(self, clock: Any) -> None:
        self.store.clock = clock

    @property
    def wakes(self) -> bool:  # type: ignore[override]
        return self.store.wakes

    def listen(self, listener: Callable[[str], object]) -> Callable[[], None]:
        return self.store.listen(listener)

    def heard(self, execution_id: str, *, but: Callable[[str], object] | None = None) -> None:
        if not self.cut:
            self.store.heard(execution_id, but=but)

    def _alive(self, verb: str) -> Store:
        self.pass_on(verb)
        return self.store

    def pass_on(self, verb: str) -> None:
        """Raises Dead where the connection is cut, and tells who watches it."""
        if self.cut:
            raise Dead
        for watcher in self.watchers:
            watcher(verb)
        if self.cut:
            raise Dead

    def begin(self, *, hold: float) -> StepTransaction:
        return WireTransaction(self, self._alive("begin").begin(hold=hold))

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return self._alive("commit").commit(commit)

    async def append(self, message: Message, body: Blob) -> Appended:
        return await self._alive("append").append(message, body)

    async def claim(
        self, execution_id: str, *, owner: str, ttl: float, statuses: Collection[str]
    ) -> Stored | Busy | None:
        return await self._alive("claim").claim(execution_id, owner=owner, ttl=ttl, statuses=statuses)

    async def take(
        self,
        owner: str,
        *,
        ttl: float,
        limit: int,
        queues: Collection[str | None] | None = None,
        without: Collection[str] = (),
        room: Mapping[str, int] | None = None,
    ) -> Sequence[Stored]:
        inner = self._alive("take")
        return await inner.take(owner, ttl=ttl, limit=limit, queues=queues, without=without, room=room)

    async def next_due(
        self,
        *,
        queues: Collection[str | None] | None = None,
        without: Collection[str] = (),
        room: Mapping[str, int] | None = None,
    ) -> float | None:
        return await self._alive("next_due").next_due(queues=queues, without=without, room=room)

    async def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        return await self._alive("set_queue").set_queue(queue, setting, value)

    async def queues(self, names: Collection[str | None] | None = None) -> Mapping[str | None, QueueRow]:
        return await self._alive("queues").queues(names)

    async def line(self, key: str) -> Sequence[InLine]:
        return await self._alive("line").line(key)

    async def mark(self, mark: Mark) -> bool:
        return await self._alive("mark").mark(mark)

    async def schedules(
        self, *, workflows: Collection[str] | None = None, limit: int | None = None
    ) -> tuple[float, Sequence[ScheduleRow]]:
        return await self._alive("schedules").schedules(workflows=workflows, limit=limit)

    async def renew(self, owner: str, *, ttl: float) -> Mapping[str, int]:
        return await self._alive("renew").renew(owner, ttl=ttl)

    async def release(self, execution_id: str, *, owner: str, generation: int) -> None:
        await self._alive("release").release(execution_id, owner=owner, generation=generation)

    async def mail(self, owner: str) -> Sequence[str]:
        return await self._alive("mail").mail(owner)

    async def inbox(self, execution_id: str) -> Sequence[tuple[int, Blob]]:
        return await self._alive("inbox").inbox(execution_id)

    async def row(self, execution_id: str) -> Row | None:
        return await self._alive("row").row(execution_id)

    async def fetch(self, execution_id: str) -> Stored | None:
        return await self._alive("fetch").fetch(execution_id)

    async def read(
        self, execution_id: str, *, after: int = 0, limit: int | None = None, seqs: Sequence[int] | None = None
    ) -> Sequence[tuple[int, Blob]]:
        return await self._alive("read").read(execution_id, after=after, limit=limit, seqs=seqs)

    async def search(self, filter: Filter, *, limit: int, cursor: str | None) -> tuple[Sequence[Row], str | None]:
        return await self._alive("search").search(filter, limit=limit, cursor=cursor)

    async def remove(self, execution_id: str) -> bool:
        return await self._alive("remove").remove(execution_id)

    async def definition(self, definition_hash: str) -> Blob | None:
        return await self._alive("definition").definition(definition_hash)

    async def purge_rows(self, *, before: float, statuses: Collection[str], limit: int) -> int:
        return await self._alive("purge_rows").purge_rows(before=before, statuses=statuses, limit=limit)


class Far(Wire):
    """The connection of a process that hears of others only what a test tells it."""

    wakes = True
    listen = Store.listen
    heard = Store.heard


class Desk:
    """The service of the tests: whatever method is called, it takes a note and answers as it was told to.

    `answers[method]` is an exception to raise, a (plain or async) function of the input to call, a list of such
    things for one call each, or the value to return; without it the input comes back. `hold(method)` keeps calls
    waiting until `release(method)`.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.contexts: list[df.StepContext] = []
        self.answers: dict[str, Any] = {}
        self.cancelled: list[str] = []
        self._held: dict[str, asyncio.Event] = {}

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)

        async def act(value: Any = None, *, context: df.StepContext) -> Any:
            self.calls.append((method, value))
            self.contexts.append(context)
            try:
                if method in self._held:
                    await self._held[method].wait()
                return await self._answer(method, value)
            except asyncio.CancelledError:
                self.cancelled.append(method)
                raise

        return act

    async def _answer(self, method: str, value: Any) -> Any:
        if method not in self.answers:
            return value
        answer = self.answers[method]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, BaseException) or (isinstance(answer, type) and issubclass(answer, BaseException)):
            raise answer
        if callable(answer):
            answer = answer(value)
            if asyncio.iscoroutine(answer):
                answer = await answer
        return answer

    def hold(self, *methods: str) -> None:
        for method in methods:
            self._held[method] = asyncio.Event()

    def release(self, *methods: str) -> None:
        for method in methods or tuple(self._held):
            self._held.pop(method).set()

    @property
    def called(self) -> list[str]:
        """The methods that were called, in order."""
        return [method for method, _ in self.calls]

    def values(self, method: str) -> list[Any]:
        """What a method was called with, in order."""
        return [value for name, value in self.calls if name == method]

    def keys(self, method: str) -> list[str]:
        """The idempotency keys a method was called with, in order."""
        pairs = zip(self.calls, self.contexts, strict=True)
        return [context.idempotency_key for (name, _), context in pairs if name == method]


def flow(steps: str, *, id: str = "flow", validate: bool = True, **keys: Any) -> df.WorkflowDef:
    """A workflow of these steps (YAML); `keys` are the other keys of its document."""
    head = [f"id: {id}", f"name: {id}", *(f"{key}: {json.dumps(value)}" for key, value in keys.items()), "steps:"]
    text = "\n".join(head) + "\n" + textwrap.indent(textwrap.dedent(steps).strip("\n"), "  ") + "\n"
    return df.load(text) if validate else df.parse(text)


class World:
    """A store, a clock and a desk, and the process that works with them: `kill` it, `restart` it."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.desk = Desk()
        self.ids = Ids()
        self.workflows: dict[str, df.WorkflowDef] = {}
        self.options: dict[str, Any] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        self.runtime: df.Runtime
        self.wire: Wire

    # -- processes -----------------------------------------------------------------------------------------------------

    async def begin(self, **options: Any) -> None:
        """Starts a process. `options` are those of Runtime, and stay for the processes after it."""
        self.options |= options
        self.wire = Wire(self.store)
        self.runtime = self.process(self.wire)
        await self.runtime.__aenter__()

    def process(self, wire: Store, **options: Any) -> df.Runtime:
        """A runtime that is not open yet, for tests that need a second one."""
        given = {"grace": 0.0, "services": {"desk": self.desk}, **self.options, **options}
        return df.Runtime(wire, workflows=list(self.workflows.values()), clock=self.clock, ids=self.ids, **given)

    async def restart(self, **options: Any) -> None:
        """Ends the process properly and starts another one."""
        await self.runtime.close()
        await self.begin(**options)

    async def kill(self) -> None:
        """The process is gone from one moment to the next; its lease is not."""
        self.die()
        await self.end()

    def die(self) -> None:
        """From now on nothing this process does has an effect. (For services that kill their process.)"""
        self.wire.cut = True

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        for task in self.tasks:
            with suppress(BaseException):
                await task
        self.tasks.clear()
        with suppress(Dead):
            await self.runtime.close()

    async def after_the_lease(self, **options: Any) -> None:
        """Another process, when the lease of a killed one has run out."""
        await self.kill()
        self.clock.time += 31
        await self.begin(**options)

    # -- workflows -----------------------------------------------------------------------------------------------------

    def know(self, *workflows: df.WorkflowDef) -> None:
        for workflow in workflows:
            self.workflows[workflow.id] = workflow
            self.runtime.runner(workflow)

    def runner(self, workflow: str | df.WorkflowDef = "flow", **keys: Any) -> df.Runner:
        """A runner for a known workflow, a WorkflowDef, or steps as YAML."""
        if isinstance(workflow, str) and "\n" in workflow:
            workflow = flow(workflow, **keys)
        if isinstance(workflow, df.WorkflowDef):
            self.know(workflow)
        return self.runtime.runner(workflow)

    async def run(
        self,
        workflow: str | df.WorkflowDef = "flow",
        input: Any = None,
        *,
        execution_id: str | None = None,
        **keys: Any,
    ) -> df.ExecutionResult:
        """Runs a workflow while the test waits."""
        return await self.runner(workflow, **keys).run(input, execution_id=execution_id)

    def spawn(self, call: Any) -> asyncio.Task[Any]:
        """Makes a call of a runner in a task of its own."""
        task = asyncio.get_running_loop().create_task(call)
        self.tasks.append(task)
        return task

    async def start(
        self, workflow: str | df.WorkflowDef = "flow", input: Any = None, *, execution_id: str = "e", **keys: Any
    ) -> asyncio.Task[df.ExecutionResult]:
        """Begins to run a workflow, and comes back when it does not go on by itself."""
        task = self.spawn(self.runner(workflow, **keys).run(input, execution_id=execution_id))
        await self.clock.advance()
        return task

    # -- looking -------------------------------------------------------------------------------------------------------

    async def load(self, execution: str | df.ExecutionResult = "e") -> df.Execution:
        loaded = await self.store.load(execution if isinstance(execution, str) else execution.execution_id)
        assert loaded is not None
        return loaded

    async def variables(self, execution: str | df.ExecutionResult = "e") -> dict[str, Any]:
        return (await self.load(execution)).ctx

    async def entries(self, execution: str | df.ExecutionResult = "e") -> list[df.Entry]:
        return await self.store.entries(execution if isinstance(execution, str) else execution.execution_id)

    async def trail(self, execution: str | df.ExecutionResult = "e") -> list[str]:
        """The audit trail as lines such as `orders[3]/charge completed`."""
        return [f"{entry.path} {entry.action}".strip() for entry in await self.entries(execution)]


@asynccontextmanager
async def working(runtime: df.Runtime, **options: Any) -> AsyncIterator[df.Worker]:
    """A worker at work."""
    worker = df.Worker(runtime, **options)
    task = asyncio.get_running_loop().create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def outputs(entries: Iterable[df.Entry], path: str) -> list[Any]:
    """The outputs that entries recorded for a step."""
    return [entry.output for entry in entries if entry.path == path and entry.action in ("completed", "answered")]
