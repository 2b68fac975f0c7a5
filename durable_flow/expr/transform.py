"""Transforms: a pipeline of operations on one value, compiled to a list of functions.

Each operation is one entry of `OPERATIONS`: a function that checks the argument and gives back the function that is
applied to the value. An argument with references is checked when the step runs, a constant one when the definition is
loaded. An operation that cannot take a value fails the step; it never passes the value on unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

import msgspec

from durable_flow.errors import LimitExceeded, StepError
from durable_flow.expr.condition import Condition, ConditionProblems, compile_condition, equal, hint
from durable_flow.expr.reference import (
    MISSING,
    TEXT_CEILING,
    Reference,
    ReferenceSyntaxError,
    Scope,
    compile_reference,
    compile_template,
    to_text,
    walk,
)
from durable_flow.model.value import MAX_INTEGER, MIN_INTEGER, copy_value, type_name

Step = Callable[[Any, Scope], Any]
Path = tuple[str | int, ...]
Problems = list[tuple[Path, str]]


class TransformProblems(ValueError):
    """Everything wrong with an expression. `.problems` are pairs of (path inside the expression, message)."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        super().__init__("\n".join(message for _, message in problems))


class ArgumentError(ValueError):
    """An argument that an operation cannot work with. `.path` leads to it inside the argument."""

    def __init__(self, message: str, path: Path = ()) -> None:
        self.path = path
        super().__init__(message)


class Transform(msgspec.Struct, frozen=True, eq=False):
    """A compiled expression. `references` are the variables its arguments read, `$item` and `$index` not among them."""

    source: Any
    references: tuple[Reference, ...]
    steps: tuple[Step, ...]

    def apply(self, value: Any, scope: Scope) -> Any:
        """The value after all operations; `StepError` of kind TransformError where one does not fit its value."""
        for step in self.steps:
            value = step(value, scope)
        return value


class Compiled(NamedTuple):
    """What an operation's compile function gives: the step, and the outer variables it reads."""

    step: Step
    references: tuple[Reference, ...] = ()


def compile_transform(expression: Any) -> Transform:
    """Compiles a mapping of operations, or a list of one-operation mappings; raises `TransformProblems`.

    >>> from durable_flow.expr.reference import MISSING
    >>> class Variables(dict):
    ...     def lookup(self, root):
    ...         return self.get(root, MISSING)
    >>> orders = [{"id": 1, "total": 30, "open": True}, {"id": 2, "total": 5, "open": True}, {"id": 3, "open": False}]
    >>> big = compile_transform({"select": {"open": True}, "sort": "total", "last": "$n", "pluck": "id"})
    >>> big.apply(orders, Variables(n=1))
    [1]
    """
    problems: Problems = []
    steps: list[Step] = []
    references: list[Reference] = []
    for path, name, argument in _operations(expression, problems):
        compile_operation = OPERATIONS.get(name) if isinstance(name, str) else None
        if compile_operation is None:
            problems.append((path, f"unknown operation {name!r}{hint(name, OPERATION_NAMES)}"))
            continue
        try:
            compiled = compile_operation(argument)
        except ConditionProblems as error:
            problems.extend(((*path, *inner), f"{name}: {message}") for inner, message in error.problems)
        except ArgumentError as error:
            problems.append(((*path, *error.path), f"{name}: {error}"))
        except ReferenceSyntaxError as error:
            problems.append((path, f"{name}: {error}"))
        else:
            steps.append(compiled.step)
            references.extend(compiled.references)
    if problems:
        raise TransformProblems(problems)
    return Transform(expression, tuple(references), tuple(steps))


