"""Nodes -> structs. What the annotations of a Struct say (`steps/base.py` has the table) is how its keys are read, and
how editors are told about them. Adding a step type changes nothing here.
"""

from __future__ import annotations

import functools
import operator
import re
import types
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from durable_flow.definition.document import MappingNode, Node, Position, ScalarNode, SequenceNode
from durable_flow.errors import ConfigError
from durable_flow.expr.condition import Condition, ConditionProblems, compile_condition
from durable_flow.expr.duration import parse_duration
from durable_flow.expr.reference import (
    Reference,
    ReferenceSyntaxError,
    Template,
    compile_reference,
    compile_template,
)
from durable_flow.expr.schema import Schema, compile_schema
from durable_flow.expr.transform import Transform, TransformProblems, compile_transform
from durable_flow.model.problem import Problem, suggest
from durable_flow.model.value import type_name
from durable_flow.model.workflow import Body, StepDef
from durable_flow.steps.base import Duration, Interval, TargetName, VariableName

ROOTS = frozenset({"input", "now", "history", "execution", "approvals", "secrets"})
"""What references find without any step having set it; no step may set them."""

STEP_ID = r"[A-Za-z_][A-Za-z0-9_-]{0,127}"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"

BAD: Final[Any] = type("_Bad", (), {"__repr__": lambda self: "BAD", "__bool__": lambda self: False})()
"""What reading gives where nothing could be made of the node; its problems were told."""

MAX_HINTS = 100
"""After so many problems nobody looks for near words any more: it takes time, and hostile documents have thousands."""

Definitions = dict[str, Any]
"""The `$defs` of a JSON Schema in the making."""


class Version(str):
    """Text that may be written as a number, and is then taken as it was written."""

    __slots__ = ()


