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
* *Nothing is left lying.* An execution that is not over is *due* when somebody must look at it: with an owner when the
  lease runs out, without one at its `wake_at` (halted), at its `wake_at` or at once (pending), at once (running).
  `take` finds those that are due by an index.
* *What is pending begins at its time.* One whose `wake_at` is still to come is neither taken nor claimed, and of all
  messages only one of kind `cancel` makes it due.
* *A key is held by so many.* What `slot` says is judged and done in the commit that says it: of the executions in the
  line of a key at most so many hold it as the limit of each that was let in says, the others wait, pending, with a
  `wake_at` of `NEVER`, in the order in which they came. Whoever holds it keeps it until a commit that `frees` it, or
  until it is removed; in the same transaction those who are next hold it, and are due.
* *A held queue begins nothing.* While a queue is held back, `take` takes no pending execution of it; what began goes
  on.
* *Limits say how much begins.* An execution is *under way* when it is not over, somebody owns it or it is running, it
  is in a queue with a name, and it is no child: a tree counts once, by its root. `take` begins no pending execution
  where as many of its queue are under way as may be, nor where as many as may were begun within the period, by the
  store's time; two takers at once do not, either. What goes on is taken whatever the limits say: what began, what was
  taken before and lost, and children, for whom somebody waits.
* *Time closes a wait once.* `claim` and `take` close every open wait whose deadline has passed, and whoever drives the
  execution finds it in `late` until a commit takes the wait away; an answer that comes afterwards is too late.
* *No lost wake-up.* A commit with `release` gives the lease back only if the inbox is empty apart from what it
  consumes; otherwise it keeps it and says so. So a message is always seen: by the owner, or by an appender who finds
  no owner and claims.
* *A tick counts once.* The record of a schedule changes only through a `Mark`, which applies only if the record has
  exactly the nonce it expects; a commit that carries one applies only together with it. Whoever deletes and makes a
  record again gives it a nonce nobody had before.
* *Ordered.* Messages of one execution are read in the order they were appended; entries in the order of `seq`;
  `search` newest first.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from durable_flow.clock import Clock, SystemClock, moment
from durable_flow.errors import ConflictError, CorruptState, ExecutionNotFound, StepError, ValidationError
from durable_flow.ids import token_hex
from durable_flow.limits import Limits
from durable_flow.model.codec import Info, decode_info, decode_record, decode_value, decode_wait, encode, value_of
from durable_flow.model.execution import Action, AnyWait, ApprovalWait, Entry, ErrorInfo, Execution, HaltWait, Status
from durable_flow.model.frame import Frame, Message, Record
from durable_flow.model.mask import redact, secret_texts
from durable_flow.model.trace import check_traceparent
from durable_flow.model.value import normalise

STATUSES = frozenset(status.value for status in Status)

NEVER = math.inf
"""The `wake_at` of a pending execution that waits until it holds its key."""

Blob = str | bytes
"""Encoded user data: JSON text, or bytes where a codec encrypts it."""


