"""Text or a mapping becomes a tree with positions, or an error that says where and what."""

import json
import math
from datetime import date

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_flow.definition import document
from durable_flow.definition.document import MappingNode, ScalarNode, SequenceNode, compose, compose_plain
from durable_flow.errors import ValidationError
from durable_flow.limits import Limits

MIB = 1024 * 1024


def read(text: str, **limits: int) -> MappingNode:
    return compose(text, name="flow.yml", limits=Limits(**limits))


def refusal(text: str, **limits: int) -> str:
    with pytest.raises(ValidationError) as refused:
        read(text, **limits)
    return str(refused.value)


def plain_refusal(data: object, **limits: int) -> str:
    with pytest.raises(ValidationError) as refused:
        compose_plain(data, name="<mapping>", limits=Limits(**limits))
    return str(refused.value)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("FALSE", False),
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        ("007", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("18446744073709551615", 2**64 - 1),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-2.5e3", -2500.0),
        ("1e3", 1000.0),
    ],
)
def test_core_schema_values(written: str, value: object) -> None:
    found = read(f"a: {written}").items["a"].plain()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "on",
        "off",
        "yes",
        "no",
        "y",
        "12:34:56",
        "2026-01-31",
        "1_000",
        "0b11",
        "1.2.3",
        "0o8",
        "tRUE",
        "<<",
        "=",
        "$x.y",
    ],
)
def test_what_is_not_in_the_core_schema_stays_text(text: str) -> None:
    assert read(f"a: {text}").plain() == {"a": text}


@pytest.mark.parametrize("text", ["1", "true", "null", "~", "1.5", ".inf"])
def test_quoted_and_block_scalars_are_text(text: str) -> None:
    assert read(f"a: \"{text}\"\nb: '{text}'\nc: |-\n  {text}\n").plain() == {"a": text, "b": text, "c": text}


def test_keys_like_on_and_yes_are_text() -> None:
    assert read("on: 1\nyes: 2\n2026-01-31: 3").plain() == {"on": 1, "yes": 2, "2026-01-31": 3}


def test_a_scalar_keeps_how_it_was_written() -> None:
    version = read("version: 1.10").items["version"]
    assert isinstance(version, ScalarNode)
    assert (version.value, version.text) == (1.1, "1.10")


@pytest.mark.parametrize(
    "number", ["18446744073709551616", "-9223372036854775809", "0xFFFFFFFFFFFFFFFFF", "9" * 100_000]
)
def test_a_number_beyond_64_bits_is_refused(number: str) -> None:
    assert refusal(f"a: {number}").startswith("flow.yml:1:4: the number ")


@pytest.mark.parametrize("zeros", ["0" * 100_000, "-" + "0" * 100_000, "0x" + "0" * 100_000])
def test_any_number_of_leading_zeros_is_read(zeros: str) -> None:
    assert read(f"a: {zeros}").plain() == {"a": 0}


@pytest.mark.parametrize("number", [".inf", "-.INF", ".nan", "1e999"])
def test_a_number_that_is_not_finite_is_refused(number: str) -> None:
    assert f"the number {number} is not finite" in refusal(f"a: {number}")


# --- positions --------------------------------------------------------------------------------------------------------


def test_keys_and_values_know_their_place() -> None:
    steps = read("id: x\nsteps:\n  - id: a\n    type: start\n").items["steps"]
    assert isinstance(steps, SequenceNode)
    step = steps.items[0]
    assert isinstance(step, MappingNode)
    assert step.at == (3, 5)
    assert step.keys["type"] == (4, 5)
    assert step.items["type"].at == (4, 11)


def test_a_byte_order_mark_at_the_start_does_not_move_anything() -> None:
    assert read("\ufeffid: x").keys["id"] == (1, 1)


