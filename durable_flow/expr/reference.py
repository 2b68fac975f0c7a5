"""References: `$name.path` inside the values of a definition.

Everything here is compiled once, when a definition is loaded. Resolving looks values up and never interprets them:
text that came in from outside may look like a reference and stays text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

import msgspec

from durable_flow.errors import LimitExceeded, StepError
from durable_flow.model.value import copy_value, encode, type_name

__all__ = [
    "MISSING",
    "Reference",
    "ReferenceSyntaxError",
    "Scope",
    "Template",
    "compile_reference",
    "compile_template",
    "copy_value",
    "iter_references",
    "lookup_of",
    "to_text",
    "walk",
]

# Interpolated text beyond this is refused while it is built, so that a short template cannot fill the memory.
TEXT_CEILING = 64 * 1024 * 1024


class _Missing:
    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final[Any] = _Missing()
"""What a lookup gives where there is nothing, which is not the same as null."""


class Scope(Protocol):
    """Where references find their values."""

    def lookup(self, root: str) -> Any:
        """The value of a variable or of a root such as `input`, or `MISSING`."""


class ReferenceSyntaxError(ValueError):
    """A `${` that is never closed or holds no path. `.text` is the whole text, `.position` where the `$` stands."""

    def __init__(self, message: str, *, text: str, position: int) -> None:
        self.text = text
        self.position = position
        super().__init__(message)


_NAME = r"[A-Za-z_][A-Za-z0-9_]*"

# A `-` ends a bare reference ("$from-$to"), except in a step id, which is what follows `approvals`.
_TOKEN = re.compile(
    r"\$(?:"
    r"(?P<escape>\$)"
    r"|\{(?P<braced>[^{}$]*)\}"
    r"|(?P<open>\{)"
    rf"|(?P<bare>(?:approvals\.[A-Za-z_](?:-*[A-Za-z0-9_])*|{_NAME})(?:\.[A-Za-z0-9_]+)*)"
    r")"
)
_PATH = re.compile(rf"{_NAME}(?:\.[A-Za-z0-9_-]+)*")
_BARE_PATH = re.compile(rf"{_NAME}(?:\.[A-Za-z0-9_]+)*")


class Reference(msgspec.Struct, frozen=True):
    """One path into the variables.

    >>> Reference("order", ("lines", "0")).text
    '$order.lines.0'
    """

    root: str
    path: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The reference as one writes it."""
        path = ".".join((self.root, *self.path))
        return f"${path}" if _BARE_PATH.fullmatch(path) else f"${{{path}}}"

    def resolve(self, scope: Scope) -> Any:
        """The value at the path; null where there is none."""
        value = scope.lookup(self.root)
        if self.path:
            value = walk(value, self.path)
        return None if value is MISSING else value


def walk(value: Any, path: tuple[str, ...]) -> Any:
    """The value at `path` inside `value`, or `MISSING`.

    Mappings are walked by key, lists by decimal index, msgspec Structs by field. Nothing else has an inside: no
    attribute of any object can be reached.

    >>> walk({"a": [{"b": False}]}, ("a", "0", "b"))
    False
    >>> walk({"a": "text"}, ("a", "upper"))
    MISSING
    """
    for segment in path:
        if type(value) is dict:
            value = value.get(segment, MISSING)
        elif isinstance(value, (list, tuple)):
            # At most 18 digits: no list is longer, and int() of endless digits is slow.
            if not (segment.isascii() and segment.isdigit() and len(segment) <= 18):
                return MISSING
            index = int(segment)
            if index >= len(value):
                return MISSING
            value = value[index]
        elif isinstance(value, Mapping):
            value = value.get(segment, MISSING)
        elif isinstance(value, msgspec.Struct):
            if segment not in value.__struct_fields__:
                return MISSING
            value = getattr(value, segment)
        else:
            return MISSING
    return value


def compile_reference(text: str) -> Reference:
    """The reference in a key that holds a variable path: `user.name`, `$user.name` and `${user.name}` are the same.

    >>> compile_reference("user.name") == compile_reference("$user.name") == compile_reference("${user.name}")
    True
    """
    path = text
    if path.startswith("${") and path.endswith("}"):
        path = path[2:-1]
    elif path.startswith("$"):
        path = path[1:]
    if not _PATH.fullmatch(path):
        raise ReferenceSyntaxError(f"{_short(text)} is not a path such as user.name", text=text, position=0)
    root, *rest = path.split(".")
    return Reference(root, tuple(rest))


class Template(msgspec.Struct, frozen=True, eq=False):
    """A value of a definition, ready to be resolved.

    `source` is the value as written, `references` all references in it in their order, `constant` says that there are
    none, `interpolates` that text is put together from them. `resolve(scope)` gives the value: a fresh container each
    time where the definition has a container, the referenced object itself where it has a reference.
    """

    source: Any
    references: tuple[Reference, ...]
    constant: bool
    interpolates: bool
    resolve: Callable[[Scope], Any]


def compile_template(value: Any) -> Template:
    """Compiles any JSON-shaped value. Raises `ReferenceSyntaxError` for a malformed `${`.

    A text that is exactly one reference gives the value itself; references inside longer text are put in as text.
    `$$` is a dollar sign. Keys of mappings are taken as they are.

    >>> class Variables(dict):
    ...     def lookup(self, root):
    ...         return self.get(root, MISSING)
    >>> template = compile_template({"to": "$user", "text": "Hi $user.name, that is $$5."})
    >>> template.resolve(Variables(user={"name": "Ann"}))
    {'to': {'name': 'Ann'}, 'text': 'Hi Ann, that is $5.'}
    >>> [reference.text for reference in template.references]
    ['$user', '$user.name']
    """
    if type(value) is str:
        return _compile_text(value)
    if isinstance(value, dict):
        return _compile_mapping(value)
    if isinstance(value, (list, tuple)):
        return _compile_list(value)
    return _constant(value, value)


