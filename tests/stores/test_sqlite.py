"""What is particular to SQLite: the file, its log, its locks and threads, and which index a search uses."""

# ruff: noqa: ASYNC240 - these tests look at the file, and nothing else waits for the loop meanwhile

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable_flow.errors import ConfigError, LeaseLost, SchemaTooNew, StoreError, StoreUnavailable
from durable_flow.stores import sqlite
from durable_flow.stores.base import NEVER, Filter, QueueRow, Slot
from durable_flow.stores.sqlite import Connection, SqliteStore
from tests.stores.build import (
    ANY,
    START,
    SettableClock,
    advance,
    append,
    create,
    creation,
    find,
    following,
    idle,
    message,
    opening,
    row_of,
    stored,
    vote,
)

TABLES = ("executions", *sqlite.PARTS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flow.db"


@pytest.fixture
async def store(path: Path, clock: SettableClock) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, durability="normal", busy_timeout=0.05)
    store.clock = clock
    async with store:
        yield store


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def look(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(sql).fetchall()


def on_writer(store: SqliteStore, sql: str) -> asyncio.Future[list[Any]]:
    return store._write(lambda connection: connection.database.execute(sql).fetchall())


# -- the file ---------------------------------------------------------------------------------------------------------


async def test_only_its_owner_can_read_a_new_file(store: SqliteStore, path: Path) -> None:
    await create(store)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


async def test_a_file_keeps_the_permissions_it_has(path: Path) -> None:
    path.touch(0o640)
    path.chmod(0o640)
    async with SqliteStore(path) as store:
        await create(store)
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o640}


async def test_what_was_written_is_there_after_opening_again(path: Path) -> None:
    async with SqliteStore(path) as store:
        await create(store, sets=[("", "x", 1)])
        before = await stored(store)
    async with SqliteStore(path) as store:
        assert await stored(store) == before


async def test_a_store_can_be_opened_again(path: Path) -> None:
    store = SqliteStore(path)
    for _ in range(3):
        async with store:
            await find(store)


async def test_opening_twice_is_an_error(store: SqliteStore) -> None:
    with pytest.raises(StoreError, match="open already"):
        await store.open()


async def test_commits_wait_for_the_disk_unless_told_otherwise(path: Path) -> None:
    for durability, number in (("full", 2), ("normal", 1)):
        async with SqliteStore(path, durability=durability) as store:  # type: ignore[arg-type]
            assert await on_writer(store, "PRAGMA synchronous") == [(number,)]
            assert await on_writer(store, "PRAGMA fullfsync") == [(number - 1,)]
            own = store.begin(hold=5.0)  # of a service that shares a transaction with its step
            assert [tuple(row) for row in await own.fetch("PRAGMA synchronous", ())] == [(number,)]
            assert [tuple(row) for row in await own.fetch("PRAGMA fullfsync", ())] == [(number - 1,)]
            await own.rollback()
            assert await on_writer(store, "PRAGMA journal_mode") == [("wal",)]
            assert await on_writer(store, "PRAGMA wal_autocheckpoint") == [(0,)]


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no directory .*/nowhere"):
        await SqliteStore(tmp_path / "nowhere" / "flow.db").open()
    assert list(tmp_path.iterdir()) == []


async def test_a_directory_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        await SqliteStore(tmp_path).open()


async def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    path.write_bytes(b"all work and no play " * 1000)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="no SQLite database"):
        await SqliteStore(path).open()
    assert path.read_bytes() == before


async def test_the_database_of_somebody_else_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE customers (id)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another application"):
        await SqliteStore(path).open()
    assert path.read_bytes() == before


async def test_a_file_that_cannot_be_written_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteStore(path):
        pass
    connect = sqlite._connect

    def read_only(*arguments: Any) -> sqlite3.Connection:
        database = connect(*arguments)
        database.execute("PRAGMA query_only = ON")
        return database

    monkeypatch.setattr(sqlite, "_connect", read_only)
    with pytest.raises(StoreError, match="cannot be written") as caught:
        await SqliteStore(path).open()
    assert not isinstance(caught.value, StoreUnavailable)


# -- the schema -------------------------------------------------------------------------------------------------------


async def test_the_schema_has_a_version(store: SqliteStore, path: Path) -> None:
    assert look(path, "PRAGMA user_version") == [(len(sqlite.MIGRATIONS),)]
    assert look(path, "PRAGMA application_id") == [(sqlite.APPLICATION_ID,)]


