"""`Correspondent`: what runners have in common: they look at executions and write to them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import msgspec

from durable_flow.answers import Answer, choose, decision, message_for, person, remark
from durable_flow.definition.fixtures import checked_fixtures
from durable_flow.definition.inputs import check_input
from durable_flow.engine import Engine
from durable_flow.errors import ConflictError, ExecutionNotFound, ValidationError
from durable_flow.limits import Limits
from durable_flow.live import Run
from durable_flow.model.codec import decode_info, encode
from durable_flow.model.execution import (
    AnyWait,
    ApprovalWait,
    ChildWait,
    ErrorWait,
    ExecutionResult,
    Halt,
    HaltWait,
    PauseWait,
    Status,
    UncertainWait,
)
from durable_flow.model.frame import Message
from durable_flow.model.trace import check_traceparent
from durable_flow.model.value import normalise
from durable_flow.model.workflow import WorkflowDef
from durable_flow.runners.queues import check_queue
from durable_flow.runners.signals import was_taken
from durable_flow.stores.base import Row, check_id, masked, masks_of, result_of, waits_of


class Correspondent(ABC):
    """Looks at executions of one workflow and puts messages into their inboxes; who drives them is not its affair."""

    def __init__(self, engine: Engine, workflow: WorkflowDef) -> None:
        self._engine = engine
        self.workflow = workflow

    @abstractmethod
    async def _look_after(self, execution_id: str) -> object:
        """Sees to it that an execution which has mail, or whose time is up, is taken care of."""

    def _check_open(self) -> None:
        if self._engine.closing:
            raise ConflictError("the runtime is closed; no execution is taken up any more")

    def _checked(
        self,
        input: Mapping[str, Any] | None,
        *,
        labels: Mapping[str, str] | None,
        queue: str | None,
        traceparent: object,
    ) -> tuple[dict[str, Any], str]:
        """What an execution is to be started with: its input with defaults, and what tells that from another one.
        Raises what `Runner.run` does of what is wrong with it."""
        self._check_open()
        given = check_input(self.workflow, input, limits=self._engine.limits)
        check_labels(labels)
        check_queue(queue)
        check_traceparent(traceparent)
        return given, fingerprint_of(input, self._engine.limits)

    def _rehearsal(self, dry_run: object, fixtures: Mapping[str, Any] | None) -> dict[str, Any]:
        """The fixtures of an execution that is to be started. Raises ValidationError."""
        if dry_run is not True and dry_run is not False:
            raise ValidationError([f"dry_run must be exactly True or False, not {dry_run!r:.100}"])
        if fixtures and not dry_run:
            raise ValidationError(["fixtures are for dry runs: add dry_run=True"])
        return checked_fixtures(self.workflow, fixtures, limits=self._engine.limits)

    async def _started_with(
        self, fingerprint: str, execution_id: str, *, dry_run: bool = False, fixtures: Mapping[str, Any] | None = None
    ) -> Row:
        """The row of an execution that is there. Raises ConflictError where it was started with another input, or only
        one of the two is a dry run."""
        row = await self._row(execution_id)
        info = decode_info(row.info, execution_id=execution_id)
        if info.dry_run is not dry_run:
            raise ConflictError(f"execution {execution_id!r} {'is' if info.dry_run else 'is not'} a dry run")
        if info.given != fingerprint:
            raise ConflictError(f"execution {execution_id!r} was started with another input")
        if info.fixtures != (fixtures or {}):
            raise ConflictError(f"execution {execution_id!r} was started with other fixtures")
        return row

    async def _row(self, execution_id: str) -> Row:
        row = await self._engine.store.row(check_id(execution_id))
        if row is None:
            raise ExecutionNotFound(execution_id)
        self._same_workflow(execution_id, row.workflow_id)
        return row

    def _same_workflow(self, execution_id: str, workflow_id: str) -> None:
        if workflow_id != self.workflow.id:
            raise ConflictError(
                f"execution {execution_id!r} belongs to workflow {workflow_id!r}, not to {self.workflow.id!r}"
            )

    async def _answer(self, execution_id: str, answer: Answer, *, step: str | None, wait_id: str | None) -> str:
        """Answers a wait; the id of the execution whose wait it is. Raises what `Runner.resume` does."""
        engine = self._engine
        self._check_open()
        row = await self._row(execution_id)
        if Status(row.status).over:
            raise ConflictError(f"execution {execution_id!r} is {row.status}; only a waiting one can be resumed")
        now = engine.clock.now()
        info = decode_info(row.info, execution_id=execution_id)
        if info.deadline is not None and now >= info.deadline:
            await self._look_after(execution_id)
            raise ConflictError(f"execution {execution_id!r} timed out before it was resumed")
        waits = await self._open_waits(row)
        if not waits:
            raise ConflictError(f"execution {execution_id!r} is {row.status} and does not wait for an answer")
        wait = choose(waits, execution_id=execution_id, step=step, wait_id=wait_id)
        message = message_for(wait, answer, now=now, limits=engine.limits)
        if wait.deadline is not None and now >= wait.deadline.timestamp():
            await self._look_after(message.execution_id)
            raise ConflictError(f"wait {wait.wait_id!r} timed out at {wait.deadline.isoformat()}")
        appended = await engine.store.append(message, encode(message))
        if appended.outcome == "duplicate":
            who = f"{answer.by!r} has" if answer.by else "somebody has"
            raise ConflictError(f"{who} already answered {wait.wait_id!r}")
        if appended.outcome != "accepted":
            raise ConflictError(f"wait {wait.wait_id!r} is over; this answer changed nothing")
        return message.execution_id

    async def _cancel(self, execution_id: str, *, reason: str | None, by: str | None) -> Row:
        """Tells an execution to end; how it stood. Raises ConflictError where it is over."""
        row = await self._row(execution_id)
        if Status(row.status).over:
            raise ConflictError(f"execution {execution_id!r} is {row.status}; it cannot be cancelled any more")
        decode_info(row.info, execution_id=execution_id)  # who cannot read it must not write to it
        message = Message(
            kind="cancel",
            execution_id=execution_id,
            key="cancel",
            time=self._engine.clock.now(),
            actor=person(by),
            body={"reason": reason} if remark(reason, "reason") else {},
        )
        await self._engine.store.append(message, encode(message))
        return row

    async def _hold(self, execution_id: str, kind: str, by: str | None, body: dict[str, Any]) -> None:
        self._check_open()
        engine = self._engine
        row = await self._row(execution_id)
        if not Status(row.status).over:
            decode_info(row.info, execution_id=execution_id)  # who cannot read it must not write to it
            message = Message(
                kind=kind,
                execution_id=execution_id,
                key=f"{kind}:{engine.ids.nonce()}",
                time=engine.clock.now(),
                actor=person(by),
                body=body,
            )
            if (await engine.store.append(message, encode(message))).outcome == "accepted":
                return
            row = await self._row(execution_id)
        raise ConflictError(f"execution {execution_id!r} is {row.status}; it cannot be {kind}d any more")

    async def _revived(self, row: Row, *, by: str | None) -> Run:
        """A failed execution, taken up again at the step that failed. Raises ConflictError for any other."""
        if row.status == Status.FAILED:
            if decode_info(row.info, execution_id=row.id).compensated:
                raise ConflictError(f"execution {row.id!r} was undone when it failed; start a new one")
            run = await self._engine.revive(row.id, actor=by)
            if run is not None:
                return run
        raise ConflictError(f"execution {row.id!r} is {row.status}; only a failed one can be retried")

    async def _decide(self, row: Row, what: str, *, by: str | None, reason: str | None = None) -> None:
        """Decides about the steps of an execution that wait for a person to. Raises ConflictError where none does."""
        engine = self._engine
        blocked = [wait for wait in await self._open_waits(row) if isinstance(wait, ErrorWait | UncertainWait)]
        if not blocked:
            what_else = "; only a failed one can be retried" if what == "retry" else ""
            raise ConflictError(
                f"execution {row.id!r} is {row.status} and no step of it waits for somebody to decide{what_else}"
            )
        outcomes = []
        for wait in blocked:
            message = decision(wait, what, now=engine.clock.now(), by=by, reason=reason)
            outcomes.append((await engine.store.append(message, encode(message))).outcome)
            await self._look_after(message.execution_id)
        if "accepted" not in outcomes:
            raise ConflictError(f"somebody else decided about execution {row.id!r} already")

    async def _send(self, message: Message) -> None:
        """Appends a signal to an execution that is there. Raises ConflictError where it is over."""
        engine, known = self._engine, message.body.get("signal_id")
        outcome = (await engine.store.append(message, encode(message))).outcome
        if outcome == "accepted" or (outcome == "duplicate" and known is not None):
            return
        if not await was_taken(engine, message.execution_id, known):
            name = message.body["name"]
            raise ConflictError(f"execution {message.execution_id!r} is over; the signal {name!r} changed nothing")

    async def _result(self, execution_id: str) -> ExecutionResult:
        row = await self._engine.store.row(execution_id)
        if row is None:
            raise ExecutionNotFound(execution_id)
        return await self._result_of(row)

    async def _result_of(self, row: Row) -> ExecutionResult:
        """How an execution stood when its row was read."""
        info = decode_info(row.info, execution_id=row.id)
        status = Status(row.status)
        waits = [] if status.over else await self._open_waits(row, masks=masks_of(row))
        return ExecutionResult(
            status=status,
            execution_id=row.id,
            output=result_of(row) if status is Status.COMPLETED else None,
            halts=[halt_of(wait) for wait in waits],
            error=None if info.error is None else info.error.text,
            error_info=info.error,
            compensated=info.compensated,
            dry_run=info.dry_run,
        )

    async def _open_waits(self, above: Row, *, masks: tuple[str, ...] | None = None) -> list[AnyWait]:
        """What people can answer: the execution's own waits, and those of its children in their place. With `masks`
        these texts, and the secrets of the children, are masked in them."""
        found: list[AnyWait] = []
        for wait in waits_of(above):
            if isinstance(wait, ChildWait):
                row = await self._engine.store.row(wait.execution_id)
                if row is not None and not Status(row.status).over:
                    inner = None if masks is None else (*masks, *masks_of(row))
                    found += await self._open_waits(row, masks=inner)
            else:
                found.append(masked(wait, masks) if masks else wait)
        return found


def halt_of(wait: AnyWait) -> Halt:
    """A wait as results show it."""
    data = getattr(wait, "data", None)
    prompt = wait.prompt if isinstance(wait, ApprovalWait) else None
    if isinstance(wait, HaltWait | PauseWait):
        reason = wait.data.get("reason")
        prompt = reason if isinstance(reason, str) else None
    return Halt(
        wait_id=wait.wait_id,
        step_id=wait.step_id,
        path=wait.path,
        type=wait.__struct_config__.tag,  # type: ignore[arg-type]
        execution_id=wait.wait_id.rpartition(":")[0],
        data=data,
        prompt=prompt,
        resume_step=wait.resume_step if isinstance(wait, HaltWait) else None,
        deadline=wait.deadline,
    )


def fingerprint_of(given: Any, limits: Limits) -> str:
    """What tells one input from another. `given` is one that can be stored."""
    try:
        text = msgspec.json.encode(given or {}, order="deterministic")
    except TypeError:  # what only `normalise` knows how to convert
        text = msgspec.json.encode(normalise(given, limits=limits), order="deterministic")
    return hashlib.sha256(text).hexdigest()


def check_labels(labels: Mapping[Any, Any] | None) -> None:
    """Raises ValidationError for what cannot be labels."""
    if labels is not None and not isinstance(labels, Mapping):
        raise ValidationError([f"labels are a mapping of texts to texts, not {labels!r:.100}"])
    for name, value in (labels or {}).items():
        if not _is_label(name) or not _is_label(value) or not name:
            raise ValidationError([f"labels are texts of at most 255 characters, not {name!r:.100}: {value!r:.100}"])


def _is_label(text: object) -> bool:
    return isinstance(text, str) and len(text) <= 255 and text.isprintable()
