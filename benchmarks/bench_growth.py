"""Whether a step costs more the more there is already: workflows of which every step adds a kilobyte."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Line, Session, ours, subjects, take_turns
from benchmarks.stores import STORES


def run(session: Session) -> Iterator[Line]:
    with subjects(session, [ours(case.name) for case in STORES]) as started:
        few, many = session.size.growth
        short = take_turns(session, started, "growth", steps=few)
        long = take_turns(session, started, "growth", steps=many)
        for steps, results in (few, short), (many, long):
            for case, subject in zip(STORES, started, strict=True):
                name = subject.name
                written = results.median(name, "written")
                flat = results.median(name, "ratio")
                linear = written / short.median(name, "written") if case.durable and steps == many else None
                asked = "" if steps == few else "flat" if linear is None else "flat, linear"
                yield Line(
                    workload=f"growth, {steps:,} steps of 1 KB",
                    who=name,
                    figure=f"last step / first step {flat:.2f}",
                    details=f"{results.median(name, 'first'):.0f} and {results.median(name, 'last'):.0f} µs"
                    + (f"; {written / 1024:.1f} KB written per step" if case.durable else ""),
                    compared="" if linear is None else f"bytes per step {linear:.2f} × those of {few}",
                    asked=asked,
                    met=None if not asked else flat <= 1.25 and (linear is None or linear <= 1.1),
                    others=results.others(name),
                )
