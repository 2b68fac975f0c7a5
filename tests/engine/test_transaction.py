"""A service that shares a transaction with its step: what it executes happens exactly once, or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

import durable_flow as df
from durable_flow.stores.base import Commit, Committed, StepTransaction
from durable_flow.stores.postgresql import PostgresStore
from durable_flow.stores.sqlite import SqliteStore
from durable_flow.testing import FakeClock, wait_until
from durable_flow.transaction import AttemptTransaction
from tests.engine.aid import START, flow

Work = Callable[[df.StepContext], Awaitable[Any]]

ROOT = Path(__file__).parents[2]
PAY = flow("- {id: pay, type: call, service: Bank, method: pay, output: result}")


class Place:
    """A database with a store and a table `notes` in it. `many` says that several transactions can be open at once."""

    def __init__(self, url: str, path: Path | None, schema: str = "") -> None:
        self.url = url
        self.path = path
        self.schema = schema
        self.many = bool(schema)
        self.insert = (f'INSERT INTO "{schema}".notes VALUES ($1)') if schema else "INSERT INTO notes VALUES (?)"
        self.count = f'SELECT count(*) FROM "{schema}".notes' if schema else "SELECT count(*) FROM notes"
        self.main: df.Store

    def store(self, **options: Any) -> df.Store:
        if self.schema:
            options = {"schema": self.schema, **options}
        return df.open_store(self.url, **options)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection that has nothing to do with the store."""
        import asyncpg

        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()

    async def look(self, sql: str | None = None) -> list[Any]:
        """The notes as everybody sees them."""
        sql = sql or (f'SELECT note FROM "{self.schema}".notes' if self.schema else "SELECT note FROM notes")
        if self.schema:
            async with self.connection() as connection:
                return sorted(row[0] for row in await connection.fetch(sql))
        if self.path is None:
            rows = self.main._inline.connection.database.execute(sql)  # type: ignore[attr-defined]
            return sorted(row[0] for row in rows)
        with closing(sqlite3.connect(self.path)) as database:
            return sorted(row[0] for row in database.execute(sql))

    async def make(self) -> None:
        if self.schema:
            async with self.connection() as connection:
                await connection.execute(f'CREATE TABLE "{self.schema}".notes (note text)')
        elif self.path is None:
            self.main._inline.connection.database.execute("CREATE TABLE notes (note TEXT)")  # type: ignore[attr-defined]
        else:
            with closing(sqlite3.connect(self.path)) as database:
                database.execute("CREATE TABLE notes (note TEXT)")


class Bank:
    """A service that does in `pay` what a test says, and keeps the contexts it got."""

    def __init__(self) -> None:
        self.work: Work
        self.contexts: list[df.StepContext] = []

    async def pay(self, context: df.StepContext) -> Any:
        self.contexts.append(context)
        return await self.work(context)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "memory":
            return Place("sqlite://:memory:", None)
        case "sqlite":
            return Place(f"sqlite:///{tmp_path}/flows.db", tmp_path / "flows.db")
        case _:
            schema = request.getfixturevalue("postgres_schema")
            return Place(request.getfixturevalue("postgres_url"), None, schema)


@pytest.fixture
async def place(where: Place) -> AsyncIterator[Place]:
    async with where.store() as where.main:
        await where.make()
        yield where


@pytest.fixture
def bank() -> Bank:
    return Bank()


def runtime(place: Place, bank: Bank, *workflows: df.WorkflowDef, **options: Any) -> df.Runtime:
    return df.Runtime(place.main, workflows=workflows or [PAY], services={"Bank": bank}, **options)


async def note(context: df.StepContext, place: Place, text: str) -> None:
    async with context.transaction() as tx:
        await tx.execute(place.insert, text)


# -- what is executed is committed with the step ----------------------------------------------------------------------


async def test_what_is_executed_becomes_visible_with_the_step_and_not_before(place: Place, bank: Bank) -> None:
    async def work(context: df.StepContext) -> Any:
        async with context.transaction() as tx:
            assert await tx.execute(place.insert, "one") == 1
            await tx.executemany(place.insert, [("two",), ["three"]])
        seen = await place.look() if place.url != "sqlite://:memory:" else []
        return {"seen": seen}

    bank.work = work
    async with runtime(place, bank) as process:
        result = await process.runner("flow").run(execution_id="e")
    assert result.completed, result.error
    assert result.output == {"seen": []}
    assert await place.look() == ["one", "three", "two"]
    assert [entry.action for entry in await place.main.entries("e") if entry.path == "pay"] == ["completed"]


