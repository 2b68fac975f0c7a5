"""Every mistake that shows only between two processes is found, by a rule it breaks, in few schedules."""

import logging

import pytest

from tests.crash.matches import BY_NAME
from tests.mutants.rivals import RIVALS, Rival


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "durable_flow")


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_a_planted_mistake_is_found(rival: Rival) -> None:
    with BY_NAME[rival.match].interleaver() as interleaver, rival.plant():
        for seed in range(rival.within):
            played = interleaver.sown(seed)
            if rival.rules & {problem.split()[0] for problem in played.problems}:
                break
        else:
            raise AssertionError(f"{rival.told}: not found in {rival.within} schedules")
    with BY_NAME[rival.match].interleaver() as interleaver:
        assert interleaver.play(played.schedule).problems == [], "it is found without the mistake, too"


def test_what_is_found_gets_smaller_and_stays_bad() -> None:
    (rival,) = (rival for rival in RIVALS if rival.name == "R2")
    with BY_NAME[rival.match].interleaver() as interleaver, rival.plant():
        interleaver.seeds(range(rival.within), most=1)
        (failure,) = interleaver.tally.bad
        smallest = interleaver.smallest(failure)
        assert len(smallest.schedule) < len(failure.schedule)
        assert interleaver.play(smallest.schedule).problems == smallest.problems
        assert f"schedule: {smallest.schedule}" in str(smallest)
