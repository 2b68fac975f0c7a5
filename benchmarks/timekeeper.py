"""A worker process that is watched while it fires timers. Usage: `python -m benchmarks.timekeeper <url>`.

It says on a line of JSON that it is ready, then again and again how many executions have ended. A line of its input
tells it that nothing is due for a while; when its input ends, its last words are what it did to the store in that
while, and when it heard of each end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import durable_flow as df
from benchmarks.subject import resident_bytes

WORKERS = 2

READS = ("next_due", "mail", "row", "fetch", "inbox", "read")
OPERATIONS = ("take", "renew", "claim", "release", "append", "commit", *READS)

PULSE = 0.1
"""Seconds between two lines."""

LONG = 1 << 26
"""Bytes of the last words, at most."""


class Workers:
    """Worker processes on a store."""

    def __init__(self, processes: list[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    def rest(self) -> None:
        """Tells them that nothing is due for a while."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")

    async def finish(self, *, total: int, give_up: float) -> list[dict[str, Any]]:
        """Their last words, when `total` executions have ended or the time is `give_up`. Raises RuntimeError."""
        ended = [0] * len(self._processes)

        async def listen(number: int) -> dict[str, Any]:
            process = self._processes[number]
            assert process.stdout is not None
            said: dict[str, Any] = {}
            async for line in process.stdout:
                said = json.loads(line)
                ended[number] = said.get("so_far", ended[number])
                if sum(ended) >= total or time.time() > give_up:
                    for each in self._processes:
                        assert each.stdin is not None
                        each.stdin.close()
            if await process.wait():
                raise RuntimeError("a worker process failed")
            return said

        return list(await asyncio.gather(*(listen(number) for number in range(len(ended)))))


@asynccontextmanager
async def at_work(url: str) -> AsyncIterator[Workers]:
    """Worker processes that are ready; they end with the block."""
    command = (sys.executable, "-m", "benchmarks.timekeeper", url)
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=LONG) for _ in range(WORKERS)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            await process.stdout.readline()
        yield Workers(processes)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class Watched:
    """What a worker process did. `counts` are operations of its store, `ended` when it heard of the end of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.ended: dict[str, list[float]] = {}
        self.idle: dict[str, Any] = {}
        self.used = 0.0
        """Seconds of processor time from before the first end to the last."""
        self._rests = 0.0
        self._used = 0.0
        self._held = 0

    def count(self, store: df.Store) -> None:
        """Counts the operations of a store from now on."""

        def counted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **keywords: Any) -> Any:
                self.counts[name] += 1
                return work(*arguments, **keywords)

            return call

        for name in OPERATIONS:
            setattr(store, name, counted(name, getattr(store, name)))

    def rest(self) -> None:
        """Nothing is due from now on."""
        self.counts.clear()
        self._rests, self._held = time.time(), resident_bytes()

    def hear(self, event: df.Event) -> None:
        """An execution ended: with the first the rest is over."""
        if not self.ended:
            self._used = time.process_time()
            seconds = time.time() - self._rests
            self.idle = {"rate": sum(self.counts.values()) / seconds, "bytes": resident_bytes() - self._held}
        self.ended.setdefault(event.data["execution_id"], []).append(time.time())
        self.used = time.process_time() - self._used


def say(**said: Any) -> None:
    print(json.dumps(said), flush=True)


async def main(url: str) -> None:
    watched = Watched()
    async with df.open_store(url) as store, df.Runtime(store) as runtime:
        watched.count(store)
        runtime.subscribe(watched.hear, events=["workflow.completed"])
        worker = asyncio.create_task(df.Worker(runtime).run())
        say(ready=True)
        await asyncio.to_thread(sys.stdin.readline)
        watched.rest()
        over = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        while not over.done():
            say(so_far=sum(map(len, watched.ended.values())))
            await asyncio.wait([over], timeout=PULSE)
        worker.cancel()
        await asyncio.wait([worker])
    say(idle=watched.idle, used=watched.used, ended=watched.ended)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
