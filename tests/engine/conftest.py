"""A world for every test: a store in memory, a clock that stands still, a desk that takes notes, a running process."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from types import FrameType

import pytest

from durable_flow.stores import open_store
from tests.engine.aid import Clock, Desk, World


@pytest.fixture(autouse=True)
def no_test_hangs() -> Iterator[None]:
    """A clock that stands still makes a lost wake-up last for ever: half a minute is enough to call it one."""

    def give_up(signum: int, frame: FrameType | None) -> None:
        raise AssertionError("nothing happens any more")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 30)
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
