"""`parallel`: branches side by side, what they change, and what becomes of them when others fail or suffice."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from durable_flow.model.frame import Message
from tests.engine.aid import World, flow

BREAKS = ConnectionError("no line")

BOTH = """
    - id: both
      type: parallel
      output: out
      branches:
        - {id: a, type: call, service: desk, method: a, input: 1}
        - {id: b, type: call, service: desk, method: b, input: 2}
      next: done
    - {id: done, type: end, result: $out}
"""


async def test_branches_run_at_the_same_time(world: World) -> None:
    world.desk.hold("a", "b")
    task = await world.start(BOTH)
    assert world.desk.called == ["a", "b"]
    world.desk.release()
    assert (await task).output == [1, 2]


async def test_outputs_are_in_the_order_of_the_branches(world: World) -> None:
    world.desk.hold("a", "b")
    task = await world.start(BOTH)
    world.desk.release("b")
    await world.clock.advance()
    world.desk.release("a")
    assert (await task).output == [1, 2]


async def test_a_branch_may_be_a_list_of_steps(world: World) -> None:
    result = await world.run("""
        - id: both
          type: parallel
          output: out
          branches:
            - id: a
              do:
                - {id: a1, type: assign, set: {x: 1}}
                - {id: a2, type: assign, set: {y: [$x]}}
            - {id: b, type: assign, set: {z: 2}}
          next: done
        - {id: done, type: end, result: [$out, $x, $y, $z]}
    """)
    assert result.output == [[[1], 2], 1, [1], 2]


async def test_only_so_many_branches_run_at_once(world: World) -> None:
    world.desk.hold("w")
    task = await world.start("""
        - id: all
          type: parallel
          max_concurrency: 2
          output: out
          branches:
            - {id: a, type: call, service: desk, method: w, input: 1}
            - {id: b, type: call, service: desk, method: w, input: 2}
            - {id: c, type: call, service: desk, method: w, input: 3}
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert world.desk.values("w") == [1, 2]
    world.desk.release()
    assert (await task).output == [1, 2, 3]


# -- variables ---------------------------------------------------------------------------------------------------------


async def test_only_what_a_branch_changed_is_merged(world: World) -> None:
    result = await world.run("""
        - {id: s, type: assign, set: {k: 1}, next: both}
        - id: both
          type: parallel
          branches:
            - {id: a, type: assign, set: {k: 2}}
            - {id: b, type: assign, set: {z: 3}}
          next: done
        - {id: done, type: end, result: [$k, $z]}
    """)
    assert result.output == [2, 3]


async def test_each_branch_sees_the_variables_as_they_were_at_the_fork(world: World) -> None:
    result = await world.run("""
        - {id: s, type: assign, set: {k: 1}, next: both}
        - id: both
          type: parallel
          max_concurrency: 1
          output: out
          branches:
            - {id: a, type: assign, set: {k: 2}}
            - {id: b, type: assign, set: {seen: $k}}
          next: done
        - {id: done, type: end, result: [$out, $k]}
    """)
    assert result.output == [[2, 1], 2]


@pytest.mark.parametrize("last", ["a", "b"])
async def test_of_two_branches_that_set_one_variable_the_later_in_the_document_counts(world: World, last: str) -> None:
    world.desk.hold("a", "b")
    workflow = flow("""
        - id: both
          type: parallel
          branches:
            - {id: a, type: call, service: desk, method: a, input: 1, output: x}
            - {id: b, type: call, service: desk, method: b, input: 2, output: x}
          next: done
        - {id: done, type: end, result: $x}
    """)
    task = await world.start(workflow)
    world.desk.release("b" if last == "a" else "a")
    await world.clock.advance()
    world.desk.release()
    assert (await task).output == 2


async def test_what_a_failed_branch_set_is_not_merged(world: World) -> None:
    world.desk.answers["b"] = BREAKS
    result = await world.run("""
        - {id: s, type: assign, set: {x: before}, next: both}
        - id: both
          type: parallel
          wait: any
          output: out
          branches:
            - {id: a, type: call, service: desk, method: a, input: 1}
            - id: b
              do:
                - {id: b1, type: assign, set: {x: from b}}
                - {id: b2, type: call, service: desk, method: b}
          next: done
        - {id: done, type: end, result: [$out, $x]}
    """)
    assert result.output == [[1, None], "before"]


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_a_failure_fails_the_step_after_the_others_have_finished(world: World) -> None:
    world.desk.answers["a"] = BREAKS
    world.desk.hold("b")
    task = await world.start(BOTH)
    assert not task.done()
    world.desk.release()
    result = await task
    assert result.error == "ConnectionError: no line"
    assert result.error_info is not None
    assert result.error_info.path == "both/a"
    assert "both/b completed" in await world.trail()


