"""`Runtime.subscribe`: who watches learns what is durable, and changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import START, World, flow

WORK = flow("""
    - {id: a, type: assign, set: {x: 1}, next: work}
    - {id: work, type: call, service: desk, method: work, output: y, next: done}
    - {id: done, type: end, result: $y}
""")

ASK = flow("- {id: ask, type: halt, reason: well, next: done}\n- {id: done, type: end, result: $response}\n")


@pytest.fixture
def told(world: World) -> list[df.Event]:
    events: list[df.Event] = []
    world.runtime.subscribe(events.append)
    return events


def types(events: list[df.Event]) -> list[str]:
    return [event.type for event in events]


async def test_every_step_is_told_in_order(world: World, told: list[df.Event]) -> None:
    world.desk.answers["work"] = "fine"
    await world.run(WORK, execution_id="e")
    assert types(told) == [
        "workflow.started",
        "step.completed",
        "step.started",
        "step.completed",
        "step.completed",
        "workflow.completed",
    ]


async def test_an_event_says_whose_and_what_it_is(world: World, told: list[df.Event]) -> None:
    world.desk.answers["work"] = "fine"
    await world.run(WORK, execution_id="e")
    event = told[3]
    assert event.id == "e:3"
    assert event.timestamp.timestamp() == START
    assert event.data == {
        "workflow_id": "flow",
        "execution_id": "e",
        "step_id": "work",
        "step_type": "call",
        "path": "work",
        "attempt": 1,
        "output": "fine",
    }


async def test_the_id_of_an_event_is_that_of_its_entry(world: World, told: list[df.Event]) -> None:
    await world.run(WORK, execution_id="e")
    entries = {entry.id for entry in await world.entries()}
    assert {event.id for event in told if event.id is not None} <= entries


async def test_events_come_after_their_commit(world: World) -> None:
    seen: list[tuple[str, bool]] = []

    def look(event: df.Event) -> None:
        if event.id is not None:
            database = world.store._inline.connection.database  # type: ignore[attr-defined]
            (last,) = database.execute("SELECT seq FROM executions WHERE id = 'e'").fetchone()
            seen.append((event.type, last >= int(event.id.rpartition(":")[2])))

    world.runtime.subscribe(look)
    await world.run(WORK, execution_id="e")
    assert len(seen) == 5
    assert all(durable for _, durable in seen)


async def test_a_halt_and_its_answer_are_told(world: World, told: list[df.Event]) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().resume("e", response=1)
    assert types(told) == [
        "workflow.started",
        "step.halted",
        "workflow.halted",
        "workflow.resumed",
        "step.completed",
        "step.completed",
        "workflow.completed",
    ]
    assert told[1].data["halt"] == {"type": "halt", "reason": "well"}
    assert told[6].data["output"] == 1


async def test_a_failure_is_told_with_its_error(world: World, told: list[df.Event]) -> None:
    world.desk.answers["work"] = ValueError("no")
    await world.run(WORK)
    assert types(told)[-2:] == ["step.failed", "workflow.failed"]
    assert told[-1].data["error"] == "ValueError: no"


async def test_a_handled_failure_is_told_as_a_failure(world: World, told: list[df.Event]) -> None:
    world.desk.answers["work"] = ValueError("no")
    await world.run("""
        - {id: work, type: call, service: desk, method: work, on_error: sorry}
        - {id: sorry, type: end, result: sorry}
    """)
    assert types(told)[2:] == ["step.failed", "step.completed", "workflow.completed"]


async def test_a_retry_is_told(world: World, told: list[df.Event]) -> None:
    world.desk.answers["work"] = [ValueError("no"), 1]
    await world.run("""
        - {id: work, type: call, service: desk, method: work, retry: {max_attempts: 2, initial_interval: 0}}
    """)
    assert types(told) == [
        "workflow.started",
        "step.started",
        "step.retried",
        "step.started",
        "step.completed",
        "workflow.completed",
    ]


async def test_a_cancellation_is_told(world: World, told: list[df.Event]) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().cancel("e")
    assert told[-1].type == "workflow.cancelled"


async def test_only_the_events_asked_for_are_told(world: World) -> None:
    seen: list[df.Event] = []
    world.runtime.subscribe(seen.append, events=["workflow.completed"])
    await world.run(WORK)
    assert types(seen) == ["workflow.completed"]


async def test_after_unsubscribing_nothing_is_told(world: World) -> None:
    seen: list[df.Event] = []
    stop = world.runtime.subscribe(seen.append)
    stop()
    stop()
    await world.run(WORK)
    assert seen == []


async def test_events_of_children_and_branches_are_told(world: World, told: list[df.Event]) -> None:
    world.know(flow("- {id: d, type: end, result: 1}\n", id="child"))
    await world.run(
        """
        - id: both
          type: parallel
          branches:
            - {id: sub, type: workflow, workflow_id: child}
            - {id: work, type: call, service: desk, method: work}
        """,
        execution_id="e",
    )
    paths = {(event.data["execution_id"], event.data.get("path")) for event in told}
    assert {("e", "both/sub"), ("e", "both/work"), ("e.both/sub", "d")} <= paths


# -- watching changes nothing ------------------------------------------------------------------------------------------


async def trail_without_watchers(world: World) -> list[str]:
    result = await world.run(WORK, execution_id="alone")
    assert result.completed
    return await world.trail("alone")


def raising(event: df.Event) -> None:
    raise RuntimeError("not interested")


def slow(event: df.Event) -> None:
    time.sleep(0.001)


async def hanging(event: df.Event) -> None:
    await asyncio.Event().wait()


async def failing_later(event: df.Event) -> None:
    raise RuntimeError("not interested")


def spoiling(event: df.Event) -> None:
    event.data.clear()  # type: ignore[attr-defined]


@pytest.mark.parametrize("handler", [raising, slow, hanging, failing_later, spoiling])
async def test_a_subscriber_changes_nothing(world: World, handler: Callable[[df.Event], Any]) -> None:
    expected = await trail_without_watchers(world)
    world.runtime.subscribe(handler)
    result = await world.run(WORK, execution_id="e")
    assert result.completed
    assert await world.trail() == expected


async def test_a_subscriber_that_raises_does_not_keep_others_from_being_told(world: World) -> None:
    seen: list[df.Event] = []
    world.runtime.subscribe(raising)
    world.runtime.subscribe(seen.append)
    await world.run(WORK)
    assert types(seen)[-1] == "workflow.completed"


async def test_a_subscriber_may_use_the_engine(world: World) -> None:
    world.know(flow("- {id: d, type: call, service: desk, method: other}\n", id="other"))

    def start_another(event: df.Event) -> None:
        if event.type == "workflow.completed" and event.data["workflow_id"] == "flow":
            world.spawn(world.runner("other").run())

    world.runtime.subscribe(start_another)
    await world.run(WORK)
    await world.clock.advance()
    assert world.desk.called == ["work", "other"]


async def test_a_subscriber_may_cancel_the_execution_it_watches(world: World) -> None:
    def cancel(event: df.Event) -> None:
        if event.type == "step.started":
            world.spawn(world.runner().cancel("e"))

    world.runtime.subscribe(cancel)
    world.desk.hold("work")
    assert (await world.run(WORK, execution_id="e")).cancelled


async def test_a_subscriber_that_raises_a_cancellation_cancels_nothing(world: World) -> None:
    def give_up(event: df.Event) -> None:
        raise asyncio.CancelledError

    world.runtime.subscribe(give_up)
    assert (await world.run(WORK)).completed


async def test_an_event_becomes_json(world: World, told: list[df.Event]) -> None:
    await world.run(WORK, execution_id="e")
    assert told[0].data == {"workflow_id": "flow", "execution_id": "e", "input": {}}
