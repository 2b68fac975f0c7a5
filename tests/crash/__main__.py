"""Plays the whole crash harness and prints its figures: `python -m tests.crash [--short]`."""

import argparse
import logging
import os
import sys
import time

from durable_flow.testing import Explorer, Report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a sample that takes a minute or two")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    logging.getLogger("durable_flow").setLevel(logging.CRITICAL)  # what it says about planted faults is no news
    from tests.crash.suite import BY_NAME, SEEDS, SERVERS, once_bad, places, play_all, short, whole
    from tests.mutants import MUTANTS

    began = time.monotonic()
    totals: dict[tuple[str, str], Report] = {}
    jobs = [*once_bad(), *(short() if options.short else whole())]
    with places(SERVERS) as (found, missing):
        for told in missing:
            print(f"not tested — {told}", file=sys.stderr)
        for job, report in play_all(jobs, places=found, processes=options.processes):
            totals.setdefault((job.test, job.store), Report()).add(report)
            if report.bad:
                print(f"{job.scenario} on {job.store}, {job.test}: {report}", file=sys.stderr)
                print(report.bad[0], file=sys.stderr)
                print(f"add to {SEEDS.name}: {job.scenario}|{job.store}|{report.bad[0].plan}", file=sys.stderr)
    everything = Report()
    for (test, store), report in totals.items():
        print(f"{test:14} {store:10} {report}")
        everything.add(report)
    print(f"{'all':25} {everything}   {time.monotonic() - began:.0f} s")
    missed = 0
    for mutant in MUTANTS:
        report = Report()
        with mutant.plant():
            for name in mutant.scenarios:
                report.add(Explorer(BY_NAME[name], guard=mutant.guard).each(mutant.modes))
        rules = sorted({problem.split()[0] for case in report.bad for problem in case.problems})
        missed += not report.bad
        print(
            f"{mutant.name:3} {mutant.told:52} "
            f"found in {len(report.bad):3} of {report.cases:3} cases by {' '.join(rules)}"
        )
    return 1 if everything.bad or missed or (missing and os.environ.get("CI") == "true") else 0


if __name__ == "__main__":
    sys.exit(main())
