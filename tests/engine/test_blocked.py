"""Steps that a person decides about: their retries are exhausted, or nobody knows whether they happened."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import World, flow

TRIES = """
- id: pay
  type: call
  service: desk
  method: pay
  output: result
  retry: {max_attempts: 2, initial_interval: 0.1, jitter: 0, on_exhausted: halt}
  on_error: handle
  next: done
- {id: done, type: end, result: $result}
- {id: handle, type: end, result: $_last_error.message}
"""

ONCE = """
- id: pay
  type: call
  service: desk
  method: pay
  output: result
  delivery: at_most_once
  on_error: handle
  next: done
- {id: done, type: end, result: $result}
- {id: handle, type: end, result: $_last_error.message}
"""

BROKEN = ConnectionError("no line")


async def exhausted(world: World, **options: Any) -> df.ExecutionResult:
    world.desk.answers["pay"] = [BROKEN, BROKEN, *options.pop("then", [])]
    task = world.spawn(world.runner(flow(TRIES, **options)).run(execution_id="e"))
    await world.clock.advance(1)
    return await task


# -- retries are exhausted --------------------------------------------------------------------------------------------


async def test_the_execution_waits_for_a_person_when_all_attempts_failed(world: World) -> None:
    result = await exhausted(world)
    assert result.halted
    assert result.halt is not None
    assert (result.halt.type, result.halt.path) == ("error", "pay")
    loaded = await world.load()
    (wait,) = loaded.blocked_on
    assert (loaded.status, loaded.owner, wait.__struct_config__.tag) == ("halted", None, "error")
    (why,) = await world.runner().why("e")
    assert why.reason == "somebody to decide about ConnectionError: no line"


async def test_a_person_has_it_tried_again_with_all_its_attempts_and_the_same_key(world: World) -> None:
    await exhausted(world, then=[BROKEN, "paid"])
    task = world.spawn(world.runner().retry("e", by="alice"))
    await world.clock.advance(1)
    assert (await task).output == "paid"
    assert len(world.desk.calls) == 4
    assert len(set(world.desk.keys("pay"))) == 1
    assert [entry.actor for entry in await world.entries() if entry.actor] == ["alice"]


async def test_it_can_be_exhausted_again(world: World) -> None:
    await exhausted(world, then=[BROKEN, BROKEN, "paid"])
    task = world.spawn(world.runner().retry("e"))
    await world.clock.advance(1)
    assert (await task).halted
    assert (await world.runner().retry("e")).output == "paid"


async def test_a_person_answers_in_its_place(world: World) -> None:
    await exhausted(world)
    result = await world.runner().resume("e", response={"receipt": 7}, by="alice")
    assert result.output == {"receipt": 7}
    assert len(world.desk.calls) == 2


async def test_an_answer_that_does_not_fit_the_output_schema_is_a_step_error(world: World) -> None:
    steps = TRIES.replace("output: result", "output: {key: result, schema: {type: string}}")
    world.desk.answers["pay"] = BROKEN
    task = world.spawn(world.runner(flow(steps)).run(execution_id="e"))
    await world.clock.advance(1)
    await task
    result = await world.runner().resume("e", response=7)
    assert "does not fit the output schema" in result.output


async def test_a_person_lets_it_fail_and_the_handler_follows(world: World) -> None:
    await exhausted(world)
    assert (await world.runner().fail("e", reason="bank is bankrupt")).output == "no line (bank is bankrupt)"


async def test_without_a_handler_the_execution_has_failed(world: World) -> None:
    world.desk.answers["pay"] = BROKEN
    steps = flow(
        TRIES.replace("  on_error: handle\n", "").replace("- {id: handle, type: end, result: $_last_error.message}", "")
    )
    task = world.spawn(world.runner(steps).run(execution_id="e"))
    await world.clock.advance(1)
    await task
    result = await world.runner().fail("e")
    assert result.error == "ConnectionError: no line"


async def test_of_two_decisions_the_first_counts(world: World) -> None:
    await exhausted(world, then=["paid"])
    outcomes = await asyncio.gather(world.runner().retry("e"), world.runner().fail("e"), return_exceptions=True)
    assert sum(isinstance(outcome, df.ConflictError) for outcome in outcomes) == 1


async def test_an_error_that_is_not_to_be_retried_waits_for_a_person_too(world: World) -> None:
    world.desk.answers["pay"] = df.NonRetryableError("card is stolen")
    result = await world.run(flow(TRIES))
    assert result.halted


@pytest.mark.parametrize("call", ["retry", "fail"])
async def test_what_waits_for_something_else_cannot_be_decided_about(world: World, call: str) -> None:
    await world.run(flow("- {id: ask, type: halt}"), execution_id="e")
    with pytest.raises(df.ConflictError, match="decide"):
        await getattr(world.runner(), call)("e")


async def test_in_a_branch_it_blocks_only_its_branch(world: World) -> None:
    fan = """
    - id: fan
      type: parallel
      output: result
      branches:
        - {id: a, do: [{id: pay, type: call, service: desk, method: pay, retry: {max_attempts: 1, on_exhausted: halt}}]}
        - {id: b, do: [{id: ship, type: call, service: desk, method: ship, input: {v: 1}}]}
    """
    world.desk.answers["pay"] = [BROKEN, "paid"]
    result = await world.run(fan, execution_id="e")
    assert [halt.path for halt in result.halts] == ["fan/a/pay"]
    assert (await world.runner().retry("e")).completed
    assert world.desk.called.count("ship") == 1


async def test_a_handler_for_halts_may_answer_it(world: World) -> None:
    world.desk.answers["pay"] = BROKEN
    runner = world.runner(flow(TRIES.replace("max_attempts: 2", "max_attempts: 1")))
    result = await runner.run_until_complete(on_halt=lambda halt: f"skipped {halt.type}")
    assert result.output == "skipped error"


# -- long pauses between attempts -------------------------------------------------------------------------------------

LONG = TRIES.replace("initial_interval: 0.1", "initial_interval: 1h, max_interval: 1d")


async def test_between_attempts_far_apart_nothing_is_held_in_memory(world: World) -> None:
    world.desk.answers["pay"] = [BROKEN, "paid"]
    task = await world.start(flow(LONG))
    loaded = await world.load()
    (wait,) = loaded.blocked_on
    assert (loaded.status, loaded.owner, wait.__struct_config__.tag) == ("halted", None, "retry")
    assert world.runtime.engine.runs == {}
    await world.clock.leap(3600)
    assert (await task).output == "paid"


async def test_a_worker_makes_the_next_attempt(world: World) -> None:
    world.desk.answers["pay"] = [BROKEN, "paid"]
    await world.start(flow(LONG))
    await world.restart()
    task = world.spawn(df.Worker(world.runtime).run())
    await world.clock.leap(3600)
    await world.clock.advance(5)
    assert (await world.load()).result == "paid"
    assert [context.attempt for context in world.desk.contexts] == [1, 2]
    task.cancel()


async def test_cancelling_between_attempts_leaves_an_entry(world: World) -> None:
    world.desk.answers["pay"] = BROKEN
    task = await world.start(flow(LONG))
    await world.runner().cancel("e")
    assert (await task).cancelled


# -- at most once -----------------------------------------------------------------------------------------------------


async def test_a_call_that_goes_well_is_a_call_like_others(world: World) -> None:
    world.desk.answers["pay"] = "paid"
    assert (await world.run(flow(ONCE))).output == "paid"


async def test_a_mark_is_durable_before_the_call_is_made(world: World) -> None:
    marks: list[Any] = []

    async def pay(value: Any) -> str:
        marks.extend(entry.action for entry in await world.entries() if entry.step_id == "pay")
        return "paid"

    world.desk.answers["pay"] = pay
    await world.run(flow(ONCE), execution_id="e")
    assert marks == ["started"]


async def crashed(world: World) -> df.ExecutionResult:
    world.desk.hold("pay")
    await world.start(flow(ONCE))
    await world.after_the_lease()
    world.desk.release()
    return await world.runner().recover("e")


async def test_a_call_that_was_under_way_in_a_crash_is_not_made_again(world: World) -> None:
    result = await crashed(world)
    assert result.halted
    assert result.halt is not None
    assert result.halt.type == "uncertain"
    assert world.desk.called == ["pay"]
    (why,) = await world.runner().why("e")
    assert why.reason == "somebody to find out whether it happened"


async def test_it_stays_uncertain_however_often_it_is_recovered(world: World) -> None:
    await crashed(world)
    await world.restart()
    assert (await world.runner().recover("e")).halted
    assert world.desk.called == ["pay"]


async def test_a_person_says_that_it_happened(world: World) -> None:
    await crashed(world)
    assert (await world.runner().resume("e", response="it was paid")).output == "it was paid"
    assert world.desk.called == ["pay"]


async def test_a_person_says_that_it_did_not_and_it_is_made(world: World) -> None:
    await crashed(world)
    world.desk.answers["pay"] = "paid"
    assert (await world.runner().retry("e")).output == "paid"
    assert len(set(world.desk.keys("pay"))) == 1


async def test_a_person_gives_it_up(world: World) -> None:
    await crashed(world)
    assert (
        "nobody knows whether it happened (asked the bank)"
        in (await world.runner().fail("e", reason="asked the bank")).output
    )


async def test_a_caller_that_was_cancelled_in_the_call_leaves_it_uncertain(world: World) -> None:
    world.desk.hold("pay")
    task = await world.start(flow(ONCE))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert (await world.runner().recover("e")).halted


async def test_a_runtime_that_ends_in_the_call_leaves_it_uncertain(world: World) -> None:
    world.desk.hold("pay")
    await world.start(flow(ONCE))
    await world.restart()
    result = await world.runner().recover("e")
    assert [halt.type for halt in result.halts] == ["uncertain"]
    assert world.desk.called == ["pay"]


async def test_a_call_that_takes_too_long_fails_its_step_and_is_not_made_again(world: World) -> None:
    world.desk.hold("pay")
    task = await world.start("""
        - {id: pay, type: call, service: desk, method: pay, delivery: at_most_once, timeout: 10}
    """)
    await world.clock.advance(10)
    result = await task
    assert result.error == "TimeoutError: timed out after 10 s"
    await world.restart()
    assert await world.runner().recover("e") == result
    assert world.desk.called == ["pay"]


async def test_an_error_of_the_service_is_a_known_outcome(world: World) -> None:
    world.desk.answers["pay"] = BROKEN
    assert (await world.run(flow(ONCE))).output == "no line"


async def test_a_retry_of_the_failed_execution_makes_the_call(world: World) -> None:
    world.desk.answers["pay"] = [BROKEN, "paid"]
    steps = flow(
        ONCE.replace("  on_error: handle\n", "").replace("- {id: handle, type: end, result: $_last_error.message}", "")
    )
    assert (await world.run(steps, execution_id="e")).failed
    assert (await world.runner().retry("e")).output == "paid"


def test_at_most_once_and_retries_contradict_each_other() -> None:
    with pytest.raises(df.ValidationError, match="at most once"):
        flow(ONCE.replace("delivery: at_most_once", "delivery: at_most_once\n  retries: 2"))


async def test_an_answer_to_an_earlier_failure_of_a_step_does_not_count_for_a_later_one(world: World) -> None:
    first = await exhausted(world, then=[BROKEN, BROKEN])
    assert first.halt is not None
    retrying = world.spawn(world.runner().retry("e"))
    await world.clock.advance(1)
    second = await retrying
    assert second.halt is not None
    assert (second.halt.path, second.halt.wait_id == first.halt.wait_id) == ("pay", False)
    with pytest.raises(df.ConflictError):
        await world.runner().resume("e", response="late", wait_id=first.halt.wait_id)
    assert (await world.runner().resume("e", response="skipped", wait_id=second.halt.wait_id)).output == "skipped"


async def test_an_answer_for_a_gate_becomes_its_output(world: World) -> None:
    def broken(params: Any, context: df.StepContext) -> df.Gate:
        raise BROKEN

    await world.restart(gates={"checks": broken})
    steps = "- {id: g, type: gate, resolver: checks, output: result, retry: {max_attempts: 1, on_exhausted: halt}}\n"
    assert (await world.run(steps, execution_id="e")).halted
    assert (await world.runner().resume("e", response={"log": "fine"})).output == {"log": "fine"}
