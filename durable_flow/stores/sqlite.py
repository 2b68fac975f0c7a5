"""Executions in one SQLite file, or in memory.

*Threads.* All writing verbs of a store run on one thread with one connection: it takes whatever is waiting, runs it in
one transaction, and wakes the callers; there is no timer. A transaction is one function on that thread, so a cancelled
caller can never leave one half-way. Reading verbs run on a second thread with a read-only connection. In memory there
are no threads: everything runs in the caller, and futures are done when they are returned.

*Processes.* SQLite before 3.51.3 can lose committed pages when one connection restarts the log while another one is in
a checkpoint. So nobody checkpoints by itself (`wal_autocheckpoint` is off), and every write transaction and every
checkpoint of ours holds an exclusive `flock` on ``<path>-lock``: two system calls, a thousandth of what a commit costs.

*Tables.* `executions` is the row a commit updates, kept small: what never changes is in `facts`, what rarely changes in
`info`. Children refer to its number `n`, not to its id. `variables` and `frames` point to `entries`, which only grows
at its end. `labels` repeats what `search` needs, so that a page is a range of one index whatever was asked.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import queue
import sqlite3
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from math import inf
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import msgspec

from durable_flow.errors import (
    ConfigError,
    ConflictError,
    DurableFlowError,
    KeyTaken,
    LeaseLost,
    SchemaTooNew,
    StepError,
    StoreError,
    StoreUnavailable,
)
from durable_flow.journal import Journal
from durable_flow.model.execution import Status
from durable_flow.model.frame import Message
from durable_flow.stores.base import (
    NEVER,
    UNLIMITED,
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
    QueueLimits,
    QueueRow,
    QueueSetting,
    Row,
    ScheduleRow,
    Slot,
    StepTransaction,
    Store,
    Stored,
    cursor_of,
    position_of,
    schedule_row,
    soonest,
)

if sys.platform != "win32":
    import fcntl

log = Journal(__name__)
T = TypeVar("T")

LATE = -1
"""What remains of a wait that time closed."""

APPLICATION_ID = 0x6475666C
"""Marks the file as ours (`PRAGMA application_id`): "dufl"."""

CHECKPOINT_PAGES = 2_000
"""How long the log is meant to be, in pages of 4 KiB, when it is copied into the database."""

TRUNCATE_BYTES = 64 * 1024 * 1024
"""A log file that was stretched beyond this (a reader kept it from being restarted) is cut when that is possible."""

DUE = """CASE WHEN owner IS NOT NULL THEN lease_until WHEN status = 'halted' THEN wake_at
    WHEN status = 'running' THEN created_at ELSE coalesce(wake_at, created_at) END"""
"""When somebody must look at an execution that is not over."""

QUEUE = "coalesce('.' || queue, '')"
"""A queue as its settings are kept under; empty for none."""

UNDER_WAY = """queue IS NOT NULL AND parent_id IS NULL AND status IN ('pending', 'running', 'halted')
    AND (owner IS NOT NULL OR status = 'running')"""
"""What the limits of a queue count."""

FRESH = "owner IS NULL AND parent_id IS NULL"
"""What of what is pending they count when it is taken."""

EXEMPT = "status = 'pending' AND queue IS NOT NULL AND (owner IS NOT NULL OR parent_id IS NOT NULL)"
"""The rest of it: it was taken before, or its parent waits for it."""

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """CREATE TABLE executions (
            n INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            workflow_id TEXT NOT NULL,
            status TEXT NOT NULL,
            parent_id TEXT,
            created_at REAL NOT NULL,
            updated_at REAL NOT NULL,
            finished_at REAL,
            wake_at REAL,
            queue TEXT,
            priority INTEGER NOT NULL,
            version INTEGER NOT NULL,
            generation INTEGER NOT NULL,
            nonce TEXT NOT NULL,
            seq INTEGER NOT NULL,
            result_seq INTEGER,
            owner TEXT,
            lease_until REAL,
            recoveries INTEGER NOT NULL,
            current_step TEXT,
            root BLOB NOT NULL
        )""",
        "CREATE INDEX executions_by_status ON executions (status, created_at, id)",
        "CREATE INDEX executions_by_workflow ON executions (workflow_id, status, created_at, id)",
        """CREATE INDEX executions_by_parent ON executions (parent_id, status, created_at, id)
            WHERE parent_id IS NOT NULL""",
        "CREATE INDEX executions_by_owner ON executions (owner) WHERE owner IS NOT NULL",
        f"CREATE INDEX executions_by_due ON executions ({DUE}) WHERE status IN ('running', 'halted')",
        f"CREATE INDEX executions_by_priority ON executions (priority, {DUE}) WHERE status = 'pending'",
        "CREATE INDEX executions_by_end ON executions (status, finished_at) WHERE finished_at IS NOT NULL",
        """CREATE TABLE facts (
            n INTEGER PRIMARY KEY,
            workflow_version TEXT NOT NULL,
            definition_hash TEXT NOT NULL,
            root_id TEXT NOT NULL,
            trigger TEXT NOT NULL,
            concurrency_key TEXT,
            labels TEXT NOT NULL,
            input BLOB NOT NULL
        )""",
        "CREATE TABLE info (n INTEGER PRIMARY KEY, body BLOB NOT NULL)",
        """CREATE TABLE labels (
            n INTEGER NOT NULL,
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            workflow_id TEXT NOT NULL,
            status TEXT NOT NULL,
            created_at REAL NOT NULL,
            id TEXT NOT NULL,
            PRIMARY KEY (n, key)
        ) WITHOUT ROWID""",
        "CREATE INDEX labels_by_value ON labels (key, value, status, created_at, id)",
        "CREATE INDEX labels_by_workflow ON labels (key, value, workflow_id, status, created_at, id)",
        "CREATE TABLE entries (id INTEGER PRIMARY KEY, n INTEGER NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL)",
        "CREATE UNIQUE INDEX entries_by_seq ON entries (n, seq)",
        """CREATE TABLE frames (n INTEGER NOT NULL, path TEXT NOT NULL, out INTEGER, body BLOB NOT NULL,
            PRIMARY KEY (n, path)) WITHOUT ROWID""",
        """CREATE TABLE variables (n INTEGER NOT NULL, frame TEXT NOT NULL, name TEXT NOT NULL, seq INTEGER NOT NULL,
            PRIMARY KEY (n, frame, name)) WITHOUT ROWID""",
        """CREATE TABLE inbox (id INTEGER PRIMARY KEY AUTOINCREMENT, n INTEGER NOT NULL, key TEXT NOT NULL,
            wait_id TEXT, body BLOB NOT NULL)""",
        "CREATE UNIQUE INDEX inbox_by_key ON inbox (n, key)",
        "CREATE INDEX inbox_by_age ON inbox (n)",
        """CREATE TABLE waits (n INTEGER NOT NULL, wait_id TEXT NOT NULL, seq INTEGER NOT NULL,
            remaining INTEGER NOT NULL, deadline REAL, body BLOB NOT NULL, PRIMARY KEY (n, wait_id)) WITHOUT ROWID""",
        """CREATE TABLE answers (n INTEGER NOT NULL, wait_id TEXT NOT NULL, key TEXT NOT NULL,
            PRIMARY KEY (n, wait_id, key)) WITHOUT ROWID""",
        "CREATE TABLE definitions (hash TEXT PRIMARY KEY, body BLOB NOT NULL)",
    ),
    (
        "CREATE TABLE holds (queue TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID",
        f"CREATE INDEX executions_by_queue ON executions ({QUEUE}, priority, {DUE}) WHERE status = 'pending'",
    ),
    (
        "CREATE TABLE queues (queue TEXT PRIMARY KEY, hold BLOB, declared TEXT, decided TEXT) WITHOUT ROWID",
        "INSERT INTO queues (queue, hold) SELECT queue, body FROM holds",
        "DROP TABLE holds",
        "CREATE TABLE begins (queue TEXT NOT NULL, at REAL NOT NULL, n INTEGER NOT NULL)",
        "CREATE INDEX begins_by_time ON begins (queue, at)",
        f"CREATE INDEX executions_under_way ON executions (queue) WHERE {UNDER_WAY}",
        f"CREATE INDEX executions_exempt ON executions (queue, priority, {DUE}) WHERE {EXEMPT}",
    ),
    (
        """CREATE TABLE line (
            place INTEGER PRIMARY KEY AUTOINCREMENT,
            key TEXT NOT NULL,
            n INTEGER NOT NULL,
            most INTEGER NOT NULL,
            held INTEGER NOT NULL
        )""",
        "CREATE INDEX line_by_key ON line (key, held, place)",
        "CREATE INDEX line_by_execution ON line (n)",
    ),
    (
        """CREATE TABLE schedules (
            id TEXT PRIMARY KEY,
            workflow_id TEXT NOT NULL,
            nonce TEXT NOT NULL,
            due REAL,
            awaits TEXT,
            definition_hash TEXT NOT NULL,
            body BLOB NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX schedules_by_due ON schedules (workflow_id, due)",
        "CREATE INDEX schedules_by_wait ON schedules (workflow_id, awaits) WHERE awaits IS NOT NULL",
    ),
)
"""The n-th item leads from schema version n to n + 1 (`PRAGMA user_version`)."""

# -- statements -------------------------------------------------------------------------------------------------------

CREATE = """INSERT INTO executions (id, workflow_id, status, parent_id, created_at, updated_at, finished_at, wake_at,
    version, generation, nonce, seq, result_seq, owner, lease_until, recoveries, current_step, root, queue, priority)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"""
