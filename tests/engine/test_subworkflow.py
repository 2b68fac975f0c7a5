"""`workflow`: a child execution of its own, its waits, its end, its failure."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from durable_flow.stores.base import Stored
from tests.engine.aid import World, flow

BREAKS = ConnectionError("no line")

PARENT = flow("""
    - {id: before, type: call, service: desk, method: before, next: sub}
    - {id: sub, type: workflow, workflow_id: child, input: {n: $input.n}, output: out, next: after}
    - {id: after, type: call, service: desk, method: after, input: $out, output: result}
""")

CHILD = flow("""
    - {id: work, type: call, service: desk, method: work, input: $input.n, output: x, next: done}
    - {id: done, type: end, result: {got: $x}}
""", id="child")  # fmt: skip

ASKING = flow("""
    - {id: work, type: call, service: desk, method: work, input: $input.n, output: x, next: ask}
    - {id: ask, type: halt, reason: well, next: done}
    - {id: done, type: end, result: [$x, $response]}
""", id="child")  # fmt: skip


async def test_the_result_of_the_child_becomes_the_output(world: World) -> None:
    world.know(CHILD)
    result = await world.run(PARENT, {"n": 5})
    assert result.output == {"got": 5}


async def test_a_child_is_an_execution_with_a_parent(world: World) -> None:
    world.know(CHILD)
    await world.run(PARENT, {"n": 5}, execution_id="e")
    child = await world.load("e.sub")
    assert (child.workflow_id, child.parent_id, child.root_id, child.trigger) == ("child", "e", "e", "child")
    assert (child.status, child.input) == ("completed", {"n": 5})
    assert [found.id for found in await world.store.find(parent_id="e")] == ["e.sub"]


async def test_a_child_sees_only_its_input(world: World) -> None:
    child = flow("- {id: look, type: end, result: [$before, $input]}\n", id="child", validate=False)
    world.know(child)
    parent = flow("""
        - {id: set, type: assign, set: {before: hidden}, next: sub}
        - {id: sub, type: workflow, workflow_id: child, input: {n: 1}, output: result}
    """)
    assert (await world.run(parent)).output == [None, {"n": 1}]


async def test_a_child_without_input_gets_an_empty_one(world: World) -> None:
    world.know(flow("- {id: look, type: end, result: $input}\n", id="child"))
    assert (await world.run("- {id: sub, type: workflow, workflow_id: child, output: result}\n")).output == {}


async def test_nothing_of_the_child_but_its_result_reaches_the_parent(world: World) -> None:
    world.know(CHILD)
    await world.run(PARENT, {"n": 5}, execution_id="e")
    assert set(await world.variables()) == {"out", "result"}


async def test_the_child_may_be_named_by_a_variable(world: World) -> None:
    world.know(CHILD)
    parent = flow("- {id: sub, type: workflow, workflow_id: $input.which, input: {n: 1}, output: result}\n")
    assert (await world.run(parent, {"which": "child"})).output == {"got": 1}


@pytest.mark.parametrize("which", ["nobody", 5, None, "", ["child"]])
async def test_a_child_that_is_not_known_is_a_step_error(world: World, which: Any) -> None:
    parent = flow("""
        - {id: sub, type: workflow, workflow_id: $input.which, on_error: sorry, next: done}
        - {id: done, type: end, result: done}
        - {id: sorry, type: end, result: $_last_error.step}
    """)
    assert (await world.run(parent, {"which": which})).output == "sub"


async def test_inputs_that_do_not_fit_the_child_are_a_step_error_and_start_nothing(world: World) -> None:
    world.know(flow("- {id: d, type: end, result: 1}\n", id="child", inputs={"n": {"type": "integer"}}))
    result = await world.run(PARENT, {"n": "five"}, execution_id="e")
    assert result.error_info is not None
    assert (result.error_info.type, result.error_info.step) == ("InputError", "sub")
    assert await world.store.load("e.sub") is None


async def test_defaults_of_the_child_apply(world: World) -> None:
    world.know(
        flow("- {id: d, type: end, result: $input.m}\n", id="child", inputs={"m": {"type": "integer", "default": 7}})
    )
    assert (await world.run(PARENT, {"n": 1})).output == 7


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_a_failing_child_is_a_step_error_of_the_parent(world: World) -> None:
    world.know(CHILD)
    world.desk.answers["work"] = BREAKS
    result = await world.run(PARENT, {"n": 5}, execution_id="e")
    assert result.error_info is not None
    assert (result.error_info.type, result.error_info.step) == ("ConnectionError", "sub")
    assert "no line" in result.error_info.message
    assert "'e.sub'" in result.error_info.message


async def test_the_parent_can_handle_the_failure_of_its_child(world: World) -> None:
    world.know(CHILD)
    world.desk.answers["work"] = BREAKS
    parent = flow("""
        - {id: sub, type: workflow, workflow_id: child, input: {n: 1}, on_error: sorry, next: done}
        - {id: done, type: end, result: done}
        - {id: sorry, type: end, result: $_last_error.class}
    """)
    assert (await world.run(parent)).output == "ConnectionError"


async def test_a_cancelled_child_is_a_step_error_of_the_parent(world: World) -> None:
    world.know(ASKING)
    await world.run(PARENT, {"n": 5}, execution_id="e")
    await world.runner("child").cancel("e.sub")
    result = await world.runner().result("e")
    assert result.error_info is not None
    assert result.error_info.type == "ChildCancelled"


async def test_retrying_the_parent_retries_the_child_where_it_failed(world: World) -> None:
    child = flow("""
        - {id: first, type: call, service: desk, method: first, next: work}
        - {id: work, type: call, service: desk, method: work, output: result}
    """, id="child")  # fmt: skip
    world.know(child)
    world.desk.answers["work"] = [BREAKS, "fine"]
    assert (await world.run(PARENT, {"n": 1}, execution_id="e")).failed
    await world.restart()
    assert (await world.runner().retry("e")).output == "fine"
    assert world.desk.called == ["before", "first", "work", "work", "after"]
    assert world.desk.keys("work") == ["e.sub:work"] * 2


async def test_a_child_that_outlives_its_step_is_cancelled(world: World) -> None:
    world.know(ASKING)
    parent = flow("""
        - {id: sub, type: workflow, workflow_id: child, input: {n: 1}, timeout: 60, on_error: sorry, next: done}
        - {id: done, type: end, result: done}
        - {id: sorry, type: end, result: $_last_error}
    """)
    await world.run(parent, execution_id="e")
    await world.clock.leap(60)
    result = await world.runner().recover("e")
    assert (result.output["class"], result.output["step"]) == ("TimeoutError", "sub")
    assert (await world.load("e.sub")).status == "cancelled"


async def test_a_running_child_is_cancelled_by_the_timeout_of_its_step(world: World) -> None:
    world.know(CHILD)
    world.desk.hold("work")
    parent = flow("""
        - {id: sub, type: workflow, workflow_id: child, input: {n: 1}, timeout: 60, on_error: sorry, next: done}
        - {id: done, type: end, result: done}
        - {id: sorry, type: end, result: $_last_error.class}
    """)
    task = await world.start(parent)
    await world.clock.advance(60)
    assert (await task).output == "TimeoutError"
    assert (await world.load("e.sub")).status == "cancelled"
    assert world.desk.cancelled == ["work"]


# -- depth -------------------------------------------------------------------------------------------------------------


async def test_a_workflow_that_calls_itself_ends_at_the_limit(world: World) -> None:
    workflow = flow("- {id: again, type: workflow, workflow_id: flow, output: result}\n")
    result = await world.run(workflow, execution_id="e")
    assert result.error_info is not None
    assert result.error_info.type == "LimitExceeded"
    found = await world.store.find(limit=100)
    assert len(found) == 17
    assert {execution.status for execution in found} == {df.Status.FAILED}


async def test_the_depth_of_children_can_be_limited(world: World) -> None:
    await world.restart(limits=df.Limits(workflow_depth=2))
    workflow = flow("""
        - {id: which, type: router, routes: [{when: {field: input.n, op: gt, value: 0}, then: pair}], default: stop}
        - {id: pair, type: assign, set: {p: [$input.n, -1]}, next: less}
        - {id: less, type: transform, input: p, expression: {sum: null}, output: n, next: again}
        - {id: again, type: workflow, workflow_id: flow, input: {n: $n}, output: result}
        - {id: stop, type: assign, set: {result: bottom}}
    """)
    assert (await world.run(workflow, {"n": 2})).output == "bottom"
    assert (await world.run(workflow, {"n": 3})).failed


# -- waits -------------------------------------------------------------------------------------------------------------


async def test_a_halt_of_the_child_halts_the_parent(world: World) -> None:
    world.know(ASKING)
    result = await world.run(PARENT, {"n": 5}, execution_id="e")
    assert result.halt is not None
    assert (result.status, result.halt.wait_id, result.halt.execution_id) == ("halted", "e.sub:ask", "e.sub")
    assert (await world.load("e")).status == "halted"
    assert (await world.load("e.sub")).status == "halted"


async def test_an_answer_through_the_parent_reaches_the_child_and_continues_both(world: World) -> None:
    world.know(ASKING)
    await world.run(PARENT, {"n": 5}, execution_id="e")
    await world.restart()
    result = await world.runner().resume("e", response="yes")
    assert result.output == [5, "yes"]
    assert (await world.load("e.sub")).status == "completed"
    assert world.desk.called == ["before", "work", "after"]


async def test_an_answer_to_the_child_continues_both(world: World) -> None:
    world.know(ASKING)
    await world.run(PARENT, {"n": 5}, execution_id="e")
    await world.restart()
    result = await world.runner("child").resume("e.sub", response="yes")
    assert result.output == [5, "yes"]
    assert (await world.load("e")).result == [5, "yes"]
    assert world.desk.called == ["before", "work", "after"]


async def test_no_resume_starts_another_child(world: World) -> None:
    child = flow("""
        - {id: one, type: halt, reason: one, next: two}
        - {id: two, type: halt, reason: two, next: done}
        - {id: done, type: end, result: $response}
    """, id="child")  # fmt: skip
    world.know(child)
    await world.run(PARENT, {"n": 5}, execution_id="e")
    result = await world.runner().resume("e", response=1)
    assert [halt.wait_id for halt in result.halts] == ["e.sub:two"]
    assert (await world.runner().resume("e", response=2)).output == 2
    assert len(await world.store.find()) == 2


async def test_waits_of_grandchildren_surface_too(world: World) -> None:
    world.know(flow("- {id: ask, type: approval, prompt: sign?}\n", id="grandchild"))
    world.know(flow("- {id: sub, type: workflow, workflow_id: grandchild}\n", id="child"))
    result = await world.run(PARENT, {"n": 5}, execution_id="e")
    assert [halt.wait_id for halt in result.halts] == ["e.sub.sub:ask"]
    await world.restart()
    assert (await world.runner().resume("e", approved=True)).completed
    assert {found.status for found in await world.store.find()} == {df.Status.COMPLETED}


async def test_children_in_branches_wait_side_by_side(world: World) -> None:
    world.know(ASKING)
    parent = flow("""
        - id: both
          type: parallel
          output: result
          branches:
            - {id: a, type: workflow, workflow_id: child, input: {n: 1}}
            - {id: b, type: workflow, workflow_id: child, input: {n: 2}}
    """)
    result = await world.run(parent, execution_id="e")
    assert [halt.wait_id for halt in result.halts] == ["e.both/a:ask", "e.both/b:ask"]
    await world.runner().resume("e", wait_id="e.both/b:ask", response="B")
    await world.restart()
    assert (await world.runner().resume("e", response="A")).output == [[1, "A"], [2, "B"]]


async def test_children_in_iterations_are_different_executions(world: World) -> None:
    world.know(CHILD)
    parent = flow("""
        - id: each
          type: loop
          over: [1, 2]
          output: out
          do: [{id: sub, type: workflow, workflow_id: child, input: {n: $item}}]
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert (await world.run(parent, execution_id="e")).output == [{"got": 1}, {"got": 2}]
    assert sorted(await world.store.execution_ids(workflow_id="child")) == ["e.each[0]/sub", "e.each[1]/sub"]


