"""What an execution may grow to, and what becomes of it when it grows further."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import World, flow


async def limited(world: World, **limits: int) -> None:
    await world.restart(limits=df.Limits(**limits))


def kind(result: df.ExecutionResult) -> str | None:
    return None if result.error_info is None else result.error_info.type


GIVE = flow("""
    - {id: before, type: assign, set: {kept: 1}, next: give}
    - {id: give, type: call, service: desk, method: give, output: x}
""")


@pytest.mark.parametrize(("size", "error"), [(97, None), (98, None), (99, "LimitExceeded")])
async def test_the_size_of_a_result(world: World, size: int, error: str | None) -> None:
    """The JSON form has 100 bytes at the limit: 98 and two quotes."""
    await limited(world, value_bytes=100)
    world.desk.answers["give"] = "x" * size
    assert kind(await world.run(GIVE)) == error


async def test_what_exceeds_a_limit_leaves_the_last_good_state(world: World) -> None:
    await limited(world, value_bytes=100)
    world.desk.answers["give"] = "x" * 99
    await world.run(GIVE, execution_id="e")
    execution = await world.load()
    assert (execution.status, execution.ctx, execution.recover_to) == ("failed", {"kept": 1}, "give")


async def test_a_limit_is_not_tried_again(world: World) -> None:
    await limited(world, value_bytes=100)
    world.desk.answers["give"] = "x" * 99
    await world.run("""
        - {id: give, type: call, service: desk, method: give, retry: {max_attempts: 5, initial_interval: 0}}
    """)
    assert world.desk.called == ["give"]


async def test_no_handler_handles_a_limit(world: World) -> None:
    await limited(world, value_bytes=100)
    world.desk.answers["give"] = "x" * 99
    workflow = flow(
        """
        - id: each
          type: loop
          over: [1]
          on_item_error: skip
          on_error: sorry
          do:
            - {id: give, type: call, service: desk, method: give, on_error: near}
            - {id: near, type: assign, set: {x: 1}}
        - {id: sorry, type: end, result: sorry}
        """,
        on_error="sorry",
    )
    assert kind(await world.run(workflow)) == "LimitExceeded"


async def test_a_limit_can_be_raised_and_the_execution_retried(world: World) -> None:
    await limited(world, value_bytes=100)
    world.desk.answers["give"] = "x" * 99
    await world.run(GIVE, execution_id="e")
    await limited(world, value_bytes=1000)
    assert (await world.runner().retry("e")).completed


@pytest.mark.parametrize(("depth", "error"), [(4, None), (5, None), (6, "LimitExceeded")])
async def test_the_depth_of_a_value(world: World, depth: int, error: str | None) -> None:
    await limited(world, value_depth=5)
    value: Any = 1
    for _ in range(depth):
        value = [value]
    world.desk.answers["give"] = lambda _: value
    assert kind(await world.run(GIVE)) == error


@pytest.mark.parametrize(
    "step",
    [
        "{id: a, type: assign, set: {x: '$input.t$input.t'}}",
        "{id: a, type: assign, set: {x: ['$input.t', '$input.t']}}",
        "{id: a, type: assign, set: {x: {one: '$input.t', two: '$input.t'}}}",
        "{id: a, type: assign, set: {y: 1, x: '$input.t$input.t', z: 1}}",
        "{id: a, type: transform, input: input, expression: {merge: {u: $input.t}}, output: x}",
        "{id: a, type: end, result: ['$input.t', '$input.t']}",
        "{id: a, type: call, service: desk, method: give, input: ['$input.t', '$input.t']}",
        "{id: a, type: halt, reason: '$input.t$input.t'}",
        "{id: a, type: halt, data: ['$input.t', '$input.t']}",
        "{id: a, type: approval, prompt: '$input.t$input.t'}",
        "{id: a, type: approval, prompt: x, context: ['$input.t', '$input.t']}",
        "{id: a, type: workflow, workflow_id: child, input: {x: '$input.t', y: '$input.t'}}",
    ],
)
async def test_every_way_to_make_a_value_is_limited(world: World, step: str) -> None:
    await limited(world, value_bytes=220)
    world.know(flow("- {id: d, type: end, result: 1}\n", id="child"))
    result = await world.run(f"- {step}\n", {"t": "x" * 120})
    assert kind(result) in ("LimitExceeded", "InputError")


async def test_a_response_is_limited_and_may_be_given_again(world: World) -> None:
    await limited(world, value_bytes=100)
    await world.run("- {id: ask, type: halt, reason: well}\n", execution_id="e")
    with pytest.raises(df.LimitExceeded) as raised:
        await world.runner().resume("e", response="x" * 99)
    assert (raised.value.limit, raised.value.allowed) == ("value_bytes", 100)
    assert (await world.runner().resume("e", response="x" * 98)).completed


@pytest.mark.parametrize(("size", "refused"), [(80, False), (200, True)])
async def test_an_input_is_limited_before_anything_is_stored(world: World, size: int, refused: bool) -> None:
    await limited(world, value_bytes=100)
    runner = world.runner("- {id: d, type: end, result: 1}\n")
    if refused:
        with pytest.raises(df.DurableFlowError, match="value_bytes"):
            await runner.run({"x": "y" * size})
        assert await world.store.execution_ids() == []
    else:
        assert (await runner.run({"x": "y" * size})).completed


async def test_a_limit_above_the_default_holds_for_inputs_and_responses(world: World) -> None:
    await limited(world, value_bytes=3_000_000)
    big = "x" * 2_000_000
    await world.run("- {id: ask, type: halt, reason: well}\n", {"x": big}, execution_id="e")
    assert (await world.runner().resume("e", response=big)).completed


# -- loops -------------------------------------------------------------------------------------------------------------


async def test_the_items_and_outputs_of_a_loop_are_limited_one_by_one(world: World) -> None:
    await limited(world, value_bytes=100)
    world.desk.answers["give"] = "x" * 90
    result = await world.run("""
        - id: each
          type: loop
          over: [1, 2, 3, 4, 5]
          output: out
          do: [{id: give, type: call, service: desk, method: give}]
          next: count
        - {id: count, type: transform, input: out, expression: {count: null}, output: result}
    """)
    assert (result.error, result.output) == (None, 5)


async def test_the_outputs_of_a_loop_can_be_looped_over(world: World) -> None:
    await limited(world, value_bytes=100)
    world.desk.answers["give"] = "x" * 90
    result = await world.run("""
        - id: each
          type: loop
          over: [1, 2, 3]
          output: out
          do: [{id: give, type: call, service: desk, method: give}]
          next: again
        - {id: again, type: loop, over: $out, do: [{id: take, type: call, service: desk, method: take, input: $item}]}
    """)
    assert result.error is None
    assert world.desk.values("take") == ["x" * 90] * 3


LOOP = flow("""
    - id: each
      type: loop
      over: $input.items
      max: 100000
      do: [{id: a, type: assign, set: {x: $item}}]