async def test_several_failures_are_all_named(world: World) -> None:
    world.desk.answers |= {"a": BREAKS, "b": ValueError("second")}
    result = await world.run(BOTH)
    assert result.error == (
        "ParallelError: 2 branches failed: a: ConnectionError: no line; b: ValueError: second"
    )  # fmt: skip


async def test_failing_fast_cancels_the_others(world: World) -> None:
    world.desk.hold("a", "b")
    task = await world.start(BOTH.replace("output: out\n", "output: out\n      fail_fast: true\n"))
    world.desk.answers["a"] = BREAKS
    world.desk.release("a")
    result = await task
    assert result.error == "ConnectionError: no line"
    assert world.desk.cancelled == ["b"]
    cancelled = [(entry.path, entry.metadata) for entry in await world.entries() if entry.action == "cancelled"]
    assert ("both/b", {"reason": "fail_fast", "in_flight": True}) in cancelled


def waiting_for(wait: Any, *, methods: str = "abc") -> df.WorkflowDef:
    branches = "\n".join(
        f"        - {{id: {name}, type: call, service: desk, method: {name}, input: {name}, output: x_{name}}}"
        for name in methods
    )
    return flow(f"""
    - id: some
      type: parallel
      wait: {wait}
      output: out
      branches:
{branches}
      next: done
    - {{id: done, type: end, result: $out}}
""")  # fmt: skip


async def test_waiting_for_any_branch_cancels_the_rest(world: World) -> None:
    world.desk.hold("a", "b", "c")
    task = await world.start(waiting_for("any"))
    world.desk.release("b")
    result = await task
    assert result.output == [None, "b", None]
    assert sorted(world.desk.cancelled) == ["a", "c"]
    reasons = {
        entry.metadata["reason"] for entry in await world.entries() if entry.action == "cancelled" and entry.metadata
    }
    assert reasons == {"enough"}


async def test_waiting_for_two_branches_cancels_the_third(world: World) -> None:
    world.desk.hold("b")
    task = await world.start(waiting_for(2))
    assert (await task).output == ["a", None, "c"]
    assert world.desk.cancelled == ["b"]


async def test_waiting_for_some_tolerates_as_many_failures_as_it_can(world: World) -> None:
    world.desk.answers["a"] = BREAKS
    assert (await world.run(waiting_for(2))).output == [None, "b", "c"]


@pytest.mark.parametrize("wait", ["any", 2])
async def test_too_few_successes_are_an_error_that_names_each_failure(world: World, wait: Any) -> None:
    world.desk.answers |= {"a": BREAKS, "b": ValueError("second"), "c": KeyError("third")}
    result = await world.run(waiting_for(wait))
    assert result.error is not None
    for text in ("a: ConnectionError: no line", "b: ValueError: second", "c: KeyError: 'third'"):
        assert text in result.error


