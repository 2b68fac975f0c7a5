"""On PostgreSQL a batch is one statement of ours and many of the server's: a backend that dies before any of them
leaves nothing of it.

A trigger on every table counts the statements of a batch and ends the backend before the n-th, for every n. What is
stored then must be exactly what was stored before; and the same batch, repeated, must land whole.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import durable_flow as df
from durable_flow.stores.base import Filter, Stored
from tests.stores.build import ANY, SettableClock, answer, create, creation, following, message, opening, row_of

COUNTING = """
CREATE SEQUENCE {s}.statements;
CREATE TABLE {s}.doom (n bigint NOT NULL);
CREATE FUNCTION {s}.die() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('{s}.statements') = (SELECT n FROM {s}.doom) THEN
        PERFORM pg_terminate_backend(pg_backend_pid());
        PERFORM pg_sleep(60);
    END IF;
    RETURN NULL;
END $$;
"""
TRIGGER = (
    "CREATE TRIGGER die BEFORE INSERT OR UPDATE OR DELETE ON {s}.{table} FOR EACH STATEMENT EXECUTE FUNCTION {s}.die()"
)

Batch = Callable[[df.Store], Awaitable[object]]


class Backends:
    """The backends of a store that die where they are told to."""

    def __init__(self, store: df.Store, connection: Any, schema: str) -> None:
        self.store = store
        self.connection = connection
        self.schema = f'"{schema}"'

    async def arm(self) -> None:
        tables = await self.connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", self.schema[1:-1])
        await self.connection.execute(COUNTING.format(s=self.schema))
        for (table,) in tables:
            await self.connection.execute(TRIGGER.format(s=self.schema, table=table))

    async def doom(self, number: int) -> None:
        """The backend that begins the `number`-th statement from now dies instead; with 0 none does."""
        await self.connection.execute(
            f"DELETE FROM {self.schema}.doom; ALTER SEQUENCE {self.schema}.statements RESTART; "
            f"INSERT INTO {self.schema}.doom VALUES ({number})"
        )

    async def stored(self) -> dict[str, Any]:
        """Everything that anybody can see of the executions."""
        rows, _ = await self.store.search(Filter(), limit=100, cursor=None)
        return {
            row.id: (
                row,
                await self.store.fetch(row.id),
                await self.store.read(row.id),
                await self.store.inbox(row.id),
                await self.store.definition(row.definition_hash),
            )
            for row in rows
        }


@pytest.fixture
async def backends(postgres_url: str, postgres_schema: str) -> AsyncIterator[Backends]:
    asyncpg = pytest.importorskip("asyncpg")
    connection = await asyncpg.connect(postgres_url)
    store = df.open_store(postgres_url, schema=postgres_schema)
    store.clock = SettableClock()
    async with store:
        made = Backends(store, connection, postgres_schema)
        await made.arm()
        yield made
    await connection.close()


async def begin(store: df.Store) -> None:
    """Two executions: one with frames, variables, waits and messages, which somebody drives, and one that waits."""
    await create(
        store,
        "e",
        new={"labels": {"a": "1"}},
        frames=[("loop[1]", None, "{}"), ("loop[2]", None, "{}")],
        sets=[("", "a", 1), ("loop[1]", "b", 1)],
        opened=[opening("e:ask"), opening("e:other")],
    )
    await create(store, "f", lease_ttl=None, opened=[opening("f:ask")])
    assert await answer(store, "first", wait_id="e:ask") == "accepted"


async def commit(store: df.Store) -> None:
    """One that changes everything a commit can."""
    row = await row_of(store, "e")
    await store.commit(
        following(
            row,
            seq=2,
            status="halted",
            current_step="second",
            info='{"dry_run":true}',
            result_seq=2,
            entries=[(2, '"halted"')],
            dropped=["loop"],
            frames=[("both/left", None, "{}")],
            sets=[("", "a", 2), ("both/left", "c", 2)],
            closed=["e:ask"],
            opened=[opening("e:next", seq=2)],
            rewritten=[("e:other", '{"new":1}')],
            consumed=[number for number, _ in await store.inbox("e")],
            messages=[(message("told", execution_id="f", wait_id="f:ask"), "{}")],
            release=True,
        )
    )


async def start(store: df.Store) -> None:
    await store.commit(creation("g", new={"labels": {"b": "2"}, "definition_hash": "other"}, opened=[opening("g:ask")]))


async def append(store: df.Store) -> None:
    assert await answer(store, "second", wait_id="e:other") == "accepted"


async def claim(store: df.Store) -> None:
    assert isinstance(await store.claim("f", owner="you", ttl=30, statuses=ANY), Stored)


async def remove(store: df.Store) -> None:
    assert await store.remove("f")


@pytest.mark.parametrize("batch", [commit, start, append, claim, remove], ids=lambda batch: batch.__name__)
async def test_a_backend_that_dies_in_the_middle_leaves_nothing_of_its_batch(backends: Backends, batch: Batch) -> None:
    store = backends.store
    await backends.doom(0)
    await begin(store)
    before = await backends.stored()
    died = 0
    for number in itertools.count(1):
        await backends.doom(number)
        try:
            await batch(store)
        except df.StoreUnavailable:
            died += 1
            assert await backends.stored() == before
        else:
            break
    assert died == number - 1 >= 1
    assert await backends.stored() != before
