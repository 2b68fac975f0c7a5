"""Heartbeats: a long step says that it lives, and how far it came; a silent one has failed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import durable_flow as df
from durable_flow.model.codec import decode_frame
from durable_flow.testing import ERRORS, KILLS, Explorer, FakeClock, Fold, Scenario, Scripted, wait_until
from durable_flow.testing.trail import decoded
from tests.engine.aid import START, Clock, World, flow

STEP = "- {{id: work, type: call, service: long, method: work, output: result, {0}}}"


class Long:
    """A service that does in `work` what a test says."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.contexts: list[df.StepContext] = []
        self.work_: Any = None

    async def work(self, context: df.StepContext) -> Any:
        self.contexts.append(context)
        return await self.work_(context)

    async def beats(self, context: df.StepContext, *details: Any, every: float = 1.0) -> None:
        for detail in details:
            context.heartbeat(detail)
            await self.clock.sleep(every)


@pytest.fixture
async def long(world: World, clock: Clock) -> Long:
    service = Long(clock)
    await world.restart(services={"desk": world.desk, "long": service})
    return service


async def beat_of(world: World) -> Any:
    """The heartbeat that is stored for the workflow's own frame."""
    stored = await world.store.fetch("e")
    assert stored is not None
    fold = Fold()
    for seq, entry in decoded(await world.store.read("e")):
        fold.add(seq, entry, [path for path, _ in stored.frames])
    assert fold.differences(stored) == []
    frame = decode_frame(stored.row.root, execution_id="e")
    return None if frame.beat is None else (frame.beat.time - START, frame.beat.details)


async def test_a_silent_attempt_fails(world: World, long: Long) -> None:
    long.work_ = lambda context: asyncio.Event().wait()
    running = await world.start(flow(STEP.format("heartbeat_timeout: 10s")))
    await world.clock.advance(9.9)
    assert not running.done()
    await world.clock.advance(2)
    assert (await running).error == "HeartbeatTimeout: no heartbeat for 10 s"
    assert long.contexts[0].heartbeat_timeout == 10


async def test_one_that_says_something_goes_on(world: World, long: Long) -> None:
    async def work(context: df.StepContext) -> str:
        await long.beats(context, *range(20), every=9.0)
        return "done"

    long.work_ = work
    running = await world.start(flow(STEP.format("heartbeat_timeout: 10s")))
    await world.clock.advance(181)
    assert (await running).output == "done"


async def test_the_timeout_of_the_step_counts_all_the_same(world: World, long: Long) -> None:
    long.work_ = lambda context: long.beats(context, *range(100))
    running = await world.start(flow(STEP.format("heartbeat_timeout: 10s, timeout: 30s")))
    await world.clock.advance(32)
    assert (await running).error == "TimeoutError: timed out after 30 s"


@pytest.mark.parametrize("name", ["HeartbeatTimeout", "TimeoutError"])
async def test_a_retry_policy_knows_it_by_both_names(world: World, long: Long, name: str) -> None:
    async def work(context: df.StepContext) -> Any:
        if context.attempt == 1:
            await asyncio.Event().wait()
        return context.attempt

    long.work_ = work
    retry = f"retry: {{max_attempts: 2, initial_interval: 0, retry_on: [{name}]}}"
    running = await world.start(flow(STEP.format(f"heartbeat_timeout: 5s, {retry}")))
    await world.clock.advance(7)
    assert (await running).output == 2


async def test_the_next_attempt_finds_what_was_said_last(world: World, long: Long) -> None:
    async def work(context: df.StepContext) -> Any:
        if context.attempt == 1:
            assert context.last_heartbeat is None
            context.heartbeat({"row": 1})
            context.heartbeat({"row": 2})
            context.heartbeat()  # says nothing new
            raise ConnectionError("gone")
        return context.last_heartbeat

    long.work_ = work
    result = await world.run(flow(STEP.format("retry: {max_attempts: 2, initial_interval: 0}")))
    assert result.output == {"row": 2}