def _operations(expression: Any, problems: Problems) -> Iterable[tuple[Path, Any, Any]]:
    """(path, name, argument) of each operation in its order."""
    if not isinstance(expression, (dict, list)) or not expression:
        found = type_name(expression) if expression or expression in (None, "") else f"an empty {type_name(expression)}"
        problems.append(((), f"an expression is a mapping of operations, or a list of them, not {found}"))
    elif isinstance(expression, dict):
        yield from (((name,), name, argument) for name, argument in expression.items())
    else:
        for index, item in enumerate(expression):
            if isinstance(item, dict) and len(item) == 1:
                name, argument = next(iter(item.items()))
                yield (index, name), name, argument
            elif isinstance(item, str):
                yield (index,), item, None
            else:
                problems.append(((index,), "each element is one operation, such as {sort: name}"))


# --- failing --------------------------------------------------------------------------------------------------------


def _fail(message: str) -> NoReturn:
    raise StepError(message, kind="TransformError")


def _list(name: str, value: Any) -> list[Any] | tuple[Any, ...]:
    if isinstance(value, (list, tuple)):
        return value
    _fail(f"{name!r} needs a list, not {type_name(value)}")


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    _fail(f"{name!r} needs a mapping, not {type_name(value)}")


# --- arguments ------------------------------------------------------------------------------------------------------


class _Nowhere:
    __slots__ = ()

    def lookup(self, root: str) -> Any:
        return MISSING


_NOWHERE = _Nowhere()


def _plain(name: str, build: Callable[[Any], Callable[[Any], Any]]) -> Callable[[Any], Compiled]:
    """An operation whose argument is data: `build` checks it and gives the function on the value."""

    def compile_operation(argument: Any) -> Compiled:
        template = compile_template(argument)
        if template.constant:
            operate = build(template.resolve(_NOWHERE))
            return Compiled(lambda value, scope: operate(value))

        def step(value: Any, scope: Scope) -> Any:
            try:
                operate = build(template.resolve(scope))
            except ArgumentError as error:
                _fail(f"{name!r}: {error}")
            return operate(value)

        return Compiled(step, template.references)

    return compile_operation


def _bare(argument: Any) -> None:
    if argument is not None and argument is not True:
        raise ArgumentError(f"takes no argument, not {type_name(argument)}")


def _count_argument(argument: Any) -> int:
    if isinstance(argument, bool) or not isinstance(argument, int) or argument < 0:
        raise ArgumentError(f"needs a whole number that is not negative, not {_shown(argument)}")
    return argument


def _field(argument: Any) -> tuple[str, ...]:
    """A path inside an item, such as `user.name`. Keys may hold any character but the dot."""
    if not isinstance(argument, str):
        raise ArgumentError(f"needs the path of a field, not {type_name(argument)}")
    path = tuple(argument.split("."))
    if not all(path):
        raise ArgumentError(f"{_shown(argument)} is not the path of a field")
    return path


def _optional_field(argument: Any) -> tuple[str, ...]:
    return () if argument is None or argument is True else _field(argument)


def _shown(argument: Any) -> str:
    text = repr(argument) if isinstance(argument, (str, int, float)) else type_name(argument)
    return text if len(text) <= 80 else text[:77] + "..."


def _at(item: Any, path: tuple[str, ...]) -> Any:
    value = walk(item, path) if path else item
    return None if value is MISSING else value


# --- per-item scopes ------------------------------------------------------------------------------------------------


class _ItemScope:
    """The outer variables, with `$item` and `$index` of the list that is worked on."""

    __slots__ = ("index", "item", "outer")

    def __init__(self, outer: Scope) -> None:
        self.outer = outer
        self.item: Any = None
        self.index = 0

    def lookup(self, root: str) -> Any:
        if root == "item":
            return self.item
        if root == "index":
            return self.index
        return self.outer.lookup(root)


_OWN_ROOTS = frozenset(("item", "index"))


def _outer(references: Iterable[Reference]) -> tuple[Reference, ...]:
    return tuple(reference for reference in references if reference.root not in _OWN_ROOTS)


