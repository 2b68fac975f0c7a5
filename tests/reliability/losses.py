"""What was acknowledged is there after a failure.

A log that is cut (SQLite's write-ahead log, Redis' append-only file) is what a loss of power leaves: whatever is in it
must be whole commits, and all of those that were acknowledged when it was that long. A server that is killed under load
and started again must have everything that it had acknowledged.
"""

# ruff: noqa: ASYNC240 - nobody else waits while a log is read or copied

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import durable_flow as df
from durable_flow.stores.base import Store
from tests.reliability.table import Case, Table
from tests.servers.binaries import NotInstalled
from tests.servers.postgres import PostgresServer
from tests.servers.process import Server
from tests.servers.provide import Unreachable
from tests.servers.redis import RedisServer
from tests.stores.build import create, following, row_of, stored
from tests.stores.test_sqlite import commit_marks

FIGURES: list[str] = []
SEED = 18


async def agree(store: Store, name: str) -> int:
    """The version of an execution, whose parts must belong together; 0 if it is not there."""
    if await store.row(name) is None:
        assert not await store.read(name)
        return 0
    found = await stored(store, name)
    version = found.row.version
    assert found.row.seq == version
    assert [seq for seq, _ in await store.read(name)] == list(range(1, version + 1)), "entries are missing"
    assert sorted(seq for _, _, seq in found.sets) == list(range(2, version + 1)), "variables are missing"
    return version


def step(row: Any, version: int, size: int) -> Any:
    """The commit after `version`: one entry and one variable."""
    return following(
        row,
        version=version,
        seq=version + 1,
        nonce=f"nonce-{version}",
        status=("running", "halted")[version // 7 % 2],
        entries=[(version + 1, '"' + "x" * size + '"')],
        sets=[("", f"v{version}", version + 1)],
    )


# -- a log that is cut ------------------------------------------------------------------------------------------------


def cuts_of(marks: Iterable[int], size: int, count: int) -> list[int]:
    """Every mark, one byte before each, and so many bytes chosen by chance."""
    rng = random.Random(SEED)
    marks = list(marks)
    return sorted({size, *marks, *(mark - 1 for mark in marks), *(rng.randrange(size) for _ in range(count))})


async def cut_sqlite(folder: Path, count: int) -> int:
    path, copy = folder / "flow.db", folder / "copy.db"
    async with df.open_store(f"sqlite:///{path}"):
        pass
    async with df.open_store(f"sqlite:///{path}") as store:
        row = await create(store, "e")
        for version in range(1, 30):
            await store.commit(step(row, version, version * 97 % 9000))
        log, database = Path(f"{path}-wal").read_bytes(), path.read_bytes()
    marks = commit_marks(log)
    assert len(marks) == 30
    cuts = cuts_of(marks, len(log), count)
    for cut in cuts:
        copy.write_bytes(database)
        Path(f"{copy}-wal").write_bytes(log[:cut])
        async with df.open_store(f"sqlite:///{copy}", durability="normal") as store:
            assert await agree(store, "e") == sum(mark <= cut for mark in marks), f"cut at byte {cut}"
    FIGURES.append(f"write-ahead log of SQLite cut at {len(cuts)} places: 0 wrong")
    return len(cuts)


async def cut_redis(server: RedisServer, count: int, marked: bool) -> int:
    """The file may end anywhere: then the version is one that was committed, and not older than what was acknowledged
    when it was that long."""
    names = [f"e{i}" for i in range(3)]
    marks: list[tuple[int, dict[str, int]]] = []
    acknowledged = dict.fromkeys(names, 0)
    file = server.folder / "appendonlydir"

    def written() -> Path:
        return next(iter(sorted(file.glob("*.incr.aof"))))

    async with df.open_store(server.url) as store:
        rows = {name: await create(store, name) for name in names}
        for version in range(1, 15):
            await asyncio.gather(*(store.commit(step(rows[name], version, version * 97 % 3000)) for name in names))
            acknowledged = dict.fromkeys(names, version + 1)
            marks.append((written().stat().st_size, dict(acknowledged)))
    await asyncio.to_thread(server.kill)
    log = written().read_bytes()
    cuts = cuts_of([size for size, _ in marks] if marked else [], len(log), count)
    for cut in cuts:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(file, Path(folder, file.name))
            Path(folder, file.name, written().name).write_bytes(log[:cut])
            other = await asyncio.to_thread(
                partial(RedisServer.start, Path(folder), appendonly=True, aof_load_truncated=True)
            )
            try:
                async with df.open_store(other.url) as store:
                    for name in names:
                        version = await agree(store, name)
                        least = max((told[name] for size, told in marks if size <= cut), default=0)
                        assert version >= least, f"cut at byte {cut}: version {version} of {name}, not {least}"
            finally:
                await asyncio.to_thread(other.close)
    FIGURES.append(f"append-only file of Redis cut at {len(cuts)} places: 0 wrong")
    return len(cuts)


# -- a server that is killed ------------------------------------------------------------------------------------------


class Load:
    """Many executions that are committed to, each as fast as it goes, and what was acknowledged of them."""

    def __init__(self, store: Store, names: Iterable[str]) -> None:
        self.store = store
        self.acknowledged = dict.fromkeys(names, 0)
        self.total = 0
        self.enough = asyncio.Event()

    async def drive(self, name: str, *, goal: int) -> None:
        row = await row_of(self.store, name)
        for version in range(row.version, 100_000):
            await self.store.commit(step(row, version, version * 97 % 3000))
            self.acknowledged[name] = version + 1
            self.total += 1
            if self.total >= goal:
                self.enough.set()


async def killed(server: Server, *, rounds: int, strict: bool, told: str) -> int:
    """Kills the server again and again while executions are committed to; how many acknowledged commits were kept."""
    rng = random.Random(SEED)
    names = [f"e{i}" for i in range(8)]
    checked = lost = ahead = 0
    async with df.open_store(server.url, timeout=5.0) as store:
        for name in names:
            await create(store, name)
    for _ in range(rounds):
        async with df.open_store(server.url, timeout=5.0) as store:
            load = Load(store, names)
            before = {name: await agree(store, name) for name in names}
            goal = rng.randrange(30, 200)
            tasks = [asyncio.ensure_future(load.drive(name, goal=goal)) for name in names]
            await load.enough.wait()
            await asyncio.to_thread(server.kill)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(outcome, df.StoreUnavailable) for outcome in outcomes), outcomes
        await asyncio.to_thread(server.restart)
        async with df.open_store(server.url, timeout=5.0) as store:
            for name in names:
                version, sure = await agree(store, name), load.acknowledged[name] or before[name]
                checked += max(0, sure - before[name])
                lost += max(0, sure - version)
                ahead += max(0, version - sure)
                assert version <= sure + 1, f"{name} has version {version}; one after {sure} was under way at most"
    kept = "0 lost" if not lost else f"{lost} lost"
    FIGURES.append(f"{told}: killed {rounds} times, {checked:,} acknowledged commits, {kept}; {ahead} landed unheard")
    if strict:
        assert not lost, f"{lost} of {checked} acknowledged commits were lost"
    return checked


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


