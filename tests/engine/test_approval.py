"""`approval`: who may answer, what an answer is, how often it counts, and until when."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import START, World, flow


def signing(keys: str = "", **document: Any) -> df.WorkflowDef:
    """Something is paid when it was approved; `keys` are more keys of the approval."""
    return flow(
        f"""
        - {{id: sign, type: approval, prompt: "Pay $input.amount?", on_reject: refused, next: pay{keys}}}
        - {{id: pay, type: call, service: desk, method: pay, next: done}}
        - {{id: done, type: end, result: $approvals.sign}}
        - {{id: refused, type: end, result: $approvals.sign}}
        """,
        **document,
    )


SIGN = signing()


async def asked(world: World, workflow: df.WorkflowDef = SIGN) -> df.ExecutionResult:
    return await world.run(workflow, {"amount": 5}, execution_id="e")


async def test_what_is_asked_is_told(world: World) -> None:
    result = await asked(
        world, signing(", approvers: [ada, bob], required: 2, options: [a, b], context: {n: 1}, timeout: 1h")
    )
    assert result.halt is not None
    assert (result.halt.type, result.halt.prompt, result.halt.wait_id) == ("approval", "Pay 5?", "e:sign")
    assert result.halt.data == {
        "type": "approval",
        "prompt": "Pay 5?",
        "context": {"n": 1},
        "approvers": ["ada", "bob"],
        "options": ["a", "b"],
        "required": 2,
        "timeout": 3600.0,
        "requested_at": "2023-11-14T22:13:20Z",
    }
    assert result.halt.deadline is not None
    assert result.halt.deadline.timestamp() == START + 3600


async def test_approved_goes_on(world: World) -> None:
    await asked(world)
    result = await world.runner().resume("e", approved=True, by="ada", comment="fine", selections=["x"])
    assert result.output == {
        "approved": True,
        "votes": [
            {"by": "ada", "approved": True, "comment": "fine", "selections": ["x"], "at": "2023-11-14T22:13:20Z"}
        ],
    }
    assert world.desk.called == ["pay"]


async def test_rejected_goes_where_it_says(world: World) -> None:
    await asked(world)
    result = await world.runner().resume("e", approved=False, by="ada")
    assert (result.output["approved"], world.desk.called) == (False, [])


REJECTING = """
    - {id: sign, type: approval, prompt: sign?, next: done}
    - {id: done, type: end, result: done}
"""


async def test_a_rejection_without_a_target_is_a_step_error(world: World) -> None:
    await world.run(REJECTING, execution_id="e")
    result = await world.runner().resume("e", approved=False, by="ada", comment="too much")
    assert result.error == "ApprovalRejected: rejected by ada: too much"


async def test_a_rejected_execution_cannot_be_approved_afterwards(world: World) -> None:
    await world.run(REJECTING, execution_id="e")
    await world.runner().resume("e", approved=False)
    with pytest.raises(df.ConflictError, match="failed"):
        await world.runner().resume("e", approved=True)
    assert (await world.load()).status == "failed"


async def test_a_rejected_step_is_asked_again_by_a_retry(world: World) -> None:
    await world.run(REJECTING, execution_id="e")
    await world.runner().resume("e", approved=False)
    result = await world.runner().retry("e")
    assert [halt.wait_id for halt in result.halts] == ["e:sign"]
    assert (await world.runner().resume("e", approved=True)).output == "done"


@pytest.mark.parametrize("approved", ["false", "true", 1, 0, None, "yes", [True], 1.0])
async def test_only_true_and_false_are_answers(world: World, approved: Any) -> None:
    await asked(world)
    with pytest.raises(df.ValidationError, match="exactly True or False"):
        await world.runner().resume("e", approved=approved)
    assert (await world.load()).status == "halted"
    assert world.desk.called == []


async def test_a_response_is_no_answer_to_an_approval(world: World) -> None:
    await asked(world)
    before = await world.load()
    with pytest.raises(df.ValidationError, match="approval"):
        await world.runner().resume("e", response=True)
    assert await world.load() == before


async def test_nothing_is_no_answer_to_an_approval(world: World) -> None:
    await asked(world)
    await world.clock.leap(100)
    with pytest.raises(df.ValidationError, match="answer it with approved=True or approved=False"):
        await world.runner().resume("e")
    assert [wait.since.timestamp() for wait in (await world.load()).blocked_on] == [START]


@pytest.mark.parametrize("how", ["assign", "call", "transform", "input", "response"])
async def test_no_variable_counts_as_an_answer(world: World, how: str) -> None:
    first = {
        "assign": "- {id: set, type: assign, set: {approved: true, sign: true}, next: sign}",
        "call": "- {id: set, type: call, service: desk, method: yes_, input: true, output: approved, next: sign}",
        "transform": "- {id: set, type: transform, input: input.l, expression: {first: 1}, output: approved, next: sign}",  # noqa: E501
        "input": "- {id: set, type: assign, set: {x: $input.approved}, next: sign}",
        "response": "- {id: set, type: halt, reason: well, next: sign}",
    }[how]
    workflow = flow(f"""
    {first}
    - {{id: sign, type: approval, prompt: sign?, next: pay}}
    - {{id: pay, type: call, service: desk, method: pay}}
    """)
    result = await world.run(workflow, {"approved": True, "l": [True]}, execution_id="e")
    if how == "response":
        result = await world.runner().resume("e", response={"approved": True})
    assert result.halt is not None
    assert result.halt.step_id == "sign"
    assert "pay" not in world.desk.called


TWICE = flow("""
    - {id: first, type: approval, prompt: first?, next: middle}
    - {id: middle, type: call, service: desk, method: middle, next: second}
    - {id: second, type: approval, prompt: second?, next: pay}
    - {id: pay, type: call, service: desk, method: pay}