def _item_field(text: str) -> Reference:
    """A `field` of a condition on items: relative to the item, unless it is written as a reference."""
    if text.startswith("$"):
        return compile_reference(text)
    if not all(text.split(".")):
        raise ReferenceSyntaxError(f"{_shown(text)} is not the path of a field", text=text, position=0)
    return Reference("item", tuple(text.split(".")))


def _text_size(value: Any) -> int:
    """Characters of text in a value: what repeated interpolation can make large."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_text_size, value.values()))
    if isinstance(value, list):
        return sum(map(_text_size, value))
    return 0


def _too_much_text(name: str) -> NoReturn:
    raise LimitExceeded("value_bytes", allowed=TEXT_CEILING, where=f"the text made by {name!r}")


# --- operations on each item ----------------------------------------------------------------------------------------


def _compile_map(argument: Any) -> Compiled:
    """`map: name` takes a field of each item; anything with `$item` or `$index`, or a container, is filled per item."""
    template = compile_template(argument)
    per_item = any(reference.root in _OWN_ROOTS for reference in template.references)
    if isinstance(argument, str) and not per_item:
        return _plain("map", _build_pluck("map"))(argument)
    if not isinstance(argument, (str, dict, list)):
        raise ArgumentError(f"needs a field, or a mapping to fill for each item, not {type_name(argument)}")

    def step(value: Any, scope: Scope) -> list[Any]:
        inner = _ItemScope(scope)
        result = []
        room = TEXT_CEILING
        for inner.index, inner.item in enumerate(_list("map", value)):
            made = template.resolve(inner)
            if template.interpolates:
                room -= _text_size(made)
                if room < 0:
                    _too_much_text("map")
            result.append(made)
        return result

    return Compiled(step, _outer(template.references))


def _build_pluck(name: str) -> Callable[[Any], Callable[[Any], Any]]:
    def build(argument: Any) -> Callable[[Any], Any]:
        path = _field(argument)
        return lambda value: [_at(item, path) for item in _list(name, value)]

    return build


class _Predicate(NamedTuple):
    test: Callable[[_ItemScope], bool]
    references: tuple[Reference, ...]


def _compile_predicate(argument: Any) -> _Predicate:
    """A condition, `{field: expected, …}`, or the name of a field that must be true."""
    if isinstance(argument, str):
        path = _field(argument)
        if argument.startswith("$"):
            raise ArgumentError(f"needs a field or a condition, not the reference {_shown(argument)}")
        return _Predicate(lambda scope: bool(_at(scope.item, path)), ())
    if not isinstance(argument, dict) or not argument:
        found = "an empty mapping" if argument == {} else type_name(argument)
        raise ArgumentError(f"needs a field, a mapping of fields and values, or a condition, not {found}")
    if _is_condition(argument):
        condition: Condition = compile_condition(argument, field_reference=_item_field)
        return _Predicate(condition.evaluate, _outer(condition.references))
    expected = [(_field(key), compile_template(item)) for key, item in argument.items()]

    def test(scope: _ItemScope) -> bool:
        return all(equal(_at(scope.item, path), template.resolve(scope)) for path, template in expected)

    return _Predicate(test, _outer(reference for _, template in expected for reference in template.references))


def _is_condition(argument: dict[str, Any]) -> bool:
    if "field" in argument and ("op" in argument or "value" in argument):
        return True
    return any(isinstance(argument.get(key), kind) for key, kind in (("all", list), ("any", list), ("not", dict)))


def _filter(name: str, *, keep: bool) -> Callable[[Any], Compiled]:
    def compile_operation(argument: Any) -> Compiled:
        test, references = _compile_predicate(argument)

        def step(value: Any, scope: Scope) -> list[Any]:
            inner = _ItemScope(scope)
            result = []
            for inner.index, inner.item in enumerate(_list(name, value)):
                if test(inner) is keep:
                    result.append(inner.item)
            return result

        return Compiled(step, references)

    return compile_operation


def _compile_count(argument: Any) -> Compiled:
    """The size of a list or mapping, or how many items meet a condition."""
    if argument is not None and argument is not True:
        select, references = _filter("count", keep=True)(argument)
        return Compiled(lambda value, scope: len(select(value, scope)), references)

    def step(value: Any, scope: Scope) -> int:
        if isinstance(value, (list, tuple, Mapping)):
            return len(value)
        _fail(f"'count' needs a list or a mapping, not {type_name(value)}")

    return Compiled(step)


# --- operations on lists --------------------------------------------------------------------------------------------


def _build_first(argument: Any) -> Callable[[Any], Any]:
    if argument is None or argument is True:
        return lambda value: next(iter(_list("first", value)), None)
    count = _count_argument(argument)
    return lambda value: list(_list("first", value)[:count])


def _build_last(argument: Any) -> Callable[[Any], Any]:
    if argument is None or argument is True:
        return lambda value: next(reversed(_list("last", value)), None)
    count = _count_argument(argument)
    return lambda value: list(_list("last", value)[-count:]) if count else list(_list("last", value)[:0])


def _build_flatten(argument: Any) -> Callable[[Any], Any]:
    depth = -1 if argument is None or argument is True else _count_argument(argument)

    def flatten(items: Iterable[Any], depth: int, result: list[Any]) -> list[Any]:
        for item in items:
            if depth != 0 and isinstance(item, (list, tuple)):
                flatten(item, depth - 1, result)
            else:
                result.append(item)
        return result

    return lambda value: flatten(_list("flatten", value), depth, [])


def _build_compact(argument: Any) -> Callable[[Any], Any]:
    _bare(argument)

    def compact(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: item for key, item in value.items() if item is not None}
        if isinstance(value, (list, tuple)):
            return [item for item in value if item is not None]
        _fail(f"'compact' needs a list or a mapping, not {type_name(value)}")

    return compact


def _identity(value: Any) -> Any:
    """A hashable stand-in: two values have the same one exactly if they are `equal`."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, (list, tuple)):
        return ("list", tuple(map(_identity, value)))
    if isinstance(value, Mapping):
        return ("mapping", frozenset((key, _identity(item)) for key, item in value.items()))
    return value


