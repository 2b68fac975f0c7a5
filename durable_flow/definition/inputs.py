"""Checks the input of an execution against what its workflow declares, before anything is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from durable_flow.errors import InputError, LimitExceeded, OutputError
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
