"""Executions in Redis (6.2 or newer) or Valkey.

*Keys.* All begin with the prefix as a hash tag, ``{durable_flow}:``, so on a cluster a store occupies one slot, and one
node carries its load. Give several stores several prefixes to spread them. Nothing ever expires: what has ended goes
with `purge`. Which keys there are is written in ``redis.lua``.

*Writing.* Every verb is a function of one Lua script, which takes a batch of them: while one batch is under way all
commits, claims and messages of this process collect for the next one, without a timer. A batch is atomic, and so is
each of its members, with an answer of its own. Two batches are in flight at most, on one connection, so the order in
which things were submitted is the order in which they happen, and Python encodes while Redis writes.

*Durability.* It is what the server's ``appendfsync`` promises; opening a store says so where that is not everything.
A replica is no backup of that: Redis answers before its replicas have anything.

*Connections.* Three: writing, reading, listening for wake-ups. Nothing is ever sent twice by itself. A batch whose
answer is lost is StoreUnavailable for all its members, and its connection is thrown away with whatever still arrives.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

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
    StoreError,
    StoreUnavailable,
)
from durable_flow.ids import token_hex
from durable_flow.journal import Journal
from durable_flow.model.execution import Status
from durable_flow.model.frame import Message
from durable_flow.stores.base import (
    Appended,
    Blob,
    Busy,
    Commit,
    Committed,
    Filter,
    InLine,
    Landing,
    Mark,
    New,
    QueueRow,
    QueueSetting,
    Row,
    ScheduleRow,
    Store,
    Stored,
    cursor_of,
    position_of,
    schedule_row,
    soonest,
)

try:
    from redis.asyncio import ConnectionPool
    from redis.asyncio.connection import AbstractConnection
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        AuthenticationError,
        AuthorizationError,
        MovedError,
        NoPermissionError,
        NoScriptError,
        RedisError,
        ResponseError,
    )
except ImportError as error:
    raise MissingExtraError("redis", "redis") from error

log = Journal(__name__)
T = TypeVar("T")

OLDEST = (6, 2)
"""The first release of Redis that has everything the script uses."""

SCRIPT = (files("durable_flow.stores") / "redis.lua").read_bytes()
SCHEMA = int(SCRIPT.partition(b"local SCHEMA = ")[2].split()[0])
"""The version of the layout of the keys."""

SCRIPT_HASH = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

BATCH, BATCH_BYTES = 256, 1024 * 1024
"""Where a batch ends: nobody else is served while the server works on one."""

HALF = 8
"""A batch that is twice as large is answered in two halves."""

IN_FLIGHT = 2
"""Batches on one connection that have no answer yet."""

ROWS, ENTRIES = 200, 1000
"""How much one call of the script reads at most; what is asked for beyond that is read in several."""

STATUSES = tuple(str(status) for status in Status)

UNAVAILABLE = re.compile(
    r"(?:^|[:\s]-?)(OOM|READONLY|LOADING|MISCONF|CLUSTERDOWN|TRYAGAIN|MASTERDOWN|NOREPLICAS|BUSY|ASK|MOVED|"
    r"max number of clients reached)\b"
)
"""Errors of a server that say nothing about what was asked, only that it cannot be done there or now."""

OWN = frozenset({
    "decode_responses", "encoding", "encoding_errors", "health_check_interval", "legacy_responses", "parser_class",
    "protocol", "retry", "retry_on_error", "retry_on_timeout", "socket_connect_timeout", "socket_timeout",
    "himport_registry", "event_dispatcher",
})  # fmt: skip
"""Settings of a connection that are the store's own, whatever the client that it was made from has."""


def _plain(value: object) -> str:
    """What the encoder does not know: a class of text of the engine's is text."""
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"a {type(value).__name__} is nothing that is stored")


encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
decode = msgspec.msgpack.Decoder().decode
decode_heard = msgspec.msgpack.Decoder(list[str]).decode


# -- values -----------------------------------------------------------------------------------------------------------


def _packed(blob: Blob, *, prefix: str = "") -> str | msgspec.Raw:
    """Lua knows only bytes: the first one says what they were."""
    return f"{prefix}s{blob}" if isinstance(blob, str) else _raw(prefix.encode() + b"b" + blob)


def _raw(data: bytes) -> msgspec.Raw:
    """Bytes as a text of msgpack, whatever they are: the servers' decoder is older than the type of bytes."""
    return msgspec.Raw(b"\xdb%b%b" % (len(data).to_bytes(4), data))


def _blob(value: bytes) -> Blob:
    return value[1:].decode() if value[:1] == b"s" else value[1:]