def _build_uniq(argument: Any) -> Callable[[Any], Any]:
    path = _optional_field(argument)

    def uniq(value: Any) -> list[Any]:
        firsts: dict[Any, Any] = {}
        for item in _list("uniq", value):
            firsts.setdefault(_identity(_at(item, path)), item)
        return list(firsts.values())

    return uniq


def _build_reverse(argument: Any) -> Callable[[Any], Any]:
    _bare(argument)
    return lambda value: list(reversed(_list("reverse", value)))


_ORDERS = {"asc": False, "desc": True}


def _build_sort(argument: Any) -> Callable[[Any], Any]:
    """`sort: field` or `sort: {by: field, order: desc}`. Equal items keep their order."""
    by: Any = argument
    order: Any = "asc"
    if isinstance(argument, Mapping):
        for key in argument:
            if key not in ("by", "order"):
                raise ArgumentError(f"unknown key {key!r}{hint(key, ['by', 'order'])}", (key,))
        by, order = argument.get("by"), argument.get("order", "asc")
    if not isinstance(order, str) or order not in _ORDERS:
        raise ArgumentError(f"order is asc or desc, not {_shown(order)}", ("order",))
    path, descending = _optional_field(by), _ORDERS[order]

    def sort(value: Any) -> list[Any]:
        items = _list("sort", value)
        keys = [_at(item, path) for item in items]
        _check_comparable("sort", keys)
        return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__, reverse=descending)]

    return sort


_SORTS = {int: "number", float: "number", str: "text", bool: "boolean"}


