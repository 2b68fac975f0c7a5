"""The subject that is the limit on a store. Usage: `python -m benchmarks.bounds <url> <folder>`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.bounds.journal import Entry, Journal, open_journal
from benchmarks.subject import Handlers, clock, drive, serve
from benchmarks.workloads import STEPS, noop


class Bound:
    """What can be asked of it: every public method."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._encode = msgspec.json.Encoder().encode
        self._count = 0

    def _completed(self, execution: int, step: int, status: str) -> Entry:
        name = f"s{step}"
        body = {
            "action": "completed",
            "time": time.time(),
            "step": name,
            "path": name,
            "type": "call",
            "ms": 0.0048,
            "at": f"s{step + 1}",
            "id": execution,
        }
        return Entry(execution, step + 1, self._encode(body).decode(), status)

    async def _begin(self) -> int:
        self._count = execution = self._count + 1
        body = {"action": "started", "time": time.time(), "workflow": "bound", "input": {}, "definition": "0" * 64}
        await self._journal.put(Entry(execution, 0, self._encode(body).decode(), "running"))
        return execution

    async def sequential(self, in_flight: int, total: int) -> dict[str, Any]:
        """Workflows of ten steps."""

        async def one(number: int) -> None:
            execution = await self._begin()
            for step in range(STEPS):
                await noop()
                status = "completed" if step == STEPS - 1 else "running"
                await self._journal.put(self._completed(execution, step, status))

        return await drive(one, total=total, in_flight=in_flight)

    async def fan_out(self, branches: int) -> dict[str, Any]:
        """One workflow with many branches."""

        async def run() -> None:
            execution = await self._begin()

            async def branch(number: int) -> None:
                await noop()
                await self._journal.put(self._completed(execution, number, "running"))

            await asyncio.gather(*(branch(number) for number in range(branches)))
            await self._journal.put(self._completed(execution, branches, "completed"))

        return await clock(run(), branches)


@asynccontextmanager
async def open_bound(url: str, folder: Path) -> AsyncIterator[Handlers]:
    async with open_journal(url) as journal:
        bound = Bound(journal)
        yield {"sequential": bound.sequential, "fan_out": bound.fan_out}


if __name__ == "__main__":
    serve(open_bound)
