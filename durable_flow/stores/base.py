"""The store contract, and what every store shares above it.

A store keeps five things: **rows** (one per execution: status, position, lease), **frames** and **variables** (what an
execution needs to go on; a variable is a pointer to the entry that holds its value, so a value is written once),
**entries** (the audit trail, append-only, numbered 1..n per execution) and **inboxes** (messages to the owner of an
execution). It sees user data only as encoded text: encoding, ids, and what to do about lost answers live above it.

The rules a store must keep, in words:

* *Atomic.* Everything in one `Commit` becomes visible and durable together or not at all; so does one `append`.
* *Durable before answered.* The future of `commit` is done only when the data would survive a power cut.
* *Fenced.* A commit applies only if the row has exactly the commit's `generation` and `version`; otherwise nothing of
  it is written and its future raises `LeaseLost`. Other commits of the same batch are not affected.
* *One owner.* `claim` gives the lease only where nobody holds an unexpired one, by the store's own time, and raises
  the generation in the same statement.
* *First answer wins.* `append` of an answer takes its part of the wait in the same statement that checks that the wait
  is open, in time, and not yet answered under the same key.
* *No lost wake-up.* A commit with `release` gives the lease back only if the inbox is empty apart from what it
  consumes; otherwise it keeps it and says so. So a message is always seen: by the owner, or by an appender who finds
  no owner and claims.
* *Ordered.* Messages of one execution are read in the order they were appended; entries in the order of `seq`;
  `search` newest first.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import msgspec

from durable_flow.clock import Clock, SystemClock
from durable_flow.model.execution import Entry, Execution, Status
from durable_flow.model.frame import Message

Blob = str | bytes
"""Encoded user data: JSON text, or bytes where a codec encrypts it."""


class New(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a row that never change after it was created. Times are epoch seconds."""

    workflow_id: str
    workflow_version: str
    definition_hash: str
    definition: Blob
    input: Blob
    created_at: float
    parent_id: str | None = None
    root_id: str
    labels: Mapping[str, str] = {}
    trigger: str = "api"
    queue: str | None = None
    priority: int = 5
    concurrency_key: str | None = None


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One or more transitions of one execution, encoded.

    `version` is the one the row must have (0: the row must not exist, and `new` describes it); it has `version + 1`
    afterwards. `seq` is the number of the last entry, `result_seq` of the entry that holds the result.
    `info` is the part of the header that changes rarely (None: unchanged). `frames` are (path, seq of its output, body;
    no body: deleted), `sets` (frame path, name, seq of the entry with the value; 0: deleted). `dropped` are step paths:
    every frame and variable whose frame path begins with the step path followed by ``[`` or ``/`` goes, before
    `frames` and `sets` are written. `opened` are waits (id, answers needed, deadline), `consumed` ids of inbox rows.
    `messages` go to other executions' inboxes; one to an unknown execution is skipped.
    `lease_until` (with `new` only) and `owner` give the created row its first lease.
    """

    execution_id: str
    owner: str | None
    generation: int
    version: int
    nonce: str
    seq: int
    status: str
    current_step: str | None
    updated_at: float
    finished_at: float | None = None
    wake_at: float | None = None
    root: Blob
    info: Blob | None = None
    result_seq: int | None = None
    entries: Sequence[tuple[int, Blob]] = ()
    frames: Sequence[tuple[str, int | None, Blob | None]] = ()
    sets: Sequence[tuple[str, str, int]] = ()
    dropped: Sequence[str] = ()
    opened: Sequence[tuple[str, int, float | None]] = ()
    closed: Sequence[str] = ()
    consumed: Sequence[int] = ()
    messages: Sequence[tuple[Message, Blob]] = ()
    release: bool = False
    lease_until: float | None = None
    new: New | None = None


class Committed(msgspec.Struct, frozen=True):
    """What a commit left behind. `released` is False where `release` was asked and the inbox holds unread messages."""

    released: bool = False


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A stored row: what `New` and the last `Commit` wrote, and its lease. `result` is the encoded entry of `result_seq`."""

    id: str
    workflow_id: str
    workflow_version: str
    definition_hash: str
    status: str
    version: int
    generation: int
    nonce: str
    seq: int
    current_step: str | None
    owner: str | None
    lease_until: float | None
    wake_at: float | None
    recoveries: int
    input: Blob
    root: Blob
    info: Blob
    result_seq: int | None
    result: Blob | None
    parent_id: str | None
    root_id: str
    labels: Mapping[str, str]
    trigger: str
    queue: str | None
    priority: int
    concurrency_key: str | None
    created_at: float
    updated_at: float
    finished_at: float | None


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to go on with an execution. `entries` are those that frames and variables point to, by seq.

    `inbox` are the unread messages, oldest first, as (inbox id, encoded message).
    """

    row: Row
    frames: Sequence[tuple[str, Blob]]
    sets: Sequence[tuple[str, str, int]]
    entries: Mapping[int, Blob]
    inbox: Sequence[tuple[int, Blob]]


class Busy(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `claim` where it is not to be had: who holds the lease until when, or the status it has instead."""

    status: str
    owner: str | None
    lease_until: float | None


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a message. `outcome` is accepted, closed (the wait is over or out of time), duplicate (the same
    key is there) or unknown (no such execution). `owner` and `lease_until` are the row's, read in the same statement."""

    outcome: str
    owner: str | None = None
    lease_until: float | None = None


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows `search` returns: all that match every given condition. Times are epoch seconds, exclusive."""

    workflow_id: str | None = None
    statuses: Sequence[str] | None = None
    labels: Mapping[str, str] = {}
    parent_id: str | None = None
    created_after: float | None = None
    created_before: float | None = None


class Page(list[Execution]):
    """A list of executions, newest first. `next_cursor` fetches the next page; None on the last one."""

    next_cursor: str | None

    def __init__(self, items: Sequence[Execution] = (), *, next_cursor: str | None = None) -> None:
        super().__init__(items)
        self.next_cursor = next_cursor


class Store(ABC):
    """What a store must do (the abstract methods), and what users call (the others).

    Open it with ``async with`` (or hand the unopened store to a Runtime). Closing twice is allowed.
    """

    clock: Clock = SystemClock()

    # -- the contract -------------------------------------------------------------------------------------------------

    @abstractmethod
    async def open(self) -> None:
        """Connects, and creates or migrates the schema under a lock. Raises SchemaTooNew before writing anything."""

    @abstractmethod
    async def close(self) -> None:
        """Finishes what is under way and lets go of every thread, connection and file. May be called twice."""

    @abstractmethod
    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        """Starts to write; commits of concurrent executions share one transaction.

        The future raises LeaseLost (fenced), ConflictError (the row to create exists already) or StoreUnavailable (the
        outcome is unknown: read the row's nonce). Cancelling who waits for it does not cancel the write.
        """

    @abstractmethod
    async def append(self, message: Message, body: Blob) -> Appended:
        """Puts a message into an inbox, if its wait is open and nothing with its key is there."""

    @abstractmethod
    async def claim(self, execution_id: str, *, owner: str, ttl: float, statuses: Collection[str]) -> Stored | Busy | None:
        """Takes the lease for `ttl` seconds if it is free or expired and the row has one of `statuses`; None: no such
        row. Where a previous owner let its lease expire, `recoveries` goes up; every commit sets it back to 0."""

    @abstractmethod
    async def renew(self, owner: str, *, ttl: float) -> Mapping[str, int]:
        """Extends every lease of this owner in one statement; the ids it holds, with their generations."""

    @abstractmethod
    async def release(self, execution_id: str, *, owner: str, generation: int) -> None:
        """Gives the lease back as it is; does nothing if it is no longer held."""

    @abstractmethod
    async def mail(self, owner: str) -> Sequence[str]:
        """Which executions of this owner have unread messages."""

    @abstractmethod
    async def inbox(self, execution_id: str) -> Sequence[tuple[int, Blob]]:
        """The unread messages, oldest first."""

    @abstractmethod
    async def row(self, execution_id: str) -> Row | None:
        """One row."""

    @abstractmethod
    async def fetch(self, execution_id: str) -> Stored | None:
        """One row with all that is needed to go on with it, as of one moment."""

    @abstractmethod
    async def read(self, execution_id: str, *, after: int = 0, limit: int | None = None, seqs: Sequence[int] | None = None
                   ) -> Sequence[tuple[int, Blob]]:
        """Entries in order: those behind `after`, or exactly `seqs`."""

    @abstractmethod
    async def search(self, filter: Filter, *, limit: int, cursor: str | None) -> tuple[Sequence[Row], str | None]:
        """Rows newest first (created_at, then id, both descending), through indexes, and the cursor of the next page.
        A cursor stays valid while rows come and go. A cursor that is not one raises ValidationError."""

    @abstractmethod
    async def remove(self, execution_id: str) -> bool:
        """Deletes everything of an execution in one transaction, unless somebody holds its lease (ConflictError)."""

    @abstractmethod
    async def definition(self, definition_hash: str) -> Blob | None:
        """The document that was stored under this hash."""

    @abstractmethod
    async def purge_rows(self, *, before: float, statuses: Collection[str], limit: int) -> int:
        """Deletes at most `limit` executions that ended before; how many there were. One transaction a call."""

    # -- what users call ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
