"""All transitions, as pure functions: no clock, no store, no await.

Each takes the frame as it is, what happened, the time and the number of the entry it will be, and gives the Transition.
The engine applies it to its memory and commits it; nothing else changes an execution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from durable_flow.limits import Limits
from durable_flow.model.execution import Action, AnyWait, Blocked, ErrorInfo, ErrorWait, RetryWait, Status
from durable_flow.model.frame import Frame, FrameState, Message, Record, Transition
from durable_flow.model.workflow import Body, RetryPolicy, StepDef

KINDS = {"HeartbeatTimeout": "TimeoutError"}
"""Errors that a retry policy also knows by another name."""

LAST_ERROR = "_last_error"

CLOSING = "~"
"""The path below which everything is that belongs to the end of an execution; no step can have it."""

COMPENSATE = f"{CLOSING}/compensate/"
"""What the path of a compensation begins with; the path of the step that it undoes follows."""

FINALLY = f"{CLOSING}/finally"
"""The path of the frame in which the steps of `finally` run."""

UNDO = f"{CLOSING}[undo]"
"""The frame path under which it is kept what undoes a step, by the path of the step. The entry of its completion has
it in its metadata, under `compensate`."""


def started(*, now: float, actor: str | None = None, metadata: dict[str, Any] | None = None) -> Transition:
    """The first transition of an execution that is driven at once, or the one with which a pending one begins."""
    record = Record(action=Action.STARTED, time=now, actor=actor, metadata=metadata)
    return Transition(record=record, status=Status.RUNNING)


def restored(
    frame: Frame,
    *,
    seq: int,
    now: float,
    values: Mapping[str, Any] | None,
    output: Any = UNSET,
    action: Action = Action.NOTED,
    actor: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> Transition:
    """An execution does not begin at its beginning: a frame is put as it is, with its variables and, where it has one,
    the output of its last step. The record holds all of it."""
    told: dict[str, Any] = {}
    if frame.visit != 1:
        told["visit"] = frame.visit
    if frame.state is not FrameState.RUNNING:
        told["state"] = str(frame.state)
    if frame.memo is not None:
        told["memo"] = frame.memo
    if frame.settled:
        told["settled"] = True
    if output is not UNSET:
        told["out"] = True
    record = Record(
        action=action,
        time=now,
        output=None if output is UNSET else output,
        frame=frame.path,
        at=frame.at,
        changes=dict(values) if values else None,
        error=frame.error,
        actor=actor,
        metadata={**(metadata or {}), "frame": told},
    )
    return Transition(
        record=record,
        frame=replace(frame, out=None if output is UNSET else seq),
        sets=tuple((frame.path, name, seq) for name in values or ()),
    )


def kept(path: str, values: Mapping[str, Any], *, seq: int, now: float) -> Transition:
    """Values are put back that no frame has but that are kept under this path, as steps and signals keep them."""
    record = Record(action=Action.NOTED, time=now, frame=path, changes=dict(values))
    return Transition(record=record, sets=tuple((path, name, seq) for name in values))


def moved(frame: Frame, step: StepDef, body: Body, target: str | None, out: int | None) -> Frame:
    """The frame with its cursor at the target. Going backwards (or to the same step) begins a new visit."""
    order = body.order
    visit = frame.visit
    if target is not None and target in order and order[target] <= order[step.id]:
        visit += 1
    return Frame(path=frame.path, at=target, visit=visit, out=out)


def completed(
    frame: Frame,
    step: StepDef,
    body: Body,
    *,
    seq: int,
    path: str,
    now: float,
    target: str | None,
    output: Any = UNSET,
    same: tuple[str, ...] = (),
    changes: dict[str, Any] | None = None,
    merged: Sequence[tuple[str, int]] = (),
    metadata: dict[str, Any] | None = None,
    ms: float | None = None,
    shown: Any = None,
    actor: str | None = None,
    action: Action = Action.COMPLETED,
) -> Transition:
    """A step completed (or an answer to its wait made it so) and the frame goes on to `target`. Without an `output` the
    frame keeps the one it has."""
    # This happens at every step. From 16 keywords on (a positional argument is half of one) Python makes a call with a
    # dict, which takes four times as long: hence what is added below, and no more parameters above.
    owner = frame.path
    has_output = output is not UNSET
    record = Record(
        action=action,
        time=now,
        step=step.id,
        path=path,
        type=step.type.name,
        attempt=frame.tries + 1,
        ms=ms,
        input=shown,
        output=output if has_output else None,
        frame=owner,
        at=target,
        same=same,
        changes=changes,
        actor=actor,
        metadata=metadata,
    )
    sets: list[tuple[str, str, int]] = []
    if has_output and output is None:
        record = replace(record, null=True)
    if merged:
        record = replace(record, merged=dict(merged))
        sets += [(owner, name, source) for name, source in merged]
    if same:
        sets += [(owner, name, seq) for name in same]
    if changes:
        sets += [(owner, name, seq) for name in changes]
    after = moved(frame, step, body, target, seq if has_output else frame.out)
    return Transition(record=record, frame=after, sets=tuple(sets))


def remembered(
    frame: Frame,
    step: StepDef,
    *,
    seq: int,
    path: str,
    now: float,
    memo: dict[str, Any],
    kept: Mapping[str, Any] | None,
) -> Transition:
    """A step that takes many transitions began: its memo, and values it keeps until it ends."""
    store = kept_path(path)
    record = Record(
        action=Action.STARTED,
        time=now,
        step=step.id,
        path=path,
        type=step.type.name,
        frame=store,
        changes=dict(kept) if kept else None,
        metadata={"memo": memo},
    )
    sets = tuple((store, name, seq) for name in kept or ())
    return Transition(record=record, frame=replace(frame, memo=memo), sets=sets)


def kept_path(path: str) -> str:
    """The frame path under which a step keeps values; it goes when the step's frames go."""
    return f"{path}[]"


