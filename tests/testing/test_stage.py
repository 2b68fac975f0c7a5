"""`fake_time`, `Stage` and `Scripted`, as somebody uses them who tests a workflow of his own."""

import asyncio
import inspect
import threading
from pathlib import Path
from typing import Any

import pytest

import durable_flow as df
from durable_flow.testing import FakeClock, InTurn, Reply, Scripted, Stage, fake_time, wait_until

MONTH = 30 * 86_400

ASK = {
    "id": "ask",
    "name": "Ask",
    "steps": [
        {"id": "boss", "type": "approval", "prompt": "May I?", "timeout": "30d", "on_timeout": "late", "next": "yes"},
        {"id": "yes", "type": "end", "result": "yes"},
        {"id": "late", "type": "end", "result": "nobody answered"},
    ],
}
WORK = {
    "id": "work",
    "name": "Work",
    "steps": [
        {
            "id": "first",
            "type": "call",
            "service": "Desk",
            "method": "work",
            "input": {"n": 1},
            "output": "done",
            "retry": {"max_attempts": 5, "initial_interval": "1h", "backoff": 1, "jitter": 0, "max_interval": "1h"},
            "next": "month",
        },
        {"id": "month", "type": "wait", "for": "30d", "next": "last"},
        {"id": "last", "type": "end", "result": "$done"},
    ],
}


@fake_time
async def test_an_approval_of_thirty_days_expires() -> None:
    async with Stage(ASK) as stage:
        asked = await stage.runner().run()
        await stage.clock.advance(days=29, hours=23)
        assert (await stage.until(asked.execution_id)).halted
        await stage.clock.advance(hours=1)
        assert (await stage.until(asked.execution_id)).output == "nobody answered"


@fake_time
async def test_the_clock_of_the_loop_is_that_of_the_stage(clock: FakeClock) -> None:
    async with Stage(ASK) as stage:
        assert stage.clock is clock


@pytest.mark.parametrize("number", [1, 2])
@fake_time
async def test_fixtures_and_parameters_stay(number: int, tmp_path: Path, clock: FakeClock) -> None:
    await clock.sleep(number)
    assert tmp_path.name


def test_what_a_stage_has_only_while_it_is_open_says_so() -> None:
    with pytest.raises(AttributeError, match="a stage has its runtime once it is open: async with"):
        Stage(ASK).runner()
    assert not hasattr(Stage(ASK), "other")


def test_it_is_a_plain_function() -> None:
    @fake_time
    async def test(clock: FakeClock, other: int) -> None:
        """What it says."""

    assert not inspect.iscoroutinefunction(test)
    assert list(inspect.signature(test).parameters) == ["other"]
    assert test.__doc__ == "What it says."


async def test_on_a_loop_of_somebody_else_time_passes_when_it_is_told_to() -> None:
    async with Stage(ASK) as stage:
        runner = stage.runner()
        asked = await runner.run()
        await stage.clock.advance(days=30)
        assert (await runner.result(asked.execution_id)).output == "nobody answered"
        with pytest.raises(df.ConfigError, match="fake_time"):
            await stage.until(asked.execution_id)


STORES = ["sqlite://:memory:", "sqlite:///{folder}/flows.db"]


@pytest.mark.parametrize("url", STORES)
@fake_time
async def test_retries_and_waits_take_no_time_on_any_store(url: str, tmp_path: Path, clock: FakeClock) -> None:
    desk = Scripted(work=InTurn(ConnectionError("busy"), ValueError, {"n": 2}))
    begun = clock.now()
    async with Stage(WORK, services={"Desk": desk}, store=url.replace("{folder}", str(tmp_path))) as stage:
        result = await stage.runner().run()

    assert result.output == {"n": 2}
    assert desk.inputs("work") == [{"n": 1}] * 3
    assert clock.now() == pytest.approx(begun + 2 * 3600 + MONTH, abs=60)


@fake_time
async def test_a_service_of_ones_own_may_use_threads_files_and_the_fake_clock(clock: FakeClock) -> None:
    told: list[str] = []

    class Desk:
        async def work(self, n: int) -> str:
            await clock.sleep(86_400)
            await asyncio.to_thread(told.append, threading.current_thread().name)
            return "worked"

    async with Stage(WORK, services={"Desk": Desk()}) as stage:
        begun = clock.now()
        assert (await stage.runner().run()).output == "worked"
    assert told
    assert clock.now() - begun >= MONTH + 86_400


