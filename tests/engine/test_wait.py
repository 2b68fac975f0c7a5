"""`wait` lets time go by: in place for a direct caller, without memory for a worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import durable_flow as df
from durable_flow.waiting import LINGER
from tests.engine.aid import START, World, flow, idle, outputs

NAP = """
- {id: before, type: call, service: desk, method: before, next: nap}
- {id: nap, type: wait, for: 3d, next: after}
- {id: after, type: call, service: desk, method: after, output: result}
"""
DAYS = 3 * 86_400


async def test_run_sleeps_through_it_in_place(world: World) -> None:
    task = await world.start(NAP)
    assert world.desk.called == ["before"]
    await world.clock.leap(DAYS - 1)
    assert not task.done()
    await world.clock.leap(1)
    assert (await task).completed
    assert world.desk.called == ["before", "after"]
    assert world.clock.time == START + DAYS


async def test_meanwhile_the_execution_is_halted_has_no_owner_and_says_what_it_waits_for(world: World) -> None:
    await world.start(NAP)
    loaded = await world.load()
    assert (loaded.status, loaded.owner) == ("halted", None)
    (wait,) = loaded.blocked_on
    assert wait.__struct_config__.tag == "timer"
    assert wait.deadline is not None
    assert wait.deadline.timestamp() == START + DAYS
    assert loaded.wake_at == wait.deadline
    (why,) = await world.runner().why("e")
    assert (why.reason, why.path) == ("time to go by", "nap")


async def test_nothing_of_it_is_in_memory(world: World) -> None:
    task = await world.start(NAP)
    assert world.runtime.engine.runs == {}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await world.load()).status == "halted"


async def test_a_worker_goes_on_when_the_caller_is_gone(world: World) -> None:
    await world.start(NAP)
    await world.kill()
    await world.begin()
    worker = df.Worker(world.runtime)
    task = world.spawn(worker.run())
    await world.clock.leap(DAYS + 1)
    assert (await world.load()).status == "completed"
    worker.stop()
    await world.clock.advance(1)
    await task


async def test_a_caller_and_a_worker_drive_it_once(world: World) -> None:
    worker = df.Worker(world.runtime)
    working = world.spawn(worker.run())
    task = await world.start(NAP)
    await world.clock.leap(DAYS)
    await world.clock.advance(1)
    assert (await task).completed
    assert world.desk.called == ["before", "after"]
    worker.stop()
    await world.clock.advance(1)
    await working


async def test_a_nap_of_less_than_a_moment_does_not_halt_the_execution(world: World) -> None:
    task = await world.start(NAP.replace("3d", f"{LINGER / 2}s"))
    loaded = await world.load()
    assert (loaded.status, loaded.owner) == ("running", world.runtime.engine.owner)
    await world.clock.advance(LINGER / 2)
    assert (await task).completed
    assert "halted" not in [action.partition(" ")[2] for action in await world.trail() if action.startswith(" ")]


async def test_a_nap_that_was_cut_by_a_crash_ends_at_its_time(world: World) -> None:
    await world.start(NAP)
    await world.kill()
    await world.begin()
    task = world.spawn(world.runner().recover("e"))
    await idle()
    await world.clock.leap(DAYS - 10)
    assert (await world.load()).status == "halted"
    await world.clock.leap(10)
    assert (await world.load()).status == "completed"
    assert (await task).status in ("halted", "completed")


async def test_until_takes_a_time_of_the_input(world: World) -> None:
    task = await world.start(
        flow("- {id: nap, type: wait, until: $input.at, next: done}\n- {id: done, type: end, result: awake}"),
        {"at": "2023-11-15T02:00:00+02:00"},
    )
    (wait,) = (await world.load()).blocked_on
    assert wait.deadline is not None
    assert wait.deadline.isoformat() == "2023-11-15T00:00:00+00:00"
    task.cancel()


async def test_a_time_that_has_passed_is_not_waited_for(world: World) -> None:
    steps = "- {id: nap, type: wait, until: 2001-01-01T00:00:00Z, next: done}\n- {id: done, type: end, result: awake}"
    assert (await world.run(flow(steps))).output == "awake"


@pytest.mark.parametrize(
    ("keys", "given", "told"),
    [
        ("for: $input.x", {"x": "soon"}, "'soon' is not a duration"),
        ("for: $input.x", {"x": None}, "not null"),
        ("for: $input.x", {"x": -1}, "must be zero or more"),
        ("until: $input.x", {"x": "tomorrow"}, "'tomorrow' is not a time"),
        ("until: $input.x", {"x": "2031-01-01T00:00:00"}, "has no time zone"),
        ("until: $input.x", {"x": 12}, "not integer"),
    ],
)
async def test_what_is_no_time_is_a_step_error(world: World, keys: str, given: dict[str, Any], told: str) -> None:
    result = await world.run(flow(f"- {{id: nap, type: wait, {keys}}}"), given)
    assert result.failed
    assert result.error is not None
    assert result.error.startswith("WaitError")
    assert told in result.error


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("for: 1h, until: 2031-01-01T00:00:00Z", "exactly one of 'for' and 'until'"),
        ("description: none", "exactly one of 'for' and 'until'"),
        ("for: soon", "'soon' is not a duration"),
        ("until: 2031-01-01T00:00:00", "has no time zone"),
    ],
)
def test_what_is_wrong_in_the_definition_is_told_when_it_is_read(keys: str, told: str) -> None:
    with pytest.raises(df.ValidationError, match=told):
        flow(f"- {{id: nap, type: wait, {keys}}}")


async def test_branches_wait_each_for_its_own_time(world: World) -> None:
    fan = """
    - id: fan
      type: parallel
      output: result
      branches:
        - {id: short, do: [{id: a, type: wait, for: 10s}, {id: b, type: call, service: desk, method: b, input: {v: 1}}]}
        - {id: long, do: [{id: c, type: wait, for: 20s}, {id: d, type: call, service: desk, method: d, input: {v: 2}}]}
    """
    task = await world.start(fan)
    await world.clock.leap(10)
    assert world.desk.called == ["b"]
    assert (await world.load()).status == "halted"
    await world.clock.leap(10)
    assert (await task).completed
    assert world.desk.called == ["b", "d"]


async def test_who_waits_for_people_and_for_time_comes_back_to_the_caller(world: World) -> None:
    fan = """
    - id: fan
      type: parallel
      branches:
        - {id: one, do: [{id: a, type: wait, for: 1d}]}
        - {id: two, do: [{id: b, type: halt}]}
    """
    result = await world.run(fan, execution_id="e")
    assert result.halted
    assert {halt.type for halt in result.halts} == {"timer", "halt"}
    again = world.spawn(world.runner().resume("e", step="two"))
    await idle()
    assert not again.done()
    await world.clock.leap(86_400)
    assert (await again).completed


async def test_nobody_can_answer_a_timer(world: World) -> None:
    await world.start(NAP)
    with pytest.raises(df.ConflictError, match="ended by time"):
        await world.runner().resume("e")


async def test_a_nap_of_a_child_is_slept_through_by_the_caller_of_its_parent(world: World) -> None:
    world.know(flow("- {id: nap, type: wait, for: 1d, next: done}\n- {id: done, type: end, result: awake}", id="child"))
    parent = "- {id: go, type: workflow, workflow_id: child, output: result}"
    task = await world.start(flow(parent))
    await world.clock.leap(86_400)
    assert (await task).output == "awake"


async def test_cancelling_ends_a_nap(world: World) -> None:
    task = await world.start(NAP)
    await world.runner().cancel("e")
    await world.clock.advance(3)
    assert (await task).cancelled
    assert world.desk.called == ["before"]


async def test_the_timeout_of_the_workflow_cuts_a_nap_short(world: World) -> None:
    task = await world.start(flow(NAP, timeout="1h"))
    await world.clock.leap(3600)
    result = await task
    assert result.failed
    assert outputs(await world.entries(), "after") == []