def test_windows_line_ends_count_once() -> None:
    assert read("a: 1\r\nb: 2\r\n").keys["b"] == (2, 1)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "flow.yml:1:1: the document is empty"),
        ("# only a comment\n", "flow.yml:1:1: the document is empty"),
        ("---\n", "the document is empty"),
        ("- a\n", "flow.yml:1:1: the document must be a mapping (key: value), not a list"),
        ("just text", "flow.yml:1:1: the document must be a mapping (key: value), not a single value"),
        ("a: 1\n---\nb: 2\n", "flow.yml:2:1: only one document is allowed"),
        ("a: 1\n...\n%TAG !a! tag:x\n---\nb: 2\n", "only one document is allowed"),
        ("%TAG !a! tag:x\n---\na: 1", "flow.yml:1:1: directives"),
        ("# c\n%YAML 1.2\n%TAG !a! tag:x\n---\na: 1", "flow.yml:3:1: directives"),
        ("a: 1\nb: 2\na: 3\n", "flow.yml:3:1: duplicate key 'a', first at line 1, column 1"),
        ("b:\n  a: 1\n  'a': 2\n", "flow.yml:3:3: duplicate key 'a', first at line 2, column 3"),
        ("a:\n  1: x\n", 'flow.yml:2:3: keys must be text; write "1"'),
        ("true: x\n", 'flow.yml:1:1: keys must be text; write "true"'),
        ("[a]: x\n", "flow.yml:1:1: keys must be text, not a list or mapping"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "flow.yml:3:3: merge keys (<<) are not supported"),
        ("a: !!python/object/apply:os.system [ls]\n", "flow.yml:1:4: tags are not supported: !!python/object/apply"),
        ("a: !!str 5\n", "flow.yml:1:4: tags are not supported: !!str"),
        ("a: !Ref b\n", "flow.yml:1:4: tags are not supported: !Ref"),
        ("a: ! b\n", "flow.yml:1:4: tags are not supported: !"),
        ("a: &x [*x]\n", "flow.yml:1:8: *x stands inside the node it refers to"),
        ("a: *x\n", "flow.yml:1:4: nothing before this is anchored as &x"),
        ("a: b\x00c\n", "flow.yml:1:5: the character U+0000 is not allowed here"),
        ("a: 1\nb: c\x07\n", "flow.yml:2:5: the character U+0007 is not allowed here"),
        ("a: b\ufeff\n", "flow.yml:1:5: the character U+FEFF is not allowed here"),
        ("a: b\u2028\n", "flow.yml:1:5: the character U+2028 is not allowed here"),
        ("a: \ud800\n", "flow.yml:1:4: the character U+D800 is not allowed here"),
        ("a:\n\tb: 1\n", "flow.yml:2:1: not valid YAML while scanning for the next token: a tab is not allowed here"),
        ("a: @b\n", "'@' cannot begin a value; put the text in quotes"),
        ("a: b: c\n", "flow.yml:1:5: not valid YAML: a second ': ' is not allowed here"),
        ("a: [1, 2\n", "not valid YAML"),
        ('a: "b\n', "not valid YAML"),
    ],
)
def test_refusals_say_where_and_what(text: str, problem: str) -> None:
    assert problem in refusal(text)


def test_several_problems_are_reported_at_once() -> None:
    lines = refusal("a: !x 1\na: 2\n3: .nan\n").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["flow.yml:1:4", "flow.yml:2:1", "flow.yml:3:1", "flow.yml:3:4"]


def test_problems_come_before_the_syntax_error_that_ends_the_reading() -> None:
    assert "duplicate key" in refusal("a: 1\na: 2\nb: [\n").splitlines()[0]


def test_a_document_full_of_problems_is_answered_with_the_first_hundred() -> None:
    with pytest.raises(ValidationError) as refused:
        read("a: 1\n" * 5000)
    assert len(refused.value.problems) == document.MAX_PROBLEMS


def test_the_pure_python_scanner_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: [1, {b: on}]\nc: &x |\n  text\nd: *x\n"
    fast = read(text)
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    assert read(text) == fast
    assert "flow.yml:2:1: duplicate key 'a'" in refusal("a: 1\na: 2\n")


# --- limits -----------------------------------------------------------------------------------------------------------


def nested(depth: int) -> str:
    return "a: " + "[" * (depth - 1) + "]" * (depth - 1)


def wide(nodes: int) -> str:
    return "a: [" + "1," * (nodes - 3) + "]"


def test_depth_is_exact() -> None:
    read(nested(64))
    assert "nested more than 64 levels deep (raise it with Limits(document_depth=…))" in refusal(nested(65))
    read(nested(65), document_depth=65)


def test_nodes_are_exact() -> None:
    read(wide(20_000))
    assert "more than 20,000 nodes" in refusal(wide(20_001))
    read(wide(20_001), document_nodes=20_001)


def test_bytes_are_exact() -> None:
    read("a: " + "é" * 100, document_bytes=203)
    assert "flow.yml:1:1: more than 202 bytes" in refusal("a: " + "é" * 100, document_bytes=202)


