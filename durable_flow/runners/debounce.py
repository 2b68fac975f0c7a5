"""Executions that begin later: after a delay, at a time, or when nobody has asked for them again for a while."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from durable_flow.definition.inputs import key_text
from durable_flow.errors import KeyTaken, LeaseLost, ValidationError
from durable_flow.expr.duration import parse_duration
from durable_flow.live import Run
from durable_flow.model.execution import Status
from durable_flow.stores.base import Slot

if TYPE_CHECKING:
    from durable_flow.engine import Engine


class Debounce(msgspec.Struct, frozen=True, kw_only=True):
    """Several starts with one `key` become one execution, with the last input: it begins when for `period` no further
    one has come, or at the latest `max_wait` after the first one (None: however long they come). Both are seconds or
    durations such as `30s`. A key belongs to its workflow.

    >>> Debounce(key="customer-7", period="5s", max_wait=60)
    Debounce(key='customer-7', period='5s', max_wait=60)
    >>> Debounce(key="customer-7", period=0)
    Traceback (most recent call last):
    ...
    durable_flow.errors.ValidationError: debounce.period: a duration must be more than zero, not 0
    """

    key: str
    period: float | str
    max_wait: float | str | None = None

    def __post_init__(self) -> None:
        if type(self.key) is not str or not self.key.strip():
            raise ValidationError([f"debounce.key is a text that is not empty, not {self.key!r:.100}"])
        _seconds("debounce.period", self.period)
        if self.max_wait is not None:
            _seconds("debounce.max_wait", self.max_wait)

    def due(self, now: float, *, first: float) -> float:
        """When it begins if nobody comes after now."""
        due = now + _seconds("debounce.period", self.period)
        return due if self.max_wait is None else min(due, first + _seconds("debounce.max_wait", self.max_wait))


def beginning(
    engine: Engine, *, delay: float | str | None, start_at: datetime | None, debounce: Debounce | None
) -> float | None:
    """When an execution is to begin that is started now; None: at once. Raises ValidationError."""
    if sum(given is not None for given in (delay, start_at, debounce)) > 1:
        raise ValidationError(["give one of delay, start_at and debounce"])
    now = engine.clock.now()
    if debounce is not None:
        if not isinstance(debounce, Debounce):
            raise ValidationError([f"debounce is a df.Debounce, not {debounce!r:.100}"])
        return debounce.due(now, first=now)
    if start_at is not None:
        if getattr(start_at, "tzinfo", None) is None:
            raise ValidationError([f"start_at is a datetime with a time zone, not {start_at!r:.100}"])
        return start_at.timestamp()
    return None if delay is None else now + _seconds("delay", delay, allow_zero=True)


def _seconds(name: str, duration: float | str, *, allow_zero: bool = False) -> float:
    try:
        return parse_duration(duration, allow_zero=allow_zero)
    except ValueError as error:
        raise ValidationError([f"{name}: {error}"]) from None


async def debounced(engine: Engine, debounce: Debounce, make: Callable[[], Run]) -> str:
    """Makes an execution, or one that has not begun what would have been made: the id of it."""
    while True:
        run = make()
        hidden = key_text(debounce.key, hidden=engine.store.sealed, within=run.definition.id)
        line = f"{run.definition.id}~{hidden}"
        run.line, run.slot = line, Slot(key=line, until_begun=True)
        run.change_info(debounced=line)
        now = engine.clock.now()
        try:
            await engine.enqueue(run, at=debounce.due(now, first=now))
        except KeyTaken as taken:
            if await _joined(engine, taken.holders[0], make(), line, debounce):
                return taken.holders[0]
        else:
            return run.id


async def _joined(engine: Engine, execution_id: str, run: Run, line: str, debounce: Debounce) -> bool:
    """Gives an execution what another one would have had; False where somebody has begun it. Whoever takes it up
    changes its generation: so it is either begun with this, or not changed by it."""
    row = await engine.store.row(execution_id)
    if row is None or row.status != Status.PENDING or row.owner is not None:
        return False
    now = engine.clock.now()
    due = row.wake_at
    if due is not None and due > now:
        due = debounce.due(now, first=row.created_at)
    new, definition = run.new, run.definition
    assert new is not None
    run.new, run.slot, run.status = None, None, Status.PENDING
    run.change_info(debounced=line, started_at=None, deadline=None)
    commit = replace(
        run.batch(nonce=engine.ids.nonce(), release=False, wake_at=due),
        execution_id=execution_id,
        owner=None,
        generation=row.generation,
        version=row.version,
        seq=row.seq,
        input=new.input,
        definition=None
        if row.definition_hash == definition.hash
        else (definition.hash, definition.version, definition.text),
    )
    try:
        await engine.land(commit)
    except LeaseLost:
        return False
    return True
