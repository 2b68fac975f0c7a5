"""What the engine itself costs for a step that does nothing, in one core."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Line, Session, ours, subjects, take_turns
from benchmarks.stores import NONE, STORES
from benchmarks.workloads import STEPS

LIMITS = {NONE.name: 25.0, "sqlite memory": 40.0}
"""Microseconds per step that were asked for."""

KINDS = {
    "calls": "call",
    "values": "call with input and output",
    "assigns": "assign",
}


def run(session: Session) -> Iterator[Line]:
    names = [NONE.name, *(case.name for case in STORES if not case.durable)]
    steps = session.size.chain
    with subjects(session, [ours(name) for name in names]) as started:
        for kind, title in KINDS.items():
            runs = max(1, round(session.size.seconds / (steps * 30e-6)))
            results = take_turns(session, started, "steps", kind=kind, steps=steps, runs=runs)
            short = take_turns(session, started, "steps", kind=kind, steps=STEPS, runs=runs * 10)
            for name, subject in zip(names, started, strict=True):
                cost = results.median(subject.name, "us")
                limit = LIMITS.get(name) if kind == "calls" else None
                yield Line(
                    workload=f"engine: {title}, {steps:,} in a row",
                    who=subject.name,
                    figure=f"{cost:.1f} µs/step",
                    details=f"processor time {results.median(subject.name, 'cpu_us'):.1f} µs; in a workflow of {STEPS} "
                    f"steps, its start and end included, {short.median(subject.name, 'us'):.1f} µs",
                    asked="" if limit is None else f"≤ {limit:g} µs",
                    met=None if limit is None else cost <= limit,
                    others=results.others(subject.name),
                )
