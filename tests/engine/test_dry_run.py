"""Dry runs: every step resolves and routes as in a real one, and nothing outside hears of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

import durable_flow as df
from tests.engine.aid import World, flow, working
from tests.engine.pieces import CREW
from tests.reference import SCENARIOS

ORDER = flow(
    """
    - {id: reserve, type: call, service: desk, method: reserve, input: {item: $input.item}, output: stock, next: enough}
    - id: enough
      type: router
      routes: [{when: {field: $stock.left, op: truthy}, then: charge}]
      default: sorry
    - {id: charge, type: call, service: desk, method: charge, input: {of: $stock.id}, output: paid, next: done}
    - {id: done, type: end, result: $paid}
    - {id: sorry, type: end, result: sold out}
    """,
    inputs={"item": "string"},
)


async def entries(world: World, execution_id: str) -> dict[str, df.Entry]:
    """The entries of steps by path."""
    return {entry.path: entry for entry in await world.store.entries(execution_id) if entry.path}


async def dry(world: World, workflow: df.WorkflowDef | str, input: Any = None, **options: Any) -> df.ExecutionResult:
    return await world.runner(workflow).run(input, dry_run=True, **options)


# -- what is not done --------------------------------------------------------------------------------------------------


async def test_a_call_is_not_made_but_recorded_with_its_input(world: World) -> None:
    result = await dry(world, ORDER, {"item": "pen"}, execution_id="e")
    entry = (await entries(world, "e"))["reserve"]
    assert (world.desk.calls, result.output, result.dry_run) == ([], "sold out", True)
    assert (entry.action, entry.input, entry.output) == ("completed", {"item": "pen"}, None)
    assert entry.metadata == {"dry_run": True, "would": "desk.reserve"}


async def test_a_fixture_answers_a_call_and_the_routes_follow_it(world: World) -> None:
    fixtures = {"reserve": {"id": "r1", "left": 3}, "charge": "paid"}
    result = await dry(world, ORDER, {"item": "pen"}, execution_id="e", fixtures=fixtures)
    found = await entries(world, "e")
    assert (world.desk.calls, result.output) == ([], "paid")
    assert found["charge"].input == {"of": "r1"}
    assert found["reserve"].metadata == {"dry_run": True, "would": "desk.reserve", "fixture": "reserve"}


async def test_it_needs_no_service_to_be_there(world: World) -> None:
    await world.restart(services={}, gates={})
    workflow = flow("""
        - {id: buy, type: call, service: Nobody, method: buys, compensate: {service: Nobody, method: returns}, next: ok}
        - {id: ok, type: gate, resolver: nothing, next: bad}
        - {id: bad, type: call, service: Nobody, method: breaks}
    """)
    result = await dry(world, workflow, fixtures={"bad": {"error": {"type": "Broken"}}}, execution_id="e")
    assert result.error == "Broken"
    assert (await entries(world, "e"))["~/compensate/buy"].metadata["would"] == "Nobody.returns"


async def test_a_secret_is_never_asked_for_and_never_shown(world: World) -> None:
    def refuse(name: str) -> str:
        raise AssertionError("a dry run asked for a secret")

    await world.restart(secrets=refuse)
    steps = "- {id: a, type: call, service: desk, method: m, input: {key: $secrets.KEY, pin: $input.pin}}\n"
    workflow = flow(steps, inputs={"pin": {"type": "string", "secret": True}})
    await dry(world, workflow, {"pin": "sesame"}, execution_id="e")
    assert (await entries(world, "e"))["a"].input == {"key": "***", "pin": "***"}


async def test_an_answer_with_a_secret_in_it_is_masked(world: World) -> None:
    steps = "- {id: a, type: call, service: desk, method: m}\n"
    workflow = flow(steps, inputs={"pin": {"type": "string", "secret": True}})
    await dry(world, workflow, {"pin": "sesame"}, execution_id="e", fixtures={"a": "open sesame"})
    assert (await entries(world, "e"))["a"].output == "open ***"


async def test_no_time_passes_and_none_runs_out(world: World) -> None:
    workflow = flow(
        """
        - {id: nap, type: wait, for: 30d, next: until}
        - {id: until, type: wait, until: "2099-01-01T00:00:00Z", next: slow}
        - {id: slow, type: call, service: desk, method: slow, timeout: 1, retry: {max_attempts: 9}}
        """,
        timeout=5,
    )
    begun = world.clock.time
    result = await dry(world, workflow, execution_id="e")
    assert (result.status, world.clock.time) == ("completed", begun)
    assert (await entries(world, "e"))["nap"].metadata["would"] == "wait for 30d"


async def test_a_dry_run_that_lay_for_days_does_not_time_out(world: World) -> None:
    world.runner(flow("- {id: a, type: call, service: desk, method: m, output: result}\n", timeout=5))
    await world.runtime.background("flow").run(execution_id="e", dry_run=True, fixtures={"a": 1})
    await world.clock.leap(86_400)
    assert (await world.runner().recover("e")).output == 1


async def test_what_is_delivered_at_most_once_leaves_no_marker(world: World) -> None:
    await dry(world, "- {id: a, type: call, service: desk, method: m, delivery: at_most_once}\n", execution_id="e")
    assert [entry.action for entry in await world.store.entries("e")] == ["started", "completed", "finished"]


async def test_a_played_error_is_final_whatever_the_step_retries(world: World) -> None:
    steps = "- {id: a, type: call, service: desk, method: m, retry: {max_attempts: 5, on_exhausted: halt}}\n"
    result = await dry(world, steps, fixtures={"a": {"error": {"type": "Broken", "message": "in two"}}})
    assert (result.status, result.error) == ("failed", "Broken: in two")


# -- what is assumed ---------------------------------------------------------------------------------------------------


async def test_an_approval_is_given_by_as_many_as_are_required(world: World) -> None:
    steps = """
        - {id: ask, type: approval, prompt: Well, required: 3, approvers: [ann, bob, cid, dan], timeout: 1, next: end}
        - {id: end, type: end, result: $approvals.ask}
    """
    output = (await dry(world, steps)).output
    assert output["approved"] is True
    assert [vote["by"] for vote in output["votes"]] == ["ann", "bob", "cid"]


async def test_three_approvals_without_names_are_given_by_nobody(world: World) -> None:
    steps = """
        - {id: ask, type: approval, prompt: Well, required: 3, next: end}
        - {id: end, type: end, result: $approvals.ask.votes}
    """
    assert [vote["by"] for vote in (await dry(world, steps)).output] == [None, None, None]


ASKING = """
    - {id: ask, type: approval, prompt: Go, approvers: [ann, bob], timeout: 9, on_reject: no, on_timeout: late, next: y}
    - {id: y, type: end, result: [yes, $approvals.ask.votes]}
    - {id: no, type: end, result: [no, $approvals.ask.votes]}
    - {id: late, type: end, result: [late, $approvals.ask.votes]}
