"""A service that shares a transaction with its step, in processes that die at every store operation and statement: the
row it writes is there once, whatever happens."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import durable_flow as df
from durable_flow.engine import Engine
from durable_flow.stores.base import Commit, Committed
from durable_flow.stores.sqlite import Apartment
from durable_flow.testing import CANCELS, ERRORS, KILLS, NETWORK, Explorer, Mode, Scenario, Scripted
from durable_flow.testing.clock import FakeClock

WORKFLOW = df.load("""
id: pay
name: Pay
steps:
  - id: first
    type: call
    service: Bank
    method: pay
    output: a
    retry: &retry {max_attempts: 3, initial_interval: 0.1}
    next: both
  - id: both
    type: parallel
    next: last
    branches:
      - {id: left, type: call, service: Bank, method: pay, output: l, retry: *retry}
      - {id: right, type: call, service: Bank, method: pay, output: r, retry: *retry}
      - {id: other, type: assign, set: {o: 1}}
  - {id: last, type: call, service: Bank, method: pay, output: b, retry: *retry, next: done}
  - {id: done, type: end, result: [$a, $l, $r, $b]}
""")
STEPS = ["both/left", "both/right", "first", "last"]


class Bank(Scripted):
    """A service that waits for the store only, and so needs no real time of its own."""

    def __init__(self, clock: FakeClock, pay: Callable[..., Awaitable[str]]) -> None:
        super().__init__(clock, pay=None)
        self.pay = pay

    def __getitem__(self, name: str) -> Callable[..., Awaitable[str]]:
        return self.pay


class Books:
    """A table `books` that the service writes to: one row for each time it was paid. Each case has a token."""

    def __init__(self, insert: str, count: str, look: Callable[[str], Awaitable[list[str]]]) -> None:
        self.insert = insert
        self.count = count
        self.look = look
        self.token = ""
        self.clock = FakeClock()

    def services(self, clock: FakeClock) -> Mapping[str, Any]:
        self.token = secrets.token_hex(8)
        self.clock = clock
        return {"Bank": Bank(clock, self.pay)}

    async def pay(self, context: df.StepContext) -> str:
        path = context.path
        async with context.transaction() as tx:
            await tx.execute(self.insert, self.token, path)
        async with context.transaction() as tx:
            assert await tx.fetchval(self.count, self.token, path) == 1
        return path

    async def check(self, runtime: df.Runtime, execution_id: str) -> None:
        """Everything is in the books once."""
        with self.clock.held():  # looking takes real time
            found = sorted(await self.look(self.token))
        if found != STEPS:
            raise AssertionError(f"the books have {found}")

    def scenario(self) -> Scenario:
        return Scenario(name="pay", workflow=WORKFLOW, services=self.services, epilogue=self.check)


def in_file(folder: Path) -> tuple[Books, Callable[[], df.Store]]:
    path = folder / "flows.db"

    async def look(token: str) -> list[str]:
        with closing(sqlite3.connect(path)) as database:
            return [step for (step,) in database.execute("SELECT path FROM books WHERE token = ?", (token,))]

    books = Books("INSERT INTO books VALUES (?, ?)", "SELECT count(*) FROM books WHERE token = ? AND path = ?", look)
    return books, lambda: df.open_store(f"sqlite:///{path}")


def in_postgresql(url: str, schema: str) -> tuple[Books, Callable[[], df.Store]]:
    import asyncpg

    async def look(token: str) -> list[str]:
        connection = await asyncpg.connect(url)
        try:
            rows = await connection.fetch(f'SELECT path FROM "{schema}".books WHERE token = $1', token)
        finally:
            await connection.close()
        return [row["path"] for row in rows]

    books = Books(
        f'INSERT INTO "{schema}".books VALUES ($1, $2)',
        f'SELECT count(*) FROM "{schema}".books WHERE token = $1 AND path = $2',
        look,
    )
    return books, lambda: df.open_store(url, schema=schema)


@pytest.fixture(params=["sqlite", "postgresql"])
def explorer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Explorer]:
    if request.param == "sqlite":
        books, make = in_file(tmp_path)

        async def prepare() -> None:
            async with make():
                with closing(sqlite3.connect(tmp_path / "flows.db")) as database:
                    database.execute("CREATE TABLE books (token TEXT, path TEXT)")
    else:
        import asyncpg

        url = request.getfixturevalue("postgres_url")
        schema = f"test_{secrets.token_hex(6)}"
        books, make = in_postgresql(url, schema)

        async def prepare() -> None:
            async with make():
                connection = await asyncpg.connect(url)
                await connection.execute(f'CREATE TABLE "{schema}".books (token text, path text)')
                await connection.close()

        async def drop() -> None:
            connection = await asyncpg.connect(url)
            await connection.execute(f'SET client_min_messages = error; DROP SCHEMA "{schema}" CASCADE')
            await connection.close()

    asyncio.run(prepare())
    with Explorer(books.scenario(), make=make, name=request.param) as made:
        yield made
    if request.param == "postgresql":
        asyncio.run(drop())


@pytest.mark.parametrize("modes", [KILLS, ERRORS, CANCELS, NETWORK], ids=["kills", "errors", "cancels", "network"])
def test_what_a_service_writes_is_there_once(explorer: Explorer, modes: tuple[Mode, ...]) -> None:
    within = {point.name for point in explorer.points if point.name.startswith("tx ")}
    assert within == {"tx execute", "tx fetch", "tx ready", "tx commit"}
    report = explorer.each(modes, most=1)
    print(report)
    report.raise_for_bad()


async def commit_without_it(self: Engine, transaction: df.StepTransaction, commit: Commit) -> Committed:
    """A commit of a transaction whose answer was lost is repeated, as if it were any other."""
    try:
        return await transaction.commit(commit)
    except df.StoreUnavailable:
        return await self._settle_unknown(commit)


def end_by_committing(self: Apartment, connection: Any) -> None:
    """What a transaction leaves behind is written, as if its service had meant it."""
    if connection.database.in_transaction:
        connection.database.execute("COMMIT")
    end(self, connection)


end = Apartment.end


@pytest.mark.parametrize("explorer", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "plant",
    [
        mock.patch.object(Engine, "_commit_through", commit_without_it),
        mock.patch.object(Apartment, "end", end_by_committing),
    ],
    ids=["repeated without its rows", "not rolled back"],
)
def test_a_planted_mistake_is_found(explorer: Explorer, plant: Any) -> None:
    with plant:
        assert explorer.each(ERRORS, most=1).bad
