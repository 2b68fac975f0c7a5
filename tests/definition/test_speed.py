"""Validation takes time in proportion to the document, whatever its shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from durable_flow.definition.loading import load
from durable_flow.definition.parser import draft
from durable_flow.definition.validator import examine
from durable_flow.errors import ValidationError

Steps = list[dict[str, Any]]
COUNT = 10_000


def chain() -> Steps:
    found: Steps = [
        {"id": f"s{n}", "type": "call", "service": "a", "method": "b", "input": f"$v{n - 1}" if n else 1,
         "output": f"v{n}", "on_error": "handler", "next": f"s{n + 1}"}
        for n in range(COUNT)
    ]  # fmt: skip
    return [*found, {"id": f"s{COUNT}", "type": "end"}, {"id": "handler", "type": "end", "result": "$_last_error"}]


def diamonds() -> Steps:
    found: Steps = []
    for n in range(COUNT // 4):
        found += [
            {"id": f"r{n}", "type": "router", "routes": [{"when": {"field": "input.x", "value": n}, "then": f"a{n}"}],
             "default": f"b{n}"},
            {"id": f"a{n}", "type": "assign", "set": {f"x{n}": 1}, "next": f"j{n}"},
            {"id": f"b{n}", "type": "assign", "set": {f"x{n}": 2, f"y{n}": 2}, "next": f"j{n}"},
            {"id": f"j{n}", "type": "assign", "set": {f"z{n}": f"$x{n}"}, "next": f"r{n + 1}"},
        ]  # fmt: skip
    return [*found, {"id": f"r{COUNT // 4}", "type": "end"}]


def jumps() -> Steps:
    """Every step may go back, or ahead, to another one far away."""
    found: Steps = [
        {"id": f"s{n}", "type": "router", "default": f"s{n + 1}",
         "routes": [{"when": {"field": "input.x", "value": n}, "then": f"s{n * 7_919 % COUNT}"}]}
        for n in range(COUNT)
    ]  # fmt: skip
    return [*found, {"id": f"s{COUNT}", "type": "end"}]


def nested() -> Steps:
    def body(depth: int, name: str) -> Steps:
        if depth == 0:
            return [{"id": f"{name}_{n}", "type": "assign", "set": {f"v{name}_{n}": "$item"}} for n in range(10)]
        return [{"id": f"{name}_{n}", "type": "loop", "over": [1], "do": body(depth - 1, f"{name}{n}")} for n in "abc"]

    return [{"id": "top", "type": "loop", "over": [1], "do": body(6, "k")}]


@pytest.mark.parametrize("shape", [chain, diamonds, jumps, nested])
def test_ten_thousand_steps_are_validated_in_under_a_second(shape: Callable[[], Steps]) -> None:
    read = draft({"id": "w", "name": "W", "steps": shape()})
    assert read.workflow is not None
    taken = []
    for _ in range(3):  # the machine may be busy with something else
        begun = time.process_time()
        assert examine(read.workflow, draft=read).problems == []
        taken.append(time.process_time() - begun)
    assert min(taken) < 1.0


def test_ten_thousand_mistakes_are_told_quickly() -> None:
    steps = [{"id": f"s{n}", "type": "assign", "set": {"x": f"$w{n}"}, "next": f"q{n}"} for n in range(COUNT)]
    begun = time.process_time()
    with pytest.raises(ValidationError):
        load({"id": "w", "name": "W", "steps": steps})
    assert time.process_time() - begun < 5.0


def test_a_diamond_more_costs_as_much_as_the_one_before() -> None:
    def cost(count: int) -> float:
        found = diamonds()[: 4 * count]
        read = draft({"id": "w", "name": "W", "steps": [*found, {"id": f"r{count}", "type": "end"}]})
        assert read.workflow is not None
        taken = []
        for _ in range(3):
            begun = time.process_time()
            assert examine(read.workflow, draft=read).problems == []
            taken.append(time.process_time() - begun)
        return min(taken)

    assert cost(1_000) < 20 * cost(125)
