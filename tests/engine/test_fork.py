"""`fork`: a new execution that begins where another one once was."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from durable_flow.model.codec import SEALED
from durable_flow.stores.base import Stored
from tests.engine.aid import Desk, World, flow

ROW = flow("""
- {id: first, type: call, service: desk, method: first, input: $input.n, output: x, next: second}
- {id: second, type: call, service: desk, method: second, input: $x, output: y, next: third}
- {id: third, type: end, result: {x: $x, y: $y}}
""")

POLL = flow("""
- {id: look, type: call, service: desk, method: look, output: seen, next: decide}
- id: decide
  type: router
  routes: [{when: {field: seen, op: lt, value: 3}, then: look}]
  default: done
- {id: done, type: end, result: $seen}
""")

BOTH = flow("""
- id: both
  type: parallel
  branches:
    - {id: left, do: [{id: a, type: call, service: desk, method: a, output: a},
                      {id: b, type: call, service: desk, method: b, output: b}]}
    - {id: sign, type: approval, prompt: well?, required: 2}
    - {id: mail, type: call, service: desk, method: mail}
  output: out
  next: done
- {id: done, type: end, result: {out: $out, a: $a}}
""")


async def fetched(world: World, execution_id: str) -> Stored:
    stored = await world.store.fetch(execution_id)
    assert stored is not None
    return stored


# --- what a fork is ---------------------------------------------------------------------------------------------------


async def test_only_the_step_and_what_follows_run_again(world: World, desk: Desk) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    desk.calls.clear()
    result = await world.runner().fork("e", from_step="second")
    assert result.completed
    assert result.output == {"x": 1, "y": 1}
    assert desk.calls == [("second", 1)]


async def test_it_is_an_execution_of_its_own(world: World, desk: Desk) -> None:
    original = await world.run(ROW, {"n": 1}, execution_id="e")
    forked = await world.load(await world.runner().fork("e", from_step="second", execution_id="f"))
    assert (forked.id, forked.forked_from, forked.parent_id, forked.root_id) == ("f", "e", None, "f")
    assert (forked.trigger, forked.input) == ("api", {"n": 1})
    assert forked.definition_hash == ROW.hash
    assert desk.keys("second") == ["e:second", "f:second"]
    assert (await world.load(original)).forked_from is None


async def test_variables_are_set_before_it_begins(world: World, desk: Desk) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    result = await world.runner().fork("e", from_step="second", set={"x": (5, 6)})
    assert result.output == {"x": [5, 6], "y": [5, 6]}
    assert desk.values("second") == [1, [5, 6]]


async def test_a_variable_that_is_only_set_later_may_be_set(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    forked = await world.runner().fork("e", from_step="first", set={"y": 9})
    assert forked.output == {"x": 1, "y": 1}


async def test_the_variables_are_those_of_then(world: World) -> None:
    steps = """
    - {id: one, type: assign, set: {x: 1}, next: show}
    - {id: show, type: call, service: desk, method: show, input: $x, next: two}
    - {id: two, type: assign, set: {x: 2, later: true}, next: done}
    - {id: done, type: end}
    """
    await world.run(steps, execution_id="e")
    await world.runner().fork("e", from_step="show", execution_id="f", set={})
    (first, *_) = await world.entries("f")
    assert first.changes == {"x": 1}


async def test_the_trail_says_where_it_comes_from_and_who_asked(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    await world.runner().fork("e", from_step="second", execution_id="f", set={"x": 2}, by="ann")
    (first, *_) = await world.entries("f")
    arrived = next(entry for entry in await world.entries("e") if entry.path == "first")
    assert (first.action, first.actor, first.changes) == (df.Action.STARTED, "ann", {"x": 2})
    told = {name: first.metadata[name] for name in ("forked_from", "from_step", "forked_at", "set")}
    assert told == {"forked_from": "e", "from_step": "second", "forked_at": arrived.seq, "set": ["x"]}


async def test_the_original_is_not_touched(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    before = await fetched(world, "e"), await world.store.read("e")
    await world.runner().fork("e", from_step="first", set={"x": 3})
    assert (await fetched(world, "e"), await world.store.read("e")) == before


async def test_a_running_original_goes_on(world: World, desk: Desk) -> None:
    desk.hold("second")
    task = await world.start(ROW, {"n": 1})
    fork = world.spawn(world.runner().fork("e", from_step="second", set={"x": 2}))
    await world.clock.advance()
    assert desk.keys("second") == ["e:second", f"{desk.contexts[-1].execution_id}:second"]
    desk.release()
    assert (await task).output == {"x": 1, "y": 1}
    assert (await fork).output == {"x": 2, "y": 2}


async def test_a_failed_one_can_be_tried_with_another_value(world: World, desk: Desk) -> None:
    desk.answers["second"] = lambda value: value if value == 7 else 1 // 0
    assert (await world.run(ROW, {"n": 1}, execution_id="e")).failed
    assert (await world.runner().fork("e", from_step="second", set={"x": 7})).output == {"x": 7, "y": 7}
    assert (await world.load("e")).status is df.Status.FAILED


async def test_of_several_visits_the_last_one_is_meant_or_the_one_that_is_named(world: World, desk: Desk) -> None:
    desk.answers["look"] = [1, 2, 3, 4, 5, 3, 3]
    await world.run(POLL, execution_id="e")
    desk.contexts.clear()
    runner = world.runner()
    assert (await runner.fork("e", from_step="look", execution_id="last")).output == 4
    assert desk.contexts[0].path == "look#3"
    assert (await runner.fork("e", from_step="look#2", execution_id="second")).output == 5
    assert desk.contexts[1].path == "look#2"
    assert (await runner.fork("e", from_step="look#1", execution_id="first")).output == 3
    assert desk.contexts[2].path == "look"
    assert (await runner.fork("e", from_step="decide#2", execution_id="d")).output == 3
    assert desk.contexts[3].path == "look#3"


async def test_the_definition_is_that_of_the_original(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    await world.runtime.close()
    world.workflows["flow"] = flow("- {id: other, type: end, result: changed}")
    await world.begin()
    runner = await world.runtime.runner_of("e")
    assert (await runner.fork("e", from_step="third", execution_id="f")).output == {"x": 1, "y": 1}
    assert (await world.load("f")).definition_hash == ROW.hash


async def test_the_timeout_counts_anew(world: World) -> None:
    slow = flow(
        """
        - {id: ask, type: halt, next: done}
        - {id: done, type: end, result: $response}
        """,
        timeout=100,
    )
    await world.run(slow, execution_id="e")
    await world.clock.leap(90)
    result = await world.runner().fork("e", from_step="ask", execution_id="f")
    await world.clock.leap(90)
    assert (await world.runner().recover("e")).error == "TimeoutError: the workflow timed out after 100 s"
    assert (await world.runner().resume(result.execution_id, response=1)).output == 1


async def test_labels_stay_unless_others_are_given(world: World) -> None:
    world.know(ROW)
    await world.runner().run({"n": 1}, execution_id="e", labels={"customer": "c"})
    await world.runner().fork("e", from_step="third", execution_id="same")
    await world.runner().fork("e", from_step="third", execution_id="none", labels={})
    await world.runner().fork("e", from_step="third", execution_id="other", labels={"try": "2"})
    assert [(await world.load(name)).labels for name in ("same", "none", "other")] == [
        {"customer": "c"},
        {},
        {"try": "2"},
    ]


async def test_a_fork_can_be_forked(world: World, desk: Desk) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    await world.runner().fork("e", from_step="second", execution_id="f", set={"x": 2})
    result = await world.runner().fork("f", from_step="third", execution_id="g")
    assert result.output == {"x": 2, "y": 2}
    assert (await world.load("g")).forked_from == "f"
    again = await world.runner().fork("f", from_step="second", execution_id="h", set={"x": 3})
    assert again.output == {"x": 3, "y": 3}


async def test_observers_hear_of_its_start(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    heard: list[df.Event] = []
    world.runtime.subscribe(heard.append, events=["workflow.started", "workflow.completed"])
    await world.runner().fork("e", from_step="third", execution_id="f")
    assert [(event.type, event.data["execution_id"]) for event in heard] == [
        ("workflow.started", "f"),
        ("workflow.completed", "f"),
    ]


# --- what belongs to a state ------------------------------------------------------------------------------------------


async def test_early_signals_are_kept_in_their_order(world: World) -> None:
    steps = """
    - {id: ask, type: halt, next: go1}
    - {id: go1, type: signal, name: go, output: a, next: go2}
    - {id: go2, type: signal, name: go, output: b, next: done}
    - {id: done, type: end, result: [$a, $b]}
    """
    await world.run(steps, execution_id="e")
    for payload in range(11):
        await world.runner().signal("e", "go", payload)
    assert (await world.runner().resume("e")).output == [0, 1]
    early = await world.runner().fork("e", from_step="go1")
    assert early.output == [0, 1]
    assert (await world.runner().fork("e", from_step="go2")).output == [0, 1]
    kept = [name for frame, name, _ in (await fetched(world, early.execution_id)).sets if frame == "[signals]"]
    assert len(kept) == 9


async def test_a_step_that_waited_for_a_signal_waits_again(world: World) -> None:
    await world.run(flow("- {id: go, type: signal, name: go, output: result}"), execution_id="e")
    await world.runner().signal("e", "go", 1)
    result = await world.runner().fork("e", from_step="go", execution_id="f")
    assert [halt.wait_id for halt in result.halts] == ["f:go"]


async def test_decisions_of_approvals_are_there_and_are_asked_again_where_it_begins(world: World) -> None:
    steps = """
    - {id: review, type: approval, prompt: "?", next: pay}
    - {id: pay, type: call, service: desk, method: pay, input: $approvals.review.votes.0.by, output: result}
    """
    await world.run(steps, execution_id="e")
    await world.runner().resume("e", approved=True, by="ann")
    assert (await world.runner().fork("e", from_step="pay")).output == "ann"
    asked = await world.runner().fork("e", from_step="review", execution_id="f")
    assert asked.halted
    assert (await world.runner().resume("f", approved=True, by="bob")).output == "bob"


async def test_what_the_last_loop_counted_is_there(world: World) -> None:
    steps = """
    - {id: each, type: loop, over: [1, 2], output: out, do: [{id: a, type: assign, set: {x: $item}}], next: done}
    - {id: done, type: end, result: [$loop, $out]}
    """
    first = await world.run(steps, execution_id="e", validate=False)
    assert (await world.runner().fork("e", from_step="done")).output == first.output


async def test_a_handled_error_is_handled_once(world: World, desk: Desk) -> None:
    steps = """
    - {id: a, type: call, service: desk, method: a, next: done}
    - {id: mend, type: call, service: desk, method: mend, input: $_last_error.message, next: done}
    - {id: done, type: end}
    """
    desk.answers["a"] = ValueError("broken")
    desk.answers["mend"] = [None, ValueError("worse")]
    await world.run(steps, execution_id="e", on_error="mend", validate=False)
    result = await world.runner().fork("e", from_step="mend")
    assert result.error == "ValueError: worse"
    assert desk.values("mend") == ["broken", "broken"]


async def test_children_are_started_again_under_the_new_name(world: World, desk: Desk) -> None:
    world.know(flow("- {id: work, type: call, service: desk, method: work, output: result}", id="below"))
    steps = flow("- {id: down, type: workflow, workflow_id: below, output: result}")
    desk.answers["work"] = [1, 2]
    await world.run(steps, execution_id="e")
    assert (await world.runner().fork("e", from_step="down", execution_id="f")).output == 2
    assert (await world.load("f.down")).parent_id == "f"


async def test_secrets_stay_masked(world: World) -> None:
    secret = flow(
        """
        - {id: a, type: assign, set: {copy: $input.pin}, next: done}
        - {id: done, type: call, service: desk, method: open, input: $copy, output: result}
        """,
        inputs={"pin": {"type": "string", "secret": True}},
    )
    await world.run(secret, {"pin": "1234567"}, execution_id="e")
    result = await world.runner().fork("e", from_step="done", execution_id="f")
    assert result.output == "1234567"
    shown = repr((await world.load("f"), await world.entries("f")))
    assert "1234567" not in shown
    assert (await world.entries("f"))[0].changes == {"copy": "***"}


async def test_an_encrypted_store_keeps_forks_encrypted(world: World) -> None:
    codec = df.AesGcm(keys={"k": bytes(32)}, active="k")
    await world.restart(codec=codec)
    await world.run(ROW, {"n": "the text"}, execution_id="e")
    result = await world.runner().fork("e", from_step="second", execution_id="f", set={"x": "another text"})
    assert result.output == {"x": "another text", "y": "another text"}
    stored = await fetched(world, "f")
    blobs = [stored.row.input, stored.row.root, *stored.entries.values(), *(body for _, body in stored.frames)]
    assert all(bytes(blob).startswith(SEALED) for blob in blobs if isinstance(blob, bytes))
    assert not any(isinstance(blob, str) for blob in blobs)


# --- inside others ----------------------------------------------------------------------------------------------------


async def test_an_iteration_is_entered_at_its_step(world: World, desk: Desk) -> None:
    steps = """
    - id: each
      type: loop
      over: $input.items
      output: out
      do:
        - {id: a, type: call, service: desk, method: a, input: $item, output: a}
        - {id: b, type: call, service: desk, method: b, input: [$a, $item], output: b}
      next: done
    - {id: done, type: end, result: $out}
    """
    await world.run(steps, {"items": [1, 2, 3]}, execution_id="e", validate=False)
    desk.calls.clear()
    result = await world.runner().fork("e", from_step="each[1]/b", set={"a": 9})
    assert result.output == [[1, 1], [9, 2], [3, 3]]
    assert desk.calls == [("b", [9, 2]), ("a", 3), ("b", [3, 3])]


async def test_branches_are_as_they_were(world: World, desk: Desk) -> None:
    desk.answers.update(a="a", b="b", mail="m")
    await world.run(BOTH, execution_id="e")
    await world.runner().resume("e", approved=True, by="ann")
    await world.runner().resume("e", approved=True, by="bob")
    desk.calls.clear()
    result = await world.runner().fork("e", from_step="both/left/b", execution_id="f")
    assert "a" not in desk.called
    assert "b" in desk.called
    assert [halt.wait_id for halt in result.halts] == ["f:both/sign"]
    await world.runner().resume("f", approved=True, by="ann")
    assert (await world.load("f")).status is df.Status.HALTED  # votes for the original do not count here
    done = await world.runner().resume("f", approved=True, by="cid")
    assert done.output["out"][0] == "b"
    assert done.output["a"] == "a"


async def test_a_step_inside_others_is_named_by_its_path(world: World) -> None:
    await world.run(BOTH, execution_id="e")
    with pytest.raises(df.ValidationError, match=r"stands inside another one: name a visit of it by its path"):
        await world.runner().fork("e", from_step="b")
    with pytest.raises(df.ConflictError, match=r"never came to 'both/right/b'; fork from 'both'"):
        await world.runner().fork("e", from_step="both/right/b")


# --- what cannot be forked --------------------------------------------------------------------------------------------


async def nothing_new(world: World) -> None:
    assert await world.store.execution_ids() == ["e"]


async def test_a_step_it_never_came_to(world: World) -> None:
    await world.run("- {id: a, type: halt, next: b}\n- {id: b, type: end}", execution_id="e")
    with pytest.raises(df.ConflictError, match="execution 'e' never came to 'b'"):
        await world.runner().fork("e", from_step="b")
    with pytest.raises(df.ConflictError, match="never came to 'a#2'"):
        await world.runner().fork("e", from_step="a#2")
    await nothing_new(world)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("secnd", "has no step 'secnd' .did you mean 'second'"),
        ("second#x", "behind # comes the number of a visit"),
        ("second#0", "behind # comes the number of a visit"),
        ("", "from_step is the id of a step"),
        (7, "from_step is the id of a step"),
        (None, "from_step is the id of a step"),
    ],
)
async def test_a_step_that_is_none(world: World, step: Any, told: str) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    with pytest.raises(df.ValidationError, match=told):
        await world.runner().fork("e", from_step=step)
    await nothing_new(world)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"z": 1}, "set: 'z' is no variable of this workflow"),
        ({"input": {}}, "set: 'input' is reserved"),
        ({"n": 1}, "set: 'n' is an input, which cannot be changed"),
        ({"approvals": {}}, "set: 'approvals' is reserved"),
        ({"a.b": 1}, "is not the name of a variable"),
        ({7: 1}, "7 is not the name of a variable"),
        ({"x": float("nan")}, "set: x: nan is not a finite number"),
        ({"x": {"a": object()}}, "set: x.a: a value of type object has no JSON form"),
        ({"x": "y" * 2_000_000}, "is limited to"),
        ([("x", 1)], "set is a mapping"),
    ],
)
async def test_variables_that_cannot_be_set(world: World, changes: Any, told: str) -> None:
    inputs = flow(ROW_STEPS, inputs={"n": "integer"})
    await world.run(inputs, {"n": 1}, execution_id="e")
    with pytest.raises(df.ValidationError, match=told):
        await world.runner().fork("e", from_step="second", set=changes)
    await nothing_new(world)


ROW_STEPS = """
- {id: first, type: call, service: desk, method: first, input: $input.n, output: x, next: second}
- {id: second, type: call, service: desk, method: second, input: $x, output: y}
"""


async def test_every_wrong_variable_is_told(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    with pytest.raises(df.ValidationError) as caught:
        await world.runner().fork("e", from_step="second", set={"zz": 1, "qq": 2})
    assert len(caught.value.problems) == 2


async def test_what_is_not_there_or_of_another_workflow(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    with pytest.raises(df.ExecutionNotFound):
        await world.runner().fork("nobody", from_step="first")
    other = world.runner(flow("- {id: first, type: end}", id="other"))
    with pytest.raises(df.ConflictError, match="belongs to workflow 'flow'"):
        await other.fork("e", from_step="first")


async def test_a_loops_own_names_are_not_set(world: World) -> None:
    steps = flow("- {id: each, type: loop, over: [1], do: [{id: a, type: call, service: desk, method: a}]}")
    await world.run(steps, execution_id="e")
    with pytest.raises(df.ValidationError, match="'item' is no variable"):
        await world.runner().fork("e", from_step="each[0]/a", set={"item": 2})


# --- starting it once -------------------------------------------------------------------------------------------------


async def test_a_second_call_with_the_same_id_gives_the_same_fork(world: World, desk: Desk) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    first = await world.runner().fork("e", from_step="second", execution_id="f", set={"x": 2})
    desk.calls.clear()
    assert await world.runner().fork("e", from_step="second", execution_id="f", set={"x": 2}) == first
    assert desk.calls == []


async def test_two_calls_at_once_make_one_fork(world: World, desk: Desk) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    desk.calls.clear()
    forks = [world.spawn(world.runner().fork("e", from_step="second", execution_id="f")) for _ in range(2)]
    assert [(await fork).output for fork in forks] == [{"x": 1, "y": 1}] * 2
    assert desk.called == ["second"]


@pytest.mark.parametrize(
    "other", [{"from_step": "first"}, {"from_step": "second", "set": {"x": 2}}, {"from_step": "second#1"}]
)
async def test_the_id_of_another_fork_is_a_conflict(world: World, other: Any) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    await world.runner().fork("e", from_step="second", execution_id="f")
    with pytest.raises(df.ConflictError, match="'f' was not started as this fork"):
        await world.runner().fork("e", execution_id="f", **other)


async def test_a_fork_and_a_run_do_not_meet_under_one_id(world: World) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    with pytest.raises(df.ConflictError, match="'e' was not started as this fork"):
        await world.runner().fork("e", from_step="second", execution_id="e")
    await world.runner().fork("e", from_step="second", execution_id="f")
    with pytest.raises(df.ConflictError, match="'f' was started with another input"):
        await world.run("flow", {"n": 1}, execution_id="f")


# --- processes that die -----------------------------------------------------------------------------------------------


async def test_a_process_that_dies_leaves_no_fork_or_one_that_goes_on(world: World, desk: Desk) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    created: list[bool] = []
    died = True
    while died:
        left, name = len(created) + 1, f"f{len(created)}"

        def one_less(verb: str) -> None:
            nonlocal left
            left -= 1
            if not left:
                world.die()

        world.wire.watchers.append(one_less)
        world.spawn(world.runner().fork("e", from_step="second", execution_id=name, set={"x": 2}))
        await world.clock.advance()
        died = world.wire.cut
        await world.after_the_lease()
        created.append(await world.store.row(name) is not None)
        if created[-1]:
            assert (await world.runner().recover(name)).output == {"x": 2, "y": 2}
        assert (await world.runner().fork("e", from_step="second", execution_id=name, set={"x": 2})).completed
        assert set(desk.keys("second")) - {"e:second"} <= {f"f{number}:second" for number in range(len(created))}
    assert created == sorted(created)
    assert created.count(False) >= 3
    assert created.count(True) >= 3


async def test_a_caller_that_is_cancelled_leaves_it_to_be_recovered(world: World, desk: Desk) -> None:
    await world.run(ROW, {"n": 1}, execution_id="e")
    desk.hold("second")
    task = world.spawn(world.runner().fork("e", from_step="second", execution_id="f"))
    await world.clock.advance()
    task.cancel()
    await world.clock.advance()
    row = await world.store.row("f")
    assert row is not None
    assert (row.status, row.owner) == ("running", None)
    desk.release()
    assert (await world.runner().recover("f")).completed
