"""Checks the input of an execution against what its workflow declares, before anything is stored."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec

from durable_flow.errors import InputError, LimitExceeded, OutputError
from durable_flow.expr.reference import MISSING, to_text
from durable_flow.expr.schema import check_type, compile_schema
from durable_flow.limits import Limits
from durable_flow.model.problem import suggest
from durable_flow.model.value import copy_value, format_path, normalise, type_name
from durable_flow.model.workflow import InputDef, WorkflowDef


def check_input(workflow: WorkflowDef, given: Any, *, limits: Limits | None = None) -> dict[str, Any]:
    """The input as the workflow sees it: normalised, with defaults. Inputs it does not declare are passed through.

    Raises InputError, which lists everything that is wrong, and LimitExceeded for what is too large or too deep.
    """
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise InputError([f"the input must be a mapping of names to values, got {type_name(given)}"])
    values, problems = _normal(given, limits or Limits())
    for declared in workflow.inputs:
        if declared.name in values:
            problems.extend(_problems(declared, values[declared.name]))
        elif declared.default is not msgspec.UNSET and declared.name not in given:
            values[declared.name] = copy_value(declared.default)
        elif declared.required and declared.name not in given:
            problems.append(_missing(declared, values, workflow))
    if problems:
        raise InputError(problems)
    return values


LONGEST_KEY = 200
"""A concurrency key of more characters is kept as its hash."""


class _Input:
    """What a concurrency key can read."""

    __slots__ = ("values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def lookup(self, root: str) -> Any:
        return self.values if root == "input" else MISSING


def concurrency_key(workflow: WorkflowDef, values: Mapping[str, Any], *, hidden: bool = False) -> str | None:
    """The concurrency key of an execution with this checked input; None where its workflow has none.

    It is the hash of what its template says where that is long, has a `secret` input in it, or is to be `hidden`.
    Raises InputError where what it is to be made of is missing, null or empty.
    """
    if workflow.concurrency is None:
        return None
    template, scope = workflow.concurrency.key, _Input(values)
    missing = [reference.text for reference in template.references if reference.resolve(scope) is None]
    if missing:
        raise InputError([f"concurrency.key needs {text}, which is missing or null" for text in missing])
    key = to_text(template.resolve(scope))
    if not key.strip():
        raise InputError([f"concurrency.key {template.source!r} is empty"])
    secret = any(not reference.path or reference.path[0] in workflow.secrets for reference in template.references)
    return key_text(key, hidden=hidden or (secret and bool(workflow.secrets)), within=workflow.id)


def key_text(key: str, *, hidden: bool, within: str) -> str:
    """A key as it is kept: itself, or its hash."""
    if not hidden and len(key) <= LONGEST_KEY and key.isprintable():
        return key
    return f"sha256:{sha256(f'{within} {key}'.encode()).hexdigest()}"


def _normal(given: Mapping[Any, Any], limits: Limits) -> tuple[dict[str, Any], list[str]]:
    """The input as storable values. Where it is not one, every name that is at fault is told."""
    try:
        values: dict[str, Any] = normalise(dict(given), limits=limits, what="input")
        return values, []
    except OutputError:
        return _normal_one_by_one(given, limits)


def _normal_one_by_one(given: Mapping[Any, Any], limits: Limits) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in given.items():
        try:
            values.update(normalise({name: value}, limits=limits, what="input"))
        except OutputError as error:
            problems.append(f"{error.path.replace('$', 'input', 1)}: {error.reason}")
        except LimitExceeded as error:
            problems.append(f"input: {error}")
    return values, problems


def _place(name: str) -> str:
    return format_path([name]).replace("$", "input", 1)


def _problems(declared: InputDef, value: Any) -> list[str]:
    place = _place(declared.name)
    if not check_type(value, declared.type):
        return [f"{place}: expected {declared.type}, got {type_name(value)}"]
    if declared.schema is None:
        return []
    found = compile_schema(declared.schema).problems(value, mask=declared.secret)
    return [place + problem.removeprefix("$") for problem in found]


def _missing(declared: InputDef, values: Mapping[str, Any], workflow: WorkflowDef) -> str:
    known = {other.name for other in workflow.inputs}
    strange = [name for name in values if name not in known]
    near = next((name for name in strange if suggest(name, [declared.name])), None)
    hint = "" if near is None else f" (did you mean {declared.name!r} where you wrote {near!r}?)"
    return f"{_place(declared.name)}: is required{hint}"
