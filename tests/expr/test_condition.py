"""Conditions: exact comparisons, and errors where others guess."""

from __future__ import annotations

import contextlib
import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_flow.errors import StepError
from durable_flow.expr.condition import OPERATORS, ConditionProblems, compile_condition, equal
from durable_flow.expr.reference import MISSING


class Variables(dict[str, Any]):
    def lookup(self, root: str) -> Any:
        return self.get(root, MISSING)


def holds(left: Any, op: str, right: Any = None) -> bool:
    """The answer, which must not depend on whether the right side is a constant or a reference."""
    scope = Variables(x=left, y=right)
    by_reference = compile_condition(
        {"field": "x", "op": op, "value": "$y"} if op in BINARY else {"field": "x", "op": op}
    )
    answer = by_reference.evaluate(scope)
    if op in BINARY and not (isinstance(right, str) and "$" in right) and not isinstance(right, datetime.datetime):
        assert compile_condition({"field": "x", "op": op, "value": right}).evaluate(scope) is answer
    return answer


BINARY = tuple(op for op in OPERATORS if op not in ("exists", "empty", "truthy", "falsy"))


def problems(raw: Any) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(ConditionProblems) as caught:
        compile_condition(raw)
    return caught.value.problems


def test_the_default_operator_is_eq() -> None:
    condition = compile_condition({"field": "x", "value": 1})
    assert condition.evaluate(Variables(x=1))
    assert not condition.evaluate(Variables(x=2))


def test_a_field_written_with_a_dollar_is_the_same_field() -> None:
    assert compile_condition({"field": "$x.on", "value": True}).evaluate(Variables(x={"on": True}))


def test_a_nested_false_matches_false() -> None:
    assert compile_condition({"field": "o.on", "value": False}).evaluate(Variables(o={"on": False}))


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, True),
        (2**53 + 1, float(2**53), False),
        (1, "1", False),
        (True, 1, False),
        (False, 0, False),
        (0, None, False),
        ("", None, False),
        (None, None, True),
        ([1, True], [1.0, True], True),
        ([1], [True], False),
        ({"a": 1}, {"a": True}, False),
        ({"a": [1]}, {"a": [1.0]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1], (1,), True),
    ],
)
def test_equality_converts_nothing_at_any_depth(left: Any, right: Any, same: bool) -> None:
    assert holds(left, "eq", right) is same
    assert holds(left, "neq", right) is not same
    assert equal(right, left) is same


def test_a_time_equals_the_text_it_is_stored_as() -> None:
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    assert holds(moment, "eq", "2026-01-01T00:00:00Z")


def test_numbers_compare_exactly() -> None:
    assert holds(2**53 + 1, "gt", 2**53)
    assert holds(2**53 + 1, "gt", float(2**53))
    assert holds(2, "lte", 2.0)
    assert not holds(2, "lt", 2.0)


def test_numeric_text_compares_with_numbers_exactly() -> None:
    assert holds("10", "gt", 9)
    assert holds(str(2**53 + 1), "gt", float(2**53))
    assert holds(0.1, "gte", "0.1")
    assert holds("-1.5e1", "lt", -14)
    assert holds(5, "lt", "+5.01")


@pytest.mark.parametrize(
    ("text", "above_five"),
    [
        ("1e999999999", True),
        ("1e999999999999999999999", True),
        ("-1e999999999999999999999", False),
        ("1e-999999999999999999999", False),
        ("0e999999999999999999999", False),
        ("9" * 100_000, True),
        ("1e0000000000000000000000001", True),
    ],
)
def test_huge_exponents_compare_at_once(text: str, above_five: bool) -> None:
    assert holds(text, "gt", 5) is above_five


def test_two_texts_order_as_texts() -> None:
    assert holds("10", "lt", "9")
    assert holds("b", "gt", "a")


