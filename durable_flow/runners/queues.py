"""Queues that somebody paused."""

from __future__ import annotations

from datetime import datetime

import msgspec

from durable_flow.answers import person, remark
from durable_flow.clock import moment
from durable_flow.engine import Engine
from durable_flow.errors import CorruptState, ValidationError
from durable_flow.model.codec import decode_hold, encode
from durable_flow.model.frame import Hold


class PausedQueue(msgspec.Struct, frozen=True, kw_only=True):
    """A queue (None: executions without one) from which no execution begins, since when, by whom and why.

    Where an encrypted store cannot tell who and why, because the codec is another one, `since` is None too.
    """

    queue: str | None
    since: datetime | None = None
    by: str | None = None
    reason: str | None = None


def check_queue(queue: object) -> str | None:
    """The name of a queue as users give it: 1 to 255 printable characters, or None. Raises ValidationError."""
    if queue is not None and not (type(queue) is str and 0 < len(queue) <= 255 and queue.isprintable()):
        raise ValidationError([f"a queue is named by 1 to 255 printable characters, or None, not {queue!r:.100}"])
    return queue


async def pause(engine: Engine, queue: str | None, *, by: str | None, reason: str | None) -> bool:
    """Holds a queue; False if somebody did already."""
    hold = Hold(time=engine.clock.now(), actor=person(by), reason=remark(reason, "reason"))
    return await engine.store.hold(check_queue(queue), encode(hold))


async def unpause(engine: Engine, queue: str | None) -> bool:
    """Lets a queue go, and tells the workers here; False if it was not held."""
    changed = await engine.store.hold(check_queue(queue), None)
    engine.look()
    return changed


async def paused(engine: Engine) -> list[PausedQueue]:
    """The queues that are held, by name; that of those without a name in front."""
    found: list[PausedQueue] = []
    for queue, body in (await engine.store.held()).items():
        try:
            hold = decode_hold(body, execution_id=f"queue {queue}")
        except CorruptState:
            found.append(PausedQueue(queue=queue))
        else:
            found.append(PausedQueue(queue=queue, since=moment(hold.time), by=hold.actor, reason=hold.reason))
    return sorted(found, key=lambda one: (one.queue is not None, one.queue or ""))
