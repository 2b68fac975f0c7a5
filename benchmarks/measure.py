"""Subjects as their parent sees them, taking turns, and the statistics of what they say."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).resolve().parent / "peers"

Answer = dict[str, Any]


class Failed(Exception):
    """A subject could not do what it was told."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table. `met` is whether the figure is what was asked for, where something was."""

    workload: str
    who: str
    figure: str = ""
    details: str = ""
    compared: str = ""
    asked: str = ""
    met: bool | None = None
    others: float | None = None


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured. `seconds` is about how long one subject's turn lasts, `patience` how long a turn may last
    for its subject to take part in every round."""

    rounds: int = 5
    seconds: float = 1.0
    patience: float = 3.0
    in_flight: tuple[int, ...] = (1, 10, 100)
    chain: int = 1000
    branches: tuple[int, ...] = (100, 1000)
    growth: tuple[int, ...] = (50, 500)
    halted: int = 10_000
    starts: int = 15
    peers: bool = True


FULL = Size()
SHORT = Size(
    rounds=1,
    seconds=0.02,
    in_flight=(1, 5),
    chain=20,
    branches=(10,),
    growth=(10, 20),
    halted=20,
    starts=1,
    peers=False,
)


@dataclass(frozen=True)
class Session:
    """One call of the program: how much to measure, and where files may be made."""

    size: Size
    folder: Path


class Subject:
    """A process that is measured. `name` is what the table calls it."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir(parents=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [*command, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("w"),
            cwd=ROOT,
            env=environment,
            text=True,
        )
        self._read()

    def ask(self, do: str, **arguments: Any) -> Answer:
        """What it answers, with the share of the processors that others used meanwhile. Raises Failed."""
        busy, own, begun = _busy(), time.process_time(), time.perf_counter()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        busy, own, wall = _busy() - busy, time.process_time() - own, time.perf_counter() - begun
        share = (busy - own - answer["cpu"]) / wall / (os.cpu_count() or 1)
        answer["others"] = min(1.0, max(0.0, share)) if wall > 0.2 else None  # the kernel counts in hundredths
        return answer

    def _read(self) -> Answer:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name} died: {(self.folder / 'log').read_text().strip() or 'it said nothing'}")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error'].strip()}")
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _busy() -> float:
    """Seconds that all processors together have worked since the machine was started."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _waiting, *rest = (int(field) for field in file.readline().split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def subjects(session: Session, wanted: Iterable[tuple[str, Sequence[str]]]) -> Iterator[list[Subject]]:
    """Starts a process for each (name, command) and ends them all. Raises Failed for one that cannot start."""
    with ExitStack() as stack:
        started: list[Subject] = []
        for number, (name, command) in enumerate(wanted):
            subject = Subject(name, command, session.folder / f"{number}")
            stack.callback(subject.close)
            started.append(subject)
        yield started


def ours(store: str) -> tuple[str, Sequence[str]]:
    """The subject that is this library on the store of this name."""
    return f"durable_flow, {store}", (sys.executable, "-m", "benchmarks.ours", store)


def bound() -> tuple[str, Sequence[str]]:
    """The subject that is the limit."""
    return "bound model", (sys.executable, "-m", "benchmarks.bound")


def peers(session: Session) -> tuple[list[tuple[str, Sequence[str]]], list[str]]:
    """The subjects that are other libraries, and what to say of those that are not there."""
    python = PEERS / ".venv" / "bin" / "python"
    found: list[tuple[str, Sequence[str]]] = []
    missing: list[str] = []
    for script in sorted(PEERS.glob("*_sqlite.py")):
        library = script.stem.removesuffix("_sqlite")
        name = f"{library}, sqlite file"
        if not session.size.peers:
            missing.append(f"{name}: not in the short form")
        elif not _has(python, library):
            missing.append(f"{name}: not installed (benchmarks/peers/setup installs it)")
        else:
            found.append((name, (str(python), str(script))))
    return found, missing


def _has(python: Path, library: str) -> bool:
    if not python.exists():
        return False
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({library!r}) is None)"
    return subprocess.run([str(python), "-c", code], check=False).returncode == 0


class Results:
    """What every subject answered, round by round; None where it did not take part."""

    def __init__(self, names: Iterable[str]) -> None:
        self.answers: dict[str, list[Answer | None]] = {name: [] for name in names}
        self.failures: dict[str, str] = {}

    def values(self, name: str, key: str) -> list[float]:
        return [answer[key] for answer in self.answers[name] if answer is not None and answer.get(key) is not None]

    def median(self, name: str, key: str) -> float:
        return statistics.median(self.values(name, key))

    def others(self, name: str) -> float | None:
        shares = self.values(name, "others")
        return statistics.fmean(shares) if shares else None

    def ratio(self, one: str, other: str, key: str) -> float | None:
        """The median of one / other over the rounds in which both took part; None if there is none."""
        pairs = zip(self.answers[one], self.answers[other], strict=True)
        ratios = [a[key] / b[key] for a, b in pairs if a is not None and b is not None]
        return statistics.median(ratios) if ratios else None


def take_turns(session: Session, taking_part: Sequence[Subject], do: str, **arguments: Any) -> Results:
    """Tells the subjects the same, one after the other, round by round, each round beginning with another one.

    With `in_flight` among the arguments, `total` is found for each subject so that its turn lasts long enough to mean
    something. One whose turn is long takes part in the first, the middle and the last round only.
    """
    size = session.size
    results = Results(subject.name for subject in taking_part)
    playing: dict[str, tuple[Subject, dict[str, Any], frozenset[int]]] = {}
    for subject in taking_part:
        told = dict(arguments)
        try:
            first = _warm_up(subject, size, do, told)
        except Failed as failure:
            results.failures[subject.name] = str(failure)
            continue
        slow = first > size.patience
        some = frozenset({0, size.rounds // 2, size.rounds - 1})
        playing[subject.name] = subject, told, some if slow else frozenset(range(size.rounds))
    for number in range(size.rounds):
        names = list(playing)
        turn = number % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            subject, told, rounds = playing[name]
            results.answers[name].append(subject.ask(do, **told) if number in rounds else None)
    for name in results.failures:
        results.answers[name] = [None] * size.rounds
    return results


def _warm_up(subject: Subject, size: Size, do: str, told: dict[str, Any]) -> float:
    """How many seconds a turn will last. Adds `total` to what the subject is told, if it is told `in_flight`."""
    if "in_flight" not in told:
        subject.ask(do, **told)
        return float(subject.ask(do, **told)["wall"])
    in_flight = told["in_flight"]
    probe = max(10, in_flight) if size.peers else in_flight
    subject.ask(do, **told, total=probe)
    rate = subject.ask(do, **told, total=probe)["per_second"]
    told["total"] = max(2 * in_flight, int(rate * size.seconds))
    return float(told["total"] / rate)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of ours on a durable store: the share of the limit, and how many times the rate of each peer."""

    of_bound: float | None = None
    of_peers: float | None = None


