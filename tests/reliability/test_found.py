"""What the tables found, as small as it gets."""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

import durable_flow as df
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


class Name(enum.Enum):
    ORDER = "order"


@pytest.mark.parametrize("same", [{Name.ORDER: 1}, {Text("order"): 1}, {"order": Number(1)}, {"order": 1}])
async def test_an_input_is_the_same_whatever_its_types_are_called(same: Any) -> None:
    flow = {"id": "flow", "name": "flow", "steps": [{"id": "end", "type": "end", "result": "$input.order"}]}
    async with df.Runtime("sqlite://:memory:", workflows=[flow]) as runtime:
        runner = runtime.runner("flow")
        assert (await runner.run(same, execution_id="e")).output == 1
        assert (await runner.run({"order": 1}, execution_id="e")).output == 1
        with pytest.raises(df.ConflictError):
            await runner.run({"order": 2}, execution_id="e")
