"""The crash suite: the reference workflows with faults at every point, and what came of it.

Three ways to hurt an execution, each on its own line of the table: one fault at every point in every mode; two deaths,
one in the first process and one in the process that takes over; the caller cancelled in every round of the event loop.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from durable_flow.testing import ERRORS, FILE, KILLS, MEMORY, Case, Explorer, Mode, Plan, Report, Scenario
from tests.reference import SCENARIOS

SEEDS = Path(__file__).with_name("seeds.txt")
"""Seeds that have found something, one a line: they run first, always."""

SMALL = ("w01", "w02", "w03", "w04")
MEMORY_DISK = Path("/dev/shm")


def scenario(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


def hint(case: Case) -> str:
    """How to see this case again."""
    return f"again: python -m tests.crash --only {case.scenario} --url '{case.url}' --plan '{case.plan}'"


def explorer(name: str, url: str = MEMORY) -> Explorer:
    folder = MEMORY_DISK if MEMORY_DISK.is_dir() else Path(tempfile.gettempdir())
    return Explorer(scenario(name), url=url, hint=hint, folder=folder)


def names() -> list[str]:
    return [scenario.name for scenario in SCENARIOS]


def singles(chosen: Iterable[str], *, url: str = MEMORY, modes: Sequence[Mode] = tuple(Mode), every: int = 1) -> Report:
    """One fault at every point; `every` 7 plays each seventh plan only."""
    total = Report()
    for name in chosen:
        exploring = explorer(name, url)
        for number, plan in enumerate(exploring.plans(modes)):
            if number % every == 0:
                exploring.play(plan)
        total.add(exploring.report)
    return total


def pairs(chosen: Iterable[str], *, every: int = 1) -> Report:
    """Two deaths at every pair of points; `every` 7 plays those after each seventh first death only."""
    total = Report()
    for name in chosen:
        exploring = explorer(name)
        if every == 1:
            exploring.pairs()
        else:
            for plan in _pairs(exploring, every):
                exploring.play(plan)
        total.add(exploring.report)
    return total


def _pairs(exploring: Explorer, every: int) -> Iterator[Plan]:
    count = len(exploring.points)
    firsts = [(number, mode) for number in range(1, count + 1) for mode in KILLS]
    for position, (first, mode) in enumerate(firsts):
        if position % every == 0:
            for second in range(1, count + 1):
                yield Plan(({first: mode}, {second: KILLS[second % 2]}))


def random_pairs(chosen: Sequence[str], *, count: int, seed: int) -> Report:
    """So many pairs of faults of any kind that a process can die of or live with, drawn by chance."""
    total = Report()
    for given in dict.fromkeys([*seeds(), seed]):
        drawn = random.Random(given)
        for name in chosen:
            exploring = explorer(name)
            points = len(exploring.points)
            for _ in range(max(1, count // len(chosen))):
                first, second = drawn.randint(1, points), drawn.randint(1, points)
                plan = Plan(({first: drawn.choice(KILLS)}, {second: drawn.choice((*KILLS, *ERRORS[:2]))}))
                story = exploring.play(plan)
                del story
            total.add(exploring.report)
    return total


def seeds() -> list[int]:
    return [int(line) for line in SEEDS.read_text().split() if line.strip()]


def turns(chosen: Iterable[str], *, every: int = 1) -> Report:
    """The caller cancelled in every round of the event loop: natively, by its scope, and both at once."""
    total = Report()
    for name in chosen:
        exploring = explorer(name)
        if every == 1:
            exploring.turns()
        else:
            for turn in range(1, exploring.reference.turns + 1, every):
                for mode in (Mode.CANCEL_BEFORE, Mode.SCOPE_BEFORE, Mode.BOTH_BEFORE):
                    exploring.play(Plan((), {turn: mode}))
        total.add(exploring.report)
    return total


def tables(*, short: bool, seed: int) -> Iterator[tuple[str, Report]]:
    """The lines of the table: what was done, and what came of it."""
    everything = names()
    rest = [name for name in everything if name not in SMALL]
    if short:
        yield "one fault, in memory", singles(SMALL)
        yield "one fault, in memory, a sample", singles(rest, every=13)
        yield "one fault, in a file, a sample", singles(["w01", "w02"], url=FILE, modes=(*KILLS, *ERRORS), every=3)
        yield "two deaths, a sample", pairs(["w01", "w03"], every=5)
        yield "cancelled in any round, a sample", turns(["w01", "w02", "w04"], every=5)
        return
    yield "one fault, in memory", singles(everything)
    yield "one fault, in a file", singles(everything, url=FILE, modes=(*KILLS, *ERRORS), every=2)
    yield "two deaths, every pair", pairs(SMALL)
    yield f"two faults by chance (seed {seed})", random_pairs(rest, count=1_000, seed=seed)
    yield "cancelled in every round", turns(everything[:8])
