"""`simulate`: what it proves, what it finds, and how it says so."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import durable_flow as df
from durable_flow.testing import Expire, InTurn, Reply, simulate
from durable_flow.testing.standins import instance

CHARGE = {
    "id": "charge",
    "type": "call",
    "service": "Bank",
    "method": "charge",
    "input": {"amount": "$input.amount"},
    "output": "paid",
    "retry": {"max_attempts": 3, "initial_interval": "1s"},
    "next": "done",
}
PAY = {
    "id": "pay",
    "name": "Pay",
    "inputs": {"amount": {"type": "integer", "schema": {"minimum": 5}}},
    "steps": [CHARGE, {"id": "done", "type": "end", "result": {"paid": "$paid"}}],
}


class Careless:
    """Counts every call."""

    def __init__(self) -> None:
        self.total = 0

    def charge(self, amount: int) -> int:
        self.total += amount
        return self.total


class Careful(Careless):
    """Makes one of the calls with one key."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def charge(self, amount: int, context: df.StepContext) -> int:  # type: ignore[override]
        if context.idempotency_key not in self.seen:
            self.seen.add(context.idempotency_key)
            self.total += amount
        return self.total


def test_a_workflow_of_stand_ins_ends_the_same_whatever_breaks() -> None:
    report = simulate(PAY)

    report.raise_for_bad()
    assert report.proven
    assert report.cases > 60
    assert report.covered == report.sites > 50
    assert (report.status, report.output) == ("completed", {"paid": {"amount": 5}})
    assert (report.input, report.invented) == ({"amount": 5}, ["Bank"])
    assert [(one.workflow_id, one.steps, one.never) for one in report.coverage] == [("pay", ["charge", "done"], [])]
    assert report.unretried == {}


def test_a_service_that_ignores_its_key_is_found_and_told_in_plain_words() -> None:
    report = simulate(PAY, services=lambda: {"Bank": Careless()}, crash="kills")

    assert not report.proven
    first = report.divergences[0]
    assert first.fault == "the process dies after the call of Bank.charge (step charge), before that is recorded"
    assert first.problems == ["output.paid is 10 instead of 5", "variables.paid is 10 instead of 5"]
    with pytest.raises(AssertionError, match=r"output\.paid is 10 instead of 5"):
        report.raise_for_bad()


def test_a_service_that_heeds_its_key_is_proven_and_named_as_called_again() -> None:
    report = simulate(PAY, services=lambda: {"Bank": Careful()})

    report.raise_for_bad()
    (repeat,) = report.repeats
    assert (repeat.step, repeat.service, repeat.times) == ("charge", "Bank.charge", 2)
    assert repeat.fault.startswith("the process dies after the call of Bank.charge")


def test_services_that_are_not_made_for_each_case_are_seen_to_differ_without_any_fault() -> None:
    report = simulate(PAY, services={"Bank": Careless()}, crash="kills")

    assert report.ignored == [
        "output.paid (it differs between two runs without any fault)",
        "variables.paid (it differs between two runs without any fault)",
    ]


def test_what_need_not_be_the_same_can_be_left_out() -> None:
    report = simulate(
        PAY, services=lambda: {"Bank": Careless()}, crash="kills", ignore=["output.paid", "variables.paid"]
    )

    assert report.proven
    assert report.ignored == ["output.paid (as was asked)", "variables.paid (as was asked)"]


def test_no_fault_plays_the_workflow_alone() -> None:
    report = simulate(PAY, crash="none", input={"amount": 7})

    assert (report.cases, report.sites) == (2, 0)
    assert report.output == {"paid": {"amount": 7}}


def test_it_ends_after_as_many_differences_as_were_asked_for() -> None:
    counted: list[tuple[int, int, int]] = []
    services = lambda: {"Bank": Careless()}  # noqa: E731
    report = simulate(PAY, services=services, most=1, progress=lambda *figures: counted.append(figures))

    assert len(report.divergences) == 1
    assert counted[-1][2] == 1
    assert counted[-1][0] < counted[-1][1]


def test_a_call_that_is_not_retried_is_named_and_is_no_difference() -> None:
    bare = {**PAY, "steps": [{**CHARGE, "retry": None}, PAY["steps"][1]]}  # type: ignore[index]
    del bare["steps"][0]["retry"]  # type: ignore[index]
    report = simulate(bare)

    report.raise_for_bad()
    assert report.unretried == {"charge": "failed"}


