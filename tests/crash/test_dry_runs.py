"""A dry run is an execution like any other, which nothing makes a real one: whatever happens to its processes, it ends
as it would have, and nothing outside hears of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

import durable_flow as df
from durable_flow.testing import CANCELS, ERRORS, FILE, KILLS, MEMORY, NETWORK, Explorer, FakeClock, Scenario
from durable_flow.testing.oracle import judge
from durable_flow.testing.story import Story
from tests.reference import SCENARIOS


class Touched:
    """A service that must not be there."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        self.calls.append(method)
        raise AssertionError(f"a dry run called {method}")


def dry(scenario: Scenario, calls: list[str], **options: Any) -> Scenario:
    """The scenario as a dry run, in which everything that is asked takes note of it."""

    def note(name: str) -> Any:
        calls.append(name)

    def gates(clock: FakeClock) -> Mapping[str, Any]:
        return {"checks": lambda params, context: calls.append("checks")}

    return msgspec.structs.replace(
        scenario,
        dry_run=True,
        services=lambda clock: {},
        gates=gates,
        moves={},
        epilogue=None,
        later=None,
        retries=0,
        options={**scenario.options, "service_resolver": lambda name: Touched(calls), "secrets": note},
        **options,
    )


def judged(story: Story, reference: Story, scenario: Scenario) -> list[str]:
    """What is wrong, apart from the variables of branches of which some are enough: in a dry run all take no time."""
    found = judge(story, reference, scenario)
    return [problem for problem in found if not scenario.racing or not problem.startswith("O1 variables")]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_death_at_any_point_leaves_it_dry(scenario: Scenario) -> None:
    calls: list[str] = []
    explorer = Explorer(dry(scenario, calls), url=MEMORY, judge=judged)
    explorer.each(KILLS).raise_for_bad()
    assert explorer.report.covered == explorer.report.sites
    assert calls == []


@pytest.mark.parametrize("modes", [ERRORS, CANCELS, NETWORK], ids=["errors", "cancels", "network"])
@pytest.mark.parametrize("name", ["w03", "w05", "w30"])
def test_no_other_fault_makes_a_difference(name: str, modes: Any) -> None:
    calls: list[str] = []
    scenario = next(one for one in SCENARIOS if one.name == name)
    Explorer(dry(scenario, calls), url=MEMORY).each(modes).raise_for_bad()
    assert calls == []


def test_a_worker_that_takes_it_over_calls_nothing() -> None:
    calls: list[str] = []
    scenario = next(one for one in SCENARIOS if one.name == "w30")
    explorer = Explorer(dry(scenario, calls, worker=True, restart="background"), url=MEMORY)
    explorer.each(KILLS).raise_for_bad()
    assert calls == []


def test_deaths_on_a_file_make_no_difference() -> None:
    calls: list[str] = []
    explorer = Explorer(dry(SCENARIOS[0], calls), url=FILE)
    explorer.each(KILLS).raise_for_bad()
    assert explorer.reference.result is not None
    assert (explorer.reference.result.dry_run, calls) == (True, [])
    assert explorer.reference.result.status in (df.Status.COMPLETED, df.Status.FAILED)
