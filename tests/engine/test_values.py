"""What values become, and what cannot be one."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Any

import msgspec
import pytest

import durable_flow as df
from tests.engine.aid import World, flow

GIVE = flow("""
    - {id: give, type: call, service: desk, method: give, output: x, on_error: sorry, next: ask}
    - {id: ask, type: halt, reason: well, next: done}
    - {id: done, type: end, result: $x}
    - {id: sorry, type: end, result: $_last_error}
""")


@dataclasses.dataclass
class Order:
    id: int
    tags: tuple[str, ...]


class Line(msgspec.Struct):
    sku: str
    at: datetime.date


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), "2026-01-02T03:04:05Z"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.timedelta(seconds=90), "PT90S"),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (b"\x00\xff", "AP8="),
        ((1, 2), [1, 2]),
        ({3}, [3]),
        (Order(1, ("a",)), {"id": 1, "tags": ["a"]}),
        ([Line("s", datetime.date(2026, 1, 2))], [{"sku": "s", "at": "2026-01-02"}]),
        (Colour.RED, "red"),
        ({Colour.RED: 1}, {"red": 1}),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (1e308, 1e308),
        ("\x00 ünï 😀", "\x00 ünï 😀"),
        (True, True),
        (1, 1),
        (1.0, 1.0),
    ],
    ids=repr,
)
async def test_a_value_is_the_same_before_and_after_a_restart(world: World, given: Any, stored: Any) -> None:
    world.desk.answers["give"] = lambda _: given
    await world.run(GIVE, execution_id="e")
    assert repr((await world.variables())["x"]) == repr(stored)
    await world.restart()
    assert repr((await world.runner().resume("e")).output) == repr(stored)


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"a": [1, {"b": float("nan")}]}, "$.a[1].b"),
        ({"a": float("-inf")}, "$.a"),
        ({"a": {1: 2}}, "$.a"),
        ({"a": 2**64}, "$.a"),
        ({"a": "\ud800"}, "$.a"),
        ({"a": [object()]}, "$.a[0]"),
        ({"a": decimal.Decimal("NaN")}, "$.a"),
        (cyclic(), "$"),
    ],
    ids=["nan", "infinity", "key", "integer", "surrogate", "object", "decimal", "cycle"],
)
async def test_a_value_that_cannot_be_stored_is_an_error_of_its_step_that_names_the_place(
    world: World, given: Any, place: str
) -> None:
    world.desk.answers["give"] = lambda _: given
    result = await world.run(GIVE, execution_id="e")
    assert (result.output["step"], result.output["class"]) == ("give", "OutputError")
    assert f"at {place}" in result.output["message"]
    assert "x" not in await world.variables()


async def test_a_value_that_cannot_be_stored_does_not_repeat_the_effect(world: World) -> None:
    world.desk.answers["give"] = lambda _: float("nan")
    workflow = flow(
        "- {id: give, type: call, service: desk, method: give, retry: {max_attempts: 5, initial_interval: 0}}\n"
    )
    await world.run(workflow)
    assert world.desk.called == ["give"]


async def test_an_execution_that_failed_over_a_value_is_not_left_running(world: World) -> None:
    world.desk.answers["give"] = lambda _: float("inf")
    workflow = flow("- {id: give, type: call, service: desk, method: give, output: x}\n")
    assert (await world.run(workflow, execution_id="e")).failed
    assert (await world.load()).status == "failed"


async def test_integer_keys_of_a_service_are_an_error_and_no_exception(world: World) -> None:
    world.desk.answers["give"] = lambda _: {1: "a", "1": "b"}
    assert (await world.run(GIVE)).output["class"] == "OutputError"


async def test_a_container_that_raises_while_it_is_read_is_a_step_error(world: World) -> None:
    class Nasty(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("not now")

    world.desk.answers["give"] = lambda _: Nasty(a=1)
    assert (await world.run(GIVE)).output["step"] == "give"


async def test_a_deep_value_is_a_limit(world: World) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    world.desk.answers["give"] = lambda _: deep
    result = await world.run(GIVE)
    assert result.error_info is not None
    assert result.error_info.type == "LimitExceeded"


async def test_the_step_after_sees_the_stored_form_without_a_restart_too(world: World) -> None:
    world.desk.answers["give"] = lambda _: (1, {"at": datetime.date(2026, 1, 2)})
    workflow = flow("""
        - {id: give, type: call, service: desk, method: give, output: x, next: take}
        - {id: take, type: call, service: desk, method: take, input: $x}
    """)
    await world.run(workflow)
    assert world.desk.calls[1] == ("take", [1, {"at": "2026-01-02"}])


async def test_what_a_context_returns_is_data_and_not_the_service_object(world: World) -> None:
    world.desk.answers["give"] = lambda _: world.desk
    result = await world.run(GIVE)
    assert result.output["class"] == "OutputError"


async def test_a_result_larger_than_allowed_names_the_setting(world: World) -> None:
    await world.restart(limits=df.Limits(value_bytes=100))
    world.desk.answers["give"] = lambda _: "x" * 99
    result = await world.run(GIVE)
    assert result.error is not None
    assert "Limits(value_bytes=…)" in result.error
