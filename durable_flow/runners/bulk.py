"""What is done to many executions at once: found by a filter, each for itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypedDict

import anyio
import msgspec

from durable_flow.answers import decision, person, remark
from durable_flow.endings import LeftToOthers
from durable_flow.engine import Engine
from durable_flow.errors import ConflictError, DurableFlowError, ExecutionNotFound, LeaseLost, ValidationError
from durable_flow.model.codec import decode_info, encode
from durable_flow.model.execution import ErrorWait, PauseWait, Status, UncertainWait
from durable_flow.model.frame import Message
from durable_flow.stores.base import Row, waits_of

AT_ONCE = 10
"""Executions that are worked on side by side."""

PAGE = 500

LIVE = tuple(status for status in Status if not status.over)


class BulkReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a call for many executions: `matched` are the ids that were found, newest first, `done` those that
    it was done to, and `skipped` says of each of the others why not. With `dry_run` nothing was done to any.

    `more`: the limit was reached, and there are others that match.
    """

    matched: list[str] = []
    done: list[str] = []
    skipped: dict[str, str] = {}
    more: bool = False
    dry_run: bool = False


class Filters(TypedDict, total=False):
    """The arguments by which calls for many executions are told which ones: those of `Selection`."""

    workflow_id: str | None
    labels: Mapping[str, str] | None
    status: str | Sequence[str] | None
    created_after: datetime | None
    created_before: datetime | None
    everything: bool
    limit: int | None


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which executions are meant: those that match all that is given. Nothing given stands for all of them, and must be
    said with `everything`."""

    workflow_id: str | None = None
    labels: Mapping[str, str] | None = None
    status: str | Sequence[str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    everything: bool = False
    limit: int | None = None

    def check(self) -> None:
        given = (self.workflow_id, self.labels or None, self.status, self.created_after, self.created_before)
        if self.everything is not True and all(one is None for one in given):
            filters = "workflow_id=, labels=, status=, created_after= or created_before="
            raise ValidationError([f"say which executions are meant with {filters}, or say everything=True"])
        if self.limit is not None and (type(self.limit) is not int or self.limit < 1):
            raise ValidationError([f"limit must be a number from 1, got {self.limit!r:.100}"])


Deed = Callable[[Engine, str], Awaitable[None]]
"""Does something to one execution. A DurableFlowError says why it could not."""


async def for_all(
    engine: Engine, selection: Selection, deed: Deed, *, status: Sequence[Status], dry_run: bool
) -> BulkReport:
    """Does something to every execution of a selection, of these statuses unless it names others. What cannot be done
    to one keeps no other from it. Children come last: what is done to their parents may have been done to them."""
    selection.check()
    matched: list[str] = []
    outcomes: dict[str, str | None] = {}
    children: list[str] = []
    gate = anyio.Semaphore(AT_ONCE)

    async def work(execution_id: str) -> None:
        async with gate:
            try:
                await deed(engine, execution_id)
            except DurableFlowError as error:
                outcomes[execution_id] = f"{type(error).__name__}: {error}"
            else:
                outcomes[execution_id] = None

    async def work_on(names: Sequence[str]) -> None:
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(work, name)

    cursor: str | None = None
    more = False
    while True:
        left = PAGE if selection.limit is None else selection.limit - len(matched)
        found = await engine.store.find(
            workflow_id=selection.workflow_id,
            status=list(status) if selection.status is None else selection.status,
            labels=selection.labels,
            created_after=selection.created_after,
            created_before=selection.created_before,
            limit=min(PAGE, left),
            cursor=cursor,
        )
        matched += [one.id for one in found]
        children += [one.id for one in found if one.parent_id is not None]
        if not dry_run:
            await work_on([one.id for one in found if one.parent_id is None])
        cursor = found.next_cursor
        if cursor is None or (selection.limit is not None and len(matched) >= selection.limit):
            more = cursor is not None
            break
    if not dry_run:
        await work_on(children)
    return BulkReport(
        matched=matched,
        done=[name for name in matched if name in outcomes and outcomes[name] is None],
        skipped={name: told for name in matched if (told := outcomes.get(name)) is not None},
        more=more,
        dry_run=dry_run,
    )


def cancelling(by: str | None, reason: str | None) -> Deed:
    """Cancels an execution, and ends it where nobody drives it."""
    body = {"reason": reason} if remark(reason, "reason") else {}
    person(by)

    async def cancel(engine: Engine, execution_id: str) -> None:
        await _tell(engine, execution_id, "cancel", "cancel", by, body)
        # Somebody else ends it, then, who drives it or has what the rest of it needs.
        with suppress(LeaseLost, LeftToOthers):
            await engine.nudge(execution_id)

    return cancel


def pausing(by: str | None, reason: str | None) -> Deed:
    """Pauses an execution, at once where nobody drives it."""
    body = {"reason": reason} if remark(reason, "reason") else {}
    person(by)

    async def pause(engine: Engine, execution_id: str) -> None:
        await _tell(engine, execution_id, "pause", f"pause:{engine.ids.nonce()}", by, body)
        with suppress(LeaseLost):
            await engine.nudge(execution_id)

    return pause


def unpausing(by: str | None) -> Deed:
    """Lets a paused execution go on, in a worker or where it is driven."""
    person(by)

    async def unpause(engine: Engine, execution_id: str) -> None:
        row = await _row(engine, execution_id)
        if row.owner is None and not any(isinstance(wait, PauseWait) for wait in waits_of(row)):
            raise ConflictError("it is not paused")
        await _tell(engine, execution_id, "unpause", f"unpause:{engine.ids.nonce()}", by, {})
        await _hint(engine, execution_id)

    return unpause


def retrying(by: str | None) -> Deed:
    """Takes a failed execution up again, and leaves it to workers; decides so where one waits for somebody to."""
    person(by)

    async def retry(engine: Engine, execution_id: str) -> None:
        row = await _row(engine, execution_id)
        if row.status == Status.HALTED:
            await _decide(engine, row, by)
            return
        if row.status == Status.FAILED and decode_info(row.info, execution_id=execution_id).compensated:
            raise ConflictError("it was undone when it failed; start a new one")
        run = await engine.revive(execution_id, actor=by) if row.status == Status.FAILED else None
        if run is None:
            raise ConflictError(f"it is {row.status}; only a failed one can be retried")
        await engine.lay_down(run)

    return retry


async def _decide(engine: Engine, row: Row, by: str | None) -> None:
    blocked = [wait for wait in waits_of(row) if isinstance(wait, ErrorWait | UncertainWait)]
    if not blocked:
        raise ConflictError("no step of it waits for somebody to decide; only a failed one can be retried")
    outcomes = []
    for wait in blocked:
        message = decision(wait, "retry", now=engine.clock.now(), by=by)
        outcomes.append((await engine.store.append(message, encode(message))).outcome)
    if "accepted" not in outcomes:
        raise ConflictError("somebody else decided about it already")
    await _hint(engine, row.id)


async def _tell(
    engine: Engine, execution_id: str, kind: str, key: str, by: str | None, body: dict[str, str | None]
) -> None:
    row = await _row(engine, execution_id)
    decode_info(row.info, execution_id=execution_id)  # who cannot read it must not write to it
    message = Message(kind=kind, execution_id=execution_id, key=key, time=engine.clock.now(), actor=by, body=dict(body))
    outcome = (await engine.store.append(message, encode(message))).outcome
    if outcome == "unknown":
        raise ExecutionNotFound(execution_id)
    if outcome == "closed":
        raise ConflictError(f"it is {(await _row(engine, execution_id)).status}")


async def _row(engine: Engine, execution_id: str) -> Row:
    row = await engine.store.row(execution_id)
    if row is None:
        raise ExecutionNotFound(execution_id)
    return row


async def _hint(engine: Engine, execution_id: str) -> None:
    """Whoever drives the execution here reads its mail; else it is due."""
    if execution_id in engine.runs:
        with suppress(LeaseLost):
            await engine.nudge(execution_id)
    engine.look()
