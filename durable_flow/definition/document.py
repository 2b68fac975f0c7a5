"""Text or a mapping -> a tree of nodes that know where they stand. Nothing here knows what a workflow is.

YAML 1.2, core schema, read from libyaml's event stream: tree, budgets and resolution of scalars are our own.
Nothing is built before it is counted. JSON is read as YAML too, for its positions; a JSON document that libyaml's
scanner does not take goes through the JSON decoder instead.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self, TypeAlias

import msgspec

from durable_flow.errors import ValidationError
from durable_flow.limits import Limits
from durable_flow.model.problem import Problem

if TYPE_CHECKING:
    import yaml

PlainScalar: TypeAlias = str | int | float | bool | None
Plain: TypeAlias = "PlainScalar | list[Plain] | dict[str, Plain]"

INT_MIN, INT_MAX = -(2**63), 2**64 - 1
"""What JSON and msgpack readers of every language take: signed and unsigned 64 bits."""

MAX_PROBLEMS = 100
"""A document with more problems than this is answered with the first so many."""

HOST_DATA = 50
"""How much larger than a text a mapping may be: one of 10,000 steps is ordinary."""


class Position(NamedTuple):
    """Where something begins, counting from 1; both None for what did not come from text."""

    line: int | None
    column: int | None


NOWHERE = Position(None, None)
DOCUMENT_START = Position(1, 1)


class ScalarNode(msgspec.Struct, frozen=True):
    """A single value. `text` is how it was written: `version: 1.10` has the value 1.1 and the text "1.10"."""

    value: PlainScalar
    text: str
    at: Position = NOWHERE

    def plain(self) -> PlainScalar:
        return self.value


class SequenceNode(msgspec.Struct, frozen=True):
    """A list of nodes."""

    items: tuple[Node, ...]
    at: Position = NOWHERE

    def plain(self) -> list[Plain]:
        return [item.plain() for item in self.items]


class MappingNode(msgspec.Struct, frozen=True):
    r"""Nodes by name, in the order of the document. `keys` says where each key stands, `items` holds the values.

    >>> steps = compose("steps:\n  - id: a\n", name="flow.yml", limits=Limits()).items["steps"]
    >>> steps.at, steps.plain()
    (Position(line=2, column=3), [{'id': 'a'}])
    """

    items: dict[str, Node]
    keys: dict[str, Position]
    at: Position = NOWHERE

    def plain(self) -> dict[str, Plain]:
        return {key: item.plain() for key, item in self.items.items()}


Node: TypeAlias = ScalarNode | SequenceNode | MappingNode


def compose(text: str, *, name: str, limits: Limits) -> MappingNode:
    r"""The tree of a YAML or JSON document; `name` is what problems call it. Raises ValidationError.

    >>> compose("on: no\ntime: 12:34:56\nmask: 0o17\n", name="flow.yml", limits=Limits()).plain()
    {'on': 'no', 'time': '12:34:56', 'mask': 15}
    """
    problems = _Problems(name)
    _check_size(text, problems, limits)
    text = text.removeprefix("\ufeff")
    try:
        _check_characters(text, problems)
        return _YamlComposer(text, problems, limits).document()
    except _SyntaxRefused as refused:
        as_json = _Problems(name)
        if text.lstrip().startswith("{") and (decoded := _decode_json(text, as_json, limits)) is not None:
            return _PlainComposer(as_json, limits, at=DOCUMENT_START).document(decoded)
        problems.stop(refused.message, refused.at)


def compose_plain(data: object, *, name: str, limits: Limits) -> MappingNode:
    """The tree of a definition given as Python data. Raises ValidationError; its problems name paths.

    The limits of documents are for texts, which strangers send: the host's own data may be HOST_DATA times larger
    (not deeper), what it shares counted wherever it is reached.

    >>> compose_plain({"steps": ({"id": "a"},)}, name="<mapping>", limits=Limits()).plain()
    {'steps': [{'id': 'a'}]}
    """
    wider = msgspec.structs.replace(
        limits,
        document_nodes=limits.document_nodes * HOST_DATA,
        document_bytes=limits.document_bytes * HOST_DATA,
    )
    return _PlainComposer(_Problems(name), wider, at=NOWHERE).document(data)


def regraft(node: MappingNode, data: dict[str, Any], *, name: str, limits: Limits) -> MappingNode:
    r"""The tree of data that was made of what a node holds. What is the same stands where it stood, the rest where the
    mapping or list stands that it is in; items of lists are the same where their `id` is. Raises ValidationError.

    >>> tree = compose("steps:\n  - id: a\n", name="flow.yml", limits=Limits())
    >>> made = regraft(tree, {"steps": [{"id": "new"}, {"id": "a"}]}, name="flow.yml", limits=Limits())
    >>> [step.at for step in made.items["steps"].items]
    [Position(line=2, column=3), Position(line=2, column=5)]
    """
    problems = _Problems(name)
    made = _Grafter(problems, limits).mapping(node, data, 1, "")
    problems.raise_if_any()
    return made


class _SyntaxRefused(Exception):
    """libyaml's scanner does not take the text."""

    def __init__(self, message: str, at: Position) -> None:
        self.message = message
        self.at = at
        super().__init__(message)