async def test_a_process_that_takes_over_finds_what_was_written_last(world: World, long: Long) -> None:
    async def work(context: df.StepContext) -> Any:
        if len(long.contexts) == 1:
            await long.beats(context, *range(100))
        return context.last_heartbeat

    long.work_ = work
    await world.start(flow(STEP.format("heartbeat_timeout: 60s")))
    await world.clock.advance(12)  # written at 0, 5 and 10 seconds, then with what was said until there
    await world.after_the_lease()
    recovered = world.spawn(world.runner("flow").recover("e"))
    await world.clock.advance(1)
    assert (await recovered).output == 9


async def test_what_is_said_is_written_now_and_then_and_has_no_entries(world: World, long: Long) -> None:
    long.work_ = lambda context: long.beats(context, *range(1000), every=0.1)
    verbs: list[str] = []
    await world.start(flow(STEP.format("heartbeat_timeout: 60s")))
    before = await world.trail()
    world.wire.watchers.append(verbs.append)
    assert await beat_of(world) == (0, 0)
    await world.clock.advance(50)
    assert verbs.count("commit") == 10
    assert await world.trail() == before
    time, details = await beat_of(world)
    assert time == pytest.approx(details / 10)
    assert details >= 450


async def test_it_goes_with_the_step(world: World, long: Long) -> None:
    async def work(context: df.StepContext) -> Any:
        context.heartbeat("first")

    long.work_ = work
    steps = """
        - {id: one, type: call, service: long, method: work, next: two}
        - {id: two, type: call, service: long, method: work}
    """
    assert (await world.run(flow(steps), execution_id="e")).completed
    assert [context.last_heartbeat for context in long.contexts] == [None, None]
    assert await beat_of(world) is None


async def test_branches_and_iterations_have_their_own(world: World, long: Long) -> None:
    async def work(context: df.StepContext) -> Any:
        if context.attempt == 1:
            context.heartbeat(context.path)
            await world.clock.sleep(1)
            raise ConnectionError("gone")
        return context.last_heartbeat

    long.work_ = work
    call = "type: call, service: long, method: work, retry: {max_attempts: 2, initial_interval: 0}"
    steps = f"""
        - id: both
          type: parallel
          output: pair
          branches: [{{id: a, {call}}}, {{id: b, {call}}}]
          next: each
        - id: each
          type: loop
          over: [1, 2]
          concurrency: 2
          output: outs
          do: [{{id: c, {call}}}]
          next: done
        - {{id: done, type: end, result: [$pair, $outs]}}
    """
    running = await world.start(flow(steps))
    await beat_of(world)  # two frames are stored of which no entry speaks yet
    await world.clock.advance(10)
    assert (await running).output == [["both/a", "both/b"], ["each[0]/c", "each[1]/c"]]
    await beat_of(world)


async def test_plain_services_beat_from_their_threads(world: World) -> None:
    ready, go_on = threading.Event(), threading.Event()

    class Plain:
        def work(self, context: df.StepContext) -> Any:
            if context.attempt == 1:
                for number in range(1000):
                    context.heartbeat(number)
                ready.set()
                go_on.wait(20)
                raise ConnectionError("gone")
            return context.last_heartbeat

    await world.restart(services={"long": Plain()})
    running = await world.start(
        flow(STEP.format("heartbeat_timeout: 60s, retry: {max_attempts: 2, initial_interval: 0}"))
    )
    await wait_until(ready.is_set)
    go_on.set()
    assert (await running).output == 999


async def test_details_that_cannot_be_stored_fail_the_step(world: World, long: Long) -> None:
    async def work(context: df.StepContext) -> Any:
        context.heartbeat(object() if context.execution_id == "e" else "x" * 20_000)

    long.work_ = work
    first = await world.run(flow(STEP.format("timeout: 60s")), execution_id="e")
    second = await world.run("flow", execution_id="f")
    assert first.error is not None
    assert first.error.startswith("OutputError: value cannot be stored at $: a value of type object")
    assert second.error is not None
    assert "the details of a heartbeat have 20,002 bytes, more than 16,384" in second.error


async def test_what_an_attempt_says_when_it_is_over_has_no_effect(world: World, long: Long) -> None:
    async def work(context: df.StepContext) -> Any:
        if context.attempt == 2:
            long.contexts[0].heartbeat("late")
            raise ConnectionError("gone")
        if context.attempt == 1:
            context.heartbeat("in time")
            raise ConnectionError("gone")
        return context.last_heartbeat

    long.work_ = work
    result = await world.run(flow(STEP.format("retry: {max_attempts: 3, initial_interval: 0}")))
    assert result.output == "in time"