def compare(results: Results, workload: str, unit: str, scale: int, asked: Asked) -> Iterator[Line]:
    """A line for each subject: its rate (`scale` times what it said), and how ours on a durable store stands to it."""
    limit, reference = bound()[0], _reference()
    for name in results.answers:
        if name in results.failures:
            yield Line(workload=workload, who=name, figure="failed", details=results.failures[name].splitlines()[-1])
            continue
        rate = results.median(name, "per_second")
        details = ""
        if results.values(name, "p50"):
            p50, p99 = results.median(name, "p50") * 1000, results.median(name, "p99") * 1000
            details = f"{rate:,.0f} workflows/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        compared, wanted, met = "", "", None
        if name == reference and (share := results.ratio(name, limit, "per_second")) is not None:
            compared = f"{share:.0%} of the bound"
            if asked.of_bound is not None:
                wanted, met = f"≥ {asked.of_bound:.0%}", share >= asked.of_bound
        elif name not in (limit, reference) and not name.startswith(ours("")[0]):
            times = results.ratio(reference, name, "per_second")
            compared = "" if times is None else f"ours is {times:,.0f} × as fast"
            if asked.of_peers is not None and times is not None:
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


def _reference() -> str:
    """The subject of ours that is compared: on the first durable store."""
    from benchmarks.stores import STORES

    return ours(next(case.name for case in STORES if case.durable))[0]
