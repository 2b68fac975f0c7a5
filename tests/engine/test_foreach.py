"""`loop` over a list, one item after the other."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import World, flow

BREAKS = ConnectionError("no line")

EACH = """
    - id: each
      type: loop
      over: $input.items
      output: out
      do:
        - {id: work, type: call, service: desk, method: work, input: [$index, $item]}
      next: done
    - {id: done, type: end, result: $out}
"""


async def test_the_body_runs_once_per_item_in_order(world: World) -> None:
    result = await world.run(EACH, {"items": ["a", "b", "c"]})
    assert world.desk.values("work") == [[0, "a"], [1, "b"], [2, "c"]]
    assert result.output == [[0, "a"], [1, "b"], [2, "c"]]


async def test_no_items_is_no_iteration(world: World) -> None:
    assert (await world.run(EACH, {"items": []})).output == []


@pytest.mark.parametrize("items", [None, 5, "abc", {"a": 1}])
async def test_what_is_not_a_list_is_a_step_error(world: World, items: Any) -> None:
    result = await world.run(EACH, {"items": items})
    assert result.error_info is not None
    assert (result.error_info.type, result.error_info.step) == ("LoopError", "each")


async def test_the_output_of_an_iteration_is_that_of_its_last_step_with_one(world: World) -> None:
    result = await world.run("""
        - id: each
          type: loop
          over: [1, 2]
          output: out
          do:
            - {id: a, type: call, service: desk, method: work, input: $item}
            - {id: b, type: router, routes: [], default: c}
            - {id: c, type: loop, over: [], do: [{id: d, type: start}]}
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert result.output == [[], []]


async def test_item_and_index_can_have_other_names(world: World) -> None:
    result = await world.run("""
        - id: each
          type: loop
          over: [a, b]
          as: letter
          index_as: place
          output: out
          do: [{id: work, type: assign, set: {pair: [$place, $letter]}}]
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert result.output == [[0, "a"], [1, "b"]]


async def test_the_list_is_evaluated_once(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {list: [1, 2]}, next: each}
        - id: each
          type: loop
          over: $list
          output: out
          do: [{id: work, type: assign, set: {list: [9, 9, 9], seen: $item}}]
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert result.output == [1, 2]


async def test_the_list_is_kept_over_a_restart(world: World) -> None:
    workflow = flow("""
        - {id: a, type: assign, set: {list: [1, 2]}, next: each}
        - id: each
          type: loop
          over: $list
          output: out
          do:
            - {id: change, type: assign, set: {list: [9, 9, 9]}}
            - {id: ask, type: halt, reason: well}
            - {id: work, type: assign, set: {seen: $item}}
          next: done
        - {id: done, type: end, result: $out}
    """)
    await world.run(workflow, execution_id="e")
    await world.restart()
    await world.runner().resume("e")
    await world.restart()
    assert (await world.runner().resume("e")).output == [1, 2]


async def test_more_items_than_allowed_is_a_step_error_before_the_first_iteration(world: World) -> None:
    result = await world.run(EACH, {"items": list(range(101))})
    assert result.error_info is not None
    assert (result.error_info.type, world.desk.called) == ("LoopError", [])


async def test_as_many_items_as_allowed_run(world: World) -> None:
    assert len((await world.run(EACH, {"items": list(range(100))})).output) == 100


# -- variables ---------------------------------------------------------------------------------------------------------


async def test_what_an_iteration_sets_is_seen_by_the_next_and_after_the_loop(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {total: 0}, next: each}
        - id: each
          type: loop
          over: [1, 2, 3]
          do:
            - {id: list, type: assign, set: {both: [$total, $item]}}
            - {id: add, type: transform, input: both, expression: {sum: null}, output: total}
          next: done
        - {id: done, type: end, result: $total}
    """)
    assert result.output == 6