class Reader(ABC):
    """One pass over a document: where its problems are collected and its bodies are read."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.step: str | None = None
        self.doubtful: set[str] = set()
        """The keys with problems of the step that is being read; those of the steps inside it do not count."""
        self._hints = 0

    def problem(
        self, at: Node | Position, message: str, *, key: str = "", hint: str | None = None, about: str | None = None
    ) -> None:
        """Tells a problem. It puts the key it is `about` in doubt: without any, the step as a whole."""
        place = at if isinstance(at, Position) else at.at
        self.doubtful.add((key if about is None else about).partition(".")[0].partition("[")[0])
        self.problems.append(
            Problem(
                file=self.file,
                line=place.line,
                column=place.column,
                step=self.step,
                message=f"{key}: {message}" if key else message,
                hint=hint,
            )
        )

    def suggest(self, word: str, options: Iterable[str]) -> str | None:
        self._hints += 1
        return suggest(word, options) if self._hints <= MAX_HINTS else None

    def choices(self, options: Iterable[str]) -> str | None:
        return f"there are: {', '.join(options)}" if self._hints <= MAX_HINTS else None

    def expected(self, what: str, node: Node, key: str, *, hint: str | None = None) -> Any:
        """Tells that something else should stand here."""
        self.problem(node, f"expected {what}, got {kind_of(node)}", key=key, hint=hint)
        return BAD

    @abstractmethod
    def body(self, node: Node, key: str) -> Body | None:
        """The body a list of steps is."""

    @abstractmethod
    def single(self, node: Node, key: str) -> StepDef | None:
        """The step a mapping is."""

    @abstractmethod
    def claim(self, identifier: str, at: Position) -> bool:
        """Takes an id for a step or a branch; False if it cannot be one, or is taken (which was told)."""


def kind_of(node: Node) -> str:
    """What a node is called in messages: text, integer, list, …"""
    match node:
        case ScalarNode():
            return type_name(node.value)
        case SequenceNode():
            return "list"
        case _:
            return "mapping"


def locate(node: Node, path: Iterable[str | int]) -> Position:
    """Where the part of a node at `path` stands, or as near to it as can be found.

    A text or number is where it begins itself; a list or mapping is where its key stands.
    """
    at = node.at
    for part in path:
        match node:
            case MappingNode() if part in node.items:
                at, node = node.keys[str(part)], node.items[str(part)]
            case SequenceNode() if isinstance(part, int) and part < len(node.items):
                node = node.items[part]
                at = node.at
            case _:
                return at
    return node.at if isinstance(node, ScalarNode) else at


def find_name(node: Node, name: str, inside: frozenset[int]) -> Position | None:
    """Where a name is written, as a key or as a text. The nodes in `inside` (by `id()`) are not entered."""
    match node:
        case ScalarNode():
            return node.at if node.value == name else None
        case SequenceNode():
            found = (find_name(item, name, inside) for item in node.items if id(item) not in inside)
        case _:
            found = (
                node.keys[key] if key == name else find_name(item, name, inside)
                for key, item in node.items.items()
                if id(item) not in inside
            )
    return next((at for at in found if at is not None), None)


_STEP_OF_KEY = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


def key_path(key: str) -> list[str | int]:
    """The path that a dotted key such as `routes[0].then` stands for."""
    return [int(index) if index else name for index, name in _STEP_OF_KEY.findall(key)]


# --- forms ------------------------------------------------------------------------------------------------------------


class Form(ABC):
    """How one annotation is read."""

    expected: str

    @abstractmethod
    def takes(self, node: Node) -> bool:
        """Whether a node is of the right kind at all."""

    @abstractmethod
    def read(self, reader: Reader, node: Node, key: str) -> Any:
        """The value, or BAD. Only called for nodes it takes."""

    @abstractmethod
    def schema(self, definitions: Definitions) -> dict[str, Any]:
        """The JSON Schema of it."""

    def read_any(self, reader: Reader, node: Node, key: str) -> Any:
        if self.takes(node):
            return self.read(reader, node, key)
        return reader.expected(self.expected, node, key)


class AnyForm(Form):
    """Data that is kept as it is."""

    expected = "a value"

    def takes(self, node: Node) -> bool:
        return True

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        return node.plain()

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {}


class PlainForm(Form):
    """Text, integer, number or boolean, perhaps within bounds. A boolean is no number."""

    def __init__(self, kind: type, bounds: Sequence[msgspec.Meta] = ()) -> None:
        self._kind = kind
        self.expected = {str: "text", int: "integer", float: "number", bool: "boolean"}[kind]
        self._takes: tuple[type, ...] = (int, float) if kind is float else (kind,)
        self._bounds = bounds
        self._patterns = [
            (re.compile(bound.pattern), bound.description or f"text that matches {bound.pattern}")
            for bound in bounds
            if bound.pattern is not None
        ]

    def takes(self, node: Node) -> bool:
        return isinstance(node, ScalarNode) and type(node.value) in self._takes

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        assert isinstance(node, ScalarNode)
        value: Any = node.value
        if not _within(reader, value, self._bounds, node, key):
            return BAD
        for pattern, description in self._patterns:
            if not pattern.fullmatch(value):
                reader.problem(node, f"{_short(value)} is not {description}", key=key)
                return BAD
        return self._kind(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        name = {str: "string", int: "integer", float: "number", bool: "boolean"}[self._kind]
        return {"type": name} | _bounds_schema(self._bounds)


def _within(reader: Reader, value: Any, bounds: Sequence[msgspec.Meta], node: Node, key: str) -> bool:
    for bound in bounds:
        for limit, fits, words in (
            (bound.ge, operator.ge, "at least"),
            (bound.gt, operator.gt, "more than"),
            (bound.le, operator.le, "at most"),
            (bound.lt, operator.lt, "less than"),
        ):
            if limit is not None and not fits(value, limit):
                reader.problem(node, f"must be {words} {limit:g}, not {value:g}", key=key)
                return False
    return True


def _bounds_schema(bounds: Sequence[msgspec.Meta]) -> dict[str, Any]:
    return {
        keyword: limit
        for bound in bounds
        for keyword, limit in (
            ("minimum", bound.ge),
            ("exclusiveMinimum", bound.gt),
            ("maximum", bound.le),
            ("exclusiveMaximum", bound.lt),
            ("pattern", None if bound.pattern is None else f"^(?:{bound.pattern})$"),
        )
        if limit is not None
    }


class VersionForm(Form):
    """A version: `1.10` is the text "1.10"."""

    expected = "a version such as 1.0"

    def takes(self, node: Node) -> bool:
        return isinstance(node, ScalarNode) and type(node.value) in (str, int, float)

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        assert isinstance(node, ScalarNode)
        if not node.text or len(node.text) > 128:
            reader.problem(node, "a version has 1 to 128 characters", key=key)
            return BAD
        return node.text

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": ["string", "number"], "maxLength": 128, "minLength": 1}


class LiteralForm(Form):
    """One of a few words."""

    def __init__(self, words: Sequence[Any]) -> None:
        self._words = list(words)
        self.expected = " or ".join(str(word) for word in words)

    def takes(self, node: Node) -> bool:
        return isinstance(node, ScalarNode) and any(
            node.value == word and type(node.value) is type(word) for word in self._words
        )

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        assert isinstance(node, ScalarNode)
        return node.value

    def read_any(self, reader: Reader, node: Node, key: str) -> Any:
        if self.takes(node):
            return self.read(reader, node, key)
        if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
            return reader.expected(self.expected, node, key)
        words = [word for word in self._words if isinstance(word, str)]
        message = f"expected {self.expected}, got {_short(node.value)}"
        reader.problem(node, message, key=key, hint=reader.suggest(node.value, words))
        return BAD

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"enum": list(self._words)}


class UnionForm(Form):
    """One of several forms, told apart by the kind of node."""

    def __init__(self, forms: Sequence[Form]) -> None:
        self.forms = forms
        self.expected = " or ".join(form.expected for form in forms)

    def takes(self, node: Node) -> bool:
        return any(form.takes(node) for form in self.forms)

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        return next(form for form in self.forms if form.takes(node)).read(reader, node, key)

    def read_any(self, reader: Reader, node: Node, key: str) -> Any:
        if self.takes(node):
            return self.read(reader, node, key)
        if isinstance(node, ScalarNode) and isinstance(node.value, str):
            reader.problem(node, f"expected {self.expected}, got {_short(node.value)}", key=key)
            return BAD
        return reader.expected(self.expected, node, key)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"anyOf": [form.schema(definitions) for form in self.forms]}


class DurationForm(Form):
    """Seconds, or text such as 15m."""

    expected = "a duration such as 30s, 15m or 2h"

    def __init__(self, kind: type[Duration], bounds: Sequence[msgspec.Meta] = ()) -> None:
        self._kind = kind
        self._bounds = bounds

    def takes(self, node: Node) -> bool:
        return isinstance(node, ScalarNode) and type(node.value) in (str, int, float)

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        assert isinstance(node, ScalarNode)
        value: Any = node.value
        try:
            seconds = parse_duration(value, allow_zero=issubclass(self._kind, Interval))
        except ValueError as error:
            reader.problem(node, str(error), key=key)
            return BAD
        return self._kind(seconds) if _within(reader, seconds, self._bounds, node, key) else BAD

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        least = {"minimum": 0} if issubclass(self._kind, Interval) else {"exclusiveMinimum": 0}
        return {
            "anyOf": [{"type": "number", **least}, {"type": "string", "pattern": "^[ ]*[0-9P]"}],
            "description": "Seconds, or text such as 30s, 15m, 2h, 1d, PT15M.",
        }


class TextForm(Form):
    """A text of which something is made."""

    expected = "text"

    def takes(self, node: Node) -> bool:
        return isinstance(node, ScalarNode) and type(node.value) is str

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        assert isinstance(node, ScalarNode)
        assert isinstance(node.value, str)
        return self.make(reader, node.value, node, key)

    @abstractmethod
    def make(self, reader: Reader, text: str, node: Node, key: str) -> Any:
        """What is made of the text, or BAD."""


class TargetForm(TextForm):
    """Where to go. Whether there is such a step is asked by the validator."""

    expected = "the id of a step"

    def make(self, reader: Reader, text: str, node: Node, key: str) -> Any:
        return TargetName(text)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{STEP_ID}$", "description": "The id of a step, or a reserved target."}


class VariableForm(TextForm):
    """The name of a variable that is set."""

    expected = "the name of a variable"

    def make(self, reader: Reader, text: str, node: Node, key: str) -> Any:
        problem = bad_variable(text)
        if problem is None:
            return VariableName(text)
        reader.problem(node, problem, key=key)
        return BAD

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{VARIABLE}$", "not": {"enum": sorted(ROOTS)}}


_VARIABLE = re.compile(VARIABLE)


def bad_variable(name: str) -> str | None:
    """Why a variable cannot have this name; None if it can."""
    if not _VARIABLE.fullmatch(name):
        return f"{_short(name)} is not the name of a variable: letters, digits and _, not a digit first"
    if len(name) > 128:
        return f"{_short(name)} is too long for a name: at most 128 characters"
    if name in ROOTS:
        return f"{name!r} is reserved and cannot be set"
    return None


class ReferenceForm(TextForm):
    """A variable path."""

    expected = "a variable path such as order.lines"

    def make(self, reader: Reader, text: str, node: Node, key: str) -> Any:
        try:
            return compile_reference(text)
        except ReferenceSyntaxError as error:
            reader.problem(node, str(error), key=key)
            return BAD

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "description": "A variable path, with or without the dollar."}


class TemplateForm(Form):
    """Any value, with references in it."""

    expected = "a value"

    def takes(self, node: Node) -> bool:
        return True

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        try:
            return compile_template(node.plain())
        except ReferenceSyntaxError:
            self._tell(reader, node, key)
            return BAD

    def _tell(self, reader: Reader, node: Node, key: str) -> None:
        for inner, scalar in _scalars(node, key):
            try:
                compile_template(scalar.value)
            except ReferenceSyntaxError as error:
                reader.problem(scalar, str(error), key=inner)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {}


def _scalars(node: Node, key: str) -> Iterator[tuple[str, ScalarNode]]:
    match node:
        case ScalarNode():
            yield key, node
        case SequenceNode():
            for index, item in enumerate(node.items):
                yield from _scalars(item, f"{key}[{index}]")
        case MappingNode():
            for name, item in node.items.items():
                yield from _scalars(item, f"{key}.{name}")


class ConditionForm(Form):
    """A condition."""

    expected = "a condition such as {field: x, op: eq, value: 1}"

    def takes(self, node: Node) -> bool:
        return isinstance(node, MappingNode)

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        try:
            return compile_condition(node.plain())
        except ConditionProblems as error:
            for path, message in error.problems:
                reader.problem(locate(node, path), message, key=key)
            return BAD

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        from durable_flow.expr.condition import OPERATORS

        reference = {"$ref": "#/$defs/condition"}
        several = {"type": "array", "items": reference, "minItems": 1}
        definitions["condition"] = {
            "anyOf": [
                _closed({"field": {"type": "string"}, "op": {"enum": list(OPERATORS)}, "value": {}}, ["field"]),
                _closed({"all": several}, ["all"]),
                _closed({"any": several}, ["any"]),
                _closed({"not": reference}, ["not"]),
            ]
        }
        return reference


class TransformForm(Form):
    """A pipeline of operations."""

    expected = "a mapping of operations, or a list of them"

    def takes(self, node: Node) -> bool:
        return not isinstance(node, ScalarNode)

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        try:
            return compile_transform(node.plain())
        except TransformProblems as error:
            for path, message in error.problems:
                reader.problem(locate(node, path), message, key=key)
            return BAD

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        from durable_flow.expr.transform import OPERATIONS

        operations = _closed({name: {} for name in OPERATIONS}, [])
        definitions["transform"] = {
            "anyOf": [
                {**operations, "minProperties": 1},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "anyOf": [
                            {"enum": list(OPERATIONS)},
                            {**operations, "minProperties": 1, "maxProperties": 1},
                        ]
                    },
                },
            ]
        }
        return {"$ref": "#/$defs/transform"}


class SchemaForm(Form):
    """A JSON Schema."""

    expected = "a JSON Schema"

    def takes(self, node: Node) -> bool:
        return isinstance(node, MappingNode) or (isinstance(node, ScalarNode) and isinstance(node.value, bool))

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        try:
            return compile_schema(node.plain())
        except ValueError as error:
            reader.problem(node, str(error), key=key)
            return BAD

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": ["object", "boolean"], "description": "A JSON Schema."}


class BodyForm(Form):
    """A list of steps."""

    expected = "a list of steps"

    def takes(self, node: Node) -> bool:
        return isinstance(node, SequenceNode)

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        return reader.body(node, key) or BAD

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"$ref": "#/$defs/steps"}


class ListForm(Form):
    """A list."""

    expected = "list"

    def __init__(self, item: Form) -> None:
        self.item = item

    def takes(self, node: Node) -> bool:
        return isinstance(node, SequenceNode)

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        assert isinstance(node, SequenceNode)
        values = [self.item.read_any(reader, item, f"{key}[{index}]") for index, item in enumerate(node.items)]
        return [value for value in values if value is not BAD]

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema(definitions)}


class TableForm(Form):
    """A mapping with names of one's own choice."""

    expected = "mapping"

    def __init__(self, item: Form) -> None:
        self.item = item

    def takes(self, node: Node) -> bool:
        return isinstance(node, MappingNode)

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        assert isinstance(node, MappingNode)
        values = {name: self.item.read_any(reader, item, f"{key}.{name}") for name, item in node.items.items()}
        return {name: value for name, value in values.items() if value is not BAD}

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.item.schema(definitions)}


