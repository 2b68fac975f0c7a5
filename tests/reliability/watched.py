"""Who watches changes nothing: subscribers and logs that raise, sleep, cancel or call the engine at an event.

Each reference workflow is played undisturbed first; then once for each event with somebody who misbehaves at that one,
and once with somebody who does so at all of them. What it comes to, and its trail, must be the same.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec

import durable_flow as df
from durable_flow.testing import Answer, FakeClock
from tests.reference import SCENARIOS
from tests.reliability.stage import Stage, document, stage
from tests.reliability.table import Case, Table, fake_time

PLAYED = {scenario.name: scenario for scenario in SCENARIOS if scenario.name in ("w01", "w09", "w10")}
OTHER = document("other", [{"id": "ask", "type": "halt"}])

Manner = Callable[[Stage, df.Event], Any]


def raises(play: Stage, event: df.Event) -> None:
    raise RuntimeError("not interested")


def is_cancelled(play: Stage, event: df.Event) -> None:
    raise asyncio.CancelledError


async def sleeps(play: Stage, event: df.Event) -> None:
    await play.clock.sleep(60)


async def hangs(play: Stage, event: df.Event) -> None:
    await asyncio.Event().wait()


async def raises_later(play: Stage, event: df.Event) -> None:
    await play.clock.sleep(0)
    raise RuntimeError("not interested")


def spoils(play: Stage, event: df.Event) -> None:
    event.data.clear()  # type: ignore[attr-defined]


async def cancels_itself(play: Stage, event: df.Event) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def asks(play: Stage, event: df.Event) -> None:
    await play.runner(event.data["workflow_id"]).result(event.data["execution_id"])


async def starts_another(play: Stage, event: df.Event) -> None:
    if event.data["workflow_id"] != "other":
        await play.runner("other").run()


async def cancels_another(play: Stage, event: df.Event) -> None:
    if event.data["workflow_id"] != "other":
        runner = play.runner("other")
        await runner.cancel((await runner.run()).execution_id)


async def follows(play: Stage, event: df.Event) -> None:
    """Waits for the very execution whose event it is told."""
    if event.data["execution_id"] == "x":
        await play.runner(event.data["workflow_id"]).run(INPUTS[event.data["workflow_id"]], execution_id="x")


def unsubscribes(play: Stage, event: df.Event) -> None:
    for stop in play.options.pop("watching", ()):
        stop()


INPUTS = {scenario.workflow.id: scenario.input for scenario in PLAYED.values()}
MANNERS: tuple[Manner, ...] = (
    raises, is_cancelled, sleeps, hangs, raises_later, spoils, cancels_itself, asks, starts_another, cancels_another,
    follows, unsubscribes,
)  # fmt: skip


class Nuisance(logging.Handler):
    """A log handler that raises at everything it is given."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the disk of the logs is full")


@contextmanager
def nuisance() -> Iterator[None]:
    logger, handler, disabled = logging.getLogger("durable_flow"), Nuisance(), logging.root.manager.disable
    before = logger.level, logger.propagate
    logging.disable(logging.NOTSET)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
        logging.disable(disabled)


async def told(clock: FakeClock, name: str, manner: Manner | None, at: int | None) -> tuple[Any, int]:
    """What a reference workflow comes to where somebody misbehaves at an event, or at all; and how many there were."""
    scenario = PLAYED[name]
    options = {"services": scenario.services(clock)}
    async with stage(clock, scenario.workflow, *scenario.others, OTHER, **options) as play:
        seen = 0

        def is_it(event: df.Event) -> bool:
            nonlocal seen
            if event.data.get("workflow_id") != "other":
                seen += 1
            return manner is not None and at in (None, seen)

        def watch(event: df.Event) -> None:
            if is_it(event) and manner is not None:
                manner(play, event)

        async def watch_later(event: df.Event) -> None:
            if is_it(event) and manner is not None:
                await manner(play, event)

        later = inspect.iscoroutinefunction(manner)
        play.options["watching"] = [play.runtime.subscribe(watch_later if later else watch)]
        runner = play.runner(scenario.workflow.id)
        result = await runner.run(scenario.input, execution_id="x")
        while result.halted:
            assert result.halt is not None
            move = scenario.moves[result.halt.step_id]
            assert isinstance(move, Answer)
            result = await runner.resume("x", wait_id=result.halt.wait_id, **move.arguments)
        executions = {}
        for execution_id in await play.store.execution_ids(limit=1000):
            execution = await play.store.load(execution_id)
            assert execution is not None
            if execution.workflow_id == "other":
                continue
            entries = await play.store.entries(execution_id)
            trail = sorted((entry.path, str(entry.action), entry.attempt) for entry in entries if entry.step_id)
            executions[execution_id] = (str(execution.status), plain(execution.ctx), trail)
        calls = sorted((method, msgspec.json.encode(given, order="deterministic")) for method, given in called(options))
        return (str(result.status), plain(result.output), result.error, executions, calls), seen


def called(options: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Everything the services were asked."""
    for service in options["services"].values():
        yield from service.calls


def plain(value: Any) -> Any:
    """A value without the times in it."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items() if name not in ("at", "requested_at", "deadline")}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


async def verify(clock: FakeClock, name: str, manner: Manner, at: int | None, *, logs: bool) -> None:
    expected, _ = await told(clock, name, None, None)
    if not logs:
        got, _ = await told(clock, name, manner, at)
    else:
        with nuisance():
            got, _ = await told(clock, name, manner, at)
    assert got == expected, f"{got} instead of {expected}"


def events_of(name: str) -> int:
    """How many events a reference workflow has."""
    counted = 0

    async def count(clock: FakeClock) -> None:
        nonlocal counted
        _, counted = await told(clock, name, None, None)

    fake_time(count)()
    return counted


def cases(full: bool) -> Iterable[Case]:
    for name in PLAYED:
        events = events_of(name)
        for manner in MANNERS:
            shown = manner.__name__.replace("_", " ")
            every: list[int | None] = [*range(1, events + 1)] if full else [*range(1, events + 1, 9)]
            for at in [None, *every]:
                case = partial(verify, name=name, manner=manner, at=at, logs=False)
                yield Case(f"{name}: who watches {shown} at {at or 'every'} event", fake_time(case))
            case = partial(verify, name=name, manner=manner, at=None, logs=True)
            yield Case(f"{name}: who watches {shown} at every event, and so do the logs", fake_time(case))


TABLE = Table("who watches changes nothing, whatever they do at whatever event", cases)