async def test_a_branch_can_handle_its_own_error(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    result = await world.run("""
        - id: both
          type: parallel
          output: out
          branches:
            - id: a
              do:
                - {id: a1, type: call, service: desk, method: work, on_error: a2, next: a3}
                - {id: a2, type: assign, set: {x: $_last_error.step}}
                - {id: a3, type: assign, set: {y: 1}}
            - {id: b, type: assign, set: {z: 2}}
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert result.output == [1, 2]


@pytest.mark.parametrize("wait", [0, 4, -1, "most"])
def test_waiting_for_what_cannot_be_is_refused(wait: Any) -> None:
    with pytest.raises(df.ValidationError, match="wait"):
        waiting_for(wait)


@pytest.mark.parametrize("target", ["done", "__BREAK__"])
def test_a_branch_cannot_lead_outside(target: str) -> None:
    with pytest.raises(df.ValidationError):
        flow(f"""
            - id: both
              type: parallel
              branches:
                - {{id: a, do: [{{id: a1, type: assign, set: {{x: 1}}, next: {target}}}]}}
              next: done
            - {{id: done, type: end, result: 1}}
        """)


def test_a_branch_cannot_end_the_workflow() -> None:
    with pytest.raises(df.ValidationError, match="end"):
        flow("- {id: p, type: parallel, branches: [{id: a, type: end, result: 1}]}\n")


# -- durability --------------------------------------------------------------------------------------------------------


async def test_after_a_crash_only_unfinished_branches_run(world: World) -> None:
    world.desk.hold("b")
    await world.start(BOTH)
    assert world.desk.called == ["a", "b"]
    await world.after_the_lease()
    world.desk.release()
    result = await world.runner().recover("e")
    assert result.output == [1, 2]
    assert world.desk.called == ["a", "b", "b"]
    assert world.desk.keys("b") == ["e:both/b"] * 2


async def test_enough_successes_before_a_crash_are_enough_after_it(world: World) -> None:
    world.desk.hold("b", "c")
    task = await world.start(waiting_for(2))
    assert world.desk.called == ["a", "b", "c"]
    await world.after_the_lease()
    world.desk.release("b")
    task = world.spawn(world.runner().recover("e"))
    await world.clock.advance()
    assert (await task).output == ["a", "b", None]
    assert world.desk.called.count("a") == 1


async def test_a_failed_branch_is_remembered_over_a_crash(world: World) -> None:
    world.desk.answers["a"] = BREAKS
    world.desk.hold("b")
    await world.start(BOTH)
    await world.after_the_lease()
    world.desk.release()
    result = await world.runner().recover("e")
    assert result.error == "ConnectionError: no line"
    assert world.desk.called == ["a", "b", "b"]


async def test_every_branch_leaves_an_entry(world: World) -> None:
    await world.run(BOTH, execution_id="e")
    assert await world.trail() == [
        "started",
        "both/a completed",
        "both/b completed",
        "both/a completed",
        "both/b completed",
        "both completed",
        "done completed",
        "finished",
    ]


# -- waits in branches -------------------------------------------------------------------------------------------------

ASK = """
    - id: both
      type: parallel
      output: out
      branches:
        - id: ask
          do:
            - {id: sign, type: approval, prompt: sign?, on_reject: refused}
            - {id: pay, type: call, service: desk, method: pay, next: paid}
            - {id: refused, type: assign, set: {x: refused}, next: paid}
            - {id: paid, type: assign, set: {y: 1}}
        - {id: work, type: call, service: desk, method: work}
      next: done
    - {id: done, type: end, result: $out}
"""


async def test_an_approval_in_a_branch_halts_the_execution_and_nothing_behind_it_runs(world: World) -> None:
    result = await world.run(ASK, execution_id="e")
    assert result.halted
    assert world.desk.called == ["work"]


async def test_an_answered_approval_in_a_branch_goes_on_there(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.restart()
    result = await world.runner().resume("e", approved=True)
    assert result.completed
    assert world.desk.called == ["work", "pay"]


async def test_a_wait_can_be_answered_while_other_branches_still_run(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(ASK)
    assert [wait.path for wait in (await world.load()).blocked_on] == ["both/ask/sign"]
    assert (await world.load()).status == "running"
    answer = world.spawn(world.runner().resume("e", approved=True))
    await world.clock.advance()
    assert world.desk.called == ["work", "pay"]
    world.desk.release()
    assert (await task).completed
    assert (await answer).completed


async def test_a_wait_can_be_answered_by_another_process_while_branches_still_run(world: World) -> None:
    world.desk.hold("work")
    task = await world.start(ASK)
    async with world.process(world.store) as other:
        answer = world.spawn(other.runner("flow").resume("e", approved=True))
        await world.clock.advance(1)
        assert world.desk.called == ["work", "pay"]
        world.desk.release()
        await world.clock.advance(1)
        assert (await task).completed
        assert (await answer).completed


TWO_ASK = """
    - id: both
      type: parallel
      output: out
      branches:
        - id: left
          do:
            - {id: l, type: halt, reason: left?}
            - {id: l2, type: call, service: desk, method: l, input: $response}
        - id: right
          do:
            - {id: r, type: halt, reason: right?}
            - {id: r2, type: call, service: desk, method: r, input: $response}
      next: done
    - {id: done, type: end, result: $out}
"""


async def test_every_wait_is_listed_with_its_id_and_path(world: World) -> None:
    result = await world.run(TWO_ASK, execution_id="e")
    assert [(halt.wait_id, halt.path, halt.step_id, halt.prompt) for halt in result.halts] == [
        ("e:both/left/l", "both/left/l", "l", "left?"),
        ("e:both/right/r", "both/right/r", "r", "right?"),
    ]


async def test_with_several_waits_an_answer_must_say_which(world: World) -> None:
    await world.run(TWO_ASK, execution_id="e")
    with pytest.raises(df.ConflictError, match="waits for 2 answers"):
        await world.runner().resume("e", response=1)


@pytest.mark.parametrize(
    "name", [{"step": "right"}, {"step": "r"}, {"step": "both/right/r"}, {"wait_id": "e:both/right/r"}]
)
async def test_a_wait_can_be_named_by_branch_step_path_or_id(world: World, name: dict[str, str]) -> None:
    await world.run(TWO_ASK, execution_id="e")
    result = await world.runner().resume("e", response="R", **name)
    assert [halt.path for halt in result.halts] == ["both/left/l"]
    assert (await world.runner().resume("e", response="L")).output == ["L", "R"]


async def test_answers_are_seen_only_in_their_branch(world: World) -> None:
    await world.run(TWO_ASK, execution_id="e")
    await world.runner().resume("e", step="left", response="L")
    await world.restart()
    await world.runner().resume("e", step="right", response="R")
    assert world.desk.calls == [("l", "L"), ("r", "R")]


async def test_a_wait_that_is_not_needed_any_more_is_over(world: World) -> None:
    world.desk.hold("work")
    task = await world.start("""
        - id: some
          type: parallel
          wait: any
          output: out
          branches:
            - {id: ask, type: halt, reason: well}
            - {id: work, type: call, service: desk, method: work, input: 1}
          next: later
        - {id: later, type: call, service: desk, method: later, next: done}
        - {id: done, type: end, result: $out}
    """)
    world.desk.hold("later")
    world.desk.release("work")
    await world.clock.advance()
    assert (await world.load()).blocked_on == []
    with pytest.raises(df.ConflictError):
        await world.runner().resume("e", wait_id="e:some/ask", response=1)
    world.desk.release()
    assert (await task).output == [None, 1]


async def test_a_wait_that_is_not_needed_any_more_takes_no_answer(world: World) -> None:
    """Neither does one that was on its way already."""
    world.desk.hold("work")
    task = await world.start("""
        - id: some
          type: parallel
          wait: any
          output: out
          branches:
            - {id: ask, type: halt, reason: well}
            - {id: work, type: call, service: desk, method: work, input: 1}
          next: later
        - {id: later, type: call, service: desk, method: later, next: done}
        - {id: done, type: end, result: $out}
    """)
    world.desk.hold("later")
    wait = (await world.load()).blocked_on[0]
    world.desk.release("work")
    await world.clock.advance()
    late = Message(kind="answer", execution_id="e", key=f"answer:{wait.wait_id}", time=0.0, wait_id=wait.wait_id)
    assert (await world.store.append(late, "{}")).outcome == "closed"
    world.desk.release()
    await task


async def test_failing_fast_closes_the_waits_of_the_others(world: World) -> None:
    world.desk.hold("work")
    task = await world.start("""
        - id: some
          type: parallel
          fail_fast: true
          branches:
            - {id: ask, type: halt, reason: well}
            - {id: work, type: call, service: desk, method: work}
    """)
    world.desk.answers["work"] = BREAKS
    world.desk.release("work")
    assert (await task).failed
    assert (await world.load()).blocked_on == []


async def test_a_wait_that_was_cancelled_is_asked_again_by_a_retry(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, 1]
    workflow = flow("""
        - id: some
          type: parallel
          fail_fast: true
          output: out
          branches:
            - {id: ask, type: halt, reason: well}
            - {id: work, type: call, service: desk, method: work}
          next: done
        - {id: done, type: end, result: $out}
    """)
    assert (await world.run(workflow, execution_id="e")).failed
    await world.restart()
    result = await world.runner().retry("e")
    assert [halt.wait_id for halt in result.halts] == ["e:some/ask"]
    assert (await world.runner().resume("e", response="yes")).output == ["yes", 1]


async def test_the_branches_that_have_not_begun_come_when_one_is_over_and_not_when_it_waits(world: World) -> None:
    result = await world.run(
        """
        - id: all
          type: parallel
          max_concurrency: 1
          branches:
            - {id: ask, type: halt, reason: well}
            - {id: work, type: call, service: desk, method: work}
    """,
        execution_id="e",
    )
    assert (result.halted, world.desk.called) == (True, [])
    assert (await world.runner().resume("e")).completed
    assert world.desk.called == ["work"]


async def test_a_single_branch_may_be_a_loop(world: World) -> None:
    workflow = flow("""
        - id: all
          type: parallel
          output: out
          branches:
            - id: each
              type: loop
              over: [1, 2]
              do:
                - {id: ask, type: halt, reason: "$item?"}
                - {id: seen, type: assign, set: {x: [$item, $response]}}
              output: xs
            - {id: work, type: call, service: desk, method: work, input: w}
          next: done
        - {id: done, type: end, result: [$out, $xs]}
    """)
    result = await world.run(workflow, execution_id="e")
    paths = []
    while result.halt is not None:
        paths.append(result.halt.path)
        await world.restart()
        result = await world.runner().resume("e", response=len(paths))
    assert paths == ["all/each[0]/ask", "all/each[1]/ask"]
    assert result.output == [[[[1, 1], [2, 2]], "w"], [[1, 1], [2, 2]]]
    assert world.desk.called == ["work"]