async def test_a_variable_called_like_the_item_is_there_again_afterwards(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {item: mine, index: also mine, x: null}, next: each}
        - {id: each, type: loop, over: [1, 2], do: [{id: b, type: assign, set: {x: [$item, $index]}}], next: done}
        - {id: done, type: end, result: [$item, $index, $x]}
    """)
    assert result.output == ["mine", "also mine", [2, 1]]


async def test_an_item_that_the_body_changes_ends_with_the_iteration(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {item: mine}, next: each}
        - id: each
          type: loop
          over: [1, 2]
          output: out
          do:
            - {id: b, type: assign, set: {item: [$item]}}
            - {id: c, type: assign, set: {seen: $item}}
          next: done
        - {id: done, type: end, result: [$item, $out]}
    """)
    assert result.output == ["mine", [[1], [2]]]


async def test_the_item_is_gone_after_the_loop(world: World) -> None:
    workflow = flow(
        """
        - {id: each, type: loop, over: [1], do: [{id: b, type: assign, set: {x: $item}}], next: done}
        - {id: done, type: end, result: [$item, $index, $x]}
        """,
        validate=False,
    )
    assert (await world.run(workflow)).output == [None, None, 1]


async def test_nested_loops_with_default_names_see_their_own_items(world: World) -> None:
    result = await world.run("""
        - id: outer
          type: loop
          over: [[1, 2], [3]]
          output: out
          do:
            - id: inner
              type: loop
              over: $item
              output: inner_out
              do: [{id: a, type: assign, set: {x: [$index, $item]}}]
            - {id: after, type: assign, set: {y: [$index, $item, $inner_out]}}
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert result.output == [[0, [1, 2], [[0, 1], [1, 2]]], [1, [3], [[0, 3]]]]


async def test_nested_loops_see_their_own_items_after_a_restart(world: World) -> None:
    workflow = flow("""
        - id: outer
          type: loop
          over: [[1, 2], [3]]
          output: out
          do:
            - id: inner
              type: loop
              over: $item
              output: inner_out
              do:
                - {id: ask, type: halt, reason: well}
                - {id: a, type: assign, set: {x: [$index, $item]}}
            - {id: after, type: assign, set: {y: [$index, $item, $inner_out]}}
          next: done
        - {id: done, type: end, result: $out}
    """)
    result = await world.run(workflow, execution_id="e")
    while result.halted:
        await world.restart()
        result = await world.runner().resume("e")
    assert result.output == [[0, [1, 2], [[0, 1], [1, 2]]], [1, [3], [[0, 3]]]]


async def test_variables_inside_a_loop_are_not_those_of_the_workflow_until_the_iteration_ends(world: World) -> None:
    await world.run(
        """
        - id: each
          type: loop
          over: [1]
          do:
            - {id: a, type: assign, set: {x: 1}}
            - {id: ask, type: halt, reason: well}
        """,
        execution_id="e",
    )
    assert await world.variables() == {}
    await world.runner().resume("e")
    assert (await world.variables())["x"] == 1


# -- ways out ----------------------------------------------------------------------------------------------------------


async def test_going_on_with_the_next_item(world: World) -> None:
    result = await world.run("""
        - {id: before, type: assign, set: {x: 0}, next: each}
        - id: each
          type: loop
          over: [1, 2, 3]
          output: out
          do:
            - {id: a, type: assign, set: {x: $item}}
            - {id: which, type: router, routes: [{when: {field: item, value: 2}, then: __CONTINUE__}], default: b}
            - {id: b, type: assign, set: {y: [$item]}}
          next: done
        - {id: done, type: end, result: [$out, $x, $loop]}
    """)
    assert result.output == [[[1], 2, [3]], 3, {"total": 3, "completed": 3, "failed": 0, "skipped": 0}]


@pytest.mark.parametrize("way", ["__BREAK__", "flag"])
async def test_breaking_off_keeps_what_the_iteration_set(world: World, way: str) -> None:
    leave = "__BREAK__" if way == "__BREAK__" else "stop"
    workflow = flow(f"""
        - id: each
          type: loop
          over: [1, 2, 3]
          output: out
          do:
            - {{id: a, type: assign, set: {{x: $item}}}}
            - id: which
              type: router
              routes: [{{when: {{field: item, value: 2}}, then: {leave}}}]
              default: __CONTINUE__
            - {{id: stop, type: assign, set: {{break_loop: true}}}}
          next: done
        - {{id: done, type: end, result: [$x, $loop]}}
    """, validate=False)  # fmt: skip
    result = await world.run(workflow)
    assert result.output == [2, {"total": 3, "completed": 2, "failed": 0, "skipped": 0}]


async def test_the_break_flag_of_one_loop_does_not_break_another(world: World) -> None:
    result = await world.run("""
        - id: outer
          type: loop
          over: [1, 2]
          output: out
          do:
            - {id: inner, type: loop, over: [1, 2, 3], output: n, do: [{id: a, type: assign, set: {break_loop: true}}]}
            - {id: b, type: transform, input: n, expression: {count: null}, output: c}
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert result.output == [1, 1]


async def test_a_break_flag_from_before_the_loop_does_not_break_it(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {break_loop: true}, next: each}
        - {id: each, type: loop, over: [1, 2], output: out, do: [{id: b, type: assign, set: {x: $item}}], next: done}
        - {id: done, type: end, result: $out}
    """)
    assert result.output == [1, 2]


async def test_a_break_flag_set_in_a_branch_breaks_the_loop_around_it(world: World) -> None:
    result = await world.run("""
        - id: each
          type: loop
          over: [1, 2]
          output: out
          do:
            - id: both
              type: parallel
              branches:
                - {id: a, type: assign, set: {break_loop: true}}
                - {id: b, type: assign, set: {x: 1}}
          next: done
        - {id: done, type: transform, input: out, expression: {count: null}, output: result}
    """)
    assert result.output == 1


async def test_a_false_break_flag_does_not_break(world: World) -> None:
    result = await world.run("""
        - id: each
          type: loop
          over: [1, 2]
          output: out
          do: [{id: b, type: assign, set: {break_loop: false}}]
          next: done
        - {id: done, type: transform, input: out, expression: {count: null}, output: result}
    """)
    assert result.output == 2


async def test_leaving_for_a_step_outside(world: World) -> None:
    result = await world.run("""
        - id: outer
          type: loop
          over: [1, 2]
          do:
            - id: inner
              type: loop
              over: [10, 20]
              do:
                - {id: a, type: assign, set: {x: [$item]}}
                - id: which
                  type: router
                  routes: [{when: {field: item, value: 20}, then: away}]
                  default: __CONTINUE__
          next: done
        - {id: done, type: end, result: done}
        - {id: away, type: end, result: $x}
    """)
    assert result.output == [20]


async def test_leaving_for_a_step_of_the_loop_around(world: World) -> None:
    result = await world.run("""
        - id: outer
          type: loop
          over: [1, 2]
          output: out
          do:
            - id: inner
              type: loop
              over: [10, 20]
              do: [{id: a, type: assign, set: {x: [$item]}, next: after}]
            - {id: skipped, type: assign, set: {y: 1}, next: __CONTINUE__}
            - {id: after, type: assign, set: {z: [$x]}}
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert result.output == [[[10]], [[10]]]


async def test_breaking_the_outer_loop_from_the_inner_one_by_its_step(world: World) -> None:
    result = await world.run("""
        - id: outer
          type: loop
          over: [1, 2]
          output: out
          do:
            - id: inner
              type: loop
              over: [10]
              do: [{id: a, type: assign, set: {x: $item}, next: leave}]
            - {id: leave, type: router, routes: [], default: __BREAK__}
          next: done
        - {id: done, type: transform, input: out, expression: {count: null}, output: result}
    """)
    assert result.output == 1


async def test_end_in_a_loop_completes_the_workflow(world: World) -> None:
    result = await world.run("""
        - {id: each, type: loop, over: [1, 2], do: [{id: stop, type: end, result: {at: $item}}], next: done}
        - {id: done, type: end, result: late}
    """)
    assert (result.completed, result.output) == (True, {"at": 1})


async def test_end_two_loops_deep_completes_the_workflow(world: World) -> None:
    result = await world.run("""
        - id: outer
          type: loop
          over: [1]
          do: [{id: inner, type: loop, over: [2], do: [{id: stop, type: end, result: [$item]}]}]
          next: done
        - {id: done, type: end, result: late}
    """)
    assert result.output == [2]


async def test_the_last_variable_set_by_an_iteration_that_left_is_kept(world: World) -> None:
    result = await world.run("""
        - id: each
          type: loop
          over: [1, 2]
          do: [{id: a, type: assign, set: {x: $item}, next: away}]
          next: done
        - {id: done, type: end, result: done}
        - {id: away, type: end, result: [$x, $loop]}
    """)
    assert result.output == [1, {"total": 2, "completed": 1, "failed": 0, "skipped": 0}]


async def test_a_body_is_a_small_workflow_with_jumps_of_its_own(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, 1, 2]
    result = await world.run("""
        - id: each
          type: loop
          over: [1, 2]
          output: out
          do:
            - {id: work, type: call, service: desk, method: work, output: x, on_error: repair, next: last}
            - {id: repair, type: assign, set: {repaired: true}, next: work}
            - {id: last, type: assign, set: {y: [$x]}}
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert result.output == [[1], [2]]


# -- failing items -----------------------------------------------------------------------------------------------------


def failing(policy: str) -> df.WorkflowDef:
    return flow(f"""
        - {{id: a, type: assign, set: {{seen: none}}, next: each}}
        - id: each
          type: loop
          over: [1, 2, 3]
          output: out
          on_item_error: {policy}
          do:
            - {{id: mark, type: assign, set: {{seen: $item}}}}
            - {{id: work, type: call, service: desk, method: work, input: $item}}
            - {{id: after, type: assign, set: {{last: $item}}}}
          next: done
        - {{id: done, type: end, result: [$out, $seen, $loop]}}
    """)


async def test_a_failing_item_fails_the_loop(world: World) -> None:
    world.desk.answers["work"] = [1, BREAKS]
    result = await world.run(failing("fail"), execution_id="e")
    assert result.error_info is not None
    assert (result.error_info.step, result.error_info.path) == ("work", "each[1]/work")
    assert len(world.desk.called) == 2


async def test_a_skipped_item_leaves_null_and_drops_what_it_set(world: World) -> None:
    world.desk.answers["work"] = [1, 2, BREAKS]
    result = await world.run(failing("skip"))
    assert result.output == [[1, 2, None], 2, {"total": 3, "completed": 2, "failed": 0, "skipped": 1}]


async def test_a_collected_item_leaves_its_error_and_drops_what_it_set(world: World) -> None:
    world.desk.answers["work"] = [1, 2, BREAKS]
    result = await world.run(failing("collect"))
    counts = {"total": 3, "completed": 2, "failed": 1, "skipped": 0}
    assert result.output == [[1, 2, "ConnectionError: no line"], 2, counts]


async def test_skipped_items_are_remembered_over_a_restart(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, 2, 3]
    workflow = flow("""
        - id: each
          type: loop
          over: [1, 2, 3]
          output: out
          on_item_error: collect
          do:
            - {id: work, type: call, service: desk, method: work, input: $item, output: x}
            - {id: ask, type: halt, reason: well}
            - {id: after, type: assign, set: {y: $x}}
          next: done
        - {id: done, type: end, result: [$out, $loop]}
    """)
    result = await world.run(workflow, execution_id="e")
    while result.halted:
        await world.restart()
        result = await world.runner().resume("e")
    counts = {"total": 3, "completed": 2, "failed": 1, "skipped": 0}
    assert result.output == [["ConnectionError: no line", 2, 3], counts]


async def test_the_loop_counts_what_was_so_far(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, 2, 3]
    result = await world.run("""
        - id: each
          type: loop
          over: [1, 2, 3]
          output: out
          on_item_error: skip
          do:
            - {id: work, type: call, service: desk, method: work}
            - {id: count, type: assign, set: {n: $loop}}
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert result.output == [
        None,
        {"total": 3, "completed": 0, "failed": 0, "skipped": 1},
        {"total": 3, "completed": 1, "failed": 0, "skipped": 1},
    ]


async def test_the_counts_of_an_inner_loop_do_not_hide_those_of_the_outer_one(world: World) -> None:
    result = await world.run("""
        - id: outer
          type: loop
          over: [1, 2]
          output: out
          do:
            - {id: before, type: assign, set: {b: $loop.completed}}
            - {id: inner, type: loop, over: [1, 2, 3], do: [{id: a, type: assign, set: {x: 1}}]}
            - {id: after, type: assign, set: {c: [$b, $loop.total]}}
          next: done
        - {id: done, type: end, result: [$out, $loop.total]}
    """)
    assert result.output == [[[0, 3], [1, 3]], 2]


# -- durability --------------------------------------------------------------------------------------------------------


async def test_a_crash_repeats_only_the_iteration_that_was_under_way(world: World) -> None:
    world.desk.answers["work"] = lambda value: world.desk.hold("work") if value[0] == 1 else value
    await world.start(EACH, {"items": ["a", "b", "c"]})
    world.desk.answers.clear()
    world.desk.hold("work")
    await world.after_the_lease()
    world.desk.release()
    result = await world.runner().recover("e")
    assert [value[0] for value in world.desk.values("work")] == [0, 1, 2, 2]
    assert result.output == [[0, "a"], None, [2, "c"]]


async def test_a_halt_in_a_loop_goes_on_in_its_iteration_at_its_step(world: World) -> None:
    workflow = flow("""
        - id: each
          type: loop
          over: [1, 2, 3]
          output: out
          do:
            - {id: before, type: call, service: desk, method: before, input: $item, output: x}
            - {id: ask, type: halt, reason: well}
            - {id: after, type: call, service: desk, method: after, input: [$x, $response]}
          next: done
        - {id: done, type: end, result: $out}
    """)
    result = await world.run(workflow, execution_id="e")
    for answer in "abc":
        assert result.halted
        await world.restart()
        result = await world.runner().resume("e", response=answer)
    assert result.output == [[1, "a"], [2, "b"], [3, "c"]]
    assert world.desk.called == ["before", "after"] * 3


async def test_an_approval_in_a_loop_asks_for_every_item(world: World) -> None:
    workflow = flow("""
        - id: each
          type: loop
          over: [1, 2]
          output: out
          do:
            - {id: sign, type: approval, prompt: "Item $item?", on_reject: no_}
            - {id: pay, type: call, service: desk, method: pay, input: $item, next: __CONTINUE__}
            - {id: no_, type: assign, set: {x: refused}}
          next: done
        - {id: done, type: end, result: $out}
    """)
    result = await world.run(workflow, execution_id="e")
    assert result.halt is not None
    assert (result.halt.prompt, result.halt.path) == ("Item 1?", "each[0]/sign")
    await world.restart()
    result = await world.runner().resume("e", approved=False)
    assert result.halt is not None
    assert (result.halt.prompt, result.halt.path) == ("Item 2?", "each[1]/sign")
    result = await world.runner().resume("e", approved=True)
    assert result.output == ["refused", 2]
    assert world.desk.values("pay") == [2]


async def test_every_inner_step_leaves_an_entry_with_its_place(world: World) -> None:
    world.desk.answers["work"] = [1, BREAKS]
    await world.run(EACH, {"items": ["a", "b"]}, execution_id="e")
    assert await world.trail() == [
        "started",
        "each started",
        "each[0]/work completed",
        "each[0] completed",
        "each[1]/work failed",
        "each failed",
        "finished",
    ]


async def test_a_loop_visited_again_starts_anew(world: World) -> None:
    result = await world.run("""
        - {id: a, type: assign, set: {n: 0}, next: each}
        - id: each
          type: loop
          over: [x, y]
          output: out
          do: [{id: work, type: call, service: desk, method: work, input: [$n, $item]}]
          next: which
        - {id: which, type: router, routes: [{when: {field: n, value: 0}, then: again}], default: done}
        - {id: again, type: assign, set: {n: 1}, next: each}
        - {id: done, type: end, result: $out}
    """, execution_id="e")  # fmt: skip
    assert result.output == [[1, "x"], [1, "y"]]
    assert world.desk.keys("work") == ["e:each[0]/work", "e:each[1]/work", "e:each#2[0]/work", "e:each#2[1]/work"]


async def test_nothing_is_left_of_the_iterations_when_the_loop_is_over(world: World) -> None:
    await world.run(EACH, {"items": ["a", "b"]}, execution_id="e")
    stored = await world.store.fetch("e")
    assert stored is not None
    assert list(stored.frames) == []
    assert {frame for frame, _, _ in stored.sets} == {""}
