"""`FakeClock`: time that passes only when told to, or when nothing else is left to do."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import selectors
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio.lowlevel

T = TypeVar("T")

ROUNDS = 200
"""After how many rounds of the event loop everybody has come as far as they can."""

GLANCE, LONG = 0.001, 5.0
"""Real seconds between two looks at what takes real time, and for how long `advance` waits for it."""

HAIR = 1e-6
"""Seconds by which sums of times miss each other."""

START = 1_767_225_600.0
"""Where a fake clock starts unless told otherwise: 2026-01-01 00:00 UTC."""


class FakeTimer:
    """A call that a `FakeClock` will make."""

    def __init__(self, clock: FakeClock, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        self.clock = clock
        self.loop = loop
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Calls it off; nothing happens if it was made already."""
        self.callback = None

    def fire(self) -> None:
        """Makes the call in the event loop."""
        if self.callback is not None:
            self.loop.call_soon(self.callback)
            self.callback = None


class FakeClock:
    """A clock for tests: `df.Runtime(…, clock=FakeClock())`.

    `advance` makes time pass; inside `run` it passes by itself whenever everybody sleeps, so that an hour of backoff
    takes no time at all.

    >>> clock = FakeClock(start=0)
    >>> async def nap():
    ...     await clock.sleep(3600)
    ...     return clock.now()
    >>> run(nap, clock)
    3600.0
    """

    def __init__(self, start: float = START) -> None:
        self._began = start
        self._steady = 0.0
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._made = 0
        self.busy = 0
        """How many things are under way that take real time (threads, files): meanwhile no time is skipped."""
        self.on_skip: Callable[[], None] | None = None
        """Called before time is skipped: everybody sleeps."""

    def now(self) -> float:
        """Wall-clock seconds since the epoch."""
        return self._began + self._steady

    def monotonic(self) -> float:
        """Seconds since the clock was made; `turn` does not change them."""
        return self._steady

    async def sleep(self, seconds: float) -> None:
        """Returns after so many seconds of this clock."""
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        over = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: None if over.done() else over.set_result(None))
        held = HELD.get()
        if held is not None:  # what sleeps on this clock takes no real time
            held.fall_asleep()
        try:
            await over
        finally:
            timer.cancel()
            if held is not None:
                held.wake_up()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> FakeTimer:
        """Calls back in the running event loop after so many seconds of this clock."""
        timer = FakeTimer(self, asyncio.get_running_loop(), callback)
        self._made += 1
        heapq.heappush(self._timers, (self._steady + max(0.0, seconds), self._made, timer))
        return timer

    def next(self) -> float | None:
        """Seconds until the next timer; None if there is none."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - self._steady) if self._timers else None

    def turn(self, seconds: float) -> None:
        """Sets the wall clock forward (or back, with a negative number), as an administrator would: no timer fires."""
        self._began += seconds

    def skip(self) -> bool:
        """Goes to the next timer and fires all that are due then; False if there is none."""
        wait = self.next()
        if wait is None:
            return False
        if self.on_skip is not None:
            self.on_skip()
        self._reach(max(self._steady, self._timers[0][0]))
        return True

    def jump(self, seconds: float) -> None:
        """Lets so many seconds pass at once; what came due meanwhile fires now."""
        self._reach(self._steady + seconds)

    def _reach(self, steady: float) -> None:
        self._steady = steady
        while (left := self.next()) is not None and left <= 0:
            heapq.heappop(self._timers)[2].fire()

    def forget(self) -> None:
        """Calls all timers off: those of a dead process."""
        self._timers.clear()

    async def advance(
        self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0
    ) -> None:
        """Lets so much time pass, timer by timer; what the timers wake gets to run in between.

        >>> clock = FakeClock(start=0)
        >>> run(lambda: clock.advance(days=30, hours=1), clock)
        >>> clock.now() / 3600
        721.0
        """
        end = self._steady + seconds + 60.0 * minutes + 3_600.0 * hours + 86_400.0 * days
        await self._settle()
        while self.next() is not None and self._timers[0][0] <= end + HAIR:
            self.skip()
            await self._settle()
        self._steady = max(self._steady, end)

    async def _settle(self) -> None:
        """Lets everybody come as far as they can, what takes real time included (but for what takes very long)."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LONG
        while True:
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            if not self.busy or loop.time() >= end:
                return
            later = asyncio.Event()
            loop.call_later(GLANCE, later.set)
            await later.wait()

    @contextmanager
    def held(self) -> Iterator[None]:
        """While in it, time is not skipped: something takes real time (unless it sleeps on this clock)."""
        held = _Held(self)
        token = HELD.set(held)
        self.busy += 1
        try:
            yield
        finally:
            HELD.reset(token)
            held.end()


