"""What is asked of ours beside the limit and the peers, and whether it is met."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from benchmarks.measure import Line, Results, Team, failed


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Of ours on a durable store: the share of the limit; how many times the rate of each peer whose library is among
    `libraries`, or of the `best` of these."""

    of_bound: float | None = None
    of_peers: float | None = None
    libraries: Collection[str] = ()
    best: bool = False


NOTHING = Asked()


def compare(results: Results, team: Team, workload: str, unit: str, scale: int, asked: Asked) -> Iterator[Line]:
    """A line for each subject: its rate (`scale` times what it said), and how ours on the durable store compares."""
    wanted_of = _asked_of(results, team, asked)
    for name, answers in results.answers.items():
        if not any(answers):
            continue
        rate = results.median(name, "per_second")
        details = ""
        if results.values(name, "p50"):
            p50, p99 = results.median(name, "p50") * 1000, results.median(name, "p99") * 1000
            cpu = results.median(name, "cpu") / results.median(name, "seconds")
            details = f"p50 {p50:,.1f} ms, p99 {p99:,.1f} ms; its process used {cpu:.0%} of a processor"
        compared, wanted, met = "", "", None
        if name == team.reference and (share := results.ratio(name, team.limit, "per_second")) is not None:
            compared = f"{share:.0%} of the bound"
            if asked.of_bound is not None:
                wanted, met = f"≥ {asked.of_bound:.0%}", share >= asked.of_bound
        elif name in team.peers and (times := results.ratio(team.reference, name, "per_second")) is not None:
            compared = f"ours is {number(times)} × as fast"
            if asked.of_peers is not None and name in wanted_of:
                wanted, met = f"≥ {asked.of_peers:g} ×", times >= asked.of_peers
        yield Line(
            workload=workload,
            who=name,
            figure=f"{rate * scale:,.0f} {unit}",
            details=details,
            compared=compared,
            asked=wanted,
            met=met,
            others=results.others(name),
        )
    yield from failed(workload, results.failures)


def _asked_of(results: Results, team: Team, asked: Asked) -> list[str]:
    """The peers that ours is asked to be so many times as fast as."""
    names = [name for name in team.peers if name.partition(",")[0] in asked.libraries and any(results.answers[name])]
    if not asked.best or not names:
        return names
    return [max(names, key=lambda name: results.median(name, "per_second"))]


def number(times: float) -> str:
    """A ratio with as many digits as mean something.

    >>> number(0.934), number(2.08), number(31.6)
    ('0.93', '2.1', '32')
    """
    return f"{times:.2f}" if times < 1 else f"{times:.1f}" if times < 10 else f"{times:,.0f}"