class New(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a row that no ordinary commit changes. Times are epoch seconds."""

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


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the line of a `key`, of whom `limit` may hold it at once. Where that many do, or others wait already,
    the execution waits for its turn if `waits`, else its commit is refused with KeyTaken.

    With `known` it is refused as well where anybody is in that line who is not among these. With `until_begun` only
    those count who are pending and whom nobody has taken up: others leave the line."""

    key: str
    limit: int = 1
    waits: bool = False
    known: Sequence[str] | None = None
    until_begun: bool = False


class InLine(msgspec.Struct, frozen=True):
    """An execution in the line of a key, and whether it `holds` it (else it waits for that)."""

    execution_id: str
    holds: bool


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A change to the record of a schedule: it applies only if that has the nonce `expected` (None: there must be no
    record), and has `nonce` afterwards. Without a body the record is deleted.

    `due` is when somebody must look at it, in epoch seconds (None: nobody need); `awaits` is an execution after whose
    end, or deletion, somebody must look at once. As long as the record has `definition_hash`, the document under it is
    kept; `definition` is that document, where it may not be there yet.
    """

    schedule_id: str
    workflow_id: str
    expected: str | None
    nonce: str
    due: float | None = None
    awaits: str | None = None
    definition_hash: str = ""
    definition: Blob | None = None
    body: Blob | None = None


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a schedule as its last `Mark` left it. Where the execution it awaits is over, `due` is 0."""

    id: str
    workflow_id: str
    nonce: str
    due: float | None
    awaits: str | None
    definition_hash: str
    body: Blob


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One or more transitions of one execution, encoded.

    `version` is the one the row must have (0: the row must not exist, and `new` describes it); it has `version + 1`
    afterwards. `seq` is the number of the last entry, `result_seq` of the entry that holds the result.
    `info` is the part of the header that changes rarely (None: unchanged). `frames` are (path, seq of its output, body;
    no body: deleted), `sets` (frame path, name, seq of the entry with the value; 0: deleted). `dropped` are step paths:
    every frame and variable whose frame path begins with the step path followed by ``[`` or ``/`` goes, before
    `frames` and `sets` are written. `closed` waits go first; `opened` are waits (id, seq of the entry that opened it,
    answers needed, deadline, body) and replace one with the same id; `rewritten` are open waits (id, body) that only
    get another body. `consumed` are ids of inbox rows. `messages` go to other executions' inboxes; one that `append`
    would not accept is skipped. With `new`, `lease_ttl` gives the created row its first lease, of so many seconds by
    the store's time; None: nobody owns it. `definition`, which does not come with `new`, is another one that the
    execution has from now on, as (hash, version, document); those it had before stay as long as it does. `input`,
    which does not come with `new`, is another input that it has from now on.

    `slot` is what the execution needs to be let in: with `new`, or where one that was over goes on. If it has to wait,
    it is written with a `wake_at` of `NEVER`. `frees` is the key of the line that the execution leaves.
    With a `mark`, which only comes with `new` and expects a nonce, the execution is created only if that applies, and
    the other way round.
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
    opened: Sequence[tuple[str, int, int, float | None, Blob]] = ()
    rewritten: Sequence[tuple[str, Blob]] = ()
    closed: Sequence[str] = ()
    consumed: Sequence[int] = ()
    messages: Sequence[tuple[Message, Blob]] = ()
    release: bool = False
    lease_ttl: float | None = None
    new: New | None = None
    definition: tuple[str, str, Blob] | None = None
    input: Blob | None = None
    slot: Slot | None = None
    frees: str | None = None
    mark: Mark | None = None


class Committed(msgspec.Struct, frozen=True):
    """What a commit left behind. `released` is False where `release` was asked and the inbox holds unread messages.
    `promoted` are executions that hold their key from now on, and are due."""

    released: bool = False
    promoted: Sequence[str] = ()


class Landing(asyncio.Future[Committed]):
    """The future of a commit under way. Cancelling it does nothing: a cancelled task hears of its cancellation when the
    commit has landed, and finds out what became of it."""

    def cancel(self, msg: object = None) -> bool:
        return False


class StepTransaction(ABC):
    """A transaction on a connection of its own, for what a service executes and the transition of its step.

    It begins with its first statement: a StepTransaction that nobody used has to be neither committed nor rolled back.
    Statements come one at a time. What is wrong with one is raised as the driver raises it; StoreUnavailable means that
    the connection is gone. `rollback` may come at any time, also while a statement is under way, and more than once.

    `begun` says whether there is anything to commit or to roll back. `exclusive` says that nobody can write to the
    store meanwhile: then no commit of the same execution may be under way.
    """

    exclusive: bool = False
    begun: bool = False

    @abstractmethod
    async def execute(self, sql: str, parameters: Sequence[Any]) -> int:
        """Executes one statement; how many rows it was about."""

    @abstractmethod
    async def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Executes one statement for each tuple of parameters."""

    @abstractmethod
    async def fetch(self, sql: str, parameters: Sequence[Any], *, limit: int | None = None) -> list[Any]:
        """The rows of a query, at most `limit`."""

    @abstractmethod
    async def ready(self) -> None:
        """Nothing more will be executed. Raises what would only come out in `commit` and is the statements' fault."""

    @abstractmethod
    async def commit(self, commit: Commit) -> Committed:
        """Writes the commit, fence and all, and then commits both. Raises LeaseLost (fenced: all is rolled back) or
        StoreUnavailable (the outcome is unknown: read the row's nonce). Whatever happens, the connection is let go."""

    @abstractmethod
    async def rollback(self) -> None:
        """Takes everything back and lets the connection go."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A stored row: what `New` and the last `Commit` wrote, and its lease. `result` is the entry of `result_seq`,
    `waits` are the bodies of its open waits by the seq of their opening (and by id where that is the same)."""

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
    waits: Sequence[Blob]
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

    `inbox` are the unread messages, oldest first, as (inbox id, encoded message). `late` are the ids of waits that a
    claim closed because their time was up, and that no commit has taken away since.
    """

    row: Row
    frames: Sequence[tuple[str, Blob]]
    sets: Sequence[tuple[str, str, int]]
    entries: Mapping[int, Blob]
    inbox: Sequence[tuple[int, Blob]]
    late: Sequence[str] = ()


class Busy(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `claim` where it is not to be had: who holds the lease until when, or the status it has instead."""

    status: str
    owner: str | None
    lease_until: float | None


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a message. `outcome` is accepted, closed (the wait or the execution is over, or time is),
    duplicate (the same key is there) or unknown (no such execution). `owner` and `lease_until` are the row's, read at
    once."""

    outcome: str
    owner: str | None = None
    lease_until: float | None = None


class QueueLimits(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How many executions of a queue may be under way at once, and how many may begin within `period` seconds; None:
    any number. Stores keep it as the text that `encode` makes of it.

    >>> encode(QueueLimits(concurrency=5, rate=100, period=60.0))
    '[5,100,60.0]'
    """

    concurrency: int | None = None
    rate: int | None = None
    period: float = 1.0


UNLIMITED = QueueLimits()

decode_limits = msgspec.json.Decoder(QueueLimits).decode


class QueueRow(msgspec.Struct, frozen=True, kw_only=True):
    """A queue: what `set_queue` has set of it (see there), and how many executions are in it.

    `pending` are those that wait to be taken, `under_way` those that the limits count, and, of executions without a
    queue, those that would be counted if that were one.
    """

    hold: Blob | None = None
    declared: str | None = None
    decided: str | None = None
    pending: int = 0
    under_way: int = 0

    @property
    def limits(self) -> QueueLimits:
        """What counts: what was decided, else what was declared."""
        text = self.decided or self.declared
        return UNLIMITED if text is None else decode_limits(text)


QueueSetting = Literal["hold", "declared", "decided"]


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

    Open it with ``async with``. Closing twice is allowed.

    *Time.* A store judges leases and deadlines by one time for all its processes: a server's own. A `clock` that is
    not a `SystemClock` (a test's) takes its place.

    *Wake-ups.* A store that can tell calls `heard` in the event loop with the id of an execution that another process
    appended a message to, or which ended or came to a halt there (with an empty text where more may begin in a queue),
    and says with `wakes` whether it does so at present. It is a hint: it may come late, twice or never, and what it
    says must be read from the store. Where a store is `alone`, no other process can reach the data: nobody needs to
    look whether something happened there unheard.

    *Secrecy.* Where a store is `sealed`, what users gave is not to be readable in it: keys, which it compares, are
    given to it as hashes.

    *Versions.* `versions` is set by `open`, before it raises because of them: the version of the stored schema as it
    was found (0: there was none), and the one of this release, which it has once the store is open. A store whose
    schema has no versions leaves it at (0, 0).
    """

    clock: Clock = SystemClock()
    wakes: bool = False
    alone: bool = False
    sealed: bool = False
    versions: tuple[int, int] = (0, 0)

    # -- the contract -------------------------------------------------------------------------------------------------

    async def present(self) -> float:
        """The time by which the store judges leases and deadlines, in epoch seconds."""
        return self.clock.now()

    @abstractmethod
    async def open(self) -> None:
        """Connects, and creates or migrates the schema under a lock. Raises SchemaTooNew before writing anything."""

    @abstractmethod
    async def close(self) -> None:
        """Finishes what is under way and lets go of every thread, connection and file. May be called twice."""

    @abstractmethod
    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        """Starts to write; commits of concurrent executions share one transaction.

        The future raises LeaseLost (fenced, or its mark does not apply), ConflictError (the row to create exists
        already; KeyTaken: its key is held by others) or StoreUnavailable (the outcome is unknown: read the row's
        nonce). Cancelling who waits for it does not cancel the write.
        """

    def begin(self, *, hold: float) -> StepTransaction:
        """A transaction that a service shares with its step. Where it keeps others from writing, it does so for at most
        `hold` seconds. Raises StepError in a store that has none, which is what a store does unless it says otherwise.
        """
        raise StepError(
            f"{type(self).__name__} has no transactions that a service can share with its step; "
            "SQLite and PostgreSQL have",
            kind="TransactionUnsupported",
        )

    @abstractmethod
    async def append(self, message: Message, body: Blob) -> Appended:
        """Puts a message into an inbox if the execution is not over, the wait is open, and nothing has its key there.
        One without an owner is due from then on.

        A message of kind `child` needs no open wait: a child may end before the commit that opens the wait for it."""

    @abstractmethod
    async def claim(
        self, execution_id: str, *, owner: str, ttl: float, statuses: Collection[str]
    ) -> Stored | Busy | None:
        """Takes the lease for `ttl` seconds if it is free or expired and the row has one of `statuses`; None: no such
        row. A pending one whose time has not come is not to be had. Where a previous owner let its lease expire,
        `recoveries` goes up; every commit sets it back to 0. Closes
        waits whose time is up."""

    @abstractmethod
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
        """Claims at most `limit` executions that are due, in one transaction: first those that began already, the
        longest due in front, then pending ones by priority (1 is most urgent) and how long they have been due. Only
        those of `queues` (None among them: of no queue), if given; none whose definition hash is in `without`; no
        pending one of a queue that is held, and of one with limits only as many as may begin. `room` says of queues
        how many may begin for this taker, whatever their limits. Two takers never get the same one, and do not wait for
        each other: one may leave out a queue with limits that another one is looking at."""

    @abstractmethod
    async def next_due(
        self,
        *,
        queues: Collection[str | None] | None = None,
        without: Collection[str] = (),
        room: Mapping[str, int] | None = None,
    ) -> float | None:
        """Seconds from now, by the store's time, until `take` may find something; at most 0 where it does, None where
        only what happens can change that. It knows of no pending execution of a queue that is held, or in which as many
        are under way as may be; where as many began as may within the period, of none before the next one may."""

    @abstractmethod
    async def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        """Sets something of a queue (None: executions of no queue), or takes it away; False where it was so already,
        and nothing has changed. It may be a queue that no execution is in.

        With a `hold` the queue is held, and the value is kept with it: another one does not replace it. `declared` and
        `decided` are QueueLimits, encoded: of both the second one counts. They are for queues with a name."""

    @abstractmethod
    async def queues(self, names: Collection[str | None] | None = None) -> Mapping[str | None, QueueRow]:
        """These queues, or all of which something is set or in which something is pending or under way; without a name
        first, then by name."""

    @abstractmethod
    async def line(self, key: str) -> Sequence[InLine]:
        """Who is in the line of a key, in the order in which they came."""

    @abstractmethod
    async def mark(self, mark: Mark) -> bool:
        """Changes the record of a schedule; False where the mark does not apply. It is a hint for others (with an empty
        text) where somebody must look at the record by some time."""

    @abstractmethod
    async def schedules(
        self, *, workflows: Collection[str] | None = None, limit: int | None = None
    ) -> tuple[float, Sequence[ScheduleRow]]:
        """The store's time, and the records of schedules (of these workflows), those first that are due soonest. With a
        `limit` those that are never due are left out."""

    @abstractmethod
    async def renew(self, owner: str, *, ttl: float) -> Mapping[str, int]:
        """Extends every lease of this owner in one statement; the ids it holds, with their generations."""

    @abstractmethod
    async def release(self, execution_id: str, *, owner: str, generation: int) -> None:
        """Gives the lease back as it is; does nothing if it is no longer held. Where there are unread messages, the
        execution is due from then on: who appended them saw an owner, and left them to it. One that is pending has not
        begun, for the rate of its queue."""

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
    async def read(
        self, execution_id: str, *, after: int = 0, limit: int | None = None, seqs: Sequence[int] | None = None
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
        """Deletes at most `limit` executions that ended before and whose lease nobody holds; how many there were. One
        transaction a call."""

    # -- what users call ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def listen(self, listener: Callable[[str], object]) -> Callable[[], None]:
        """Calls `listener` with what is `heard` from now on; gives a function that ends that."""
        listeners: list[Callable[[str], object]] = self.__dict__.setdefault("_listeners", [])
        listeners.append(listener)
        return lambda: listeners.remove(listener) if listener in listeners else None

    def heard(self, execution_id: str, *, but: Callable[[str], object] | None = None) -> None:
        """Something happened to an execution: tells who listens, except whoever did it. For stores to call when it was
        another process."""
        for listener in list(self.__dict__.get("_listeners", ())):
            if listener != but:
                listener(execution_id)

    async def load(self, execution_id: str) -> Execution | None:
        """The execution with its variables; None if there is none. Raises CorruptState if it cannot be decoded."""
        stored = await self.fetch(execution_id)
        return None if stored is None else execution_of(stored.row, ctx=_variables(stored))

    async def find(
        self,
        *,
        workflow_id: str | None = None,
        status: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        parent_id: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Executions that match everything given, newest first, without their variables (`load` has those).

        An execution whose row cannot be decoded is listed with what can be read of it, and `error` says why.
        """
        if type(limit) is not int or not 1 <= limit <= 10_000:
            raise ValidationError([f"limit must be a number from 1 to 10,000, got {limit!r:.100}"])
        statuses = None if status is None else [status] if isinstance(status, str) else list(status)
        for given in statuses or ():
            if given not in STATUSES:
                raise ValidationError([f"{given!r} is not a status; there are {', '.join(Status)}"])
        if labels is not None and not isinstance(labels, Mapping):
            raise ValidationError([f"labels are a mapping of texts to texts, not {labels!r:.100}"])
        rows, next_cursor = await self.search(
            Filter(
                workflow_id=workflow_id,
                statuses=None if statuses is None else [str(given) for given in statuses],
                labels=labels or {},
                parent_id=parent_id,
                created_after=None if created_after is None else _seconds(created_after),
                created_before=None if created_before is None else _seconds(created_before),
            ),
            limit=limit,
            cursor=cursor,
        )
        return Page([_readable(row) for row in rows], next_cursor=next_cursor)

    async def execution_ids(self, *, workflow_id: str | None = None, limit: int = 1000) -> list[str]:
        """Ids of executions, newest first."""
        rows, _ = await self.search(Filter(workflow_id=workflow_id), limit=limit, cursor=None)
        return [row.id for row in rows]

    async def entries(self, execution_id: str, *, after: int = 0, limit: int | None = None) -> list[Entry]:
        """The audit trail in order, from behind `after`."""
        row = await self.row(execution_id)
        if row is None:
            return []
        masks = masks_of(row)
        blobs = await self.read(execution_id, after=after, limit=limit)
        records = {seq: decode_record(blob, execution_id=execution_id) for seq, blob in blobs}
        missing = {seq for record in records.values() for seq in (record.merged or {}).values() if seq not in records}
        earlier = dict(records)
        if missing:
            for seq, blob in await self.read(execution_id, seqs=sorted(missing)):
                earlier[seq] = decode_record(blob, execution_id=execution_id)
        return [_entry(execution_id, seq, record, earlier, masks) for seq, record in records.items()]

    async def save(self, execution: Execution) -> Execution:
        """Creates an execution as it is given, or replaces one that nobody drives and nobody changed since it was read
        (its `generation` is compared). What it gives back has the new generation.

        Raises ConflictError otherwise. It is for importing and repairing; running executions are the engine's.
        """
        check_id(execution.id)
        held = await self.fetch(execution.id)
        now = self.clock.now()
        ctx = {name: normalise(value, limits=Limits(), what=name) for name, value in execution.ctx.items()}
        given = normalise(execution.input, limits=Limits(), what="input")
        owner = f"save:{token_hex(8)}"
        generation, version, seq = 1, 0, 0
        changes = ctx
        dropped: list[tuple[str, str, int]] = []
        info, result_seq = Info(), None
        root: Blob = encode(Frame(at=execution.current_step))
        waits, closed = list(execution.blocked_on), []
        if held is not None:
            if held.row.generation != execution.generation:
                raise ConflictError(
                    f"execution {execution.id!r} was changed since it was read (generation {held.row.generation}, "
                    f"given {execution.generation}); load it again"
                )
            known = decode_info(held.row.info, execution_id=execution.id)  # who cannot read it must not write to it
            if known.dry_run is not execution.dry_run:
                what = "is a dry run, and stays one" if known.dry_run else "is no dry run, and does not become one"
                raise ConflictError(f"execution {execution.id!r} {what}")
            claimed = await self.claim(execution.id, owner=owner, ttl=30.0, statuses=tuple(Status))
            if not isinstance(claimed, Stored):
                raise ConflictError(f"execution {execution.id!r} is being driven; it cannot be saved over")
            row = claimed.row
            generation, version, seq = row.generation, row.version, row.seq
            # What was not changed stays: what was loaded has masks where secrets are, and not all that is kept.
            before = execution_of(row, ctx=_variables(claimed))
            changes = {
                name: value for name, value in ctx.items() if name not in before.ctx or before.ctx[name] != value
            }
            dropped = [("", name, 0) for name in before.ctx if name not in ctx]
            info = decode_info(row.info, execution_id=row.id)
            if execution.current_step == row.current_step:
                root = row.root
            if execution.result == before.result:
                result_seq = row.result_seq
            waits = [wait for wait in waits if wait not in before.blocked_on]
            kept = {wait.wait_id for wait in execution.blocked_on}
            closed = [wait.wait_id for wait in before.blocked_on if wait.wait_id not in kept]
        seq += 1
        if result_seq is None and execution.result is not None:
            result_seq = seq
        record = Record(
            action=Action.NOTED,
            time=now,
            output=execution.result if result_seq == seq else None,
            changes=changes,
            metadata={"saved": True, "status": str(execution.status)},
        )
        created = execution.created_at.timestamp() if execution.created_at else now
        error = execution.error_info
        if error is None and execution.error:
            kind, _, message = execution.error.partition(": ")
            error = ErrorInfo(type=kind, message=message)
        commit = Commit(
            execution_id=execution.id,
            owner=owner,
            generation=generation,
            version=version,
            nonce=f"{owner}:{version}",
            seq=seq,
            status=str(execution.status),
            current_step=execution.current_step,
            updated_at=now,
            finished_at=execution.finished_at.timestamp() if execution.finished_at else None,
            root=root,
            info=encode(
                msgspec.structs.replace(
                    info,
                    error=error,
                    recover_to=execution.recover_to,
                    started_at=execution.started_at.timestamp() if execution.started_at else None,
                    dry_run=execution.dry_run,
                    forked_from=execution.forked_from,
                    traceparent=check_traceparent(execution.traceparent),
                )
            ),
            result_seq=result_seq,
            entries=[(seq, encode(record))],
            sets=[*dropped, *(("", name, seq) for name in changes)],
            closed=closed,
            opened=[
                (
                    wait.wait_id,
                    seq,
                    wait.required - sum(vote.approved for vote in wait.votes) if isinstance(wait, ApprovalWait) else 1,
                    None if wait.deadline is None else wait.deadline.timestamp(),
                    encode(wait),
                )
                for wait in waits
            ],
            release=True,
            lease_ttl=0.0,
            frees=line_of(held.row.workflow_id, held.row.concurrency_key)
            if held is not None and held.row.concurrency_key is not None and execution.status.over
            else None,
            new=None
            if held is not None
            else New(
                workflow_id=execution.workflow_id,
                workflow_version=execution.workflow_version,
                definition_hash=execution.definition_hash,
                definition="{}",
                input=encode(given),
                created_at=created,
                parent_id=execution.parent_id,
                root_id=execution.root_id or execution.id,
                labels=execution.labels,
                trigger=execution.trigger,
                queue=execution.queue,
                priority=execution.priority,
                concurrency_key=execution.concurrency_key,
            ),
        )
        await self.commit(commit)
        saved = await self.load(execution.id)
        assert saved is not None
        return saved

    async def record(
        self, execution_id: str, note: str, *, actor: str | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        """Appends a note to the audit trail: at once where nobody drives the execution, else through its inbox, which
        its owner writes to the trail with its next commit. Raises ExecutionNotFound."""
        if type(note) is not str or not note:
            raise ValidationError([f"a note is text, not {note!r:.100}"])
        now = self.clock.now()
        body: dict[str, Any] = {"note": note}
        if data is not None:
            body["data"] = normalise(data, limits=Limits(), what="data")
        token = token_hex(8)
        message = Message(kind="note", execution_id=execution_id, key=f"note:{token}", time=now, actor=actor, body=body)
        seen = await self.row(execution_id)
        if seen is None:
            raise ExecutionNotFound(execution_id)
        decode_info(seen.info, execution_id=execution_id)  # who cannot read it must not write to it
        held = await self.claim(execution_id, owner=f"note:{token}", ttl=30.0, statuses=tuple(Status))
        if held is None:
            raise ExecutionNotFound(execution_id)
        if isinstance(held, Busy):
            await self.append(message, encode(message))
            return
        row = held.row
        noted = Record(action=Action.NOTED, time=now, actor=actor, metadata=body)
        await self.commit(
            Commit(
                execution_id=execution_id,
                owner=row.owner,
                generation=row.generation,
                version=row.version,
                nonce=token,
                seq=row.seq + 1,
                status=row.status,
                current_step=row.current_step,
                updated_at=now,
                finished_at=row.finished_at,
                wake_at=row.wake_at,
                root=row.root,
                result_seq=row.result_seq,
                entries=[(row.seq + 1, encode(noted))],
                release=True,
            )
        )
        await self.release(execution_id, owner=f"note:{token}", generation=row.generation)

    async def delete(self, execution_id: str) -> bool:
        """Deletes everything of an execution; False if there was none. Raises ConflictError while it is driven."""
        return await self.remove(execution_id)

    async def purge(
        self, *, older_than: timedelta, statuses: Collection[str] = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
    ) -> int:
        """Deletes executions that ended longer ago than this, in batches; how many there were."""
        wrong = [status for status in statuses if status not in STATUSES or not Status(status).over]
        if wrong:
            raise ValidationError([f"only executions that are over can be purged, not {', '.join(map(str, wrong))}"])
        if type(older_than) is not timedelta:
            raise ValidationError([f"older_than is a timedelta, not {older_than!r:.100}"])
        before = self.clock.now() - older_than.total_seconds()
        total = 0
        while True:
            count = await self.purge_rows(before=before, statuses=[str(status) for status in statuses], limit=500)
            total += count
            if count < 500:
                return total


def line_of(workflow_id: str, concurrency_key: str) -> str:
    """The key of the line of those executions of a workflow that have the same concurrency key."""
    return f"{workflow_id}:{concurrency_key}"


def cursor_of(created_at: float, execution_id: str) -> str:
    """The cursor of a page whose last row was created then and has this id."""
    return base64.urlsafe_b64encode(msgspec.json.encode([created_at, execution_id])).decode().rstrip("=")


def position_of(cursor: str) -> tuple[float, str]:
    """The time and the id behind which a page begins. Raises ValidationError for what is no cursor.

    >>> position_of(cursor_of(1700000000.25, "order-1"))
    (1700000000.25, 'order-1')
    """
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=tuple[float, str])
    except (UnicodeEncodeError, binascii.Error, msgspec.DecodeError) as error:
        raise ValidationError([f"cursor {cursor!r} does not come from a page of this store"]) from error


def schedule_row(
    name: str, workflow_id: str, nonce: str, due: float | None, awaits: str | None, definition_hash: str, body: Blob
) -> ScheduleRow:
    """A `ScheduleRow` from its columns."""
    return ScheduleRow(
        id=name,
        workflow_id=workflow_id,
        nonce=nonce,
        due=due,
        awaits=awaits,
        definition_hash=definition_hash,
        body=body,
    )


def soonest(row: ScheduleRow) -> tuple[float, str]:
    """The key by which records of schedules are sorted."""
    return math.inf if row.due is None else row.due, row.id


def check_id(execution_id: object) -> str:
    """An execution id that users gave: 1 to 255 printable characters without blanks. Raises ValidationError."""
    if (
        not isinstance(execution_id, str)
        or not 1 <= len(execution_id) <= 255
        or not execution_id.isprintable()
        or any(character.isspace() for character in execution_id)
    ):
        shown = repr(execution_id)[:80]
        raise ValidationError([f"an execution id is 1 to 255 printable characters without blanks, not {shown}"])
    return execution_id


def execution_of(row: Row, *, ctx: dict[str, Any] | None = None) -> Execution:
    """A row as users see it: decoded, secrets masked."""
    info = decode_info(row.info, execution_id=row.id)
    given = decode_value(row.input, execution_id=row.id)
    result = result_of(row)
    waits = waits_of(row)
    masks = secret_texts(given, info.secrets)
    if masks:
        given, ctx, result = redact(given, masks), redact(ctx or {}, masks), redact(result, masks)
        waits = [masked(wait, masks) for wait in waits]
    status = Status(row.status)
    first = waits[0] if waits else None
    return Execution(
        id=row.id,
        workflow_id=row.workflow_id,
        workflow_version=row.workflow_version,
        definition_hash=row.definition_hash,
        status=status,
        input=given,
        ctx=ctx or {},
        current_step=row.current_step,
        result=result,
        recover_to=info.recover_to or _recover_to(row, first),
        halt_data=getattr(first, "data", None),
        blocked_on=waits,
        error=None if info.error is None else info.error.text,
        error_info=info.error,
        parent_id=row.parent_id,
        root_id=row.root_id,
        forked_from=info.forked_from,
        closing=None if info.closing is None else info.closing.status,
        compensated=info.compensated,
        trigger=row.trigger,
        dry_run=info.dry_run,
        traceparent=info.traceparent,
        labels=dict(row.labels),
        queue=row.queue,
        priority=row.priority,
        concurrency_key=row.concurrency_key,
        recoveries=row.recoveries,
        owner=row.owner,
        lease_until=_moment(row.lease_until),
        generation=row.generation,
        wake_at=None if row.wake_at == NEVER else _moment(row.wake_at),
        created_at=_moment(row.created_at),
        updated_at=_moment(row.updated_at),
        started_at=_moment(info.started_at),
        finished_at=_moment(row.finished_at),
    )


def result_of(row: Row) -> Any:
    """The value of the variable `result` of an execution that completed."""
    if row.result is None:
        return None
    record = decode_record(row.result, execution_id=row.id)
    if "result" in record.same or not record.changes:
        return record.output
    return record.changes.get("result", record.output)


def waits_of(row: Row) -> list[AnyWait]:
    """What an execution waits for, in the order in which the waits were opened."""
    return [decode_wait(blob, execution_id=row.id) for blob in row.waits]


def _recover_to(row: Row, first: AnyWait | None) -> str | None:
    """The step of the workflow itself at which a resume or retry goes on."""
    if isinstance(first, HaltWait) and first.resume_step and not {"/", "["} & set(first.path):
        return first.resume_step
    return row.current_step if first is not None or row.status == Status.FAILED else None


def masked(wait: AnyWait, masks: Sequence[str]) -> AnyWait:
    """A wait with secrets masked in what it shows."""
    if isinstance(wait, ApprovalWait):
        return msgspec.structs.replace(
            wait, data=redact(wait.data, masks), prompt=redact(wait.prompt, masks), options=redact(wait.options, masks)
        )
    if isinstance(wait, HaltWait):
        return msgspec.structs.replace(wait, data=redact(wait.data, masks))
    return wait


def _readable(row: Row) -> Execution:
    try:
        return execution_of(row)
    except (CorruptState, ValueError) as error:
        return Execution(
            id=row.id,
            workflow_id=row.workflow_id,
            workflow_version=row.workflow_version,
            definition_hash=row.definition_hash,
            status=Status(row.status) if row.status in STATUSES else Status.FAILED,
            error=f"CorruptState: {error}",
            created_at=_moment(row.created_at),
            updated_at=_moment(row.updated_at),
        )


def _variables(stored: Stored) -> dict[str, Any]:
    records: dict[int, Record] = {}
    ctx: dict[str, Any] = {}
    for frame, name, seq in stored.sets:
        if frame or "." in name:
            continue
        if seq not in records:
            records[seq] = decode_record(stored.entries[seq], execution_id=stored.row.id)
        ctx[name] = value_of(records[seq], name)
    return ctx


def masks_of(row: Row) -> tuple[str, ...]:
    """The texts that must not be shown of this execution."""
    info = decode_info(row.info, execution_id=row.id)
    return secret_texts(decode_value(row.input, execution_id=row.id), info.secrets) if info.secrets else ()


def _entry(execution_id: str, seq: int, record: Record, records: Mapping[int, Record], masks: Sequence[str]) -> Entry:
    changes = {name: value_of(records[source], name) for name, source in (record.merged or {}).items()}
    changes.update((name, record.output) for name in record.same)
    changes.update(record.changes or {})
    entry = Entry(
        id=f"{execution_id}:{seq}",
        execution_id=execution_id,
        seq=seq,
        action=record.action,
        step_id=record.step,
        path=record.path,
        step_type=record.type,
        attempt=record.attempt,
        duration_ms=record.ms,
        input=record.input,
        output=record.output,
        changes=changes,
        error=None if record.error is None else record.error.text,
        actor=record.actor,
        metadata=record.metadata or {},
        timestamp=moment(record.time),
    )
    if not masks:
        return entry
    return msgspec.structs.replace(
        entry,
        input=redact(entry.input, masks),
        output=redact(entry.output, masks),
        changes=redact(entry.changes, masks),
        error=redact(entry.error, masks),
        metadata=redact(entry.metadata, masks),
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else moment(seconds)


def _seconds(time: Any) -> float:
    if not isinstance(time, datetime):
        raise ValidationError([f"a time is a datetime with a zone, not {time!r:.100}"])
    if time.tzinfo is None:
        raise ValidationError([f"times need a time zone, got {time.isoformat()}"])
    return time.timestamp()
