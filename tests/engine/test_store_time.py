"""A machine whose clock is not set like that of its store goes by the store's time."""

from __future__ import annotations

import logging
import time

import pytest

import durable_flow as df
from durable_flow.clock import StoreTime
from durable_flow.stores.sqlite import SqliteStore
from tests.engine.aid import Clock, World, flow

HOUR = 3600.0
ASK = flow("- {id: ask, type: approval, prompt: Well?, timeout: 60s}\n")


class FarStore(SqliteStore):
    """A store of which the time is ahead by so many seconds."""

    ahead = 0.0

    async def present(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
async def store() -> FarStore:
    return FarStore(None)


async def deadline(store: FarStore) -> float:
    """In how many seconds, by the clock of this machine, a question of 60 seconds is over."""
    async with store, df.Runtime(store, workflows=[ASK]) as runtime:
        result = await runtime.runner("flow").run()
        assert result.halt is not None
        assert result.halt.deadline is not None
        return result.halt.deadline.timestamp() - time.time()


@pytest.mark.parametrize(("ahead", "how"), [(HOUR, "behind"), (-HOUR, "ahead of")])
async def test_deadlines_are_reckoned_by_the_time_of_the_store(
    store: FarStore, ahead: float, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.ahead = ahead
    assert abs(await deadline(store) - 60 - ahead) < 30
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"this machine's clock is 3600.0 s {how} the store's, which counts"
    ]


async def test_clocks_may_differ_by_what_networks_and_ntp_let_them(
    store: FarStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.ahead = 0.5
    async with store, df.Runtime(store, workflows=[ASK]) as runtime:
        assert isinstance(runtime.engine.clock, StoreTime)
        assert runtime.engine.clock.ahead == 0
    assert not caplog.records


async def test_a_clock_that_was_set_right_counts_again(store: FarStore) -> None:
    store.ahead = HOUR
    async with store, df.Runtime(store, workflows=[ASK]) as runtime:
        engine = runtime.engine
        assert abs(engine.clock.now() - time.time() - HOUR) < 30
        store.ahead = 0
        await engine.go_by_store()
        assert abs(engine.clock.now() - time.time()) < 30


async def test_the_clock_of_a_test_is_nobody_elses(world: World) -> None:
    assert isinstance(world.runtime.engine.clock, Clock)
