"""The steps that always run at the end."""

from __future__ import annotations

import pytest

import durable_flow as df
from tests.engine.aid import World

ONE = [{"id": "tell", "type": "call", "service": "desk", "method": "tell", "input": "$outcome"}]


def told(world: World) -> list[object]:
    return world.desk.values("tell")


async def test_finally_runs_when_a_workflow_completed(world: World) -> None:
    result = await world.run("- {id: a, type: assign, set: {result: 1}}\n", **{"finally": ONE})
    assert (result.status, result.output) == ("completed", 1)
    assert told(world) == [{"status": "completed", "error": None, "reason": None}]


async def test_finally_runs_when_a_workflow_failed(world: World) -> None:
    world.desk.answers["work"] = ValueError("no")
    result = await world.run("- {id: a, type: call, service: desk, method: work}\n", **{"finally": ONE})
    assert result.error == "ValueError: no"
    assert told(world) == [{"status": "failed", "error": "ValueError: no", "reason": None}]


async def test_finally_runs_when_a_workflow_was_cancelled(world: World) -> None:
    result = await world.run("- {id: a, type: halt}\n", **{"finally": ONE})
    assert (await world.runner().cancel(result.execution_id, reason="rain")).cancelled
    assert told(world) == [{"status": "cancelled", "error": None, "reason": "rain"}]


async def test_finally_runs_after_what_undoes_the_steps(world: World) -> None:
    world.desk.answers["work"] = ValueError("no")
    await world.run(
        """
        - {id: buy, type: call, service: desk, method: buy, next: a, compensate: {service: desk, method: sell}}
        - {id: a, type: call, service: desk, method: work}
        """,
        **{"finally": ONE},
    )
    assert world.desk.called == ["buy", "work", "sell", "tell"]


async def test_finally_sees_the_variables_and_changes_nothing(world: World) -> None:
    result = await world.run(
        "- {id: a, type: assign, set: {result: 1, x: [1]}}\n",
        **{
            "finally": [
                {"id": "s", "type": "assign", "set": {"y": "$x", "x": 5, "result": "other"}},
                {"id": "t", "type": "call", "service": "desk", "method": "tell", "input": ["$x", "$y", "$result"]},
            ]
        },
    )
    assert result.output == 1
    assert told(world) == [[5, [1], "other"]]
    assert await world.variables(result) == {"result": 1, "x": [1]}


async def test_a_step_that_fails_in_finally_is_recorded_and_the_rest_go_on(world: World) -> None:
    world.desk.answers["bad"] = ValueError("no")
    steps = [{"id": "bad", "type": "call", "service": "desk", "method": "bad"}, *ONE]
    result = await world.run("- {id: a, type: assign, set: {result: 1}}\n", **{"finally": steps})
    assert (result.status, result.output) == ("completed", 1)
    assert world.desk.called == ["bad", "tell"]
    assert "~/finally/bad failed" in await world.trail(result)


async def test_a_step_of_finally_may_handle_its_error(world: World) -> None:
    world.desk.answers["bad"] = ValueError("no")
    steps = [
        {"id": "bad", "type": "call", "service": "desk", "method": "bad", "on_error": "sorry"},
        *ONE,
        {"id": "sorry", "type": "call", "service": "desk", "method": "sorry", "input": "$_last_error.message"},
    ]
    await world.run("- {id: a, type: assign, set: {result: 1}}\n", **{"finally": steps})
    assert world.desk.calls == [("bad", None), ("sorry", "no")]


async def test_finally_waits_for_time_without_a_process(world: World) -> None:
    steps = [{"id": "nap", "type": "wait", "for": "1h"}, *ONE]
    running = await world.start("- {id: a, type: assign, set: {result: 1}}\n", **{"finally": steps})
    waiting = await world.load()
    assert (waiting.status, [wait.path for wait in waiting.blocked_on]) == ("halted", ["~/finally/nap"])
    await world.after_the_lease()
    running = world.spawn(world.runner().run(execution_id="e"))
    await world.clock.advance(3600)
    assert (await running).output == 1
    assert world.desk.called == ["tell"]


async def test_a_process_that_dies_in_finally_goes_on_in_it(world: World) -> None:
    steps = [{"id": "first", "type": "call", "service": "desk", "method": "first"}, *ONE]
    world.desk.hold("tell")
    await world.start("- {id: a, type: call, service: desk, method: work, output: result}\n", **{"finally": steps})
    await world.after_the_lease()
    world.desk.release("tell")
    assert (await world.runner().recover("e")).completed
    assert world.desk.called == ["work", "first", "tell", "tell"]


async def test_a_failed_execution_can_be_retried_and_finally_runs_again(world: World) -> None:
    world.desk.answers["work"] = [ValueError("no"), "yes"]
    result = await world.run("- {id: a, type: call, service: desk, method: work, output: result}\n", **{"finally": ONE})
    assert result.failed
    assert (await world.runner().retry(result.execution_id)).output == "yes"
    assert [outcome["status"] for outcome in told(world)] == ["failed", "completed"]  # type: ignore[index]


async def test_finally_has_transitions_of_its_own_when_the_workflow_used_up_all(world: World) -> None:
    await world.restart(limits=df.Limits(transitions=10))
    steps = "- {id: a, type: assign, set: {x: 1}, next: b}\n- {id: b, type: assign, set: {x: 2}, next: a}"
    result = await world.run(steps, validate=False, **{"finally": ONE})
    assert result.error is not None
    assert result.error.startswith("LimitExceeded")
    assert len(told(world)) == 1


async def test_finally_itself_is_bounded(world: World) -> None:
    await world.restart(limits=df.Limits(transitions=10))
    steps = [
        {"id": "b", "type": "assign", "set": {"x": 1}, "next": "c"},
        {"id": "c", "type": "assign", "set": {"x": 2}, "next": "b"},
    ]
    result = await world.run("- {id: a, type: assign, set: {result: 1}}\n", validate=False, **{"finally": steps})
    assert result.output == 1


async def test_a_child_started_by_finally_runs(world: World) -> None:
    world.runner("- {id: c, type: call, service: desk, method: below, output: result}\n", id="below")
    steps = [{"id": "down", "type": "workflow", "workflow_id": "below", "output": "got"}]
    result = await world.run("- {id: a, type: assign, set: {result: 1}}\n", **{"finally": steps})
    assert result.completed
    assert world.desk.called == ["below"]


@pytest.mark.parametrize("around", [{}, {"timeout": "1h"}])
async def test_finally_has_no_deadline(world: World, around: dict[str, str]) -> None:
    world.desk.hold("tell")
    running = await world.start("- {id: a, type: assign, set: {result: 1}}\n", **around, **{"finally": ONE})
    await world.clock.advance(4000)
    world.desk.release("tell")
    assert (await running).completed
