"""Processes whose clocks are hours apart do not take executions from one another: a server judges leases by its own.

On a file of SQLite there is one clock, the machine's; so these are cases for servers.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

import durable_flow as df
from durable_flow.clock import SystemClock
from durable_flow.stores.base import Busy
from durable_flow.testing import wait_until
from tests.crash import suite
from tests.reliability.crew import PATIENCE, Crew, all_of
from tests.reliability.duty import Journal, Noting, Passage, Post
from tests.reliability.grounds import scene
from tests.reliability.kills import LONG
from tests.reliability.stops import FLOW, NAME
from tests.reliability.table import Case, Table

HOUR = 3600.0
APART = ((-HOUR, HOUR), (HOUR, -HOUR), (0.0, HOUR), (HOUR, 0.0), (0.0, -HOUR), (-HOUR, 0.0))
"""By how many seconds the clocks of the owner and of the other process are wrong."""

REFUSED = 3
"""How often the other process tries in vain before the owner goes on."""


async def live(*, post: dict[str, Any], journal: str, who: str, wrong: float) -> None:
    """Runs the execution under its id; in the step `work` the owner waits until the other one was refused."""
    SystemClock.now = staticmethod(lambda: time.time() + wrong)
    notes = Journal(journal)

    async def meanwhile(method: str, context: df.StepContext) -> None:
        if method == "work":
            await wait_until(lambda: len(notes.lines("refused")) >= REFUSED, timeout=PATIENCE)

    def after(number: int, verb: str, answer: Any) -> None:
        if verb == "claim" and isinstance(answer, Busy):
            notes.write("refused", who=who)

    methods = {method: lambda given, context: who for method in ("first", "work", "last")}
    async with Passage(msgspec.convert(post, Post).open()) as passage:
        passage.after = after
        services = {"Desk": Noting(notes, methods, meanwhile=meanwhile)}
        async with df.Runtime(passage, workflows=[FLOW], services=services, lease_ttl=LONG) as runtime:
            result = await runtime.runner(FLOW).run(execution_id=NAME)
    notes.write("ended", status=result.status, output=result.output)


async def one_pair(crew: Crew, store: str, owner: float, other: float) -> None:
    what = f"{store}, the owner's clock is wrong by {owner:g} s, the other one's by {other:g} s"
    async with scene(store, crew.folder) as (post, notes), crew.watched(what) as hands:
        given: dict[str, Any] = {"post": post.given, "journal": str(notes.path)}
        hands.append(await crew.start(live, name="the owner", who="owner", wrong=owner, **given))
        await wait_until(lambda: len(notes.lines("effect")) == 2 or not hands[0].running, timeout=PATIENCE)
        hands.append(await crew.start(live, name="the other", who="other", wrong=other, **given))
        for hand in hands:
            await hand.done()
        assert [line["output"] for line in notes.lines("ended")] == [["owner"] * 3] * 2, notes.lines("ended")
        assert Counter(line["name"] for line in notes.lines("effect")) == {"first": 1, "work": 1, "last": 1}
        async with post.open() as looking:
            row = await looking.row(NAME)
            assert row is not None
            assert (row.generation, row.recoveries) == (1, 0), "somebody else had it"
            assert all((entry.duration_ms or 0) >= 0 for entry in await looking.entries(NAME))


ASK = df.load("""
id: ask
name: Ask
steps:
  - {id: ask, type: approval, prompt: Well?, timeout: 1s, on_timeout: late}
  - {id: late, type: end, result: late}
""")

LATEST = 60.0
"""Seconds by which a deadline may be off at most: an hour less than what the clocks are wrong by."""


async def deadline(store: str, folder: Path, asker: float, worker: float) -> None:
    """An approval asked by a process whose clock is wrong times out by the time of the server, in another one."""
    async with scene(store, folder) as (post, _):
        async with post.open() as looking:
            with mock.patch.object(SystemClock, "now", staticmethod(lambda: time.time() + asker)):
                async with df.Runtime(looking, workflows=[ASK]) as runtime:
                    asked = await runtime.runner("ask").run(execution_id=NAME)
                    present = await looking.present()
            assert asked.halt is not None
            assert asked.halt.deadline is not None
            assert abs(asked.halt.deadline.timestamp() - present) < LATEST, (asked.halt.deadline, present)
        async with post.open() as looking:
            with mock.patch.object(SystemClock, "now", staticmethod(lambda: time.time() + worker)):
                async with df.Runtime(looking, workflows=[ASK]) as runtime:
                    done = df.Worker(runtime)
                    working = asyncio.ensure_future(done.run())

                    async def fired() -> bool:
                        found = await looking.load(NAME)
                        return found is not None and found.result == "late"

                    await wait_until(fired, timeout=PATIENCE)
                    done.stop()
                    await working
            first, *_, last = await looking.entries(NAME)
            assert 0 < (last.timestamp - first.timestamp).total_seconds() < LATEST


def verify_deadlines(store: str, pairs: Iterable[tuple[float, float]]) -> int:
    with tempfile.TemporaryDirectory(prefix="durable-flow-") as folder:
        return len([asyncio.run(deadline(store, Path(folder), *pair)) for pair in pairs])


def verify(store: str, pairs: Iterable[tuple[float, float]]) -> int:
    with tempfile.TemporaryDirectory(prefix="durable-flow-") as folder:

        async def main() -> int:
            async with Crew(Path(folder)) as crew:
                return len(await all_of(one_pair(crew, store, *pair) for pair in pairs))

        return asyncio.run(main())


def cases(full: bool) -> Iterable[Case]:
    for store in suite.SERVERS:
        yield Case(f"{store}: clocks hours apart", partial(verify, store, APART if full else APART[:2]))
        yield Case(f"{store}: deadlines", partial(verify_deadlines, store, APART if full else APART[:2]))


TABLE = Table("processes whose clocks are hours apart leave each other's executions alone, and time out in time", cases)