def test_aliases_share_what_they_refer_to() -> None:
    assert read("a: &x {b: [1]}\nc: *x\n").plain() == {"a": {"b": [1]}, "c": {"b": [1]}}


def test_an_anchor_can_be_set_again() -> None:
    assert read("a: &x 1\nb: *x\nc: &x 2\nd: *x\n").plain() == {"a": 1, "b": 1, "c": 2, "d": 2}


def test_aliases_count_expanded() -> None:
    text = "a: &x [1, 2, 3]\nb: [*x, *x]\n"  # 1 + 2 keys + 4 + 1 + 2 * 4
    read(text, document_nodes=16)
    assert "more than 15 nodes" in refusal(text, document_nodes=15)


def test_depth_counts_through_aliases() -> None:
    text = "a: &x [[1]]\nb: [[*x]]\n"
    read(text, document_depth=5)
    assert "flow.yml:2:6: nested more than 4 levels" in refusal(text, document_depth=4)


def test_depth_counts_through_aliases_of_aliases() -> None:
    text = "a: &x [[1]]\nb: &y [*x]\nc: [*y]\n"
    read(text, document_depth=5)
    assert "flow.yml:3:5: nested more than 4 levels" in refusal(text, document_depth=4)


def test_an_alias_bomb_is_refused() -> None:
    levels = [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(30)]
    assert "more than 20,000 nodes" in refusal("\n".join(["a0: &a0 [x]", *levels]))


def test_a_long_text_repeated_by_aliases_is_refused() -> None:
    assert "more than 1,048,576 bytes" in refusal(f"a: &x {'y' * 900_000}\nb: [*x, *x]\n")


