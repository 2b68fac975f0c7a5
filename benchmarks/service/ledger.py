"""What steps really did: a table that the services of both libraries write, and that nobody but the benchmark reads.

Only asyncpg is imported here, because the peer runs it in its own environment.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg

STEPS = 10
"""Steps of each workflow."""

TABLE = (
    "CREATE TABLE IF NOT EXISTS public.ledger "
    "(number bigserial PRIMARY KEY, request text NOT NULL, step int NOT NULL, key text NOT NULL)"
)
INSERT = "INSERT INTO public.ledger (request, step, key) SELECT * FROM unnest($1::text[], $2::int[], $3::text[])"


class Row(NamedTuple):
    """A call of a step, in the order in which calls were made: of two calls of a workflow whose second one needs that
    the first has ended, the second one has the greater `number`."""

    number: int
    request: str
    step: int
    key: str


class Ledger:
    """Writes a row for each call before the call returns; calls at the same time share a statement. The server is never
    killed here, so the rows need not wait for the disk: what is measured is the library's."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._waiting: list[tuple[str, int, str, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def note(self, request: str, step: int, key: str) -> None:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((request, step, key, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            requests, steps, keys, futures = zip(*batch, strict=True)
            try:
                await self._connection.execute(INSERT, requests, steps, keys)
            except Exception as error:
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
            else:
                for future in futures:
                    if not future.done():
                        future.set_result(None)


@asynccontextmanager
async def open_ledger(url: str) -> AsyncIterator[Ledger]:
    connection = await asyncpg.connect(url, server_settings={"synchronous_commit": "off"})
    try:
        yield Ledger(connection)
    finally:
        await connection.close()


async def create_ledger(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(TABLE)
    finally:
        await connection.close()


async def rows_of(url: str) -> list[Row]:
    connection = await asyncpg.connect(url)
    try:
        return [Row(*row) for row in await connection.fetch("SELECT number, request, step, key FROM public.ledger")]
    finally:
        await connection.close()


class Verdict(NamedTuple):
    """`lost`: requests without an answer, or whose steps were not all made. `doubled`: steps that were made again
    although they had ended, since a later one of their workflow had begun, or its answer was there. `repeated`: steps
    that were under way when a process died, and were made again; `keyless`: those of them with another key."""

    lost: int
    doubled: int
    repeated: int
    keyless: int


def verdict(rows: Iterable[Row], asked: Iterable[str], answered: dict[str, int]) -> Verdict:
    """What became of the requests `asked`. `answered` has those with the right answer, and the number of the last row
    that there was by then.

    >>> rows = [Row(number, "a", step, f"a:{step}") for number, step in enumerate(range(STEPS))]
    >>> verdict(rows, ["a"], {"a": 9})
    Verdict(lost=0, doubled=0, repeated=0, keyless=0)
    """
    calls: dict[str, list[Row]] = {}
    for row in sorted(rows):
        calls.setdefault(row.request, []).append(row)
    lost = doubled = repeated = keyless = 0
    for request in asked:
        furthest, keys = -1, {}
        for row in calls.get(request, []):
            if row.step in keys:
                again = row.step < furthest or row.number > answered.get(request, row.number)
                doubled += again
                repeated += not again
                keyless += keys[row.step] != row.key
            keys[row.step] = row.key
            furthest = max(furthest, row.step)
        lost += request not in answered or set(keys) != set(range(STEPS))
    return Verdict(lost, doubled, repeated, keyless)
