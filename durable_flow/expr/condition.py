"""Conditions: `{field, op, value}`, and `all`, `any`, `not` of them, compiled to one function.

A condition never guesses: where an operator has no meaning for the two types it meets, the step fails and says so,
instead of going on as if the answer were no.
"""

from __future__ import annotations

import datetime
import decimal
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec

from durable_flow.errors import StepError
from durable_flow.expr.reference import (
    Reference,
    ReferenceSyntaxError,
    Scope,
    Template,
    compile_reference,
    compile_template,
    lookup_of,
    to_text,
)
from durable_flow.model.value import type_name

SUBJECT_LIMIT = 64 * 1024
"""The longest text, in characters, that `matches` searches."""

Evaluate = Callable[[Scope], bool]
Problems = list[tuple[tuple[str | int, ...], str]]
Path = tuple[str | int, ...]


class ConditionProblems(ValueError):
    """Everything wrong with a condition. `.problems` are pairs of (path inside the condition, message)."""

    def __init__(self, problems: Problems, *, where: str = "") -> None:
        self.problems = problems
        prefix = f"{where}: " if where else ""
        super().__init__("\n".join(prefix + message for _, message in problems))


class Condition(msgspec.Struct, frozen=True, eq=False):
    """A compiled condition. `evaluate(scope)` is its answer, or a `StepError` where it has none."""

    source: Any
    references: tuple[Reference, ...]
    evaluate: Evaluate


def compile_condition(
    raw: Any, where: str = "", *, field_reference: Callable[[str], Reference] = compile_reference
) -> Condition:
    """Compiles a condition; raises `ConditionProblems` with everything that is wrong in it.

    `where` comes before each message. `field_reference` says what a `field` means: a variable path, unless a caller
    has another idea.

    >>> from durable_flow.expr.reference import MISSING
    >>> class Variables(dict):
    ...     def lookup(self, root):
    ...         return self.get(root, MISSING)
    >>> raw = {"all": [{"field": "n", "op": "gt", "value": 3}, {"field": "$on", "value": True}]}
    >>> condition = compile_condition(raw)
    >>> condition.evaluate(Variables(n=4, on=True))
    True
    >>> try:
    ...     compile_condition({"field": "n", "op": "gtt", "value": 3})
    ... except ConditionProblems as error:
    ...     error.problems
    [(('op',), "unknown operator 'gtt', did you mean 'gt'?")]
    """
    compiler = _Compiler(field_reference)
    evaluate = compiler.condition(raw, ())
    if compiler.problems:
        raise ConditionProblems(compiler.problems, where=where)
    return Condition(raw, tuple(compiler.references), evaluate)


