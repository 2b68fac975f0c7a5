"""Values of every kind through a service: the next step sees the same with and without a restart in between."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import socket
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import durable_flow as df
from durable_flow.testing import FakeClock
from tests.reliability.nesting import linked
from tests.reliability.stage import document, stage
from tests.reliability.table import Case, Table, fake_time


class Colour(enum.Enum):
    RED = "red"
    SEVEN = 7


class Level(enum.IntEnum):
    LOW = 1


class Size(enum.StrEnum):
    BIG = "big"


class Text(str):
    __slots__ = ()


class Number(int):
    __slots__ = ()


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


class Record(msgspec.Struct):
    name: str
    value: Any = None


class Other:
    """Something with no JSON form."""


# -- what can be stored ------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.sampled_from(["a", "b", "key", "k_1", "x-y"])
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.sampled_from([0, 0.0, -0.0, 1.0, 2**53 + 1, 1e300, 5e-324, "", "2024-01-01", "$input.x", "${x}", "null"])
)
FOREIGN = (
    st.datetimes()
    | st.datetimes(timezones=st.just(datetime.UTC))
    | st.dates()
    | st.times()
    | st.timedeltas(datetime.timedelta(days=-999), datetime.timedelta(days=999))
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.uuids()
    | st.binary(max_size=8)
    | st.sampled_from([Colour.RED, Colour.SEVEN, Level.LOW, Size.BIG, Text("text"), Number(3)])
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXT, inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Record, TEXT, inner)
        | st.sets(st.integers(0, 9), max_size=1)
        | st.frozensets(TEXT, max_size=1)
        | st.dictionaries(st.sampled_from([Colour.RED, Size.BIG, Text("text")]), inner, max_size=1)
    )


STORABLE = st.recursive(PLAIN | FOREIGN, containers, max_leaves=8)


def json_form(value: Any) -> Any:
    """What a value is after it was stored, told apart from the code that does it."""
    match value:
        case enum.Enum():
            return json_form(value.value)
        case None | bool():
            return value
        case int():
            return int(value)
        case str():
            return str(value)
        case float():
            return value
        case list() | tuple() | set() | frozenset():
            return [json_form(item) for item in value]
        case dict():
            return {json_form(key): json_form(item) for key, item in value.items()}
        case Point():
            return {"x": json_form(value.x), "y": json_form(value.y)}
        case Record():
            return {"name": value.name, "value": json_form(value.value)}
        case bytes():
            return base64.b64encode(value).decode()
        case decimal.Decimal() | uuid.UUID():
            return str(value)
        case datetime.datetime() | datetime.time():
            return value.isoformat().replace("+00:00", "Z")
        case datetime.date():
            return value.isoformat()
        case datetime.timedelta():
            return msgspec.to_builtins(value)
    raise AssertionError(f"a {type(value).__name__} was not thought of")


def same(one: Any, other: Any) -> bool:
    """Equal in value and type, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


# -- what cannot -------------------------------------------------------------------------------------------------------


def cycle() -> Any:
    inside: list[Any] = [1]
    inside.append({"again": inside})
    return inside


REFUSED: dict[str, Callable[[], Any]] = {
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("-inf"),
    "a decimal NaN": lambda: decimal.Decimal("NaN"),
    "2**63": lambda: 2**63,
    "-2**63-1": lambda: -(2**63) - 1,
    "a big integer in an enum": lambda: enum.Enum("Big", {"ONE": 2**70})["ONE"],
    "a lone surrogate": lambda: "a\ud800",
    "a surrogate in a key": lambda: {"\udfff": 1},
    "a socket": lambda: socket.socket,
    "an object": Other,
    "a function": lambda: json_form,
    "a complex number": lambda: 1j,
    "an integer key": lambda: {1: "one"},
    "a null key": lambda: {None: 1},
    "a tuple key": lambda: {(1, 2): 1},
    "a bytes key": lambda: {b"a": 1},
    "an iterator": lambda: iter([1, 2]),
    "a cycle": cycle,
    "an object in a dataclass": lambda: Point(Other()),
    "NaN in a Struct": lambda: Record("name", float("nan")),
}
LEVELS = st.lists(st.tuples(st.sampled_from(["list", "mapping"]), st.integers(0, 2), NAMES), max_size=3)


def buried(value: Any, levels: list[tuple[str, int, str]]) -> tuple[Any, str]:
    """The value inside lists and mappings, and the path to it."""
    path = ""
    for kind, position, name in levels:
        if kind == "list":
            value, path = ["before"] * position + [value, "after"], f"[{position}]{path}"
        else:
            value, path = {"before": 1, name: value, "after": 2}, f".{name}{path}"
    return value, f"${path}"