class _Held:
    """Something that takes real time, but for when it sleeps on the clock that it holds."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.sleepers = 0
        self.ended = False

    def fall_asleep(self) -> None:
        if not self.ended and not self.sleepers:
            self.clock.busy -= 1
        self.sleepers += 1

    def wake_up(self) -> None:
        self.sleepers -= 1
        if not self.ended and not self.sleepers:
            self.clock.busy += 1

    def end(self) -> None:
        if not self.sleepers:
            self.clock.busy -= 1
        self.ended = True


HELD: contextvars.ContextVar[_Held | None] = contextvars.ContextVar("HELD", default=None)


class _Watching(selectors.DefaultSelector):
    """A selector that knows when its loop has nothing to do."""

    on_turn: Callable[[], None] | None = None
    on_idle: Callable[[bool], bool] | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.on_turn is not None:
            self.on_turn()
        if timeout == 0 or self.on_idle is None:
            return super().select(timeout)
        return super().select(0) or ([] if self.on_idle(timeout is not None) else super().select(timeout))


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop that moves a `FakeClock` to its next timer when there is nothing else to do.

    `turns` counts its rounds, and `on_turn` is called before each: the places where a task may be interrupted.
    While `heedless`, timers of the loop itself (those of a connection that lies idle, say) are not waited for either.
    """

    def __init__(self, clock: FakeClock) -> None:
        watching = _Watching()
        super().__init__(watching)
        self.clock = clock
        self.turns = 0
        self.on_turn: Callable[[int], None] | None = None
        self.heedless = False
        self.apart: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        """The tasks that were made in `apart_from_here`, and by these."""
        self._resting: deque[tuple[asyncio.Future[None], int]] = deque()
        watching.on_turn = self._turn
        watching.on_idle = self._idle

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """As every loop does it, and notes whose task it is."""
        task = super().create_task(coro, name=name, context=context)
        if APART.get():
            self.apart.add(task)
        return task

    def _idle(self, timed: bool) -> bool:
        """Whether there is something to do again, where there was nothing."""
        return self._rested() or ((not timed or self.heedless) and not self.clock.busy and self.clock.skip())

    def _rested(self) -> bool:
        while self._resting:
            waiting, _ = self._resting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return True
        return False

    async def rest(self) -> None:
        """Returns when everybody else has come as far as they can without waiting. (A cancelled scope never waits: it
        cancels again and again what does not end. After many rounds nothing else can be under way.)"""
        waiting = self.create_future()
        self._resting.append((waiting, self.turns + ROUNDS))
        await waiting

    def _turn(self) -> None:
        self.turns += 1
        if self._resting and self.turns >= self._resting[0][1]:
            self._rested()
        if self.on_turn is not None:
            self.on_turn(self.turns)


@contextmanager
def apart_from_here() -> Iterator[None]:
    """Tasks that are made in it, and by these, do not belong to who makes them but to a store it uses."""
    token = APART.set(True)
    try:
        yield
    finally:
        APART.reset(token)


APART = contextvars.ContextVar("APART", default=False)


def run(main: Callable[[], Coroutine[Any, Any, T]], clock: FakeClock) -> T:
    """Runs `main()` as `asyncio.run` does, on a loop on which `clock` needs no waiting."""
    with asyncio.Runner(loop_factory=lambda: SkippingLoop(clock)) as runner:
        return runner.run(main())
