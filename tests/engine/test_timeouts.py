"""Timeouts of steps and of whole workflows."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import durable_flow as df
from durable_flow.testing import wait_until
from tests.engine.aid import START, World, flow

TEN = "- {id: a, type: call, service: desk, method: work, timeout: 10, output: result}\n"


async def test_a_step_that_takes_too_long_fails(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(TEN)
    await world.clock.advance(9.9)
    assert not task.done()
    await world.clock.advance(0.1)
    assert (await task).error == "TimeoutError: timed out after 10 s"


async def test_a_step_that_is_in_time_does_not(world: World) -> None:
    world.desk.hold("work")
    world.desk.answers["work"] = "fine"
    task = await world.start(TEN)
    await world.clock.advance(9.9)
    world.desk.release()
    assert (await task).output == "fine"
    assert world.clock.pending == []


async def test_the_service_is_cancelled(world: World) -> None:
    world.desk.hold("work")
    await world.start(TEN)
    await world.clock.advance(10)
    assert world.desk.cancelled == ["work"]


async def test_the_deadline_is_told_to_the_service(world: World) -> None:
    await world.run(TEN)
    assert world.desk.contexts[0].deadline == START + 10


async def test_a_late_result_is_ignored(world: World) -> None:
    """The service notices that it is cancelled, and returns something nevertheless."""

    async def stubborn(_: Any) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "late"
        return ""

    world.desk.answers["work"] = stubborn
    task = await world.start(TEN)
    await world.clock.advance(10)
    assert (await task).error == "TimeoutError: timed out after 10 s"


async def test_a_service_that_ignores_cancellation_does_not_hold_up_the_workflow(world: World) -> None:
    gate = asyncio.Event()

    async def deaf(_: Any) -> str:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        return "at last"

    world.desk.answers["work"] = deaf
    task = await world.start(TEN)
    await world.clock.advance(30)
    assert task.done()
    gate.set()
    assert (await task).error == "TimeoutError: timed out after 10 s"
    await world.clock.advance(1)
    assert (await world.load()).status == "failed"


async def test_a_thread_that_never_comes_back_does_not_hold_up_the_workflow(world: World) -> None:
    begun, gate = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(30)

    await world.restart(services={"desk": {"work": work}})
    task = world.spawn(world.runner(TEN).run())
    await wait_until(begun.is_set)
    await world.clock.advance(10)
    assert (await task).error == "TimeoutError: timed out after 10 s"
    gate.set()


async def test_a_timeout_error_of_the_service_itself_is_not_taken_for_ours(world: World) -> None:
    world.desk.answers["work"] = TimeoutError("the bank was slow")
    assert (await world.run(TEN)).error == "TimeoutError: the bank was slow"


async def test_a_timeout_error_of_a_service_without_a_timeout_keeps_its_message(world: World) -> None:
    world.desk.answers["work"] = TimeoutError("the bank was slow")
    result = await world.run("- {id: a, type: call, service: desk, method: work}\n")
    assert result.error == "TimeoutError: the bank was slow"
    assert (await world.load(result)).current_step == "a"


async def test_an_exception_raised_because_of_the_timeout_is_the_timeout(world: World) -> None:
    async def translate(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("interrupted") from None

    world.desk.answers["work"] = translate
    task = await world.start(TEN)
    await world.clock.advance(10)
    assert (await task).error == "TimeoutError: timed out after 10 s"


async def test_a_timeout_can_be_tried_again_with_a_full_timeout(world: World) -> None:
    gate = asyncio.Event()
    world.desk.answers["work"] = [lambda _: gate.wait(), "fine"]
    task = await world.start("""
        - {id: a, type: call, service: desk, method: work, timeout: 10, output: result,
           retry: {max_attempts: 2, initial_interval: 5, jitter: 0}}
    """)
    await world.clock.advance(15)
    assert (await task).output == "fine"
    assert [context.deadline for context in world.desk.contexts] == [START + 10, START + 25]


async def test_a_timeout_can_be_excluded_from_retries(world: World) -> None:
    world.desk.hold("work")
    task = await world.start("""
        - {id: a, type: call, service: desk, method: work, timeout: 10,
           retry: {max_attempts: 5, no_retry_on: [TimeoutError]}}
    """)
    await world.clock.advance(10)
    assert (await task).error_info.attempts == 1


async def test_a_timeout_goes_to_the_handler(world: World) -> None:
    world.desk.hold("work")
    task = await world.start("""
        - {id: a, type: call, service: desk, method: work, timeout: 10, on_error: sorry}
        - {id: sorry, type: end, result: $_last_error.class}
    """)
    await world.clock.advance(10)
    assert (await task).output == "TimeoutError"


async def test_an_attempt_after_a_crash_has_its_full_time(world: World) -> None:
    world.desk.hold("work")
    await world.start(TEN)
    await world.clock.advance(8)
    await world.after_the_lease()
    task = world.spawn(world.runner().recover("e"))
    await world.clock.advance(8)
    assert not task.done()
    await world.clock.advance(2)
    assert (await task).error == "TimeoutError: timed out after 10 s"


async def test_a_timeout_in_a_branch_does_not_touch_the_others(world: World) -> None:
    world.desk.hold("work", "other")
    task = await world.start("""
        - id: both
          type: parallel
          wait: any
          output: result
          branches:
            - {id: a, type: call, service: desk, method: work, timeout: 10}
            - {id: b, type: call, service: desk, method: other, input: fine}
    """)
    await world.clock.advance(10)
    world.desk.release("other")
    assert (await task).output == [None, "fine"]


# -- the whole workflow ------------------------------------------------------------------------------------------------

HOUR = flow(
    """
    - {id: a, type: assign, set: {x: 1}, next: b}
    - {id: b, type: call, service: desk, method: work, output: y, next: ask}
    - {id: ask, type: halt, reason: well, next: c}
    - {id: c, type: call, service: desk, method: more, input: $y, next: d}
    - {id: d, type: end}
    """,
    timeout="1h",
)


async def test_a_workflow_that_takes_too_long_fails_where_it_is(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(HOUR)
    await world.clock.leap(3600)
    result = await task
    assert result.error == "TimeoutError: the workflow timed out after 3600 s"
    assert world.desk.cancelled == ["work"]


async def test_a_workflow_that_timed_out_keeps_its_progress(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(HOUR)
    await world.clock.leap(3600)
    await task
    assert await world.variables() == {"x": 1}
    assert (await world.entries())[2].metadata == {"reason": "timeout", "in_flight": True}


async def test_a_workflow_that_timed_out_can_be_retried_with_new_time(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(HOUR)
    await world.clock.leap(3600)
    await task
    world.desk.release()
    result = await world.runner().retry("e")
    assert result.halted
    assert world.desk.called == ["work", "work"]


async def test_waiting_for_people_counts(world: World) -> None:
    await world.run(HOUR, execution_id="e")
    await world.clock.leap(3599)
    assert (await world.runner().resume("e")).completed


async def test_a_workflow_whose_time_is_up_cannot_be_resumed(world: World) -> None:
    await world.run(HOUR, execution_id="e")
    await world.restart()
    await world.clock.leap(3600)
    with pytest.raises(df.ConflictError, match="timed out"):
        await world.runner().resume("e", response=1)
    assert (await world.load()).error == "TimeoutError: the workflow timed out after 3600 s"
    assert world.desk.called == ["work"]


async def test_time_that_is_up_shows_at_recovery(world: World) -> None:
    await world.run(HOUR, execution_id="e")
    await world.restart()
    await world.clock.leap(3600)
    result = await world.runner().recover("e")
    assert result.error == "TimeoutError: the workflow timed out after 3600 s"


async def test_time_runs_on_after_a_resume(world: World) -> None:
    await world.run(HOUR, execution_id="e")
    await world.restart()
    await world.clock.leap(3000)
    world.desk.hold("more")
    task = world.spawn(world.runner().resume("e"))
    await world.clock.advance(600)
    assert (await task).error == "TimeoutError: the workflow timed out after 3600 s"


async def test_recovering_after_the_time_is_up_makes_no_further_step(world: World) -> None:
    world.desk.hold("work")
    await world.start(HOUR)
    await world.kill()
    world.clock.time += 3600
    world.desk.release()
    await world.begin()
    result = await world.runner().recover("e")
    assert result.error == "TimeoutError: the workflow timed out after 3600 s"
    assert world.desk.called == ["work"]


async def test_when_the_time_of_a_halted_workflow_is_up_is_in_its_row(world: World) -> None:
    await world.run(HOUR, execution_id="e")
    wake_at = (await world.load()).wake_at
    assert wake_at is not None
    assert wake_at.timestamp() == START + 3600


async def test_the_timeout_of_a_workflow_is_not_handled_by_its_own_handler(world: World) -> None:
    world.desk.hold("work")
    workflow = flow(
        """
        - {id: a, type: call, service: desk, method: work, next: done}
        - {id: done, type: end, result: 1}
        - {id: sorry, type: end, result: sorry}
        """,
        timeout=10,
        on_error="sorry",
    )
    task = await world.start(workflow)
    await world.clock.advance(10)
    assert (await task).error == "TimeoutError: the workflow timed out after 10 s"


async def test_a_timeout_error_in_an_extension_step_is_a_step_error(world: World) -> None:
    """A workflow without a timeout never times out as a whole, and keeps its progress."""
    world.desk.answers["work"] = TimeoutError()
    await world.run(
        """
        - {id: a, type: assign, set: {x: 1}, next: b}
        - {id: b, type: call, service: desk, method: work}
        """,
        execution_id="e",
    )
    execution = await world.load()
    assert (execution.error, execution.ctx, execution.recover_to) == ("TimeoutError", {"x": 1}, "b")