def _check_comparable(name: str, keys: list[Any]) -> None:
    """Numbers with numbers, text with text, booleans with booleans; nothing else has an order."""
    kinds = {type(key) for key in keys}
    if not kinds <= _SORTS.keys() or len({_SORTS[kind] for kind in kinds}) > 1:
        found = sorted({type_name(key) for key in keys})
        _fail(f"{name!r} cannot compare {' with '.join(found)}")


def _numbers(name: str, value: Any, path: tuple[str, ...]) -> list[Any]:
    numbers = [_at(item, path) for item in _list(name, value)]
    for index, number in enumerate(numbers):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            _fail(f"{name!r} needs numbers, not {type_name(number)} (item {index})")
    return numbers


def _total(name: str, numbers: list[Any]) -> int | float:
    """Integers add up to an integer, everything else to a float, added without piling up errors."""
    if all(isinstance(number, int) for number in numbers):
        total = sum(numbers)
        if MIN_INTEGER <= total <= MAX_INTEGER:
            return int(total)
        _fail(f"{name!r} goes beyond 64 bits")
    try:
        return math.fsum(numbers)
    except OverflowError:
        _fail(f"{name!r} goes beyond the largest number")


def _build_sum(argument: Any) -> Callable[[Any], Any]:
    path = _optional_field(argument)
    return lambda value: _total("sum", _numbers("sum", value, path))


def _build_avg(argument: Any) -> Callable[[Any], Any]:
    path = _optional_field(argument)

    def average(value: Any) -> float | None:
        from fractions import Fraction

        numbers = _numbers("avg", value, path)
        return float(sum(map(Fraction, numbers)) / len(numbers)) if numbers else None

    return average


def _extreme(name: str, choose: Callable[..., Any]) -> Callable[[Any], Compiled]:
    def build(argument: Any) -> Callable[[Any], Any]:
        path = _optional_field(argument)

        def extreme(value: Any) -> Any:
            keys = [_at(item, path) for item in _list(name, value)]
            _check_comparable(name, keys)
            return choose(keys, default=None)

        return extreme

    return _plain(name, build)


def _build_join(argument: Any) -> Callable[[Any], Any]:
    separator = "" if argument is None else argument
    if not isinstance(separator, str):
        raise ArgumentError(f"needs text to put between the items, not {type_name(argument)}")

    def join(value: Any) -> str:
        items = _list("join", value)
        room = TEXT_CEILING - len(separator) * len(items)
        texts = []
        for item in items:
            text = to_text(item)
            room -= len(text)
            if room < 0:
                _too_much_text("join")
            texts.append(text)
        return separator.join(texts)

    return join


def _build_zip(argument: Any) -> Callable[[Any], Any]:
    """Pairs with the items of another list; the shorter one is filled up with null."""
    if not isinstance(argument, (list, tuple)):
        raise ArgumentError(f"needs another list, not {type_name(argument)}")

    def pairs(value: Any) -> list[Any]:
        items = _list("zip", value)
        length = max(len(items), len(argument))
        return [
            [
                items[index] if index < len(items) else None,
                copy_value(argument[index]) if index < len(argument) else None,
            ]
            for index in range(length)
        ]

    return pairs


# --- operations that make or take mappings --------------------------------------------------------------------------


def _build_keys(argument: Any) -> Callable[[Any], Any]:
    _bare(argument)
    return lambda value: list(_mapping("keys", value))


def _build_values(argument: Any) -> Callable[[Any], Any]:
    _bare(argument)
    return lambda value: list(_mapping("values", value).values())


def _names(argument: Any) -> dict[str, None]:
    names = [argument] if isinstance(argument, str) else argument
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ArgumentError("needs a list of keys")
    return dict.fromkeys(names)


def _build_pick(argument: Any) -> Callable[[Any], Any]:
    names = _names(argument)

    def pick(value: Any) -> dict[str, Any]:
        mapping = _mapping("pick", value)
        return {name: mapping[name] for name in names if name in mapping}

    return pick


def _build_omit(argument: Any) -> Callable[[Any], Any]:
    names = _names(argument)
    return lambda value: {key: item for key, item in _mapping("omit", value).items() if key not in names}


