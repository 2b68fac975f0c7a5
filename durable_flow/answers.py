"""Answers to waits: which wait is meant, and whether the answer fits it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from durable_flow.clock import moment
from durable_flow.errors import ConflictError, NotAllowed, OutputError, ValidationError
from durable_flow.limits import Limits
from durable_flow.model.execution import (
    AnyWait,
    ApprovalWait,
    Blocked,
    ErrorWait,
    GateWait,
    HaltWait,
    PauseWait,
    RetryWait,
    SignalWait,
    TimerWait,
    UncertainWait,
)
from durable_flow.model.frame import Message, Record
from durable_flow.model.value import normalise

GIVEN: Any = msgspec.UNSET

REMARK = 10_000
"""Characters that a comment or a reason may have."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller of `resume` gave. `msgspec.UNSET` stands for what was not given: None and False are answers."""

    response: Any = GIVEN
    approved: Any = GIVEN
    by: str | None = None
    comment: str | None = None
    selections: Sequence[Any] | None = None


def choose(waits: Sequence[AnyWait], *, execution_id: str, step: str | None, wait_id: str | None) -> AnyWait:
    """The wait that is meant. Raises ConflictError where none or several fit."""
    waits = [wait for wait in waits if not isinstance(wait, PauseWait)] or waits
    fits = list(waits)
    if wait_id is not None:
        fits = [wait for wait in waits if wait.wait_id == wait_id]
    if step is not None:
        fits = [wait for wait in fits if step == wait.path or step in _names(wait)]
    if len(fits) == 1:
        return fits[0]
    pending = ", ".join(wait.wait_id for wait in waits) or "nothing"
    if fits:
        raise ConflictError(
            f"execution {execution_id!r} waits for {len(fits)} answers; say which with wait_id= or step= ({pending})"
        )
    asked = (
        f"wait {wait_id!r}" if wait_id is not None else f"a wait of step {step!r}" if step is not None else "anything"
    )
    raise ConflictError(f"execution {execution_id!r} does not wait for {asked} (it waits for {pending})")


def _names(wait: AnyWait) -> set[str]:
    return {wait.step_id, *(re.sub(r"(\[\d+\]|#\d+)+$", "", part) for part in wait.path.split("/"))}


def person(by: object) -> str | None:
    """Who does something, as it is recorded. Raises ValidationError for what is no name."""
    if by is not None and (type(by) is not str or not 0 < len(by) <= 255 or not _storable(by)):
        raise ValidationError([f"by must be the name of a person, of at most 255 characters, not {by!r:.100}"])
    return by


def remark(text: object, what: str) -> str | None:
    """A comment or a reason, as it is recorded. Raises ValidationError for what is no text."""
    if text is not None and (type(text) is not str or not _storable(text)):
        raise ValidationError([f"{what} must be text, not {text!r:.100}"])
    if text is not None and len(text) > REMARK:
        raise ValidationError([f"{what} has {len(text):,} characters; at most {REMARK:,} are kept"])
    return text


def _storable(text: str) -> bool:
    try:
        return bool(text.encode()) or not text
    except UnicodeEncodeError:
        return False


def _value(value: object, what: str, limits: Limits) -> Any:
    try:
        return normalise(value, limits=limits, what=what)
    except OutputError as error:
        raise ValidationError([f"{error.path.replace('$', what, 1)}: {error.reason}"]) from error


def message_for(wait: AnyWait, answer: Answer, *, now: float, limits: Limits) -> Message:
    """The message that carries an answer to its wait. Raises ValidationError or NotAllowed where it does not fit."""
    person(answer.by)
    remark(answer.comment, "comment")
    match wait:
        case ApprovalWait():
            return _vote(wait, answer, now, limits)
        case HaltWait():
            return _response(wait, answer, now, limits, {})
        case ErrorWait() | UncertainWait():
            return _response(wait, answer, now, limits, {"decision": "skip"})
        case SignalWait():
            raise ConflictError(f"wait {wait.wait_id!r} is for the signal {wait.name!r}; send that with signal()")
        case PauseWait():
            execution_id = wait.wait_id.rpartition(":")[0]
            raise ConflictError(f"execution {execution_id!r} is paused and waits for no answer; unpause it")
        case TimerWait() | RetryWait() | GateWait():
            raise ConflictError(f"wait {wait.wait_id!r} is ended by time and by nobody else")
        case _:
            raise ConflictError(f"wait {wait.wait_id!r} is for a child execution; answer the child's own wait")


