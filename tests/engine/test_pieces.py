"""Steps that do their work in pieces: what is done once stays done, however the step comes to run again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

import durable_flow as df
from durable_flow.testing import Reply, Scripted
from tests.engine.pieces import CREW
from tests.reference.test_forks import check

Script = Callable[[df.Visit], Awaitable[Any]]


class PlayConfig(msgspec.Struct, frozen=True, kw_only=True):
    output: df.VariableName | None = None


def play(script: Script) -> df.Extension:
    """An extension with a step type `play` that runs a script."""

    class Play(df.StepType[PlayConfig]):
        name = "play"
        summary = "Runs a script."
        Config = PlayConfig
        performs = True

        async def run(self, visit: df.Visit, config: PlayConfig) -> df.Outcome:
            return df.Done(await script(visit), () if config.output is None else (config.output,))

    return df.Extension(name="play", step_types=(Play(),), events=("play.said",))


DOCUMENT = "id: play\nname: Play\nsteps:\n- {id: act, type: play, output: result%s}\n"


async def one(piece: df.Visit) -> str:
    return piece.path


async def run(script: Script, *, more: str = "") -> df.ExecutionResult:
    async with df.Runtime(
        "sqlite://:memory:",
        workflows=[DOCUMENT % more],
        extensions=[play(script)],
    ) as runtime:
        return await runtime.runner("play").run(execution_id="e")


@pytest.fixture
async def crew() -> AsyncIterator[tuple[df.Runtime, Scripted]]:
    model = Scripted(ask=lambda given: len(given["said"]), tool=Reply(lambda given: given, fails=1))
    document = "id: w\nname: W\nsteps:\n- {id: support, type: crew, turns: 2, tools: 1, output: result}\n"
    async with df.Runtime(
        "sqlite://:memory:", workflows=[document], services={"Model": model}, extensions=[CREW]
    ) as runtime:
        yield runtime, model


async def test_every_piece_has_the_entries_the_path_and_the_metadata_of_a_step(
    crew: tuple[df.Runtime, Scripted],
) -> None:
    runtime, _ = crew
    result = await runtime.runner("w").run()
    assert result.completed
    told = [
        (entry.path, entry.step_id, str(entry.action), entry.attempt)
        for entry in await runtime.store.entries(result.execution_id)
        if entry.step_id
    ]
    assert told == [
        ("support", "support", "started", 1),
        ("support/turn(1)", "turn(1)", "completed", 1),
        ("support/tool(101)", "tool(101)", "retried", 1),
        ("support/tool(101)", "tool(101)", "completed", 2),
        ("support/turn(2)", "turn(2)", "completed", 1),
        ("support/tool(201)", "tool(201)", "retried", 1),
        ("support/tool(201)", "tool(201)", "completed", 2),
        ("support", "support", "completed", 1),
    ]
    turn = next(entry for entry in await runtime.store.entries(result.execution_id) if entry.path == "support/turn(2)")
    assert turn.metadata == {"tokens": 2}
    assert turn.input == {"said": 2}


async def test_pieces_are_told_as_events_and_found_by_where(crew: tuple[df.Runtime, Scripted]) -> None:
    runtime, _ = crew
    told: list[tuple[str, str]] = []
    runtime.subscribe(lambda event: told.append((event.type, event.data.get("path", ""))))
    await runtime.runner("w").run()
    assert ("step.started", "support/turn(1)") in told
    assert ("step.completed", "support/turn(1)") in told
    assert ("crew.tool_use", "support/tool(101)") in told


async def test_the_idempotency_key_is_the_piece_s_own() -> None:
    keys: list[str] = []

    async def script(visit: df.Visit) -> None:
        async def note(piece: df.Visit) -> None:
            keys.append(piece.idempotency_key)

        await visit.perform("note", note)
        await visit.perform("note", note, number=2)

    await run(script)
    assert keys == ["e:act/note(1)", "e:act/note(2)"]


async def test_what_a_piece_gives_is_what_it_gives_after_a_restart() -> None:
    async def script(visit: df.Visit) -> list[str]:
        async def values(piece: df.Visit) -> Any:
            return {"tuple": (1, 2)}

        value = await visit.perform("values", values)
        return [type(value["tuple"]).__name__]

    assert (await run(script)).output == ["list"]


async def test_a_step_may_change_what_a_piece_gave_without_changing_what_is_kept() -> None:
    rounds = 0

    async def script(visit: df.Visit) -> Any:
        nonlocal rounds
        rounds += 1

        async def give(piece: df.Visit) -> list[int]:
            return [1]

        async def fail(piece: df.Visit) -> None:
            if rounds == 1:
                raise ValueError("once")

        value = await visit.perform("give", give)
        value.append(2)
        await visit.perform("fail", fail, retry=df.RetryPolicy(max_attempts=1))
        return value

    async with df.Runtime("sqlite://:memory:", workflows=[DOCUMENT % ""], extensions=[play(script)]) as runtime:
        runner = runtime.runner("play")
        failed = await runner.run(execution_id="e")
        assert failed.failed
        assert failed.error_info is not None
        assert (failed.error_info.type, failed.error_info.path) == ("ValueError", "act/fail(1)")
        assert (await runner.retry("e")).output == [1, 2]
    assert rounds == 2


async def test_a_retry_by_hand_does_again_only_the_piece_that_failed() -> None:
    done: list[str] = []
    broken = True

    async def script(visit: df.Visit) -> str:
        async def work(piece: df.Visit) -> str:
            done.append(piece.path)
            if broken and piece.path == "act/part(3)":
                raise ConnectionError("down")
            return "ok"

        for number in (1, 2, 3, 4):
            await visit.perform("part", work, number=number)
        return "all"

    async with df.Runtime("sqlite://:memory:", workflows=[DOCUMENT % ""], extensions=[play(script)]) as runtime:
        runner = runtime.runner("play")
        assert (await runner.run(execution_id="e")).failed
        broken = False
        assert (await runner.retry("e")).output == "all"
    assert done == ["act/part(1)", "act/part(2)", "act/part(3)", "act/part(3)", "act/part(4)"]


async def test_a_failure_that_is_kept_is_not_tried_again_by_hand() -> None:
    done: list[str] = []
    broken = True

    async def script(visit: df.Visit) -> str:
        async def work(piece: df.Visit) -> str:
            done.append(piece.path)
            if broken:
                raise ConnectionError("down")
            return "ok"

        try:
            first = await visit.perform("tool", work, may_fail=True)
        except df.StepError as error:
            first = f"{error.kind}: {error}"
        second = await visit.perform("last", work)
        return f"{first}, {second}"

    async with df.Runtime("sqlite://:memory:", workflows=[DOCUMENT % ""], extensions=[play(script)]) as runtime:
        runner = runtime.runner("play")
        assert (await runner.run(execution_id="e")).failed
        broken = False
        assert (await runner.retry("e")).output == "ConnectionError: down, ok"
    assert done == ["act/tool(1)", "act/last(1)", "act/last(1)"]


async def test_one_name_and_number_is_one_piece() -> None:
    async def script(visit: df.Visit) -> None:
        await visit.perform("part", one)
        await visit.perform("part", one)

    result = await run(script)
    assert result.error == ("ConfigError: part(1) is performed twice in 'act': give each piece a number of its own")


@pytest.mark.parametrize(("name", "number"), [("a b", 1), ("a/b", 1), ("a(1)", 1), ("", 1), ("a", -1), ("a", True)])
async def test_names_and_numbers_that_cannot_be_a_piece_s_are_refused(name: str, number: int) -> None:
    async def script(visit: df.Visit) -> None:
        await visit.perform(name, one, number=number)

    assert (await run(script)).error_info.type == "ConfigError"  # type: ignore[union-attr]


async def test_what_is_under_way_when_the_step_ends_is_cancelled_and_told() -> None:
    async def script(visit: df.Visit) -> str:
        async def hang(piece: df.Visit) -> None:
            began.set()
            await asyncio.Event().wait()

        began = asyncio.Event()
        task = asyncio.ensure_future(visit.perform("hang", hang))
        await began.wait()
        task.add_done_callback(lambda task: task.cancelled())
        return "done"

    async with df.Runtime("sqlite://:memory:", workflows=[DOCUMENT % ""], extensions=[play(script)]) as runtime:
        assert (await runtime.runner("play").run(execution_id="e")).output == "done"
        entries = [entry for entry in await runtime.store.entries("e") if entry.path == "act/hang(1)"]
        assert [(str(entry.action), entry.metadata) for entry in entries] == [
            ("cancelled", {"reason": "not_needed", "in_flight": True})
        ]


async def test_a_step_can_give_up_on_a_piece() -> None:
    async def script(visit: df.Visit) -> str:
        async def hang(piece: df.Visit) -> None:
            began.set()
            await asyncio.Event().wait()

        began = asyncio.Event()
        task = asyncio.ensure_future(visit.perform("hang", hang))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return str(await visit.perform("other", one))

    assert (await run(script)).output == "act/other(1)"


async def test_timeout_and_retry_of_the_step_are_those_of_each_piece() -> None:
    attempts: list[int] = []

    async def script(visit: df.Visit) -> str:
        async def slow(piece: df.Visit) -> str:
            attempts.append(piece.attempt)
            if piece.attempt < 3:
                await asyncio.Event().wait()
            return "at last"

        return str(await visit.perform("slow", slow))

    result = await run(script, more=", timeout: 0.02, retry: {max_attempts: 3, initial_interval: 0.001, jitter: 0}")
    assert (result.output, attempts) == ("at last", [1, 2, 3])


async def test_cancelling_the_execution_cancels_its_pieces() -> None:
    began = asyncio.Event()

    async def script(visit: df.Visit) -> None:
        async def hang(piece: df.Visit) -> None:
            began.set()
            await asyncio.Event().wait()

        await asyncio.gather(visit.perform("hang", hang), visit.perform("hang", hang, number=2))

    async with df.Runtime("sqlite://:memory:", workflows=[DOCUMENT % ""], extensions=[play(script)]) as runtime:
        runner = runtime.runner("play")
        running = asyncio.ensure_future(runner.run(execution_id="e"))
        await began.wait()
        await runner.cancel("e")
        assert (await running).cancelled
        told = {entry.path: entry.metadata for entry in await runtime.store.entries("e") if entry.path}
        cancelled = {"reason": "user_requested", "in_flight": True}
        assert told["act/hang(1)"] == told["act/hang(2)"] == cancelled


async def test_a_piece_about_which_a_person_is_asked_halts_the_execution_where_it_stands() -> None:
    async def script(visit: df.Visit) -> Any:
        async def fail(piece: df.Visit) -> None:
            raise ValueError("what now?")

        return await asyncio.gather(visit.perform("ask", fail), visit.perform("other", one))

    document = DOCUMENT % ", retry: {max_attempts: 1, on_exhausted: halt}"
    async with df.Runtime("sqlite://:memory:", workflows=[document], extensions=[play(script)]) as runtime:
        runner = runtime.runner("play")
        halted = await runner.run(execution_id="e")
        assert halted.halted
        assert [where.path for where in await runner.where("e")] == ["act/ask(1)"]
        assert halted.halt is not None
        assert halted.halt.step_id == "ask(1)"
        result = await runner.resume("e", response="this")
        assert result.output == ["this", "act/other(1)"]


async def test_only_a_type_that_says_so_performs() -> None:
    class Plain(df.StepType[PlayConfig]):
        name = "play"
        summary = "Does not say that it performs."
        Config = PlayConfig
        works_outside = True

        async def run(self, visit: df.Visit, config: PlayConfig) -> df.Outcome:
            return df.Done(await visit.perform("a", one))

    extension = df.Extension(name="plain", step_types=(Plain,))
    async with df.Runtime("sqlite://:memory:", workflows=[DOCUMENT % ""], extensions=[extension]) as runtime:
        result = await runtime.runner("play").run()
    assert result.error == "ConfigError: step type 'play' does not say performs = True"


async def test_a_fork_from_before_the_step_does_its_pieces_again_and_the_past_is_told_right() -> None:
    done: list[str] = []

    async def script(visit: df.Visit) -> int:
        async def work(piece: df.Visit) -> str:
            done.append(piece.idempotency_key)
            return "ok"

        for number in (1, 2):
            await visit.perform("part", work, number=number)
        return len(done)

    async with df.Runtime("sqlite://:memory:", workflows=[DOCUMENT % ""], extensions=[play(script)]) as runtime:
        runner = runtime.runner("play")
        await runner.run(execution_id="e")
        forked = await runner.fork("e", from_step="act", execution_id="f")
        assert forked.output == 4
    assert done == ["e:act/part(1)", "e:act/part(2)", "f:act/part(1)", "f:act/part(2)"]


async def test_in_a_dry_run_no_piece_is_done() -> None:
    async def script(visit: df.Visit) -> None:
        raise AssertionError("this is no dry run")

    async with df.Runtime("sqlite://:memory:", workflows=[DOCUMENT % ""], extensions=[play(script)]) as runtime:
        runner = runtime.runner("play")
        assert (await runner.run(dry_run=True)).completed
        assert (await runner.run(dry_run=True, fixtures={"act": "said"})).output == "said"


async def test_the_trail_tells_of_pieces_what_is_stored() -> None:
    failing = {"lost", "last"}

    async def script(visit: df.Visit) -> str:
        async def work(piece: df.Visit) -> str:
            name = piece.path.rpartition("/")[2].partition("(")[0]
            if name == "flaky" and piece.attempt == 1:
                raise ConnectionError("once")
            if name in failing:
                raise ValueError(name)
            return name

        quick = df.RetryPolicy(max_attempts=2, initial_interval=0.001)
        await visit.perform("flaky", work, retry=quick)
        with pytest.raises(df.StepError):
            await visit.perform("lost", work, may_fail=True)
        await asyncio.gather(visit.perform("asked", ask), visit.perform("beside", work))
        return str(await visit.perform("last", work))

    async def ask(piece: df.Visit) -> str:
        if piece.attempt == 1:
            raise df.NonRetryableError("what now?")
        return "asked"

    document = DOCUMENT % ", retry: {max_attempts: 1, on_exhausted: halt}"
    async with df.Runtime("sqlite://:memory:", workflows=[document], extensions=[play(script)]) as runtime:
        runner = runtime.runner("play")
        result = await runner.run(execution_id="e")
        for step, response in (("lost(1)", None), ("asked(1)", 1)):
            assert result.halt is not None
            assert result.halt.step_id == step
            await check(runtime, "e")
            result = await (runner.fail("e") if response is None else runner.resume("e", response=response))
        assert result.halt is not None
        assert result.halt.step_id == "last(1)"
        await check(runtime, "e")
        assert (await runner.fail("e", reason="enough")).failed
        await check(runtime, "e")
        failing.clear()
        assert (await runner.retry("e")).output == "last"
        await check(runtime, "e")
