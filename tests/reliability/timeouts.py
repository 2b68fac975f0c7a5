"""Timeouts: of attempts, of waits, of whole workflows; whatever the service does, and over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import pytest

import durable_flow as df
from durable_flow.testing import FakeClock
from tests.reliability.stage import Stage, document, stage
from tests.reliability.table import Case, Table, fake_time

TEN = {"id": "work", "type": "call", "service": "desk", "method": "work", "timeout": 10, "output": "result"}
LATE = "TimeoutError: timed out after 10 s"
RETRIED = {**TEN, "retry": {"max_attempts": 2, "initial_interval": 5, "jitter": 0}}


async def never(_: Any) -> None:
    await asyncio.Event().wait()


def play(clock: FakeClock, *steps: dict[str, Any], **keys: Any) -> Any:
    return stage(clock, document("flow", steps, **keys))


def spawned(on: Stage, clock: FakeClock) -> asyncio.Task[df.ExecutionResult]:
    return on.spawn(on.runner().run({}, execution_id="e"))


async def an_attempt_that_takes_too_long_fails(clock: FakeClock) -> None:
    async with play(clock, TEN) as on:
        on.desk.answers["work"] = never
        begun = clock.now()
        result = await on.runner().run({}, execution_id="e")
        assert (result.error, clock.now() - begun) == (LATE, 10)


async def a_service_that_ignores_its_cancellation_holds_nothing_up(clock: FakeClock) -> None:
    gate = asyncio.Event()

    async def deaf(_: Any) -> str:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        return "at last"

    async with play(clock, TEN) as on:
        on.desk.answers["work"] = deaf
        begun = clock.now()
        result = await on.runner().run({}, execution_id="e")
        over = clock.now() - begun
        before = on.dump()
        gate.set()
        await clock.sleep(5)
        assert on.dump() == before, "the late result of an attempt was stored"
        assert result.error == LATE
        assert 10 <= over <= 12


async def a_late_result_is_ignored(clock: FakeClock) -> None:
    async def stubborn(_: Any) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "late"
        return ""

    async with play(clock, TEN) as on:
        on.desk.answers["work"] = stubborn
        assert (await on.runner().run({}, execution_id="e")).error == LATE


async def a_late_result_does_not_become_that_of_the_next_attempt(clock: FakeClock) -> None:
    async def first(_: Any) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            return "of the first attempt"  # noqa: B012 - services do such things

    async with play(clock, RETRIED) as on:
        on.desk.answers["work"] = [first, "of the second attempt"]
        result = await on.runner().run({}, execution_id="e")
        assert result.output == "of the second attempt"
        entries = [(entry.action, entry.attempt) for entry in await on.store.entries("e") if entry.step_id == "work"]
        assert entries == [("retried", 1), ("resumed", 2), ("completed", 2)]


async def a_timeout_error_of_the_service_is_not_taken_for_ours(clock: FakeClock) -> None:
    async with play(clock, TEN) as on:
        on.desk.answers["work"] = TimeoutError("the bank was slow")
        begun = clock.now()
        result = await on.runner().run({}, execution_id="e")
        assert (result.error, clock.now() - begun) == ("TimeoutError: the bank was slow", 0)


async def every_attempt_has_its_own_time(clock: FakeClock) -> None:
    async with play(clock, RETRIED) as on:
        on.desk.answers["work"] = never
        begun = clock.now()
        result = await on.runner().run({}, execution_id="e")
        assert result.error_info is not None
        assert (result.error_info.attempts, clock.now() - begun) == (2, 25)
        assert [context.deadline for context in on.desk.contexts] == [begun + 10, begun + 25]


async def the_timeout_holds_after_a_crash(clock: FakeClock) -> None:
    async with play(clock, TEN) as on:
        on.desk.answers["work"] = never
        spawned(on, clock)
        await clock.sleep(8)
        on.die()
        await on.take_over()
        begun = clock.now()
        result = await on.runner().recover("e")
        assert (result.error, clock.now() - begun) == (LATE, 10)
        assert len(on.desk.calls) == 2


async def the_deadline_of_a_wait_holds_over_a_restart(clock: FakeClock) -> None:
    ask = {"id": "ask", "type": "approval", "prompt": "?", "timeout": 60, "on_timeout": "late", "next": "done"}
    steps = (ask, {"id": "done", "type": "end", "result": "done"}, {"id": "late", "type": "end", "result": "late"})
    async with play(clock, *steps) as on:
        await on.runner().run({}, execution_id="e")
        await on.restart()
        clock.jump(60)
        with pytest.raises(df.ConflictError):
            await on.runner().resume("e", approved=True)
        assert (await on.runner().result("e")).output == "late"


async def the_time_of_a_workflow_runs_while_it_waits(clock: FakeClock) -> None:
    async with play(clock, {"id": "ask", "type": "halt"}, timeout=60) as on:
        await on.runner().run({}, execution_id="e")
        await on.restart()
        clock.jump(60)
        with pytest.raises(df.ConflictError):
            await on.runner().resume("e", response=1)
        assert (await on.runner().result("e")).error == "TimeoutError: the workflow timed out after 60 s"


async def the_time_of_a_workflow_goes_on_after_a_resume(clock: FakeClock) -> None:
    ask = {"id": "ask", "type": "halt", "next": "work"}
    work = {"id": "work", "type": "call", "service": "desk", "method": "work"}
    async with play(clock, ask, work, timeout=60) as on:
        on.desk.answers["work"] = never
        await on.runner().run({}, execution_id="e")
        await on.restart()
        clock.jump(50)
        begun = clock.now()
        result = await on.runner().resume("e", response=1)
        assert (result.error, clock.now() - begun) == ("TimeoutError: the workflow timed out after 60 s", 10)
        row = await on.store.load("e")
        assert row is not None
        assert row.ctx == {"response": 1}, "the progress of a workflow that timed out is gone"


async def a_workflow_whose_time_is_up_makes_no_further_step_in_recovery(clock: FakeClock) -> None:
    work = {"id": "work", "type": "call", "service": "desk", "method": "work", "next": "more"}
    more = {"id": "more", "type": "call", "service": "desk", "method": "more"}
    async with play(clock, work, more, timeout=60) as on:
        on.desk.answers["work"] = [never, "fine"]
        spawned(on, clock)
        await clock.sleep(1)
        on.die()
        await on.end()
        clock.jump(60)
        await on.begin()
        result = await on.runner().recover("e")
        assert result.error == "TimeoutError: the workflow timed out after 60 s"
        assert on.desk.called == ["work"]


async def the_timeout_of_a_sub_workflow_cancels_it(clock: FakeClock) -> None:
    sub = {"id": "sub", "type": "workflow", "workflow_id": "child", "timeout": 60, "on_error": "sorry", "next": "done"}
    steps = [
        sub,
        {"id": "done", "type": "end", "result": "done"},
        {"id": "sorry", "type": "end", "result": "$_last_error"},
    ]
    child = document("child", [{"id": "work", "type": "call", "service": "desk", "method": "work"}])
    async with stage(clock, document("flow", steps), child) as on:
        on.desk.answers["work"] = never
        begun = clock.now()
        result = await on.runner().run({}, execution_id="e")
        assert (result.output["class"], clock.now() - begun) == ("TimeoutError", 60)
        row = await on.store.load("e.sub")
        assert row is not None
        assert row.status == "cancelled"


CHECKS: tuple[Callable[[FakeClock], Awaitable[None]], ...] = (
    an_attempt_that_takes_too_long_fails,
    a_service_that_ignores_its_cancellation_holds_nothing_up,
    a_late_result_is_ignored,
    a_late_result_does_not_become_that_of_the_next_attempt,
    a_timeout_error_of_the_service_is_not_taken_for_ours,
    every_attempt_has_its_own_time,
    the_timeout_holds_after_a_crash,
    the_deadline_of_a_wait_holds_over_a_restart,
    the_time_of_a_workflow_runs_while_it_waits,
    the_time_of_a_workflow_goes_on_after_a_resume,
    a_workflow_whose_time_is_up_makes_no_further_step_in_recovery,
    the_timeout_of_a_sub_workflow_cancels_it,
)


def cases(full: bool) -> Iterable[Case]:
    for check in CHECKS:
        yield Case(check.__name__.replace("_", " "), fake_time(partial(check)))


TABLE = Table("time that is up is up: whatever the service does, over restarts, exactly once", cases)