async def everysec(server: Server, rounds: int) -> int:
    """What is lost when the machine fails cannot be shown by killing the server: that a second of work may be is said
    when the store is opened."""
    heard, log = Heard(), logging.getLogger("durable_flow.stores.redis")
    was = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    log.addHandler(heard)
    try:
        async with df.open_store(server.url):
            pass
    finally:
        log.removeHandler(heard)
        logging.disable(was)
    assert any("everysec" in told for told in heard.told), "opening the store says nothing about appendfsync everysec"
    return await killed(
        server, rounds=rounds, strict=False, told="Redis, appendfsync everysec (a second may be lost, and it says so)"
    )


# -- the table --------------------------------------------------------------------------------------------------------


def in_a_folder(check: Callable[[Path], Any]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return int(asyncio.run(check(Path(folder))))


def with_server(start: Callable[[], Any], check: Callable[[Any], Any]) -> int:
    try:
        server = start()
    except NotInstalled as missing:
        raise Unreachable(str(missing)) from missing
    with closing(server):
        return int(asyncio.run(check(server)))


def redis(appendfsync: str) -> Callable[[], RedisServer]:
    return lambda: RedisServer.start(appendonly=True, appendfsync=appendfsync)


def postgresql() -> PostgresServer:
    return PostgresServer.start(fsync=True)


def cases(full: bool) -> Iterable[Case]:
    places, kills = (400, 12) if full else (40, 1)
    yield Case("SQLite: the log is cut", partial(in_a_folder, partial(cut_sqlite, count=places)))
    yield Case(
        "Redis: its file is cut",
        partial(with_server, redis("always"), partial(cut_redis, count=60 if full else 5, marked=full)),
    )
    yield Case(
        "PostgreSQL is killed",
        partial(with_server, postgresql, partial(killed, rounds=kills, strict=True, told="PostgreSQL, fsync on")),
    )
    yield Case(
        "Redis is killed",
        partial(
            with_server,
            redis("always"),
            partial(killed, rounds=kills, strict=True, told="Redis, appendfsync always"),
        ),
    )
    yield Case(
        "Redis that syncs once a second says so",
        partial(with_server, redis("everysec"), partial(everysec, rounds=kills)),
    )


TABLE = Table("what was acknowledged is there after a failure", cases, FIGURES)
