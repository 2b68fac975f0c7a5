"""`loop` with `concurrency`: iterations side by side."""

from __future__ import annotations

from typing import Any

from tests.engine.aid import World, flow

BREAKS = ConnectionError("no line")

SIDE_BY_SIDE = """
    - id: each
      type: loop
      over: $input.items
      concurrency: 2
      output: out
      do:
        - {id: work, type: call, service: desk, method: work, input: $item}
      next: done
    - {id: done, type: end, result: [$out, $loop]}
"""


async def test_as_many_iterations_run_at_once_as_allowed(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(SIDE_BY_SIDE, {"items": [1, 2, 3, 4, 5]})
    assert world.desk.values("work") == [1, 2]
    world.desk.release()
    assert (await task).output == [[1, 2, 3, 4, 5], {"total": 5, "completed": 5, "failed": 0, "skipped": 0}]


async def test_outputs_are_in_the_order_of_the_items(world: World) -> None:
    async def slow_first(value: int) -> int:
        await world.clock.sleep(10 - value)
        return value * 10

    world.desk.answers["work"] = slow_first
    task = await world.start(SIDE_BY_SIDE.replace("concurrency: 2", "concurrency: 5"), {"items": [1, 2, 3]})
    await world.clock.advance(20)
    assert (await task).output[0] == [10, 20, 30]


async def test_iterations_see_their_own_variables_and_nothing_is_merged(world: World) -> None:
    workflow = flow("""
        - {id: a, type: assign, set: {x: before}, next: each}
        - id: each
          type: loop
          over: [1, 2, 3]
          concurrency: 3
          output: out
          do:
            - {id: set, type: assign, set: {seen: $x, x: $item}}
            - {id: work, type: call, service: desk, method: work}
            - {id: look, type: assign, set: {both: [$seen, $x]}}
          next: done
        - {id: done, type: end, result: [$out, $x]}
    """)
    assert (await world.run(workflow)).output == [[["before", 1], ["before", 2], ["before", 3]], "before"]


async def test_a_failing_item_fails_the_loop_when_the_running_ones_have_ended(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(SIDE_BY_SIDE, {"items": [1, 2, 3]})
    world.desk.answers["work"] = [BREAKS, 2]
    world.desk.release()
    result = await task
    assert result.error_info is not None
    assert result.error_info.path == "each[0]/work"
    assert world.desk.values("work") == [1, 2]


async def test_skipped_and_collected_items_stand_in_their_place(world: World) -> None:
    world.desk.answers["work"] = lambda value: 1 // (value - 2)
    text = SIDE_BY_SIDE.replace("concurrency: 2", "concurrency: 2\n      on_item_error: collect")
    result = await world.run(text, {"items": [1, 2, 3]})
    assert result.output[0][1].startswith("ZeroDivisionError")
    assert result.output[1] == {"total": 3, "completed": 2, "failed": 1, "skipped": 0}


async def test_skipped_items_are_null(world: World) -> None:
    world.desk.answers["work"] = lambda value: 1 // (value - 2)
    text = SIDE_BY_SIDE.replace("concurrency: 2", "concurrency: 2\n      on_item_error: skip")
    result = await world.run(text, {"items": [1, 2, 3]})
    assert result.output == [[-1, None, 1], {"total": 3, "completed": 2, "failed": 0, "skipped": 1}]


BREAKING = """
    - id: each
      type: loop
      over: [1, 2, 3, 4]
      concurrency: 2
      output: out
      do:
        - {id: work, type: call, service: desk, method: work, input: $item}
        - {id: which, type: router, routes: [{when: {field: item, value: 2}, then: __BREAK__}], default: __CONTINUE__}
      next: done
    - {id: done, type: end, result: $out}
"""


async def test_a_break_cancels_what_runs_beside(world: World) -> None:
    async def work(value: int) -> int:
        if value == 1:
            await world.clock.sleep(1000)
        return value

    world.desk.answers["work"] = work
    task = await world.start(BREAKING)
    assert task.done()
    assert (await task).output == [2]
    assert world.desk.cancelled == ["work"]
    cancelled = [entry for entry in await world.entries() if entry.action == "cancelled"]
    assert [(entry.path, entry.metadata) for entry in cancelled] == [
        ("each[0]/work", {"reason": "break", "in_flight": True})
    ]


async def test_a_crash_repeats_only_what_was_under_way(world: World) -> None:
    async def work(value: int) -> int:
        if value in (2, 3) and len(world.desk.calls) < 4:
            await world.clock.sleep(1000)
        return value

    world.desk.answers["work"] = work
    await world.start(SIDE_BY_SIDE, {"items": [1, 2, 3, 4]})
    assert world.desk.values("work") == [1, 2, 3]
    await world.after_the_lease()
    world.desk.answers.clear()
    result = await world.runner().recover("e")
    assert result.output[0] == [1, 2, 3, 4]
    assert sorted(world.desk.values("work")) == [1, 2, 2, 3, 3, 4]


ASKING = """
    - id: each
      type: loop
      over: [a, b, c]
      concurrency: 3
      output: out
      do:
        - {id: before, type: call, service: desk, method: before, input: $item}
        - {id: ask, type: halt, reason: "$item?"}
        - {id: after, type: call, service: desk, method: after, input: [$item, $response]}
      next: done
    - {id: done, type: end, result: $out}
"""


async def test_every_iteration_can_wait_for_its_own_answer(world: World) -> None:
    result = await world.run(ASKING, execution_id="e")
    assert [halt.path for halt in result.halts] == ["each[0]/ask", "each[1]/ask", "each[2]/ask"]
    for place, answer in ((1, "B"), (2, "C"), (0, "A")):
        await world.restart()
        result = await world.runner().resume("e", wait_id=f"e:each[{place}]/ask", response=answer)
    assert result.output == [["a", "A"], ["b", "B"], ["c", "C"]]
    assert world.desk.called.count("before") == 3


async def test_answers_at_the_same_time_reach_their_iterations(world: World) -> None:
    result = await world.run(ASKING, execution_id="e")
    answers: list[Any] = [
        world.spawn(world.runner().resume("e", wait_id=halt.wait_id, response=halt.path)) for halt in result.halts
    ]
    results = [await task for task in answers]
    assert [result.completed for result in results] == [True] * 3
    assert results[0].output == [["a", "each[0]/ask"], ["b", "each[1]/ask"], ["c", "each[2]/ask"]]


async def test_concurrency_of_one_is_one_after_the_other(world: World) -> None:
    workflow = flow("""
        - {id: a, type: assign, set: {x: 0}, next: each}
        - {id: each, type: loop, over: [1, 2], concurrency: 1, do: [{id: b, type: assign, set: {x: $item}}], next: done}
        - {id: done, type: end, result: $x}
    """)
    assert (await world.run(workflow)).output == 2
