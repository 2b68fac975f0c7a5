"""Executions that begin later: after a delay, at a time, or when nobody has asked for them again for a while."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import START, World, flow, working

WORK = "- {id: work, type: call, service: desk, method: work, input: $input.n, output: result}"
CALM = df.Debounce(key="customer-7", period=5, max_wait=12)


def background(world: World, workflow: df.WorkflowDef | None = None) -> df.BackgroundRunner:
    world.know(workflow or flow(WORK))
    return world.runtime.background((workflow or flow(WORK)).id)


# -- debounce ---------------------------------------------------------------------------------------------------------


async def test_several_starts_become_one_with_the_last_input(world: World) -> None:
    runner = background(world)
    async with working(world.runtime):
        ids = set()
        for n in (1, 2, 3):
            ids.add(await runner.run({"n": n}, debounce=CALM))
            await world.clock.advance(3)
        (name,) = ids
        assert (world.desk.calls, await runner.status(name)) == ([], "pending")
        await world.clock.advance(1.9)
        assert world.desk.calls == []
        await world.clock.advance(0.2)
        assert world.desk.values("work") == [3]
    loaded = await world.load(name)
    assert (loaded.status, loaded.input, loaded.result) == ("completed", {"n": 3}, 3)
    assert await world.store.execution_ids() == [name]
    assert await world.store.line("flow~customer-7") == []


async def test_it_begins_when_its_longest_wait_is_over_however_many_come(world: World) -> None:
    runner = background(world)
    async with working(world.runtime):
        for n in range(6):
            await runner.run({"n": n}, debounce=CALM)
            await world.clock.advance(2.1)
        assert world.desk.values("work") == [5]
        await world.clock.advance(60)
        assert world.desk.values("work") == [5]


async def test_without_a_longest_wait_it_waits_for_calm(world: World) -> None:
    runner = background(world)
    async with working(world.runtime):
        for n in range(20):
            await runner.run({"n": n}, debounce=df.Debounce(key="k", period="5s"))
            await world.clock.advance(4)
        assert world.desk.calls == []
        await world.clock.advance(2)
        assert world.desk.values("work") == [19]


async def test_once_it_has_begun_the_next_start_makes_a_new_one(world: World) -> None:
    runner = background(world)
    world.desk.hold("work")
    async with working(world.runtime):
        first = await runner.run({"n": 1}, debounce=CALM)
        await world.clock.advance(6)
        second = await runner.run({"n": 2}, debounce=CALM)
        assert first != second
        assert await runner.status(second) == "pending"
        await world.clock.advance(6)
        world.desk.release("work")
        await world.clock.advance(1)
    assert sorted(world.desk.values("work")) == [1, 2]


async def test_each_key_and_each_workflow_has_its_own(world: World) -> None:
    runner, other = background(world), background(world, flow(WORK, id="other"))
    ids = {
        await runner.run({"n": 1}, debounce=CALM),
        await other.run({"n": 2}, debounce=CALM),
        await runner.run({"n": 3}, debounce=df.Debounce(key="customer-8", period=5)),
    }
    assert len(ids) == 3


async def test_what_is_due_and_not_begun_takes_the_last_input_and_waits_no_longer(world: World) -> None:
    runner = background(world)
    name = await runner.run({"n": 1}, debounce=CALM)
    await world.clock.advance(60)
    assert await runner.run({"n": 2}, debounce=CALM) == name
    async with working(world.runtime):
        await world.clock.advance(0.1)
        assert world.desk.values("work") == [2]


async def test_it_survives_the_process_that_started_it(world: World) -> None:
    name = await background(world).run({"n": 1}, debounce=CALM)
    await world.kill()
    await world.begin()
    async with working(world.runtime):
        await world.clock.advance(3)
        assert await world.runtime.background("flow").run({"n": 2}, debounce=CALM) == name
        await world.clock.advance(4)
        assert world.desk.calls == []
        await world.clock.advance(1.1)
        assert world.desk.values("work") == [2]


async def test_bad_input_changes_nothing_of_what_is_there(world: World) -> None:
    runner = background(world, flow(WORK, inputs={"n": "integer"}))
    name = await runner.run({"n": 1}, debounce=CALM)
    with pytest.raises(df.InputError):
        await runner.run({"n": "x"}, debounce=CALM)
    loaded = await world.load(name)
    assert loaded.input == {"n": 1}
    assert loaded.wake_at == datetime.fromtimestamp(START + 5, UTC)


async def test_the_last_call_brings_its_definition_with_it(world: World) -> None:
    name = await background(world).run({"n": 1}, debounce=CALM)
    await world.kill()
    world.workflows.clear()
    await world.begin()
    newer = flow("- {id: first, type: assign, set: {x: $input.n}, next: work}\n" + WORK.replace("$input.n", "[$x]"))
    assert await background(world, newer).run({"n": 2}, debounce=CALM) == name
    async with working(world.runtime):
        await world.clock.advance(6)
    assert world.desk.values("work") == [[2]]
    assert (await world.load(name)).definition_hash == newer.hash


async def test_a_secret_of_the_last_input_is_masked(world: World) -> None:
    runner = background(world, flow(WORK, inputs={"n": "integer", "token": {"type": "string", "secret": True}}))
    await runner.run({"n": 1, "token": "first-secret"}, debounce=CALM)
    name = await runner.run({"n": 2, "token": "other-secret"}, debounce=CALM)
    assert (await world.load(name)).input == {"n": 2, "token": "***"}


async def test_one_that_is_cancelled_makes_room_for_the_next(world: World) -> None:
    runner = background(world)
    first = await runner.run({"n": 1}, debounce=CALM)
    await runner.cancel(first)
    assert await runner.status(first) == "cancelled"
    second = await runner.run({"n": 2}, debounce=CALM)
    assert second != first
    async with working(world.runtime):
        await world.clock.advance(6)
    assert world.desk.values("work") == [2]


async def test_one_that_is_deleted_makes_room_for_the_next(world: World) -> None:
    runner = background(world)
    first = await runner.run({"n": 1}, debounce=CALM)
    await world.store.delete(first)
    assert await runner.run({"n": 2}, debounce=CALM) != first


async def test_calls_at_once_are_one(world: World) -> None:
    runner = background(world)
    async with world.process(world.store) as other:
        runners = [runner, other.background("flow")]
        calls = [runners[n % 2].run({"n": n}, debounce=CALM) for n in range(20)]
        ids = set(await asyncio.gather(*calls))
    assert len(ids) == 1
    assert await world.store.execution_ids() == list(ids)


@pytest.mark.parametrize("moment", ["row", "commit"])
async def test_one_that_is_begun_while_a_call_joins_it_is_begun_with_its_input_or_another_one_is(
    world: World, moment: str
) -> None:
    runner = background(world)
    first = await runner.run({"n": 1}, debounce=CALM)
    await world.clock.advance(5)
    taken: list[asyncio.Task[Any]] = []

    def begin(verb: str) -> None:
        if verb == moment and not taken:
            taken.append(asyncio.create_task(world.store.take("you", ttl=30, limit=1)))

    world.wire.watchers.append(begin)
    second = await runner.run({"n": 2}, debounce=CALM)
    (stored,) = await taken[0]
    loaded = await world.load(first)
    assert (second == first) == (loaded.input == {"n": 2})
    assert stored.row.id == first
    assert (await world.load(second)).input == {"n": 2}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"debounce": "k"}, "debounce is a df.Debounce"),
        ({"debounce": CALM, "delay": 5}, "one of delay, start_at and debounce"),
        ({"debounce": CALM, "execution_id": "e"}, "no execution_id of its own"),
        ({"debounce": CALM, "dry_run": True}, "a dry run is not debounced"),
        ({"delay": -1}, "delay: a duration must be zero or more"),
        ({"delay": "soon"}, "delay: 'soon' is not a duration"),
        ({"start_at": datetime(2026, 1, 1)}, "a datetime with a time zone"),
        ({"start_at": 5}, "a datetime with a time zone"),
    ],
)
async def test_what_makes_no_sense_is_refused(world: World, given: dict[str, Any], said: str) -> None:
    with pytest.raises(df.ValidationError, match=said):
        await background(world).run({"n": 1}, **given)
    assert await world.store.execution_ids() == []


@pytest.mark.parametrize("given", [{"key": ""}, {"key": 5}, {"period": "x"}, {"period": 0}, {"max_wait": -1}])
def test_a_debounce_says_what_is_wrong_with_it(given: dict[str, Any]) -> None:
    right: dict[str, Any] = {"key": "k", "period": 1}
    with pytest.raises(df.ValidationError, match=f"debounce.{next(iter(given))}"):
        df.Debounce(**right | given)


async def test_what_limits_its_concurrency_cannot_begin_later(world: World) -> None:
    runner = background(world, flow(WORK, concurrency={"key": "all"}))
    for given in {"delay": 5}, {"debounce": CALM}:
        with pytest.raises(df.ValidationError, match="limits its concurrency"):
            await runner.run({"n": 1}, **given)


# -- later ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"delay": 900}, {"delay": "15m"}, {"start_at": timedelta(minutes=15)}])
async def test_it_begins_at_its_time(world: World, given: dict[str, Any]) -> None:
    runner = background(world)
    if "start_at" in given:
        given = {"start_at": datetime.fromtimestamp(START, UTC) + given["start_at"]}
    async with working(world.runtime):
        name = await runner.run({"n": 1}, **given)
        await world.clock.advance(899)
        assert (await runner.status(name), world.desk.calls) == ("pending", [])
        (why,) = await world.runtime.runner("flow").why(name)
        assert (why.reason, why.deadline) == ("the time when it is to begin", (await world.load(name)).wake_at)
        await world.clock.advance(1.1)
        assert await runner.status(name) == "completed"


async def test_what_is_past_begins_at_once(world: World) -> None:
    runner = background(world)
    async with working(world.runtime):
        name = await runner.run({"n": 1}, start_at=datetime(2020, 1, 1, tzinfo=UTC))
        await world.clock.advance(1)
        assert await runner.status(name) == "completed"


async def test_starting_later_is_idempotent(world: World) -> None:
    runner = background(world)
    for _ in range(2):
        assert await runner.run({"n": 1}, execution_id="e", delay=60) == "e"
        await world.clock.advance(30)
    async with working(world.runtime):
        await world.clock.advance(1)
        assert world.desk.values("work") == [1]


async def test_a_signal_does_not_begin_it_and_is_there_when_it_begins(world: World) -> None:
    runner = background(world, flow("- {id: wait, type: signal, name: go, output: result}"))
    async with working(world.runtime):
        name = await runner.run(delay=60)
        await runner.signal(name, "go", "early")
        await world.clock.advance(30)
        assert await runner.status(name) == "pending"
        await world.clock.advance(31)
        assert (await world.load(name)).result == "early"


async def test_a_note_and_a_pause_do_not_begin_it(world: World) -> None:
    runner = background(world)
    async with working(world.runtime):
        name = await runner.run({"n": 1}, delay=60)
        await world.store.record(name, "remember")
        assert (await world.runtime.runner("flow").pause(name)).status == "pending"
        await world.clock.advance(30)
        assert await world.trail(name) == []
        await world.clock.advance(31)
        assert (await world.load(name)).status == "halted"
        await world.runtime.runner("flow").unpause(name)
        await world.clock.advance(1)
    assert world.desk.values("work") == [1]
    assert "noted" in await world.trail(name)


async def test_it_can_be_cancelled_before(world: World) -> None:
    runner = background(world)
    name = await runner.run({"n": 1}, delay=60)
    await runner.cancel(name)
    async with working(world.runtime):
        await world.clock.advance(100)
    assert (await runner.status(name), world.desk.calls) == ("cancelled", [])


async def test_who_follows_one_that_a_dead_process_took_looks_now_and_then(world: World) -> None:
    name = await background(world).run({"n": 1}, delay=1)
    await world.clock.advance(1)
    await world.store.take("dead", ttl=30, limit=1)
    looks: list[str] = []
    world.wire.watchers.append(looks.append)
    task = world.spawn(world.runtime.runner("flow").follow(name))
    await world.clock.advance(10)
    assert looks.count("claim") < 60
    await world.clock.advance(30)
    assert (await task).output == 1


async def test_who_follows_it_waits_for_its_time(world: World) -> None:
    name = await background(world).run({"n": 1}, delay=60)
    task = world.spawn(world.runtime.runner("flow").follow(name))
    await world.clock.advance(59)
    assert not task.done()
    await world.clock.advance(2)
    assert (await task).output == 1