class _Compiler:
    """One pass over a raw condition, collecting problems and references on the way."""

    def __init__(self, field_reference: Callable[[str], Reference]) -> None:
        self.problems: Problems = []
        self.references: list[Reference] = []
        self.field_reference = field_reference

    def problem(self, path: Path, message: str) -> Evaluate:
        self.problems.append((path, message))
        return _never

    def condition(self, raw: Any, path: Path) -> Evaluate:
        if not isinstance(raw, dict):
            return self.problem(
                path, f"a condition is a mapping such as {{field: x, op: eq, value: 1}}, not {type_name(raw)}"
            )
        for key, compose in _COMPOSERS.items():
            if key in raw:
                for other in raw:
                    if other != key:
                        self.problem((*path, other), f"{other!r} cannot stand next to {key!r}")
                return compose(self, raw[key], (*path, key))
        return self.comparison(raw, path)

    def group(self, raw: Any, path: Path) -> list[Evaluate]:
        if not isinstance(raw, list) or not raw:
            found = "an empty list" if raw == [] else type_name(raw)
            self.problem(path, f"{path[-1]!r} needs a list of conditions, not {found}")
            return []
        return [self.condition(item, (*path, index)) for index, item in enumerate(raw)]

    def every(self, raw: Any, path: Path) -> Evaluate:
        parts = self.group(raw, path)

        def evaluate(scope: Scope) -> bool:
            return all(part(scope) for part in parts)

        return evaluate

    def some(self, raw: Any, path: Path) -> Evaluate:
        parts = self.group(raw, path)

        def evaluate(scope: Scope) -> bool:
            return any(part(scope) for part in parts)

        return evaluate

    def negation(self, raw: Any, path: Path) -> Evaluate:
        part = self.condition(raw, path)
        return lambda scope: not part(scope)

    def comparison(self, raw: dict[str, Any], path: Path) -> Evaluate:
        for key in raw:
            if key not in _KEYS:
                self.problem((*path, key), f"unknown key {key!r}{hint(key, _ALL_KEYS)}")
        field = self.field(raw, path)
        op = raw.get("op", "eq")
        unary = _UNARY.get(op) if isinstance(op, str) else None
        if unary is not None:
            # `value: true` is how some people say "yes, it exists"; anything else would be silently ignored.
            if raw.get("value") is not None and raw["value"] is not True:
                self.problem((*path, "value"), f"{op!r} takes no value")
            return lambda scope: unary(field(scope))
        binary = _BINARY.get(op) if isinstance(op, str) else None
        if binary is None:
            named = repr(op) if isinstance(op, str) else type_name(op)
            self.problem((*path, "op"), f"unknown operator {named}{_operator_hint(op)}")
        if "value" not in raw:
            return self.problem(path, f"missing key 'value', which {op!r} compares with") if binary else _never
        value = self.value(raw["value"], (*path, "value"))
        if binary is None:
            return _never
        if op == "matches":
            return self.search(field, value, (*path, "value"))
        return _compare(binary, field, value)

    def field(self, raw: dict[str, Any], path: Path) -> Callable[[Scope], Any]:
        text = raw.get("field")
        if "field" not in raw:
            self.problem(path, f"missing key 'field'{_composer_hint(raw)}")
        elif not isinstance(text, str):
            self.problem((*path, "field"), f"'field' is a path such as order.total, not {type_name(text)}")
        else:
            try:
                reference = self.field_reference(text)
            except ReferenceSyntaxError as error:
                self.problem((*path, "field"), str(error))
            else:
                self.references.append(reference)
                return lookup_of(reference)
        return _never

    def value(self, raw: Any, path: Path) -> Template:
        try:
            template = compile_template(raw)
        except ReferenceSyntaxError as error:
            self.problem(path, str(error))
            return compile_template(None)
        self.references.extend(template.references)
        return template

    def search(self, field: Callable[[Scope], Any], value: Template, path: Path) -> Evaluate:
        resolve_pattern = value.resolve
        if not value.constant:
            return lambda scope: _matches(field(scope), _pattern(resolve_pattern(scope)))
        pattern = resolve_pattern(_EMPTY)
        if not isinstance(pattern, str):
            return self.problem(path, f"a pattern is text, not {type_name(pattern)}")
        try:
            compiled = compile_pattern(pattern)
        except ValueError as error:
            return self.problem(path, str(error))
        return lambda scope: _matches(field(scope), compiled)


class _Empty:
    def lookup(self, root: str) -> Any:
        raise AssertionError(f"a constant looked up {root!r}")


_EMPTY = _Empty()


def _never(scope: Scope) -> bool:
    raise AssertionError("a condition with problems was evaluated")


def _compare(compare: Callable[[Any, Any], bool], field: Callable[[Scope], Any], value: Template) -> Evaluate:
    resolve_value = value.resolve
    if not value.constant:
        return lambda scope: compare(field(scope), resolve_value(scope))
    # Comparing changes nothing, so all evaluations can share one copy.
    constant = resolve_value(_EMPTY)
    if compare in _LIST_SEARCHES and isinstance(constant, list):
        return _search_constant(field, constant, found=_LIST_SEARCHES[compare])
    return lambda scope: compare(field(scope), constant)


def _search_constant(field: Callable[[Scope], Any], items: list[Any], *, found: bool) -> Evaluate:
    """`in` and `not_in` for a list written in the definition: text is looked up, not searched for."""
    texts = frozenset(item for item in items if type(item) is str)

    def evaluate(scope: Scope) -> bool:
        subject = field(scope)
        known = subject in texts if type(subject) is str else any(equal(subject, item) for item in items)
        return known is found

    return evaluate


