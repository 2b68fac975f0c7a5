"""A step type from outside says with its annotations what its keys hold."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import jsonschema_rs
import msgspec
import pytest

from durable_flow.definition.document import compose_plain
from durable_flow.definition.json_schema import language_schema
from durable_flow.definition.loading import load
from durable_flow.definition.reader import form_of, key_path, locate
from durable_flow.errors import ConfigError, ValidationError
from durable_flow.expr.condition import Condition
from durable_flow.expr.reference import Reference, Template
from durable_flow.expr.schema import Schema
from durable_flow.expr.transform import Transform
from durable_flow.extension import Extension
from durable_flow.limits import Limits
from durable_flow.model.workflow import Body
from durable_flow.steps.base import BodyDef, Duration, Interval, Outcome, StepType, TargetName, VariableName, Visit


class Part(msgspec.Struct, frozen=True, kw_only=True):
    shorthand: ClassVar[str] = "size"

    size: int
    color: Literal["red", "blue"] = "red"


class Named(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    do: Body


class KitchenSink(msgspec.Struct, frozen=True, kw_only=True):
    text: str = ""
    count: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1
    share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    flag: bool = False
    code: Annotated[str, msgspec.Meta(pattern="[A-Z]+", description="a code in capitals")] = "A"
    anything: Any = None
    template: Template | None = None
    where: Reference | None = None
    when: Condition | None = None
    how: Transform | None = None
    schema: Schema | None = None
    after: Duration | None = None
    pause: Interval | None = None
    to: TargetName | None = None
    sets: VariableName | None = None
    part: Part | None = None
    parts: list[Part] = []
    table: dict[str, Part] = {}
    mode: Literal["a", "b"] | int = "a"
    import_: str | None = msgspec.field(name="import", default=None)
    bodies: list[Named] = []


class Sink(StepType[KitchenSink]):
    name = "sink"
    summary = "Takes everything."
    Config = KitchenSink

    async def run(self, visit: Visit, config: KitchenSink) -> Outcome:
        raise NotImplementedError

    def bodies(self, config: KitchenSink) -> list[BodyDef]:
        return [
            BodyDef(key=f"bodies[{index}]", body=named.do, isolated=True) for index, named in enumerate(config.bodies)
        ]


KITCHEN = Extension(name="kitchen", step_types=(Sink,))


def sink(**keys: Any) -> Any:
    document = {"id": "w", "name": "W", "steps": [{"id": "a", "type": "sink", **keys}]}
    return load(document, extensions=[KITCHEN]).steps[0].config


def told(**keys: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        sink(**keys)
    return [str(problem).removeprefix("<mapping>: step 'a': ") for problem in caught.value.problems]


FULL: dict[str, Any] = {
    "text": "t",
    "count": 9,
    "share": 0.25,
    "flag": True,
    "code": "XY",
    "anything": {"a": [None]},
    "template": ["$input.x", 1],
    "where": "$input.a.b",
    "when": {"field": "input.x", "value": 1},
    "how": {"sum": None},
    "schema": {"type": "string"},
    "after": "1h",
    "pause": 0,
    "to": "__FINISHED__",
    "sets": "v",
    "part": 3,
    "parts": [1, {"size": 2, "color": "blue"}],
    "table": {"z": 1, "a": 2},
    "mode": 7,
    "import": "x",
    "bodies": [{"id": "b", "type": "start"}, {"id": "c", "do": [{"id": "d", "type": "start"}]}],
}


REMEDY = "write ${name.path} for a reference, or $${ for the characters themselves"


def test_every_annotation_is_read() -> None:
    config = sink(**FULL)
    assert (config.text, config.count, config.share, config.flag, config.code) == ("t", 9, 0.25, True, "XY")
    assert config.anything == {"a": [None]}
    assert config.template.source == ["$input.x", 1]
    assert config.where == Reference("input", ("a", "b"))
    assert config.when.source == FULL["when"]
    assert config.how.source == FULL["how"]
    assert config.schema.source == FULL["schema"]
    assert (config.after, config.pause) == (3600.0, 0.0)
    assert (type(config.after), type(config.pause)) == (Duration, Interval)
    assert (type(config.to), type(config.sets)) == (TargetName, VariableName)
    assert config.part == Part(size=3)
    assert config.parts == [Part(size=1), Part(size=2, color="blue")]
    assert list(config.table) == ["z", "a"]
    assert (config.mode, config.import_) == (7, "x")
    assert [named.do.bare for named in config.bodies] == [True, False]


def test_the_json_schema_takes_every_annotation() -> None:
    document = {"id": "w", "name": "W", "steps": [{"id": "a", "type": "sink", **FULL}]}
    schema = language_schema([KITCHEN])
    assert [error.message for error in jsonschema_rs.Draft202012Validator(schema).iter_errors(document)] == []


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"text": ["t"]}, "text: expected text, got list"),
        ({"count": True}, "count: expected integer, got boolean"),
        ({"count": 1.0}, "count: expected integer, got number"),
        ({"count": 0}, "count: must be at least 1, not 0"),
        ({"count": 10}, "count: must be at most 9, not 10"),
        ({"share": 0}, "share: must be more than 0, not 0"),
        ({"share": 1}, "share: must be less than 1, not 1"),
        ({"flag": "true"}, "flag: expected boolean, got text"),
        ({"flag": 1}, "flag: expected boolean, got integer"),
        ({"code": "a"}, "code: 'a' is not a code in capitals"),
        ({"template": "${-}"}, f"template: '${{-}}' is not a path; {REMEDY}"),
        ({"where": 3}, "where: expected a variable path such as order.lines, got integer"),
        ({"where": "a b"}, "where: 'a b' is not a path such as user.name"),
        ({"when": 1}, "when: expected a condition such as {field: x, op: eq, value: 1}, got integer"),
        ({"how": "sum"}, "how: expected a mapping of operations, or a list of them, got text"),
        ({"schema": "string"}, "schema: expected a JSON Schema, got text"),
        ({"after": 0}, "after: a duration must be more than zero, not 0"),
        ({"after": [1]}, "after: expected a duration such as 30s, 15m or 2h, got list"),
        ({"after": True}, "after: expected a duration such as 30s, 15m or 2h, got boolean"),
        ({"pause": -1}, "pause: a duration must be zero or more, not -1"),
        ({"to": 1}, "to: expected the id of a step, got integer"),
        ({"to": "x"}, "to: there is no step 'x'"),
        ({"sets": "now"}, "sets: 'now' is reserved and cannot be set"),
        ({"sets": "x" * 129}, f"sets: '{'x' * 77}...' is too long for a name: at most 128 characters"),
        ({"part": "x"}, "part: expected integer, got text"),
        ({"part": [1]}, "part: expected mapping or integer, got list"),
        ({"part": {"color": "red"}}, "part: missing key 'size'"),
        ({"part": {"size": 1, "colour": "red"}}, "part: unknown key 'colour' (did you mean 'color'?)"),
        ({"part": {"size": 1, "color": "rde"}}, "part.color: expected red or blue, got 'rde' (did you mean 'red'?)"),
        ({"parts": 1}, "parts: expected list, got integer"),
        ({"parts": [1, None]}, "parts[1]: expected mapping or integer, got null"),
        ({"table": [1]}, "table: expected mapping, got list"),
        ({"table": {"x": {"size": "1"}}}, "table.x.size: expected integer, got text"),
        ({"mode": "c"}, "mode: expected a or b or integer, got 'c'"),
        ({"mode": 1.5}, "mode: expected a or b or integer, got number"),
        ({"import_": "x"}, "unknown key 'import_' (did you mean 'import'?)"),
        ({"text": None}, "text: expected text, got null (leave the key out if there is nothing to say)"),
        ({"bodies": [1]}, "bodies[0]: expected a step, or a mapping with 'id' and 'do', got integer"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_its_key(keys: dict[str, Any], problem: str) -> None:
    assert told(**keys) == [problem]


def test_everything_is_told_at_once() -> None:
    assert len(told(text=1, count=0, flag=1, parts=[None, None], table={"a": "x"})) == 6


class Strange(msgspec.Struct):
    what: set[int]


def test_an_annotation_that_says_nothing_about_documents_is_the_hosts_mistake() -> None:
    with pytest.raises(ConfigError, match=r"Strange\.what is annotated"):
        form_of(Strange)


def test_places_inside_of_a_node() -> None:
    node = compose_plain({"a": [{"b": 1}]}, name="f", limits=Limits())
    assert key_path("a[0].b") == ["a", 0, "b"]
    assert locate(node, key_path("a[0].b")) == locate(node, ["nowhere"])
