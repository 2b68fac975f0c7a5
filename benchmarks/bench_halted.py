"""Executions that wait for a person: what each of them costs, and how fast they go on."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Line, Session, ours, subjects
from benchmarks.stores import STORES

WARM_UP = 200


def run(session: Session) -> Iterator[Line]:
    total = session.size.halted
    for case in STORES:
        with subjects(session, [ours(case.name)]) as (subject,):
            some = min(WARM_UP, total)
            subject.ask("halt", total=some)
            subject.ask("resume", total=some)
            halted = subject.ask("halt", total=total)
            resumed = subject.ask("resume", total=total)
            shares = [answer["others"] for answer in (halted, resumed) if answer["others"] is not None]
            yield Line(
                workload=f"halted, {total:,} executions",
                who=subject.name,
                figure=f"{halted['bytes']:,.0f} bytes each" if case.durable else "",
                details=f"created {halted['per_second']:,.0f}/s, resumed {resumed['per_second']:,.0f}/s"
                + ("" if case.durable else f"; {halted['bytes']:,.0f} bytes each, the database itself included"),
                asked="< 1 KB" if case.durable else "",
                met=halted["bytes"] < 1024 if case.durable and total >= 1000 else None,
                others=sum(shares) / len(shares) if shares else None,
            )
