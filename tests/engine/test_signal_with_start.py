"""A signal that starts the execution it is for, if that is not there; and signals that are sent again."""

from __future__ import annotations

import asyncio

import pytest

import durable_flow as df
from durable_flow import waiting as machinery
from tests.engine.aid import Dead, World, flow

CART = """
- {id: item, type: signal, name: add, output: last, next: put}
- {id: put, type: call, service: desk, method: put, input: $last, next: full}
- {id: full, type: router, routes: [{when: {field: last, op: eq, value: done}, then: end}], default: item}
- {id: end, type: end, result: $last}
"""


async def test_it_starts_an_execution_that_has_the_signal(world: World) -> None:
    result = await world.runner(CART).signal_with_start("e", "add", "shoe", input={"of": "ann"}, labels={"a": "b"})
    assert (result.halted, result.execution_id) == (True, "e")
    loaded = await world.load()
    assert (loaded.input, loaded.labels) == ({"of": "ann"}, {"a": "b"})
    assert world.desk.values("put") == ["shoe"]


async def test_it_reaches_an_execution_that_is_there(world: World) -> None:
    runner = world.runner(CART)
    for item in ("shoe", "hat"):
        assert (await runner.signal_with_start("e", "add", item, input={"n": 1}, by="ann")).halted
    assert (await runner.signal_with_start("e", "add", "done", input={"n": 1})).output == "done"
    assert world.desk.values("put") == ["shoe", "hat", "done"]
    assert [entry.actor for entry in await world.entries() if entry.actor] == ["ann", "ann"]


async def test_racing_callers_start_one_execution_that_has_all_their_signals(world: World) -> None:
    runner = world.runner(CART)
    async with world.process(world.store) as other:
        there = other.runner("flow")
        calls = [(runner if n % 2 else there).signal_with_start("e", "add", n) for n in range(20)]
        tasks = [world.spawn(call) for call in calls]
        await world.clock.advance(10)
        assert [task.result().execution_id for task in tasks] == ["e"] * 20
    assert sorted(world.desk.values("put")) == list(range(20))
    assert (await world.trail()).count("started") == 1


async def test_signals_of_one_sender_come_in_order(world: World) -> None:
    world.desk.hold("put")
    first = world.spawn(world.runner(CART).signal_with_start("e", "add", 0))
    await world.clock.advance()
    for number in range(1, 6):
        assert (await world.runner().signal_with_start("e", "add", number)).status == "running"
    world.desk.release()
    await first
    assert world.desk.values("put") == list(range(6))


async def test_it_does_not_wait_for_what_another_process_drives(world: World) -> None:
    world.desk.hold("put")
    world.spawn(world.runner(CART).signal_with_start("e", "add", 1))
    await world.clock.advance()
    async with world.process(world.store) as other:
        assert (await other.runner("flow").signal_with_start("e", "add", 2)).status == "running"
    assert world.desk.values("put") == [1]


@pytest.mark.parametrize("verb", ["commit", "row"])
async def test_a_caller_that_dies_leaves_nothing_or_all_of_it(world: World, verb: str) -> None:
    runner = world.runner(CART)
    world.wire.watchers.append(lambda seen: world.die() if seen == verb else None)
    with pytest.raises(Dead):
        await runner.signal_with_start("e", "add", 1, signal_id="s1")
    await world.after_the_lease()
    assert await world.store.row("e") is None
    assert (await world.runner().signal_with_start("e", "add", 1, signal_id="s1")).halted
    assert world.desk.values("put") == [1]


async def test_a_caller_that_does_not_know_sends_it_again(world: World) -> None:
    world.desk.hold("put")
    world.spawn(world.runner(CART).signal_with_start("e", "add", 1, signal_id="s1"))
    await world.clock.advance()
    await world.after_the_lease()
    world.desk.release()
    assert (await world.runner().signal_with_start("e", "add", 1, signal_id="s1")).halted
    await world.runner().signal_with_start("e", "add", 2, signal_id="s2")
    await world.runner().signal_with_start("e", "add", 2, signal_id="s2")
    assert world.desk.values("put") == [1, 1, 2]  # the first attempt died with its process
    assert len(set(world.desk.keys("put"))) == 2