def test_times_order_with_their_texts() -> None:
    moment = datetime.datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=datetime.UTC)
    assert holds(moment, "gt", "2026-01-01T00:00:00Z")
    assert holds("2026-01-01T03:00:00+02:00", "gt", moment)
    with pytest.raises(StepError):
        holds(moment, "gt", "soon")


@pytest.mark.parametrize("op", ["gt", "gte", "lt", "lte"])
@pytest.mark.parametrize(
    ("left", "right", "names"),
    [
        (None, 5, "null and integer"),
        (5, None, "integer and null"),
        (None, None, "null and null"),
        ("abc", -1, "text and integer"),
        ("", 1, "text and integer"),
        (" 1", 1, "text and integer"),
        ("nan", 1.5, "text and number"),
        ("1_0", 1, "text and integer"),
        ([1], 1, "list and integer"),
        ({}, {}, "mapping and mapping"),
        (True, 0, "boolean and integer"),
        ("a", None, "text and null"),
        (True, False, "boolean and boolean"),
    ],
)
def test_ordering_any_other_mix_is_an_error_that_names_both_types(op: str, left: Any, right: Any, names: str) -> None:
    with pytest.raises(StepError, match=names) as caught:
        holds(left, op, right)
    assert caught.value.kind == "ConditionError"


def test_in_finds_equal_elements_only() -> None:
    assert holds(1, "in", [3, 1.0])
    assert not holds(1, "in", ["1", True])
    assert not holds("a", "in", ["A", 1])
    assert holds("a", "in", ["b", "a"])
    assert holds("c", "not_in", ["b", "a"])
    assert not holds([1], "not_in", [[1]])
    assert holds(None, "not_in", [])


@pytest.mark.parametrize("op", ["in", "not_in"])
@pytest.mark.parametrize("right", [None, 1, "abc", {"a": 1}, True])
def test_in_and_not_in_need_a_list(op: str, right: Any) -> None:
    with pytest.raises(StepError, match="needs a list"):
        holds("a", op, right)


def test_contains_works_on_text_lists_and_keys() -> None:
    assert holds("abc", "contains", "b")
    assert holds([12, "b"], "contains", "b")
    assert holds({"a": 1}, "contains", "a")
    assert not holds({"a": 1}, "contains", 1)


def test_contains_does_not_look_inside_elements() -> None:
    assert not holds([12], "contains", 1)
    assert not holds([12], "contains", "12")
    assert not holds([1], "contains", True)
    assert not holds(["a"], "contains", None)
    assert holds([None], "contains", None)


@pytest.mark.parametrize(("left", "right"), [(None, "a"), (12, 1), ("a1", 1), ("a", None), (True, True)])
def test_contains_elsewhere_is_an_error(left: Any, right: Any) -> None:
    with pytest.raises(StepError, match="contains"):
        holds(left, "contains", right)


def test_starts_with_and_ends_with() -> None:
    assert holds("abc", "starts_with", "ab")
    assert not holds("abc", "starts_with", "b")
    assert holds("abc", "ends_with", "bc")
    assert not holds("abc", "ends_with", "b")


@pytest.mark.parametrize("op", ["starts_with", "ends_with"])
@pytest.mark.parametrize(("left", "right"), [(None, "a"), ("1", 1), (["a"], "a")])
def test_starts_with_and_ends_with_are_for_text(op: str, left: Any, right: Any) -> None:
    with pytest.raises(StepError, match=op):
        holds(left, op, right)


def test_matches_searches() -> None:
    assert holds("order A-12", "matches", r"[A-Z]-\d+")
    assert not holds("order", "matches", r"\d")


def test_anchors_mean_the_whole_text_and_not_one_line() -> None:
    assert not holds("bad\nok\nbad", "matches", "^ok$")


def test_a_hostile_pattern_takes_linear_time() -> None:
    assert not holds("a" * 50_000 + "!", "matches", "^(a+)+$")


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1", "a{100000}", "\ud800"])
def test_a_bad_pattern_in_the_definition_is_a_problem_at_its_place(pattern: str) -> None:
    [(path, message)] = problems({"any": [{"field": "x", "op": "matches", "value": pattern}]})
    assert path == ("any", 0, "value")
    assert "bad pattern" in message


