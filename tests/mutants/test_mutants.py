"""Every planted bug is found, and the engine without them has none in the same places."""

import logging

import pytest

from durable_flow.testing import ERRORS, KILLS, Explorer, Report, Scenario
from tests.mutants.plant import AGAIN, ASK, FORK, LINE, MUTANTS, ROUND


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "durable_flow")


def explored(scenario: Scenario, *, guard: bool = True) -> Report:
    """One fault at every point, until one case is bad."""
    exploring = Explorer(scenario, guard=guard)
    return exploring.report if exploring.report.bad else exploring.each((*KILLS, *ERRORS), most=1)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, scenario = MUTANTS[name]
    plant(monkeypatch)
    # A process that writes after its death is only seen if the harness lets it.
    assert explored(scenario, guard=name != "a_dying_process_writes_failed").bad


@pytest.mark.parametrize("scenario", [LINE, FORK, ROUND, ASK, AGAIN], ids=lambda scenario: scenario.name)
def test_nothing_is_found_where_no_bug_is_planted(scenario: Scenario) -> None:
    explored(scenario).raise_for_bad()
