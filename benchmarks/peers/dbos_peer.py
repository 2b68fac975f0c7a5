"""The subject that is DBOS on PostgreSQL or SQLite. Usage: `.venv/dbos/bin/python dbos_peer.py <url> <folder>`."""

import asyncio
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
from dbos import DBOS, SetWorkflowID, WorkflowHandleAsync

from benchmarks.subject import Handlers, clock, drive, resident_bytes, serve

STEPS = 10


@DBOS.step()
async def noop() -> None:
    return None


@DBOS.workflow()
async def chain() -> None:
    for _ in range(STEPS):
        await noop()


@DBOS.workflow()
async def fan(branches: int) -> None:
    await asyncio.gather(*(noop() for _ in range(branches)))


@DBOS.workflow()
async def approval() -> None:
    await noop()
    await DBOS.recv_async("approval", timeout_seconds=3600)
    await noop()


class Peer:
    def __init__(self, url: str) -> None:
        self._url = url
        self._handles: list[WorkflowHandleAsync[None]] = []
        self._waiting = 0

    async def sequential(self, in_flight: int, total: int) -> dict[str, Any]:
        async def one(number: int) -> None:
            await chain()

        return await drive(one, total=total, in_flight=in_flight)

    async def fan_out(self, branches: int) -> dict[str, Any]:
        return await clock(fan(branches), branches)

    async def halt(self, total: int, at_most: float) -> dict[str, Any]:
        async def one(number: int) -> None:
            with SetWorkflowID(str(uuid.uuid4())):
                self._handles.append(await DBOS.start_workflow_async(approval))

        self._handles.clear()
        before, begun = resident_bytes(), time.perf_counter()
        done = (await drive(one, total=total, in_flight=100, at_most=at_most))["done"]
        self._waiting += done
        while await asyncio.to_thread(self._count) < self._waiting:  # noqa: ASYNC110 - only the database knows
            await asyncio.sleep(0.05)
        seconds = time.perf_counter() - begun
        return {"done": done, "per_second": done / seconds, "bytes": (resident_bytes() - before) / done}

    async def resume(self, at_most: float) -> dict[str, Any]:
        """All are answered, then all are awaited: on SQLite answers are noticed by polling, many at once."""

        async def one(number: int) -> None:
            await DBOS.send_async(self._handles[number].get_workflow_id(), True, "approval")

        begun = time.perf_counter()
        await drive(one, total=len(self._handles), in_flight=100, at_most=at_most)
        ends = [asyncio.ensure_future(handle.get_result()) for handle in self._handles]
        done, late = await asyncio.wait(ends, timeout=max(1.0, begun + at_most - time.perf_counter()))
        seconds = time.perf_counter() - begun
        for end in late:
            end.cancel()
        return {"done": len(done), "per_second": len(done) / seconds}

    def _count(self) -> int:
        """How many have come to their wait: `recv` records when it will be over."""
        if self._url.startswith("sqlite"):
            sql = "SELECT count(*) FROM operation_outputs WHERE function_name = 'DBOS.sleep'"
            with sqlite3.connect(self._url.removeprefix("sqlite:///")) as connection:
                (found,) = connection.execute(sql).fetchone()
        else:
            sql = "SELECT count(*) FROM dbos.operation_outputs WHERE function_name = 'DBOS.sleep'"
            with psycopg.connect(self._url) as connection:
                (found,) = connection.execute(sql).fetchone()
        return int(found)


@asynccontextmanager
async def open_dbos(url: str, folder: Path) -> AsyncIterator[Handlers]:
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "application_version": "bench"})
    DBOS.launch()
    try:
        peer = Peer(url)
        yield {"sequential": peer.sequential, "fan_out": peer.fan_out, "halt": peer.halt, "resume": peer.resume}
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    serve(open_dbos)
