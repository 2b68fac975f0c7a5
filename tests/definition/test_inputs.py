"""The input of an execution is checked against its own definition before anything is stored."""

from __future__ import annotations

from typing import Any

import pytest

from durable_flow.definition.inputs import check_input
from durable_flow.definition.parser import parse
from durable_flow.errors import InputError, LimitExceeded
from durable_flow.limits import Limits
from durable_flow.model.workflow import WorkflowDef
from tests.definition.documents import steps


def workflow(inputs: str) -> WorkflowDef:
    """A workflow without a start step, known nowhere: its inputs count all the same."""
    return parse(steps("{id: a, type: end}", more=f"inputs: {inputs}\n"))


def told(inputs: str, given: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        check_input(workflow(inputs), given)
    return [str(problem) for problem in caught.value.problems]


def test_every_problem_is_told() -> None:
    assert told("{a: integer, b: string, c: boolean}", {"a": "1", "b": None}) == [
        "input.a: expected integer, got text",
        "input.b: expected string, got null",
        "input.c: is required",
    ]


def test_a_default_stands_for_what_is_missing() -> None:
    assert check_input(workflow("{n: {type: integer, default: 3}}"), {}) == {"n": 3}


def test_a_default_is_not_shared() -> None:
    definition = workflow("{n: {default: [1]}}")
    check_input(definition, {})["n"].append(2)
    assert check_input(definition, {}) == {"n": [1]}


def test_null_is_not_a_missing_value() -> None:
    assert check_input(workflow("{n: {default: 3}}"), {"n": None}) == {"n": None}


def test_what_is_not_required_may_be_left_out() -> None:
    assert check_input(workflow("{n: {type: integer, required: false}}"), {}) == {}


def test_undeclared_inputs_pass() -> None:
    assert check_input(workflow("{n: integer}"), {"n": 1, "trace": "x"}) == {"n": 1, "trace": "x"}


def test_no_input_is_an_empty_one() -> None:
    assert check_input(workflow("{}"), None) == {}


@pytest.mark.parametrize(("given", "kind"), [([1], "list"), ("x", "text"), (3, "integer")])
def test_an_input_is_a_mapping(given: Any, kind: str) -> None:
    assert told("{}", given) == [f"the input must be a mapping of names to values, got {kind}"]


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        ("integer", True, False),
        ("integer", 1.0, False),
        ("number", 1, True),
        ("number", True, False),
        ("number", "1", False),
        ("boolean", 1, False),
        ("string", "", True),
        ("array", (1, 2), True),
        ("object", {}, True),
        ("object", [], False),
        ("any", None, True),
    ],
)
def test_types_are_strict(kind: str, value: Any, fits: bool) -> None:
    if fits:
        assert "n" in check_input(workflow(f"{{n: {kind}}}"), {"n": value})
    else:
        assert len(told(f"{{n: {kind}}}", {"n": value})) == 1


def test_a_schema_says_where_inside_it_does_not_fit() -> None:
    schema = "{n: {type: object, schema: {properties: {a: {type: array, items: {minimum: 0}}}}}}"
    assert told(schema, {"n": {"a": [1, -1]}}) == ["input.n.a[1]: -1 is less than the minimum of 0"]


def test_a_secret_is_not_shown() -> None:
    (problem,) = told("{key: {type: string, secret: true, schema: {maxLength: 3}}}", {"key": "hunter2"})
    assert "hunter2" not in problem


def test_a_misspelt_input_is_hinted_at() -> None:
    assert told("{amount: integer}", {"amuont": 3}) == [
        "input.amount: is required (did you mean 'amount' where you wrote 'amuont'?)"
    ]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (float("nan"), "input.n: nan is not a finite number"),
        ({"a": [2**64]}, "input.n.a[0]: an integer beyond 64 bits"),
        ("\ud800", "input.n: text with a lone surrogate, which UTF-8 cannot hold"),
        ({1: 2}, "input.n.1: a key that is not text (integer)"),
        (object(), "input.n: a value of type object has no JSON form"),
    ],
)
def test_what_cannot_be_stored_is_told_with_its_place(value: Any, problem: str) -> None:
    found = told("{n: any, m: integer}", {"n": value, "m": "x"})
    assert found == [problem, "input.m: expected integer, got text"]


def test_a_name_that_is_not_text() -> None:
    assert "not text" in told("{}", {1: 2})[0]


def test_text_that_looks_like_a_reference_stays_text() -> None:
    assert check_input(workflow("{n: string}"), {"n": "$secrets.key"}) == {"n": "$secrets.key"}


def test_the_input_is_a_copy() -> None:
    given = {"n": [1]}
    checked = check_input(workflow("{n: array}"), given)
    given["n"].append(2)
    assert checked == {"n": [1]}


def test_an_input_that_is_too_large_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        check_input(workflow("{}"), {"n": "x" * 100}, limits=Limits(value_bytes=50))


def test_an_input_that_contains_itself_is_refused() -> None:
    given: dict[str, Any] = {}
    given["self"] = given
    with pytest.raises(InputError):
        check_input(workflow("{}"), given)
