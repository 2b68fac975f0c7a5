"""Subjects taking turns, and the statistics of what they say."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS, peers
from benchmarks.processes import Answer, Failed, Kept, Program, Subject, started
from benchmarks.servers import Servers
from benchmarks.stores import FAMILIES, STORES, StoreCase, bound, ours


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table. `met` is whether the figure is what was asked for, where something was; `failed` is whether
    there is none because something broke."""

    workload: str
    who: str
    figure: str = ""
    details: str = ""
    compared: str = ""
    asked: str = ""
    met: bool | None = None
    others: float | None = None
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured. `seconds` is about how long one subject's turn lasts, `patience` how long a turn may last
    for its subject to take part in every round, `limit` after how many seconds a subject that does not answer is given
    up, `halting` after how many seconds no more executions are halted, or resumed. `fetches` is how many workflows
    fetch at once, and `latency` the seconds after which they are answered; `waiting` how many requests a service gets
    at a time, `requests` how many in all, and `lease` the seconds of its leases."""

    rounds: int = 5
    seconds: float = 1.0
    patience: float = 3.0
    limit: float = 180.0
    halting: float = 45.0
    in_flight: tuple[int, ...] = (1, 10, 100)
    chain: int = 1000
    branches: tuple[int, ...] = (100, 1000)
    growth: int = 10_000
    halted: int = 10_000
    found: tuple[int, int] = (1_000, 100_000)
    timers: int = 10_000
    spread: float = 10.0
    fetches: int = 100
    latency: float = 0.5
    waiting: int = 1000
    requests: int = 10_000
    lease: float = 5.0
    starts: int = 15
    probe: int = 10
    times: int = 100
    peers: bool = True


FULL = Size()
SHORT = Size(
    rounds=1,
    seconds=0.02,
    in_flight=(1, 5),
    chain=20,
    branches=(10,),
    growth=30,
    halted=20,
    found=(60, 120),
    timers=20,
    spread=0.2,
    fetches=3,
    latency=0.02,
    waiting=10,
    requests=50,
    lease=1.0,
    starts=1,
    probe=1,
    times=3,
    peers=False,
)


@dataclass(frozen=True)
class Session:
    """One call of the program: how much to measure, where files may be made, the servers, how many seconds a small
    write takes to be safe on the disk, what is measured, and in the short form the subjects that there are already."""

    size: Size
    folder: Path
    servers: Servers
    sync: float
    families: Sequence[str] = FAMILIES
    kept: Kept | None = None

    @property
    def cases(self) -> list[StoreCase]:
        return [case for case in STORES if case.family in self.families]


@dataclass
class Team:
    """The subjects that are compared with each other. `reference` is ours on the durable store, `limit` the bound.

    `failures` says by name why a subject no longer takes part; `missing` are the peers that are not there, and why.
    """

    reference: str
    limit: str
    peers: list[str]
    playing: list[Subject]
    failures: dict[str, str]
    missing: dict[str, str] = field(default_factory=dict)


@contextmanager
def team(session: Session, family: str, *, with_bound: bool = True, with_memory: bool = True) -> Iterator[Team]:
    """All that are measured in a family: ours, the bound, the peers. They end with the block."""
    cases = [case for case in STORES if case.family == family]
    (durable,) = (case for case in cases if case.durable)
    mine = [ours(case, session.servers) for case in cases if case.durable or with_memory]
    limit = bound(durable, session.servers)
    others: list[Program] = []
    missing = {peer.name: "left out" for peer in PEERS if peer.family == family}
    if session.size.peers:
        others, missing = peers(family, session.servers)
    programs = [*mine, *([limit] if with_bound else []), *others]
    with started(programs, session.folder / family.replace(" ", "-"), session.kept) as (playing, failures):
        reference = ours(durable, session.servers).name
        yield Team(reference, limit.name, [program.name for program in others], playing, failures, missing)


class Results:
    """What every subject answered, round by round; None where it did not take part. `failures`: why by name."""

    def __init__(self, names: Iterable[str], failures: dict[str, str]) -> None:
        self.answers: dict[str, list[Answer | None]] = {name: [] for name in names}
        self.failures = dict(failures)

    def values(self, name: str, key: str) -> list[float]:
        answers = self.answers.get(name, [])
        return [answer[key] for answer in answers if answer is not None and answer.get(key) is not None]

    def median(self, name: str, key: str) -> float:
        return statistics.median(self.values(name, key))

    def others(self, name: str) -> float | None:
        shares = self.values(name, "others")
        return statistics.fmean(shares) if shares else None

    def ratio(self, one: str, other: str, key: str) -> float | None:
        """The median of one / other over the rounds in which both took part; None if there is none."""
        pairs = zip(self.answers.get(one, []), self.answers.get(other, []), strict=False)
        ratios = [a[key] / b[key] for a, b in pairs if a is not None and b is not None]
        return statistics.median(ratios) if ratios else None


def take_turns(
    session: Session,
    playing: list[Subject],
    failures: dict[str, str],
    do: str,
    *,
    rounds: int | None = None,
    warm_up: dict[str, Any] | None = None,
    **arguments: Any,
) -> Results:
    """Tells the subjects the same, one after the other, round by round (at most `rounds`), each round beginning with
    another one. Before that each does it twice to warm up, once where that is slow; or once, as `warm_up` says.

    With `in_flight` among the arguments, `total` is found for each subject so that its turn lasts long enough to mean
    something. One whose turn is long takes part in the first, the middle and the last round only. One that fails is
    taken out of `playing`, and `failures` says why.
    """
    size = session.size
    count = min(rounds or size.rounds, size.rounds)
    results = Results((subject.name for subject in playing), failures)
    plan: dict[str, tuple[Subject, dict[str, Any], frozenset[int]]] = {}

    def fails(subject: Subject, failure: Failed) -> None:
        results.failures[subject.name] = failures[subject.name] = str(failure)
        playing.remove(subject)

    for subject in list(playing):
        told = dict(arguments)
        try:
            if warm_up is None:
                first = _warm_up(subject, size, do, told)
            else:
                first = subject.ask(do, within=size.limit, **arguments | warm_up)["wall"]
        except Failed as failure:
            fails(subject, failure)
            continue
        some = frozenset({0, count // 2, count - 1})
        plan[subject.name] = subject, told, some if first > size.patience else frozenset(range(count))
    for number in range(count):
        names = list(plan)
        turn = number % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            subject, told, its_rounds = plan[name]
            try:
                answer = subject.ask(do, within=size.limit, **told) if number in its_rounds else None
            except Failed as failure:
                fails(subject, failure)
                del plan[name]
            else:
                results.answers[name].append(answer)
    return results


def _warm_up(subject: Subject, size: Size, do: str, told: dict[str, Any]) -> float:
    """How many seconds a turn will last. Adds `total` to what the subject is told, if it is told `in_flight`."""
    if "in_flight" not in told:
        first = float(subject.ask(do, within=size.limit, **told)["wall"])
        return first if first > size.patience else float(subject.ask(do, within=size.limit, **told)["wall"])
    in_flight = told["in_flight"]
    probe = max(size.probe, in_flight)
    answer = subject.ask(do, within=size.limit, **told, total=probe)
    if answer["wall"] < size.patience:
        answer = subject.ask(do, within=size.limit, **told, total=probe)
    rate = answer["per_second"]
    told["total"] = max(in_flight, int(rate * size.seconds))
    return float(told["total"] / rate)


def failed(workload: str, failures: dict[str, str]) -> Iterator[Line]:
    """A line for each subject that broke, with the end of what it said."""
    for name, failure in failures.items():
        last = failure.splitlines()[-1]
        yield Line(workload=workload, who=name, figure="failed", details=last[:160], failed=True)


def absent(workload: str, missing: Mapping[str, str]) -> Iterator[Line]:
    """A line for each peer that is not there."""
    for name, reason in missing.items():
        yield Line(workload=workload, who=name, figure="not measured", details=reason)
