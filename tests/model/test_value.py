"""Values survive a store unchanged, and nothing else gets in."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import socket
import threading
import types
import uuid
from collections import OrderedDict
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_flow.errors import LimitExceeded, OutputError
from durable_flow.expr.condition import equal
from durable_flow.limits import Limits
from durable_flow.model.value import DEPTH_CEILING, copy_value, decode, encode, format_path, normalise, type_name


def normal(value: Any, **limits: int) -> Any:
    return normalise(value, limits=Limits(**limits))


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


class Point(msgspec.Struct, tag="point", rename={"y": "why"}):
    x: int
    y: Any = None


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    lines: Any = ()


class Model:
    """Answers like a pydantic model."""

    def __init__(self, dumped: Any) -> None:
        self.dumped = dumped

    def model_dump(self, *, mode: str) -> Any:
        assert mode == "json"
        if isinstance(self.dumped, Exception):
            raise self.dumped
        return self.dumped


UUID = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        (True, True),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (1.0, 1.0),
        ("größe\0\u202e", "größe\0\u202e"),
        ((1, (2,)), [1, [2]]),
        ({1}, [1]),
        (frozenset("a"), ["a"]),
        (OrderedDict(a=1), {"a": 1}),
        (types.MappingProxyType({"a": (1,)}), {"a": [1]}),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "2026-01-02T00:00:00Z"),
        (datetime.datetime(2026, 1, 2), "2026-01-02T00:00:00"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.timedelta(seconds=90), "PT90S"),
        (decimal.Decimal("1.10"), "1.10"),
        (UUID, str(UUID)),
        (b"ab", "YWI="),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (Word.YES, "yes"),
        ({Word.YES: 1, Color.RED: 2}, {"yes": 1, "red": 2}),
        (Point(1, Point(2)), {"type": "point", "x": 1, "why": {"type": "point", "x": 2, "why": None}}),
        (Order(UUID, [Color.RED]), {"id": str(UUID), "lines": ["red"]}),
        ([Order(UUID)], [{"id": str(UUID), "lines": []}]),
        (Model({"a": [1]}), {"a": [1]}),
        (Order(UUID, [Model({"a": 1})]), {"id": str(UUID), "lines": [{"a": 1}]}),
    ],
)
def test_a_value_becomes_what_a_store_gives_back(value: Any, stored: Any) -> None:
    found = normal(value)
    assert equal(found, stored), found
    assert type(found) is type(stored)
    assert equal(normal({"in": [value]}), {"in": [stored]})


def test_the_copy_shares_nothing_with_the_original() -> None:
    original = {"a": [{"b": 1}]}
    copied = normal(original)
    original["a"][0]["b"] = 2
    original["a"].append({})
    assert copied == {"a": [{"b": 1}]}


def refused(value: Any) -> OutputError:
    with pytest.raises(OutputError) as caught:
        normal(value)
    return caught.value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "finite"),
        (float("-inf"), "finite"),
        (decimal.Decimal("NaN"), "finite"),
        (2**63, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        ("a\ud800", "surrogate"),
        (object(), "object"),
        (lambda: None, "function"),
        ((number for number in range(3)), "generator"),
        (threading.Lock(), "lock"),
        (int, "type"),
        (1j, "complex"),
        (Order(UUID, object()), "Order"),
        (Order(UUID, float("nan")), "finite"),
        (Model(RuntimeError("no")), "Model"),
        (Model({"a": object()}), "object"),
        (Model({"a": {1: 2}}), "key"),
        (msgspec.UNSET, "JSON"),
        (msgspec.Raw(b'{"a":NaN}'), "Raw"),
        (msgspec.msgpack.Ext(1, b"a"), "Ext"),
    ],
)
def test_what_has_no_json_form_is_refused_with_place_and_reason(value: Any, reason: str) -> None:
    if not isinstance(value, types.GeneratorType):
        assert reason in refused(value).reason
    error = refused({"a": [0, {"b": value}]})
    assert reason in error.reason
    assert error.path.startswith("$.a[1].b")


def test_an_open_socket_is_refused() -> None:
    with socket.socket() as opened:
        assert "socket" in refused([opened]).reason


@pytest.mark.parametrize("key", [1, None, True, 1.5, ("a",), UUID, b"a", Level.HIGH])
def test_a_key_that_is_not_text_is_refused(key: Any) -> None:
    assert "key that is not text" in refused({"a": {key: 1}}).reason


def test_a_key_with_a_lone_surrogate_is_refused() -> None:
    assert "surrogate" in refused({"a\ud800": 1}).reason


def test_a_container_that_raises_while_it_is_read_is_refused() -> None:
    class Broken(dict[str, Any]):
        def items(self) -> Any:
            raise KeyError("boo")

    assert "KeyError" in refused([Broken()]).reason


def test_a_model_whose_dump_is_deep_passes_the_depth_limit() -> None:
    dumped: Any = 1
    for _ in range(5_000):
        dumped = {"a": dumped}
    with pytest.raises(LimitExceeded):
        normal(Model(dumped))


def test_a_list_that_contains_itself_is_refused() -> None:
    cyclic: list[Any] = [1]
    cyclic.append({"a": cyclic})
    assert "contains itself" in refused(cyclic).reason


def test_a_dataclass_that_contains_itself_is_refused() -> None:
    order = Order(UUID)
    order.lines = [order]
    assert "contains itself" in refused({"o": order}).reason


def test_a_value_nested_too_deep_passes_the_depth_limit() -> None:
    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return value

    assert normal(nested(64)) == nested(64)
    for depth in (65, 100_000):
        with pytest.raises(LimitExceeded) as caught:
            normal(nested(depth))
        assert caught.value.limit == "value_depth"


def test_dataclasses_nested_too_deep_pass_the_depth_limit() -> None:
    order: Any = 1
    for _ in range(5_000):
        order = Order(UUID, order)
    with pytest.raises(LimitExceeded):
        normal(order)


def test_the_depth_limit_has_a_ceiling_no_setting_passes() -> None:
    value: Any = 1
    for _ in range(DEPTH_CEILING + 1):
        value = [value]
    with pytest.raises(LimitExceeded):
        normal(value, value_depth=1_000_000)


@pytest.mark.parametrize(
    "value", [["a" * 98], ["ü" * 49], "a" * 99, "\0" * 17, ['"' * 49], [[]] * 34, {"a" * 95: 1}, list(range(100, 126))]
)
def test_the_size_limit_is_exact(value: Any) -> None:
    size = len(msgspec.json.encode(value))
    assert normal(value, value_bytes=size) == value
    with pytest.raises(LimitExceeded) as caught:
        normal(value, value_bytes=size - 1)
    assert caught.value.limit == "value_bytes"


def test_small_data_that_unfolds_without_end_is_refused_at_once() -> None:
    value: Any = [1]
    for _ in range(60):
        value = [value, value]
    with pytest.raises(LimitExceeded):
        normal(value)
    order: Any = Order(UUID)
    for _ in range(60):
        order = Order(UUID, [order, order])
    with pytest.raises(LimitExceeded):
        normal(order)


def test_the_limit_names_the_value() -> None:
    with pytest.raises(LimitExceeded, match="input"):
        normalise("a" * 100, limits=Limits(value_bytes=10), what="input")


def test_paths_of_odd_keys_are_quoted_and_short() -> None:
    assert format_path(["a b", 0, "x" * 200]).startswith('$["a b"][0]["xxx')
    assert len(format_path(["x" * 200])) < 100


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 300 + "]" * 300])
def test_deep_json_is_refused_before_it_is_decoded(text: str) -> None:
    with pytest.raises(ValueError, match="nested deeper"):
        decode(text)


def test_brackets_inside_of_text_do_not_count_as_nesting() -> None:
    assert decode('["' + "[{" * 1_000 + '\\"["]') == ["[{" * 1_000 + '"[']


def test_wide_json_is_not_deep() -> None:
    value = [{"a": [1]}] * 1_000
    assert decode(encode(value)) == value


@pytest.mark.parametrize("text", ["", "{", "NaN", "{'a': 1}", b"\xff", '"\\ud800"', "1 2"])
def test_what_is_not_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode(text)


def test_other_types_are_called_by_their_class() -> None:
    assert type_name(Order(UUID)) == "Order"
    assert type_name((1,)) == "list"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)
rich_values = st.recursive(
    json_values
    | st.datetimes(timezones=st.just(datetime.UTC))
    | st.dates()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.uuids()
    | st.binary()
    | st.sampled_from([Color.RED, Level.HIGH, Word.YES]),
    lambda inner: (
        st.tuples(inner, inner) | st.builds(Order, st.uuids(), inner) | st.builds(Point, st.integers(0, 9), inner)
    ),
    max_leaves=10,
)
anything = st.recursive(
    rich_values
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.text("a\ud800")
    | st.builds(object)
    | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_json_data_is_normal_already(value: Any) -> None:
    assert equal(normal(value), value)


@given(rich_values)
def test_a_normal_value_survives_a_store_unchanged(value: Any) -> None:
    once = normal(value)
    assert equal(decode(encode(once)), once)
    assert equal(normal(once), once)
    assert equal(json.loads(encode(once)), once)


@given(rich_values)
def test_a_normal_value_is_what_msgspec_makes_of_it(value: Any) -> None:
    assert equal(normal(value), msgspec.json.decode(msgspec.json.encode(value)))


@given(anything)
def test_any_value_is_normalised_or_refused(value: Any) -> None:
    try:
        once = normal(value)
    except OutputError:
        return
    assert equal(decode(encode(once)), once)


@given(json_values, st.integers(1, 400))
def test_the_size_limit_counts_the_json_form(value: Any, room: int) -> None:
    fits = len(encode(value)) <= room
    # Scalars other than text are never long enough to be counted.
    if value is None or isinstance(value, (bool, int, float)):
        return
    try:
        normal(value, value_bytes=room)
    except LimitExceeded:
        assert not fits or len(encode(value).encode()) > room
    else:
        assert len(encode(value).encode()) <= room


@given(json_values)
def test_a_copy_is_equal(value: Any) -> None:
    assert equal(copy_value(value), value)
