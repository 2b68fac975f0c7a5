"""Executions that are started here and driven by workers, which may hear of them or not."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

import durable_flow as df
from durable_flow.engine import BACKSTOP
from tests.engine.aid import START, Dead, Far, World, flow, idle, working

WORK = flow("- {id: work, type: call, service: desk, method: work, input: $input.n, output: result}")

ASK = flow("""
    - {id: ask, type: halt, reason: Well?, next: again}
    - {id: again, type: halt, next: work}
    - {id: work, type: call, service: desk, method: work, input: $response, output: result}
""", id="ask")  # fmt: skip

PARENT = flow("- {id: sub, type: workflow, workflow_id: ask, output: result}", id="parent")


def background(world: World, workflow: str | df.WorkflowDef = WORK, adapter: Any = None) -> df.BackgroundRunner:
    if isinstance(workflow, df.WorkflowDef):
        world.know(workflow)
    return world.runtime.background(workflow, adapter)


# -- starting ----------------------------------------------------------------------------------------------------------


async def test_it_is_stored_as_pending_and_nobody_drives_it(world: World) -> None:
    runner = background(world)
    name = await runner.run({"n": 1}, labels={"of": "ann"}, queue="mail", priority=2)
    await world.clock.advance(60)
    loaded = await world.load(name)
    assert (loaded.status, loaded.owner, loaded.queue, loaded.priority) == ("pending", None, "mail", 2)
    assert (loaded.input, loaded.labels, loaded.trigger) == ({"n": 1}, {"of": "ann"}, "queue")
    assert (loaded.created_at is not None, loaded.started_at) == (True, None)
    assert await runner.status(name) == "pending"
    assert await world.trail(name) == []
    assert world.desk.calls == []


async def test_a_worker_begins_it_at_once_and_the_trail_begins_then(world: World) -> None:
    runner = background(world)
    async with working(world.runtime):
        await world.clock.advance(1)
        name = await runner.run({"n": 1})
        await world.clock.advance(0.1)
        assert await runner.status(name) == "completed"
    assert (await world.trail(name))[0] == "started"
    assert (await world.trail(name)).count("recovered") == 0
    assert world.desk.values("work") == [1]


async def test_a_worker_of_another_process_hears_of_it(world: World) -> None:
    runner = background(world)
    async with world.process(world.store) as other, working(other):
        await world.clock.advance(1)
        name = await runner.run({"n": 1})
        await world.clock.advance(0.1)
    assert await runner.status(name) == "completed"


async def test_a_process_without_the_services_can_start_it(world: World) -> None:
    world.know(WORK)
    async with world.process(world.store, services={}) as web:
        name = await web.background("flow").run({"n": 1})
        assert await web.background("flow").status(name) == "pending"
        async with working(world.runtime):
            await world.clock.advance(1)
        result = await web.background("flow").wait(name)
    assert result is not None
    assert result.output == 1


async def test_its_time_counts_from_when_it_begins(world: World) -> None:
    slow = flow("- {id: ask, type: halt}", timeout=60)
    runner = background(world, slow)
    name = await runner.run()
    await world.clock.advance(3600)
    async with working(world.runtime):
        await world.clock.advance(1)
        loaded = await world.load(name)
        assert loaded.started_at is not None
        assert (loaded.status, loaded.started_at.timestamp()) == ("halted", START + 3600)
        await world.clock.advance(60)
    assert await runner.status(name) == "failed"


async def test_starting_is_idempotent(world: World) -> None:
    runner = background(world)
    for _ in range(3):
        assert await runner.run({"n": 1}, execution_id="e") == "e"
    async with working(world.runtime):
        await world.clock.advance(1)
    assert await runner.run({"n": 1}, execution_id="e") == "e"
    assert await runner.status("e") == "completed"
    assert world.desk.values("work") == [1]


async def test_the_id_of_another_input_or_workflow_is_refused(world: World) -> None:
    world.know(ASK)
    runner = background(world)
    await runner.run({"n": 1}, execution_id="e")
    with pytest.raises(df.ConflictError, match="another input"):
        await runner.run({"n": 2}, execution_id="e")
    for call in (
        background(world, "ask").run({"n": 1}, execution_id="e"),
        background(world, "ask").status("e"),
        background(world, "ask").wait("e"),
        background(world, "ask").cancel("e"),
    ):
        with pytest.raises(df.ConflictError, match="belongs to workflow"):
            await call


async def test_racing_callers_store_one_execution(world: World) -> None:
    runner = background(world)
    async with world.process(world.store) as other:
        there = other.background("flow")
        calls = [(runner if n % 2 else there).run({"n": 1}, execution_id="e") for n in range(20)]
        assert await asyncio.gather(*calls) == ["e"] * 20
        async with working(other), working(world.runtime):
            await world.clock.advance(1)
    assert world.desk.values("work") == [1]


async def test_a_direct_run_with_its_id_drives_it(world: World) -> None:
    await background(world).run({"n": 1}, execution_id="e", queue="mail")
    assert (await world.runner().run({"n": 1}, execution_id="e")).output == 1
    assert (await world.trail())[0] == "started"


async def test_while_it_is_driven_a_second_start_changes_nothing(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(WORK, {"n": 1})
    assert await background(world).run({"n": 1}, execution_id="e") == "e"
    world.desk.release()
    assert (await task).completed
    assert world.desk.values("work") == [1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"input": {"n": "x"}},
        {"input": {}},
        {"execution_id": "a b"},
        {"labels": {"a": 1}},
        {"queue": ""},
        {"priority": 0},
        {"priority": 101},
        {"priority": True},
        {"priority": "1"},
    ],
    ids=str,
)
async def test_bad_arguments_store_nothing(world: World, arguments: dict[str, Any]) -> None:
    typed = flow("- {id: work, type: end}", inputs={"n": "integer"})
    runner = background(world, typed)
    with pytest.raises(df.ValidationError):
        await runner.run(**{"input": {"n": 1}, "execution_id": "e", **arguments})
    assert await world.store.execution_ids() == []


@pytest.mark.parametrize("adapter", [7, object(), {"submit": 1}, df.InlineAdapter])
async def test_what_is_no_adapter_is_refused(world: World, adapter: object) -> None:
    with pytest.raises(df.ConfigError, match="an adapter has a method submit"):
        background(world, WORK, adapter)


async def test_a_closed_runtime_starts_nothing(world: World) -> None:
    runner = background(world)
    await world.runtime.close()
    with pytest.raises(df.ConflictError, match="closed"):
        await runner.run({"n": 1}, execution_id="e")
    assert await world.store.row("e") is None


async def test_a_caller_that_dies_before_the_commit_leaves_nothing(world: World) -> None:
    runner = background(world)
    world.wire.watchers.append(lambda verb: world.die() if verb == "commit" else None)
    with pytest.raises(Dead):
        await runner.run({"n": 1}, execution_id="e")
    await world.after_the_lease()
    assert await world.store.row("e") is None


# -- order -------------------------------------------------------------------------------------------------------------


async def test_the_most_urgent_comes_first_then_who_came_first(world: World) -> None:
    runner = background(world)
    for n, priority in enumerate((5, 9, 1, 5, 1)):
        await runner.run({"n": n}, priority=priority)
        world.clock.time += 1
    async with working(world.runtime, concurrency=1):
        await world.clock.advance(5)
    assert world.desk.values("work") == [2, 4, 0, 3, 1]


async def test_workers_take_from_their_queues(world: World) -> None:
    runner = background(world)
    for n, queue in enumerate(("mail", "print", None)):
        await runner.run({"n": n}, queue=queue)
    async with working(world.runtime, queues=["print"]):
        await world.clock.advance(60)
        assert world.desk.values("work") == [1]
    async with working(world.runtime, queues=["mail", None]):
        await world.clock.advance(1)
    assert sorted(world.desk.values("work")) == [0, 1, 2]


async def test_a_paused_queue_holds_it(world: World) -> None:
    await world.runtime.pause_queue("mail")
    runner = background(world)
    async with working(world.runtime):
        name = await runner.run({"n": 1}, queue="mail")
        await world.clock.advance(60)
        assert await runner.status(name) == "pending"
        (why,) = await world.runner().why(name)
        assert (why.reason, why.unblock) == ("a worker of queue 'mail', which is paused", "unpause the queue")
        await world.runtime.unpause_queue("mail")
        await world.clock.advance(0.1)
    assert await runner.status(name) == "completed"


async def test_why_says_that_it_waits_for_a_worker(world: World) -> None:
    name = await background(world).run({"n": 1})
    (why,) = await world.runner().why(name)
    assert (why.status, why.reason, why.unblock) == ("pending", "a worker", "nothing to do where such a worker runs")
    assert why.since is not None
    assert why.since.timestamp() == START


async def test_why_says_of_an_answer_that_no_worker_has_read_that_it_is_there(world: World) -> None:
    runner = background(world, ASK)
    name = await runner.run()
    await world.runner(ASK).follow(name)
    (why,) = await world.runner(ASK).why(name)
    assert (why.unblock, why.wait_id) == ("resume it with a response", f"{name}:ask")
    await runner.resume(name, response="yes", by="ann")
    (why,) = await world.runner(ASK).why(name)
    assert (why.reason, why.wait_id) == ("a worker to go on with what ann said", None)
    assert why.unblock == "recover it, if none does"
    with pytest.raises(df.ConflictError):
        await runner.resume(name, response="no")
    result = await world.runner(ASK).recover(name)
    assert [halt.step_id for halt in result.halts] == ["again"]


async def test_why_counts_the_votes_that_no_worker_has_read(world: World) -> None:
    vote = flow("- {id: ask, type: approval, prompt: Well?, required: 2}")
    runner = background(world, vote)
    name = await runner.run()
    await world.runner(vote).follow(name)
    await runner.resume(name, approved=True, by="ann")
    assert (await world.runner(vote).why(name))[0].unblock == "approve or reject it"
    await runner.resume(name, approved=True, by="bob")
    assert (await world.runner(vote).why(name))[0].reason == "a worker to go on with what bob said"


async def test_why_says_of_a_signal_that_no_worker_has_read_that_it_is_there(world: World) -> None:
    listen = flow("- {id: listen, type: signal, name: paid}")
    runner = background(world, listen)
    name = await runner.run()
    await world.runner(listen).follow(name)
    await runner.signal(name, "other")
    assert (await world.runner(listen).why(name))[0].unblock == "signal it: paid"
    await runner.signal(name, "paid")
    assert (await world.runner(listen).why(name))[0].reason == "a worker to go on with what somebody said"


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_waiting_ends_with_the_execution_and_no_time_goes_by(world: World) -> None:
    runner = background(world)
    world.desk.hold("work")
    async with working(world.runtime):
        name = await runner.run({"n": 1})
        waiting = world.spawn(runner.wait(name))
        await world.clock.advance(1)
        assert not waiting.done()
        world.desk.release()
        await idle()
        assert waiting.done()
    assert waiting.result().output == 1


async def test_waiting_hears_of_the_end_in_another_process(world: World) -> None:
    await background(world).run({"n": 1}, execution_id="e")
    wire = Far(world.store)
    async with world.process(wire) as other:
        waiting = world.spawn(other.background("flow").wait("e"))
        await idle()
        assert (await world.runner().follow("e")).completed
        await idle()
        assert not waiting.done()
        wire.heard("e")
        await idle()
        assert waiting.done()
        assert waiting.result().output == 1


async def test_a_lost_hint_costs_no_more_than_the_backstop(world: World) -> None:
    await background(world).run({"n": 1}, execution_id="e")
    async with world.process(Far(world.store)) as other:
        waiting = world.spawn(other.background("flow").wait("e", timeout=3600))
        await idle()
        assert (await world.runner().follow("e")).completed
        await world.clock.advance(BACKSTOP)
        assert waiting.done()


@pytest.mark.parametrize("timeout", [0, 0.5, 30, 3600])
async def test_waiting_ends_with_its_timeout(world: World, timeout: float) -> None:
    runner = background(world)
    await runner.run({"n": 1}, execution_id="e")
    waiting = world.spawn(runner.wait("e", timeout=timeout))
    await world.clock.advance(max(0.0, timeout - 0.1))
    assert waiting.done() is (timeout == 0)
    await world.clock.advance(0.2)
    assert waiting.done()
    assert waiting.result() is None
    assert await runner.status("e") == "pending"


async def test_waiting_without_a_timeout_waits(world: World) -> None:
    runner = background(world)
    await runner.run({"n": 1}, execution_id="e")
    waiting = world.spawn(runner.wait("e", timeout=None))
    await world.clock.advance(10_000)
    assert not waiting.done()
    async with working(world.runtime):
        await world.clock.advance(1)
    assert waiting.done()


@pytest.mark.parametrize("timeout", [-1, float("nan"), True, "30"])
async def test_a_timeout_is_a_number_of_seconds(world: World, timeout: Any) -> None:
    with pytest.raises(df.ValidationError, match="timeout is a number of seconds"):
        await background(world).wait("e", timeout=timeout)


async def test_what_is_not_there_is_unknown(world: World) -> None:
    runner = background(world)
    assert await runner.status("e") == "unknown"
    with pytest.raises(df.ExecutionNotFound):
        await runner.wait("e")


async def test_waiting_goes_on_while_only_time_has_to_pass(world: World) -> None:
    runner = background(world, flow("- {id: nap, type: wait, for: 60s}"))
    async with working(world.runtime):
        name = await runner.run()
        waiting = world.spawn(runner.wait(name, timeout=100))
        await world.clock.advance(59)
        assert (await world.load(name)).status == "halted"
        assert not waiting.done()
        await world.clock.advance(1.1)
        assert waiting.done()
    assert waiting.result().completed


async def test_waiting_in_a_runtime_that_is_closed_ends(world: World) -> None:
    runner = background(world)
    await runner.run({"n": 1}, execution_id="e")
    waiting = world.spawn(runner.wait("e", timeout=3600))
    await idle()
    await world.runtime.close()
    await world.clock.advance(BACKSTOP)
    with pytest.raises(df.ConflictError, match="closed"):
        await waiting


# -- answering ---------------------------------------------------------------------------------------------------------


async def test_after_an_answer_waiting_is_for_the_new_outcome(world: World) -> None:
    runner = background(world, ASK)
    name = await runner.run()
    async with working(world.runtime):
        first = await runner.wait(name)
    assert first is not None
    assert first.halt is not None
    assert (first.halt.step_id, first.halt.prompt) == ("ask", "Well?")
    await runner.resume(name, response=1, by="ann")
    waiting = world.spawn(runner.wait(name))
    await world.clock.advance(10)
    assert not waiting.done()
    async with working(world.runtime):
        await world.clock.advance(1)
        assert waiting.result().halt.step_id == "again"
        await runner.resume(name, response=2, by="ann")
        last = await runner.wait(name)
    assert last is not None
    assert last.output == 2
    assert world.desk.values("work") == [2]


async def test_an_answer_through_the_parent_counts_as_one_on_its_way(world: World) -> None:
    world.know(ASK)
    runner = background(world, PARENT)
    name = await runner.run()
    async with working(world.runtime):
        first = await runner.wait(name)
    assert first is not None
    assert [halt.step_id for halt in first.halts] == ["ask"]
    await runner.resume(name, response=1)
    waiting = world.spawn(runner.wait(name))
    await world.clock.advance(10)
    assert not waiting.done()
    async with working(world.runtime):
        await world.clock.advance(BACKSTOP)
        assert [halt.step_id for halt in waiting.result().halts] == ["again"]
        await runner.resume(name, response=2)
        last = await runner.wait(name)
    assert last is not None
    assert last.output == 2


async def test_an_answer_counts_once_and_to_a_waiting_execution_only(world: World) -> None:
    runner = background(world, ASK)
    await runner.run(execution_id="e")
    with pytest.raises(df.ConflictError, match="does not wait"):
        await runner.resume("e", response=1)
    async with working(world.runtime):
        first = await runner.wait("e")
    assert first is not None
    assert first.halt is not None
    await runner.resume("e", response=1)
    with pytest.raises(df.ConflictError, match="is over"):
        await runner.resume("e", response=2, wait_id=first.halt.wait_id)
    with pytest.raises(df.ExecutionNotFound):
        await runner.resume("f", response=1)


async def test_a_late_answer_is_refused_and_a_worker_lets_the_timeout_fire(world: World) -> None:
    runner = background(world, flow("- {id: ask, type: halt, timeout: 60s}"))
    await runner.run(execution_id="e")
    async with working(world.runtime):
        await runner.wait("e")
    world.clock.time += 61
    with pytest.raises(df.ConflictError, match="timed out"):
        await runner.resume("e", response=1)
    assert await runner.status("e") == "halted"
    async with working(world.runtime):
        await world.clock.advance(1)
    assert await runner.status("e") == "failed"


async def test_a_signal_to_a_pending_execution_is_kept_for_it(world: World) -> None:
    runner = background(world, flow("""
        - {id: item, type: signal, name: add, output: first, next: put}
        - {id: put, type: call, service: desk, method: put, input: $first}
    """))  # fmt: skip
    await runner.run(execution_id="e")
    for _ in range(2):
        await runner.signal("e", "add", "shoe", signal_id="s1")
    assert await runner.status("e") == "pending"
    async with working(world.runtime):
        result = await runner.wait("e")
    assert result is not None
    assert result.completed
    assert world.desk.values("put") == ["shoe"]
    with pytest.raises(df.ConflictError, match="over"):
        await runner.signal("e", "add", "hat")


async def test_a_pending_execution_is_cancelled_at_once_also_in_a_paused_queue(world: World) -> None:
    await world.runtime.pause_queue("mail")
    runner = background(world)
    await runner.run({"n": 1}, execution_id="e", queue="mail")
    await runner.cancel("e", reason="not needed", by="ann")
    assert await runner.status("e") == "cancelled"
    assert world.desk.calls == []
    with pytest.raises(df.ConflictError, match="cannot be cancelled"):
        await runner.cancel("e")


async def test_one_that_runs_is_told_to_end(world: World) -> None:
    runner = background(world)
    world.desk.hold("work")
    async with working(world.runtime):
        await runner.run({"n": 1}, execution_id="e")
        await world.clock.advance(1)
        await runner.cancel("e")
        result = await runner.wait("e")
    assert result is not None
    assert result.cancelled
    assert world.desk.cancelled == ["work"]


async def test_pending_executions_can_be_paused_one_by_one_and_all(world: World) -> None:
    runner = background(world)
    for name in ("a", "b", "c"):
        await runner.run({"n": name}, execution_id=name, labels={"of": name})
    await world.runner().pause("a", by="ann")
    report = await world.runtime.pause_all(labels={"of": "b"})
    assert report.done == ["b"]
    async with working(world.runtime):
        await world.clock.advance(60)
        assert world.desk.values("work") == ["c"]
        paused = await runner.wait("a")
        assert paused is not None
        assert [halt.type for halt in paused.halts] == ["pause"]
        assert (await world.runtime.unpause_all(everything=True)).done
        await world.clock.advance(1)
    assert sorted(world.desk.values("work")) == ["a", "b", "c"]


async def test_pending_executions_can_be_cancelled_all_at_once(world: World) -> None:
    runner = background(world)
    names = [await runner.run({"n": n}) for n in range(20)]
    report = await world.runtime.cancel_all(status="pending")
    assert sorted(report.done) == sorted(names)
    assert {await runner.status(name) for name in names} == {"cancelled"}
    async with working(world.runtime):
        await world.clock.advance(10)
    assert world.desk.calls == []


# -- adapters ----------------------------------------------------------------------------------------------------------


class Careless:
    """A queue that delivers a message never, once or several times, in any order and late, to whoever is there."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.held: list[str] = []
        self.sent = 0

    async def submit(self, execution_id: str, *, queue: str | None, priority: int) -> None:
        self.sent += 1
        self.held += [execution_id] * self.chance.randint(0, 3)

    async def deliver(self, adapters: list[df.InlineAdapter]) -> None:
        messages, self.held = self.held, []
        self.chance.shuffle(messages)
        for name in messages:
            await self.chance.choice(adapters).submit(name, queue=None, priority=5)