async def test_a_newer_schema_is_refused_before_anything_is_written(path: Path) -> None:
    async with SqliteStore(path):
        pass
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
        database.execute("PRAGMA journal_mode = DELETE")
    before = path.read_bytes()
    with pytest.raises(SchemaTooNew) as caught:
        await SqliteStore(path).open()
    assert (caught.value.found, caught.value.supported) == (99, len(sqlite.MIGRATIONS))
    assert path.read_bytes() == before


async def test_without_auto_migrate_no_file_is_made(path: Path) -> None:
    with pytest.raises(StoreError, match="auto_migrate=True"):
        await SqliteStore(path, auto_migrate=False).open()
    assert list(path.parent.iterdir()) == []


async def test_without_auto_migrate_an_old_schema_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteStore(path):
        pass
    now = len(sqlite.MIGRATIONS)
    monkeypatch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, ("CREATE TABLE later (x)",)))
    with pytest.raises(StoreError, match=rf"schema version {now}, .* needs {now + 1}: run `durable-flow migrate`"):
        await SqliteStore(path, auto_migrate=False).open()
    assert look(path, "PRAGMA user_version") == [(now,)]


async def test_without_auto_migrate_a_current_schema_opens(path: Path) -> None:
    async with SqliteStore(path):
        pass
    async with SqliteStore(path, auto_migrate=False) as store:
        await create(store)


async def test_a_migration_keeps_what_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteStore(path) as store:
        await create(store)
        before = await stored(store)
    monkeypatch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, ("CREATE TABLE later (x)",)))
    async with SqliteStore(path) as store:
        assert await stored(store) == before
    assert look(path, "PRAGMA user_version") == [(len(sqlite.MIGRATIONS),)]


HOLDS = sqlite.MIGRATIONS[1]


async def test_a_file_of_an_older_version_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(sqlite, "MIGRATIONS", sqlite.MIGRATIONS[:1])
        async with SqliteStore(path) as store:
            # What it wrote then is what is written now; what it looked at had no queues that are held.
            await idle(store, status="pending", new={"queue": "mail"})
            await create(store, "driven", new={"queue": "mail"})
            await create(store, "child", new={"queue": "mail", "parent_id": "driven"})
        with closing(sqlite3.connect(path)) as database, database:
            for statement in HOLDS:
                database.execute(statement)
            database.execute("INSERT INTO holds VALUES ('.mail', '{}')")
            database.execute("PRAGMA user_version = 2")
    async with SqliteStore(path) as store:
        assert (await store.queues())["mail"] == QueueRow(hold="{}", pending=1, under_way=1)
        assert await store.take("me", ttl=30, limit=1) == []
        await store.set_queue("mail", "hold", None)
        assert len(await store.take("me", ttl=30, limit=1)) == 1


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteStore(path):
        pass
    broken = ("CREATE TABLE later (x)", "CREATE TABLE executions (x)")
    monkeypatch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, broken))
    with pytest.raises(StoreError, match="already exists"):
        await SqliteStore(path).open()
    assert look(path, "PRAGMA user_version") == [(len(sqlite.MIGRATIONS) - 1,)]
    assert look(path, "SELECT name FROM sqlite_schema WHERE name = 'later'") == []


async def test_many_can_open_a_new_file_at_once(path: Path) -> None:
    stores = [SqliteStore(path) for _ in range(8)]
    await asyncio.gather(*[store.open() for store in stores])
    await asyncio.gather(*[create(store, f"e{i}") for i, store in enumerate(stores)])
    assert len(await find(stores[0])) == 8
    await asyncio.gather(*[store.close() for store in stores])


# -- threads ----------------------------------------------------------------------------------------------------------


async def test_in_memory_there_is_no_thread_and_no_waiting() -> None:
    before = threading.active_count()
    async with SqliteStore(None) as store:
        assert store.commit(creation()).done()
        assert threading.active_count() == before


async def test_a_store_that_could_not_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ConfigError):
        await SqliteStore(tmp_path).open()
    assert threading.active_count() == before


async def test_an_opening_that_is_cancelled_leaves_no_thread(path: Path) -> None:
    before = threading.active_count()
    for turns in range(6):
        opening = asyncio.create_task(SqliteStore(path).open())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    assert threading.active_count() == before


