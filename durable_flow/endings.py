"""How executions end: what undoes their steps, last first, then the steps of `finally`, then the end itself.

The end of a workflow with nothing to undo and no `finally` is one transition. Any other begins with one that says how
it will have ended and that the rest runs (`Info.closing`): from there on nothing changes the outcome, whatever fails
and whoever dies. What runs then are frames as any others, below the path `~`, and go with the last transition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import anyio
from msgspec.structs import replace

from durable_flow import machine
from durable_flow.context import StepVisit
from durable_flow.definition.flow import OUTCOME
from durable_flow.errors import ConfigError
from durable_flow.expr.reference import Template
from durable_flow.journal import Journal
from durable_flow.live import LiveFrame, Run, Stopped
from durable_flow.machine import CLOSING, COMPENSATE, FINALLY
from durable_flow.model.codec import Closing
from durable_flow.model.execution import ErrorInfo, Status, UncertainWait
from durable_flow.model.frame import Frame, FrameState, Message
from durable_flow.model.workflow import Body, StepDef
from durable_flow.steps.base import every_step
from durable_flow.steps.compensation import COMPENSATION, CompensationConfig

if TYPE_CHECKING:
    from durable_flow.engine import Engine

logger = Journal("durable_flow.engine")


class LeftToOthers(ConfigError):
    """This process lacks what the rest of an execution needs; another one may have it."""


class Endings:
    """Ends the executions that an engine drives."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def poisoned(self, run: Run) -> ErrorInfo | None:
        """The error of an execution that took its process down too often without getting anywhere."""
        if run.recoveries <= self._engine.max_recoveries:
            return None
        return ErrorInfo(
            type="Poisoned",
            message=f"{run.recoveries} processes died at this place (max_recoveries={self._engine.max_recoveries})",
            step=run.root.record.at,
            path=run.root.record.at or "",
        )

    async def drive(self, run: Run) -> None:
        """Drives an execution from where it is to its end."""
        poison = self.poisoned(run)
        if run.info.closing is not None:
            await self._close(run, poison)
        elif poison is not None:
            await self._sweep(run)
            await self._end(run, Closing(status=Status.FAILED, error=poison), farewell="parent_failed")
        else:
            end = await self._engine.body(run, run.root, "")
            if run.stop_reason is not None:  # it was stopped while its last step ended
                raise Stopped
            if end.error is not None:
                await self._end(run, Closing(status=Status.FAILED, error=end.error), farewell="parent_failed")
            else:
                await self._end(run, Closing(status=Status.COMPLETED, result=run.root.seqs.get("result")))

    async def cut_short(self, run: Run) -> None:
        """The tasks of a cancelled or timed out execution are unwound: it ends."""
        assert run.cut_by is not None
        reason, detail = run.cut_by
        if reason == "cancelled":
            closing = Closing(status=Status.CANCELLED, reason=detail or "user_requested", actor=run.stop_actor)
        else:
            error = ErrorInfo(
                type="TimeoutError",
                message=f"the workflow timed out after {run.definition.timeout or 0.0:g} s",
                step=run.root.record.at,
                path=run.root.record.at or "",
            )
            closing = Closing(status=Status.FAILED, error=error, reason="timeout", actor=run.stop_actor)
        await self._sweep(run)
        run.close_waits()
        await self._end(run, closing, farewell="parent_cancelled", consumed=run.stop_mail)

    async def _end(
        self, run: Run, closing: Closing, *, farewell: str | None = None, consumed: tuple[int, ...] = ()
    ) -> None:
        """Ends an execution like this, at once or after what there is to do first."""
        consumed = (*consumed, *run.unread())
        messages = () if farewell is None else self._engine.children.farewell(run, None, farewell)
        undoes = bool(run.undo) and _undoes(closing)
        if not undoes and (run.definition.closing is None or run.unseated):
            await self._finish(run, closing, consumed=consumed, messages=messages)
            return
        run.change_info(
            closing=replace(closing, since=run.seq + 1),
            deadline=None,
            compensated=run.info.compensated or undoes,
        )
        run.emit(
            machine.closing(
                run.root.record,
                closing.status,
                now=self._engine.clock.now(),
                error=closing.error,
                actor=closing.actor,
                reason=closing.reason,
                consumed=consumed,
                messages=messages,
            )
        )
        await self._engine.flush(run)
        await self._tell_children(run)
        await self._close(run)

    async def _tell_children(self, run: Run) -> None:
        """Lets the children end that this one took with it, where nobody else drives them: what they did is undone
        before what was done before them."""
        while run.farewells:
            await self._engine.tell(run.farewells.pop(0))

    # -- what may have happened ----------------------------------------------------------------------------------------

    async def _sweep(self, run: Run) -> None:
        """Notes which steps with a compensation were perhaps under way in a process that died.

        Frames are driven, each with the variables it has, to the step they are at, which does not begin.
        """
        doubtful = [path for path in run.inherited if self._undoable(run.frame(path), run)]
        if not doubtful:
            return
        with anyio.CancelScope() as scope:
            run.sweep = scope
            await self._engine.body(run, run.root, "")
        run.sweep = None
        run.active = 1
        if run.stop_reason is not None:
            raise Stopped

    def _undoable(self, frame: Frame | None, run: Run) -> bool:
        if frame is None or frame.at is None:
            return False
        step = run.definition.steps_by_id.get(frame.at)
        if step is None or not may_have_happened(frame):
            return False
        return any(inner.compensate is not None for inner in every_step(Body([step])))

    # -- afterwards ----------------------------------------------------------------------------------------------------

    async def _close(self, run: Run, poison: ErrorInfo | None = None) -> None:
        """Undoes what was done and runs `finally`, from where a process before this one came; the step at which others
        died is left out if it is `poison`."""
        engine = self._engine
        closing = run.info.closing
        assert closing is not None
        run.free = closing.since
        if lacking := self._lacking(run, closing):
            raise LeftToOthers(
                f"execution {run.id!r} is {closing.status}, and what follows is left to a worker: there is no "
                f"{', '.join(lacking)} here"
            )
        for live in self._frames(run, closing):
            step = live.body.by_id.get(live.record.at or "")
            over = live.record.state in (FrameState.FAILED, FrameState.CANCELLED)
            if poison is not None and step is not None and not over:
                error = replace(poison, step=step.id, path=live.step_path(step.id))
                engine.fail(run, live, step, StepVisit(engine, run, live, step), error)
                poison = None
            await engine.body(run, live, live.record.path)
        await self._finish(run, closing, consumed=run.unread(), messages=())

    def _lacking(self, run: Run, closing: Closing) -> list[str]:
        if run.info.dry_run:
            return []
        needs = {("service", undo["service"]) for undo in run.undo.values()} if _undoes(closing) else set()
        if run.definition.closing is not None:
            needs.update(need for step in every_step(run.definition.closing) for need in step.type.needs(step.config))
        return self._engine.missing(needs)

    def _frames(self, run: Run, closing: Closing) -> Iterator[LiveFrame]:
        """What is left to run, each begun when the one before has ended."""
        if _undoes(closing):
            for path, undo in reversed(list(run.undo.items())):
                yield self._compensation(run, path, undo)
        if run.definition.closing is not None:
            outcome = {
                "status": str(closing.status),
                "error": None if closing.error is None else closing.error.text,
                "reason": closing.reason,
            }
            yield run.open_frame(
                FINALLY,
                run.definition.closing,
                run.root,
                step_path=CLOSING,
                base=f"{FINALLY}/",
                given={OUTCOME: outcome},
            )

    def _compensation(self, run: Run, path: str, undo: dict[str, Any]) -> LiveFrame:
        """The frame of what undoes the step that had this path. It has the timeout and the retries of that step."""
        around, _, visited = path.rpartition("/")
        name, _, visit = visited.partition("#")
        of = run.definition.steps_by_id.get(name)
        given = undo["input"]
        step = StepDef(
            id=name,
            type=COMPENSATION,
            config=CompensationConfig(
                service=undo["service"],
                method=undo["method"],
                # What came in from outside is never resolved again.
                input=None if given is None else Template(given, (), False, False, lambda scope: given),
            ),
            timeout=None if of is None else of.timeout,
            retry=None if of is None or of.retry is None else replace(of.retry, halts=False),
        )
        base = f"{COMPENSATE}{around}/" if around else COMPENSATE
        live = run.open_frame(f"{COMPENSATE}{path}", Body([step]), run.root, step_path=CLOSING, base=base, given={})
        if visit:
            live.record = replace(live.record, visit=int(visit))
        return live

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _finish(
        self, run: Run, closing: Closing, *, consumed: tuple[int, ...], messages: tuple[Message, ...]
    ) -> None:
        run.unpause()  # somebody may have paused it in the last of what follows an end
        followed = run.info.closing is not None
        if followed:
            messages = self._engine.children.farewell(run, None, "parent_cancelled")
            run.change_info(closing=None)
        run.emit(
            machine.finished(
                run.root.record,
                closing.status,
                now=self._engine.clock.now(),
                result=closing.result,
                error=closing.error,
                actor=closing.actor,
                reason=closing.reason,
                consumed=consumed,
                messages=(*messages, *self._report(run)),
                dropped=(CLOSING,) if followed or run.undo else (),
            )
        )
        # The end is committed with the lease; a message that came too late does not keep it.
        run.ending = True
        engine = self._engine
        if not await engine.flush(run, release=True):
            await engine.store.release(run.id, owner=engine.owner, generation=run.generation)
        run.stop_reason = "finished"

    def _report(self, run: Run) -> tuple[Message, ...]:
        """What a child tells its parent in the commit that ends it."""
        wait_id = run.info.parent_wait
        if wait_id is None or run.parent_id is None:
            return ()
        now = self._engine.clock.now()
        return (Message(kind="child", execution_id=run.parent_id, key=f"child:{run.id}", time=now, wait_id=wait_id),)


def _undoes(closing: Closing) -> bool:
    return closing.status is not Status.COMPLETED


def may_have_happened(frame: Frame) -> bool:
    """Whether the step a frame is at was perhaps under way in a process that is gone."""
    return frame.state is FrameState.RUNNING or isinstance(frame.wait, UncertainWait)