async def test_rows_can_be_read_by_name_and_by_number(place: Place, bank: Bank) -> None:
    table = f'"{place.schema}".notes' if place.schema else "notes"

    async def work(context: df.StepContext) -> Any:
        async with context.transaction() as tx:
            await tx.executemany(place.insert, [("a",), ("b",)])
            rows = await tx.fetch(f"SELECT note FROM {table} ORDER BY note")
            row = await tx.fetchrow(f"SELECT note, 7 AS n FROM {table} ORDER BY note")
            nothing = f"SELECT note FROM {table} WHERE note = 'c'"
            return [
                [row["note"] for row in rows],
                [row["note"], row["n"], row[1]],
                await tx.fetchval(place.count),
                await tx.fetchrow(nothing),
                await tx.fetchval(nothing),
                await tx.execute(f"DELETE FROM {table} WHERE note = 'a'"),
            ]

    bank.work = work
    async with runtime(place, bank) as process:
        result = await process.runner("flow").run()
    assert result.output == [["a", "b"], ["a", 7, 7], 2, None, None, 1]


async def test_a_second_block_goes_on_with_the_same_transaction(place: Place, bank: Bank) -> None:
    async def work(context: df.StepContext) -> Any:
        await note(context, place, "one")
        async with context.transaction() as tx:
            count = await tx.fetchval(place.count)
            async with context.transaction() as inner:
                await inner.execute(place.insert, "two")
            return [count, await tx.fetchval(place.count)]

    bank.work = work
    async with runtime(place, bank) as process:
        result = await process.runner("flow").run()
    assert result.output == [1, 2]
    assert await place.look() == ["one", "two"]


async def test_a_transaction_that_nobody_uses_costs_nothing(place: Place, bank: Bank) -> None:
    async def work(context: df.StepContext) -> Any:
        async with context.transaction():
            return "nothing"

    bank.work = work
    async with runtime(place, bank) as process:
        result = await process.runner("flow").run()
    assert result.output == "nothing"


async def test_statements_side_by_side_come_one_after_the_other(place: Place, bank: Bank) -> None:
    async def work(context: df.StepContext) -> Any:
        async with context.transaction() as tx:
            await asyncio.gather(*(tx.execute(place.insert, text) for text in "abc"))

    bank.work = work
    async with runtime(place, bank) as process:
        assert (await process.runner("flow").run()).completed
    assert await place.look() == ["a", "b", "c"]


async def test_plain_services_use_a_blocking_one(place: Place) -> None:
    class Plain:
        def pay(self, context: df.StepContext) -> Any:
            with context.transaction() as tx:
                tx.execute(place.insert, "one")
                tx.executemany(place.insert, [("two",)])
                row = tx.fetchrow(place.count)
                return [tx.fetchval(place.count), row[0], len(tx.fetch(place.count))]

        def fail(self, context: df.StepContext) -> None:
            with context.transaction() as tx:
                tx.execute(place.insert, "three")
                raise ValueError("no")

    steps = flow("""
        - {id: pay, type: call, service: Bank, method: pay, output: result, next: fail}
        - {id: fail, type: call, service: Bank, method: fail, on_error: done}
        - {id: done, type: end, result: $result}
    """)
    async with df.Runtime(place.main, workflows=[steps], services={"Bank": Plain()}) as process:
        result = await process.runner("flow").run()
    assert result.output == [2, 2, 1], result.error
    assert await place.look() == ["one", "two"]


# -- what takes it back -----------------------------------------------------------------------------------------------


async def raises(context: df.StepContext, place: Place) -> Any:
    async with context.transaction() as tx:
        await tx.execute(place.insert, "lost")
        raise ValueError("no")


async def raises_behind(context: df.StepContext, place: Place) -> Any:
    await note(context, place, "lost")
    raise ValueError("no")


async def breaks(context: df.StepContext, place: Place) -> Any:
    async with context.transaction() as tx:
        await tx.execute(place.insert, "lost")
        await tx.execute("SELECT nothing FROM nowhere")


