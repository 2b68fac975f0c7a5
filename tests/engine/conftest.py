"""A world for every test: a store in memory, a clock that stands still, a desk that takes notes, a running process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from types import FrameType

import pytest

from durable_flow.stores import open_store
from tests.engine.aid import Clock, Desk, World

PATIENCE = 30.0
"""Real seconds after which a test that waits for something waits for nothing."""


@pytest.fixture(autouse=True)
def no_test_hangs() -> Iterator[None]:
    """A clock that stands still makes a lost wake-up last for ever."""

    def give_up(signum: int, frame: FrameType | None) -> None:
        loop = asyncio.get_running_loop()
        for task in asyncio.all_tasks(loop):
            loop.call_soon_threadsafe(task.cancel, "nothing happens any more")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def world(clock: Clock) -> AsyncIterator[World]:
    async with open_store("sqlite://:memory:") as store:
        store.clock = clock
        made = World(store, clock)
        await made.begin()
        yield made
        await made.end()


@pytest.fixture
def desk(world: World) -> Desk:
    return world.desk
