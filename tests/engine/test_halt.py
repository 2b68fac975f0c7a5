"""`halt`: waits for a response, and what may be one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import START, World, flow

ASK = flow("""
    - {id: before, type: call, service: desk, method: before, next: ask}
    - {id: ask, type: halt, reason: "what now, $input.name?", data: {choices: [a, b]}, next: after}
    - {id: after, type: call, service: desk, method: after, input: $response, output: result}
""")


async def test_a_halted_result_says_what_is_asked(world: World) -> None:
    result = await world.run(ASK, {"name": "Ada"}, execution_id="e")
    assert result.halted
    assert result.halt is not None
    assert (result.halt.type, result.halt.step_id, result.halt.wait_id) == ("halt", "ask", "e:ask")
    assert result.halt.prompt == "what now, Ada?"
    assert result.halt.data == {"type": "halt", "reason": "what now, Ada?", "choices": ["a", "b"]}


async def test_the_row_of_a_halted_execution_says_what_it_waits_for(world: World) -> None:
    await world.run(ASK, {"name": "Ada"}, execution_id="e")
    execution = await world.load()
    assert (execution.status, execution.current_step, execution.recover_to) == ("halted", "ask", "ask")
    assert [wait.wait_id for wait in execution.blocked_on] == ["e:ask"]
    assert execution.halt_data == {"type": "halt", "reason": "what now, Ada?", "choices": ["a", "b"]}
    assert execution.owner is None


async def test_a_halted_execution_costs_its_process_nothing(world: World) -> None:
    await world.run(ASK, execution_id="e")
    assert world.runtime.engine.runs == {}
    assert world.clock.pending == []


@pytest.mark.parametrize("response", [False, None, 0, "", [], {"a": [1]}, "text", 2.5])
async def test_whatever_is_answered_is_the_response(world: World, response: Any) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().resume("e", response=response)
    assert world.desk.calls[-1] == ("after", response)


async def test_without_a_response_it_is_null(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().resume("e")
    assert world.desk.calls[-1] == ("after", None)


async def test_the_response_of_an_earlier_halt_is_not_that_of_a_later_one(world: World) -> None:
    workflow = flow("""
        - {id: one, type: halt, reason: one, next: two}
        - {id: two, type: halt, reason: two, next: done}
        - {id: done, type: end, result: {got: $response}}
    """)
    await world.run(workflow, execution_id="e")
    await world.runner().resume("e", response="first")
    assert (await world.runner().resume("e")).output == {"got": None}


async def test_a_halt_as_the_last_step_completes_when_it_is_answered(world: World) -> None:
    await world.run("- {id: ask, type: halt, reason: well}\n", execution_id="e")
    result = await world.runner().resume("e", response=1)
    assert result.completed
    assert await world.variables() == {"response": 1}


async def test_it_goes_on_at_the_resume_step(world: World) -> None:
    workflow = flow("""
        - {id: ask, type: halt, reason: well, resume_step: there}
        - {id: there, type: end, result: $response}
    """)
    result = await world.run(workflow, execution_id="e")
    assert result.halt is not None
    assert result.halt.resume_step == "there"
    assert (await world.load()).recover_to == "there"
    assert (await world.runner().resume("e", response=1)).output == 1


async def test_finished_steps_do_not_run_again(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.restart()
    await world.runner().resume("e", response=1)
    assert world.desk.called == ["before", "after"]


async def test_a_halt_visited_again_is_another_wait(world: World) -> None:
    workflow = flow("""
        - {id: ask, type: halt, reason: well, next: which}
        - {id: which, type: router, routes: [{when: {field: response, value: again}, then: ask}], default: done}
        - {id: done, type: end, result: $response}
    """)
    await world.run(workflow, execution_id="e")
    result = await world.runner().resume("e", response="again")
    assert [halt.wait_id for halt in result.halts] == ["e:ask#2"]
    assert (await world.runner().resume("e", response="enough")).output == "enough"


async def test_the_trail_says_who_answered(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().resume("e", response={"x": 1}, by="ada", comment="fine")
    entry = next(entry for entry in await world.entries() if entry.action == "answered")
    assert (entry.path, entry.actor, entry.output) == ("ask", "ada", {"x": 1})
    assert entry.metadata["answer"] == {"comment": "fine"}


async def test_the_trail_of_a_halt_and_its_answer(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().resume("e", response=1)
    assert await world.trail() == [
        "started",
        "before completed",
        "ask halted",
        "halted",
        "resumed",
        "ask answered",
        "after completed",
        "finished",
    ]


@pytest.mark.parametrize(
    "answer", [{"approved": True}, {"approved": False}, {"selections": ["a"]}, {"response": 1, "approved": True}]
)
async def test_an_approval_is_no_answer_to_a_halt(world: World, answer: dict[str, Any]) -> None:
    await world.run(ASK, execution_id="e")
    with pytest.raises(df.ValidationError, match="is of type 'halt': answer it with response="):
        await world.runner().resume("e", **answer)
    assert (await world.load()).status == "halted"


@pytest.mark.parametrize("response", [float("nan"), object(), {1: 2}, 2**70, "\ud800"])
async def test_a_response_that_cannot_be_stored_is_refused(world: World, response: Any) -> None:
    await world.run(ASK, execution_id="e")
    with pytest.raises(df.ValidationError, match=r"response.*:"):
        await world.runner().resume("e", response=response)
    assert (await world.runner().resume("e", response=1)).completed


@pytest.mark.parametrize("wrong", [{"by": 5}, {"by": ""}, {"comment": object()}, {"comment": "\ud800"}])
async def test_who_answers_and_what_they_say_is_checked(world: World, wrong: dict[str, Any]) -> None:
    await world.run(ASK, execution_id="e")
    with pytest.raises(df.ValidationError):
        await world.runner().resume("e", response=1, **wrong)
    assert (await world.runner().resume("e", response=1)).completed


async def test_a_response_is_stored_as_data(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().resume("e", response=(1, {"t": timedelta(seconds=90)}))
    assert world.desk.calls[-1] == ("after", [1, {"t": "PT90S"}])


async def test_a_response_that_looks_like_a_reference_stays_text(world: World) -> None:
    await world.run(ASK, execution_id="e")
    assert (await world.runner().resume("e", response="$input.name")).output == "$input.name"


# -- who may be resumed ------------------------------------------------------------------------------------------------


async def test_an_execution_that_is_over_cannot_be_resumed(world: World) -> None:
    await world.run(ASK, execution_id="e")
    await world.runner().resume("e", response=1)
    before = await world.entries()
    with pytest.raises(df.ConflictError, match="completed"):
        await world.runner().resume("e", response=2)
    assert await world.entries() == before
    assert world.desk.called == ["before", "after"]


async def test_an_execution_that_failed_cannot_be_resumed(world: World) -> None:
    world.desk.answers["before"] = ValueError("no")
    await world.run(ASK, execution_id="e")
    with pytest.raises(df.ConflictError, match="failed"):
        await world.runner().resume("e", response=1)


async def test_an_execution_that_runs_cannot_be_resumed(world: World) -> None:
    world.desk.hold("before")
    task = await world.start(ASK)
    with pytest.raises(df.ConflictError, match="does not wait"):
        await world.runner().resume("e", response=1)
    world.desk.release()
    assert (await task).halted


async def test_an_execution_that_has_not_begun_cannot_be_resumed(world: World) -> None:
    world.runner(ASK)
    await world.store.save(df.Execution(id="p", workflow_id="flow", status=df.Status.PENDING))
    with pytest.raises(df.ConflictError, match="pending"):
        await world.runner().resume("p", response=1)
    assert world.desk.called == []


async def test_an_execution_of_another_workflow_cannot_be_resumed(world: World) -> None:
    await world.run(ASK, execution_id="e")
    other = world.runner(flow("- {id: x, type: call, service: desk, method: other}\n", id="other"))
    with pytest.raises(df.ConflictError, match="belongs to workflow 'flow'"):
        await other.resume("e", response=1)
    assert (await world.load()).status == "halted"
    assert world.desk.called == ["before"]


async def test_an_execution_that_is_not_there_cannot_be_resumed(world: World) -> None:
    with pytest.raises(df.ExecutionNotFound) as raised:
        await world.runner(ASK).resume("nobody", response=1)
    assert raised.value.execution_id == "nobody"


async def test_a_wait_that_is_not_there_cannot_be_answered(world: World) -> None:
    await world.run(ASK, execution_id="e")
    with pytest.raises(df.ConflictError, match="does not wait for wait 'e:other'"):
        await world.runner().resume("e", wait_id="e:other", response=1)


async def test_of_two_answers_at_once_one_counts(world: World) -> None:
    await world.run(ASK, execution_id="e")
    tasks = [world.spawn(world.runner().resume("e", response=n)) for n in range(5)]
    await world.clock.advance(1)
    outcomes = [task.exception() for task in tasks]
    assert sum(outcome is None for outcome in outcomes) == 1
    assert all(isinstance(outcome, df.ConflictError) for outcome in outcomes if outcome is not None)
    assert world.desk.called == ["before", "after"]


async def test_an_answer_repeated_after_a_restart_is_refused(world: World) -> None:
    await world.run(ASK, execution_id="e")
    world.desk.hold("after")
    world.spawn(world.runner().resume("e", wait_id="e:ask", response=1))
    await world.clock.advance()
    await world.restart()
    with pytest.raises(df.ConflictError):
        await world.runner().resume("e", wait_id="e:ask", response=1)


# -- timeouts ----------------------------------------------------------------------------------------------------------

TIMED = flow("""
    - {id: ask, type: halt, reason: well, timeout: 1h, on_timeout: late, next: after}
    - {id: after, type: end, result: $response}
    - {id: late, type: end, result: late}
