"""Values: what a variable may hold, and the one way arbitrary Python data becomes it.

A value is null, a boolean, a 64-bit signed integer, a finite float, text that UTF-8 can hold, or a list or
text-keyed mapping of values. Everything that enters an execution passes `normalise` once, at the step that produced
it; from there on a value is the same before and after a restart, on every store.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import msgspec

from durable_flow.errors import LimitExceeded, OutputError
from durable_flow.limits import Limits

MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**63 - 1

# Nesting no setting can pass: what msgspec's C code can recurse through on the smallest thread stacks in use.
DEPTH_CEILING = 256

# A JSON text is at most this many times longer than what `_copy` counts: a 20-character integer is counted as 2.
_WORST_RATIO = 11

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


class _Refused(Exception):
    """Carries why a value cannot be stored up to `normalise`, collecting the path on the way."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.trail: list[str | int] = []


class _TooBig(_Refused):
    pass


class _TooDeep(_Refused):
    pass


def normalise(value: Any, *, limits: Limits, what: str = "output") -> Any:
    """The JSON-shaped copy of `value`: exactly what reading it back from a store will give.

    Tuples and sets become lists; datetimes, dates, Decimals, UUIDs, enums, bytes (base64), dataclasses, Structs, attrs
    and pydantic models become their JSON form. The copy shares nothing mutable with the original.

    Raises `OutputError` for what has no such form (NaN, an integer beyond 64 signed bits, a lone surrogate, a key that
    is not text, a cycle, any other object), naming the place as `$.a[3].b`, and `LimitExceeded` for what is larger than
    `limits.value_bytes` or nested deeper than `limits.value_depth`. `what` names the value in that message.

    >>> import uuid
    >>> normalise({"id": uuid.UUID(int=1), "tags": ("a", "b")}, limits=Limits())
    {'id': '00000000-0000-0000-0000-000000000001', 'tags': ['a', 'b']}
    """
    if value is None or value is True or value is False:
        return value
    room = limits.value_bytes
    budget = [room]
    try:
        result = _normal(value, min(limits.value_depth, DEPTH_CEILING), budget)
    except _Refused as refusal:
        _report(refusal, value, limits, what)
    except Exception as error:  # a container of a user's own class, or one that changes while it is read
        raise OutputError(f"reading it raised {type(error).__name__}: {str(error)[:200]}", path="$") from error
    if (room - budget[0]) * _WORST_RATIO > room:
        size = len(_encoder.encode(result))
        if size > room:
            raise LimitExceeded("value_bytes", allowed=room, actual=size, where=what)
    return result


def _report(refusal: _Refused, value: Any, limits: Limits, what: str) -> NoReturn:
    match refusal:
        case _TooBig():
            raise LimitExceeded("value_bytes", allowed=limits.value_bytes, where=what) from None
        case _TooDeep():
            if _is_cyclic(value):
                raise OutputError("it contains itself", path="$") from None
            allowed = min(limits.value_depth, DEPTH_CEILING)
            raise LimitExceeded("value_depth", allowed=allowed, where=what) from None
        case _:
            raise OutputError(refusal.reason, path=format_path(reversed(refusal.trail))) from None


def format_path(trail: Iterable[str | int]) -> str:
    """The place inside a value as text.

    >>> format_path(["a", 3, "b c"])
    '$.a[3]["b c"]'
    """
    parts = ["$"]
    for step in trail:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif _PLAIN_KEY.fullmatch(step):
            parts.append(f".{step}")
        else:
            short = step if len(step) <= 80 else step[:77] + "..."
            parts.append(f'["{short.encode("utf-8", "replace").decode()}"]')
    return "".join(parts)


_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


def _normal(value: Any, depth: int, budget: list[int]) -> Any:
    """A normal copy of any value. `depth` is how many containers may still be opened here."""
    kind = type(value)
    if kind is dict:
        return _normal_mapping(value, depth, budget)
    if kind is list or kind is tuple:
        return _normal_list(value, depth, budget)
    if kind is str:
        budget[0] -= _text_size(value)
        if budget[0] < 0:
            raise _TooBig("")
        return value
    if kind is int:
        if not MIN_INTEGER <= value <= MAX_INTEGER:
            raise _Refused("an integer beyond 64 bits")
        return value
    if kind is float:
        if value - value != 0.0:
            raise _Refused(f"{value} is not a finite number")
        return value
    if kind is bool or value is None:
        return value
    return _normal_foreign(value, depth, budget)


