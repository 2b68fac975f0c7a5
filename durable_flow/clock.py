"""The only place that reads a clock or sleeps: everything else is handed a `Clock`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Timer(Protocol):
    """Something that will happen, and can be called off."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Where the engine gets its time from. Tests hand in a fake one."""

    def now(self) -> float:
        """Wall-clock time as UTC seconds since the epoch: what is stored and compared with deadlines."""

    def monotonic(self) -> float:
        """Seconds that never jump: what durations are measured with."""

    async def sleep(self, seconds: float) -> None:
        """Returns after so many seconds of this clock."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Calls back in the event loop after so many seconds, unless the timer is cancelled."""


class SystemClock:
    """The machine's clock.

    `now` and `monotonic` are the C functions themselves: they are read several times in every step.
    """

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)


class StoreTime:
    """The wall-clock time of a store, as far as this machine knows it: a store judges the deadlines that are reckoned
    by it. `clock` ticks; `ahead` is by how many seconds the store's time is ahead of it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.monotonic = clock.monotonic
        self.sleep = clock.sleep
        self.call_later = clock.call_later
        self.adjust(0.0)

    def adjust(self, ahead: float) -> None:
        """From now on the time of the store is taken to be ahead by so much."""
        self.ahead = ahead
        now = self.clock.now
        # It is read several times in every step, and as a rule there is nothing to add.
        self.now: Callable[[], float] = (lambda: now() + ahead) if ahead else now


def moment(seconds: float) -> datetime:
    """The datetime (UTC) of a time in epoch seconds.

    >>> moment(0).isoformat()
    '1970-01-01T00:00:00+00:00'
    """
    return datetime.fromtimestamp(seconds, UTC)
