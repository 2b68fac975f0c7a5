"""What undoes completed steps when an execution fails or is cancelled."""

from __future__ import annotations

import asyncio

import pytest

import durable_flow as df
from tests.engine.aid import World, flow

TRIP = """
- {id: fly, type: call, service: desk, method: fly, output: f, next: stay,
   compensate: {service: desk, method: unfly, input: {ticket: $f}}}
- {id: stay, type: call, service: desk, method: stay, next: pay, compensate: {service: desk, method: unstay}}
- {id: pay, type: call, service: desk, method: pay}
"""


def broken(world: World, *methods: str) -> None:
    for method in methods:
        world.desk.answers[method] = ValueError(f"no {method}")


async def test_the_steps_of_a_failed_execution_are_undone_last_first(world: World) -> None:
    broken(world, "pay")
    world.desk.answers["fly"] = "T1"
    result = await world.run(TRIP)
    assert result.error == "ValueError: no pay"
    assert world.desk.calls[3:] == [("unstay", None), ("unfly", {"ticket": "T1"})]
    trail = await world.trail(result)
    assert trail[-4:] == ["noted", "~/compensate/stay compensated", "~/compensate/fly compensated", "finished"]


async def test_a_completed_execution_undoes_nothing(world: World) -> None:
    result = await world.run(TRIP)
    assert result.completed
    assert world.desk.called == ["fly", "stay", "pay"]
    stored = await world.store.fetch(result.execution_id)
    assert stored is not None
    assert (stored.sets, stored.frames) == ([("", "f", 2)], [])


async def test_what_undoes_a_step_is_settled_when_it_completes(world: World) -> None:
    broken(world, "pay")
    await world.run("""
    - {id: set, type: assign, set: {price: 1}, next: buy}
    - {id: buy, type: call, service: desk, method: buy, next: change,
       compensate: {service: desk, method: sell, input: $price}}
    - {id: change, type: assign, set: {price: 2}, next: pay}
    - {id: pay, type: call, service: desk, method: pay}
    """)
    assert world.desk.values("sell") == [1]


async def test_the_input_of_a_compensation_is_data_and_never_resolved_again(world: World) -> None:
    broken(world, "pay")
    world.desk.answers["buy"] = "$input.secret $$"
    await world.run(
        """
        - {id: buy, type: call, service: desk, method: buy, output: o, next: pay,
           compensate: {service: desk, method: sell, input: {o: $o}}}
        - {id: pay, type: call, service: desk, method: pay}
        """,
        {"secret": "x"},
    )
    assert world.desk.values("sell") == [{"o": "$input.secret $$"}]


async def test_an_error_that_was_handled_undoes_nothing(world: World) -> None:
    broken(world, "pay")
    result = await world.run(
        TRIP.replace("method: pay}", "method: pay, on_error: bill}")
        + """
- {id: bill, type: assign, set: {result: billed}}
"""
    )
    assert result.output == "billed"
    assert "unfly" not in world.desk.called


async def test_a_step_that_failed_is_not_undone(world: World) -> None:
    broken(world, "stay")
    await world.run(TRIP)
    assert world.desk.called == ["fly", "stay", "unfly"]


async def test_each_iteration_and_branch_is_undone_by_itself(world: World) -> None:
    broken(world, "pay")
    await world.run("""
    - id: each
      type: loop
      over: [1, 2]
      next: both
      do:
        - {id: take, type: call, service: desk, method: take, input: $item,
           compensate: {service: desk, method: give, input: $item}}
    - id: both
      type: parallel
      next: pay
      branches:
        - {id: left, type: call, service: desk, method: left, compensate: {service: desk, method: unleft}}
    - {id: pay, type: call, service: desk, method: pay}
    """)
    assert world.desk.calls[4:] == [("unleft", None), ("give", 2), ("give", 1)]
    assert world.desk.keys("give") == [
        key.replace("each", "~/compensate/each") for key in reversed(world.desk.keys("take"))
    ]


