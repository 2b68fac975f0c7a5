"""`signal` waits for `runner.signal`; what comes early is kept, in order."""

from __future__ import annotations

import pytest

import durable_flow as df
from tests.engine.aid import World, flow

TWO = """
- {id: first, type: signal, name: paid, output: a, next: work}
- {id: work, type: call, service: desk, method: work, next: second}
- {id: second, type: signal, name: paid, output: b, next: done}
- {id: done, type: end, result: {a: $a, b: $b}}
"""


async def test_a_signal_wakes_the_step_that_waits_for_it(world: World) -> None:
    result = await world.run(TWO, execution_id="e")
    assert result.halted
    assert [(halt.type, halt.path) for halt in result.halts] == [("signal", "first")]
    await world.runner().signal("e", "paid", {"amount": 3})
    loaded = await world.load()
    assert (loaded.status, loaded.ctx["a"], loaded.current_step) == ("halted", {"amount": 3}, "second")
    await world.runner().signal("e", "paid", None)
    result = await world.runner().result("e")
    assert result.output == {"a": {"amount": 3}, "b": None}


async def test_signals_that_come_early_are_kept_in_order(world: World) -> None:
    await world.run("- {id: ask, type: halt, next: first}" + TWO, execution_id="e")
    for number in range(3):
        await world.runner().signal("e", "paid", number)
    assert (await world.load()).status == "halted"
    result = await world.runner().resume("e")
    assert result.output == {"a": 0, "b": 1}


async def test_early_signals_survive_a_restart(world: World) -> None:
    await world.run("- {id: ask, type: halt, next: first}" + TWO, execution_id="e")
    await world.runner().signal("e", "paid", "one")
    await world.restart()
    await world.runner().signal("e", "paid", "two")
    await world.restart()
    assert (await world.runner().resume("e")).output == {"a": "one", "b": "two"}


async def test_signals_of_another_name_wait_for_their_step(world: World) -> None:
    steps = """
    - {id: one, type: signal, name: paid, output: a, next: two}
    - {id: two, type: signal, name: shipped, output: b, next: done}
    - {id: done, type: end, result: {a: $a, b: $b}}
    """
    await world.run(steps, execution_id="e")
    await world.runner().signal("e", "shipped", "by sea")
    assert (await world.load()).status == "halted"
    await world.runner().signal("e", "paid", "in cash")
    assert (await world.runner().result("e")).output == {"a": "in cash", "b": "by sea"}


async def test_a_signal_reaches_an_execution_that_is_being_driven(world: World) -> None:
    world.desk.hold("work")
    await world.run(TWO, execution_id="e")
    world.spawn(world.runner().signal("e", "paid", 1))
    await world.clock.advance()
    assert world.desk.called == ["work"]
    await world.runner().signal("e", "paid", 2)
    assert (await world.load()).status == "running"
    world.desk.release()
    await world.clock.advance()
    assert (await world.runner().result("e")).output == {"a": 1, "b": 2}


async def test_each_of_the_branches_that_wait_gets_one_signal_the_first_to_wait_first(world: World) -> None:
    fan = """
    - id: fan
      type: parallel
      output: result
      branches:
        - {id: a, do: [{id: one, type: signal, name: go}]}
        - {id: b, do: [{id: two, type: signal, name: go}]}
    """
    await world.run(fan, execution_id="e")
    await world.runner().signal("e", "go", "x")
    assert (await world.load()).status == "halted"
    await world.runner().signal("e", "go", "y")
    assert (await world.runner().result("e")).completed
    assert [entry.output for entry in await world.entries() if entry.action == "answered"] == ["x", "y"]


async def test_a_signal_that_does_not_come_is_a_timeout(world: World) -> None:
    steps = """
    - {id: one, type: signal, name: paid, timeout: 1h, on_timeout: late, next: done}
    - {id: late, type: end, result: too late}
    - {id: done, type: end, result: in time}
    """
    await world.run(steps, execution_id="e")
    await world.clock.leap(3600)
    assert (await world.runner().recover("e")).output == "too late"


async def test_without_on_timeout_it_is_a_step_error(world: World) -> None:
    await world.run(flow("- {id: one, type: signal, name: paid, timeout: 1h}"), execution_id="e")
    await world.clock.leap(3600)
    result = await world.runner().recover("e")
    assert result.error == "TimeoutError: no signal 'paid' within 3600 s"


async def test_a_signal_to_what_is_over_is_a_conflict(world: World) -> None:
    await world.run(flow("- {id: one, type: assign, set: {a: 1}}"), execution_id="e")
    with pytest.raises(df.ConflictError, match="is over"):
        await world.runner().signal("e", "paid")


async def test_a_signal_to_nobody_is_told(world: World) -> None:
    world.know(flow(TWO))
    with pytest.raises(df.ExecutionNotFound):
        await world.runner().signal("nobody", "paid")


@pytest.mark.parametrize("name", ["", 3, None, "x" * 256])
async def test_what_is_no_name_is_told(world: World, name: object) -> None:
    world.know(flow(TWO))
    with pytest.raises(df.ValidationError, match="the name of a signal"):
        await world.runner().signal("e", name)  # type: ignore[arg-type]


async def test_a_payload_that_cannot_be_stored_is_refused_and_nothing_is_stored(world: World) -> None:
    await world.run(TWO, execution_id="e")
    with pytest.raises(df.ValidationError, match="payload"):
        await world.runner().signal("e", "paid", {"x": float("nan")})
    assert await world.store.inbox("e") == []


async def test_signals_can_be_sent_by_labels(world: World) -> None:
    runner = world.runner(TWO)
    for number in range(4):
        await runner.run(execution_id=f"e{number}", labels={"order": "A" if number % 2 else "B"})
    assert sorted(await runner.signal_where({"order": "A"}, "paid", 7)) == ["e1", "e3"]
    assert [(await world.load(f"e{number}")).ctx.get("a") for number in range(4)] == [None, 7, None, 7]


async def test_nobody_can_resume_a_signal(world: World) -> None:
    await world.run(TWO, execution_id="e")
    with pytest.raises(df.ConflictError, match="signal"):
        await world.runner().resume("e", response=1)


async def test_who_signalled_is_in_the_trail(world: World) -> None:
    await world.run(TWO, execution_id="e")
    await world.runner().signal("e", "paid", 1, by="bank")
    await world.runner().signal("e", "other", 1, by="somebody")
    assert [entry.actor for entry in await world.entries() if entry.actor] == ["bank", "somebody"]


async def test_a_signal_is_taken_once_whatever_crashes(world: World) -> None:
    await world.run("- {id: ask, type: halt, next: first}" + TWO, execution_id="e")
    await world.runner().signal("e", "paid", "one")
    await world.runner().signal("e", "paid", "two")
    world.desk.hold("work")
    world.spawn(world.runner().resume("e"))
    await world.clock.advance()
    await world.after_the_lease()
    world.desk.release()
    assert (await world.runner().recover("e")).output == {"a": "one", "b": "two"}


async def test_a_signal_that_finds_the_time_of_the_workflow_up_is_there_for_a_retry(world: World) -> None:
    workflow = flow("- {id: go, type: signal, name: go, output: result}\n", timeout=60)
    await world.run(workflow, execution_id="e")
    await world.restart()
    await world.clock.leap(60)
    await world.runner().signal("e", "go", 7)
    assert (await world.runner().result("e")).failed
    assert (await world.runner().retry("e")).output == 7