class _Problems:
    """What was found so far."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: list[Problem] = []

    def add(self, message: str, at: Position, hint: str | None = None) -> None:
        self._found.append(Problem(file=self._name, line=at.line, column=at.column, message=message, hint=hint))
        if len(self._found) == MAX_PROBLEMS:
            raise ValidationError(self._found)

    def stop(self, message: str, at: Position, hint: str | None = None) -> NoReturn:
        self.add(message, at, hint)
        raise ValidationError(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def raise_if_any(self) -> None:
        if self._found:
            raise ValidationError(self._found)


class _Size(NamedTuple):
    """What a finished node amounts to; `height` is how many levels of containers it has below its own."""

    nodes: int
    characters: int
    height: int


class _Budget:
    """Counts what a document amounts to with every alias expanded, without expanding any."""

    def __init__(self, problems: _Problems, limits: Limits) -> None:
        self._problems = problems
        self._limits = limits
        self.nodes = 0
        self.characters = 0
        self.deepest = 0

    def node(self, at: Position, *, characters: int = 0) -> None:
        self.nodes += 1
        self.characters += characters
        if self.nodes > self._limits.document_nodes or self.characters > self._limits.document_bytes:
            self._refuse(at)

    def enter(self, depth: int, at: Position) -> None:
        """Counts a mapping or list that stands `depth` levels deep; the document itself is level 1."""
        self.node(at)
        self._reach(depth, at)

    def again(self, size: _Size, depth: int, at: Position) -> None:
        """Counts something of a known size that stands here once more, `depth` levels deep."""
        self.nodes += size.nodes - 1
        self.node(at, characters=size.characters)
        self._reach(depth + size.height, at)

    def measure(self, depth: int) -> _Measure:
        """What is counted inside this context is one node, `depth` levels deep, whose size it then knows."""
        return _Measure(self, depth)

    def _reach(self, depth: int, at: Position) -> None:
        self.deepest = max(self.deepest, depth)
        if depth > self._limits.document_depth:
            self._problems.stop(*_too_much("document_depth", self._limits, at))

    def _refuse(self, at: Position) -> NoReturn:
        limit = "document_nodes" if self.nodes > self._limits.document_nodes else "document_bytes"
        self._problems.stop(*_too_much(limit, self._limits, at))


class _Measure:
    """The size of what a budget counted while this context was open."""

    size: _Size

    def __init__(self, budget: _Budget, depth: int) -> None:
        self._budget = budget
        self._depth = depth

    def __enter__(self) -> Self:
        budget = self._budget
        self._before = budget.nodes, budget.characters, budget.deepest
        budget.deepest = self._depth
        return self

    def __exit__(self, *raised: object) -> None:
        budget = self._budget
        nodes, characters, deepest = self._before
        self.size = _Size(budget.nodes - nodes, budget.characters - characters, budget.deepest - self._depth)
        budget.deepest = max(deepest, budget.deepest)


def _too_much(limit: str, limits: Limits, at: Position) -> tuple[str, Position, str]:
    allowed: int = getattr(limits, limit)
    what = {
        "document_bytes": f"more than {allowed:,} bytes, aliases expanded",
        "document_depth": f"nested more than {allowed} levels deep",
        "document_nodes": f"more than {allowed:,} nodes (keys, values, lists and mappings), aliases expanded",
    }[limit]
    return what, at, f"raise it with Limits({limit}=…)"


# --- characters -------------------------------------------------------------------------------------------------------

# YAML 1.1, which libyaml reads, breaks lines at NEL, LS and PS; YAML 1.2 and editors do not.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
# %TAG costs libyaml time in the square of their number; nothing needs it, since tags are refused.
_DIRECTIVE = re.compile(r"(?:(?:[ \t]*+(?:#[^\r\n]*+)?|%YAML[ \t][^\r\n]*+)(?:\r\n?|\n))*+(%)(?!YAML[ \t])")
_LATER_DIRECTIVE = re.compile(r"^%", re.MULTILINE)
_LINE_BREAK = re.compile(r"\r\n?|\n")


def _check_size(text: str, problems: _Problems, limits: Limits) -> None:
    allowed = limits.document_bytes
    if len(text) > allowed or len(text.encode("utf-8", "replace")) > allowed:
        problems.stop(*_too_much("document_bytes", limits, DOCUMENT_START))


def _check_characters(text: str, problems: _Problems) -> None:
    if found := _FORBIDDEN.search(text):
        code = ord(found[0])
        hint = "" if 0xD800 <= code <= 0xDFFF else f'; in a text in double quotes write "\\u{code:04x}"'
        raise _SyntaxRefused(f"the character U+{code:04X} is not allowed here{hint}", _position(text, found.start()))
    if found := _DIRECTIVE.match(text):
        problems.stop("directives (lines that begin with %) are not supported", _position(text, found.start(1)))


def _position(text: str, index: int) -> Position:
    line, start = 1, 0
    for found in _LINE_BREAK.finditer(text, 0, index):
        line, start = line + 1, found.end()
    return Position(line, index - start + 1)


# --- YAML -------------------------------------------------------------------------------------------------------------

# The core schema of YAML 1.2 (chapter 10.3.2).
_CORE_SCALAR = re.compile(
    r"(?P<null>null|Null|NULL|~|)"
    r"|(?P<true>true|True|TRUE)"
    r"|(?P<false>false|False|FALSE)"
    r"|(?P<int>[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)"
    r"|(?P<nonfinite>[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
    r"|(?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)"
)
_INT_DIGITS = 22  # what 64 bits need in octal, the longest of the three


class _Refused(ValueError):
    """A scalar that is read but not taken; the message says why."""


def _read_int(text: str) -> int:
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    digits = text.lstrip("+-")[2 if base != 10 else 0 :].lstrip("0")
    if len(digits) <= _INT_DIGITS:  # a longer one would take time in the square of its length
        value = int(digits or "0", base) * (-1 if text[0] == "-" else 1)
        if INT_MIN <= value <= INT_MAX:
            return value
    raise _Refused(f"the number {_short(text)} does not fit into 64 bits; write it as a text in quotes")


def _read_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _not_finite(text)
    return value


def _not_finite(text: str) -> _Refused:
    return _Refused(f"the number {_short(text)} is not finite; write it as a text in quotes")


def _resolve(text: str) -> PlainScalar:
    """The value of a scalar written without quotes. Raises _Refused."""
    found = _CORE_SCALAR.fullmatch(text)
    match found and found.lastgroup:
        case "null":
            return None
        case "true":
            return True
        case "false":
            return False
        case "int":
            return _read_int(text)
        case "float":
            return _read_float(text)
        case "nonfinite":
            raise _not_finite(text)
        case _:
            return text


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


class _YamlComposer:
    """Composes one document from the events of libyaml."""

    def __init__(self, text: str, problems: _Problems, limits: Limits) -> None:
        import yaml  # only where a document is read: it takes 10 ms

        self._yaml = yaml
        self._text = text
        self._problems = problems
        self._budget = _Budget(problems, limits)
        self._events = self._read(text)
        self._anchors: dict[str, tuple[Node, _Size] | None] = {}  # None while the node is still open

    def _read(self, text: str) -> Iterator[Any]:
        loader = self._yaml.CSafeLoader if self._yaml.__with_libyaml__ else self._yaml.SafeLoader
        try:
            yield from self._yaml.parse(text, Loader=loader)
        except self._yaml.MarkedYAMLError as error:
            raise _SyntaxRefused(*_explain(error, text)) from None
        except self._yaml.YAMLError as error:
            raise _SyntaxRefused(str(error), DOCUMENT_START) from None

    def document(self) -> MappingNode:  # noqa: RET503 - ends in a function that never returns
        next(self._events)  # the stream begins
        if isinstance(next(self._events), self._yaml.StreamEndEvent):
            self._problems.stop("the document is empty", DOCUMENT_START)
        node = self._node(next(self._events), 1)
        self._expect_the_end(next(self._events))
        self._problems.raise_if_any()
        if isinstance(node, MappingNode):
            return node
        if isinstance(node, ScalarNode) and node.value is None:
            self._problems.stop("the document is empty", node.at)
        kind = "a list" if isinstance(node, SequenceNode) else "a single value"
        self._problems.stop(f"the document must be a mapping (key: value), not {kind}", node.at)

    def _expect_the_end(self, document_end: Any) -> None:
        rest = self._text[document_end.end_mark.index :]
        if _LATER_DIRECTIVE.search(rest):
            self._problems.stop("only one document is allowed", _place(document_end))
        after = next(self._events)
        if not isinstance(after, self._yaml.StreamEndEvent):
            self._problems.stop("only one document is allowed; a second one begins here", _place(after))

    def _node(self, event: Any, depth: int) -> Node:
        at = _place(event)
        if isinstance(event, self._yaml.AliasEvent):
            return self._alias(event.anchor, depth, at)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!", 1)
            self._problems.add(f"tags are not supported: {_short(tag)}", at)
        if event.anchor is None:
            return self._content(event, depth, at)
        return self._anchored(event, depth, at)

    def _content(self, event: Any, depth: int, at: Position) -> Node:
        if isinstance(event, self._yaml.ScalarEvent):
            return self._scalar(event, at)
        self._budget.enter(depth, at)
        if isinstance(event, self._yaml.MappingStartEvent):
            return self._mapping(depth, at)
        return self._sequence(depth, at)

    def _scalar(self, event: Any, at: Position) -> ScalarNode:
        text: str = event.value
        self._budget.node(at, characters=len(text))
        if event.style:
            return ScalarNode(text, text, at)
        try:
            return ScalarNode(_resolve(text), text, at)
        except _Refused as refused:
            self._problems.add(str(refused), at)
            return ScalarNode(text, text, at)

    def _sequence(self, depth: int, at: Position) -> SequenceNode:
        items = []
        while not isinstance(event := next(self._events), self._yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return SequenceNode(tuple(items), at)

    def _mapping(self, depth: int, at: Position) -> MappingNode:
        items: dict[str, Node] = {}
        keys: dict[str, Position] = {}
        while not isinstance(event := next(self._events), self._yaml.MappingEndEvent):
            key_at = _place(event)
            key = self._key(event, depth, key_at)
            value = self._node(next(self._events), depth + 1)
            if key is None:
                continue
            if key in keys:
                first = keys[key]
                message = f"duplicate key {_short(key)!r}, first at line {first.line}, column {first.column}"
                self._problems.add(message, key_at)
            else:
                items[key], keys[key] = value, key_at
        return MappingNode(items, keys, at)

    def _key(self, event: Any, depth: int, at: Position) -> str | None:
        if isinstance(event, self._yaml.ScalarEvent) and event.value == "<<" and not event.style:
            self._budget.node(at)
            self._problems.add("merge keys (<<) are not supported; write the keys out", at)
            return None
        found = len(self._problems)
        node = self._node(event, depth + 1)
        if isinstance(node, ScalarNode) and isinstance(node.value, str):
            return node.value if len(self._problems) == found else None
        if isinstance(node, ScalarNode):
            self._problems.add(f'keys must be text; write "{node.text}"', at)
        else:
            self._problems.add("keys must be text, not a list or mapping", at)
        return None

    def _anchored(self, event: Any, depth: int, at: Position) -> Node:
        self._anchors[event.anchor] = None
        with self._budget.measure(depth) as measured:
            node = self._content(event, depth, at)
        self._anchors[event.anchor] = node, measured.size
        return node

    def _alias(self, anchor: str | None, depth: int, at: Position) -> Node:
        if anchor is None or anchor not in self._anchors:
            self._problems.stop(f"nothing before this is anchored as &{_short(anchor or '')}", at)
        target = self._anchors[anchor]
        if target is None:
            self._problems.stop(f"*{_short(anchor)} stands inside the node it refers to", at)
        node, size = target
        self._budget.again(size, depth, at)
        return node


def _place(event: Any) -> Position:
    mark = event.start_mark
    return Position(mark.line + 1, mark.column + 1)


def _explain(error: yaml.MarkedYAMLError, text: str) -> tuple[str, Position]:
    """What libyaml found, with what it usually means."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return str(error.problem), DOCUMENT_START
    message = error.problem or "cannot be read"
    character = text[mark.index : mark.index + 1]
    if "cannot start any token" in message:
        message = (
            "a tab is not allowed here; indent with spaces"
            if character == "\t"
            else f"{character!r} cannot begin a value; put the text in quotes"
        )
    elif message.startswith("mapping values are not allowed"):
        message = "a second ': ' is not allowed here; put the text in quotes, or check the indentation"
    context = f" {error.context}" if error.context else ""
    return f"not valid YAML{context}: {message}", Position(mark.line + 1, mark.column + 1)