@pytest.mark.parametrize("seed", range(3))
async def test_messages_that_are_lost_doubled_late_and_out_of_order_change_nothing(world: World, seed: int) -> None:
    careless = Careless(seed)
    halting = flow("""
        - {id: first, type: call, service: desk, method: first, input: $input.n, next: ask}
        - {id: ask, type: halt, next: second}
        - {id: second, type: call, service: desk, method: second, input: $input.n, output: result}
    """)
    runner = background(world, halting, careless)
    async with world.process(world.store) as other:
        adapters = [df.InlineAdapter(world.runtime), df.InlineAdapter(other)]
        names = [await runner.run({"n": n}, execution_id=f"e{n}") for n in range(300)]
        lost = 300 - len(set(careless.held))
        assert careless.sent == 300
        assert 0 < lost < 300
        early = careless.held[:50]
        await careless.deliver(adapters)
        await world.clock.advance(1)
        assert len(world.desk.values("first")) == 300 - lost
        async with working(other):
            await world.clock.advance(5)
            for name in careless.chance.sample(names, len(names)):
                await runner.resume(name, response=True)
            careless.held += early
            await careless.deliver(adapters)
            await world.clock.advance(5)
            careless.held += early
            await careless.deliver(adapters)
            await world.clock.advance(5)
    assert {await runner.status(name) for name in names} == {"completed"}
    for method in ("first", "second"):
        assert sorted(world.desk.values(method)) == list(range(300))
    for name in names:
        assert (await world.trail(name)).count("started") == 1


