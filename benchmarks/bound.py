"""How fast could it be? The same workloads through a group-committing SQLite writer and nothing else.

Every step is durable (`synchronous=FULL`) before the next one begins: an encoded entry of the size ours has, and the
head row of its execution. One thread writes whatever all executions have produced meanwhile in one transaction. There
is no engine: no definition, no variables, no lease, no recovery. Usage: `python -m benchmarks.bound <folder>`.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.subject import Handlers, drive, serve
from benchmarks.workloads import STEPS, noop

SCHEMA = """
    CREATE TABLE entries (execution INTEGER, seq INTEGER, body TEXT, PRIMARY KEY (execution, seq)) WITHOUT ROWID;
    CREATE TABLE heads (execution INTEGER PRIMARY KEY, seq INTEGER, status TEXT);
"""
ADD_ENTRIES = "INSERT INTO entries VALUES (?, ?, ?)"
SET_HEADS = "INSERT INTO heads VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seq = excluded.seq, status = excluded.status"

Entry = tuple[int, int, str, str]
"""Execution, seq, body, status of the execution."""


class Journal:
    """A thread with a connection: all entries that wait become one transaction, then whoever waits for them goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.SimpleQueue[tuple[asyncio.Future[None], Entry] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main)
        self._thread.start()

    def put(self, entry: Entry) -> asyncio.Future[None]:
        """A future that is done when the entry would survive a power cut."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.put((future, entry))
        return future

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _take(self) -> list[tuple[asyncio.Future[None], Entry]]:
        """All that wait, at least one; none at the end."""
        taken = []
        while (item := self._waiting.get()) is not None:
            taken.append(item)
            if self._waiting.empty():
                return taken
        if taken:
            self._waiting.put(None)
        return taken

    def _main(self) -> None:
        try:
            self._write()
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # nobody would ever wake those who wait

    def _write(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(SCHEMA)
        while batch := self._take():
            database.execute("BEGIN IMMEDIATE")
            database.executemany(ADD_ENTRIES, [entry[:3] for _, entry in batch])
            heads = {execution: (execution, seq, status) for _, (execution, seq, _, status) in batch}
            database.executemany(SET_HEADS, heads.values())
            database.execute("COMMIT")
            self._loop.call_soon_threadsafe(_wake, [future for future, _ in batch])
        database.close()


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


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
        return execution, step + 1, self._encode(body).decode(), status

    async def _begin(self) -> int:
        self._count = execution = self._count + 1
        body = {"action": "started", "time": time.time(), "workflow": "bound", "input": {}, "definition": "0" * 64}
        await self._journal.put((execution, 0, self._encode(body).decode(), "running"))
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
        begun = time.perf_counter()
        execution = await self._begin()

        async def branch(number: int) -> None:
            await noop()
            await self._journal.put(self._completed(execution, number, "running"))

        await asyncio.gather(*(branch(number) for number in range(branches)))
        await self._journal.put(self._completed(execution, branches, "completed"))
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "per_second": branches / seconds}


@asynccontextmanager
async def open_bound(folder: Path) -> AsyncIterator[Handlers]:
    journal = Journal(folder / "bound.db")
    try:
        bound = Bound(journal)
        yield {"sequential": bound.sequential, "fan_out": bound.fan_out}
    finally:
        journal.close()


if __name__ == "__main__":
    serve(open_bound, sys.argv[1])