class Field(NamedTuple):
    """One key of a Struct: `name` in Python, `key` in documents."""

    name: str
    key: str
    form: Form
    required: bool


class StructForm(Form):
    """A mapping with known keys.

    One with `shorthand = "key"` may also be written as that key's value. One that is an id and a body may also be
    written as a single step, whose id it then has.
    """

    def __init__(self, struct: type[msgspec.Struct]) -> None:
        self.struct = struct
        self.fields = fields_of(struct)
        short = getattr(struct, "shorthand", None)
        self._short = next((field for field in self.fields if field.key == short), None)
        bodies = [field for field in self.fields if isinstance(field.form, BodyForm)]
        keys = {field.key for field in self.fields}
        self._body = bodies[0] if len(bodies) == 1 and "id" in keys and "type" not in keys else None
        self.expected = "mapping" if self._short is None else f"mapping or {self._short.form.expected}"
        if self._body is not None:
            self.expected = f"a step, or a mapping with 'id' and {self._body.key!r}"

    def takes(self, node: Node) -> bool:
        return isinstance(node, MappingNode) or (self._short is not None and self._short.form.takes(node))

    def read_any(self, reader: Reader, node: Node, key: str) -> Any:
        if not self.takes(node) and self._short is not None and isinstance(node, ScalarNode) and node.value is not None:
            return self._short.form.read_any(reader, node, key)  # it knows best what is wrong with the text
        return super().read_any(reader, node, key)

    def read(self, reader: Reader, node: Node, key: str) -> Any:
        if not isinstance(node, MappingNode):
            assert self._short is not None
            value = self._short.form.read(reader, node, key)
            return BAD if value is BAD else self.struct(**{self._short.name: value})
        if self._body is not None and "type" in node.items:
            step = reader.single(node, key)
            return BAD if step is None else self.struct(id=step.id, **{self._body.name: Body((step,), bare=True)})
        check_keys(reader, node, [field.key for field in self.fields], key)
        values = read_fields(reader, node, self.fields, key)
        if self._body is not None and "id" in values and not reader.claim(values["id"], node.items["id"].at):
            del values["id"]
        return build(self.struct, self.fields, values)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        whole = fields_schema(self.fields, definitions)
        if self._body is not None:
            return {"anyOf": [{"$ref": "#/$defs/step"}, whole]}
        if self._short is None:
            return whole
        return {"anyOf": [self._short.form.schema(definitions), whole]}


