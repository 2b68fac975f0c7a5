"""`WatchedStore`: a store behind a gate. Every operation is a numbered point, and every version is compared with the
audit trail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from durable_flow import ConflictError, LeaseLost, StepTransaction, Store, StoreUnavailable
from durable_flow.testing.clock import FakeClock, SkippingLoop, apart_from_here
from durable_flow.testing.ledger import Ledger
from durable_flow.testing.points import LATE, UNANSWERED, Gate, Killed, Mode, Point
from durable_flow.testing.trail import Fold, Seen, decoded

if TYPE_CHECKING:
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
        Stored,
    )

T = TypeVar("T")


class Watch:
    """Looks at every version of every execution as it lands: numbers, fences, and whether the entries tell the row."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.folds: dict[str, Fold] = {}
        self.workflows: dict[str, str] = {}
        self.versions: dict[str, int] = {}
        self.generations: dict[str, int] = {}
        self.wrong: list[str] = []
        self.apart: set[str] = set()
        """Children that outlive their parents: nobody waits for them."""
        self.future: type[asyncio.Future[Any]] = asyncio.Future
        """What the inner store answers commits with."""

    def landed(self, stored: Stored, entries: Sequence[tuple[int, Seen]]) -> None:
        """A commit landed: `stored` is the execution now, `entries` are those behind the ones seen before."""
        row = stored.row
        name = row.id
        fold = self.folds.setdefault(name, Fold())
        self.workflows[name] = row.workflow_id
        known = [path for path, _ in stored.frames]
        try:
            for seq, entry in entries:
                fold.add(seq, entry, known)
        except ValueError as error:
            self.wrong.append(f"O2 {name} version {row.version}: {error}")
        self.ledger.landed(name, [entry for _, entry in entries])
        self.wrong += [f"O3 {name} version {row.version}: {told}" for told in fold.differences(stored)]
        before = self.versions.get(name, 0)
        if row.version != before + 1:
            self.wrong.append(f"O2 {name}: version {row.version} follows version {before}")
        if row.generation < self.generations.get(name, 0):
            self.wrong.append(f"O2 {name}: generation went back to {row.generation}")
        self.versions[name], self.generations[name] = row.version, row.generation
        if row.parent_id is not None and "parent_wait" not in msgspec.json.decode(row.info):
            self.apart.add(name)

    def seen(self, execution_id: str) -> int:
        """The number of the last entry that was seen."""
        return self.folds[execution_id].seq if execution_id in self.folds else 0