async def hides(context: df.StepContext, place: Place) -> Any:
    """On SQLite a statement that failed changes nothing; on PostgreSQL the transaction is over with it."""
    async with context.transaction() as tx:
        await tx.execute(place.insert, "lost")
        try:
            await tx.execute("SELECT nothing FROM nowhere")
        except Exception:
            if not place.many:
                raise


async def misfits(context: df.StepContext, place: Place) -> Any:
    await note(context, place, "lost")
    return "not a number"


async def cannot_be_stored(context: df.StepContext, place: Place) -> Any:
    await note(context, place, "lost")
    return object()


async def hangs(context: df.StepContext, place: Place) -> Any:
    async with context.transaction() as tx:
        await tx.execute(place.insert, "lost")
        await asyncio.Event().wait()


async def stays_inside(context: df.StepContext, place: Place) -> Any:
    tx = await context.transaction().__aenter__()
    await tx.execute(place.insert, "lost")


async def commits(context: df.StepContext, place: Place) -> Any:
    async with context.transaction() as tx:
        await tx.execute(place.insert, "lost")
        await tx.execute("/* now */ COMMIT")


async def commits_behind_nothing(context: df.StepContext, place: Place) -> Any:
    async with context.transaction() as tx:
        await tx.execute(place.insert, "lost")
        await tx.execute("; COMMIT")


async def commits_behind(context: df.StepContext, place: Place) -> Any:
    async with context.transaction() as tx:
        await tx.execute(place.insert, "lost")
        await tx.execute("SELECT 1; COMMIT")


async def loses_an_inner_block(context: df.StepContext, place: Place) -> Any:
    async with context.transaction() as tx:
        await tx.execute(place.insert, "lost")
        with pytest.raises(ValueError, match="no"):
            await raises(context, place)


async def goes_on_behind_an_inner_block(context: df.StepContext, place: Place) -> Any:
    async with context.transaction() as tx:
        await tx.execute(place.insert, "lost")
        with pytest.raises(ValueError, match="no"):
            await raises(context, place)
        await tx.execute(place.insert, "lost")


async def uses_it_outside(context: df.StepContext, place: Place) -> Any:
    async with context.transaction() as tx:
        await tx.execute(place.insert, "lost")
    await tx.execute(place.insert, "lost")


async def blocks_the_loop(context: df.StepContext, place: Place) -> Any:
    await note(context, place, "lost")
    with context.transaction():
        pass


FAILURES = {
    raises: "ValueError: no",
    raises_behind: "ValueError: no",
    breaks: "",
    hides: "",
    misfits: "OutputError: value cannot be stored: does not fit the output schema",
    cannot_be_stored: "OutputError: value cannot be stored at $: a value of type object",
    hangs: "TimeoutError: timed out after 0.1 s",
    stays_inside: "TransactionError: the service returned inside the block of its transaction",
    commits: "TransactionError: COMMIT: the transaction of a step is ended by the engine",
    commits_behind_nothing: "TransactionError: COMMIT: the transaction of a step is ended by the engine",
    commits_behind: "",
    loses_an_inner_block: "TransactionError: the transaction was rolled back by an exception in an inner block",
    goes_on_behind_an_inner_block: "TransactionError: this transaction was rolled back",
    uses_it_outside: "TransactionError: a transaction can be used inside its 'async with' only",
    blocks_the_loop: "TransactionError: in an async service write 'async with context.transaction()'",
}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
async def test_a_step_that_fails_takes_it_back(place: Place, bank: Bank, failure: Any) -> None:
    bank.work = lambda context: failure(context, place)
    timeout = "timeout: 0.1s" if failure is hangs else ""
    steps = flow(f"""
        - id: pay
          type: call
          service: Bank
          method: pay
          output: {{key: n, schema: {{type: [integer, "null"]}}}}
          {timeout}
    """)
    async with runtime(place, bank, steps) as process:
        result = await process.runner("flow").run(execution_id="e")
        assert result.failed
        assert result.error is not None
        assert result.error.startswith(FAILURES[failure])
        assert await place.look() == []
        bank.work = lambda context: note(context, place, "after")
        assert (await process.runner("flow").retry("e")).completed
    assert await place.look() == ["after"]


