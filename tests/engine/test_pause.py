"""An execution that somebody paused stands still between two steps, wherever it runs, until it is unpaused."""

from __future__ import annotations

import pytest

import durable_flow as df
from durable_flow.model.execution import PauseWait
from tests.engine.aid import World, flow, working

TWO = """
- {id: one, type: call, service: desk, method: one, next: two}
- {id: two, type: call, service: desk, method: two, output: result}
"""

ASK = """
- {id: ask, type: halt, reason: what now, timeout: 60s, on_timeout: late, next: two}
- {id: two, type: call, service: desk, method: two, input: $response, output: result, next: __FINISHED__}
- {id: late, type: call, service: desk, method: late, output: result}
"""

PARENT = flow("""
    - {id: sub, type: workflow, workflow_id: child, output: out, next: after}
    - {id: after, type: call, service: desk, method: after, output: result}
""")

CHILD = flow(TWO, id="child")


async def paused(world: World, execution_id: str = "e") -> str | None:
    """Who paused an execution that stands still, and that nobody drives or will take up."""
    stored = await world.load(execution_id)
    deadlines = [wait.deadline for wait in stored.blocked_on if wait.deadline is not None and not wait.polls]
    assert (stored.status, stored.owner, stored.wake_at) == ("halted", None, min(deadlines, default=None))
    (wait,) = [wait for wait in stored.blocked_on if isinstance(wait, PauseWait)]
    return wait.by


async def test_the_step_under_way_ends_and_none_begins_after_it(world: World) -> None:
    world.desk.hold("one")
    task = await world.start(TWO)
    assert (await world.runner().pause("e", by="ann", reason="the bank is down")).status == "running"
    world.desk.release()
    result = await task
    assert result.halted
    assert [(halt.type, halt.prompt, halt.wait_id) for halt in result.halts] == [
        ("pause", "the bank is down", "e:~pause")
    ]
    assert world.desk.called == ["one"]
    assert await paused(world) == "ann"


async def test_an_unpaused_execution_goes_on_where_it_stood(world: World) -> None:
    world.desk.hold("one")
    task = await world.start(TWO)
    await world.runner().pause("e", by="ann", reason="the bank is down")
    world.desk.release()
    await task
    result = await world.runner().unpause("e", by="bob")
    assert result.completed
    assert world.desk.called == ["one", "two"]
    entries = {str(entry.action): entry for entry in await world.entries()}
    assert (entries["paused"].actor, entries["paused"].metadata["reason"]) == ("ann", "the bank is down")
    assert entries["unpaused"].actor == "bob"
    assert await world.trail() == [
        "started",
        "paused",
        "one completed",
        "halted",
        "unpaused",
        "resumed",
        "two completed",
        "finished",
    ]


async def test_instant_steps_do_not_begin_either(world: World) -> None:
    world.desk.hold("one")
    task = await world.start("""
        - {id: one, type: call, service: desk, method: one, next: set}
        - {id: set, type: assign, set: {result: 1}}
    """)
    await world.runner().pause("e")
    world.desk.release()
    assert (await task).halted
    assert await world.variables() == {}
    assert (await world.runner().unpause("e")).output == 1


async def test_the_owner_in_another_process_obeys(world: World) -> None:
    world.desk.hold("one")
    task = await world.start(TWO)
    async with world.process(world.store) as other:
        assert (await other.runner("flow").pause("e", by="ann")).status == "running"
        await world.clock.advance(1)
        world.desk.release()
        assert (await task).halted
        assert world.desk.called == ["one"]
        assert await paused(world) == "ann"
        assert (await other.runner("flow").unpause("e")).completed


async def test_one_that_is_unpaused_before_it_stood_still_notices_nothing(world: World) -> None:
    world.desk.hold("one")
    task = await world.start(TWO)
    await world.runner().pause("e")
    await world.runner().unpause("e")
    world.desk.release()
    assert (await task).completed
    assert "halted" not in await world.trail()


async def test_nobody_takes_a_paused_execution_up(world: World) -> None:
    world.desk.hold("one")
    task = await world.start(TWO)
    await world.runner().pause("e", by="ann")
    world.desk.release()
    await task
    before = await world.load()
    assert (await world.runner().run(None, execution_id="e")).halted
    assert (await world.runner().recover("e")).halted
    with pytest.raises(df.ConflictError, match="'e' is paused and waits for no answer; unpause it"):
        await world.runner().resume("e", response=1)
    async with working(world.runtime):
        await world.clock.advance(3600)
    assert world.desk.called == ["one"]
    assert await paused(world) == "ann"
    after = await world.load()
    assert after.generation <= before.generation + 1  # `recover` looked; the worker had no reason to