def _float(value: bytes | None) -> float | None:
    return None if value is None else float(value)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _pairs(values: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(values[::2], values[1::2], strict=True)


def _part(value: str) -> str:
    """A text as a part of the name of an index: its length keeps it apart from what follows."""
    return f"{len(value.encode())}:{value}"


def _queue(name: str | None) -> str:
    return "" if name is None else f".{name}"


def _queues(names: Collection[str | None] | None) -> list[str] | bool:
    return False if names is None else [_queue(name) for name in names]


def _room(room: Mapping[str, int] | None) -> dict[str, int] | bool:
    return {_queue(name): most for name, most in room.items()} if room else False


def _set(setting: QueueSetting, value: Blob) -> Blob | msgspec.Raw:
    return _packed(value) if setting == "hold" else value


def _label(key: str, value: str, workflow_id: str | None) -> str:
    kind = "l:" if workflow_id is None else f"m:{_part(workflow_id)}"
    return f"{kind}{_part(key)}{value}"


def _indexes(new: New) -> list[str]:
    """The names of the indexes an execution is in, behind its status."""
    indexes = ["", f"w:{new.workflow_id}"]
    if new.parent_id is not None:
        indexes.append(f"p:{new.parent_id}")
    for key, value in new.labels.items():
        indexes += (_label(key, value, None), _label(key, value, new.workflow_id))
    return indexes


def _conditions(filter: Filter) -> list[str]:
    """The names of the indexes that together hold what a filter lets through."""
    conditions = [_label(key, value, filter.workflow_id) for key, value in filter.labels.items()]
    if filter.workflow_id is not None and not conditions:
        conditions.append(f"w:{filter.workflow_id}")
    if filter.parent_id is not None:
        conditions.append(f"p:{filter.parent_id}")
    return conditions or [""]


def _row(values: Sequence[Any]) -> Row:
    (
        version, generation, status, ended, owner, lease, recovered, head, info, facts, wake_at, redefined, changed,
        result, waits, name,
    ) = values  # fmt: skip
    nonce, seq, result_seq, current_step, updated_at, root = decode(head.partition(b":")[2])
    at, _, recoveries = (recovered or b"").partition(b" ")
    (
        workflow_id, workflow_version, definition_hash, given, created_at, parent_id, root_id, labels, trigger, queue,
        priority, concurrency_key,
    ) = decode(facts)  # fmt: skip
    if redefined is not None:
        definition_hash, workflow_version = decode(redefined)
    return Row(
        id=name.decode(),
        workflow_id=workflow_id,
        workflow_version=workflow_version,
        definition_hash=definition_hash,
        status=status.decode(),
        version=int(version),
        generation=int(generation),
        nonce=nonce,
        seq=seq,
        current_step=current_step,
        owner=_text(owner),
        lease_until=_float(lease),
        wake_at=_float(wake_at),
        recoveries=int(recoveries) if at == version else 0,
        input=given if changed is None else _blob(changed),
        root=root,
        info="" if info is None else _blob(info),
        result_seq=result_seq,
        result=None if result is None else _blob(result),
        waits=_waits(waits) if waits else [],
        parent_id=parent_id,
        root_id=root_id,
        labels=labels,
        trigger=trigger,
        queue=queue,
        priority=priority,
        concurrency_key=concurrency_key,
        created_at=created_at,
        updated_at=updated_at,
        finished_at=_float(ended),
    )


def _waits(values: Sequence[bytes]) -> list[Blob]:
    """Bodies of waits (id, "seq remaining deadline body"), in the order of `Row.waits`."""
    found = []
    for name, value in _pairs(values):
        seq, _, _, body = value.split(b" ", 3)
        found.append((int(seq), name, body))
    return [_blob(body) for _, _, body in sorted(found)]


def _late(values: Sequence[bytes]) -> list[str]:
    """The ids of those waits that time closed."""
    found = []
    for name, value in _pairs(values):
        seq, remaining, _ = value.split(b" ", 2)
        if remaining == b"-1":
            found.append((int(seq), name))
    return [name.decode() for _, name in sorted(found)]


def _inbox(values: Sequence[bytes]) -> list[tuple[int, Blob]]:
    return [(int(number), _blob(body)) for number, body in _pairs(values)]


def _entries(values: Sequence[Any]) -> list[tuple[int, Blob]]:
    return [(seq, _blob(body)) for seq, body in _pairs(values)]


def _stored(row: Sequence[Any], frames: Sequence[bytes], sets: Sequence[bytes], entries: Any, inbox: Any) -> Stored:
    named = [(*name.decode().split("\0", 1), int(seq)) for name, seq in _pairs(sets)]
    return Stored(
        row=_row(row),
        frames=sorted((path.decode(), _blob(value.partition(b":")[2])) for path, value in _pairs(frames)),
        sets=sorted((path, name, seq) for path, name, seq in named),
        entries=dict(_entries(entries)),
        inbox=_inbox(inbox),
        late=_late(row[-2]),
    )


# -- members of a batch -----------------------------------------------------------------------------------------------


def _committing(commit: Commit) -> list[Any]:
    """A commit as the script takes it. Raises StoreError for what it would have to refuse half-way."""
    name, new = commit.execution_id, commit.new
    result = commit.result_seq
    head = encode((commit.nonce, commit.seq, result, commit.current_step, commit.updated_at, commit.root))
    shown = b":" if result is None else b"%d:" % result
    fields: list[Any] = ["v", commit.version + 1, "h", _raw(shown + head)]
    if commit.info is not None:
        fields += ("i", _packed(commit.info))
    if commit.input is not None:
        fields += ("j", _packed(commit.input))
    parts: dict[str, Any] = {}
    below: list[str] = []
    gone: list[str] = []
    gone_below: list[str] = []
    for path, out, body in commit.frames:
        _check_path(path)
        if body is None:
            gone.append(f"F{path}")
            gone_below.append(path)
        else:
            fields += (f"F{path}", _packed(body, prefix=f"{out or ''}:"))
            if path:
                below += ("0", path)
    for path, variable, seq in commit.sets:
        if path:
            _check_path(path)
        place = f"{path}\0{variable}"
        if not seq:
            gone.append(f"V{place}")
            gone_below.append(place)
        else:
            fields += (f"V{place}", seq)
            if path:
                below += ("0", place)
    if gone:
        parts.update(gone=gone, gone_below=gone_below)
    if commit.dropped:
        parts["dropped"] = commit.dropped
    if commit.closed:
        parts["closed"] = commit.closed
    if commit.opened:
        parts["opened"] = [
            (wait_id, seq, needed, False if deadline is None else float(deadline), _packed(body))
            for wait_id, seq, needed, deadline, body in commit.opened
        ]
    if commit.rewritten:
        parts["rewritten"] = [(wait_id, _packed(body)) for wait_id, body in commit.rewritten]
    if commit.consumed:
        parts["consumed"] = commit.consumed
    if commit.messages:
        parts["messages"] = [_told(message, body) for message, body in commit.messages]
    if (slot := commit.slot) is not None:
        known = False if slot.known is None else slot.known
        parts["slot"] = slot.key, slot.limit, slot.waits, known, slot.until_begun
    if commit.frees is not None:
        parts["frees"] = True
    first = 0
    entries: list[str | msgspec.Raw] = []
    if commit.entries:
        first = commit.entries[0][0]
        for expected, (seq, body) in enumerate(commit.entries, first):
            if seq != expected:
                raise StoreError(f"entry {seq} of execution {name!r} comes where entry {expected} belongs")
            entries.append(_packed(body))
    ended = False if commit.finished_at is None else float(commit.finished_at)
    job: list[Any] = [
        "commit" if new is None else "create", name, commit.generation, commit.version, commit.status, ended,
        commit.release, first, entries, fields, below or False, parts or False,
        False if commit.wake_at is None else float(commit.wake_at),
    ]  # fmt: skip
    if new is not None:
        facts = (
            new.workflow_id, new.workflow_version, new.definition_hash, new.input, new.created_at, new.parent_id,
            new.root_id, new.labels, new.trigger, new.queue, new.priority, new.concurrency_key,
        )  # fmt: skip
        job.append((
            _raw(encode(facts)), new.definition_hash, _packed(new.definition), float(new.created_at), _indexes(new),
            False if commit.owner is None else commit.owner,
            False if commit.lease_ttl is None else float(commit.lease_ttl),
            f"{new.priority} {new.definition_hash} {_queue(new.queue)}", new.parent_id is not None,
            False if commit.mark is None else _marking(commit.mark),
        ))  # fmt: skip
    elif commit.definition is not None:
        digest, version, document = commit.definition
        job.append((digest, _packed(document), _raw(encode((digest, version)))))
    return job


def _marking(mark: Mark) -> tuple[Any, ...]:
    """A mark as the script takes it."""
    return (
        mark.schedule_id, mark.workflow_id, False if mark.expected is None else mark.expected, mark.nonce,
        False if mark.due is None else float(mark.due), False if mark.awaits is None else mark.awaits,
        mark.definition_hash, False if mark.definition is None else _packed(mark.definition),
        False if mark.body is None else _packed(mark.body),
    )  # fmt: skip


def _check_path(path: str) -> None:
    if "\0" in path:
        raise StoreError(f"the path of a frame cannot have a null character: {path!r}")


def _told(message: Message, body: Blob) -> tuple[Any, ...]:
    wait_id = False if message.wait_id is None else message.wait_id
    return message.execution_id, message.kind, message.key, wait_id, message.takes, _packed(body)


RELEASED, KEPT = Committed(released=True), Committed(released=False)


def _committed(commit: Commit, answer: Sequence[Any]) -> Committed:
    match answer:
        case [word, []] if word in (b"kept", b"released"):
            return RELEASED if word == b"released" else KEPT
        case [word, promoted] if word in (b"kept", b"released"):
            return Committed(word == b"released", [name.decode() for name in promoted])
        case [b"taken", holders] if commit.slot is not None:
            raise KeyTaken(commit.slot.key, [name.decode() for name in holders])
        case [b"lost", owner]:
            holder = _text(owner)
            raise LeaseLost(commit.execution_id, owner=None if holder == commit.owner else holder)
        case [b"exists"]:
            raise ConflictError(f"there is already an execution {commit.execution_id!r} in this store")
        case [b"order", last]:
            raise StoreError(
                f"execution {commit.execution_id!r} has {last} entries: number {commit.entries[0][0]} cannot be next"
            )
    raise _strange(answer)


def _claimed(answer: Sequence[Any]) -> Stored | Busy | None:
    match answer:
        case [b"none"]:
            return None
        case [b"busy", status, owner, lease]:
            return Busy(status=status.decode(), owner=_text(owner), lease_until=_float(lease))
        case [b"stored", *found]:
            return _stored(*found)
    raise _strange(answer)


def _strange(answer: Sequence[Any]) -> StoreError:
    return StoreError(f"the server gave an answer that means nothing here: {answer!r:.200}")


# -- connections ------------------------------------------------------------------------------------------------------


def _translated(error: BaseException, where: str) -> DurableFlowError:
    """What a caller hears of an exception that came out of the client or the server."""
    match error:
        case DurableFlowError():
            return error
        case NoPermissionError() | AuthorizationError():
            return StoreError(
                f"{where} does not allow what durable_flow does: {_words(error)}. The user needs the commands of data, "
                "of scripts and of pub/sub for keys and channels that begin with the prefix"
            )
        case AuthenticationError():
            return StoreError(
                f"{where} let nobody in: {_words(error)}. Give user and password in the URL or the client"
            )
        case ResponseError() if not UNAVAILABLE.search(_words(error)):
            return StoreError(f"{where}: {_words(error)}")
        case RedisError() | OSError():
            return StoreUnavailable(f"{where}: {_words(error)}")
    return StoreError(f"{where}: {error}")


def _words(error: BaseException) -> str:
    """What the server said. The client keeps the first word apart where it knows it."""
    code = getattr(error, "status_code", None)
    text = str(error) or type(error).__name__
    return f"{code} {text}" if code and code != "ERR" else text


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class Job(NamedTuple):
    """A member of a batch: what the script is given, who waits for it, and what its answer means."""

    data: bytes
    future: asyncio.Future[Any]
    read: Callable[[Sequence[Any]], Any]


class Server:
    """Where connections go to, and how: what a URL says, or what a client was made with. `seeds` are the settings of
    the nodes that were named; in a cluster another one may turn out to have our slot."""

    def __init__(self, kind: type[AbstractConnection], seeds: Sequence[Mapping[str, Any]], *, timeout: float) -> None:
        self.kind = kind
        self.seeds = deque(
            {
                name: value
                for name, value in settings.items()
                if name not in OWN and not name.startswith(("maint", "orig_", "oss_cluster_"))
            }
            for settings in seeds
        )
        self.settings = self.seeds[0]
        self.timeout = timeout

    @property
    def name(self) -> str:
        return f"Redis at {self.place}"

    @property
    def place(self) -> str:
        settings = self.settings
        if "connection_pool" in settings:  # a Sentinel finds out where, for each connection anew
            return f"sentinel/{settings['connection_pool'].service_name}"
        return settings.get("path") or f"{settings.get('host', '?')}:{settings.get('port', 6379)}"

    async def connected(self) -> AbstractConnection:
        """A new connection. It repeats nothing by itself, and whoever reads from it sets the deadline."""
        connection = self.kind(
            **self.settings,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=self.timeout,
        )
        try:
            async with asyncio.timeout(self.timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            await connection.disconnect(nowait=True)
            name = self.name
            self.seeds.rotate(-1)
            self.settings = self.seeds[0]
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(f"{name}: no connection within {self.timeout:g} s") from error
            raise
        return connection

    def moved(self, host: str, port: int) -> None:
        """The node of a cluster that has our slot is another one."""
        self.settings = {**self.settings, "host": host, "port": port}


class Wire:
    """One connection, and whose turn it is to read from it: answers come in the order in which was asked."""

    def __init__(self, connection: AbstractConnection, server: Server) -> None:
        self.connection = connection
        self.server = server
        self.last: asyncio.Future[None] | None = None
        self.stale = False

    async def ask(self, packed: bytes) -> Any:
        """What the server answers. After a failure that is not the server's own word nobody can use this wire."""
        if not self.connection.is_connected:  # the client would connect again, and answers would lose their order
            raise StoreUnavailable(f"{self.server.name}: the connection broke")
        before = self.last
        turn = self.last = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self.server.timeout):
                await self.connection.send_packed_command(packed, check_health=False)
                if before is not None and not before.done():
                    await before
                if not self.connection.is_connected:
                    raise StoreUnavailable(f"{self.server.name}: the connection broke")
                return await self.connection.read_response()
        except ResponseError:
            raise
        except TimeoutError as error:
            await self.cut()
            raise StoreUnavailable(f"{self.server.name} did not answer within {self.server.timeout:g} s") from error
        except BaseException:
            await self.cut()
            raise
        finally:
            _release(turn)
            if self.stale and self.last is turn:
                await self.cut()

    @property
    def busy(self) -> bool:
        """Whether somebody still waits for an answer."""
        return self.last is not None and not self.last.done()

    async def closed(self) -> bool:
        """Whether the server hung up while nothing was asked, as it does with who is idle for long."""
        try:
            await self.connection.send_packed_command((), check_health=False)  # raises after a reset
            return bool(await self.connection.can_read())
        except (RedisError, OSError):
            return True

    async def cut(self) -> None:
        self.stale = True
        with suppress(RedisError, OSError):
            await self.connection.disconnect(nowait=True)


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():  # else who waited was cancelled
        waiter.set_result(None)


class Line:
    """Jobs for one connection: whatever waits goes to the server together."""

    def __init__(self, store: RedisStore, *, batch: int) -> None:
        self.store = store
        self.server = store.server
        self.batch = batch
        self.loop = asyncio.get_running_loop()
        self.waiting: deque[Job] = deque()
        self.idle: list[asyncio.Future[None]] = []
        self.awake = False
        self.closing = False
        self.wire: Wire | None = None
        self.connecting = asyncio.Lock()
        self.tasks = [self.loop.create_task(self._serve(), name="durable_flow redis") for _ in range(IN_FLIGHT)]

    def submit(self, data: bytes, future: asyncio.Future[T], read: Callable[[Sequence[Any]], T]) -> asyncio.Future[T]:
        self.waiting.append(Job(data, future, read))
        self._wake()
        return future

    def _wake(self) -> None:
        if not self.awake and self.idle:
            self.awake = True
            _release(self.idle.pop())

    async def _serve(self) -> None:
        try:
            while True:
                while not self.waiting:
                    if self.closing:
                        return
                    waiter = self.loop.create_future()
                    self.idle.append(waiter)
                    await waiter
                    self.awake = False
                jobs = self._take()
                if self.waiting:
                    self._wake()
                await self._deal(jobs)
        except BaseException:
            # The loop is being torn down. Who waits for a commit cannot be cancelled, so it must be told.
            self.closing = True
            while self.waiting:
                _fail([self.waiting.popleft()], StoreUnavailable(f"{self.server.name}: the event loop is ending"))
            raise

    def _take(self) -> list[Job]:
        jobs: list[Job] = []
        size = 0
        while self.waiting and len(jobs) < self.batch:
            size += len(self.waiting[0].data)
            if jobs and size > BATCH_BYTES:
                break
            job = self.waiting.popleft()
            if not job.future.cancelled():
                jobs.append(job)
        return jobs

    async def _deal(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        try:
            answers = await self.run([job.data for job in jobs])
        except Exception as error:
            failure = _translated(error, self.server.name)
            if isinstance(failure, StoreUnavailable):
                log.warning("a batch of %d failed: %s", len(jobs), failure)
            _fail(jobs, failure)
            return
        except BaseException:
            _fail(jobs, StoreUnavailable(f"{self.server.name}: the event loop is ending"))
            raise
        for number, (job, answer) in enumerate(zip(jobs, answers, strict=True), 1):
            if not job.future.done():
                self._settle(job, answer)
            if number == len(jobs) // 2 and number >= HALF and self.idle:
                await self._let_others_run()

    def _settle(self, job: Job, answer: Sequence[Any]) -> None:
        try:
            job.future.set_result(job.read(self._checked(answer)))
        except DurableFlowError as refused:
            job.future.set_exception(refused)
        except Exception as error:
            job.future.set_exception(StoreError(f"{self.server.name}: an answer cannot be read: {error!r}"))

    async def _let_others_run(self) -> None:
        """Half of those who were answered go on and submit what comes next. So there come to be two batches that take
        turns: the server works on one while Python works on the other."""
        turn: asyncio.Future[None] = self.loop.create_future()
        self.loop.call_soon(_release, turn)
        await turn

    def _checked(self, answer: Sequence[Any]) -> Sequence[Any]:
        if answer[0] != b"error":
            return answer
        words = answer[1].decode("utf-8", "replace")
        if not UNAVAILABLE.search(words):
            raise StoreError(f"{self.server.name}: {words}")
        if "READONLY" in words and self.wire is not None:
            self.wire.stale = True  # the master is another one now; connecting anew may lead to it
        raise StoreUnavailable(f"{self.server.name}: {words}")

    async def run(self, members: Sequence[bytes]) -> Sequence[Any]:
        """The answers of the script, one for each member."""
        arguments = (self.store.key, self.store.time(), self.store.token, *members)
        for _ in range(5):
            wire = await self.connected()
            try:
                return await wire.ask(_command(b"EVALSHA", SCRIPT_HASH.encode(), b"1", *arguments))  # type: ignore[no-any-return]
            except NoScriptError:  # it never had it, or was restarted; nothing has happened
                pass
            except MovedError as error:
                self._move(wire, error)
                continue
            try:
                return await wire.ask(_command(b"EVAL", SCRIPT, b"1", *arguments))  # type: ignore[no-any-return]
            except MovedError as error:
                self._move(wire, error)
        raise StoreUnavailable(f"{self.server.name}: the cluster sends us from node to node")

    def _move(self, wire: Wire, error: MovedError) -> None:
        wire.stale = True
        self.server.moved(error.host, int(error.port))

    async def connected(self) -> Wire:
        async with self.connecting:
            wire = self.wire
            if wire is not None and not wire.busy and (wire.stale or await wire.closed()):
                await wire.cut()
            if wire is None or wire.stale:
                wire = self.wire = Wire(await self.server.connected(), self.server)
            return wire

    async def close(self) -> None:
        """Finishes what was submitted, then lets go of the connection."""
        self.closing = True
        while self.idle:
            _release(self.idle.pop())
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.wire is not None:
            await self.wire.cut()


def _fail(jobs: Sequence[Job], failure: DurableFlowError) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(type(failure)(*failure.args))


class Ear:
    """Listens for what other stores say, and connects again for as long as it is open."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.server = store.server
        self.clock = SystemClock()
        self.task: asyncio.Task[None] | None = None
        self.connection: AbstractConnection | None = None

    async def open(self) -> None:
        try:
            await self._subscribe()
        except (NoPermissionError, AuthorizationError) as error:
            log.warning("%s: no wake-ups from other processes, which are looked for instead: %s", self.server.name,
                        _words(error))  # fmt: skip
        else:
            self.task = asyncio.get_running_loop().create_task(self._listen(), name="durable_flow redis wake-ups")

    async def _subscribe(self) -> AbstractConnection:
        connection = self.connection = await self.server.connected()
        try:
            async with asyncio.timeout(self.server.timeout):
                await connection.send_packed_command(_command(b"SUBSCRIBE", self.store.key + b"heard"))
                await connection.read_response()
        except BaseException:
            await self._hang_up()
            raise
        self.store.wakes = True
        return connection

    async def _listen(self) -> None:
        pause = 0.1
        while True:
            try:
                connection = self.connection or await self._subscribe()
                pause = 0.1
                await self._hear(connection)
            except (RedisError, OSError, StoreError) as error:
                log.info("%s: wake-ups from other processes are interrupted: %s", self.server.name, error)
            finally:
                await self._hang_up()
            await self.clock.sleep(pause)
            pause = min(2 * pause, 5.0)

    async def _hang_up(self) -> None:
        self.store.wakes = False
        if self.connection is not None:
            with suppress(RedisError, OSError):
                await self.connection.disconnect(nowait=True)
            self.connection = None

    async def _hear(self, connection: AbstractConnection) -> None:
        silent = False
        while True:
            answer = await connection.read_response(timeout=self.server.timeout)
            match answer:
                case None if silent:
                    raise OSError(f"no answer within {self.server.timeout:g} s")
                case None:
                    silent = True
                    await connection.send_packed_command(_command(b"PING"))
                    continue
                case [b"message", _, said]:
                    self._tell(said)
            silent = False

    def _tell(self, said: bytes) -> None:
        try:
            sender, *names = decode_heard(said)
        except msgspec.DecodeError:
            return  # not one of ours
        if sender.encode() == self.store.token:
            return
        for name in names:
            try:
                self.store.heard(name)
            except Exception:
                log.exception("a listener failed")

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        await self._hang_up()


# -- the store --------------------------------------------------------------------------------------------------------


class RedisStore(Store):
    """Executions in the Redis or Valkey server that `url` or `client` names.

    A `client` (a `redis.asyncio.Redis`, of a Sentinel too, or `RedisCluster`) is only asked how to connect: the store
    makes connections of its own like those of the client, never closes it, and its `decode_responses` does not matter.
    All keys begin with ``{prefix}:``, a hash tag: on a cluster a store is one slot on one node. `timeout` is how many
    seconds to wait for a connection or an answer. With ``auto_migrate=False`` opening a prefix where no store was
    created before is an error.

    >>> RedisStore("redis://user:password@cache.example.com/2", prefix="shop")
    RedisStore('redis://cache.example.com:6379/2', prefix='shop')
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Any = None,
        prefix: str = "durable_flow",
        timeout: float = 10.0,
        auto_migrate: bool = True,
    ) -> None:
        if (url is None) == (client is None):
            raise ConfigError("RedisStore takes a url or a client")
        if not prefix or not prefix.isprintable() or set("{} ") & set(prefix):
            raise ConfigError(f"a prefix is printable text without blanks and braces, not {prefix!r}")
        if not timeout > 0:
            raise ConfigError(f"timeout is a number of seconds above 0, not {timeout!r}")
        kind, seeds = _of_url(url) if url is not None else _of_client(client)
        self.server = Server(kind, seeds, timeout=timeout)
        self.prefix = prefix
        self.auto_migrate = auto_migrate
        self.key = f"{{{prefix}}}:".encode()
        self.token = token_hex(8).encode()
        self._writes: Line | None = None
        self._reads: Line | None = None
        self._ear: Ear | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def __repr__(self) -> str:
        settings = self.server.settings
        scheme = "unix" if "path" in settings else "redis"
        return f"RedisStore('{scheme}://{self.server.place}/{settings.get('db') or 0}', prefix={self.prefix!r})"

    def time(self) -> bytes:
        """What the script takes for the present: nothing, so the server's own time, unless a test's clock rules."""
        return b"" if type(self.clock) is SystemClock else repr(self.clock.now()).encode()

    # -- opening and closing ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._loop is not None:
            raise StoreError(f"{self!r} is open already")
        writes = Line(self, batch=BATCH)
        reads = Line(self, batch=BATCH // 4)
        ear = Ear(self)
        try:
            await self._prepare(writes)
            await ear.open()
        except BaseException as error:
            await ear.close()
            await reads.close()
            await writes.close()
            if isinstance(error, Exception):
                raise _translated(error, self.server.name) from error
            raise
        self._writes, self._reads, self._ear = writes, reads, ear
        self._loop, self._process = asyncio.get_running_loop(), os.getpid()

    async def _prepare(self, line: Line) -> None:
        # First a look at what is there: in a cluster that finds the node whose settings matter.
        found = await self._schema(line, allowed=False)
        facts = await self._facts(line)
        version = tuple(int(part) for part in re.findall(r"\d+", facts.get("redis_version", ""))[:2])
        if version and version < OLDEST:
            raise StoreError(f"{self.server.name} is version {facts['redis_version']}; Redis 6.2 or Valkey is needed")
        self.versions = found or 0, SCHEMA
        if found != SCHEMA:
            if not self.auto_migrate:
                has = "no store" if found is None else f"schema {found}, this release needs {SCHEMA},"
                raise StoreError(
                    f"{self.server.name} has {has} with prefix {self.prefix!r}: run `durable-flow migrate`, or open "
                    "it once with auto_migrate=True"
                )
            await self._schema(line, allowed=True)
            done = "created" if found is None else f"migrated from {found}"
            log.info("%s: schema %d %s with prefix %r", self.server.name, SCHEMA, done, self.prefix)
        await self._warn(line, facts)

    async def _schema(self, line: Line, *, allowed: bool) -> int | None:
        (answer,) = await line.run([encode(("schema", allowed))])
        match answer:
            case [b"made", *_]:
                return SCHEMA
            case [b"schema", None, *_]:
                return None
            case [b"schema", version, *_]:
                if int(version) > SCHEMA:
                    raise SchemaTooNew(int(version), SCHEMA)
                return int(version)
            case [b"error", words]:
                raise ResponseError(words.decode())
        raise _strange(answer)

    async def _facts(self, line: Line) -> dict[str, str]:
        wire = await line.connected()
        try:
            told = await wire.ask(_command(b"INFO"))
        except NoPermissionError:
            return {}
        return dict(text.split(":", 1) for text in told.decode().splitlines() if ":" in text)

    async def _warn(self, line: Line, facts: Mapping[str, str]) -> None:
        """Says what the server may lose. What it does not tell is said, too."""
        name = self.server.name
        settings: dict[str, str] = {}
        wire = await line.connected()
        for asked in (b"append*", b"maxmemory-policy"):
            with suppress(ResponseError):  # a managed service, or a user with few rights
                told = await wire.ask(_command(b"CONFIG", b"GET", asked))
                settings |= {key.decode(): value.decode() for key, value in _pairs(told)}
        written = settings.get("appendonly") or {"0": "no", "1": "yes"}.get(facts.get("aof_enabled", ""))
        match written, settings.get("appendfsync"):
            case "no", _:
                log.warning(
                    "%s writes no append-only file (appendonly is off): when it restarts, everything since its last "
                    "snapshot is lost, or all there is. Set appendonly yes",
                    name,
                )
            case "yes", "always":
                pass
            case "yes", "everysec":
                log.warning(
                    "%s syncs its file once a second (appendfsync everysec): when the machine fails, up to a second "
                    "of acknowledged work is lost. Set appendfsync always where that matters",
                    name,
                )
            case "yes", "no":
                log.warning(
                    "%s never syncs its file (appendfsync no): when the machine fails, whatever the operating system "
                    "had not written is lost. Set appendfsync always",
                    name,
                )
            case _:
                log.warning(
                    "%s does not tell how it keeps its data (CONFIG is not allowed): what survives its restart cannot "
                    "be found out here. Work is safe with appendonly yes and appendfsync always",
                    name,
                )
        policy = settings.get("maxmemory-policy") or facts.get("maxmemory_policy", "")
        if policy.startswith("allkeys-"):
            log.warning(
                "%s throws keys away when its memory is full (maxmemory-policy %s): executions would be lost. "
                "Set maxmemory-policy noeviction",
                name,
                policy,
            )

    async def close(self) -> None:
        if self._process and os.getpid() != self._process:
            return  # after a fork: the connections are the other process's
        writes, reads, ear = self._writes, self._reads, self._ear
        self._loop = self._writes = self._reads = self._ear = None
        for part in (ear, reads, writes):
            if part is not None:
                await part.close()

    def _write(self, job: Callable[[], Sequence[Any]], read: Callable[[Sequence[Any]], T]) -> asyncio.Future[T]:
        return self._submit(self._open(self._writes), job, Landing(loop=self._loop), read)

    def _read(self, job: Sequence[Any], read: Callable[[Sequence[Any]], T]) -> asyncio.Future[T]:
        return self._submit(self._open(self._reads), lambda: job, asyncio.Future(loop=self._loop), read)

    def _open(self, line: Line | None) -> Line:
        if line is None or line.closing:
            raise StoreError(f"{self!r} is not open; use it inside 'async with'")
        if os.getpid() != self._process:
            raise StoreError(f"{self!r} was opened by another process; open a store of its own after a fork")
        return line

    def _submit(
        self,
        line: Line,
        job: Callable[[], Sequence[Any]],
        future: asyncio.Future[Any],
        read: Callable[[Sequence[Any]], Any],
    ) -> asyncio.Future[Any]:
        try:
            data = encode(job())
        except StoreError as error:
            future.set_exception(error)
        except (UnicodeEncodeError, OverflowError, TypeError, ValueError) as error:
            future.set_exception(StoreError(f"{self.server.name}: this cannot be stored: {error}"))
        else:
            line.submit(data, future, read)
        return future

    # -- the contract -------------------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return self._write(lambda: _committing(commit), lambda answer: _committed(commit, answer))

    async def append(self, message: Message, body: Blob) -> Appended:
        def read(answer: Sequence[Any]) -> Appended:
            outcome, owner, lease = answer
            return Appended(outcome=outcome.decode(), owner=_text(owner), lease_until=_float(lease))

        return await self._write(lambda: ("append", *_told(message, body)), read)

    async def claim(
        self, execution_id: str, *, owner: str, ttl: float, statuses: Collection[str]
    ) -> Stored | Busy | None:
        job = ("claim", execution_id, owner, float(ttl), [str(status) for status in statuses])
        return await self._write(lambda: job, _claimed)

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
        job = ("take", owner, float(ttl), limit, _queues(queues), list(without), _room(room))
        return await self._write(lambda: job, lambda answer: [_stored(*found) for _, *found in answer[1]])

    async def next_due(
        self,
        *,
        queues: Collection[str | None] | None = None,
        without: Collection[str] = (),
        room: Mapping[str, int] | None = None,
    ) -> float | None:
        job = ("next_due", _queues(queues), list(without), _room(room))
        return await self._read(job, lambda answer: _float(answer[1]))

    async def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        job = ("set_queue", _queue(queue), setting, False if value is None else _set(setting, value))
        return await self._write(lambda: job, lambda answer: bool(answer[1]))

    async def queues(self, names: Collection[str | None] | None = None) -> Mapping[str | None, QueueRow]:
        def read(answer: Sequence[Any]) -> dict[str | None, QueueRow]:
            found: dict[str | None, QueueRow] = {}
            for queue, hold, declared, decided, pending, under_way in sorted(answer[1], key=lambda row: row[0]):
                row = QueueRow(
                    hold=None if hold is None else _blob(hold),
                    declared=_text(declared),
                    decided=_text(decided),
                    pending=pending,
                    under_way=under_way,
                )
                if names is not None or row != QueueRow():
                    found[queue[1:].decode() if queue else None] = row
            return found

        return await self._read(("queues", _queues(names)), read)

    async def line(self, key: str) -> Sequence[InLine]:
        def read(answer: Sequence[Any]) -> list[InLine]:
            return [InLine(name.decode(), bool(held)) for name, held in _pairs(answer[1])]

        return await self._read(("line", key), read)

    async def mark(self, mark: Mark) -> bool:
        return await self._write(lambda: ("mark", _marking(mark)), lambda answer: bool(answer[1]))

    async def schedules(
        self, *, workflows: Collection[str] | None = None, limit: int | None = None
    ) -> tuple[float, Sequence[ScheduleRow]]:
        def read(answer: Sequence[Any]) -> tuple[float, list[ScheduleRow]]:
            rows = [
                schedule_row(
                    name.decode(), workflow.decode(), nonce.decode(), _float(due), _text(awaits), digest.decode(),
                    _blob(body),
                )
                for name, workflow, nonce, due, awaits, digest, body in answer[2]
            ]  # fmt: skip
            return float(answer[1]), sorted(rows, key=soonest)[:limit]

        names = False if workflows is None else list(workflows)
        return await self._read(("schedules", names, False if limit is None else limit), read)

    async def renew(self, owner: str, *, ttl: float) -> Mapping[str, int]:
        def read(answer: Sequence[Any]) -> dict[str, int]:
            return {name.decode(): int(generation) for name, generation in _pairs(answer[1])}

        return await self._write(lambda: ("renew", owner, float(ttl)), read)

    async def release(self, execution_id: str, *, owner: str, generation: int) -> None:
        await self._write(lambda: ("release", execution_id, owner, generation), lambda answer: None)

    async def remove(self, execution_id: str) -> bool:
        def read(answer: Sequence[Any]) -> bool:
            if answer[0] == b"held":
                owner = answer[1].decode()
                raise ConflictError(f"execution {execution_id!r} cannot be deleted: {owner} is driving it")
            if answer[0] != b"done":
                return False
            for name in answer[1]:
                self.heard(name.decode())
            return True

        return await self._write(lambda: ("remove", execution_id), read)

    async def purge_rows(self, *, before: float, statuses: Collection[str], limit: int) -> int:
        job = ("purge", float(before), list(dict.fromkeys(str(status) for status in statuses)), limit)
        return await self._write(lambda: job, lambda answer: int(answer[1]))

    async def present(self) -> float:
        return await self._read(("present",), lambda answer: float(answer[1]))

    async def mail(self, owner: str) -> Sequence[str]:
        return await self._read(("mail", owner), lambda answer: [name.decode() for name in answer[1]])

    async def inbox(self, execution_id: str) -> Sequence[tuple[int, Blob]]:
        return await self._read(("inbox", execution_id), lambda answer: _inbox(answer[1]))

    async def row(self, execution_id: str) -> Row | None:
        return await self._read(("row", execution_id), lambda answer: None if answer[0] == b"none" else _row(answer[1]))

    async def fetch(self, execution_id: str) -> Stored | None:
        return await self._read(
            ("fetch", execution_id), lambda answer: None if answer[0] == b"none" else _stored(*answer[1:])
        )

    async def read(
        self, execution_id: str, *, after: int = 0, limit: int | None = None, seqs: Sequence[int] | None = None
    ) -> Sequence[tuple[int, Blob]]:
        found: list[tuple[int, Blob]] = []
        if seqs is not None:
            wanted = sorted({seq for seq in seqs if seq > 0})
            for first in range(0, len(wanted), ENTRIES):
                part = wanted[first : first + ENTRIES]
                found += await self._read(("entries", execution_id, part), lambda answer: _entries(answer[1]))
            return found
        after = max(0, after)
        end = None if limit is None else after + max(0, limit)
        while end is None or after < end:
            count = ENTRIES if end is None else min(ENTRIES, end - after)
            bodies, more = await self._read(
                ("between", execution_id, after, after + count - 1),
                lambda answer: ([_blob(body) for body in answer[1]], bool(answer[2])),
            )
            found += enumerate(bodies, after + 1)
            after += len(bodies)
            if not more:
                break
        return found

    async def search(self, filter: Filter, *, limit: int, cursor: str | None) -> tuple[Sequence[Row], str | None]:
        position = None if cursor is None else position_of(cursor)
        if filter.created_before is not None and (position is None or filter.created_before <= position[0]):
            position = (filter.created_before, "")
        score, name = (None, "") if position is None else (repr(position[0]), position[1])
        statuses = STATUSES if filter.statuses is None else list(dict.fromkeys(map(str, filter.statuses)))
        conditions = _conditions(filter)
        after = False if filter.created_after is None else float(filter.created_after)
        rows: list[Row] = []
        while True:
            wanted = min(ROWS, limit - len(rows))
            word, page, *place = await self._read(
                ("search", statuses, conditions, after, score or False, name, wanted), lambda answer: answer
            )
            rows += [_row(values) for values in page]
            if word == b"end":
                return rows, None
            score, name = _text(place[0]), _text(place[1]) or ""
            if word == b"more" and len(rows) == limit:
                return rows, cursor_of(rows[-1].created_at, rows[-1].id)

    async def definition(self, definition_hash: str) -> Blob | None:
        return await self._read(
            ("definition", definition_hash), lambda answer: None if answer[1] is None else _blob(answer[1])
        )


def _of_url(url: str) -> tuple[type[AbstractConnection], Sequence[Mapping[str, Any]]]:
    try:
        pool = ConnectionPool.from_url(url)
    except (ValueError, TypeError, RedisError) as error:
        raise ConfigError(f"this is no URL of a Redis server: {error}") from error
    settings = pool.connection_kwargs
    return pool.connection_class, [settings if "path" in settings else {"host": "localhost", **settings}]


def _of_client(client: Any) -> tuple[type[AbstractConnection], Sequence[Mapping[str, Any]]]:
    sources: Sequence[Any] = [getattr(client, "connection_pool", None)]
    nodes = getattr(client, "nodes_manager", None)
    if nodes is not None:  # a cluster: any node knows where our slot is
        sources = list({**nodes.startup_nodes, **nodes.nodes_cache}.values())
    kind = getattr(sources[0], "connection_class", None)
    if not (isinstance(kind, type) and issubclass(kind, AbstractConnection)):
        raise ConfigError(f"client is a redis.asyncio.Redis or RedisCluster, not {type(client).__name__}")
    seeds = [source.connection_kwargs for source in sources]
    if nodes is not None:
        seeds = [{name: value for name, value in seed.items() if name != "redis_connect_func"} for seed in seeds]
    return kind, seeds
