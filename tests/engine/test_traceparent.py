"""The trace that an execution is started in reaches its services, and whatever they call."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import World, flow, working

ONE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"

WORK = flow("- {id: work, type: call, service: desk, method: work, output: result}")

CHILD = flow("""
    - {id: below, type: call, service: desk, method: below, next: ask}
    - {id: ask, type: halt, next: after}
    - {id: after, type: call, service: desk, method: after, output: result}
""", id="child")  # fmt: skip

PARENT = flow("""
    - {id: work, type: call, service: desk, method: work, retry: {max_attempts: 3, initial_interval: 60}, next: nap}
    - {id: nap, type: wait, for: 1h, next: sub}
    - {id: sub, type: workflow, workflow_id: child, output: result}
""", id="parent")  # fmt: skip


def seen(world: World) -> set[str | None]:
    """What services were told."""
    return {context.traceparent for context in world.desk.contexts}


async def test_it_is_seen_on_the_execution_and_by_its_services(world: World) -> None:
    await world.runner(WORK).run(execution_id="e", traceparent=ONE)
    assert (await world.load()).traceparent == ONE
    assert seen(world) == {ONE}


async def test_without_one_there_is_none(world: World) -> None:
    await world.run(WORK, execution_id="e")
    assert (await world.load()).traceparent is None
    assert seen(world) == {None}


async def test_it_goes_on_through_queue_retries_waits_deaths_and_children(world: World) -> None:
    world.know(CHILD, PARENT)
    world.desk.answers["work"] = [OSError("not now"), 1]
    await world.runtime.background("parent").run(execution_id="e", queue="mail", traceparent=ONE)
    await world.restart()
    async with working(world.runtime, queues=["mail"]):
        await world.clock.advance(30)
    await world.restart()
    async with working(world.runtime):
        await world.clock.advance(60)
    world.desk.hold("below")
    world.spawn(world.runtime.runner("parent").follow("e"))
    await world.clock.advance(3600)
    assert world.desk.called == ["work", "work", "below"]
    await world.after_the_lease()
    world.desk.release()
    async with working(world.runtime):
        await world.clock.advance(1)
    await world.restart()
    result = await world.runtime.runner("parent").resume("e", response=1)
    assert result.completed
    assert world.desk.called == ["work", "work", "below", "below", "after"]
    assert seen(world) == {ONE}
    (child,) = await world.store.find(parent_id="e")
    assert child.traceparent == ONE


async def test_a_child_that_nobody_waits_for_is_part_of_it_too(world: World) -> None:
    world.know(WORK)
    above = flow("- {id: sub, type: workflow, workflow_id: flow, wait: false, output: result}", id="above")
    result = await world.runner(above).run(traceparent=ONE)
    assert (await world.load(result.output)).traceparent == ONE


async def test_gates_are_told(world: World) -> None:
    told: list[Any] = []

    def resolver(params: Any, context: df.StepContext) -> df.Gate:
        told.append(context.traceparent)
        return df.Gate.APPROVED

    await world.restart(gates={"checks": resolver})
    await world.runner("\n- {id: gate, type: gate, resolver: checks}\n").run(traceparent=ONE)
    assert told == [ONE]


async def test_what_undoes_steps_is_told(world: World) -> None:
    world.desk.answers["work"] = OSError("no")
    await world.runner("""
        - id: book
          type: call
          service: desk
          method: book
          compensate: {service: desk, method: unbook}
          next: work
        - {id: work, type: call, service: desk, method: work}
    """).run(traceparent=ONE)
    assert world.desk.called == ["book", "work", "unbook"]
    assert seen(world) == {ONE}


async def test_it_does_not_tell_one_start_from_another(world: World) -> None:
    background = world.runtime.background(WORK)
    await background.run(execution_id="e", traceparent=ONE)
    await background.run(execution_id="e", traceparent=OTHER)
    await background.run(execution_id="e")
    assert (await world.runtime.runner("flow").run(execution_id="e", traceparent=OTHER)).completed
    assert (await world.load()).traceparent == ONE
    assert seen(world) == {ONE}


async def test_every_way_of_starting_takes_one(world: World) -> None:
    listening = flow("- {id: item, type: signal, name: add, output: result}", id="listening")
    world.know(WORK)
    await world.runner(listening).signal_with_start("a", "add", 1, traceparent=ONE)
    async for _ in world.runtime.stream("flow").stream(execution_id="b", traceparent=ONE):
        pass
    await world.runtime.runner("flow").run_until_complete(execution_id="c", traceparent=ONE)
    for name in ("a", "b", "c"):
        loaded = await world.load(name)
        assert (loaded.status, loaded.traceparent) == ("completed", ONE)


async def test_a_fork_has_its_own_or_none(world: World) -> None:
    runner = world.runner(WORK)
    await runner.run(execution_id="e", traceparent=ONE)
    await runner.fork("e", from_step="work", execution_id="f")
    await runner.fork("e", from_step="work", execution_id="g", traceparent=OTHER)
    assert [(await world.load(name)).traceparent for name in "efg"] == [ONE, None, OTHER]
    assert [context.traceparent for context in world.desk.contexts] == [ONE, None, OTHER]


async def test_one_of_a_version_to_come_is_kept_as_one_of_todays(world: World) -> None:
    await world.runner(WORK).run(execution_id="e", traceparent=f"cc{ONE[2:]}-more")
    assert (await world.load()).traceparent == ONE


@pytest.mark.parametrize("wrong", ["", "00-x", ONE.upper(), f"{ONE}-more", 7])
async def test_one_that_is_malformed_starts_nothing(world: World, wrong: Any) -> None:
    world.know(WORK)
    runner, runtime = world.runtime.runner("flow"), world.runtime
    await runner.run(execution_id="there")
    before = await world.store.execution_ids()
    for call in (
        runner.run(traceparent=wrong),
        runtime.background("flow").run(traceparent=wrong),
        runner.signal_with_start("e", "add", traceparent=wrong),
        runner.fork("there", from_step="work", traceparent=wrong),
        anext(runtime.stream("flow").stream(traceparent=wrong)),
    ):
        with pytest.raises(df.ValidationError, match="a traceparent is"):
            await call
    assert await world.store.execution_ids() == before


async def test_saving_keeps_it(world: World) -> None:
    saved = await world.store.save(df.Execution(id="e", workflow_id="flow", traceparent=ONE))
    assert saved.traceparent == ONE
    assert (await world.store.save(saved)).traceparent == ONE
