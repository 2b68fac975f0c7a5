"""`migrate`: an execution goes on with the current definition of its workflow, where it stands in it."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from durable_flow.model.codec import encode
from durable_flow.model.execution import HaltWait
from durable_flow.testing import Fold
from durable_flow.testing.trail import decoded
from tests.engine.aid import START, Desk, World, flow

OLD = flow("""
- {id: first, type: call, service: desk, method: first, output: x, next: ask}
- {id: ask, type: halt, reason: well?, next: done}
- {id: done, type: end, result: old}
""")

NEW = flow(
    """
    - {id: before, type: assign, set: {x: 0}, next: ask}
    - {id: ask, type: halt, reason: really?, next: more}
    - {id: more, type: call, service: desk, method: more, input: $response, output: y, next: done}
    - {id: done, type: end, result: [new, $y]}
    """,
    version="2.0",
)


async def deploy(world: World, *workflows: df.WorkflowDef) -> df.Runner:
    """Another process, which knows only these definitions."""
    await world.runtime.close()
    world.workflows.clear()
    for workflow in workflows:
        world.workflows[workflow.id] = workflow
    await world.begin()
    return world.runner(workflows[0])


async def verdict(world: World, old: str | df.WorkflowDef, new: str | df.WorkflowDef, **keys: Any) -> df.Migration:
    """What is said about an execution "e" of one definition where there is another."""
    first, second = (flow(one, validate=False) if isinstance(one, str) else one for one in (old, new))
    await world.run(first, execution_id="e")
    runner = await deploy(world, second)
    told = await runner.migration("e", **keys)
    before = await world.store.fetch("e")
    if told.safe:
        await runner.migrate("e", **keys)
    else:
        with pytest.raises(df.ConflictError, match="cannot be migrated"):
            await runner.migrate("e", **keys)
        after = await world.store.fetch("e")
        assert before is not None
        assert after is not None
        assert after.row.version == before.row.version
        assert after.row.owner is None
    return told


# --- going on ---------------------------------------------------------------------------------------------------------


async def test_what_waits_goes_on_with_the_new_definition(world: World) -> None:
    await world.run(OLD, execution_id="e")
    runner = await deploy(world, NEW)
    told = await runner.migrate("e", by="ann")
    assert told.safe
    row = await world.load("e")
    assert (row.status, row.current_step, row.definition_hash, row.workflow_version) == (
        df.Status.HALTED,
        "ask",
        NEW.hash,
        "2.0",
    )
    assert (await runner.resume("e", response=7)).output == ["new", 7]


async def test_without_it_the_old_definition_stays(world: World) -> None:
    await world.run(OLD, execution_id="e")
    runner = await deploy(world, NEW)
    assert (await runner.resume("e", response=7)).output == "old"


async def test_the_trail_says_who_and_from_what_to_what(world: World) -> None:
    await world.run(OLD, execution_id="e")
    runner = await deploy(world, NEW)
    await runner.migrate("e", by="ann")
    entry = (await world.entries("e"))[-1]
    assert (entry.action, entry.actor) == (df.Action.MIGRATED, "ann")
    assert entry.metadata == {
        "from": {"hash": OLD.hash, "version": "1.0"},
        "to": {"hash": NEW.hash, "version": "2.0"},
    }


async def test_a_process_that_never_saw_the_new_one_goes_on_with_it(world: World) -> None:
    await world.run(OLD, execution_id="e")
    await (await deploy(world, NEW)).migrate("e")
    await deploy(world, OLD)
    runner = await world.runtime.runner_of("e")
    assert (await runner.resume("e", response=7)).output == ["new", 7]


async def test_what_has_the_definition_is_left_alone(world: World) -> None:
    await world.run(OLD, execution_id="e")
    before = await world.store.row("e")
    told = await world.runner().migrate("e")
    assert told.verdict == "current"
    after = await world.store.row("e")
    assert before is not None
    assert after is not None
    assert (after.version, after.seq, after.owner) == (before.version, before.seq, None)


async def test_a_failed_one_is_retried_with_the_new_definition(world: World, desk: Desk) -> None:
    desk.answers["pay"] = ValueError("no such account")
    await world.run("- {id: pay, type: call, service: desk, method: pay}\n- {id: e, type: end}", execution_id="e",
                    validate=False)  # fmt: skip
    runner = await deploy(world, flow("- {id: pay, type: call, service: desk, method: charge, output: result}"))
    await runner.migrate("e")
    row = await world.load("e")
    assert (row.status, row.finished_at is not None) == (df.Status.FAILED, True)
    assert row.error == "ValueError: no such account"
    desk.answers["charge"] = "paid"
    assert (await runner.retry("e")).output == "paid"
    assert desk.keys("charge") == ["e:pay"]


async def test_one_that_its_process_left_is_recovered_with_the_new_definition(world: World, desk: Desk) -> None:
    desk.hold("first")
    await world.start(OLD)
    await world.kill()
    world.clock.time += 31
    world.workflows.clear()
    new = flow("- {id: first, type: call, service: desk, method: second, output: result}")
    world.workflows["flow"] = new
    await world.begin()
    await world.runner().migrate("e")
    desk.answers["second"] = 2
    assert (await world.runner().recover("e")).output == 2


async def test_iterations_that_are_done_stay_done(world: World, desk: Desk) -> None:
    old = """
    - id: each
      type: loop
      over: [1, 2, 3]
      output: out
      do:
        - {id: work, type: call, service: desk, method: work, input: $item}
        - {id: ask, type: halt}
    """
    new = """
    - id: each
      type: loop
      over: [7, 8]
      output: result
      do:
        - {id: work, type: call, service: desk, method: work, input: [$item]}
        - {id: ask, type: halt}
        - {id: more, type: call, service: desk, method: more, input: $response}
    """
    await world.run(old, execution_id="e", validate=False)
    await world.runner().resume("e", response="a")
    runner = await deploy(world, flow(new, validate=False))
    assert (await runner.migrate("e")).safe
    await runner.resume("e", response="b")
    result = await runner.resume("e", response="c")
    assert result.output == ["a", "b", "c"]
    assert desk.values("work") == [1, 2, [3]]
    assert desk.values("more") == ["b", "c"]


async def test_branches_that_are_done_stay_done_and_new_ones_run(world: World, desk: Desk) -> None:
    branches = "- {{id: both, type: parallel, output: result, branches: [{}]}}"
    done, asks = "{id: a, type: call, service: desk, method: a}", "{id: sign, do: [{id: ask, type: halt}]}"
    more = "{id: c, type: call, service: desk, method: c}"
    await world.run(flow(branches.format(f"{done}, {asks}")), execution_id="e")
    runner = await deploy(world, flow(branches.format(f"{more}, {asks}, {done}")))
    assert (await runner.migrate("e")).safe
    assert (await runner.resume("e", response=1)).completed
    assert sorted(desk.called) == ["a", "c"]


async def test_a_child_goes_on_with_its_own(world: World) -> None:
    below = flow("- {id: ask, type: halt, next: done}\n- {id: done, type: end, result: $response}", id="below")
    world.know(below)
    old = flow("- {id: down, type: workflow, workflow_id: below, next: done}\n- {id: done, type: end, result: old}")
    new = flow("- {id: down, type: workflow, workflow_id: below, output: x}\n- {id: done, type: end}", validate=False)
    await world.run(old, execution_id="e")
    runner = await deploy(world, new, below)
    assert (await runner.migrate("e")).safe
    assert (await world.load("e.down")).definition_hash == below.hash
    await runner.resume("e", response=5)
    assert (await world.load("e")).ctx["x"] == 5


async def test_timers_and_deadlines_stay(world: World) -> None:
    steps = "- {{id: ask, type: halt, timeout: 100, on_timeout: late, next: e}}\n- {{id: late, type: end, result: {}}}"
    old, new = (flow(f"{steps.format(word)}\n- {{id: e, type: end}}") for word in ("old", "new"))
    await world.run(old, execution_id="e")
    runner = await deploy(world, new)
    await runner.migrate("e")
    assert (await world.load("e")).wake_at is not None
    await world.clock.leap(101)
    assert (await runner.recover("e")).output == "new"


async def test_the_timeout_of_the_workflow_is_the_new_one_from_the_same_start(world: World) -> None:
    steps = "- {id: ask, type: halt, next: e}\n- {id: e, type: end}"
    await world.run(flow(steps, timeout=100), execution_id="e")
    await world.clock.leap(50)
    runner = await deploy(world, flow(steps, timeout=200))
    await runner.migrate("e")
    row = await world.load("e")
    assert row.wake_at is not None
    assert row.wake_at.timestamp() == START + 200
    runner = await deploy(world, flow(steps))
    await runner.migrate("e")
    assert (await world.load("e")).wake_at is None


async def test_an_input_that_is_secret_now_is_masked_from_then_on(world: World) -> None:
    steps = "- {id: ask, type: halt, next: e}\n- {id: e, type: end}"
    await world.runner(flow(steps, inputs={"pin": "string"})).run({"pin": "1234567"}, execution_id="e")
    runner = await deploy(world, flow(steps, inputs={"pin": {"type": "string", "secret": True}}))
    await runner.migrate("e")
    assert (await world.load("e")).input == {"pin": "***"}


async def test_an_answer_that_came_meanwhile_is_not_lost(world: World) -> None:
    await world.run(OLD, execution_id="e")
    runner = await deploy(world, NEW)

    def answers(verb: str) -> None:
        if verb == "commit":
            world.wire.watchers.clear()
            world.spawn(tell())

    async def tell() -> None:
        message = df.Message(
            kind="answer",
            execution_id="e",
            key="answer",
            time=START,
            wait_id="e:ask",
            body={"response": 9},
        )
        await world.store.append(message, encode(message))

    world.wire.watchers.append(answers)
    await runner.migrate("e")
    await world.clock.advance()
    row = await world.store.row("e")
    assert row is not None
    assert (row.owner, await world.store.next_due()) == (None, pytest.approx(0.0))
    assert (await runner.recover("e")).output == ["new", 9]


async def test_an_encrypted_store_keeps_the_new_definition_encrypted(world: World) -> None:
    await world.restart(codec=df.AesGcm(keys={"k": bytes(32)}, active="k"))
    await world.run(OLD, execution_id="e")
    runner = await deploy(world, NEW)
    await runner.migrate("e")
    assert isinstance(await world.store.definition(NEW.hash), bytes)
    await deploy(world, OLD)
    assert (await (await world.runtime.runner_of("e")).resume("e", response=1)).output == ["new", 1]


async def test_a_fork_from_before_has_the_definition_of_then(world: World) -> None:
    await world.run(OLD, execution_id="e")
    runner = await deploy(world, NEW)
    await runner.migrate("e")
    await runner.resume("e", response=1)
    early = await runner.fork("e", from_step="first", execution_id="f")
    assert (await world.load("f")).definition_hash == OLD.hash
    assert (await runner.resume(early.execution_id, response=2)).output == "old"
    late = await runner.fork("e", from_step="more", execution_id="g", set={"response": 3})
    assert late.output == ["new", 3]
    assert (await world.load("g")).definition_hash == NEW.hash


async def test_the_trail_tells_all_of_it(world: World) -> None:
    """Folded by the rules of the crash harness, it is what is stored."""
    await world.run(flow(HALT), execution_id="e")
    runner = await deploy(world, flow(RENAMED))
    await runner.migrate("e", mapping={"ask": "ask_them"})
    for _ in range(2):
        fold = Fold()
        for seq, entry in decoded(await world.store.read("e")):
            fold.add(seq, entry)
        stored = await world.store.fetch("e")
        assert stored is not None
        assert fold.differences(stored) == []
        await runner.resume("e", response=1) if stored.row.status == "halted" else None


# --- verdicts ---------------------------------------------------------------------------------------------------------

HALT = "- {id: ask, type: halt, next: e}\n- {id: e, type: end}"
LOOP = "- {{id: each, type: loop, {}, do: [{{id: ask, type: halt}}]}}"
BOTH = "- {{id: both, type: parallel, branches: [{}]}}"
SIGN = "- {{id: sign, type: approval, prompt: '?', {}}}"

SAFE = {
    "another text": (HALT, "- {id: ask, type: halt, reason: new, next: e}\n- {id: e, type: end}"),
    "a step before it": (HALT, f"- {{id: a, type: assign, set: {{x: 1}}, next: ask}}\n{HALT}"),
    "another list": (LOOP.format("over: [1, 2]"), LOOP.format("over: [3], on_item_error: skip")),
    "a branch more": (
        BOTH.format("{id: a, type: halt}"),
        BOTH.format("{id: b, type: halt}, {id: a, type: halt}"),
    ),
    "a longer timeout": (SIGN.format("timeout: 5"), SIGN.format("timeout: 9")),
}

MUST_FINISH = {
    "another type": (
        HALT,
        "- {id: ask, type: approval, prompt: '?'}",
        "'ask', at which it stands, is of type 'approval'",
    ),
    "no such step": (
        HALT,
        "- {id: other, type: approval, prompt: '?'}",
        "'ask', at which it stands, is not in the new definition",
    ),
    "moved into another step": (
        HALT,
        "- {id: each, type: loop, over: [1], do: [{id: ask, type: halt}]}",
        "'ask', at which it stands, stands in another place",
    ),
    "the loop is gone": (LOOP.format("over: [1]"), HALT, "'each', at which it stands, is not in the new definition"),
    "a list or a condition": (
        LOOP.format("over: [1, 2]"),
        LOOP.format("while: {field: x, op: empty}"),
        "it went over a list and now has a condition",
    ),
    "side by side or in a row": (
        LOOP.format("over: [1, 2]"),
        LOOP.format("over: [1, 2], concurrency: 2"),
        "its iterations ran side by side and now run one after the other, or",
    ),
    "a branch that has begun is gone": (
        BOTH.format("{id: a, type: halt}, {id: b, type: halt}"),
        BOTH.format("{id: a, type: halt}"),
        "step 'both' has begun with 'b', which is not in the new definition",
    ),
    "a branch that is a list now": (
        BOTH.format("{id: a, type: halt}"),
        BOTH.format("{id: b, do: [{id: a, type: halt}]}"),
        "'a', at which it stands, stands in another place",
    ),
    "other votes are needed": (
        SIGN.format("required: 1"),
        SIGN.format("required: 2"),
        "people were asked for 1 approvals, not for 2",
    ),
    "its timeout is gone": (SIGN.format("timeout: 5"), SIGN.format("required: 1"), "its timeout was taken away"),
    "another order": (
        "- {id: a, type: assign, set: {x: 1}, next: ask}\n- {id: ask, type: halt}",
        "- {id: ask, type: halt, next: a}\n- {id: a, type: assign, set: {x: 1}}",
        "step 'a' stood before 'ask' and now stands behind it",
    ),
}


@pytest.mark.parametrize(("old", "new"), SAFE.values(), ids=SAFE)
async def test_it_is_safe(world: World, old: str, new: str) -> None:
    told = await verdict(world, old, new)
    assert (told.verdict, told.reasons, told.mapping) == ("safe", (), {})


@pytest.mark.parametrize(("old", "new", "reason"), MUST_FINISH.values(), ids=MUST_FINISH)
async def test_it_must_finish_with_the_old_one(world: World, old: str, new: str, reason: str) -> None:
    told = await verdict(world, old, new)
    assert told.verdict == "must_finish"
    assert any(reason in given for given in told.reasons), told.reasons


# --- other names ------------------------------------------------------------------------------------------------------

RENAMED = "- {id: ask_them, type: halt, next: e}\n- {id: e, type: end, result: $response}"


async def test_a_step_with_another_name_is_proposed(world: World) -> None:
    told = await verdict(world, HALT, RENAMED)
    assert (told.verdict, told.mapping) == ("needs_mapping", {"ask": "ask_them"})
    with pytest.raises(df.ConflictError, match=r"mapping={'ask': 'ask_them'} may be meant"):
        await world.runner().migrate("e")


async def test_with_the_mapping_it_goes_on_and_the_wait_keeps_its_id(world: World) -> None:
    told = await verdict(world, HALT, RENAMED, mapping={"ask": "ask_them"})
    assert told.safe
    row = await world.load("e")
    assert row.current_step == "ask_them"
    (wait,) = row.blocked_on
    assert isinstance(wait, HaltWait)
    assert (wait.wait_id, wait.path, wait.step_id) == ("e:ask", "ask_them", "ask_them")
    assert (await world.entries("e"))[-1].metadata["renamed"] == {"ask": "ask_them"}
    assert (await world.runner().where("e"))[0].path == "ask_them"
    assert (await world.runner().resume("e", response=4, wait_id="e:ask")).output == 4


async def test_votes_that_were_given_count_under_the_new_name(world: World) -> None:
    old = "- {id: sign, type: approval, prompt: '?', required: 2}"
    new = "- {id: agree, type: approval, prompt: '?', required: 2, next: e}\n- {id: e, type: end, result: $approvals}"
    await world.run(flow(old), execution_id="e")
    await world.runner().resume("e", approved=True, by="ann")
    runner = await deploy(world, flow(new))
    await runner.migrate("e", mapping={"sign": "agree"})
    with pytest.raises(df.ConflictError):
        await runner.resume("e", approved=True, by="ann")
    result = await runner.resume("e", approved=True, by="bob")
    assert [vote["by"] for vote in result.output["agree"]["votes"]] == ["ann", "bob"]


async def test_a_step_that_works_outside_keeps_its_name(world: World, desk: Desk) -> None:
    desk.answers["pay"] = ValueError("no")
    call = "- {{id: {}, type: call, service: desk, method: pay}}"
    told = await verdict(world, call.format("pay"), call.format("charge"), mapping={"pay": "charge"})
    assert told.verdict == "must_finish"
    assert "what it does outside carries the one it has" in told.reasons[0]


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ({"aks": "ask_them"}, "'aks' is no step of the old definition itself .did you mean 'ask'"),
        ({"ask": "ask_then"}, "'ask_then' is no step of the new definition itself .did you mean 'ask_them'"),
        ({"ask": 7}, "7 is no step of the new definition"),
        (["ask"], "mapping is a mapping"),
    ],
)
async def test_a_mapping_of_what_is_not_there(world: World, mapping: Any, told: str) -> None:
    await world.run(flow(HALT), execution_id="e")
    runner = await deploy(world, flow(RENAMED))
    for call in (runner.migration, runner.migrate):
        with pytest.raises(df.ValidationError, match=told):
            await call("e", mapping=mapping)
    row = await world.store.row("e")
    assert row is not None
    assert row.owner is None


# --- not now ----------------------------------------------------------------------------------------------------------


async def test_one_that_is_driven_is_not_migrated(world: World, desk: Desk) -> None:
    desk.hold("first")
    await world.start(OLD)
    second = world.process(world.store, lease_ttl=30)
    await second.__aenter__()
    with pytest.raises(df.ConflictError, match="is being driven by"):
        await second.runner("flow").migrate("e")
    with pytest.raises(df.ConflictError, match="is being driven by"):
        await world.runner().migrate("e")
    await second.close()


async def test_one_that_is_over_is_not_migrated(world: World) -> None:
    await world.run(OLD, execution_id="done")
    await world.runner().resume("done")
    await world.run(OLD, execution_id="cancelled")
    await world.runner().cancel("cancelled")
    runner = await deploy(world, NEW)
    for name in ("done", "cancelled"):
        told = await runner.migration(name)
        assert (told.verdict, told.reasons[0][:6]) == ("must_finish", "it is ")
        with pytest.raises(df.ConflictError, match=r"is (completed|cancelled); it cannot be migrated"):
            await runner.migrate(name)


async def test_a_workflow_that_is_not_known_here(world: World) -> None:
    await world.run(OLD, execution_id="e")
    await deploy(world, flow("- {id: a, type: end}", id="other"))
    with pytest.raises(df.ConfigError, match="knows no workflow 'flow'"):
        await (await world.runtime.runner_of("e")).migrate("e")


async def test_a_process_that_dies_leaves_the_old_or_the_new_one(world: World) -> None:
    world.know(OLD)
    hashes: list[str] = []
    died = True
    while died:
        name, left = f"e{len(hashes)}", len(hashes) + 1
        await deploy(world, OLD)
        await world.run("flow", execution_id=name)
        runner = await deploy(world, NEW)

        def one_less(verb: str) -> None:
            nonlocal left
            left -= 1
            if not left:
                world.die()

        world.wire.watchers.append(one_less)
        world.spawn(runner.migrate(name))
        await world.clock.advance()
        died = world.wire.cut
        await world.after_the_lease()
        row = await world.store.row(name)
        assert row is not None
        hashes.append(row.definition_hash)
        expected: Any = "old" if row.definition_hash == OLD.hash else ["new", 1]
        assert ("migrated" in await world.trail(name)) == (expected != "old")
        assert (await world.runner().resume(name, response=1)).output == expected
    assert len(hashes) >= 4
    assert [name == NEW.hash for name in hashes] == sorted(name == NEW.hash for name in hashes)


async def test_one_whose_end_has_begun_finishes_with_its_own(world: World, desk: Desk) -> None:
    tidy = [{"id": "tidy", "type": "call", "service": "desk", "method": "tidy"}]
    old = flow("- {id: a, type: call, service: desk, method: a}", **{"finally": tidy})
    desk.hold("tidy")
    await world.start(old)
    await world.after_the_lease()
    runner = await deploy(
        world, flow("- {id: a, type: call, service: desk, method: a}", **{"finally": tidy}, version="2")
    )
    told = await runner.migration("e")
    assert (told.verdict, told.reasons[0][:17]) == ("must_finish", "its end has begun")
    with pytest.raises(df.ConflictError, match="its end has begun"):
        await runner.migrate("e")


async def test_one_that_the_new_one_could_not_undo_finishes_with_its_own(world: World, desk: Desk) -> None:
    """Workers choose what they can drive by the definition: one without the service would take it up for ever."""
    steps = """
    - {id: fly, type: call, service: desk, method: fly, next: ask, compensate: {service: SERVICE, method: unfly}}
    - {id: ask, type: halt}
    """
    old = flow(steps.replace("SERVICE", "air"))
    await world.restart(services={"desk": desk, "air": desk})
    await world.run(old, execution_id="e")
    runner = await deploy(world, flow(steps.replace("SERVICE", "desk"), version="2"))
    told = await runner.migration("e")
    reason = "what undoes step 'fly' calls service 'air', which the new definition has not"
    assert (told.verdict, told.reasons) == ("must_finish", (reason,))
    with pytest.raises(df.ConflictError, match=reason):
        await runner.migrate("e")
    runner = await deploy(world, flow(steps.replace("SERVICE", "air") + "\n", version="3"))
    assert (await runner.migrate("e")).safe
    assert (await runner.cancel("e")).cancelled
    assert desk.called == ["fly", "unfly"]
