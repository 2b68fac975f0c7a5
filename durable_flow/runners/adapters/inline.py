"""`InlineAdapter`: executions are driven where they are started."""

from __future__ import annotations

from typing import Protocol

from durable_flow.engine import Engine
from durable_flow.runners.direct import Runner


class Host(Protocol):
    """What the adapter needs of its runtime."""

    @property
    def engine(self) -> Engine: ...

    async def runner_of(self, execution_id: str) -> Runner: ...


class InlineAdapter:
    """Drives each execution at once, in a task of the runtime it is given, until it is over or waits for somebody.

    Nothing else is needed then: no worker, no queue. Paused queues, priorities and limits of workers are not for it,
    because it drives what it is told of. When the runtime is closed, its tasks end with its other executions; a worker,
    or whoever is told of them again, goes on with them.

    >>> import asyncio, durable_flow as df
    >>> workflow = {"id": "hello", "name": "Hello", "steps": [
    ...     {"id": "greet", "type": "assign", "set": {"result": "Hello, $input.name!"}}]}
    >>> async def main():
    ...     async with df.Runtime("sqlite://:memory:", workflows=[workflow]) as runtime:
    ...         background = runtime.background("hello", df.InlineAdapter(runtime))
    ...         execution_id = await background.run({"name": "Ada"})
    ...         return await background.wait(execution_id)
    >>> asyncio.run(main()).output
    'Hello, Ada!'
    """

    def __init__(self, runtime: Host) -> None:
        self._runtime = runtime
        self._driven: set[str] = set()
        self._again: set[str] = set()

    async def submit(self, execution_id: str, *, queue: str | None, priority: int) -> None:
        """Begins to drive the execution, in a task of its own."""
        if execution_id in self._driven:
            self._again.add(execution_id)
            return
        self._driven.add(execution_id)
        self._runtime.engine.spawn(self._drive(execution_id))

    async def _drive(self, execution_id: str) -> None:
        try:
            runner = await self._runtime.runner_of(execution_id)
            again = True
            while again:
                self._again.discard(execution_id)
                await runner.follow(execution_id)
                again = execution_id in self._again
        finally:
            self._driven.discard(execution_id)
