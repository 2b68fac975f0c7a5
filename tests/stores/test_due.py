"""What is due on servers: each worker takes its own and hears of others, and what only waits costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

import durable_flow as df
from durable_flow import engine
from durable_flow.clock import SystemClock
from durable_flow.stores import open_store
from durable_flow.stores.base import Filter, Store
from durable_flow.testing import wait_until
from tests.stores.build import START, SettableClock, advance, append, create, following, idle, row_of

Make = Callable[[], Store]
Cost = Callable[[Callable[[], Awaitable[object]]], Awaitable[int]]

TIMER = df.load("""
id: timer
name: Timer
steps:
  - {id: ask, type: approval, prompt: Go on?, timeout: 30m, on_timeout: late, next: done}
  - {id: late, type: call, service: desk, method: late, input: {name: $input.name}, next: done}
  - {id: done, type: end}
""")


@pytest.fixture(params=["postgresql", "redis"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes stores on the same data, not yet open."""
    if request.param == "postgresql":
        url, schema = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_schema")
        return lambda: open_store(url, schema=schema)
    url, prefix = request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix")
    return lambda: open_store(url, prefix=prefix)


@asynccontextmanager
async def working(runtime: df.Runtime, **options: Any) -> AsyncIterator[df.Worker]:
    worker = df.Worker(runtime, **options)
    task = asyncio.get_running_loop().create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Desk:
    """A service that notes what it is called for. The first call waits until the other desk has one, too."""

    def __init__(self, called: dict[str, list[str]], name: str) -> None:
        self.called = called
        self.mine = called[name] = []

    async def late(self, name: str) -> None:
        self.mine.append(name)
        await wait_until(lambda: all(self.called.values()), timeout=30)


class Ahead(SystemClock):
    """An hour ahead: timers of processes with the right time are due here."""

    def now(self) -> float:
        return super().now() + 3600


async def test_two_processes_drive_all_that_is_due_each_exactly_once(make: Make) -> None:
    names = [f"e{number}" for number in range(200)]
    async with make() as store, df.Runtime(store) as starter:
        await asyncio.gather(*(starter.runner(TIMER).run({"name": name}, execution_id=name) for name in names))
    called: dict[str, list[str]] = {}
    async with make() as store, make() as other:
        desks = [Desk(called, name) for name in "ab"]
        async with (
            df.Runtime(store, services={"desk": desks[0]}, clock=Ahead()) as one,
            df.Runtime(other, services={"desk": desks[1]}, clock=Ahead()) as two,
            working(one, concurrency=20),
            working(two, concurrency=20),
        ):

            async def all_done() -> bool:
                rows, _ = await store.search(Filter(statuses=["completed"]), limit=1000, cursor=None)
                return len(rows) == len(names)

            await wait_until(all_done, timeout=60)
        rows, _ = await store.search(Filter(), limit=1000, cursor=None)
    assert sorted(name for desk in desks for name in desk.mine) == sorted(names)
    assert {row.generation for row in rows} == {2}
    assert all(desk.mine for desk in desks)


