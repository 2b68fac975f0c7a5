"""Engines with a mistake planted in them.

Each mutant is an engine as somebody might have written it, with one of the classic mistakes of durable execution. The
crash harness has to find every one of them: that is what makes "0 bad" of the real engine mean something.
"""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest import mock

from msgspec.structs import replace

import durable_flow as df
from durable_flow import machine
from durable_flow.context import BodyGroup, StepVisit
from durable_flow.endings import Endings
from durable_flow.engine import Engine
from durable_flow.live import LiveFrame, Run
from durable_flow.model.execution import Action, ErrorInfo, Status
from durable_flow.model.frame import Frame, Message
from durable_flow.steps.base import Done
from durable_flow.steps.loop import Loop
from durable_flow.stores.sqlite import SqliteStore
from durable_flow.testing import ERRORS, KILLS, Mode

Plant = Callable[[], AbstractContextManager[Any]]


class Mutant:
    """A planted mistake: the scenarios and faults that show it, and the rules of which it breaks at least one."""

    def __init__(
        self,
        name: str,
        told: str,
        plant: Plant,
        scenarios: tuple[str, ...],
        modes: tuple[Mode, ...],
        rules: set[str],
        *,
        guard: bool = True,
    ) -> None:
        self.name = name
        self.told = told
        self.plant = plant
        self.scenarios = scenarios
        self.modes = modes
        self.rules = rules
        self.guard = guard


def patched(owner: type, **methods: Callable[..., Any]) -> Plant:
    return lambda: mock.patch.multiple(owner, **methods)


# -- M1 ---------------------------------------------------------------------------------------------------------------


def submit_twice(self: Engine, run: Run, *, release: bool) -> None:
    """The row first, the audit entries in a second commit."""
    commit = run.batch(nonce=self.ids.nonce(), release=release, wake_at=None)
    row = replace(commit, entries=(), release=False)
    trail = replace(
        commit, version=commit.version + 1, new=None, info=None, frames=(), sets=(), dropped=(), opened=(), closed=(),
        consumed=(), messages=(),
    )  # fmt: skip

    async def both() -> Any:
        await self.store.commit(row)
        return await self.store.commit(trail)

    run.inflight_commit = trail
    run.inflight = asyncio.get_running_loop().create_task(both())


# -- M2, M4 -----------------------------------------------------------------------------------------------------------

HELD: dict[int, int] = {}
"""How many steps that keep their progress to themselves a run is in."""

flush = Engine.flush
enter, leave = BodyGroup.__aenter__, BodyGroup.__aexit__
foreach = Loop._foreach


async def flush_unless_held(self: Engine, run: Run, *, release: bool = False) -> bool:
    return False if HELD.get(id(run)) else await flush(self, run, release=release)


def hold(run: Run, more: int) -> None:
    HELD[id(run)] = HELD.get(id(run), 0) + more
    if not HELD[id(run)]:
        del HELD[id(run)]


async def enter_held(self: BodyGroup) -> Any:
    hold(self._run, 1)
    return await enter(self)


async def leave_held(self: BodyGroup, *error: Any) -> Any:
    try:
        return await leave(self, *error)
    finally:
        hold(self._run, -1)


def join_at_once() -> AbstractContextManager[Any]:
    stack = ExitStack()
    HELD.clear()
    stack.enter_context(mock.patch.multiple(Engine, flush=flush_unless_held))
    stack.enter_context(mock.patch.multiple(BodyGroup, __aenter__=enter_held, __aexit__=leave_held))
    return stack


async def foreach_held(self: Loop, visit: Any, config: Any, items: Any) -> Any:
    hold(visit._run, 1)
    try:
        return await foreach(self, visit, config, items)
    finally:
        hold(visit._run, -1)


def index_in_memory() -> AbstractContextManager[Any]:
    stack = ExitStack()
    HELD.clear()
    stack.enter_context(mock.patch.multiple(Engine, flush=flush_unless_held))
    stack.enter_context(mock.patch.multiple(Loop, _foreach=foreach_held))
    return stack


# -- M3 ---------------------------------------------------------------------------------------------------------------


async def give_up(self: Engine, commit: Any) -> Any:
    """The answer of a commit was lost: it must have failed."""
    raise df.ConflictError(f"execution {commit.execution_id!r} could not be saved")


# -- M5 ---------------------------------------------------------------------------------------------------------------


async def done_before(self: Engine, run: Run, live: LiveFrame, step: Any) -> None:
    """The step is marked as done, so that it cannot happen twice; then it is done."""
    await self.flush(run)
    visit = StepVisit(self, run, live, step)
    self._conclude(run, live, step, visit, Done(None))
    await self.flush(run)
    try:
        await step.type.run(visit, step.config)
    except Exception:
        return


# -- M6 ---------------------------------------------------------------------------------------------------------------

body = Engine.body


