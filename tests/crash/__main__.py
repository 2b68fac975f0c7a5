"""`python -m tests.crash`: hurts the reference workflows everywhere and prints what came of it.

`--short` plays a sample (what CI runs); `--only w05` and `--plan '7 kill-after; 3 error-before'` play one case again.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time

from durable_flow.testing import MEMORY, Plan, Report
from tests.crash import suite


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a sample, in under two minutes")
    parser.add_argument("--seed", type=int, default=None, help="for what is drawn by chance")
    parser.add_argument("--only", help="one reference workflow")
    parser.add_argument("--plan", help="one plan of it, as a failure prints it")
    parser.add_argument("--url", default=MEMORY)
    given = parser.parse_args()
    logging.getLogger("durable_flow").setLevel(logging.CRITICAL)  # processes that die complain about it
    if given.plan:
        return again(given.only or "w01", given.plan, given.url)
    if given.only:
        lines = iter([(f"one fault, {given.only}", suite.singles([given.only], url=given.url))])
    else:
        seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
        lines = suite.tables(short=given.short, seed=seed)
    total = Report()
    began = time.monotonic()
    for what, report in lines:
        print(f"{what:42} {report}  {time.monotonic() - began:6.0f} s", flush=True)
        total.add(report)
        if report.bad:
            print(suite.explorer(report.bad[0].scenario, report.bad[0].url).smallest(report.bad[0]))
    print(f"{'together':42} {total}  {time.monotonic() - began:6.0f} s")
    print(f"{total.cases - len(total.bad)} passed, {len(total.bad)} failed")
    return 1 if total.bad else 0


def again(name: str, plan: str, url: str) -> int:
    """Plays one case and prints what happened at each point."""
    exploring = suite.explorer(name, url)
    story = exploring.play(Plan.parse(plan))
    print(story.trace)
    for case in exploring.report.bad:
        print(case)
    return 1 if exploring.report.bad else 0


sys.exit(main())