class Narrow:
    """A service that counts who is in it, and lets nobody out before somebody else has come in, as long as anybody may
    come."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        self.now = self.most = 0

    async def work(self) -> None:
        self.left -= 1
        self.now += 1
        self.most = max(self.most, self.now)
        await wait_until(lambda: self.now > 1 or not self.left, timeout=30)
        await wait_until(lambda: True)
        self.now -= 1


async def test_workers_of_two_processes_keep_one_limit_and_hear_of_each_place_that_is_free(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BACKSTOP", 10_000.0)
    work = df.load({"id": "work", "name": "Work", "steps": [
        {"id": "work", "type": "call", "service": "desk", "method": "work"}]})  # fmt: skip
    names = [f"e{number}" for number in range(30)]
    narrow = Narrow(len(names))
    options: dict[str, Any] = {"services": {"desk": narrow}, "lease_ttl": 100_000}
    async with (
        make() as store,
        make() as other,
        df.Runtime(store, queues={"mail": df.Queue(concurrency=3)}, **options) as one,
        df.Runtime(other, **options) as two,
    ):
        background = one.background(work)
        async with working(one), working(two, queues=["mail"]):
            await asyncio.gather(*(background.run(execution_id=name, queue="mail") for name in names))
            for name in names:
                result = await background.wait(name, timeout=60)
                assert result is not None
                assert result.completed
        (state,) = await two.queues()
        assert (state.pending, state.under_way) == (0, 0)
    assert 2 <= narrow.most <= 3


async def test_a_worker_hears_of_a_timer_of_another_process_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BACKSTOP", 10_000.0)  # by itself it would look when nobody waits any more
    called: dict[str, list[str]] = {}
    async with make() as store, make() as other:
        looked = asyncio.Event()
        ask = store.next_due

        async def next_due(**wanted: Any) -> float | None:
            found = await ask(**wanted)
            looked.set()
            return found

        monkeypatch.setattr(store, "next_due", next_due)
        services = {"desk": Desk(called, "a")}
        async with (
            df.Runtime(store, services=services, clock=Ahead(), lease_ttl=100_000) as one,
            df.Runtime(other) as starter,
            working(one),
        ):
            await looked.wait()  # nothing is ever due
            await starter.runner(TIMER).run({"name": "e"}, execution_id="e")
            await wait_until(lambda: called["a"] == ["e"], timeout=30)


@pytest.fixture
async def opened(make: Make) -> AsyncIterator[tuple[Store, Store, SettableClock]]:
    clock = SettableClock()
    one, other = make(), make()
    one.clock = other.clock = clock
    async with one, other:
        yield one, other, clock


async def heard_by(store: Store, what: Callable[[], Awaitable[object]]) -> list[str]:
    """What a store hears of something that is done in another one."""
    names: list[str] = []
    deaf = store.listen(names.append)
    await what()
    await wait_until(lambda: names, timeout=30)
    deaf()
    return names


async def test_a_new_execution_that_nobody_drives_is_heard_of(opened: tuple[Store, Store, SettableClock]) -> None:
    store, other, _ = opened
    assert "e" in await heard_by(other, lambda: idle(store, "e", status="pending"))


async def test_what_is_given_back_is_heard_of(opened: tuple[Store, Store, SettableClock]) -> None:
    store, other, _ = opened
    await create(store, "e")
    assert "e" in await heard_by(other, lambda: store.release("e", owner="me", generation=1))


async def test_a_message_in_a_commit_makes_its_execution_due(opened: tuple[Store, Store, SettableClock]) -> None:
    store, _, clock = opened
    await idle(store, "parent", status="halted", wake_at=START + 1000)
    child = await create(store, "child", lease_ttl=5000)
    clock.time += 7
    told = (df.Message(kind="child", execution_id="parent", key="child", time=START), "{}")
    await store.commit(following(child, messages=[told]))
    assert (await row_of(store, "parent")).wake_at == START + 7
    assert [one.row.id for one in await store.take("you", ttl=30, limit=10)] == ["parent"]


async def test_a_message_to_what_somebody_drives_does_not_change_its_time(
    opened: tuple[Store, Store, SettableClock],
) -> None:
    store, _, _ = opened
    await create(store, "e", wake_at=START + 50)
    await append(store, kind="note")
    assert (await row_of(store)).wake_at == START + 50


async def test_what_becomes_running_or_stops_running_without_an_owner_is_due_as_its_status_says(
    opened: tuple[Store, Store, SettableClock],
) -> None:
    store, _, _ = opened
    await idle(store, status="halted")
    await advance(store, status="running")
    assert await store.next_due() == 0
    await advance(store, status="halted", wake_at=START + 5)
    assert await store.next_due() == 5
    await advance(store, status="completed", finished_at=START, wake_at=None)
    assert await store.next_due() is None


async def test_what_is_released_while_it_runs_has_no_lease(opened: tuple[Store, Store, SettableClock]) -> None:
    store, _, clock = opened
    await create(store)
    await advance(store, release=True)
    row = await row_of(store)
    assert (row.owner, row.lease_until) == (None, None)
    assert [one.row.generation for one in await store.take("you", ttl=30, limit=1)] == [2]
    clock.time += 29
    assert await store.take("other", ttl=30, limit=1) == []


@pytest.fixture
async def cost(make: Make, request: pytest.FixtureRequest) -> Cost:
    """How many rows or commands the server needed for something."""
    if "redis" in request.node.name:
        from redis.asyncio import Redis

        async def commands() -> int:
            async with Redis.from_url(request.getfixturevalue("redis_url")) as client:
                found = await client.info("commandstats")
            return sum(one["calls"] for one in found.values())

        count = commands
    else:
        import asyncpg

        async def rows() -> int:
            connection = await asyncpg.connect(request.getfixturevalue("postgres_url"))
            try:
                await connection.execute("SELECT pg_stat_clear_snapshot()")
                return int(
                    await connection.fetchval(
                        "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables "
                        "WHERE schemaname = $1",
                        request.getfixturevalue("postgres_schema"),
                    )
                )
            finally:
                await connection.close()

        count = rows

    async def measured(work: Callable[[], Awaitable[object]]) -> int:
        before = await count()
        await work()
        return await count() - before

    return measured


@pytest.mark.parametrize("queues", [None, ["q"]])
async def test_what_only_waits_costs_a_taker_nothing(make: Make, cost: Cost, queues: Collection[str] | None) -> None:
    clock = SettableClock()
    store = make()
    store.clock = clock
    async with store:
        waiting: list[dict[str, Any]] = [
            {"status": "halted"},
            {"status": "halted", "wake_at": START + 100},
            {"status": "pending", "wake_at": START + 100},
            {"status": "running", "lease_ttl": 100.0},
            {"status": "completed", "finished_at": START},
        ]
        every = [
            idle(store, f"w{number}", new={"queue": queue}, **waiting[number % 5])
            for number, queue in enumerate(["q", "other"] * 500)
        ]
        await asyncio.gather(*every)
        for number in range(5):
            await idle(store, f"d{number}", status="halted", wake_at=START, new={"queue": "q"})

    async def look() -> None:
        taker = make()
        taker.clock = clock
        async with taker:  # the last statistics of a connection are sent when it ends
            found = await taker.take("you", ttl=30, limit=100, queues=queues)
            assert [one.row.id for one in found] == [f"d{number}" for number in range(5)]
            assert await taker.next_due(queues=queues) == 30

    assert await cost(look) < 500


async def test_what_has_to_wait_in_a_queue_with_limits_costs_a_taker_nothing(make: Make, cost: Cost) -> None:
    clock = SettableClock()
    store = make()
    store.clock = clock
    async with store:
        await store.set_queue("full", "declared", "[2,null,1.0]")
        await store.set_queue("slow", "declared", "[null,2,60.0]")
        every = [
            idle(store, f"e{number}", status="pending", new={"queue": queue, "priority": 1 + number % 3})
            for number, queue in enumerate(["full", "slow"] * 500)
        ]
        await asyncio.gather(*every)
        assert len(await store.take("me", ttl=30, limit=100)) == 4

    async def look() -> None:
        taker = make()
        taker.clock = clock
        async with taker:
            assert await taker.take("you", ttl=30, limit=100) == []
            assert await taker.next_due() == 30

    assert await cost(look) < 300
