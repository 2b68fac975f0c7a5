"""What the crash harness plays: every fault at every point, pairs of them, and a cancellation at every await.

A `Job` is a part of it that one process can play. Its figures are `cases / bad / sites × modes covered`.
"""

import os
import random
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec

from durable_flow.testing import CANCELS, ERRORS, FILE, KILLS, MEMORY, Case, Explorer, Mode, Plan, Report
from tests.reference import SCENARIOS

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
SMALL = ("w01", "w02", "w03", "w04")
LARGE = tuple(name for name in BY_NAME if name not in SMALL)
STORES = {"memory": MEMORY, "file": FILE}
SEEDS = Path(__file__).parents[1] / "seeds.txt"
TESTS = ("one fault", "two faults", "cancellation", "planted mistakes")


class Job(msgspec.Struct, frozen=True):
    """One scenario on one store. `what` is each (one fault at every point), pairs (two deaths, all of them), seeded
    (two random faults, from `first` on), turns (a cancellation in every round of the loop) or plan (one, given)."""

    test: str
    scenario: str
    store: str
    what: Literal["each", "pairs", "seeded", "turns", "plan"]
    modes: tuple[Mode, ...] = tuple(Mode)
    first: int = 0
    count: int = 0
    plan: str = ""


def fast_folder() -> Path | None:
    """Where files are memory: the log of a store is synced in every commit."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and os.access(shm, os.W_OK) else None


def play(job: Job) -> Report:
    scenario = BY_NAME[job.scenario]
    explorer = Explorer(scenario, url=STORES[job.store], folder=fast_folder(), hint=lambda case: again(job.store, case))
    match job.what:
        case "each":
            explorer.each(job.modes)
        case "pairs":
            explorer.pairs(job.modes)
        case "turns":
            explorer.turns(job.modes)
        case "seeded":
            for seed in range(job.first, job.first + job.count):
                explorer.play(seeded(explorer, seed))
        case "plan":
            explorer.play(Plan.parse(job.plan))
    explorer.report.bad[:1] = [explorer.smallest(case) for case in explorer.report.bad[:1]]
    return explorer.report


def again(store: str, case: Case) -> str:
    return f'again: CRASH="{case.scenario}|{store}|{case.plan}" .venv/bin/python -m pytest tests/crash -k one_plan'


def seeded(explorer: Explorer, seed: int) -> Plan:
    """Two faults chosen by a seed: the second one hits the next process if the first one killed."""
    rng = random.Random(f"{explorer.scenario.name} {seed}")
    points = explorer.points
    modes = [mode for mode in Mode if mode is not Mode.ERROR_LATE]
    one, two = rng.choice(modes), rng.choice(modes)
    first, second = rng.choice(points).number, rng.choice(points).number
    if one in KILLS:
        return Plan(({first: one}, {second: two}))
    return Plan(({first: one, first + second: two},))


def whole() -> Iterator[Job]:
    for name in BY_NAME:
        for store in STORES:
            yield Job("one fault", name, store, "each")
    for name in SMALL:
        yield Job("two faults", name, "memory", "pairs", KILLS)
    for number, name in enumerate(LARGE):
        yield Job("two faults", name, "memory", "seeded", first=1000 * number, count=100)
    for name in SMALL:
        yield Job("two faults", name, "file", "seeded", count=25)
    for name in BY_NAME:
        yield Job("cancellation", name, "memory", "turns", TURNS)
    for name in SMALL:
        yield Job("cancellation", name, "file", "turns", TURNS)


def short() -> Iterator[Job]:
    """A sample of the whole that takes less than a minute: every death everywhere, some of the rest."""
    for name in BY_NAME:
        yield Job("one fault", name, "memory", "each", KILLS)
    for name in SMALL:
        yield Job("one fault", name, "file", "each", KILLS)
        yield Job("one fault", name, "memory", "each", ERRORS)
        yield Job("cancellation", name, "memory", "turns", (Mode.CANCEL_BEFORE, Mode.BOTH_BEFORE))
    yield Job("one fault", "w05", "memory", "each", (*ERRORS, *CANCELS))
    yield Job("two faults", "w01", "memory", "pairs", KILLS)
    for number, name in enumerate(LARGE):
        yield Job("two faults", name, "memory", "seeded", first=1000 * number, count=6)


TURNS = (Mode.CANCEL_BEFORE, Mode.SCOPE_BEFORE, Mode.BOTH_BEFORE)


def once_bad() -> Iterator[Job]:
    """The plans that found something once: they are played first."""
    for line in SEEDS.read_text().splitlines():
        if line and not line.startswith("#"):
            scenario, store, plan = line.split("|")
            yield Job("one fault", scenario, store, "plan", plan=plan)


def play_all(jobs: Iterable[Job], *, processes: int) -> Iterator[tuple[Job, Report]]:
    """Every job with its report, in the order of the jobs."""
    listed = list(jobs)
    if processes == 1:
        yield from ((job, play(job)) for job in listed)
        return
    with ProcessPoolExecutor(processes) as pool, tempfile.TemporaryDirectory():
        yield from zip(listed, pool.map(play, listed), strict=True)
