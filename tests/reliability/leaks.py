"""What executions leave behind when they are over is what their rows need: no task, thread, file, connection or key
more than before.

One process drives them, with callers and two workers, in every way in which an execution ends. What it has in use is
counted after the first few and after all, what the store holds after the executions were deleted.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

import durable_flow as df
from durable_flow.testing import wait_until
from tests.reliability.crew import PATIENCE, Crew
from tests.reliability.duty import Journal, Post
from tests.reliability.grounds import STORES, scene
from tests.reliability.table import Case, Table

FIGURES: list[str] = []

WARM = 60
"""So many executions have used whatever is made once."""

AT_ONCE = 30

CALL = "{{id: {0}, type: call, service: Desk, method: {0}, output: result{1}}}"
DOCUMENTS = {
    "succeeds": CALL.format("well", ""),
    "fails": CALL.format("badly", ""),
    "retries": CALL.format("badly", ", retry: {max_attempts: 3, initial_interval: 0.01}"),
    "times-out": CALL.format("slowly", ", timeout: 0.02"),
    "is-answered": "{id: ask, type: approval, prompt: Well?}",
    "is-cancelled-while-it-waits": "{id: ask, type: halt}",
    "is-cancelled-at-work": CALL.format("slowly", ""),
    "runs-in-a-thread": CALL.format("aside", ""),
    "sleeps": "{id: nap, type: wait, for: 0.03s}",
    "is-signalled": "{id: hear, type: signal, name: go, output: result}",
    "has-a-child": "{id: below, type: workflow, workflow_id: succeeds, output: result}",
    "has-a-child-that-fails": "{id: below, type: workflow, workflow_id: fails, output: result}",
    "has-a-child-that-is-answered": "{id: below, type: workflow, workflow_id: is-answered, output: result}",
    "crowds": "{id: each, type: loop, over: [1, 2, 3], concurrency: 2, output: result, do: ["
    + CALL.format("well", "")
    + "]}",
    "races": "{id: race, type: parallel, wait: any, branches: ["
    + CALL.format("well", "")
    + ", "
    + CALL.format("slowly", "")
    + "]}",
    "is-left": CALL.format("slowly-at-first", ""),
}
DEADLINE = "times-out-as-a-whole"


def workflows() -> list[df.WorkflowDef]:
    made = [f"id: {name}\nname: {name}\nsteps:\n  - {step}\n" for name, step in DOCUMENTS.items()]
    return [
        df.load(text)
        for text in (*made, f"id: {DEADLINE}\nname: x\ntimeout: 0.05s\nsteps:\n  - {CALL.format('slowly', '')}\n")
    ]


KINDS = (*DOCUMENTS, DEADLINE)


class Desk:
    async def well(self) -> str:
        return "done"

    async def badly(self) -> None:
        raise ValueError("it cannot be done")

    async def slowly(self) -> None:
        await asyncio.Event().wait()

    def aside(self) -> str:
        return "done elsewhere"


# -- in a process of its own ------------------------------------------------------------------------------------------


async def churn(*, post: dict[str, Any], journal: str, count: int) -> None:
    notes = Journal(journal)
    place = msgspec.convert(post, Post)
    if place.store == "postgresql":  # of several connections the last ones are made when there is much to do
        place.options.update(writers=1, readers=1)
    first = used()
    notes.write("before", used=first)
    await drive(place, notes, count)
    await like(first)
    notes.write("after", used=used())


async def drive(place: Post, notes: Journal, count: int) -> None:
    desk = Desk()
    again: set[str] = set()

    async def slowly_at_first(context: df.StepContext) -> str:
        if context.execution_id not in again:
            again.add(context.execution_id)
            await asyncio.Event().wait()
        return "done"

    methods = {name: getattr(desk, name) for name in ("well", "badly", "slowly", "aside")}
    services = {"Desk": {**methods, "slowly-at-first": slowly_at_first}}
    async with place.open() as store, place.open() as other_store:
        given: dict[str, Any] = {"workflows": workflows(), "services": services}
        async with df.Runtime(store, **given) as runtime, df.Runtime(other_store, **given) as other:
            database = look_inside(place)
            workers = [df.Worker(each) for each in (runtime, other)]
            working = [asyncio.ensure_future(worker.run()) for worker in workers]
            for rounds in (range(WARM), range(WARM, count)):
                await all_of_them(runtime, other, again, rounds)
                await at_rest(runtime, other)
                ends = await look_at_rows(store)
                for each in (store, other_store):  # what has a connection of its own has used it once
                    await each.release("nobody", owner="nobody", generation=1)
                for name in await store.execution_ids(limit=10_000):
                    await store.delete(name)
                facts = {"held": await held(place, database), "engines": engines(runtime, other), "ends": ends}
                known = notes.lines("round")
                await like(known[0]["used"] if known else used())
                notes.write("round", used=used(), **facts)
            for worker in workers:
                worker.stop()
            await asyncio.gather(*working)
    if database is not None:
        database.close()


async def like(expected: dict[str, Any]) -> None:
    """Waits a little until so much is in use: what was closed a moment ago is gone after some rounds of the loop."""
    with suppress(TimeoutError):
        await wait_until(lambda: used() == expected)


def used() -> dict[str, Any]:
    """What this process has in use."""
    gc.collect()
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": len([thread for thread in threading.enumerate() if "AnyIO" not in thread.name]),
        "files": sorted(files()),
    }


def files() -> Iterator[str]:
    """What this process has open: the kind of each, and the names of files."""
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that was the list itself
            yield os.readlink(f"/proc/self/fd/{number}").partition(":[")[0]


def engines(*runtimes: df.Runtime) -> list[list[int]]:
    """What the engines remember of executions. Workers listen for what is about none of them, too."""
    return [
        [
            len([one for one in kept if one != ""])
            for kept in (engine.runs, engine._taking, engine._followed, engine._background, engine._left)
        ]
        for engine in (runtime.engine for runtime in runtimes)
    ]


async def at_rest(*runtimes: df.Runtime) -> None:
    """Returns when nothing is under way but what always is."""
    await wait_until(lambda: not any(map(any, engines(*runtimes))), timeout=PATIENCE)


async def all_of_them(runtime: df.Runtime, other: df.Runtime, again: set[str], numbers: range) -> None:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with limit:
            await live(runtime, other, again, KINDS[number % len(KINDS)], f"e{number}")

    await asyncio.gather(*map(one, numbers))


async def live(runtime: df.Runtime, other: df.Runtime, again: set[str], kind: str, name: str) -> None:
    """One execution, in its own way."""
    runner, elsewhere = runtime.runner(kind), other.runner(kind)
    call = asyncio.ensure_future(runner.run(execution_id=name))
    match kind:
        case "is-answered" | "has-a-child-that-is-answered":
            assert (await call).halted
            result = await elsewhere.resume(name, approved=True)
        case "is-cancelled-while-it-waits":
            assert (await call).halted
            result = await elsewhere.cancel(name)
        case "is-cancelled-at-work":
            await wait_until(
                lambda: name in runtime.engine.runs and runtime.engine.runs[name].version, timeout=PATIENCE
            )
            result = await elsewhere.cancel(name)
            await call
        case "is-signalled":
            assert (await call).halted
            await elsewhere.signal(name, "go", 7)
            result = await elsewhere.run(execution_id=name)
        case "is-left":
            await wait_until(lambda: name in again, timeout=PATIENCE)
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            result = await runner.run(execution_id=name)  # or a worker did it meanwhile
        case _:
            result = await call
    assert result.status.over, f"{kind} is {result.status}"


async def look_at_rows(store: df.Store) -> dict[str, int]:
    """How executions ended; none of them holds anything but its row, its trail and its variables."""
    ends: Counter[str] = Counter()
    for name in await store.execution_ids(limit=10_000):
        stored = await store.fetch(name)
        assert stored is not None
        row = stored.row
        ends[row.status] += 1
        assert df.Status(row.status).over, f"{name} is {row.status}"
        assert (row.owner, row.lease_until, row.wake_at) == (None, None, None), f"{name} of {row.workflow_id} is owned"
        assert not row.waits, f"{name} of {row.workflow_id} waits"
        assert not stored.late, f"{name} of {row.workflow_id} has waits that time closed"
        assert not stored.inbox, f"{name} of {row.workflow_id} has mail"
        # A failed one can be retried: it keeps the frames on the way to what failed.
        assert row.status == "failed" or not stored.frames, f"{name} of {row.workflow_id} has frames"
    return dict(ends)


def look_inside(post: Post) -> sqlite3.Connection | None:
    """A connection to the file, the same for the whole time: SQLite keeps a file open that somebody else in the process
    has locked."""
    return sqlite3.connect(post.url.removeprefix("sqlite:///")) if post.store == "sqlite" else None


async def held(post: Post, database: sqlite3.Connection | None) -> dict[str, int]:
    """What the store holds, by table or by key, and how many connections its server has."""
    if database is not None:
        kept = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        tables = [name for (name,) in kept.fetchall()]
        return {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
    if post.store == "redis":
        from redis.asyncio import Redis

        async with Redis.from_url(post.url) as client:
            keys = [key.decode() async for key in client.scan_iter(match=f"{{{post.options['prefix']}*", count=1000)]
            return {**dict.fromkeys(keys, 1), "connections": len(await client.client_list())}
    import asyncpg

    connection = await asyncpg.connect(post.url)
    try:
        schema = post.options["schema"]
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
        counts = {name: await connection.fetchval(f'SELECT count(*) FROM "{schema}"."{name}"') for (name,) in tables}
        backends = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        return {**counts, "connections": await connection.fetchval(backends)}
    finally:
        await connection.close()


# -- the cases --------------------------------------------------------------------------------------------------------


async def compare(crew: Crew, store: str, count: int) -> int:
    async with scene(store, crew.folder) as (post, notes), crew.watched(store) as hands:
        hands.append(await crew.start(churn, post=post.given, journal=str(notes.path), count=count))
        assert await hands[0].ended(within=5 * PATIENCE) == 0, "it did not end in good order"
        warm, done = notes.lines("round")
        for what in ("used", "held", "engines"):
            assert done[what] == warm[what], f"{what}: {warm[what]} after {WARM}, {done[what]} after all"
        before, after = notes.one("before")["used"], notes.one("after")["used"]
        assert after == before, f"{before} before it was opened, {after} after it was closed"
        ends = {status: warm["ends"].get(status, 0) + number for status, number in done["ends"].items()}
        told = ", ".join(f"{number:,} {status}" for status, number in sorted(ends.items()))
        FIGURES.append(
            f"{store}: {told}; in use before and after: {done['used']['tasks']} "
            f"tasks, {done['used']['threads']} threads, {len(done['used']['files'])} files"
        )
    return count


def verify(store: str, count: int) -> int:
    with tempfile.TemporaryDirectory(prefix="durable-flow-") as folder:

        async def main() -> int:
            async with Crew(Path(folder)) as crew:
                return await compare(crew, store, count)

        return asyncio.run(main())


def cases(full: bool) -> Iterable[Case]:
    for store in STORES:
        yield Case(f"{store}: nothing is left in use", partial(verify, store, 2000 if full else 300))


TABLE = Table("executions that are over use nothing any more", cases, FIGURES)
