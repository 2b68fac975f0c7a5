"""Child executions: what a `workflow` step starts, drives, waits for, and takes with it when it ends early."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from durable_flow import machine
from durable_flow.clock import Timer, moment
from durable_flow.context import StepVisit
from durable_flow.definition.inputs import check_input
from durable_flow.endings import LeftToOthers
from durable_flow.errors import LeaseLost, LimitExceeded, StepError
from durable_flow.journal import Journal
from durable_flow.live import AlreadyExists, LiveFrame, Run
from durable_flow.model.codec import decode_info
from durable_flow.model.execution import ChildWait, Status
from durable_flow.model.frame import Message
from durable_flow.stores.base import Row, result_of

if TYPE_CHECKING:
    from durable_flow.engine import Engine

logger = Journal("durable_flow.engine")

AGAIN = 0.25
"""Seconds until it is looked again whether somebody else has taken up a child that had ended."""


class Children:
    """The children of the executions that an engine drives."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def result(
        self,
        run: Run,
        live: LiveFrame,
        visit: StepVisit,
        workflow_id: str,
        given: Any,
        *,
        wait: bool,
        timeout: float | None,
    ) -> Any:
        """The result of the child execution of a visit, which is started, taken over, or waited for."""
        memo = visit.memo
        if memo is None:
            if run.info.depth + 1 > self._engine.limits.workflow_depth:
                raise LimitExceeded("workflow_depth", allowed=self._engine.limits.workflow_depth, where=visit.path)
            definition = self._engine.find_workflow(workflow_id)
            if definition is None:
                raise StepError(f"no workflow named {workflow_id!r} is known to this runtime", kind="WorkflowNotFound")
            given = check_input(definition, {} if given is None else given, limits=self._engine.limits)
            deadline = None if timeout is None else self._engine.clock.now() + timeout
            self._is_child(await self._engine.store.row(child_id(run.id, visit.path)), run)
            memo = {
                "child": child_id(run.id, visit.path),
                "path": visit.path,
                "workflow_id": workflow_id,
                "deadline": deadline,
                "timeout": None if timeout is None else float(timeout),
                "wait": wait,
            }
            visit.remember(memo, kept={"input": given})
        left = False
        await self._engine.flush(run)
        execution_id, deadline = memo["child"], memo["deadline"]
        row = await self._engine.store.row(execution_id)
        if row is None:
            definition = self._engine.find_workflow(workflow_id)
            if definition is None:
                raise StepError(f"no workflow named {workflow_id!r} is known to this runtime", kind="WorkflowNotFound")
            limited = definition.concurrency is not None and not run.info.dry_run
            make = partial(
                self._engine.create,
                definition,
                visit.kept("input"),
                execution_id=execution_id,
                parent=run,
                parent_wait=visit.wait_id if wait else None,
                trigger="child",
                labels={},
                begins=not limited,
            )
            try:
                if limited:
                    entered = await self._engine.admission.enter(make, above=await self._above(run) if wait else ())
                    if wait and entered != execution_id:
                        raise StepError(
                            f"execution {entered!r} holds the concurrency key already, and is not for this step to "
                            "wait for: return_existing needs wait: false",
                            kind="KeyTaken",
                        )
                    if not wait:
                        self._engine.spawn(self._engine.nudge(entered))
                        return entered
                elif not wait:
                    await self._engine.flush(make(), release=True)
                    self._engine.spawn(self._engine.nudge(execution_id))
                    return execution_id
                else:
                    left = await self._drive_child(run, live, make(), deadline)
            except (LeaseLost, AlreadyExists):
                if not wait:
                    return execution_id
                # it is there, and somebody else drives it
        elif not wait:
            self._engine.spawn(self._engine.nudge(execution_id))
            return execution_id
        while True:
            row = await self._engine.store.row(execution_id)
            if row is None:
                raise StepError(f"the child execution {execution_id!r} was deleted", kind="ChildFailed")
            self._is_child(row, run)
            status = Status(row.status)
            if status in (Status.FAILED, Status.CANCELLED) and memo.get("again") == row.finished_at:
                if run.paused is not None:
                    await self._engine.waits.stand_still(run)
                    continue
                again = await self._engine.revive(execution_id, (Status.FAILED, Status.CANCELLED))
                if again is None:
                    await self._engine.clock.sleep(AGAIN)  # somebody else does it
                else:
                    left = await self._drive_child(run, live, again, deadline)
                continue
            late = deadline is not None and self._engine.clock.now() >= deadline
            if late and status not in (Status.COMPLETED, Status.FAILED):
                self._engine.waits.goes_on(run)
                raise StepError("the child execution did not end in time", kind="TimeoutError")
            if status.over:
                self._engine.waits.goes_on(run)
                await self._engine.waits.collect(run)
                run.consume(number for number, _ in run.mailbox.pop(visit.wait_id, ()))
                return self._child_result(row)
            taken = None
            if run.paused is None and execution_id in run.farewells:
                run.farewells.remove(execution_id)  # it was unpaused with this one, and is halted until it hears of it
                taken = await self._engine.claim(execution_id)
            elif status is not Status.HALTED and not left:
                taken = await self._engine.claim(execution_id)
            if taken is not None:
                self._engine.waits.goes_on(run)
                left = await self._drive_child(run, live, taken, deadline)
                continue
            if live.record.wait is None:
                run.emit(
                    machine.waiting(
                        live.record,
                        visit.step,
                        ChildWait(
                            wait_id=visit.wait_id,
                            path=visit.path,
                            step_id=visit.step.id,
                            since=moment(self._engine.clock.now()),
                            deadline=None if deadline is None else moment(deadline),
                            execution_id=execution_id,
                            workflow_id=memo["workflow_id"],
                        ),
                        path=visit.path,
                        now=self._engine.clock.now(),
                        data={"type": "child", "execution_id": execution_id},
                    )
                )
            await self._engine.waits.park(run, live)
            run.consume(number for number, _ in run.mailbox.pop(visit.wait_id, ()))

    async def _above(self, run: Run) -> list[str]:
        """The executions that wait for the children of one: itself, and those above it."""
        found, parent_id = [run.id], run.parent_id if run.info.parent_wait is not None else None
        while parent_id is not None and (row := await self._engine.store.row(parent_id)) is not None:
            found.append(row.id)
            parent_id = row.parent_id if decode_info(row.info, execution_id=row.id).parent_wait is not None else None
        return found

    def _is_child(self, row: Row | None, run: Run) -> None:
        if row is not None and row.parent_id != run.id:
            raise StepError(f"execution {row.id!r} is there already and no child of this one", kind="ConflictError")

    async def left_behind(self, run: Run) -> bool:
        """Whether a child came too late: its parent has ended, which another process did while it was being started,
        and could not tell it."""
        wait_id = run.info.parent_wait
        if run.parent_id is None or wait_id is None:
            return False
        row = await self._engine.store.row(run.parent_id)
        if row is None or Status(row.status).over:
            return row is not None
        afterwards = wait_id.startswith(f"{run.parent_id}:{machine.CLOSING}/")
        return not afterwards and decode_info(row.info, execution_id=row.id).closing is not None

    async def look_up(self, run: Run) -> None:
        """Ends a child that was started too late."""
        if await self.left_behind(run):
            self._engine.stop(run, "cancelled", detail="parent_cancelled")

    async def _drive_child(self, run: Run, live: LiveFrame, child: Run, deadline: float | None) -> bool:
        """Drives a child in the task of its parent's step; whether it is left to another process to end it. What ends
        the step early ends the child as well; where only the parent's process leaves, the child is left where it is."""
        late = left = False

        def reason() -> str | None:
            if late:
                return "timeout"
            return "parent_cancelled" if live.cut() or run.stop_reason in ("cancelled", "timeout") else None

        child.cancelled_for = reason
        timer: Timer | None = None
        with anyio.CancelScope() as scope:

            def expire() -> None:
                nonlocal late
                late = True
                scope.cancel()

            if deadline is not None:
                timer = self._engine.clock.call_later(max(0.0, deadline - self._engine.clock.now()), expire)
            try:
                with suppress(LeaseLost):  # somebody else drives it: its end comes by message
                    await self._engine.execute(child)
            except LeftToOthers as error:
                logger.warning("%s", error)
                left = True
            finally:
                if timer is not None:
                    timer.cancel()
        return left

    def _child_result(self, row: Row) -> Any:
        info = decode_info(row.info, execution_id=row.id)
        if row.status == Status.COMPLETED:
            return result_of(row)
        if row.status == Status.CANCELLED:
            raise StepError(f"the child execution {row.id!r} was cancelled", kind="ChildCancelled")
        error = info.error
        raise StepError(
            f"{error.message} (in child execution {row.id!r})" if error else f"child execution {row.id!r} failed",
            kind=error.type if error else "ChildFailed",
        )

    def farewell(self, run: Run, step_paths: tuple[str, ...] | None, reason: str) -> tuple[Message, ...]:
        """Messages that cancel the children of these steps (or of the whole execution) which still may run."""
        if not run.child_memos:
            return ()
        children = [
            child
            for path, child in run.child_memos.items()
            if step_paths is None
            or any(path == step or path.startswith((f"{step}[", f"{step}/")) for step in step_paths)
        ]
        now = self._engine.clock.now()
        messages = tuple(
            Message(kind="cancel", execution_id=child, key="cancel", time=now, body={"reason": reason})
            for child in children
        )
        run.farewells.extend(children)
        return messages


def child_id(parent_id: str, path: str) -> str:
    """The id of the execution that a `workflow` step starts: the same however often the step is entered."""
    readable = f"{parent_id}.{path}"
    if len(readable) <= 200:
        return readable
    return f"{parent_id[:80]}.{hashlib.sha256(readable.encode()).hexdigest()[:40]}"
