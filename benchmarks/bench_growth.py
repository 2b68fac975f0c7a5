"""Whether a step costs more the more there is already: a workflow of which every step adds a kilobyte."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Line, Session, failed, take_turns
from benchmarks.processes import started
from benchmarks.stores import ours

ROUNDS = 3
WARM_UP = 500

FLAT_BYTES = 1.2
FLAT_TIME = 1.25
"""What the last tenth of the steps may cost, against the first."""


def run(session: Session) -> Iterator[Line]:
    steps = session.size.growth
    workload = f"growth, {steps:,} steps of 1 KB"
    warm_up = {"steps": min(WARM_UP, steps)}
    with started([ours(case, session.servers) for case in session.cases], session.folder, session.kept) as (
        playing,
        failures,
    ):
        results = take_turns(session, playing, failures, "growth", rounds=ROUNDS, warm_up=warm_up, steps=steps)
    for case in session.cases:
        name = ours(case, session.servers).name
        if name in failures:
            continue
        time = results.median(name, "ratio")
        took = f"{results.median(name, 'first'):.0f} and {results.median(name, 'last'):.0f} µs"
        if not case.durable:
            figure, details, asked, met = f"time: last tenth / first {time:.2f}", took, FLAT_TIME, time <= FLAT_TIME
        else:
            written = results.median(name, "bytes_ratio")
            figure = f"bytes: last tenth / first {written:.2f}"
            first, last = results.median(name, "first_bytes"), results.median(name, "last_bytes")
            details = f"{first:,.0f} and {last:,.0f} bytes written per step; {took} ({time:.2f})"
            asked, met = FLAT_BYTES, written <= FLAT_BYTES
        yield Line(
            workload=workload,
            who=name,
            figure=figure,
            details=details,
            asked=f"≤ {asked:g}",
            met=met if steps >= 1000 else None,
            others=results.others(name),
        )
    yield from failed(workload, failures)
