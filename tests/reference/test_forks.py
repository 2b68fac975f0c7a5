"""The past of every reference workflow can be told from its trail: folded, it is what is stored; and a fork from any
step of the workflow itself comes to the same end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from typing import Any

import pytest
from msgspec.structs import replace

import durable_flow as df
from durable_flow.fork import Target, moment_of
from durable_flow.history import History
from durable_flow.machine import UNDO
from durable_flow.model.codec import decode_frame, decode_record
from durable_flow.testing import Answer, Cancel, Expire, FakeClock, Pass, Scenario, Send, run
from durable_flow.testing.scenario import Pause, Unpause
from tests.reference import SCENARIOS

PLAYED = {scenario.name: scenario for scenario in SCENARIOS}


async def play(
    runtime: df.Runtime, clock: FakeClock, scenario: Scenario, began: Awaitable[df.ExecutionResult]
) -> df.ExecutionResult:
    """What an execution comes to when people do as the scenario says; after every call its trail is folded."""
    result = await began
    name, runner = result.execution_id, runtime.runner(scenario.workflow)
    asked: Counter[str] = Counter()
    retries = 0
    while True:
        await check(runtime, name)
        if result.failed and retries < scenario.retries:
            retries += 1
            clock.jump(3600)
            result = await runner.retry(name)
            continue
        if not result.halted:
            return result
        halt = min(result.halts, key=lambda halt: halt.wait_id)
        moves = scenario.moves[halt.step_id]
        move = moves[asked[halt.wait_id]] if isinstance(moves, list) else moves
        asked[halt.wait_id] += 1
        match move:
            case Answer(arguments):
                result = await runner.resume(name, wait_id=halt.wait_id, **arguments)
                continue
            case Expire():
                assert halt.deadline is not None
                clock.jump(max(0.0, halt.deadline.timestamp() - clock.now()) + 1)
            case Pass(seconds):
                clock.jump(seconds)
            case Send(signal, payload):
                await runner.signal(name, signal, payload)
            case Cancel(by):
                result = await runner.cancel(name, by=by)
                continue
            case Pause(by):
                result = await runner.pause(name, by=by)
                continue
            case Unpause(by):
                result = await runner.unpause(name, by=by)
                continue
        result = await runner.recover(name)


async def fold(runtime: df.Runtime, name: str) -> History:
    row = await runtime.store.row(name)
    assert row is not None
    history = History(await runtime.engine.load_definition(row.definition_hash, name))
    for seq, blob in await runtime.store.read(name):
        history.add(seq, decode_record(blob, execution_id=name))
    return history


async def check(runtime: df.Runtime, name: str) -> None:
    """The trail tells what is stored: every frame with its cursor, visit, state, attempts, memo and output, and every
    variable. (Waits and times of attempts are no business of the past.)"""
    stored = await runtime.store.fetch(name)
    assert stored is not None
    history = await fold(runtime, name)
    frames = {path: decode_frame(blob, execution_id=name) for path, blob in [("", stored.row.root), *stored.frames]}
    assert history.frames == {
        path: replace(frame, wait=None, first_try=None, due=None) for path, frame in frames.items()
    }
    sets: dict[str, dict[str, int]] = {}
    for frame, variable, seq in stored.sets:
        if frame != UNDO:  # what was done in the past is undone by the one that did it
            sets.setdefault(frame, {})[variable] = seq
    assert {frame: names for frame, names in history.sets.items() if names} == sets
    assert history.status == stored.row.status


def opened(scenario: Scenario, clock: FakeClock) -> df.Runtime:
    return df.Runtime(
        "sqlite://:memory:",
        workflows=[scenario.workflow, *scenario.others],
        services=scenario.services(clock),
        clock=clock,
        **{"gates": scenario.gates(clock), **scenario.options},
    )


@pytest.mark.parametrize("name", PLAYED)
def test_a_fork_from_every_step_comes_to_the_same_end(name: str) -> None:
    scenario = PLAYED[name]
    clock = FakeClock()

    async def main() -> None:
        async with opened(scenario, clock) as runtime:
            runner = runtime.runner(scenario.workflow)
            first = await play(runtime, clock, scenario, runner.run(scenario.input, execution_id="original"))
            before = await stored_bytes(runtime, "original")
            visited = {entry.path for entry in await runtime.store.entries("original")}
            forks = 0
            for step in scenario.workflow.steps:
                if step.id not in {path.partition("[")[0].partition("/")[0].partition("#")[0] for path in visited}:
                    continue
                forked = runner.fork("original", from_step=step.id, execution_id=f"from-{step.id}")
                again = await play(runtime, clock, scenario, forked)
                assert outcome(again) == outcome(first), step.id
                forks += 1
            assert forks
            assert await stored_bytes(runtime, "original") == before

    run(main, clock)


@pytest.mark.parametrize("name", PLAYED)
def test_a_fork_from_every_step_inside_others_comes_to_the_same_end(name: str) -> None:
    scenario = PLAYED[name]
    clock = FakeClock()

    async def main() -> None:
        async with opened(scenario, clock) as runtime:
            runner = runtime.runner(scenario.workflow)
            first = await play(runtime, clock, scenario, runner.run(scenario.input, execution_id="original"))
            row = await runtime.store.row("original")
            assert row is not None
            steps = {
                entry.path
                for entry in await runtime.store.entries("original")
                if "/" in entry.path
                and not entry.path.startswith("~")
                and entry.path.rpartition("/")[2].partition("#")[0] == entry.step_id
            }
            for path in sorted(steps):
                if path.endswith(")"):
                    with pytest.raises(df.ValidationError, match="is a piece of a step: fork from that"):
                        await runner.fork("original", from_step=path)
                    continue
                moment = await moment_of(runtime.engine, row, Target(path))
                assert moment.path == path
                again = await play(runtime, clock, scenario, runner.fork("original", from_step=path))
                assert outcome(again) == outcome(first), path

    run(main, clock)


def outcome(result: df.ExecutionResult) -> Any:
    return result.status, result.output, result.error


async def stored_bytes(runtime: df.Runtime, name: str) -> Any:
    stored = await runtime.store.fetch(name)
    assert stored is not None
    return stored, await runtime.store.read(name)
