"""A process is killed at any operation on its store, and another one goes on: nothing is lost, nothing that was
finished happens again, and what was in flight happens again under the same key.

A process is forked for each case, opens the store, and kills itself by SIGKILL before an operation, after it and
before it sees the answer, or while it is on its way. Another one finds what is there and goes on: half of them run the
execution again under its id, the others are workers. What the services did outside is in a file that every process
appends to.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

import durable_flow as df
from durable_flow.stores.base import Busy
from durable_flow.testing import wait_until
from tests.reference import workflow
from tests.reliability.crew import PATIENCE, Crew, all_of
from tests.reliability.duty import Journal, Noting, Passage, Post
from tests.reliability.grounds import STORES, scene
from tests.reliability.table import Case, Table

FIGURES: list[str] = []

TTL = 1.0
"""Seconds of the lease of a process that dies: until then nobody may take over what it left."""

LONG = 10.0
"""The same of a process that does not: a machine with other things to do must not make it lose its lease."""

AT_ONCE = 6
"""How many cases are played side by side: most of their time they wait for a lease to run out."""

JOURNEY = df.load("""
id: journey
name: Calls, a choice, a loop in which a first attempt fails, branches, an approval
inputs: {stops: {type: array}}
steps:
  - {id: plan, type: call, service: Desk, method: plan, input: {stops: $input.stops}, output: plan, next: size}
  - id: size
    type: router
    routes:
      - {when: {field: plan.length, op: gte, value: 2}, then: stops}
    default: home
  - id: stops
    type: loop
    over: $input.stops
    as: stop
    output: rooms
    next: both
    do:
      - id: room
        type: call
        service: Desk
        method: room
        input: {stop: $stop}
        output: room
        retry: {max_attempts: 3, initial_interval: 0.01, jitter: 0}
  - id: both
    type: parallel
    output: ways
    next: ask
    branches:
      - {id: out, type: call, service: Desk, method: ride, input: {way: out}, output: out}
      - {id: back, type: call, service: Desk, method: ride, input: {way: back}, output: back}
  - {id: ask, type: approval, prompt: Book all of it?, on_reject: home, next: pay}
  - {id: pay, type: call, service: Desk, method: pay, input: {rooms: $rooms, ways: $ways}, output: paid, next: done}
  - {id: done, type: end, result: {paid: $paid, by: $approvals.ask.votes.0.by}}
  - {id: home, type: end, result: stayed at home}