""")


async def test_an_answer_to_one_approval_never_answers_the_next(world: World) -> None:
    await world.run(TWICE, execution_id="e")
    result = await world.runner().resume("e", wait_id="e:first", approved=True)
    assert [halt.wait_id for halt in result.halts] == ["e:second"]
    with pytest.raises(df.ConflictError):
        await world.runner().resume("e", wait_id="e:first", approved=True)
    assert world.desk.called == ["middle"]


async def test_a_double_click_does_not_approve_the_next_step(world: World) -> None:
    await world.run(TWICE, execution_id="e")
    world.desk.hold("middle")
    one = world.spawn(world.runner().resume("e", approved=True))
    two = world.spawn(world.runner().resume("e", approved=True))
    await world.clock.advance()
    world.desk.release()
    assert (await one).halted
    with pytest.raises(df.ConflictError):
        await two
    assert [wait.wait_id for wait in (await world.load()).blocked_on] == ["e:second"]
    assert world.desk.called == ["middle"]


async def test_an_answer_to_a_plain_halt_does_not_approve_what_follows(world: World) -> None:
    workflow = flow("""
        - {id: ask, type: halt, reason: well, next: sign}
        - {id: sign, type: approval, prompt: sign?, next: pay}
        - {id: pay, type: call, service: desk, method: pay}
    """)
    await world.run(workflow, execution_id="e")
    with pytest.raises(df.ValidationError):
        await world.runner().resume("e", approved=True)
    result = await world.runner().resume("e", response={"approved": True})
    assert result.halted
    assert world.desk.called == []


# -- people ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["eve", None, "ADA", "ada ", "$input.who"])
async def test_only_a_listed_approver_may_answer(world: World, by: str | None) -> None:
    await asked(world, signing(", approvers: [ada, bob]"))
    before = await world.load()
    with pytest.raises(df.NotAllowed) as raised:
        await world.runner().resume("e", approved=True, by=by)
    assert (raised.value.by, raised.value.wait_id) == (by, "e:sign")
    assert await world.load() == before


async def test_a_rejection_must_come_from_a_listed_approver_too(world: World) -> None:
    await asked(world, signing(", approvers: [ada]"))
    with pytest.raises(df.NotAllowed):
        await world.runner().resume("e", approved=False, by="eve")


async def test_approvers_may_come_from_the_input(world: World) -> None:
    workflow = flow("""
        - {id: sign, type: approval, prompt: sign?, approvers: $input.people, next: done}
        - {id: done, type: end, result: 1}
    """)
    await world.run(workflow, {"people": ["ada"]}, execution_id="e")
    with pytest.raises(df.NotAllowed):
        await world.runner().resume("e", approved=True, by="bob")
    assert (await world.runner().resume("e", approved=True, by="ada")).completed


@pytest.mark.parametrize("people", ["ada", [], [1], None, {"ada": 1}])
async def test_approvers_that_are_no_list_of_names_are_a_step_error_or_anybody(world: World, people: Any) -> None:
    workflow = flow("- {id: sign, type: approval, prompt: sign?, approvers: $input.people}\n")
    result = await world.run(workflow, {"people": people})
    assert result.halted if people is None else result.error_info.type == "ApprovalError"  # type: ignore[union-attr]


@pytest.mark.parametrize("by", ["", 5, ["ada"], True, "\ud800", "x" * 256])
async def test_who_answers_is_a_name(world: World, by: Any) -> None:
    await asked(world)
    with pytest.raises(df.ValidationError, match="name of a person"):
        await world.runner().resume("e", approved=True, by=by)


async def test_without_approvers_anybody_may_answer(world: World) -> None:
    await asked(world)
    result = await world.runner().resume("e", approved=True)
    assert result.output["votes"][0]["by"] is None


BOTH = signing(", approvers: [ada, bob, cid], required: 2")


async def test_several_people_must_approve(world: World) -> None:
    await asked(world, BOTH)
    first = await world.runner().resume("e", approved=True, by="ada")
    assert [halt.wait_id for halt in first.halts] == ["e:sign"]
    assert world.desk.called == []
    second = await world.runner().resume("e", approved=True, by="bob")
    assert [vote["by"] for vote in second.output["votes"]] == ["ada", "bob"]


async def test_one_person_counts_once(world: World) -> None:
    await asked(world, BOTH)
    await world.runner().resume("e", approved=True, by="ada")
    with pytest.raises(df.ConflictError, match="'ada' has already answered"):
        await world.runner().resume("e", approved=True, by="ada")
    assert (await world.load()).status == "halted"


async def test_one_person_counts_once_after_a_restart(world: World) -> None:
    await asked(world, BOTH)
    await world.runner().resume("e", approved=True, by="ada")
    await world.restart()
    with pytest.raises(df.ConflictError):
        await world.runner().resume("e", approved=True, by="ada")


async def test_who_has_approved_cannot_reject_any_more(world: World) -> None:
    await asked(world, BOTH)
    await world.runner().resume("e", approved=True, by="ada")
    with pytest.raises(df.ConflictError):
        await world.runner().resume("e", approved=False, by="ada")


async def test_the_first_rejection_rejects(world: World) -> None:
    await asked(world, BOTH)
    await world.runner().resume("e", approved=True, by="ada")
    result = await world.runner().resume("e", approved=False, by="bob")
    assert (result.output["approved"], len(result.output["votes"])) == (False, 2)


async def test_several_approvals_need_names(world: World) -> None:
    await asked(world, signing(", required: 2"))
    with pytest.raises(df.ValidationError, match="say who you are"):
        await world.runner().resume("e", approved=True)


async def test_votes_survive_a_restart(world: World) -> None:
    await asked(world, BOTH)
    await world.runner().resume("e", approved=True, by="ada", comment="one")
    await world.restart()
    result = await world.runner().resume("e", approved=True, by="bob", comment="two")
    assert [vote["comment"] for vote in result.output["votes"]] == ["one", "two"]


async def test_votes_at_once_all_count(world: World) -> None:
    await asked(world, signing(", required: 3"))
    tasks = [world.spawn(world.runner().resume("e", approved=True, by=name)) for name in ("ada", "bob", "cid")]
    await world.clock.advance(1)
    assert sum(task.result().completed for task in tasks) >= 1
    assert world.desk.called == ["pay"]


async def test_votes_beyond_what_is_required_are_refused(world: World) -> None:
    await asked(world, signing(", required: 2"))
    tasks = [world.spawn(world.runner().resume("e", approved=True, by=name)) for name in ("ada", "bob", "cid", "dan")]
    await world.clock.advance(1)
    refused = [task for task in tasks if isinstance(task.exception(), df.ConflictError)]
    assert len(refused) == 2
    assert world.desk.called == ["pay"]


async def test_selections_must_be_among_the_options(world: World) -> None:
    await asked(world, signing(", options: [card, cash]"))
    with pytest.raises(df.ValidationError, match="not one of the options"):
        await world.runner().resume("e", approved=True, selections=["gold"])
    result = await world.runner().resume("e", approved=True, selections=["cash"])
    assert result.output["votes"][0]["selections"] == ["cash"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"comment": 5},
        {"comment": "\ud800"},
        {"comment": "x" * 10_001},
        {"selections": "cash"},
        {"selections": 5},
        {"selections": [object()]},
    ],
)
async def test_comment_and_selections_are_checked(world: World, wrong: dict[str, Any]) -> None:
    await asked(world)
    with pytest.raises(df.ValidationError):
        await world.runner().resume("e", approved=True, **wrong)


async def test_the_trail_says_who_approved_what_and_when(world: World) -> None:
    await asked(world, BOTH)
    await world.clock.leap(60)
    await world.runner().resume("e", approved=True, by="ada", comment="fine")
    halted, answered = [entry for entry in await world.entries() if entry.path == "sign"]
    assert halted.output["prompt"] == "Pay 5?"
    assert (answered.action, answered.actor, answered.timestamp.timestamp()) == ("answered", "ada", START + 60)
    assert answered.metadata["answer"]["approved"] is True
    assert answered.metadata["answer"]["comment"] == "fine"


async def test_the_trail_binds_the_answer_to_what_was_shown(world: World) -> None:
    await asked(world)
    wait = (await world.load()).blocked_on[0]
    await world.runner().resume("e", approved=True, by="ada")
    answered = next(entry for entry in await world.entries() if entry.action == "answered")
    assert answered.metadata["answer"]["shown"] == wait.shown  # type: ignore[union-attr]
    assert len(wait.shown) == 64  # type: ignore[union-attr]


async def test_decisions_are_kept_apart_by_step(world: World) -> None:
    workflow = flow("""
        - {id: first, type: approval, prompt: first?, on_reject: second, next: second}
        - {id: second, type: approval, prompt: second?, on_reject: done, next: done}
        - {id: done, type: end, result: [$approvals.first.approved, $approvals.second.approved]}
    """)
    await world.run(workflow, execution_id="e")
    await world.runner().resume("e", approved=False)
    await world.restart()
    assert (await world.runner().resume("e", approved=True)).output == [False, True]


async def test_decisions_are_no_variables(world: World) -> None:
    await asked(world)
    await world.runner().resume("e", approved=True)
    assert set(await world.variables()) == {"result"}


# -- timeouts ----------------------------------------------------------------------------------------------------------


def timed() -> df.WorkflowDef:
    return flow("""
        - {id: sign, type: approval, prompt: sign?, timeout: 1h, on_timeout: late, next: pay}
        - {id: pay, type: call, service: desk, method: pay}
        - {id: late, type: end, result: late}
    """)


async def test_an_answer_before_the_deadline_counts(world: World) -> None:
    await asked(world, timed())
    await world.clock.leap(3599)
    assert (await world.runner().resume("e", approved=True)).completed
    assert world.desk.called == ["pay"]


async def test_an_answer_after_the_deadline_is_refused_and_the_timeout_fires(world: World) -> None:
    await asked(world, timed())
    await world.restart()
    await world.clock.leap(3600)
    with pytest.raises(df.ConflictError, match="timed out"):
        await world.runner().resume("e", approved=True)
    assert ((await world.load()).result, world.desk.called) == ("late", [])


async def test_the_timeout_fires_without_an_answer(world: World) -> None:
    await asked(world, timed())
    await world.restart()
    await world.clock.leap(3600)
    assert (await world.runner().recover("e")).output == "late"


async def test_a_timeout_without_a_target_is_a_step_error(world: World) -> None:
    await asked(world, flow("- {id: sign, type: approval, prompt: sign?, timeout: 1h}\n"))
    await world.clock.leap(3600)
    result = await world.runner().recover("e")
    assert result.error == "TimeoutError: not approved within 3600 s"


async def test_a_vote_does_not_move_the_deadline(world: World) -> None:
    await asked(world, signing(", required: 2, timeout: 1h"))
    await world.clock.leap(1800)
    result = await world.runner().resume("e", approved=True, by="ada")
    assert result.halt is not None
    assert result.halt.deadline is not None
    assert result.halt.deadline.timestamp() == START + 3600


async def test_an_answer_that_races_the_timeout_has_one_winner(world: World) -> None:
    """Both at the very moment of the deadline: the deadline has passed."""
    world.desk.hold("work")
    workflow = flow("""
        - id: both
          type: parallel
          output: out
          branches:
            - id: ask
              do:
                - {id: sign, type: approval, prompt: sign?, timeout: 60, on_timeout: late}
                - {id: yes_, type: assign, set: {x: approved}, next: __FINISHED__}
                - {id: late, type: assign, set: {x: late}, next: __FINISHED__}
            - {id: work, type: call, service: desk, method: work}
          next: done
        - {id: done, type: end, result: $out}
    """, validate=False)  # fmt: skip
    task = await world.start(workflow)
    world.clock.time += 60
    answer = world.spawn(world.runner().resume("e", approved=True))
    await world.clock.advance()
    world.desk.release()
    assert (await task).output[0] == "late"
    assert isinstance(answer.exception(), df.ConflictError)


async def test_the_decision_of_a_timeout_says_so(world: World) -> None:
    workflow = flow("""
        - {id: sign, type: approval, prompt: sign?, timeout: 60, on_timeout: late, next: done}
        - {id: done, type: end, result: done}
        - {id: late, type: end, result: $approvals.sign}
    """, validate=False)  # fmt: skip
    await world.run(workflow, execution_id="e")
    await world.clock.leap(60)
    assert (await world.runner().recover("e")).output == {"approved": False, "votes": [], "timed_out": True}
