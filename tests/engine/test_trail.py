"""The audit trail: numbered without gaps, complete, and enough to know what the state was."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import START, World, flow

BREAKS = ConnectionError("no line")

EVERYTHING = """
    - {id: set, type: assign, set: {x: 1, y: 2}, next: each}
    - id: each
      type: loop
      over: [1, 2, 3]
      output: out
      on_item_error: skip
      do:
        - id: work
          type: call
          service: desk
          method: work
          input: $item
          retry: {max_attempts: 2, initial_interval: 0}
        - {id: keep, type: assign, set: {last: $item}}
      next: both
    - id: both
      type: parallel
      branches:
        - {id: sign, type: approval, prompt: sign?}
        - {id: note, type: assign, set: {noted: true}}
      next: ask
    - {id: ask, type: halt, reason: well, next: done}
    - {id: done, type: end}
"""


async def whole_story(world: World) -> list[df.Entry]:
    world.desk.answers["work"] = [BREAKS, 1, BREAKS, BREAKS, 3]
    await world.run(flow(EVERYTHING, validate=False), execution_id="e")
    await world.restart()
    await world.runner().resume("e", approved=True, by="ada")
    await world.restart()
    assert (await world.runner().resume("e", response=5, by="bob")).completed
    return await world.entries()


async def test_entries_are_numbered_from_one_without_gaps(world: World) -> None:
    entries = await whole_story(world)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.id for entry in entries] == [f"e:{entry.seq}" for entry in entries]


async def test_folding_the_changes_gives_the_variables(world: World) -> None:
    entries = await whole_story(world)
    inside = ("each[", "both/")
    folded: dict[str, Any] = {}
    for entry in entries:
        if not entry.path.startswith(inside) or entry.path.endswith("]"):
            folded |= entry.changes
    folded = {name: value for name, value in folded.items() if "." not in name and name != "items"}
    assert folded == await world.variables()


async def test_who_did_what_is_recorded(world: World) -> None:
    entries = await whole_story(world)
    assert [(entry.path, entry.actor) for entry in entries if entry.actor] == [("both/sign", "ada"), ("ask", "bob")]


async def test_every_attempt_is_recorded(world: World) -> None:
    entries = await whole_story(world)
    work = [(entry.path, entry.action, entry.attempt) for entry in entries if entry.step_id == "work"]
    assert work == [
        ("each[0]/work", "retried", 1),
        ("each[0]/work", "completed", 2),
        ("each[1]/work", "retried", 1),
        ("each[1]/work", "failed", 2),
        ("each[2]/work", "completed", 1),
    ]


async def test_skipped_iterations_are_recorded_with_their_error(world: World) -> None:
    entries = await whole_story(world)
    skipped = [(entry.path, entry.error) for entry in entries if entry.action == "skipped"]
    assert skipped == [("each[1]", "ConnectionError: no line")]


async def test_entries_say_when_and_how_long(world: World) -> None:
    async def work(_: Any) -> None:
        await world.clock.sleep(2)

    world.desk.answers["work"] = work
    task = await world.start("- {id: work, type: call, service: desk, method: work}\n")
    await world.clock.advance(2)
    await task
    entry = (await world.entries())[1]
    assert (entry.timestamp.timestamp(), entry.duration_ms) == (START + 2, 2000.0)


async def test_durations_are_not_measured_with_a_clock_that_jumps(world: World) -> None:
    async def work(_: Any) -> None:
        world.clock.turn(-3600)

    world.desk.answers["work"] = work
    await world.run("- {id: work, type: call, service: desk, method: work}\n", execution_id="e")
    assert [entry.duration_ms for entry in await world.entries() if entry.step_id == "work"] == [0.0]


async def test_entries_can_be_read_from_a_place_on(world: World) -> None:
    entries = await whole_story(world)
    assert await world.store.entries("e", after=5, limit=3) == entries[5:8]


async def test_a_merged_variable_shows_its_value_in_the_entry_that_took_it_over(world: World) -> None:
    entries = await whole_story(world)
    assert [entry.changes for entry in entries if entry.path == "each[2]"] == [{"last": 3}]
    assert [entry.changes["noted"] for entry in entries if entry.path == "both" and "noted" in entry.changes] == [True]


async def test_a_note_is_part_of_the_trail(world: World) -> None:
    await world.run("- {id: ask, type: halt, reason: well}\n", execution_id="e")
    await world.store.record("e", "called the customer", actor="ada", data={"by": "phone"})
    await world.runner().resume("e")
    note = next(entry for entry in await world.entries() if entry.action == "noted")
    assert (note.actor, note.metadata["note"], note.metadata["data"]) == ("ada", "called the customer", {"by": "phone"})


async def test_a_note_wakes_nobody_and_answers_nothing(world: World) -> None:
    await world.run("- {id: ask, type: halt, reason: well}\n", execution_id="e")
    await world.store.record("e", "hello")
    assert (await world.runner().recover("e")).halted


async def test_a_note_for_what_is_not_there_is_an_error(world: World) -> None:
    with pytest.raises(df.ExecutionNotFound):
        await world.store.record("nobody", "hello")


async def test_a_variable_that_goes_through_many_hands_is_written_once(world: World) -> None:
    world.desk.answers["give"] = "x" * 50_000
    await world.run(
        """
        - {id: before, type: assign, set: {x: []}, next: each}
        - id: each
          type: loop
          over: [1]
          do:
            - id: both
              type: parallel
              branches:
                - id: branch
                  do:
                    - {id: give, type: call, service: desk, method: give, output: x}
                    - {id: small, type: assign, set: {y: 1}}
          next: done
        - {id: done, type: assign, set: {z: 1}}
        """,
        execution_id="e",
    )
    assert (await world.variables())["x"] == "x" * 50_000
    stored = "".join(str(blob) for _, blob in await world.store.read("e"))
    assert stored.count("x" * 1000) == 50