def _normal_mapping(value: Mapping[Any, Any], depth: int, budget: list[int]) -> dict[str, Any]:
    if depth <= 0:
        raise _TooDeep("")
    result: dict[str, Any] = {}
    size = 1  # two braces, and one comma less than there are items
    for key, item in value.items():
        try:
            if type(key) is not str:
                key = _text_key(key)
            size += len(key) + 4 if key.isascii() else _text_size(key) + 2
            kind = type(item)
            if kind is str:
                size += len(item) + 2 if item.isascii() else _text_size(item)
            elif kind is bool or item is None:
                size += 4
            elif kind is int:
                if not MIN_INTEGER <= item <= MAX_INTEGER:
                    raise _Refused("an integer beyond 64 bits")
            elif kind is float:
                if item - item != 0.0:
                    raise _Refused(f"{item} is not a finite number")
                size += 2
            else:
                item = _normal(item, depth - 1, budget)
            result[key] = item
        except _Refused as refusal:
            refusal.trail.append(key if isinstance(key, str) else repr(key)[:80])
            raise
        if size > budget[0]:
            raise _TooBig("")
    budget[0] -= size
    return result


def _normal_list(value: Iterable[Any], depth: int, budget: list[int]) -> list[Any]:
    if depth <= 0:
        raise _TooDeep("")
    result: list[Any] = []
    append = result.append
    size = 1
    for item in value:
        try:
            kind = type(item)
            if kind is str:
                size += len(item) + 3 if item.isascii() else _text_size(item) + 1
            elif kind is bool or item is None:
                size += 5
            elif kind is int:
                if not MIN_INTEGER <= item <= MAX_INTEGER:
                    raise _Refused("an integer beyond 64 bits")
                size += 2
            elif kind is float:
                if item - item != 0.0:
                    raise _Refused(f"{item} is not a finite number")
                size += 4
            else:
                size += 1
                item = _normal(item, depth - 1, budget)
            append(item)
        except _Refused as refusal:
            refusal.trail.append(len(result))
            raise
        if size > budget[0]:
            raise _TooBig("")
    budget[0] -= size
    return result


def _text_size(text: str) -> int:
    """Bytes of the text between quotes, escapes not counted."""
    if text.isascii():
        return len(text) + 2
    try:
        return len(text.encode()) + 2
    except UnicodeEncodeError:
        raise _Refused("text with a lone surrogate, which UTF-8 cannot hold") from None


def _text_key(key: Any) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, str):
        return str.__str__(key)
    raise _Refused(f"a key that is not text ({type_name(key)})")


def _normal_foreign(value: Any, depth: int, budget: list[int]) -> Any:
    """Everything that is not exactly a JSON type: subclasses, other containers, and what msgspec can convert."""
    if isinstance(value, enum.Enum):
        return _normal(value.value, depth, budget)
    if isinstance(value, str):
        return _normal(str.__str__(value), depth, budget)
    if isinstance(value, int):
        return _normal(int.__int__(value), depth, budget)
    if isinstance(value, float):
        return _normal(float.__float__(value), depth, budget)
    if isinstance(value, Mapping):
        return _normal_mapping(value, depth, budget)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _normal_list(value, depth, budget)
    if depth <= 0 and _is_record(value):
        raise _TooDeep("")
    try:
        _measure(value, depth, [budget[0]])
        plain = msgspec.to_builtins(value, enc_hook=lambda inner: _model_form(inner, depth, budget[0]))
    except _Refused:
        raise
    except Exception as error:  # msgspec, or code of the value's own class
        raise _Refused(_why_not(value, error)) from error
    if type(plain) is type(value):
        raise _Refused(f"a value of type {type_name(value)} has no JSON form")
    return _normal(plain, depth, budget)


def _why_not(value: Any, error: Exception) -> str:
    name = type(value).__qualname__
    if _is_record(value) or hasattr(type(value), "model_dump"):
        return f"a {name} has no JSON form: {str(error)[:200]}"
    return f"a value of type {name} has no JSON form"