def settled(
    parent: Frame,
    child: Frame,
    step: StepDef,
    *,
    seq: int,
    now: float,
    memo: dict[str, Any] | None,
    state: FrameState,
    merged: Sequence[tuple[str, int]] = (),
    forgotten: Sequence[str] = (),
    error: ErrorInfo | None = None,
) -> Transition:
    """A body of a composite step ended: its frame keeps only the outcome, the step's memo moves on with it."""
    action = {
        FrameState.COMPLETED: Action.COMPLETED,
        FrameState.SKIPPED: Action.SKIPPED,
        FrameState.CANCELLED: Action.CANCELLED,
    }.get(state, Action.FAILED)
    failed = state in (FrameState.FAILED, FrameState.CANCELLED)
    after = (
        replace(child, state=state, error=error, settled=True)
        if failed
        else Frame(path=child.path, at=child.at, state=state, out=child.out, error=error, settled=True)
    )
    sets = [(parent.path, name, source) for name, source in merged]
    sets += [(child.path, name, 0) for name in forgotten]
    record = Record(
        action=action,
        time=now,
        step=step.id,
        path=child.path,
        type=step.type.name,
        frame=parent.path,
        at=child.at,
        merged=dict(merged) if merged else None,
        error=error,
        metadata={"memo": memo} if memo is not None else None,
    )
    return Transition(
        record=record,
        frame=after,
        others=(replace(parent, memo=memo),) if memo is not None else (),
        sets=tuple(sets),
    )


def retry_delay(
    policy: RetryPolicy, error: ErrorInfo, *, failures: int, elapsed: float, jitter: float, not_before: float | None
) -> float | None:
    """Seconds until the next attempt after `failures` failed ones, or None if there is none.

    Exponential backoff with a share of `jitter` taken off at random; `not_before` is what the service asked for.

    >>> policy = RetryPolicy(max_attempts=3, initial_interval=1, backoff=2, jitter=0)
    >>> error = ErrorInfo(type="ConnectionError", message="")
    >>> [retry_delay(policy, error, failures=n, elapsed=0, jitter=0, not_before=None) for n in (1, 2, 3)]
    [1.0, 2.0, None]
    """
    if failures >= policy.max_attempts:
        return None
    kinds = {error.type, KINDS.get(error.type, error.type)}
    if policy.retry_on and kinds.isdisjoint(policy.retry_on):
        return None
    if not kinds.isdisjoint(policy.no_retry_on):
        return None
    try:
        delay = float(min(policy.max_interval, policy.initial_interval * policy.backoff ** (failures - 1)))
    except OverflowError:
        delay = policy.max_interval
    delay *= 1 - policy.jitter * jitter
    if not_before is not None:
        delay = max(delay, not_before)
    if policy.max_elapsed is not None and elapsed + delay > policy.max_elapsed:
        return None
    return delay


