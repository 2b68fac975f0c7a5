"""Each transform operation: what it gives, and what it refuses."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_flow.errors import LimitExceeded, StepError
from durable_flow.expr import transform as module
from durable_flow.expr.condition import equal
from durable_flow.expr.reference import MISSING
from durable_flow.expr.transform import OPERATION_NAMES, TransformProblems, compile_transform


class Variables(dict[str, Any]):
    def lookup(self, root: str) -> Any:
        return self.get(root, MISSING)


def apply(expression: Any, value: Any, **variables: Any) -> Any:
    return compile_transform(expression).apply(value, Variables(variables))


def problems(expression: Any) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(TransformProblems) as caught:
        compile_transform(expression)
    return caught.value.problems


PEOPLE = [{"name": "Ann", "age": 30, "on": True}, {"name": "Bob", "age": 20, "on": False}, {"name": "Cy", "age": 25}]


@pytest.mark.parametrize(
    ("expression", "value", "result"),
    [
        ({"map": "name"}, PEOPLE, ["Ann", "Bob", "Cy"]),
        ({"map": "on"}, PEOPLE, [True, False, None]),
        ({"map": {"who": "$item.name", "nr": "$index"}}, PEOPLE[:1], [{"who": "Ann", "nr": 0}]),
        ({"map": "$item.name is $item.age"}, PEOPLE[:1], ["Ann is 30"]),
        ({"map": ["$index", "$item"]}, ["a"], [[0, "a"]]),
        ({"pluck": "a.0.b"}, [{"a": [{"b": 1}]}, {}], [1, None]),
        ({"pluck": "first name"}, [{"first name": 1}], [1]),
        ({"select": {"on": True}, "pluck": "name"}, PEOPLE, ["Ann"]),
        ({"select": {"on": False}, "pluck": "name"}, PEOPLE, ["Bob"]),
        ({"select": "on", "pluck": "name"}, PEOPLE, ["Ann"]),
        ({"select": {"field": "age", "op": "gte", "value": 25}, "pluck": "name"}, PEOPLE, ["Ann", "Cy"]),
        (
            {"select": {"any": [{"field": "age", "value": 20}, {"field": "on", "value": True}]}, "count": None},
            PEOPLE,
            2,
        ),
        (
            {"select": {"field": "a", "op": "lt", "value": "$item.b"}},
            [{"a": 1, "b": 2}, {"a": 2, "b": 1}],
            [{"a": 1, "b": 2}],
        ),
        ({"select": {"field": "some key", "value": 1}}, [{"some key": 1}], [{"some key": 1}]),
        ({"reject": {"on": True}, "pluck": "name"}, PEOPLE, ["Bob", "Cy"]),
        ({"reject": {"field": "age", "op": "gt", "value": 20}, "pluck": "name"}, PEOPLE, ["Bob"]),
        ({"first": None}, [3, 1], 3),
        ({"first": None}, [], None),
        ({"first": 2}, [3, 1, 2], [3, 1]),
        ({"first": 0}, [3], []),
        ({"first": 1}, [3], [3]),
        ({"last": None}, [3, 1], 1),
        ({"last": None}, [], None),
        ({"last": 2}, [3, 1, 2], [1, 2]),
        ({"last": 0}, [3], []),
        ({"flatten": None}, [1, [2, [3, [4]]]], [1, 2, 3, 4]),
        ({"flatten": 1}, [1, [2, [3]]], [1, 2, [3]]),
        ({"flatten": 0}, [[1]], [[1]]),
        ({"compact": None}, [1, None, False, ""], [1, False, ""]),
        ({"compact": None}, {"a": None, "b": 0}, {"b": 0}),
        (
            {"uniq": None},
            [1, True, 1.0, "1", [1], [True], [1.0], {"a": 1}, {"a": 1}],
            [1, True, "1", [1], [True], {"a": 1}],
        ),
        ({"uniq": "a"}, [{"a": 1, "b": 1}, {"a": 1, "b": 2}], [{"a": 1, "b": 1}]),
        ({"reverse": None}, [1, 2], [2, 1]),
        ({"sort": None}, [3, 1.5, 2], [1.5, 2, 3]),
        ({"sort": None}, ["b", "B", "a"], ["B", "a", "b"]),
        ({"sort": None}, [], []),
        ({"sort": "age", "pluck": "name"}, PEOPLE, ["Bob", "Cy", "Ann"]),
        ({"sort": {"by": "age", "order": "desc"}, "pluck": "name"}, PEOPLE, ["Ann", "Cy", "Bob"]),
        ({"sort": {"order": "desc"}}, [1, 3, 2], [3, 2, 1]),
        ({"sort": {"by": "a", "order": "desc"}, "pluck": "b"}, [{"a": 1, "b": 1}, {"a": 1, "b": 2}], [1, 2]),
        ({"count": None}, [1, 2], 2),
        ({"count": None}, {"a": 1}, 1),
        ({"count": {"on": True}}, PEOPLE, 1),
        ({"sum": None}, [1, 2], 3),
        ({"sum": None}, [0.1] * 10, 1.0),
        ({"sum": None}, [1, 0.5], 1.5),
        ({"sum": None}, [], 0),
        ({"sum": "age"}, PEOPLE, 75),
        ({"avg": None}, [1, 2], 1.5),
        ({"avg": "age"}, PEOPLE, 25.0),
        ({"avg": None}, [], None),
        ({"min": None}, [3, 1.5], 1.5),
        ({"max": "age"}, PEOPLE, 30),
        ({"max": None}, ["a", "b"], "b"),
        ({"min": None}, [], None),
        ({"keys": None}, {"b": 1, "a": 2}, ["b", "a"]),
        ({"values": None}, {"b": 1, "a": 2}, [1, 2]),
        ({"pick": ["a", "z"]}, {"a": 1, "b": 2}, {"a": 1}),
        ({"pick": "a"}, {"a": 1, "b": 2}, {"a": 1}),
        ({"omit": ["a"]}, {"a": 1, "b": 2}, {"b": 2}),
        ({"merge": {"b": 3}}, {"a": 1, "b": 2}, {"a": 1, "b": 3}),
        ({"merge": [{"b": 3}, {"b": 4}]}, {"a": 1}, {"a": 1, "b": 4}),
        ({"merge": None}, [{"a": 1}, {"b": 2}, {"a": 3}], {"a": 3, "b": 2}),
        ({"group_by": "k", "keys": None}, [{"k": "x"}, {"k": 1}, {"k": True}, {}], ["x", "1", "true", "null"]),
        ({"group_by": "k"}, [{"k": "x", "n": 1}, {"k": "x", "n": 2}], {"x": [{"k": "x", "n": 1}, {"k": "x", "n": 2}]}),
        ({"join": ", "}, ["a", 1, None, True, [1]], "a, 1, , true, [1]"),
        ({"join": None}, ["a", "b"], "ab"),
        ({"zip": [1, 2, 3]}, ["a", "b"], [["a", 1], ["b", 2], [None, 3]]),
        ({"to_object": None}, [["a", 1], ["b", 2], ["a", 3]], {"a": 3, "b": 2}),
        ({"to_object": {"key": "name", "value": "age"}}, PEOPLE, {"Ann": 30, "Bob": 20, "Cy": 25}),
        ({"to_object": "name"}, PEOPLE[:1], {"Ann": PEOPLE[0]}),
    ],
)
def test_an_operation_gives_its_result(expression: Any, value: Any, result: Any) -> None:
    found = apply(expression, value)
    assert equal(found, result), found


@pytest.mark.parametrize(
    "name", sorted(set(OPERATION_NAMES) - {"count", "compact", "merge", "keys", "values", "pick", "omit"})
)
@pytest.mark.parametrize(("value", "kind"), [(None, "null"), (5, "integer"), ("abc", "text"), ({"a": 1}, "mapping")])
def test_an_operation_on_lists_refuses_everything_else(name: str, value: Any, kind: str) -> None:
    arguments = {"map": "a", "pluck": "a", "select": "a", "reject": "a", "group_by": "a", "zip": []}
    with pytest.raises(StepError, match=rf"'{name}' needs a list, not {kind}") as caught:
        apply({name: arguments.get(name)}, value)
    assert caught.value.kind == "TransformError"


@pytest.mark.parametrize("name", ["keys", "values", "pick", "omit", "merge"])
@pytest.mark.parametrize(("value", "kind"), [(None, "null"), (5, "integer"), ("abc", "text"), ([1], "")])
def test_an_operation_on_mappings_refuses_everything_else(name: str, value: Any, kind: str) -> None:
    with pytest.raises(StepError, match=rf"'{name}' needs a mapping, not {kind}"):
        apply({name: {"pick": ["a"], "omit": ["a"]}.get(name)}, value)


@pytest.mark.parametrize("name", ["count", "compact"])
@pytest.mark.parametrize("value", [None, 5, "abc", True])
def test_count_and_compact_need_a_list_or_a_mapping(name: str, value: Any) -> None:
    with pytest.raises(StepError, match=f"'{name}' needs a list or a mapping"):
        apply({name: None}, value)


@pytest.mark.parametrize("name", ["sort", "min", "max"])
@pytest.mark.parametrize(
    ("value", "names"),
    [
        ([1, "a"], "integer with text"),
        ([1, None], "integer with null"),
        ([True, 1], "boolean with integer"),
        ([[1], [2]], "list"),
        ([{}, {}], "mapping"),
        ([1.5, "a", None], "null with number with text"),
    ],
)
def test_mixed_or_unordered_items_are_not_compared(name: str, value: Any, names: str) -> None:
    with pytest.raises(StepError, match=f"cannot compare {names}"):
        apply({name: None}, value)


@pytest.mark.parametrize("name", ["sum", "avg"])
@pytest.mark.parametrize(("item", "kind"), [("1", "text"), (None, "null"), (True, "boolean"), ([1], "list")])
def test_only_numbers_are_added(name: str, item: Any, kind: str) -> None:
    with pytest.raises(StepError, match=rf"'{name}' needs numbers, not {kind} \(item 1\)"):
        apply({name: None}, [1, item])


def test_a_sum_beyond_64_bits_fails_the_step() -> None:
    assert apply({"sum": None}, [2**63 - 2, 1]) == 2**63 - 1
    with pytest.raises(StepError, match="64 bits"):
        apply({"sum": None}, [2**63 - 1, 1])


def test_a_sum_beyond_the_largest_float_fails_the_step() -> None:
    with pytest.raises(StepError, match="largest number"):
        apply({"sum": None}, [1e308, 1e308])


def test_a_sum_of_integers_is_an_integer() -> None:
    assert type(apply({"sum": None}, [1, 2])) is int


def test_a_key_is_not_made_from_a_container() -> None:
    with pytest.raises(StepError, match="key from list"):
        apply({"group_by": "a"}, [{"a": []}])


def test_to_object_refuses_what_is_no_pair() -> None:
    with pytest.raises(StepError, match="item 1 is integer"):
        apply({"to_object": None}, [["a", 1], 2])


def test_operations_run_in_order() -> None:
    assert apply({"sort": None, "first": 2, "reverse": None}, [3, 1, 2]) == [2, 1]


def test_a_list_of_operations_may_hold_one_twice() -> None:
    assert apply([{"first": 3}, {"reverse": None}, {"first": 1}], [1, 2, 3, 4]) == [3]


def test_an_operation_in_a_list_may_be_a_bare_name() -> None:
    assert apply(["compact", "sum"], [1, None, 2]) == 3


def test_arguments_are_resolved() -> None:
    assert apply({"first": "$n"}, [1, 2, 3], n=2) == [1, 2]
    assert apply({"pluck": "$field"}, [{"a": 1}], field="a") == [1]
    assert apply({"map": "$field"}, [{"a": 1}], field="a") == [1]
    assert apply({"zip": "$other"}, [1], other=[2]) == [[1, 2]]
    assert apply({"merge": "$more"}, {"a": 1}, more={"b": 2}) == {"a": 1, "b": 2}
    assert apply({"sort": {"by": "$f", "order": "$o"}}, [{"a": 1}, {"a": 2}], f="a", o="desc") == [{"a": 2}, {"a": 1}]
    assert apply({"select": {"age": "$age"}, "pluck": "name"}, PEOPLE, age=20) == ["Bob"]
    assert apply({"select": {"field": "age", "op": "gt", "value": "$age"}, "count": None}, PEOPLE, age=20) == 2


def test_a_resolved_argument_is_data() -> None:
    assert apply({"pluck": "$field"}, [{"$key": 1}], field="$key", key="x") == [1]
    assert apply({"merge": "$more"}, {}, more={"a": "$key"}, key="hidden") == {"a": "$key"}


@pytest.mark.parametrize(
    ("expression", "argument"),
    [({"first": "$n"}, -1), ({"first": "$n"}, "2"), ({"pluck": "$n"}, 5), ({"join": "$n"}, 1), ({"zip": "$n"}, None)],
)
def test_a_resolved_argument_of_the_wrong_kind_fails_the_step(expression: Any, argument: Any) -> None:
    with pytest.raises(StepError) as caught:
        apply(expression, [1], n=argument)
    assert caught.value.kind == "TransformError"


def test_references_are_the_outer_variables() -> None:
    expression = {
        "map": {"a": "$item.a", "b": "$outer.b", "c": "$index"},
        "select": {"all": [{"field": "a", "value": "$x"}, {"field": "$y.z", "value": "$item.b"}]},
        "reject": {"a": "$w"},
        "first": "$n",
    }
    found = [item.text for item in compile_transform(expression).references]
    assert found == ["$outer.b", "$x", "$y.z", "$w", "$n"]


def test_the_item_shadows_an_outer_variable_of_its_name_only_per_item() -> None:
    assert apply([{"map": {"v": "$item"}}, {"first": "$item"}], [1, 2, 3], item=2) == [{"v": 1}, {"v": 2}]


def test_a_field_that_is_a_reference_is_the_same_for_all_items() -> None:
    assert apply({"select": {"field": "$on", "value": True}}, [1, 2], on=True) == [1, 2]


def test_an_error_in_a_condition_on_items_fails_the_step() -> None:
    with pytest.raises(StepError, match="null and integer"):
        apply({"select": {"field": "age", "op": "gt", "value": 1}}, [{}])


def test_the_value_is_never_changed() -> None:
    value = [[3], [1, None]]
    for name in ("reverse", "flatten", "first", "compact"):
        apply({name: None}, value)
    mapping = {"a": 1}
    apply({"merge": {"a": 2}}, mapping)
    assert value == [[3], [1, None]]
    assert mapping == {"a": 1}


def test_a_constant_argument_is_not_changed_through_a_result() -> None:
    transform = compile_transform({"merge": {"a": []}})
    transform.apply({}, Variables())["a"].append(1)
    assert transform.apply({}, Variables()) == {"a": []}


def test_an_unknown_operation_is_a_problem_with_a_hint() -> None:
    assert problems({"flaten": None}) == [(("flaten",), "unknown operation 'flaten', did you mean 'flatten'?")]


def test_all_problems_are_reported_with_their_places() -> None:
    expression = [
        {"first": -1},
        {"sort": {"by": "a", "order": "up"}},
        {"select": {"field": "a", "op": "gtt", "value": 1}},
        {"map": {"a": "${"}},
        {"pluck": "a..b"},
        {"a": 1, "b": 2},
        5,
    ]
    assert [path for path, _ in problems(expression)] == [
        (0, "first"),
        (1, "sort", "order"),
        (2, "select", "op"),
        (3, "map"),
        (4, "pluck"),
        (5,),
        (6,),
    ]


@pytest.mark.parametrize("expression", [None, {}, [], "sort", 5])
def test_an_expression_is_a_mapping_or_list_of_operations(expression: Any) -> None:
    assert problems(expression)[0][0] == ()


@pytest.mark.parametrize(
    "expression",
    [
        {"reverse": False},
        {"keys": "a"},
        {"first": "2"},
        {"first": 1.5},
        {"first": False},
        {"flatten": -1},
        {"pluck": None},
        {"pluck": 5},
        {"select": None},
        {"select": {}},
        {"select": 5},
        {"map": None},
        {"map": 5},
        {"join": 5},
        {"zip": None},
        {"pick": None},
        {"pick": [1]},
        {"merge": "a"},
        {"merge": [1]},
        {"sort": {"bye": "a"}},
        {"to_object": {"value": "a"}},
        {"to_object": {"key": "a", "vale": "b"}},
        {"group_by": None},
        {1: None},
    ],
)
def test_a_constant_argument_of_the_wrong_kind_is_a_problem(expression: Any) -> None:
    assert problems(expression)


def test_text_made_by_map_and_join_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEXT_CEILING", 1_000)
    with pytest.raises(LimitExceeded):
        apply({"map": {"t": ["<$big>"]}}, [1] * 100, big="x" * 100)
    with pytest.raises(LimitExceeded):
        apply({"join": "x" * 100}, [1] * 100)


def test_uniq_takes_linear_time() -> None:
    assert len(apply({"uniq": None}, [[number, {"a": number}] for number in range(50_000)])) == 50_000


scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0]) | st.text("ab", max_size=2)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(values))
def test_uniq_keeps_the_first_of_equal_items(items: list[Any]) -> None:
    expected: list[Any] = []
    for item in items:
        if not any(equal(item, other) for other in expected):
            expected.append(item)
    assert equal(apply({"uniq": None}, items), expected)


@given(st.lists(st.integers(-(2**40), 2**40)))
def test_sorting_twice_in_opposite_orders_gives_the_same_items(items: list[int]) -> None:
    ascending = apply({"sort": None}, items)
    assert ascending == sorted(items)
    assert apply({"sort": {"order": "desc"}}, items) == ascending[::-1]


@given(st.sampled_from(OPERATION_NAMES), values, values)
def test_every_operation_gives_a_value_or_fails_the_step(name: str, argument: Any, value: Any) -> None:
    try:
        transform = compile_transform({name: argument})
    except TransformProblems:
        return
    with contextlib.suppress(StepError):
        json.dumps(transform.apply(value, Variables()), allow_nan=False)