async def test_a_forked_process_does_not_use_the_file_of_its_parent(store: SqliteStore) -> None:
    row = await create(store)
    store._process = -1
    try:
        with pytest.raises(StoreError, match="after a fork"):
            store.commit(following(row))
        with pytest.raises(StoreError, match="after a fork"):
            await store.row("e")
        await store.close()
    finally:
        store._process = os.getpid()
    await store.commit(following(row))


async def test_a_cancelled_caller_leaves_no_transaction_open(store: SqliteStore, path: Path) -> None:
    await create(store)
    for i in range(50):
        call = asyncio.create_task(append(store, f"k{i}", kind="note"))
        for _ in range(i % 3):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await advance(store)
    with closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")


async def test_readers_see_one_moment(store: SqliteStore) -> None:
    row = await create(store, sets=[("", "x", 1)])
    stop = False

    async def write() -> None:
        version = row.version
        while not stop:
            version += 1
            await store.commit(
                following(
                    row, version=version - 1, seq=version, entries=[(version, str(version))], sets=[("", "x", version)]
                )
            )

    writing = asyncio.create_task(write())
    for _ in range(200):
        found = await stored(store)
        assert found.sets == [("", "x", found.row.version)]
        assert found.row.seq == found.row.version
        assert list(found.entries) == [found.row.seq]
    stop = True
    await writing


# -- failures ---------------------------------------------------------------------------------------------------------


async def test_a_database_that_is_locked_is_unavailable(store: SqliteStore, path: Path) -> None:
    row = await create(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.commit(following(row))
        with pytest.raises(StoreUnavailable):
            await store.claim("e", owner="you", ttl=1, statuses=ANY)
        assert await row_of(store) == row
        other.execute("ROLLBACK")
    await store.commit(following(row))


async def test_a_store_that_another_process_holds_is_unavailable(store: SqliteStore, path: Path) -> None:
    row = await create(store)
    held = sqlite.Lock(Path(f"{path}-lock"), timeout=1, mode=0o600)
    with held:
        outcomes = await asyncio.gather(
            store.commit(following(row)), append(store, kind="note"), return_exceptions=True
        )
    held.close()
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]
    await store.commit(following(row))


async def test_a_full_disk_is_unavailable_and_writing_goes_on_when_there_is_room(store: SqliteStore) -> None:
    row = await create(store)
    before = await stored(store)
    ((limit,),) = await on_writer(store, "PRAGMA max_page_count")
    await on_writer(store, "PRAGMA max_page_count = 1")
    large = following(row, seq=2, entries=[(2, "x" * 100_000)])
    with pytest.raises(StoreUnavailable, match="full"):
        await store.commit(large)
    assert await stored(store) == before
    await on_writer(store, f"PRAGMA max_page_count = {limit}")
    await store.commit(large)


class Failing:
    """A cursor that fails once in a COMMIT, before or after it takes place."""

    def __init__(self, connection: Connection, *, landed: bool) -> None:
        self.connection = connection
        self.cursor = connection.cursor
        self.landed = landed
        connection.cursor = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql == "COMMIT":
            self.connection.cursor = self.cursor
            if self.landed:
                self.cursor.execute(sql)
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return self.cursor.execute(sql, *parameters)


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("landed", [False, True])
async def test_a_commit_that_fails_leaves_its_outcome_to_the_nonce(
    store: SqliteStore, path: Path, *, landed: bool, together: int
) -> None:
    rows = [await create(store, f"e{i}") for i in range(together)]
    connections: list[Connection] = []
    await store._write(connections.append)
    Failing(connections[0], landed=landed)
    attempts = [store.commit(following(row, nonce="mine")) for row in rows]
    for attempt in attempts:
        with pytest.raises(StoreUnavailable, match="disk I/O error"):
            await attempt
    assert {(await row_of(store, row.id)).nonce for row in rows} == {"mine" if landed else "nonce-0"}
    with closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
    for row in rows:
        await advance(store, row.id)


async def test_a_value_that_is_too_large_fails_alone(store: SqliteStore) -> None:
    rows = [await create(store, f"e{i}") for i in range(3)]
    await store._write(lambda connection: connection.database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000))
    commits = [following(row, entries=[(2, "x" * (20_000 if row.id == "e1" else 10))]) for row in rows]
    outcomes = await asyncio.gather(*map(store.commit, commits), return_exceptions=True)
    assert [isinstance(outcome, StoreError) for outcome in outcomes] == [False, True, False]
    assert "too big" in str(outcomes[1])