def hint(written: Any, known: tuple[str, ...] | list[str]) -> str:
    """`, did you mean 'x'?` if something known is near, else nothing.

    >>> hint("feild", ["field", "op"])
    ", did you mean 'field'?"
    """
    import difflib

    near = difflib.get_close_matches(str(written)[:80].lower(), known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _operator_hint(op: Any) -> str:
    near = f", did you mean {_SIGNS[op]!r}?" if isinstance(op, str) and op in _SIGNS else hint(op, OPERATORS)
    return near or f"; there are: {', '.join(OPERATORS)}"


def _composer_hint(raw: dict[str, Any]) -> str:
    near = [key for key in raw if key in OPERATORS]
    return f"; write {{field: …, op: {near[0]}, value: …}}" if near else ""


# --- equality and order ---------------------------------------------------------------------------------------------


def equal(left: Any, right: Any) -> bool:
    """Equality without conversion, at any depth: 1 equals 1.0, but neither equals true nor the text "1".

    >>> equal([1, {"a": 2}], [1.0, {"a": 2}]), equal(1, True), equal([1], [True]), equal(1, "1")
    (True, False, False, False)
    """
    kind = type(left)
    if kind is type(right) and kind in _SCALARS:
        return bool(left == right)
    if kind is bool or type(right) is bool:
        return False
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return left == right
    if isinstance(left, (list, tuple)):
        return (
            isinstance(right, (list, tuple))
            and len(left) == len(right)
            and all(equal(one, other) for one, other in zip(left, right, strict=True))
        )
    if isinstance(left, Mapping):
        return (
            isinstance(right, Mapping)
            and len(left) == len(right)
            and all(key in right and equal(item, right[key]) for key, item in left.items())
        )
    # A time is the text it will be once it is stored.
    if isinstance(left, datetime.datetime) and isinstance(right, (str, datetime.datetime)):
        return to_text(left) == to_text(right)
    if isinstance(right, datetime.datetime) and isinstance(left, str):
        return left == to_text(right)
    return bool(left == right)


_SCALARS = frozenset((str, int, float, bool, type(None)))
_NUMBERS = frozenset((int, float))
_NUMERIC_TEXT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE](?P<exponent>[+-]?[0-9]+))?")


