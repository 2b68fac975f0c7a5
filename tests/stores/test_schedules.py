"""Schedules on each of our stores, with several processes at work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

import durable_flow as df
from durable_flow import engine as machinery
from durable_flow.testing import wait_until
from durable_flow.testing.contract import Subject
from tests.engine.aid import Desk, working
from tests.stores.conftest import STORES

WORK = df.load("""
id: work
name: Work
schedules:
  - {id: hourly, every: 1h, start: "2020-01-01", input: {at: $schedule.time}}
steps:
  - {id: work, type: call, service: desk, method: work, input: $input.at, output: result}
""")

PROCESSES = 3


@pytest.fixture(params=list(STORES))
def subject(request: pytest.FixtureRequest) -> Subject:
    return STORES[request.param](request.getfixturevalue)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def processes(subject: Subject, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[df.Runtime]]:
    """Runtimes on the same data, with a worker each; where the store tells, they hear of each other in no other way."""
    if subject.wakes:
        monkeypatch.setattr(machinery, "BACKSTOP", 10_000.0)
    async with AsyncExitStack() as stack:
        runtimes = []
        store = await stack.enter_async_context(subject.make())
        for number in range(PROCESSES):
            if number and subject.shared:
                store = await stack.enter_async_context(subject.make())
            runtime = df.Runtime(store, workflows=[WORK], services={"desk": desk}, lease_ttl=100_000)
            runtimes.append(await stack.enter_async_context(runtime))
        for runtime in runtimes:
            await stack.enter_async_context(working(runtime))
        await wait_until(runtimes[0].schedules, timeout=20)
        yield runtimes


async def test_workers_of_several_processes_start_each_tick_once(processes: list[df.Runtime], desk: Desk) -> None:
    first = datetime(2021, 1, 1, tzinfo=UTC)
    for number in range(4):
        runtime = processes[number % PROCESSES]
        start = first + timedelta(days=number)
        end = start + timedelta(hours=14)
        assert await runtime.backfill_schedule("work:hourly", start=start, end=end, overlap="allow_all") == 15

        async def done(count: int = 15 * (number + 1)) -> bool:
            return len(await processes[0].store.find(status="completed")) == count

        await wait_until(done, timeout=30)
    times = sorted(value for _, value in desk.calls)
    assert len(times) == len(set(times)) == 60
    (told,) = await processes[0].schedules()
    assert told.requests == 0
    assert {tick.outcome for tick in told.recent} == {"started"}


async def test_what_runs_one_after_the_other_goes_on_in_any_process(processes: list[df.Runtime], desk: Desk) -> None:
    start = datetime(2021, 1, 1, tzinfo=UTC)
    await processes[1].backfill_schedule("work:hourly", start=start, end=start + timedelta(hours=4))

    async def done() -> bool:
        return len(await processes[0].store.find(status="completed")) == 5

    await wait_until(done, timeout=30)
    assert [value for _, value in desk.calls] == [(start + timedelta(hours=number)).isoformat() for number in range(5)]


async def test_a_pause_in_one_process_holds_in_all(processes: list[df.Runtime], desk: Desk) -> None:
    assert await processes[0].pause_schedule("work:hourly", by="ann", reason="ü")
    assert not await processes[1].pause_schedule("work:hourly", by="bob")
    (told,) = await processes[2].schedules()
    assert (told.paused, told.paused_by, told.paused_reason) == (True, "ann", "ü")
    name = await processes[1].trigger_schedule("work:hourly")
    background = processes[2].background("work")
    await wait_until(lambda: bool(desk.calls), timeout=20)
    result = await background.wait(name, timeout=20)
    assert result is not None
    assert result.completed
    assert await processes[2].unpause_schedule("work:hourly")