async def test_an_approver_of_a_childs_wait_is_checked_through_the_parent(world: World) -> None:
    world.know(flow("- {id: sign, type: approval, prompt: sign?, approvers: [ada]}\n", id="child"))
    await world.run(PARENT, {"n": 1}, execution_id="e")
    with pytest.raises(df.NotAllowed):
        await world.runner().resume("e", approved=True, by="eve")


async def test_a_childs_deadline_fires_when_the_parent_is_recovered(world: World) -> None:
    world.know(flow("""
        - {id: ask, type: halt, reason: well, timeout: 60, on_timeout: late, next: done}
        - {id: done, type: end, result: $response}
        - {id: late, type: end, result: late}
    """, id="child"))  # fmt: skip
    await world.run(PARENT, {"n": 1}, execution_id="e")
    await world.restart()
    await world.clock.leap(60)
    assert (await world.runner().recover("e")).output == "late"


# -- crashes -----------------------------------------------------------------------------------------------------------


async def test_a_crash_in_the_child_never_starts_it_twice(world: World) -> None:
    world.know(CHILD)
    world.desk.hold("work")
    await world.start(PARENT, {"n": 5})
    await world.after_the_lease()
    world.desk.release()
    result = await world.runner().recover("e")
    assert result.output == {"got": 5}
    assert world.desk.called == ["before", "work", "work", "after"]
    assert world.desk.keys("work") == ["e.sub:work"] * 2
    assert len(await world.store.find()) == 2