async def test_what_an_adapter_raises_costs_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def submit(self, execution_id: str, *, queue: str | None, priority: int) -> None:
            raise OSError("the broker is down")

    runner = background(world, WORK, Broken())
    async with working(world.runtime):
        await runner.run({"n": 1}, execution_id="e")
        await world.clock.advance(0.1)
    assert await runner.status("e") == "completed"
    assert "no message was sent for execution e" in caplog.text


async def test_an_adapter_is_told_after_the_commit_and_whenever_there_is_something_to_do(world: World) -> None:
    told: list[tuple[str, str | None, int, str]] = []

    class Noting:
        async def submit(self, execution_id: str, *, queue: str | None, priority: int) -> None:
            told.append((execution_id, queue, priority, str((await world.load(execution_id)).status)))

    runner = background(world, ASK, Noting())
    for _ in range(2):
        await runner.run(execution_id="e", queue="mail", priority=3)
    async with working(world.runtime):
        await runner.wait("e")
    await runner.resume("e")
    assert told == [("e", "mail", 3, "pending")] * 2 + [("e", "mail", 3, "halted")]
    async with working(world.runtime):
        await runner.wait("e")
        await runner.resume("e")
        await world.clock.advance(1)
    assert await runner.status("e") == "completed"
    del told[:]
    await runner.run(execution_id="e")
    assert told == []


