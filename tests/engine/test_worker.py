"""A worker drives what is due, and leaves the rest alone."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import durable_flow as df
from durable_flow.stores.base import Store
from durable_flow.testing import wait_until
from tests.engine.aid import Wire, World, flow, idle, working

WORK = """
- {id: first, type: call, service: desk, method: first, next: work}
- {id: work, type: call, service: desk, method: work, output: result}
"""

ASK = """
- {id: ask, type: approval, prompt: Go on?, timeout: 60s, on_timeout: late, next: done}
- {id: late, type: end, result: too late}
- {id: done, type: end, result: in time}
"""


async def test_a_worker_takes_over_what_a_dead_process_left(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    await world.kill()
    await world.begin()
    async with working(world.runtime):
        await world.clock.advance(29)
        assert world.desk.called == ["first", "work"]
        world.desk.release()
        await world.clock.advance(5)
    assert (await world.load()).status == "completed"
    assert world.desk.called == ["first", "work", "work"]


async def test_a_timeout_fires_although_nobody_calls(world: World) -> None:
    assert (await world.run(flow(ASK), execution_id="e")).halted
    async with working(world.runtime):
        await world.clock.advance(59)
        assert (await world.load()).status == "halted"
        await world.clock.advance(1.1)
    loaded = await world.load()
    assert (loaded.status, loaded.result) == ("completed", "too late")


async def test_the_timeout_of_a_workflow_fires_although_nobody_calls(world: World) -> None:
    await world.run(flow("- {id: ask, type: halt}", timeout="60s"), execution_id="e")
    async with working(world.runtime):
        await world.clock.advance(61)
    loaded = await world.load()
    assert loaded.status == "failed"
    assert loaded.error is not None
    assert loaded.error.startswith("TimeoutError")


async def test_an_answer_whose_process_died_before_it_acted_is_acted_on(world: World) -> None:
    await world.run(flow(ASK), execution_id="e")
    world.wire.watchers.append(lambda verb: world.die() if verb == "claim" else None)
    with contextlib.suppress(BaseException):
        await world.runner().resume("e", approved=True)
    await world.kill()
    await world.begin()
    async with working(world.runtime):
        await world.clock.advance(1)
    assert (await world.load()).status == "completed"


async def test_a_worker_hears_of_a_timer_that_is_sooner_than_those_it_knew(world: World) -> None:
    world.wire.store.wakes = True
    async with working(world.runtime):
        await world.clock.advance(1)
        await world.run(flow(ASK.replace("60s", "1s")), execution_id="e")
        await world.clock.advance(1.1)
        assert (await world.load()).status == "completed"


async def test_no_more_than_its_concurrency_is_driven_at_once(world: World) -> None:
    world.desk.hold("work")
    for number in range(5):
        await world.start(WORK, execution_id=f"e{number}")
    await world.kill()
    await world.begin()
    world.clock.time += 31
    async with working(world.runtime, concurrency=2) as worker:
        await world.clock.advance(1)
        assert worker.active == 2
        world.desk.release()
        await world.clock.advance(1)
        assert worker.active == 0
    for number in range(5):
        assert (await world.load(f"e{number}")).status == "completed"


async def suspects(world: World, *names: str) -> None:
    """Leaves executions in a step with which several processes have died."""
    world.desk.hold("work")
    for name in names:
        await world.start(WORK, execution_id=name)
    await world.restart()
    database = world.store._inline.connection.database  # type: ignore[attr-defined]
    database.execute("UPDATE executions SET recoveries = 2")
    world.desk.calls.clear()
    world.desk.contexts.clear()


def begun(world: World) -> list[str]:
    return [context.execution_id for context in world.desk.contexts if context.step_id == "work"]


async def test_of_those_with_which_process_after_process_died_one_at_a_time_shows_whether_it_kills(
    world: World,
) -> None:
    await suspects(world, "a", "b", "c")
    async with working(world.runtime):
        await world.clock.advance(0.9)
        (first,) = begun(world)
        others = {"a", "b", "c"} - {first}
        for name in others:  # if this process dies now, that is not held against them
            loaded = await world.load(name)
            assert (loaded.status, loaded.owner, loaded.recoveries) == ("running", None, 2)
        await world.clock.advance(0.2)
        assert len(begun(world)) == 2
        await world.clock.advance(1)
        assert sorted(begun(world)) == ["a", "b", "c"]
        world.desk.release()
        await world.clock.advance(1)
    for name in "abc":
        assert (await world.load(name)).status == "completed"


async def test_who_gets_somewhere_does_not_keep_others_waiting_that_are_suspected_too(world: World) -> None:
    await suspects(world, "a", "b", "c")
    world.desk.release()
    async with working(world.runtime):
        await world.clock.advance(0.2)
    for name in "abc":
        assert (await world.load(name)).status == "completed"


async def test_a_worker_that_is_stopped_does_not_wait_to_see_whether_something_kills_it(world: World) -> None:
    await suspects(world, "a", "b")
    worker = df.Worker(world.runtime)
    task = world.spawn(worker.run())
    await world.clock.advance(0.1)
    worker.stop()
    await world.clock.advance(0.1)
    assert task.done()


async def test_definitions_with_services_it_does_not_have_are_left_to_others(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    await world.kill()
    world.clock.time += 31
    await world.begin(services={"other": {}})
    async with working(world.runtime):
        await world.clock.advance(60)
        loaded = await world.load()
        assert (loaded.status, loaded.owner, loaded.recoveries) == ("running", None, 1)
    await world.restart(services={"desk": world.desk})
    world.desk.release()
    async with working(world.runtime):
        await world.clock.advance(5)
    assert (await world.load()).status == "completed"


async def test_definitions_with_workflows_it_does_not_know_are_left_to_others(world: World) -> None:
    child = flow("- {id: ask, type: halt, timeout: 60s}", id="child")
    world.know(child)
    parent = flow("- {id: a, type: halt, timeout: 60s, on_timeout: go}\n- {id: go, type: workflow, workflow_id: child}")
    await world.run(parent, execution_id="e")
    world.workflows.clear()
    await world.restart()
    async with working(world.runtime):
        await world.clock.advance(100)
    assert (await world.load()).status == "halted"


async def test_a_row_that_cannot_be_decoded_does_not_keep_others_waiting(world: World) -> None:
    for name in "ab":
        await world.run(flow(ASK), execution_id=name)
    database = world.store._inline.connection.database  # type: ignore[attr-defined]
    database.execute("UPDATE executions SET root = 'garbage' WHERE id = 'a'")
    async with working(world.runtime, concurrency=1):
        await world.clock.advance(65)
    assert (await world.load("b")).status == "completed"


async def test_a_stopped_worker_lets_the_step_under_way_end_and_gives_the_execution_back(world: World) -> None:
    world.desk.hold("first")
    await world.start(WORK)
    await world.kill()
    world.clock.time += 31
    await world.begin(grace=10)
    worker = df.Worker(world.runtime)
    task = world.spawn(worker.run())
    await world.clock.advance(1)
    assert world.desk.called == ["first", "first"]
    worker.stop()
    await world.clock.advance(5)
    assert not task.done()
    world.desk.release()
    await world.clock.advance(0.1)
    await task
    loaded = await world.load()
    assert (loaded.status, loaded.current_step, loaded.owner) == ("running", "work", None)
    assert world.desk.called == ["first", "first"]


async def test_a_stopped_worker_gives_back_after_its_grace_what_does_not_end(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    await world.kill()
    world.clock.time += 31
    await world.begin(grace=10)
    worker = df.Worker(world.runtime)
    task = world.spawn(worker.run())
    await world.clock.advance(1)
    worker.stop()
    await world.clock.advance(10.1)
    await task
    loaded = await world.load()
    assert (loaded.status, loaded.owner) == ("running", None)
    world.desk.release()
    async with working(world.runtime):
        await world.clock.advance(1)
    assert (await world.load()).status == "completed"


async def test_branches_under_way_all_end_before_a_drained_execution_is_given_back(world: World) -> None:
    world.desk.hold("a", "b")
    fan = """
    - id: fan
      type: parallel
      branches:
        - id: one
          do:
            - {id: a, type: call, service: desk, method: a}
            - {id: c, type: call, service: desk, method: c}
        - {id: two, do: [{id: b, type: call, service: desk, method: b}]}
    """
    await world.start(fan)
    await world.kill()
    world.clock.time += 31
    await world.begin(grace=10)
    worker = df.Worker(world.runtime)
    task = world.spawn(worker.run())
    await world.clock.advance(1)
    worker.stop()
    world.desk.release("a")
    await world.clock.advance(1)
    assert not task.done()
    assert sorted(world.desk.cancelled) == ["a", "b"]  # by the kill, and none since
    world.desk.release("b")
    await world.clock.advance(1)
    await task
    assert "c" not in world.desk.called
    async with working(world.runtime):
        await world.clock.advance(1)
    assert (await world.load()).status == "completed"
    assert sorted(world.desk.called) == ["a", "a", "b", "b", "c"]


async def test_a_cancelled_worker_gives_everything_back_at_once(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    await world.kill()
    world.clock.time += 31
    await world.begin(grace=10)
    async with working(world.runtime):
        await world.clock.advance(1)
    loaded = await world.load()
    assert (loaded.status, loaded.owner) == ("running", None)


async def test_what_a_caller_leaves_is_taken_up_at_once(world: World) -> None:
    world.desk.hold("work")
    async with working(world.runtime):
        await world.clock.advance(0.5)  # it has looked, and rests
        task = await world.start(WORK)
        task.cancel()
        await idle()
        world.desk.release()
        await world.clock.advance(0.1)
        assert (await world.load()).status == "completed"
    assert world.desk.called == ["first", "work", "work"]


async def test_two_workers_drive_each_execution_once(world: World) -> None:
    for number in range(20):
        await world.run(flow(ASK), execution_id=f"e{number}")
    async with (
        world.process(world.store) as other,
        working(world.runtime, concurrency=3),
        working(other, concurrency=3),
    ):
        await world.clock.advance(65)
    for number in range(20):
        loaded = await world.load(f"e{number}")
        assert (loaded.status, loaded.generation) == ("completed", 2)


async def test_a_worker_goes_on_when_its_store_comes_back(world: World) -> None:
    await world.run(flow(ASK), execution_id="e")
    gone = True

    def fail(verb: str) -> None:
        if gone and verb in ("take", "next_due"):
            raise df.StoreUnavailable("it is away")

    world.wire.watchers.append(fail)
    async with working(world.runtime):
        await world.clock.advance(100)
        assert (await world.load()).status == "halted"
        gone = False
        await world.clock.advance(6)
    assert (await world.load()).status == "completed"


async def test_a_worker_runs_once_at_a_time(world: World) -> None:
    async with working(world.runtime) as worker:
        await idle()
        with pytest.raises(df.ConfigError, match="running already"):
            await worker.run()


async def test_a_worker_needs_an_open_runtime() -> None:
    with pytest.raises(df.ConfigError, match="open the runtime first"):
        await df.Worker(df.Runtime("sqlite://:memory:")).run()


@pytest.mark.parametrize(
    ("options", "told"), [({"concurrency": 0}, "concurrency"), ({"queues": "a"}, "queues is a list")]
)
def test_wrong_options_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(df.ConfigError, match=told):
        df.Worker(df.Runtime("sqlite://:memory:"), **options)


class Slow(Wire):
    """A connection on which claims wait for a worker, and what is read comes late."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.taken, self.told = asyncio.Event(), asyncio.Event()

    async def claim(self, execution_id: str, **given: Any) -> Any:
        await self.taken.wait()
        return await super().claim(execution_id, **given)

    async def fetch(self, execution_id: str) -> Any:
        found = await super().fetch(execution_id)
        await self.told.wait()
        return found