"""


async def test_a_fixture_rejects_with_a_name_and_a_comment(world: World) -> None:
    output = (await dry(world, ASKING, fixtures={"ask": {"approved": False, "by": "bob", "comment": "dear"}})).output
    assert (output[0], output[1][0]["by"], output[1][0]["comment"]) == ("no", "bob", "dear")
    assert (await dry(world, ASKING, fixtures={"ask": False})).output[0] == "no"


async def test_a_fixture_cannot_have_an_approval_given_by_who_may_not(world: World) -> None:
    result = await dry(world, ASKING, fixtures={"ask": {"approved": True, "by": "eve"}})
    assert result.error is not None
    assert result.error.startswith("NotAllowed: 'eve' may not answer")


@pytest.mark.parametrize(
    ("steps", "late"),
    [
        (ASKING, "ask"),
        ("- {id: h, type: halt, timeout: 5, on_timeout: e}\n- {id: e, type: end, result: [late]}\n", "h"),
        ("- {id: s, type: signal, name: n, timeout: 5, on_timeout: e}\n- {id: e, type: end, result: [late]}\n", "s"),
        ("- {id: g, type: gate, resolver: r, timeout: 5, on_timeout: e}\n- {id: e, type: end, result: [late]}\n", "g"),
    ],
    ids=["approval", "halt", "signal", "gate"],
)
async def test_a_fixture_lets_the_time_of_a_wait_run_out(world: World, steps: str, late: str) -> None:
    assert (await dry(world, steps, fixtures={late: {"error": {"type": "TimeoutError"}}})).output[0] == "late"


async def test_time_that_runs_out_without_a_target_is_the_error_of_the_step(world: World) -> None:
    steps = "- {id: h, type: halt, timeout: 5}\n"
    result = await dry(world, steps, fixtures={"h": {"error": {"type": "TimeoutError"}}})
    assert result.error == "TimeoutError: nobody responded within 5 s"


async def test_a_gate_is_open_unless_its_fixture_says_no(world: World) -> None:
    steps = """
        - {id: g, type: gate, resolver: checks, params: {pr: 7}, output: log, on_reject: shut, next: open}
        - {id: open, type: end, result: [open, $log]}
        - {id: shut, type: end, result: [shut, $log]}
    """
    assert (await dry(world, steps, execution_id="e")).output == ["open", None]
    assert (await entries(world, "e"))["g"].input == {"pr": 7}
    assert (await dry(world, steps, fixtures={"g": {"approved": True, "output": "ok"}})).output == ["open", "ok"]
    assert (await dry(world, steps, fixtures={"g": {"approved": False, "output": "red"}})).output == ["shut", "red"]
    assert (await dry(world, steps, fixtures={"g": False})).output == ["shut", None]


async def test_halts_and_signals_get_their_fixtures_else_null(world: World) -> None:
    steps = """
        - {id: h, type: halt, data: {known: $input}, next: s}
        - {id: s, type: signal, name: go, output: told, next: end}
        - {id: end, type: end, result: [$response, $told]}
    """
    assert (await dry(world, steps)).output == [None, None]
    assert (await dry(world, steps, fixtures={"h": "left", "s": {"n": 1}})).output == ["left", {"n": 1}]


async def test_a_child_is_a_dry_run_with_the_fixtures_of_its_own_document(world: World) -> None:
    child = flow(
        "- {id: work, type: call, service: desk, method: work, output: x, next: ask}\n"
        "- {id: ask, type: halt, next: end}\n- {id: end, type: end, result: [$x, $response]}\n",
        id="child",
        fixtures={"work": "worked"},
    )
    world.know(child)
    steps = """
        - {id: sub, type: workflow, workflow_id: child, output: out, timeout: 1, next: apart}
        - {id: apart, type: workflow, workflow_id: child, wait: false, next: end}
        - {id: end, type: end, result: $out}
    """
    assert (await dry(world, steps, execution_id="e")).output == ["worked", None]
    await world.clock.advance()
    children = [await world.load(name) for name in ("e.sub", "e.apart")]
    assert [(one.dry_run, one.status) for one in children] == [(True, "completed")] * 2
    assert world.desk.calls == []


async def test_a_fixture_stands_in_for_a_child_that_nobody_knows(world: World) -> None:
    steps = "- {id: sub, type: workflow, workflow_id: unknown, input: {n: 1}, output: result}\n"
    assert (await dry(world, steps, execution_id="e", fixtures={"sub": {"got": 5}})).output == {"got": 5}
    entry = (await entries(world, "e"))["sub"]
    assert (entry.input, entry.metadata["would"]) == ({"n": 1}, "workflow unknown")
    assert await world.store.load("e.sub") is None


async def test_what_undoes_steps_and_what_always_runs_is_played_too(world: World) -> None:
    workflow = flow(
        """
        - id: book
          type: call
          service: desk
          method: book
          output: b
          compensate: {service: desk, method: unbook, input: {b: $b}}
          next: pay
        - {id: pay, type: call, service: desk, method: pay}
        """,
        fixtures={"book": "b1", "pay": {"error": {"type": "Declined", "message": "no"}}},
    )
    steps = [{"id": "tell", "type": "call", "service": "desk", "method": "tell", "input": "$outcome.status"}]
    workflow = df.load({**workflow.document, "finally": steps})
    fixtures = {"~/compensate/book": {"error": {"type": "Late"}}, "tell": "told"}
    result = await dry(world, workflow, execution_id="e", fixtures=fixtures)
    found = await entries(world, "e")
    assert (result.error, result.compensated, world.desk.calls) == ("Declined: no", True, [])
    assert (found["~/compensate/book"].input, found["~/compensate/book"].error) == ({"b": "b1"}, "Late")
    assert (found["~/finally/tell"].input, found["~/finally/tell"].output) == ("failed", "told")


# -- fixtures ----------------------------------------------------------------------------------------------------------


async def test_those_of_the_document_have_no_effect_in_a_real_run(world: World) -> None:
    steps = "- {id: a, type: call, service: desk, method: m, input: 5, output: result}\n"
    workflow = flow(steps, fixtures={"a": "played"})
    assert (await world.run(workflow)).output == 5
    assert (await dry(world, workflow)).output == "played"


async def test_what_is_given_with_the_run_comes_before_the_document_and_a_path_before_an_id(world: World) -> None:
    steps = """
        - {id: all, type: loop, over: [1, 2, 3], output: result, do: [
            {id: a, type: call, service: desk, method: m, input: $item}]}
    """
    workflow = flow(steps, fixtures={"a": "doc", "all[1]/a": "doc 1"})
    assert (await dry(world, workflow)).output == ["doc", "doc 1", "doc"]
    assert (await dry(world, workflow, fixtures={"all[2]/a": "mine"})).output == ["doc", "doc 1", "mine"]
    assert (await dry(world, workflow, fixtures={"a": "mine"})).output == ["mine"] * 3


async def test_each_visit_of_a_step_can_have_its_own(world: World) -> None:
    steps = """
        - {id: look, type: call, service: desk, method: look, output: state, next: ready}
        - {id: ready, type: router, routes: [{when: {field: $state, value: done}, then: end}], default: nap}
        - {id: nap, type: wait, for: 1h, next: look}
        - {id: end, type: end, result: $execution.step_key}
    """
    result = await dry(world, steps, execution_id="e", fixtures={"look": "busy", "look#3": "done"})
    assert result.completed
    states = [entry.output for entry in await world.store.entries("e") if entry.step_id == "look"]
    assert states == ["busy", "busy", "done"]
    assert (await dry(world, steps, fixtures={"look#1": "done"})).completed


async def test_a_circle_that_only_an_answer_leaves_ends_with_an_error_that_says_so(world: World) -> None:
    steps = """
        - {id: look, type: call, service: desk, method: look, output: state, on_error: look, next: ready}
        - {id: ready, type: router, routes: [{when: {field: $state, value: done}, then: end}], default: nap}
        - {id: nap, type: wait, for: 1h, next: look}
        - {id: end, type: end}
    """
    steps = steps.replace(", on_error: look", "")
    result = await dry(world, steps)
    assert result.error_info is not None
    assert (result.error_info.type, result.error_info.path) == ("DryRunCircles", "look#101")


async def test_a_circle_through_an_error_handler_ends_as_well(world: World) -> None:
    steps = """
        - {id: a, type: call, service: desk, method: m, on_error: nap, next: end}
        - {id: nap, type: wait, for: 1h, next: a}
        - {id: end, type: end}
    """
    result = await dry(world, steps, fixtures={"a": {"error": {"type": "Down"}}})
    assert result.error_info is not None
    assert result.error_info.type == "DryRunCircles"


async def test_fixtures_are_data_and_are_not_resolved(world: World) -> None:
    steps = "- {id: a, type: call, service: desk, method: m, output: result}\n"
    assert (await dry(world, steps, {"x": 1}, fixtures={"a": "$input.x"})).output == "$input.x"


async def test_a_call_without_a_fixture_gives_null_whatever_its_schema_says(world: World) -> None:
    steps = "- {id: a, type: call, service: desk, method: m, output: {key: result, schema: {type: object}}}\n"
    assert (await dry(world, steps)).output is None


@pytest.mark.parametrize(
    ("fixtures", "told"),
    [
        ({"reserv": 1}, "fixtures.reserv: there is no such step (did you mean 'reserve'?)"),
        ({"enough": 1}, "fixtures.enough: a step of type 'router' takes no fixture: it gets nothing from outside"),
        ({"reserve[1]/charge": 1}, "fixtures.reserve[1]/charge: there is no such step"),
        ({"reserve": {"error": {"type": 5}}}, "fixtures.reserve: error.type must be text"),
        ({"reserve": float("nan")}, "fixtures.reserve: value cannot be stored"),
        ({"reserve": object()}, "fixtures.reserve: value cannot be stored"),
        ({5: 1}, "fixtures: 5 is not the id of a step"),
        ([1], "fixtures are a mapping of step ids or paths to answers, not [1]"),
    ],
)
async def test_wrong_fixtures_are_told_and_nothing_is_stored(world: World, fixtures: Any, told: str) -> None:
    with pytest.raises(df.ValidationError) as caught:
        await dry(world, ORDER, {"item": "pen"}, fixtures=fixtures)
    assert str(caught.value).startswith(told)
    assert await world.store.find() == []


async def test_fixtures_of_a_real_run_and_a_dry_run_that_is_no_boolean_are_refused(world: World) -> None:
    for wrong in ({"fixtures": {"reserve": 1}}, {"dry_run": "yes"}, {"dry_run": 1}):
        with pytest.raises(df.ValidationError):
            await world.runner(ORDER).run({"item": "pen"}, **wrong)  # type: ignore[arg-type]
    assert await world.store.find() == []


# -- errors that help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps",
    [
        "- {id: r, type: router, routes: [{when: {field: $x.n, op: gt, value: 1}, then: e}], default: e}\n",
        "- {id: l, type: loop, over: $x.all, do: [{id: n, type: assign, set: {y: 1}}]}\n",
        """- {id: s, type: assign, set: {y: $x.n}, next: t}
