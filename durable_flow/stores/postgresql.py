"""Executions in a PostgreSQL database, for any number of processes.

*Writing.* Callers put what they want to write into queues, one per kind: commits, messages, claims. Each of a few
connections takes whatever waits in one of them and writes it with one call of a function of the schema: one round trip,
one transaction, one flush. While it is on its way the others take what came meanwhile; there is no timer. The function
gives each member an answer of its own; where one cannot be written at all, each is written alone.

*Reading* has connections of its own, and so has renewing leases: they never wait behind a write. Rows asked for at the
same time come together, too.

*Doubt.* A connection that did not answer in time, or broke, is thrown away, and whoever waited for it hears
StoreUnavailable; the next call makes a new one. Nothing is cancelled half-way: callers wait for futures, tasks of the
store use the connections.

*Wake-ups.* What other processes may wait for is told with NOTIFY on another connection, after the commit: in it, NOTIFY
would make all commits of a database wait for each other. Nothing is told while nobody else listens.

*Behind a pooler* in transaction mode nothing can be left on a connection: each call is a transaction with statements
without names, and there is no LISTEN.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from durable_flow.clock import SystemClock
from durable_flow.errors import (
    ConfigError,
    ConflictError,
    DurableFlowError,
    KeyTaken,
    LeaseLost,
    MissingExtraError,
    SchemaTooNew,
    StepError,
    StoreError,
    StoreUnavailable,
    ValidationError,
)
from durable_flow.ids import token_hex
from durable_flow.journal import Journal
from durable_flow.model.execution import Status
from durable_flow.model.frame import Message
from durable_flow.stores import _postgresql_schema as ddl
from durable_flow.stores.base import (
    NEVER,
    Appended,
    Blob,
    Busy,
    Commit,
    Committed,
    Filter,
    InLine,
    Landing,
    Mark,
    QueueRow,
    QueueSetting,
    Row,
    ScheduleRow,
    StepTransaction,
    Store,
    Stored,
    cursor_of,
    position_of,
    schedule_row,
    soonest,
)

try:
    import asyncpg
    from asyncpg import exceptions as pg
except ImportError as error:
    raise MissingExtraError("postgres", "asyncpg") from error

log = Journal(__name__)
T = TypeVar("T")

Connection = Any
"""A connection of asyncpg, or what its pool hands out in the place of one."""

Work = Callable[[Connection], Awaitable[T]]

MOST = 200
"""How many members a batch has at most."""

SHARED = 16
"""From how many members on a batch is shared by the connections that have nothing to do."""

HEAVIEST = 8 * 1024 * 1024
"""How many characters of entries a batch carries, unless one commit alone has more."""

PAYLOAD = 7_900
"""How many bytes of ids one NOTIFY carries (PostgreSQL allows fewer than 8,000)."""

QUIET = 30.0
"""After how many seconds without anything to tell the listening connection is asked whether it is still there."""

OLDEST = 130_000
"""The oldest version of the server, as `server_version_num`."""

STATUSES = tuple(Status)
TOLD = frozenset(status.value for status in Status if status.over) | {Status.HALTED.value}
"""The statuses that other processes wait for."""

RELEASED = Committed(released=True)
KEPT = Committed(released=False)

PASSING = (
    pg.PostgresConnectionError, pg.CannotConnectNowError, pg.AdminShutdownError, pg.CrashShutdownError,
    pg.IdleSessionTimeoutError, pg.InsufficientResourcesError, pg.PostgresSystemError, pg.QueryCanceledError,
    pg.LockNotAvailableError, pg.SerializationError, pg.DeadlockDetectedError,
    pg.ReadOnlySQLTransactionError, pg.TargetServerAttributeNotMatched, pg.InternalClientError, OSError, TimeoutError,
    EOFError,
)  # fmt: skip
"""Errors that say nothing about what was asked, only that it cannot be done now."""

RETRIED = (pg.SerializationError, pg.DeadlockDetectedError)
"""Errors after which the server has undone everything, and trying again at once may help."""

UNDONE = (*RETRIED, pg.LockNotAvailableError)
"""Errors that one member may have brought upon all: nothing is written, and the connection is in good order."""

REFUSED = -3
"""The outcome of a commit whose mark does not apply."""

LOCKED = "locked"
"""The outcome of a job whose row somebody else has locked."""


def _translated(error: Exception, where: str) -> DurableFlowError:
    """What a caller hears of an exception that came out of asyncpg (or of the encoding of what it was given)."""
    if isinstance(error, DurableFlowError):
        return error
    said = str(error) or type(error).__name__
    if isinstance(error, pg.ReadOnlySQLTransactionError | pg.TargetServerAttributeNotMatched):
        return StoreUnavailable(_read_only(where))
    if isinstance(error, PASSING):
        return StoreUnavailable(f"{where}: {said}")
    if isinstance(error, pg.InsufficientPrivilegeError):
        return StoreError(f"{where}: {said}; the role needs rights on the schema (see PostgresStore.migration_sql)")
    if isinstance(error, pg.UndefinedTableError | pg.UndefinedFunctionError | pg.InvalidSchemaNameError):
        return StoreError(f"{where}: {said}; the schema is not what this release of durable-flow created")
    if isinstance(error, pg.InterfaceError) and not isinstance(error, ValueError):
        return StoreUnavailable(f"{where}: {said}")  # asyncpg about a connection that is closed or closing
    return StoreError(f"{where}: {said}")


def _read_only(where: str) -> str:
    return (
        f"{where} cannot be written: it is a standby, or read-only by default; connect to the primary "
        "(several hosts and target_session_attrs=read-write in the URL find it)"
    )


def pack(blob: Blob) -> bytes:
    """User data as a `bytea`."""
    return blob.encode() if isinstance(blob, str) else b"\xff" + blob


def unpack(data: bytes) -> Blob:
    """The opposite of `pack`.

    >>> unpack(pack("text")), unpack(pack(b"text")), unpack(pack(""))
    ('text', b'text', '')
    """
    return data[1:] if data[:1] == b"\xff" else data.decode()


# -- connections ------------------------------------------------------------------------------------------------------


class Door:
    """How connections are made, for a store that has its own; the store's session settings with them."""

    def __init__(self, url: str, *, timeout: float, options: Mapping[str, Any]) -> None:
        self.url = url
        self.timeout = timeout
        self.options = options
        self.pooled = False
        """Whether there is a pooler on the way that may give each transaction to another connection of the server."""

    @property
    def wait(self) -> str:
        """How long to wait for a lock: what waits longer than we wait for an answer does its work after we gave up."""
        return f"{max(1, round(self.timeout * 500))}ms"

    @property
    def shared(self) -> bool:
        """Whether nothing may be left on a connection between two calls."""
        return self.pooled

    @property
    def listens(self) -> bool:
        """Whether a connection can be kept for LISTEN."""
        return not self.pooled

    @property
    def begin(self) -> str:
        """Begins the transaction of one call on a shared connection."""
        return f"BEGIN ISOLATION LEVEL READ COMMITTED; {self.settle}"

    @property
    def settle(self) -> str:
        """Gives the rest of a transaction the settings that our functions need."""
        settings = {"lock_timeout": f"'{self.wait}'", **ddl.SETTINGS}
        return "; ".join(f"SET LOCAL {name} = {value}" for name, value in settings.items())

    async def get(self, **settings: str) -> Connection:
        given: dict[str, Any] = {"timeout": self.timeout, **self.options}
        named = {} if "application_name" in self.url else {"application_name": "durable_flow"}
        if self.pooled:
            given["statement_cache_size"] = 0
        else:
            given["max_cached_statement_lifetime"] = 0
            settings = {"lock_timeout": self.wait, **ddl.SETTINGS, **settings}
            settings["default_transaction_isolation"] = "read committed"
            named |= {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}
        given["server_settings"] = {**named, **settings, **self.options.get("server_settings", {})}
        return await asyncpg.connect(self.url, **given)

    def lend(self, most: int) -> Lender:
        """Where services get connections from, with the settings of the role, the database and the URL."""
        return Lender(self, most)

    async def pool_for(self, most: int) -> Any:
        """At most so many connections for services, made when they are needed."""
        given: dict[str, Any] = {"timeout": self.timeout, **self.options}
        if self.pooled:
            given["statement_cache_size"] = 0
        named = {} if "application_name" in self.url else {"application_name": "durable_flow"}
        given["server_settings"] = {**named, **self.options.get("server_settings", {})}
        return await asyncpg.create_pool(self.url, min_size=0, max_size=most, **given)

    async def give_back(self, connection: Connection) -> bool:
        """Whether the connection may be kept for the next call."""
        return not connection.is_closed()

    async def close(self, connection: Connection) -> None:
        if connection.is_closed():
            return
        try:
            await connection.close(timeout=self.timeout)
        except (*PASSING, pg.InterfaceError):
            connection.terminate()


