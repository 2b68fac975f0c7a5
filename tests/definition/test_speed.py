"""Validation takes work in proportion to the document, whatever its shape.

Work is counted in function calls, which is the same on every machine; the seconds are in `make bench`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from durable_flow.definition.parser import draft
from durable_flow.definition.validator import examine

Steps = list[dict[str, Any]]
FEW, MANY = 500, 4_000


def chain(count: int) -> Steps:
    found: Steps = [
        {"id": f"s{n}", "type": "call", "service": "a", "method": "b", "input": f"$v{n - 1}" if n else 1,
         "output": f"v{n}", "on_error": "handler", "next": f"s{n + 1}"}
        for n in range(count)
    ]  # fmt: skip
    return [*found, {"id": f"s{count}", "type": "end"}, {"id": "handler", "type": "end", "result": "$_last_error"}]


def diamonds(count: int) -> Steps:
    found: Steps = []
    for n in range(count // 4):
        found += [
            {"id": f"r{n}", "type": "router", "routes": [{"when": {"field": "input.x", "value": n}, "then": f"a{n}"}],
             "default": f"b{n}"},
            {"id": f"a{n}", "type": "assign", "set": {f"x{n}": 1}, "next": f"j{n}"},
            {"id": f"b{n}", "type": "assign", "set": {f"x{n}": 2, f"y{n}": 2}, "next": f"j{n}"},
            {"id": f"j{n}", "type": "assign", "set": {f"z{n}": f"$x{n}"}, "next": f"r{n + 1}"},
        ]  # fmt: skip
    return [*found, {"id": f"r{count // 4}", "type": "end"}]


def jumps(count: int) -> Steps:
    """Every step may go back, or ahead, to another one far away."""
    found: Steps = [
        {"id": f"s{n}", "type": "router", "default": f"s{n + 1}",
         "routes": [{"when": {"field": "input.x", "value": n}, "then": f"s{n * 7_919 % count}"}]}
        for n in range(count)
    ]  # fmt: skip
    return [*found, {"id": f"s{count}", "type": "end"}]


def nested(count: int) -> Steps:
    return [
        {"id": f"l{n}", "type": "loop", "over": [1], "next": f"l{n + 1}", "do": [
            {"id": f"m{n}", "type": "loop", "over": "$item", "do": [
                {"id": f"a{n}", "type": "assign", "set": {f"v{n}": "$item"}},
                {"id": f"b{n}", "type": "assign", "set": {f"w{n}": f"$v{n}"}},
            ]},
        ]}
        for n in range(count // 4)
    ] + [{"id": f"l{count // 4}", "type": "end"}]  # fmt: skip


def mistakes(count: int) -> Steps:
    return [{"id": f"s{n}", "type": "assign", "set": {"x": f"$w{n}"}, "next": f"q{n}"} for n in range(count)]


def work(steps: Steps) -> int:
    """How many functions are called to validate these steps."""
    read = draft({"id": "w", "name": "W", "steps": steps})
    assert read.workflow is not None
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        examine(read.workflow, draft=read)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("shape", [chain, diamonds, jumps, nested, mistakes])
def test_validation_takes_work_in_proportion_to_the_steps(shape: Callable[[int], Steps]) -> None:
    assert work(shape(MANY)) <= 1.25 * MANY / FEW * work(shape(FEW))
