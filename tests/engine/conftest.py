"""A world for every test: a store in memory, a clock that stands still, a desk that takes notes, a running process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from durable_flow.stores import open_store
from tests.engine.aid import Clock, Desk, World


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
