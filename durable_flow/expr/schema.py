"""JSON Schema (draft 2020-12) for inputs and outputs, and the short type names of declared inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from durable_flow.model.value import format_path, type_name

_VALUE_LIMIT = 80
_MESSAGE_LIMIT = 300
_PROBLEM_LIMIT = 100
_REFERENCE_LIMIT = 32
# What stands for the value in the library's messages until it is decided whether it may be shown.
_MASK = "\ufffc"


class Schema:
    """A compiled JSON Schema.

    >>> schema = compile_schema({"type": "object", "properties": {"total": {"type": "integer"}}})
    >>> schema.problems({"total": "12"})
    ['$.total: "12" is not of type "integer"']
    >>> schema.contradicts(("total", "currency"))
    'total is an integer, which has nothing inside'
    """

    __slots__ = ("_validator", "source")

    def __init__(self, source: Any, validator: Any) -> None:
        self.source = source
        self._validator = validator

    def problems(self, value: Any, *, mask: bool = False) -> list[str]:
        """One line `path: message` for each thing wrong with `value`, at most a hundred; none if it fits.

        Parts of the value longer than 80 characters are left out of the messages; with `mask` all are.
        """
        if self._validator.is_valid(value):
            return []
        found: list[str] = []
        for error in self._validator.iter_errors(value):
            if len(found) == _PROBLEM_LIMIT:
                found.append("… and more")
                break
            found.append(f"{format_path(error.instance_path)}: {_message(error, mask)}")
        return found

    def contradicts(self, path: tuple[str, ...]) -> str | None:
        """Why nothing can be at `path` in a value that fits; None if something can or the schema does not say.

        >>> compile_schema({"properties": {"a": {}}, "additionalProperties": False}).contradicts(("b",))
        "there is no 'b' (known: a)"
        """
        schema = self.source
        walked: list[str] = []
        for segment in path:
            schema = self._follow(schema)
            if not isinstance(schema, dict):
                return None if schema is not False else _nothing(walked)
            problem, schema = _inside(schema, segment, walked)
            if problem:
                return problem
            walked.append(segment)
        return _nothing(walked) if schema is False else None

    def _follow(self, schema: Any) -> Any:
        """The schema behind local `$ref`s; nothing known where it combines with others or leads elsewhere."""
        for _ in range(_REFERENCE_LIMIT):
            if not isinstance(schema, dict) or "$ref" not in schema:
                return schema
            reference = schema["$ref"]
            if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
                return True
            if "$id" in schema or (isinstance(self.source, dict) and "$id" in self.source):
                return True
            target = self.source
            for part in reference.split("/")[1:]:
                name = _unescape(part)
                if isinstance(target, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(target):
                    target = target[int(name[:9])]
                elif isinstance(target, dict) and name in target:
                    target = target[name]
                else:
                    return True
            schema = target
        return True


def compile_schema(schema: Any) -> Schema:
    """Compiles a schema; raises `ValueError` saying what is wrong with it.

    References to other documents are refused, wherever they lead, and patterns run in linear time.
    """
    import jsonschema_rs

    if not isinstance(schema, (dict, bool)):
        # A ValueError like every other bad schema: callers collect them.
        raise ValueError(f"a JSON Schema is a mapping or a boolean, not {type_name(schema)}")
    try:
        validator = jsonschema_rs.Draft202012Validator(
            schema, retriever=_deny, pattern_options=jsonschema_rs.RegexOptions(), mask=_MASK
        )
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        place = getattr(error, "instance_path", None)
        where = f" at {format_path(place)}" if place else ""
        message = getattr(error, "message", None) or str(error)
        raise ValueError(f"not a valid JSON Schema{where}: {message[:_MESSAGE_LIMIT]}") from None
    return Schema(schema, validator)


def _deny(uri: str) -> Any:
    raise ValueError(f"a schema may only refer to itself ('#/…'), not to {uri[:80]}")


def _message(error: Any, mask: bool) -> str:
    shown = "the value"
    if not mask:
        try:
            text = msgspec.json.encode(error.instance).decode()
        except (TypeError, ValueError):
            text = ""
        if text and len(text) <= _VALUE_LIMIT:
            shown = text
    message: str = error.message.replace(_MASK, shown)
    return message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 1] + "…"


def _nothing(walked: list[str]) -> str:
    return f"nothing can be at {'.'.join(walked) or 'the value'}"


def _unescape(part: str) -> str:
    from urllib.parse import unquote

    return unquote(part).replace("~1", "/").replace("~0", "~")


_LIST = frozenset(("array",))
_MAPPING = frozenset(("object",))
_SCALAR_TYPES = frozenset(("string", "integer", "number", "boolean", "null"))


def _inside(schema: dict[str, Any], segment: str, walked: list[str]) -> tuple[str | None, Any]:
    """(why there is nothing at `segment`, the schema of what is there): True is a schema that says nothing."""
    types = _types(schema)
    place = ".".join(walked) or "the value"
    if types and types <= _SCALAR_TYPES:
        return f"{place} is {_a(' or '.join(sorted(types)))}, which has nothing inside", True
    if types == _LIST:
        return _in_list(schema, segment, place)
    # Without a type, text and lists would fit as well, but whoever lists properties means a mapping.
    if types == _MAPPING or (types is None and "properties" in schema):
        return _in_mapping(schema, segment, walked)
    return None, True


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _types(schema: dict[str, Any]) -> frozenset[str] | None:
    """The types a value may have; None where anything goes."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset((kind,))
    if isinstance(kind, list):
        named = frozenset(kind)
        # A value that may be null is walked as if it were there.
        return named - {"null"} or named
    return None


def _in_list(schema: dict[str, Any], segment: str, place: str) -> tuple[str | None, Any]:
    if not (segment.isascii() and segment.isdigit()):
        return f"{place} is a list, which has no {segment!r}", True
    index = int(segment[:18])
    prefix = schema.get("prefixItems") or []
    if index < len(prefix):
        return None, prefix[index]
    limit = schema.get("maxItems")
    if isinstance(limit, int) and index >= limit:
        return f"{place} has at most {limit} items", True
    return None, schema.get("items", True)


def _in_mapping(schema: dict[str, Any], segment: str, walked: list[str]) -> tuple[str | None, Any]:
    properties = schema.get("properties") or {}
    if segment in properties:
        return None, properties[segment]
    if schema.get("patternProperties"):
        return None, True
    rest = schema.get("additionalProperties", True)
    if rest is False:
        known = ", ".join(list(properties)[:10]) or "nothing"
        where = f" in {'.'.join(walked)}" if walked else ""
        return f"there is no {segment!r}{where} (known: {known})", True
    return None, rest


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": _is_integer,
    "number": lambda value: isinstance(value, float) or _is_integer(value),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, (list, tuple)),
    "object": lambda value: isinstance(value, dict),
    "any": lambda value: True,
}

TYPES: tuple[str, ...] = tuple(_CHECKS)
"""The types an input can be declared with."""


def check_type(value: Any, type_name: str) -> bool:
    """Whether `value` is of a declared type. A boolean is no number, and 1.0 is no integer.

    >>> check_type(3, "integer"), check_type(True, "integer"), check_type(1.0, "integer"), check_type(3, "number")
    (True, False, False, True)
    """
    return _CHECKS[type_name](value)
