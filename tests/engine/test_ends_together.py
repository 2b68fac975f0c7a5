"""What happens when several things end, start or are called off at one moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import World, flow

TWO = """
- id: both
  type: parallel
  wait: any
  output: got
  next: ask
  branches: [{id: a, type: assign, set: {x: 1}}, {id: b, type: assign, set: {y: 2}}]
- {id: ask, type: halt, next: done}
- {id: done, type: end, result: [$got, $x, $y]}
"""


async def test_an_execution_halts_after_more_branches_ended_than_were_needed(world: World) -> None:
    result = await world.runtime.runner(flow(TWO, validate=False)).run()
    assert result.halted


async def test_every_branch_that_ended_by_then_counts(world: World) -> None:
    runner = world.runtime.runner(flow(TWO, validate=False))
    halted = await runner.run()
    assert (await runner.resume(halted.execution_id)).output == [[1, 2], 1, 2]


async def test_an_execution_halts_after_a_concurrent_loop_was_broken(world: World) -> None:
    steps = """
    - id: all
      type: loop
      over: [1, 2, 3]
      concurrency: 3
      next: ask
      do: [{id: one, type: assign, set: {x: $item}, next: __BREAK__}]
    - {id: ask, type: halt}
    """
    assert (await world.runtime.runner(flow(steps)).run()).halted


async def test_an_iteration_beside_others_ends_itself_only(world: World) -> None:
    steps = """
    - id: all
      type: loop
      over: [1, 2, 3]
      concurrency: 2
      output: got
      next: done
      do: [{id: one, type: assign, set: {x: $item}, next: __FINISHED__}]
    - {id: done, type: end, result: $got}
    """
    assert (await world.runtime.runner(flow(steps)).run()).output == [1, 2, 3]


async def test_a_workflow_that_timed_out_while_it_waited_asks_again_when_it_is_retried(world: World) -> None:
    runner = world.runtime.runner(flow("- {id: ask, type: approval, prompt: Well?}", timeout="10s"))
    await runner.run(execution_id="e")
    await world.clock.leap(20)
    with pytest.raises(df.ConflictError, match="timed out"):
        await runner.resume("e", approved=True)
    assert (await runner.retry("e")).halted
    assert (await runner.resume("e", approved=True)).completed


@pytest.mark.parametrize("name", ["ServiceError", "LimitExceeded", "OutputError", "SecretNotFound", "ServiceNotFound"])
async def test_errors_of_services_are_theirs_whatever_they_are_called(name: str) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise type(name, (Exception,), {})("theirs")

    steps: list[dict[str, Any]] = [
        {"id": "try", "type": "call", "service": "S", "method": "fail", "on_error": "saved",
         "retry": {"max_attempts": 3, "initial_interval": 0.001}},
        {"id": "saved", "type": "end", "result": "$_last_error.class"},
    ]  # fmt: skip
    document = {"id": "theirs", "name": "Theirs", "steps": steps}
    async with df.Runtime("sqlite://:memory:", workflows=[document], services={"S": {"fail": fail}}) as runtime:
        result = await runtime.runner("theirs").run()
    assert (result.output, len(calls)) == (name, 3)


async def test_a_service_that_gets_a_secret_cannot_change_the_variables_beside_it() -> None:
    def spoil(order: dict[str, Any], key: str) -> None:
        order["spoilt"] = key

    document = {"id": "w", "name": "W", "steps": [
        {"id": "a", "type": "assign", "set": {"order": {"n": 1}}, "next": "b"},
        {"id": "b", "type": "call", "service": "S", "method": "spoil", "next": "c",
         "input": {"order": "$order", "key": "$secrets.k"}},
        {"id": "c", "type": "end", "result": "$order"},
    ]}  # fmt: skip
    async with df.Runtime(
        "sqlite://:memory:", workflows=[document], services={"S": {"spoil": spoil}}, secrets={"k": "hidden"}
    ) as runtime:
        assert (await runtime.runner("w").run()).output == {"n": 1}


async def test_a_secret_that_comes_back_as_a_key_is_not_stored() -> None:
    document = {"id": "w", "name": "W", "steps": [
        {"id": "a", "type": "call", "service": "S", "method": "echo", "output": "result",
         "input": {"key": "$secrets.k"}},
    ]}  # fmt: skip
    async with df.Runtime(
        "sqlite://:memory:",
        workflows=[document],
        services={"S": {"echo": lambda key: {key: 1}}},
        secrets={"k": "hidden"},
    ) as runtime:
        assert (await runtime.runner("w").run()).output == {"***": 1}


async def test_calls_with_a_wrong_input_do_not_get_in_the_way_of_the_right_one(world: World) -> None:
    runner = world.runtime.runner(flow("- {id: ask, type: halt}"))
    await runner.run({"a": 1}, execution_id="e")
    given = await asyncio.gather(*(runner.run({"a": a}, execution_id="e") for a in (2, 1, 2)), return_exceptions=True)
    assert [type(result).__name__ for result in given] == ["ConflictError", "ExecutionResult", "ConflictError"]


def test_the_output_of_a_loop_cannot_take_the_name_of_its_counts() -> None:
    steps = "- {id: l, type: loop, over: [1], output: loop, do: [{id: a, type: assign, set: {x: 1}}]}"
    with pytest.raises(df.ValidationError, match="'loop' holds the counts of the loop"):
        flow(steps)


async def test_a_rejection_that_is_handled_is_among_the_approvals(world: World) -> None:
    steps = """
    - {id: may, type: approval, prompt: Well?, on_error: told}
    - {id: told, type: end, result: "$approvals.may.approved by ${approvals.may.votes.0.by}"}
    """
    runner = world.runtime.runner(flow(steps, validate=False))
    halted = await runner.run()
    result = await runner.resume(halted.execution_id, approved=False, by="ann")
    assert result.output == "false by ann"


async def test_a_child_that_goes_with_its_parent_tells_what_was_in_flight(world: World) -> None:
    child = flow("- {id: work, type: call, service: desk, method: work}", id="child")
    parent = flow("- {id: below, type: workflow, workflow_id: child}", id="parent")
    world.runtime.runner(child)
    runner = world.runtime.runner(parent)
    world.desk.hold("work")
    task = asyncio.create_task(runner.run(execution_id="e"))
    while not world.desk.called:
        await world.clock.advance()
    await runner.cancel("e")
    await task
    entries = await world.runtime.store.entries("e.below")
    told = [(str(entry.action), entry.path, entry.metadata.get("in_flight")) for entry in entries]
    assert told == [("started", "", None), ("cancelled", "work", True), ("finished", "", None)]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_a_service_cannot_ask_to_be_tried_again_never(seconds: float) -> None:
    with pytest.raises(ValueError, match="RetryAfter takes a number of seconds"):
        df.RetryAfter(seconds)