@fake_time
async def test_the_stage_goes_on_with_what_its_worker_finds() -> None:
    async with Stage(WORK, services={"Desk": Scripted(work="worked")}) as stage:
        running = asyncio.create_task(stage.runner().run(execution_id="a"))
        await wait_until(lambda: stage.runtime.store.load("a"))
        running.cancel()
        assert (await stage.until("a")).output == "worked"


@fake_time
async def test_what_was_only_just_started_can_be_waited_for() -> None:
    async with Stage(WORK, services={"Desk": Scripted(work="worked")}) as stage:
        running = asyncio.create_task(stage.runner().run(execution_id="a"))
        assert (await stage.until("a")).completed
        assert (await running).output == "worked"


@fake_time
async def test_who_waits_for_what_cannot_come_is_told() -> None:
    async with Stage(WORK, services={"Desk": Scripted(work="worked")}, worker=False) as stage:
        running = asyncio.create_task(stage.runner().run(execution_id="a"))
        await wait_until(lambda: stage.runtime.store.find(status="halted"))
        running.cancel()
        with pytest.raises(TimeoutError, match="nothing more happens, and execution 'a' is halted"):
            await stage.until("a")


@fake_time
async def test_the_only_workflow_need_not_be_named() -> None:
    async with Stage(ASK) as stage:
        assert stage.runner().workflow.id == "ask"
    async with Stage(ASK, WORK, services={"Desk": Scripted(work=1)}) as stage:
        assert stage.runner("work").workflow.id == "work"
        with pytest.raises(df.ConfigError, match="say which workflow: ask, work"):
            stage.runner()


async def answers(desk: Scripted, *, runs: int = 1) -> list[Any]:
    call = {"id": "c", "type": "call", "service": "Desk", "method": "work", "input": 3, "output": "result"}
    async with Stage({"id": "call", "name": "Call", "steps": [call]}, services={"Desk": desk}) as stage:
        results = [await stage.runner().run() for _ in range(runs)]
    return [result.output if result.completed else result.error for result in results]


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ([1, 2], [1, 2]),
        (lambda given: given + 1, 4),
        (ConnectionError("gone"), "ConnectionError: gone"),
        (ValueError, "ValueError"),
        (Reply(fails=1), "ConnectionError: scripted"),
    ],
)
async def test_scripted_methods_do_what_they_are_told(script: Any, answer: Any) -> None:
    desk = Scripted(work=script)

    assert await answers(desk) == [answer]
    assert desk.calls == [("work", 3)]


async def test_an_async_function_may_script_a_method() -> None:
    async def double(given: int) -> int:
        await asyncio.sleep(0)
        return given * 2

    assert await answers(Scripted(work=double)) == [6]


async def test_answers_come_in_turn_and_end() -> None:
    desk = Scripted(work=InTurn("first", lambda given: given))

    assert await answers(desk, runs=3) == ["first", 3, "LookupError: scripted: this is call 3, and there are 2 answers"]


def test_a_reply_that_takes_time_needs_a_clock() -> None:
    with pytest.raises(df.ConfigError, match=r"Scripted\(clock, work=Reply\(…\)\)"):
        Scripted(work=Reply(takes=1))


def test_a_method_that_is_not_scripted_was_not_called() -> None:
    with pytest.raises(KeyError):
        Scripted(work=1).inputs("wrok")


@fake_time
async def test_who_forgot_a_service_is_told_instead_of_waiting_for_ever() -> None:
    late = {"id": "late", "type": "call", "service": "Desk", "method": "work"}
    ask = {"id": "ask", "type": "halt", "timeout": "30d", "on_timeout": "late"}
    async with Stage({"id": "job", "name": "Job", "steps": [ask, late]}) as stage:
        await stage.runner().run(execution_id="a")
        assert (await stage.until("a")).halted
        await stage.clock.advance(days=30)
        with pytest.raises(df.ConfigError, match="'a' is left alone: there is no service 'Desk' on this stage"):
            await stage.until("a")