# --- JSON and Python data ---------------------------------------------------------------------------------------------

_JSON_STRUCTURE = re.compile(r'[\[\]{}"]|\\.')


def _decode_json(text: str, problems: _Problems, limits: Limits) -> object:
    """The data of a JSON text, None if it is none. Its objects hold no key twice."""
    if _nests_deeper(text, limits.document_depth):
        problems.stop(*_too_much("document_depth", limits, DOCUMENT_START))

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                problems.add(f"duplicate key {_short(key)!r}", DOCUMENT_START)
            found[key] = value
        return found

    def scalar(read: Callable[[str], PlainScalar]) -> Callable[[str], PlainScalar]:
        def checked(text: str) -> PlainScalar:
            try:
                return read(text)
            except _Refused as refused:
                problems.add(str(refused), DOCUMENT_START)
                return None

        return checked

    try:
        decoded: object = json.loads(
            text,
            object_pairs_hook=members,
            parse_int=scalar(_read_int),
            parse_float=scalar(_read_float),
            parse_constant=scalar(_read_float),
        )
    except ValueError:
        return None
    return decoded


def _nests_deeper(text: str, allowed: int) -> bool:
    """Whether a JSON text is too deep for the decoder, which recurses on the thread's stack."""
    depth = 0
    quoted = False
    for found in _JSON_STRUCTURE.finditer(text):
        token = found[0]
        if token == '"':
            quoted = not quoted
        elif not quoted and token in "[{":
            depth += 1
            if depth > allowed:
                return True
        elif not quoted and token in "]}":
            depth -= 1
    return False


