"""One workflow with 100 and 1,000 branches side by side."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Asked, Line, Session, bound, compare, ours, peers, subjects, take_turns
from benchmarks.stores import STORES


def run(session: Session) -> Iterator[Line]:
    others, missing = peers(session)
    with subjects(session, [*(ours(case.name) for case in STORES), bound(), *others]) as started:
        for branches in session.size.branches:
            results = take_turns(session, started, "fan_out", branches=branches)
            yield from compare(results, f"fan-out, {branches:,} branches", "branches/s", 1, Asked())
    for text in missing:
        yield Line(workload="fan-out", who=text)
