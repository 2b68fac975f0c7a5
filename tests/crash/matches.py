"""What two workers and a client play against each other: small workflows, with all that their orders depend on."""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

import durable_flow as df
from durable_flow.testing import (
    FakeClock,
    Interleaver,
    Reply,
    Scenario,
    Schedule,
    Scripted,
    Send,
    Tally,
    answer,
)
from tests.engine.pieces import CREW

SEEDS = Path(__file__).parents[1] / "schedules.txt"


def flow(name: str, *steps: Mapping[str, Any]) -> df.WorkflowDef:
    """Steps that follow each other, and the last variable as the result."""
    chain = [dict(step) for step in steps]
    for step, after in pairwise(chain):
        step["next"] = after["id"]
    return df.load({"id": name, "name": name, "steps": chain}, extensions=[CREW])


def call(name: str, method: str = "work", **keys: Any) -> dict[str, Any]:
    return {"id": name, "type": "call", "service": "Desk", "method": method, "input": name, "output": name, **keys}


def retry(interval: float) -> dict[str, Any]:
    return {"max_attempts": 4, "initial_interval": interval, "max_interval": interval, "jitter": 0}


def desk(clock: FakeClock) -> Mapping[str, Any]:
    return {
        "Desk": Scripted(clock, work=str.upper, flaky=Reply("fine", fails=2)),
        "Model": Scripted(clock, ask=lambda given: len(given["said"]), tool=lambda given: given["tool"]),
    }


CHAIN = flow("chain", call("a"), call("b"), call("c"))
FAN = flow(
    "fan",
    {
        "id": "fan",
        "type": "parallel",
        "output": "found",
        "branches": [{"id": "one", "do": [call("left")]}, {"id": "two", "do": [call("right")]}],
    },
    call("last"),
)
ASK = flow("ask", call("before"), {"id": "ask", "type": "approval", "prompt": "May it?"}, call("after"))
SIGNAL = flow("signal", call("before"), {"id": "go", "type": "signal", "name": "go", "output": "told"}, call("after"))
NAP = flow("nap", call("before"), {"id": "nap", "type": "wait", "for": "40s"}, call("after"))
AGAIN = flow("again", call("a", "flaky", retry=retry(0.5)), call("b", "flaky", retry=retry(20)))
ONCE = flow("once", call("a", delivery="at_most_once"), call("b"))
BELOW = flow("below", call("inner"), call("more"))
PARENT = flow("parent", {"id": "child", "type": "workflow", "workflow_id": "below", "output": "got"}, call("after"))
ASKED = flow("asked", {"id": "child", "type": "workflow", "workflow_id": "ask", "output": "got"}, call("last"))
PIECES = flow("pieces", {"id": "crew", "type": "crew", "turns": 2, "tools": 2, "output": "said"}, call("last"))
LATE = flow(
    "late",
    {
        "id": "fan",
        "type": "parallel",
        "branches": [
            {"id": "one", "do": [
                {"id": "ask", "type": "approval", "prompt": "?", "timeout": "20s", "on_timeout": "said",
                 "next": "said"},
                {"id": "said", "type": "assign", "set": {"said": 1}},
            ]},
            {"id": "two", "do": [{**call("right"), "next": "more"}, call("more")]},
        ],
    },
    call("after"),
)  # fmt: skip