def _ordering(name: str, compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def ordered(left: Any, right: Any) -> bool:
        kind, other = type(left), type(right)
        if (kind in _NUMBERS and other in _NUMBERS) or (kind is str and other is str):
            return compare(left, right)
        first, second = _comparable(name, left, right)
        return compare(first, second)

    return ordered


def _comparable(op: str, left: Any, right: Any) -> tuple[Any, Any]:
    """Both sides as things Python orders exactly; a `StepError` if there is no order between them."""
    first: Any = None
    second: Any = None
    if type(left) is str and type(right) in _NUMBERS:
        first, second = _number(left), right
    elif type(right) is str and type(left) in _NUMBERS:
        first, second = left, _number(right)
    elif isinstance(left, datetime.datetime) or isinstance(right, datetime.datetime):
        first, second = _moment(left), _moment(right)
    if first is None or second is None:
        _refuse(op, left, right)
    return first, second


def _number(text: str) -> decimal.Decimal | None:
    match = _NUMERIC_TEXT.fullmatch(text)
    if match is None:
        return None
    exponent = match["exponent"]
    if exponent and len(exponent.lstrip("+-0")) > 15:
        # Beyond what Decimal holds: as good as endless, or as good as nothing but its sign.
        mantissa = text[: match.start("exponent") - 1]
        if not mantissa.strip("+-.0"):
            return decimal.Decimal(0)
        limit = "-999999999" if exponent.startswith("-") else "999999999"
        return decimal.Decimal(("-" if text.startswith("-") else "") + "1e" + limit)
    return decimal.Decimal(text)


def _moment(value: Any) -> datetime.datetime | None:
    if isinstance(value, datetime.datetime):
        return value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
    try:
        return _moment(msgspec.convert(value, datetime.datetime)) if isinstance(value, str) else None
    except msgspec.ValidationError:
        return None


def _error(message: str) -> StepError:
    return StepError(message, kind="ConditionError")


def _refuse(op: str, left: Any, right: Any) -> NoReturn:
    note = (
        " (the text is not a number)"
        if {type(left), type(right)} in ({str, int}, {str, float}) and op in _ORDER
        else ""
    )
    raise _error(f"{op!r} has no meaning between {type_name(left)} and {type_name(right)}{note}")


# --- the other operators --------------------------------------------------------------------------------------------


def _not_equal(left: Any, right: Any) -> bool:
    return not equal(left, right)


def _in(left: Any, right: Any) -> bool:
    if not isinstance(right, (list, tuple)):
        raise _error(f"'in' needs a list on the right, not {type_name(right)}")
    return any(equal(left, item) for item in right)


def _not_in(left: Any, right: Any) -> bool:
    if not isinstance(right, (list, tuple)):
        raise _error(f"'not_in' needs a list on the right, not {type_name(right)}")
    return not any(equal(left, item) for item in right)


def _contains(left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return right in left
    if isinstance(left, (list, tuple)):
        return any(equal(item, right) for item in left)
    if isinstance(left, Mapping):
        return isinstance(right, str) and right in left
    _refuse("contains", left, right)


def _starts_with(left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return left.startswith(right)
    _refuse("starts_with", left, right)


def _ends_with(left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return left.endswith(right)
    _refuse("ends_with", left, right)


def _exists(value: Any) -> bool:
    return value is not None


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and not value)


def compile_pattern(pattern: str) -> Any:
    """The RE2 program of a pattern; `ValueError` for what RE2 does not know (look-around, back-references).

    RE2 searches in time linear in the text, so patterns and texts from strangers are safe.
    """
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0] if error.args else error
        if isinstance(reason, bytes):
            reason = reason.decode("utf-8", "replace")
        shown = pattern if len(pattern) <= 80 else pattern[:77] + "..."
        raise ValueError(f"bad pattern {shown!r}: {str(reason)[:200]}") from None


def _pattern(pattern: Any) -> Any:
    if not isinstance(pattern, str):
        raise _error(f"'matches' needs a pattern that is text, not {type_name(pattern)}")
    try:
        return compile_pattern(pattern)
    except ValueError as error:
        raise _error(str(error)) from None


def _matches(subject: Any, compiled: Any) -> bool:
    if not isinstance(subject, str):
        raise _error(f"'matches' searches text, not {type_name(subject)}")
    if len(subject) > SUBJECT_LIMIT:
        raise _error(f"'matches' searches at most {SUBJECT_LIMIT:,} characters, not {len(subject):,}")
    return compiled.search(subject) is not None


_COMPOSERS: dict[str, Callable[[_Compiler, Any, Path], Evaluate]] = {
    "all": _Compiler.every,
    "any": _Compiler.some,
    "not": _Compiler.negation,
}

_BINARY: dict[str, Callable[[Any, Any], bool]] = {
    "eq": equal,
    "neq": _not_equal,
    "gt": _ordering("gt", operator.gt),
    "gte": _ordering("gte", operator.ge),
    "lt": _ordering("lt", operator.lt),
    "lte": _ordering("lte", operator.le),
    "in": _in,
    "not_in": _not_in,
    "contains": _contains,
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "matches": lambda left, right: _matches(left, _pattern(right)),
}

_LIST_SEARCHES = {_in: True, _not_in: False}

_ORDER = ("gt", "gte", "lt", "lte")

_UNARY: dict[str, Callable[[Any], bool]] = {
    "exists": _exists,
    "empty": _empty,
    "truthy": bool,
    "falsy": operator.not_,
}

OPERATORS: tuple[str, ...] = (*_BINARY, *_UNARY)
"""Every `op`, in the order of the manual."""

_SIGNS = {"=": "eq", "==": "eq", "!=": "neq", "<>": "neq", ">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}

_KEYS = frozenset(("field", "op", "value"))
_ALL_KEYS = ("field", "op", "value", "all", "any", "not")
