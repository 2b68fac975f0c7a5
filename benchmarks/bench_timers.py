"""Timers that come due in two worker processes: how late each of them fires, and what waiting for it costs."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Line, Session, failed, take_turns
from benchmarks.processes import Answer, started
from benchmarks.stores import ours

ROUNDS = 3

LEAD = 4.0
"""Seconds between the last timer being created and the first being due, at least."""

LATE = 0.250
"""Seconds after its time by which 99 of 100 timers have fired, and that is committed."""

BURST = 5.0
"""Seconds within which everything has fired that is due in one second."""


def run(session: Session) -> Iterator[Line]:
    total, spread = session.size.timers, session.size.spread
    cases = [case for case in session.cases if case.durable]
    programs = [ours(case, session.servers) for case in cases]
    meant = total >= 1000
    with started(programs, session.folder, session.kept) as (playing, failures):
        for seconds in (spread, spread / 10) if meant else (spread,):
            workload = f"timers, {total:,} due within {seconds:g} s, two workers"
            results = take_turns(
                session,
                playing,
                failures,
                "timers",
                rounds=ROUNDS,
                warm_up={"total": min(1000, total), "spread": 0.1, "lead": LEAD / 2},
                total=total,
                spread=seconds,
                lead=LEAD if meant else LEAD / 2,
            )
            for case in cases:
                name = ours(case, session.servers).name
                if name in failures:
                    continue
                p50, p99, last = (results.median(name, key) for key in ("p50", "p99", "last"))
                once = all(answer["once"] for answer in results.answers[name] if answer is not None)
                spread_out = seconds == spread
                yield Line(
                    workload=workload,
                    who=name,
                    figure=f"p99 {p99 * 1000:,.0f} ms late" if spread_out else f"all after {last:.1f} s",
                    details=_details(results.answers[name], p50, p99, once=once),
                    asked=f"< {LATE * 1000:g} ms" if spread_out else f"≤ {BURST:g} s",
                    met=once and (p99 < LATE if spread_out else last <= BURST) if meant else None,
                    others=results.others(name),
                )
            yield from failed(workload, failures)


def _details(answers: list[Answer | None], p50: float, p99: float, *, once: bool) -> str:
    given = [answer for answer in answers if answer is not None]
    operations = max(answer["operations_per_second"] for answer in given)
    memory = min(answer["bytes"] for answer in given)
    used = min(answer["used"] for answer in given)
    return (
        f"p50 {p50 * 1000:,.0f} ms, p99 {p99 * 1000:,.0f} ms; {'each once' if once else 'NOT EACH ONCE'}; "
        f"{used * 1e6:,.0f} µs of processor time each; until then {operations:.1f} operations/s, and {memory:,.0f} "
        "bytes for each that waits"
    )
