"""What is told of executions while they run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from durable_flow.model.codec import encode

CORE_EVENTS = frozenset({"workflow", "step", "execution", "worker", "queue", "schedule"})
"""What the types of events begin with that are not an extension's: those there are, and room for more."""

EVENT_TYPES = frozenset(
    {
        *(f"workflow.{what}" for what in ("started", "resumed", "completed", "halted", "failed", "cancelled")),
        *(f"step.{what}" for what in ("started", "completed", "failed", "halted", "retried", "answered", "cancelled")),
        "step.compensated",
    }
)
"""The types that events of every workflow have. `step.started` alone is not durable: it may be missed, as may all that
extensions tell."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened, told after it was committed. `id` is `<execution id>:<seq>`; an event without one is not
    durable, and is told only to who is there.

    >>> from datetime import UTC
    >>> event = Event(type="step.completed", data={"path": "pay"}, timestamp=datetime(2026, 3, 1, tzinfo=UTC), id="e:7")
    >>> print(event.to_sse(), end="")
    id: e:7
    event: step.completed
    data: {"type":"step.completed","data":{"path":"pay"},"timestamp":"2026-03-01T00:00:00Z","id":"e:7"}
    <BLANKLINE>
    """

    type: str
    data: Mapping[str, Any]
    timestamp: datetime
    id: str | None = None

    def to_json(self) -> str:
        """One line of JSON with `type`, `data`, `timestamp` (ISO 8601, UTC) and `id`."""
        return encode(self)

    def to_sse(self) -> str:
        """The event as a server-sent event, with the blank line that ends it. A browser sends the `id` of the last one
        it got as `Last-Event-ID` when it connects again: give that to `runtime.events(after=)`."""
        # JSON has no line ends in it, whatever the data has: one data line is all of it.
        id_line = "" if self.id is None else f"id: {self.id}\n"
        return f"{id_line}event: {self.type}\ndata: {self.to_json()}\n\n"