async def test_what_a_worker_has_driven_to_its_end_is_not_taken_up_as_it_was_before(world: World) -> None:
    await world.run(
        "- {id: ask, type: halt, next: pay}\n- {id: pay, type: call, service: desk, method: pay}\n", execution_id="e"
    )
    slow = Slow(world.store)
    async with world.process(slow) as runtime:
        worker = df.Worker(runtime)
        work = asyncio.ensure_future(worker.run())
        world.desk.hold("pay")
        answering = asyncio.ensure_future(runtime.runner("flow").resume("e"))
        await world.clock.advance(1)  # the worker has it, in the step
        slow.taken.set()
        await world.clock.advance()  # and who answered is told that it is ours, and reads it
        world.desk.release()
        await world.clock.advance()
        slow.told.set()
        await world.clock.advance(5)
        assert (await answering).completed
        assert world.desk.called == ["pay"]
        worker.stop()
        await work


# -- its health --------------------------------------------------------------------------------------------------------


async def test_a_worker_that_rests_is_well_however_long_it_does(world: World) -> None:
    worker = df.Worker(world.runtime)
    assert worker.health == df.WorkerHealth(running=False, active=0, concurrency=worker.concurrency)
    task = asyncio.create_task(worker.run())
    await world.clock.advance(1)
    first = worker.health
    await world.clock.advance(3600)
    assert (first.running, worker.health.running, worker.health.overdue) == (True, True, 0.0)
    assert first.last_look is not None
    worker.stop()
    assert not worker.health.running
    await task


