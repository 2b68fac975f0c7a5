"""`wait_until`: for what happens soon, without sleeping for a guessed time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def wait_until(condition: Callable[[], Awaitable[T]], *, timeout: float = 5.0) -> T: ...


@overload
async def wait_until(condition: Callable[[], T], *, timeout: float = 5.0) -> T: ...


async def wait_until(condition: Callable[[], Any], *, timeout: float = 5.0) -> Any:
    """The first true result of `condition` (plain or async), asked again and again. Raises TimeoutError.

    >>> import asyncio
    >>> counted = iter(range(10))
    >>> asyncio.run(wait_until(lambda: next(counted) == 5))
    True
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    pause = 0.0
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if loop.time() >= end:
            raise TimeoutError(f"it did not come true within {timeout:g} s")
        later = asyncio.Event()
        loop.call_later(pause, later.set)
        await later.wait()
        pause = min(0.02, pause + 0.001)