async def test_a_child_whose_process_died_as_its_time_was_up_is_driven_by_who_follows_its_parent(world: World) -> None:
    world.know(flow("- {id: ask, type: halt, timeout: 60}\n", id="child"))
    await world.run("- {id: below, type: workflow, workflow_id: child, input: {}}\n", execution_id="e")
    await world.clock.leap(60)
    taken = await world.store.claim("e.below", owner="somebody", ttl=10.0, statuses=["halted"])
    assert isinstance(taken, Stored)
    assert taken.late
    following = world.spawn(world.runner().run(execution_id="e"))
    await world.clock.advance(3)
    assert not following.done()
    await world.clock.advance(30)
    assert following.done()
    assert following.result().failed


async def test_a_child_that_ended_while_its_parent_was_dead_delivers_its_end(world: World) -> None:
    world.know(ASKING)
    await world.run(PARENT, {"n": 5}, execution_id="e")
    await world.restart()
    world.desk.hold("after")
    world.spawn(world.runner("child").resume("e.sub", response=1))
    await world.clock.advance()
    assert (await world.load("e.sub")).status == "completed"
    await world.after_the_lease()
    world.desk.release()
    assert (await world.runner().recover("e")).output == [5, 1]


async def test_the_definition_of_a_child_is_that_of_its_start(world: World) -> None:
    world.know(ASKING)
    await world.run(PARENT, {"n": 5}, execution_id="e")
    world.workflows["child"] = flow("- {id: other, type: end, result: other}\n", id="child")
    await world.restart()
    assert (await world.runner().resume("e", response="yes")).output == [5, "yes"]


