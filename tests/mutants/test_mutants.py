"""Every planted mistake is found, by a rule it breaks."""

import logging

import pytest

from durable_flow.testing import Explorer, Report
from tests.crash.suite import BY_NAME
from tests.mutants import MUTANTS, Mutant


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "durable_flow")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_mistake_is_found(mutant: Mutant) -> None:
    report = Report()
    with mutant.plant():
        for name in mutant.scenarios:
            report.add(Explorer(BY_NAME[name], guard=mutant.guard).each(mutant.modes))
    broken = {problem.split()[0] for case in report.bad for problem in case.problems}
    assert mutant.rules & broken


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_without_it_nothing_is_found(mutant: Mutant) -> None:
    for name in mutant.scenarios:
        Explorer(BY_NAME[name]).each(mutant.modes).raise_for_bad()