def _build_merge(argument: Any) -> Callable[[Any], Any]:
    """A mapping, or a list of mappings, with others laid over it; later ones win."""
    others = [] if argument is None or argument is True else argument
    others = [others] if isinstance(others, Mapping) else others
    if not isinstance(others, (list, tuple)) or not all(isinstance(other, Mapping) for other in others):
        raise ArgumentError("needs a mapping or a list of mappings")

    def merge(value: Any) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for part in value if isinstance(value, (list, tuple)) else [value]:
            result.update(_mapping("merge", part))
        for other in others:
            result.update(copy_value(other))
        return result

    return merge


def _key_text(name: str, key: Any) -> str:
    """A key made from a value: text as it is, numbers, booleans and null as in JSON."""
    if isinstance(key, str):
        return key
    if key is None:
        return "null"
    if isinstance(key, (bool, int, float)):
        return to_text(key)
    _fail(f"{name!r} cannot make a key from {type_name(key)}")


def _build_group_by(argument: Any) -> Callable[[Any], Any]:
    path = _field(argument)

    def group(value: Any) -> dict[str, list[Any]]:
        groups: dict[str, list[Any]] = {}
        for item in _list("group_by", value):
            groups.setdefault(_key_text("group_by", _at(item, path)), []).append(item)
        return groups

    return group


def _build_to_object(argument: Any) -> Callable[[Any], Any]:
    """From pairs, or from items: `{key: id, value: name}`; else the whole item. Of equal keys the last wins."""
    if argument is None or argument is True:
        return lambda value: {_key_text("to_object", key): item for key, item in _pairs(value)}
    if isinstance(argument, str):
        argument = {"key": argument}
    if not isinstance(argument, Mapping) or "key" not in argument:
        raise ArgumentError("needs {key: field, value: field}")
    for key in argument:
        if key not in ("key", "value"):
            raise ArgumentError(f"unknown key {key!r}{hint(key, ['key', 'value'])}", (key,))
    key_path, value_path = _field(argument["key"]), _optional_field(argument.get("value"))

    def to_object(value: Any) -> dict[str, Any]:
        return {
            _key_text("to_object", _at(item, key_path)): _at(item, value_path) for item in _list("to_object", value)
        }

    return to_object


def _pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    for index, pair in enumerate(_list("to_object", value)):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            _fail(f"'to_object' needs pairs of key and value; item {index} is {type_name(pair)}")
        yield pair[0], pair[1]


OPERATIONS: dict[str, Callable[[Any], Compiled]] = {
    "map": _compile_map,
    "select": _filter("select", keep=True),
    "reject": _filter("reject", keep=False),
    "pluck": _plain("pluck", _build_pluck("pluck")),
    "first": _plain("first", _build_first),
    "last": _plain("last", _build_last),
    "flatten": _plain("flatten", _build_flatten),
    "compact": _plain("compact", _build_compact),
    "uniq": _plain("uniq", _build_uniq),
    "reverse": _plain("reverse", _build_reverse),
    "sort": _plain("sort", _build_sort),
    "count": _compile_count,
    "sum": _plain("sum", _build_sum),
    "keys": _plain("keys", _build_keys),
    "values": _plain("values", _build_values),
    "pick": _plain("pick", _build_pick),
    "omit": _plain("omit", _build_omit),
    "merge": _plain("merge", _build_merge),
    "group_by": _plain("group_by", _build_group_by),
    "join": _plain("join", _build_join),
    "min": _extreme("min", min),
    "max": _extreme("max", max),
    "avg": _plain("avg", _build_avg),
    "zip": _plain("zip", _build_zip),
    "to_object": _plain("to_object", _build_to_object),
}
"""Operation name → the function that compiles its argument."""

OPERATION_NAMES: tuple[str, ...] = tuple(OPERATIONS)