# -- running -----------------------------------------------------------------------------------------------------------


ROUTES = ("a service", "an input", "a loop", "a branch", "a sub-workflow")


def flows(route: str, pause: list[dict[str, Any]]) -> list[df.WorkflowDef]:
    """Workflows that show a value which came by that route to the service's `look`, as it is and inside another."""
    service = {"type": "call", "service": "desk"}
    make = {"id": "make", **service, "method": "make", "output": "made"}
    inner = [*pause, {"id": "pass", "type": "assign", "set": {"passed": "$made"}}]
    child = document("child", linked([*pause, {"id": "pass", "type": "assign", "set": {"result": "$input.value"}}]))
    steps: list[dict[str, Any]]
    match route:
        case "a service":
            steps = [make, *inner]
        case "an input":
            steps = [*pause, {"id": "pass", "type": "assign", "set": {"passed": "$input.value"}}]
        case "a loop":
            body = [*pause, {"id": "pass", "type": "assign", "set": {"passed": "$item"}}]
            steps = [make, {"id": "each", "type": "loop", "over": ["$made"], "do": body, "output": "all"}]
            steps.append({"id": "take", "type": "assign", "set": {"passed": "$all.0"}})
        case "a branch":
            steps = [make, {"id": "both", "type": "parallel", "branches": [{"id": "one", "do": inner}]}]
        case _:
            given = {"value": "$made"}
            steps = [
                make,
                {"id": "sub", "type": "workflow", "workflow_id": "child", "input": given, "output": "passed"},
            ]
    steps += [
        {"id": "again", "type": "assign", "set": {"copied": {"in": "$passed"}}},
        {"id": "look", **service, "method": "look", "input": ["$passed", "$copied"]},
    ]
    return [df.load(document("flow", linked(steps))), df.load(child)]


LIVE = {route: flows(route, []) for route in ROUTES}
RESUMED = {route: flows(route, [{"id": "pause", "type": "halt"}]) for route in ROUTES}


async def seen(clock: FakeClock, workflows: list[df.WorkflowDef], route: str, value: Any) -> Any:
    """What a later step is given."""
    async with stage(clock, *workflows) as play:
        play.desk.answers["make"] = lambda _: value
        given = {"value": value} if route == "an input" else {}
        result = await play.runner().run(given, execution_id="e")
        if result.halted:
            await play.restart()
            result = await play.runner().resume("e")
        assert result.completed, f"{result.error} for {value!r}"
        (found,) = play.desk.values("look")
        execution = await play.store.load("e")
        assert execution is not None
        assert same(execution.ctx["passed"], found[0])
        return found


async def live_is_resumed(clock: FakeClock, route: str, value: Any) -> None:
    expected = json_form(value)
    expected = [expected, {"in": expected}]
    live = await seen(clock, LIVE[route], route, value)
    resumed = await seen(clock, RESUMED[route], route, value)
    assert same(live, resumed), f"live {live!r}, resumed {resumed!r}"
    assert same(live, expected), f"{live!r} instead of {expected!r}"


async def refused(clock: FakeClock, name: str, levels: list[tuple[str, int, str]]) -> None:
    value, path = buried(REFUSED[name](), levels)
    async with stage(clock, *LIVE[ROUTES[0]]) as play:
        play.desk.answers["make"] = lambda _: value
        result = await play.runner().run({}, execution_id="e")
        assert result.failed, f"{name} at {path}: it is {result.status}"
        assert result.error_info is not None
        assert (result.error_info.type, result.error_info.step) == ("OutputError", "make"), result.error
        told = result.error_info.message
        assert f"at {'$' if name == 'a cycle' else path}" in told, f"{name} at {path}: {told}"
        execution = await play.store.load("e")
        assert execution is not None
        assert execution.ctx == {}
        assert play.desk.called == ["make"]


def drawn(check: Callable[..., Any], examples: int, **strategies: Any) -> Callable[[], None]:
    """The check with values from Hypothesis, the same ones in every run."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(**strategies)
    def verify(**drawn: Any) -> None:
        async def one(clock: FakeClock) -> None:
            await check(clock, **drawn)

        fake_time(one)()

    return verify


def cases(full: bool) -> Iterable[Case]:
    examples = 200 if full else 50
    for route in ROUTES:
        verify = drawn(live_is_resumed, examples, route=st.just(route), value=STORABLE)
        yield Case(f"values through {route}", verify, weight=examples)
    each = max(2, examples // len(REFUSED))
    for name in REFUSED:
        yield Case(f"refused: {name}", drawn(refused, each, name=st.just(name), levels=LEVELS), weight=each)


TABLE = Table("a resumed run sees the same values as a live one, or the value is refused where it was made", cases)