async def test_mail_for_a_paused_execution_keeps_no_worker_busy(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().pause("e")
    async with working(world.runtime):
        await world.store.record("e", "looked at")
        await world.runner().signal("e", "news", 1)
        await world.clock.advance(30)
        generation = (await world.load()).generation
        await world.clock.advance(25)
        assert (await world.load()).generation == generation
    assert not await world.store.inbox("e")


async def test_an_answer_is_taken_and_nothing_begins_after_it(world: World) -> None:
    await world.run(ASK, execution_id="e")
    halted = await world.runner().pause("e", by="ann")
    assert [halt.type for halt in halted.halts] == ["halt", "pause"]
    result = await world.runner().resume("e", response="buy", by="cid")
    assert result.halted
    assert [halt.type for halt in result.halts] == ["pause"]
    assert world.desk.called == []
    assert await paused(world) == "ann"
    with pytest.raises(df.ConflictError):
        await world.runner().resume("e", response="sell", wait_id="e:ask")
    assert (await world.runner().unpause("e")).output == "buy"


async def test_a_timeout_fires_into_it(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().pause("e")
    async with working(world.runtime):
        await world.clock.advance(61)
        assert "ask answered" in await world.trail()
        assert world.desk.called == []
        generation = (await world.load()).generation
        await world.clock.advance(600)
        assert (await world.load()).generation == generation
        await paused(world)
        await world.runner().unpause("e", drive=False)
        await world.clock.advance(1)
    assert (await world.load()).status == "completed"
    assert world.desk.called == ["late"]


async def test_a_timer_fires_into_it(world: World) -> None:
    task = await world.start("""
        - {id: nap, type: wait, for: 60s, next: two}
        - {id: two, type: call, service: desk, method: two, output: result}
    """)
    await world.runner().pause("e")
    await world.clock.advance(61)
    assert (await task).halted
    await world.runner().recover("e")
    assert "nap answered" in await world.trail()
    assert world.desk.called == []
    await paused(world)
    assert (await world.runner().unpause("e")).completed


async def test_the_timeout_of_the_workflow_ends_it(world: World) -> None:
    await world.run(flow(ASK, timeout="100s"), execution_id="e")
    await world.runner().pause("e")
    async with working(world.runtime):
        await world.clock.advance(101)
    loaded = await world.load()
    assert (loaded.status, loaded.blocked_on) == ("failed", [])


async def test_no_gate_is_asked_and_none_is_missed(world: World) -> None:
    asked: list[float] = []

    def checks(params: object, context: df.StepContext) -> df.Gate:
        asked.append(world.clock.now())
        return df.Gate.PENDING if len(asked) < 3 else df.Gate.APPROVED

    await world.restart(gates={"checks": checks})
    steps = "- {id: gate, type: gate, resolver: checks, poll_interval: 60s, timeout: 1h}"
    assert (await world.run(flow(steps), execution_id="e")).halted
    async with working(world.runtime):
        await world.clock.advance(61)
        assert len(asked) == 2
        await world.runner().pause("e")
        await world.clock.advance(600)
        assert len(asked) == 2
        await paused(world)
        generation = (await world.load()).generation
        await world.clock.advance(600)
        assert (await world.load()).generation == generation
        await world.runner().unpause("e", drive=False)
        await world.clock.advance(1)
    assert len(asked) == 3
    assert (await world.load()).status == "completed"


@pytest.mark.parametrize("interval", ["1s", "60s"])
async def test_no_further_attempt_is_made(world: World, interval: str) -> None:
    world.desk.answers["one"] = [ConnectionError("no line"), "done"]
    steps = f"""
        - id: one
          type: call
          service: desk
          method: one
          retry: {{max_attempts: 3, initial_interval: {interval}, jitter: 0}}
          output: result
    """
    task = await world.start(steps)
    await world.runner().pause("e")
    await world.clock.advance(61)
    assert (await task).halted
    await world.runner().recover("e")
    assert world.desk.called == ["one"]
    await paused(world)
    assert (await world.runner().unpause("e")).output == "done"
    assert [entry.attempt for entry in await world.entries() if entry.path == "one"][-1] == 2


async def test_a_blocked_step_can_be_decided_about(world: World) -> None:
    world.desk.answers["one"] = [ConnectionError("no line"), "done"]
    steps = (
        "- {id: one, type: call, service: desk, method: one, retry: {max_attempts: 1, on_exhausted: halt}, "
        "output: result}\n"
    )
    assert (await world.run(steps, execution_id="e")).halts[0].type == "error"
    await world.runner().pause("e")
    assert (await world.runner().retry("e", by="ann")).halted
    assert world.desk.called == ["one"]
    assert (await world.runner().unpause("e")).output == "done"


async def test_a_paused_execution_is_cancelled(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().pause("e")
    assert (await world.runner().cancel("e")).cancelled
    loaded = await world.load()
    assert (loaded.status, loaded.blocked_on) == ("cancelled", [])


async def test_one_that_is_cancelled_while_others_of_its_frames_stand_still(two_branches: World) -> None:
    world = two_branches
    task = await world.start(BRANCHES)
    await world.runner().pause("e")
    world.desk.release("quick")
    await world.clock.advance(1)
    assert world.desk.called == ["quick", "slow"]
    assert (await world.runner().cancel("e")).cancelled
    assert (await task).cancelled
    assert world.desk.cancelled == ["slow"]


BRANCHES = """
- id: both
  type: parallel
  branches:
    - {id: left, do: [{id: quick, type: call, service: desk, method: quick, next: more},
                      {id: more, type: call, service: desk, method: more}]}
    - {id: right, do: [{id: slow, type: call, service: desk, method: slow, next: last},
                       {id: last, type: halt, reason: wait}]}
  output: result
"""


@pytest.fixture
def two_branches(world: World) -> World:
    world.desk.hold("quick", "slow")
    return world


async def test_one_frame_stands_still_while_another_is_at_work(two_branches: World) -> None:
    world = two_branches
    task = await world.start(BRANCHES)
    await world.runner().pause("e")
    world.desk.release("quick")
    await world.clock.advance(1)
    assert (await world.load()).status == "running"
    world.desk.release("slow")
    assert (await task).halted
    assert world.desk.called == ["quick", "slow"]
    await paused(world)
    result = await world.runner().unpause("e")
    assert [halt.type for halt in result.halts] == ["halt"]
    assert world.desk.called == ["quick", "slow", "more"]
    assert (await world.runner().resume("e", response=None)).completed


async def test_frames_that_stand_still_go_on_in_place(two_branches: World) -> None:
    world = two_branches
    task = await world.start(BRANCHES)
    await world.runner().pause("e")
    world.desk.release("quick")
    await world.clock.advance(1)
    assert "more" not in world.desk.called
    assert (await world.runner().unpause("e")).status == "running"
    await world.clock.advance(1)
    assert "more" in world.desk.called
    world.desk.release("slow")
    assert (await task).halted
    assert "recovered" not in await world.trail()


async def test_what_is_enough_ends_a_branch_that_stands_still(two_branches: World) -> None:
    world = two_branches
    first = BRANCHES.replace("type: parallel", "type: parallel\n  wait: any").replace(
        "method: slow, next: last}", "method: slow}"
    )
    steps = first.replace(",\n                       {id: last, type: halt, reason: wait}", "")
    task = await world.start(steps + "  next: after\n- {id: after, type: call, service: desk, method: after}\n")
    await world.runner().pause("e")
    world.desk.release("quick")
    await world.clock.advance(1)
    world.desk.release("slow")
    assert (await task).halted
    assert (await world.runner().unpause("e")).completed
    assert world.desk.called == ["quick", "slow", "after"]


async def test_a_loop_stands_still_between_two_items(world: World) -> None:
    world.desk.hold("one")
    task = await world.start(
        """
        - id: each
          type: loop
          over: $input.items
          do: [{id: one, type: call, service: desk, method: one, input: $item}]
          output: result
        """,
        {"items": [1, 2, 3]},
    )
    await world.runner().pause("e")
    world.desk.release()
    assert (await task).halted
    assert world.desk.values("one") == [1]
    await world.restart()
    assert (await world.runner().unpause("e")).output == [1, 2, 3]
    assert world.desk.values("one") == [1, 2, 3]


async def test_a_pause_survives_the_process_that_was_at_work(world: World) -> None:
    world.desk.hold("one")
    await world.start(TWO)
    await world.runner().pause("e", by="ann")
    await world.after_the_lease()
    async with working(world.runtime):
        await world.clock.advance(10)
        assert await paused(world) == "ann"
        assert world.desk.called == ["one"]
        world.desk.release()
        await world.runner().unpause("e", drive=False)
        await world.clock.advance(1)
    assert (await world.load()).status == "completed"
    assert world.desk.called == ["one", "one", "two"]


async def test_the_children_of_a_paused_execution_are_paused_with_it(world: World) -> None:
    world.know(CHILD)
    world.desk.hold("one")
    task = await world.start(PARENT)
    await world.runner().pause("e", by="ann", reason="stop")
    await world.clock.advance()
    world.desk.release()
    assert (await task).halted
    assert world.desk.called == ["one"]
    assert await paused(world) == "ann"
    assert await paused(world, "e.sub") == "ann"
    why = {found.execution_id: found for found in await world.runner().why("e")}
    assert (why["e"].reason, why["e"].unblock) == ("paused by ann: stop", "unpause it")
    assert why["e.sub"].unblock == "unpause execution 'e', which it was paused with"
    assert (await world.runner().unpause("e")).completed
    assert world.desk.called == ["one", "two", "after"]


async def test_children_that_were_paused_together_go_on_side_by_side(world: World) -> None:
    world.know(CHILD)
    world.desk.hold("one")
    task = await world.start("""
        - id: both
          type: parallel
          branches:
            - {id: left, type: workflow, workflow_id: child, input: {}}
            - {id: right, type: workflow, workflow_id: child, input: {}}
    """)
    await world.runner().pause("e")
    await world.clock.advance()
    world.desk.release()
    assert (await task).halted
    assert world.desk.called == ["one", "one"]
    world.desk.hold("two")
    going_on = world.spawn(world.runner().unpause("e"))
    await world.clock.advance()
    assert world.desk.called == ["one", "one", "two", "two"]
    world.desk.release()
    assert (await going_on).completed


async def test_the_child_of_a_dead_process_is_paused_with_its_parent(world: World) -> None:
    world.know(CHILD)
    world.desk.hold("one")
    await world.start(PARENT)
    await world.after_the_lease()
    world.desk.release()
    assert (await world.runner().pause("e", by="ann")).halted
    assert await paused(world, "e.sub") == "ann"
    assert world.desk.called == ["one"]
    assert (await world.runner().unpause("e")).completed


async def test_a_worker_takes_up_children_that_were_unpaused_with_their_parent(world: World) -> None:
    world.know(CHILD)
    world.desk.hold("one")
    task = await world.start(PARENT)
    await world.runner().pause("e")
    await world.clock.advance()
    world.desk.release()
    await task
    async with working(world.runtime):
        await world.runner().unpause("e", drive=False)
        await world.clock.advance(5)
    assert (await world.load()).status == "completed"


async def test_a_child_that_was_paused_for_itself_stays_paused(world: World) -> None:
    world.know(CHILD)
    world.desk.hold("one")
    task = await world.start(PARENT)
    await world.runtime.runner("child").pause("e.sub", by="cid")
    await world.runner().pause("e", by="ann")
    await world.clock.advance()
    world.desk.release()
    await task
    assert await paused(world, "e.sub") == "cid"
    assert (await world.runner().unpause("e")).halted
    assert await paused(world, "e.sub") == "cid"
    assert (await world.runtime.runner("child").unpause("e.sub")).completed
    assert (await world.load()).status == "completed"


async def test_a_child_that_outlives_its_parent_goes_on(world: World) -> None:
    world.know(CHILD)
    world.desk.hold("one", "after")
    parent = flow("""
        - {id: sub, type: workflow, workflow_id: child, wait: false, next: after}
        - {id: after, type: call, service: desk, method: after, next: last}
        - {id: last, type: call, service: desk, method: last}
    """)
    task = await world.start(parent)
    await world.runner().pause("e")
    world.desk.release()
    assert (await task).halted
    await world.clock.advance(1)
    assert (await world.load("e.sub")).status == "completed"


async def test_the_first_who_paused_it_counts(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().pause("e", by="ann")
    assert (await world.runner().pause("e", by="bob")).halted
    assert await paused(world) == "ann"
    assert (await world.trail()).count("paused") == 1


async def test_unpausing_what_is_not_paused_changes_nothing(world: World) -> None:
    await world.run(ASK, execution_id="e")
    before = await world.trail()
    assert [halt.type for halt in (await world.runner().unpause("e")).halts] == ["halt"]
    assert await world.trail() == before


async def test_it_can_be_paused_again(world: World) -> None:
    await world.run(ASK, execution_id="e")
    for name in ("ann", "bob"):
        await world.runner().pause("e", by=name)
        assert await paused(world) == name
        assert [halt.type for halt in (await world.runner().unpause("e")).halts] == ["halt"]


async def test_one_that_fails_in_the_step_under_way_is_retried_unpaused(world: World) -> None:
    world.desk.answers["one"] = [ValueError("no"), "yes"]
    world.desk.hold("one")
    task = await world.start(TWO)
    await world.runner().pause("e")
    world.desk.release()
    assert (await task).failed
    assert (await world.load()).blocked_on == []
    assert (await world.runner().retry("e")).completed


async def test_what_is_over_or_not_there_is_not_paused(world: World) -> None:
    await world.run(TWO, execution_id="e")
    with pytest.raises(df.ConflictError, match="'e' is completed; it cannot be paused any more"):
        await world.runner().pause("e")
    with pytest.raises(df.ConflictError, match="cannot be unpaused"):
        await world.runner().unpause("e")
    with pytest.raises(df.ExecutionNotFound):
        await world.runner().pause("nobody")


@pytest.mark.parametrize("wrong", [{"by": ""}, {"by": 7}, {"reason": 7}, {"reason": "x" * 10_001}])
async def test_who_and_why_are_texts(world: World, wrong: dict[str, object]) -> None:
    await world.run(ASK, execution_id="e")
    with pytest.raises(df.ValidationError):
        await world.runner().pause("e", **wrong)  # type: ignore[arg-type]
    assert not await world.store.inbox("e")


async def test_a_draining_worker_gives_a_paused_execution_back(world: World) -> None:
    world.desk.hold("quick", "slow")
    async with world.process(world.store, grace=5.0) as other:
        await world.start(BRANCHES)
        await world.after_the_lease()
        async with working(other) as worker:
            await world.clock.advance(1)
            await world.runner().pause("e")
            await world.clock.advance(1)
            world.desk.release("quick")
            await world.clock.advance(1)
            worker.stop()
            await world.clock.advance(1)
            world.desk.release("slow")
            await world.clock.advance(1)
            assert worker.active == 0
    assert (await world.load()).owner is None
    assert (await world.runner().recover("e")).halts[-1].type == "pause"


CLOSING = flow(
    """
    - {id: one, type: call, service: desk, method: one, compensate: {service: desk, method: undo}, next: two}
    - {id: two, type: call, service: desk, method: two}
    """,
    **{"finally": [{"id": "clean", "type": "call", "service": "desk", "method": "clean"}]},
)


async def test_what_follows_an_end_stands_still_too(world: World) -> None:
    world.desk.answers["two"] = ValueError("no")
    world.desk.hold("undo")
    task = await world.start(CLOSING)
    assert world.desk.called == ["one", "two", "undo"]
    await world.runner().pause("e", by="ann")
    world.desk.release()
    assert (await task).halted
    assert await paused(world) == "ann"
    await world.restart()
    assert (await world.runner().unpause("e")).failed
    assert world.desk.called == ["one", "two", "undo", "clean"]


@pytest.mark.parametrize(("fails", "left"), [(True, ["undo", "clean"]), (False, ["clean"])])
async def test_what_follows_an_end_does_not_begin(world: World, fails: bool, left: list[str]) -> None:
    if fails:
        world.desk.answers["two"] = ValueError("no")
    world.desk.hold("two")
    task = await world.start(CLOSING)
    await world.runner().pause("e", by="ann")
    world.desk.release()
    assert (await task).halted
    assert world.desk.called == ["one", "two"]
    await world.after_the_lease()
    assert (await world.runner().recover("e")).halted
    assert await paused(world) == "ann"
    assert (await world.runner().unpause("e")).failed is fails
    assert world.desk.called == ["one", "two", *left]
    assert (await world.load()).blocked_on == []


async def test_one_that_is_paused_in_the_last_step_of_all_ends(world: World) -> None:
    world.desk.hold("clean")
    task = await world.start(CLOSING)
    await world.runner().pause("e")
    world.desk.release()
    assert (await task).completed
    assert (await world.load()).blocked_on == []


async def test_a_paused_execution_that_is_cancelled_is_undone(world: World) -> None:
    world.desk.hold("one")
    task = await world.start(CLOSING)
    await world.runner().pause("e")
    world.desk.release()
    assert (await task).halted
    assert (await world.runner().cancel("e")).cancelled
    assert world.desk.called == ["one", "undo", "clean"]