async def test_each_visit_of_a_step_is_undone(world: World) -> None:
    broken(world, "pay")
    await world.run(
        """
    - {id: take, type: call, service: desk, method: take, next: again,
           compensate: {service: desk, method: give, input: $execution.step_key}}
    - {id: again, type: router, routes: [{when: {field: once, op: empty}, then: mark}], default: pay}
    - {id: mark, type: assign, set: {once: true}, next: take}
    - {id: pay, type: call, service: desk, method: pay}
    """,
        validate=False,
    )
    assert world.desk.values("give") == ["take#2", "take"]


async def test_a_compensation_that_fails_is_recorded_and_the_rest_go_on(world: World) -> None:
    broken(world, "pay", "unstay")
    result = await world.run(TRIP)
    assert result.error == "ValueError: no pay"
    assert world.desk.called[-2:] == ["unstay", "unfly"]
    failed = [entry for entry in await world.entries(result) if entry.path == "~/compensate/stay"]
    assert [(entry.action, entry.error) for entry in failed] == [(df.Action.FAILED, "ValueError: no unstay")]


async def test_a_compensation_is_retried_as_its_step_is(world: World) -> None:
    broken(world, "pay")
    world.desk.answers["unfly"] = [ValueError("busy"), "done"]
    result = await world.run("""
    - {id: fly, type: call, service: desk, method: fly, next: pay, compensate: {service: desk, method: unfly},
       retry: {max_attempts: 2, initial_interval: 0, on_exhausted: halt}}
    - {id: pay, type: call, service: desk, method: pay}
    """)
    assert result.failed
    assert world.desk.called == ["fly", "pay", "unfly", "unfly"]
    assert len(set(world.desk.keys("unfly"))) == 1


async def test_a_cancelled_execution_is_undone_and_then_cancelled(world: World) -> None:
    await world.run(TRIP.replace("call, service: desk, method: pay", "halt"), execution_id="e")
    world.desk.hold("unfly")
    cancelling = world.spawn(world.runner().cancel("e", by="ann", reason="rain"))
    await world.clock.advance()
    assert (await world.load()).status == "running"
    world.desk.release("unfly")
    assert (await cancelling).cancelled
    assert world.desk.called == ["fly", "stay", "unstay", "unfly"]
    last = (await world.entries())[-1]
    assert (last.actor, last.metadata) == ("ann", {"status": "cancelled", "reason": "rain"})


async def test_an_execution_that_times_out_is_undone(world: World) -> None:
    await world.run(TRIP.replace("call, service: desk, method: pay", "halt"), execution_id="e", timeout="1h")
    await world.clock.leap(3601)
    result = await world.runner().recover("e")
    assert result.error == "TimeoutError: the workflow timed out after 3600 s"
    assert world.desk.called == ["fly", "stay", "unstay", "unfly"]


async def test_a_step_that_was_cancelled_in_flight_is_undone_because_it_may_have_happened(world: World) -> None:
    world.desk.hold("stay")
    running = await world.start(TRIP)
    await world.runner().cancel("e")
    assert (await running).cancelled
    assert world.desk.called == ["fly", "stay", "unstay", "unfly"]


async def test_a_branch_that_was_cancelled_in_flight_is_undone_if_the_execution_fails_later(world: World) -> None:
    world.desk.hold("slow")
    broken(world, "pay")
    await world.run("""
    - id: race
      type: parallel
      wait: any
      next: pay
      branches:
        - {id: slow, type: call, service: desk, method: slow, compensate: {service: desk, method: unslow}}
        - {id: fast, type: call, service: desk, method: fast}
    - {id: pay, type: call, service: desk, method: pay}
    """)
    assert world.desk.called == ["slow", "fast", "pay", "unslow"]