async def test_a_worker_whose_store_cannot_be_reached_says_since_when(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: object, **__: object) -> None:
        raise df.StoreUnavailable("down")

    worker = df.Worker(world.runtime)
    task = asyncio.create_task(worker.run())
    await world.clock.advance(1)
    seen = worker.health.last_look
    with monkeypatch.context() as patch:
        patch.setattr(world.runtime.store, "take", down)
        world.runtime.engine.look()
        await world.clock.advance(60)
        assert worker.health.overdue == pytest.approx(60, abs=1)
        assert (worker.health.running, worker.health.last_look) == (True, seen)
    await world.clock.advance(10)
    assert worker.health.overdue == 0.0
    worker.stop()
    await world.clock.advance(1)
    await task


async def test_a_full_worker_is_well(world: World) -> None:
    world.desk.hold("work")
    worker = df.Worker(world.runtime, concurrency=1)
    runner = world.runtime.background(flow(WORK))
    for _ in range(2):
        await runner.run()
    task = asyncio.create_task(worker.run())
    await world.clock.advance(600)
    assert (worker.health.active, worker.health.overdue) == (1, 0.0)
    world.desk.release()
    worker.stop()
    await world.clock.advance(1)
    await task


async def test_an_execution_that_is_taken_again_before_its_last_drive_has_returned_ends_no_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, returns = world.runtime.engine.execute, asyncio.Event()
    drives = 0

    async def slow_to_return(run: Any) -> Any:
        nonlocal drives
        drives += 1
        number, result = drives, await execute(run)
        if number == 1:
            await returns.wait()
        return result

    monkeypatch.setattr(world.runtime.engine, "execute", slow_to_return)
    workflow = flow("- {id: ask, type: halt, next: again}\n- {id: again, type: halt}")
    world.know(workflow)
    background = world.runtime.background(workflow)
    worker = df.Worker(world.runtime)
    task = asyncio.create_task(worker.run())
    name = await background.run()
    await world.clock.advance(1)
    await background.resume(name, response=1)
    await wait_until(lambda: drives == 2)
    returns.set()
    await world.clock.advance(1)
    await background.resume(name, response=2)
    await world.clock.advance(1)
    assert (await background.status(name), worker.health.running) == ("completed", True)
    worker.stop()
    await task


async def test_an_error_of_ours_ends_no_worker(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    take, faults = world.runtime.engine.take, [ZeroDivisionError("a bug")]

    async def broken_once(*arguments: Any, **options: Any) -> Any:
        if faults:
            raise faults.pop()
        return await take(*arguments, **options)

    monkeypatch.setattr(world.runtime.engine, "take", broken_once)
    background = world.runtime.background(flow(WORK))
    name = await background.run()
    async with working(world.runtime):
        await world.clock.advance(10)
        assert await background.status(name) == "completed"
    (told,) = [record for record in caplog.records if record.message == "looking for work failed"]
    assert told.exc_info is not None
