"""`concurrency` of a document: how many executions with one key are under way at once, and what becomes of one more."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import Dead, World, flow, working

WORK = "- {id: work, type: call, service: desk, method: work, input: $input.n, output: result}"
ASK = "- {id: ask, type: halt}"


def limited(steps: str = WORK, *, limit: int = 1, on_conflict: str = "queue", **keys: Any) -> df.WorkflowDef:
    concurrency = {"key": "$input.customer", "limit": limit, "on_conflict": on_conflict}
    return flow(steps, concurrency=concurrency, **keys)


async def line(world: World, key: str = "7", *, workflow: str = "flow") -> list[str]:
    """Who is in the line of a key, those who hold it with a star."""
    found = await world.store.line(f"{workflow}:{key}")
    return [f"{one.execution_id}*" if one.holds else one.execution_id for one in found]


async def begin(world: World, runner: df.Runner, name: str, *, customer: Any = "7", n: Any = None) -> asyncio.Task[Any]:
    """Starts an execution in a task that comes to rest."""
    task = asyncio.create_task(runner.run({"customer": customer, "n": n or name}, execution_id=name))
    world.tasks.append(task)
    await world.clock.advance()
    return task


# -- queue ------------------------------------------------------------------------------------------------------------


async def test_one_more_waits_for_its_turn_in_place(world: World) -> None:
    runner = world.runner(limited())
    world.desk.hold("work")
    first = await begin(world, runner, "a")
    second = await begin(world, runner, "b")
    assert world.desk.values("work") == ["a"]
    assert [(await world.load(name)).status for name in "ab"] == ["running", "pending"]
    world.desk.release("work")
    await world.clock.advance(1)
    assert [(await first).output, (await second).output] == ["a", "b"]
    assert world.desk.values("work") == ["a", "b"]
    assert await line(world) == []


async def test_they_begin_in_the_order_in_which_they_came(world: World) -> None:
    runner = world.runner(limited())
    world.desk.hold("work")
    tasks = [await begin(world, runner, name) for name in "dacb"]
    world.desk.release("work")
    for _ in "dacb":
        await world.clock.advance(1)
    assert [task.result().completed for task in tasks] == [True] * 4
    assert world.desk.values("work") == list("dacb")


async def test_so_many_as_the_limit_are_under_way(world: World) -> None:
    runner = world.runner(limited(limit=2))
    world.desk.hold("work")
    for name in "abc":
        await begin(world, runner, name)
    assert world.desk.values("work") == ["a", "b"]
    assert await line(world) == ["a*", "b*", "c"]


async def test_others_keys_and_other_workflows_are_not_in_the_way(world: World) -> None:
    runner = world.runner(limited())
    other = world.runner(limited(id="other"))
    world.desk.hold("work")
    await begin(world, runner, "a")
    await begin(world, runner, "b", customer="8")
    await begin(world, other, "c")
    assert world.desk.values("work") == ["a", "b", "c"]


async def test_it_is_held_while_the_execution_waits_for_somebody(world: World) -> None:
    runner = world.runner(limited(ASK))
    assert (await runner.run({"customer": "7"}, execution_id="a")).halted
    waiting = await begin(world, runner, "b")
    await world.clock.advance(10_000)
    assert (await world.load("b")).status == "pending"
    await runner.resume("a")
    await world.clock.advance(1)
    assert (await waiting).halted


async def test_it_is_held_until_what_follows_the_end_is_over(world: World) -> None:
    steps = """
    - {id: one, type: call, service: desk, method: one, compensate: {service: desk, method: undo}, next: work}
    - {id: work, type: call, service: desk, method: work, input: $input.n, output: result}
    """
    closing = [{"id": "last", "type": "call", "service": "desk", "method": "last"}]
    runner = world.runner(limited(steps, **{"finally": closing}))
    world.desk.answers["work"] = [ValueError("broken"), "good"]
    world.desk.hold("undo", "last")
    first = await begin(world, runner, "a")
    second = await begin(world, runner, "b")
    assert world.desk.called == ["one", "work", "undo"]
    world.desk.release("undo")
    await world.clock.advance(1)
    assert world.desk.called == ["one", "work", "undo", "last"]
    world.desk.release("last")
    await world.clock.advance(1)
    assert (await first).failed
    assert (await second).completed
    assert world.desk.called == ["one", "work", "undo", "last", "one", "work", "last"]


async def test_what_is_started_in_the_background_begins_when_it_is_its_turn(world: World) -> None:
    world.know(limited())
    background = world.runtime.background("flow")
    for name in "abc":
        await background.run({"customer": "7", "n": name}, execution_id=name)
    world.desk.hold("work")
    async with working(world.runtime):
        await world.clock.advance(1)
        assert world.desk.values("work") == ["a"]
        world.desk.release("work")
        await world.clock.advance(1)
        assert world.desk.values("work") == ["a", "b", "c"]
        assert [await background.status(name) for name in "abc"] == ["completed"] * 3


async def test_the_next_one_begins_at_once_in_another_process(world: World) -> None:
    runner = world.runner(limited(ASK))
    await runner.run({"customer": "7"}, execution_id="a")
    async with world.process(world.store) as other, working(other):
        await other.background("flow").run({"customer": "7"}, execution_id="b")
        await world.clock.advance(1)
        assert (await world.load("b")).status == "pending"
        await runner.resume("a")
        await world.clock.advance(0.1)
        assert (await world.load("b")).status == "halted"


async def test_one_whose_caller_died_while_it_waited_is_begun_by_a_worker(world: World) -> None:
    runner = world.runner(limited(ASK))
    await runner.run({"customer": "7"}, execution_id="a")
    await begin(world, runner, "b")
    await world.kill()
    await world.begin()
    async with working(world.runtime):
        await world.clock.advance(1)
        assert (await world.load("b")).status == "pending"
        await world.runtime.runner("flow").cancel("a")
        await world.clock.advance(1)
        assert (await world.load("b")).status == "halted"


@pytest.mark.parametrize(
    ("on_conflict", "verb"),
    [("queue", "commit"), ("queue", "row"), ("queue", "claim"), ("cancel_running", "line"), ("reject", "row")],
)
async def test_a_process_that_dies_at_any_moment_of_a_start_loses_no_place(
    world: World, on_conflict: str, verb: str
) -> None:
    runner = world.runner(limited(on_conflict=on_conflict))

    def die(found: str) -> None:
        if found == verb:
            world.die()

    world.wire.watchers.append(die)
    task = asyncio.create_task(runner.run({"customer": "7", "n": "a"}, execution_id="a"))
    world.tasks.append(task)
    await world.clock.advance()
    assert world.wire.cut
    await world.after_the_lease()
    runner = world.runtime.runner("flow")
    async with working(world.runtime):
        await world.clock.advance(1)
        assert (await runner.run({"customer": "7", "n": "b"})).output == "b"
        assert (await runner.run({"customer": "7", "n": "a"}, execution_id="a")).output == "a"
    assert await line(world) == []


async def test_a_process_that_dies_as_it_ends_one_lets_the_next_begin(world: World) -> None:
    runner = world.runner(limited())
    world.desk.answers["work"] = lambda value: world.die() if value == "a" and len(world.desk.calls) == 1 else value
    with pytest.raises(Dead):
        await runner.run({"customer": "7", "n": "a"}, execution_id="a")
    await world.kill()
    await world.begin()
    second = await begin(world, world.runtime.runner("flow"), "b")
    assert world.desk.values("work") == ["a"]
    async with working(world.runtime):
        await world.clock.advance(40)
    assert (await second).output == "b"
    assert world.desk.values("work") == ["a", "a", "b"]


# -- the others -------------------------------------------------------------------------------------------------------


async def test_one_more_is_rejected_and_not_stored(world: World) -> None:
    runner = world.runner(limited(ASK, on_conflict="reject"))
    await runner.run({"customer": "7"}, execution_id="a")
    for start in runner.run, world.runtime.background("flow").run:
        with pytest.raises(df.KeyTaken, match="'7' is held by 'a'") as refused:
            await start({"customer": "7"}, execution_id="b")
        assert (refused.value.key, refused.value.holders) == ("7", ["a"])
    assert await world.store.load("b") is None
    await runner.resume("a")
    assert (await runner.run({"customer": "7"}, execution_id="b")).halted


async def test_a_repeated_start_is_no_conflict(world: World) -> None:
    for on_conflict in "queue", "reject", "cancel_running", "return_existing":
        runner = world.runner(limited(ASK, on_conflict=on_conflict, id=on_conflict))
        for _ in range(3):
            result = await runner.run({"customer": "7"}, execution_id=f"{on_conflict}-1")
            assert (result.halted, result.execution_id) == (True, f"{on_conflict}-1")
        with pytest.raises(df.ConflictError, match="another input"):
            await runner.run({"customer": "8"}, execution_id=f"{on_conflict}-1")


async def test_the_one_that_is_there_is_returned(world: World) -> None:
    runner = world.runner(limited(on_conflict="return_existing"))
    world.desk.hold("work")
    first = await begin(world, runner, "a")
    second = await begin(world, runner, "b", n="other")
    assert await world.runtime.background("flow").run({"customer": "7", "n": "c"}) == "a"
    world.desk.release("work")
    await world.clock.advance(1)
    assert await first == await second
    assert (await second).execution_id == "a"
    assert world.desk.values("work") == ["a"]
    assert await world.store.execution_ids() == ["a"]


async def test_of_several_that_are_there_the_one_that_came_first_is_returned(world: World) -> None:
    runner = world.runner(limited(ASK, limit=2, on_conflict="return_existing"))
    for name in "ba":
        await runner.run({"customer": "7"}, execution_id=name)
    assert (await runner.run({"customer": "7"}, execution_id="c")).execution_id == "b"


async def test_the_running_one_is_cancelled_and_the_new_one_begins_when_it_has_ended(world: World) -> None:
    steps = """
    - {id: one, type: call, service: desk, method: one, compensate: {service: desk, method: undo}, next: work}
    - {id: work, type: call, service: desk, method: work, input: $input.n, output: result}
    """
    closing = [{"id": "last", "type": "call", "service": "desk", "method": "last"}]
    runner = world.runner(limited(steps, on_conflict="cancel_running", **{"finally": closing}))
    world.desk.hold("work", "undo", "last")
    first = await begin(world, runner, "a")
    second = await begin(world, runner, "b")
    assert world.desk.called == ["one", "work", "undo"]
    assert (await world.load("b")).status == "pending"
    world.desk.release("undo")
    await world.clock.advance(1)
    assert world.desk.called == ["one", "work", "undo", "last"]
    assert (await world.load("b")).status == "pending"
    world.desk.release()
    await world.clock.advance(1)
    assert (await first).cancelled
    assert (await second).output == "b"
    assert world.desk.called == ["one", "work", "undo", "last", "one", "work", "last"]
    assert "superseded" in [entry.metadata.get("reason") for entry in await world.entries("a")]


async def test_of_many_that_supersede_each_other_the_last_one_runs(world: World) -> None:
    closing = [{"id": "last", "type": "call", "service": "desk", "method": "last", "input": "$input.n"}]
    runner = world.runner(limited(on_conflict="cancel_running", **{"finally": closing}))
    world.desk.hold("work", "last")
    tasks = [await begin(world, runner, name) for name in "abcd"]
    assert world.desk.called == ["work", "last"]
    world.desk.release()
    await world.clock.advance(1)
    assert [(await task).status for task in tasks] == ["cancelled"] * 3 + ["completed"]
    assert (world.desk.values("work"), world.desk.values("last")) == (["a", "d"], ["a", "d"])
    assert await line(world) == []


async def test_only_as_many_are_cancelled_as_the_limit_asks_for(world: World) -> None:
    runner = world.runner(limited(ASK, limit=2, on_conflict="cancel_running"))
    for name in "abc":
        await runner.run({"customer": "7"}, execution_id=name)
    assert [(await world.load(name)).status for name in "abc"] == ["cancelled", "halted", "halted"]


async def test_what_waits_without_an_owner_is_superseded_in_the_background(world: World) -> None:
    world.know(limited(ASK, on_conflict="cancel_running"))
    background = world.runtime.background("flow")
    async with working(world.runtime):
        await background.run({"customer": "7"}, execution_id="a")
        await world.clock.advance(1)
        await background.run({"customer": "7"}, execution_id="b")
        await world.clock.advance(1)
    assert [await background.status(name) for name in "ab"] == ["cancelled", "halted"]


# -- ends and returns -------------------------------------------------------------------------------------------------


async def test_one_that_is_cancelled_while_it_waits_runs_nothing_and_leaves_its_place(world: World) -> None:
    closing = [{"id": "last", "type": "call", "service": "desk", "method": "last"}]
    runner = world.runner(limited(ASK, **{"finally": closing}))
    await runner.run({"customer": "7"}, execution_id="a")
    waiting = await begin(world, runner, "b")
    third = await begin(world, runner, "c")
    assert (await runner.cancel("b", reason="no")).cancelled
    assert (await waiting).cancelled
    assert world.desk.called == []
    assert await line(world) == ["a*", "c"]
    await runner.resume("a")
    await world.clock.advance(1)
    assert (await third).halted


async def test_a_worker_ends_one_that_was_cancelled_while_it_waited(world: World) -> None:
    world.know(limited(ASK))
    background = world.runtime.background("flow")
    async with working(world.runtime):
        for name in "ab":
            await background.run({"customer": "7"}, execution_id=name)
            await world.clock.advance(1)
        await background.cancel("b")
        await world.clock.advance(1)
        assert [await background.status(name) for name in "ab"] == ["halted", "cancelled"]


async def test_a_signal_does_not_begin_one_that_waits_and_is_there_when_it_does(world: World) -> None:
    runner = world.runner(limited("- {id: wait, type: signal, name: go, output: result}"))
    await runner.run({"customer": "7"}, execution_id="a")
    waiting = await begin(world, runner, "b")
    await runner.signal("b", "go", "early")
    assert (await world.load("b")).status == "pending"
    await runner.signal("a", "go", "x")
    await world.clock.advance(1)
    assert (await waiting).output == "early"


async def test_what_is_deleted_leaves_its_place(world: World) -> None:
    runner = world.runner(limited(ASK))
    await runner.run({"customer": "7"}, execution_id="a")
    waiting = await begin(world, runner, "b")
    await world.store.delete("a")
    await world.clock.advance(3)
    assert (await waiting).halted


async def test_a_failed_one_needs_its_key_again_to_go_on(world: World) -> None:
    runner = world.runner(limited())
    world.desk.answers["work"] = [ValueError("broken"), "again"]
    assert (await runner.run({"customer": "7", "n": 1}, execution_id="a")).failed
    before = await world.store.entries("a")
    asking = world.runner(limited(ASK, id="other"))
    await asking.run({"customer": "7"}, execution_id="x")  # the key of another workflow
    world.desk.answers["work"] = ["again"]
    assert (await runner.retry("a")).output == "again"
    assert len(await world.store.entries("a")) > len(before)
    assert await line(world) == []


async def test_a_failed_one_is_not_retried_while_others_hold_its_key(world: World) -> None:
    runner = world.runner(limited())
    world.desk.answers["work"] = [ValueError("broken"), "b", "a"]
    assert (await runner.run({"customer": "7", "n": 1}, execution_id="a")).failed
    world.desk.hold("work")
    second = await begin(world, runner, "b")
    before = await world.store.row("a")
    with pytest.raises(df.KeyTaken, match="held by 'b'"):
        await runner.retry("a")
    after = await world.store.row("a")
    assert before is not None
    assert after is not None
    assert (after.status, after.seq, after.owner) == ("failed", before.seq, None)
    world.desk.release("work")
    await world.clock.advance(1)
    assert (await second).output == "b"
    assert (await runner.retry("a")).output == "a"


async def test_a_fork_needs_the_key_too(world: World) -> None:
    runner = world.runner(limited("- {id: ask, type: halt, next: work}\n" + WORK))
    await runner.run({"customer": "7", "n": 1}, execution_id="a")
    with pytest.raises(df.KeyTaken):
        await runner.fork("a", from_step="ask", execution_id="f")
    assert await world.store.load("f") is None
    await runner.resume("a")
    assert (await runner.fork("a", from_step="work", execution_id="f")).completed
    assert await line(world) == []


async def test_a_definition_with_another_limit_waits_until_so_few_are_under_way(world: World) -> None:
    runner = world.runner(limited(ASK, limit=3))
    for name in "abc":
        await runner.run({"customer": "7"}, execution_id=name)
    await world.kill()
    world.workflows.clear()
    await world.begin()
    runner = world.runner(limited(ASK, limit=2))
    waiting = await begin(world, runner, "d")
    await runner.cancel("b")
    await world.clock.advance(1)
    assert not waiting.done()
    await runner.cancel("a")
    await world.clock.advance(1)
    assert (await waiting).halted
    assert await line(world) == ["c*", "d*"]


async def test_a_signal_with_start_waits_for_its_turn_with_its_signal(world: World) -> None:
    runner = world.runner(limited("- {id: wait, type: signal, name: go, output: result, next: ask}\n" + ASK))
    await runner.signal_with_start("a", "go", "x", input={"customer": "7"})
    task = asyncio.create_task(runner.signal_with_start("b", "go", "y", input={"customer": "7"}))
    await world.clock.advance()
    assert [(await world.load(name)).status for name in "ab"] == ["halted", "pending"]
    await runner.resume("a")
    await world.clock.advance(1)
    assert (await task).halted
    assert (await world.load("b")).ctx["result"] == "y"


async def test_a_signal_with_start_reaches_the_one_that_is_there(world: World) -> None:
    steps = "- {id: wait, type: signal, name: go, next: again}\n- {id: again, type: signal, name: go, output: result}"
    runner = world.runner(limited(steps, on_conflict="return_existing"))
    await runner.signal_with_start("a", "go", 1, input={"customer": "7"})
    result = await runner.signal_with_start("b", "go", 2, input={"customer": "7"})
    assert (result.execution_id, result.output) == ("a", 2)
    assert await world.store.load("b") is None


async def test_a_dry_run_holds_no_key_and_waits_for_none(world: World) -> None:
    runner = world.runner(limited(ASK, on_conflict="reject"))
    parent = world.runner(flow("- {id: sub, type: workflow, workflow_id: flow, input: {customer: '7'}}", id="parent"))
    await runner.run({"customer": "7"}, execution_id="a")
    for result in (await runner.run({"customer": "7"}, dry_run=True), await parent.run(dry_run=True)):
        assert result.completed
        await runner.run({"customer": "8"}, execution_id=f"b{result.execution_id}", dry_run=True)
    assert await line(world) == ["a*"]
    assert await line(world, "8") == []


# -- children ---------------------------------------------------------------------------------------------------------

PARENT = "- {id: sub, type: workflow, workflow_id: flow, input: {customer: $input.customer, n: 1}, output: result}"


async def test_a_child_waits_for_its_turn_and_its_parent_for_it(world: World) -> None:
    runner = world.runner(limited())
    parent = world.runner(flow(PARENT, id="parent"))
    world.desk.hold("work")
    first = await begin(world, runner, "a")
    task = await begin(world, parent, "p")
    assert [(await world.load(name)).status for name in ("p", "p.sub")] == ["halted", "pending"]
    world.desk.release("work")
    await world.clock.advance(3)
    assert (await first).completed
    assert (await task).output == 1


async def test_a_parent_that_is_cancelled_takes_its_waiting_child_with_it(world: World) -> None:
    runner = world.runner(limited(ASK))
    parent = world.runner(flow(PARENT, id="parent"))
    await runner.run({"customer": "7"}, execution_id="a")
    task = await begin(world, parent, "p")
    await parent.cancel("p")
    await world.clock.advance(1)
    assert (await task).cancelled
    assert (await world.load("p.sub")).status == "cancelled"
    assert await line(world) == ["a*"]


async def test_a_child_that_is_rejected_is_an_error_of_its_step(world: World) -> None:
    runner = world.runner(limited(ASK, on_conflict="reject"))
    handled = PARENT[:-1] + ", on_error: told}\n- {id: told, type: assign, set: {result: $_last_error.class}}"
    parent = world.runner(flow(handled, id="parent"))
    await runner.run({"customer": "7"}, execution_id="a")
    assert (await parent.run({"customer": "7"})).output == "KeyTaken"


async def test_a_child_does_not_wait_for_what_waits_for_it(world: World) -> None:
    inner = limited(PARENT.replace("workflow_id: flow", "workflow_id: outer"), id="outer")
    runner = world.runner(inner)
    result = await runner.run({"customer": "7"}, execution_id="p")
    assert result.error is not None
    assert result.error.startswith("KeyTaken: execution 'p.sub' would wait for execution 'p'")


async def test_a_child_that_nobody_waits_for_may_be_the_one_that_is_there(world: World) -> None:
    runner = world.runner(limited(ASK, on_conflict="return_existing"))
    apart = world.runner(flow(PARENT[:-1] + ", wait: false}", id="apart"))
    parent = world.runner(flow(PARENT, id="parent"))
    await runner.run({"customer": "7"}, execution_id="a")
    assert (await apart.run({"customer": "7"})).output == "a"
    assert "return_existing needs wait: false" in str((await parent.run({"customer": "7"})).error)


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"customer": None}, {"customer": ""}, {"customer": " "}])
async def test_without_a_key_nothing_is_stored(world: World, given: dict[str, Any]) -> None:
    runner = world.runner(limited())
    with pytest.raises(df.InputError, match=r"concurrency\.key"):
        await runner.run(given)
    with pytest.raises(df.InputError, match=r"concurrency\.key"):
        await world.runtime.background("flow").run(given)
    assert await world.store.execution_ids() == []


@pytest.mark.parametrize(("customer", "key"), [(7, "7"), (True, "true"), ({"b": [1]}, '{"b":[1]}'), ("ü 7", "ü 7")])
async def test_a_key_is_a_text(world: World, customer: Any, key: str) -> None:
    runner = world.runner(limited(ASK))
    await runner.run({"customer": customer}, execution_id="a")
    assert (await world.load("a")).concurrency_key == key
    assert await line(world, key) == ["a*"]


@pytest.mark.parametrize("customer", ["x" * 201, "x\0y", "x\ny"])
async def test_what_is_no_short_text_is_kept_as_its_hash(world: World, customer: str) -> None:
    runner = world.runner(limited(ASK, on_conflict="reject"))
    await runner.run({"customer": customer}, execution_id="a")
    key = (await world.load("a")).concurrency_key
    assert key is not None
    assert key.startswith("sha256:")
    with pytest.raises(df.KeyTaken, match=key):
        await runner.run({"customer": customer})


async def test_a_key_with_a_secret_in_it_is_kept_as_its_hash(world: World) -> None:
    declared = {"customer": {"type": "string", "secret": True}}
    runner = world.runner(limited(ASK, inputs=declared, on_conflict="reject"))
    await runner.run({"customer": "hush-hush"}, execution_id="a")
    with pytest.raises(df.KeyTaken) as refused:
        await runner.run({"customer": "hush-hush"})
    assert "hush-hush" not in str(refused.value)
    assert str((await world.load("a")).concurrency_key).startswith("sha256:")
    assert all("hush-hush" not in why.reason for why in await runner.why("a"))


async def test_a_key_may_be_put_together(world: World) -> None:
    concurrency = {"key": "${input.region}/$input.customer"}
    runner = world.runner(flow(ASK, concurrency=concurrency))
    await runner.run({"customer": 7, "region": "eu"}, execution_id="a")
    assert await line(world, "eu/7") == ["a*"]
    with pytest.raises(df.InputError, match=r"needs \$input\.region"):
        await runner.run({"customer": 7})


# -- looking ----------------------------------------------------------------------------------------------------------


async def test_it_says_what_it_waits_for(world: World) -> None:
    runner = world.runner(limited(ASK))
    await runner.run({"customer": "7"}, execution_id="a")
    for name in "bc":
        await begin(world, runner, name)
    (second,), (third,) = await runner.why("b"), await runner.why("c")
    assert second.reason == "execution 'a', which holds key '7'"
    assert third.reason == "execution 'a', which holds key '7' (and 1 before it waits for that, too)"
    assert second.unblock == "nothing to do: it begins when that one has ended"
    loaded = await world.load("b")
    assert (loaded.wake_at, loaded.concurrency_key) == (None, "7")
    assert (await runner.recover("b")).status == "pending"


# -- whatever happens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_dies_when_no_place_is_lost_and_none_is_given_twice(world: World, seed: int) -> None:
    """Starts, ends, cancellations, deletions, and processes that die at any call of their store."""
    chance = random.Random(seed)
    limit = chance.choice([1, 1, 2])
    on_conflict = chance.choice(["queue", "queue", "cancel_running"])
    ask = limited("- {id: ask, type: halt, next: work}\n" + WORK, limit=limit, on_conflict=on_conflict)
    world.know(ask)
    begun: list[str] = []

    async def check() -> None:
        for key in "78":
            holders = [name for name in await line(world, key) if name.endswith("*")]
            assert len(holders) <= limit
            live = [
                one.id for one in await world.store.find(status=["running", "halted"]) if one.concurrency_key == key
            ]
            assert {f"{name}*" for name in live} <= set(holders)
        for one in await world.store.find(status=["running", "halted", "completed"]):
            if one.id not in begun:
                begun.append(one.id)

    async with world.process(world.store) as other:
        for number in range(30):
            runtime = chance.choice([world.runtime, other])
            runner = runtime.runner("flow")
            living = [one.id for one in await world.store.find(status=["pending", "running", "halted"])]
            name = chance.choice(living) if living else "none"
            left = chance.randrange(1, 12)

            def die(verb: str, left: list[int] = [left]) -> None:  # noqa: B006 - one for each step, as is meant
                left[0] -= 1
                if left[0] <= 0:
                    world.die()

            if dies := chance.random() < 0.3:
                runner = world.runtime.runner("flow")
                world.wire.watchers.append(die)
            given = {"customer": chance.choice("78"), "n": number}
            match chance.randrange(5):
                case 0 | 1:
                    call: Any = runner.run(given, execution_id=f"e{number:02}")
                case 2:
                    call = runner.resume(name)
                case 3:
                    call = runner.cancel(name)
                case _:
                    call = (world.runtime if dies else runtime).background("flow").run(given)
            task = world.spawn(call)
            await world.clock.advance(0.5)
            if task.done() and not task.cancelled():
                task.exception()
            if dies:
                await world.after_the_lease() if world.wire.cut else world.wire.watchers.clear()
            if chance.random() < 0.1 and living:
                with suppress(df.ConflictError):
                    await world.store.delete(name)
            await check()
        async with working(other):
            for _ in range(200):
                await world.clock.advance(40)
                await check()
                halted = await world.store.find(status="halted")
                pending = await world.store.find(status=["pending", "running"])
                if not halted and not pending:
                    break
                for one in halted:
                    with suppress(df.ConflictError):
                        await other.runner("flow").resume(one.id)
        left_over = await world.store.find(status=["pending", "running", "halted"])
        assert left_over == []
        assert await line(world, "7") == await line(world, "8") == []
        if limit == 1 and on_conflict == "queue":
            for key in "78":
                found = await world.store.find(limit=1000)
                came = {one.id: str(one.created_at) for one in found if one.concurrency_key == key}
                order = [name for name in begun if name in came]
                assert order == sorted(order, key=lambda name: came[name])
    for task in world.tasks:
        task.cancel()
