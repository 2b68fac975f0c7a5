"""What users see of an execution: the record, its audit trail, its result."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

import msgspec

from durable_flow.errors import WorkflowFailed


class Status(StrEnum):
    """Where an execution stands. `completed`, `failed` and `cancelled` are over."""

    PENDING = "pending"
    RUNNING = "running"
    HALTED = "halted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class Action(StrEnum):
    """What an audit entry reports."""

    STARTED = "started"
    COMPLETED = "completed"
    HALTED = "halted"
    ANSWERED = "answered"
    FAILED = "failed"
    RETRIED = "retried"
    SKIPPED = "skipped"
    COMPENSATED = "compensated"
    RESUMED = "resumed"
    RECOVERED = "recovered"
    MIGRATED = "migrated"
    CANCELLED = "cancelled"
    FINISHED = "finished"
    PAUSED = "paused"
    UNPAUSED = "unpaused"
    NOTED = "noted"


class Gate(StrEnum):
    """What the resolver of a gate says: go on, do not, or ask again later."""

    APPROVED = "approved"
    REJECTED = "rejected"
    PENDING = "pending"


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Why something failed: `type` is the class name, `path` the step's place (`orders[3]/charge`).

    `fatal`: the execution passed a bound of its runtime, which no `on_error` handles.
    """

    type: str
    message: str
    step: str | None = None
    path: str = ""
    attempts: int = 1
    fatal: bool = False

    @property
    def text(self) -> str:
        """`Class: message`, as `Execution.error` shows it."""
        return f"{self.type}: {self.message}" if self.message else self.type


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """One person's answer to an approval."""

    by: str | None
    approved: bool
    comment: str | None = None
    selections: list[Any] | None = None
    at: datetime


