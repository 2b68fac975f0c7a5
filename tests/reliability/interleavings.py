"""Two workers on one store, and a client that answers, signals or cancels, in every order in which they can do things.

Random schedules (time passes, processes die, end or stand still, wake-ups get lost, clocks are wrong), and all with few
deviations from one working as long as it can.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

from durable_flow.testing import Tally
from tests.crash.matches import BY_NAME, CANCELLED, EXHAUSTED, MATCHES, SKEWED, Job, once_bad, play
from tests.reliability.table import Case, Table

FIGURES: list[str] = []

PARTS = 8
"""Into how many jobs a search through all schedules of a match is divided."""

TOTAL = {"seeds": 5000, "cancelling": 3000, "skewed": 3000}
"""Random schedules that are played, over all matches."""

SHORT = {"seeds": 240, "cancelling": 90, "skewed": 90}
SAMPLE = 60
"""Schedules of at most two deviations that a short run plays."""

BLOCK = 100
"""Random schedules in one job."""


def blocks(names: Iterable[str], kind: str, total: int) -> Iterator[Job]:
    """Random schedules, the same number for each match."""
    chosen = list(names)
    each = -(-total // len(chosen))
    for name in chosen:
        for first in range(0, each, BLOCK):
            yield Job(match=name, kind=kind, first=first, count=min(BLOCK, each - first))


def searched(full: bool) -> Iterator[Job]:
    for name in EXHAUSTED if full else EXHAUSTED[:1]:
        if full:
            for part in range(PARTS):
                yield Job(match=name, kind="deviations", depth=3, part=part, parts=PARTS)
        else:
            yield Job(match=name, kind="deviations", depth=2, count=SAMPLE)


def played(jobs: Callable[[], Iterable[Job]], what: str, full: bool) -> Callable[[], int]:
    """Plays jobs, in all the processes there are for a full run, and tells how fast."""

    def verify() -> int:
        tally, listed = Tally(), list(jobs())
        began = time.perf_counter()
        if full and len(listed) > 1:
            with ProcessPoolExecutor(os.cpu_count()) as pool:
                for found in pool.map(play, listed):
                    tally.add(found)
        else:
            for job in listed:
                tally.add(play(job))
        seconds = time.perf_counter() - began
        FIGURES.append(f"{what}: {tally}, {tally.cases / seconds:,.0f}/s")
        tally.raise_for_bad()
        return tally.cases

    return verify


def cases(full: bool) -> Iterable[Case]:
    total = TOTAL if full else SHORT
    yield Case("what was bad once", played(once_bad, "two workers, what was bad once", False))
    yield Case(
        "random schedules",
        played(lambda: blocks(BY_NAME, "seeds", total["seeds"]), "two workers, random schedules", full),
    )
    yield Case(
        f"at most {3 if full else 2} deviations",
        played(lambda: searched(full), f"two workers, at most {3 if full else 2} deviations", full),
    )


def cancelled(full: bool) -> Iterable[Case]:
    total = (TOTAL if full else SHORT)["cancelling"]
    yield Case(
        "random schedules",
        played(lambda: blocks(CANCELLED, "cancelling", total), "two workers and a cancellation", full),
    )


def skewed(full: bool) -> Iterable[Case]:
    total = (TOTAL if full else SHORT)["skewed"]
    yield Case(
        "random schedules",
        played(lambda: blocks(SKEWED, "skewed", total), "two workers whose clocks are wrong", full),
    )


TABLE = Table("one owner at a time: who lost its lease changes nothing, and somebody goes on", cases, FIGURES)
CANCELLED_TABLE = Table("a cancellation wins or loses against the end, and never both", cancelled)
SKEWED_TABLE = Table("clocks that differ by hours give nobody a lease, and no duration is negative", skewed)

assert {*CANCELLED, *SKEWED, *EXHAUSTED} <= {match.name for match in MATCHES}