async def test_a_step_that_could_not_be_undone_fails_and_takes_it_back(place: Place, bank: Bank) -> None:
    async def work(context: df.StepContext) -> Any:
        await note(context, place, "lost")
        return "x" * 600

    bank.work = work
    pay = flow("""
        - id: pay
          type: call
          service: Bank
          method: pay
          output: o
          compensate: {service: Bank, method: unpay, input: [$o, $o]}
    """)
    limits = df.Limits(value_bytes=1000)
    async with runtime(place, bank, pay, limits=limits) as opened:
        result = await opened.runner("flow").run()
        assert result.error is not None
        assert result.error.startswith("LimitExceeded: value_bytes is limited to 1,000 at compensate.input")
        assert await place.look() == []
        assert (await opened.runner("flow").result(result.execution_id)).failed


async def test_a_block_that_failed_can_be_followed_by_another(place: Place, bank: Bank) -> None:
    async def work(context: df.StepContext) -> Any:
        with pytest.raises(ValueError, match="no"):
            await raises(context, place)
        await note(context, place, "instead")

    bank.work = work
    async with runtime(place, bank) as process:
        assert (await process.runner("flow").run()).completed
    assert await place.look() == ["instead"]


async def test_a_savepoint_takes_a_part_back(place: Place, bank: Bank) -> None:
    async def work(context: df.StepContext) -> Any:
        async with context.transaction() as tx:
            await tx.execute(place.insert, "kept")
            await tx.execute("SAVEPOINT here")
            await tx.execute(place.insert, "lost")
            await tx.execute("ROLLBACK TO here")

    bank.work = work
    async with runtime(place, bank) as process:
        result = await process.runner("flow").run()
        assert result.completed, result.error
    assert await place.look() == ["kept"]


async def test_each_attempt_has_a_fresh_one(place: Place, bank: Bank) -> None:
    async def work(context: df.StepContext) -> Any:
        await note(context, place, f"attempt {context.attempt}")
        if context.attempt < 3:
            raise ValueError("not yet")

    bank.work = work
    steps = flow("""
        - {id: pay, type: call, service: Bank, method: pay, retry: {max_attempts: 3, initial_interval: 0.01}}
    """)
    async with runtime(place, bank, steps) as process:
        assert (await process.runner("flow").run()).completed
    assert await place.look() == ["attempt 3"]


async def test_a_deferred_constraint_is_checked_while_that_is_an_error_of_the_step(
    postgres_url: str, postgres_schema: str, bank: Bank
) -> None:
    place = Place(postgres_url, None, postgres_schema)

    async def work(context: df.StepContext) -> Any:
        async with context.transaction() as tx:
            if context.attempt == 1:
                await tx.executemany(place.insert, [("twice",), ("twice",)])
            else:
                await tx.execute(place.insert, "once")

    bank.work = work
    steps = flow("- {id: pay, type: call, service: Bank, method: pay, retry: {max_attempts: 2, initial_interval: 0}}")
    async with place.store() as place.main:
        await place.make()
        unique = f'ALTER TABLE "{place.schema}".notes ADD UNIQUE (note) DEFERRABLE INITIALLY DEFERRED'
        async with place.connection() as connection:
            await connection.execute(unique)
        async with runtime(place, bank, steps) as process:
            result = await process.runner("flow").run(execution_id="e")
        assert result.completed, result.error
        errors = [entry.error for entry in await place.main.entries("e") if entry.error is not None]
    assert [error.partition(":")[0] for error in errors] == ["UniqueViolationError"]
    assert await place.look() == ["once"]


async def test_it_is_read_committed_whatever_the_database_has_as_its_default(
    postgres_url: str, postgres_schema: str, bank: Bank
) -> None:
    place = Place(postgres_url, None, postgres_schema)

    async def work(context: df.StepContext) -> Any:
        async with context.transaction() as tx:
            return await tx.fetchval("SELECT current_setting('transaction_isolation')")

    bank.work = work
    serializable = f"{postgres_url}?default_transaction_isolation=serializable"
    async with df.open_store(serializable, schema=place.schema) as place.main, runtime(place, bank) as process:
        assert (await process.runner("flow").run()).output == "read committed"


