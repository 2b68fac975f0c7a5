"""Keys that so many executions may hold, with runtimes in several processes, on each of our stores."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

import durable_flow as df
from durable_flow import engine as machinery
from durable_flow.codec import AesGcm
from durable_flow.stores import open_store
from durable_flow.stores.base import Commit, Committed, Slot, Store
from durable_flow.testing import wait_until
from durable_flow.testing.contract import Subject
from durable_flow.testing.contract.build import START, SettableClock, following, idle, row_of
from tests.engine.aid import Dead, Wire, flow, working
from tests.stores.conftest import STORES

WORK = """
- {id: work, type: call, service: counting, method: work, input: {key: $input.key, n: $input.n}, output: result}
"""


class Counting:
    """A service that knows how many of its calls with one key are under way."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.began: list[Any] = []

    async def work(self, key: str, n: int) -> int:
        self.now[key] += 1
        self.most[key] = max(self.most[key], self.now[key])
        self.began.append(n)
        await asyncio.sleep(0.003)
        self.now[key] -= 1
        return n


def limited(limit: int = 1, *, on_conflict: str = "queue") -> df.WorkflowDef:
    return flow(
        WORK,
        concurrency={"key": "$input.key", "limit": limit, "on_conflict": on_conflict},
    )


@pytest.fixture(params=[name for name in STORES if not name.startswith("sealed")])
def subject(request: pytest.FixtureRequest) -> Subject:
    return STORES[request.param](request.getfixturevalue)


@pytest.fixture
async def stores(subject: Subject) -> AsyncIterator[list[Store]]:
    """What three processes have of one store; where nobody else sees its data, they share it."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(subject.make())
        more = [await stack.enter_async_context(subject.make()) for _ in range(2)] if subject.shared else [first] * 2
        yield [first, *more]


@pytest.mark.parametrize("limit", [1, 3])
async def test_starts_in_three_processes_are_never_more_than_may_be(stores: list[Store], limit: int) -> None:
    counting = Counting()
    async with AsyncExitStack() as stack:
        runtimes = [
            await stack.enter_async_context(df.Runtime(store, services={"counting": counting})) for store in stores
        ]
        runners = [runtime.runner(limited(limit)) for runtime in runtimes]
        for runtime in runtimes[:2]:
            await stack.enter_async_context(working(runtime, concurrency=20))
        calls = [
            (runners[n % 3].run if n % 2 else runtimes[n % 3].background("flow").run)({"key": f"k{n % 2}", "n": n})
            for n in range(30)
        ]
        await asyncio.wait_for(asyncio.gather(*calls), 60)

        async def over() -> bool:
            return len(await stores[0].find(status="completed")) == 30

        await wait_until(over, timeout=60)
        assert sorted(counting.began) == list(range(30))
        assert all(most <= limit for most in counting.most.values()), counting.most
        assert max(counting.most.values()) == limit
        for key in "k0", "k1":
            assert await stores[0].line(f"flow:{key}") == []


async def test_of_those_that_supersede_each_other_in_three_processes_one_is_left(stores: list[Store]) -> None:
    ask = flow("- {id: ask, type: halt}", concurrency={"key": "all", "on_conflict": "cancel_running"})
    async with AsyncExitStack() as stack:
        runtimes = [await stack.enter_async_context(df.Runtime(store)) for store in stores]
        runners = [runtime.runner(ask) for runtime in runtimes]
        results = await asyncio.wait_for(asyncio.gather(*(runners[n % 3].run() for n in range(12))), 60)
        assert Counter(str(result.status) for result in results)["halted"] >= 1
        (last,) = await stores[0].find(status=["pending", "running", "halted"])
        assert [(one.execution_id, one.holds) for one in await stores[0].line("flow:all")] == [(last.id, True)]


async def test_the_next_one_begins_without_a_look_at_the_clock(
    stores: list[Store], subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store tells, the end of one in a process wakes who waits in another."""
    if subject.wakes:
        monkeypatch.setattr(machinery, "BACKSTOP", 10_000.0)
    ask = flow("- {id: ask, type: halt}", concurrency={"key": "all"})
    async with (
        df.Runtime(stores[0], workflows=[ask], lease_ttl=100_000) as one,
        df.Runtime(stores[1], workflows=[ask], lease_ttl=100_000) as other,
    ):
        await one.runner("flow").run(execution_id="a")
        waiting = asyncio.create_task(other.runner("flow").run(execution_id="b"))

        async def in_line() -> bool:
            return len(await one.store.line("flow:all")) == 2

        await wait_until(in_line)
        await one.background("flow").run(execution_id="c")
        await one.runner("flow").resume("a")
        result = await asyncio.wait_for(waiting, 20)
        assert result.halted
        async with working(other):
            await one.store.delete("b")
            found = await one.background("flow").wait("c", timeout=20)
        assert found is not None
        assert found.halted