CREATE_FACTS = "INSERT INTO facts VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
CREATE_LABEL = "INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?, ?)"
CREATE_DEFINITION = "INSERT INTO definitions VALUES (?, ?) ON CONFLICT (hash) DO NOTHING"
# Most commits change neither the status nor a time: leaving these columns out leaves every index alone. What is mostly
# NULL is given as 0, because Python's sqlite3 takes as long to bind one None as four texts.
STEP = """UPDATE executions SET version = ?, nonce = ?, seq = ?, current_step = ?, updated_at = ?, root = ?,
    result_seq = nullif(?, 0), recoveries = 0
    WHERE n = ? AND id = ? AND generation = ? AND version = ? AND status = ? AND wake_at IS nullif(?, 0)
    AND finished_at IS NULL"""
TURN = """UPDATE executions SET version = ?, nonce = ?, seq = ?, current_step = ?, updated_at = ?, root = ?,
    result_seq = nullif(?, 0), recoveries = 0, status = ?, wake_at = nullif(?, 0), finished_at = ?
    WHERE n = ? AND id = ? AND generation = ? AND version = ?"""
REDEFINE = "UPDATE facts SET definition_hash = ?, workflow_version = ? WHERE n = ?"
RELABEL = "UPDATE labels SET status = ? WHERE n = ?"
SET_INFO = "INSERT OR REPLACE INTO info VALUES (?, ?)"
ADD_ENTRY = "INSERT INTO entries (n, seq, body) VALUES (?, ?, ?)"
SET_FRAME = "INSERT OR REPLACE INTO frames VALUES (?, ?, ?, ?)"
DROP_FRAME = "DELETE FROM frames WHERE n = ? AND path = ?"
SET_VARIABLE = "INSERT OR REPLACE INTO variables VALUES (?, ?, ?, ?)"
DROP_VARIABLE = "DELETE FROM variables WHERE n = ? AND frame = ? AND name = ?"
DROP_FRAMES = "DELETE FROM frames WHERE n = ? AND path >= ? AND path < ?"
DROP_VARIABLES = "DELETE FROM variables WHERE n = ? AND frame >= ? AND frame < ?"
OPEN_WAIT = "INSERT OR REPLACE INTO waits VALUES (?, ?, ?, ?, ?, ?)"
REWRITE_WAIT = "UPDATE waits SET body = ? WHERE n = ? AND wait_id = ?"
CLOSE_WAIT = "DELETE FROM waits WHERE n = ? AND wait_id = ?"
FORGET_ANSWERS = "DELETE FROM answers WHERE n = ? AND wait_id = ?"
WAIT = "SELECT remaining, deadline FROM waits WHERE n = ? AND wait_id = ?"
TAKE = "UPDATE waits SET remaining = ? WHERE n = ? AND wait_id = ?"
ANSWERED = "SELECT 1 FROM answers WHERE n = ? AND wait_id = ? AND key = ?"
REMEMBER_ANSWER = "INSERT INTO answers VALUES (?, ?, ?)"
DELIVER = "INSERT INTO inbox (n, key, wait_id, body) VALUES (?, ?, ?, ?) ON CONFLICT (n, key) DO NOTHING"
CONSUME = "DELETE FROM inbox WHERE id = ? AND n = ?"
GIVE_BACK = """UPDATE executions SET owner = NULL, lease_until = NULL
    WHERE n = ? AND NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.n = executions.n)"""
ROW = """SELECT e.n, e.id, e.workflow_id, f.workflow_version, f.definition_hash, e.status, e.version, e.generation,
    e.nonce, e.seq, e.current_step, e.owner, e.lease_until, e.wake_at, e.recoveries, f.input, e.root, i.body,
    e.result_seq, r.body, e.parent_id, f.root_id, f.labels, f.trigger, e.queue, e.priority, f.concurrency_key,
    e.created_at, e.updated_at, e.finished_at
    FROM executions e JOIN facts f ON f.n = e.n JOIN info i ON i.n = e.n
    LEFT JOIN entries r ON r.n = e.n AND r.seq = e.result_seq WHERE """
ROW_FIELDS = (
    "n", "id", "workflow_id", "workflow_version", "definition_hash", "status", "version", "generation", "nonce", "seq",
    "current_step", "owner", "lease_until", "wake_at", "recoveries", "input", "root", "info", "result_seq", "result",
    "parent_id", "root_id", "labels", "trigger", "queue", "priority", "concurrency_key", "created_at", "updated_at",
    "finished_at",
)  # fmt: skip
WAITS = "SELECT body FROM waits WHERE n = ? ORDER BY seq, wait_id"
CLAIM = """UPDATE executions SET owner = ?, lease_until = ?, generation = generation + 1, recoveries = recoveries + ?
    WHERE n = ?"""
POINTED = """SELECT seq, body FROM entries WHERE n = :n AND seq IN (
    SELECT out FROM frames WHERE n = :n AND out IS NOT NULL UNION SELECT seq FROM variables WHERE n = :n)"""
MAIL = """SELECT DISTINCT e.id FROM inbox i CROSS JOIN executions e ON e.n = i.n WHERE e.owner = ? ORDER BY e.id"""
INBOX = "SELECT id, body FROM inbox WHERE n = (SELECT n FROM executions WHERE id = ?) ORDER BY id"
ENDED = """SELECT n FROM executions INDEXED BY executions_by_end
    WHERE status = ? AND finished_at < ? AND (owner IS NULL OR lease_until <= ?) ORDER BY finished_at LIMIT ?"""

LEASE = "SELECT n, status, owner, lease_until FROM executions WHERE id = ?"
EARLY = "SELECT 1 FROM executions WHERE n = ? AND status = 'pending' AND wake_at > ?"
RENEW = "UPDATE executions SET lease_until = ? WHERE owner = ? RETURNING id, generation"
RELEASE = "UPDATE executions SET owner = NULL, lease_until = NULL WHERE id = ? AND owner = ? AND generation = ?"
SUMMON = "UPDATE executions SET wake_at = min(coalesce(wake_at, ?1), ?1) WHERE n = ?2"
SUMMON_READER = """UPDATE executions SET wake_at = min(coalesce(wake_at, ?1), ?1) WHERE id = ?2 AND finished_at IS NULL
    AND status <> 'pending' AND EXISTS (SELECT 1 FROM inbox WHERE inbox.n = executions.n)"""
CLOSE_LATE = f"UPDATE waits SET remaining = {LATE} WHERE n = ? AND remaining > 0 AND deadline <= ?"
FIND_LATE = f"SELECT wait_id FROM waits WHERE n = ? AND remaining = {LATE} ORDER BY seq, wait_id"
TAKE_BEGUN = f"""SELECT n, id, status, owner FROM executions INDEXED BY executions_by_due
    WHERE status IN ('running', 'halted') AND {DUE} <= ? {{}} ORDER BY {DUE} LIMIT ?"""
NEXT_BEGUN = f"""SELECT min({DUE}) FROM executions INDEXED BY executions_by_due
    WHERE status IN ('running', 'halted') AND {DUE} IS NOT NULL {{}}"""
ANY = "executions_by_priority WHERE status = 'pending'"
OF_QUEUE = f"executions_by_queue WHERE status = 'pending' AND {QUEUE} = ?"
EXEMPT_OF_QUEUE = f"executions_exempt WHERE {EXEMPT} AND queue = ?"
FIRST_OF_PRIORITY = f"""SELECT priority, {DUE} FROM executions INDEXED BY {{}} AND priority > ? {{}}
    ORDER BY priority, {DUE} LIMIT 1"""
TAKE_OF_PRIORITY = f"""SELECT priority, {DUE}, n, id, status, owner FROM executions INDEXED BY {{}}
    AND priority = ? AND {DUE} <= ? {{}} ORDER BY {DUE}, n LIMIT ?"""
NEXT_QUEUE = f"""SELECT {QUEUE} FROM executions INDEXED BY executions_by_queue
    WHERE status = 'pending' AND {QUEUE} > ? ORDER BY {QUEUE} LIMIT 1"""
NEXT_BUSY = f"""SELECT queue FROM executions INDEXED BY executions_under_way
    WHERE {UNDER_WAY} AND queue > ? ORDER BY queue LIMIT 1"""
COUNT_UNDER_WAY = f"""SELECT count(*) FROM (SELECT 1 FROM executions INDEXED BY executions_under_way
    WHERE {UNDER_WAY} AND queue = ? LIMIT ?)"""
COUNT_NAMELESS = f"""SELECT count(*) FROM executions WHERE {UNDER_WAY.replace("queue IS NOT NULL", "queue IS NULL")}"""
COUNT_PENDING = f"""SELECT count(*) FROM executions INDEXED BY executions_by_queue
    WHERE status = 'pending' AND {QUEUE} = ? AND owner IS NULL"""
SETTINGS = "SELECT queue, hold, declared, decided FROM queues"
SET_HOLD = """INSERT INTO queues (queue, hold) VALUES (?, ?) ON CONFLICT (queue) DO UPDATE SET hold = excluded.hold
    WHERE hold IS NULL"""
SET_LIMITS = """INSERT INTO queues (queue, {0}) VALUES (?, ?) ON CONFLICT (queue) DO UPDATE SET {0} = excluded.{0}
    WHERE {0} IS NOT excluded.{0}"""
UNSET = "UPDATE queues SET {0} = NULL WHERE queue = ? AND {0} IS NOT NULL"
ADD_BEGIN = "INSERT INTO begins SELECT queue, ?, n FROM executions WHERE n = ?"
FORGET_BEGINS = "DELETE FROM begins WHERE queue = ? AND at + ? <= ?"
TAKE_BACK_BEGIN = """DELETE FROM begins WHERE (queue, n) =
    (SELECT e.queue, e.n FROM executions e WHERE e.id = ? AND e.status = 'pending')"""
COUNT_BEGINS = "SELECT count(*) FROM begins WHERE queue = ? AND at + ? > ?"
LAST_BEGIN = """SELECT at + ?2 FROM begins WHERE queue = ?1 AND at + ?2 > ?3 ORDER BY at DESC
    LIMIT 1 OFFSET ?4"""
