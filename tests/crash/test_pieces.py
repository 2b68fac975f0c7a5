"""A step that does its work in pieces survives every fault: no piece that was done is done again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

import durable_flow as df
from durable_flow.testing import (
    CANCELS,
    ERRORS,
    KILLS,
    NETWORK,
    Explorer,
    FakeClock,
    Mode,
    Plan,
    Reply,
    Scenario,
    Scripted,
    answer,
)
from tests.engine.pieces import CREW


def flow(text: str) -> df.WorkflowDef:
    return df.load(f"id: crew\nname: Crew\nsteps:\n{text}", extensions=[CREW])


def model(clock: FakeClock) -> Mapping[str, Any]:
    return {"Model": Scripted(clock, ask=lambda given: len(given["said"]), tool=Reply(lambda given: given, takes=1.0))}


def flaky(clock: FakeClock) -> Mapping[str, Any]:
    def ask(given: Any) -> Any:
        return len(given["said"])

    def tool(given: Any) -> Any:
        if given["tool"] == 2:
            raise df.NonRetryableError("broken")
        return given

    return {"Model": Scripted(clock, ask=Reply(ask, fails=1), tool=Reply(tool, takes=1.0, fails=1))}


TWENTY = Scenario(
    name="twenty pieces",
    workflow=flow("- {id: support, type: crew, turns: 20, output: result}\n"),
    services=model,
    options={"extensions": [CREW]},
    beside=["tool"],
)
BESIDE = Scenario(
    name="pieces side by side",
    workflow=flow("- {id: support, type: crew, turns: 2, tools: 3, output: result}\n"),
    services=model,
    options={"extensions": [CREW]},
    beside=["tool"],
)
NESTED = Scenario(
    name="pieces in branches of iterations, with failures that are kept",
    workflow=flow("""
- id: each
  type: loop
  over: [1]
  output: result
  do:
    - id: both
      type: parallel
      output: done
      branches:
        - {id: one, type: crew, turns: 1, tools: 2, forgiving: true, retry: {max_attempts: 3, initial_interval: 3, jitter: 0}}
        - {id: two, do: [{id: nap, type: wait, for: 2s}, {id: other, type: crew, turns: 2,
            retry: {max_attempts: 3, initial_interval: 0.5, jitter: 0}}]}
"""),  # noqa: E501
    services=flaky,
    options={"extensions": [CREW]},
    beside=["tool"],
)
HALTS = Scenario(
    name="a piece about which a person is asked",
    workflow=flow(
        "- {id: support, type: crew, turns: 2, tools: 1, output: result, "
        "retry: {max_attempts: 1, on_exhausted: halt}}\n"
    ),
    services=flaky,
    moves={"turn(1)": answer(response=7), "turn(2)": answer(response=8)},
    options={"extensions": [CREW]},
    beside=["tool"],
)


CASES = [
    (scenario, modes)
    for scenario in (TWENTY, BESIDE, NESTED, HALTS)
    for modes in (KILLS, CANCELS, NETWORK, ERRORS)
    if (scenario, modes) != (HALTS, ERRORS)  # one more failure is one more question
]


@pytest.mark.parametrize(("scenario", "modes"), CASES, ids=[f"{one.name}, {modes[0]}" for one, modes in CASES])
def test_a_fault_at_any_point_makes_no_difference(scenario: Scenario, modes: tuple[Mode, ...]) -> None:
    with Explorer(scenario) as explorer:
        report = explorer.each(modes)
    report.raise_for_bad()
    assert report.sites <= report.covered
    assert report.cases > 20
    print(report)


def test_two_deaths_make_no_difference() -> None:
    chance = random.Random("two deaths")
    with Explorer(BESIDE) as explorer:
        for _ in range(150):
            first, second = (chance.choice(explorer.points).number for _ in range(2))
            explorer.play(Plan(({first: chance.choice(KILLS)}, {second: chance.choice(KILLS)})))
    explorer.report.raise_for_bad()
