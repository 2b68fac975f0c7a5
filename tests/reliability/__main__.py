"""`python -m tests.reliability [--short]`: every promise with its cases, and how many of them did not hold."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
from collections.abc import Iterator

from durable_flow.testing import Report
from tests.crash import suite
from tests.reliability.table import Table
from tests.reliability.tables import TABLES
from tests.servers.provide import Unreachable

CRASH = "crash"


def main() -> int:
    """Prints the table; 1 if anything in it is bad."""
    names = [*TABLES, CRASH]
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rounds, values, items and faults")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these tables: {', '.join(names)}")
    given = parser.parse_args()
    if unknown := set(given.names) - set(names):
        parser.error(f"there is no table {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    logging.disable()
    tables = {name: table for name, table in TABLES.items() if not given.names or name in given.names}
    first = max(len(name) for name in ("table", *names))
    width = max(len(table.promise) for table in TABLES.values())
    print(f"{'table':{first}} | {'promise':{width}} | {'cases':>7} | {'bad':>4}")
    print(f"{'-' * first}-+-{'-' * width}-+-{'-' * 7}-+-{'-' * 4}")
    total, bad = 0, []
    faults = Report()
    for name, promise, count, wrong in itertools.chain(
        ((name, table.promise, *tally(table, full=not given.short)) for name, table in tables.items()),
        crashes(faults, short=given.short) if CRASH in (given.names or names) else (),
    ):
        total += count
        bad += wrong
        print(f"{name:{first}} | {promise:{width}} | {count:7,} | {len(wrong):4,}", flush=True)
    for table in tables.values():
        for figure in table.figures:
            print(figure)
    for told in bad:
        print(f"bad: {told}", file=sys.stderr)
    covered = f" / with faults at every point: {faults}" if faults.cases else ""
    print(f"all: {total:,} cases / {len(bad):,} bad{covered}")
    return 1 if bad else 0


def tally(table: Table, *, full: bool) -> tuple[int, list[str]]:
    """How many cases there were, and what was wrong with the bad ones."""
    count, wrong = 0, []
    for case in table.cases(full):
        try:
            count += case.verify() or case.weight
            continue
        except KeyboardInterrupt:
            raise
        except Unreachable as missing:
            print(f"not tested — {case.name}: {missing}", file=sys.stderr)
            if os.environ.get("CI") != "true":
                continue
            wrong.append(f"{case.name}: {missing}")
        except BaseException as error:
            wrong.append(f"{case.name}: {type(error).__name__}: {error}")
        count += case.weight
    return count, wrong


def crashes(faults: Report, *, short: bool) -> Iterator[tuple[str, str, int, list[str]]]:
    """What came of faults at every point: the figures of the crash harness, in the same form. `faults` is their sum."""
    totals: dict[tuple[str, str], Report] = {}
    jobs = [*suite.once_bad(), *(suite.short() if short else suite.whole())]
    with suite.places(suite.SERVERS) as (places, missing):
        for told in missing:
            print(f"not tested — {told}", file=sys.stderr)
        for job, report in suite.play_all(jobs, places=places, processes=os.cpu_count() or 1):
            totals.setdefault((job.test, job.store), Report()).add(report)
    for (test, store), report in totals.items():
        faults.add(report)
        yield CRASH, f"nothing is lost or done twice: {test}, {store}", report.cases, [str(case) for case in report.bad]


if __name__ == "__main__":
    sys.exit(main())