def iter_references(value: Any) -> Iterator[Reference]:
    """All references in a value of a definition, in their order.

    >>> [reference.text for reference in iter_references(["$a", {"b": "x ${c.d}"}])]
    ['$a', '$c.d']
    """
    yield from compile_template(value).references


def _constant(source: Any, value: Any) -> Template:
    if isinstance(value, (dict, list)):
        return Template(source, (), True, False, lambda scope: copy_value(value))
    return Template(source, (), True, False, lambda scope: value)


def _compile_mapping(value: dict[str, Any]) -> Template:
    templates = [(key, compile_template(item)) for key, item in value.items()]
    if all(template.constant for _, template in templates):
        return _constant(value, {key: template.resolve(_NOWHERE) for key, template in templates})
    pairs = tuple((key, template.resolve) for key, template in templates)

    def resolve(scope: Scope) -> dict[str, Any]:
        return {key: resolve_item(scope) for key, resolve_item in pairs}

    return _composed(value, [template for _, template in templates], resolve)


def _compile_list(value: list[Any] | tuple[Any, ...]) -> Template:
    templates = [compile_template(item) for item in value]
    if all(template.constant for template in templates):
        return _constant(value, [template.resolve(_NOWHERE) for template in templates])
    items = tuple(template.resolve for template in templates)

    def resolve(scope: Scope) -> list[Any]:
        return [resolve_item(scope) for resolve_item in items]

    return _composed(value, templates, resolve)


def _composed(source: Any, templates: list[Template], resolve: Callable[[Scope], Any]) -> Template:
    references = tuple(reference for template in templates for reference in template.references)
    return Template(source, references, False, any(template.interpolates for template in templates), resolve)


class _NoVariables:
    """The scope that constants are resolved in."""

    __slots__ = ()

    def lookup(self, root: str) -> Any:
        return MISSING


_NOWHERE = _NoVariables()


def _compile_text(text: str) -> Template:
    if "$" not in text:
        return Template(text, (), True, False, lambda scope: text)
    parts = _split(text)
    references = tuple(part for part in parts if isinstance(part, Reference))
    match parts:
        case [Reference() as only]:
            return Template(text, references, False, False, lookup_of(only))
    if not references:
        return _constant(text, "".join(part for part in parts if isinstance(part, str)))
    return Template(text, references, False, True, _interpolation(parts))


def _split(text: str) -> list[str | Reference]:
    """Literal text and references, in order."""
    parts: list[str | Reference] = []
    literal = ""
    end = 0
    for token in _TOKEN.finditer(text):
        literal += text[end : token.start()]
        end = token.end()
        if token["escape"]:
            literal += "$"
            continue
        path = token["bare"] if token["bare"] is not None else _braced_path(token, text)
        if literal:
            parts.append(literal)
            literal = ""
        root, *rest = path.split(".")
        parts.append(Reference(root, tuple(rest)))
    literal += text[end:]
    if literal:
        parts.append(literal)
    return parts


def _braced_path(token: re.Match[str], text: str) -> str:
    path = token["braced"]
    if path is not None and _PATH.fullmatch(path):
        return path
    problem = "'${' is not closed" if path is None else f"{_short('${' + path + '}')} is not a path"
    message = f"{problem}; write ${{name.path}} for a reference, or $${{ for the characters themselves"
    raise ReferenceSyntaxError(message, text=text, position=token.start())


def lookup_of(reference: Reference) -> Callable[[Scope], Any]:
    """`reference.resolve` as a plain function, which costs half as much to call."""
    root, path = reference.root, reference.path
    if path:

        def resolve_path(scope: Scope) -> Any:
            value = walk(scope.lookup(root), path)
            return None if value is MISSING else value

        return resolve_path

    def resolve(scope: Scope) -> Any:
        value = scope.lookup(root)
        return None if value is MISSING else value

    return resolve


def _interpolation(parts: list[str | Reference]) -> Callable[[Scope], str]:
    pieces: tuple[str | Callable[[Scope], Any], ...] = tuple(
        lookup_of(part) if isinstance(part, Reference) else part for part in parts
    )

    def resolve(scope: Scope) -> str:
        texts = []
        size = 0
        for piece in pieces:
            text = piece if isinstance(piece, str) else to_text(piece(scope))
            size += len(text)
            if size > TEXT_CEILING:
                raise LimitExceeded("value_bytes", allowed=TEXT_CEILING, where="interpolated text")
            texts.append(text)
        return "".join(texts)

    return resolve


def to_text(value: Any) -> str:
    """How a value looks inside text: null as nothing, times as RFC 3339, everything else as its compact JSON.

    >>> [to_text(value) for value in (None, True, 1.5, "a", [1, {"b": None}])]
    ['', 'true', '1.5', 'a', '[1,{"b":null}]']
    """
    if type(value) is str:
        return value
    if value is None:
        return ""
    try:
        text = encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise StepError(f"a value of type {type_name(value)} cannot be part of a text", kind="ReferenceError") from None
    # Times, decimals and text-like subclasses are quoted in JSON.
    return msgspec.json.decode(text, type=str) if text.startswith('"') else text


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
