"""Signals as they are sent: what they may hold, and how one that is sent again is known."""

from __future__ import annotations

import hashlib
from typing import Any

from durable_flow.answers import person
from durable_flow.engine import Engine
from durable_flow.errors import OutputError, ValidationError
from durable_flow.live import signal_ids
from durable_flow.model.codec import decode_record
from durable_flow.model.frame import Message
from durable_flow.model.value import normalise
from durable_flow.waiting import REMEMBERED


def message_of(
    engine: Engine, execution_id: str, name: str, payload: Any, *, by: str | None, signal_id: str | None
) -> Message:
    """The message that carries a signal. Raises ValidationError for what cannot be one."""
    if type(name) is not str or not 0 < len(name) <= 255:
        raise ValidationError([f"the name of a signal is text of at most 255 characters, not {name!r:.100}"])
    if signal_id is not None and not (type(signal_id) is str and 0 < len(signal_id) <= 255 and signal_id.isprintable()):
        raise ValidationError([f"signal_id is 1 to 255 printable characters, not {signal_id!r:.100}"])
    try:
        payload = normalise(payload, limits=engine.limits, what="payload")
    except OutputError as error:
        raise ValidationError([f"{error.path.replace('$', 'payload', 1)}: {error.reason}"]) from error
    body = {"name": name, "payload": payload}
    token = engine.ids.nonce()
    if signal_id is not None:
        body["signal_id"] = signal_id
        token = hashlib.sha256(signal_id.encode()).hexdigest()  # what users write is not for the keys of a store
    return Message(
        kind="signal",
        execution_id=execution_id,
        key=f"signal:{token}",
        time=engine.clock.now(),
        actor=person(by),
        body=body,
    )


async def was_taken(engine: Engine, execution_id: str, signal_id: str | None) -> bool:
    """Whether an execution (one that is over, at that) had this signal."""
    row = None if signal_id is None else await engine.store.row(execution_id)
    if row is None:
        return False
    found = await engine.store.read(execution_id, after=max(0, row.seq - REMEMBERED))
    return signal_id in signal_ids(decode_record(blob, execution_id=execution_id) for _, blob in found)
