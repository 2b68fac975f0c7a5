"""Trying a store again while it cannot be reached: the one place where that is done, above every store.

Reads and what may be done twice are simply repeated. Where the answer of a write was lost, what is in the store tells
whether it landed. Commits are not repeated here: only the engine knows how to recognise its own (by their nonce).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from durable_flow.answers import tells_of
from durable_flow.clock import Clock
from durable_flow.errors import StoreUnavailable
from durable_flow.model.codec import decode_record
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

T = TypeVar("T")

PAGE, SKEW = 500, 3600.0
"""Entries read at once, and seconds by which clocks may differ, where a message is looked for in the trail."""

FIRST, LONGEST = 0.05, 1.0
"""Seconds between two tries: the first pause, and the longest."""


class PatientStore(Store):
    """A store that repeats for `patience` seconds what fails with StoreUnavailable."""

    def __init__(self, store: Store, clock: Clock, *, patience: float) -> None:
        self.store = store
        self.clock = clock
        self.patience = patience
        self._listener: Callable[[str], object] | None = None

    async def insist(self, ask: Callable[[], Awaitable[T]], again: Callable[[], Awaitable[T]] | None = None) -> T:
        """What `ask` gives, or after a failure `again`."""
        end: float | None = None
        pause = FIRST
        while True:
            try:
                return await ask()
            except StoreUnavailable:
                now = self.clock.monotonic()
                end = now + self.patience if end is None else end
                if now + pause > end:
                    raise
            await self.clock.sleep(pause)
            pause = min(pause * 2, LONGEST)
            ask = again or ask

    @property
    def wakes(self) -> bool:  # type: ignore[override]
        return self.store.wakes

    @property
    def alone(self) -> bool:  # type: ignore[override]
        return self.store.alone

    @property
    def sealed(self) -> bool:  # type: ignore[override]
        return self.store.sealed

    @property
    def versions(self) -> tuple[int, int]:  # type: ignore[override]
        return self.store.versions

    def listen(self, listener: Callable[[str], object]) -> Callable[[], None]:
        self._listener = listener
        return self.store.listen(listener)

    def heard(self, execution_id: str, *, but: Callable[[str], object] | None = None) -> None:
        """Something happened here: tells the other runtimes of this process that share the store."""
        self.store.heard(execution_id, but=self._listener)

    async def open(self) -> None:
        await self.store.open()

    async def close(self) -> None:
        await self.store.close()

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        future = self.store.commit(commit)
        if commit.release:
            future.add_done_callback(lambda _: self.heard(commit.execution_id))
        if commit.frees is not None:
            future.add_done_callback(self._called_up)
        return future

    def _called_up(self, landed: asyncio.Future[Committed]) -> None:
        """Who holds a key from now on may be followed here, or driven by a worker of this process."""
        if not landed.cancelled() and landed.exception() is None:
            for execution_id in landed.result().promoted:
                self.store.heard(execution_id)

    def begin(self, *, hold: float) -> StepTransaction:
        return PatientTransaction(lambda: self.store.begin(hold=hold), self.insist)

    async def append(self, message: Message, body: Blob) -> Appended:
        async def again() -> Appended:
            appended = await self.store.append(message, body)
            if appended.outcome != "accepted" and (
                await self._has(message.execution_id, body) or await self._told(message)
            ):
                return Appended(outcome="accepted", owner=appended.owner, lease_until=appended.lease_until)
            return appended

        appended = await self.insist(lambda: self.store.append(message, body), again)
        self.heard(message.execution_id)
        return appended

    async def _has(self, execution_id: str, body: Blob) -> bool:
        """Whether this very message (its time is in it) is in the inbox."""
        return any(found == body for _, found in await self.store.inbox(execution_id))

    async def _told(self, message: Message) -> bool:
        """Whether this very answer was taken from the inbox since: the last entries tell of it then."""
        row = await self.insist(lambda: self.store.row(message.execution_id))
        if row is None or message.kind != "answer":
            return False
        for after in range(row.seq - PAGE, -PAGE, -PAGE):
            found = await self.store.read(row.id, after=max(0, after), limit=PAGE + min(0, after))
            records = [decode_record(blob, execution_id=row.id) for _, blob in found]
            if any(tells_of(record, message) for record in records):
                return True
            if not records or records[0].time < message.time - SKEW:
                break
        return False

    async def claim(
        self, execution_id: str, *, owner: str, ttl: float, statuses: Collection[str]
    ) -> Stored | Busy | None:
        return await self.insist(lambda: self.store.claim(execution_id, owner=owner, ttl=ttl, statuses=statuses))

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
        return await self.store.take(
            owner, ttl=ttl, limit=limit, queues=queues, without=without, room=room
        )  # tried again soon

    async def next_due(
        self,
        *,
        queues: Collection[str | None] | None = None,
        without: Collection[str] = (),
        room: Mapping[str, int] | None = None,
    ) -> float | None:
        return await self.store.next_due(queues=queues, without=without, room=room)

    async def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        changed = await self.insist(lambda: self.store.set_queue(queue, setting, value))
        self.heard("")
        return changed

    async def queues(self, names: Collection[str | None] | None = None) -> Mapping[str | None, QueueRow]:
        return await self.insist(lambda: self.store.queues(names))

    async def line(self, key: str) -> Sequence[InLine]:
        return await self.insist(lambda: self.store.line(key))

    async def mark(self, mark: Mark) -> bool:
        async def again() -> bool:
            return await self._has_mark(mark) or await self.store.mark(mark) or await self._has_mark(mark)

        changed = await self.insist(lambda: self.store.mark(mark), again)
        self.heard("")
        return changed

    async def _has_mark(self, mark: Mark) -> bool:
        """Whether a mark of which nobody knows what became of it landed. What deletes leaves no trace: of that it is
        enough that the record is gone."""
        _, rows = await self.store.schedules(workflows=[mark.workflow_id])
        found = next((row.nonce for row in rows if row.id == mark.schedule_id), None)
        return found == (None if mark.body is None else mark.nonce)

    async def schedules(
        self, *, workflows: Collection[str] | None = None, limit: int | None = None
    ) -> tuple[float, Sequence[ScheduleRow]]:
        return await self.insist(lambda: self.store.schedules(workflows=workflows, limit=limit))

    async def renew(self, owner: str, *, ttl: float) -> Mapping[str, int]:
        return await self.store.renew(owner, ttl=ttl)  # the heart beats again soon

    async def release(self, execution_id: str, *, owner: str, generation: int) -> None:
        await self.insist(lambda: self.store.release(execution_id, owner=owner, generation=generation))

    async def present(self) -> float:
        return await self.store.present()

    async def mail(self, owner: str) -> Sequence[str]:
        return await self.store.mail(owner)

    async def inbox(self, execution_id: str) -> Sequence[tuple[int, Blob]]:
        return await self.insist(lambda: self.store.inbox(execution_id))

    async def row(self, execution_id: str) -> Row | None:
        return await self.insist(lambda: self.store.row(execution_id))

    async def fetch(self, execution_id: str) -> Stored | None:
        return await self.insist(lambda: self.store.fetch(execution_id))

    async def read(
        self, execution_id: str, *, after: int = 0, limit: int | None = None, seqs: Sequence[int] | None = None
    ) -> Sequence[tuple[int, Blob]]:
        return await self.insist(lambda: self.store.read(execution_id, after=after, limit=limit, seqs=seqs))

    async def search(self, filter: Filter, *, limit: int, cursor: str | None) -> tuple[Sequence[Row], str | None]:
        return await self.insist(lambda: self.store.search(filter, limit=limit, cursor=cursor))

    async def remove(self, execution_id: str) -> bool:
        return await self.store.remove(execution_id)

    async def definition(self, definition_hash: str) -> Blob | None:
        return await self.insist(lambda: self.store.definition(definition_hash))

    async def purge_rows(self, *, before: float, statuses: Collection[str], limit: int) -> int:
        return await self.insist(lambda: self.store.purge_rows(before=before, statuses=statuses, limit=limit))


class PatientTransaction(StepTransaction):
    """A transaction of a service whose first statement is repeated, in a new transaction: until then nothing has
    happened. What comes later cannot be repeated here: only the service knows what it executed before."""

    def __init__(
        self, make: Callable[[], StepTransaction], insist: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
    ) -> None:
        self._make = make
        self._insist = insist
        self._inner = make()
        self._over = False

    @property
    def exclusive(self) -> bool:  # type: ignore[override]
        return self._inner.exclusive

    @property
    def begun(self) -> bool:  # type: ignore[override]
        return self._inner.begun

    async def execute(self, sql: str, parameters: Sequence[Any]) -> int:
        return await self._ask(lambda: self._inner.execute(sql, parameters))

    async def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._ask(lambda: self._inner.executemany(sql, rows))

    async def fetch(self, sql: str, parameters: Sequence[Any], *, limit: int | None = None) -> list[Any]:
        return await self._ask(lambda: self._inner.fetch(sql, parameters, limit=limit))

    async def _ask(self, work: Callable[[], Awaitable[T]]) -> T:
        if self._inner.begun:
            return await work()

        async def begin() -> T:
            try:
                return await work()
            except StoreUnavailable:
                await self._inner.rollback()
                if not self._over:
                    self._inner = self._make()
                raise

        first: T = await self._insist(begin)
        return first

    async def ready(self) -> None:
        await self._inner.ready()

    async def commit(self, commit: Commit) -> Committed:
        return await self._inner.commit(commit)

    async def rollback(self) -> None:
        self._over = True
        await self._inner.rollback()
