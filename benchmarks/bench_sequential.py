"""Workflows of ten steps that do nothing, 1, 10 and 100 of them in flight: ours, the limit, and other libraries."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Asked, Line, Session, bound, compare, ours, peers, subjects, take_turns
from benchmarks.stores import STORES
from benchmarks.workloads import STEPS

OF_BOUND = Asked(of_bound=0.3, of_peers=10.0)
"""Of the rates with the most in flight."""


def run(session: Session) -> Iterator[Line]:
    others, missing = peers(session)
    with subjects(session, [*(ours(case.name) for case in STORES), bound(), *others]) as started:
        for in_flight in session.size.in_flight:
            results = take_turns(session, started, "sequential", in_flight=in_flight)
            workload = f"{STEPS} steps, {in_flight:,} in flight"
            asked = OF_BOUND if in_flight == max(session.size.in_flight) else Asked()
            yield from compare(results, workload, "steps/s", STEPS, asked)
    for text in missing:
        yield Line(workload=f"{STEPS} steps", who=text)
