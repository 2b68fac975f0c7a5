"""A process with many executions in flight is killed. A fresh worker takes all of them over when their leases have run
out, and finishes them: no step that had ended is made again, and what was under way is, once, under the same key.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

import durable_flow as df
from durable_flow.testing import wait_until
from tests.reliability.crew import PATIENCE, Crew
from tests.reliability.duty import Journal, Noting, Post
from tests.reliability.grounds import STORES, scene
from tests.reliability.table import Case, Table

FIGURES: list[str] = []

FLOW = df.load("""
id: flow
name: Three calls
steps:
  - {id: first, type: call, service: Desk, method: first, output: a, next: second}
  - {id: second, type: call, service: Desk, method: second, output: b, next: third}
  - {id: third, type: call, service: Desk, method: third, output: c, next: done}
  - {id: done, type: end, result: [$a, $b, $c]}
""")

METHODS = ("first", "second", "third")


# -- in a process of its own ------------------------------------------------------------------------------------------


def services(notes: Journal, *, stuck: bool) -> dict[str, Any]:
    async def meanwhile(method: str, context: df.StepContext) -> None:
        if stuck and method == "second":
            await asyncio.Event().wait()

    return {"Desk": Noting(notes, {name: lambda given, context: "done" for name in METHODS}, meanwhile=meanwhile)}


async def begin(*, post: dict[str, Any], journal: str, count: int, ttl: float) -> None:
    """Has so many executions in their second step, until it is killed."""
    desk = services(Journal(journal), stuck=True)
    async with (
        msgspec.convert(post, Post).open() as store,
        df.Runtime(store, workflows=[FLOW], services=desk, lease_ttl=ttl) as runtime,
    ):
        runner = runtime.runner("flow")
        await asyncio.gather(*(runner.run(execution_id=f"e{number}") for number in range(count)))


async def finish(*, post: dict[str, Any], journal: str, count: int, ttl: float) -> None:
    """A worker, until all of them are over."""
    notes = Journal(journal)
    async with (
        msgspec.convert(post, Post).open() as store,
        df.Runtime(store, workflows=[FLOW], services=services(notes, stuck=False), lease_ttl=ttl) as runtime,
    ):
        worker = df.Worker(runtime, concurrency=count)
        working = asyncio.ensure_future(worker.run())
        left = {f"e{number}" for number in range(count)}
        stop = runtime.subscribe(
            lambda event: left.discard(event.data["execution_id"]), events=["workflow.completed", "workflow.failed"]
        )
        await wait_until(lambda: not left or working.done(), timeout=PATIENCE)
        notes.write("over")
        stop()
        worker.stop()
        await working


# -- the cases --------------------------------------------------------------------------------------------------------


async def killed(crew: Crew, store: str, count: int, ttl: float) -> str:
    """What was measured."""
    what = f"{store}: a process with {count:,} executions in flight is killed"
    async with scene(store, crew.folder) as (post, notes), crew.watched(what) as hands:
        given: dict[str, Any] = {"post": post.given, "journal": str(notes.path), "count": count, "ttl": ttl}
        first = await crew.start(begin, name="the process that is killed", **given)
        hands.append(first)

        def all_under_way() -> bool:
            return sum(line["name"] == "second" for line in notes.lines("effect")) == count

        await wait_until(lambda: all_under_way() or not first.running, timeout=PATIENCE)
        first.signal(signal.SIGKILL)
        died = time.monotonic()
        assert await first.ended() == -signal.SIGKILL
        before = len(notes.lines("effect"))
        second = await crew.start(finish, name="the worker", **given)
        hands.append(second)
        await second.done()

        effects = [(line["name"], line["execution"], line["key"]) for line in notes.lines("effect")]
        assert {times for effect, times in Counter(effects).items() if effect[0] != "second"} == {1}
        assert Counter(name for name, _, _ in effects) == {"first": count, "second": 2 * count, "third": count}
        assert len({key for _, _, key in effects}) == 3 * count
        async with post.open() as opened:
            for number in range(count):
                loaded = await opened.load(f"e{number}")
                assert loaded is not None
                assert (loaded.status, loaded.result) == ("completed", ["done"] * 3)
        claims = [line["at"] - died for line in notes.lines("effect")[before:] if line["name"] == "second"]
        over = notes.one("over")["at"] - died
        return (
            f"{what}: with leases of {ttl:g} s a worker had taken all over {max(claims):.1f} s after its death, "
            f"and finished them {over:.1f} s after it"
        )


def verify(store: str, count: int, ttl: float) -> int:
    async def check() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with Crew(Path(folder)) as crew:
                FIGURES.append(await killed(crew, store, count, ttl))

    asyncio.run(check())
    return count


def cases(full: bool) -> Iterable[Case]:
    for store in STORES:
        yield Case(
            f"{store}: many executions are taken over", partial(verify, store, 1_000 if full else 50, 10 if full else 2)
        )


TABLE = Table(
    "of many executions whose process is killed none is lost, and no finished step is made again", cases, FIGURES
)
