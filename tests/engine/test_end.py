"""How a workflow completes, and with what."""

from __future__ import annotations

import pytest

from tests.engine.aid import World, flow


@pytest.mark.parametrize("value", [False, None, 0, "", [], {}])
async def test_an_empty_result_is_the_result(world: World, value: object) -> None:
    workflow = flow("""
        - {id: a, type: assign, set: {secret: hush}, next: done}
        - {id: done, type: end, result: $input.value}
    """)
    result = await world.run(workflow, {"value": value})
    assert (result.completed, result.output) == (True, value)


async def test_without_a_result_all_variables_are_the_result(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {x: 1, y: {z: 2}}, next: done}
        - {id: done, type: end}
    """)
    assert result.output == {"x": 1, "y": {"z": 2}}


async def test_variables_are_returned_as_they_are_and_not_resolved_again(world: World) -> None:
    result = await world.run(
        """
        - {id: a, type: assign, set: {api_key: hush, name: $input.name}, next: done}
        - {id: done, type: end}
        """,
        {"name": "$api_key"},
    )
    assert result.output["name"] == "$api_key"


async def test_a_workflow_that_runs_out_completes_with_the_variable_result(world: World) -> None:
    assert (await world.run("- {id: a, type: assign, set: {result: 7, other: 8}}\n")).output == 7


async def test_a_workflow_that_sets_no_result_completes_with_null(world: World) -> None:
    result = await world.run("- {id: a, type: assign, set: {other: 8}}\n")
    assert (result.completed, result.output) == (True, None)


async def test_a_step_may_go_to_the_end_by_its_reserved_name(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {result: 1}, next: __FINISHED__}
    """)
    assert (result.completed, result.output) == (True, 1)


async def test_the_result_is_the_variable_result_afterwards(world: World) -> None:
    result = await world.run("""
        - {id: done, type: end, result: {total: 3}}
    """)
    execution = await world.load(result)
    assert (execution.result, execution.ctx) == ({"total": 3}, {"result": {"total": 3}})


async def test_a_halted_execution_has_no_output_yet(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {result: early}, next: ask}
        - {id: ask, type: halt, reason: well?}
    """)
    assert (result.halted, result.output) == (True, None)
    assert (await world.load(result)).result is None


async def test_a_failed_execution_has_no_output(world: World) -> None:
    world.desk.answers["break"] = ValueError("no")
    result = await world.run("""
        - {id: a, type: assign, set: {result: early}, next: b}
        - {id: b, type: call, service: desk, method: break}
    """)
    assert (result.failed, result.output) == (True, None)


async def test_a_start_step_changes_nothing(world: World) -> None:
    result = await world.run(
        """
        - {id: begin, type: start, next: done}
        - {id: done, type: end, result: $input.n}
    """,
        {"n": 4},
    )
    assert result.output == 4


async def test_an_execution_that_is_over_says_when(world: World) -> None:
    await world.run("- {id: done, type: end, result: 1}\n", execution_id="e")
    execution = await world.load()
    assert execution.created_at is not None
    assert execution.created_at == execution.started_at == execution.finished_at
    assert (execution.status, execution.owner, execution.lease_until) == ("completed", None, None)
