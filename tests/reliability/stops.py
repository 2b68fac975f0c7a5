"""A process that stands still for longer than its lease lasts changes nothing any more: another one has gone on.

Stopped by a signal, it cannot notice: in a step, before a commit, while one is on its way, or before it sees that it
has landed. Blocked by a service that sleeps, its event loop does nothing, and renews no lease. Afterwards it goes on
where it was, finds that the execution is not its own any more, and gives its caller what the other one made of it.
"""

from __future__ import annotations

import asyncio
import os
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
from tests.reliability.crew import PATIENCE, Crew, all_of
from tests.reliability.duty import Journal, Noting, Passage, Post
from tests.reliability.grounds import STORES, scene
from tests.reliability.kills import LONG
from tests.reliability.table import Case, Table

FIGURES: list[str] = []

TTL = {"stopped": 2.0, "blocked": 1.0}
"""Seconds of the lease of the process that stands still. One that is stopped should not be renewing it just then."""

AT_ONCE = 6

FLOW = df.load("""
id: flow
name: Three calls
steps:
  - {id: first, type: call, service: Desk, method: first, output: a, next: work}
  - {id: work, type: call, service: Desk, method: work, output: b, next: last}
  - {id: last, type: call, service: Desk, method: last, output: c, next: done}
  - {id: done, type: end, result: [$a, $b, $c]}
""")

SECOND = 3
"""The operation that makes the end of the step `work` durable: the third commit."""

NAME = "e"


# -- in a process of its own ------------------------------------------------------------------------------------------


async def live(*, post: dict[str, Any], journal: str, who: str, ttl: float, where: str) -> None:
    """Runs the execution, or goes on with it; `where` says when it stands still, or what it waits for."""
    notes = Journal(journal)

    async def meanwhile(method: str, context: df.StepContext) -> None:
        if method != "work":
            return
        match where:
            case "in a step":
                stop()
            case "blocked":
                notes.write("blocked")
                time.sleep(3 * ttl)  # noqa: ASYNC251 - what this is about
                notes.write("awake")
            case "until it is awake":
                await wait_until(lambda: notes.lines("awake"), timeout=PATIENCE)
            case "until it asks":
                await wait_until(lambda: notes.lines("commits late"), timeout=PATIENCE)

    def stop() -> None:
        notes.write("stops")
        os.kill(os.getpid(), signal.SIGSTOP)

    def at(when: str, number: int, verb: str, answer: Any = None) -> None:
        if (number, where) == (SECOND, when):
            assert verb == "commit"
            stop()
        if (number, where, when) == (SECOND, "blocked", "before a commit"):
            notes.write("commits late")

    desk = Noting(
        notes, {method: lambda given, context: who for method in ("first", "work", "last")}, meanwhile=meanwhile
    )
    async with Passage(msgspec.convert(post, Post).open()) as passage:
        passage.before = partial(at, "before a commit")
        passage.amid = partial(at, "amid a commit")
        passage.after = partial(at, "after a commit")
        async with df.Runtime(passage, workflows=[FLOW], services={"Desk": desk}, lease_ttl=ttl) as runtime:
            result = await runtime.runner(FLOW).run(execution_id=NAME)
    notes.write("ended", name=who, status=result.status, output=result.output)


# -- the cases --------------------------------------------------------------------------------------------------------


async def stored(post: Post) -> str:
    """Everything that is stored of the execution: row, lease, frames, variables, inbox and trail."""
    async with post.open() as store:
        return repr((await store.fetch(NAME), list(await store.read(NAME))))


async def one_round(crew: Crew, store: str, where: str, number: int) -> None:
    async with scene(store, crew.folder) as (post, notes), crew.watched(f"{store}, {where}, round {number}") as hands:
        given: dict[str, Any] = {"post": post.given, "journal": str(notes.path)}
        blocks = where == "blocked"
        ttl = TTL["blocked" if blocks else "stopped"]
        slow = await crew.start(live, who="slow", name="slow", where=where, ttl=ttl, **given)
        hands.append(slow)
        meets = "nothing"
        if blocks:
            await wait_until(lambda: notes.lines("blocked") or not slow.running, timeout=PATIENCE)
            meets = ("nothing", "until it is awake", "until it asks")[number % 3]
        else:
            await slow.stopped()
        quick = await crew.start(live, who="quick", name="quick", where=meets, ttl=LONG, **given)
        hands.append(quick)
        await quick.done()
        before = await stored(post)
        if not blocks:
            assert [line["name"] for line in notes.lines("ended")] == ["quick"]
            slow.signal(signal.SIGCONT)
        await slow.done()
        assert await stored(post) == before, "it wrote when its lease was over"
        await judge(post, notes, where)


async def judge(post: Post, notes: Journal, where: str) -> None:
    outputs = {line["name"]: line["output"] for line in notes.lines("ended")}
    assert outputs["slow"] == outputs["quick"], "the two were told different outcomes"
    a, b, c = outputs["quick"]
    workers = {"after a commit": {"slow"}, "amid a commit": {"slow", "quick"}}.get(where, {"quick"})
    assert (a, c) == ("slow", "quick"), f"the first and the last step were done by {a!r} and {c!r}"
    assert b in workers, f"the step was done by {b!r}"
    async with post.open() as store:
        entries = await store.entries(NAME)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    steps = Counter(entry.path for entry in entries if entry.action is df.Action.COMPLETED)
    assert steps == Counter(["first", "work", "last", "done"]), f"a step has two transitions: {steps}"
    calls = Counter(line["name"] for line in notes.lines("effect"))
    assert calls == {"first": 1, "work": 1 + (b == "quick"), "last": 1}, f"calls: {calls}"
    assert len({line["key"] for line in notes.lines("effect")}) == 3


async def rounds(crew: Crew, store: str, wheres: list[str]) -> int:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, where: str) -> None:
        async with limit:
            await one_round(crew, store, where, number)

    return len(await all_of(one(number, where) for number, where in enumerate(wheres)))


def verify(store: str, wheres: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="durable-flow-") as folder:

        async def main() -> int:
            async with Crew(Path(folder)) as crew:
                return await rounds(crew, store, wheres)

        return asyncio.run(main())


def places(store: str) -> list[str]:
    """Where a process is stopped. Amid a commit it would keep the file of SQLite locked, for everybody."""
    found = ["in a step", "before a commit", "after a commit"]
    return found if store == "sqlite" else [*found, "amid a commit"]


def stopped(full: bool) -> Iterable[Case]:
    for store in STORES:
        wheres = (places(store) * 7)[:20] if full else places(store)[-3:]
        yield Case(f"{store}: SIGSTOP, and SIGCONT when another process is done", partial(verify, store, wheres))


def blocked(full: bool) -> Iterable[Case]:
    for store in STORES:
        count = 10 if full else 3 if store == "sqlite" else 1
        yield Case(f"{store}: a service blocks the event loop", partial(verify, store, ["blocked"] * count))


STOPPED = Table("who was stopped for longer than its lease writes nothing", stopped)
BLOCKED = Table("who blocks the event loop loses to the other process", blocked)
