"""From audit entries to events: the same ones where an execution is driven, and where its trail is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec

from durable_flow.clock import moment
from durable_flow.errors import ValidationError
from durable_flow.model.event import Event
from durable_flow.model.execution import Action, AnyWait, ChildWait
from durable_flow.model.frame import PAUSE, Record
from durable_flow.model.mask import redact

STEP_EVENTS = {
    Action.COMPLETED: "step.completed",
    Action.FAILED: "step.failed",
    Action.HALTED: "step.halted",
    Action.RETRIED: "step.retried",
    Action.SKIPPED: "step.completed",
    Action.CANCELLED: "step.cancelled",
    Action.COMPENSATED: "step.compensated",
}

BY_ITSELF = frozenset(str(wait.__struct_config__.tag) for wait in get_args(AnyWait) if not wait.outside)
"""The types of waits after which an execution goes on without anybody from outside."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The execution that events are about, and what its entries do not repeat. `masks` are texts not to be shown."""

    execution_id: str
    workflow_id: str
    masks: Sequence[str] = ()
    input: Any = None
    result: Any = None
    dry_run: bool = False


class Asked:
    """What an execution waits for, as its entries tell it: `open` are the data of its waits, by frame."""

    def __init__(self) -> None:
        self.open: dict[str, Any] = {}

    def add(self, record: Record) -> None:
        """Takes the next entry."""
        told = record.metadata or {}
        if not record.step:
            match record.action:
                case Action.PAUSED:
                    about = {name: item for name, item in told.items() if name != "wait_id"}
                    self.open[PAUSE] = {"type": "pause", "by": record.actor, **about}
                case Action.UNPAUSED:
                    self.open.pop(PAUSE, None)
                case Action.FINISHED | Action.RETRIED:
                    self.open.clear()
                case Action.NOTED if "closing" in told:
                    self.open.clear()
        elif record.action is Action.HALTED:
            self.open[record.frame] = record.output
        elif record.action is Action.RETRIED and "wait_id" in told and record.error is not None:
            self.open[record.frame] = {"type": "retry", "error": record.error.text, "attempt": record.attempt + 1}
        elif self.open and not (record.action is Action.STARTED or told.get("waiting")):
            # The entry of a body that ended is about the body, not about the frame in which its step stands.
            step = record.path.rpartition("/")[2].partition("#")[0] == record.step
            self.open.pop(record.frame if step else record.path, None)
            below = (f"{record.path}/", f"{record.path}[")
            for path in [path for path in self.open if path.startswith(below)]:
                del self.open[path]

    @property
    def data(self) -> list[Any]:
        """What is asked, in the order of the places at which it is."""
        return in_order(self.open)


def in_order(waits: Mapping[str, Any]) -> list[Any]:
    """What stands at these paths, in an order that does not depend on who came to wait first."""
    return [waits[path] for path in sorted(waits)]


def asked_by(waits: Mapping[str, AnyWait]) -> list[Any]:
    """The data of these waits as the entries with which they began have it, in the order of `in_order`."""
    return in_order({path: _data(wait) for path, wait in waits.items()})


def _data(wait: AnyWait) -> Any:
    if isinstance(wait, ChildWait):
        return {"type": "child", "execution_id": wait.execution_id}
    return wait.data


def event_of(record: Record, seq: int, of: Subject, *, asked: Sequence[Any] = ()) -> Event | None:
    """The event that an entry stands for, if it does for one; `asked` are the data of what is waited for, of which the
    halt of an execution tells."""
    data: dict[str, Any] = {"workflow_id": of.workflow_id, "execution_id": of.execution_id}
    if of.dry_run:
        data["dry_run"] = True
    told = record.metadata or {}
    masks = of.masks
    name: str | None
    if record.step:
        name = STEP_EVENTS.get(record.action)
        if record.action is Action.ANSWERED:
            name = "step.answered" if told.get("waiting") else "step.completed"
        if name is None:
            return None
        data |= {"step_id": record.step, "step_type": record.type, "path": record.path, "attempt": record.attempt}
        if of.dry_run and "would" in told:
            data |= {"would": redact(told["would"], masks), "fixture": told.get("fixture")}
        if record.error is not None:
            data["error"] = redact(record.error.text, masks)
        elif name == "step.halted":
            data["halt"] = redact(record.output, masks)
        else:
            data["output"] = redact(record.output, masks)
    else:
        match record.action:
            case Action.STARTED:
                name, data["input"] = "workflow.started", redact(of.input, masks)
            case Action.RESUMED:
                name = "workflow.resumed"
            case Action.HALTED if not BY_ITSELF.issuperset(told.get("blocked_on", ())):
                name, data["halt"] = "workflow.halted", [redact(one, masks) for one in asked]
            case Action.FINISHED:
                name = f"workflow.{told.get('status')}"
                if record.error is not None:
                    data["error"] = redact(record.error.text, masks)
                elif name == "workflow.completed":
                    data["output"] = redact(of.result, masks)
            case _:
                return None
    return Event(type=name, data=data, timestamp=moment(record.time), id=f"{of.execution_id}:{seq}")


def seq_of(after: object, execution_id: str) -> int:
    """The number of the entry behind which events begin. `after` is the id of an event of this execution, or a number.
    Raises ValidationError.

    >>> seq_of("order-1:7", "order-1"), seq_of(7, "order-1"), seq_of(None, "order-1")
    (7, 7, 0)
    """
    if after is None:
        return 0
    if type(after) is int and after >= 0:
        return after
    if isinstance(after, str):
        before, colon, number = after.rpartition(":")
        if number.isascii() and number.isdigit() and len(number) <= 18 and (not colon or before == execution_id):
            return int(number)
    what = f"the id of an event of execution {execution_id!r} (such as '{execution_id}:7') or the number in it"
    raise ValidationError([f"after must be {what}, not {after!r:.300}"])