ASK: dict[str, Any] = {
    "id": "ask",
    "name": "Ask",
    "steps": [
        {
            "id": "review",
            "type": "approval",
            "prompt": "?",
            "approvers": ["ann", "bob", "cid"],
            "required": 2,
            "timeout": "30d",
            "on_reject": "no",
            "on_timeout": "late",
            "next": "where",
        },
        {"id": "where", "type": "halt", "reason": "Where?", "next": "paid"},
        {"id": "paid", "type": "signal", "name": "paid", "output": "payment", "next": "ci"},
        {"id": "ci", "type": "gate", "resolver": "checks", "output": "url", "on_reject": "no", "next": "month"},
        {"id": "month", "type": "wait", "for": "30d", "next": "yes"},
        {"id": "yes", "type": "end", "result": "$response $payment $url"},
        {"id": "no", "type": "end", "result": "no"},
        {"id": "late", "type": "end", "result": "late"},
    ],
}


def test_people_signals_and_gates_are_played_too() -> None:
    report = simulate(ASK, crash="kills")

    report.raise_for_bad()
    assert report.output == "true true "
    assert report.answered == {
        "review": "approved",
        "where": "answered True",
        "paid": "was sent True",
        "ci": "approved",
    }
    assert report.coverage[0].never == ["no", "late"]


@pytest.mark.parametrize(
    ("answers", "output"),
    [
        ({"where": "here", "paid": {"sum": 5}, "ci": ("approved", "http://ci")}, 'here {"sum":5} http://ci'),
        ({"review": False}, "no"),
        ({"review": {"approved": False, "by": "cid"}}, "no"),
        ({"review": Expire()}, "late"),
        ({"ci": False}, "no"),
        ({"ci": InTurn(df.Gate.PENDING, df.Gate.REJECTED)}, "no"),
    ],
    ids=str,
)
def test_answers_lead_elsewhere(answers: Mapping[str, Any], output: str) -> None:
    report = simulate(ASK, answers=answers, crash="none")

    report.raise_for_bad()
    assert report.output == output


def test_answers_script_what_an_invented_service_says() -> None:
    report = simulate(PAY, answers={"charge": Reply(fails=1, value=lambda given: given["amount"] * 2)}, crash="kills")

    report.raise_for_bad()
    assert report.output == {"paid": 10}


def test_a_call_that_must_not_happen_twice_is_decided_as_by_somebody_who_can_look() -> None:
    once = {**PAY, "steps": [{**CHARGE, "delivery": "at_most_once"}, PAY["steps"][1]]}  # type: ignore[index]
    del once["steps"][0]["retry"]  # type: ignore[index]
    report = simulate(once, services=lambda: {"Bank": Careless()}, crash="kills")

    report.raise_for_bad()
    assert report.repeats == []


def test_a_step_that_halts_on_failure_is_tried_again() -> None:
    halting = {**CHARGE, "retry": {"max_attempts": 1, "on_exhausted": "halt"}}
    report = simulate({**PAY, "steps": [halting, PAY["steps"][1]]})  # type: ignore[index]

    report.raise_for_bad()
    assert report.answered == {"charge": "retry"}


def test_what_undoes_steps_and_what_always_runs_is_played_too() -> None:
    undone = {**CHARGE, "compensate": {"service": "Bank", "method": "refund", "input": 3}, "next": "ship"}
    ship = {"id": "ship", "type": "call", "service": "Post", "method": "ship"}
    close = {"id": "close", "type": "call", "service": "Post", "method": "close"}
    document = {**PAY, "steps": [undone, ship], "finally": [close]}
    report = simulate(document, answers={"charge": "paid", "ship": ValueError("no such place")}, crash="kills")

    report.raise_for_bad()
    assert (report.status, report.error) == ("failed", "ValueError: no such place")
    assert [repeat.service for repeat in report.repeats] == ["Bank.charge", "Post.ship", "Bank.refund", "Post.close"]
    assert report.coverage[0].never == []