async def test_a_step_that_kills_its_processes_is_found_out_whatever_it_says(world: World, long: Long) -> None:
    async def work(context: df.StepContext) -> Any:
        context.heartbeat(len(long.contexts))
        await world.clock.sleep(1)
        await asyncio.Event().wait()

    long.work_ = work
    await world.restart(max_recoveries=3)
    await world.start(flow(STEP.format("timeout: 1h")))
    for _ in range(3):
        await world.clock.advance(2)
        await world.after_the_lease()
        world.spawn(world.runner("flow").recover("e"))
        await world.clock.advance(2)
    assert len(long.contexts) == 4
    await world.after_the_lease()
    result = await world.runner("flow").recover("e")
    assert result.error == "Poisoned: 4 processes died at this place (max_recoveries=3)"


async def test_one_that_is_retried_may_die_as_often_again(world: World, long: Long) -> None:
    async def dies(context: df.StepContext) -> Any:
        context.heartbeat("alive")
        await asyncio.Event().wait()

    async def dies_silently(context: df.StepContext) -> Any:
        await asyncio.Event().wait()

    async def works(context: df.StepContext) -> Any:
        return "done"

    long.work_ = dies
    await world.restart(max_recoveries=1)
    await world.start(flow(STEP.format("timeout: 1h")))
    await world.after_the_lease()
    world.spawn(world.runner("flow").recover("e"))
    await world.clock.advance(2)
    await world.after_the_lease()
    assert (await world.runner("flow").recover("e")).failed
    long.work_ = dies_silently
    world.spawn(world.runner("flow").retry("e"))
    await world.clock.advance(2)
    await world.after_the_lease()
    long.work_ = works
    assert (await world.runner("flow").recover("e")).completed


async def test_who_fails_between_two_deaths_has_got_somewhere(world: World, long: Long) -> None:
    async def work(context: df.StepContext) -> Any:
        match len(long.contexts):
            case 1:
                await asyncio.Event().wait()
            case 2:
                context.heartbeat("alive")
                raise ValueError("no")
            case 3:
                await asyncio.Event().wait()
        return "done"

    long.work_ = work
    await world.restart(max_recoveries=1)
    await world.start(flow(STEP.format("retries: 9, retry_delay: 0.5s")))
    await world.after_the_lease()
    world.spawn(world.runner("flow").recover("e"))
    await world.clock.advance(2)
    assert len(long.contexts) == 3
    await world.after_the_lease()
    assert (await world.runner("flow").recover("e")).completed


async def test_why_says_when_it_was(world: World, long: Long) -> None:
    long.work_ = lambda context: long.beats(context, *range(100))
    await world.start(flow(STEP.format("heartbeat_timeout: 60s")))
    await world.clock.advance(12)
    (why,) = await world.runner("flow").why("e")
    assert why.last_heartbeat is not None
    assert why.last_heartbeat.timestamp() == START + 9  # that one was written, at 10 s
    assert why.reason == "step 'work' is running, last heartbeat 3 s ago"


class Rows(Scripted):
    """Works in rows, and goes on where the last heartbeat was."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, work=None)

    def __getitem__(self, name: str) -> Any:
        async def work(context: df.StepContext) -> str:
            for row in range(context.last_heartbeat or 0, 3):
                context.heartbeat(row)
                await self.clock.sleep(6)
            return context.step_id

        return work


def test_a_death_at_every_point_changes_nothing() -> None:
    workflow = flow("""
        - {id: one, type: call, service: rows, method: work, output: a, heartbeat_timeout: 30s, next: both}
        - id: both
          type: parallel
          output: pair
          branches: [{id: l, type: call, service: rows, method: work}, {id: r, type: call, service: rows, method: work}]
          next: done
        - {id: done, type: end, result: [$a, $pair]}
    """)
    scenario = Scenario(name="beats", workflow=workflow, services=lambda clock: {"rows": Rows(clock)})
    explorer = Explorer(scenario)
    assert sum(point.name == "commit" for point in explorer.points) > 6
    report = explorer.each((*KILLS, *ERRORS))
    print(report)
    report.raise_for_bad()