async def test_a_failure_of_a_reader_is_a_store_error(store: SqliteStore) -> None:
    with pytest.raises(StoreError, match="no such table"):
        await store._read(lambda connection: connection.cursor.execute("SELECT * FROM nowhere"))
    assert await store.row("e") is None


async def test_a_batch_is_one_transaction(store: SqliteStore) -> None:
    begun: list[str] = []
    gate = threading.Event()
    await store._write(lambda connection: connection.database.set_trace_callback(begun.append))
    blocked = store._write(lambda connection: gate.wait(5))
    pending = [store.commit(creation(f"e{i}")) for i in range(100)]
    gate.set()
    await asyncio.gather(blocked, *pending)
    assert begun.count("COMMIT") <= 3  # the one that was traced first, the blocked one, all the others


# -- mail -------------------------------------------------------------------------------------------------------------


async def test_mail_asks_nothing_while_nothing_happens(store: SqliteStore) -> None:
    await create(store, owner="me")
    assert await store.mail("me") == []
    asked: list[str] = []
    await store._read(lambda connection: connection.database.set_trace_callback(asked.append))
    for _ in range(10):
        assert await store.mail("me") == []
    assert [sql for sql in asked if "inbox" in sql] == []


async def test_mail_sees_what_another_process_appended(store: SqliteStore, path: Path, clock: SettableClock) -> None:
    await create(store, owner="me")
    assert await store.mail("me") == []
    async with SqliteStore(path) as other:
        await append(other, kind="note")
    assert await store.mail("me") == ["e"]


# -- several processes ------------------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from durable_flow.errors import LeaseLost
from durable_flow.stores.sqlite import SqliteStore
from tests.stores.build import append, create, following, row_of

async def main(path, name, count):
    async with SqliteStore(path, busy_timeout=60) as store:
        async def one(i):
            row = await create(store, f"{name}-{i}", entries=[(1, "x")])
            for version in range(1, count):
                await store.commit(following(row, version=version, seq=version + 1, entries=[(version + 1, "x" * 500)],
                                             sets=[("", f"v{version}", version + 1)]))
                if version % 10 == 0:
                    await append(store, f"{name}-{i}-{version}", execution_id="shared", kind="note")
                if i == 0:
                    print(version + 1, flush=True)
        await asyncio.gather(*[one(i) for i in range(5)])

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def start_writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(root)])
    }
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)], stdout=subprocess.PIPE, text=True, env=environment
    )


async def agree(store: SqliteStore, name: str) -> int:
    """Checks that the parts of an execution belong together; its version."""
    found = await stored(store, name)
    version = found.row.version
    assert found.row.seq == version
    assert [seq for seq, _ in await store.read(name, limit=version)] == list(range(1, version + 1))
    assert sorted(seq for _, _, seq in found.sets) == list(range(2, version + 1))
    assert sorted(found.entries) == list(range(2, version + 1))
    return version


async def test_processes_share_a_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteStore(path) as store:
        await idle(store, "shared")
        processes = [start_writer(path, f"p{i}", 60) for i in range(2)]
        while any(process.poll() is None for process in processes):
            for name in await find(store):
                if name != "shared":
                    await agree(store, name)
        for process in processes:
            process.communicate()
            assert process.returncode == 0
        for writer, i in itertools.product(range(2), range(5)):
            assert await agree(store, f"p{writer}-{i}") == 60
        assert len(await store.inbox("shared")) == 2 * 5 * 5
    assert look(path, "PRAGMA integrity_check") == [("ok",)]


async def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    async with SqliteStore(path) as store:
        await idle(store, "shared")
    process = start_writer(path, "p", 100_000)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "50\n":
            process.kill()
            break
    acknowledged = [50, *map(int, process.stdout.read().split())][-1]
    process.wait()
    process.stdout.close()
    async with SqliteStore(path) as store:
        assert await agree(store, "p-0") >= acknowledged
        for i in range(1, 5):
            await agree(store, f"p-{i}")
        await advance(store, "p-0")
    assert look(path, "PRAGMA integrity_check") == [("ok",)]


# -- the log ----------------------------------------------------------------------------------------------------------