class WatchedStore(Store):
    """A store for one process of a crash test. `inline` says that the inner one answers at once (it has no threads and
    no connections). Any other does one operation at a time, and its answer is told when everybody else waits: so that
    the order in which things happen does not depend on how long they take. Without a `watch` nobody looks at what
    lands."""

    def __init__(self, inner: Store, *, gate: Gate, watch: Watch | None, clock: FakeClock, inline: bool) -> None:
        self.inner = inner
        self.gate = gate
        self.watch = watch
        self.fake = clock
        self.inline = inline
        self.wakes = inline  # a store without threads is in memory, where no other process can do anything
        self._future: type[asyncio.Future[Any]] = asyncio.Future if watch is None else watch.future
        self._writing: set[asyncio.Task[Committed]] = set()
        self._unanswered: set[asyncio.Future[Committed]] = set()
        gate.on_kill.append(self._forget)
        self._turn = asyncio.Lock()
        self._late: tuple[int, str, Callable[[], Awaitable[Committed]]] | None = None
        self._open: set[StepTransaction] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """The inner store is opened by whoever made it."""

    async def close(self) -> None:
        """Finishes what is under way. The inner store is closed by whoever made it."""
        if self._writing:
            await asyncio.wait(self._writing)
        if self._ending:
            await asyncio.wait(self._ending)

    # -- the gate -----------------------------------------------------------------------------------------------------

    async def _pass(self, name: str, where: str, work: Callable[[], Awaitable[T]]) -> T:
        point = self.gate.enter("store", name, where)
        await self.gate.before(point)
        result = await self._alone(work)
        if point.mode is Mode.DUPLICATE:
            with suppress(ConflictError):
                await self._alone(work)
        await self.gate.after(point)
        return result

    async def _alone(self, work: Callable[[], Awaitable[T]]) -> T:
        """One operation at a time: the order in which threads finish must not matter."""
        if self.inline:
            await self._catch_up()
            return await work()
        async with self._turn:
            self.gate.check()
            with self.fake.held(), apart_from_here():
                await self._catch_up()
                try:
                    return await work()
                finally:
                    loop = asyncio.get_running_loop()
                    if isinstance(loop, SkippingLoop):
                        await loop.rest()

    async def _catch_up(self) -> None:
        """A commit whose answer was lost lands after the first look whether it did."""
        if self._late is None:
            return
        left, name, land = self._late
        if left:
            self._late = (left - 1, name, land)
            return
        self._late = None
        with suppress(LeaseLost):
            await self._landed(name, await land())

    async def _land(self, commit: Commit) -> Committed:
        return await self._landed(commit.execution_id, await self._commit_inside(commit))

    async def _commit_inside(self, commit: Commit) -> Committed:
        landing = self.inner.commit(commit)
        self._future = type(landing)
        if self.watch is not None:
            self.watch.future = self._future
        return await landing

    async def _landed(self, name: str, committed: Committed) -> Committed:
        if self.watch is None:
            return committed
        stored = await self.inner.fetch(name)
        assert stored is not None
        self.watch.landed(stored, decoded(await self.inner.read(name, after=self.watch.seen(name))))
        return committed

    # -- the contract -------------------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        loop = asyncio.get_running_loop()
        point = self.gate.enter("store", "commit", about(commit))
        answer: asyncio.Future[Committed] = self._future(loop=loop)
        if self.inline:
            try:
                outcome: Committed | Exception = at_once(self._commit(commit, point))
            except Exception as error:
                outcome = error
            if self.gate.stalled or point.mode is Mode.DELAY:
                self._unanswered.add(answer)
                pause = UNANSWERED if self.gate.stalled else LATE
                self.fake.call_later(pause, lambda: self._answer(answer, outcome))
            else:
                self._answer(answer, outcome)
        else:
            task = loop.create_task(self._answered_later(commit, point), name="commit")
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
            task.add_done_callback(lambda done: _hand_on(done, answer))
        return answer

    async def _answered_later(self, commit: Commit, point: Point) -> Committed:
        try:
            return await self._commit(commit, point)
        finally:
            if self.gate.stalled or point.mode is Mode.DELAY:
                await self.fake.sleep(UNANSWERED if self.gate.stalled else LATE)

    def _answer(self, answer: asyncio.Future[Committed], outcome: Committed | BaseException) -> None:
        self._unanswered.discard(answer)
        if answer.done():
            return
        if isinstance(outcome, BaseException):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    def _forget(self) -> None:
        for answer in list(self._unanswered):
            self._answer(answer, Killed())
        for transaction in list(self._open):
            self.drop(transaction)

    def drop(self, transaction: StepTransaction) -> asyncio.Task[None]:
        """The connection of a transaction is gone, and the server takes back what was done in it."""
        self._open.discard(transaction)

        async def roll_back() -> None:
            with self.fake.held():
                await transaction.rollback()

        with apart_from_here():
            task = asyncio.get_running_loop().create_task(roll_back(), name="rollback")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    # -- transactions of services -------------------------------------------------------------------------------------

    def begin(self, *, hold: float) -> StepTransaction:
        self.gate.check()
        inner = self.inner.begin(hold=hold)
        self._open.add(inner)
        return WatchedTransaction(self, inner)

    def _license(self) -> None:
        """A transaction is lost, and with it what its service did: it must do that again."""
        if self.watch is not None:
            self.watch.ledger.license()

    async def within(self, name: str, where: str, work: Callable[[], Awaitable[T]]) -> T:
        """One statement of a service: a point like any other."""
        try:
            return await self._pass(f"tx {name}", where, work)
        except StoreUnavailable:
            self._license()
            raise

    async def commit_within(self, inner: StepTransaction, commit: Commit) -> Committed:
        """The commit of a transaction of a service: whatever becomes of it, its connection is let go."""
        point = self.gate.enter("store", "tx commit", about(commit))
        try:
            await self.gate.before(point)
            if point.mode is Mode.ERROR_LATE:
                self._late = (1, commit.execution_id, lambda: inner.commit(commit))
                self._open.discard(inner)
                raise StoreUnavailable(f"injected at point {point.number}; it lands later")

            async def land() -> Committed:
                return await self._landed(commit.execution_id, await inner.commit(commit))

            committed = await self._alone(land)
            await self.gate.after(point)
            return committed
        except StoreUnavailable:
            self._license()
            raise
        finally:
            if inner in self._open:
                await self.drop(inner)

    async def _commit(self, commit: Commit, point: Point) -> Committed:
        self.gate.start(point)
        if point.mode is Mode.ERROR_LATE:
            self._late = (1, commit.execution_id, lambda: self._commit_inside(commit))
            raise StoreUnavailable(f"injected at point {point.number}; it lands later")
        if self.gate.stalled:
            raise StoreUnavailable(f"no answer at point {point.number}")
        committed = await self._alone(lambda: self._land(commit))
        if point.mode is Mode.DUPLICATE:
            await self._alone(lambda: self._land_again(commit))
        self.gate.end(point)
        if self.gate.stalled:
            raise StoreUnavailable(f"no answer at point {point.number}")
        return committed

    async def _land_again(self, commit: Commit) -> None:
        try:
            await self.inner.commit(commit)
        except (LeaseLost, ConflictError):
            return
        assert self.watch is not None
        self.watch.wrong.append(f"O2 version {commit.version + 1} of {commit.execution_id} was committed twice")

    async def append(self, message: Message, body: Blob) -> Appended:
        where = f"{message.execution_id} {message.kind}"
        return await self._pass("append", where, lambda: self.inner.append(message, body))

    async def claim(
        self, execution_id: str, *, owner: str, ttl: float, statuses: Collection[str]
    ) -> Stored | Busy | None:
        return await self._pass(
            "claim", execution_id, lambda: self.inner.claim(execution_id, owner=owner, ttl=ttl, statuses=statuses)
        )

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
        return await self._pass(
            "take", "", lambda: self.inner.take(owner, ttl=ttl, limit=limit, queues=queues, without=without, room=room)
        )

    async def next_due(
        self,
        *,
        queues: Collection[str | None] | None = None,
        without: Collection[str] = (),
        room: Mapping[str, int] | None = None,
    ) -> float | None:
        return await self._pass("next_due", "", lambda: self.inner.next_due(queues=queues, without=without, room=room))

    async def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        return await self._pass("set_queue", queue or "", lambda: self.inner.set_queue(queue, setting, value))

    async def queues(self, names: Collection[str | None] | None = None) -> Mapping[str | None, QueueRow]:
        return await self._pass("queues", "", lambda: self.inner.queues(names))

    async def line(self, key: str) -> Sequence[InLine]:
        return await self._pass("line", key, lambda: self.inner.line(key))

    async def mark(self, mark: Mark) -> bool:
        return await self._pass("mark", mark.schedule_id, lambda: self.inner.mark(mark))

    async def schedules(
        self, *, workflows: Collection[str] | None = None, limit: int | None = None
    ) -> tuple[float, Sequence[ScheduleRow]]:
        return await self._pass("schedules", "", lambda: self.inner.schedules(workflows=workflows, limit=limit))

    async def renew(self, owner: str, *, ttl: float) -> Mapping[str, int]:
        return await self._pass("renew", "", lambda: self.inner.renew(owner, ttl=ttl))

    async def release(self, execution_id: str, *, owner: str, generation: int) -> None:
        await self._pass(
            "release", execution_id, lambda: self.inner.release(execution_id, owner=owner, generation=generation)
        )

    async def mail(self, owner: str) -> Sequence[str]:
        return await self._pass("mail", "", lambda: self.inner.mail(owner))

    async def inbox(self, execution_id: str) -> Sequence[tuple[int, Blob]]:
        return await self._pass("inbox", execution_id, lambda: self.inner.inbox(execution_id))

    async def row(self, execution_id: str) -> Row | None:
        return await self._pass("row", execution_id, lambda: self.inner.row(execution_id))

    async def fetch(self, execution_id: str) -> Stored | None:
        return await self._pass("fetch", execution_id, lambda: self.inner.fetch(execution_id))

    async def read(
        self, execution_id: str, *, after: int = 0, limit: int | None = None, seqs: Sequence[int] | None = None
    ) -> Sequence[tuple[int, Blob]]:
        return await self._pass(
            "read", execution_id, lambda: self.inner.read(execution_id, after=after, limit=limit, seqs=seqs)
        )

    async def search(self, filter: Filter, *, limit: int, cursor: str | None) -> tuple[Sequence[Row], str | None]:
        return await self._pass("search", "", lambda: self.inner.search(filter, limit=limit, cursor=cursor))

    async def remove(self, execution_id: str) -> bool:
        return await self._pass("remove", execution_id, lambda: self.inner.remove(execution_id))

    async def definition(self, definition_hash: str) -> Blob | None:
        return await self._pass("definition", "", lambda: self.inner.definition(definition_hash))

    async def purge_rows(self, *, before: float, statuses: Collection[str], limit: int) -> int:
        return await self._pass(
            "purge_rows", "", lambda: self.inner.purge_rows(before=before, statuses=statuses, limit=limit)
        )