""")


@pytest.mark.parametrize(("items", "error"), [(9, None), (10, None), (11, "LimitExceeded")])
async def test_the_number_of_items(world: World, items: int, error: str | None) -> None:
    await limited(world, loop_items=10)
    result = await world.run(LOOP, {"items": list(range(items))})
    assert kind(result) == error


async def test_a_list_cannot_grow_without_bound(world: World) -> None:
    """Each round doubles it: its items stay small, their number does not."""
    await limited(world, value_bytes=10_000, transitions=1000)
    result = await world.run("""
        - {id: a, type: assign, set: {list: [1]}, next: grow}
        - id: grow
          type: loop
          while: {field: list, op: truthy}
          max: 100
          do:
            - {id: pair, type: assign, set: {pair: [$list, $list]}}
            - {id: flat, type: transform, input: pair, expression: {flatten: null}, output: list}
    """)
    assert kind(result) == "LimitExceeded"


# -- transitions -------------------------------------------------------------------------------------------------------


def chain(length: int) -> df.WorkflowDef:
    steps = [{"id": f"s{n}", "type": "assign", "set": {"x": n}, "next": f"s{n + 1}"} for n in range(length - 1)]
    return df.load({
        "id": "flow",
        "name": "flow",
        "steps": [*steps, {"id": f"s{length - 1}", "type": "assign", "set": {"x": -1}}],
    })  # fmt: skip


@pytest.mark.parametrize(("limit", "error"), [(11, None), (10, "LimitExceeded"), (9, "LimitExceeded")])
async def test_no_step_begins_after_so_many_transitions(world: World, limit: int, error: str | None) -> None:
    """The start is the first transition, so ten steps begin at 1 to 10."""
    await limited(world, transitions=limit)
    result = await world.run(chain(10))
    assert kind(result) == error


async def test_an_endless_cycle_ends_at_the_limit(world: World) -> None:
    await limited(world, transitions=200)
    result = await world.run(
        flow(
            "- {id: a, type: assign, set: {x: 1}, next: b}\n- {id: b, type: assign, set: {x: 2}, next: a}\n",
            validate=False,
        ),
        execution_id="e",
    )
    assert kind(result) == "LimitExceeded"
    assert len(await world.entries()) < 210
    assert (await world.load()).status == "failed"


async def test_an_endless_cycle_does_not_keep_others_from_running(world: World) -> None:
    """It yields to the event loop now and then."""
    world.know(flow("- {id: d, type: call, service: desk, method: other, output: result}\n", id="other"))
    endless = flow(
        "- {id: a, type: assign, set: {x: 1}, next: b}\n- {id: b, type: assign, set: {x: 2}, next: a}\n", validate=False
    )
    await limited(world, transitions=20_000)
    world.spawn(world.runner(endless).run(execution_id="endless"))
    result = await world.spawn(world.runner("other").run())
    assert result.completed
    assert (await world.load("endless")).status == "running"


async def test_the_limit_of_transitions_holds_over_restarts(world: World) -> None:
    await limited(world, transitions=30)
    workflow = flow("""
        - {id: ask, type: halt, reason: well, next: ask}
    """)
    result = await world.run(workflow, execution_id="e")
    for _ in range(30):
        if result.halted:
            await world.restart()
            result = await world.runner().resume("e")
    assert kind(result) == "LimitExceeded"


# -- definitions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("branches", "refused"), [(4, False), (5, False), (6, True)])
def test_the_number_of_branches(branches: int, refused: bool) -> None:
    steps = [{"id": f"b{n}", "type": "assign", "set": {f"x{n}": 1}} for n in range(branches)]
    document = {"id": "flow", "name": "flow", "steps": [{"id": "p", "type": "parallel", "branches": steps}]}
    if refused:
        with pytest.raises(df.ValidationError, match="branches"):
            df.load(document, limits=df.Limits(branches=5))
    else:
        df.load(document, limits=df.Limits(branches=5))
