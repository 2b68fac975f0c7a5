"""`runner.recover`, `runner.retry`, leases, and runtimes that are left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import durable_flow as df
from durable_flow.stores.base import Commit, Committed
from tests.engine.aid import START, World, flow

BREAKS = ConnectionError("no line")

WORK = flow("""
    - {id: first, type: call, service: desk, method: first, output: x, next: work}
    - {id: work, type: call, service: desk, method: work, output: y, next: done}
    - {id: done, type: end, result: [$x, $y]}
""")

ASK = flow("- {id: ask, type: halt, reason: well, next: done}\n- {id: done, type: end, result: $response}\n")


# -- recover -----------------------------------------------------------------------------------------------------------


async def test_recovery_goes_on_at_the_step_that_was_under_way(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    await world.after_the_lease()
    world.desk.release()
    assert (await world.runner().recover("e")).completed
    assert world.desk.called == ["first", "work", "work"]
    assert world.desk.keys("work") == ["e:work"] * 2


async def test_the_trail_says_that_it_was_recovered(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    await world.after_the_lease()
    world.desk.release()
    await world.runner().recover("e")
    assert await world.trail() == [
        "started",
        "first completed",
        "recovered",
        "work completed",
        "done completed",
        "finished",
    ]


async def test_while_the_lease_lasts_nobody_else_goes_on(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    await world.kill()
    world.clock.time += 29
    await world.begin()
    with pytest.raises(df.ConflictError, match="being driven"):
        await world.runner().recover("e")
    assert world.desk.called == ["first", "work"]


async def test_what_runs_here_cannot_be_recovered(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(WORK)
    with pytest.raises(df.ConflictError, match="this process"):
        await world.runner().recover("e")
    world.desk.release()
    assert (await task).completed


async def test_recovering_what_is_over_returns_its_result(world: World) -> None:
    await world.run(WORK, execution_id="e")
    before = await world.entries()
    assert (await world.runner().recover("e")).output == [None, None]
    assert await world.entries() == before


async def test_recovering_what_waits_returns_its_waits(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.restart()
    assert [halt.wait_id for halt in (await world.runner().recover("e")).halts] == ["e:ask"]


async def test_recovering_what_waits_deep_inside_changes_nothing(world: World) -> None:
    await world.run("""
        - id: outer
          type: parallel
          branches:
            - id: side
              do:
                - {id: both, type: parallel, branches: [{id: ask, type: halt}, {id: set, type: assign, set: {a: 1}}]}
    """, execution_id="e")  # fmt: skip
    before = await world.entries("e")
    assert (await world.runner().recover("e")).halted
    assert await world.entries("e") == before


async def test_recovering_what_is_not_there_is_an_error(world: World) -> None:
    with pytest.raises(df.ExecutionNotFound):
        await world.runner(WORK).recover("nobody")


async def test_two_recoveries_at_once_drive_once(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    await world.after_the_lease()
    world.desk.release()
    calls = [world.spawn(world.runner().recover("e")) for _ in range(2)]
    await world.clock.advance(1)
    assert world.desk.called == ["first", "work", "work"]
    assert any(call.exception() is None for call in calls)


async def test_an_answer_that_was_accepted_before_a_crash_counts_after_it(world: World) -> None:
    await world.run(ASK, execution_id="e")
    runner = world.runner()
    world.wire.watchers.append(lambda verb: world.die() if verb == "claim" else None)
    call = world.spawn(runner.resume("e", response=7))
    await world.clock.advance()
    assert call.done()
    await world.after_the_lease()
    assert (await world.runner().recover("e")).output == 7


async def test_what_kills_its_process_again_and_again_is_failed(world: World) -> None:
    world.desk.hold("work")
    await world.restart(max_recoveries=3)
    await world.start(WORK)
    for _ in range(3):
        await world.after_the_lease()
        world.spawn(world.runner().recover("e"))
        await world.clock.advance()
    assert world.desk.called == ["first"] + ["work"] * 4
    await world.after_the_lease()
    result = await world.runner().recover("e")
    assert result.error_info is not None
    assert (result.error_info.type, result.error_info.step) == ("Poisoned", "work")
    assert len(world.desk.called) == 5


@pytest.mark.parametrize("place", ["branch", "loop", "child"])
async def test_what_kills_its_process_from_further_down_is_failed_too(world: World, place: str) -> None:
    world.desk.hold("work")
    await world.restart(max_recoveries=2)
    world.know(flow("- {id: work, type: call, service: desk, method: work}\n", id="child"))
    inner = "{id: work, type: call, service: desk, method: work}"
    step = {
        "branch": f"{{id: both, type: parallel, branches: [{inner}, {{id: x, type: assign, set: {{x: 1}}}}]}}",
        "loop": f"{{id: each, type: loop, over: [1, 2], concurrency: 2, do: [{inner}]}}",
        "child": "{id: sub, type: workflow, workflow_id: child}",
    }[place]
    await world.start(f"- {step}\n")
    for _ in range(2):
        await world.after_the_lease()
        world.spawn(world.runner().recover("e"))
        await world.clock.advance()
    called = len(world.desk.called)
    assert called == (6 if place == "loop" else 3)
    await world.after_the_lease()
    result = await world.runner().recover("e")
    assert result.error is not None
    assert result.error.startswith("Poisoned")
    assert len(world.desk.called) == called


async def test_progress_between_crashes_forgives_them(world: World) -> None:
    world.desk.hold("work")
    await world.restart(max_recoveries=2)
    workflow = flow("""
        - id: each
          type: loop
          over: [1, 2, 3, 4, 5]
          do: [{id: work, type: call, service: desk, method: work}]
    """)
    await world.start(workflow)
    for _ in range(5):
        world.desk.release("work")
        world.desk.answers["work"] = lambda _: world.desk.hold("work")
        await world.clock.advance()
        await world.after_the_lease()
        task = world.spawn(world.runner().recover("e"))
        await world.clock.advance()
    world.desk.answers.clear()
    world.desk.release("work")
    await world.clock.advance()
    assert (await task).completed


# -- retry -------------------------------------------------------------------------------------------------------------


async def test_a_retry_goes_on_at_the_step_that_failed(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "fine"]
    await world.run(WORK, execution_id="e")
    await world.restart()
    result = await world.runner().retry("e", by="ada")
    assert result.output == [None, "fine"]
    assert world.desk.called == ["first", "work", "work"]
    assert world.desk.keys("work") == ["e:work"] * 2


async def test_a_retry_has_all_its_attempts_again(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, BREAKS, BREAKS, "fine"]
    workflow = flow(
        "- {id: a, type: call, service: desk, method: work, retry: {max_attempts: 2, initial_interval: 0}}\n"
    )
    assert (await world.run(workflow, execution_id="e")).failed
    assert (await world.runner().retry("e")).completed


async def test_so_has_a_retry_of_what_ran_out_of_time_in_a_process_that_died(world: World) -> None:
    workflow = flow(
        """
        - id: work
          type: call
          service: desk
          method: work
          retry: {max_attempts: 2, initial_interval: 1, jitter: 0}
        """,
        timeout=60,
    )
    world.desk.answers["work"] = [BREAKS, BREAKS, "fine"]
    await world.start(workflow)
    world.desk.hold("work")
    await world.clock.advance(2)
    assert world.desk.called == ["work", "work"]
    await world.after_the_lease()
    await world.clock.leap(60)
    assert (await world.runner().recover("e")).error_info.type == "TimeoutError"  # type: ignore[union-attr]
    world.desk.release()
    retrying = world.spawn(world.runner().retry("e"))
    await world.clock.advance(2)
    assert (await retrying).completed
    assert world.desk.called == ["work"] * 4


async def test_the_trail_says_who_retried(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "fine"]
    await world.run(WORK, execution_id="e")
    await world.runner().retry("e", by="ada")
    entry = next(entry for entry in await world.entries() if entry.action == "retried")
    assert (entry.path, entry.actor) == ("", "ada")


async def test_a_retried_execution_is_over_no_more(world: World) -> None:
    world.desk.answers["work"] = [BREAKS]
    await world.run(WORK, execution_id="e")
    world.desk.answers.clear()
    world.desk.hold("work")
    world.spawn(world.runner().retry("e"))
    await world.clock.advance()
    execution = await world.load()
    assert (execution.status, execution.error, execution.finished_at) == ("running", None, None)


async def test_a_retry_enters_the_innermost_failed_step(world: World) -> None:
    world.desk.answers["work"] = [1, BREAKS, 2, 3]
    workflow = flow("""
        - id: each
          type: loop
          over: [a, b, c]
          output: out
          do:
            - {id: before, type: call, service: desk, method: before, input: $item}
            - {id: work, type: call, service: desk, method: work, input: $item}
          next: done
        - {id: done, type: end, result: $out}
    """)
    await world.run(workflow, execution_id="e")
    await world.restart()
    assert (await world.runner().retry("e")).output == [1, 2, 3]
    assert world.desk.values("before") == ["a", "b", "c"]
    assert world.desk.values("work") == ["a", "b", "b", "c"]


async def test_a_retry_leaves_finished_branches_alone_and_enters_cancelled_ones(world: World) -> None:
    workflow = flow("""
        - id: all
          type: parallel
          fail_fast: true
          output: out
          branches:
            - {id: one, type: call, service: desk, method: one, input: 1}
            - {id: two, type: call, service: desk, method: two, input: 2}
            - {id: three, type: call, service: desk, method: three, input: 3}
          next: done
        - {id: done, type: end, result: $out}
    """)
    world.desk.hold("two", "three")
    task = await world.start(workflow)
    world.desk.answers["two"] = BREAKS
    world.desk.release("two")
    assert (await task).failed
    world.desk.answers.clear()
    world.desk.release()
    await world.restart()
    assert (await world.runner().retry("e")).output == [1, 2, 3]
    assert [world.desk.called.count(name) for name in ("one", "two", "three")] == [1, 2, 2]


async def test_a_retry_keeps_what_the_failed_body_had_set(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "fine"]
    workflow = flow("""
        - id: each
          type: loop
          over: [a]
          output: out
          do:
            - {id: set, type: assign, set: {x: $item}}
            - {id: work, type: call, service: desk, method: work}
            - {id: look, type: assign, set: {seen: $x}}
          next: done
        - {id: done, type: end, result: [$out, $x]}
    """, validate=False)  # fmt: skip
    await world.run(workflow, execution_id="e")
    await world.restart()
    assert (await world.runner().retry("e")).output == [["a"], "a"]


async def test_failed_items_that_were_skipped_stay_skipped(world: World) -> None:
    world.desk.answers |= {"work": [BREAKS, 2], "after": [BREAKS, 1]}
    workflow = flow("""
        - id: each
          type: loop
          over: [a, b]
          on_item_error: skip
          output: out
          do: [{id: work, type: call, service: desk, method: work}]
          next: after
        - {id: after, type: call, service: desk, method: after, next: done}
        - {id: done, type: end, result: $out}
    """)
    await world.run(workflow, execution_id="e")
    assert (await world.runner().retry("e")).output == [None, 2]
    assert world.desk.called == ["work", "work", "after", "after"]


async def test_a_retry_can_fail_again(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, ValueError("still"), "fine"]
    await world.run(WORK, execution_id="e")
    assert (await world.runner().retry("e")).error == "ValueError: still"
    assert (await world.runner().retry("e")).completed


@pytest.mark.parametrize("state", ["completed", "halted"])
async def test_only_what_failed_can_be_retried(world: World, state: str) -> None:
    await world.run(ASK, execution_id="e")
    if state == "completed":
        await world.runner().resume("e")
    before = await world.entries()
    with pytest.raises(df.ConflictError, match="only a failed one"):
        await world.runner().retry("e")
    assert await world.entries() == before


async def test_two_retries_at_once_are_one(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "fine"]
    await world.run(WORK, execution_id="e")
    calls = [world.spawn(world.runner().retry("e")) for _ in range(2)]
    await world.clock.advance(1)
    outcomes = [call.exception() for call in calls]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ConflictError", "NoneType"]
    assert world.desk.called == ["first", "work", "work"]


# -- leases ------------------------------------------------------------------------------------------------------------


async def test_an_execution_is_held_while_it_runs_and_given_back_when_it_waits(world: World) -> None:
    seen: list[df.Execution] = []

    async def look(_: Any) -> None:
        seen.append(await world.load())

    world.desk.answers["look"] = look
    await world.run(
        """
        - {id: look, type: call, service: desk, method: look, next: ask}
        - {id: ask, type: halt, reason: well}
        """,
        execution_id="e",
    )
    assert seen[0].owner == world.runtime.engine.owner
    assert seen[0].lease_until is not None
    assert seen[0].lease_until.timestamp() == START + 30
    assert (await world.load()).owner is None


async def test_the_lease_of_what_runs_for_long_is_renewed(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(WORK)
    await world.clock.advance(100)
    lease_until = (await world.load()).lease_until
    assert lease_until is not None
    assert lease_until.timestamp() > world.clock.now()
    world.desk.release()
    assert (await task).completed


async def test_who_lost_the_lease_changes_nothing_and_follows_the_new_owner(world: World) -> None:
    """A process that was stopped for longer than its lease wakes up and finds another one at work."""
    world.desk.hold("work")
    task = await world.start(WORK)
    world.clock.time += 31
    async with world.process(world.store) as other:
        second = world.spawn(other.runner("flow").recover("e"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert world.desk.called == ["first", "work", "work"]
        world.desk.release()
        await world.clock.advance(1)
        assert (await second).completed
        assert (await task).completed
    assert (await world.trail()).count("work completed") == 1
    assert (await world.load()).generation == 2


async def test_generations_count_the_owners(world: World) -> None:
    await world.run(ASK, execution_id="e")
    assert (await world.load()).generation == 1
    await world.runner().resume("e")
    assert (await world.load()).generation == 2


# -- leaving the runtime -----------------------------------------------------------------------------------------------


async def test_a_store_that_stays_silent_fails_no_step(world: World) -> None:
    def silent(_: Commit) -> asyncio.Future[Committed]:
        answer = asyncio.get_running_loop().create_future()
        answer.set_exception(df.StoreUnavailable("no answer"))
        return answer

    async def gone(_: str) -> None:
        raise df.StoreUnavailable("no answer")

    world.desk.hold("work")
    task = await world.start(WORK)
    world.wire.commit, world.wire.row = silent, gone  # type: ignore[method-assign, assignment]
    world.desk.release()
    await world.clock.advance(60)
    with pytest.raises(df.StoreError, match=r"did not answer .* goes on from its last committed step"):
        await task
    await world.after_the_lease()
    assert (await world.runner().recover("e")).completed
    assert world.desk.called == ["first", "work", "work"]
    assert "work failed" not in await world.trail()


async def test_leaving_the_runtime_gives_running_steps_some_time(world: World) -> None:
    await world.restart(grace=10)
    world.desk.hold("work")
    task = await world.start(WORK)
    leaving = world.spawn(world.runtime.close())
    await world.clock.advance(5)
    world.desk.release()
    await world.clock.advance(1)
    assert (await task).completed
    await leaving
    await world.begin(grace=0)


async def test_leaving_the_runtime_stops_what_does_not_end_in_time(world: World) -> None:
    await world.restart(grace=10)
    world.desk.hold("work")
    task = await world.start(WORK)
    leaving = world.spawn(world.runtime.close())
    await world.clock.advance(11)
    await leaving
    with pytest.raises(df.ConflictError, match="closed"):
        await task
    assert (await world.load()).owner is None
    world.desk.release()
    await world.begin(grace=0)
    assert (await world.runner().recover("e")).completed


async def test_a_runtime_that_was_left_starts_nothing(world: World) -> None:
    runner = world.runner(WORK)
    await world.runtime.close()
    for call in (runner.run(), runner.resume("e"), runner.retry("e"), runner.recover("e")):
        with pytest.raises(df.ConflictError, match="closed"):
            await call
    assert await world.store.execution_ids() == []
    await world.begin()


async def test_nothing_is_left_running_behind_a_runtime(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    await world.runtime.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert [task for task in others if not task.done()] == []
    await world.begin()


async def test_a_process_that_stood_still_begins_no_step_that_another_one_has_finished(world: World) -> None:
    commit = world.wire.commit

    def answered_late(given: Commit) -> asyncio.Future[Committed]:
        landed = commit(given)
        if world.desk.called != ["first"]:
            return landed
        late: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        world.spawn(stand_still(landed, late))
        return late

    async def stand_still(landed: asyncio.Future[Committed], late: asyncio.Future[Committed]) -> None:
        world.clock.time += 31
        async with world.process(world.store) as other:
            assert (await other.runner("flow").recover("e")).completed
        late.set_result(landed.result())

    world.wire.commit = answered_late  # type: ignore[method-assign]
    task = await world.start(
        """
        - {id: first, type: call, service: desk, method: first, next: second}
        - {id: second, type: call, service: desk, method: second, output: result}
        """
    )
    assert world.desk.called == ["first", "second"]
    await world.clock.advance(5)
    assert (await task).completed
    assert world.desk.called == ["first", "second"]


@pytest.mark.parametrize(("away", "calls"), [(15, 1), (28, 2)])
async def test_a_call_whose_end_cannot_be_committed_is_repeated_only_when_the_lease_may_have_run_out(
    world: World, away: float, calls: int
) -> None:
    """The store is away from when the call returns, shortly before the lease would have been renewed."""
    back = 0.0
    commit = world.wire.commit

    def unavailable(verb: str) -> None:
        if world.clock.monotonic() < back:
            raise df.StoreUnavailable("it is away")

    def unanswered(given: Commit) -> asyncio.Future[Committed]:
        try:
            return commit(given)
        except df.StoreUnavailable as error:
            lost: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
            lost.set_exception(error)
            return lost

    async def first(value: Any) -> str:
        nonlocal back
        await world.clock.sleep(9.5)
        back = back or world.clock.monotonic() + away
        return "done"

    world.desk.answers["first"] = first
    world.wire.watchers.append(unavailable)
    world.wire.commit = unanswered  # type: ignore[method-assign]
    task = await world.start(WORK)
    for _ in range(100):
        await world.clock.advance(1)
    assert (await task).completed
    assert world.desk.called == ["first"] * calls + ["work"]
    assert len(set(world.desk.keys("first"))) == 1