class Wait(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What a frame waits for. `wait_id` names it in every call that answers it; `deadline` is when it times out.

    `by_time`: its deadline ends it; nobody can answer. `outside`: somebody or something other than time ends it, so
    a caller gets the execution back. `polls`: at its deadline it is only found out whether it is over.
    """

    by_time: ClassVar[bool] = False
    outside: ClassVar[bool] = True
    polls: ClassVar[bool] = False

    wait_id: str
    path: str
    step_id: str
    since: datetime
    deadline: datetime | None = None


class HaltWait(Wait, tag="halt", frozen=True, kw_only=True):
    """A `halt` step waits for a response."""

    data: dict[str, Any] = {}
    resume_step: str | None = None


class ApprovalWait(Wait, tag="approval", frozen=True, kw_only=True):
    """An `approval` step waits for people. `data` is what they are shown, `shown` its SHA-256."""

    data: dict[str, Any]
    prompt: str
    approvers: list[str] | None = None
    options: list[Any] | None = None
    required: int = 1
    votes: list[Vote] = []
    shown: str = ""


class ChildWait(Wait, tag="child", frozen=True, kw_only=True):
    """A `workflow` step waits for its child execution, which itself waits or runs."""

    execution_id: str
    workflow_id: str


class TimerWait(Wait, tag="timer", frozen=True, kw_only=True):
    """A `wait` step lets time go by, until `deadline`."""

    by_time: ClassVar[bool] = True
    outside: ClassVar[bool] = False

    data: dict[str, Any] = {}


class SignalWait(Wait, tag="signal", frozen=True, kw_only=True):
    """A `signal` step waits for the signal `name`."""

    name: str
    data: dict[str, Any] = {}


class RetryWait(Wait, tag="retry", frozen=True, kw_only=True):
    """A failed attempt is made again at `deadline`: `attempt` is its number, `error` what the last one came to."""

    by_time: ClassVar[bool] = True
    outside: ClassVar[bool] = False

    attempt: int
    error: ErrorInfo
    data: dict[str, Any] = {}


class GateWait(Wait, tag="gate", frozen=True, kw_only=True):
    """A `gate` step asks its resolver again at `deadline`."""

    by_time: ClassVar[bool] = True
    polls: ClassVar[bool] = True

    resolver: str
    data: dict[str, Any] = {}


class ErrorWait(Wait, tag="error", frozen=True, kw_only=True):
    """A step failed, and its `retry` leaves it to a person what becomes of it (`on_exhausted: halt`)."""

    error: ErrorInfo
    data: dict[str, Any] = {}


class UncertainWait(Wait, tag="uncertain", frozen=True, kw_only=True):
    """A process died in a step that must not run twice (`delivery: at_most_once`): only a person can find out whether
    it happened."""

    data: dict[str, Any] = {}


class PauseWait(Wait, tag="pause", frozen=True, kw_only=True):
    """Somebody paused the execution: no step begins until it is unpaused. No frame waits for this, so `path` is empty.

    `above` is the execution that was paused, where this one is a child of it (or of a child) and was paused with it.
    """

    by: str | None = None
    above: str | None = None
    data: dict[str, Any] = {}


AnyWait = (
    HaltWait
    | ApprovalWait
    | ChildWait
    | TimerWait
    | SignalWait
    | GateWait
    | RetryWait
    | ErrorWait
    | UncertainWait
    | PauseWait
)

Blocked = ErrorWait | UncertainWait
"""Waits for a person who repeats the step, answers in its place, or lets it fail."""


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a workflow, as a store returns it.

    `ctx` holds the variables of the workflow itself; inputs declared `secret` show as `***`. `closing` is how one that
    is not over will have ended, when what undoes its steps and `finally` have run. `compensated`: steps were undone.
    `traceparent` is the trace (W3C Trace Context) it is part of, if it was started with one.
    Times are UTC datetimes.
    """

    id: str
    workflow_id: str
    workflow_version: str = "1.0"
    definition_hash: str = ""
    status: Status = Status.PENDING
    input: Any = None
    ctx: dict[str, Any] = {}
    current_step: str | None = None
    result: Any = None
    recover_to: str | None = None
    halt_data: Any = None
    blocked_on: list[AnyWait] = []
    error: str | None = None
    error_info: ErrorInfo | None = None
    parent_id: str | None = None
    root_id: str | None = None
    forked_from: str | None = None
    trigger: str = "api"
    closing: Status | None = None
    compensated: bool = False
    dry_run: bool = False
    labels: dict[str, str] = {}
    queue: str | None = None
    priority: int = 5
    traceparent: str | None = None
    concurrency_key: str | None = None
    recoveries: int = 0
    owner: str | None = None
    lease_until: datetime | None = None
    generation: int = 0
    wake_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the audit trail. `seq` counts 1..n without gaps; `step_id` is empty for the workflow's own events."""

    id: str
    execution_id: str
    seq: int
    action: Action
    step_id: str = ""
    path: str = ""
    step_type: str = ""
    attempt: int = 1
    duration_ms: float | None = None
    input: Any = None
    output: Any = None
    changes: dict[str, Any] = {}
    error: str | None = None
    actor: str | None = None
    metadata: dict[str, Any] = {}
    timestamp: datetime


class Halt(msgspec.Struct, frozen=True, kw_only=True):
    """One wait of a halted execution: what is asked and which id answers it."""

    wait_id: str
    step_id: str
    path: str
    type: str
    execution_id: str
    data: Any = None
    prompt: str | None = None
    resume_step: str | None = None
    deadline: datetime | None = None


class ExecutionResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a call of a runner left the execution. A workflow that fails is a result, not an exception. `compensated`:
    what its steps did was undone, and it cannot be retried. `dry_run`: nothing of it was done outside."""

    status: Status
    execution_id: str
    output: Any = None
    halts: list[Halt] = []
    error: str | None = None
    error_info: ErrorInfo | None = None
    compensated: bool = False
    dry_run: bool = False

    @property
    def halt(self) -> Halt | None:
        """The first wait, or None."""
        return self.halts[0] if self.halts else None

    @property
    def completed(self) -> bool:
        return self.status is Status.COMPLETED

    @property
    def halted(self) -> bool:
        return self.status is Status.HALTED

    @property
    def failed(self) -> bool:
        return self.status is Status.FAILED

    @property
    def cancelled(self) -> bool:
        return self.status is Status.CANCELLED

    def raise_for_status(self) -> None:
        """Raises WorkflowFailed unless the execution completed or halted."""
        if self.failed or self.cancelled:
            raise WorkflowFailed(self, self.error or f"execution {self.execution_id} is {self.status}")
