"""What the engine itself costs for a step that does nothing, in one core."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Line, Session, failed, take_turns
from benchmarks.processes import started
from benchmarks.stores import NONE, ours
from benchmarks.workloads import STEPS

LIMITS = {NONE.name: 25.0, "sqlite memory": 40.0}
"""Microseconds per step that were asked for."""

KINDS = {
    "calls": "call",
    "values": "call with input and output",
    "assigns": "assign",
}


def run(session: Session) -> Iterator[Line]:
    cases = [NONE, *(case for case in session.cases if not case.durable)]
    programs = [ours(case, session.servers) for case in cases]
    steps = session.size.chain
    runs = max(1, round(session.size.seconds / (steps * 30e-6)))
    with started(programs, session.folder, session.kept) as (playing, failures):
        for kind, title in KINDS.items():
            results = take_turns(session, playing, failures, "steps", kind=kind, steps=steps, runs=runs)
            short = take_turns(session, playing, failures, "steps", kind=kind, steps=STEPS, runs=runs * 10)
            workload = f"engine: {title}, {steps:,} in a row"
            for case, program in zip(cases, programs, strict=True):
                if program.name in failures:
                    continue
                cost = results.median(program.name, "us")
                limit = LIMITS.get(case.name) if kind == "calls" else None
                yield Line(
                    workload=workload,
                    who=program.name,
                    figure=f"{cost:.1f} µs/step",
                    details=f"processor time {results.median(program.name, 'cpu_us'):.1f} µs; in a workflow of {STEPS} "
                    f"steps, its start and end included, {short.median(program.name, 'us'):.1f} µs",
                    asked="" if limit is None else f"≤ {limit:g} µs",
                    met=None if limit is None else cost <= limit,
                    others=results.others(program.name),
                )
            yield from failed(workload, failures)
