"""Queues: what limits them, who paused them, and what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from durable_flow.answers import person, remark
from durable_flow.clock import moment
from durable_flow.engine import Engine
from durable_flow.errors import CorruptState, ValidationError
from durable_flow.expr.duration import parse_duration
from durable_flow.model.codec import decode_hold, encode
from durable_flow.model.frame import Hold
from durable_flow.stores.base import Blob, QueueLimits, QueueRow, decode_limits

MOST = 10_000
"""The largest limit: a worker that looks for work counts as far as that."""


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """What limits a queue, in all processes that use the store: `concurrency` is how many of its executions may be
    under way at once, `rate` how many may begin within any time as long as `per`, seconds or a text such as ``1m``.
    None: any number.

    >>> Queue(concurrency=5, rate=100, per="1m")
    Queue(concurrency=5, rate=100, per=60.0)
    """

    concurrency: int | None = None
    rate: int | None = None
    per: float | str | None = None

    def __post_init__(self) -> None:
        problems: list[object] = []
        for name, most in (("concurrency", self.concurrency), ("rate", self.rate)):
            if most is not None and not (type(most) is int and 1 <= most <= MOST):
                hint = "; for a larger rate give a shorter time" if name == "rate" and type(most) is int else ""
                problems.append(f"{name} of a queue is a number from 1 to {MOST:,}, not {most!r:.100}{hint}")
        if (self.rate is None) is not (self.per is None):
            problems.append("rate and per of a queue belong together: rate=100, per='1m'")
        elif self.per is not None:
            try:
                msgspec.structs.force_setattr(self, "per", parse_duration(self.per))
            except ValueError as error:
                problems.append(f"per of a queue: {error}")
        if problems:
            raise ValidationError(problems)


class PausedQueue(msgspec.Struct, frozen=True, kw_only=True):
    """A queue (None: executions without one) from which no execution begins, since when, by whom and why.

    Where an encrypted store cannot tell who and why, because the codec is another one, `since` is None too.
    """

    queue: str | None
    since: datetime | None = None
    by: str | None = None
    reason: str | None = None


class QueueState(msgspec.Struct, frozen=True, kw_only=True):
    """A queue (None: executions without one) as it is now.

    `pending` executions wait for a worker, those `under_way` are driven, or would be if their process had not died.
    `limits` are those that count: what an operator `decided`, else what code `declared`.
    """

    queue: str | None
    pending: int
    under_way: int
    limits: Queue
    declared: Queue | None = None
    decided: Queue | None = None
    paused: PausedQueue | None = None


def check_queue(queue: object) -> str | None:
    """The name of a queue as users give it: 1 to 255 printable characters without commas, or None. Raises
    ValidationError."""
    if queue == "-":
        raise ValidationError(["'-' names no queue: on the command line it stands for executions without one (None)"])
    if queue is not None and not (
        type(queue) is str and 0 < len(queue) <= 255 and queue.isprintable() and "," not in queue
    ):
        raise ValidationError(
            [f"a queue is named by 1 to 255 printable characters without commas, or None, not {queue!r:.100}"]
        )
    return queue


def _named(queue: object) -> str:
    name = check_queue(queue)
    if name is None:
        raise ValidationError(
            ["limits are for a queue with a name; Worker(concurrency=…) limits what one worker drives"]
        )
    return name


def check_queues(queues: Any) -> dict[str, Queue]:
    """The limits of queues by their names, as users give them. Raises ValidationError."""
    if queues is None:
        return {}
    if not isinstance(queues, Mapping):
        raise ValidationError([f"queues is a mapping such as {{'mail': df.Queue(concurrency=5)}}, not {queues!r:.100}"])
    for name, limits in queues.items():
        if not isinstance(limits, Queue):
            raise ValidationError([f"queue {_named(name)!r}: its limits are a df.Queue, not {limits!r:.100}"])
    return {_named(name): limits for name, limits in queues.items()}


async def declare(engine: Engine, queues: Mapping[str, Queue]) -> None:
    """Says what the code of this process means the limits to be."""
    for name, limits in queues.items():
        await engine.store.set_queue(name, "declared", _stored(limits))


async def decide(engine: Engine, queue: str, limits: Queue | None) -> bool:
    """Sets the limits whatever code declares, or (None) lets that count again; False where nothing has changed."""
    value = None if limits is None else _stored(limits)
    changed = await engine.store.set_queue(_named(queue), "decided", value)
    engine.look()
    return changed


def _stored(limits: Queue) -> str:
    per = 1.0 if limits.per is None else float(limits.per)
    return encode(QueueLimits(concurrency=limits.concurrency, rate=limits.rate, period=per))


def _limits(limits: QueueLimits) -> Queue:
    per = None if limits.rate is None else limits.period
    return Queue(concurrency=limits.concurrency, rate=limits.rate, per=per)


async def states(engine: Engine) -> list[QueueState]:
    """Every queue of which something is set, or in which something is."""
    return [_state(queue, row) for queue, row in (await engine.store.queues()).items()]


def _state(queue: str | None, row: QueueRow) -> QueueState:
    return QueueState(
        queue=queue,
        pending=row.pending,
        under_way=row.under_way,
        limits=_limits(row.limits),
        declared=None if row.declared is None else _limits(decode_limits(row.declared)),
        decided=None if row.decided is None else _limits(decode_limits(row.decided)),
        paused=None if row.hold is None else _paused(queue, row.hold),
    )


async def pause(engine: Engine, queue: str | None, *, by: str | None, reason: str | None) -> bool:
    """Holds a queue; False if somebody did already."""
    hold = Hold(time=engine.clock.now(), actor=person(by), reason=remark(reason, "reason"))
    return await engine.store.set_queue(check_queue(queue), "hold", encode(hold))


async def unpause(engine: Engine, queue: str | None) -> bool:
    """Lets a queue go, and tells the workers here; False if it was not held."""
    changed = await engine.store.set_queue(check_queue(queue), "hold", None)
    engine.look()
    return changed


async def paused(engine: Engine) -> list[PausedQueue]:
    """The queues that are held, by name; that of those without a name in front."""
    rows = await engine.store.queues()
    return [_paused(queue, row.hold) for queue, row in rows.items() if row.hold is not None]


def _paused(queue: str | None, body: Blob) -> PausedQueue:
    try:
        hold = decode_hold(body, execution_id=f"queue {queue}")
    except CorruptState:
        return PausedQueue(queue=queue)
    return PausedQueue(queue=queue, since=moment(hold.time), by=hold.actor, reason=hold.reason)