@pytest.mark.parametrize("around", ["", "loop", "parallel"])
async def test_a_step_that_was_under_way_when_its_process_died_is_undone_if_it_is_cancelled_then(
    world: World, around: str
) -> None:
    call = "{id: buy, type: call, service: desk, method: buy, compensate: {service: desk, method: sell, input: $word}}"
    steps = {
        "": f"- {call}\n",
        "loop": f"- {{id: each, type: loop, over: [a, b], as: word, do: [{call}]}}\n",
        "parallel": f"- {{id: both, type: parallel, branches: [{call}, {{id: ask, type: halt}}]}}\n",
    }[around]
    world.desk.hold("buy")
    await world.start(steps, validate=False)
    await world.after_the_lease()
    world.desk.release("buy")
    result = await world.runner().cancel("e")
    assert result.cancelled
    assert world.desk.values("sell") == ["a" if around == "loop" else None]
    assert [line for line in await world.trail() if "buy" in line] == [
        f"{path} {what}"
        for path, what in (
            ({"": "buy", "loop": "each[0]/buy", "parallel": "both/buy"}[around], "cancelled"),
            (
                {"": "~/compensate/buy", "loop": "~/compensate/each[0]/buy", "parallel": "~/compensate/both/buy"}[
                    around
                ],
                "compensated",
            ),
        )
    ]


async def test_a_step_that_had_not_begun_when_the_execution_was_cancelled_is_not_undone(world: World) -> None:
    await world.run(
        "- {id: ask, type: halt, next: buy}\n"
        "- {id: buy, type: call, service: desk, method: buy, compensate: {service: desk, method: sell}}",
        execution_id="e",
    )
    await world.restart()
    assert (await world.runner().cancel("e")).cancelled
    assert world.desk.called == []


async def test_a_loop_that_had_not_begun_when_its_process_died_has_nothing_to_undo(world: World) -> None:
    world.desk.hold("slow")
    await world.start("""
    - id: both
      type: parallel
      branches:
        - {id: slow, type: call, service: desk, method: slow, compensate: {service: desk, method: unslow}}
        - id: later
          do:
            - {id: held, type: call, service: desk, method: slow}
            - id: each
              type: loop
              over: [1]
              do: [{id: buy, type: call, service: desk, method: buy, compensate: {service: desk, method: sell}}]
    """)
    await world.after_the_lease()
    world.desk.release("slow")
    assert (await world.runner().cancel("e")).cancelled
    assert world.desk.called == ["slow", "slow", "unslow"]


async def test_a_loop_before_which_its_process_stopped_has_nothing_to_undo(world: World) -> None:
    world.desk.hold("work")
    running = await world.start("""
    - {id: work, type: call, service: desk, method: work, next: each}
    - id: each
      type: loop
      over: [1]
      do: [{id: buy, type: call, service: desk, method: buy, compensate: {service: desk, method: sell}}]
    """)
    world.runtime.engine.drain(world.runtime.engine.runs["e"])
    world.desk.release("work")
    with pytest.raises(df.ConflictError):
        await running
    assert (await world.load()).current_step == "each"
    assert (await world.runner().cancel("e")).cancelled
    assert world.desk.called == ["work"]


async def test_a_step_of_which_nobody_knows_whether_it_happened_is_undone(world: World) -> None:
    world.desk.hold("buy")
    steps = (
        "- {id: buy, type: call, service: desk, method: buy, delivery: at_most_once, "
        "compensate: {service: desk, method: sell}}\n"
    )
    await world.start(steps)
    await world.after_the_lease()
    assert (await world.runner().recover("e")).halts[0].type == "uncertain"
    assert (await world.runner().cancel("e")).cancelled
    assert world.desk.called == ["buy", "sell"]


@pytest.mark.parametrize("where", ["unstay", "unfly"])
async def test_a_process_that_dies_while_it_undoes_goes_on_undoing(world: World, where: str) -> None:
    broken(world, "pay")
    world.desk.hold(where)
    await world.start(TRIP)
    await world.after_the_lease()
    world.desk.release(where)
    result = await world.runner().recover("e")
    assert result.error == "ValueError: no pay"
    undone = ["unstay", "unfly"]
    undone.insert(undone.index(where), where)
    assert world.desk.called == ["fly", "stay", "pay", *undone]
    assert len(set(world.desk.keys(where))) == 1