IN_LINE = """SELECT l.n, l.held, l.most, e.id, e.status, e.owner FROM line l JOIN executions e ON e.n = l.n
    WHERE l.key = ?1"""
LINE = f"{IN_LINE} ORDER BY l.place"
NEXT_IN_LINE = f"{IN_LINE} AND l.held = 0 ORDER BY l.place LIMIT 1"
HEAD_OF_LINE = f"SELECT * FROM ({IN_LINE} AND l.held = 1 ORDER BY l.place) UNION ALL SELECT * FROM ({NEXT_IN_LINE})"
"""Who holds a key, and the first of those who wait for it: there may be many of them."""
COUNT_HOLDERS = "SELECT count(*) FROM line WHERE key = ? AND held = 1"
JOIN_LINE = "INSERT INTO line (key, n, most, held) VALUES (?, ?, ?, ?)"
LEAVE_LINE = "DELETE FROM line WHERE n = ?"
PROMOTE = "UPDATE line SET held = 1 WHERE n = ?"
CALL_UP = "UPDATE executions SET wake_at = min(wake_at, ?) WHERE n = ?"
REINPUT = "UPDATE facts SET input = ? WHERE n = ?"

MARKED = "SELECT nonce FROM schedules WHERE id = ?"
SET_SCHEDULE = "INSERT OR REPLACE INTO schedules VALUES (?, ?, ?, ?, ?, ?, ?)"
DROP_SCHEDULE = "DELETE FROM schedules WHERE id = ?"
SCHEDULES = "SELECT id, workflow_id, nonce, due, awaits, definition_hash, body FROM schedules"
SCHEDULES_DUE = f"{SCHEDULES} WHERE workflow_id = ? AND due IS NOT NULL ORDER BY due LIMIT ?"
SCHEDULES_WAITING = f"""{SCHEDULES} WHERE workflow_id = ? AND awaits IS NOT NULL AND NOT EXISTS
    (SELECT 1 FROM executions e WHERE e.id = schedules.awaits AND e.finished_at IS NULL) LIMIT ?"""

PARTS = ("facts", "info", "labels", "entries", "frames", "variables", "inbox", "waits", "answers", "line")
"""Every table with rows that belong to an execution."""

UNAVAILABLE = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL,
})  # fmt: skip
"""Primary result codes that say nothing about what was asked, only that it cannot be done now."""

STATUSES = tuple(Status)


