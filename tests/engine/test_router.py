"""`router`: where a workflow goes, and conditions as a running workflow meets them."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import World, flow

WHICH = """
    - id: which
      type: router
      routes:
        - {when: {field: input.n, op: gt, value: 100}, then: large}
        - {when: {field: input.n, op: gt, value: 10}, then: middle}
      default: small
    - {id: large, type: end, result: large}
    - {id: middle, type: end, result: middle}
    - {id: small, type: end, result: small}
"""


@pytest.mark.parametrize(("n", "where"), [(1000, "large"), (50, "middle"), (1, "small")])
async def test_the_first_route_that_matches_is_taken(world: World, n: int, where: str) -> None:
    assert (await world.run(WHICH, {"n": n})).output == where


async def test_the_trail_says_which_route_was_taken(world: World) -> None:
    await world.run(WHICH, {"n": 50}, execution_id="e")
    assert [entry.metadata for entry in await world.entries() if entry.step_id == "which"] == [{"route": 1}]


NO_DEFAULT = """
    - id: which
      type: router
      routes: [{when: {field: input.n, op: eq, value: 1}, then: one}]
    - {id: one, type: end, result: one}
"""


async def test_no_match_and_no_default_is_a_step_error(world: World) -> None:
    result = await world.run(NO_DEFAULT, {"n": 2})
    assert result.error_info is not None
    assert (result.error_info.type, result.error_info.step) == ("RoutingError", "which")


async def test_a_router_can_end_the_workflow(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {result: 1}, next: which}
        - {id: which, type: router, routes: [], default: __FINISHED__}
    """)
    assert (result.completed, result.output) == (True, 1)


async def matches(world: World, condition: dict[str, Any], input: dict[str, Any]) -> Any:
    """yes, no, or the error of the router that evaluates the condition."""
    workflow = df.load({
        "id": "flow",
        "name": "flow",
        "steps": [
            {"id": "which", "type": "router", "routes": [{"when": condition, "then": "yes"}], "default": "no"},
            {"id": "yes", "type": "end", "result": "yes"},
            {"id": "no", "type": "end", "result": "no"},
        ],
    })  # fmt: skip
    result = await world.run(workflow, input)
    return result.output if result.completed else result.error


HUGE = 2**53


@pytest.mark.parametrize(
    ("field", "op", "value", "expected"),
    [
        (1, None, 1, "yes"),
        ("1", "eq", 1, "no"),
        (True, "eq", True, "yes"),
        (False, "eq", False, "yes"),
        (HUGE + 1, "gt", HUGE, "yes"),
        ("12", "gt", 5, "yes"),
        (5, "lt", "12", "yes"),
        (False, "truthy", None, "no"),
        (False, "exists", None, "yes"),
        (None, "truthy", None, "no"),
        ("false", "truthy", None, "yes"),
        (0, "falsy", None, "yes"),
        ([12], "contains", 1, "no"),
        ({"a": 1}, "contains", "a", "yes"),
        ("text", "contains", "ex", "yes"),
        (1, "in", [1, 2], "yes"),
        (3, "not_in", [1, 2], "yes"),
        ("ok\nrm -rf", "matches", "^ok$", "no"),
        ([], "empty", None, "yes"),
    ],
)
async def test_conditions_answer_as_written(
    world: World, field: Any, op: str | None, value: Any, expected: str
) -> None:
    condition = {"field": "input.x", "op": op, "value": value}
    condition = {key: item for key, item in condition.items() if item is not None}
    assert await matches(world, condition, {"x": field}) == expected


async def test_a_field_may_be_written_with_a_dollar(world: World) -> None:
    assert await matches(world, {"field": "$input.x", "value": 1}, {"x": 1}) == "yes"


async def test_a_nested_false_is_false_and_not_null(world: World) -> None:
    assert await matches(world, {"field": "input.o.on", "op": "eq", "value": False}, {"o": {"on": False}}) == "yes"


@pytest.mark.parametrize("x", [None, "abc", [1], {"a": 1}, True])
async def test_ordering_what_has_no_order_is_an_error_and_never_falls_through(world: World, x: Any) -> None:
    answer = await matches(world, {"field": "input.x", "op": "lt", "value": 5}, {"x": x})
    assert answer not in ("yes", "no")


async def test_a_list_that_is_null_does_not_open_the_gate(world: World) -> None:
    answer = await matches(world, {"field": "input.x", "op": "not_in", "value": "$input.list"}, {"x": 1, "list": None})
    assert answer not in ("yes", "no")


async def test_a_pattern_from_the_input_that_is_no_pattern_is_a_step_error(world: World) -> None:
    answer = await matches(
        world, {"field": "input.x", "op": "matches", "value": "$input.pattern"}, {"x": 1, "pattern": "("}
    )
    assert answer not in ("yes", "no")


async def test_a_hostile_pattern_takes_no_time(world: World) -> None:
    condition = {"field": "input.x", "op": "matches", "value": "^(a+)+$"}
    assert await matches(world, condition, {"x": "a" * 50_000 + "!"}) == "no"


async def test_composed_conditions(world: World) -> None:
    one, two = {"field": "input.a", "value": 1}, {"field": "input.b", "value": 2}
    assert await matches(world, {"all": [one, {"not": two}]}, {"a": 1, "b": 3}) == "yes"


async def test_an_error_in_a_condition_goes_to_the_handler(world: World) -> None:
    workflow = flow("""
        - id: which
          type: router
          routes: [{when: {field: input.x, op: gt, value: 1}, then: yes_}]
          default: no_
          on_error: sorry
        - {id: yes_, type: end, result: 1}
        - {id: no_, type: end, result: 2}
        - {id: sorry, type: end, result: $_last_error.message}
    """)
    result = await world.run(workflow, {"x": None})
    assert "null" in result.output