async def test_nothing_changes_the_outcome_once_undoing_began(world: World) -> None:
    broken(world, "pay")
    world.desk.hold("unstay")
    running = await world.start(TRIP, timeout="1h")
    cancelling = world.spawn(world.runner().cancel("e"))
    await world.clock.advance(4000)
    world.desk.release("unstay")
    assert (await running).error == "ValueError: no pay"
    assert (await cancelling).failed
    with pytest.raises(df.ConflictError, match="failed; it cannot be cancelled"):
        await world.runner().cancel("e")


async def test_an_execution_that_was_undone_cannot_be_retried(world: World) -> None:
    broken(world, "pay")
    result = await world.run(TRIP)
    with pytest.raises(df.ConflictError, match="undone"):
        await world.runner().retry(result.execution_id)
    assert (await world.load(result)).status == "failed"


async def test_an_execution_with_a_child_that_was_undone_cannot_be_retried(world: World) -> None:
    broken(world, "pay")
    world.know(flow(TRIP, id="trip"))
    result = await world.run("""
    - {id: work, type: call, service: desk, method: work, next: trip}
    - {id: trip, type: workflow, workflow_id: trip}
    """)
    name = result.execution_id
    told = f"execution '{name}' cannot go on: its child '{name}.trip' was undone; start a new one"
    for _ in range(2):
        with pytest.raises(df.ConflictError, match=told):
            await world.runner().retry(name)
    assert (await world.runtime.retry_all(everything=True)).skipped.keys() == {name, f"{name}.trip"}
    loaded = await world.load(result)
    assert (loaded.status, loaded.owner) == ("failed", None)
    assert world.desk.called == ["work", "fly", "stay", "pay", "unstay", "unfly"]


async def test_a_failed_execution_with_nothing_to_undo_can_be_retried(world: World) -> None:
    world.desk.answers["fly"] = [ValueError("busy"), "T1"]
    result = await world.run(TRIP)
    assert (await world.runner().retry(result.execution_id)).completed
    assert world.desk.called == ["fly", "fly", "stay", "pay"]


async def test_a_process_without_the_service_leaves_undoing_to_another(world: World) -> None:
    await world.run(TRIP.replace("call, service: desk, method: pay", "halt"), execution_id="e")
    await world.restart(services={})
    with pytest.raises(
        df.ConfigError,
        match="execution 'e' is cancelled, and what follows is left to a worker: there is no service 'desk' here",
    ):
        await world.runner().cancel("e")
    assert (await world.load()).status == "running"
    await world.restart(services={"desk": world.desk})
    worker = df.Worker(world.runtime)
    working = asyncio.ensure_future(worker.run())
    await world.clock.advance(1)
    assert (await world.load()).status == "cancelled"
    assert world.desk.called == ["fly", "stay", "unstay", "unfly"]
    worker.stop()
    await working


async def test_a_child_is_undone_before_its_parent_hears_of_its_failure(world: World) -> None:
    broken(world, "pay")
    world.know(flow(TRIP, id="trip"))
    result = await world.run("""
    - {id: work, type: call, service: desk, method: work, next: trip, compensate: {service: desk, method: unwork}}
    - {id: trip, type: workflow, workflow_id: trip}
    """)
    assert result.failed
    assert world.desk.called == ["work", "fly", "stay", "pay", "unstay", "unfly", "unwork"]


async def test_a_compensation_that_kills_its_process_again_and_again_is_given_up(world: World) -> None:
    broken(world, "pay")
    world.desk.answers["unstay"] = lambda _: world.die()
    await world.restart(max_recoveries=2)
    await world.start(TRIP)
    for _ in range(3):
        await world.after_the_lease()
        world.spawn(world.runner().recover("e"))
        await world.clock.advance()
    assert (await world.load()).status == "failed"
    assert world.desk.called == ["fly", "stay", "pay", *["unstay"] * 3, "unfly"]
    assert (await world.load()).error == "ValueError: no pay"