async def test_a_connection_that_is_lost_later_is_an_error_of_the_step(
    postgres_url: str, postgres_schema: str, bank: Bank
) -> None:
    place = Place(postgres_url, None, postgres_schema)

    async def work(context: df.StepContext) -> Any:
        async with context.transaction() as tx:
            await tx.execute(place.insert, f"attempt {context.attempt}")
            if context.attempt == 1:
                async with place.connection() as other:
                    await other.execute("SELECT pg_terminate_backend($1)", await tx.fetchval("SELECT pg_backend_pid()"))
            await tx.execute(place.insert, "after")

    bank.work = work
    steps = flow("- {id: pay, type: call, service: Bank, method: pay, retry: {max_attempts: 2, initial_interval: 0}}")
    async with place.store() as place.main:
        await place.make()
        async with runtime(place, bank, steps) as process:
            result = await process.runner("flow").run(execution_id="e")
        assert result.completed, result.error
        errors = [entry.error for entry in await place.main.entries("e") if entry.error is not None]
    assert [error.partition(":")[0] for error in errors] == ["StoreUnavailable"]
    assert await place.look() == ["after", "attempt 2"]


async def test_one_that_waits_for_its_turn_when_its_attempt_ends_keeps_nobody_from_writing() -> None:
    """A thread cannot be cancelled: what it asked for comes when nobody wants it any more."""

    class Nothing(StepTransaction):
        exclusive = True

        async def execute(self, sql: str, parameters: Sequence[Any]) -> int:
            raise AssertionError

        async def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
            raise AssertionError

        async def fetch(self, sql: str, parameters: Sequence[Any], *, limit: int | None = None) -> list[Any]:
            raise AssertionError

        async def ready(self) -> None:
            raise AssertionError

        async def commit(self, commit: Commit) -> Committed:
            raise AssertionError

        async def rollback(self) -> None:
            pass

    turn, barred = asyncio.Event(), False

    async def reserve() -> None:
        nonlocal barred
        await turn.wait()
        barred = True

    def free() -> None:
        nonlocal barred
        barred = False

    attempt = AttemptTransaction(Nothing, reserve=reserve, free=free, loop=asyncio.get_running_loop())
    held = await attempt.enter()
    statement = asyncio.ensure_future(attempt.ask(held, lambda open: open.execute("SELECT 1", ())))
    await asyncio.sleep(0)
    await attempt.end()
    turn.set()
    with pytest.raises(df.StepError, match="this transaction was rolled back"):
        await statement
    assert not barred


async def test_one_that_is_rolled_back_before_its_turn_comes_takes_nothing_with_it(place: Place) -> None:
    store: Any = place.main
    if place.many:
        store._lender.free = asyncio.Semaphore(1)
    first, late, next_one = (store.begin(hold=5.0) for _ in range(3))
    assert await first.fetch("SELECT 1", ())
    waiting = asyncio.ensure_future(late.execute(place.insert, ("lost",)))
    await asyncio.sleep(0)
    await late.rollback()
    await first.rollback()
    with pytest.raises(df.StepError, match="the transaction is over"):
        await waiting
    assert not late.begun
    async with asyncio.timeout(10):
        assert await next_one.fetch("SELECT 1", ())
    await next_one.rollback()
    assert await place.look() == []


async def test_a_cancelled_execution_takes_it_back(place: Place, bank: Bank) -> None:
    begun = asyncio.Event()

    async def work(context: df.StepContext) -> Any:
        async with context.transaction() as tx:
            await tx.execute(place.insert, "lost")
            begun.set()
            await asyncio.Event().wait()

    bank.work = work
    if not place.many:  # whoever cancels writes to the inbox, and so waits until the transaction is ended
        place.main.busy_timeout = 0.5  # type: ignore[attr-defined]
    async with runtime(place, bank) as process:
        running = asyncio.create_task(process.runner("flow").run(execution_id="e"))
        await begun.wait()
        cancelled = asyncio.create_task(process.runner("flow").cancel("e"))
        assert (await running).cancelled
        assert (await cancelled).cancelled
    assert await place.look() == []


async def test_a_cancelled_caller_takes_it_back_and_whoever_goes_on_does_it_once(place: Place, bank: Bank) -> None:
    begun = asyncio.Event()

    async def work(context: df.StepContext) -> Any:
        async with context.transaction() as tx:
            await tx.execute(place.insert, context.idempotency_key)
            if not begun.is_set():
                begun.set()
                await asyncio.Event().wait()

    bank.work = work
    async with runtime(place, bank) as process:
        running = asyncio.create_task(process.runner("flow").run(execution_id="e"))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await place.look() == []
        assert (await process.runner("flow").recover("e")).completed
    assert await place.look() == ["e:pay"]