CHILD = {
    "id": "child",
    "name": "Child",
    "steps": [{"id": "sure", "type": "signal", "name": "sure", "output": "result"}],
}
PARENT = {
    "id": "parent",
    "name": "Parent",
    "steps": [
        {"id": "apart", "type": "workflow", "workflow_id": "child", "wait": False, "next": "below"},
        {"id": "below", "type": "workflow", "workflow_id": "child", "output": "result"},
    ],
}


def test_children_are_answered_also_those_that_outlive_their_parents() -> None:
    report = simulate(PARENT, others=[CHILD], crash="kills", answers={"sure": "yes"})

    report.raise_for_bad()
    assert report.output == "yes"
    assert [one.workflow_id for one in report.coverage] == ["parent", "child"]


def test_a_file_does_as_well_as_memory(tmp_path: Path) -> None:
    report = simulate(PAY, store="sqlite:///{folder}/flows.db", crash="kills")

    report.raise_for_bad()
    assert report.covered == report.sites


def test_secrets_are_not_shown() -> None:
    secret = {**PAY, "inputs": {"amount": {"type": "integer", "secret": True}}}
    report = simulate(secret, input={"amount": 987654}, services=lambda: {"Bank": Careless()}, crash="kills")

    assert report.input == {"amount": "***"}
    assert not report.proven
    assert "987654" not in str(report)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"crash": "never"}, df.ConfigError, "crash is 'everywhere', 'kills' or 'none'"),
        ({"ignore": "output.total"}, df.ConfigError, "ignore is a list: ignore=['output.total']"),
        ({"answers": {"nobody": 1}}, df.ConfigError, "there is no step 'nobody' (there are: charge, done)"),
        ({"answers": {"charge": 1}, "services": {"Bank": Careful()}}, df.ConfigError, "is among the services"),
        ({"services": list}, df.ConfigError, "services is a mapping, or a function that makes one"),
        ({"input": {"amount": 1}}, df.InputError, "input.amount: 1 is less than the minimum of 5"),
    ],
)
def test_what_is_put_together_wrongly_is_refused(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        simulate(PAY, **arguments)
    assert said in str(caught.value)


async def test_it_is_called_from_a_plain_function() -> None:
    with pytest.raises(df.ConfigError, match="call it from a plain function"):
        simulate(PAY)


def test_a_child_that_is_not_there_is_missed() -> None:
    with pytest.raises(df.ConfigError, match="starts workflow 'child'"):
        simulate(PARENT)


def test_an_answer_nobody_may_give_is_refused() -> None:
    with pytest.raises(df.NotAllowed):
        simulate(ASK, answers={"review": {"approved": True, "by": "eve"}})


def test_an_output_that_cannot_be_invented_is_asked_for() -> None:
    strict = {**CHARGE, "output": {"key": "paid", "schema": {"type": "string", "pattern": "^[0-9]{7}$"}}}
    document = {**PAY, "steps": [strict, PAY["steps"][1]]}  # type: ignore[index]

    with pytest.raises(df.ConfigError, match=r"give answers=\{'charge': …\}"):
        simulate(document)
    simulate(document, answers={"charge": "1234567"}, crash="none").raise_for_bad()


@pytest.mark.parametrize(
    "schema",
    [
        {"const": 3},
        {"enum": ["a", "b"]},
        {"type": "string", "minLength": 9, "maxLength": 10},
        {"type": ["null", "integer"], "exclusiveMinimum": 4, "multipleOf": 3},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "integer", "maximum": -4},
        {"type": "array", "minItems": 3, "uniqueItems": True, "items": {"type": "string"}},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": False},
        {"type": "array", "maxItems": 0},
        {"type": "object", "minProperties": 2},
        {"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "integer"}}}]},
        {"anyOf": [{"type": "integer", "minimum": 9}, {"type": "string"}]},
        {"$ref": "#/$defs/point", "$defs": {"point": {"required": ["x"], "properties": {"x": {"format": "date"}}}}},
        {"type": "string", "format": "date-time"},
        {"type": "null"},
        True,
    ],
    ids=json.dumps,
)
def test_an_instance_fits_its_schema(schema: Any) -> None:
    document = {**PAY, "steps": [{**CHARGE, "output": {"key": "paid", "schema": schema}}, PAY["steps"][1]]}  # type: ignore[index]
    (step, _) = df.load(document).steps

    assert step.config.output.schema.problems(instance(schema)) == []