async def test_inline_drives_it_at_once_without_a_worker(world: World) -> None:
    runner = background(world, ASK, df.InlineAdapter(world.runtime))
    name = await runner.run(queue="mail")
    first = await runner.wait(name)
    assert first is not None
    assert first.halted
    for response in (1, 2):
        await runner.resume(name, response=response)
        last = await runner.wait(name)
    assert last is not None
    assert last.output == 2


async def test_inline_sleeps_through_what_only_time_ends_and_takes_answers_meanwhile(world: World) -> None:
    napping = flow("""
        - {id: nap, type: wait, for: 60s, next: item}
        - {id: item, type: signal, name: add, output: result}
    """)
    runner = background(world, napping, df.InlineAdapter(world.runtime))
    await runner.run(execution_id="e")
    await world.clock.advance(10)
    await runner.signal("e", "add", "shoe")
    await world.clock.advance(51)
    assert await runner.status("e") == "completed"
    await runner.run(execution_id="f")
    await world.clock.advance(10)
    await runner.cancel("f")
    await idle()
    assert await runner.status("f") == "cancelled"


async def test_inline_ends_in_order_with_its_runtime(world: World) -> None:
    runner = background(world, WORK, df.InlineAdapter(world.runtime))
    world.desk.hold("work")
    for n in range(5):
        await runner.run({"n": n}, execution_id=f"e{n}")
    await idle()
    assert await runner.status("e0") == "running"
    await world.restart()
    assert {(await world.load(f"e{n}")).owner for n in range(5)} == {None}
    world.desk.release()
    async with working(world.runtime):
        await world.clock.advance(1)
    assert {str((await world.load(f"e{n}")).status) for n in range(5)} == {"completed"}