def test_a_pattern_that_is_not_text_is_a_problem() -> None:
    assert problems({"field": "x", "op": "matches", "value": 5})[0][0] == ("value",)


@pytest.mark.parametrize("pattern", ["(", None, 5])
def test_a_bad_pattern_from_a_reference_is_a_step_error(pattern: Any) -> None:
    condition = compile_condition({"field": "x", "op": "matches", "value": "$p"})
    with pytest.raises(StepError, match="pattern"):
        condition.evaluate(Variables(x="a", p=pattern))


@pytest.mark.parametrize("subject", [None, 5, ["a"], "a" * (64 * 1024 + 1)])
def test_matches_searches_only_text_of_bounded_length(subject: Any) -> None:
    with pytest.raises(StepError, match="searches"):
        holds(subject, "matches", "a")


def test_matches_takes_non_ascii_and_nul() -> None:
    assert holds("größe\0x", "matches", "ö.*x$")


def test_exists_is_about_presence_and_not_truth() -> None:
    assert holds(False, "exists")
    assert holds(0, "exists")
    assert not holds(None, "exists")
    assert not compile_condition({"field": "a.b", "op": "exists"}).evaluate(Variables(a={}))


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_nothing_and_empty_containers_are_empty(value: Any) -> None:
    assert holds(value, "empty")


@pytest.mark.parametrize("value", [0, False, " ", [None], {"a": None}])
def test_everything_else_is_not_empty(value: Any) -> None:
    assert not holds(value, "empty")


@pytest.mark.parametrize("value", [False, None, 0, 0.0, "", [], {}])
def test_what_python_calls_false_is_falsy(value: Any) -> None:
    assert holds(value, "falsy")
    assert not holds(value, "truthy")


@pytest.mark.parametrize("value", [True, 1, "false", "0", [0], {"a": None}])
def test_everything_else_is_truthy(value: Any) -> None:
    assert holds(value, "truthy")
    assert not holds(value, "falsy")


def test_conditions_compose() -> None:
    raw = {
        "all": [{"not": {"field": "x", "value": 1}}, {"any": [{"field": "y", "value": 1}, {"field": "z", "value": 1}]}]
    }
    condition = compile_condition(raw)
    assert condition.evaluate(Variables(x=0, y=0, z=1))
    assert not condition.evaluate(Variables(x=1, y=0, z=1))
    assert not condition.evaluate(Variables(x=0, y=0, z=0))


def test_all_and_any_stop_at_the_first_answer() -> None:
    error = {"field": "x", "op": "gt", "value": 1}
    assert not compile_condition({"all": [{"field": "y", "value": 1}, error]}).evaluate(Variables())
    assert compile_condition({"any": [{"field": "y", "value": None}, error]}).evaluate(Variables())


def test_references_of_fields_and_values_are_listed() -> None:
    raw = {"not": {"all": [{"field": "a.b", "value": "$c"}, {"field": "$d", "op": "in", "value": [1, "$e.f"]}]}}
    assert [item.text for item in compile_condition(raw).references] == ["$a.b", "$c", "$d", "$e.f"]


def test_the_value_may_be_text_with_references() -> None:
    condition = compile_condition({"field": "x", "value": "id-$n"})
    assert condition.evaluate(Variables(x="id-7", n=7))


def test_a_value_from_outside_is_not_resolved_again() -> None:
    assert not compile_condition({"field": "x", "value": "$y"}).evaluate(Variables(x=1, y="$x"))


def test_an_unknown_operator_is_a_problem_with_a_hint() -> None:
    assert problems({"field": "x", "op": "equals", "value": 1})[0][0] == ("op",)
    assert problems({"field": "x", "op": "start_with", "value": 1}) == [
        (("op",), "unknown operator 'start_with', did you mean 'starts_with'?")
    ]


