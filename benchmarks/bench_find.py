"""A page of 50 executions by status, workflow and a label: among a thousand, and among a hundred thousand."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Line, Session, failed
from benchmarks.processes import Answer, Failed, Subject, started
from benchmarks.stores import ours

RATIO = 3.0

KINDS = {"common": "a quarter match all", "rare": "50 match all, half or more match each"}


def run(session: Session) -> Iterator[Line]:
    few, many = session.size.found
    answers: dict[str, dict[str, tuple[Answer, Answer]]] = {}
    rates: dict[str, float] = {}
    with started([ours(case, session.servers) for case in session.cases], session.folder, session.kept) as (
        playing,
        failures,
    ):
        for subject in playing:
            try:
                _fill(subject, session, few, needles=50)
                small = _find(subject, session)
                rates[subject.name] = _fill(subject, session, many - few, needles=0)
                large = _find(subject, session)
            except Failed as failure:
                failures[subject.name] = str(failure)
            else:
                answers[subject.name] = {kind: (small[kind], large[kind]) for kind in KINDS}
    for kind, title in KINDS.items():
        for name, found in answers.items():
            before, after = found[kind]
            ratio = after["ms"] / before["ms"]
            yield Line(
                workload=f"find a page of 50 by status, workflow, label: {title}",
                who=name,
                figure=f"{after['ms']:.2f} ms among {many:,}",
                details=f"{before['ms']:.2f} ms among {few:,}; they were created with {rates[name]:,.0f}/s",
                compared=f"{ratio:.2f} ×",
                asked=f"≤ {RATIO:g} ×",
                met=ratio <= RATIO if many >= 1000 else None,
                others=after["others"],
            )
    yield from failed("find", failures)


def _fill(subject: Subject, session: Session, total: int, *, needles: int) -> float:
    answer = subject.ask("fill", within=session.size.limit, total=total, needles=needles)
    return float(answer["per_second"])


def _find(subject: Subject, session: Session) -> dict[str, Answer]:
    size = session.size
    return {kind: subject.ask("find", within=size.limit, kind=kind, times=size.times) for kind in KINDS}