def commit_marks(log: bytes) -> list[int]:
    """Where in a write-ahead log its transactions end (https://www.sqlite.org/fileformat2.html#walformat)."""
    size = 24 + int.from_bytes(log[8:12], "big")
    frames = range(32, len(log) - size + 1, size)
    return [offset + size for offset in frames if int.from_bytes(log[offset + 4 : offset + 8], "big")]


async def test_a_log_that_is_cut_anywhere_ends_with_its_last_whole_commit(path: Path, tmp_path: Path) -> None:
    async with SqliteStore(path):
        pass
    async with SqliteStore(path) as store:
        row = await create(store, "p")
        for version in range(1, 30):
            extra = {"frames": [(f"f[{version}]", None, "{}")]} if version % 3 else {"dropped": ["f"]}
            await store.commit(
                following(
                    row,
                    version=version,
                    seq=version + 1,
                    status=("running", "halted")[version // 7 % 2],
                    entries=[(version + 1, "x" * (version * 97 % 9000))],
                    sets=[("", f"v{version}", version + 1)],
                    **extra,
                )
            )
        log, database = Path(f"{path}-wal").read_bytes(), path.read_bytes()
    marks = commit_marks(log)
    assert len(marks) == 30
    rng = random.Random(18)
    cuts = {len(log), *marks, *(mark - 1 for mark in marks), *(rng.randrange(len(log)) for _ in range(400))}
    copy = tmp_path / "copy.db"
    for cut in sorted(cuts):
        copy.write_bytes(database)
        Path(f"{copy}-wal").write_bytes(log[:cut])
        whole = sum(mark <= cut for mark in marks)
        async with SqliteStore(copy, durability="normal") as store:
            if whole:
                assert await agree(store, "p") == whole
            else:
                assert await store.row("p") is None


async def test_the_log_stays_short_under_constant_load(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT_PAGES", 100)
    async with SqliteStore(path, durability="normal") as store:
        rows = [await create(store, f"e{i}") for i in range(5)]
        longest = 0
        for version in range(1, 400):
            await asyncio.gather(
                *[
                    store.commit(following(row, version=version, seq=version + 1, entries=[(version + 1, "x" * 2000)]))
                    for row in rows
                ]
            )
            await store.row("e0")
            longest = max(longest, Path(f"{path}-wal").stat().st_size)
        assert path.stat().st_size > 3_000_000
        assert longest < 1_500_000


async def test_a_long_log_is_cut_once_nobody_reads_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT_PAGES", 100)
    monkeypatch.setattr(sqlite, "TRUNCATE_BYTES", 200_000)
    async with SqliteStore(path, durability="normal") as store:
        row = await create(store)
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM executions").fetchall()
            for version in range(1, 100):
                await store.commit(following(row, version=version, entries=[(version + 1, "x" * 10_000)]))
            assert Path(f"{path}-wal").stat().st_size > 500_000
        for version in range(100, 200):
            await store.commit(following(row, version=version, entries=[(version + 1, "x" * 10_000)]))
        assert Path(f"{path}-wal").stat().st_size < 500_000


async def test_closing_leaves_the_database_alone_in_one_file(path: Path) -> None:
    async with SqliteStore(path) as store:
        await create(store)
    assert not Path(f"{path}-wal").exists()


async def test_a_failing_checkpoint_hurts_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT_PAGES", 10)
    async with SqliteStore(path, durability="normal") as store:
        row = await create(store)
        monkeypatch.setattr(os, "stat", broken_stat)
        with caplog.at_level(logging.WARNING):
            for version in range(1, 50):
                await store.commit(following(row, version=version, entries=[(version + 1, "x" * 10_000)]))
        monkeypatch.undo()
    assert "checkpoint failed" in caplog.text


def broken_stat(*arguments: Any, **options: Any) -> Any:
    raise OSError("no")


@pytest.mark.parametrize("part", ["input", "info", "entries"])
async def test_a_commit_writes_what_changed_and_not_what_is_there(store: SqliteStore, path: Path, part: str) -> None:
    large = "x" * 500_000
    row = await create(
        store,
        new={"input": large} if part == "input" else {},
        info=large if part == "info" else "{}",
        entries=[(1, large)] if part == "entries" else [],
        sets=[("", "x", 1)],
    )
    log = Path(f"{path}-wal")
    before = log.stat().st_size
    for version in range(1, 21):
        await store.commit(following(row, version=version, seq=version + 1, entries=[(version + 1, "small")]))
    assert log.stat().st_size - before < 20 * 10 * 4096


# -- deleting ---------------------------------------------------------------------------------------------------------


async def everything(store: SqliteStore, name: str, **changes: Any) -> None:
    await idle(
        store,
        name,
        new={"labels": {"a": "b", "c": "d"}, "parent_id": "p"},
        frames=[("f", 1, "{}")],
        sets=[("", "x", 1)],
        opened=[opening(f"{name}/w", 3)],
        slot=Slot(key="w:k", limit=10),
        **changes,
    )
    await store.append(message("v", execution_id=name, wait_id=f"{name}/w", takes=1), "{}")
    await store.append(message("n", execution_id=name, kind="note"), "{}")
    await advance(store, name, status="completed", finished_at=START)


async def test_nothing_is_left_of_what_was_removed_or_purged(store: SqliteStore, path: Path) -> None:
    for i in range(5):
        await everything(store, f"e{i}")
    for table in TABLES:
        assert look(path, f"SELECT count(*) FROM {table}") > [(0,)], table
    for i in range(2):
        await store.remove(f"e{i}")
    await store.purge_rows(before=START + 1, statuses=["completed"], limit=100)
    for table in TABLES:
        assert look(path, f"SELECT count(*) FROM {table}") == [(0,)], table


async def test_no_table_is_forgotten_when_deleting(store: SqliteStore, path: Path) -> None:
    names = {name for (name,) in look(path, "SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert names == {*TABLES, "definitions", "queues", "begins", "schedules", "sqlite_sequence"}


async def test_votes_go_with_their_wait(store: SqliteStore, path: Path) -> None:
    await create(store, opened=[opening(needed=3)])
    await vote(store, "a")
    await advance(store, closed=["wait"])
    assert look(path, "SELECT * FROM answers") == []


async def test_what_is_fenced_after_a_removal_in_another_process(store: SqliteStore, path: Path) -> None:
    row = await idle(store)
    async with SqliteStore(path) as other:
        await other.remove("e")
        await idle(other, "f")
        before = await stored(other, "f")
    with pytest.raises(LeaseLost):
        await store.commit(following(row, entries=[(2, "two")]))
    assert await stored(store, "f") == before


# -- which index ------------------------------------------------------------------------------------------------------


def plan(store_plan: list[Any]) -> str:
    return "; ".join(str(line[-1]) for line in store_plan)


CONDITIONS: list[dict[str, Any]] = [
    dict(itertools.chain.from_iterable(part.items() for part in parts))
    for parts in itertools.product(
        [{}, {"workflow_id": "w"}],
        [{}, {"statuses": ["running"]}, {"statuses": ["halted", "running"]}],
        [{}, {"labels": {"a": "x"}}, {"labels": {"a": "x", "b": "y"}}],
        [{}, {"parent_id": "p"}],
        [{}, {"created_after": 1.0}, {"created_before": 9.0}, {"created_after": 1.0, "created_before": 9.0}],
    )
]


@pytest.mark.parametrize("position", [None, (START, "e")], ids=["first page", "next page"])
async def test_every_search_reads_a_range_of_an_index(
    store: SqliteStore, path: Path, position: tuple[float, str] | None
) -> None:
    with closing(sqlite3.connect(path)) as database:
        for conditions in CONDITIONS:
            filter = Filter(**conditions)
            for sql, values in sqlite.searches(filter, list(filter.labels.items()), position):
                steps = database.execute(f"EXPLAIN QUERY PLAN {sql}", (*values, 10)).fetchall()
                described = plan(steps)
                assert "SCAN" not in described, (conditions, described)
                assert "TEMP B-TREE" not in described, (conditions, described)
                first = str(steps[0][-1])
                assert first.startswith("SEARCH s USING"), (conditions, described)
                bounded = position is not None or {"created_after", "created_before"} & conditions.keys()
                assert ("created_at" in first) == bool(bounded), (conditions, described)


@pytest.mark.parametrize(
    "sql",
    [
        *(f"{sqlite.ROW} {condition}" for condition in ("e.id = ?", "e.n = ?")),
        sqlite.STEP, sqlite.TURN, sqlite.RENEW, sqlite.RELEASE, sqlite.CLAIM, sqlite.GIVE_BACK, sqlite.POINTED,
        sqlite.ENDED, sqlite.INBOX, sqlite.LEASE, sqlite.CONSUME, sqlite.CLOSE_WAIT, sqlite.FORGET_ANSWERS,
        sqlite.WAIT, sqlite.TAKE, sqlite.ANSWERED,
        sqlite.DROP_FRAMES, sqlite.DROP_VARIABLES, sqlite.RELABEL,
        *(f"DELETE FROM {table} WHERE n = ?" for table in sqlite.PARTS),
    ],
)  # fmt: skip
async def test_no_statement_reads_a_whole_table(store: SqliteStore, path: Path, sql: str) -> None:
    count = sql.count("?") if ":n" not in sql else 0
    parameters: Any = {"n": 1} if ":n" in sql else (1,) * count
    with closing(sqlite3.connect(path)) as database:
        described = plan(database.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall())
    assert "SCAN" not in described
    assert "ORDER BY" not in described


def effort(store: SqliteStore, work: Callable[[Connection], object]) -> asyncio.Future[int]:
    """How many instructions SQLite executes in what is done with the connection that writes."""

    def counted(connection: Connection) -> int:
        steps = itertools.count()
        connection.database.set_progress_handler(lambda: next(steps) < 0, 1)
        try:
            work(connection)
        finally:
            connection.database.set_progress_handler(None, 1)
        return next(steps)

    return store._write(counted)


def takes(connection: Connection) -> None:
    assert connection.take("me", 30, 10, None, (), {}) == []


@pytest.mark.parametrize("limits", [None, "[5,null,1.0]"])
async def test_what_begins_later_is_not_read_by_who_looks_for_work(store: SqliteStore, limits: str | None) -> None:
    if limits is not None:
        await store.set_queue("mail", "declared", limits)
    efforts = []
    for number in range(200):
        queue = ("mail", None, "other")[number % 3]
        await idle(store, f"e{number}", status="pending", wake_at=START + 1000, new={"queue": queue})
        if number in (9, 199):
            efforts.append(await effort(store, takes))
            efforts.append(await effort(store, lambda connection: connection.next_due(None, (), {})))
    assert efforts[:2] == efforts[2:]


async def test_who_waits_for_a_key_is_not_read_by_who_comes_or_goes(store: SqliteStore) -> None:
    efforts = []
    for number in range(200):
        new = await idle(store, f"e{number}", status="pending", slot=Slot(key="k", waits=True))
        if number in (20, 199):
            slot = Slot(key="k", waits=True)
            more = creation(f"more{number}", status="pending", lease_ttl=None, slot=slot)
            efforts.append(await effort(store, lambda connection, more=more: connection.commit(more)))  # type: ignore[misc]
            efforts.append(await effort(store, lambda connection, name=f"e{number // 100}": connection.remove(name)))  # type: ignore[misc]
    assert new.wake_at == NEVER
    assert efforts[2] < efforts[0] * 1.1
    assert efforts[3] < efforts[1] * 1.1


async def test_the_rarest_label_leads(store: SqliteStore) -> None:
    for i in range(10):
        await create(store, f"e{i}", new={"labels": {"common": "x", **({"rare": "y"} if i == 3 else {})}})
    labels = {"common": "x", "rare": "y"}
    found = await store._read(lambda connection: connection._rarest(labels))
    assert found == [("rare", "y"), ("common", "x")]
    assert await find(store, labels=labels) == ["e3"]


async def test_what_has_to_wait_in_a_queue_with_limits_costs_a_taker_nothing() -> None:
    async def steps(backlog: int) -> int:
        """How much SQLite does for a look at queues in which so much has to wait."""
        async with SqliteStore(None) as store:
            await store.set_queue("full", "declared", "[2,null,1.0]")
            await store.set_queue("slow", "declared", "[null,2,60.0]")
            for number in range(backlog):
                await idle(store, f"e{number}", status="pending", new={"queue": ("full", "slow")[number % 2]})
            assert len(await store.take("me", ttl=30, limit=100)) == 4
            assert store._inline is not None
            count = 0

            def step() -> int:
                nonlocal count
                count += 1
                return 0

            store._inline.connection.database.set_progress_handler(step, 10)
            assert await store.take("you", ttl=30, limit=100) == []
            assert await store.next_due() is not None
            return count

    assert await steps(1000) < 2 * await steps(20)
