"""One workflow with 100 and 1,000 branches side by side."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.compare import NOTHING, Asked, compare
from benchmarks.measure import Line, Session, absent, take_turns, team

OF_PEERS = Asked(of_peers=10, libraries=("absurd", "dbos", "langgraph"))


def run(session: Session) -> Iterator[Line]:
    for family in session.families:
        with team(session, family) as playing:
            for branches in session.size.branches:
                results = take_turns(session, playing.playing, playing.failures, "fan_out", branches=branches)
                asked = OF_PEERS if family == "postgresql" and branches == max(session.size.branches) else NOTHING
                workload = f"fan-out, {branches:,} branches"
                yield from compare(results, playing, workload, "branches/s", 1, asked)
            yield from absent(workload, playing.missing)