- {id: t, type: transform, input: y, expression: {sum: null}, output: z}
""",
        "- {id: sub, type: workflow, workflow_id: $x}\n",
    ],
    ids=["router", "loop", "through another variable", "child"],
)
async def test_an_error_over_a_null_names_the_call_that_has_no_fixture(world: World, steps: str) -> None:
    begin = "- {id: fetch, type: call, service: desk, method: fetch, output: x, next: %s}\n"
    first = steps.partition("id: ")[2].partition(",")[0]
    result = await dry(world, flow(begin % first + steps + "- {id: e, type: end}\n", validate=False))
    assert result.error is not None
    assert result.error.endswith("(in this dry run nothing answers 'fetch': give a fixture)")


async def test_an_error_that_is_played_is_told_as_it_is(world: World) -> None:
    steps = """
        - {id: fetch, type: call, service: desk, method: fetch, output: x, next: pay}
        - {id: pay, type: call, service: desk, method: pay, input: $x}
    """
    result = await dry(world, steps, fixtures={"pay": {"error": {"type": "Declined", "message": "no"}}})
    assert result.error == "Declined: no"


# -- it stays dry ------------------------------------------------------------------------------------------------------


async def test_marks_are_in_the_result_the_execution_the_trail_and_the_events(world: World) -> None:
    await dry(world, ORDER, {"item": "pen"}, execution_id="e", fixtures={"reserve": {"left": 1}})
    one = await world.load("e")
    first = (await world.store.entries("e"))[0]
    events = [event.data async for event in world.runtime.events("e")]
    assert (one.dry_run, first.metadata) == (True, {"trigger": "api", "dry_run": True})
    assert all(event["dry_run"] is True for event in events)
    assert [(data["would"], data["fixture"]) for data in events if "would" in data] == [
        ("desk.reserve", "reserve"),
        ("desk.charge", None),
    ]
    assert (await world.runner().result("e")).dry_run is True


async def test_live_events_are_those_of_the_trail(world: World) -> None:
    live = [
        event async for event in world.runtime.stream(ORDER).stream({"item": "pen"}, execution_id="e", dry_run=True)
    ]
    assert live == [event async for event in world.runtime.events("e")]


async def test_a_real_run_has_no_mark(world: World) -> None:
    world.desk.answers["reserve"] = {"left": 0}
    result = await world.run(ORDER, {"item": "pen"}, execution_id="e")
    events = [event.data async for event in world.runtime.events("e")]
    assert (result.dry_run, (await world.load("e")).dry_run) == (False, False)
    assert not any("dry_run" in data for data in events)
    assert not any("dry_run" in entry.metadata for entry in await world.store.entries("e"))


async def test_a_worker_takes_it_over_dry(world: World) -> None:
    world.runner(ORDER)
    await world.runtime.background("flow").run(
        {"item": "pen"}, execution_id="e", dry_run=True, fixtures={"reserve": {"left": 1}}
    )
    async with working(world.runtime):
        await world.clock.advance(1)
    result = await world.runner().result("e")
    assert (result.status, result.dry_run, world.desk.calls) == ("completed", True, [])


async def test_it_is_retried_dry(world: World) -> None:
    await dry(world, ORDER, {"item": "pen"}, execution_id="e", fixtures={"reserve": {"error": {"type": "Down"}}})
    result = await world.runner().retry("e")
    assert (result.status, result.dry_run, world.desk.calls) == ("failed", True, [])


async def test_its_fork_is_dry_and_has_its_fixtures(world: World) -> None:
    workflow = df.load({**ORDER.document, "timeout": 5})
    await dry(world, workflow, {"item": "pen"}, execution_id="e", fixtures={"reserve": {"left": 1}, "charge": "paid"})
    result = await world.runner().fork("e", from_step="charge", execution_id="f")
    one = await world.load("f")
    assert (result.output, result.dry_run, one.dry_run, world.desk.calls) == ("paid", True, True, [])
    assert (await world.store.entries("f"))[0].metadata["dry_run"] is True


async def test_it_is_paused_and_goes_on_dry(world: World) -> None:
    world.runner(ORDER)
    background = world.runtime.background("flow")
    await background.run({"item": "pen"}, execution_id="e", dry_run=True)
    await world.runner().pause("e")
    assert (await world.runner().result("e")).dry_run is True
    assert (await world.runner().unpause("e")).status == "completed"
    assert world.desk.calls == []


async def test_a_signal_that_came_before_is_taken(world: World) -> None:
    world.runner("- {id: s, type: signal, name: go, output: result}\n")
    await world.runtime.background("flow").run(execution_id="e", dry_run=True)
    await world.runtime.background("flow").signal("e", "go", 5)
    await world.clock.advance()
    assert (await world.runner().recover("e")).output == 5


async def test_it_is_migrated_and_stays_dry(world: World) -> None:
    world.runner(ORDER)
    await world.runtime.background("flow").run({"item": "pen"}, execution_id="e", dry_run=True)
    world.workflows["flow"] = df.load({**ORDER.document, "timeout": 5})
    await world.restart()
    assert (await world.runner().migrate("e")).safe
    await world.clock.leap(60)
    assert (await world.runner().recover("e")).status == "completed"
    assert world.desk.calls == []


@pytest.mark.parametrize("is_dry", [True, False])
async def test_saving_does_not_make_one_of_the_other(world: World, is_dry: bool) -> None:
    await world.runner(ORDER).run({"item": "pen"}, execution_id="e", dry_run=is_dry)
    one = await world.load("e")
    with pytest.raises(df.ConflictError, match="dry run"):
        await world.store.save(msgspec.structs.replace(one, status=df.Status.PENDING, dry_run=not is_dry))
    assert await world.load("e") == one
    saved = await world.store.save(msgspec.structs.replace(one, ctx={"x": 1}))
    assert (saved.dry_run, saved.ctx) == (is_dry, {"x": 1})


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
async def test_one_id_is_not_both_a_dry_run_and_a_real_one(world: World, first: bool, second: bool) -> None:
    runner, background = world.runner(ORDER), world.runtime.background(ORDER)
    await background.run({"item": "pen"}, execution_id="e", dry_run=first)
    for again in (runner.run, background.run):
        with pytest.raises(df.ConflictError, match="dry run"):
            await again({"item": "pen"}, execution_id="e", dry_run=second)
    assert world.desk.calls == []


async def test_the_same_dry_run_is_started_once_and_other_fixtures_are_another_one(world: World) -> None:
    first = await dry(world, ORDER, {"item": "pen"}, execution_id="e", fixtures={"charge": 1})
    assert await dry(world, ORDER, {"item": "pen"}, execution_id="e", fixtures={"charge": 1}) == first
    with pytest.raises(df.ConflictError, match="other fixtures"):
        await dry(world, ORDER, {"item": "pen"}, execution_id="e", fixtures={"charge": 2})


async def test_a_dry_run_that_is_cancelled_while_it_is_pending_ends_without_a_call(world: World) -> None:
    world.runner(ORDER)
    await world.runtime.background("flow").run({"item": "pen"}, execution_id="e", dry_run=True)
    await world.runtime.background("flow").cancel("e")
    assert (await world.load("e")).status == "cancelled"
    assert world.desk.calls == []


# -- step types of others ----------------------------------------------------------------------------------------------


class FetchConfig(msgspec.Struct, frozen=True, kw_only=True):
    url: df.Template
    output: df.VariableName


class Fetch(df.StepType[FetchConfig]):
    name = "fetch"
    summary = "Would reach out."
    Config = FetchConfig
    works_outside = True

    async def run(self, visit: df.Visit, config: FetchConfig) -> df.Outcome:
        raise AssertionError("a dry run did something outside")


class Driver(df.StepType[FetchConfig]):
    """Neither instant nor working, and calls a service all the same."""

    name = "driver"
    summary = "Drives."
    Config = FetchConfig

    async def run(self, visit: df.Visit, config: FetchConfig) -> df.Outcome:
        verdict, _ = await visit.gate("checks", None)
        return df.Done([verdict, await visit.call("desk", "m", config.url)], (config.output,))


async def test_a_step_type_from_outside_is_rehearsed_without_a_word_of_its_own(world: World) -> None:
    extension = df.Extension(name="more", step_types=(Fetch(), Driver()))
    await world.restart(extensions=[extension])
    document: Mapping[str, Any] = {
        "id": "flow",
        "name": "Flow",
        "steps": [
            {"id": "f", "type": "fetch", "url": "http://$input.host", "output": "page", "next": "d"},
            {"id": "d", "type": "driver", "url": "$page", "output": "result"},
        ],
    }
    workflow = df.load(document, extensions=[extension])
    assert (await dry(world, workflow, {"host": "a"}, fixtures={"f": "hello"}, execution_id="e")).output == [
        "approved",
        None,
    ]
    found = await entries(world, "e")
    assert (found["f"].input, found["f"].metadata["would"]) == ({"url": "http://a"}, "fetch")
    assert (found["d"].input, found["d"].metadata["would"], world.desk.calls) == ("hello", "desk.m", [])


# -- every reference workflow ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_dry_run_of_every_reference_workflow_ends_without_a_call(world: World, scenario: Any) -> None:
    def refuse(*given: Any) -> Any:
        raise AssertionError("a dry run asked something outside")

    options = {"services": {}, "service_resolver": refuse, "gates": {"checks": refuse}, "secrets": refuse}
    await world.restart(**{**scenario.options, **options})
    world.know(*scenario.others)
    result = await dry(world, scenario.workflow, scenario.input, execution_id="e")
    await world.clock.advance()
    assert result.status in ("completed", "failed")
    for one in await world.store.find(limit=1000):
        assert (one.dry_run, one.status.over, one.blocked_on) == (True, True, [])
        for entry in await world.store.entries(one.id):
            told = entry.metadata
            assert "would" in told or entry.step_type not in ("call", "gate", "approval", "halt", "signal", "wait")
            assert entry.error is None or "AssertionError" not in entry.error


async def test_a_step_that_does_its_work_in_pieces_is_rehearsed_as_a_whole(world: World) -> None:
    await world.restart(extensions=[CREW])
    document = {
        "id": "flow",
        "name": "Flow",
        "steps": [{"id": "team", "type": "crew", "turns": 2, "tools": 1, "output": "result"}],
    }
    workflow = df.load(document, extensions=[CREW])
    assert (await dry(world, workflow, execution_id="e")).output is None
    assert (await dry(world, workflow, fixtures={"team": ["said"]})).output == ["said"]
    assert list(await entries(world, "e")) == ["team"]


class Revealing(df.StepType[FetchConfig]):
    """Neither instant nor working, and asks for a secret."""

    name = "revealing"
    summary = "Reveals."
    Config = FetchConfig

    async def run(self, visit: df.Visit, config: FetchConfig) -> df.Outcome:
        return df.Done((await visit.reveal(url=config.url))["url"], (config.output,))


async def test_a_secret_is_not_revealed_to_a_step_type_from_outside(world: World) -> None:
    def refuse(name: str) -> str:
        raise AssertionError("a dry run asked for a secret")

    extension = df.Extension(name="more", step_types=(Revealing(),))
    await world.restart(extensions=[extension], secrets=refuse)
    document = {
        "id": "flow",
        "name": "Flow",
        "steps": [{"id": "r", "type": "revealing", "url": "http://$secrets.HOST", "output": "result"}],
    }
    assert (await dry(world, df.parse(document, extensions=[extension]))).output == "http://***"