def test_a_sign_instead_of_an_operator_is_told_its_word() -> None:
    assert problems({"field": "x", "op": "==", "value": 1}) == [(("op",), "unknown operator '==', did you mean 'eq'?")]
    assert problems({"field": "x", "op": "<=", "value": 1}) == [(("op",), "unknown operator '<=', did you mean 'lte'?")]


def test_an_operator_that_is_like_none_is_told_those_there_are() -> None:
    ((_, told),) = problems({"field": "x", "op": "~", "value": 1})
    assert told.startswith("unknown operator '~'; there are: eq, neq, gt,")


@pytest.mark.parametrize("op", [None, 1, [], {}])
def test_an_operator_that_is_not_text_is_a_problem(op: Any) -> None:
    assert problems({"field": "x", "op": op, "value": 1})[0][0] == ("op",)


def test_an_unknown_key_is_a_problem_with_a_hint() -> None:
    found = problems({"feild": "x", "value": 1})
    assert (("feild",), "unknown key 'feild', did you mean 'field'?") in found
    assert ((), "missing key 'field'") in found


def test_all_problems_are_reported_at_once() -> None:
    raw = {"all": [{"field": "x", "op": "gtt", "value": 1}, {"field": "a b", "value": "${"}, "x", {"not": []}]}
    assert [path for path, _ in problems(raw)] == [
        ("all", 0, "op"),
        ("all", 1, "field"),
        ("all", 1, "value"),
        ("all", 2),
        ("all", 3, "not"),
    ]


@pytest.mark.parametrize("raw", [{"all": []}, {"any": {}}, {"all": None}, {"any": "x"}])
def test_all_and_any_need_a_list_of_conditions(raw: Any) -> None:
    assert "needs a list" in problems(raw)[0][1]


def test_a_composition_stands_alone() -> None:
    found = problems({"all": [{"field": "x", "value": 1}], "field": "y"})
    assert found == [(("field",), "'field' cannot stand next to 'all'")]


def test_a_comparison_without_value_is_a_problem() -> None:
    assert "missing key 'value'" in problems({"field": "x", "op": "gt"})[0][1]


def test_null_is_a_value() -> None:
    assert compile_condition({"field": "x", "value": None}).evaluate(Variables())


def test_an_operator_without_operand_takes_no_value() -> None:
    compile_condition({"field": "x", "op": "exists", "value": True})
    assert problems({"field": "x", "op": "exists", "value": False}) == [(("value",), "'exists' takes no value")]


@pytest.mark.parametrize("raw", [None, True, "x", [], 5, {}])
def test_anything_but_a_mapping_with_a_field_is_a_problem(raw: Any) -> None:
    assert problems(raw)


def test_messages_begin_with_where() -> None:
    with pytest.raises(ConditionProblems, match=r"^route 2: "):
        compile_condition({}, "route 2")


numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, numbers)
def test_exactly_one_of_less_equal_and_greater_holds(left: float, right: float) -> None:
    assert holds(left, "lt", right) + holds(left, "eq", right) + holds(left, "gt", right) == 1


@given(st.integers(-(2**63), 2**63 - 1), numbers)
def test_text_of_an_integer_orders_like_the_integer(left: int, right: float) -> None:
    for op in ("lt", "lte", "gt", "gte"):
        assert holds(str(left), op, right) is holds(left, op, right)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 1.5]) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(values, values)
def test_equality_is_symmetric(left: Any, right: Any) -> None:
    assert equal(left, right) is equal(right, left)


@given(st.sampled_from(OPERATORS), values, values)
def test_every_operator_answers_or_fails_the_step(op: str, left: Any, right: Any) -> None:
    raw = {"field": "x", "op": op} | ({"value": "$y"} if op in BINARY else {})
    with contextlib.suppress(StepError):
        assert isinstance(compile_condition(raw).evaluate(Variables(x=left, y=right)), bool)