async def test_a_cancelled_statement_takes_all_back(place: Place, bank: Bank) -> None:
    slow = (
        "SELECT pg_sleep(60)"
        if place.schema
        else "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    )

    async def work(context: df.StepContext) -> Any:
        async with context.transaction() as tx:
            await tx.execute(place.insert, "lost")
            await tx.fetch(slow)

    bank.work = work
    steps = flow("- {id: pay, type: call, service: Bank, method: pay, timeout: 0.1s}")
    if place.url == "sqlite://:memory:":
        pytest.skip("in memory a statement is executed by the event loop itself")
    async with runtime(place, bank, steps) as process:
        result = await process.runner("flow").run()
    assert result.error == "TimeoutError: timed out after 0.1 s"
    assert await place.look() == []


async def test_who_lost_the_lease_commits_nothing(place: Place, bank: Bank) -> None:
    if place.url == "sqlite://:memory:":
        pytest.skip("there is no other process")

    async def steal() -> None:
        async with place.store() as other:
            other.clock = FakeClock(START + 10_000_000_000)
            stored = await other.claim("e", owner="thief", ttl=1.0, statuses=["running"])
            assert getattr(stored, "row", None) is not None
            await other.release("e", owner="thief", generation=stored.row.generation)  # type: ignore[union-attr]

    async def work(context: df.StepContext) -> Any:
        if len(bank.contexts) == 1:
            if not place.many:
                await steal()
            await note(context, place, "lost")
            if place.many:
                await steal()
            return
        await note(context, place, "once")

    bank.work = work
    async with runtime(place, bank) as process:
        result = await process.runner("flow").run(execution_id="e")
    assert result.completed
    assert len(bank.contexts) == 2
    assert await place.look() == ["once"]


# -- beside others ----------------------------------------------------------------------------------------------------

BRANCHES = flow("""
    - id: all
      type: parallel
      output: result
      branches:
        - id: a
          do:
            - {id: a1, type: call, service: Bank, method: pay}
            - {id: a2, type: call, service: Bank, method: pay}
        - id: b
          do:
            - {id: b1, type: call, service: Bank, method: pay}
            - {id: b2, type: call, service: Bank, method: pay}
        - id: c
          do:
            - {id: c1, type: call, service: Bank, method: plain}
            - {id: c2, type: call, service: Bank, method: plain}
""")


async def test_branches_have_one_each(place: Place) -> None:
    class Branched(Bank):
        async def plain(self, context: df.StepContext) -> str:
            return context.step_id

    async def work(context: df.StepContext) -> Any:
        for part in "xyz":
            await note(context, place, f"{context.execution_id} {context.step_id} {part}")
        return context.step_id

    bank = Branched()
    bank.work = work
    async with runtime(place, bank, BRANCHES) as process:
        results = await asyncio.gather(*(process.runner("flow").run(execution_id=f"e{i}") for i in range(5)))
    assert [result.output for result in results] == [["a2", "b2", "c2"]] * 5
    steps = ("a1", "a2", "b1", "b2")
    assert await place.look() == sorted(f"e{i} {step} {part}" for i in range(5) for step in steps for part in "xyz")


async def test_others_go_on_while_one_is_open(place: Place, bank: Bank) -> None:
    """On SQLite they wait: a file has one writer."""
    ended: list[str] = []

    async def work(context: df.StepContext) -> Any:
        async with context.transaction() as tx:
            await tx.execute(place.insert, "one")
            other = asyncio.create_task(process.runner("other").run(execution_id="o"))
            other.add_done_callback(lambda _: ended.append("other"))
            if place.many:
                await other
                assert list(await place.main.renew(process.engine.owner, ttl=30.0)) == ["e"]
        ended.append("pay")
        return None

    bank.work = work
    other = flow("- {id: say, type: assign, set: {result: said}}", id="other")
    async with runtime(place, bank, PAY, other) as process:
        result = await process.runner("flow").run(execution_id="e")
        assert result.completed, result.error
        await wait_until(lambda: len(ended) == 2)
        assert (await process.runner("other").result("o")).output == "said"
    assert ended == (["other", "pay"] if place.many else ["pay", "other"])


async def test_at_most_once_can_have_one(place: Place, bank: Bank) -> None:
    bank.work = lambda context: note(context, place, "once")
    steps = flow("- {id: pay, type: call, service: Bank, method: pay, delivery: at_most_once}")
    async with runtime(place, bank, steps) as process:
        assert (await process.runner("flow").run()).completed
    assert await place.look() == ["once"]


PROGRAM = """
import asyncio, os, signal, sys
import durable_flow as df

class Bank:
    async def pay(self, context: df.StepContext):
        async with context.transaction() as tx:
            await tx.execute(sys.argv[3], context.idempotency_key)
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    options = {"schema": sys.argv[2]} if sys.argv[2] else {}
    async with df.open_store(sys.argv[1], **options) as store:
        async with df.Runtime(store, workflows=[sys.argv[4]], services={"Bank": Bank()}, lease_ttl=1) as runtime:
            await runtime.runner("flow").run(execution_id="e")

asyncio.run(main())
"""


async def test_a_process_that_is_killed_in_the_middle_leaves_nothing_and_another_does_it_once(
    place: Place, bank: Bank, tmp_path: Path
) -> None:
    if place.url == "sqlite://:memory:":
        pytest.skip("it dies with its process")
    (tmp_path / "program.py").write_text(PROGRAM)
    arguments = [str(tmp_path / "program.py"), place.url, place.schema, place.insert, PAY.text + "\n"]
    child = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert await child.wait() == -signal.SIGKILL
    assert await place.look() == []
    bank.work = lambda context: note(context, place, context.idempotency_key)
    async with runtime(place, bank) as process:
        assert (await process.runner("flow").run(execution_id="e")).completed
    assert await place.look() == ["e:pay"]


# -- where there is none ----------------------------------------------------------------------------------------------


async def test_a_store_without_transactions_says_so(redis_url: str, redis_prefix: str, bank: Bank) -> None:
    async def work(context: df.StepContext) -> Any:
        async with context.transaction():
            raise AssertionError("unreachable")

    bank.work = work
    steps = flow("- {id: pay, type: call, service: Bank, method: pay, retries: 5}")
    async with (
        df.open_store(redis_url, prefix=redis_prefix) as store,
        df.Runtime(store, workflows=[steps], services={"Bank": bank}) as process,
    ):
        result = await process.runner("flow").run()
    assert result.error == (
        "TransactionUnsupported: RedisStore has no transactions that a service can share with its step; "
        "SQLite and PostgreSQL have"
    )
    assert len(bank.contexts) == 1


async def test_a_context_of_no_step_has_none(bank: Bank, place: Place) -> None:
    kept: list[df.StepContext] = []

    async def work(context: df.StepContext) -> None:
        kept.append(context)

    bank.work = work
    async with runtime(place, bank) as process:
        await process.runner("flow").run()
        with pytest.raises(df.StepError, match="the attempt of the step is over"):
            async with kept[0].transaction():
                raise AssertionError("unreachable")


async def test_one_that_keeps_others_from_writing_is_ended(tmp_path: Path, bank: Bank) -> None:
    place = Place(f"sqlite:///{tmp_path}/flows.db", tmp_path / "flows.db")

    async def work(context: df.StepContext) -> Any:
        async with context.transaction() as tx:
            await tx.execute(place.insert, "lost")
            while True:
                await tx.fetchval(place.count)

    bank.work = work
    async with place.store(busy_timeout=0.2) as place.main:
        await place.make()
        async with runtime(place, bank) as process:
            result = await process.runner("flow").run(execution_id="e")
            assert result.error is not None
            assert result.error.startswith("TransactionTimeout: the transaction was open for more than 0.1 s")
            bank.work = lambda context: note(context, place, "after")
            assert (await process.runner("flow").retry("e")).completed
    assert await place.look() == ["after"]


# -- answers that are lost ---------------------------------------------------------------------------------------------


class Doubtful(SqliteStore):
    """A store in memory that loses the answer to the first commit of a transaction, which `lands` or not."""

    lands = True
    lost = 0

    def begin(self, *, hold: float) -> df.StepTransaction:
        made = super().begin(hold=hold)
        commit = made.commit

        async def lose(given: Commit) -> Committed:
            if self.lost:
                return await commit(given)
            self.lost += 1
            await (commit(given) if self.lands else made.rollback())
            raise df.StoreUnavailable("the connection broke")

        made.commit = lose  # type: ignore[method-assign]
        return made


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
@pytest.mark.parametrize("lands", [True, False])
async def test_a_commit_without_an_answer_is_looked_for(bank: Bank, lands: bool, delivery: str) -> None:
    async with Doubtful(None) as store:
        store.lands = lands
        place = Place("sqlite://:memory:", None)
        place.main = store
        await place.make()
        bank.work = lambda context: note(context, place, context.idempotency_key)
        steps = flow(f"- {{id: pay, type: call, service: Bank, method: pay, delivery: {delivery}}}")
        async with runtime(place, bank, steps) as process:
            runner = process.runner("flow")
            result = await runner.run(execution_id="e")
            if not lands and delivery == "at_most_once":
                assert [halt.type for halt in result.halts] == ["uncertain"]
                assert await place.look() == []
                result = await runner.retry("e")
            assert result.completed
        assert len(bank.contexts) == (1 if lands else 2)
        assert await place.look() == ["e:pay"]
        entries = [entry.action for entry in await store.entries("e") if entry.path == "pay"]
        assert entries.count("completed") == 1
        assert "failed" not in entries


# -- with what else there is -------------------------------------------------------------------------------------------


async def test_deferred_constraints_are_errors_of_the_step(postgres_url: str, postgres_schema: str, bank: Bank) -> None:
    import asyncpg

    place = Place(postgres_url, None, postgres_schema)
    async with place.store() as place.main:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(
            f'CREATE TABLE "{postgres_schema}".notes (note text UNIQUE DEFERRABLE INITIALLY DEFERRED)'
        )
        await connection.close()

        async def work(context: df.StepContext) -> None:
            await note(context, place, "one")
            if len(bank.contexts) == 1:
                await note(context, place, "one")

        bank.work = work
        steps = flow("- {id: pay, type: call, service: Bank, method: pay, retries: 1, retry_delay: 0}")
        async with runtime(place, bank, steps) as process:
            assert (await process.runner("flow").run(execution_id="e")).completed
        (retried,) = [entry for entry in await place.main.entries("e") if entry.action == "retried"]
        assert retried.error is not None
        assert retried.error.startswith("UniqueViolationError: ")
        assert await place.look() == ["one"]


@pytest.mark.parametrize("size", [1, 3, 5])
async def test_a_pool_of_ones_own_lends_them(postgres_url: str, postgres_schema: str, bank: Bank, size: int) -> None:
    import asyncpg

    place = Place(postgres_url, None, postgres_schema)
    async with (
        asyncpg.create_pool(postgres_url, min_size=1, max_size=size) as pool,
        PostgresStore(pool=pool, schema=postgres_schema) as place.main,
    ):
        await place.make()
        bank.work = lambda context: note(context, place, context.execution_id)
        async with runtime(place, bank) as process:
            results = await asyncio.gather(*(process.runner("flow").run(execution_id=f"e{i}") for i in range(6)))
        if size == 1:
            assert {result.error.partition(":")[0] for result in results if result.error} == {"TransactionUnsupported"}
            assert await place.look() == []
        else:
            assert all(result.completed for result in results)
            assert await place.look() == [f"e{i}" for i in range(6)]


async def test_the_step_is_encrypted_and_the_rows_are_not(place: Place, bank: Bank) -> None:
    pytest.importorskip("cryptography")

    async def work(context: df.StepContext) -> str:
        await note(context, place, "plain")
        return "hidden"

    bank.work = work
    async with runtime(place, bank, codec=df.AesGcm(keys={"one": bytes(32)}, active="one")) as process:
        assert (await process.runner("flow").run(execution_id="e")).output == "hidden"
    assert await place.look() == ["plain"]
    assert all(b"hidden" not in blob for _, blob in await place.main.read("e"))  # type: ignore[operator]


async def test_a_heartbeat_within_one_waits_and_is_not_lost(place: Place, bank: Bank) -> None:
    async def work(context: df.StepContext) -> Any:
        if context.attempt == 2:
            return context.last_heartbeat
        async with context.transaction() as tx:
            await tx.execute(place.insert, "lost")
            context.heartbeat("half")
            await tx.fetchval(place.count)
            raise ValueError("no")

    bank.work = work
    steps = flow("- {id: pay, type: call, service: Bank, method: pay, output: result, retries: 1, retry_delay: 0}")
    async with runtime(place, bank, steps) as process:
        assert (await process.runner("flow").run()).output == "half"
    assert await place.look() == []
