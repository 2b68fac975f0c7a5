"""The subject that is DBOS on SQLite. Usage: `.venv/bin/python dbos_sqlite.py <folder>`."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dbos import DBOS

from benchmarks.subject import Handlers, drive, serve

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


async def sequential(in_flight: int, total: int) -> dict[str, Any]:
    async def one(number: int) -> None:
        await chain()

    return await drive(one, total=total, in_flight=in_flight)


async def fan_out(branches: int) -> dict[str, Any]:
    begun = time.perf_counter()
    await fan(branches)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "per_second": branches / seconds}


@asynccontextmanager
async def open_dbos(folder: Path) -> AsyncIterator[Handlers]:
    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{folder}/dbos.db", "log_level": "ERROR"})
    DBOS.launch()
    try:
        yield {"sequential": sequential, "fan_out": fan_out}
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    serve(open_dbos, sys.argv[1])
