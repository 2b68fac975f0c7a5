"""What the tables found, as small as it gets."""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from durable_flow.limits import Limits
from durable_flow.model.value import normalise


class Text(str):
    __slots__ = ()


class Number(int):
    __slots__ = ()


class Share(float):
    __slots__ = ()


class Unit(enum.Enum):
    METRE = Text("m")


class Holder(msgspec.Struct):
    value: Any


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Text("a"), "a"),
        (Number(3), 3),
        (Share(0.5), 0.5),
        (Unit.METRE, "m"),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ([{"a": Text("b")}], [{"a": "b"}]),
    ],
)
def test_what_can_be_stored_can_be_stored_in_a_struct(value: Any, plain: Any) -> None:
    assert normalise(value, limits=Limits()) == plain
    assert normalise(Holder(value), limits=Limits()) == {"value": plain}