class WatchedTransaction(StepTransaction):
    """A transaction of a service behind the gate of its store: each statement is a point, and so is its commit."""

    def __init__(self, store: WatchedStore, inner: StepTransaction) -> None:
        self.store = store
        self.inner = inner

    @property
    def exclusive(self) -> bool:  # type: ignore[override]
        return self.inner.exclusive

    @property
    def begun(self) -> bool:  # type: ignore[override]
        return self.inner.begun

    async def execute(self, sql: str, parameters: Sequence[Any]) -> int:
        return await self.store.within("execute", sql, lambda: self.inner.execute(sql, parameters))

    async def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self.store.within("executemany", sql, lambda: self.inner.executemany(sql, rows))

    async def fetch(self, sql: str, parameters: Sequence[Any], *, limit: int | None = None) -> list[Any]:
        return await self.store.within("fetch", sql, lambda: self.inner.fetch(sql, parameters, limit=limit))

    async def ready(self) -> None:
        await self.store.within("ready", "", self.inner.ready)

    async def commit(self, commit: Commit) -> Committed:
        return await self.store.commit_within(self.inner, commit)

    async def rollback(self) -> None:
        await asyncio.shield(self.store.drop(self.inner))


def about(commit: Commit) -> str:
    """What a commit is about: its last entry, where it can be read."""
    told = commit.execution_id
    with suppress(ValueError, RecursionError, AttributeError):
        for _, entry in decoded(commit.entries[-1:]):
            if isinstance(entry, dict):
                told = f"{told}:{entry.get('path', '')} {entry.get('action', '')}"
    return f"{told} release" if commit.release else told


def _hand_on(task: asyncio.Task[Committed], answer: asyncio.Future[Committed]) -> None:
    if answer.done():
        return
    if task.cancelled():
        answer.set_exception(Killed())
    elif (error := task.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    work.close()
    raise RuntimeError("the inner store is not inline: its operations wait")
