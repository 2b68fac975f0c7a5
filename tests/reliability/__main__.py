"""`python -m tests.reliability [--short]`: every promise with its cases, and how many of them did not hold."""

from __future__ import annotations

import argparse
import logging
import sys

from tests.reliability.table import Table
from tests.reliability.tables import TABLES


def main() -> int:
    """Prints the table; 1 if anything in it is bad."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rounds, values and items")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these tables: {', '.join(TABLES)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(TABLES):
        parser.error(f"there is no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    logging.disable()
    tables = [table for name, table in TABLES.items() if not arguments.names or name in arguments.names]
    width = max(len(table.promise) for table in tables)
    print(f"{'promise':{width}} | {'cases':>6} | {'bad':>4}")
    print(f"{'-' * width}-+-{'-' * 6}-+-{'-' * 4}")
    bad: list[str] = []
    for table in tables:
        count, wrong = tally(table, full=not arguments.short)
        bad += wrong
        print(f"{table.promise:{width}} | {count:6,} | {len(wrong):4,}", flush=True)
    for table in tables:
        for figure in table.figures:
            print(figure)
    for told in bad:
        print(f"bad: {told}", file=sys.stderr)
    return 1 if bad else 0


def tally(table: Table, *, full: bool) -> tuple[int, list[str]]:
    """How many cases there were, and what was wrong with the bad ones."""
    count, wrong = 0, []
    for case in table.cases(full):
        count += case.weight
        try:
            case.verify()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            wrong.append(f"{case.name}: {type(error).__name__}: {error}")
    return count, wrong


if __name__ == "__main__":
    sys.exit(main())
