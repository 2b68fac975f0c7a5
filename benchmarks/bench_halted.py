"""Executions that wait for a person: what each of them costs, and how fast they go on."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.compare import number
from benchmarks.measure import Line, Session, absent, failed, team
from benchmarks.processes import Answer, Failed, Subject

WARM_UP = 200
BYTES = 1024
OF_PEERS = 10.0


def run(session: Session) -> Iterator[Line]:
    total = session.size.halted
    workload = f"halted, {total:,} executions"
    rates: dict[str, float] = {}
    lines: list[Line] = []
    references: list[str] = []
    for family in session.families:
        with team(session, family, with_bound=False) as playing:
            references.append(playing.reference)
            for subject in playing.playing:
                try:
                    halted, resumed = _one(subject, session)
                except Failed as failure:
                    playing.failures[subject.name] = str(failure)
                    continue
                finally:
                    if session.kept is None:
                        subject.close()  # what it holds is not to be beside the next one
                rates[subject.name] = resumed["per_second"]
                ours = subject.name.startswith("durable_flow")
                durable = subject.name not in playing.peers and subject.name == playing.reference
                shares = [answer["others"] for answer in (halted, resumed) if answer["others"] is not None]
                lines.append(
                    Line(
                        workload=workload,
                        who=subject.name,
                        figure=f"resumed {resumed['per_second']:,.0f}/s",
                        details=_details(halted, resumed, total)
                        + ("" if durable or not ours else ", with the database"),
                        asked=f"< {BYTES:,} bytes" if durable else "",
                        met=halted["bytes"] < BYTES if durable and total >= 1000 else None,
                        others=sum(shares) / len(shares) if shares else None,
                    )
                )
            lines += [*failed(workload, playing.failures), *absent(workload, playing.missing)]
    yield from lines
    found = {name: rate for name, rate in rates.items() if not name.startswith("durable_flow")}
    if not found:
        return
    best = max(found, key=lambda name: found[name])
    for name in references:
        if name in rates:
            times = rates[name] / found[best]
            yield Line(
                workload=f"resuming {total:,} executions",
                who=name,
                figure=f"{number(times)} ×",
                compared=f"the rate of {best}",
                asked=f"≥ {OF_PEERS:g} ×",
                met=times >= OF_PEERS,
            )


def _one(subject: Subject, session: Session) -> tuple[Answer, Answer]:
    size = session.size
    halted: Answer = {}
    resumed: Answer = {}
    for total in (min(WARM_UP, size.halted), size.halted):
        halted = subject.ask("halt", within=size.limit, total=total, at_most=size.halting)
        resumed = subject.ask("resume", within=size.limit, at_most=size.halting)
    return halted, resumed


def _details(halted: Answer, resumed: Answer, total: int) -> str:
    text = f"created {halted['per_second']:,.0f}/s; {halted['bytes']:,.0f} bytes of memory each"
    if halted["done"] < total:
        text += f"; {halted['done']:,} in the time given"
    if resumed["done"] < halted["done"]:
        text += f"; {resumed['done']:,} of them went on in the time given"
    return text
