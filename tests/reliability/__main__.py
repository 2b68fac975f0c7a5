"""`python -m tests.reliability [--short]`: every promise with its cases, and how many of them did not hold."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from unittest import mock

from durable_flow.testing import Report
from tests.crash import suite
from tests.reliability.table import Case
from tests.reliability.tables import TABLES
from tests.servers.provide import Unreachable

CRASH = "crash"

ALONE = frozenset({"leaks"})
"""Tables whose cases count the connections of a server: they come last, when nobody else uses it."""

Tally = tuple[int, list[str], list[str]]
"""How many cases there were, what was wrong, and what was measured."""


def main() -> int:
    """Prints the table; 1 if anything in it is bad."""
    names = [*TABLES, CRASH]
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rounds, values, items and faults")
    parser.add_argument("--processes", type=int, default=(os.cpu_count() or 1) + 1, help="many a case only waits")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these tables: {', '.join(names)}")
    given = parser.parse_args()
    if unknown := set(given.names) - set(names):
        parser.error(f"there is no table {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    began = time.monotonic()
    logging.disable()
    tables = {name: table for name, table in TABLES.items() if not given.names or name in given.names}
    first = max(len(name) for name in ("table", *names))
    width = max(len(table.promise) for table in TABLES.values())
    print(f"{'table':{first}} | {'promise':{width}} | {'cases':>7} | {'bad':>4}")
    print(f"{'-' * first}-+-{'-' * width}-+-{'-' * 7}-+-{'-' * 4}")
    total, bad, figures = 0, [], []
    faults = Report()
    with suite.places(suite.SERVERS) as (places, missing), ProcessPoolExecutor(given.processes) as pool:
        for told in missing:
            print(f"not tested — {told}", file=sys.stderr)
        urls = {suite.SERVERS[store].variable: place.url for store, place in places.items()}
        crashing = []
        if CRASH in (given.names or names):
            jobs = [*suite.once_bad(), *(suite.short() if given.short else suite.whole())]
            listed = [job for job in jobs if job.store in suite.URLS or job.store in places]
            crashing = [(job, pool.submit(suite.play, job, places)) for job in listed]

        def begin(name: str) -> list[Future[Tally]]:
            cases = cases_of(name, full=not given.short)
            return [pool.submit(verify, name, number, urls, full=not given.short) for number in range(len(cases))]

        beside = {name: begin(name) for name in tables if name not in ALONE}
        for name, promise, count, wrong, measured in itertools.chain(
            ((name, tables[name].promise, *tally(futures)) for name, futures in beside.items()),
            crashes(crashing, faults),
            ((name, tables[name].promise, *tally(begin(name))) for name in tables if name in ALONE),
        ):
            total += count
            bad += wrong
            figures += measured
            print(f"{name:{first}} | {promise:{width}} | {count:7,} | {len(wrong):4,}", flush=True)
    for figure in figures:
        print(figure)
    for told in bad:
        print(f"bad: {told:.20000}", file=sys.stderr)
    covered = f" / with faults at every point: {faults}" if faults.cases else ""
    print(f"all: {total:,} cases / {len(bad):,} bad{covered}   {time.monotonic() - began:.0f} s")
    return 1 if bad or faults.sites - faults.covered else 0


@cache
def cases_of(name: str, *, full: bool) -> list[Case]:
    return list(TABLES[name].cases(full))


def verify(name: str, number: int, urls: Mapping[str, str], *, full: bool) -> Tally:
    """One case of a table: how many there were in it, what was wrong, and what it measured. `urls` name servers for all
    cases: each would start its own."""
    with mock.patch.dict(os.environ, urls):
        return played(name, number, full=full)


def played(name: str, number: int, *, full: bool) -> Tally:
    """The same, with the servers that the environment names or that can be started."""
    case, figures = cases_of(name, full=full)[number], TABLES[name].figures
    known = len(figures)
    try:
        count, wrong = case.verify() or case.weight, []
    except KeyboardInterrupt:
        raise
    except Unreachable as missing:
        count, wrong = 0, []
        if os.environ.get("CI") == "true":
            wrong = [f"{case.name}: {missing}"]
    except BaseException as error:
        count, wrong = case.weight, [f"{case.name}: {type(error).__name__}: {error}"]
    return count, wrong, figures[known:]


def tally(cases: Iterable[Future[Tally]]) -> Tally:
    """The cases of a table together."""
    count, wrong, figures = 0, [], []
    for case in cases:
        more, bad, measured = case.result()
        count += more
        wrong += bad
        figures += measured
    return count, wrong, figures


def crashes(
    playing: Iterable[tuple[suite.Job, Future[Report]]], faults: Report
) -> Iterator[tuple[str, str, int, list[str], list[str]]]:
    """What came of faults at every point: the figures of the crash harness, in the same form. `faults` is their sum."""
    totals: dict[tuple[str, str], Report] = {}
    for job, report in playing:
        totals.setdefault((job.test, job.store), Report()).add(report.result())
    for (test, store), report in totals.items():
        faults.add(report)
        bad = [str(case) for case in report.bad]
        yield CRASH, f"nothing is lost or done twice: {test}, {store}", report.cases, bad, []


if __name__ == "__main__":
    sys.exit(main())