class PoolDoor(Door):
    """The pool of a user: connections are borrowed for one call, and never closed by us."""

    def __init__(self, pool: Any, *, timeout: float) -> None:
        super().__init__("", timeout=timeout, options={})
        self.pool = pool

    @property
    def shared(self) -> bool:
        return True

    @property
    def listens(self) -> bool:
        return not self.pooled and int(self.pool.get_max_size()) >= 3  # else too few would be left for the others

    def lend(self, most: int) -> Lender:
        # One connection must be left for commits, or who waits for one here would wait for ever.
        return Lender(self, min(most, int(self.pool.get_max_size()) - 1 - self.listens))

    async def pool_for(self, most: int) -> Any:
        return self.pool

    async def get(self, **settings: str) -> Connection:
        connection = await self.pool.acquire(timeout=self.timeout)
        for name, value in settings.items():  # the pool resets them when the connection comes back
            await connection.execute(f"SET {name} = {ddl.literal(value)}")
        return connection

    async def give_back(self, connection: Connection) -> bool:
        await self.close(connection)
        return False

    async def close(self, connection: Connection) -> None:
        try:
            await self.pool.release(connection, timeout=self.timeout)
        except (*PASSING, pg.InterfaceError) as error:
            log.debug("a connection did not go back to the pool in good order: %s", error)


class Lender:
    """Lends connections to services, at most so many at a time."""

    def __init__(self, door: Door, most: int) -> None:
        self.door = door
        self.most = most
        self.free = asyncio.Semaphore(max(1, most))
        self.pool: Any = None
        self.opening = asyncio.Lock()
        self.lent: set[PostgresTransaction] = set()

    async def take(self) -> Connection:
        """A connection; whoever gets one gives it back. Raises what asyncpg raises."""
        if self.most < 1:
            raise StepError(
                "the pool of the store is too small for transactions of services: it needs a connection more",
                kind="TransactionUnsupported",
            )
        await self.free.acquire()
        try:
            async with self.opening:
                if self.pool is None:
                    self.pool = await self.door.pool_for(self.most)
            return await self.pool.acquire(timeout=self.door.timeout)
        except BaseException:
            self.free.release()
            raise

    async def give_back(self, connection: Connection) -> None:
        try:
            await self.pool.release(connection, timeout=self.door.timeout)
        except (*PASSING, pg.InterfaceError) as error:
            log.debug("a connection did not go back to the pool in good order: %s", error)
        finally:
            self.free.release()

    async def close(self) -> None:
        for transaction in list(self.lent):
            await transaction.rollback()
        if self.pool is not None and not isinstance(self.door, PoolDoor):
            await self.pool.close()


class PostgresTransaction(StepTransaction):
    """What a service executes, with the transition of its step, in one transaction (READ COMMITTED).

    Rows of executions are locked in the last call before COMMIT, so renewing a lease never waits for a service.
    """

    def __init__(self, store: PostgresStore, lender: Lender) -> None:
        self._store = store
        self._lender = lender
        self._connection: Connection | None = None
        self._busy = 0
        self._ending: asyncio.Task[None] | None = None

    async def execute(self, sql: str, parameters: Sequence[Any]) -> int:
        async def work(connection: Connection) -> int:
            if parameters:
                said = await connection.execute(sql, *parameters)
            else:  # without parameters asyncpg would take several statements, of which one could be COMMIT
                statement = await connection.prepare(sql)
                await statement.fetch()
                said = statement.get_statusmsg()
            count = said.rpartition(" ")[2]
            return int(count) if count.isdigit() else 0

        return await self._ask(work)

    async def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._ask(lambda connection: connection.executemany(sql, rows))

    async def fetch(self, sql: str, parameters: Sequence[Any], *, limit: int | None = None) -> list[Any]:
        if limit != 1:
            return list(await self._ask(lambda connection: connection.fetch(sql, *parameters)))[:limit]
        row = await self._ask(lambda connection: connection.fetchrow(sql, *parameters))
        return [] if row is None else [row]

    async def _ask(self, work: Work[T]) -> T:
        self._busy += 1
        try:
            connection = await self._begin()
            try:
                return await work(connection)
            except Exception as error:
                if _gone(connection):
                    raise _translated(error, self._store.name) from error
                raise
        finally:
            self._busy -= 1

    async def _begin(self) -> Connection:
        self._check()
        if self._connection is None:
            try:
                connection = await self._lender.take()
            except Exception as error:
                raise _translated(error, self._store.name) from error
            if self._ending is not None:  # while we waited, and it had nothing yet that it could have given back
                await self._lender.give_back(connection)
                self._check()
            self._connection, self.begun = connection, True
            self._lender.lent.add(self)
            try:
                await self._in_time(connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED"))
            except Exception as error:
                await self.rollback()
                raise _translated(error, self._store.name) from error
        return self._connection

    def _check(self) -> None:
        if self._ending is not None:
            raise StepError("the transaction is over", kind="TransactionError")

    async def _in_time(self, work: Awaitable[T]) -> T:
        assert self._connection is not None
        timer = asyncio.get_running_loop().call_later(self._lender.door.timeout, _terminate, self._connection)
        try:
            return await work
        finally:
            timer.cancel()

    async def ready(self) -> None:
        """Checks deferred constraints now: whoever violated them is the service."""
        await self._ask(lambda connection: self._in_time(connection.execute("SET CONSTRAINTS ALL IMMEDIATE")))

    async def commit(self, commit: Commit) -> Committed:
        connection = self._connection
        assert connection is not None
        try:
            return await self._in_time(self._store.commit_on(connection, commit))
        except Exception as error:
            raise _translated(error, self._store.name) from error
        finally:
            await self.rollback()

    async def rollback(self) -> None:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end(), name="durable_flow end")
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            if self._busy and not _gone(connection):
                _terminate(connection)  # it is in the middle of something
            elif not _gone(connection) and connection.is_in_transaction():
                with suppress(*PASSING, pg.InterfaceError):
                    await self._in_time(connection.execute("ROLLBACK"))
        finally:
            self.begun = False
            self._lender.lent.discard(self)
            await self._lender.give_back(connection)


def _gone(connection: Connection) -> bool:
    """Whether a connection is closed. (A pool takes back what broke, and then its proxy knows nothing of it.)"""
    try:
        return bool(connection.is_closed())
    except pg.InterfaceError:
        return True


def _terminate(connection: Connection) -> None:
    if not _gone(connection):
        connection.terminate()


