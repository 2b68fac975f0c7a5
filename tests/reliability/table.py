"""What a table of promises is made of: cases, each of which holds or says what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from durable_flow.testing import FakeClock, run

DAY = 86_400.0


@dataclass(frozen=True)
class Case:
    """A check that returns when the promise holds and raises when it does not. `weight` counts what it tries, where
    `verify` does not return that. A case that needs a server which is not there raises `Unreachable`."""

    name: str
    verify: Callable[[], int | None]
    weight: int = 1


@dataclass(frozen=True)
class Table:
    """A promise in plain words and the cases that show it. `cases(full)` gives all of them, or those of a short run."""

    promise: str
    cases: Callable[[bool], Iterable[Case]]
    figures: list[str] = field(default_factory=list)
    """What the checks measured, for people to read."""


def fake_time(check: Callable[[FakeClock], Awaitable[None]]) -> Callable[[], None]:
    """The check on a clock that goes on when everybody sleeps. One that sleeps for more than a day never ends."""

    def verify() -> None:
        clock = FakeClock()

        async def main() -> None:
            task = asyncio.ensure_future(check(clock))
            clock.call_later(DAY, task.cancel)
            try:
                await task
            except asyncio.CancelledError:
                raise AssertionError("nothing happens any more") from None

        run(main, clock)

    return verify
