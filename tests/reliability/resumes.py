"""Two processes with many tasks each answer one wait: one wins, whoever else tries is told, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import durable_flow as df
from tests.reliability.crew import PATIENCE
from tests.reliability.duty import Post
from tests.reliability.grounds import STORES, ground
from tests.reliability.nesting import linked
from tests.reliability.stage import document
from tests.reliability.table import Case, Table

Judge = Callable[[Counter[str], list[df.Entry]], None]

PROCESSES = 2
TASKS = 25

FLOW: dict[str, Any] = document(
    "flow",
    linked(
        [
            {"id": "ask", "type": "halt", "reason": "?"},
            {"id": "note", "type": "assign", "set": {"result": "$response"}},
        ]
    ),
)

NEEDED = 3
VOTE: dict[str, Any] = document(
    "vote",
    linked(
        [
            {"id": "approve", "type": "approval", "prompt": "?", "required": NEEDED},
            {"id": "note", "type": "assign", "set": {"result": "$approvals.approve.votes"}},
        ]
    ),
)


async def stored(store: df.Store, execution_id: str) -> str:
    """Everything that is stored of an execution: row, lease, frames, variables, inbox and trail."""
    return repr((await store.fetch(execution_id), list(await store.read(execution_id))))


async def tell(racer: Process, number: int, halt: df.Halt) -> None:
    assert racer.stdin is not None
    racer.stdin.write(f"p{number} {halt.execution_id} {halt.wait_id}\n".encode())
    await racer.stdin.drain()


async def told(racer: Process) -> str:
    assert racer.stdout is not None
    line = (await asyncio.wait_for(racer.stdout.readline(), PATIENCE)).decode().strip()
    assert line, "a process has died"
    return line


async def ask(racers: list[Process], halt: df.Halt) -> list[str]:
    """Every task of every process answers at once; what they were told."""
    for number, racer in enumerate(racers):
        await tell(racer, number, halt)
    return [answer for racer in racers for answer in json.loads(await told(racer))]


async def race(post: Post, rounds: int, flow: dict[str, Any], judge: Judge) -> None:
    async with post.open() as store:
        async with df.Runtime(store, workflows=[flow]) as runtime:
            runner = runtime.runner(flow["id"])
            halts = [(await runner.run({}, execution_id=f"e{number}")).halt for number in range(rounds)]
        command = ("-m", "tests.reliability.racer", post.address, str(TASKS))
        racers = [
            await asyncio.create_subprocess_exec(sys.executable, *command, stdin=PIPE, stdout=PIPE)
            for _ in range(PROCESSES)
        ]
        try:
            for racer in racers:
                assert await told(racer) == "ready"
            for halt in halts:
                assert halt is not None
                await one_round(store, racers, halt, judge)
        finally:
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.close()
                try:
                    await asyncio.wait_for(racer.wait(), PATIENCE)
                except TimeoutError:
                    racer.kill()
                    await racer.wait()


async def one_round(store: df.Store, racers: list[Process], halt: df.Halt, judge: Judge) -> None:
    outcomes = await ask(racers, halt)
    executions = await store.execution_ids(limit=1000)
    before = await stored(store, halt.execution_id)
    assert Counter(await ask(racers, halt)) == {"ConflictError": PROCESSES * TASKS}
    assert await stored(store, halt.execution_id) == before, "a replayed answer changed what is stored"
    assert await store.execution_ids(limit=1000) == executions, "there are more executions than before"
    entries = await store.entries(halt.execution_id)
    assert [entry.action.value for entry in entries if entry.step_id == "note"] == ["completed"]
    judge(Counter(outcomes), [entry for entry in entries if entry.action == df.Action.ANSWERED])


def one_winner(outcomes: Counter[str], answered: list[df.Entry]) -> None:
    won = [outcome for outcome in outcomes if outcome.startswith("completed: ")]
    assert sum(outcomes[outcome] for outcome in won) == 1, f"not one winner: {outcomes}"
    assert outcomes["ConflictError"] == PROCESSES * TASKS - 1, f"not all others were refused: {outcomes}"
    (winner,) = answered
    assert won == [f"completed: {winner.output}"]
    assert winner.actor == winner.output


def as_many_as_needed(outcomes: Counter[str], answered: list[df.Entry]) -> None:
    assert outcomes["ConflictError"] == PROCESSES * TASKS - NEEDED, f"not {NEEDED} votes were taken: {outcomes}"
    assert set(outcomes) <= {"ConflictError", "halted: None", *(told for told in outcomes if "completed: " in told)}
    assert len({entry.actor for entry in answered}) == len(answered) == NEEDED


def verify(store: str, rounds: int, flow: dict[str, Any], judge: Judge) -> None:
    with tempfile.TemporaryDirectory() as folder, ground(store, Path(folder)) as post:
        asyncio.run(race(post, rounds, flow, judge))


def cases(full: bool) -> Iterable[Case]:
    def case(store: str, name: str, rounds: int, flow: dict[str, Any], judge: Judge) -> Case:
        name = f"{store}: {PROCESSES} processes of {TASKS} tasks {name}, {rounds} rounds"
        return Case(name, partial(verify, store, rounds, flow, judge), weight=rounds)

    for store in STORES:
        yield case(store, "answer a halt", 100 if full else 5, FLOW, one_winner)
        if full or store == "sqlite":
            yield case(store, "approve", 20 if full else 2, VOTE, as_many_as_needed)


TABLE = Table("of all answers to a wait as many are taken as it needs, and the others change nothing", cases)
