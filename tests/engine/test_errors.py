"""What happens when a step fails: handlers from the inside to the outside, `$_last_error`, failed executions."""

from __future__ import annotations

import asyncio

import pytest

import durable_flow as df
from tests.engine.aid import World, flow

BREAKS = ConnectionError("no line")


async def test_a_failing_workflow_is_a_result_and_no_exception(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    result = await world.run("- {id: a, type: call, service: desk, method: work}\n")
    assert (result.failed, result.completed, result.halted) == (True, False, False)
    assert result.error == "ConnectionError: no line"
    assert result.error_info == df.ErrorInfo(type="ConnectionError", message="no line", step="a", path="a", attempts=1)


async def test_the_result_of_a_failed_workflow_raises_when_asked_to(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    result = await world.run("- {id: a, type: call, service: desk, method: work}\n")
    with pytest.raises(df.WorkflowFailed, match="no line") as raised:
        result.raise_for_status()
    assert raised.value.result is result


async def test_the_row_of_a_failed_execution_says_why(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    await world.run("- {id: a, type: call, service: desk, method: work}\n", execution_id="e")
    execution = await world.load()
    assert (execution.status, execution.error) == ("failed", "ConnectionError: no line")
    assert (execution.owner, execution.finished_at is None) == (None, False)


async def test_a_failed_step_leaves_an_entry_with_its_input_and_attempt(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    await world.run("- {id: a, type: call, service: desk, method: work, input: {n: 1}}\n", execution_id="e")
    failed = [entry for entry in await world.entries() if entry.action == "failed"]
    assert [(entry.path, entry.step_type, entry.error, entry.input, entry.attempt) for entry in failed] == [
        ("a", "call", "ConnectionError: no line", {"n": 1}, 1)
    ]
    assert failed[0].duration_ms == 0.0


HANDLED = """
    - {id: a, type: call, service: desk, method: work, next: done, on_error: sorry}
    - {id: done, type: end, result: fine}
    - {id: sorry, type: end, result: $_last_error}
"""


async def test_an_error_goes_to_the_handler_of_its_step(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    result = await world.run(HANDLED)
    assert result.completed
    assert result.output == {"step": "a", "message": "no line", "class": "ConnectionError", "attempts": 1}


async def test_a_handler_is_not_entered_without_an_error(world: World) -> None:
    assert (await world.run(HANDLED)).output == "fine"


async def test_attempts_count_the_retries(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    result = await world.run("""
        - id: a
          type: call
          service: desk
          method: work
          retry: {max_attempts: 3, initial_interval: 0}
          on_error: sorry
        - {id: sorry, type: end, result: $_last_error.attempts}
    """)
    assert result.output == 3


async def test_the_variables_before_the_error_are_kept(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    result = await world.run("""
        - {id: before, type: assign, set: {x: 1}, next: a}
        - {id: a, type: call, service: desk, method: work, on_error: sorry}
        - {id: sorry, type: end, result: $x}
    """)
    assert result.output == 1


async def test_an_error_without_a_handler_of_its_own_goes_to_the_workflows(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    workflow = flow(
        """
        - {id: a, type: call, service: desk, method: work, next: done}
        - {id: done, type: end, result: fine}
        - {id: sorry, type: end, result: $_last_error.step}
        """,
        on_error="sorry",
    )
    assert (await world.run(workflow)).output == "a"


async def test_the_handler_of_the_step_comes_before_the_workflows(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    workflow = flow(
        """
        - {id: a, type: call, service: desk, method: work, on_error: near, next: done}
        - {id: done, type: call, service: desk, method: fine}
        - {id: near, type: end, result: near}
        - {id: far, type: end, result: far}
        """,
        on_error="far",
    )
    assert (await world.run(workflow)).output == "near"


NESTED = """
    - id: outer
      type: loop
      over: [1]
      {outer}
      do:
        - id: middle
          type: parallel
          {middle}
          branches:
            - id: branch
              do:
                - id: inner
                  type: loop
                  over: [1]
                  {inner}
                  do:
                    - {{id: work, type: call, service: desk, method: work{step}}}
                    {after_work}
                {after_inner}
        {after_middle}
      next: done
    - {{id: done, type: end, result: $who}}
    {after_outer}
"""


def nested(level: str) -> df.WorkflowDef:
    """A call in a loop in a branch in a loop; the handler `sorry` stands beside the step of this level."""
    handler = "- {id: sorry, type: assign, set: {who: $_last_error.step}}"
    blank = ""
    text = NESTED.format(
        step=", on_error: sorry" if level == "step" else "",
        inner="on_error: sorry" if level == "inner" else blank,
        middle="on_error: sorry" if level == "middle" else blank,
        outer="on_error: sorry" if level == "outer" else blank,
        after_work=handler if level == "step" else blank,
        after_inner=handler if level == "inner" else blank,
        after_middle=handler if level == "middle" else blank,
        after_outer="- {id: sorry, type: assign, set: {who: $_last_error.step}, next: done}"
        if level in ("outer", "workflow")
        else blank,
    )
    return flow(text, validate=False, **({"on_error": "sorry"} if level == "workflow" else {}))


@pytest.mark.parametrize("level", ["step", "inner", "middle", "outer", "workflow"])
async def test_an_error_goes_outwards_to_the_first_handler(world: World, level: str) -> None:
    world.desk.answers["work"] = BREAKS
    result = await world.run(nested(level))
    assert (result.error, result.output) == (None, "work")


async def test_an_error_that_nothing_handles_fails_the_execution_with_its_place(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    result = await world.run(nested("none"))
    assert result.error_info is not None
    assert (result.error_info.step, result.error_info.path) == ("work", "outer[0]/middle/branch/inner[0]/work")


async def test_every_level_on_the_way_leaves_an_entry(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    await world.run(nested("none"), execution_id="e")
    failed = {entry.path for entry in await world.entries() if entry.action == "failed"}
    assert failed >= {
        "outer[0]/middle/branch/inner[0]/work",
        "outer[0]/middle/branch/inner",
        "outer[0]/middle",
        "outer",
    }


async def test_the_last_error_is_the_most_recent_one(world: World) -> None:
    world.desk.answers |= {"one": ValueError("first"), "two": KeyError("second")}
    result = await world.run("""
        - {id: a, type: call, service: desk, method: one, on_error: b}
        - {id: b, type: call, service: desk, method: two, on_error: c}
        - {id: c, type: end, result: $_last_error}
    """)
    assert (result.output["step"], result.output["class"]) == ("b", "KeyError")


async def test_an_error_handled_in_one_branch_is_not_seen_in_another(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    world.desk.hold("later")
    workflow = flow(
        """
        - id: both
          type: parallel
          output: result
          branches:
            - id: first
              do:
                - {id: a, type: call, service: desk, method: work, on_error: b}
                - {id: b, type: assign, set: {x: $_last_error.step}}
            - id: second
              do:
                - {id: c, type: call, service: desk, method: later}
                - {id: d, type: assign, set: {y: $_last_error}}
        """,
        validate=False,
    )
    task = await world.start(workflow)
    world.desk.release()
    assert (await task).output == ["a", None]


async def test_an_error_in_a_dropped_iteration_is_not_seen_by_the_next(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "fine"]
    workflow = flow(
        """
        - id: each
          type: loop
          over: [1, 2]
          on_item_error: skip
          output: result
          do:
            - {id: a, type: call, service: desk, method: work}
            - {id: b, type: assign, set: {seen: $_last_error}}
        """,
        validate=False,
    )
    assert (await world.run(workflow)).output == [None, None]


async def test_a_handler_that_fails_goes_to_its_own_handler(world: World) -> None:
    world.desk.answers |= {"work": BREAKS, "repair": ValueError("worse")}
    result = await world.run("""
        - {id: a, type: call, service: desk, method: work, on_error: b}
        - {id: b, type: call, service: desk, method: repair, on_error: c}
        - {id: c, type: end, result: $_last_error.message}
    """)
    assert result.output == "worse"


async def test_the_workflows_handler_does_not_handle_its_own_failure(world: World) -> None:
    world.desk.answers |= {"work": BREAKS, "repair": ValueError("worse")}
    workflow = flow(
        """
        - {id: a, type: call, service: desk, method: work, next: done}
        - {id: done, type: end, result: fine}
        - {id: repair, type: call, service: desk, method: repair}
        """,
        on_error="repair",
    )
    result = await world.run(workflow)
    assert result.error == "ValueError: worse"
    assert world.desk.called == ["work", "repair"]


async def test_a_handler_that_leads_back_to_its_step_ends_at_the_limit(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    await world.restart(limits=df.Limits(transitions=50))
    workflow = flow("- {id: a, type: call, service: desk, method: work, on_error: a}\n", validate=False)
    result = await world.run(workflow)
    assert result.error_info is not None
    assert result.error_info.type == "LimitExceeded"
    assert len(world.desk.called) < 50


async def test_a_handler_may_lead_back_after_repairing(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "fine"]
    result = await world.run("""
        - {id: a, type: call, service: desk, method: work, output: result, on_error: repair}
        - {id: repair, type: call, service: desk, method: repair, next: a}
    """)
    assert result.output == "fine"
    assert world.desk.called == ["work", "repair", "work"]


async def test_a_second_visit_has_an_idempotency_key_of_its_own(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "fine"]
    await world.run(
        """
        - {id: a, type: call, service: desk, method: work, output: result, on_error: repair}
        - {id: repair, type: call, service: desk, method: repair, next: a}
        """,
        execution_id="e",
    )
    assert world.desk.keys("work") == ["e:a", "e:a#2"]


async def test_an_exception_without_a_message_is_known_by_its_class(world: World) -> None:
    world.desk.answers["work"] = KeyError()
    result = await world.run("- {id: a, type: call, service: desk, method: work}\n")
    assert result.error == "KeyError"


async def test_a_very_long_message_is_cut(world: World) -> None:
    world.desk.answers["work"] = ValueError("x" * 100_000)
    result = await world.run("- {id: a, type: call, service: desk, method: work}\n")
    assert result.error is not None
    assert len(result.error) < 5_000


async def test_a_message_that_no_encoding_can_hold_is_kept_as_far_as_possible(world: World) -> None:
    world.desk.answers["work"] = ValueError("bad \ud800 text")
    await world.run("- {id: a, type: call, service: desk, method: work}\n", execution_id="e")
    assert (await world.load()).error == "ValueError: bad ? text"


async def test_a_service_that_raises_cancelled_by_itself_fails_its_step(world: World) -> None:
    world.desk.answers["work"] = asyncio.CancelledError()
    result = await world.run("- {id: a, type: call, service: desk, method: work}\n")
    assert result.error_info is not None
    assert (result.status, result.error_info.type) == ("failed", "CancelledError")


async def test_an_exception_group_of_a_service_is_a_step_error(world: World) -> None:
    world.desk.answers["work"] = ExceptionGroup("several", [ValueError("a"), KeyError("b")])
    result = await world.run("- {id: a, type: call, service: desk, method: work}\n")
    assert result.error_info is not None
    assert result.error_info.type == "ExceptionGroup"


async def test_an_exception_whose_text_raises_is_a_step_error(world: World) -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    world.desk.answers["work"] = Nasty()
    result = await world.run("- {id: a, type: call, service: desk, method: work}\n")
    assert result.error_info is not None
    assert result.error_info.type == "Nasty"