async def test_a_signal_id_counts_once_through_restarts(world: World) -> None:
    await world.run(CART, execution_id="e")
    for _ in range(3):
        await world.runner().signal("e", "add", 1, signal_id="s1")
        await world.restart()
    await world.runner().signal("e", "add", 1)
    assert world.desk.values("put") == [1, 1]


async def test_a_signal_id_counts_once_where_signals_are_kept(world: World) -> None:
    await world.run("- {id: ask, type: halt, next: item}" + CART, execution_id="e")
    for signal_id in ("s1", "s1", "s2", "s1"):
        await world.runner().signal("e", "add", signal_id, signal_id=signal_id)
    await world.restart()
    await world.runner().signal("e", "add", "s2", signal_id="s2")
    await world.runner().resume("e")
    assert world.desk.values("put") == ["s1", "s2"]


async def test_a_signal_id_counts_once_among_those_that_nobody_read_yet(world: World) -> None:
    world.desk.hold("put")
    world.spawn(world.runner(CART).signal_with_start("e", "add", 0))
    await world.clock.advance()
    async with world.process(world.store) as other:
        await asyncio.gather(*(other.runner("flow").signal("e", "add", 1, signal_id="s1") for _ in range(5)))
        world.desk.release()
        await world.clock.advance(5)
    assert world.desk.values("put") == [0, 1]


async def test_only_the_end_of_a_long_trail_is_searched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machinery, "REMEMBERED", 2)
    await world.run(CART, execution_id="e")
    await world.runner().signal("e", "add", 1, signal_id="s1")
    for _ in range(3):
        await world.store.record("e", "looked at")
    await world.runner().signal("e", "add", 1, signal_id="s1")
    assert world.desk.values("put") == [1, 1]


async def test_what_is_over_takes_no_signal_but_knows_the_one_it_had(world: World) -> None:
    runner = world.runner(CART)
    assert (await runner.signal_with_start("e", "add", "done", signal_id="s1")).completed
    assert (await runner.signal_with_start("e", "add", "done", signal_id="s1")).completed
    await runner.signal("e", "add", "done", signal_id="s1")
    with pytest.raises(df.ConflictError, match="'e' is over; the signal 'add' changed nothing"):
        await runner.signal_with_start("e", "add", "more", signal_id="s2")
    with pytest.raises(df.ConflictError):
        await runner.signal_with_start("e", "add", "more")


async def test_the_rules_of_run_hold(world: World) -> None:
    typed = flow(CART, inputs={"n": {"type": "integer"}})
    runner = world.runner(typed)
    with pytest.raises(df.InputError):
        await runner.signal_with_start("e", "add", 1, input={"n": "x"})
    assert await world.store.row("e") is None
    await runner.signal_with_start("e", "add", 1, input={"n": 1})
    with pytest.raises(df.ConflictError, match="another input"):
        await runner.signal_with_start("e", "add", 2, input={"n": 2})
    with pytest.raises(df.ConflictError, match="belongs to workflow 'flow'"):
        await world.runner(flow(CART, id="other")).signal_with_start("e", "add", 2)
    assert world.desk.values("put") == [1]


@pytest.mark.parametrize(
    "wrong",
    [{"execution_id": "a b"}, {"name": ""}, {"payload": object()}, {"by": ""}, {"signal_id": ""}, {"signal_id": 7},
     {"signal_id": "x" * 256}, {"queue": ""}, {"labels": {"a": 1}}],
)  # fmt: skip
async def test_what_cannot_be_sent_is_refused_before_anything_is_stored(world: World, wrong: dict[str, object]) -> None:
    call = {"execution_id": "e", "name": "add"} | wrong
    with pytest.raises(df.ValidationError):
        await world.runner(CART).signal_with_start(**call)  # type: ignore[arg-type]
    assert await world.store.execution_ids() == []
