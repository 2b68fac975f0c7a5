"""`diff`: two executions beside each other, step by step."""

from __future__ import annotations

import pytest

import durable_flow as df
from tests.engine.aid import Desk, World, flow

ROW = flow("""
- {id: first, type: call, service: desk, method: first, input: $input.n, output: x, next: second}
- {id: second, type: call, service: desk, method: second, input: $x, output: y, on_error: mend, next: third}
- {id: mend, type: assign, set: {y: 0}, next: third}
- {id: third, type: call, service: desk, method: third, input: $y, next: done}
- {id: done, type: end, result: done}
""")


async def told(world: World, a: str = "e", b: str = "f") -> list[tuple[str, str, tuple[str, ...]]]:
    return [(one.path, one.state, one.changed) for one in await world.runner().diff(a, b)]


async def test_a_fork_beside_its_original(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    await world.runner().fork("e", from_step="second", execution_id="f", set={"x": 5})
    assert await told(world) == [
        ("first", "same", ()),
        ("second", "changed", ("input", "output")),
        ("third", "changed", ("input", "output")),
        ("done", "same", ()),
    ]


async def test_both_sides_are_there_to_look_at(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    await world.runner().fork("e", from_step="second", execution_id="f", set={"x": 5})
    second = (await world.runner().diff("e", "f"))[1]
    assert second.a is not None
    assert second.b is not None
    assert (second.a.input, second.a.output, second.b.input, second.b.output) == (1, 1, 5, 5)
    assert (second.step_id, second.step_type, second.a.state, second.a.attempts) == ("second", "call", "completed", 1)


async def test_what_only_one_did_stands_where_it_did_it(world: World, desk: Desk) -> None:
    desk.answers["second"] = [1, ValueError("broken")]
    await world.run(ROW, {"n": 1}, execution_id="e")
    await world.runner().fork("e", from_step="second", execution_id="f")
    assert await told(world) == [
        ("first", "same", ()),
        ("second", "changed", ("output", "error")),
        ("mend", "only_b", ()),
        ("third", "changed", ("input", "output")),
        ("done", "same", ()),
    ]
    assert ("mend", "only_a", ()) in await told(world, "f", "e")


async def test_visits_and_iterations_are_compared_one_by_one(world: World, desk: Desk) -> None:
    steps = """
    - id: each
      type: loop
      over: [1, 2]
      do: [{id: work, type: call, service: desk, method: work, input: $item}]
      next: look
    - {id: look, type: call, service: desk, method: look, output: seen, next: decide}
    - {id: decide, type: router, routes: [{when: {field: seen, value: true}, then: look}], default: __FINISHED__}
    """
    desk.answers["work"] = [1, 2, 1, 7]
    desk.answers["look"] = [True, False, False]
    await world.run(steps, execution_id="e", validate=False)
    await world.runner().run(execution_id="f")
    assert await told(world) == [
        ("each", "changed", ("output",)),
        ("each[0]/work", "same", ()),
        ("each[1]/work", "changed", ("output",)),
        ("look", "changed", ("output",)),
        ("decide", "same", ()),
        ("look#2", "only_a", ()),
        ("decide#2", "only_a", ()),
    ]


async def test_attempts_and_durations(world: World, desk: Desk) -> None:
    steps = flow("""
    - {id: work, type: call, service: desk, method: work, retry: {max_attempts: 3, initial_interval: 0, jitter: 0}}
    """)
    desk.answers["work"] = [1, ValueError("broken"), 1]
    await world.run(steps, execution_id="e")
    await world.runner().run(execution_id="f")
    assert await told(world) == [("work", "changed", ("attempts",))]

    async def slowly(value: object) -> int:
        await world.clock.sleep(1)
        return 1

    desk.answers["work"] = slowly
    task = world.spawn(world.runner().run(execution_id="g"))
    await world.clock.advance(2)
    await task
    assert await told(world, "e", "g") == [("work", "changed", ("duration",))]


async def test_a_fork_of_a_fork_has_the_past_of_both(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    await world.runner().fork("e", from_step="second", execution_id="f", set={"x": 5})
    await world.runner().fork("f", from_step="third", execution_id="g", set={"y": 6})
    assert [state for _, state, _ in await told(world, "e", "g")] == ["same", "changed", "changed", "same"]
    assert await told(world, "f", "g") == [
        ("first", "same", ()),
        ("second", "same", ()),
        ("third", "changed", ("input", "output")),
        ("done", "same", ()),
    ]


async def test_a_fork_whose_original_is_gone_has_only_its_own_steps(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    await world.runner().fork("e", from_step="third", execution_id="f")
    await world.runner().run({"n": 1}, execution_id="other")
    await world.store.delete("e")
    assert [state for _, state, _ in await told(world, "other", "f")] == ["only_a", "only_a", "same", "same"]


async def test_what_still_runs_or_waits_is_compared_as_it_is(world: World, desk: Desk) -> None:
    steps = "- {id: ask, type: halt, next: done}\n- {id: done, type: end, result: $response}"
    await world.run(steps, execution_id="e")
    await world.runner().resume("e", response=1)
    await world.runner().fork("e", from_step="ask", execution_id="f")
    assert await told(world) == [("ask", "changed", ("output",)), ("done", "only_a", ())]


async def test_secrets_are_masked(world: World) -> None:
    secret = flow(
        "- {id: work, type: call, service: desk, method: work, input: $input.pin}",
        inputs={"pin": {"type": "string", "secret": True}},
    )
    await world.run(secret, {"pin": "1234567"}, execution_id="e")
    await world.runner().run({"pin": "7654321"}, execution_id="f")
    found = await world.runner().diff("e", "f")
    assert "1234567" not in repr(found)
    assert "7654321" not in repr(found)


async def test_executions_of_other_workflows_are_not_compared(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    await world.run(flow("- {id: a, type: end}", id="other"), execution_id="o")
    with pytest.raises(df.ConflictError, match="belongs to workflow 'other'"):
        await world.runner().diff("e", "o")
    with pytest.raises(df.ExecutionNotFound):
        await world.runner().diff("e", "nobody")