class _PlainComposer:
    """Composes a document from Python data."""

    def __init__(self, problems: _Problems, limits: Limits, *, at: Position) -> None:
        self._problems = problems
        self._budget = _Budget(problems, limits)
        self._at = at
        self._containers: dict[int, tuple[Node, _Size] | None] = {}  # by id(); None while it is still open

    def document(self, data: object) -> MappingNode:
        if not isinstance(data, dict):
            self._problems.stop(f"the document must be a mapping, not {type(data).__name__}", self._at)
        node = self._node(data, 1, "")
        self._problems.raise_if_any()
        assert isinstance(node, MappingNode)
        return node

    def single(self, value: object, at: Position, depth: int, path: str) -> Node:
        """A value that stands at a place in another tree."""
        self._at = at
        return self._node(value, depth, path)

    def part(self, data: dict[object, object], at: Position, depth: int, path: str) -> dict[str, Node]:
        """Keys, with their values, of a mapping in another tree."""
        self._at = at
        return self._mapping(data, depth, path).items

    def _node(self, value: object, depth: int, path: str) -> Node:
        match value:
            case dict() | list() | tuple():
                return self._container(value, depth, path)
            case str():
                self._budget.node(self._at, characters=len(value))
                return self._scalar(self._text(value, path))
            case None | bool():
                self._budget.node(self._at)
                return self._scalar(value)
            case int():
                self._budget.node(self._at)
                if not INT_MIN <= value <= INT_MAX:
                    self._add("a number does not fit into 64 bits", path)
                    return self._scalar(None)
                return self._scalar(int(value))
            case float():
                self._budget.node(self._at)
                if not math.isfinite(value):
                    self._add(f"{value} is not a finite number", path)
                return self._scalar(float(value))
            case _:
                self._add(f"{type(value).__name__} is not a JSON type", path)
                return self._scalar(None)

    def _container(
        self, value: dict[object, object] | list[object] | tuple[object, ...], depth: int, path: str
    ) -> Node:
        known = id(value)
        if known in self._containers:
            return self._shared(self._containers[known], depth, path)
        with self._budget.measure(depth) as measured:
            self._containers[known] = None
            node = self._mapping(value, depth, path) if isinstance(value, dict) else self._sequence(value, depth, path)
        self._containers[known] = node, measured.size
        return node

    def _shared(self, known: tuple[Node, _Size] | None, depth: int, path: str) -> Node:
        if known is None:
            self._problems.stop(f"{path}: a mapping or list contains itself", self._at)
        node, size = known
        self._budget.again(size, depth, self._at)
        return node

    def _sequence(self, value: list[object] | tuple[object, ...], depth: int, path: str) -> SequenceNode:
        self._budget.enter(depth, self._at)
        items = tuple(self._node(item, depth + 1, f"{path}[{index}]") for index, item in enumerate(value))
        return SequenceNode(items, self._at)

    def _mapping(self, value: dict[object, object], depth: int, path: str) -> MappingNode:
        self._budget.enter(depth, self._at)
        items: dict[str, Node] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                self._add(f"keys must be text, not {_short(repr(key))}", path)
                continue
            self._budget.node(self._at, characters=len(key))
            below = f"{path}.{key}" if path else str.__str__(key)
            items[self._text(key, path)] = self._node(item, depth + 1, below)
        return MappingNode(items, dict.fromkeys(items, self._at), self._at)

    def _text(self, value: str, path: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            self._add("a text holds half a surrogate pair, which is no character", path)
        return str.__str__(value)

    def _scalar(self, value: PlainScalar) -> ScalarNode:
        return ScalarNode(value, value if isinstance(value, str) else json.dumps(value), self._at)

    def _add(self, message: str, path: str) -> None:
        self._problems.add(f"{path}: {message}" if path else message, self._at)


class _Grafter:
    """Makes a tree of data out of the tree that the data was made of."""

    def __init__(self, problems: _Problems, limits: Limits) -> None:
        self._composer = _PlainComposer(problems, limits, at=NOWHERE)

    def mapping(self, node: MappingNode, data: dict[str, Any], depth: int, path: str) -> MappingNode:
        items: dict[str, Node] = {}
        for key, value in data.items():
            below = f"{path}.{key}" if path else str(key)
            if key in node.items:
                items[key] = self._node(node.items[key], value, depth + 1, below)
            else:
                items |= self._composer.part({key: value}, node.at, depth, path)
        if list(items) == list(node.items) and all(items[key] is node.items[key] for key in items):
            return node
        return MappingNode(items, {key: node.keys.get(key, node.at) for key in items}, node.at)

    def _node(self, node: Node, value: Any, depth: int, path: str) -> Node:
        match node, value:
            case MappingNode(), dict():
                return self.mapping(node, value, depth, path)
            case SequenceNode(), list() | tuple():
                return self._sequence(node, value, depth, path)
            case ScalarNode(), _ if type(node.value) is type(value) and node.value == value:
                return node
        return self._composer.single(value, node.at, depth, path)

    def _sequence(self, node: SequenceNode, values: Sequence[Any], depth: int, path: str) -> SequenceNode:
        by_id = {name: item for item in node.items if (name := _id_of(item)) is not None}
        items = []
        for index, value in enumerate(values):
            name = value.get("id") if isinstance(value, dict) else None
            was = by_id.get(name) if isinstance(name, str) else None
            if was is None and index < len(node.items) and _id_of(node.items[index]) is None:
                was = node.items[index]
            below = f"{path}[{index}]"
            if was is not None:
                items.append(self._node(was, value, depth + 1, below))
            else:
                items.append(self._composer.single(value, node.at, depth + 1, below))
        if len(items) == len(node.items) and all(a is b for a, b in zip(items, node.items, strict=True)):
            return node
        return SequenceNode(tuple(items), node.at)


def _id_of(node: Node) -> str | None:
    """The `id` of a mapping that has one."""
    found = node.items.get("id") if isinstance(node, MappingNode) else None
    return found.value if isinstance(found, ScalarNode) and isinstance(found.value, str) else None