def holds(form: Form, *kinds: type[Form]) -> bool:
    """Whether a form is of one of the kinds or has one of them inside."""
    match form:
        case ListForm() | TableForm():
            return isinstance(form, kinds) or holds(form.item, *kinds)
        case UnionForm():
            return any(holds(inner, *kinds) for inner in form.forms)
        case StructForm():
            return any(holds(field.form, *kinds) for field in form.fields)
        case _:
            return isinstance(form, kinds)


def check_keys(
    reader: Reader, node: MappingNode, allowed: Sequence[str], key: str = "", *, hint: str | None = None
) -> None:
    """Tells unknown keys; where no known one is near with the `hint`, else with all there are."""
    for name, at in node.keys.items():
        if name not in allowed:
            near = reader.suggest(name, allowed)
            meant = next((word for word in allowed if near and repr(word) in near), name)
            told = near or hint or reader.choices(allowed)
            reader.problem(at, f"unknown key {_short(name)}", key=key, hint=told, about=key or meant)


def read_fields(reader: Reader, node: MappingNode, fields: Iterable[Field], key: str = "") -> dict[str, Any]:
    """The values of the keys that are there and right, by field name. Tells missing keys."""
    values: dict[str, Any] = {}
    for field in fields:
        item = node.items.get(field.key)
        if item is None:
            if field.required:
                reader.problem(node, f"missing key {field.key!r}", key=key)
            continue
        inner = f"{key}.{field.key}" if key else field.key
        if isinstance(item, ScalarNode) and not field.form.takes(item):
            if item.value is None:
                hint = None if field.required else "leave the key out if there is nothing to say"
                reader.problem(node.keys[field.key], f"expected {field.form.expected}, got null", key=inner, hint=hint)
                continue
        elif field.required and isinstance(item, ScalarNode) and item.value == "":
            reader.problem(item, "must not be empty", key=inner)
            continue
        value = field.form.read_any(reader, item, inner)
        if value is not BAD:
            values[field.name] = value
    return values


