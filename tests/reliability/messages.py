"""Messages of a queue that come never, once or several times, late and in any order, change nothing.

On every store two processes are told by such a queue of what is left to them, and one of them has a worker that finds
what no message told of. Each execution is answered once in the middle, by way of the same queue.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import durable_flow as df
from tests.reliability.grounds import STORES, ground
from tests.reliability.table import Case, Table

FIGURES: list[str] = []

FLOW = df.load("""
id: flow
name: Two effects, and an answer between them
inputs: {n: integer}
steps:
  - {id: first, type: call, service: Desk, method: first, input: $input.n, next: ask}
  - {id: ask, type: halt, next: second}
  - {id: second, type: call, service: Desk, method: second, input: $input.n, output: result}
""")

PATIENCE = 120.0
"""Seconds after which an execution is lost."""


class Careless:
    """An adapter that keeps zero to three copies of each message, and delivers them to anybody in any order."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.held: list[str] = []
        self.sent: Counter[str] = Counter()
        self.came: Counter[str] = Counter()

    async def submit(self, execution_id: str, *, queue: str | None, priority: int) -> None:
        self.sent[execution_id] += 1
        self.held += [execution_id] * self.chance.randint(0, 3)

    async def deliver(self, adapters: list[df.InlineAdapter]) -> None:
        messages, self.held = self.held, []
        self.chance.shuffle(messages)
        for name in messages:
            self.came[name] += 1
            await self.chance.choice(adapters).submit(name, queue=None, priority=5)


class Desk:
    """Counts what is done."""

    def __init__(self) -> None:
        self.effects: Counter[tuple[str, int]] = Counter()

    async def first(self, n: int) -> int:
        self.effects["first", n] += 1
        return n

    async def second(self, n: int) -> int:
        self.effects["second", n] += 1
        return n


async def play(open_store: Any, count: int, seed: int, name: str) -> int:
    desk, careless = Desk(), Careless(random.Random(f"messages {seed}"))
    async with (
        open_store() as near,
        open_store() as far,
        df.Runtime(near, workflows=[FLOW], services={"Desk": desk}) as here,
        df.Runtime(far, workflows=[FLOW], services={"Desk": desk}) as there,
    ):
        adapters = [df.InlineAdapter(here), df.InlineAdapter(there)]
        runner = here.background("flow", careless)
        names = [await runner.run({"n": n}, execution_id=f"e{n}") for n in range(count)]
        early = list(careless.held)
        worker = df.Worker(there)
        working = asyncio.create_task(worker.run())
        try:
            await careless.deliver(adapters)
            await _all(runner, names, df.Status.HALTED)
            careless.held += early
            await careless.deliver(adapters)
            for one in careless.chance.sample(names, len(names)):
                await runner.resume(one, response=True)
            careless.held += early
            await careless.deliver(adapters)
            await _all(runner, names, df.Status.COMPLETED)
            careless.held += early
            await careless.deliver(adapters)
        finally:
            worker.stop()
            await working
        unlike = {effect: times for effect, times in desk.effects.items() if times != 1}
        assert not unlike, f"these happened so often: {unlike}"
        assert len(desk.effects) == 2 * count, f"{2 * count - len(desk.effects)} effects are missing"
        for one in names:
            entries = await here.store.entries(one)
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            assert [entry.action for entry in entries].count(df.Action.STARTED) == 1
    lost = sum(one not in careless.came for one in names)
    FIGURES.append(
        f"messages: {name}, {count} executions, {careless.came.total():,} messages delivered for "
        f"{careless.sent.total():,} sent, {lost} executions without any; each effect once"
    )
    return count


async def _all(runner: df.BackgroundRunner, names: list[str], status: df.Status) -> None:
    """Every execution comes to this status."""
    for name in names:
        result = await runner.wait(name, timeout=PATIENCE)
        assert result is not None, f"{name} is {await runner.status(name)} for {PATIENCE:g} s"
        assert result.status is status, f"{name} is {result.status}: {result.error}"


def verify(store: str, count: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder, ground(store, Path(folder)) as post:
        return asyncio.run(play(post.open, count, seed, store))


def cases(full: bool) -> Iterable[Case]:
    for seed in range(5 if full else 1):
        for store in STORES:
            yield Case(f"{store}, messages of seed {seed}", partial(verify, store, 300 if full else 60, seed))


TABLE = Table("messages that are lost, doubled, late and out of order change nothing", cases, FIGURES)
