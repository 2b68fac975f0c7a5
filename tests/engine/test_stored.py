"""Executions in a file: what one process wrote another one goes on with; a row that is damaged hurts nobody else."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import durable_flow as df
from durable_flow.stores import open_store
from durable_flow.testing import wait_until
from tests.engine.aid import Clock, World, flow

ASK = flow("""
    - {id: set, type: assign, set: {x: 1}, next: each}
    - id: each
      type: loop
      over: [1, 2]
      do:
        - {id: work, type: call, service: desk, method: work, input: $item}
        - {id: ask, type: halt, reason: "$item?"}
      next: done
    - {id: done, type: end, result: $x}
""")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flow.db"


@pytest.fixture
async def world(clock: Clock, path: Path) -> AsyncIterator[World]:
    """A world whose store is a file."""
    async with open_store(f"sqlite:///{path}", durability="normal") as store:
        store.clock = clock
        made = World(store, clock)
        await made.begin()
        yield made
        await made.end()


def write(path: Path, statement: str, *parameters: Any) -> None:
    database = sqlite3.connect(path)
    with database:
        assert database.execute(statement, parameters).rowcount > 0
    database.close()


async def test_another_process_goes_on_where_one_stopped(world: World, path: Path, clock: Clock) -> None:
    await world.run(ASK, execution_id="e")
    await world.runtime.close()
    async with (
        open_store(f"sqlite:///{path}") as store,
        df.Runtime(store, services={"desk": world.desk}, clock=clock) as runtime,
    ):
        runner = await runtime.runner_of("e")
        assert [halt.path for halt in (await runner.resume("e")).halts] == ["each[1]/ask"]
        assert (await runner.resume("e")).output == 1
    assert world.desk.values("work") == [1, 2]
    await world.begin()


async def test_a_file_can_be_named_by_its_url(path: Path) -> None:
    async with df.Runtime(f"sqlite:///{path}", workflows=[flow("- {id: a, type: halt, reason: well}\n")]) as runtime:
        result = await runtime.runner("flow").run()
    async with df.Runtime(f"sqlite:///{path}") as runtime:
        runner = await runtime.runner_of(result.execution_id)
        assert (await runner.resume(result.execution_id)).completed


async def test_many_executions_at_once(world: World) -> None:
    runner = world.runner("""
        - {id: a, type: call, service: desk, method: a, input: $input.n, output: x, next: b}
        - {id: b, type: call, service: desk, method: b, input: $x, output: result}
    """)
    results = await asyncio.gather(*[runner.run({"n": n}) for n in range(50)])
    assert [result.output for result in results] == list(range(50))


async def test_many_starts_at_once_are_one(world: World) -> None:
    runner = world.runner("- {id: a, type: call, service: desk, method: a, output: result, input: 1}\n")
    results = await asyncio.gather(*[runner.run({}, execution_id="e") for _ in range(20)])
    assert [result.output for result in results] == [1] * 20
    assert world.desk.called == ["a"]


async def test_a_wait_outlives_any_time(world: World) -> None:
    await world.run(ASK, execution_id="e")
    world.clock.time += timedelta(days=400).total_seconds()
    await world.restart()
    assert (await world.runner().resume("e")).halted


async def test_what_runs_cannot_be_deleted(world: World) -> None:
    world.desk.hold("work")
    task = world.spawn(world.runner(ASK).run(execution_id="e"))
    await wait_until(lambda: world.desk.called)
    with pytest.raises(df.ConflictError, match="driving it"):
        await world.store.delete("e")
    world.desk.release()
    assert (await task).halted


async def test_of_what_was_deleted_nothing_is_left(world: World) -> None:
    await world.run(ASK, execution_id="e")
    assert await world.store.delete("e")
    assert (await world.store.load("e"), await world.store.entries("e"), list(await world.store.find())) == (
        None,
        [],
        [],
    )
    with pytest.raises(df.ExecutionNotFound):
        await world.runner().resume("e")


async def test_an_id_that_is_used_again_gives_the_same_keys_again(world: World) -> None:
    await world.run(ASK, execution_id="e")
    assert await world.store.delete("e")
    await world.run(ASK, execution_id="e")
    assert world.desk.keys("work") == ["e:each[0]/work"] * 2


async def test_finding_by_status_looks_at_all_of_them(world: World) -> None:
    done = world.runner(flow("- {id: d, type: end, result: 1}\n", id="other"))
    for n in range(3):
        await world.run(ASK, execution_id=f"halted{n}")
        for m in range(10):
            await done.run(execution_id=f"done{n}:{m}")
    assert {found.id for found in await world.store.find(status="halted", limit=5)} == {"halted0", "halted1", "halted2"}
    assert len(await world.store.find(status=df.Status.COMPLETED, limit=100)) == 30


# -- damage ------------------------------------------------------------------------------------------------------------

OF_BAD = "n = (SELECT n FROM executions WHERE id = 'bad')"

DAMAGE: dict[str, tuple[str, Any]] = {
    "the header is garbage": (f"UPDATE info SET body = ? WHERE {OF_BAD}", b"\x00\xff{"),
    "the header is of another kind": (f"UPDATE info SET body = ? WHERE {OF_BAD}", "[1,2]"),
    "the header is very deep": (f"UPDATE info SET body = ? WHERE {OF_BAD}", "[" * 10_000),
    "the position is garbage": ("UPDATE executions SET root = ? WHERE id = 'bad'", '{"at":5}'),
    "the input is garbage": (f"UPDATE facts SET input = ? WHERE {OF_BAD}", "{"),
    "an entry is garbage": (f"UPDATE entries SET body = ? WHERE {OF_BAD}", "{"),
    "a frame is garbage": (f"UPDATE frames SET body = ? WHERE {OF_BAD}", '"x"'),
    "the status is unknown": ("UPDATE executions SET status = ? WHERE id = 'bad'", "sleeping"),
    "the definition is gone": ("DELETE FROM definitions WHERE hash != ?", ""),
    "the definition is garbage": ("UPDATE definitions SET body = ?", "{"),
    "a frame lies outside": (f"UPDATE frames SET path = ? WHERE {OF_BAD}", "nowhere[7]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_execution_is_told_and_hurts_no_other(world: World, path: Path, damage: str) -> None:
    other = flow("- {id: ask, type: halt, reason: well}\n", id="other")
    await world.run(other, execution_id="good")
    await world.run(ASK, execution_id="bad")
    world.workflows = {"other": other}
    await world.restart()
    write(path, *DAMAGE[damage])
    assert (await world.runner("other").resume("good")).completed
    listed = {found.id for found in await world.store.find()}
    assert "good" in listed
    assert damage == "the status is unknown" or "bad" in listed


@pytest.mark.parametrize(
    "damage", [name for name in DAMAGE if name not in ("the status is unknown", "a frame lies outside")]
)
async def test_a_damaged_execution_goes_on_nowhere(world: World, path: Path, damage: str) -> None:
    await world.run(ASK, execution_id="bad")
    world.workflows = {}
    await world.restart()
    write(path, *DAMAGE[damage])
    runner = df.Runner(world.runtime.engine, ASK)
    with pytest.raises(df.CorruptState) as raised:
        await runner.resume("bad", response=1)
    assert raised.value.execution_id == "bad"
    assert world.desk.values("work") == [1]


async def test_a_damaged_execution_is_not_held_by_who_tried(world: World, path: Path) -> None:
    await world.run(ASK, execution_id="bad")
    write(path, *DAMAGE["an entry is garbage"])
    await world.restart()
    for _ in range(2):
        with pytest.raises(df.CorruptState):
            await world.runner().recover("bad")
    row = await world.store.row("bad")
    assert row is not None
    assert row.owner is None


async def test_variables_that_cannot_be_read_do_not_become_empty(world: World, path: Path) -> None:
    await world.run(ASK, execution_id="bad")
    write(path, *DAMAGE["an entry is garbage"])
    with pytest.raises(df.CorruptState):
        await world.store.load("bad")


async def test_a_damaged_execution_can_be_deleted(world: World, path: Path) -> None:
    await world.run(ASK, execution_id="bad")
    write(path, *DAMAGE["the header is garbage"])
    assert await world.store.delete("bad")


# -- a store that fails ------------------------------------------------------------------------------------------------


async def test_a_commit_that_fails_is_not_a_failure_of_the_step(clock: Clock) -> None:
    """Nothing is handled, nothing is recorded; the step runs again in recovery."""
    async with open_store("sqlite://:memory:") as store:
        store.clock = clock
        world = World(store, clock)
        await world.begin()
        runner = world.runner("""
            - {id: work, type: call, service: desk, method: work, output: x, on_error: sorry, next: done}
            - {id: done, type: end, result: $x}
            - {id: sorry, type: call, service: desk, method: sorry}
        """)

        def break_down(verb: str) -> None:
            if verb == "commit" and world.desk.calls:
                raise df.StoreError("the disk is on fire")

        world.wire.watchers.append(break_down)
        with pytest.raises(df.StoreError, match="on fire"):
            await runner.run({}, execution_id="e")
        assert await world.trail() == ["started"]
        await world.after_the_lease()
        assert (await world.runner().recover("e")).completed
        assert world.desk.called == ["work", "work"]
        await world.end()


class Fatal(BaseException):
    """As an interrupt or an exit, which end the event loop as well."""


async def test_what_is_no_ordinary_exception_leaves_the_execution_to_be_recovered(clock: Clock) -> None:
    async with open_store("sqlite://:memory:") as store:
        store.clock = clock
        world = World(store, clock)
        await world.begin()
        runner = world.runner("""
            - {id: work, type: call, service: desk, method: work, on_error: sorry}
            - {id: sorry, type: call, service: desk, method: sorry}
        """)
        world.desk.answers["work"] = [Fatal(), "fine"]
        with pytest.raises(Fatal):
            await runner.run(execution_id="e")
        execution = await world.load()
        assert (execution.status, execution.owner, execution.current_step) == ("running", None, "work")
        assert (await world.runner().recover("e")).completed
        assert world.desk.called == ["work", "work"]
        await world.end()
