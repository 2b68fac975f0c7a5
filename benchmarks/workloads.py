"""The workflows that are run, and their services."""

from __future__ import annotations

import secrets
from itertools import pairwise
from typing import Any

STEPS = 10
"""Steps of the sequential workload."""

VALUE_BYTES = 1024

NOOP: dict[str, Any] = {"type": "call", "service": "work", "method": "noop"}


async def noop() -> None:
    return None


async def echo(value: Any) -> Any:
    return value


async def kilobyte() -> str:
    """Text that does not compress: a store that compresses would hide what is written."""
    return secrets.token_hex(VALUE_BYTES // 2)


def _document(name: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    for step, after in pairwise(steps):
        step["next"] = after["id"]
    return {"id": name, "name": name, "steps": steps}


def calls(steps: int) -> dict[str, Any]:
    """Calls of a service that does nothing, one after the other."""
    return _document(f"calls-{steps}", [{"id": f"s{i}"} | NOOP for i in range(steps)])


def values(steps: int) -> dict[str, Any]:
    """Calls that take the result of the one before and set a variable."""
    call = {"type": "call", "service": "work", "method": "echo", "input": {"value": "$v"}, "output": "v"}
    first = {"id": "first", "type": "assign", "set": {"v": {"n": 1, "text": "a value"}}}
    return _document(f"values-{steps}", [first, *({"id": f"s{i}"} | call for i in range(steps))])


def assigns(steps: int) -> dict[str, Any]:
    """Steps that only set a variable: they share commits."""
    return _document(f"assigns-{steps}", [{"id": f"s{i}", "type": "assign", "set": {"v": i}} for i in range(steps)])


def fan_out(branches: int) -> dict[str, Any]:
    """Branches side by side, each a call of a service that does nothing."""
    found = [{"id": f"b{i}"} | NOOP for i in range(branches)]
    return _document(f"fan-{branches}", [{"id": "fan", "type": "parallel", "branches": found}])


BRANCHES = 3
"""Branches of a workflow that fetches."""


def fetches() -> dict[str, Any]:
    """Branches that each fetch a page, and a result made of them."""
    call = {"type": "call", "service": "work", "method": "fetch", "input": {"url": "$input.url"}}
    found = [{"id": f"b{i}", "output": f"page{i}"} | call for i in range(BRANCHES)]
    result = {"type": "end", "result": [f"$page{i}" for i in range(BRANCHES)]}
    return _document("fetches", [{"id": "fetch", "type": "parallel", "branches": found}, {"id": "over"} | result])


def growth(steps: int) -> dict[str, Any]:
    """Steps that each add a kilobyte to the variables."""
    call = {"type": "call", "service": "work", "method": "kilobyte"}
    return _document(f"growth-{steps}", [{"id": f"s{i}", "output": f"v{i}"} | call for i in range(steps)])


def timer() -> dict[str, Any]:
    """A step that waits for a time."""
    return _document("timer", [{"id": "wait", "type": "wait", "until": "$input.until"}])


def approval() -> dict[str, Any]:
    """A step, a question to a person, a step."""
    return _document(
        "approval",
        [
            {"id": "before"} | NOOP,
            {"id": "ask", "type": "approval", "prompt": "Go on?"},
            {"id": "after"} | NOOP,
        ],
    )