async def test_starts_in_two_processes_lose_no_input(stores: list[Store]) -> None:
    """However starts and beginnings meet: what runs is, for each execution, the last input that it was given."""
    counting = Counting()
    work = flow(WORK.replace("$input.key", "k"))
    async with AsyncExitStack() as stack:
        runtimes = [
            await stack.enter_async_context(df.Runtime(store, workflows=[work], services={"counting": counting}))
            for store in stores
        ]
        for runtime in runtimes:
            await stack.enter_async_context(working(runtime))
        given: dict[str, list[int]] = {}
        often = df.Debounce(key="all", period=0.02, max_wait=0.05)

        async def start(n: int) -> None:
            name = await runtimes[n % 3].background("flow").run({"n": n}, debounce=often)
            given.setdefault(name, []).append(n)

        for first in range(0, 120, 4):
            await asyncio.gather(*(start(n) for n in range(first, first + 4)))
        for name in given:
            result = await runtimes[0].background("flow").wait(name, timeout=20)
            assert result is not None
            assert result.output in given[name]
            assert result.output >= max(given[name]) - 3  # of four at once, it is not known which came last
        assert sorted(n for names in given.values() for n in names) == list(range(120))
        assert len(counting.began) == len(given)


async def test_an_encrypted_store_has_no_readable_key(subject: Subject) -> None:
    inner = subject.make()
    ask = flow("- {id: ask, type: halt}", concurrency={"key": "$input.customer", "on_conflict": "reject"})
    later = flow("- {id: ask, type: halt}", id="later")
    async with inner:
        codec = AesGcm(keys={"k": bytes(32)}, active="k")
        async with df.Runtime(inner, codec=codec, workflows=[ask, later]) as runtime:
            await runtime.runner("flow").run({"customer": "ada@example.com"}, execution_id="a")
            with pytest.raises(df.KeyTaken) as refused:
                await runtime.runner("flow").run({"customer": "ada@example.com"})
            assert "ada@example.com" not in str(refused.value)
            calm = df.Debounce(key="ada@example.com", period=60)
            name = await runtime.background("later").run({"n": 1}, debounce=calm)
            assert await runtime.background("later").run({"n": 2}, debounce=calm) == name
            assert (await runtime.store.load(name)).input == {"n": 2}  # type: ignore[union-attr]
            key = (await runtime.store.load("a")).concurrency_key  # type: ignore[union-attr]
        row = await row_of(inner, "a")
        assert (row.concurrency_key, str(key).startswith("sha256:")) == (key, True)
        assert await inner.line("flow:ada@example.com") == await inner.line("later~ada@example.com") == []


async def test_a_process_that_dies_in_the_commit_that_ends_one_has_let_the_next_one_in(stores: list[Store]) -> None:
    """Whether it hears of it or not: the end and what follows from it are one transaction."""
    wire = Wire(stores[0])
    ask = flow("- {id: ask, type: halt}", concurrency={"key": "all"})
    dying = df.Runtime(wire, workflows=[ask], grace=0.0)
    await dying.__aenter__()
    await dying.runner("flow").run(execution_id="a")
    await dying.background("flow").run(execution_id="b")

    def last(given: Commit) -> asyncio.Future[Committed]:
        future = Wire.commit(wire, given)
        wire.cut |= given.frees is not None
        return future

    wire.commit = last  # type: ignore[method-assign]
    ending = asyncio.create_task(dying.runner("flow").resume("a"))
    async with df.Runtime(stores[1], workflows=[ask]) as other, working(other):
        found = await other.background("flow").wait("b", timeout=20)
        assert found is not None
        assert found.halted
        assert [(one.execution_id, one.holds) for one in await stores[1].line("flow:all")] == [("b", True)]
    ending.cancel()
    with suppress(Dead, asyncio.CancelledError, df.DurableFlowError):
        await ending
    with suppress(Dead):
        await dying.close()


async def test_what_a_store_of_the_release_before_has_goes_on(tmp_path: Any) -> None:
    """A file of schema version 3 gets the lines, and loses nothing."""
    import sqlite3

    path = tmp_path / "flow.db"
    clock = SettableClock()
    async with open_store(f"sqlite:///{path}") as store:
        store.clock = clock
        await idle(store, "old", status="pending", new={"concurrency_key": "k"})
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE line")
        database.execute("DROP TABLE schedules")
        database.execute("PRAGMA user_version = 3")
    database.close()
    async with open_store(f"sqlite:///{path}") as store:
        store.clock = clock
        assert await store.line("w:k") == []
        (stored,) = await store.take("you", ttl=30, limit=1)
        await store.commit(following(stored.row, status="completed", finished_at=START, frees="w:k", release=True))
        await idle(store, "new", status="pending", slot=Slot(key="w:k"))
        assert [one.execution_id for one in await store.line("w:k")] == ["new"]