""")


async def test_the_deadline_is_told(world: World) -> None:
    result = await world.run(TIMED, execution_id="e")
    assert result.halt is not None
    assert result.halt.deadline is not None
    assert result.halt.deadline.timestamp() == START + 3600


async def test_an_answer_in_time_counts(world: World) -> None:
    await world.run(TIMED, execution_id="e")
    await world.clock.leap(3599)
    assert (await world.runner().resume("e", response=1)).output == 1


async def test_an_answer_that_comes_late_is_refused_and_the_timeout_fires(world: World) -> None:
    await world.run(TIMED, execution_id="e")
    await world.clock.leap(3600)
    with pytest.raises(df.ConflictError, match="timed out"):
        await world.runner().resume("e", response=1)
    assert (await world.load()).result == "late"


async def test_recovering_fires_what_timed_out(world: World) -> None:
    await world.run(TIMED, execution_id="e")
    await world.restart()
    await world.clock.leap(3600)
    assert (await world.runner().recover("e")).output == "late"


async def test_recovering_before_the_deadline_changes_nothing(world: World) -> None:
    await world.run(TIMED, execution_id="e")
    before = await world.entries()
    await world.clock.leap(3599)
    assert (await world.runner().recover("e")).halted
    assert await world.entries() == before


async def test_a_timeout_without_a_target_is_a_step_error(world: World) -> None:
    await world.run(
        """
        - {id: ask, type: halt, reason: well, timeout: 60, on_error: sorry, next: done}
        - {id: done, type: end, result: done}
        - {id: sorry, type: end, result: $_last_error.class}
        """,
        execution_id="e",
    )
    await world.clock.leap(60)
    assert (await world.runner().recover("e")).output == "TimeoutError"


async def test_a_timeout_fires_while_other_branches_run(world: World) -> None:
    world.desk.hold("work")
    task = await world.start("""
        - id: both
          type: parallel
          output: out
          branches:
            - id: ask
              do:
                - {id: well, type: halt, reason: well, timeout: 60, on_timeout: late}
                - {id: fine, type: assign, set: {x: fine}, next: last}
                - {id: late, type: assign, set: {x: late}, next: last}
                - {id: last, type: call, service: desk, method: last, input: 1}
            - {id: work, type: call, service: desk, method: work}
          next: done
        - {id: done, type: end, result: $x}
    """)
    await world.clock.advance(60)
    assert world.desk.called == ["work", "last"]
    world.desk.release()
    assert (await task).output == "late"


# -- answering by itself -----------------------------------------------------------------------------------------------


async def test_running_to_the_end_with_somebody_who_answers(world: World) -> None:
    asked: list[df.Halt] = []

    async def answer(halt: df.Halt) -> str:
        asked.append(halt)
        return "fine"

    result = await world.runner(ASK).run_until_complete({"name": "Ada"}, on_halt=answer)
    assert result.output == "fine"
    assert [halt.prompt for halt in asked] == ["what now, Ada?"]


async def test_running_to_the_end_with_nobody_who_answers_stops_at_the_halt(world: World) -> None:
    assert (await world.runner(ASK).run_until_complete()).halted


async def test_running_to_the_end_with_approvals(world: World) -> None:
    workflow = flow("""
        - {id: sign, type: approval, prompt: sign?, approvers: [ada], next: ask}
        - {id: ask, type: halt, reason: well, next: done}
        - {id: done, type: end, result: [$approvals.sign.votes.0.by, $response]}
    """)

    def answer(halt: df.Halt) -> Any:
        return {"approved": True, "by": "ada"} if halt.type == "approval" else 5

    assert (await world.runner(workflow).run_until_complete(on_halt=answer)).output == ["ada", 5]