def _model_form(value: Any, depth: int, nodes: int) -> Any:
    """The hook of msgspec, which knows no subclasses of scalars and no mapping but dict; pydantic models say themselves
    what their JSON form is."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return dict(value)
    dump = getattr(type(value), "model_dump", None)
    if dump is None:
        raise TypeError(f"a value of type {type(value).__qualname__} has no JSON form")
    plain = dump(value, mode="json")
    _measure(plain, depth, [nodes])
    return plain


def _is_record(value: Any) -> bool:
    kind = type(value)
    return (
        isinstance(value, msgspec.Struct) or hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__attrs_attrs__")
    )


def _parts(value: Any) -> Iterable[Any]:
    """What is directly inside a value that msgspec would recurse into."""
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    kind = type(value)
    if hasattr(kind, "__dataclass_fields__"):
        return [getattr(value, name, None) for name in kind.__dataclass_fields__]
    if hasattr(kind, "__attrs_attrs__"):
        return [getattr(value, field.name, None) for field in kind.__attrs_attrs__]
    return ()


def _measure(value: Any, depth: int, nodes: list[int]) -> None:
    """Refuses what is too deep or too large before C code, which would crash or never end, recurses through it."""
    if isinstance(value, decimal.Decimal) and not value.is_finite():
        raise _Refused(f"{value} is not a finite number")
    parts = _parts(value)
    if not parts:
        return
    if depth <= 0:
        raise _TooDeep("")
    for part in parts:
        nodes[0] -= 1
        if nodes[0] < 0:
            raise _TooBig("")
        _measure(part, depth - 1, nodes)


def _is_cyclic(value: Any) -> bool:
    """Whether following the value's parts comes back to a container that is still open. Linear, without recursion."""
    open_ids = {id(value)}
    done: set[int] = set()
    keep = [value]  # parts may be made on the fly; they must not be freed while their id is remembered
    stack = [(value, iter(_parts(value)))]
    while stack:
        current, rest = stack[-1]
        for part in rest:
            if id(part) in open_ids:
                return True
            inner = _parts(part)
            if inner and id(part) not in done:
                open_ids.add(id(part))
                keep.append(part)
                stack.append((part, iter(inner)))
                break
        else:
            stack.pop()
            open_ids.discard(id(current))
            done.add(id(current))
    return False


def copy_value(value: Any) -> Any:
    """A deep copy of a JSON-shaped value, several times faster than `copy.deepcopy`. Other objects are shared.

    >>> original = {"a": [1, {"b": 2}]}
    >>> copied = copy_value(original)
    >>> copied["a"].append(3)
    >>> original
    {'a': [1, {'b': 2}]}
    """
    kind = type(value)
    if kind is dict:
        return {
            key: copy_value(item) if type(item) is dict or type(item) is list else item for key, item in value.items()
        }
    if kind is list:
        return [copy_value(item) if type(item) is dict or type(item) is list else item for item in value]
    return value


def encode(value: Any) -> str:
    """The compact JSON text of a normal value.

    >>> encode({"a": [1, None]})
    '{"a":[1,null]}'
    """
    return _encoder.encode(value).decode()


def decode(text: str | bytes) -> Any:
    """The value of a JSON text. Raises `ValueError` for anything else, and for nesting beyond `DEPTH_CEILING`.

    >>> decode('{"a":[1,null]}')
    {'a': [1, None]}
    """
    data = text.encode() if isinstance(text, str) else text
    if data.count(b"[") + data.count(b"{") > DEPTH_CEILING and _is_deep(data):
        raise ValueError(f"JSON nested deeper than {DEPTH_CEILING} levels")
    return _decoder.decode(data)


_JSON_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"[]{}", b"()()")
_OTHERS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _is_deep(data: bytes) -> bool:
    """Whether brackets outside of texts nest beyond the ceiling: each round takes the innermost pairs away."""
    brackets = _JSON_TEXT.sub(b"", data).translate(_BRACKETS, _OTHERS)
    for _ in range(DEPTH_CEILING):
        brackets = brackets.replace(b"()", b"")
        if not brackets:
            return False
    return True


_NAMES: dict[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    list: "list",
    tuple: "list",
    dict: "mapping",
    datetime.datetime: "time",
    datetime.date: "date",
    decimal.Decimal: "decimal",
}


def type_name(value: Any) -> str:
    """What a value's type is called in messages to people who write workflows.

    >>> [type_name(value) for value in (None, True, 1, 1.5, "a", [], {})]
    ['null', 'boolean', 'integer', 'number', 'text', 'list', 'mapping']
    """
    return _NAMES.get(type(value)) or type(value).__qualname__