def retried(
    frame: Frame,
    step: StepDef,
    error: ErrorInfo,
    *,
    path: str,
    now: float,
    began: float,
    delay: float,
    ms: float,
    shown: Any,
    wait: RetryWait | None,
) -> Transition:
    """An attempt failed and another one will follow, not before `now + delay`: the frame waits, if that is long."""
    record = Record(
        action=Action.RETRIED,
        time=now,
        step=step.id,
        path=path,
        type=step.type.name,
        attempt=frame.tries + 1,
        ms=ms,
        input=shown,
        frame=frame.path,
        at=frame.at,
        error=error,
        metadata={"next_attempt_in": delay} | ({} if wait is None else {"wait_id": wait.wait_id}),
    )
    first = frame.first_try if frame.first_try is not None else began
    after = replace(frame, tries=frame.tries + 1, first_try=first, due=now + delay)
    if wait is not None:
        after = replace(after, state=FrameState.WAITING, wait=wait, due=None)
    return Transition(record=record, frame=after)


def resumed(
    frame: Frame,
    step: StepDef,
    *,
    path: str,
    now: float,
    actor: str | None,
    consumed: tuple[int, ...],
    anew: bool,
    metadata: dict[str, Any],
) -> Transition:
    """A step that waited goes on with an attempt; `anew`: as if none had been made."""
    memo = None if anew else frame.memo
    record = Record(
        action=Action.RESUMED,
        time=now,
        step=step.id,
        path=path,
        type=step.type.name,
        attempt=1 if anew else frame.tries + 1,
        frame=frame.path,
        at=frame.at,
        actor=actor,
        metadata=metadata | ({"anew": True} if anew else {}) or None,
    )
    after = replace(frame, state=FrameState.RUNNING, wait=None, memo=memo)
    if anew:
        after = replace(after, tries=0, first_try=None, due=None)
    return Transition(record=record, frame=after, consumed=consumed)


def blocked(
    frame: Frame, step: StepDef, wait: Blocked, *, path: str, now: float, ms: float | None = None, shown: Any = None
) -> Transition:
    """A step cannot go on without a person."""
    record = Record(
        action=Action.HALTED,
        time=now,
        step=step.id,
        path=path,
        type=step.type.name,
        attempt=frame.tries + 1,
        ms=ms,
        input=shown,
        output=wait.data,
        frame=frame.path,
        at=frame.at,
        error=wait.error if isinstance(wait, ErrorWait) else None,
        metadata={"wait_id": wait.wait_id},
    )
    return Transition(record=record, frame=replace(frame, state=FrameState.WAITING, wait=wait, due=None))


def failed(
    frame: Frame,
    step: StepDef,
    body: Body,
    error: ErrorInfo,
    *,
    seq: int,
    path: str,
    now: float,
    handler: str | None,
    changes: dict[str, Any] | None = None,
    ms: float | None = None,
    shown: Any = None,
    actor: str | None = None,
    metadata: dict[str, Any] | None = None,
    dropped: tuple[str, ...] = (),
    consumed: tuple[int, ...] = (),
    messages: tuple[Message, ...] = (),
) -> Transition:
    """A step failed for good. With a handler the frame goes on there; without, the frame has failed and stays at the
    step, so that a retry can take it up."""
    record = Record(
        action=Action.FAILED,
        time=now,
        step=step.id,
        path=path,
        type=step.type.name,
        attempt=frame.tries + 1,
        ms=ms,
        input=shown,
        frame=frame.path,
        at=handler if handler is not None else frame.at,
        changes=changes,
        error=error,
        actor=actor,
        metadata=metadata,
    )
    if handler is None:
        after = replace(frame, state=FrameState.FAILED, error=error, wait=None, due=None)
        return Transition(record=record, frame=after, consumed=consumed, messages=messages)
    return Transition(
        record=record,
        frame=moved(frame, step, body, handler, frame.out),
        sets=tuple((frame.path, name, seq) for name in changes or ()),
        dropped=dropped,
        consumed=consumed,
        messages=messages,
    )