HOSTILE = {
    "open lists": "[" * MIB,
    "open mappings": "{" * MIB,
    "open lists, a line each": "[\n" * (MIB // 2),
    "dashes": "- " * (MIB // 2),
    "dashes, a line each": "-\n" * (MIB // 2),
    "complex keys": "? " * (MIB // 2),
    "flow keys": "{a: " * (MIB // 4),
    "flow sets": "{? " * (MIB // 3),
    "quoted entries": '["a",' * (MIB // 5),
    "deep, then wide": "[" * 20_000 + "a,\n" * 300_000,
    "deep as allowed, then wide": "a: " + "[" * 60 + '"a",' * 200_000,
    "wide": "a:\n" + "- a\n" * (MIB // 4 - 2),
    "indentation": "".join(" " * i + "a:\n" for i in range(1400)),
    "tag directives": "".join(f"%TAG !a{i}! tag:x\n" for i in range(50_000)),
    "tag directives later": "a: 1\n...\n" + "".join(f"%TAG !a{i}! tag:x\n" for i in range(50_000)),
    "documents": "--- a\n" * (MIB // 6),
    "anchors": "".join(f"- &a{i} x\n" for i in range(80_000)),
    "one key": "a: 1\n" * (MIB // 5),
    "no colon": "{" + ("a" * 1000 + " ") * 1000,
    "a long tag": "a: !" + "%41" * (MIB // 3 - 10) + " x",
    "bangs": "a: " + "! " * 500_000,
    "an open quote": "[" * 60 + '"' + "a" * (MIB - 100),
    "blanks": " " * MIB,
    "comments": "#\n" * (MIB // 2),
    "deep JSON": '{"a": "\\ud83d\\ude00", "b": ' + "[" * 500_000 + "]" * 500_000 + "}",
    "wide JSON": '{"a": "\\ud83d\\ude00", "b": [' + "1," * 500_000 + "1]}",
    "repetitive JSON": '{"a": "\\ud83d\\ude00",' + '"b": 1,' * 140_000 + '"c": 1}',
    "JSON of escapes": '{"a": "\\ud83d\\ude00' + '\\"' * 500_000,
    "a long JSON number": '{"a": "\\ud83d\\ude00", "b": ' + "9" * 1_000_000 + "}",
    "too long": "a: " + "x" * MIB,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_documents_are_refused(text: str) -> None:
    refusal(text)


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_has_positions() -> None:
    assert read('{\n\t"id": "x",\n\t"steps": []\n}').keys["steps"] == (3, 2)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        ('{"a": "x\u2028y\x7f"}', {"a": "x\u2028y\x7f"}),
        ('{"a": "http:\\/\\/x", "b": 1e2, "c": -0}', {"a": "http://x", "b": 100.0, "c": 0}),
        ('{"' + "k" * 2000 + '": "\\ud83d\\ude00 \\" [[["}', {"k" * 2000: '😀 " [[['}),
        ('{"<<": {"~": null}, "1": true}', {"<<": {"~": None}, "1": True}),
    ],
)
def test_json_is_accepted_as_it_is(text: str, data: object) -> None:
    assert read(text).plain() == data


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": "\\ud83d\\ude00", "b": 1, "b": 2}', "flow.yml:1:1: duplicate key 'b'"),
        ('{"a": "\\ud83d\\ude00", "b": 18446744073709551616}', "does not fit into 64 bits"),
        ('{"a": "\\ud83d\\ude00", "b": NaN}', "the number NaN is not finite"),
        ('{"a": "\\ud83d\\ude00", "b": 1e999}', "the number 1e999 is not finite"),
        ('{"a": ["\\ud83d"]}', "flow.yml:1:1: a[0]: a text holds half a surrogate pair"),
        ('{"a": "\\ud83d\\ude00"', "not valid YAML"),
    ],
)
def test_bad_json_is_refused(text: str, problem: str) -> None:
    assert problem in refusal(text)


# --- Python data ------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
DOCUMENTS = st.dictionaries(TEXT, JSON, max_size=4)


@settings(deadline=None)
@given(DOCUMENTS)
def test_json_data_comes_back_equal(data: dict[str, object]) -> None:
    assert compose_plain(data, name="<mapping>", limits=Limits()).plain() == data


@settings(deadline=None)
@given(DOCUMENTS, st.booleans())
def test_every_json_text_is_read_as_json(data: dict[str, object], ascii_only: bool) -> None:
    assert read(json.dumps(data, ensure_ascii=ascii_only)).plain() == data


def test_python_data_has_no_positions() -> None:
    node = compose_plain({"a": [1]}, name="<mapping>", limits=Limits())
    assert node.at == node.keys["a"] == node.items["a"].at == (None, None)


def test_data_shared_in_several_places_is_fine() -> None:
    retry = {"max_attempts": 3}
    data = {"a": {"retry": retry}, "b": {"retry": retry}}
    assert compose_plain(data, name="<mapping>", limits=Limits()).plain() == data


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (["a"], "<mapping>: the document must be a mapping, not list"),
        ({"a": [{"b": date(2026, 1, 31)}]}, "<mapping>: a[0].b: date is not a JSON type"),
        ({"a": {1, 2}}, "<mapping>: a: set is not a JSON type"),
        ({"a": b"x"}, "<mapping>: a: bytes is not a JSON type"),
        ({"a": object()}, "<mapping>: a: object is not a JSON type"),
        ({"a": math.nan}, "<mapping>: a: nan is not a finite number"),
        ({"a": 2**64}, "<mapping>: a: a number does not fit into 64 bits"),
        ({"a": {1: "x"}}, "<mapping>: a: keys must be text, not 1"),
        ({None: "x"}, "<mapping>: keys must be text, not None"),
        ({"a": "\ud800"}, "<mapping>: a: a text holds half a surrogate pair"),
    ],
)
def test_what_is_not_json_is_refused_with_its_path(data: object, problem: str) -> None:
    assert problem in plain_refusal(data)


def test_data_that_contains_itself_is_refused() -> None:
    items: list[object] = []
    items.append({"again": items})
    assert "<mapping>: a[0].again: a mapping or list contains itself" in plain_refusal({"a": items})
    whole: dict[str, object] = {}
    whole["whole"] = whole
    assert "<mapping>: whole: a mapping or list contains itself" in plain_refusal(whole)


def test_shared_data_counts_wherever_it_is_reached() -> None:
    data: object = "x"
    for _ in range(50):
        data = [data] * 9
    assert "more than 1,000,000 nodes" in plain_refusal({"a": data})


def test_python_data_is_no_deeper_than_a_text() -> None:
    data: object = "x"
    for _ in range(64):
        data = [data]
    assert "nested more than 64 levels deep" in plain_refusal({"a": data})


def test_a_mapping_of_ten_thousand_steps_is_within_the_limits() -> None:
    steps = [{"id": f"s{i}", "type": "assign", "set": {"a": i}, "next": f"s{i + 1}"} for i in range(10_000)]
    assert len(compose_plain({"steps": steps}, name="<mapping>", limits=Limits()).plain()["steps"]) == 10_000  # type: ignore[arg-type]
