"""The subject that is durable_flow. Usage: `python -m benchmarks.ours <store> <folder>`."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import durable_flow as df
from benchmarks import workloads
from benchmarks.stores import NONE, STORES, StoreCase
from benchmarks.subject import Handlers, bytes_written, drive, resident_bytes, serve
from durable_flow import Runner, Runtime


class Ours:
    """What can be asked of it: every public method."""

    def __init__(self, runtime: Runtime, stamps: list[float]) -> None:
        self._runtime = runtime
        self._stamps = stamps
        self._runners: dict[str, Runner] = {}
        self._halted = 0

    def _runner(self, document: dict[str, Any]) -> Runner:
        known = self._runners.get(document["id"])
        if known is None:
            known = self._runners[document["id"]] = self._runtime.runner(df.load(document))
        return known

    async def steps(self, kind: str, steps: int, runs: int) -> dict[str, Any]:
        """Microseconds per step of one long workflow, run alone: by the clock, and of this thread's processor time."""
        make: Callable[[int], dict[str, Any]] = getattr(workloads, kind)
        runner = self._runner(make(steps))
        wall, cpu = [], []
        for _ in range(runs):
            begun, used = time.perf_counter(), time.thread_time()
            result = await runner.run()
            wall.append((time.perf_counter() - begun) / steps * 1e6)
            cpu.append((time.thread_time() - used) / steps * 1e6)
            result.raise_for_status()
        return {"us": statistics.median(wall), "cpu_us": statistics.median(cpu)}

    async def sequential(self, in_flight: int, total: int) -> dict[str, Any]:
        """Workflows of ten steps."""
        runner = self._runner(workloads.calls(workloads.STEPS))

        async def one(number: int) -> None:
            (await runner.run()).raise_for_status()

        return await drive(one, total=total, in_flight=in_flight)

    async def fan_out(self, branches: int) -> dict[str, Any]:
        """One workflow with many branches."""
        runner = self._runner(workloads.fan_out(branches))
        begun = time.perf_counter()
        (await runner.run()).raise_for_status()
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "per_second": branches / seconds}

    async def growth(self, steps: int) -> dict[str, Any]:
        """What the first and the last tenth of the steps took, each, and the bytes written by all of them."""
        runner = self._runner(workloads.growth(steps))
        self._stamps.clear()
        before = bytes_written()
        (await runner.run()).raise_for_status()
        written = bytes_written() - before
        took = [(after - before) * 1e6 for before, after in pairwise(self._stamps)]
        some = max(5, steps // 10)
        first, last = statistics.median(took[:some]), statistics.median(took[-some:])
        return {"first": first, "last": last, "ratio": last / first, "written": written / steps}

    async def halt(self, total: int) -> dict[str, Any]:
        """Executions that wait for an approval: how fast they are made, and the memory each of them takes."""
        runner = self._runner(workloads.approval())

        async def one(number: int) -> None:
            assert (await runner.run(execution_id=f"halted-{self._halted + number}")).halted

        gc.collect()
        before = resident_bytes()
        done = await drive(one, total=total, in_flight=100)
        self._halted += total
        gc.collect()
        return done | {"bytes": (resident_bytes() - before) / total}

    async def resume(self, total: int) -> dict[str, Any]:
        """The answers to the executions that were made last."""
        runner = self._runner(workloads.approval())
        first = self._halted - total

        async def one(number: int) -> None:
            assert (await runner.resume(f"halted-{first + number}", approved=True)).completed

        return await drive(one, total=total, in_flight=100)


@asynccontextmanager
async def open_ours(case: StoreCase, folder: Path) -> AsyncIterator[Handlers]:
    stamps: list[float] = []

    async def kilobyte() -> str:
        stamps.append(time.perf_counter())
        return await workloads.kilobyte()

    services = {"work": {"noop": workloads.noop, "echo": workloads.echo, "kilobyte": kilobyte}}
    async with AsyncExitStack() as stack:
        store = case.open(folder)
        if not isinstance(store, str):
            await stack.enter_async_context(store)
        ours = Ours(await stack.enter_async_context(Runtime(store, services=services)), stamps)
        yield {name: getattr(ours, name) for name in dir(ours) if not name.startswith("_")}


if __name__ == "__main__":
    (asked,) = (case for case in [NONE, *STORES] if case.name == sys.argv[1])
    serve(lambda folder: open_ours(asked, folder), sys.argv[2])
