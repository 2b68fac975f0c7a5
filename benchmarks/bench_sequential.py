"""Workflows of ten steps that do nothing, 1, 10 and 100 of them in flight: ours, the limit, and other libraries."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.compare import NOTHING, Asked, compare
from benchmarks.measure import Line, Session, absent, take_turns, team
from benchmarks.workloads import STEPS

LIBRARIES = ("dbos", "langgraph")

FAST_SYNC = 0.5e-3
"""Seconds. Where a write is safe on the disk earlier than this, a lone workflow is asked to lead by more."""


def run(session: Session) -> Iterator[Line]:
    for family in session.families:
        with team(session, family) as playing:
            for in_flight in session.size.in_flight:
                results = take_turns(session, playing.playing, playing.failures, "sequential", in_flight=in_flight)
                asked = _asked(session, family, in_flight)
                workload = f"{STEPS} steps, {in_flight:,} in flight"
                yield from compare(results, playing, workload, "steps/s", STEPS, asked)
            yield from absent(workload, playing.missing)


def _asked(session: Session, family: str, in_flight: int) -> Asked:
    many = in_flight == max(session.size.in_flight)
    match family:
        case "sqlite" if many:
            return Asked(of_bound=0.3, of_peers=10, libraries=LIBRARIES)
        case "postgresql" if many:
            return Asked(of_bound=0.4, of_peers=10, libraries=LIBRARIES)
        case "postgresql" if in_flight == 1:
            return Asked(of_peers=2 if session.sync < FAST_SYNC else 1.3, libraries=LIBRARIES, best=True)
        case "redis everysec" | "redis always" if many:
            return Asked(of_bound=0.4)
    return NOTHING