# -- everything else that can be done to one ---------------------------------------------------------------------------

BREAK = flow("""
    - {id: first, type: call, service: desk, method: first, next: break}
    - {id: break, type: call, service: desk, method: break, output: result}
""", id="break")  # fmt: skip

BLOCK = flow("""
    - {id: pay, type: call, service: desk, method: pay, retry: {max_attempts: 1, on_exhausted: halt}, output: result}
""", id="block")  # fmt: skip


async def test_a_failed_one_is_taken_up_again_by_a_worker_and_not_here(world: World) -> None:
    runner = background(world, BREAK)
    world.desk.answers["break"] = [ConnectionError("no line"), "done"]
    async with working(world.runtime):
        name = await runner.run()
        await world.clock.advance(1)
        assert await runner.status(name) == "failed"
    await runner.retry(name, by="ann")
    await world.clock.advance(1)
    assert (await world.load(name)).owner is None
    async with world.process(world.store) as other, working(other):
        await world.clock.advance(1)
        assert await runner.status(name) == "completed"
    assert world.desk.called == ["first", "break", "break"]
    with pytest.raises(df.ConflictError, match="only a failed one can be retried"):
        await runner.retry(name)


@pytest.mark.parametrize(("what", "status"), [("retry", "completed"), ("fail", "failed")])
async def test_what_waits_for_a_decision_gets_it(what: str, status: str, world: World) -> None:
    runner = background(world, BLOCK)
    world.desk.answers["pay"] = [ConnectionError("no line"), "done"]
    async with working(world.runtime):
        name = await runner.run()
        await world.clock.advance(1)
        assert await runner.status(name) == "halted"
        await getattr(runner, what)(name, by="ann")
        await world.clock.advance(1)
        assert await runner.status(name) == status
        with pytest.raises(df.ConflictError):
            await runner.fail(name)


async def test_it_is_paused_here_and_goes_on_in_a_worker(world: World) -> None:
    runner = background(world)
    name = await runner.run({"n": 1})
    await runner.pause(name, by="ann", reason="lunch")
    async with working(world.runtime):
        await world.clock.advance(60)
        assert world.desk.called == []
        await runner.unpause(name, by="ann")
        await world.clock.advance(1)
    assert await runner.status(name) == "completed"
    with pytest.raises(df.ConflictError, match="cannot be paused any more"):
        await runner.pause(name)


async def test_a_workflow_that_a_process_does_not_know_can_be_answered_there(world: World) -> None:
    name = await background(world, ASK).run()
    async with working(world.runtime):
        await world.clock.advance(1)
        other = df.Runtime(world.store, clock=world.clock)
        async with other:
            runner = await other.background_of(name)
            assert runner.workflow.id == "ask"
            await runner.resume(name, response=1, step="ask")
            assert "ask" not in other.workflows
        await world.clock.advance(1)
        assert (await world.load(name)).current_step == "again"
    with pytest.raises(df.ExecutionNotFound):
        await world.runtime.background_of("nobody")
