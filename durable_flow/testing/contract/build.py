"""Commits and messages for tests of stores, with everything filled in that a test does not care about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from durable_flow import Message, Status, Store
from durable_flow.stores.base import Appended, Blob, Commit, Filter, New, Row, Stored

START = 1_700_000_000.0
"""When every test begins, in epoch seconds."""

ANY = tuple(Status)

POISON = "\ud800"
"""Text that no store can encode: only the commit that carries it may fail."""


class SettableClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Any:
        raise NotImplementedError("no store sets a timer")


def creation(execution_id: str = "e", *, new: dict[str, Any] | None = None, **changes: Any) -> Commit:
    """The first commit of an execution that "me" drives for 30 seconds."""
    facts: dict[str, Any] = {
        "workflow_id": "w",
        "workflow_version": "1.0",
        "definition_hash": "hash",
        "definition": '{"id":"w"}',
        "input": '{"n":1}',
        "created_at": START,
        "root_id": execution_id,
    }
    given: dict[str, Any] = {
        "execution_id": execution_id,
        "owner": "me",
        "generation": 1,
        "version": 0,
        "nonce": "nonce-0",
        "seq": 1,
        "status": "running",
        "current_step": "first",
        "updated_at": START,
        "root": '{"at":"first"}',
        "info": "{}",
        "entries": [(1, '"started"')],
        "lease_ttl": 30.0,
        "new": New(**facts | (new or {})),
    }
    return Commit(**given | changes)


def following(row: Row, **changes: Any) -> Commit:
    """The commit that changes nothing of a row but its version."""
    given: dict[str, Any] = {
        "execution_id": row.id,
        "owner": row.owner,
        "generation": row.generation,
        "version": row.version,
        "nonce": f"nonce-{row.version}",
        "seq": row.seq,
        "status": row.status,
        "current_step": row.current_step,
        "updated_at": row.updated_at + 1,
        "finished_at": row.finished_at,
        "wake_at": row.wake_at,
        "root": row.root,
        "result_seq": row.result_seq,
    }
    return Commit(**given | changes)


async def create(store: Store, execution_id: str = "e", *, new: dict[str, Any] | None = None, **changes: Any) -> Row:
    await store.commit(creation(execution_id, new=new, **changes))
    return await row_of(store, execution_id)


async def idle(store: Store, execution_id: str = "e", *, new: dict[str, Any] | None = None, **changes: Any) -> Row:
    """Creates an execution that nobody drives."""
    return await create(store, execution_id, new=new, **{"lease_ttl": None} | changes)


async def advance(store: Store, execution_id: str = "e", **changes: Any) -> Row:
    await store.commit(following(await row_of(store, execution_id), **changes))
    return await row_of(store, execution_id)


async def row_of(store: Store, execution_id: str = "e") -> Row:
    row = await store.row(execution_id)
    assert row is not None
    return row


async def stored(store: Store, execution_id: str = "e") -> Stored:
    found = await store.fetch(execution_id)
    assert found is not None
    return found


def opening(
    wait_id: str = "wait", needed: int = 1, deadline: float | None = None, *, seq: int = 1, body: Blob = "{}"
) -> Any:
    """A wait as a commit opens it."""
    return wait_id, seq, needed, deadline, body


def message(key: str = "k", *, kind: str = "answer", execution_id: str = "e", **changes: Any) -> Message:
    return Message(kind=kind, execution_id=execution_id, key=key, time=START, **changes)


async def append(store: Store, key: str = "k", *, body: Blob = "{}", **changes: Any) -> Appended:
    return await store.append(message(key, **changes), body)


async def vote(store: Store, key: str, wait_id: str = "wait") -> str:
    return (await append(store, key, wait_id=wait_id, takes=1)).outcome


async def answer(store: Store, key: str = "answer", wait_id: str = "wait") -> str:
    return (await append(store, key, wait_id=wait_id)).outcome


async def timeout(store: Store, wait_id: str = "wait") -> str:
    return (await append(store, f"timeout:{wait_id}", kind="timeout", wait_id=wait_id)).outcome


async def find(store: Store, *, limit: int = 100, cursor: str | None = None, **conditions: Any) -> list[str]:
    rows, _ = await store.search(Filter(**conditions), limit=limit, cursor=cursor)
    return [row.id for row in rows]


async def pages(store: Store, *, limit: int, **conditions: Any) -> Sequence[Sequence[str]]:
    found: list[list[str]] = []
    cursor = None
    while True:
        rows, cursor = await store.search(Filter(**conditions), limit=limit, cursor=cursor)
        found.append([row.id for row in rows])
        if cursor is None:
            return found


def without_lease(row: Row) -> Row:
    return msgspec.structs.replace(row, owner=None, lease_until=None, generation=0)
