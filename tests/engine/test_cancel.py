"""`runner.cancel`, and callers that are cancelled themselves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import World, flow

WORK = flow("""
    - {id: a, type: assign, set: {x: 1}, next: work}
    - {id: work, type: call, service: desk, method: work, next: after}
    - {id: after, type: call, service: desk, method: after}
""")

ASK = flow("""
    - {id: ask, type: halt, reason: well, next: after}
    - {id: after, type: call, service: desk, method: after}
""")


async def test_a_running_execution_is_cancelled(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(WORK)
    result = await world.runner().cancel("e", reason="changed my mind", by="ada")
    assert (result.cancelled, (await task).cancelled) == (True, True)
    assert world.desk.cancelled == ["work"]
    assert "after" not in world.desk.called


async def test_a_cancelled_execution_keeps_its_variables(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    await world.runner().cancel("e")
    assert await world.variables() == {"x": 1}


async def test_the_trail_says_who_cancelled_and_why_and_what_was_in_flight(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    await world.runner().cancel("e", reason="changed my mind", by="ada")
    in_flight, finished = (await world.entries())[-2:]
    assert (in_flight.path, in_flight.action) == ("work", "cancelled")
    assert in_flight.metadata == {"reason": "changed my mind", "in_flight": True}
    assert (finished.action, finished.actor, finished.metadata) == (
        "finished",
        "ada",
        {"status": "cancelled", "reason": "changed my mind"},
    )


async def test_without_a_reason_it_is_the_users_wish(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().cancel("e")
    assert (await world.entries())[-1].metadata["reason"] == "user_requested"


async def test_a_halted_execution_is_cancelled(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.restart()
    result = await world.runner().cancel("e")
    assert (result.cancelled, result.error) == (True, None)
    execution = await world.load()
    assert (execution.status, execution.blocked_on, execution.owner) == ("cancelled", [], None)


async def test_a_cancelled_execution_takes_no_answer(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().cancel("e")
    with pytest.raises(df.ConflictError, match="cancelled"):
        await world.runner().resume("e", response=1)
    assert world.desk.called == []


async def test_an_execution_in_another_process_is_cancelled(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(WORK)
    async with world.process(world.store) as other:
        call = world.spawn(other.runner("flow").cancel("e"))
        await world.clock.advance(1)
        assert (await call).cancelled
        assert (await task).cancelled


async def test_an_execution_nobody_drives_is_cancelled(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    await world.after_the_lease()
    assert (await world.runner().cancel("e")).cancelled


async def test_an_execution_in_backoff_is_cancelled(world: World) -> None:
    world.desk.answers["work"] = ValueError()
    task = await world.start("- {id: a, type: call, service: desk, method: work, retry: {initial_interval: 60}}\n")
    assert (await world.runner().cancel("e")).cancelled
    assert (await task).cancelled


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
async def test_an_execution_that_is_over_cannot_be_cancelled(world: World, state: str) -> None:
    if state == "failed":
        world.desk.answers["work"] = ValueError()
    if state == "cancelled":
        await world.run(ASK, execution_id="e")
        await world.runner().cancel("e")
    else:
        await world.run(WORK, execution_id="e")
    before = await world.entries()
    with pytest.raises(df.ConflictError, match=state):
        await world.runner().cancel("e")
    assert await world.entries() == before


async def test_cancelling_twice_at_once_is_cancelling_once(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    calls = [world.spawn(world.runner().cancel("e")) for _ in range(3)]
    await world.clock.advance(1)
    outcomes = [call.exception() for call in calls]
    assert all(outcome is None or isinstance(outcome, df.ConflictError) for outcome in outcomes)
    assert (await world.trail()).count("finished") == 1


async def test_a_cancelled_execution_cannot_be_retried(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().cancel("e")
    with pytest.raises(df.ConflictError, match="only a failed one"):
        await world.runner().retry("e")


async def test_handlers_do_not_handle_a_cancellation(world: World) -> None:
    world.desk.hold("work")
    await world.start("""
        - {id: work, type: call, service: desk, method: work, on_error: sorry}
        - {id: sorry, type: call, service: desk, method: sorry}
    """)
    assert (await world.runner().cancel("e")).cancelled
    assert world.desk.called == ["work"]


async def test_everything_under_way_is_recorded_when_branches_are_cancelled(world: World) -> None:
    world.desk.hold("a", "b")
    await world.start("""
        - id: both
          type: parallel
          branches:
            - {id: one, type: call, service: desk, method: a}
            - {id: two, type: call, service: desk, method: b}
            - {id: ask, type: halt, reason: well}
    """)
    await world.runner().cancel("e")
    cancelled = {
        entry.path: entry.metadata["in_flight"] for entry in await world.entries() if entry.action == "cancelled"
    }
    assert cancelled == {"both/one": True, "both/two": True, "both/ask": False, "both": False}


async def test_a_service_may_cancel_its_own_execution(world: World) -> None:
    world.desk.answers["work"] = lambda _: world.runner().cancel("e", reason="enough")
    result = await world.run(WORK, execution_id="e")
    assert result.cancelled
    assert world.desk.called == ["work"]


async def test_children_of_children_are_cancelled_with_the_reason(world: World) -> None:
    world.know(flow("- {id: ask, type: halt, reason: well}\n", id="grandchild"))
    world.know(flow("- {id: sub, type: workflow, workflow_id: grandchild}\n", id="child"))
    await world.run("- {id: sub, type: workflow, workflow_id: child}\n", execution_id="e")
    await world.restart()
    await world.runner().cancel("e")
    await world.clock.advance()
    assert {found.id: found.status for found in await world.store.find()} == dict.fromkeys(
        ["e", "e.sub", "e.sub.sub"], df.Status.CANCELLED
    )


@pytest.mark.parametrize("wrong", [{"by": 5}, {"by": ""}, {"reason": 5}, {"reason": "\ud800"}, {"reason": ["x"]}])
async def test_who_cancels_and_why_is_checked(world: World, wrong: dict[str, Any]) -> None:
    await world.run(ASK, execution_id="e")
    with pytest.raises(df.ValidationError):
        await world.runner().cancel("e", **wrong)
    assert (await world.load()).status == "halted"


# -- callers -----------------------------------------------------------------------------------------------------------


async def test_a_caller_that_is_cancelled_leaves_the_execution_to_be_recovered_at_once(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(WORK)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    execution = await world.load()
    assert (execution.status, execution.owner, execution.current_step) == ("running", None, "work")
    world.desk.release()
    assert (await world.runner().recover("e")).completed


async def test_a_caller_that_is_cancelled_leaves_no_trace_of_it(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(WORK)
    task.cancel()
    await world.clock.advance()
    assert await world.trail() == ["started", "a completed"]


async def test_a_caller_with_a_timeout_of_its_own_gets_it(world: World) -> None:
    world.desk.hold("work")
    runner = world.runner(WORK)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await runner.run(execution_id="e")
    assert (await world.load()).owner is None


async def test_a_caller_that_only_follows_may_be_cancelled(world: World) -> None:
    world.desk.hold("work")
    first = await world.start(WORK)
    second = world.spawn(world.runner().run(execution_id="e"))
    await world.clock.advance()
    second.cancel()
    await world.clock.advance()
    world.desk.release()
    assert (await first).completed
    assert second.cancelled()


async def test_who_follows_takes_over_from_a_cancelled_caller(world: World) -> None:
    world.desk.hold("work")
    first = await world.start(WORK)
    second = world.spawn(world.runner().run(execution_id="e"))
    await world.clock.advance()
    first.cancel()
    world.desk.release()
    await world.clock.advance(1)
    assert (await second).completed


async def test_a_cancelled_answer_that_was_accepted_stays_one(world: World) -> None:
    world.desk.hold("after")
    await world.run(ASK, execution_id="e")
    task = world.spawn(world.runner().resume("e", response=1))
    await world.clock.advance()
    task.cancel()
    await world.clock.advance()
    world.desk.release()
    assert (await world.runner().recover("e")).completed
    assert "ask answered" in await world.trail()


async def test_a_caller_cancelled_in_a_nested_step_is_recovered_there(world: World) -> None:
    world.desk.hold("b")
    workflow = flow("""
        - id: each
          type: loop
          over: [1, 2]
          output: out
          do:
            - id: both
              type: parallel
              output: pair
              branches:
                - {id: one, type: call, service: desk, method: a, input: $item}
                - {id: two, type: call, service: desk, method: b, input: $item}
          next: done
        - {id: done, type: end, result: $out}
    """)
    task = await world.start(workflow)
    task.cancel()
    await world.clock.advance()
    world.desk.release()
    assert (await world.runner().recover("e")).output == [[1, 1], [2, 2]]
    assert world.desk.called == ["a", "b", "b", "a", "b"]


async def test_a_service_that_delays_its_cancellation_delays_nothing_else(world: World) -> None:
    """Its branch ends later; the lease is given back when everything has ended."""
    gate = asyncio.Event()

    async def tidy(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            gate.set()

    world.desk.answers["work"] = tidy
    task = await world.start(WORK)
    task.cancel()
    await world.clock.advance()
    assert gate.is_set()
    assert (await world.load()).owner is None
