"""The subject that is Absurd, on PostgreSQL: clients and workers in one process.

A worker of it has one connection, and claims no more before all of a batch is done; so there are several of them here,
which ask for work a hundred times a second instead of four times. Usage: `.venv/absurd/bin/python absurd_peer.py <url>
<folder>`.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
from absurd_sdk import AsyncAbsurd, AsyncTaskContext
from absurdctl import BUNDLED_SCHEMA_SQL

from benchmarks.subject import Handlers, clock, drive, resident_bytes, serve

STEPS = 10
WORKERS = 10
POLL_SECONDS = 0.01
CLAIM_SECONDS = 3600


async def noop() -> None:
    return None


class Client(AsyncAbsurd):
    """Tells in this process when a task has been carried out: asking the database for that would cost it time."""

    def __init__(self, url: str, turns: dict[str, asyncio.Future[None]]) -> None:
        super().__init__(url, queue_name="bench")
        self._turns = turns
        self.register_task("chain")(chain)
        self.register_task("fan")(fan)
        self.register_task("approval")(approval)

    async def _execute_task(self, task: Any, claim_timeout: int) -> None:
        await super()._execute_task(task, claim_timeout)
        turn = self._turns.pop(task["params"]["id"], None)
        if turn is not None:
            turn.set_result(None)


async def chain(params: Any, context: AsyncTaskContext) -> None:
    for number in range(STEPS):
        await context.step(f"s{number}", noop)


async def fan(params: Any, context: AsyncTaskContext) -> None:
    await asyncio.gather(*(context.step(f"b{number}", noop) for number in range(params["branches"])))


async def approval(params: Any, context: AsyncTaskContext) -> None:
    await context.step("before", noop)
    await context.await_event(f"approved:{params['id']}")
    await context.step("after", noop)


class Peer:
    def __init__(self, url: str) -> None:
        self._url = url
        self._ids = map(str, itertools.count())
        self._turns: dict[str, asyncio.Future[None]] = {}
        self._halted: list[str] = []
        self._clients = [Client(url, self._turns) for _ in range(WORKERS)]
        self._next = itertools.cycle(self._clients)

    def _turn(self, task: str) -> asyncio.Future[None]:
        self._turns[task] = future = asyncio.get_running_loop().create_future()
        return future

    async def _run(self, name: str, **params: Any) -> str:
        """Until the task is over or waits for an event."""
        task = next(self._ids)
        turn = self._turn(task)
        await next(self._next).spawn(name, {"id": task, **params})
        await turn
        return task

    @asynccontextmanager
    async def _workers(self, in_flight: int) -> AsyncIterator[None]:
        count = min(WORKERS, in_flight)
        workers = [Client(self._url, self._turns) for _ in range(count)]
        running = [
            asyncio.create_task(
                worker.start_worker(
                    concurrency=-(-in_flight // count), claim_timeout=CLAIM_SECONDS, poll_interval=POLL_SECONDS
                )
            )
            for worker in workers
        ]
        try:
            yield
        finally:
            for worker in workers:
                worker.stop_worker()
            await asyncio.gather(*running)
            for worker in workers:
                await worker.close()

    async def sequential(self, in_flight: int, total: int) -> dict[str, Any]:
        async def one(number: int) -> None:
            await self._run("chain")

        async with self._workers(in_flight):
            return await drive(one, total=total, in_flight=in_flight)

    async def fan_out(self, branches: int) -> dict[str, Any]:
        async with self._workers(1):
            return await clock(self._run("fan", branches=branches), branches)

    async def halt(self, total: int, at_most: float) -> dict[str, Any]:
        self._halted.clear()

        async def one(number: int) -> None:
            self._halted.append(await self._run("approval"))

        async with self._workers(100):
            before = resident_bytes()
            done = await drive(one, total=total, in_flight=100, at_most=at_most)
            return done | {"bytes": (resident_bytes() - before) / done["done"]}

    async def resume(self, at_most: float) -> dict[str, Any]:
        async def one(number: int) -> None:
            task = self._halted[number]
            turn = self._turn(task)
            await next(self._next).emit_event(f"approved:{task}", True)
            await turn

        async with self._workers(100):
            return await drive(one, total=len(self._halted), in_flight=100, at_most=at_most)

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


@asynccontextmanager
async def open_absurd(url: str, folder: Path) -> AsyncIterator[Handlers]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(BUNDLED_SCHEMA_SQL)
    peer = Peer(url)
    try:
        await next(peer._next).create_queue()
        yield {"sequential": peer.sequential, "fan_out": peer.fan_out, "halt": peer.halt, "resume": peer.resume}
    finally:
        await peer.close()


if __name__ == "__main__":
    serve(open_absurd)
