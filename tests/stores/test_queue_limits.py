"""Whatever happens, in whatever order: no more begins in a queue than its limits say, and in the end everything has."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable_flow.errors import LeaseLost
from durable_flow.stores import open_store
from durable_flow.stores.base import QueueLimits, Row, Store, encode
from durable_flow.testing.contract import Subject
from tests.stores.build import SettableClock, create, following, idle, row_of
from tests.stores.conftest import STORES

TTL = 30.0

QUEUES = {
    "both": QueueLimits(concurrency=2, rate=3, period=20.0),
    "few": QueueLimits(concurrency=3),
    "slow": QueueLimits(rate=2, period=45.0),
    "free": QueueLimits(),
}


class Fleet:
    """Workers that take, begin, end, wait, give back, and die; and callers beside them."""

    def __init__(self, store: Store, clock: SettableClock, choose: Callable[[int], int]) -> None:
        self.store = store
        self.clock = clock
        self.choose = choose
        """A number below another one."""
        self.born = 0
        self.driven: dict[str, Row] = {}
        """What somebody drives, or believes so, as it was seen last."""
        self.begun: dict[str, dict[str, float]] = {queue: {} for queue in QUEUES}
        """When workers began what, by queue."""
        self.over: set[str] = set()

    async def play(self, steps: int) -> None:
        for queue, limits in QUEUES.items():
            await self.store.set_queue(queue, "declared", encode(limits))
        moves = [self.add, self.take, self.move] * 3 + [self.die, self.call, self.wait]
        for _ in range(steps):
            await moves[self.choose(len(moves))]()

    async def settle(self) -> None:
        """Nothing dies any more, and everything that is there comes to its end."""
        while len(self.over) < self.born:
            for name in list(self.driven):
                await self.end(name)
            await self.take()
            if not self.driven:
                due = await self.store.next_due()
                if due is None:
                    break
                self.clock.time += max(due, 0.001)
        assert len(self.over) == self.born
        assert await self.counts() == dict.fromkeys(QUEUES, (0, 0))

    async def counts(self) -> dict[str | None, tuple[int, int]]:
        rows = await self.store.queues()
        return {queue: (row.pending, row.under_way) for queue, row in rows.items()}

    def name(self) -> tuple[str, str]:
        self.born += 1
        return f"e{self.born}", list(QUEUES)[self.choose(len(QUEUES))]

    async def add(self) -> None:
        name, queue = self.name()
        new = {"queue": queue, "priority": 1 + self.choose(3)}
        await idle(self.store, name, status="pending", wake_at=self.clock.time + self.choose(3) * 10, new=new)

    async def call(self) -> None:
        name, queue = self.name()
        self.driven[name] = await create(self.store, name, new={"queue": queue}, lease_ttl=TTL)

    async def take(self) -> None:
        before = [await row_of(self.store, f"e{number}") for number in range(1, self.born + 1)]
        live = [row for row in before if row.id not in self.over]
        counts = dict.fromkeys(QUEUES, (0, 0))
        for row in live:
            pending, under_way = counts[str(row.queue)]
            busy = row.owner is not None or row.status == "running"
            waits = row.status == "pending" and not busy
            counts[str(row.queue)] = pending + waits, under_way + busy
        assert await self.counts() == counts
        waiting = {row.id for row in live if row.status == "pending" and row.owner is None}

        room = {"free": self.choose(3)} if self.choose(2) else {}
        takers = [(f"w{number}", 1 + self.choose(4)) for number in range(1 + self.choose(3))]
        taken = await asyncio.gather(
            *(self.store.take(name, ttl=TTL, limit=limit, room=room) for name, limit in takers)
        )
        fresh = dict.fromkeys(QUEUES, 0)
        for share in taken:
            assert not room or sum(one.row.queue == "free" and one.row.id in waiting for one in share) <= room["free"]
            for row in (stored.row for stored in share):
                self.driven[row.id] = row
                if row.id in waiting:
                    fresh[str(row.queue)] += 1
                    self.begun[str(row.queue)][row.id] = self.clock.time
        for queue, limits in QUEUES.items():
            most, rate = limits.concurrency, limits.rate
            assert most is None or not fresh[queue] or counts[queue][1] + fresh[queue] <= most
            lately = [at for at in self.begun[queue].values() if at + limits.period > self.clock.time]
            assert rate is None or len(lately) <= rate

    async def move(self) -> None:
        """Somebody who drives something gets somewhere with it."""
        if not self.driven:
            return
        name = sorted(self.driven)[self.choose(len(self.driven))]
        match self.choose(4):
            case 0:
                await self.end(name)
            case 1:
                await self.commit(name, status="running")
            case 2:
                wake_at = self.clock.time + self.choose(4) * 10
                if await self.commit(name, status="halted", wake_at=wake_at, release=True):
                    del self.driven[name]
            case _:
                row = self.driven.pop(name)
                await self.store.release(name, owner=str(row.owner), generation=row.generation)
                now = await row_of(self.store, name)
                if now.status == "pending" and now.owner is None:
                    self.begun[str(row.queue)].pop(name, None)

    async def end(self, name: str) -> None:
        if await self.commit(name, status="completed", finished_at=self.clock.time, release=True):
            del self.driven[name]
            self.over.add(name)

    async def commit(self, name: str, **changes: Any) -> bool:
        """False where somebody else has it now."""
        try:
            await self.store.commit(following(self.driven[name], **{"wake_at": None} | changes))
        except LeaseLost:
            del self.driven[name]
            return False
        self.driven[name] = await row_of(self.store, name)
        return True

    async def die(self) -> None:
        """A worker and all it knows are gone; its leases are not."""
        if self.driven:
            owner = self.driven[sorted(self.driven)[self.choose(len(self.driven))]].owner
            self.driven = {name: row for name, row in self.driven.items() if row.owner != owner}

    async def wait(self) -> None:
        self.clock.time += (1, 10, 31)[self.choose(3)]


async def play(store: Store, choose: Callable[[int], int], *, steps: int) -> None:
    clock = SettableClock()
    store.clock = clock
    async with store:
        fleet = Fleet(store, clock, choose)
        await fleet.play(steps)
        await fleet.settle()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_in_memory(data: st.DataObject) -> None:
    def choose(most: int) -> int:
        return data.draw(st.integers(0, most - 1))

    asyncio.run(play(open_store("sqlite://:memory:"), choose, steps=40))


@pytest.fixture(params=[name for name in STORES if "sealed" not in name])
def subject(request: pytest.FixtureRequest) -> Subject:
    return STORES[request.param](request.getfixturevalue)


@pytest.mark.parametrize("seed", range(5))
async def test_in_every_store(subject: Subject, seed: int) -> None:
    await play(subject.make(), random.Random(seed).randrange, steps=150)