def _translated(error: Exception, where: str) -> DurableFlowError:
    """What a caller hears of an exception that came out of SQLite (or of the encoding of what it was given)."""
    if isinstance(error, DurableFlowError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in UNAVAILABLE:
        return StoreUnavailable(f"{where}: {error}")
    if code is not None and code & 0xFF == sqlite3.SQLITE_READONLY:
        return StoreError(f"{where} cannot be written: {error}")
    if code is not None and code & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreError(f"{where} is damaged or no SQLite database: {error}")
    return StoreError(f"{where}: {error}")


class Connection:
    """One SQLite connection and every statement of this store, as plain functions for the thread that owns it.

    None of them begins or ends a transaction. A DurableFlowError out of one means: refused, nothing was written.
    """

    def __init__(self, database: sqlite3.Connection, now: Callable[[], float], *, only_reads: bool) -> None:
        self.database = database
        self.cursor = database.cursor()
        self.now = now
        self.numbers: dict[str, int] = {}
        self.definitions: set[str] = set()
        self.only_reads = only_reads
        self.written = 0
        self.quiet: dict[str, int] = {}

    # -- writing ------------------------------------------------------------------------------------------------------

    def commit(self, commit: Commit) -> Committed:
        execute = self.cursor.execute
        if commit.mark is not None and not self._applies(commit.mark):
            raise LeaseLost(commit.execution_id)
        held = True if commit.slot is None else self._let_in(commit, commit.slot)
        if not held:
            commit = msgspec.structs.replace(commit, wake_at=NEVER)
        n = self._advance(commit) if commit.new is None else self._create(commit, commit.new)
        if (slot := commit.slot) is not None:
            execute(JOIN_LINE, (slot.key, n, slot.limit, held))
        if commit.input is not None:
            execute(REINPUT, (commit.input, n))
        if commit.info is not None:
            execute(SET_INFO, (n, commit.info))
        if commit.definition is not None:
            name, version, document = commit.definition
            execute(REDEFINE, (name, version, n))
            execute(CREATE_DEFINITION, (name, document))
        for seq, body in commit.entries:
            execute(ADD_ENTRY, (n, seq, body))
            self.written += len(body)
        for path in commit.dropped:
            # "\\" follows "[" and "0" follows "/", so these bounds enclose what begins with "path[" and "path/".
            for low, high in (f"{path}[", f"{path}\\"), (f"{path}/", f"{path}0"):
                execute(DROP_FRAMES, (n, low, high))
                execute(DROP_VARIABLES, (n, low, high))
        for path, out, frame in commit.frames:
            if frame is None:
                execute(DROP_FRAME, (n, path))
            else:
                execute(SET_FRAME, (n, path, out, frame))
        for path, name, seq in commit.sets:
            if seq:
                execute(SET_VARIABLE, (n, path, name, seq))
            else:
                execute(DROP_VARIABLE, (n, path, name))
        for wait_id in commit.closed:
            execute(CLOSE_WAIT, (n, wait_id))
            execute(FORGET_ANSWERS, (n, wait_id))
        for wait_id, seq, needed, deadline, body in commit.opened:
            execute(FORGET_ANSWERS, (n, wait_id))
            execute(OPEN_WAIT, (n, wait_id, seq, needed, deadline, body))
        for wait_id, body in commit.rewritten:
            execute(REWRITE_WAIT, (body, n, wait_id))
        for inbox_id in commit.consumed:
            execute(CONSUME, (inbox_id, n))
        for message, body in commit.messages:
            self.append(message, body)
        promoted = () if commit.frees is None else self._leave_line(commit.frees, n)
        released = False
        if commit.release:
            execute(GIVE_BACK, (n,))
            released = bool(self.cursor.rowcount)
        if promoted:
            return Committed(released, promoted)
        return RELEASED if released else KEPT

    def _let_in(self, commit: Commit, slot: Slot) -> bool:
        """Whether an execution holds the key at once, or has to wait. Nothing that can be refused has been written."""
        execute, name = self.cursor.execute, commit.execution_id
        if commit.new is not None and self._number(name) is not None:
            raise ConflictError(f"there is already an execution {name!r} in this store")
        everybody = slot.until_begun or slot.known is not None
        line = execute(LINE if everybody else HEAD_OF_LINE, (slot.key,)).fetchall()
        if slot.until_begun:
            begun = [n for n, _, _, _, status, owner in line if status != "pending" or owner is not None]
            line = [found for found in line if found[0] not in begun]
        else:
            begun = []
        holders = [held_by for _, held, _, held_by, _, _ in line if held]
        free = len(holders) == len(line) < slot.limit
        known = slot.known is None or {found[3] for found in line} <= set(slot.known)
        if not known or not (free or slot.waits):
            raise KeyTaken(slot.key, holders)
        if commit.new is None:
            found = execute("SELECT generation, version FROM executions WHERE id = ?", (name,)).fetchone()
            if found != (commit.generation, commit.version):
                raise LeaseLost(name)
        self.cursor.executemany(LEAVE_LINE, [(n,) for n in begun])
        return free

    def _leave_line(self, key: str, n: int) -> Sequence[str]:
        """Who holds the key now that this execution does not."""
        execute = self.cursor.execute
        execute(LEAVE_LINE, (n,))
        (holding,) = execute(COUNT_HOLDERS, (key,)).fetchone()
        promoted = []
        while (found := execute(NEXT_IN_LINE, (key,)).fetchone()) is not None:
            waiting, _, most, name, _, _ = found
            if holding >= most:
                break
            holding += 1
            execute(PROMOTE, (waiting,))
            execute(CALL_UP, (self.now(), waiting))
            promoted.append(name)
        return promoted

    def line(self, key: str) -> Sequence[InLine]:
        return [InLine(name, bool(held)) for _, held, _, name, _, _ in self.cursor.execute(LINE, (key,))]

    def _create(self, commit: Commit, new: New) -> int:
        execute, name = self.cursor.execute, commit.execution_id
        owner = None if commit.lease_ttl is None else commit.owner
        lease_until = None if commit.lease_ttl is None else self.now() + commit.lease_ttl
        execute(CREATE, (
            name, new.workflow_id, commit.status, new.parent_id, new.created_at, commit.updated_at, commit.finished_at,
            commit.wake_at, commit.version + 1, commit.generation, commit.nonce, commit.seq, commit.result_seq, owner,
            lease_until, commit.current_step, commit.root, new.queue, new.priority,
        ))  # fmt: skip
        if not self.cursor.rowcount:
            raise ConflictError(f"there is already an execution {name!r} in this store")
        n = self.cursor.lastrowid
        assert n is not None
        self._remember(name, n)
        labels = msgspec.json.encode(new.labels).decode()
        execute(CREATE_FACTS, (
            n, new.workflow_version, new.definition_hash, new.root_id, new.trigger, new.concurrency_key, labels,
            new.input,
        ))  # fmt: skip
        self.written += len(new.input)
        if commit.info is None:
            execute(SET_INFO, (n, ""))
        for key, value in new.labels.items():
            execute(CREATE_LABEL, (n, key, value, new.workflow_id, commit.status, new.created_at, name))
        if new.definition_hash not in self.definitions:
            execute(CREATE_DEFINITION, (new.definition_hash, new.definition))
            if len(self.definitions) < 10_000:
                self.definitions.add(new.definition_hash)
        if commit.mark is not None:
            self.mark(commit.mark)
        return n

    def _advance(self, commit: Commit) -> int:
        execute, name = self.cursor.execute, commit.execution_id
        n = self.numbers.get(name) or self._number(name)
        if n is None:
            raise LeaseLost(name)
        version, status, end = commit.version, commit.status, commit.finished_at
        wake_at = commit.wake_at or 0
        change = (version + 1, commit.nonce, commit.seq, commit.current_step, commit.updated_at, commit.root,
                  commit.result_seq or 0)  # fmt: skip
        if end is None:
            execute(STEP, (*change, n, name, commit.generation, version, status, wake_at))
            if self.cursor.rowcount:
                return n
        execute(TURN, (*change, status, wake_at, end, n, name, commit.generation, version))
        if not self.cursor.rowcount:
            self.numbers.pop(name, None)
            row = execute(LEASE, (name,)).fetchone()
            raise LeaseLost(name, owner=row[2] if row and row[2] != commit.owner else None)
        execute(RELABEL, (commit.status, n))
        return n

    def append(self, message: Message, body: Blob) -> Appended:
        row = self.cursor.execute(LEASE, (message.execution_id,)).fetchone()
        if row is None:
            return Appended(outcome="unknown")
        n, status, owner, lease_until = row
        outcome = "closed" if Status(status).over else self._put(n, message, body)
        if owner is None and outcome == "accepted" and (status != "pending" or message.kind == "cancel"):
            self.cursor.execute(SUMMON, (self.now(), n))
        return Appended(outcome=outcome, owner=owner, lease_until=lease_until)

    def _put(self, n: int, message: Message, body: Blob) -> str:
        execute = self.cursor.execute
        wait_id, key, wait = message.wait_id, message.key, None
        if wait_id is not None:
            wait = execute(WAIT, (n, wait_id)).fetchone()
            # A child may end before the commit that opens the wait for it.
            if message.kind != "child" and not self._open(message.kind, wait):
                return "closed"
            if execute(ANSWERED, (n, wait_id, key)).fetchone():
                return "duplicate"
        execute(DELIVER, (n, key, wait_id, body))
        if not self.cursor.rowcount:
            return "duplicate"
        if wait is not None and wait[0] > 0:
            remaining = max(0, wait[0] - message.takes) if message.takes else 0
            execute(TAKE, (remaining, n, wait_id))
            if remaining:  # the message will be consumed while the wait is still open
                execute(REMEMBER_ANSWER, (n, wait_id, key))
        return "accepted"

    def _open(self, kind: str, wait: tuple[int, float | None] | None) -> bool:
        if wait is None or wait[0] <= 0:
            return False
        late = wait[1] is not None and self.now() >= wait[1]
        return late if kind == "timeout" else not late

    def claim(self, execution_id: str, owner: str, ttl: float, statuses: Collection[str]) -> Stored | Busy | None:
        found = self.cursor.execute(LEASE, (execution_id,)).fetchone()
        if found is None:
            return None
        n, status, holder, until = found
        now = self.now()
        early = status == "pending" and self.cursor.execute(EARLY, (n, now)).fetchone() is not None
        if status not in statuses or early or (holder is not None and until > now):
            return Busy(status=status, owner=holder, lease_until=until)
        return self._claim(n, execution_id, owner, ttl, expired=holder not in (None, owner) and status == "running")

    def _claim(self, n: int, execution_id: str, owner: str, ttl: float, *, expired: bool) -> Stored:
        now = self.now()
        self.cursor.execute(CLAIM, (owner, now + ttl, int(expired), n))
        self.cursor.execute(CLOSE_LATE, (n, now))
        self._remember(execution_id, n)
        stored = self.fetch(execution_id)
        assert stored is not None
        return stored

    def take(
        self,
        owner: str,
        ttl: float,
        limit: int,
        queues: Collection[str | None] | None,
        without: Collection[str],
        room: Mapping[str, int],
    ) -> Sequence[Stored]:
        condition, values = _wanted(queues, without)
        now = self.now()
        execute = self.cursor.execute

        def claimed(found: list[Any]) -> list[Stored]:
            return [
                self._claim(n, name, owner, ttl, expired=holder not in (None, owner) and status == "running")
                for n, name, status, holder in found
            ]

        taken = claimed(execute(TAKE_BEGUN.format(condition), (now, *values, limit)).fetchall())
        left = limit - len(taken)
        more = Counter(one.row.queue for one in taken if one.row.parent_id is None)
        room = {queue: most - more[queue] for queue, most in room.items()}
        turns: list[Any] = []
        if left and (states := self._states(queues, room)) is None:
            turns = self._turns(ANY, (), condition, values, now, left)
        elif left:
            condition, values = _wanted(None, without)
            rated: set[int] = set()
            for name, limits, most in states or ():
                if limits is None:
                    turns += self._turns(OF_QUEUE, (name,), condition, values, now, left)
                    continue
                turns += self._turns(EXEMPT_OF_QUEUE, (name[1:],), condition, values, now, left)
                most = min(left, most, self._slots(name[1:], limits), self._begins_left(name[1:], limits, now))
                fresh = self._turns(OF_QUEUE, (name,), f"AND {FRESH} {condition}", values, now, most)
                turns += fresh
                if limits.rate is not None:
                    rated.update(turn[2] for turn in fresh)
            turns = sorted(turns, key=lambda turn: turn[:3])[:left]
            self.cursor.executemany(ADD_BEGIN, [(now, n) for _, _, n, *_ in turns if n in rated])
        return taken + claimed([turn[2:] for turn in turns])

    def next_due(
        self, queues: Collection[str | None] | None, without: Collection[str], room: Mapping[str, int]
    ) -> float | None:
        condition, values = _wanted(queues, without)
        execute = self.cursor.execute
        times = [execute(NEXT_BEGUN.format(condition), values).fetchone()]
        if (states := self._states(queues, room)) is None:
            times += [(due,) for _, due in self._firsts(ANY, (), condition, values)]
        else:
            condition, values = _wanted(None, without)
            for name, limits, most in states:
                if limits is None:
                    times += [(due,) for _, due in self._firsts(OF_QUEUE, (name,), condition, values)]
                    continue
                times += [(due,) for _, due in self._firsts(EXEMPT_OF_QUEUE, (name[1:],), condition, values)]
                if min(most, self._slots(name[1:], limits)) > 0:
                    at = self._begins_at(name[1:], limits)
                    firsts = self._firsts(OF_QUEUE, (name,), f"AND {FRESH} {condition}", values)
                    times += [(max(due, at),) for _, due in firsts]
        known = [time for (time,) in times if time is not None]
        return min(known) - self.now() if known and min(known) < NEVER else None

    def _states(
        self, queues: Collection[str | None] | None, room: Mapping[str, int]
    ) -> list[tuple[str, QueueLimits | None, float]] | None:
        """The queues among these from which pending executions may be taken, with their limits (None: nothing is said
        about it) and the room there is for them; None where nothing is said about any. Those that there are are found
        by skipping through an index: a queue that has to wait may be long."""
        execute = self.cursor.execute
        rows = {name: QueueRow(hold=hold, declared=declared, decided=decided)
                for name, hold, declared, decided in execute(SETTINGS)}  # fmt: skip
        held = {name for name, row in rows.items() if row.hold is not None}
        limited = {name: row.limits for name, row in rows.items() if row.limits != UNLIMITED}
        if not held and not limited and not room:
            return None
        names = self._names(NEXT_QUEUE, "") if queues is None else dict.fromkeys(_queue_name(one) for one in queues)
        states: list[tuple[str, QueueLimits | None, float]] = []
        for name in names:
            if name not in held:
                most = room.get(name[1:], inf) if name else inf
                states.append((name, limited.get(name, UNLIMITED if most < inf else None), most))
        return states

    def _firsts(
        self, pending: str, queue: tuple[str, ...], condition: str, values: tuple[str, ...]
    ) -> Iterator[tuple[int, float]]:
        """The priorities in a list of what is pending, with the time when the first of each is due."""
        sql, priority = FIRST_OF_PRIORITY.format(pending, condition), -(2**63)
        while (found := self.cursor.execute(sql, (*queue, priority, *values)).fetchone()) is not None:
            yield found
            priority = found[0]

    def _turns(
        self, pending: str, queue: tuple[str, ...], condition: str, values: tuple[str, ...], now: float, most: float
    ) -> list[Any]:
        """The first of a list of what is pending that are due, at most so many. Priority by priority: what is to begin
        later, or waits for its key, is not read."""
        turns: list[Any] = []
        sql = TAKE_OF_PRIORITY.format(pending, condition)
        for priority, due in self._firsts(pending, queue, condition, values) if most > 0 else ():
            if due <= now:
                turns += self.cursor.execute(sql, (*queue, priority, now, *values, int(most) - len(turns))).fetchall()
            if len(turns) >= most:
                break
        return turns

    def _names(self, sql: str, first: str) -> list[str]:
        names = [first]
        while (found := self.cursor.execute(sql, (names[-1],)).fetchone()) is not None:
            names.append(found[0])
        return names

    def _slots(self, queue: str, limits: QueueLimits) -> float:
        """How many more may be under way."""
        if limits.concurrency is None:
            return inf
        (count,) = self.cursor.execute(COUNT_UNDER_WAY, (queue, limits.concurrency)).fetchone()
        return float(limits.concurrency - count)

    def _begins_left(self, queue: str, limits: QueueLimits, now: float) -> float:
        """How many may begin within the period that ends now."""
        if limits.rate is None:
            return inf
        self.cursor.execute(FORGET_BEGINS, (queue, limits.period, now))
        (count,) = self.cursor.execute(COUNT_BEGINS, (queue, limits.period, now)).fetchone()
        return float(limits.rate - count)

    def _begins_at(self, queue: str, limits: QueueLimits) -> float:
        """When the next one may begin, or any time that is past."""
        if limits.rate is None:
            return 0.0
        found = self.cursor.execute(LAST_BEGIN, (queue, limits.period, self.now(), limits.rate - 1)).fetchone()
        return 0.0 if found is None else float(found[0])

    def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        name = _queue_name(queue)
        if value is None:
            self.cursor.execute(UNSET.format(setting), (name,))
        else:
            self.cursor.execute(SET_HOLD if setting == "hold" else SET_LIMITS.format(setting), (name, value))
        return bool(self.cursor.rowcount)

    def _applies(self, mark: Mark) -> bool:
        found = self.cursor.execute(MARKED, (mark.schedule_id,)).fetchone()
        return mark.expected == (None if found is None else found[0])

    def mark(self, mark: Mark) -> bool:
        execute, name = self.cursor.execute, mark.schedule_id
        if not self._applies(mark):
            return False
        if mark.body is None:
            execute(DROP_SCHEDULE, (name,))
            return True
        facts = (name, mark.workflow_id, mark.nonce, mark.due, mark.awaits, mark.definition_hash, mark.body)
        execute(SET_SCHEDULE, facts)
        if mark.definition is not None:
            execute(CREATE_DEFINITION, (mark.definition_hash, mark.definition))
        return True

    def renew(self, owner: str, ttl: float) -> Mapping[str, int]:
        return dict(self.cursor.execute(RENEW, (self.now() + ttl, owner)))

    def release(self, execution_id: str, owner: str, generation: int) -> None:
        self.cursor.execute(RELEASE, (execution_id, owner, generation))
        if self.cursor.rowcount:
            self.cursor.execute(SUMMON_READER, (self.now(), execution_id))
            self.cursor.execute(TAKE_BACK_BEGIN, (execution_id,))

    def remove(self, execution_id: str) -> tuple[bool, Sequence[str]]:
        """Whether there was one, and who holds its key now."""
        found = self.cursor.execute(LEASE, (execution_id,)).fetchone()
        if found is None:
            return False, ()
        n, _, owner, until = found
        if owner is not None and until > self.now():
            raise ConflictError(f"execution {execution_id!r} cannot be deleted: {owner} is driving it")
        keys = self.cursor.execute("SELECT key FROM line WHERE n = ?", (n,)).fetchall()
        promoted = [name for (key,) in keys for name in self._leave_line(key, n)]
        self._delete([n])
        return True, promoted

    def purge(self, before: float, statuses: Collection[str], limit: int) -> int:
        numbers: list[int] = []
        for status in dict.fromkeys(statuses):
            found = self.cursor.execute(ENDED, (str(status), before, self.now(), limit - len(numbers)))
            numbers += [n for (n,) in found]
        self._delete(numbers)
        return len(numbers)

    def _delete(self, numbers: Sequence[int]) -> None:
        many = self.cursor.executemany
        keys = [(n,) for n in numbers]
        for table in PARTS:
            many(f"DELETE FROM {table} WHERE n = ?", keys)
        many("DELETE FROM executions WHERE n = ?", keys)

    # -- reading ------------------------------------------------------------------------------------------------------

    def row(self, execution_id: str) -> Row | None:
        found = self.cursor.execute(f"{ROW} e.id = ?", (execution_id,)).fetchone()
        return None if found is None else self._row(found)

    def _row(self, values: tuple[Any, ...]) -> Row:
        named = dict(zip(ROW_FIELDS, values, strict=True))
        waits = [body for (body,) in self.cursor.execute(WAITS, (named.pop("n"),))]
        named["labels"] = msgspec.json.decode(named["labels"])
        return Row(**named, waits=waits)

    def fetch(self, execution_id: str) -> Stored | None:
        execute = self.cursor.execute
        found = execute(f"{ROW} e.id = ?", (execution_id,)).fetchone()
        if found is None:
            return None
        n = found[0]
        return Stored(
            row=self._row(found),
            frames=execute("SELECT path, body FROM frames WHERE n = ? ORDER BY path", (n,)).fetchall(),
            sets=execute("SELECT frame, name, seq FROM variables WHERE n = ? ORDER BY frame, name", (n,)).fetchall(),
            entries=dict(execute(POINTED, {"n": n})),
            inbox=execute("SELECT id, body FROM inbox WHERE n = ? ORDER BY id", (n,)).fetchall(),
            late=[wait_id for (wait_id,) in execute(FIND_LATE, (n,))],
        )

    def inbox(self, execution_id: str) -> Sequence[tuple[int, Blob]]:
        return self.cursor.execute(INBOX, (execution_id,)).fetchall()

    def mail(self, owner: str) -> Sequence[str]:
        """`data_version` changes when another connection has committed: if not, an empty answer is still right."""
        (version,) = self.cursor.execute("PRAGMA data_version").fetchone()
        if self.only_reads and self.quiet.get(owner) == version:
            return []
        found = [name for (name,) in self.cursor.execute(MAIL, (owner,))]
        if not found:
            self.quiet = {owner: version}
        return found

    def read(
        self, execution_id: str, after: int, limit: int | None, seqs: Sequence[int] | None
    ) -> Sequence[tuple[int, Blob]]:
        n = self._number(execution_id)
        if n is None:
            return []
        if seqs is not None:
            return self.cursor.execute(
                "SELECT seq, body FROM entries WHERE n = ? AND seq IN (SELECT value FROM json_each(?)) ORDER BY seq",
                (n, msgspec.json.encode(list(seqs)).decode()),
            ).fetchall()
        return self.cursor.execute(
            "SELECT seq, body FROM entries WHERE n = ? AND seq > ? ORDER BY seq LIMIT ?",
            (n, after, -1 if limit is None else limit),
        ).fetchall()

    def search(
        self, filter: Filter, limit: int, position: tuple[float, str] | None
    ) -> tuple[Sequence[Row], str | None]:
        runs = []
        for sql, values in searches(filter, self._rarest(filter.labels), position):
            runs.append(self.cursor.execute(sql, (*values, limit + 1)).fetchall())
        newest = heapq.merge(*runs, reverse=True)
        found = list(itertools.islice(newest, limit + 1))
        rows = []
        for _, _, n in found[:limit]:
            row = self.cursor.execute(f"{ROW} e.n = ?", (n,)).fetchone()
            if row is not None:
                rows.append(self._row(row))
        return rows, cursor_of(*found[limit - 1][:2]) if len(found) > limit else None

    def _rarest(self, labels: Mapping[str, str]) -> Sequence[tuple[str, str]]:
        """The labels, with the one that the fewest executions have (as far as 1,000 of them tell) in front."""
        if len(labels) < 2:
            return list(labels.items())

        def count(label: tuple[str, str]) -> int:
            (found,) = self.cursor.execute(
                "SELECT count(*) FROM (SELECT 1 FROM labels WHERE key = ? AND value = ? LIMIT 1000)", label
            ).fetchone()
            return int(found)

        return sorted(labels.items(), key=count)

    def queues(self, names: Collection[str | None] | None) -> Mapping[str | None, QueueRow]:
        execute = self.cursor.execute
        rows = {name: QueueRow(hold=hold, declared=declared, decided=decided)
                for name, hold, declared, decided in execute(SETTINGS)}  # fmt: skip
        if names is None:
            busy = [f".{name}" for name in self._names(NEXT_BUSY, "")[1:]]
            wanted = {"", *rows, *self._names(NEXT_QUEUE, ""), *busy}
        else:
            wanted = {_queue_name(one) for one in names}
        found: dict[str | None, QueueRow] = {}
        for name in sorted(wanted):
            row = rows.get(name, QueueRow())
            (pending,) = execute(COUNT_PENDING, (name,)).fetchone()
            (under_way,) = execute(COUNT_UNDER_WAY, (name[1:], -1)).fetchone() if name else (
                execute(COUNT_NAMELESS).fetchone())  # fmt: skip
            row = msgspec.structs.replace(row, pending=pending, under_way=under_way)
            if names is not None or row != QueueRow():
                found[name[1:] if name else None] = row
        return found

    def schedules(self, workflows: Collection[str] | None, limit: int | None) -> tuple[float, Sequence[ScheduleRow]]:
        execute, most = self.cursor.execute, -1 if limit is None else limit
        found: dict[str, Sequence[Any]] = {}
        if workflows is None:
            workflows = [name for (name,) in execute("SELECT DISTINCT workflow_id FROM schedules")]
        for name in workflows:
            if limit is None:
                found |= {row[0]: row for row in execute(f"{SCHEDULES} WHERE workflow_id = ?", (name,))}
            else:
                found |= {row[0]: row for row in execute(SCHEDULES_DUE, (name, most))}
            found |= {row[0]: (*row[:3], 0.0, *row[4:]) for row in execute(SCHEDULES_WAITING, (name, most))}
        rows = sorted((schedule_row(*row) for row in found.values()), key=soonest)
        return self.now(), rows[:limit]

    def definition(self, definition_hash: str) -> Blob | None:
        found = self.cursor.execute("SELECT body FROM definitions WHERE hash = ?", (definition_hash,)).fetchone()
        return None if found is None else found[0]

    def forget(self) -> None:
        """What is remembered here may be in no table: a transaction was rolled back."""
        self.numbers.clear()
        self.definitions.clear()

    def _number(self, execution_id: str) -> int | None:
        found = self.cursor.execute("SELECT n FROM executions WHERE id = ?", (execution_id,)).fetchone()
        return None if found is None else self._remember(execution_id, found[0])

    def _remember(self, execution_id: str, n: int) -> int:
        if len(self.numbers) >= 10_000:
            self.numbers.clear()
        self.numbers[execution_id] = n
        return n


def _queue_name(queue: str | None) -> str:
    return "" if queue is None else f".{queue}"


def _wanted(queues: Collection[str | None] | None, without: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """The condition that leaves only executions of these queues, with none of these definitions."""
    condition, values = "", []
    if queues is not None:
        named = [queue for queue in queues if queue is not None]
        either = " OR queue IS NULL" if None in queues else ""
        condition = f"AND (queue IN (SELECT value FROM json_each(?)){either})"
        values.append(msgspec.json.encode(named).decode())
    if without:
        condition += (
            " AND NOT EXISTS (SELECT 1 FROM facts f WHERE f.n = executions.n"
            " AND f.definition_hash IN (SELECT value FROM json_each(?)))"
        )
        values.append(msgspec.json.encode(list(without)).decode())
    return condition, tuple(values)


RELEASED = Committed(released=True)
KEPT = Committed(released=False)


def searches(
    filter: Filter, labels: Sequence[tuple[str, str]], position: tuple[float, str] | None
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The statements that together find a page (created_at, id, n), each newest first through one index.

    One per status, because a list of statuses in one statement would have to be sorted; merging a few sorted runs costs
    nothing. `labels` are those of the filter, the rarest first. The last parameter of each statement is its limit.
    """
    conditions: list[str] = []
    values: list[Any] = []

    def also(condition: str, *parameters: Any) -> None:
        conditions.append(condition)
        values.extend(parameters)

    if filter.parent_id is not None:
        table, index = "executions", "executions_by_parent"
        also("s.parent_id = ?", filter.parent_id)
    elif labels:
        table, index = "labels", "labels_by_value" if filter.workflow_id is None else "labels_by_workflow"
        (key, value), *labels = labels
        also("s.key = ? AND s.value = ?", key, value)
    else:
        table, index = "executions", "executions_by_status" if filter.workflow_id is None else "executions_by_workflow"
    if filter.workflow_id is not None:
        also("s.workflow_id = ?", filter.workflow_id)
    for key, value in labels:
        also("EXISTS (SELECT 1 FROM labels l WHERE l.n = s.n AND l.key = ? AND l.value = ?)", key, value)
    if filter.created_after is not None:
        also("s.created_at > ?", filter.created_after)
    if filter.created_before is not None:
        also("s.created_at < ?", filter.created_before)
    if position is not None:
        also("(s.created_at, s.id) < (?, ?)", *position)
    for status in STATUSES if filter.statuses is None else dict.fromkeys(filter.statuses):
        where = " AND ".join(["s.status = ?", *conditions])
        sql = (
            f"SELECT s.created_at, s.id, s.n FROM {table} s INDEXED BY {index} WHERE {where} "
            "ORDER BY s.created_at DESC, s.id DESC LIMIT ?"
        )
        yield sql, (str(status), *values)


# -- transactions -----------------------------------------------------------------------------------------------------

Job = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]
"""Who waits for it, a function of `Connection`, and its arguments."""


class Lock:
    """Held by whoever writes or checkpoints, across processes. It is free as soon as its holder's process is gone.

    Within a process, one who is `behind` another lets that one go first, or transactions that follow each other would
    never let the writer have it.
    """

    def __init__(self, path: Path, *, timeout: float, mode: int, behind: Lock | None = None) -> None:
        self.path = path
        self.timeout = timeout
        self.behind = behind
        self.wanted = False
        self.given_up = threading.Event()
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), mode)

    def __enter__(self) -> None:
        if sys.platform == "win32":
            return
        self.wanted = True
        waited, pause = 0.0, 0.0001
        try:
            while (self.behind is not None and self.behind.wanted) or not self._take():
                if waited >= self.timeout:
                    raise StoreUnavailable(f"{self.path} was held by another process for {self.timeout:g} s")
                if self.given_up.wait(pause):
                    raise StoreUnavailable(f"nobody waits for {self.path} any more")
                waited += pause
                pause = min(pause * 1.5, 0.005)
        finally:
            self.wanted = False

    def _take(self) -> bool:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __exit__(self, *error: object) -> None:
        if sys.platform != "win32":
            fcntl.flock(self.file, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self.file)


class Writer:
    """The connection that writes: batches, migrations, checkpoints. Used by one thread."""

    def __init__(self, store: SqliteStore, now: Callable[[], float]) -> None:
        self.store = store
        self.path = store.path
        self.name = ":memory:" if store.path is None else str(store.path)
        self.lock: Lock | None = None
        self.timeout = round(store.busy_timeout * 1000)
        self.pace = self.due = CHECKPOINT_PAGES // 2
        database = None
        try:
            if store.path is not None:
                if not store.path.exists():
                    store.versions = 0, len(MIGRATIONS)
                mode = _create(store.path, store.auto_migrate)
                self.lock = store.lock = Lock(Path(f"{store.path}-lock"), timeout=store.busy_timeout, mode=mode)
            with self.lock or nullcontext():
                database = _connect(store.path, store)
                self.connection = Connection(database, now, only_reads=False)
                self._open(store)
        except BaseException as error:
            if database is not None:
                database.close()
            if self.lock is not None:
                self.lock.close()
            if isinstance(error, Exception):
                raise _translated(error, self.name) from error
            raise

    def _open(self, store: SqliteStore) -> None:
        execute = self.connection.database.execute
        version = self._check()
        store.versions = version, len(MIGRATIONS)
        if version < len(MIGRATIONS) and not store.auto_migrate:
            raise _outdated(self.name, version)
        if self.lock is not None:
            (journal,) = execute("PRAGMA journal_mode = WAL").fetchone()
            if journal != "wal":
                raise StoreError(f"{self.name} cannot have a write-ahead log here (is it a network file system?)")
            execute("PRAGMA wal_autocheckpoint = 0")
            _set_durability(self.connection.database, store)
        if version < len(MIGRATIONS):
            store.versions = self._migrate(), len(MIGRATIONS)
        execute("BEGIN IMMEDIATE")  # tells now, not in the middle of something, that the file cannot be written
        execute("ROLLBACK")

    def _check(self) -> int:
        """The schema version; raises, before anything is written, where this release must not write."""
        execute = self.connection.database.execute
        (application,) = execute("PRAGMA application_id").fetchone()
        (version,) = execute("PRAGMA user_version").fetchone()
        (tables,) = execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application != APPLICATION_ID and (application or version or tables):
            raise StoreError(f"{self.name} is the database of another application: give durable_flow its own file")
        if version > len(MIGRATIONS):
            raise SchemaTooNew(version, len(MIGRATIONS))
        return int(version)

    def _migrate(self) -> int:
        """The version it was migrated from: this release's, if somebody else was faster."""
        execute = self.connection.database.execute
        execute("BEGIN EXCLUSIVE")
        try:
            version = self._check()
            for step in MIGRATIONS[version:]:
                for statement in step:
                    execute(statement)
            execute(f"PRAGMA application_id = {APPLICATION_ID}")
            execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            execute("COMMIT")
        except BaseException:
            self.roll_back()
            raise
        if version < len(MIGRATIONS):
            log.info("%s: schema migrated from version %d to %d", self.name, version, len(MIGRATIONS))
        return version

    def serve(self, jobs: Sequence[Job]) -> Sequence[object]:
        """What became of each job: its result, or the exception its caller gets. One transaction, if all goes well."""
        if self.lock is None:
            return self._together(jobs)
        try:
            with self.lock:
                return self._together(jobs)
        except StoreUnavailable as error:
            return [StoreUnavailable(*error.args) for _ in jobs]

    def _together(self, jobs: Sequence[Job]) -> Sequence[object]:
        if len(jobs) == 1:
            return [self.alone(*jobs[0][1:])]
        connection = self.connection
        execute = connection.cursor.execute
        outcomes: list[object] = []
        try:
            execute("BEGIN IMMEDIATE")
            for _, function, arguments in jobs:
                try:
                    outcomes.append(function(connection, *arguments))
                except DurableFlowError as refused:
                    outcomes.append(refused)
            execute("COMMIT")
        except BaseException as error:
            self.roll_back()
            if not isinstance(error, Exception):
                raise
            heard = _translated(error, self.name)
            if isinstance(heard, StoreUnavailable):
                log.warning("a transaction of %d writes failed: %s", len(jobs), heard)
                return [StoreUnavailable(*heard.args) for _ in jobs]
            return [self.alone(function, arguments) for _, function, arguments in jobs]
        return outcomes

    def alone(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> object:
        """The same for one job in a transaction of its own."""
        connection = self.connection
        execute = connection.cursor.execute
        try:
            execute("BEGIN IMMEDIATE")
            outcome = function(connection, *arguments)
            execute("COMMIT")
        except BaseException as error:
            self.roll_back()
            if isinstance(error, Exception):
                return _translated(error, self.name)
            raise
        return outcome

    def roll_back(self) -> None:
        self.connection.forget()
        if self.connection.database.in_transaction:
            with suppress(sqlite3.Error):
                self.connection.database.execute("ROLLBACK")

    def rest(self) -> None:
        """After the callers were woken: copies the log into the database when enough has been written.

        How long the log is shows only in a checkpoint, so the number of changes between two of them follows from what
        the last one met: changes that share a transaction share pages.
        """
        if self.lock is None:
            return
        connection = self.connection
        changes = connection.database.total_changes + connection.written // 4096 + self.store.changes_elsewhere
        if changes < self.due:
            return
        try:
            with self.lock:
                _, pages, copied = connection.database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if pages == copied and os.stat(f"{self.path}-wal").st_size > TRUNCATE_BYTES:
                    connection.database.execute("PRAGMA busy_timeout = 0")  # a reader is no reason to wait
                    connection.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    connection.database.execute(f"PRAGMA busy_timeout = {self.timeout}")
        except (sqlite3.Error, StoreUnavailable, OSError) as error:
            log.warning("%s: checkpoint failed, will be tried again: %s", self.name, error)
            pages = CHECKPOINT_PAGES
        self.pace = min(20 * CHECKPOINT_PAGES, max(100, self.pace * CHECKPOINT_PAGES // max(1, pages)))
        self.due = changes + self.pace

    def close(self) -> None:
        self.connection.database.close()
        if self.lock is not None:
            self.lock.close()


class Reader:
    """A connection that only reads. Used by one thread; each job sees one moment."""

    def __init__(self, store: SqliteStore, now: Callable[[], float]) -> None:
        self.name = str(store.path)
        database = _connect(store.path, store)
        try:
            database.execute("PRAGMA wal_autocheckpoint = 0")
            database.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            database.close()
            raise _translated(error, self.name) from error
        self.connection = Connection(database, now, only_reads=True)

    def serve(self, jobs: Sequence[Job]) -> Sequence[object]:
        return [_look(self.connection, self.name, function, arguments) for _, function, arguments in jobs]

    def rest(self) -> None:
        pass

    def close(self) -> None:
        self.connection.database.close()


def _look(connection: Connection, name: str, function: Callable[..., object], arguments: tuple[Any, ...]) -> object:
    """The result of a reading job, or the exception its caller gets."""
    execute = connection.cursor.execute
    try:
        if connection.database.in_transaction:  # in memory, that of a step: it has not written to our tables yet
            return function(connection, *arguments)
        execute("BEGIN")
        try:
            return function(connection, *arguments)
        finally:
            execute("COMMIT")
    except Exception as error:
        return _translated(error, name)


class Apartment:
    """The connection of one transaction of a step, and the lock of the file. Used by one thread."""

    def __init__(self, store: SqliteStore, now: Callable[[], float]) -> None:
        assert store.path is not None
        self.store = store
        self.name = str(store.path)
        mode = store.path.stat().st_mode & 0o777
        self.lock = Lock(Path(f"{store.path}-lock"), timeout=store.busy_timeout, mode=mode, behind=store.lock)
        self.locked = False
        try:
            database = _connect(store.path, store)
            try:
                database.execute("PRAGMA wal_autocheckpoint = 0")
                _set_durability(database, store)
            except sqlite3.Error as error:
                database.close()
                raise _translated(error, self.name) from error
        except BaseException:
            self.lock.close()
            raise
        self.connection = Connection(database, now, only_reads=False)

    def begin(self, connection: Connection) -> None:
        """Waits for the lock and begins."""
        self.lock.__enter__()
        self.locked = True
        connection.database.execute("BEGIN IMMEDIATE")

    def end(self, connection: Connection) -> None:
        """Lets go of everything; what was not committed is rolled back."""
        if connection.database.in_transaction:
            connection.database.execute("ROLLBACK")
        self.store.changes_elsewhere += connection.database.total_changes + connection.written // 4096
        if self.locked:
            self.lock.__exit__()
            self.locked = False

    def give_up(self) -> None:
        """Called by another thread: whatever is waited for or executed ends with an error."""
        self.lock.given_up.set()
        with suppress(sqlite3.Error):
            self.connection.database.interrupt()

    def serve(self, jobs: Sequence[Job]) -> Sequence[object]:
        return [self._serve(function, arguments) for _, function, arguments in jobs]

    def _serve(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> object:
        try:
            return function(self.connection, *arguments)
        except Exception as error:
            return _heard(error, self.name)

    def rest(self) -> None:
        pass

    def close(self) -> None:
        if self.locked:
            self.lock.__exit__()
        self.connection.database.close()
        self.lock.close()


def _heard(error: Exception, name: str) -> Exception:
    """What a service hears of an error of its statement: what SQLite says, unless that is about the file."""
    code = getattr(error, "sqlite_errorcode", None)
    return _translated(error, name) if code is not None and code & 0xFF in UNAVAILABLE else error


def _execute(connection: Connection, sql: str, parameters: Sequence[Any]) -> int:
    cursor = connection.database.execute(sql, parameters)
    return cursor.rowcount if cursor.description is None else len(cursor.fetchall())


def _execute_many(connection: Connection, sql: str, rows: Sequence[Sequence[Any]]) -> None:
    connection.database.executemany(sql, rows)


def _fetch(connection: Connection, sql: str, parameters: Sequence[Any], limit: int | None) -> list[Any]:
    cursor = connection.database.cursor()
    cursor.row_factory = sqlite3.Row
    cursor.execute(sql, parameters)
    if limit is None:
        return cursor.fetchall()
    found = cursor.fetchmany(limit)
    cursor.fetchall()  # what has RETURNING is done when it was read to its end
    return found


def _commit_all(connection: Connection, commit: Commit) -> Committed:
    committed = connection.commit(commit)
    connection.database.execute("COMMIT")
    return committed


class SqliteTransaction(StepTransaction):
    """What a service executes, with the transition of its step, in one transaction.

    It holds the lock of the file from its first statement on, so nobody else can write meanwhile, for at most `hold`
    seconds: then it is rolled back. In a file it has a thread and a connection of its own; in memory there is only one
    connection, and what others write waits.
    """

    exclusive = True

    def __init__(self, store: SqliteStore, *, hold: float) -> None:
        self._store = store
        self._hold = hold
        self._apartment: Apartment | None = None
        self._worker: Worker | None = None
        self._writer: Writer | None = None
        self._failure: StepError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._has_turn = False

    async def execute(self, sql: str, parameters: Sequence[Any]) -> int:
        return await self._ask(_execute, sql, parameters)

    async def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._ask(_execute_many, sql, rows)

    async def fetch(self, sql: str, parameters: Sequence[Any], *, limit: int | None = None) -> list[Any]:
        return await self._ask(_fetch, sql, parameters, limit)

    async def _ask(self, function: Callable[..., T], *arguments: Any) -> T:
        self._check()
        if not self.begun:
            await self._begin()
        try:
            return await self._do(function, *arguments)
        except asyncio.CancelledError:
            # The thread may still be at it: with a statement of which nobody knows, nothing may be committed.
            self._failure = self._failure or StepError("a statement was cancelled", kind="TransactionError")
            self._end()
            raise
        except Exception:
            self._check()  # it may have been ended for the reason that is told then
            raise

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._ending is not None:
            raise StepError("the transaction is over", kind="TransactionError")

    async def _do(self, function: Callable[..., T], *arguments: Any) -> T:
        if self._worker is not None:  # shielded: what a thread does cannot be cancelled, but nobody has to wait for it
            return await asyncio.shield(self._worker.submit(function, arguments))
        assert self._writer is not None
        try:
            return function(self._writer.connection, *arguments)
        except Exception as error:
            raise _heard(error, self._writer.name) from None

    async def _begin(self) -> None:
        store = self._store
        await store.turn.acquire()
        if self._ending is not None:  # while we waited, and it had nothing yet that it could have let go
            store.turn.release()
            self._check()
        self._has_turn = True
        store.open_transactions.add(self)
        try:
            if store.path is None:
                self._writer = store.lend()
                self._writer.connection.database.execute("BEGIN IMMEDIATE")
            else:
                self._worker = Worker("durable_flow-sqlite-transaction", self._furnish)
                await self._worker.start()
                assert self._apartment is not None
                await self._do(self._apartment.begin)
            self._check()
        except BaseException:
            await self.rollback()
            raise
        self.begun = True
        self._timer = asyncio.get_running_loop().call_later(self._hold, self._expire)

    def _furnish(self) -> Apartment:
        self._apartment = Apartment(self._store, self._store.clock.now)
        return self._apartment

    def _expire(self) -> None:
        self._failure = StepError(
            f"the transaction was open for more than {self._hold:g} s, and nobody else can write meanwhile: do what "
            "takes long before its first statement, or in another step",
            kind="TransactionTimeout",
        )
        self._end()

    async def ready(self) -> None:
        self._check()
        if self._timer is not None:
            self._timer.cancel()

    async def commit(self, commit: Commit) -> Committed:
        try:
            return await self._do(_commit_all, commit)
        except Exception as error:
            raise _translated(error, str(self._store.path)) from error
        finally:
            await self.rollback()

    async def rollback(self) -> None:
        await asyncio.shield(self._end())

    def _end(self) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._leave(), name="durable_flow end")
        return self._ending

    async def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._worker is not None:
                if self._apartment is not None:
                    self._apartment.give_up()
                    with suppress(sqlite3.Error, StoreError):
                        await self._worker.submit(self._apartment.end, ())
                await self._worker.stop()
            elif self._writer is not None:
                self._writer.roll_back()
                self._store.take_back()
        finally:
            self.begun = False
            self._store.open_transactions.discard(self)
            if self._has_turn:
                self._has_turn = False
                self._store.turn.release()


def _outdated(name: str, version: int) -> StoreError:
    return StoreError(
        f"{name} has schema version {version}, this release of durable-flow needs {len(MIGRATIONS)}: "
        "run `durable-flow migrate`, or open it once with auto_migrate=True"
    )


def _create(path: Path, allowed: bool) -> int:
    """Makes an empty file that only its owner can read, if there is none. Returns the permissions of the file."""
    if path.is_dir():
        raise ConfigError(f"{path} is a directory, not a database file")
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be created: there is no directory {path.parent}")
    try:
        if not path.exists():
            if not allowed:
                raise _outdated(str(path), 0)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise StoreError(f"{path} cannot be created: {error.strerror}") from error
    return path.stat().st_mode & 0o777


def _connect(path: Path | None, store: SqliteStore) -> sqlite3.Connection:
    name = ":memory:" if path is None else f"file:{quote(str(path.absolute()))}?mode=rw"
    try:
        database = sqlite3.connect(
            name, uri=path is not None, isolation_level=None, timeout=store.busy_timeout, cached_statements=256
        )
    except sqlite3.Error as error:
        raise _translated(error, str(path)) from error
    return database


def _set_durability(database: sqlite3.Connection, store: SqliteStore) -> None:
    """How far a commit on this connection has to come."""
    database.execute(f"PRAGMA synchronous = {store.durability.upper()}")
    # On macOS fsync leaves data in the cache of the drive. Elsewhere this changes nothing.
    database.execute(f"PRAGMA fullfsync = {int(store.durability == 'full')}")


class Worker:
    """A thread with something to `serve`: it takes all jobs that wait, serves them, wakes their callers in one go."""

    def __init__(self, name: str, make: Callable[[], Writer | Reader | Apartment]) -> None:
        self.loop = asyncio.get_running_loop()
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.make = make
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self.gone: asyncio.Future[None] = self.loop.create_future()
        self.thread = threading.Thread(target=self._main, name=name, daemon=True)

    async def start(self) -> None:
        self.thread.start()
        await self.ready

    def submit(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = Landing(loop=self.loop)
        self.jobs.put((future, function, arguments))
        return future

    async def stop(self) -> None:
        """Finishes what was submitted, then ends the thread."""
        if self.thread.ident is None:
            return
        self.jobs.put(None)
        await asyncio.shield(self.gone)
        self.thread.join()

    def _main(self) -> None:
        try:
            served = self.make()
        except BaseException as error:
            self._tell([(self.ready, error)])
            self._tell([(self.gone, None)])
            return
        self._tell([(self.ready, None)])
        try:
            while jobs := self._take():
                try:
                    outcomes = served.serve(jobs)
                except BaseException as error:
                    log.exception("a batch failed unexpectedly")
                    outcomes = [StoreError(f"unexpected {type(error).__name__}: {error}") for _ in jobs]
                self._tell([(job[0], outcome) for job, outcome in zip(jobs, outcomes, strict=True)])
                del jobs, outcomes
                served.rest()
        finally:
            with suppress(sqlite3.Error):
                served.close()
            self._tell([(self.gone, None)])

    def _take(self) -> list[Job]:
        """All jobs that wait, at least one; none at the end."""
        taken = []
        job = self.jobs.get()
        while job is not None:
            taken.append(job)
            if self.jobs.empty():
                return taken
            job = self.jobs.get()
        if taken:
            self.jobs.put(None)
        return taken

    def _tell(self, outcomes: list[tuple[asyncio.Future[Any], object]]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(_settle, outcomes)


def _settle(outcomes: list[tuple[asyncio.Future[Any], object]]) -> None:
    for future, outcome in outcomes:
        if not future.done():
            _answer(future, outcome)


def _answer(future: asyncio.Future[Any], outcome: object) -> asyncio.Future[Any]:
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    return future


# -- the store --------------------------------------------------------------------------------------------------------


class SqliteStore(Store):
    """Executions in the SQLite file `path`; None keeps them in memory, for tests.

    `durability` "full" waits for the disk in every commit; "normal" may lose the last commits when the power fails, but
    not when the process does. `busy_timeout` is how many seconds to wait for another process that writes.
    With ``auto_migrate=False`` opening a file with another schema version (or none) is an error.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        durability: Literal["full", "normal"] = "full",
        busy_timeout: float = 10.0,
        auto_migrate: bool = True,
    ) -> None:
        if durability not in ("full", "normal"):
            raise ConfigError(f"durability is 'full' or 'normal', not {durability!r}")
        self.path = None if path is None else Path(path)
        # There are no other processes, and those who share the object tell each other.
        self.wakes = self.alone = path is None
        self.durability = durability
        self.busy_timeout = busy_timeout
        self.auto_migrate = auto_migrate
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._inline: Writer | None = None
        self._writer: Worker | None = None
        self._reader: Worker | None = None
        self._lent: deque[Job] | None = None
        """In memory, while a step has the connection for its transaction: the writes that wait for its end."""
        self.turn: asyncio.Lock
        """Of the transactions of steps, one is open at a time."""
        self.open_transactions: set[SqliteTransaction] = set()
        self.lock: Lock | None = None
        """Of the file, as the writer holds it."""
        self.changes_elsewhere = 0
        """How many rows transactions of steps have changed: they count for the next checkpoint."""

    def __repr__(self) -> str:
        return f"SqliteStore({None if self.path is None else str(self.path)!r})"

    def _now(self) -> float:
        return self.clock.now()

    async def open(self) -> None:
        if self._loop is not None:
            raise StoreError(f"{self!r} is open already")
        if sqlite3.sqlite_version_info < (3, 35):
            raise StoreError(f"SQLite 3.35 or newer is needed, this Python has {sqlite3.sqlite_version}")
        loop = asyncio.get_running_loop()
        self.turn = asyncio.Lock()
        if self.path is None:
            self._inline = Writer(self, self._now)
        else:
            if sys.platform == "win32" and sqlite3.sqlite_version_info < (3, 51, 3):
                log.warning(
                    "SQLite %s can damage a file that several processes write; use 3.51.3 or newer",
                    sqlite3.sqlite_version,
                )
            writer = Worker("durable_flow-sqlite-writer", lambda: Writer(self, self._now))
            reader = Worker("durable_flow-sqlite-reader", lambda: Reader(self, self._now))
            try:
                await writer.start()
                await reader.start()
            except BaseException:
                await reader.stop()
                await writer.stop()
                raise
            self._writer, self._reader = writer, reader
        self._loop, self._process = loop, os.getpid()

    async def close(self) -> None:
        writer, reader, inline = self._writer, self._reader, self._inline
        if writer is not None and os.getpid() != self._process:
            return  # after a fork: the threads are in the other process, and so is the right to close the file
        for transaction in list(self.open_transactions):
            await transaction.rollback()
        self._loop = self._writer = self._reader = self._inline = None
        try:
            if reader is not None:
                await reader.stop()
        finally:
            if writer is not None:
                await writer.stop()
            if inline is not None:
                inline.close()

    def _refuse(self) -> StoreError:
        if self._loop is None:
            return StoreError(f"{self!r} is not open; use it inside 'async with'")
        return StoreError(f"{self!r} was opened by another process; open a store of its own after a fork")

    def _write(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        if self._writer is not None:
            if os.getpid() != self._process:
                raise self._refuse()
            return self._writer.submit(function, arguments)
        if self._inline is None or self._loop is None:
            raise self._refuse()
        if self._lent is not None:
            waiting: asyncio.Future[Any] = Landing(loop=self._loop)
            self._lent.append((waiting, function, arguments))
            return waiting
        return _answer(self._loop.create_future(), self._inline.alone(function, arguments))

    def lend(self) -> Writer:
        """In memory there is one connection: while a transaction has it, writes wait. See `take_back`."""
        if self._inline is None:
            raise self._refuse()
        self._lent = deque()
        return self._inline

    def take_back(self) -> None:
        """The transaction is over: what waited is written."""
        waiting, self._lent = self._lent, None
        for future, function, arguments in waiting or ():
            outcome = self._refuse() if self._inline is None else self._inline.alone(function, arguments)
            _answer(future, outcome)

    def _read(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        if self._reader is not None:
            if os.getpid() != self._process:
                raise self._refuse()
            return self._reader.submit(function, arguments)
        if self._inline is None or self._loop is None:
            raise self._refuse()
        return _answer(
            self._loop.create_future(), _look(self._inline.connection, self._inline.name, function, arguments)
        )

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return self._write(Connection.commit, commit)

    def begin(self, *, hold: float) -> StepTransaction:
        if self._loop is None or (self._writer is not None and os.getpid() != self._process):
            raise self._refuse()
        return SqliteTransaction(self, hold=min(hold, self.busy_timeout / 2))

    async def append(self, message: Message, body: Blob) -> Appended:
        return await self._write(Connection.append, message, body)

    async def claim(
        self, execution_id: str, *, owner: str, ttl: float, statuses: Collection[str]
    ) -> Stored | Busy | None:
        return await self._write(Connection.claim, execution_id, owner, ttl, statuses)

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
        return await self._write(Connection.take, owner, ttl, limit, queues, without, room or {})

    async def next_due(
        self,
        *,
        queues: Collection[str | None] | None = None,
        without: Collection[str] = (),
        room: Mapping[str, int] | None = None,
    ) -> float | None:
        return await self._read(Connection.next_due, queues, without, room or {})

    async def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        return await self._write(Connection.set_queue, queue, setting, value)

    async def queues(self, names: Collection[str | None] | None = None) -> Mapping[str | None, QueueRow]:
        return await self._read(Connection.queues, names)

    async def line(self, key: str) -> Sequence[InLine]:
        return await self._read(Connection.line, key)

    async def mark(self, mark: Mark) -> bool:
        return await self._write(Connection.mark, mark)

    async def schedules(
        self, *, workflows: Collection[str] | None = None, limit: int | None = None
    ) -> tuple[float, Sequence[ScheduleRow]]:
        return await self._read(Connection.schedules, workflows, limit)

    async def renew(self, owner: str, *, ttl: float) -> Mapping[str, int]:
        return await self._write(Connection.renew, owner, ttl)

    async def release(self, execution_id: str, *, owner: str, generation: int) -> None:
        await self._write(Connection.release, execution_id, owner, generation)

    async def remove(self, execution_id: str) -> bool:
        removed, promoted = await self._write(Connection.remove, execution_id)
        for name in promoted:
            self.heard(name)
        return removed

    async def purge_rows(self, *, before: float, statuses: Collection[str], limit: int) -> int:
        return await self._write(Connection.purge, before, statuses, limit)

    async def mail(self, owner: str) -> Sequence[str]:
        return await self._read(Connection.mail, owner)

    async def inbox(self, execution_id: str) -> Sequence[tuple[int, Blob]]:
        return await self._read(Connection.inbox, execution_id)

    async def row(self, execution_id: str) -> Row | None:
        return await self._read(Connection.row, execution_id)

    async def fetch(self, execution_id: str) -> Stored | None:
        return await self._read(Connection.fetch, execution_id)

    async def read(
        self, execution_id: str, *, after: int = 0, limit: int | None = None, seqs: Sequence[int] | None = None
    ) -> Sequence[tuple[int, Blob]]:
        return await self._read(Connection.read, execution_id, after, limit, seqs)

    async def search(self, filter: Filter, *, limit: int, cursor: str | None) -> tuple[Sequence[Row], str | None]:
        position = None if cursor is None else position_of(cursor)
        return await self._read(Connection.search, filter, limit, position)

    async def definition(self, definition_hash: str) -> Blob | None:
        return await self._read(Connection.definition, definition_hash)
