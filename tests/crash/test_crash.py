"""The short form of the crash harness; `python -m tests.crash` plays all of it."""

import os

import pytest

from durable_flow.testing import Explorer, Plan
from tests.crash.suite import BY_NAME, FILE, Job, fast_folder, once_bad, play, short


@pytest.mark.parametrize("job", list(once_bad()), ids=lambda job: f"{job.scenario}-{job.store}-{job.plan}")
def test_what_was_bad_once_is_good(job: Job) -> None:
    play(job).raise_for_bad()


@pytest.mark.parametrize(
    "job", list(short()), ids=lambda job: f"{job.test}-{job.scenario}-{job.store}-{job.what}-{job.modes[0]}"
)
def test_faults_make_no_difference(job: Job) -> None:
    report = play(job)
    report.raise_for_bad()
    assert report.sites <= report.covered


@pytest.mark.parametrize("name", BY_NAME)
def test_the_same_plan_gives_the_same_trace(name: str) -> None:
    explorer = Explorer(BY_NAME[name])
    plan = Plan.parse(f"{len(explorer.points) // 2} kill-after")
    assert explorer.tell(plan).trace == explorer.tell(plan).trace
    assert explorer.tell(Plan()).trace == explorer.reference.trace


@pytest.mark.parametrize("name", BY_NAME)
def test_threads_make_no_difference(name: str) -> None:
    """On a store with threads a commit is under way while the next one is filled."""
    explorer = Explorer(BY_NAME[name], url=FILE, folder=fast_folder())
    explorer.report.raise_for_bad()
    for _ in range(3):
        assert explorer.play(Plan()).trace == explorer.reference.trace
    explorer.report.raise_for_bad()
    assert explorer.reference.result == Explorer(BY_NAME[name]).reference.result


if "CRASH" in os.environ:  # CRASH="scenario|store|plan", as a failure prints it

    def test_one_plan() -> None:
        scenario, store, plan = os.environ["CRASH"].split("|")
        play(Job("one fault", scenario, store, "plan", plan=plan)).raise_for_bad()
