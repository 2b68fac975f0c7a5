"""A worker that is told to stop takes nothing new, lets its steps end or gives them back, and another one goes on at
once: its lease would have lasted much longer.

The workers are those of the command line; SIGTERM reaches the first one while it is in a step of every execution.
"""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

import durable_flow as df
from durable_flow.cli import main as command_line
from durable_flow.testing import wait_until
from tests.reliability.crew import PATIENCE, Crew, Hand, all_of
from tests.reliability.duty import Journal, Noting, Post, leave
from tests.reliability.grounds import STORES, scene
from tests.reliability.table import Case, Table

FIGURES: list[str] = []

LEASE = 30.0
"""Seconds of the lease of a worker that was started without saying otherwise."""

SOON = LEASE / 2
"""Who needs longer has waited for the lease to run out."""

AT_ONCE = 4

FLOW = df.load("""
id: flow
name: Work, then rest
steps:
  - {id: work, type: call, service: Desk, method: work, output: a, next: rest}
  - {id: rest, type: call, service: Desk, method: rest, output: b, next: done}
  - {id: done, type: end, result: [$a, $b]}
""")

NAMES = ("a", "b", "c")
LATE = "late"


# -- in a process of its own ------------------------------------------------------------------------------------------


def services() -> dict[str, Any]:
    """The service of the worker in this folder: work goes on until there is a file `go`."""
    notes = Journal("journal")

    async def meanwhile(method: str, context: df.StepContext) -> None:
        if method == "work":
            await wait_until(Path("go").exists, timeout=PATIENCE)
            notes.write("worked", execution=context.execution_id)

    return {
        "Desk": Noting(
            notes, {method: lambda given, context: "done" for method in ("work", "rest")}, meanwhile=meanwhile
        )
    }


def work(*, post: dict[str, Any], grace: str) -> int:
    options = (
        "--json",
        "--store",
        msgspec.convert(post, Post).address,
        "--services",
        "tests.reliability.drains:services",
        "--grace",
        grace,
    )
    return command_line(["worker", *options])


# -- the cases --------------------------------------------------------------------------------------------------------


async def told(worker: Hand, event: str) -> None:
    """Returns when a worker has told of it."""

    def found() -> bool:
        lines = [line for line in worker.printed.splitlines() if line.startswith("{")]
        return any(json.loads(line)["event"] == event for line in lines)

    await wait_until(lambda: found() or not worker.running, timeout=PATIENCE)
    assert found(), f"{worker.name} ended without {event}"


async def one_round(crew: Crew, store: str, ends: bool) -> list[float]:
    """After how many seconds the second worker went on with each execution."""
    what = f"{store}, SIGTERM while steps run that {'end' if ends else 'do not end'} within the grace period"
    async with scene(store, crew.folder) as (post, notes), crew.watched(what) as hands:
        room = notes.path.parent
        await leave(post, FLOW, NAMES)
        given: dict[str, Any] = {"post": post.given, "folder": room}
        first = await crew.start(work, name="the first worker", grace="30s" if ends else "0.3s", **given)
        hands.append(first)
        await wait_until(lambda: len(notes.lines("effect")) == len(NAMES) or not first.running, timeout=PATIENCE)
        second = await crew.start(work, name="the second worker", grace="1s", **given)
        hands.append(second)
        await told(second, "worker.started")
        first.signal(signal.SIGTERM)
        await told(first, "worker.stopping")
        await leave(post, FLOW, [LATE])
        if ends:
            (room / "go").touch()
        await first.done()
        notes.write("gone")
        (room / "go").touch()
        async with post.open() as looking:

            async def over() -> bool:
                found = [await looking.load(name) for name in (*NAMES, LATE)]
                return all(execution is not None and execution.status.over for execution in found)

            await wait_until(over, timeout=SOON)
            for name in (*NAMES, LATE):
                await judge_trail(looking, name)
        second.signal(signal.SIGTERM)
        await second.done()
        judge(notes, first, second, ends)
        since = {line["execution"]: line["at"] for line in notes.lines("worked") if line["pid"] == first.pid}
        gone = notes.one("gone")["at"]
        went_on: dict[str, float] = {}
        for line in notes.lines("effect"):
            if line["pid"] == second.pid and line["execution"] in NAMES:
                went_on.setdefault(line["execution"], line["at"] - since.get(line["execution"], gone))
        return list(went_on.values())


async def judge_trail(store: df.Store, name: str) -> None:
    done = await store.load(name)
    assert done is not None
    assert (done.status, done.result, done.owner) == ("completed", ["done", "done"], None)
    entries = await store.entries(name)
    steps = Counter(entry.path for entry in entries if entry.action is df.Action.COMPLETED)
    assert steps == Counter(["work", "rest", "done"]), f"{name}: {steps}"
    assert not any("recoveries" in entry.metadata for entry in entries), f"a lease of {name} ran out"


def judge(notes: Journal, first: Hand, second: Hand, ends: bool) -> None:
    calls = Counter((line["execution"], line["name"], line["pid"]) for line in notes.lines("effect"))
    expected = Counter((name, "rest", second.pid) for name in (*NAMES, LATE))
    expected += Counter((name, "work", first.pid) for name in NAMES)
    expected += Counter((name, "work", second.pid) for name in ((LATE,) if ends else (*NAMES, LATE)))
    assert calls == expected, f"more calls: {calls - expected}, missing: {expected - calls}"


async def rounds(crew: Crew, store: str, count: int) -> int:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(ends: bool) -> list[float]:
        async with limit:
            return await one_round(crew, store, ends)

    found = await all_of(one(number % 2 == 0) for number in range(count))
    took = sorted(seconds for some in found for seconds in some)
    FIGURES.append(
        f"{store}: {len(took)} executions of workers that were told to stop went on after {took[len(took) // 2]:.2f} s "
        f"(median) and {took[-1]:.2f} s (all); their leases last {LEASE:g} s"
    )
    return count


def verify(store: str, count: int) -> int:
    with tempfile.TemporaryDirectory(prefix="durable-flow-") as folder:

        async def main() -> int:
            async with Crew(Path(folder)) as crew:
                return await rounds(crew, store, count)

        return asyncio.run(main())


def cases(full: bool) -> Iterable[Case]:
    for store in STORES:
        yield Case(f"{store}: SIGTERM to a worker", partial(verify, store, 20 if full else 2))


TABLE = Table("who takes over from a worker that is told to stop does not wait for its lease", cases, FIGURES)