async def test_an_execution_that_has_the_id_of_a_child_by_chance_is_not_taken_for_it(world: World) -> None:
    world.know(CHILD)
    await world.run("child", {"n": "mine"}, execution_id="e.sub")
    result = await world.run(PARENT, {"n": 5}, execution_id="e")
    assert result.error_info is not None
    assert (result.status, result.error_info.step) == ("failed", "sub")


# -- without waiting ---------------------------------------------------------------------------------------------------

ALONE = flow("""
    - {id: sub, type: workflow, workflow_id: child, input: {n: 5}, output: who, wait: false, next: after}
    - {id: after, type: call, service: desk, method: after, input: $who, output: result}
""")


async def test_without_waiting_the_parent_gets_the_id_and_goes_on(world: World) -> None:
    world.know(CHILD)
    world.desk.hold("work")
    task = await world.start(ALONE)
    assert (await task).output == "e.sub"
    assert (await world.load("e.sub")).status == "running"
    world.desk.release()
    await world.clock.advance()
    assert (await world.load("e.sub")).result == {"got": 5}


async def test_a_child_that_is_not_waited_for_outlives_the_cancellation_of_its_parent(world: World) -> None:
    world.know(CHILD)
    world.desk.hold("work", "after")
    task = await world.start(ALONE)
    assert (await world.runner().cancel("e")).cancelled
    assert (await task).cancelled
    world.desk.release()
    await world.clock.advance()
    assert (await world.load("e.sub")).status == "completed"


