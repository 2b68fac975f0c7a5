"""The short form of the crash harness; `python -m tests.crash` plays all of it."""

import os
from typing import Any

import pytest

from durable_flow.testing import Explorer, Plan
from tests.crash.suite import BY_NAME, STORES, Job, exploring, once_bad, play, short


@pytest.mark.parametrize("job", list(once_bad()), ids=lambda job: f"{job.scenario}-{job.store}-{job.plan}")
def test_what_was_bad_once_is_good(job: Job, places: Any) -> None:
    play(job, places(job.store)).raise_for_bad()


@pytest.mark.parametrize(
    "job", list(short()), ids=lambda job: f"{job.test}-{job.scenario}-{job.store}-{job.what}-{job.modes[0]}"
)
def test_faults_make_no_difference(job: Job, places: Any) -> None:
    report = play(job, places(job.store))
    report.raise_for_bad()
    assert report.sites <= report.covered


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("name", BY_NAME)
def test_the_same_plan_gives_the_same_trace(name: str, store: str, places: Any) -> None:
    """Also where threads and servers take as long as they like."""
    with exploring(name, store, places(store)) as explorer:
        explorer.report.raise_for_bad()
        plan = Plan.parse(f"{len(explorer.points) // 2} kill-after")
        for told in (plan, Plan()):
            first = explorer.play(told).trace
            assert {explorer.play(told).trace for _ in range(2)} == {first}
        assert first == explorer.reference.trace
        explorer.report.raise_for_bad()
        assert explorer.reference.result == Explorer(BY_NAME[name]).reference.result


if "CRASH" in os.environ:  # CRASH="scenario|store|plan", as a failure prints it

    def test_one_plan(places: Any) -> None:
        scenario, store, plan = os.environ["CRASH"].split("|")
        play(Job("one fault", scenario, store, "plan", plan=plan), places(store)).raise_for_bad()