ANN = answer(approved=True, by="ann")


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow and who does what about it."""

    name: str
    workflow: df.WorkflowDef
    others: tuple[df.WorkflowDef, ...] = ()
    moves: Mapping[str, Any] = {}
    answering: str = "AB"
    worker: bool = False
    restart: Any = "recover"
    racing: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    queue: str | None = None
    limit: int = 1
    many: int = 1

    @property
    def scenario(self) -> Scenario:
        return Scenario(
            name=self.name,
            workflow=self.workflow,
            others=self.others,
            moves=self.moves,
            services=desk,
            racing=self.racing,
            beside=self.beside,
            worker=self.worker,
            restart=self.restart,
            options={"extensions": [CREW]},
            queue=self.queue,
            limit=self.limit,
            many=self.many,
        )

    def interleaver(
        self, *, make: Callable[[], df.Store] | None = None, cancelling: bool = False, skewed: bool = False
    ) -> Interleaver:
        return Interleaver(self.scenario, make=make, cancelling=cancelling, answering=self.answering, skewed=skewed)


MATCHES = (
    Match(name="chain", workflow=CHAIN),
    Match(name="chain, started twice", workflow=CHAIN, restart="run"),
    Match(name="chain, workers", workflow=CHAIN, worker=True),
    Match(name="parallel", workflow=FAN),
    Match(name="parallel, workers", workflow=FAN, worker=True),
    Match(name="approval, by the client", workflow=ASK, moves={"ask": ANN}, answering="C"),
    Match(name="approval, by everybody", workflow=ASK, moves={"ask": ANN}, answering="ABC"),
    Match(name="approval, workers", workflow=ASK, moves={"ask": ANN}, answering="C", worker=True),
    Match(name="approval with a deadline", workflow=LATE, moves={"ask": ANN}, answering="C", racing=("fan/one/ask",)),
    Match(name="signal", workflow=SIGNAL, moves={"go": Send("go", 7)}, answering="C"),
    Match(name="signal, workers", workflow=SIGNAL, moves={"go": Send("go", 7)}, answering="C", worker=True),
    Match(name="timer", workflow=NAP),
    Match(name="timer, workers", workflow=NAP, worker=True),
    Match(name="retry", workflow=AGAIN),
    Match(name="retry, workers", workflow=AGAIN, worker=True),
    Match(name="at most once", workflow=ONCE, moves={"a": answer(response="A")}),
    Match(name="child", workflow=PARENT, others=(BELOW,)),
    Match(name="child, workers", workflow=PARENT, others=(BELOW,), worker=True),
    Match(name="pieces", workflow=PIECES, beside=("tool",)),
    Match(name="pieces, workers", workflow=PIECES, beside=("tool",), worker=True),
    Match(name="one at a time", workflow=CHAIN, worker=True, queue="mail", many=3, limit=1),
    Match(name="two at a time", workflow=AGAIN, worker=True, queue="mail", many=4, limit=2),
    Match(name="one at a time, with naps", workflow=NAP, worker=True, queue="mail", many=3, limit=1),
    Match(name="child that asks", workflow=ASKED, others=(ASK,), moves={"ask": ANN}, answering="ABC"),
)

BY_NAME = {match.name: match for match in MATCHES}

CANCELLED = ("chain", "parallel", "approval, by everybody", "timer, workers", "child", "child, workers", "pieces")
SKEWED = ("chain", "chain, workers", "parallel", "retry", "timer, workers", "child", "pieces", "two at a time")
EXHAUSTED = ("chain", "parallel", "child")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A part of what is played, small enough for one process."""

    match: str
    kind: str = "seeds"
    """seeds, cancelling or skewed (random schedules from `first` on), deviations (of at most `depth`), or schedule."""
    first: int = 0
    count: int = 0
    depth: int = 0
    part: int = 0
    parts: int = 1
    schedule: str = ""


def play(job: Job) -> Tally:
    """What came of a job; the first bad schedule is as small as it gets."""
    kind, _, _ = job.kind.partition(" ")
    with BY_NAME[job.match].interleaver(cancelling=kind == "cancelling", skewed=kind == "skewed") as interleaver:
        if job.schedule:
            interleaver.count(interleaver.play(Schedule.parse(job.schedule)))
        elif job.depth and job.count:
            every = list(interleaver.schedules(job.depth))
            for schedule in every[job.first :: max(1, len(every) // job.count)]:
                interleaver.count(interleaver.play(schedule))
        elif job.depth:
            interleaver.exhaust(job.depth, part=job.part, parts=job.parts)
        else:
            interleaver.seeds(range(job.first, job.first + job.count))
        tally = interleaver.tally
        tally.bad[:1] = [interleaver.smallest(failure) for failure in tally.bad[:1]]
        for failure in tally.bad[:1]:
            failure.problems.append(again(job, failure.schedule))
        return tally


def again(job: Job, schedule: Schedule) -> str:
    told = f"{job.match}|{job.kind}|{schedule}"
    return f'again: SCHEDULE="{told}" .venv/bin/python -m pytest tests/crash -k one_schedule'


def once_bad() -> Iterable[Job]:
    """The schedules that found something once: they are played first."""
    for line in SEEDS.read_text().splitlines():
        if line and not line.startswith("#"):
            match, kind, schedule = line.split("|")
            yield Job(match=match, kind=kind, schedule=schedule)
