"""JSON Schemas: what fits, what cannot be there, and what a schema may not do."""

from __future__ import annotations

from typing import Any

import pytest

from durable_flow.expr.schema import TYPES, check_type, compile_schema


def test_a_value_that_fits_has_no_problems() -> None:
    assert compile_schema({"type": "object", "required": ["a"]}).problems({"a": 1}) == []


def test_each_problem_names_its_place() -> None:
    schema = compile_schema({"properties": {"a": {"items": {"type": "integer"}}}, "required": ["b"]})
    assert sorted(schema.problems({"a": [1, "x"]})) == [
        '$.a[1]: "x" is not of type "integer"',
        '$: "b" is a required property',
    ]


def test_long_values_are_left_out_of_messages() -> None:
    [problem] = compile_schema({"type": "integer"}).problems("s3cret" * 100)
    assert problem == '$: the value is not of type "integer"'


def test_all_values_are_left_out_when_masked() -> None:
    [problem] = compile_schema({"type": "integer"}).problems("s3cret", mask=True)
    assert "s3cret" not in problem


def test_the_number_of_problems_is_bounded() -> None:
    problems = compile_schema({"items": {"type": "integer"}}).problems(["x"] * 10_000)
    assert len(problems) == 101


def test_a_boolean_is_no_integer() -> None:
    assert compile_schema({"type": "integer"}).problems(True)


@pytest.mark.parametrize("schema", [True, {}])
def test_a_schema_that_says_nothing_takes_everything(schema: Any) -> None:
    assert compile_schema(schema).problems({"a": [None]}) == []


@pytest.mark.parametrize(
    "schema",
    [
        None,
        5,
        "string",
        [],
        {"type": "strin"},
        {"pattern": "("},
        {"properties": 5},
        {"$ref": "#/$defs/nothing"},
        {"minimum": "1"},
    ],
)
def test_a_bad_schema_is_refused_with_a_reason(schema: Any) -> None:
    with pytest.raises(ValueError, match="JSON Schema"):
        compile_schema(schema)


@pytest.mark.parametrize("uri", ["https://example.com/schema.json", "file:///etc/passwd", "http://169.254.169.254/"])
def test_a_schema_cannot_make_anybody_fetch_anything(uri: str) -> None:
    with pytest.raises(ValueError, match="may only refer to itself"):
        compile_schema({"properties": {"a": {"$ref": uri}}})


@pytest.mark.parametrize("pattern", ["(?=a)", r"(a)\1"])
def test_patterns_that_need_backtracking_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="JSON Schema"):
        compile_schema({"pattern": pattern})


def test_a_hostile_pattern_takes_linear_time() -> None:
    assert compile_schema({"pattern": "^(a+)+$"}).problems("a" * 50_000 + "!")


def test_a_recursive_schema_ends() -> None:
    schema = compile_schema({"properties": {"next": {"$ref": "#"}}, "additionalProperties": False})
    assert schema.problems({"next": {"next": {}}}) == []
    assert schema.contradicts(("next",) * 50) is None
    assert schema.contradicts(("next", "prev"))


def test_a_reference_to_itself_says_nothing() -> None:
    schema = compile_schema({"$defs": {"a": {"$ref": "#/$defs/a"}}, "properties": {"x": {"$ref": "#/$defs/a"}}})
    assert schema.contradicts(("x", "y")) is None


SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "maybe": {"type": ["string", "null"]},
        "open": {"type": "object", "properties": {"a": {"type": "integer"}}},
        "closed": {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "number"}}}},
        "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "object"}], "items": False},
        "local": {"$ref": "#/$defs/an~1id"},
        "either": {"anyOf": [{"type": "string"}, {"type": "object"}]},
        "some": {"type": "object", "patternProperties": {"^x": {}}, "additionalProperties": False},
        "never": False,
    },
    "$defs": {"an/id": {"type": "string"}},
}


@pytest.mark.parametrize(
    "path",
    [
        "id.x",
        "maybe.x",
        "open.a.b",
        "closed.b",
        "map.x.y",
        "list.x",
        "list.0.n.z",
        "pair.0.x",
        "pair.2",
        "local.x",
        "never",
        "never.x",
    ],
)
def test_a_path_that_cannot_exist_is_contradicted(path: str) -> None:
    assert compile_schema(SCHEMA).contradicts(tuple(path.split(".")))


@pytest.mark.parametrize(
    "path",
    [
        "id",
        "maybe",
        "unknown",
        "unknown.x",
        "open.b",
        "closed.a.z",
        "map.x",
        "list.0.n",
        "list.0.other",
        "pair.1.x",
        "local",
        "either.x",
        "some.y",
    ],
)
def test_a_path_that_may_exist_is_not(path: str) -> None:
    assert compile_schema(SCHEMA).contradicts(tuple(path.split("."))) is None


def test_the_root_is_never_contradicted_by_an_open_schema() -> None:
    assert compile_schema(True).contradicts(("a", "b")) is None
    assert compile_schema({"type": "string"}).contradicts(()) is None


@pytest.mark.parametrize(
    ("value", "types"),
    [
        ("a", {"string"}),
        (1, {"integer", "number"}),
        (1.0, {"number"}),
        (True, {"boolean"}),
        ([], {"array"}),
        ({}, {"object"}),
        (None, set()),
    ],
)
def test_a_value_has_exactly_its_declared_types(value: Any, types: set[str]) -> None:
    assert {name for name in TYPES if check_type(value, name)} == types | {"any"}