class Session:
    """One connection at a time: made when it is needed, dropped when anything about it is in doubt."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.connection: Connection | None = None

    async def run(self, work: Work[T], *, patience: float = 1.0) -> T:
        """What `work` gives; it has `patience` times the timeout. Raises what asyncpg raises."""
        connection, self.connection = self.connection, None
        if connection is None or connection.is_closed():
            connection = await self.door.get()
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            connection.terminate()

        timer = asyncio.get_running_loop().call_later(self.door.timeout * patience, give_up)
        try:
            result = await (self._transaction(connection, work) if self.door.shared else work(connection))
        except BaseException as error:
            timer.cancel()
            await self._part(connection, drop=not isinstance(error, Exception) or _in_doubt(error))
            if late:
                raise TimeoutError(f"no answer within {self.door.timeout * patience:g} s") from error
            raise
        timer.cancel()
        await self._part(connection)
        return result

    async def _part(self, connection: Connection, *, drop: bool = False) -> None:
        if drop and not connection.is_closed():
            connection.terminate()
        if await self.door.give_back(connection):
            self.connection = connection

    async def _transaction(self, connection: Connection, work: Work[T]) -> T:
        """In one transaction, with what the connection must have for it."""
        await connection.execute(self.door.begin)
        try:
            result = await work(connection)
        except Exception:
            if not connection.is_closed():
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")
        return result

    async def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            await self.door.close(connection)


def _in_doubt(error: Exception) -> bool:
    """Whether a connection that gave this error should not be used again."""
    return isinstance(error, PASSING) and not isinstance(error, UNDONE)


# -- who waits for what -----------------------------------------------------------------------------------------------


class Job(Generic[T]):
    """Something to be done for somebody. Two jobs of one `key` are never under way at once, and keep their order."""

    __slots__ = ("future", "key", "subject", "weight")

    def __init__(self, subject: T, future: asyncio.Future[Any], key: str | None = None, weight: int = 0) -> None:
        self.subject = subject
        self.future = future
        self.key = key
        self.weight = weight

    def settle(self, outcome: object) -> None:
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


Serve = Callable[[Session, list[T], bool], Awaitable[Sequence[object]]]
"""Does something for each subject. With True it waits for rows that others have locked; else the outcome is LOCKED."""


class Kind(Generic[T]):
    """A queue of jobs that can be done together, and the function that does: an outcome for each, in their order.

    Where that keeps others from getting on, jobs do not wait for a locked row here but in the queue `patient`.
    """

    def __init__(self, serve: Serve[T], *, most: int = MOST, before: Kind[T] | None = None) -> None:
        self.serve = serve
        self.most = most
        self.waits = before is not None
        self.jobs: deque[Job[T]] = deque()
        self.busy: set[str] = set() if before is None else before.busy
        self.before = before
        self.patient: Kind[T] | None = None
        self.wake: Callable[[], None] = lambda: None
        """Tells whoever serves this kind that jobs may begin."""
        if before is not None:
            before.patient = self

    def take(self, hands: int = 1) -> list[Job[T]]:
        """The jobs that can begin now, oldest first. Of many, so many `hands` get an equal share each: while the server
        is at work on one share, those who wait for another go on here."""
        jobs, weight = self.jobs, 0
        most = self.most if len(jobs) < SHARED else min(self.most, -(-len(jobs) // hands))
        taken: list[Job[T]] = []
        kept: list[Job[T]] = []
        while jobs and len(taken) < most and weight < HEAVIEST:
            job = jobs.popleft()
            if job.key is not None and not self.waits:
                if job.key in self.busy:
                    kept.append(job)
                    continue
                self.busy.add(job.key)
            weight += job.weight
            taken.append(job)
        if kept:
            jobs.extendleft(reversed(kept))
        return taken


class Crew:
    """A few tasks with a connection each; each takes all jobs of one kind that wait, does them, and wakes callers."""

    def __init__(
        self, name: str, size: int, door: Door, where: str, kinds: Sequence[Kind[Any]], patient: Crew | None = None
    ) -> None:
        self.where = where
        self.kinds = list(kinds)
        self.patient = patient
        self.closing = False
        self.idle: list[asyncio.Future[None]] = []
        self.free = size
        for kind in kinds:
            kind.wake = self.wake
        self.loop = asyncio.get_running_loop()
        self.tasks = [self.loop.create_task(self._work(Session(door)), name=f"{name} {i}") for i in range(size)]

    def submit(self, kind: Kind[T], subject: T, key: str | None = None, weight: int = 0) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = Landing(loop=self.loop)
        self.put(kind, Job(subject, future, key, weight))
        return future

    def put(self, kind: Kind[T], job: Job[T]) -> None:
        kind.jobs.append(job)
        self.wake()

    def wake(self) -> None:
        if self.idle:
            self.idle.pop().set_result(None)

    async def _work(self, session: Session) -> None:
        try:
            while True:
                for kind in self.kinds:
                    if kind.jobs and (jobs := kind.take(self.free)):
                        self.kinds.append(self.kinds.pop(0))  # each kind has its turn
                        self.free -= 1
                        try:
                            await self._serve(session, kind, jobs)
                        finally:
                            self.free += 1
                        break
                else:
                    if self.closing:
                        return
                    waiting = self.loop.create_future()
                    self.idle.append(waiting)
                    await waiting
        finally:
            await session.close()

    async def _serve(self, session: Session, kind: Kind[Any], jobs: list[Job[Any]]) -> None:
        outcomes: Sequence[object]
        try:
            outcomes = await kind.serve(session, [job.subject for job in jobs], kind.waits)
            assert len(outcomes) == len(jobs), f"{len(outcomes)} outcomes of {len(jobs)} jobs"
        except Exception as error:
            heard = _translated(error, self.where)
            if isinstance(heard, StoreUnavailable) and not isinstance(error, UNDONE):
                log.warning("a batch of %d failed: %s", len(jobs), heard)
                outcomes = [StoreUnavailable(*heard.args) for _ in jobs]
            elif len(jobs) == 1 and not isinstance(error, RETRIED):
                outcomes = [heard]
            else:
                outcomes = [await self._alone(session, kind, job) for job in jobs]
        if kind.patient is not None and self.patient is not None and LOCKED in outcomes:
            for job, outcome in zip(jobs, outcomes, strict=True):
                if outcome is LOCKED:
                    self.patient.put(kind.patient, job)
            settled = [(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True) if outcome is not LOCKED]
        else:
            settled = list(zip(jobs, outcomes, strict=True))
        kind.busy.difference_update([job.key for job, _ in settled if job.key is not None])
        for job, outcome in settled:
            job.settle(outcome)
        if kind.before is not None and kind.before.jobs:
            kind.before.wake()  # some may have been held back for these

    async def _alone(self, session: Session, kind: Kind[Any], job: Job[Any]) -> object:
        for again in (True, True, False):
            try:
                (outcome,) = await kind.serve(session, [job.subject], kind.waits)
                return outcome
            except Exception as error:
                if not (again and isinstance(error, RETRIED)):
                    return _translated(error, self.where)
        return None

    async def close(self) -> None:
        """Finishes what was submitted."""
        self.closing = True
        idle, self.idle = self.idle, []
        for waiting in idle:
            waiting.set_result(None)
        await asyncio.gather(*self.tasks)


class Crews(NamedTuple):
    """All that work for a store: what finds a row locked goes from the writers to the patient."""

    writers: Crew
    patient: Crew
    readers: Crew


# -- wake-ups ---------------------------------------------------------------------------------------------------------


class Wire:
    """The connection that listens to other stores of this schema, and tells them. It comes back by itself."""

    def __init__(self, door: Door, schema: str, heard: Callable[[str], object]) -> None:
        self.door = door
        self.channel = f"durable_flow_{zlib.crc32(schema.encode()):08x}"
        self.heard = heard
        self.token = token_hex(8)
        self.company = False
        self.closing = False
        self.waiting: dict[str, None] = {}
        self.greeting = False
        self.woken = asyncio.Event()
        self.tried = asyncio.Event()
        self.connection: Connection | None = None
        self.task = asyncio.get_running_loop().create_task(self._main(), name="durable_flow wire")

    def tell(self, execution_id: str) -> None:
        """Says soon that something happened to this execution, if anybody listens."""
        if self.company and (self.connection is not None or not self.door.listens):
            self.waiting[execution_id] = None
            self.woken.set()

    def _hear(self, connection: object, pid: int, channel: str, payload: object) -> None:
        try:
            token, word, *names = msgspec.json.decode(str(payload), type=list[str])
        except (msgspec.DecodeError, ValueError):
            log.debug("not understood: %.100r", payload)
            return
        if token == self.token:
            return
        self.company = True
        if word == "hello":
            self.greeting = True
            self.woken.set()
        for name in names:
            try:
                self.heard(name)
            except Exception:
                log.exception("a wake-up failed")

    async def _main(self) -> None:
        pause, told = 0.1, False
        while not self.closing:
            try:
                await (self._listen() if self.door.listens else self._only_tell())
                pause, told = 0.1, False
            except Exception as error:
                if not told:
                    log.info("wake-ups from other processes pause, polling goes on: %s", error)
                told = True
            self.tried.set()
            self.waiting.clear()
            self.woken.clear()
            if not self.closing:
                await self._woken(pause)
                pause = min(pause * 2, 5.0)

    async def _listen(self) -> None:
        """Returns when the connection is lost, or the store is closed."""
        # What is told is a hint: nobody should wait for the disk because of it.
        connection = await self.door.get(synchronous_commit="off")
        try:
            connection.add_termination_listener(self._lost)
            await self._in_time(connection, connection.add_listener(self.channel, self._hear))
            await self._say(connection, "hello")
            self.connection = connection
            self.tried.set()
            while not self.closing and not connection.is_closed():
                if self.greeting:
                    self.greeting = False
                    await self._say(connection, "here")
                elif self.waiting:
                    await self._say(connection, "told", self._load())
                elif not await self._woken(QUIET):
                    await self._in_time(connection, connection.execute("SELECT 1"))
        finally:
            self.connection = None
            if not connection.is_closed():
                connection.remove_termination_listener(self._lost)
                with suppress(*PASSING, pg.InterfaceError):
                    await self._in_time(connection, connection.remove_listener(self.channel, self._hear))
            await self.door.close(connection)

    async def _only_tell(self) -> None:
        """The same without listening."""
        session = Session(self.door)
        self.company = True
        self.tried.set()
        try:
            while not self.closing:
                if self.waiting:
                    await session.run(partial(self._tell_lazily, self._load()))
                else:
                    await self._woken(QUIET)
        finally:
            await session.close()

    async def _tell_lazily(self, names: Sequence[str], connection: Connection) -> None:
        await connection.execute("SET LOCAL synchronous_commit = off")
        await self._say(connection, "told", names)

    async def _woken(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self.woken.wait(), seconds)
        except TimeoutError:
            return False
        self.woken.clear()
        return True

    async def _in_time(self, connection: Connection, work: Awaitable[object]) -> None:
        timer = asyncio.get_running_loop().call_later(self.door.timeout, connection.terminate)
        try:
            await work
        finally:
            timer.cancel()

    def _lost(self, connection: object) -> None:
        self.woken.set()

    def _load(self) -> list[str]:
        """As many of the waiting ids as one payload holds."""
        names: list[str] = []
        size = 60
        for name in self.waiting:
            size += len(msgspec.json.encode(name)) + 1
            if names and size > PAYLOAD:
                break
            names.append(name)
        for name in names:
            del self.waiting[name]
        return names

    async def _say(self, connection: Connection, word: str, names: Sequence[str] = ()) -> None:
        payload = msgspec.json.encode([self.token, word, *names]).decode()
        await self._in_time(connection, connection.fetchval("SELECT pg_notify($1, $2)", self.channel, payload))

    async def close(self) -> None:
        self.closing = True
        self.woken.set()
        await self.task


# -- batches ----------------------------------------------------------------------------------------------------------


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> Sequence[Sequence[Any]]:
    return tuple(zip(*rows, strict=True)) if rows else ((),) * width


def _last(parts: Sequence[tuple[Any, ...]], size: int) -> Iterable[tuple[Any, ...]]:
    """The parts without those that a later one with the same key, their first `size` fields, replaces."""
    return parts if len(parts) < 2 else {part[:size]: part for part in parts}.values()


def _arguments(commits: Sequence[Commit], known: Collection[str]) -> Iterator[Sequence[Any]]:
    """The parameters of `commits` behind the first two, in one pass. Commits that create come first."""
    heads, news, labels, infos, entries, drops, frames = [], [], [], [], [], [], []
    sets, closes, opens, rewrites, consumes, messages = [], [], [], [], [], []
    for c, commit in enumerate(commits, 1):
        heads.append((
            commit.execution_id, commit.generation, commit.version, commit.nonce, commit.seq, commit.status,
            commit.current_step, commit.updated_at, commit.finished_at, commit.wake_at, pack(commit.root),
            commit.result_seq, commit.release,
        ))  # fmt: skip
        if (new := commit.new) is not None:
            news.append((
                commit.owner, commit.lease_ttl, new.workflow_id, new.workflow_version, new.definition_hash,
                None if new.definition_hash in known else pack(new.definition), pack(new.input),
                b"" if commit.info is None else pack(commit.info), new.created_at, new.parent_id, new.root_id,
                new.trigger, new.queue, new.priority, new.concurrency_key, msgspec.json.encode(new.labels).decode(),
            ))  # fmt: skip
            labels += [(c, key, value) for key, value in new.labels.items()]
        elif commit.info is not None:
            infos.append((c, pack(commit.info)))
        for seq, body in commit.entries:
            entries.append((c, seq, pack(body)))
        for path, name, seq in _last(commit.sets, 2):
            sets.append((c, path, name, seq))
        if commit.dropped:
            drops += [(c, path) for path in commit.dropped]
        if commit.frames:
            frames += [
                (c, path, out, None if frame is None else pack(frame)) for path, out, frame in _last(commit.frames, 1)
            ]
        if commit.closed:
            closes += [(c, wait_id) for wait_id in commit.closed]
        if commit.opened:
            opens += [
                (c, wait_id, seq, needed, deadline, pack(body))
                for wait_id, seq, needed, deadline, body in _last(commit.opened, 1)
            ]
        if commit.rewritten:
            rewrites += [(c, wait_id, pack(body)) for wait_id, body in _last(commit.rewritten, 1)]
        if commit.consumed:
            consumes += [(c, inbox_id) for inbox_id in commit.consumed]
        if commit.messages:
            messages += [
                (c, to.execution_id, to.kind, to.key, to.wait_id, to.takes, pack(body)) for to, body in commit.messages
            ]
    yield from _columns(heads, 13)
    yield from _columns(news, 16)
    yield from _columns(labels, 3)
    yield from _columns(infos, 2)
    yield from _columns(entries, 3)
    yield from _columns(drops, 2)
    yield from _columns(frames, 4)
    yield from _columns(sets, 4)
    yield from _columns(closes, 2)
    yield from _columns(opens, 6)
    yield from _columns(rewrites, 3)
    yield from _columns(consumes, 2)
    yield from _columns(messages, 7)


WIDTH = 2 + len(list(_arguments((), ())))


def _restatements(commits: Sequence[Commit]) -> Sequence[Sequence[Any]]:
    """The parameters of `restate` behind the first."""
    rows = []
    for c, commit in enumerate(commits, 1):
        if commit.definition is not None or commit.input is not None:
            digest, version, document = commit.definition or (None, None, None)
            body = None if document is None else pack(document)
            given = None if commit.input is None else pack(commit.input)
            rows.append((c, commit.execution_id, digest, version, body, given))
    return _columns(rows, 6)


def _facts(mark: Mark) -> tuple[Any, ...]:
    """The parameters of `marks` for one."""
    return (
        mark.expected, mark.schedule_id, mark.workflow_id, mark.nonce, mark.due, mark.awaits, mark.definition_hash,
        None if mark.definition is None else pack(mark.definition), None if mark.body is None else pack(mark.body),
    )  # fmt: skip


def _row(values: Sequence[Any]) -> Row:
    """From the columns of `ROW`."""
    (
        _, name, workflow_id, workflow_version, definition_hash, status, version, generation, nonce, seq, current_step,
        owner, lease_until, wake_at, recoveries, given, root, info, result_seq, result, waits, parent_id, root_id,
        labels, trigger, queue, priority, concurrency_key, created_at, updated_at, finished_at,
    ) = values  # fmt: skip
    return Row(
        id=name,
        workflow_id=workflow_id,
        workflow_version=workflow_version,
        definition_hash=definition_hash,
        status=status,
        version=version,
        generation=generation,
        nonce=nonce,
        seq=seq,
        current_step=current_step,
        owner=owner,
        lease_until=lease_until,
        wake_at=wake_at,
        recoveries=recoveries,
        input=unpack(given),
        root=unpack(root),
        info=unpack(info),
        result_seq=result_seq,
        result=None if result is None else unpack(result),
        waits=[unpack(wait) for wait in waits],
        parent_id=parent_id,
        root_id=root_id,
        labels={} if labels == "{}" else msgspec.json.decode(labels),
        trigger=trigger,
        queue=queue,
        priority=priority,
        concurrency_key=concurrency_key,
        created_at=created_at,
        updated_at=updated_at,
        finished_at=finished_at,
    )


ROW_WIDTH = len(msgspec.structs.fields(Row)) + 1


def _stored(record: Any) -> Stored:
    values = tuple(record)
    paths, frames, parents, names, pointers, seqs, entries, numbers, messages, late = values[ROW_WIDTH:]
    return Stored(
        row=_row(values[:ROW_WIDTH]),
        frames=[(path, unpack(frame)) for path, frame in zip(paths or (), frames or (), strict=True)],
        sets=list(zip(parents or (), names or (), pointers or (), strict=True)),
        entries={seq: unpack(entry) for seq, entry in zip(seqs or (), entries or (), strict=True)},
        inbox=[(number, unpack(message)) for number, message in zip(numbers or (), messages or (), strict=True)],
        late=late or [],
    )


def _queues(queues: Collection[str | None] | None) -> list[str] | None:
    """Names of queues as the schema compares them."""
    return None if queues is None else [_queue(queue) for queue in dict.fromkeys(queues)]


def _queue(name: str | None) -> str:
    return "" if name is None else f".{name}"


def _room(room: Mapping[str, int]) -> tuple[list[str], list[int]]:
    return [f".{queue}" for queue in room], list(room.values())


# -- searching --------------------------------------------------------------------------------------------------------


def search_sql(
    schema: str, filter: Filter, labels: Sequence[tuple[str, str]], position: tuple[float, str] | None, limit: int
) -> tuple[str, list[str], list[float]]:
    """The statement that finds a page, newest first, and the texts ($1) and times ($2) it looks for.

    It is a range of one index for each status, merged: a list of statuses in one condition would have to be sorted.
    `labels` are those of the filter, the rarest first.
    """
    texts: list[str] = []
    times: list[float] = []
    conditions: list[str] = []

    def text(given: str) -> str:
        texts.append(str(given))
        return f"$1[{len(texts)}]"

    def time(given: float) -> str:
        times.append(given)
        return f"$2[{len(times)}]"

    table = "heads"
    if filter.parent_id is not None:
        conditions.append(f"s.parent_id = {text(filter.parent_id)}")
    elif labels:
        table = "labels"
        (key, value), *labels = labels
        conditions.append(f"s.key = {text(key)} AND s.value = {text(value)}")
    if filter.workflow_id is not None:
        conditions.append(f"s.workflow_id = {text(filter.workflow_id)}")
    for key, value in labels:  # as a value and not as EXISTS, which could become a join
        conditions.append(
            f"(SELECT l.value FROM {schema}.labels l WHERE l.n = s.n AND l.key = {text(key)}) = {text(value)}"
        )
    if filter.created_after is not None:
        conditions.append(f"s.created_at > {time(filter.created_after)}")
    if filter.created_before is not None:
        conditions.append(f"s.created_at < {time(filter.created_before)}")
    if position is not None:
        conditions.append(f"(s.created_at, s.id) < ({time(position[0])}, {text(position[1])})")
    runs = []
    for status in STATUSES if filter.statuses is None else dict.fromkeys(filter.statuses):
        where = " AND ".join([f"s.status = {text(status)}", *conditions])
        runs.append(
            f"(SELECT s.created_at, s.id, s.n FROM {schema}.{table} s WHERE {where} "
            f"ORDER BY s.created_at DESC, s.id DESC LIMIT {limit})"
        )
    row = f"SELECT {ddl.ROW} FROM {ddl.ROW_TABLES}".format(s=schema)
    sql = (
        f"SELECT rows.* FROM (SELECT * FROM ({' UNION ALL '.join(runs)}) every "
        f"ORDER BY created_at DESC, id DESC LIMIT {limit}) page "
        f"CROSS JOIN LATERAL ({row} WHERE h.n = page.n OFFSET 0) rows ORDER BY page.created_at DESC, page.id DESC"
    )
    return sql, texts, times


# -- the store --------------------------------------------------------------------------------------------------------


class PostgresStore(Store):
    """Executions in the PostgreSQL database of `url`, or of an asyncpg `pool`, which stays the user's.

    Everything is in the schema `schema`. With ``auto_migrate=False`` opening a database with another schema version (or
    none) is an error; `migration_sql` is what another role has to run then. `writers` and `readers` are how many
    connections write and read; one more listens, where that is possible; and services that share a transaction with
    their step have at most `transactions` of their own. `timeout` is after how many seconds without an
    answer a connection is given up. `pooler` says whether there is a pooler in transaction mode (PgBouncer) on the way:
    None finds out. Other options go to `asyncpg.connect`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        pool: Any = None,
        schema: str = "durable_flow",
        auto_migrate: bool = True,
        writers: int = 2,
        readers: int = 2,
        timeout: float = 10.0,
        pooler: bool | None = None,
        transactions: int = 10,
        **options: Any,
    ) -> None:
        if (url is None) == (pool is None):
            raise ConfigError("PostgresStore takes the URL of a database, or pool=, an asyncpg pool")
        if pool is not None and options:
            raise ConfigError(f"options of connections ({', '.join(options)}) belong to the pool")
        if type(schema) is not str or not 1 <= len(schema.encode("utf-8", "replace")) <= 63 or not schema.isprintable():
            raise ConfigError(f"a schema name has 1 to 63 bytes, not {schema!r:.100}")
        if schema.startswith("pg_") or schema == "information_schema":
            raise ConfigError(f"the schema {schema!r} belongs to PostgreSQL; choose another name")
        if min(writers, readers) < 1:
            raise ConfigError("a store needs at least one writer and one reader")
        if transactions < 1:
            raise ConfigError(f"transactions is a number of connections from 1 on, not {transactions!r}")
        if not timeout > 0:
            raise ConfigError(f"timeout is a number of seconds, not {timeout!r}")
        self.schema = schema
        self.auto_migrate = auto_migrate
        self.pooler = pooler
        self._sizes = writers, readers
        self._most = transactions
        self._lender: Lender | None = None
        self._name = "the database of a pool" if url is None else _without_password(url)
        self._door = PoolDoor(pool, timeout=timeout) if url is None else Door(url, timeout=timeout, options=options)
        self._process = 0
        self._crews: Crews | None = None
        self._wire: Wire | None = None
        self._known: set[str] = set()
        self._commits = Kind(self._write_commits)
        self._appends = Kind(self._write_messages)
        self._claims = Kind(self._write_claims)
        self._lined = Kind(self._write_in_line, most=1)
        self._takes: Kind[tuple[Work[Any], float]] = Kind(self._do, most=1)
        self._single: Kind[tuple[Work[Any], float]] = Kind(self._do, most=1)
        self._reads: Kind[tuple[Work[Any], float]] = Kind(self._do, most=1)
        self._rows = Kind(self._read_rows)
        self._fetches = Kind(self._read_stored)
        self._patient: Sequence[Kind[Any]] = (
            Kind(self._write_commits, before=self._commits),
            Kind(self._write_messages, before=self._appends),
            Kind(self._write_claims, before=self._claims),
            self._single,
        )
        s = ddl.quoted(schema)
        self._s = s
        marks = ", ".join(f"${i}" for i in range(1, WIDTH + 1))
        self._commits_sql = f"SELECT * FROM {s}.commits({marks})"
        more = ", ".join(f"${WIDTH + number}" for number in range(1, 7))
        self._restating_sql = (
            f"WITH done AS MATERIALIZED (SELECT * FROM {s}.commits({marks})) "
            f"SELECT d._outcome, d._holder, {s}.restate(d._outcome, {more}) FROM done d"
        )
        lined = ", ".join(f"${i}" for i in range(1, WIDTH + 7))
        self._line_sql = f"SELECT * FROM {s}.commit_in_line({lined})"
        self._marks_sql = f"SELECT * FROM {s}.marks($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        self._appends_sql = f"SELECT * FROM {s}.appends($1, $2, $3, $4, $5, $6, $7, $8)"
        self._claims_sql = f"SELECT * FROM {s}.claims($1, $2, $3, $4, $5, $6)"

    def __repr__(self) -> str:
        return f"PostgresStore({self._name!r}, schema={self.schema!r})"

    @property
    def name(self) -> str:
        """What errors call it."""
        return self._name

    def _now(self) -> float | None:
        """None: the server's time."""
        return None if type(self.clock) is SystemClock else self.clock.now()

    @property
    def wakes(self) -> bool:  # type: ignore[override]
        return self._wire is not None and self._wire.connection is not None

    # -- opening and closing ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._crews is not None:
            raise StoreError(f"{self!r} is open already")
        self._known.clear()
        door = self._door
        door.pooled = self.pooler is not False
        try:
            session = Session(door)
            try:
                pooled = await session.run(self._examine)
                await session.run(self._migrate, patience=6)
            finally:
                await session.close()
        except Exception as error:
            raise _translated(error, self._name) from error
        door.pooled = pooled
        if not door.listens:
            log.warning(
                "%s %s: what other processes do is found by polling, not by LISTEN",
                self._name,
                "is behind a pooler" if pooled else "has room for fewer than 3 connections",
            )
        writers, readers = self._sizes
        self._process = os.getpid()
        patient = Crew("durable_flow patient", 1, door, self._name, self._patient)
        kinds = (self._commits, self._appends, self._claims, self._takes, self._lined)
        self._crews = Crews(
            Crew("durable_flow writer", writers, door, self._name, kinds, patient),
            patient,
            Crew("durable_flow reader", readers, door, self._name, (self._reads, self._rows, self._fetches)),
        )
        self._lender = door.lend(self._most)
        self._wire = Wire(door, self.schema, self.heard)
        try:
            await self._wire.tried.wait()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        crews, wire = self._crews, self._wire
        if crews is not None and os.getpid() != self._process:
            return  # after a fork: the connections are the other process's
        lender = self._lender
        self._crews = self._wire = self._lender = None
        try:
            if lender is not None:
                await lender.close()
            for crew in crews or ():
                await crew.close()
        finally:
            if wire is not None:
                await wire.close()

    async def _examine(self, connection: Connection) -> bool:
        """Refuses what the store cannot work on, warns of what it should not; whether there is a pooler on the way."""
        found = await connection.fetchrow(
            """SELECT pg_backend_pid() AS pid, current_setting('server_version_num')::integer AS version,
                current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby,
                current_setting('default_transaction_read_only') AS read_only,
                current_setting('synchronous_commit') AS synchronous, current_setting('fsync') AS fsync"""
        )
        if found["version"] < OLDEST:
            raise StoreError(f"{self._name}: PostgreSQL {OLDEST // 10_000} or newer is needed")
        if found["encoding"] != "UTF8":
            raise StoreError(f"{self._name} has the encoding {found['encoding']}; a database with UTF8 is needed")
        if found["standby"] or found["read_only"] == "on":
            raise StoreUnavailable(_read_only(self._name))
        lax = [name for name in ("synchronous", "fsync") if found[name] == "off"]
        if lax:
            setting = "fsync" if "fsync" in lax else "synchronous_commit"
            log.warning(
                "%s has %s = off: when the server fails, transitions are lost that callers were told are durable",
                self._name,
                setting,
            )
        if self.pooler is not None:
            return self.pooler
        return bool(found["pid"] != connection.get_server_pid())

    async def _version(self, connection: Connection) -> int:
        # A query of the catalogue: to_regclass may remember what it saw before this transaction waited for another.
        there = await connection.fetchval(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'schema_version')",
            self.schema,
        )
        if not there:
            return 0
        version = int(await connection.fetchval(f"SELECT max(version) FROM {self._s}.schema_version"))
        if version > len(ddl.MIGRATIONS):
            raise SchemaTooNew(version, len(ddl.MIGRATIONS))
        return version

    async def _migrate(self, connection: Connection) -> None:
        """Runs in a transaction that `Session` begins and ends where there may be a pooler, else in one of its own."""
        version = await self._version(connection)
        self.versions = version, len(ddl.MIGRATIONS)
        if version == len(ddl.MIGRATIONS):
            return
        if not self.auto_migrate:
            raise StoreError(
                f"{self._name} has version {version} of the schema {self.schema!r}, this release of durable-flow needs "
                f"{len(ddl.MIGRATIONS)}: run `durable-flow migrate`, or open it once with auto_migrate=True"
            )
        own = not self._door.shared
        if own:
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            await connection.execute("SET LOCAL lock_timeout = 0")
            await connection.execute(ddl.lock_sql(self.schema))
            version = await self._version(connection)
            self.versions = version, len(ddl.MIGRATIONS)
            if version < len(ddl.MIGRATIONS):
                # Asked first: IF NOT EXISTS needs the right to create schemas, even where there is nothing to create.
                found = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1)"
                if not await connection.fetchval(found, self.schema):
                    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self._s}")
                await connection.execute(ddl.steps_sql(self.schema, version))
                log.info("%s: schema migrated from version %d to %d", self._name, version, len(ddl.MIGRATIONS))
        except BaseException:
            if own and not connection.is_closed():
                await connection.execute("ROLLBACK")
            raise
        if own:
            await connection.execute("COMMIT")

    def migration_sql(self, from_version: int = 0) -> str:
        """What opening would run to bring the schema from a version to that of this release, as one transaction of SQL:
        for a role that may create things, where the one the store uses may not."""
        if type(from_version) is not int or not 0 <= from_version <= len(ddl.MIGRATIONS):
            raise ValidationError([f"from_version is 0 to {len(ddl.MIGRATIONS)}, not {from_version!r:.100}"])
        s = self._s
        create = f"CREATE SCHEMA IF NOT EXISTS {s};\n" if from_version == 0 else ""
        return (
            f"-- The schema of durable_flow, from version {from_version} to {len(ddl.MIGRATIONS)}.\n"
            f"-- The role that uses it then needs: GRANT USAGE ON SCHEMA {s} TO …;\n"
            f"-- GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {s} TO …;\n"
            f"BEGIN;\n{ddl.lock_sql(self.schema)};\n{create}{ddl.steps_sql(self.schema, from_version)}COMMIT;\n"
        )

    def _crew(self) -> Crews:
        if self._crews is None:
            raise StoreError(f"{self!r} is not open; use it inside 'async with'")
        if os.getpid() != self._process:
            raise StoreError(f"{self!r} was opened by another process; open a store of its own after a fork")
        return self._crews

    # -- writing ------------------------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        weight = 0
        for _, body in commit.entries:
            weight += len(body)
        kind = self._commits if commit.slot is None and commit.frees is None else self._lined
        return self._crew().writers.submit(kind, commit, commit.execution_id, weight)

    async def _write_commits(self, session: Session, commits: list[Commit], wait: bool) -> Sequence[object]:
        order = range(len(commits))
        if any(commit.new is not None for commit in commits):
            order = sorted(order, key=lambda i: commits[i].new is None)  # type: ignore[assignment]
            commits = [commits[i] for i in order]
        arguments = list(_arguments(commits, self._known))
        now = self._now()
        sql = self._commits_sql
        if any(commit.definition is not None or commit.input is not None for commit in commits):
            sql = self._restating_sql
            arguments += _restatements(commits)
        work: Work[Any] = lambda connection: connection.fetchrow(sql, wait, now, *arguments)  # noqa: E731
        if any(commit.mark is not None for commit in commits):
            work = lambda connection: self._commit_marked(connection, commits, wait)  # noqa: E731
        try:
            codes, holders, *_ = await session.run(work)
        except BaseException:
            self._known.clear()  # the next connection may lead to a server that lost what this one had
            raise
        outcomes: list[object] = [None] * len(commits)
        for c, (i, code, commit) in enumerate(zip(order, codes, commits, strict=True)):
            if code >= 0:
                outcomes[i] = RELEASED if code else KEPT
                if commit.new is not None and len(self._known) < 10_000:
                    self._known.add(commit.new.definition_hash)
                self._tell(commit)
            elif code == -2:
                outcomes[i] = LOCKED
            elif code == REFUSED:
                outcomes[i] = LeaseLost(commit.execution_id)
            elif commit.new is not None:
                outcomes[i] = ConflictError(f"there is already an execution {commit.execution_id!r} in this store")
            else:
                holder = holders[c]
                outcomes[i] = LeaseLost(commit.execution_id, owner=holder if holder != commit.owner else None)
        return outcomes

    async def _write_in_line(self, session: Session, commits: list[Commit], wait: bool) -> Sequence[object]:
        """A commit of an execution that joins the line of a key, or leaves it: by itself, while the line is locked."""
        (commit,) = commits
        slot, new = commit.slot, commit.new
        wanted: Sequence[Any] = (None,) * 5
        if slot is not None:
            known = None if slot.known is None else list(slot.known)
            wanted = (slot.key, slot.limit, slot.waits, known, slot.until_begun)
        arguments = (*wanted, commit.frees, True, self._now(), *_arguments(commits, ()))
        work: Work[Any] = lambda connection: connection.fetchrow(self._line_sql, *arguments)  # noqa: E731
        if (mark := commit.mark) is not None:
            work = partial(self._marked, mark, work, lambda found: not found[0] and found[3][0] >= 0)
        written = await session.run(work)
        if written is None:
            return [LeaseLost(commit.execution_id)]
        refused, holders, promoted, outcome, lost_to = written
        if slot is not None and refused == 2:
            return [KeyTaken(slot.key, holders or [])]
        if refused or (new is not None and outcome[0] < 0):
            return [ConflictError(f"there is already an execution {commit.execution_id!r} in this store")]
        if outcome[0] < 0:
            return [LeaseLost(commit.execution_id, owner=lost_to[0] if lost_to[0] != commit.owner else None)]
        self._tell(commit)
        for name in promoted or ():
            if self._wire is not None:
                self._wire.tell(name)
        return [Committed(released=outcome[0] == 1, promoted=promoted or ())]

    async def _marked(self, mark: Mark, work: Work[Any], landed: Callable[[Any], bool], connection: Connection) -> Any:
        """What `work` gives, and the mark, if that applies and the work `landed`; None where it does not apply."""
        async with nullcontext() if self._door.shared else connection.transaction():
            lock = f"SELECT nonce FROM {self._s}.schedules WHERE id = $1 FOR UPDATE"
            if mark.expected is None or await connection.fetchval(lock, mark.schedule_id) != mark.expected:
                return None
            found = await work(connection)
            if landed(found):
                await connection.fetch(self._marks_sql, *([fact] for fact in _facts(mark)))
        return found

    async def _commit_marked(
        self, connection: Connection, commits: list[Commit], wait: bool
    ) -> tuple[Sequence[int], Sequence[str | None]]:
        """What `commits` gives, where some are to be written only together with their marks."""
        async with nullcontext() if self._door.shared else connection.transaction():
            names = [commit.mark.schedule_id for commit in commits if commit.mark is not None]
            lock = f"SELECT id, nonce FROM {self._s}.schedules WHERE id = ANY($1) ORDER BY id FOR UPDATE"
            nonces: dict[str, str] = dict(await connection.fetch(lock, names))
            codes = [REFUSED] * len(commits)
            holders: list[str | None] = [None] * len(commits)
            passing = []
            for c, commit in enumerate(commits):
                if (mark := commit.mark) is None:
                    passing.append(c)
                elif mark.expected is not None and nonces.get(mark.schedule_id) == mark.expected:
                    del nonces[mark.schedule_id]  # it is the last one here to which this applies
                    passing.append(c)
            if passing:
                written = [commits[c] for c in passing]
                arguments, sql = list(_arguments(written, self._known)), self._commits_sql
                if any(commit.definition is not None or commit.input is not None for commit in written):
                    arguments, sql = [*arguments, *_restatements(written)], self._restating_sql
                outcomes, owners, *_ = await connection.fetchrow(sql, wait, self._now(), *arguments)
                for c, code, owner in zip(passing, outcomes, owners or [None] * len(passing), strict=True):
                    codes[c], holders[c] = code, owner
            marks = [commit.mark for commit, code in zip(commits, codes, strict=True) if commit.mark and code >= 0]
            if marks:
                await connection.fetch(self._marks_sql, *_columns([_facts(mark) for mark in marks], 9))
        return codes, holders

    def begin(self, *, hold: float) -> StepTransaction:
        self._crew()
        assert self._lender is not None
        return PostgresTransaction(self, self._lender)

    async def commit_on(self, connection: Connection, commit: Commit) -> Committed:
        """Commits the transaction that is open on a connection, and a transition last in it. Raises LeaseLost if it is
        fenced, and what asyncpg raises."""
        await connection.execute(self._door.settle)
        (code,), holders = await connection.fetchrow(
            self._commits_sql, True, self._now(), *_arguments([commit], self._known)
        )
        if code < 0:
            holder = holders[0]
            raise LeaseLost(commit.execution_id, owner=holder if holder != commit.owner else None)
        await connection.execute("COMMIT")
        self._tell(commit)
        return RELEASED if code else KEPT

    def _tell(self, commit: Commit) -> None:
        """What other processes may wait for."""
        wire = self._wire
        if wire is not None and wire.company:
            if commit.status in TOLD or (commit.new is not None and commit.lease_ttl is None):
                wire.tell(commit.execution_id)
            for message, _ in commit.messages:
                wire.tell(message.execution_id)

    async def append(self, message: Message, body: Blob) -> Appended:
        subject = (message.execution_id, message.kind, message.key, message.wait_id, message.takes, body)
        appended: Appended = await self._crew().writers.submit(self._appends, subject, weight=len(body))
        if appended.outcome == "accepted" and self._wire is not None:
            self._wire.tell(message.execution_id)
        return appended

    async def _write_messages(self, session: Session, messages: list[tuple[Any, ...]], wait: bool) -> Sequence[object]:
        columns = _columns([(*facts, pack(body)) for *facts, body in messages], 6)
        now = self._now()
        outcomes, owners, untils = await session.run(
            lambda connection: connection.fetchrow(self._appends_sql, wait, now, *columns)
        )
        # Who has waited and still finds a row locked has met one that was created meanwhile.
        return [
            LOCKED
            if outcome == LOCKED and not wait
            else Appended(outcome="unknown" if outcome == LOCKED else outcome, owner=owner, lease_until=until)
            for outcome, owner, until in zip(outcomes, owners, untils, strict=True)
        ]

    async def claim(
        self, execution_id: str, *, owner: str, ttl: float, statuses: Collection[str]
    ) -> Stored | Busy | None:
        subject = (execution_id, owner, ttl, ",".join(statuses))
        found: Stored | Busy | None = await self._crew().writers.submit(self._claims, subject, execution_id)
        return found

    async def _write_claims(
        self, session: Session, claims: list[tuple[str, str, float, str]], wait: bool
    ) -> Sequence[object]:
        columns = _columns(claims, 4)
        now = self._now()
        records = await session.run(lambda connection: connection.fetch(self._claims_sql, wait, now, *columns))
        found: dict[str, object] = {}
        for record in records:
            if record["status"] is None:
                found[record["id"]] = None if wait else LOCKED
            elif record["n"] is None:
                found[record["id"]] = Busy(
                    status=record["status"], owner=record["owner"], lease_until=record["lease_until"]
                )
            else:
                found[record["id"]] = _stored(record)
        return [found.get(claim[0]) for claim in claims]

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
        sql, now = f"SELECT * FROM {self._s}.takes($1, $2, $3, $4, $5, $6, $7, $8)", self._now()
        work: Work[Any] = lambda connection: connection.fetch(  # noqa: E731
            sql, now, owner, ttl, limit, _queues(queues), list(without), *_room(room or {})
        )
        return [_stored(record) for record in await self._crew().writers.submit(self._takes, (work, 1.0))]

    async def next_due(
        self,
        *,
        queues: Collection[str | None] | None = None,
        without: Collection[str] = (),
        room: Mapping[str, int] | None = None,
    ) -> float | None:
        sql = f"SELECT {self._s}.next_due($1, $2, $3, $4, $5)"
        ((seconds,),) = await self._read(sql, self._now(), _queues(queues), list(without), *_room(room or {}))
        return None if seconds is None or seconds == NEVER else float(seconds)

    async def _do(self, session: Session, works: list[tuple[Work[Any], float]], wait: bool) -> Sequence[object]:
        ((work, patience),) = works
        return [await session.run(work, patience=patience)]

    def _write(self, sql: str, *arguments: Any, patience: float = 1.0) -> asyncio.Future[Any]:
        work: Work[Any] = lambda connection: connection.fetchrow(sql, *arguments)  # noqa: E731
        return self._crew().patient.submit(self._single, (work, patience))

    def _read(self, sql: str, *arguments: Any) -> asyncio.Future[Any]:
        work: Work[Any] = lambda connection: connection.fetch(sql, *arguments)  # noqa: E731
        return self._crew().readers.submit(self._reads, (work, 1.0))

    async def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        name = _queue(queue)
        if value is None:
            sql = f"UPDATE {self._s}.queues SET {setting} = NULL WHERE queue = $1 AND {setting} IS NOT NULL RETURNING 1"
            changed = await self._write(sql, name) is not None
        else:
            other = "IS NULL" if setting == "hold" else f"IS DISTINCT FROM excluded.{setting}"
            sql = (
                f"INSERT INTO {self._s}.queues AS q (queue, {setting}) VALUES ($1, $2) ON CONFLICT (queue) "
                f"DO UPDATE SET {setting} = excluded.{setting} WHERE q.{setting} {other} RETURNING 1"
            )
            changed = await self._write(sql, name, pack(value) if setting == "hold" else value) is not None
        if changed and self._wire is not None:
            self._wire.tell("")
        return changed

    async def queues(self, names: Collection[str | None] | None = None) -> Mapping[str | None, QueueRow]:
        found: dict[str | None, QueueRow] = {}
        for name, hold, declared, decided, pending, under_way in await self._read(
            f"SELECT * FROM {self._s}.queues_of($1)", _queues(names)
        ):
            row = QueueRow(
                hold=None if hold is None else unpack(hold),
                declared=declared,
                decided=decided,
                pending=pending,
                under_way=under_way,
            )
            if names is not None or row != QueueRow():
                found[name[1:] if name else None] = row
        return found

    async def line(self, key: str) -> Sequence[InLine]:
        return [InLine(*found) for found in await self._read(f"SELECT * FROM {self._s}.line_of($1)", key)]

    async def mark(self, mark: Mark) -> bool:
        found = await self._write(self._marks_sql, *([fact] for fact in _facts(mark)))
        if found is not None and self._wire is not None:
            self._wire.tell("")
        return found is not None

    async def schedules(
        self, *, workflows: Collection[str] | None = None, limit: int | None = None
    ) -> tuple[float, Sequence[ScheduleRow]]:
        sql = f"SELECT * FROM {self._s}.schedules_of($1, $2, $3)"
        names = None if workflows is None else list(workflows)
        ((present, *columns),) = await self._read(sql, self._now(), names, limit)
        found: dict[str, ScheduleRow] = {}
        for name, workflow_id, nonce, due, awaits, digest, body in zip(
            *(column or () for column in columns), strict=True
        ):
            row = schedule_row(name, workflow_id, nonce, due, awaits, digest, unpack(body))
            if row.id not in found or row.due == 0:
                found[row.id] = row
        return float(present), sorted(found.values(), key=soonest)[:limit]

    async def present(self) -> float:
        if (fixed := self._now()) is not None:
            return fixed
        ((present,),) = await self._read("SELECT extract(epoch FROM clock_timestamp())::double precision")
        return float(present)

    async def renew(self, owner: str, *, ttl: float) -> Mapping[str, int]:
        return dict(await self._read(f"SELECT * FROM {self._s}.renew($1, $2, $3)", self._now(), owner, ttl))

    async def release(self, execution_id: str, *, owner: str, generation: int) -> None:
        await self._write(f"SELECT {self._s}.release($1, $2, $3, $4)", self._now(), execution_id, owner, generation)
        if self._wire is not None:
            self._wire.tell(execution_id)

    async def remove(self, execution_id: str) -> bool:
        removed, holder, promoted = await self._write(
            f"SELECT * FROM {self._s}.remove_in_line($1, $2)", self._now(), execution_id, patience=6
        )
        if holder is not None:
            raise ConflictError(f"execution {execution_id!r} cannot be deleted: {holder} is driving it")
        for name in promoted or ():
            self.heard(name)
            if self._wire is not None:
                self._wire.tell(name)
        return bool(removed)

    async def purge_rows(self, *, before: float, statuses: Collection[str], limit: int) -> int:
        given = list(dict.fromkeys(str(status) for status in statuses))
        sql = f"SELECT {self._s}.purge($1, $2, $3, $4)"
        (count,) = await self._write(sql, self._now(), before, given, limit, patience=6)
        return int(count)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def mail(self, owner: str) -> Sequence[str]:
        return [name for (name,) in await self._read(f"SELECT {self._s}.mail_of($1)", owner)]

    async def inbox(self, execution_id: str) -> Sequence[tuple[int, Blob]]:
        found = await self._read(f"SELECT * FROM {self._s}.inbox_of($1)", execution_id)
        return [(number, unpack(body)) for number, body in found]

    async def row(self, execution_id: str) -> Row | None:
        row: Row | None = await self._crew().readers.submit(self._rows, execution_id)
        return row

    async def _read_rows(self, session: Session, names: list[str], wait: bool) -> Sequence[object]:
        sql = f"SELECT * FROM {self._s}.rows_of($1)"
        rows = [_row(record.values()) for record in await session.run(lambda asked: asked.fetch(sql, names))]
        found = {row.id: row for row in rows}
        return [found.get(name) for name in names]

    async def fetch(self, execution_id: str) -> Stored | None:
        stored: Stored | None = await self._crew().readers.submit(self._fetches, execution_id)
        return stored

    async def _read_stored(self, session: Session, names: list[str], wait: bool) -> Sequence[object]:
        sql = f"SELECT * FROM {self._s}.stored_of($1)"
        whole = [_stored(record) for record in await session.run(lambda asked: asked.fetch(sql, names))]
        found = {stored.row.id: stored for stored in whole}
        return [found.get(name) for name in names]

    async def read(
        self, execution_id: str, *, after: int = 0, limit: int | None = None, seqs: Sequence[int] | None = None
    ) -> Sequence[tuple[int, Blob]]:
        if seqs is not None:
            found = await self._read(f"SELECT * FROM {self._s}.entries_at($1, $2)", execution_id, list(seqs))
        else:
            found = await self._read(f"SELECT * FROM {self._s}.entries_of($1, $2, $3)", execution_id, after, limit)
        return [(seq, unpack(body)) for seq, body in found]

    async def search(self, filter: Filter, *, limit: int, cursor: str | None) -> tuple[Sequence[Row], str | None]:
        position = None if cursor is None else position_of(cursor)
        if filter.statuses is not None and not filter.statuses:
            self._crew()
            return [], None
        labels = list(filter.labels.items())
        if len(labels) > 1 and filter.parent_id is None:
            labels = await self._rarest_first(labels)
        search = search_sql(self._s, filter, labels, position, limit + 1)
        found = await self._read(f"SELECT * FROM {self._s}.page($1, $2, $3)", *search)
        rows = [_row(record.values()) for record in found]
        return rows[:limit], cursor_of(rows[limit - 1].created_at, rows[limit - 1].id) if len(rows) > limit else None

    async def _rarest_first(self, labels: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """In front the one that the fewest executions have, as far as 1,000 of them tell."""
        counts = await self._read(
            "SELECT (SELECT count(*) FROM (SELECT 1 FROM "
            f"{self._s}.labels l WHERE l.key = g.key AND l.value = g.value LIMIT 1000) few) "
            "FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS g (key, value, place) ORDER BY g.place",
            [key for key, _ in labels],
            [value for _, value in labels],
        )
        return [label for _, label in sorted(zip(counts, labels, strict=True), key=lambda pair: pair[0][0])]

    async def definition(self, definition_hash: str) -> Blob | None:
        found = await self._read(f"SELECT body FROM {self._s}.definitions WHERE hash = $1", definition_hash)
        return unpack(found[0][0]) if found else None


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
        query = urlencode([(key, value) for key, value in parse_qsl(parts.query) if key != "password"], safe="/,")
        return urlunsplit((parts.scheme, f"{user.partition(':')[0]}{at}{host}", parts.path, query, ""))
    except ValueError:
        return "postgresql://…"
