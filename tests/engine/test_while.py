"""`loop` while a condition holds."""

from __future__ import annotations

import pytest

import durable_flow as df
from tests.engine.aid import World, flow

POLL = """
    - {id: a, type: assign, set: {ready: false}, next: poll}
    - id: poll
      type: loop
      while: {field: ready, op: falsy}
      max: 5
      output: out
      do:
        - {id: work, type: call, service: desk, method: work, input: $iteration, output: ready}
      next: done
    - {id: done, type: end, result: [$out, $loop]}
"""


async def test_the_body_runs_while_the_condition_holds(world: World) -> None:
    world.desk.answers["work"] = [False, False, True]
    result = await world.run(POLL)
    assert result.output == [[False, False, True], {"total": 3, "completed": 3, "failed": 0, "skipped": 0}]


async def test_the_iteration_counts_from_one(world: World) -> None:
    world.desk.answers["work"] = [False, False, True]
    await world.run(POLL)
    assert world.desk.values("work") == [1, 2, 3]


async def test_a_condition_that_never_holds_runs_nothing(world: World) -> None:
    result = await world.run("""
        - id: poll
          type: loop
          while: {field: input.x, op: truthy}
          output: out
          do: [{id: a, type: assign, set: {x: 1}}]
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert result.output == []


async def test_the_iteration_that_reaches_the_maximum_may_end_it(world: World) -> None:
    world.desk.answers["work"] = [False] * 4 + [True]
    assert (await world.run(POLL)).completed


async def test_a_condition_that_still_holds_after_the_maximum_is_a_step_error(world: World) -> None:
    world.desk.answers["work"] = False
    result = await world.run(POLL)
    assert result.error_info is not None
    assert (result.error_info.type, result.error_info.step) == ("LoopError", "poll")
    assert len(world.desk.called) == 5


EXHAUSTED = """
    - {id: a, type: assign, set: {ready: false, iteration: mine}, next: poll}
    - id: poll
      type: loop
      while: {field: ready, op: falsy}
      max: 2
      output: out
      on_exhausted: gave_up
      do:
        - {id: work, type: call, service: desk, method: work, input: $iteration}
      next: done
    - {id: done, type: end, result: done}
    - {id: gave_up, type: end, result: [$out, $loop, $iteration]}
"""


async def test_an_exhausted_loop_goes_where_it_says_with_its_output(world: World) -> None:
    result = await world.run(EXHAUSTED)
    assert result.output == [[1, 2], {"total": 2, "completed": 2, "failed": 0, "skipped": 0}, "mine"]


async def test_what_the_body_sets_is_seen_by_the_condition(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {n: 0}, next: count}
        - id: count
          type: loop
          while: {field: n, op: lt, value: 3}
          do:
            - {id: pair, type: assign, set: {p: [$n, 1]}}
            - {id: add, type: transform, input: p, expression: {sum: null}, output: n}
          next: done
        - {id: done, type: end, result: $n}
    """)
    assert result.output == 3


async def test_the_condition_may_ask_for_the_iteration_and_the_counts(world: World) -> None:
    result = await world.run("""
        - id: count
          type: loop
          while: {all: [{field: iteration, op: lte, value: 3}, {field: loop.completed, op: lt, value: 3}]}
          output: out
          do: [{id: a, type: assign, set: {x: $iteration}}]
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert result.output == [1, 2, 3]


async def test_an_error_in_the_condition_is_an_error_of_the_loop(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {n: null}, next: count}
        - id: count
          type: loop
          while: {field: n, op: lt, value: 3}
          do: [{id: b, type: assign, set: {x: 1}}]
          on_error: sorry
          next: done
        - {id: done, type: end, result: done}
        - {id: sorry, type: end, result: $_last_error.step}
    """)
    assert result.output == "count"


async def test_an_error_in_the_body_is_an_error_of_the_loop(world: World) -> None:
    world.desk.answers["work"] = [False, ValueError("no")]
    result = await world.run(POLL)
    assert result.error_info is not None
    assert result.error_info.path == "poll[2]/work"


@pytest.mark.parametrize("leave", ["__BREAK__", "__CONTINUE__", "done"])
async def test_leaving_a_while_loop(world: World, leave: str) -> None:
    world.desk.answers["work"] = [False, True]
    result = await world.run(POLL.replace("output: ready}", f"output: ready, next: {leave}}}"))
    assert result.output[1]["completed"] == (2 if leave == "__CONTINUE__" else 1)


async def test_a_halt_in_a_while_loop_goes_on_in_its_iteration(world: World) -> None:
    workflow = flow("""
        - {id: a, type: assign, set: {more: true}, next: ask}
        - id: ask
          type: loop
          while: {field: more, op: truthy}
          output: out
          do:
            - {id: before, type: call, service: desk, method: before, input: $iteration, output: x}
            - {id: well, type: halt, reason: more?}
            - {id: set, type: assign, set: {more: $response, pair: [$x, $iteration]}}
          next: done
        - {id: done, type: end, result: $out}
    """)
    result = await world.run(workflow, execution_id="e")
    for answer in (True, True, False):
        assert result.halted
        await world.restart()
        result = await world.runner().resume("e", response=answer)
    assert result.output == [[1, 1], [2, 2], [3, 3]]
    assert world.desk.called == ["before"] * 3


async def test_a_crash_repeats_only_the_iteration_that_was_under_way(world: World) -> None:
    world.desk.answers["work"] = lambda n: world.desk.hold("work") if n == 2 else n >= 3
    await world.start(POLL)
    await world.after_the_lease()
    world.desk.release()
    result = await world.runner().recover("e")
    assert result.completed
    assert world.desk.values("work") == [1, 2, 3, 3]


def test_a_loop_has_exactly_one_of_over_and_while() -> None:
    for keys in ("", "over: [1], while: {field: input.x, op: truthy},"):
        with pytest.raises(df.ValidationError, match="exactly one of 'over' and 'while'"):
            flow(f"- {{id: a, type: loop, {keys} do: [{{id: b, type: start}}]}}\n")