async def body_that_tidies_up(self: Engine, run: Run, live: LiveFrame, key: Any) -> Any:
    """Whatever happens, the execution is not left running."""
    try:
        return await body(self, run, live, key)
    except BaseException:
        if live is run.root and run.stop_reason in (None, "abandoned"):
            error = ErrorInfo(type="Interrupted", message="the process ended")
            run.emit(machine.finished(run.root.record, Status.FAILED, now=self.clock.now(), error=error))
            await self.flush(run, release=True)
        raise


# -- M7 ---------------------------------------------------------------------------------------------------------------

answered = Engine._answered


async def answer_in_two_steps(self: Engine, run: Run, live: LiveFrame, step: Any) -> None:
    """The answer is taken out of the inbox, and then acted on."""
    wait = live.record.wait
    assert wait is not None
    if not run.mailbox.get(wait.wait_id):
        await self.waits.park(run, live)
    number, _ = run.mailbox[wait.wait_id][0]
    run.emit(machine.noted(Action.NOTED, now=self.clock.now(), consumed=(number,)))
    await self.flush(run)
    await answered(self, run, live, step)


# -- M8 ---------------------------------------------------------------------------------------------------------------

context = StepVisit.context


def context_with_attempt(self: StepVisit) -> df.StepContext:
    given = context(self)
    return replace(given, idempotency_key=f"{given.idempotency_key}:{given.attempt}")


# -- M9 ---------------------------------------------------------------------------------------------------------------

append = SqliteStore.append
NUMBERS = itertools.count()


async def append_again(self: SqliteStore, message: Message, body: Any) -> Any:
    """Every request is a message of its own."""
    return await append(self, replace(message, key=f"{message.key} {next(NUMBERS)}"), body)


# -- M10 --------------------------------------------------------------------------------------------------------------


async def hope(self: Engine, *given: Any) -> Any:
    """The store will answer some day."""
    await asyncio.Event().wait()


# -- M11, M12 ---------------------------------------------------------------------------------------------------------

load = Run.load.__func__  # type: ignore[attr-defined]
compensation = Endings._compensation


def load_without_undo(cls: type[Run], *given: Any, **named: Any) -> Run:
    """What undoes the steps is known to the process that made them."""
    run: Run = load(cls, *given, **named)
    run.undo.clear()
    return run


def undo_again(self: Endings, run: Run, path: str, undo: dict[str, Any]) -> LiveFrame:
    """Whoever goes on undoing begins at the beginning."""
    run.frames.pop(f"{machine.COMPENSATE}{path}", None)
    return compensation(self, run, path, undo)


# -- M13 --------------------------------------------------------------------------------------------------------------


def forget_the_past(live: LiveFrame, key: str) -> None:
    """What a piece gave is known to the process that did it."""
    if live.record.settled or live.record.at not in live.body.by_id:
        live.record = Frame(path=live.record.path, at=key)


MUTANTS = (
    Mutant(
        "M1", "the audit entry is written in a second operation", patched(Engine, _submit=submit_twice),
        ("w01",), KILLS, {"O2", "O3"},
    ),
    Mutant("M2", "the results of branches are kept until the join", join_at_once, ("w02",), KILLS, {"O5", "O7"}),
    Mutant(
        "M3", "a commit whose answer was lost counts as failed", patched(Engine, _settle_unknown=give_up),
        ("w01",), ERRORS, {"O1"},
    ),
    Mutant("M4", "the index of a loop is kept in memory", index_in_memory, ("w03",), KILLS, {"O5", "O7"}),
    Mutant(
        "M5", "a step is marked as done before it is", patched(Engine, _work=done_before), ("w01",), KILLS, {"O4", "O7"}
    ),
    Mutant(
        "M6", "a handler writes 'failed' when the process ends", patched(Engine, body=body_that_tidies_up),
        ("w01",), KILLS, {"O1"}, guard=False,
    ),
    Mutant(
        "M7", "an answer is taken and acted on in two commits", patched(Engine, _answered=answer_in_two_steps),
        ("w04",), KILLS, {"O1"},
    ),
    Mutant(
        "M8", "the number of the attempt is in the idempotency key", patched(StepVisit, context=context_with_attempt),
        ("w01",), KILLS, {"O6"},
    ),
    Mutant(
        "M9", "a message that arrives twice counts twice", patched(SqliteStore, append=append_again),
        ("w04",), (Mode.DUPLICATE,), {"O1"},
    ),
    Mutant(
        "M10", "an engine waits for a silent store for ever", patched(Engine, _settle_unknown=hope, _beat=hope),
        ("w01",), (Mode.STALL_BEFORE, Mode.STALL_AFTER), {"O9"},
    ),
    Mutant(
        "M11", "what undoes a step is kept in memory", patched(Run, load=classmethod(load_without_undo)),
        ("w31",), KILLS, {"O3", "O4"},
    ),
    Mutant(
        "M12", "a process that goes on undoing begins anew", patched(Endings, _compensation=undo_again),
        ("w31",), KILLS, {"O5", "O2"},
    ),
    Mutant(
        "M13", "a piece that was done is done again by the next process",
        lambda: mock.patch("durable_flow.pieces._known", forget_the_past), ("w41",), KILLS, {"O5", "O2"},
    ),
)  # fmt: skip
