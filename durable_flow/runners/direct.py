"""`Runner`: starts executions and drives them while the caller waits."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from durable_flow.answers import GIVEN, Answer, person, remark
from durable_flow.clock import moment
from durable_flow.comparison import Difference, StepRun, compared, steps_of
from durable_flow.errors import ConfigError, ConflictError, ExecutionNotFound, LeaseLost, ValidationError
from durable_flow.fork import Target, checked, fingerprint, forked
from durable_flow.live import CLOCK, AlreadyExists, Run
from durable_flow.machine import UNDO
from durable_flow.migration import Migration, checked_mapping, judged
from durable_flow.model.codec import decode_frame, decode_info, decode_message
from durable_flow.model.execution import (
    AnyWait,
    ApprovalWait,
    ChildWait,
    Entry,
    ErrorWait,
    ExecutionResult,
    GateWait,
    Halt,
    HaltWait,
    PauseWait,
    RetryWait,
    SignalWait,
    Status,
    UncertainWait,
)
from durable_flow.model.frame import FrameState, Message
from durable_flow.model.trace import check_traceparent
from durable_flow.model.workflow import WorkflowDef
from durable_flow.position import ChainLink, Where, places_behind, places_of
from durable_flow.runners.correspondence import Correspondent, check_labels, halt_of
from durable_flow.runners.signals import message_of
from durable_flow.stores.base import NEVER, Row, check_id, execution_of, line_of, masked, masks_of, waits_of

CHUNK = 1000
"""Entries that are read at once."""

ENDED = frozenset({"completed", "failed", "cancelled"})
"""States of steps that a fork finds done."""

ANSWERED = frozenset({"halt", "approval", "error", "uncertain"})
"""The waits that `resume` answers."""


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """What an execution is waiting for: `reason` says it, `unblock` what would make it go on."""

    execution_id: str
    status: Status
    reason: str
    unblock: str
    path: str = ""
    since: datetime | None = None
    wait_id: str | None = None
    deadline: datetime | None = None
    last_heartbeat: datetime | None = None


class Runner(Correspondent):
    """Drives executions of one workflow in the task of the caller.

    `run` and `resume` return when the execution is over or waits for somebody. Cancelling the call leaves the execution
    at its last finished step with no owner: `recover` (or a `run` with the same id) goes on from there.
    """

    async def run(
        self,
        input: Mapping[str, Any] | None = None,
        *,
        execution_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        queue: str | None = None,
        traceparent: str | None = None,
        trigger: str = "api",
        dry_run: bool = False,
        fixtures: Mapping[str, Any] | None = None,
    ) -> ExecutionResult:
        """Starts an execution and drives it. `queue` is kept with it and with its children: if this process dies, or
        leaves it at a wait, the workers of that queue go on with it. So is `traceparent`, which says of what trace (W3C
        Trace Context) it is part: services find it in their StepContext, wherever the step runs.

        With an `execution_id` starting is idempotent: a second call with the same input follows the execution that is
        there, goes on with it where nobody drives it, or returns how it ended. Raises InputError for an input that does
        not fit (nothing is stored), ConflictError if the id belongs to another workflow or another input.

        With `dry_run` nothing is done outside: no service is called, no gate asked, no secret fetched, nobody and
        nothing is waited for; so it stays, whoever drives the execution on. `fixtures` stand in for what steps would
        get, by step id or path, before those of the document; ValidationError tells what is wrong with them.

        Where the workflow limits its `concurrency`, the execution may have to wait for its turn: it is pending then,
        and begins here, or in a worker, as soon as it is its turn. Raises KeyTaken where it is rejected, and goes on as
        a repeated call would with the one that is there where that is to be returned.
        """
        engine = self._engine
        given, fingerprint = self._checked(input, labels=labels, queue=queue, traceparent=traceparent)
        played = self._rehearsal(dry_run, fixtures)
        execution_id = engine.ids.execution() if execution_id is None else check_id(execution_id)
        local = engine.runs.get(execution_id)
        while local is not None and not local.version:
            await local.created.wait()  # only then it is known whether it is the one with this id
            local = engine.runs.get(execution_id)
        if local is None:
            limited = self.workflow.concurrency is not None and not dry_run
            make = partial(
                engine.create,
                self.workflow,
                given,
                execution_id=execution_id,
                trigger=trigger,
                labels=labels or {},
                queue=queue,
                fingerprint=fingerprint,
                traceparent=traceparent,
                dry_run=dry_run,
                fixtures=played,
                begins=not limited,
            )
            try:
                if limited:
                    return await self._follow(await engine.admission.enter(make))
                return await self._drive(make())
            except AlreadyExists:
                pass
        await self._started_with(fingerprint, execution_id, dry_run=dry_run, fixtures=played)
        return await self._follow(execution_id)

    async def resume(
        self,
        execution_id: str,
        *,
        response: Any = GIVEN,
        approved: Any = GIVEN,
        by: str | None = None,
        comment: str | None = None,
        selections: Sequence[Any] | None = None,
        step: str | None = None,
        wait_id: str | None = None,
    ) -> ExecutionResult:
        """Answers a wait and drives the execution on.

        A halt takes `response`; an approval takes `approved` (exactly True or False), `by`, `comment` and `selections`.
        `step` (a step, branch or path) or `wait_id` say which wait is meant where several are open; a wait of a child
        execution may be answered through its parent. Exactly one answer to a wait is accepted: a second one, a late
        one, or one to an execution that does not wait raises ConflictError, and NotAllowed tells who may not answer;
        then nothing has changed.
        """
        answer = Answer(response=response, approved=approved, by=by, comment=comment, selections=selections)
        told = await self._answer(execution_id, answer, step=step, wait_id=wait_id)
        return await self._go_on(told, execution_id)

    async def run_until_complete(
        self,
        input: Mapping[str, Any] | None = None,
        on_halt: Callable[[Halt], Any | Awaitable[Any]] | None = None,
        *,
        execution_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        traceparent: str | None = None,
    ) -> ExecutionResult:
        """`run`, with `on_halt` (plain or async) answering every wait that a person can answer.

        For a halt it returns the response. For an approval it returns True, False, or a mapping of the arguments of
        `resume`, such as `{"approved": True, "by": "alice"}`. Without `on_halt` a waiting execution is returned.
        """
        result = await self.run(input, execution_id=execution_id, labels=labels, traceparent=traceparent)
        while result.halted and on_halt is not None:
            halt = next((halt for halt in result.halts if halt.type in ANSWERED), None)
            if halt is None:
                break
            answer = on_halt(halt)
            if inspect.isawaitable(answer):
                answer = await answer
            if halt.type != "approval":
                arguments: dict[str, Any] = {"response": answer}
            elif isinstance(answer, Mapping):
                arguments = dict(answer)
            else:
                arguments = {"approved": answer}
            result = await self.resume(result.execution_id, wait_id=halt.wait_id, **arguments)
        return result

    async def cancel(self, execution_id: str, *, reason: str | None = None, by: str | None = None) -> ExecutionResult:
        """Cancels an execution, wherever it runs, and its children. ConflictError if it is over already."""
        await self._cancel(execution_id, reason=reason, by=by)
        return await self._go_on(execution_id, execution_id)

    async def pause(self, execution_id: str, *, by: str | None = None, reason: str | None = None) -> ExecutionResult:
        """Pauses an execution, wherever it runs, and the children it waits for: steps under way end, and none begins
        after them. Then it is halted, and nobody takes it up until it is unpaused.

        What it waits for goes on meanwhile: answers and signals are taken, timers and timeouts fire, it can be
        cancelled; only what follows does not begin. Pausing again changes nothing. Returns how it stands as soon as
        that is durable: `running`, while whoever drives it has steps under way. ConflictError if it is over.
        """
        await self._hold(execution_id, "pause", by, {"reason": reason} if remark(reason, "reason") else {})
        await self._nudge(execution_id)
        return await self._result(execution_id)

    async def unpause(self, execution_id: str, *, by: str | None = None, drive: bool = True) -> ExecutionResult:
        """Lets a paused execution go on, with the children that were paused with it. One that is not paused does not
        change.

        Where nobody drives it, it is driven here until it is over or waits again; without `drive` that is left to
        workers, which take it up at once. ConflictError if it is over.
        """
        await self._hold(execution_id, "unpause", by, {})
        if not drive and execution_id not in self._engine.runs:
            self._engine.look()
            return await self._result(execution_id)
        driven = await self._nudge(execution_id)
        return await (self._result(execution_id) if driven is None else self._follow(execution_id))

    async def retry(self, execution_id: str, *, by: str | None = None) -> ExecutionResult:
        """Goes on with a failed execution at the step that failed; finished steps stay finished, and the idempotency
        key of the step stays the same. So it does with one that waits for a person to decide about a step that failed,
        or may have happened. ConflictError for any other."""
        self._check_open()
        person(by)
        row = await self._row(execution_id)
        if row.status == Status.HALTED:
            await self._decide(row, "retry", by=by)
            return await self._follow(execution_id)
        run = await self._revived(row, by=by)
        return await self._drive(run)

    async def fail(self, execution_id: str, *, reason: str | None = None, by: str | None = None) -> ExecutionResult:
        """Lets the step fail about which an execution waits for a person to decide: its `on_error` follows, or the
        execution has failed. ConflictError if it does not wait for that."""
        self._check_open()
        await self._decide(await self._row(execution_id), "fail", by=by, reason=remark(reason, "reason"))
        return await self._follow(execution_id)

    async def recover(self, execution_id: str) -> ExecutionResult:
        """Goes on with an execution whose process died, and fires what timed out meanwhile.

        ConflictError while somebody drives it. One that is over, or waits, is returned as it is.
        """
        self._check_open()
        engine = self._engine
        row = await self._row(execution_id)
        if row.owner is not None and execution_id in engine.runs:
            raise ConflictError(f"execution {execution_id!r} is being driven by this process")
        if not Status(row.status).over and await self._stir(row):
            return await self._follow(execution_id)
        if not Status(row.status).over:
            run = await engine.claim(execution_id)
            if run is not None:
                return await self._drive(run)
            row = await self._row(execution_id)
            if row.status == Status.PENDING and row.owner is None:
                return await self._result(execution_id)  # its time has not come
            if not Status(row.status).over and (row.owner is not None or row.status != Status.HALTED):
                raise ConflictError(f"execution {execution_id!r} is being driven by {row.owner or 'this process'}")
        return await self._result(execution_id)

    async def _stir(self, above: Row) -> bool:
        """Drives what can go on below an execution that waits: waits whose time is up, children whose process died or
        whose answer nobody took. Whether there was anything."""
        engine = self._engine
        stirred = False
        if above.wake_at is not None and above.owner is None and engine.clock.now() >= above.wake_at:
            driven = await self._nudge(above.id)
            stirred = driven is None or driven.seq > above.seq  # where a clock is ahead, the store does not agree yet
        for wait in waits_of(above):
            if not isinstance(wait, ChildWait):
                continue
            row = await engine.store.row(wait.execution_id)
            if row is None or Status(row.status).over:
                continue
            stirred |= await self._stir(row)
            free = row.owner is None or (row.lease_until or 0) <= engine.clock.now()
            if free and (row.status != Status.HALTED or row.owner is not None or await engine.store.inbox(row.id)):
                # By the clock of this process: the store may say otherwise, and then there is nothing to be done.
                stirred |= await self._nudge(row.id) is not None
        return stirred

    async def fork(
        self,
        original_id: str,
        *,
        from_step: str,
        set: Mapping[str, Any] | None = None,
        execution_id: str | None = None,
        by: str | None = None,
        labels: Mapping[str, str] | None = None,
        traceparent: str | None = None,
    ) -> ExecutionResult:
        """Begins a new execution where another one was when it came to a step, and drives it. The original stays as it
        is, whether it is over, waits or runs.

        `from_step` is a step of the workflow, or the path of one inside others (`orders[3]/charge`); where it was
        visited several times the last visit is meant, or the one that `poll#2` names. `set` replaces variables. The new
        execution has the input and the definition of the original, and its labels unless others are given; whatever it
        does has ids and idempotency keys of its own, its timeout counts anew, and its `traceparent` is what is given
        here. With an `execution_id` starting is
        idempotent, as with `run`.

        Raises ValidationError for a step or a variable that the workflow has not, and ConflictError where the original
        never came to the step or the `execution_id` is that of something else.
        """
        engine = self._engine
        self._check_open()
        person(by)
        check_labels(labels)
        traceparent = check_traceparent(traceparent)
        target = Target(from_step)
        changes = checked(set, limits=engine.limits)
        asked = fingerprint(check_id(original_id), target, changes)
        if execution_id is not None and await engine.store.row(check_id(execution_id)) is not None:
            return await self._follow_fork(execution_id, asked)
        row = await self._row(original_id)
        new_id = engine.ids.execution() if execution_id is None else execution_id
        run = await forked(engine, row, target, changes, execution_id=new_id, by=by, labels=labels)
        run.change_info(given=asked, traceparent=traceparent)
        try:
            return await self._drive(await engine.establish(run))
        except AlreadyExists:
            return await self._follow_fork(new_id, asked)

    async def migration(self, execution_id: str, *, mapping: Mapping[str, str] | None = None) -> Migration:
        """Whether an execution can go on with the definition that this runtime has of its workflow now. Nothing is
        changed. `mapping` gives steps of the workflow itself other names."""
        row = await self._row(execution_id)
        engine = self._engine
        definition = self._current(row)
        stored = await engine.store.fetch(execution_id)
        if stored is None:
            raise ExecutionNotFound(execution_id)
        row = stored.row
        old = await engine.load_definition(row.definition_hash, execution_id)
        names = checked_mapping(mapping, old, definition)
        run = Run.load(stored, old, owner=engine.owner)  # as it would be driven, which nobody does
        frames = {"": run.root.record, **run.frames}
        verdict = judged(execution_id, old, definition, frames=frames, undo=run.undo, mapping=names, info=run.info)
        if row.status in (Status.COMPLETED, Status.CANCELLED):
            return msgspec.structs.replace(verdict, verdict="must_finish", mapping={}, reasons=(f"it is {row.status}",))
        return verdict

    async def migrate(
        self, execution_id: str, *, mapping: Mapping[str, str] | None = None, by: str | None = None
    ) -> Migration:
        """Gives an execution the definition that this runtime has of its workflow now, and does not drive it: whoever
        takes it up next does that with the new one. It must wait, or have failed, or be left by its process; what it
        stands at must be there. `mapping` gives steps of the workflow itself the names they have now.

        Raises ConflictError, and changes nothing, where it is driven, over, or cannot go on with that definition; what
        `migration` returns says why. Raises ValidationError for a mapping of what is not there, and ConfigError where
        the runtime does not know the workflow.
        """
        self._check_open()
        row = await self._row(execution_id)
        definition = self._current(row)
        verdict = None
        if not Status(row.status).over or row.status == Status.FAILED:
            with suppress(LeaseLost):
                verdict = await self._engine.migrate(execution_id, definition, mapping=mapping, actor=person(by))
        if verdict is None:
            row = await self._row(execution_id)
            stands = f"is {row.status}" if row.owner is None else f"is being driven by {row.owner}"
            raise ConflictError(f"execution {execution_id!r} {stands}; it cannot be migrated")
        if not verdict.safe:
            proposed = "".join(f"; mapping={{{old!r}: {new!r}}} may be meant" for old, new in verdict.mapping.items())
            raise ConflictError(
                f"execution {execution_id!r} cannot be migrated: {'; '.join(verdict.reasons)}{proposed}"
            )
        return verdict

    def _current(self, row: Row) -> WorkflowDef:
        definition = self._engine.find_workflow(row.workflow_id)
        if definition is None:
            raise ConfigError(f"this runtime knows no workflow {row.workflow_id!r}; give it the current definition")
        return definition

    async def _follow_fork(self, execution_id: str, expected: str) -> ExecutionResult:
        row = await self._row(execution_id)
        if decode_info(row.info, execution_id=execution_id).given != expected:
            raise ConflictError(f"execution {execution_id!r} was not started as this fork")
        return await self._follow(execution_id)

    async def signal(
        self,
        execution_id: str,
        name: str,
        payload: Any = None,
        *,
        by: str | None = None,
        signal_id: str | None = None,
    ) -> None:
        """Sends a signal to an execution that is not over: to the `signal` step that waits for `name`, or the next one
        that does. Signals are kept, and taken in the order in which they came. Returns when what it set going has come
        to a halt or an end, if it was not being driven by another process.

        Of several signals with one `signal_id` the first counts, so who does not know whether it arrived can send it
        again; that is known for as long as at most 10,000 entries of the audit trail came after it.

        Raises ExecutionNotFound, ConflictError (it is over) and ValidationError (a payload that cannot be stored).
        """
        self._check_open()
        message = message_of(self._engine, execution_id, name, payload, by=by, signal_id=signal_id)
        await self._row(execution_id)
        await self._send(message)
        await self._nudge(execution_id)

    async def signal_with_start(
        self,
        execution_id: str,
        name: str,
        payload: Any = None,
        *,
        input: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        queue: str | None = None,
        traceparent: str | None = None,
        by: str | None = None,
        signal_id: str | None = None,
    ) -> ExecutionResult:
        """Sends a signal to an execution, which is started if it is not there: then the commit that creates it has the
        signal, too. However many call at once, one execution is started, and every signal reaches it, in order.

        `input`, `labels`, `queue` and `traceparent` are those of `run`, and `signal_id` that of `signal`: with one, a
        call that may have got through can be repeated. Returns how the execution stands when what was set going here
        has come to a halt or an end. Raises InputError, ConflictError (it is over; it belongs to another workflow or
        another input) and ValidationError; then nothing has changed.
        """
        engine = self._engine
        given, fingerprint = self._checked(input, labels=labels, queue=queue, traceparent=traceparent)
        message = message_of(engine, check_id(execution_id), name, payload, by=by, signal_id=signal_id)
        new = await engine.store.row(execution_id) is None
        while (local := engine.runs.get(execution_id)) is not None and not local.version:
            await local.created.wait()
        limited = self.workflow.concurrency is not None
        if new and local is None:
            make = partial(
                engine.create,
                self.workflow,
                given,
                execution_id=execution_id,
                trigger="api",
                labels=labels or {},
                queue=queue,
                fingerprint=fingerprint,
                begins=not limited,
                traceparent=traceparent,
            )
            try:
                if limited:
                    return await self._enter_with(make, message)
                run = make()
                run.keep_signal(CLOCK, message)
                return await self._drive(run)
            except AlreadyExists:
                pass
        await self._started_with(fingerprint, execution_id)
        await self._send(message)
        await self._nudge(execution_id)
        return await self._result(execution_id)

    async def _enter_with(self, make: Callable[[], Run], message: Message) -> ExecutionResult:
        """Starts an execution that has a signal in its inbox; one that is there in its place is sent it."""

        def make_with_signal() -> Run:
            run = make()
            run.send((message,))
            return run

        entered = await self._engine.admission.enter(make_with_signal)
        if entered != message.execution_id:
            await self._send(msgspec.structs.replace(message, execution_id=entered))
            await self._nudge(entered)
        return await self._follow(entered)

    async def signal_where(
        self, labels: Mapping[str, str], name: str, payload: Any = None, *, by: str | None = None
    ) -> list[str]:
        """Sends a signal to every execution of this workflow that is not over and has all of these labels; their ids.
        One that ends meanwhile is left out."""
        self._check_open()
        if not labels:
            raise ValidationError(["say which executions by labels; signal(execution_id, …) is for a single one"])
        check_labels(labels)
        reached: list[str] = []
        live = [status for status in Status if not status.over]
        cursor: str | None = None
        while True:
            page = await self._engine.store.find(
                workflow_id=self.workflow.id, status=live, labels=labels, limit=500, cursor=cursor
            )
            for execution in page:
                with suppress(ConflictError, ExecutionNotFound):
                    await self.signal(execution.id, name, payload, by=by)
                    reached.append(execution.id)
            if page.next_cursor is None:
                return reached
            cursor = page.next_cursor

    async def follow(self, execution_id: str) -> ExecutionResult:
        """Waits until an execution is over or waits for somebody, and drives it where nobody else does: what `run` does
        with one that is there already, for who does not have its input."""
        self._check_open()
        await self._row(execution_id)
        return await self._follow(execution_id)

    async def result(self, execution_id: str) -> ExecutionResult:
        """How the execution stands, without driving it."""
        await self._row(execution_id)
        return await self._result(execution_id)

    async def why(self, execution_id: str) -> list[Why]:
        """What an execution that is not over waits for, since when, and what would make it go on."""
        row = await self._row(execution_id)
        status = Status(row.status)
        info = decode_info(row.info, execution_id=execution_id)
        now = self._engine.clock.now()
        if status.over:
            error = f" ({info.error.text} at {info.error.path or 'the workflow'})" if info.error is not None else ""
            if info.compensated:
                action = "nothing: what its steps did was undone; start a new one"
            else:
                action = "retry it" if status is Status.FAILED else "nothing: it is over"
            return [Why(execution_id=execution_id, status=status, reason=f"it is {status}{error}", unblock=action)]
        found: list[Why] = []
        if status is Status.PENDING and row.owner is None and row.wake_at is not None and row.wake_at > now:
            reason, unblock = await self._why_not_yet(row)
            since = moment(row.created_at)
            deadline = None if row.wake_at == NEVER else moment(row.wake_at)
            return [
                Why(
                    execution_id=execution_id,
                    status=status,
                    reason=reason,
                    unblock=unblock,
                    since=since,
                    deadline=deadline,
                )
            ]
        waits = await self._open_waits(row, masks=masks_of(row))
        unread = await self._unread(waits)
        for wait in waits:
            reason, unblock = _why(wait)
            if wait.wait_id in unread:
                reason, unblock = f"a worker to go on with what {unread[wait.wait_id]} said", "recover it, if none does"
            found.append(
                Why(
                    execution_id=wait.wait_id.rpartition(":")[0],
                    status=status,
                    reason=reason,
                    unblock=unblock,
                    path=wait.path,
                    since=wait.since,
                    wait_id=None if wait.wait_id in unread else wait.wait_id,
                    deadline=wait.deadline,
                )
            )
        if status is Status.PENDING and row.owner is None:
            where = "" if row.queue is None else f" of queue {row.queue!r}"
            state = (await self._engine.store.queues([row.queue]))[row.queue]
            limits, unblock = state.limits, "nothing to do where such a worker runs"
            if state.hold is not None:
                where, unblock = f"{where}, which is paused", "unpause the queue"
            elif limits.concurrency is not None and state.under_way >= limits.concurrency:
                where = f"{where}, of which {state.under_way:,} are under way and {limits.concurrency:,} may be"
                unblock = "nothing to do: it begins when enough of them have ended"
            elif limits.rate is not None:
                where = f"{where}, of which {limits.rate:,} may begin within {limits.period:g} s"
            found.append(
                Why(
                    execution_id=execution_id,
                    status=status,
                    reason=f"a worker{where}",
                    unblock=unblock,
                    since=moment(row.created_at),
                )
            )
        elif status is not Status.HALTED:
            shown = execution_of(row)
            at = f"step {row.current_step!r}"
            if info.closing is not None:
                ended = "was cancelled" if info.closing.status is Status.CANCELLED else info.closing.status
                at = f"what comes after it {ended}"
            beat = await self._last_heartbeat(execution_id)
            if row.owner is not None and (row.lease_until or 0) > now:
                said = "" if beat is None else f", last heartbeat {max(0.0, now - beat):.0f} s ago"
                reason, unblock = f"{at} is running{said}", f"nothing to do: {row.owner} drives it"
            else:
                reason, unblock = f"it stopped at {at} and nobody drives it", "recover it"
            found.append(
                Why(
                    execution_id=execution_id,
                    status=status,
                    reason=reason,
                    unblock=unblock,
                    path="" if info.closing is not None else row.current_step or "",
                    since=shown.updated_at,
                    last_heartbeat=None if beat is None else moment(beat),
                )
            )
        return found

    async def _unread(self, waits: Sequence[AnyWait]) -> dict[str, str]:
        """Who answered, by the id of the wait, where an answer that closes it is there and no owner has read it yet."""
        found: dict[str, str] = {}
        for execution_id in {wait.wait_id.rpartition(":")[0] for wait in waits}:
            inbox = await self._engine.store.inbox(execution_id)
            messages = [decode_message(blob, execution_id=execution_id) for _, blob in inbox]
            for wait in waits:
                told = [message for message in messages if _is_told(wait, message)]
                needed = 1
                if isinstance(wait, ApprovalWait):
                    needed = wait.required - sum(vote.approved for vote in wait.votes)
                if len(told) >= needed or not all(message.takes for message in told):
                    found[wait.wait_id] = told[-1].actor or "somebody"
        return found

    async def _why_not_yet(self, row: Row) -> tuple[str, str]:
        """What a pending execution waits for that nobody may begin yet."""
        if row.wake_at != NEVER or row.concurrency_key is None:
            return "the time when it is to begin", "nothing to do: a worker begins it then"
        line = await self._engine.store.line(line_of(row.workflow_id, row.concurrency_key))
        holders = [one.execution_id for one in line if one.holds]
        waiting = [one.execution_id for one in line if not one.holds]
        before = waiting.index(row.id) if row.id in waiting else 0
        names = ", ".join(repr(name) for name in holders[:5]) + (", …" if len(holders) > 5 else "")
        many = len(holders) > 1
        held = f"execution{'s' if many else ''} {names}, which hold{'' if many else 's'} key {row.concurrency_key!r}"
        others = "" if not before else f" (and {before} before it wait{'s' if before == 1 else ''} for that, too)"
        return f"{held}{others}", f"nothing to do: it begins when {'one of them' if many else 'that one'} has ended"

    async def where(self, execution_id: str) -> list[Where]:
        """The innermost places at which an execution stands, as of its last commit, down through the children it waits
        for: one for each step under way, so several where branches or iterations run side by side. A failed or
        cancelled one stands where it ended, one that completed nowhere."""
        row = await self._row(execution_id)
        return await self._places(row, tuple(await self._ancestors(row)))

    async def _places(self, row: Row, chain: tuple[ChainLink, ...]) -> list[Where]:
        engine = self._engine
        stored = await engine.store.fetch(row.id)
        if stored is None or stored.row.status == Status.COMPLETED:
            return []
        row = stored.row
        definition = await engine.load_definition(row.definition_hash, row.id)
        frames = {path: decode_frame(blob, execution_id=row.id) for path, blob in [("", row.root), *stored.frames]}
        found: list[Where] = []
        if (closing := decode_info(row.info, execution_id=row.id).closing) is None:
            places = places_of(definition, frames)
        else:
            undo = sorted(((seq, name) for frame, name, seq in stored.sets if frame == UNDO), reverse=True)
            undone = [name for _, name in undo] if closing.status is not Status.COMPLETED else []
            places = places_behind(definition, frames, undone)
        for place in places:
            inner: list[Where] = []
            memo = place.frame.memo or {}
            if memo.get("wait") is True and "child" in memo:
                child = await engine.store.row(memo["child"])
                here = ChainLink(execution_id=row.id, workflow_id=row.workflow_id, path=place.path)
                inner = [] if child is None else await self._places(child, (*chain, here))
            found += inner or [
                Where(
                    execution_id=row.id,
                    workflow_id=row.workflow_id,
                    path=place.path,
                    step_id=place.step.id,
                    step_type=place.step.type.name,
                    state=_standing(place.frame.state, Status(row.status)),
                    attempt=place.frame.tries + 1,
                    chain=(*chain, ChainLink(execution_id=row.id, workflow_id=row.workflow_id)),
                    loop=place.loop,
                    items=place.items,
                )
            ]
        return found

    async def _ancestors(self, row: Row) -> list[ChainLink]:
        """The executions above one, outermost first."""
        chain: list[ChainLink] = []
        while row.parent_id is not None and (above := await self._engine.store.fetch(row.parent_id)) is not None:
            blobs = [above.row.root, *(blob for _, blob in above.frames)]
            memos = [decode_frame(blob, execution_id=above.row.id).memo or {} for blob in blobs]
            started = [str(memo["path"]) for memo in memos if memo.get("child") == row.id and "path" in memo]
            path = started[0] if started else row.id.removeprefix(f"{above.row.id}.") if "." in row.id else ""
            chain.insert(0, ChainLink(execution_id=above.row.id, workflow_id=above.row.workflow_id, path=path))
            row = above.row
        return chain

    async def diff(self, a: str, b: str) -> list[Difference]:
        """Two executions of this workflow, step by step (`orders[3]/charge`, `poll#2`), in the order of the first.

        It is meant for a fork and its original: what a fork began with counts as its own, as far as the execution it
        comes from is still there.
        """
        return compared(await self._steps(a), await self._steps(b))

    async def _steps(self, execution_id: str, *, until: int | None = None) -> dict[str, StepRun]:
        """The steps of an execution, those before it was forked included; `until` is the last entry that counts."""
        await self._row(execution_id)
        store = self._engine.store
        entries: list[Entry] = []
        while until is None or len(entries) < until:
            left = CHUNK if until is None else min(CHUNK, until - len(entries))
            chunk = await store.entries(execution_id, after=len(entries), limit=left)
            entries += chunk
            if len(chunk) < left:
                break
        own = steps_of(entries)
        told = entries[0].metadata if entries else {}
        if "forked_from" not in told or await store.row(told["forked_from"]) is None:
            return own
        before = await self._steps(told["forked_from"], until=told["forked_at"])
        return {path: step for path, step in before.items() if step.state in ENDED and path not in own} | own

    async def _last_heartbeat(self, execution_id: str) -> float | None:
        """When any of its steps said last that it lives, as far as that is written."""
        stored = await self._engine.store.fetch(execution_id)
        if stored is None:
            return None
        blobs = (stored.row.root, *(blob for _, blob in stored.frames))
        beats = [decode_frame(blob, execution_id=execution_id).beat for blob in blobs]
        return max((beat.time for beat in beats if beat is not None), default=None)

    # -- how ---------------------------------------------------------------------------------------------------------

    async def _look_after(self, execution_id: str) -> None:
        await self._nudge(execution_id)

    async def _nudge(self, execution_id: str) -> Run | None:
        with suppress(LeaseLost):  # somebody else goes on with it: it is followed
            return await self._engine.nudge(execution_id)
        return None

    async def _go_on(self, told: str, execution_id: str) -> ExecutionResult:
        """How an execution stands after it, or a child of it (`told`), was sent something."""
        driven = await self._nudge(told)
        result = None if driven is None or driven.id != execution_id else _outcome(driven)
        return result or await self._follow(execution_id)

    async def _drive(self, run: Run) -> ExecutionResult:
        try:
            await self._engine.execute(run)
        except LeaseLost:
            if not run.version:  # of several branches that share the first commit, only one is told why it failed
                raise AlreadyExists(f"execution {run.id!r} exists already") from None
            return await self._follow(run.id)
        return _outcome(run) or await self._follow(run.id)

    async def _follow(self, execution_id: str) -> ExecutionResult:
        """Waits until the execution is over or halted, and drives it where nobody else does."""
        engine = self._engine
        with engine.follow(execution_id) as changed:
            while True:
                local = engine.runs.get(execution_id)
                if local is not None:
                    await local.over.wait()
                    continue
                row = await engine.store.row(execution_id)
                if row is None:
                    raise ExecutionNotFound(execution_id)
                status = Status(row.status)
                if status.over:
                    return await self._result(execution_id)
                if status is Status.HALTED and row.owner is None:
                    if await self._stir(row):
                        continue
                    if not await engine.store.inbox(execution_id):
                        if await self._moves_below(row):
                            await changed(None)
                            continue
                        times = [None if wait.outside else wait.deadline for wait in await self._open_waits(row)]
                        if None in times or not times:
                            return await self._result(execution_id)
                        ends = [time.timestamp() for time in times if time is not None]
                        await changed(min(ends if row.wake_at is None else [*ends, row.wake_at]))
                        continue
                elif status is Status.HALTED and engine.clock.now() < (row.lease_until or 0):
                    # Whoever has it is about to let it go, and says so. To claim it in that moment would have them wake
                    # up in their turn, and so on.
                    await changed(None)
                    continue
                run = await engine.claim(execution_id)
                if run is None:
                    later = status is Status.PENDING and engine.clock.now() < (row.wake_at or 0) < NEVER
                    await changed(row.wake_at if later else None)
                    continue
                try:
                    await engine.execute(run)
                except LeaseLost:
                    continue

    async def _moves_below(self, above: Row) -> bool:
        """Whether an execution waits for a child that somebody drives, or that has just ended: then it will go on."""
        for child in [wait.execution_id for wait in waits_of(above) if isinstance(wait, ChildWait)]:
            row = await self._engine.store.row(child)
            if row is not None and (row.status != Status.HALTED or row.owner or await self._moves_below(row)):
                return True
        return False


def _standing(state: FrameState, status: Status) -> str:
    """The state of a place. What an end found under way or waiting ended with the execution."""
    if status is Status.PENDING or (status.over and state in (FrameState.RUNNING, FrameState.WAITING)):
        return str(status)
    return str(state)


def _outcome(run: Run) -> ExecutionResult | None:
    """The result of an execution that was driven here; None where it goes on, or must be looked for further down."""
    if run.status.over:
        return ExecutionResult(
            status=run.status,
            execution_id=run.id,
            output=run.root.values.get("result") if run.status is Status.COMPLETED else None,
            error=None if run.info.error is None else run.info.error.text,
            error_info=run.info.error,
            compensated=run.info.compensated,
            dry_run=run.info.dry_run,
        )
    waits = list(run.waiting.values())
    outside = not any(isinstance(wait, ChildWait) for wait in waits) and any(wait.outside for wait in waits)
    if run.status is not Status.HALTED or not outside:
        return None
    return ExecutionResult(
        status=run.status,
        execution_id=run.id,
        halts=[halt_of(masked(wait, run.masks)) for wait in waits],
        dry_run=run.info.dry_run,
    )


def _is_told(wait: AnyWait, message: Message) -> bool:
    """Whether a message says what is waited for."""
    if message.kind == "signal":
        return isinstance(wait, SignalWait) and message.body["name"] == wait.name
    return message.kind == "answer" and message.wait_id == wait.wait_id


def _why(wait: AnyWait) -> tuple[str, str]:
    if isinstance(wait, ApprovalWait):
        given = sum(vote.approved for vote in wait.votes)
        who = f" by {', '.join(wait.approvers)}" if wait.approvers else ""
        count = f" ({given} of {wait.required})" if wait.required > 1 else ""
        return f"approval{who}{count}: {wait.prompt}", "approve or reject it"
    if isinstance(wait, HaltWait):
        reason = wait.data.get("reason")
        return f"a response{f': {reason}' if reason else ''}", "resume it with a response"
    if isinstance(wait, PauseWait):
        who, reason = f" by {wait.by}" if wait.by else "", wait.data.get("reason")
        which = f"execution {wait.above!r}, which it was paused with" if wait.above else "it"
        return f"paused{who}{f': {reason}' if reason else ''}", f"unpause {which}"
    if isinstance(wait, SignalWait):
        return f"the signal {wait.name!r}", f"signal it: {wait.name}"
    if isinstance(wait, RetryWait):
        return f"attempt {wait.attempt}, after {wait.error.text}", "nothing to do: it is made when its time comes"
    if isinstance(wait, ErrorWait):
        return f"somebody to decide about {wait.error.text}", "retry it, resume it with a response, or fail it"
    if isinstance(wait, UncertainWait):
        return "somebody to find out whether it happened", "retry it, resume it with a response, or fail it"
    if isinstance(wait, GateWait):
        return f"the gate {wait.resolver!r} to open", "nothing to do: a worker asks again"
    if wait.by_time:
        return "time to go by", "nothing to do: it goes on by itself where a worker or a caller drives it"
    return "a child execution", "see the child"
