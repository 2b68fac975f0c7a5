"""Steps that do their work in pieces: each piece is a step of its own, in a frame of its own, and is never done twice.

A piece runs in the task group of its step, whichever task asked for it, so that it is unwound with it. While pieces are
under way each has a share of what is `active` in the execution, and the step itself has none: where all of them wait,
the execution is halted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio

from durable_flow.context import Fatal, StepVisit, first_error
from durable_flow.errors import StepError
from durable_flow.live import LiveFrame, Run
from durable_flow.model.execution import ErrorInfo
from durable_flow.model.frame import FrameState
from durable_flow.model.value import copy_value
from durable_flow.model.workflow import Body, RetryPolicy, StepDef
from durable_flow.steps.base import ChildEnd, Outcome, Visit
from durable_flow.steps.piece import Piece, PieceConfig

if TYPE_CHECKING:
    from durable_flow.engine import Engine

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")


class PieceFailed(StepError):
    """A piece failed for good. Where its step lets it pass, that is what the step failed with."""

    def __init__(self, error: ErrorInfo) -> None:
        self.error = error
        super().__init__(error.message, kind=error.type)


class Pieces:
    """The pieces of one visit of a step, while it runs."""

    def __init__(self, engine: Engine, run: Run, visit: StepVisit) -> None:
        self._engine = engine
        self._run = run
        self._visit = visit
        self._type = Piece(visit.step.type.name)
        self._lives: dict[str, LiveFrame] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._under_way = 0
        self._over = False
        self._tasks = anyio.create_task_group()

    async def drive(self) -> Outcome:
        """Runs the step. What is still under way when it ends is cancelled."""
        visit = self._visit
        if visit.memo is None:
            visit.remember({})
        visit.pieces = self
        try:
            async with self._tasks:
                try:
                    outcome = await visit.step.type.run(visit, visit.step.config)
                except Exception:
                    self._cancel("step_failed")
                    raise
                self._cancel("not_needed")
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        finally:
            self._over = True
        return outcome

    async def perform(
        self,
        name: str,
        work: Callable[[Visit], Awaitable[Any]],
        *,
        number: int,
        input: Any,
        retry: RetryPolicy | None,
        timeout: float | None,
        may_fail: bool,
    ) -> Any:
        """See `Visit.perform`."""
        key = self._key(name, number)
        step = self._visit.step
        piece = StepDef(
            id=key,
            type=self._type,
            config=PieceConfig(work=work, input=input),
            retry=step.retry if retry is None else retry,
            timeout=step.timeout if timeout is None else timeout,
        )
        live = self._lives[key] = self._visit.open(key, Body([piece], bare=True), {})
        end = _known(live, key)
        if end is None:
            end = await self._done(live, key, may_fail)
        if end.error is not None:
            raise PieceFailed(end.error)
        return copy_value(end.output)

    def _key(self, name: object, number: object) -> str:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or type(number) is not int or number < 0:
            raise StepError(
                f"{name!r:.100} and {number!r:.100} are not the name and number of a piece", kind="ConfigError"
            )
        key = f"{name}({number})"
        if self._over:
            raise StepError(f"{key} is begun when its step is over", kind="ConfigError")
        if key in self._lives:
            message = f"{key} is performed twice in {self._visit.path!r}: give each piece a number of its own"
            raise StepError(message, kind="ConfigError")
        return key

    async def _done(self, live: LiveFrame, key: str, may_fail: bool) -> ChildEnd:
        ended: asyncio.Future[ChildEnd] = asyncio.get_running_loop().create_future()
        self._scopes[key] = anyio.CancelScope()
        if self._under_way:
            self._run.active += 1
        self._under_way += 1
        self._tasks.start_soon(self._drive, live, key, may_fail, ended)
        try:
            return await ended
        except asyncio.CancelledError:
            if not ended.done() and self._run.stop_reason is None and live.cut() is None:
                live.cut_reason = "not_needed"  # only who asked for it is cancelled, and does not want it any more
                self._scopes[key].cancel()
            raise

    async def _drive(self, live: LiveFrame, key: str, may_fail: bool, ended: asyncio.Future[ChildEnd]) -> None:
        engine, run = self._engine, self._run
        end: ChildEnd | None = None
        try:
            with self._scopes[key]:
                while run.quieting is not None:  # what is being halted begins nothing
                    await run.quieting.wait()
                end = await engine.body(run, live, key)
                if end.error is not None and end.error.fatal:
                    raise Fatal(end.error)
                if end.error is not None and may_fail and end.state is not FrameState.CANCELLED:
                    self._visit.settle(end, state=FrameState.SKIPPED, variables="drop")
                await engine.flush(run)
        finally:
            self._under_way -= 1
            if self._under_way:
                run.active -= 1
            if not ended.done():
                if end is None:
                    ended.cancel()
                else:
                    ended.set_result(end)
        if self._under_way and run.active == 0:
            await engine.waits.quiet(run)

    def _cancel(self, reason: str) -> None:
        self._over = True
        for live in self._lives.values():
            if live.record.state in (FrameState.RUNNING, FrameState.WAITING):
                live.cut_reason = reason
        self._tasks.cancel_scope.cancel()


def _known(live: LiveFrame, key: str) -> ChildEnd | None:
    """How a piece ended before; None if it did not."""
    record = live.record
    over = record.settled or record.at not in live.body.by_id
    if over or record.state in (FrameState.FAILED, FrameState.CANCELLED):
        error = record.error
        if error is None and record.state is FrameState.CANCELLED:
            error = ErrorInfo(type="Cancelled", message="cancelled", step=key, path=record.path)
        return ChildEnd(key=key, state=record.state, output=live.output, error=error)
    return None