async def test_an_execution_that_kills_its_process_is_undone_when_it_is_given_up(world: World) -> None:
    world.desk.answers["pay"] = lambda _: world.die()
    await world.restart(max_recoveries=1)
    await world.start(TRIP)
    for _ in range(2):
        await world.after_the_lease()
        world.spawn(world.runner().recover("e"))
        await world.clock.advance()
    loaded = await world.load()
    assert (loaded.status, loaded.error) == ("failed", "Poisoned: 2 processes died at this place (max_recoveries=1)")
    assert world.desk.called == ["fly", "stay", "pay", "pay", "unstay", "unfly"]


async def test_what_undoes_a_step_goes_by_the_limits(world: World) -> None:
    await world.restart(limits=df.Limits(value_bytes=1000))
    world.desk.answers["buy"] = "x" * 600
    result = await world.run("""
    - {id: buy, type: call, service: desk, method: buy, output: o,
       compensate: {service: desk, method: sell, input: [$o, $o]}}
    """)
    assert result.error is not None
    assert result.error.startswith("LimitExceeded")


async def test_events_tell_what_was_undone(world: World) -> None:
    told: list[tuple[str, object]] = []
    broken(world, "pay")
    world.runtime.subscribe(lambda event: told.append((event.type, event.data.get("path"))))
    await world.run(TRIP)
    assert ("step.compensated", "~/compensate/fly") in told
    assert [kind for kind, _ in told if kind.startswith("workflow")] == ["workflow.started", "workflow.failed"]


async def test_a_fork_undoes_what_it_did_itself(world: World) -> None:
    broken(world, "pay")
    await world.run(TRIP, execution_id="e")
    before = len(world.desk.calls)
    result = await world.runner().fork("e", from_step="stay")
    assert result.failed
    assert world.desk.called[before:] == ["stay", "pay", "unstay"]


async def test_nothing_is_forked_from_what_undoes_a_step(world: World) -> None:
    broken(world, "pay")
    await world.run(TRIP, execution_id="e")
    with pytest.raises(df.ValidationError, match="fork from one of its steps"):
        await world.runner().fork("e", from_step="~/compensate/fly")


@pytest.mark.parametrize(("step", "status"), [("down", "cancelled"), ("~/finally/down", "completed")])
async def test_a_child_that_is_started_while_its_parent_is_undone_ends_with_it(
    world: World, step: str, status: str
) -> None:
    world.know(below := flow("- {id: work, type: call, service: desk, method: below}\n", id="below"))
    broken(world, "pay")
    world.desk.hold("unstay", "below")
    await world.start(TRIP)
    engine = world.runtime.engine
    late = engine.create(
        below, {}, execution_id="late", parent=engine.runs["e"], parent_wait=f"e:{step}", trigger="child", labels={}
    )
    driving = world.spawn(engine.execute(late))
    await world.clock.advance()
    world.desk.release()
    await driving
    assert (await world.load("late")).status == status


async def test_a_child_whose_service_is_elsewhere_keeps_nobody_from_hearing_of_the_end(world: World) -> None:
    world.know(
        flow(
            "- {id: c, type: call, service: desk, method: work, next: ask, compensate: {service: far, method: undo}}\n"
            "- {id: ask, type: halt}\n",
            id="below",
        )
    )
    await world.run(
        """
        - id: both
          type: parallel
          branches:
            - {id: one, type: workflow, workflow_id: below}
            - {id: two, type: workflow, workflow_id: below}
        """,
        execution_id="e",
    )
    assert (await world.runner().cancel("e")).cancelled
    assert [(await world.load(f"e.both/{name}")).closing for name in ("one", "two")] == ["cancelled", "cancelled"]
