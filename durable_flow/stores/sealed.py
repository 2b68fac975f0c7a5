"""Any store, with all user data in it encoded by a `Codec`: encrypted, as a rule.

What is user data and what stays readable is listed in docs/encryption.md: a store finds, orders, fences and leases by
the rest, so that must stay as it is.

Every value is bound to its place by the context the codec gets: the execution's id, a blank (ids have none) and the
part. Messages are bound to the execution they are for, definitions to their hash. What cannot be opened becomes a
blob that nobody can decode and that knows why: so a listing goes on past it, and whoever needs it gets CorruptState.
Such a blob is never written back.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from durable_flow.clock import Clock
from durable_flow.codec import Codec
from durable_flow.errors import ConfigError, CorruptState, StoreError, StoreUnavailable
from durable_flow.model.codec import SEALED, Unopened
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
    New,
    QueueRow,
    QueueSetting,
    Row,
    ScheduleRow,
    StepTransaction,
    Store,
    Stored,
)

TEXT, BYTES = b"t", b"b"
"""The first byte of what a codec gets: what comes back is of the type that was stored."""


class SealedStore(Store):
    """A store around `store`. Nothing but this should use the inner one meanwhile, apart from `remove` and the like."""

    sealed = True

    def __init__(self, store: Store, codec: Codec) -> None:
        if not isinstance(codec, Codec):
            raise ConfigError(f"a codec has encode and decode, which {type(codec).__name__} has not")
        if isinstance(store, SealedStore):
            raise ConfigError(f"{store!r} has a codec already; give it to the store or to the Runtime, not to both")
        self.store = store
        self.codec = codec
        self._accept_plain = getattr(codec, "accept_plain", False) is True

    def __repr__(self) -> str:
        return f"SealedStore({self.store!r})"

    # -- what is the inner store's ------------------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        return self.store.clock

    @clock.setter
    def clock(self, clock: Clock) -> None:
        self.store.clock = clock

    @property
    def wakes(self) -> bool:  # type: ignore[override]
        return self.store.wakes

    @property
    def alone(self) -> bool:  # type: ignore[override]
        return self.store.alone

    @property
    def versions(self) -> tuple[int, int]:  # type: ignore[override]
        return self.store.versions

    def listen(self, listener: Callable[[str], object]) -> Callable[[], None]:
        return self.store.listen(listener)

    def heard(self, execution_id: str, *, but: Callable[[str], object] | None = None) -> None:
        self.store.heard(execution_id, but=but)

    async def open(self) -> None:
        await self.store.open()

    async def close(self) -> None:
        await self.store.close()

    async def line(self, key: str) -> Sequence[InLine]:
        return await self.store.line(key)

    async def renew(self, owner: str, *, ttl: float) -> Mapping[str, int]:
        return await self.store.renew(owner, ttl=ttl)

    async def release(self, execution_id: str, *, owner: str, generation: int) -> None:
        await self.store.release(execution_id, owner=owner, generation=generation)

    async def present(self) -> float:
        return await self.store.present()

    async def mail(self, owner: str) -> Sequence[str]:
        return await self.store.mail(owner)

    async def remove(self, execution_id: str) -> bool:
        return await self.store.remove(execution_id)

    async def purge_rows(self, *, before: float, statuses: Collection[str], limit: int) -> int:
        return await self.store.purge_rows(before=before, statuses=statuses, limit=limit)

    # -- writing ------------------------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        try:
            sealed = self._sealed(commit)
        except StoreError as error:
            failed: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed
        return self.store.commit(sealed)

    def _sealed(self, commit: Commit) -> Commit:
        name, seal = commit.execution_id, self._seal
        return replace(
            commit,
            root=seal(commit.root, name, "root"),
            info=None if commit.info is None else seal(commit.info, name, "info"),
            entries=[(seq, seal(body, name, f"entry {seq}")) for seq, body in commit.entries],
            frames=[
                (path, out, None if body is None else seal(body, name, f"frame {path}"))
                for path, out, body in commit.frames
            ],
            opened=[(*opened[:4], seal(opened[4], name, "wait")) for opened in commit.opened],
            rewritten=[(wait_id, seal(body, name, "wait")) for wait_id, body in commit.rewritten],
            messages=[
                (_envelope(message), seal(body, message.execution_id, "message")) for message, body in commit.messages
            ],
            new=None if commit.new is None else self._new(commit.new, name),
            definition=None if commit.definition is None else self._definition(*commit.definition),
            input=None if commit.input is None else seal(commit.input, name, "input"),
            mark=None if commit.mark is None else self._mark(commit.mark),
        )

    def _mark(self, mark: Mark) -> Mark:
        document = mark.definition
        return replace(
            mark,
            body=None if mark.body is None else self._seal(mark.body, mark.schedule_id, "schedule"),
            definition=None if document is None else self._seal(document, mark.definition_hash, "definition"),
        )

    def _definition(self, digest: str, version: str, document: Blob) -> tuple[str, str, Blob]:
        return digest, version, self._seal(document, digest, "definition")

    def _new(self, new: New, name: str) -> New:
        return replace(
            new,
            definition=self._seal(new.definition, new.definition_hash, "definition"),
            input=self._seal(new.input, name, "input"),
        )

    def begin(self, *, hold: float) -> StepTransaction:
        return SealedTransaction(self.store.begin(hold=hold), self._sealed)

    async def append(self, message: Message, body: Blob) -> Appended:
        name = message.execution_id
        keeps_key = False
        if self._accept_plain and message.kind == "answer":
            # An execution that began before there was a codec has answers under keys as they are: with another key
            # the same person could answer again.
            row = await self.store.row(name)
            keeps_key = row is not None and not _is_sealed(row.input)
        return await self.store.append(_envelope(message, keeps_key=keeps_key), self._seal(body, name, "message"))

    def _seal(self, blob: Blob, name: str, part: str) -> bytes:
        if isinstance(blob, Unopened):
            raise CorruptState(name, f"{part}: {blob.reason}")
        try:
            data = TEXT + blob.encode() if isinstance(blob, str) else BYTES + blob
            return SEALED + self.codec.encode(data, context=f"{name} {part}")
        except StoreError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise StoreError(f"the codec could not encode {part} of execution {name!r}: {what}") from error

    # -- reading ------------------------------------------------------------------------------------------------------

    async def claim(
        self, execution_id: str, *, owner: str, ttl: float, statuses: Collection[str]
    ) -> Stored | Busy | None:
        found = await self.store.claim(execution_id, owner=owner, ttl=ttl, statuses=statuses)
        return self._opened(found) if isinstance(found, Stored) else found

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
        taken = await self.store.take(owner, ttl=ttl, limit=limit, queues=queues, without=without, room=room)
        return [self._opened(stored) for stored in taken]

    async def next_due(
        self,
        *,
        queues: Collection[str | None] | None = None,
        without: Collection[str] = (),
        room: Mapping[str, int] | None = None,
    ) -> float | None:
        return await self.store.next_due(queues=queues, without=without, room=room)

    async def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        if setting == "hold" and value is not None:
            value = self._seal(value, queue or "", "hold")
        return await self.store.set_queue(queue, setting, value)

    async def queues(self, names: Collection[str | None] | None = None) -> Mapping[str | None, QueueRow]:
        return {
            queue: row if row.hold is None else replace(row, hold=self._open(row.hold, queue or "", "hold"))
            for queue, row in (await self.store.queues(names)).items()
        }

    async def mark(self, mark: Mark) -> bool:
        return await self.store.mark(self._mark(mark))

    async def schedules(
        self, *, workflows: Collection[str] | None = None, limit: int | None = None
    ) -> tuple[float, Sequence[ScheduleRow]]:
        now, rows = await self.store.schedules(workflows=workflows, limit=limit)
        return now, [replace(row, body=self._open(row.body, row.id, "schedule")) for row in rows]

    async def inbox(self, execution_id: str) -> Sequence[tuple[int, Blob]]:
        return self._messages(execution_id, await self.store.inbox(execution_id))

    async def row(self, execution_id: str) -> Row | None:
        row = await self.store.row(execution_id)
        return None if row is None else self._row(row)

    async def fetch(self, execution_id: str) -> Stored | None:
        stored = await self.store.fetch(execution_id)
        return None if stored is None else self._opened(stored)

    async def read(
        self, execution_id: str, *, after: int = 0, limit: int | None = None, seqs: Sequence[int] | None = None
    ) -> Sequence[tuple[int, Blob]]:
        entries = await self.store.read(execution_id, after=after, limit=limit, seqs=seqs)
        return [(seq, self._open(body, execution_id, f"entry {seq}")) for seq, body in entries]

    async def search(self, filter: Filter, *, limit: int, cursor: str | None) -> tuple[Sequence[Row], str | None]:
        rows, next_cursor = await self.store.search(filter, limit=limit, cursor=cursor)
        return [self._row(row) for row in rows], next_cursor

    async def definition(self, definition_hash: str) -> Blob | None:
        blob = await self.store.definition(definition_hash)
        if blob is None:
            return None
        if not _is_sealed(blob) and _digest(blob) == definition_hash:
            return blob  # stored by somebody without the codec, and its hash says that it is the right one
        return self._open(blob, definition_hash, "definition")

    def _opened(self, stored: Stored) -> Stored:
        name = stored.row.id
        return replace(
            stored,
            row=self._row(stored.row),
            frames=[(path, self._open(body, name, f"frame {path}")) for path, body in stored.frames],
            entries={seq: self._open(body, name, f"entry {seq}") for seq, body in stored.entries.items()},
            inbox=self._messages(name, stored.inbox),
        )

    def _row(self, row: Row) -> Row:
        name, opened = row.id, self._open
        return replace(
            row,
            input=opened(row.input, name, "input"),
            root=opened(row.root, name, "root"),
            info=opened(row.info, name, "info"),
            result=None if row.result is None else opened(row.result, name, f"entry {row.result_seq}"),
            waits=[opened(body, name, "wait") for body in row.waits],
        )

    def _messages(self, name: str, inbox: Sequence[tuple[int, Blob]]) -> list[tuple[int, Blob]]:
        return [(number, self._open(body, name, "message")) for number, body in inbox]

    def _open(self, blob: Blob, name: str, part: str) -> Blob:
        if not _is_sealed(blob):
            if self._accept_plain or not blob:
                return blob
            return Unopened.because(
                "it is not encrypted, though this store has a codec: where that is because it was stored before there "
                "was one, let the codec accept_plain"
            )
        try:
            data = self.codec.decode(bytes(blob[len(SEALED) :]), context=f"{name} {part}")  # type: ignore[arg-type]
            return data[1:].decode() if data[:1] == TEXT else data[1:]
        except StoreUnavailable:
            raise
        except Exception as error:  # whatever a codec raises, it must not break a listing
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            return Unopened.because(reason or type(error).__name__)


class SealedTransaction(StepTransaction):
    """A transaction in which the commit is sealed. What a service executes in it is the service's own."""

    def __init__(self, inner: StepTransaction, seal: Callable[[Commit], Commit]) -> None:
        self.inner = inner
        self.seal = seal

    @property
    def exclusive(self) -> bool:  # type: ignore[override]
        return self.inner.exclusive

    @property
    def begun(self) -> bool:  # type: ignore[override]
        return self.inner.begun

    async def execute(self, sql: str, parameters: Sequence[Any]) -> int:
        return await self.inner.execute(sql, parameters)

    async def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self.inner.executemany(sql, rows)

    async def fetch(self, sql: str, parameters: Sequence[Any], *, limit: int | None = None) -> list[Any]:
        return await self.inner.fetch(sql, parameters, limit=limit)

    async def ready(self) -> None:
        await self.inner.ready()

    async def commit(self, commit: Commit) -> Committed:
        try:
            sealed = self.seal(commit)
        except StoreError:
            await self.inner.rollback()
            raise
        return await self.inner.commit(sealed)

    async def rollback(self) -> None:
        await self.inner.rollback()


def _is_sealed(blob: Blob) -> bool:
    return isinstance(blob, bytes) and blob.startswith(SEALED)


def _digest(blob: Blob) -> str:
    return hashlib.sha256(blob.encode() if isinstance(blob, str) else blob).hexdigest()


def _envelope(message: Message, *, keeps_key: bool = False) -> Message:
    """What the store must know of a message. The key of an answer has the name of the person in it: its hash does as
    well, and stays the same whatever becomes of the codec's keys."""
    key = message.key
    if message.kind == "answer" and not keeps_key:
        key = hashlib.sha256(f"{message.execution_id} {key}".encode()).hexdigest()
    return replace(message, key=key, actor=None, body={})
