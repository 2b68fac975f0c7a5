"""Definitions are pinned: an execution goes on with the one it was started with."""

from __future__ import annotations

import pytest

import durable_flow as df
from durable_flow.stores import open_store
from tests.engine.aid import Clock, Desk, Ids, World, flow

OLD = flow(
    """
    - {id: first, type: call, service: desk, method: first, next: ask}
    - {id: ask, type: halt, reason: well, next: last}
    - {id: last, type: call, service: desk, method: last, output: result}
    """,
    version="1.10",
)


async def resumed_with(world: World, changed: df.WorkflowDef) -> df.ExecutionResult:
    """Halts, and goes on in a process that knows another definition by the same id."""
    await world.run(OLD, execution_id="e")
    world.workflows = {changed.id: changed}
    await world.restart()
    return await world.runtime.runner("flow").resume("e", response=1)


CHANGES = {
    "removed": "- {id: first, type: end, result: new}\n",
    "renamed": "- {id: ask2, type: halt, reason: well, next: last2}\n- {id: last2, type: end, result: new}\n",
    "retargeted": (
        "- {id: ask, type: halt, reason: well, next: other}\n"
        "- {id: other, type: call, service: desk, method: other, next: last}\n"
        "- {id: last, type: end, result: new}\n"
    ),
    "other type": "- {id: ask, type: approval, prompt: well?, next: last}\n- {id: last, type: end, result: new}\n",
    "other method": (
        "- {id: first, type: call, service: desk, method: other, next: ask}\n"
        "- {id: ask, type: halt, reason: well, next: last}\n"
        "- {id: last, type: call, service: desk, method: other, output: result}\n"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_changed_definition_does_not_touch_what_was_started_before(world: World, change: str) -> None:
    world.desk.answers["last"] = "old"
    result = await resumed_with(world, flow(CHANGES[change]))
    assert result.output == "old"
    assert world.desk.called == ["first", "last"]


async def test_what_is_started_afterwards_uses_the_new_definition(world: World) -> None:
    await resumed_with(world, flow(CHANGES["removed"]))
    assert (await world.runtime.runner("flow").run()).output == "new"


async def test_the_row_names_the_definition(world: World) -> None:
    await world.run(OLD, execution_id="e")
    execution = await world.load()
    assert (execution.definition_hash, execution.workflow_version) == (OLD.hash, "1.10")


async def test_the_version_is_the_text_that_was_written_after_a_restart_too(world: World) -> None:
    workflow = flow(
        "- {id: ask, type: halt, reason: well, next: d}\n- {id: d, type: end, result: $execution.workflow_version}\n",
        version="1.10",
    )
    await world.run(workflow, execution_id="e")
    world.workflows = {}
    await world.restart()
    runner = await world.runtime.runner_of("e")
    assert (await runner.resume("e")).output == "1.10"


async def test_a_definition_is_stored_once(world: World) -> None:
    for _ in range(3):
        await world.run(OLD)
    (count,) = world.store._inline.connection.database.execute("SELECT count(*) FROM definitions").fetchone()  # type: ignore[attr-defined]
    assert count == 1


async def test_a_process_that_does_not_know_the_workflow_can_go_on_with_it(world: World) -> None:
    await world.run(OLD, execution_id="e")
    world.workflows = {}
    await world.restart()
    runner = await world.runtime.runner_of("e")
    assert (await runner.resume("e")).completed


async def test_a_runner_for_an_execution_that_is_not_there_is_an_error(world: World) -> None:
    with pytest.raises(df.ExecutionNotFound):
        await world.runtime.runner_of("nobody")


async def test_recovery_uses_the_pinned_definition(world: World) -> None:
    world.desk.hold("first")
    await world.start(OLD)
    await world.kill()
    world.workflows = {"flow": flow(CHANGES["removed"])}
    world.clock.time += 31
    await world.begin()
    world.desk.release()
    assert (await world.runtime.runner("flow").recover("e")).halted


async def test_a_retry_uses_the_pinned_definition(world: World) -> None:
    world.desk.answers["first"] = [ValueError(), 1]
    await world.run(OLD, execution_id="e")
    world.workflows = {"flow": flow(CHANGES["removed"])}
    await world.restart()
    assert (await world.runtime.runner("flow").retry("e")).halted


async def test_a_later_second_start_uses_the_pinned_definition(world: World) -> None:
    await world.run(OLD, execution_id="e")
    world.workflows = {"flow": flow(CHANGES["removed"])}
    await world.restart()
    assert [halt.wait_id for halt in (await world.runtime.runner("flow").run(execution_id="e")).halts] == ["e:ask"]


async def test_two_workflows_of_one_id_in_one_runtime_are_refused(world: World) -> None:
    world.know(OLD)
    with pytest.raises(df.ConfigError, match="two workflows with id 'flow'"):
        world.runtime.runner(flow(CHANGES["removed"]))


async def test_the_same_definition_twice_is_fine(world: World) -> None:
    world.know(OLD)
    assert world.runtime.runner(df.load(dict(OLD.document))).workflow.hash == OLD.hash


async def test_the_order_of_assignments_survives_storing_the_definition(world: World) -> None:
    workflow = flow("""
        - {id: ask, type: halt, reason: well, next: set}
        - {id: set, type: assign, set: {z: 1, a: $z, m: $a}, next: d}
        - {id: d, type: end, result: $m}
    """)
    await world.run(workflow, execution_id="e")
    world.workflows = {}
    await world.restart()
    assert (await (await world.runtime.runner_of("e")).resume("e")).output == 1


async def test_two_runtimes_in_one_process_do_not_meet(world: World, clock: Clock) -> None:
    other_desk = Desk()
    async with (
        open_store("sqlite://:memory:") as store,
        df.Runtime(
            store, workflows=[flow(CHANGES["removed"])], services={"desk": other_desk}, clock=clock, ids=Ids()
        ) as other,
    ):
        await world.run(OLD, execution_id="e")
        assert (await other.runner("flow").run(execution_id="e")).output == "new"
        assert (world.desk.called, other_desk.called) == (["first"], [])


async def test_services_are_those_of_the_process_that_goes_on(world: World) -> None:
    workflow = flow("""
        - {id: ask, type: halt, next: work}
        - {id: work, type: call, service: desk, method: work, output: result}
    """)
    await world.run(workflow, execution_id="e")
    await world.restart(services={"desk": {"work": lambda: "of the new release"}})
    assert (await world.runner().resume("e")).output == "of the new release"
    assert world.desk.called == []