async def test_the_failure_of_a_child_that_is_not_waited_for_is_its_own(world: World) -> None:
    world.know(CHILD)
    world.desk.answers["work"] = BREAKS
    result = await world.run(ALONE, execution_id="e")
    await world.clock.advance()
    assert result.completed
    assert (await world.load("e.sub")).status == "failed"


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_cancelling_the_parent_cancels_a_waiting_child(world: World) -> None:
    world.know(ASKING)
    await world.run(PARENT, {"n": 5}, execution_id="e")
    await world.restart()
    assert (await world.runner().cancel("e")).cancelled
    child = await world.load("e.sub")
    assert child.status == "cancelled"
    assert (await world.entries("e.sub"))[-1].metadata["reason"] == "parent_cancelled"


async def test_cancelling_the_parent_cancels_a_running_child(world: World) -> None:
    world.know(CHILD)
    world.desk.hold("work")
    task = await world.start(PARENT, {"n": 5})
    assert (await world.runner().cancel("e")).cancelled
    assert (await task).cancelled
    await world.clock.advance(1)
    assert (await world.load("e.sub")).status == "cancelled"
    assert world.desk.cancelled == ["work"]


async def test_a_child_that_is_not_needed_any_more_is_cancelled(world: World) -> None:
    world.know(ASKING)
    parent = flow("""
        - id: first
          type: parallel
          wait: any
          output: result
          branches:
            - {id: a, type: workflow, workflow_id: child, input: {n: 1}}
            - {id: b, type: call, service: desk, method: quick, input: fine}
    """)
    world.desk.hold("quick")
    task = await world.start(parent)
    world.desk.release()
    assert (await task).output == [None, "fine"]
    assert (await world.load("e.first/a")).status == "cancelled"


ABOVE = flow(
    "- {id: down, type: workflow, workflow_id: child, next: after}\n- {id: after, type: assign, set: {x: 1}}\n"
)
BETWEEN = flow("- {id: down, type: workflow, workflow_id: grandchild}\n", id="child")
APART = flow("""
    - {id: down, type: workflow, workflow_id: grandchild, wait: false, next: ask}
    - {id: ask, type: halt, reason: well}
""", id="child")  # fmt: skip
BELOW = flow("""
    - {id: ask, type: halt, reason: well, next: work}
    - {id: work, type: call, service: desk, method: work}
""", id="grandchild")  # fmt: skip


async def ends(world: World) -> dict[str, tuple[str, str | None]]:
    """The status of every execution, and the reason in its last entry."""
    found = {}
    for execution in await world.store.find():
        last = (await world.entries(execution.id))[-1]
        found[execution.id] = (str(execution.status), last.metadata.get("reason"))
    return found


async def test_children_at_any_depth_are_cancelled_because_of_their_parent(world: World) -> None:
    world.know(BELOW, BETWEEN)
    await world.run(ABOVE, execution_id="e")
    await world.restart()
    await world.runner().cancel("e", reason="enough")
    await world.clock.advance()
    assert await ends(world) == {
        "e": ("cancelled", "enough"),
        "e.down": ("cancelled", "parent_cancelled"),
        "e.down.down": ("cancelled", "parent_cancelled"),
    }


async def test_a_grandchild_that_is_not_waited_for_outlives_them_all(world: World) -> None:
    world.know(BELOW, APART)
    await world.run(ABOVE, execution_id="e")
    await world.clock.advance()
    await world.runner().cancel("e")
    await world.clock.advance()
    assert {name: status for name, (status, _) in (await ends(world)).items()} == {
        "e": "cancelled",
        "e.down": "cancelled",
        "e.down.down": "halted",
    }
    assert (await world.runner("grandchild").resume("e.down.down", response=1)).completed