def last_error(error: ErrorInfo) -> dict[str, Any]:
    """What `$_last_error` shows."""
    return {"step": error.step, "message": error.message, "class": error.type, "attempts": error.attempts}


def waiting(frame: Frame, step: StepDef, wait: AnyWait, *, path: str, now: float, data: Any) -> Transition:
    """A step began to wait."""
    record = Record(
        action=Action.HALTED,
        time=now,
        step=step.id,
        path=path,
        type=step.type.name,
        output=data,
        frame=frame.path,
        at=frame.at,
        metadata={"wait_id": wait.wait_id},
    )
    return Transition(record=record, frame=replace(frame, state=FrameState.WAITING, wait=wait, due=None))


def voted(
    frame: Frame,
    step: StepDef,
    wait: AnyWait,
    *,
    path: str,
    now: float,
    actor: str | None,
    metadata: dict[str, Any] | None,
    consumed: tuple[int, ...],
) -> Transition:
    """An answer came, and more are needed."""
    record = Record(
        action=Action.ANSWERED,
        time=now,
        step=step.id,
        path=path,
        type=step.type.name,
        frame=frame.path,
        at=frame.at,
        actor=actor,
        metadata={**(metadata or {}), "waiting": True},
    )
    return Transition(record=record, frame=replace(frame, wait=wait), consumed=consumed)


SIGNALS = "[signals]"
"""The frame path under which signals are kept that nothing waits for yet, as `<seq>:<name>`."""


def signalled(message: Message, key: str, payload: Any, *, seq: int, consumed: tuple[int, ...]) -> Transition:
    """A signal came before anything waited for it."""
    known = {"signal_id": message.body["signal_id"]} if "signal_id" in message.body else {}
    record = Record(
        action=Action.NOTED,
        time=message.time,
        frame=SIGNALS,
        changes={key: payload},
        actor=message.actor,
        metadata={"signal": message.body["name"], **known},
    )
    return Transition(record=record, sets=((SIGNALS, key, seq),), consumed=consumed)


def undoing(transition: Transition, path: str, undo: dict[str, Any], *, seq: int) -> Transition:
    """The transition of a step that this undoes, should the execution fail or be cancelled later."""
    record = transition.record
    return replace(
        transition,
        record=replace(record, metadata={**(record.metadata or {}), "compensate": undo}),
        sets=(*transition.sets, (UNDO, path, seq)),
    )


def cut(
    frame: Frame, step: StepDef, *, path: str, now: float, reason: str, in_flight: bool, ms: float | None
) -> Transition:
    """A step was cancelled before it ended; `in_flight` says that its effect may have happened."""
    record = Record(
        action=Action.CANCELLED,
        time=now,
        step=step.id,
        path=path,
        type=step.type.name,
        attempt=frame.tries + 1,
        ms=ms,
        frame=frame.path,
        at=frame.at,
        metadata={"reason": reason, "in_flight": in_flight},
    )
    return Transition(
        record=record,
        frame=replace(frame, state=FrameState.CANCELLED, wait=None),
    )


def noted(
    action: Action,
    *,
    now: float,
    status: Status | None = None,
    actor: str | None = None,
    metadata: dict[str, Any] | None = None,
    consumed: tuple[int, ...] = (),
) -> Transition:
    """An event of the workflow itself: halted, resumed, recovered, a note."""
    return Transition(
        record=Record(action=action, time=now, actor=actor, metadata=metadata), status=status, consumed=consumed
    )


