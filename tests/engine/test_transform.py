"""`transform` in running workflows."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import World


async def transformed(world: World, expression: Any, value: Any, *, path: str = "input.x", **more: Any) -> Any:
    workflow = df.load({
        "id": "flow",
        "name": "flow",
        "steps": [{"id": "t", "type": "transform", "input": path, "expression": expression, "output": "result"}],
    })  # fmt: skip
    result = await world.run(workflow, {"x": value, **more})
    return result.output if result.completed else result.error


async def test_operations_run_in_order(world: World) -> None:
    expression = [{"select": {"active": False}}, {"map": "n"}, {"sort": None}, {"first": 2}]
    rows = [{"n": 3, "active": False}, {"n": 1, "active": False}, {"n": 2, "active": True}]
    assert await transformed(world, expression, rows) == [1, 3]


async def test_an_operation_may_occur_twice(world: World) -> None:
    assert await transformed(
        world, [{"flatten": None}, {"sort": None}, {"reverse": None}, {"reverse": None}], [[2], [1]]
    ) == [
        1,
        2,
    ]


async def test_the_input_may_be_written_with_a_dollar(world: World) -> None:
    assert await transformed(world, {"count": None}, [3, 1], path="$input.x") == 2


async def test_arguments_may_hold_references(world: World) -> None:
    assert await transformed(world, {"first": "$input.n"}, [3, 1, 2], n=2) == [3, 1]


@pytest.mark.parametrize("value", [5, None, True, {"a": 1}])
@pytest.mark.parametrize("operation", ["sort", "sum", "uniq"])
async def test_an_operation_on_what_it_cannot_take_is_a_step_error(world: World, operation: str, value: Any) -> None:
    answer = await transformed(world, {operation: None}, value)
    assert isinstance(answer, str)
    assert operation in answer


async def test_a_sum_of_integers_is_an_integer(world: World) -> None:
    assert repr(await transformed(world, {"sum": None}, [1, 2])) == "3"


async def test_a_sum_of_text_is_a_step_error(world: World) -> None:
    assert "sum" in await transformed(world, {"sum": None}, ["1", "2"])


async def test_an_unknown_operation_is_refused_when_the_definition_is_loaded(world: World) -> None:
    with pytest.raises(df.ValidationError, match="did you mean 'sort'"):
        await transformed(world, {"sotr": None}, [])


async def test_the_variable_it_came_from_is_unchanged(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {list: [3, 1]}, next: b}
        - {id: b, type: transform, input: list, expression: {sort: null}, output: sorted, next: c}
        - {id: c, type: end, result: [$list, $sorted]}
    """)
    assert result.output == [[3, 1], [1, 3]]