async def test_a_child_that_another_process_drives_is_cancelled_there(world: World) -> None:
    world.know(BELOW, BETWEEN)
    await world.run(ABOVE, execution_id="e")
    world.desk.hold("work")
    async with world.process(world.store) as other:
        answering = world.spawn(other.runner("grandchild").resume("e.down.down", response=1))
        await world.clock.advance()
        assert (await world.load("e.down.down")).owner == other.engine.owner
        cancelling = world.spawn(world.runner().cancel("e"))
        await world.clock.advance(3)
        assert (await cancelling).cancelled
        assert (await answering).cancelled
    assert world.desk.cancelled == ["work"]
    assert (await ends(world))["e.down.down"] == ("cancelled", "parent_cancelled")
    in_flight = (await world.entries("e.down.down"))[-2]
    assert (in_flight.path, in_flight.metadata) == ("work", {"reason": "parent_cancelled", "in_flight": True})


@pytest.mark.parametrize("last", range(1, 5))
async def test_a_child_that_was_just_being_created_is_cancelled_or_never_there(world: World, last: int) -> None:
    """Its parent's process dies at one of its first commits."""
    world.know(BELOW, BETWEEN)
    commits = 0

    def die(verb: str) -> None:
        nonlocal commits
        commits += verb == "commit"
        world.wire.cut |= commits > last

    world.wire.watchers.append(die)
    await world.start(ABOVE)
    await world.after_the_lease()
    assert (await world.runner().cancel("e")).cancelled
    await world.clock.advance()
    await world.clock.leap(31)
    for name in reversed([name for name in await world.store.execution_ids() if name != "e"]):
        execution = await world.load(name)
        await world.runner(execution.workflow_id).recover(name)
    told = await ends(world)
    assert {status for status, _ in told.values()} == {"cancelled"}
    assert {reason for name, (_, reason) in told.items() if name != "e"} <= {"parent_cancelled"}
    assert world.desk.called == []


async def test_a_child_that_is_over_stays_what_it_is(world: World) -> None:
    world.know(ASKING)
    await world.run(PARENT, {"n": 5}, execution_id="e")
    world.desk.hold("after")
    world.spawn(world.runner().resume("e", response=1))
    await world.clock.advance()
    before = await world.entries("e.sub")
    assert (await world.runner().cancel("e")).cancelled
    assert (await world.load("e.sub")).status == "completed"
    assert await world.entries("e.sub") == before


async def test_who_follows_an_execution_waits_while_another_process_drives_its_child(world: World) -> None:
    child = flow(
        """
        - {id: ask, type: halt, next: work}
        - {id: work, type: call, service: desk, method: work, output: result}
        """,
        id="child",
    )
    world.know(child)
    parent = "- {id: below, type: workflow, workflow_id: child, input: {}, output: result}\n"
    halt = (await world.run(parent, execution_id="e")).halt
    assert halt is not None
    world.desk.hold("work")
    world.desk.answers["work"] = "worked"
    async with world.process(world.store) as other:
        driving = world.spawn(other.runner("child").resume(halt.execution_id, response=1))
        await world.clock.advance()
        following = world.spawn(world.runner().run(execution_id="e"))
        await world.clock.advance(3)
        assert not following.done()
        world.desk.release()
        await world.clock.advance(3)
        assert (await driving).completed
        assert (await following).output == "worked"


async def test_a_wait_of_a_child_that_somebody_has_taken_over_may_be_answered_already(world: World) -> None:
    world.know(flow("- {id: ask, type: halt}\n", id="child"))
    parent = "- {id: below, type: workflow, workflow_id: child, input: {}}\n"
    halt = (await world.run(parent, execution_id="e")).halt
    assert halt is not None
    taken = await world.store.claim(halt.execution_id, owner="somebody", ttl=10.0, statuses=["halted"])
    assert isinstance(taken, Stored)
    following = world.spawn(world.runner().run(execution_id="e"))
    await world.clock.advance(3)
    assert not following.done()
    await world.store.release(halt.execution_id, owner="somebody", generation=taken.row.generation)
    await world.clock.advance(3)
    assert (await following).halt == halt
