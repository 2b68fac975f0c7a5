"""Events as they come (`runtime.stream`), and those of an execution wherever it is driven (`runtime.events`)."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

import durable_flow as df
from durable_flow.engine import BACKSTOP, POLL
from tests.engine.aid import Far, World, flow, idle

WORK = """
- {id: a, type: assign, set: {x: 1}, next: work}
- {id: work, type: call, service: desk, method: work, output: y, next: done}
- {id: done, type: end, result: $y}
"""

ASK = "- {id: ask, type: halt, reason: well, next: done}\n- {id: done, type: end, result: $response}\n"

MANY = """
- id: each
  type: loop
  over: $input.items
  concurrency: 3
  do: [{id: work, type: call, service: desk, method: work, input: {n: $item}}]
  next: ask
- {id: ask, type: halt, reason: well, next: done}
- {id: done, type: end, result: $response}
"""


def types(events: list[df.Event]) -> list[str]:
    return [event.type for event in events]


async def collect(events: AsyncIterator[df.Event]) -> list[df.Event]:
    return [event async for event in events]


def read(world: World, execution_id: str = "e", **options: Any) -> Any:
    """The events that are there."""
    return collect(world.runtime.events(execution_id, follow=False, **options))


# -- events in the forms in which they leave a process -----------------------------------------------------------------


async def test_an_event_is_a_line_of_json(world: World) -> None:
    await world.run(WORK, execution_id="e")
    event = (await read(world))[-1]
    assert json.loads(event.to_json()) == {
        "type": "workflow.completed",
        "data": {"workflow_id": "flow", "execution_id": "e", "output": None},
        "timestamp": "2023-11-14T22:13:20Z",
        "id": "e:5",
    }


async def test_line_ends_in_data_do_not_end_a_server_sent_event(world: World) -> None:
    said = "one\ntwo\r\nthree\rfour\u2028five\n\ndata: six"
    world.desk.answers["work"] = said
    await world.run(WORK, execution_id="e")
    event = (await read(world))[2]
    first, second, third, *rest = event.to_sse().split("\n")
    assert (first, second) == ("id: e:3", "event: step.completed")
    assert third.startswith("data: ")
    assert not set("\r\n") & set(third)
    assert json.loads(third.removeprefix("data: "))["data"]["output"] == said
    assert rest == ["", ""]


async def test_a_transient_event_has_no_id_as_a_server_sent_event(world: World) -> None:
    told = await collect(world.runtime.stream(flow(WORK)).stream())
    started = next(event for event in told if event.type == "step.started")
    assert started.to_sse().startswith("event: step.started\ndata: ")


# -- following ---------------------------------------------------------------------------------------------------------


async def test_the_events_that_were_told_are_read_afterwards(world: World) -> None:
    told: list[df.Event] = []
    world.runtime.subscribe(told.append)
    await world.run(ASK, execution_id="e")
    await world.runner().resume("e", response=1)
    await world.run(WORK, execution_id="f", id="other")
    assert "step.started" in types(told)
    for execution_id in ("e", "f"):
        durable = [event for event in told if event.id is not None and event.data["execution_id"] == execution_id]
        assert await read(world, execution_id) == durable
        assert await collect(world.runtime.events(execution_id)) == durable


@pytest.mark.parametrize("after", ["e:3", 3, "3"])
async def test_events_begin_behind_the_one_that_is_named(world: World, after: str | int) -> None:
    await world.run(WORK, execution_id="e")
    assert [event.id for event in await read(world, after=after)] == ["e:4", "e:5"]
    assert await collect(world.runtime.events("e", after="e:5")) == []


@pytest.mark.parametrize(
    "after", ["f:3", "e:", "e:x", "", ":3", "e:-1", -1, True, 1.5, "e:٣", "e:" + "9" * 30, "e:6", 6]
)
async def test_a_place_that_is_none_is_refused(world: World, after: Any) -> None:
    await world.run(WORK, execution_id="e")
    with pytest.raises(df.ValidationError, match=r"after must be|there is no event"):
        await read(world, after=after)


async def test_an_execution_that_is_not_there_has_no_events(world: World) -> None:
    with pytest.raises(df.ExecutionNotFound):
        await read(world, "nope")
    with pytest.raises(df.ValidationError):
        world.runtime.events("no id")


async def test_a_runtime_that_is_not_open_follows_nothing(world: World) -> None:
    with pytest.raises(df.ConfigError, match="open the runtime first"):
        world.process(world.wire).events("e")


async def test_who_follows_here_hears_of_each_commit_without_time_going_by(world: World) -> None:
    world.desk.hold("work")
    running = await world.start(WORK)
    told: list[df.Event] = []

    async def follow() -> None:
        async for event in world.runtime.events("e"):
            told.append(event)  # noqa: PERF401 - one by one, as they come

    following = world.spawn(follow())
    await idle()
    assert types(told) == ["workflow.started", "step.completed"]
    world.desk.release()
    await running
    await following
    assert types(told)[2:] == ["step.completed", "step.completed", "workflow.completed"]


async def test_another_process_is_asked_often_while_somebody_drives_the_execution(world: World) -> None:
    world.desk.hold("work")
    running = await world.start(WORK)
    async with world.process(Far(world.store)) as other:
        following = world.spawn(collect(other.events("e")))
        await idle()
        world.desk.release()
        await running
        await idle()
        assert not following.done()
        await world.clock.advance(POLL)
        assert types(await following)[-1] == "workflow.completed"


async def test_who_follows_from_another_process_is_woken_by_the_store(world: World) -> None:
    await world.run(ASK, execution_id="e")
    wire = Far(world.store)
    async with world.process(wire) as other:
        following = world.spawn(collect(other.events("e")))
        await idle()
        await world.runner().resume("e", response=1)
        await idle()
        assert not following.done()
        wire.heard("e")
        await idle()
        assert following.done()


async def test_without_a_hint_the_events_come_with_the_backstop(world: World) -> None:
    await world.run(ASK, execution_id="e")
    async with world.process(Far(world.store)) as other:
        following = world.spawn(collect(other.events("e")))
        await idle()
        await world.runner().resume("e", response=1)
        await world.clock.advance(BACKSTOP)
        assert types(await following)[-1] == "workflow.completed"


async def test_following_ends_when_the_execution_is_deleted_or_the_runtime_closed(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.run(ASK, execution_id="f")
    other = world.process(Far(world.store))
    await other.__aenter__()
    deleted, closed = world.spawn(collect(other.events("e"))), world.spawn(collect(other.events("f")))
    await idle()
    await world.store.delete("e")
    await world.clock.advance(BACKSTOP)
    with pytest.raises(df.ExecutionNotFound):
        await deleted
    await other.close()
    await world.clock.advance(BACKSTOP)
    with pytest.raises(df.ConflictError, match="closed"):
        await closed


async def test_the_events_of_a_retried_execution_go_on_where_they_ended(world: World) -> None:
    world.desk.answers["work"] = [ValueError("no"), "fine"]
    await world.run(WORK, execution_id="e")
    before = await collect(world.runtime.events("e"))
    assert types(before)[-1] == "workflow.failed"
    await world.runner().retry("e")
    behind = await collect(world.runtime.events("e", after=before[-1].id))
    assert types(behind)[-1] == "workflow.completed"
    assert await read(world) == before + behind


async def test_a_halt_says_what_is_asked_however_late_it_is_read(world: World) -> None:
    told: list[df.Event] = []
    world.runtime.subscribe(told.append)
    await world.run(
        """
        - id: both
          type: parallel
          branches:
            - {id: one, type: halt, reason: first}
            - {id: two, type: approval, prompt: second, required: 2}
        """,
        execution_id="e",
    )
    await world.runner().resume("e", step="two", approved=True, by="ann")
    await world.runner().resume("e", step="one", response=1)
    halts = [event for event in told if event.type == "workflow.halted"]
    assert [len(event.data["halt"]) for event in halts] == [2, 2, 1]
    for halt in halts:
        number = int(str(halt.id).partition(":")[2])
        assert (await read(world, after=number - 1))[0] == halt
    assert halts[2].data["halt"][0]["prompt"] == "second"


async def test_secrets_are_masked_in_what_is_read(world: World) -> None:
    told: list[df.Event] = []
    world.runtime.subscribe(told.append)
    world.desk.answers["work"] = ValueError("4711 is no pin")
    asking = flow(
        "- {id: ask, type: halt, reason: $input.pin, next: work}\n"
        "- {id: work, type: call, service: desk, method: work, input: {pin: $input.pin}}\n",
        inputs={"pin": {"type": "string", "secret": True}},
    )
    await world.run(asking, {"pin": "4711"}, execution_id="e")
    await world.runner().resume("e", response="4711!")
    events = await read(world)
    assert [event.to_json() for event in events] == [event.to_json() for event in told if event.id is not None]
    assert "4711" not in repr(events)
    assert "***" in repr(events)


async def test_readers_that_reconnect_at_random_see_every_event_exactly_once(world: World) -> None:
    dice = random.Random(7)

    async def work(given: Any) -> Any:
        await world.clock.sleep(0.1)
        return given

    world.desk.answers["work"] = work
    world.know(flow(MANY, inputs={"items": "array"}))
    seen: list[list[str | None]] = []

    async def reader(runtimes: list[df.Runtime]) -> None:
        mine: list[str | None] = []
        seen.append(mine)
        while True:
            await world.clock.sleep(dice.random())
            async with aclosing(dice.choice(runtimes).events("e", after=mine[-1] if mine else None)) as events:
                enough = dice.randrange(1, 12)
                async for event in events:
                    mine.append(event.id)
                    if event.type == "workflow.completed":
                        return
                    enough -= 1
                    if not enough:
                        break

    async with world.process(Far(world.store)) as other:
        await world.start(input={"items": list(range(20))})
        readers = [world.spawn(reader([world.runtime, other])) for _ in range(100)]
        await world.clock.advance(3)
        await world.runner().resume("e", response=1)
        while not all(task.done() for task in readers):
            await world.clock.advance(1)
        for task in readers:
            task.result()
    expected = [event.id for event in await read(world)]
    assert len(expected) > 45
    assert len(seen) == 100
    assert all(mine == expected for mine in seen)


# -- streaming ---------------------------------------------------------------------------------------------------------


async def test_a_stream_gives_every_event_in_order_until_the_execution_is_over(world: World) -> None:
    told: list[df.Event] = []
    world.runtime.subscribe(told.append)
    events = await collect(world.runtime.stream(flow(WORK)).stream(execution_id="e"))
    assert types(events) == [
        "workflow.started",
        "step.completed",
        "step.started",
        "step.completed",
        "step.completed",
        "workflow.completed",
    ]
    assert events == told


async def test_a_stream_ends_where_somebody_is_waited_for(world: World) -> None:
    runner = world.runtime.stream(flow(ASK))
    assert types(await collect(runner.stream(execution_id="e")))[-1] == "workflow.halted"
    assert (await runner.resume("e", response=1)).output == 1
    assert (await runner.run(execution_id="f")).halted


async def test_a_stream_tells_of_its_own_execution_only(world: World) -> None:
    world.desk.hold("work")
    first = world.spawn(collect(world.runtime.stream(flow(WORK)).stream(execution_id="e")))
    second = await world.start("flow", execution_id="f")
    world.desk.release()
    await second
    assert {event.data["execution_id"] for event in await first} == {"e"}


async def test_what_run_would_raise_a_stream_raises(world: World) -> None:
    runner = world.runtime.stream(flow(WORK, inputs={"n": "number"}))
    with pytest.raises(df.InputError):
        await collect(runner.stream({"n": "many"}))
    with pytest.raises(df.ValidationError):
        await collect(runner.stream({"n": 1}, execution_id="no id"))
    assert world.runtime.engine.observers == []


async def test_a_slow_reader_holds_nothing_up(world: World) -> None:
    async with aclosing(world.runtime.stream(flow(WORK)).stream(execution_id="e")) as events:
        await anext(events)
        await idle()
        assert (await world.load()).status is df.Status.COMPLETED
        assert len(await collect(events)) == 5


async def test_who_leaves_a_stream_early_leaves_the_execution_at_work(world: World) -> None:
    world.desk.hold("work")
    async for event in world.runtime.stream(flow(WORK)).stream(execution_id="e"):
        if event.type == "step.started":
            break
    await idle()
    assert world.runtime.engine.observers == []
    world.desk.release()
    await idle()
    assert (await world.load()).status is df.Status.COMPLETED


async def test_a_stream_that_was_left_ends_with_the_runtime(world: World) -> None:
    world.desk.hold("work")
    async with aclosing(world.runtime.stream(flow(WORK)).stream(execution_id="e")) as events:
        await anext(events)
        await idle()
    await world.restart()
    left = await world.load()
    assert (left.status, left.owner) == (df.Status.RUNNING, None)


@pytest.mark.parametrize("busy", [False, True], ids=["waiting for an event", "at work on one"])
async def test_cancelling_the_reader_leaves_the_execution_where_it_is(world: World, busy: bool) -> None:
    world.desk.hold("work")

    async def loop() -> None:
        async for event in world.runtime.stream(flow(WORK)).stream(execution_id="e"):
            if busy and event.type == "step.started":
                await asyncio.Event().wait()

    task = world.spawn(loop())
    await idle()
    assert world.desk.called == ["work"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await idle()
    assert world.desk.cancelled == ["work"]
    left = await world.load()
    assert (left.status, left.owner) == (df.Status.RUNNING, None)
    world.desk.release()
    assert (await world.runner().recover("e")).completed


async def test_subscribers_of_a_stream_runner_hear_of_its_workflow(world: World) -> None:
    world.know(flow(ASK, id="other"))
    runner = world.runtime.stream(flow(WORK))
    plain: list[df.Event] = []
    later: list[df.Event] = []

    async def slowly(event: df.Event) -> None:
        await world.clock.sleep(1)
        later.append(event)

    runner.subscribe(plain.append)
    stop = runner.subscribe(slowly, events=["workflow.completed"])
    await world.run("other")
    assert (await runner.run()).completed
    await world.clock.advance(1)
    assert {event.data["workflow_id"] for event in plain} == {"flow"}
    assert len(plain) == 6
    assert types(later) == ["workflow.completed"]
    stop()
    with pytest.raises(df.ConfigError, match="a handler of events is a function"):
        runner.subscribe("print")  # type: ignore[arg-type]


async def test_what_a_slow_reader_keeps_in_memory_is_bounded_in_bytes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the entries are: a reader that stands still holds no more than it read at once."""
    steps = f"- {{id: s0, type: assign, set: {{x: {'x' * 100_000}}}, next: s1}}\n" + "".join(
        f"- {{id: s{number}, type: assign, set: {{x: '${{x}}{number % 10}'}}, next: s{number + 1}}}\n"
        for number in range(1, 100)
    )
    await world.run(f"{steps}- {{id: s100, type: end, result: over}}\n", execution_id="e")
    store = world.runtime.store
    known = store.read
    sizes = []

    async def measured(execution_id: str, **options: Any) -> Any:
        chunk = await known(execution_id, **options)
        sizes.append(sum(len(blob) for _, blob in chunk))
        return chunk

    monkeypatch.setattr(store, "read", measured)

    events = await read(world)

    assert len(events) == 103
    assert sum(sizes) > 10_000_000
    assert max(sizes) < 2_500_000
