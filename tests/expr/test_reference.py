"""What `$name.path` means, and what it can never do."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_flow.errors import LimitExceeded, StepError
from durable_flow.expr import reference as module
from durable_flow.expr.reference import (
    MISSING,
    Reference,
    ReferenceSyntaxError,
    compile_reference,
    compile_template,
    copy_value,
    iter_references,
    to_text,
    walk,
)


class Variables:
    def __init__(self, **values: Any) -> None:
        self.values = values
        self.asked: list[str] = []

    def lookup(self, root: str) -> Any:
        self.asked.append(root)
        return self.values.get(root, MISSING)


def resolve(value: Any, **variables: Any) -> Any:
    return compile_template(value).resolve(Variables(**variables))


class Point(msgspec.Struct):
    x: int
    inner: Any = None

    @property
    def secret(self) -> str:
        raise AssertionError("a property was called")


class Trap:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"attribute {name} was read")


def test_a_text_that_is_one_reference_gives_the_value_itself() -> None:
    value = {"a": [1]}
    assert resolve("$order", order=value) is value


def test_a_braced_reference_alone_gives_the_value_itself() -> None:
    assert resolve("${order.lines}", order={"lines": [1]}) == [1]


def test_embedded_references_become_text() -> None:
    assert resolve("Hi $user.name, $n items", user={"name": "Ann"}, n=3) == "Hi Ann, 3 items"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (1.0, "1.0"),
        (1e300, "1e300"),
        (-(2**63), "-9223372036854775808"),
        ([1, "a", None], '[1,"a",null]'),
        ({"a": {"b": True}}, '{"a":{"b":true}}'),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), "2026-01-02T03:04:05Z"),
        ('"quoted"', '"quoted"'),
        (Point(1), '{"x":1,"inner":null}'),
    ],
)
def test_interpolated_values_look_as_in_json(value: Any, text: str) -> None:
    assert resolve("<$v>", v=value) == f"<{text}>"


def test_a_value_without_a_text_form_is_a_step_error_naming_its_type() -> None:
    with pytest.raises(StepError, match="Trap"):
        resolve("<$v>", v=type("Trap", (), {})())


def test_a_missing_variable_is_null() -> None:
    assert resolve("$nothing") is None


def test_a_missing_path_is_null() -> None:
    assert resolve("$a.b.c.0", a={"b": {}}) is None


def test_a_missing_path_inside_text_is_nothing() -> None:
    assert resolve("<$a.b>", a={}) == "<>"


def test_a_nested_false_is_false_and_not_null() -> None:
    assert resolve("$o.on", o={"on": False}) is False


def test_text_has_no_inside() -> None:
    assert resolve("$x.upper", x="text") is None


def test_a_path_never_calls_or_changes_anything() -> None:
    items = [1, 2]
    assert resolve(["$x.clear", "$x.pop", "$x.__class__", "$x.__len__"], x=items) == [None] * 4
    assert items == [1, 2]


def test_attributes_of_other_objects_are_never_read() -> None:
    assert resolve("$x.anything", x=Trap()) is None


def test_fields_of_structs_are_walked_and_their_properties_are_not() -> None:
    assert resolve(["$p.x", "$p.inner.x", "$p.secret", "$p.__struct_fields__"], p=Point(1, Point(2))) == [
        1,
        2,
        None,
        None,
    ]


def test_methods_of_mappings_cannot_be_reached_but_keys_of_their_names_can() -> None:
    assert resolve(["$m.items", "$m.keys"], m={"items": 3}) == [3, None]


def test_list_indexes_work_alone_and_embedded_alike() -> None:
    assert resolve("$l.0", l=["a"]) == "a"
    assert resolve("<$l.0>", l=["a"]) == "<a>"


@pytest.mark.parametrize("segment", ["2", "-1", "x", "1e0", "９", "9" * 5000])
def test_no_other_index_finds_anything(segment: str) -> None:
    assert walk(["a", "b"], (segment,)) is MISSING


def test_digits_are_a_key_in_a_mapping() -> None:
    assert resolve("$m.0", m={"0": "a"}) == "a"


def test_a_trailing_dot_stays_text() -> None:
    assert resolve("$name.", name="Al") == "Al."
    assert resolve("Hi $name.", name="Al") == "Hi Al."


def test_two_dollars_are_a_literal_dollar() -> None:
    assert resolve("$$USD 5") == "$USD 5"
    assert resolve("$$$n", n=5) == "$5"
    assert resolve("$$") == "$"
    assert resolve("$${n}", n=5) == "${n}"


@pytest.mark.parametrize("text", ["$5", "$", "a $ b", "$ name", "costs $5.99", "$-", "$ä", "100$"])
def test_a_dollar_before_anything_but_a_name_is_text(text: str) -> None:
    template = compile_template(text)
    assert template.constant
    assert template.resolve(Variables()) == text


def test_braces_separate_a_reference_from_the_letters_after_it() -> None:
    assert resolve("${n}th of ${o.x}y", n=4, o={"x": "Jul"}) == "4th of July"


def test_a_hyphen_ends_a_bare_reference() -> None:
    assert resolve("$a.x-$b", a={"x": 1}, b=2) == "1-2"


def test_a_hyphen_is_part_of_a_key_inside_braces() -> None:
    assert resolve("${headers.x-id}", headers={"x-id": "7"}) == "7"


def test_step_ids_after_approvals_may_hold_hyphens() -> None:
    approvals = {"big-order": {"approved": True}}
    assert resolve("$approvals.big-order.approved", approvals=approvals) is True
    assert resolve("<$approvals.big-order.approved->", approvals=approvals) == "<true->"


@pytest.mark.parametrize("text", ["${", "${a", "${}", "${a b}", "${a.}", "${1}", "${a..b}", "x ${a.$b}"])
def test_a_malformed_brace_is_a_syntax_error_with_its_position(text: str) -> None:
    with pytest.raises(ReferenceSyntaxError) as caught:
        compile_template({"deep": [text]})
    assert caught.value.position == text.index("${")


def test_resolved_text_is_never_resolved_again() -> None:
    assert resolve("$name", name="$key", key="hidden") == "$key"
    assert resolve("Hi $name", name="$key ${key}", key="hidden") == "Hi $key ${key}"
    assert resolve({"all": "$data"}, data={"x": "$key"}, key="hidden") == {"all": {"x": "$key"}}


def test_keys_of_mappings_are_taken_as_they_are() -> None:
    assert resolve({"$a": "$a"}, a=1) == {"$a": 1}


def test_keys_that_are_not_text_do_no_harm() -> None:
    assert resolve({1: "$a"}, a=2) == {1: 2}
    assert walk({1: 2}, ("1",)) is MISSING


def test_scalars_that_are_not_text_are_constants() -> None:
    assert resolve([1, 1.5, True, None]) == [1, 1.5, True, None]


def test_references_are_listed_in_their_order() -> None:
    found = iter_references({"a": "$x.y and $z", "b": ["${w}", {"c": "$x.y"}]})
    assert [reference.text for reference in found] == ["$x.y", "$z", "$w", "$x.y"]


def test_a_template_keeps_its_source() -> None:
    source = {"a": "$x"}
    assert compile_template(source).source is source


def test_only_referenced_roots_are_looked_up() -> None:
    scope = Variables(a=1)
    compile_template(["$a", "b", "$$c"]).resolve(scope)
    assert scope.asked == ["a"]


def test_a_constant_container_is_fresh_each_time() -> None:
    template = compile_template({"a": [1]})
    assert template.constant
    template.resolve(Variables())["a"].append(2)
    assert template.resolve(Variables()) == {"a": [1]}


def test_a_container_beside_a_reference_is_fresh_each_time() -> None:
    template = compile_template({"a": ["x"], "b": "$n"})
    template.resolve(Variables())["a"].append("y")
    assert template.resolve(Variables(n=1)) == {"a": ["x"], "b": 1}


def test_interpolation_stops_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEXT_CEILING", 100)
    with pytest.raises(LimitExceeded):
        resolve("$a" * 1000 + "!", a="x" * 10)


@pytest.mark.parametrize("text", ["user.name", "$user.name", "${user.name}"])
def test_a_path_key_is_accepted_with_and_without_dollar(text: str) -> None:
    assert compile_reference(text) == Reference("user", ("name",))


def test_a_path_key_may_hold_hyphens_after_the_root() -> None:
    assert compile_reference("approvals.big-order").path == ("big-order",)


@pytest.mark.parametrize("text", ["", "$", "a b", "a.", ".a", "1a", "$a and $b", "${a", "a-b.c"])
def test_a_path_key_that_is_no_path_is_a_syntax_error(text: str) -> None:
    with pytest.raises(ReferenceSyntaxError):
        compile_reference(text)


@pytest.mark.parametrize("text", ["$a", "$a.b.0", "${a.b-c}"])
def test_a_reference_is_written_as_it_is_read(text: str) -> None:
    assert compile_reference(text).text == text


def test_a_reference_resolves_by_itself() -> None:
    assert Reference("a", ("b",)).resolve(Variables(a={"b": 1})) == 1
    assert Reference("a").resolve(Variables()) is None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_a_copy_is_equal_and_shares_no_container(value: Any) -> None:
    copied = copy_value(value)
    assert copied == value
    if isinstance(value, (dict, list)):
        assert copied is not value


@given(st.text())
def test_any_text_with_doubled_dollars_is_itself(text: str) -> None:
    assert resolve(text.replace("$", "$$")) == text


@given(st.text(alphabet="$ab{}.-_1 "), st.text(alphabet="$ab{}"))
def test_any_text_compiles_or_is_a_syntax_error_and_values_are_only_data(text: str, value: str) -> None:
    try:
        template = compile_template(text)
    except ReferenceSyntaxError:
        return
    result = template.resolve(Variables(a=value, b=value))
    if template.constant:
        assert result == text.replace("$$", "$")


@given(json_values)
def test_every_json_value_has_a_text_form(value: Any) -> None:
    assert isinstance(to_text(value), str)