def sent_at(message: Message) -> dict[str, Any]:
    """What an entry says of the answer it tells of: by this, who did not hear what became of an answer finds it."""
    return {"sent_at": moment(message.time).isoformat()} if message.kind == "answer" else {}


def tells_of(record: Record, message: Message) -> bool:
    """Whether an entry tells of this very answer."""
    told = record.metadata or {}
    return told.get("sent_at") == moment(message.time).isoformat() and record.actor == message.actor


def decision(wait: Blocked, what: str, *, now: float, by: str | None, reason: str | None = None) -> Message:
    """The message by which a person has a blocked step repeated (`retry`) or failed (`fail`)."""
    body = {"decision": what} if reason is None else {"decision": what, "reason": reason}
    return _message(wait, Answer(by=person(by)), body, now, key=f"answer:{wait.wait_id}", takes=0)


def _response(wait: HaltWait | Blocked, answer: Answer, now: float, limits: Limits, decided: dict[str, Any]) -> Message:
    if answer.approved is not GIVEN or answer.selections is not None:
        kind = wait.__struct_config__.tag
        raise ValidationError(
            [f"wait {wait.wait_id!r} is of type {kind!r}: answer it with response=, not with approved= or selections="]
        )
    response = None if answer.response is GIVEN else answer.response
    body: dict[str, Any] = {**decided, "response": _value(response, "response", limits)}
    if answer.comment is not None:
        body["comment"] = answer.comment
    return _message(wait, answer, body, now, key=f"answer:{wait.wait_id}", takes=0)


def _vote(wait: ApprovalWait, answer: Answer, now: float, limits: Limits) -> Message:
    if answer.response is not GIVEN:
        raise ValidationError([f"wait {wait.wait_id!r} is an approval: answer it with approved=True or approved=False"])
    if answer.approved is GIVEN:
        raise ValidationError([f"wait {wait.wait_id!r} is an approval: answer it with approved=True or approved=False"])
    if answer.approved is not True and answer.approved is not False:
        raise ValidationError([f"approved must be exactly True or False, not {answer.approved!r}"])
    by = answer.by
    if wait.approvers is not None and by not in wait.approvers:
        who = "an unnamed person" if by is None else repr(by)
        raise NotAllowed(
            f"{who} may not answer {wait.wait_id!r}; approvers are {', '.join(wait.approvers)}",
            by=by,
            wait_id=wait.wait_id,
        )
    if wait.required > 1 and by is None:
        raise ValidationError([f"{wait.required} people must approve {wait.wait_id!r}: say who you are with by="])
    body: dict[str, Any] = {"approved": answer.approved}
    if answer.comment is not None:
        body["comment"] = answer.comment
    if answer.selections is not None:
        if not isinstance(answer.selections, list | tuple):
            raise ValidationError([f"selections must be a list, not {answer.selections!r:.100}"])
        selections = _value(list(answer.selections), "selections", limits)
        unknown = [] if wait.options is None else [item for item in selections if item not in wait.options]
        if unknown:
            raise ValidationError([f"{unknown[0]!r} is not one of the options: {wait.options}"])
        body["selections"] = selections
    body["shown"] = wait.shown
    return _message(wait, answer, body, now, key=f"vote:{wait.wait_id}:{by or ''}", takes=1 if answer.approved else 0)


def _message(wait: AnyWait, answer: Answer, body: dict[str, Any], now: float, *, key: str, takes: int) -> Message:
    return Message(
        kind="answer",
        execution_id=wait.wait_id.rpartition(":")[0],
        key=key,
        time=now,
        wait_id=wait.wait_id,
        takes=takes,
        actor=answer.by,
        body=body,
    )
