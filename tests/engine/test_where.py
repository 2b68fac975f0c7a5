"""`where`: the innermost steps at which an execution stands."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import Desk, World, flow

EACH = """
- id: orders
  type: loop
  over: $input.orders
  concurrency: {concurrency}
  on_item_error: {handling}
  output: out
  do:
    - {{id: charge, type: call, service: desk, method: charge, input: $item}}
    - {{id: ship, type: call, service: desk, method: ship, input: $item}}
"""


def each(concurrency: int = 1, handling: str = "fail") -> df.WorkflowDef:
    return flow(EACH.format(concurrency=concurrency, handling=handling), inputs={"orders": "array"})


async def paths(world: World, execution_id: str = "e") -> list[tuple[str, str]]:
    found = await (await world.runtime.runner_of(execution_id)).where(execution_id)
    return [(place.path, place.state) for place in found]


async def items(world: World) -> list[tuple[int, str, str | None]]:
    found = await world.runner().where("e")
    assert len({place.items for place in found}) == 1
    return [(item.index, item.state, item.error) for item in found[0].items]


async def test_a_step_that_runs(world: World, desk: Desk) -> None:
    desk.hold("work")
    await world.start("- {id: work, type: call, service: desk, method: work}\n- {id: end, type: end}", validate=False)
    (place,) = await world.runner().where("e")
    assert (place.execution_id, place.workflow_id, place.path) == ("e", "flow", "work")
    assert (place.step_id, place.step_type, place.state, place.attempt) == ("work", "call", "running", 1)
    assert place.chain == (df.ChainLink(execution_id="e", workflow_id="flow"),)
    assert (place.loop, place.items) == (None, ())


async def test_a_step_that_waits_and_a_visit(world: World) -> None:
    steps = """
    - {id: ask, type: halt, next: decide}
    - {id: decide, type: router, routes: [{when: {field: response, value: again}, then: ask}], default: __FINISHED__}
    """
    await world.run(steps, execution_id="e")
    assert await paths(world) == [("ask", "waiting")]
    await world.runner().resume("e", response="again")
    assert await paths(world) == [("ask#2", "waiting")]


async def test_attempts_are_counted(world: World, desk: Desk) -> None:
    desk.answers["work"] = ValueError("broken")
    steps = flow("""
    - {id: work, type: call, service: desk, method: work, retry: {max_attempts: 3, initial_interval: 60, jitter: 0}}
    """)
    await world.start(steps)
    (place,) = await world.runner().where("e")
    assert (place.state, place.attempt) == ("waiting", 2)


async def test_an_iteration_whose_first_step_runs(world: World, desk: Desk) -> None:
    desk.hold("ship")
    await world.start(each(), {"orders": ["a", "b"]})
    assert await paths(world) == [("orders[0]/ship", "running")]
    desk.release()
    desk.hold("charge")
    await world.clock.advance()
    assert await paths(world) == [("orders[1]/charge", "running")]
    assert await items(world) == [(0, "completed", None), (1, "running", None)]
    assert (await world.runner().where("e"))[0].loop == "orders"


async def test_every_iteration_that_runs_beside_others(world: World, desk: Desk) -> None:
    desk.answers["charge"] = lambda order: order if order != "bad" else 1 // 0
    desk.hold("ship")
    await world.start(each(3, "skip"), {"orders": ["bad", "a", "b", "c", "d"]})
    assert await paths(world) == [(f"orders[{index}]/ship", "running") for index in (1, 2, 3)]
    assert await items(world) == [
        (0, "skipped", "ZeroDivisionError: integer division or modulo by zero"),
        (1, "running", None),
        (2, "running", None),
        (3, "running", None),
    ]


async def test_an_item_whose_error_is_collected_has_failed(world: World, desk: Desk) -> None:
    desk.answers["charge"] = [ValueError("no money"), 1]
    desk.hold("ship")
    await world.start(each(1, "collect"), {"orders": ["a", "b"]})
    assert await items(world) == [(0, "failed", "ValueError: no money"), (1, "running", None)]


async def test_an_item_that_waits(world: World) -> None:
    steps = """
    - id: orders
      type: loop
      over: [1, 2, 3]
      concurrency: 2
      do: [{id: both, type: parallel, branches: [{id: sign, type: approval, prompt: "?"}]}]
    """
    await world.run(steps, execution_id="e")
    assert await paths(world) == [("orders[0]/both/sign", "waiting"), ("orders[1]/both/sign", "waiting")]
    assert await items(world) == [(0, "waiting", None), (1, "waiting", None)]


async def test_the_rounds_of_a_while_loop(world: World, desk: Desk) -> None:
    desk.answers["look"] = [1, 2, 3]
    steps = """
    - {id: begin, type: assign, set: {seen: 0}, next: poll}
    - id: poll
      type: loop
      while: {field: seen, op: lt, value: 2}
      do:
        - {id: look, type: call, service: desk, method: look, output: seen}
        - {id: ask, type: halt}
    """
    await world.run(steps, execution_id="e", validate=False)
    await world.runner().resume("e")
    assert await paths(world) == [("poll[2]/ask", "waiting")]


async def test_the_branches_that_are_not_over(world: World, desk: Desk) -> None:
    desk.hold("slow")
    steps = """
    - id: both
      type: parallel
      max_concurrency: 2
      branches:
        - {id: quick, type: call, service: desk, method: quick}
        - {id: slow, type: call, service: desk, method: slow}
        - {id: sign, do: [{id: approve, type: approval, prompt: "?"}]}
        - {id: later, type: call, service: desk, method: later}
    """
    await world.start(steps)
    assert await paths(world) == [("both/slow", "running"), ("both/sign/approve", "waiting")]


async def test_down_to_the_child_and_up_to_the_parent(world: World) -> None:
    world.know(
        flow("- {id: ask, type: halt}", id="lowest"),
        flow("- {id: down, type: workflow, workflow_id: lowest}", id="below"),
    )
    steps = "- id: both\n  type: parallel\n  branches: [{id: down2, type: workflow, workflow_id: below}]"
    await world.run(flow(steps), execution_id="e")
    (place,) = await world.runner().where("e")
    assert (place.execution_id, place.workflow_id, place.path) == ("e.both/down2.down", "lowest", "ask")
    assert [(link.execution_id, link.workflow_id, link.path) for link in place.chain] == [
        ("e", "flow", "both/down2"),
        ("e.both/down2", "below", "down"),
        ("e.both/down2.down", "lowest", ""),
    ]
    assert await world.runner("lowest").where("e.both/down2.down") == [place]
    assert await world.runner("below").where("e.both/down2") == [place]


async def test_one_that_failed_stands_where_it_failed(world: World, desk: Desk) -> None:
    desk.answers["charge"] = ["ok", ValueError("no money")]
    await world.run(each(), {"orders": ["a", "b"]}, execution_id="e")
    assert await paths(world) == [("orders[1]/charge", "failed")]
    assert await items(world) == [(0, "completed", None), (1, "failed", "ValueError: no money")]


async def test_the_branch_that_failed_is_where_a_parallel_step_did(world: World, desk: Desk) -> None:
    desk.answers["b"] = ValueError("b")
    steps = """
    - id: both
      type: parallel
      branches: [{id: a, type: call, service: desk, method: a}, {id: b, type: call, service: desk, method: b}]
    """
    await world.run(steps, execution_id="e")
    assert await paths(world) == [("both/b", "failed")]


async def test_one_that_was_cancelled_stands_where_it_was(world: World) -> None:
    await world.run("- {id: ask, type: halt}\n- {id: end, type: end}", execution_id="e", validate=False)
    await world.runner().cancel("e")
    assert await paths(world) == [("ask", "cancelled")]


async def test_one_that_completed_stands_nowhere(world: World) -> None:
    await world.run("- {id: a, type: assign, set: {x: 1}, next: b}\n- {id: b, type: end}", execution_id="e")
    assert await paths(world) == []


async def test_one_whose_process_died(world: World, desk: Desk) -> None:
    desk.hold("ship")
    await world.start(each(), {"orders": ["a", "b"]})
    await world.after_the_lease()
    assert await paths(world) == [("orders[0]/ship", "running")]


async def test_a_fork_inside_a_loop_stands_where_it_began(world: World, desk: Desk) -> None:
    await world.run(each(), {"orders": ["a", "b", "c"]}, execution_id="original")
    desk.hold("ship")
    fork: Any = world.runner().fork("original", from_step="orders[1]/ship", execution_id="e")
    world.spawn(fork)
    await world.clock.advance()
    assert await paths(world) == [("orders[1]/ship", "running")]
    assert await items(world) == [(0, "completed", None), (1, "running", None)]


async def test_what_is_not_there_or_of_another_workflow(world: World) -> None:
    await world.run(flow("- {id: ask, type: halt}"), execution_id="e")
    with pytest.raises(df.ExecutionNotFound):
        await world.runner().where("nobody")
    with pytest.raises(df.ConflictError):
        await world.runner(flow("- {id: ask, type: halt}", id="other")).where("e")


async def test_events_tell_the_end_of_every_item(world: World, desk: Desk) -> None:
    heard: list[df.Event] = []
    world.runtime.subscribe(heard.append, events=["step.completed", "step.failed"])
    desk.answers["charge"] = ["ok", ValueError("no money"), "ok"]
    await world.run(each(1, "skip"), {"orders": ["a", "b", "c"]}, execution_id="e")
    ends = [event.data for event in heard if event.data["path"].endswith("]")]
    assert [(data["path"], data["step_id"], data.get("error")) for data in ends] == [
        ("orders[0]", "orders", None),
        ("orders[1]", "orders", "ValueError: no money"),
        ("orders[2]", "orders", None),
    ]


async def test_an_execution_that_is_undone_stands_at_the_step_that_is_undone(world: World, desk: Desk) -> None:
    desk.answers["pay"] = ValueError("no")
    desk.hold("unstay")
    await world.start("""
    - {id: fly, type: call, service: desk, method: fly, next: stay, compensate: {service: desk, method: unfly}}
    - {id: stay, type: call, service: desk, method: stay, next: pay, compensate: {service: desk, method: unstay}}
    - {id: pay, type: call, service: desk, method: pay}
    """)
    assert await paths(world) == [("~/compensate/stay", "running")]
    desk.hold("unfly")
    desk.release("unstay")
    await world.clock.advance()
    assert await paths(world) == [("~/compensate/fly", "running")]
    assert [why.reason for why in await world.runner().why("e")] == ["what comes after it failed is running"]


async def test_an_execution_stands_where_its_finally_does(world: World, desk: Desk) -> None:
    steps = [
        {"id": "nap", "type": "wait", "for": "1h"},
        {
            "id": "each",
            "type": "loop",
            "over": [1, 2],
            "do": [{"id": "tell", "type": "call", "service": "desk", "method": "tell"}],
        },
    ]
    desk.hold("tell")
    await world.start("- {id: a, type: assign, set: {result: 1}}\n", **{"finally": steps})
    assert await paths(world) == [("~/finally/nap", "waiting")]
    await world.clock.advance(3600)
    assert await paths(world) == [("~/finally/each[0]/tell", "running")]