def held(
    action: Action,
    *,
    now: float,
    actor: str | None,
    metadata: dict[str, Any] | None,
    consumed: tuple[int, ...],
    messages: tuple[Message, ...],
) -> Transition:
    """The execution was paused or unpaused, and so are the children it waits for."""
    record = Record(action=action, time=now, actor=actor, metadata=metadata)
    return Transition(record=record, consumed=consumed, messages=messages)


def closing(
    frame: Frame,
    status: Status,
    *,
    now: float,
    error: ErrorInfo | None,
    actor: str | None,
    reason: str | None,
    consumed: tuple[int, ...],
    messages: tuple[Message, ...],
) -> Transition:
    """The steps are over, and how the execution will have ended is settled: what there is to do before that begins."""
    metadata = {"closing": str(status)} | ({} if reason is None else {"reason": reason})
    record = Record(action=Action.NOTED, time=now, at=frame.at, error=error, actor=actor, metadata=metadata)
    return Transition(record=record, status=Status.RUNNING, consumed=consumed, messages=messages)


def migrated(frame: Frame, *, now: float, actor: str | None, metadata: dict[str, Any]) -> Transition:
    """The execution has another definition from now on, in which this is the frame of the workflow itself."""
    record = Record(action=Action.MIGRATED, time=now, at=frame.at, actor=actor, metadata=metadata)
    return Transition(record=record, frame=frame)


def finished(
    frame: Frame,
    status: Status,
    *,
    now: float,
    result: int | None = None,
    error: ErrorInfo | None = None,
    actor: str | None = None,
    reason: str | None = None,
    consumed: tuple[int, ...] = (),
    messages: tuple[Message, ...] = (),
    dropped: tuple[str, ...] = (),
) -> Transition:
    """The execution is over. A failed one keeps its frames, so that `retry` can go on from them."""
    metadata: dict[str, Any] = {"status": str(status)}
    if reason is not None:
        metadata["reason"] = reason
    record = Record(action=Action.FINISHED, time=now, at=frame.at, error=error, actor=actor, metadata=metadata)
    return Transition(
        record=record,
        status=status,
        result=result,
        error=error,
        consumed=consumed,
        messages=messages,
        dropped=dropped,
    )


def revived(
    frames: Sequence[Frame],
    *,
    now: float,
    memos: Mapping[str, dict[str, Any]],
    forgotten: Sequence[str] = (),
    actor: str | None = None,
) -> Transition:
    """A failed execution is taken up again: every frame on the failing path, every cancelled one, and every one whose
    wait was closed when the execution ended, runs again. So does one that was under way in a process that died, where
    the execution ended because of its time: whatever a step is at, its attempts count from the first.

    `memos` are changes of what steps remember, by frame: of a step with a child, when that child ended (it is taken up
    as well, from that end and from no later one, however often the process dies meanwhile) and its new deadline.
    `forgotten` are frames whose step remembers nothing any more.
    """
    again = tuple(
        replace(
            frame,
            state=FrameState.RUNNING,
            error=None,
            wait=None,
            tries=0,
            first_try=None,
            due=None,
            settled=False,
            memo={**(frame.memo or {}), **memos[frame.path]}
            if frame.path in memos
            else None
            if frame.path in forgotten
            else frame.memo,
        )
        for frame in frames
        if frame.state in (FrameState.FAILED, FrameState.CANCELLED, FrameState.WAITING)
        or (frame.state is FrameState.RUNNING and frame.tries)
    )
    metadata: dict[str, Any] = {"memos": dict(memos)} if memos else {}
    if forgotten:
        metadata["forgotten"] = list(forgotten)
    return Transition(
        record=Record(action=Action.RETRIED, time=now, actor=actor, metadata=metadata or None),
        others=again,
        status=Status.RUNNING,
    )


def too_many(limits: Limits, step: StepDef, frame: Frame) -> ErrorInfo:
    """The error of an execution that made more transitions than it may: no further step begins."""
    return ErrorInfo(
        type="LimitExceeded",
        message=f"transitions is limited to {limits.transitions:,} per execution; raise it with Limits(transitions=…)",
        step=step.id,
        path=frame.path,
        fatal=True,
    )
