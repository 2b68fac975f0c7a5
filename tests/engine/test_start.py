"""Starting executions: inputs, ids, and that starting twice is starting once."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import World, flow

WORK = flow("- {id: work, type: call, service: desk, method: work, input: $input, output: result}\n")

DECLARED = {
    "n": {"type": "integer"},
    "name": {"type": "string", "default": "Ada"},
    "ratio": {"type": "number", "required": False},
    "flag": {"type": "boolean", "required": False},
    "tags": {"type": "array", "required": False, "schema": {"items": {"type": "string"}}},
    "more": {"type": "object", "required": False},
}


def declared() -> df.WorkflowDef:
    return flow("- {id: done, type: end, result: $input}\n", inputs=DECLARED)


async def nothing_stored(world: World) -> bool:
    return await world.store.execution_ids() == []


# -- inputs ------------------------------------------------------------------------------------------------------------


async def test_defaults_fill_in_what_is_missing(world: World) -> None:
    assert (await world.run(declared(), {"n": 1})).output == {"n": 1, "name": "Ada"}


async def test_an_input_with_a_default_need_not_be_given(world: World) -> None:
    workflow = flow("- {id: done, type: end, result: $input.x}\n", inputs={"x": {"type": "integer", "default": 3}})
    assert (await world.run(workflow)).output == 3


async def test_a_default_is_not_shared_between_executions(world: World) -> None:
    workflow = flow("- {id: c, type: call, service: desk, method: c, input: $input.x}\n", inputs={"x": {"default": []}})
    world.desk.answers["c"] = lambda value: value.append(1)
    await world.run(workflow)
    await world.run(workflow)
    assert [execution.input for execution in await world.store.find()] == [{"x": []}] * 2


async def test_what_is_not_declared_passes_through(world: World) -> None:
    assert (await world.run(declared(), {"n": 1, "extra": [1]})).output["extra"] == [1]


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({}, "input.n"),
        ({"n": "1"}, "input.n"),
        ({"n": True}, "input.n"),
        ({"n": 1.5}, "input.n"),
        ({"n": None}, "input.n"),
        ({"n": 1, "flag": 1}, "input.flag"),
        ({"n": 1, "flag": "yes"}, "input.flag"),
        ({"n": 1, "ratio": "x"}, "input.ratio"),
        ({"n": 1, "ratio": float("nan")}, "input.ratio"),
        ({"n": 2**70}, "input.n"),
        ({"n": 1, "tags": ["a", 5]}, "input.tags[1]"),
        ({"n": 1, "tags": {}}, "input.tags"),
        ({"n": 1, "more": []}, "input.more"),
        ({"n": 1, "extra": object()}, "input.extra"),
        ({"n": 1, "extra": {1: 2}}, "input.extra"),
        ({"n": 1, "extra": "\ud800"}, "input.extra"),
        ({"n": 1, "name": 5}, "input.name"),
    ],
)
async def test_an_input_that_does_not_fit_is_refused_with_its_place_and_stores_nothing(
    world: World, given: dict[str, Any], place: str
) -> None:
    with pytest.raises(df.InputError) as raised:
        await world.run(declared(), given)
    assert any(str(problem).startswith(place) for problem in raised.value.problems)
    assert await nothing_stored(world)


async def test_everything_that_does_not_fit_is_told_at_once(world: World) -> None:
    with pytest.raises(df.InputError) as raised:
        await world.run(declared(), {"n": "x", "flag": "y", "extra": float("inf")})
    assert len(raised.value.problems) == 3


@pytest.mark.parametrize("given", [[1], "text", 5, [("n", 1)]])
async def test_an_input_that_is_no_mapping_is_refused(world: World, given: Any) -> None:
    with pytest.raises(df.InputError, match="mapping"):
        await world.run(declared(), given)
    assert await nothing_stored(world)


async def test_an_integer_is_a_number(world: World) -> None:
    assert (await world.run(declared(), {"n": 1, "ratio": 2})).output["ratio"] == 2


async def test_inputs_are_checked_without_a_start_step_and_with_one(world: World) -> None:
    workflow = flow(
        "- {id: s, type: start, next: done}\n- {id: done, type: end, result: 1}\n", inputs={"n": {"type": "integer"}}
    )
    with pytest.raises(df.InputError):
        await world.run(workflow, {"n": "x"})


async def test_inputs_are_checked_against_their_own_workflow(world: World) -> None:
    """Also when another runtime knows another workflow by the same id."""
    strict = flow("- {id: done, type: end, result: 1}\n", inputs={"n": {"type": "integer"}})
    loose = flow("- {id: done, type: end, result: 1}\n")
    world.know(strict)
    async with df.Runtime(world.store, workflows=[loose], clock=world.clock, ids=world.ids) as other:
        assert (await other.runner("flow").run({"n": "x"})).completed
    with pytest.raises(df.InputError):
        await world.runner().run({"n": "x"})


async def test_values_of_other_types_are_turned_into_data(world: World) -> None:
    given = {"n": 1, "more": {"at": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "set": {1}}}
    assert (await world.run(declared(), given)).output["more"] == {"at": "2026-01-02T00:00:00Z", "set": [1]}


async def test_changing_the_input_afterwards_changes_nothing(world: World) -> None:
    given: dict[str, Any] = {"list": [1]}
    world.desk.hold("work")
    task = await world.start(WORK, given)
    given["list"].append(2)
    world.desk.release()
    assert (await task).output == {"list": [1]}


# -- ids ---------------------------------------------------------------------------------------------------------------


async def test_an_execution_gets_an_id_of_its_own(world: World) -> None:
    first, second = await world.run(WORK), await world.run(WORK)
    assert first.execution_id != second.execution_id


@pytest.mark.parametrize("execution_id", ["a", "order:7", "a/b.c", "ünï", "x" * 255, "%_'\"", "../e"])
async def test_an_execution_can_be_given_an_id(world: World, execution_id: str) -> None:
    result = await world.run(
        """
        - {id: ask, type: halt, reason: well, next: done}
        - {id: done, type: end, result: $response}
        """,
        execution_id=execution_id,
    )
    await world.restart()
    result = await world.runner().resume(execution_id, response=1)
    assert (result.execution_id, result.output) == (execution_id, 1)


@pytest.mark.parametrize("execution_id", ["", " ", "a b", "a\nb", "x" * 256, "\x00", 5, b"e", "a\u2028b"])
async def test_a_bad_id_is_refused_and_stores_nothing(world: World, execution_id: Any) -> None:
    with pytest.raises(df.ValidationError, match="execution id"):
        await world.run(WORK, execution_id=execution_id)
    assert await nothing_stored(world)


@pytest.mark.parametrize("labels", [{"a": 1}, {1: "a"}, {"": "a"}, {"a": "x" * 256}, {"a": "\ud800"}, ["a"], "a"])
async def test_bad_labels_are_refused_and_store_nothing(world: World, labels: Any) -> None:
    with pytest.raises(df.ValidationError, match="label"):
        await world.runner(WORK).run(labels=labels)
    assert await nothing_stored(world)


async def test_labels_can_be_searched_for(world: World) -> None:
    await world.runner(WORK).run(labels={"team": "a"}, execution_id="a")
    await world.runner(WORK).run(labels={"team": "b"}, execution_id="b")
    assert [found.id for found in await world.store.find(labels={"team": "b"})] == ["b"]


# -- twice -------------------------------------------------------------------------------------------------------------


async def test_a_second_start_of_a_finished_execution_returns_its_result(world: World) -> None:
    await world.run(WORK, {"n": 1}, execution_id="e")
    entries = await world.entries()
    result = await world.runner().run({"n": 1}, execution_id="e")
    assert (result.completed, result.output) == (True, {"n": 1})
    assert world.desk.called == ["work"]
    assert await world.entries() == entries


async def test_a_second_start_of_a_failed_execution_returns_its_error(world: World) -> None:
    world.desk.answers["work"] = ValueError("no")
    await world.run(WORK, execution_id="e")
    await world.restart()
    assert (await world.runner().run(execution_id="e")).error == "ValueError: no"
    assert world.desk.called == ["work"]


async def test_a_second_start_of_a_halted_execution_returns_its_halt(world: World) -> None:
    workflow = flow("- {id: ask, type: halt, reason: well}\n")
    await world.run(workflow, execution_id="e")
    await world.restart()
    assert [halt.wait_id for halt in (await world.runner().run(execution_id="e")).halts] == ["e:ask"]


async def test_a_second_start_follows_an_execution_that_runs(world: World) -> None:
    world.desk.hold("work")
    first = await world.start(WORK, {"n": 1})
    second = world.spawn(world.runner().run({"n": 1}, execution_id="e"))
    await world.clock.advance()
    assert not second.done()
    world.desk.release()
    assert (await second).output == (await first).output == {"n": 1}
    assert world.desk.called == ["work"]


async def test_a_second_start_in_another_process_follows_too(world: World) -> None:
    world.desk.hold("work")
    first = await world.start(WORK, {"n": 1})
    async with world.process(world.store) as other:
        second = world.spawn(other.runner("flow").run({"n": 1}, execution_id="e"))
        await world.clock.advance(1)
        assert not second.done()
        world.desk.release()
        await world.clock.advance(1)
        assert (await second).output == (await first).output
    assert world.desk.called == ["work"]


async def test_a_second_start_takes_over_an_execution_that_nobody_drives(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(WORK, {"n": 1})
    task.cancel()
    await world.clock.advance()
    world.desk.release()
    assert (await world.runner().run({"n": 1}, execution_id="e")).output == {"n": 1}
    assert world.desk.called == ["work", "work"]


async def test_a_second_start_takes_over_when_the_lease_has_run_out(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK, {"n": 1})
    await world.after_the_lease()
    world.desk.release()
    assert (await world.runner().run({"n": 1}, execution_id="e")).output == {"n": 1}


async def test_many_starts_at_once_are_one(world: World) -> None:
    runner = world.runner(WORK)
    results = await asyncio.gather(*[runner.run({"n": 1}, execution_id="e") for _ in range(20)])
    assert [result.output for result in results] == [{"n": 1}] * 20
    assert world.desk.called == ["work"]


@pytest.mark.parametrize("state", ["finished", "running", "halted"])
async def test_another_input_under_the_same_id_is_a_conflict(world: World, state: str) -> None:
    workflow = flow("""
        - {id: work, type: call, service: desk, method: work, next: which}
        - {id: which, type: router, routes: [{when: {field: input.ask, op: truthy}, then: ask}], default: __FINISHED__}
        - {id: ask, type: halt, reason: well}
    """)
    if state == "running":
        world.desk.hold("work")
    task = await world.start(workflow, {"ask": state == "halted"})
    with pytest.raises(df.ConflictError, match="another input"):
        await world.runner().run({"ask": 7}, execution_id="e")
    if state == "running":
        world.desk.release()
    await task


async def test_another_input_is_a_conflict_also_where_several_branches_begin_with_the_execution(world: World) -> None:
    workflow = flow("""
        - id: both
          type: parallel
          branches: [{id: a, type: halt, reason: well}, {id: b, type: call, service: desk, method: work}]
    """)
    await world.run(workflow, {"n": 1}, execution_id="e")
    await world.restart()
    with pytest.raises(df.ConflictError, match="another input"):
        await world.runner().run({"n": 2}, execution_id="e")
    assert (await world.runner().run({"n": 1}, execution_id="e")).halted
    assert world.desk.called == ["work"]


async def test_inputs_are_compared_as_they_were_given_before_defaults(world: World) -> None:
    await world.run(declared(), {"n": 1}, execution_id="e")
    with pytest.raises(df.ConflictError, match="another input"):
        await world.runner().run({"n": 1, "name": "Ada"}, execution_id="e")


async def test_the_order_of_inputs_does_not_matter(world: World) -> None:
    await world.run(WORK, {"a": 1, "b": 2}, execution_id="e")
    assert (await world.runner().run({"b": 2, "a": 1}, execution_id="e")).completed


async def test_no_input_and_an_empty_one_are_the_same(world: World) -> None:
    await world.run(WORK, None, execution_id="e")
    assert (await world.runner().run({}, execution_id="e")).completed


async def test_the_same_values_in_other_types_are_the_same_input(world: World) -> None:
    at = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    await world.run(WORK, {"at": at, "tags": ("a",)}, execution_id="e")
    assert (await world.runner().run({"at": "2026-01-02T00:00:00Z", "tags": ["a"]}, execution_id="e")).completed


async def test_the_id_of_another_workflow_is_a_conflict(world: World) -> None:
    await world.run(WORK, {"n": 1}, execution_id="e")
    other = world.runner(flow("- {id: x, type: call, service: desk, method: x}\n", id="other"))
    with pytest.raises(df.ConflictError, match="belongs to workflow 'flow'"):
        await other.run({"n": 1}, execution_id="e")
    assert world.desk.called == ["work"]


async def test_the_id_of_another_workflow_is_a_conflict_while_it_runs(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK, {"n": 1})
    other = world.runner(flow("- {id: x, type: call, service: desk, method: x}\n", id="other"))
    with pytest.raises(df.ConflictError, match="belongs to workflow 'flow'"):
        await other.run({"n": 1}, execution_id="e")