def build(struct: type[msgspec.Struct], fields: Iterable[Field], values: Mapping[str, Any]) -> Any:
    """The Struct, with defaults for what is missing or wrong; BAD if something required is."""
    if any(field.required and field.name not in values for field in fields):
        return BAD
    return struct(**values)


def fields_schema(fields: Iterable[Field], definitions: Definitions) -> dict[str, Any]:
    """The JSON Schema of a mapping with these keys and no others."""
    known = list(fields)
    properties = {field.key: field.form.schema(definitions) for field in known}
    for field in known:
        if field.required and properties[field.key] == {"type": "string"}:
            properties[field.key] = {"type": "string", "minLength": 1}
    return _closed(properties, [field.key for field in known if field.required])


def _closed(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    fragment: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        fragment["required"] = required
    return fragment


# --- annotations ------------------------------------------------------------------------------------------------------


@functools.cache
def fields_of(struct: type[msgspec.Struct]) -> tuple[Field, ...]:
    """The keys of a Struct. Raises ConfigError for an annotation that says nothing about documents."""
    try:
        found = msgspec.structs.fields(struct)
    except NameError as error:
        raise ConfigError(f"an annotation of {struct.__qualname__} cannot be resolved: {error}") from None
    return tuple(
        Field(field.name, field.encode_name, form_of(field.type, f"{struct.__qualname__}.{field.name}"), field.required)
        for field in found
    )


@functools.cache
def form_of(annotation: Any, where: str = "an annotation") -> Form:
    """How an annotation is read."""
    bounds: list[msgspec.Meta] = []
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        bounds = [item for item in metadata if isinstance(item, msgspec.Meta)]
    if annotation is Any:
        return AnyForm()
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]()
    if annotation in (str, int, float, bool):
        return PlainForm(annotation, bounds)
    if isinstance(annotation, type):
        if issubclass(annotation, Duration):
            return DurationForm(annotation, bounds)
        if issubclass(annotation, msgspec.Struct):
            return StructForm(annotation)
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Union or origin is types.UnionType:
            return _union([argument for argument in arguments if argument is not type(None)], where)
        case origin if origin is Literal:
            return LiteralForm(arguments)
        case origin if origin in (list, tuple):
            return ListForm(form_of(arguments[0], where))
        case origin if origin is dict and arguments[0] is str:
            return TableForm(form_of(arguments[1], where))
    raise ConfigError(f"{where} is annotated {annotation!r}, which says nothing about documents")


_SIMPLE: Mapping[Any, type[Form]] = types.MappingProxyType(
    {
        Template: TemplateForm,
        Reference: ReferenceForm,
        Condition: ConditionForm,
        Transform: TransformForm,
        Schema: SchemaForm,
        TargetName: TargetForm,
        VariableName: VariableForm,
        Version: VersionForm,
        Body: BodyForm,
    }
)


def _union(annotations: Sequence[Any], where: str) -> Form:
    forms = [form_of(annotation, where) for annotation in annotations]
    return forms[0] if len(forms) == 1 else UnionForm(forms)


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