""")


def room(given: Any, context: df.StepContext) -> str:
    if given["stop"] == "Rome" and context.attempt == 1:
        raise ConnectionError("the line is busy")
    return f"room in {given['stop']}"


def reserve(given: Any, context: df.StepContext) -> dict[str, str]:
    if context.attempt == 1:
        raise ConnectionError("the line is busy")
    return {"id": "r1"}


class Play(msgspec.Struct, frozen=True):
    """A workflow with what it is given."""

    workflow: df.WorkflowDef
    input: Mapping[str, Any]
    services: Mapping[str, Mapping[str, Any]]


PLAYS = {
    "journey": Play(
        JOURNEY,
        {"stops": ["Bern", "Rome"]},
        {
            "Desk": {
                "plan": lambda given, context: {"length": len(given["stops"])},
                "room": room,
                "ride": lambda given, context: f"ride {given['way']}",
                "pay": lambda given, context: [*given["rooms"], *given["ways"]],
            }
        },
    ),
    "w01": Play(
        workflow("w01_order"),
        {"items": [{"price": 60}, {"price": 50}]},
        {
            "Stock": {"reserve": reserve},
            "Bank": {"charge": lambda given, context: {"charged": given["amount"]}},
        },
    ),
}

NAME = "e"

When = Literal["before", "amid", "after"]


# -- in a process of its own ------------------------------------------------------------------------------------------


async def live(*, post: dict[str, Any], journal: str, play: str, role: str, fault: tuple[int, When] | None) -> None:
    """Runs the execution, or goes on with it; at the k-th operation it dies."""
    notes = Journal(journal)
    played = PLAYS[play]
    services = {name: Noting(notes, dict(methods)) for name, methods in played.services.items()}
    place = msgspec.convert(post, Post)
    ttl = LONG if fault is None else TTL
    async with Passage(place.open()) as passage:
        if fault is None:
            await look_around(passage.store, notes)
        plant(passage, notes, fault)
        async with df.Runtime(passage, workflows=[played.workflow], services=services, lease_ttl=ttl) as runtime:
            if role == "worker":
                working = asyncio.ensure_future(df.Worker(runtime).run())
                await attend(runtime, played)
                working.cancel()
            else:
                await drive(runtime, played)
        done = await passage.store.load(NAME)
        assert done is not None
        notes.write("ended", status=done.status, output=done.result)


async def look_around(store: df.Store, notes: Journal) -> None:
    """Writes down what the process before left."""
    left = await store.load(NAME)
    entries = await store.entries(NAME)
    done = [(entry.path, entry.attempt) for entry in entries if entry.step_type == "call"]
    notes.write("found", status=left and left.status, owner=left and left.owner, done=done)


def plant(passage: Passage, notes: Journal, fault: tuple[int, When] | None) -> None:
    """The process dies at this operation, and tells of each before it."""

    def die(when: When, number: int, verb: str) -> None:
        if fault is not None and tuple(fault) == (number, when):
            notes.write("dies", verb=verb)
            os.kill(os.getpid(), signal.SIGKILL)

    def before(number: int, verb: str) -> None:
        if number:
            notes.write("operation", verb=verb)
            die("before", number, verb)

    def after(number: int, verb: str, answer: Any) -> None:
        if answer and verb in ("claim", "take") and not isinstance(answer, Busy):
            notes.write("took over")
        die("after", number, verb)

    passage.before, passage.amid, passage.after = before, partial(die, "amid"), after


async def drive(runtime: df.Runtime, played: Play) -> None:
    """Runs the execution until it is over, and answers what it asks; somebody may have done so before."""
    runner = runtime.runner(played.workflow)
    result = await runner.run(played.input, execution_id=NAME)
    while not result.status.over:
        try:
            result = await runner.resume(NAME, approved=True, by="ann")
        except df.ConflictError:
            result = await runner.run(played.input, execution_id=NAME)


async def attend(runtime: df.Runtime, played: Play) -> None:
    """Answers what the execution asks while a worker drives it. One that is not there is begun."""
    runner = runtime.runner(played.workflow)
    if await runtime.store.load(NAME) is None:
        await drive(runtime, played)

    async def over() -> bool:
        row = await runtime.store.load(NAME)
        assert row is not None
        if row.status is df.Status.HALTED:
            try:
                await runner.resume(NAME, approved=True, by="ann")
            except df.ConflictError:
                return False
        return row.status.over

    await wait_until(over, timeout=PATIENCE / 2)


# -- the cases --------------------------------------------------------------------------------------------------------


class Expected(msgspec.Struct, frozen=True):
    """What an execution that nobody kills is like."""

    verbs: list[str]
    output: Any
    trail: Counter[tuple[str, str, int]]
    effects: Counter[tuple[str, int]]


async def trail_of(post: Post) -> Counter[tuple[str, str, int]]:
    async with post.open() as store:
        entries = await store.entries(NAME)
        row = await store.row(NAME)
        assert row is not None
        assert (row.owner, row.seq) == (None, len(entries))
        assert not row.waits
        assert not await store.inbox(NAME)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    notes = (df.Action.RECOVERED, df.Action.RESUMED)
    assert sum(entry.action is df.Action.RECOVERED for entry in entries) <= 1
    return Counter((entry.action, entry.path, entry.attempt) for entry in entries if entry.action not in notes)


async def undisturbed(crew: Crew, play: str, store: str) -> Expected:
    async with scene(store, crew.folder) as (post, notes), crew.watched("without a fault") as hands:
        given: dict[str, Any] = {"post": post.given, "journal": str(notes.path), "play": play, "role": "caller"}
        hands.append(await crew.start(live, fault=(0, "before"), **given))
        await hands[0].done()
        return Expected(
            [line["verb"] for line in notes.lines("operation")],
            notes.one("ended")["output"],
            await trail_of(post),
            Counter((line["path"], line["attempt"]) for line in notes.lines("effect")),
        )


async def one_kill(
    crew: Crew, play: str, store: str, k: int, when: When, role: str, expected: Expected
) -> float | None:
    """After how many seconds the second process took over; None where there was nothing to take over."""
    what = f"{store}, {play}, killed {when} operation {k} ({expected.verbs[k - 1]}), then a {role}"
    async with scene(store, crew.folder) as (post, notes), crew.watched(what) as hands:
        given: dict[str, Any] = {"post": post.given, "journal": str(notes.path), "play": play}
        hands.append(await crew.start(live, name="the first", role="caller", fault=(k, when), **given))
        assert await hands[0].ended() == -signal.SIGKILL, "it was not killed"
        hands.append(await crew.start(live, name="the second", role=role, fault=None, **given))
        await hands[1].done()
        ended = notes.one("ended")
        assert (ended["status"], ended["output"]) == ("completed", expected.output), ended
        trail = await trail_of(post)
        assert trail == expected.trail, f"more: {trail - expected.trail}, missing: {expected.trail - trail}"
        judge(notes, expected)
        if notes.one("found")["owner"] is None:
            return None
        took, dies = notes.lines("took over"), notes.one("dies")
        return float(next(line["at"] for line in took if line["pid"] == hands[1].pid) - dies["at"])


def judge(notes: Journal, expected: Expected) -> None:
    """What was finished does not happen again; the rest happens in the second process, with the key it had."""
    dead = notes.one("dies")["pid"]
    done = {tuple(pair) for pair in notes.one("found")["done"]}
    first: Counter[Any] = Counter()
    second: Counter[Any] = Counter()
    keys: dict[str, set[str]] = {}
    for line in notes.lines("effect"):
        (first if line["pid"] == dead else second)[line["path"], line["attempt"]] += 1
        keys.setdefault(line["path"], set()).add(line["key"])
    assert all(len(same) == 1 for same in keys.values()), f"a repetition had another key: {keys}"
    assert len(set.union(*keys.values())) == len(keys), f"two effects had one key: {keys}"
    assert set(first) <= set(expected.effects)
    assert max(first.values(), default=1) == 1, f"an effect happened twice in one process: {first}"
    assert done <= set(first), "an effect is finished that never happened"
    missing = Counter({effect: 1 for effect in expected.effects if effect not in done})
    assert second == missing, f"the second process did {second}, and was to do {missing}"


async def kill_at_every(crew: Crew, play: str, store: str, full: bool) -> int:
    expected = await undisturbed(crew, play, store)
    places = len(expected.verbs)
    assert {"commit"} <= set(expected.verbs)
    limit = asyncio.Semaphore(AT_ONCE)
    whens: tuple[When, ...] = ("before", "amid", "after")

    async def case(number: int, k: int, when: When) -> float | None:
        async with limit:
            return await one_kill(crew, play, store, k, when, ("caller", "worker")[number % 2], expected)

    chosen = [(k, when) for k in range(1, places + 1) for when in whens]
    if not full:
        chosen = chosen[:: 7 if store == "sqlite" else 17]
    found = await all_of(case(number, k, when) for number, (k, when) in enumerate(chosen))
    took = sorted(seconds for seconds in found if seconds is not None)
    FIGURES.append(
        f"{store}, {play}: {len(found)} kills at {places} operations; {len(took)} leases of {TTL:g} s taken over "
        f"within {took[len(took) // 2]:.2f} s (median) and {took[-1]:.2f} s (all)"
    )
    return len(found)


def verify(store: str, play: str, full: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="durable-flow-") as folder:

        async def main() -> int:
            async with Crew(Path(folder)) as crew:
                return await kill_at_every(crew, play, store, full)

        return asyncio.run(main())


def cases(full: bool) -> Iterable[Case]:
    for store in STORES:
        for play in PLAYS if full or store == "sqlite" else ("journey",):
            yield Case(f"{store}: kill -9 in {play}", partial(verify, store, play, full))


TABLE = Table("a killed process loses nothing and repeats nothing that was finished", cases, FIGURES)
