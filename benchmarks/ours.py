"""The subject that is durable_flow. Usage: `python -m benchmarks.ours <url> <folder>`; `-` is no store at all."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import durable_flow as df
from benchmarks import workloads
from benchmarks.null import NullStore
from benchmarks.rows import KINDS, creation
from benchmarks.subject import Handlers, clock, drive, resident_bytes, serve
from benchmarks.timekeeper import at_work
from benchmarks.written import Meter, open_meter
from durable_flow import Runner, Runtime, Store

TENTH = 10

CREATED = 100.0
"""How many timers are created in a second at least; this is only known when some were."""

PATIENCE = 60.0
"""Seconds after the last timer is due until those that did not fire are given up."""

TOGETHER = 500
"""How many commits are made at once where only their result counts."""


class Growing:
    """A service that adds a kilobyte, and notes when it was called; at the ends of the first and of the last tenth, how
    much the store had written by then."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.begin(1)

    def begin(self, steps: int) -> None:
        self.some = max(1, steps // TENTH)
        self.stamps: list[float] = []
        self.written: dict[int, int] = {}
        self._read_at = {0, self.some, steps - 1 - self.some, steps - 1}

    async def kilobyte(self) -> str:
        number = len(self.stamps)
        if number in self._read_at:
            self.written[number] = await self._meter.read()
        self.stamps.append(time.perf_counter())
        return await workloads.kilobyte()


class Website:
    """Fetches pages: as many at once as are asked for."""

    def __init__(self) -> None:
        self._session: Any = None

    async def fetch(self, url: str) -> str:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        async with self._session.get(url) as response:
            response.raise_for_status()
            text: str = await response.text()
            return text

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def gather(work: Iterable[Awaitable[object]]) -> None:
    await asyncio.gather(*work)


class Ours:
    """What can be asked of it: every public method."""

    def __init__(self, runtime: Runtime, growing: Growing, website: Website, url: str) -> None:
        self._runtime = runtime
        self._website = website
        self._url = url
        self._growing = growing
        self._runners: dict[str, Runner] = {}
        self._halted = range(0)
        self._rows = 0
        self._timers = 0
        self._created = CREATED

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

        async def run() -> None:
            (await runner.run()).raise_for_status()

        return await clock(run(), branches)

    async def fetches(self, url: str, total: int) -> dict[str, Any]:
        """Seconds of the requests of so many workflows without any; of one workflow; and of all of them at once."""
        runner = self._runner(workloads.fetches())

        async def one() -> None:
            result = await runner.run({"url": url})
            assert result.output == [url] * workloads.BRANCHES, result

        fetched = await clock(gather(self._website.fetch(url) for _ in range(total * workloads.BRANCHES)), total)
        alone = await clock(one(), 1)
        together = await clock(gather(one() for _ in range(total)), total)
        return {"fetched": fetched["seconds"], "alone": alone["seconds"], "together": together["seconds"]}

    async def growth(self, steps: int) -> dict[str, Any]:
        """What a step of the first and of the last tenth took, in time and in bytes written."""
        runner = self._runner(workloads.growth(steps))
        growing = self._growing
        growing.begin(steps)
        (await runner.run()).raise_for_status()
        took = [(after - before) * 1e6 for before, after in pairwise(growing.stamps)]
        first, last = statistics.median(took[: growing.some]), statistics.median(took[-growing.some :])
        marks = [growing.written[number] for number in sorted(growing.written)]
        first_bytes = (marks[1] - marks[0]) / growing.some
        last_bytes = (marks[-1] - marks[-2]) / growing.some
        return {
            "first": first,
            "last": last,
            "ratio": last / first,
            "first_bytes": first_bytes,
            "last_bytes": last_bytes,
            "bytes_ratio": last_bytes / first_bytes if first_bytes else None,
        }

    async def halt(self, total: int, at_most: float) -> dict[str, Any]:
        """Executions that wait for an approval: how fast they are made, and the memory each of them takes."""
        runner = self._runner(workloads.approval())
        first = self._halted.stop

        async def one(number: int) -> None:
            assert (await runner.run(execution_id=f"halted-{first + number}")).halted

        before = resident_bytes()
        done = await drive(one, total=total, in_flight=100, at_most=at_most)
        self._halted = range(first, first + done["done"])
        return done | {"bytes": (resident_bytes() - before) / done["done"]}

    async def resume(self, at_most: float) -> dict[str, Any]:
        """The answers to the executions that were made last."""
        runner = self._runner(workloads.approval())

        async def one(number: int) -> None:
            assert (await runner.resume(f"halted-{self._halted[number]}", approved=True)).completed

        return await drive(one, total=len(self._halted), in_flight=100, at_most=at_most)

    async def timers(self, total: int, spread: float, lead: float) -> dict[str, Any]:
        """Timers that come due evenly within `spread` seconds while two other processes work: seconds from when one was
        due to when its end was committed, and from the first being due to the last end. The first is due `lead` seconds
        after the last was created, or later."""
        async with at_work(self._url) as workers:
            due, first = await self._set_timers(total, spread, lead)
            workers.rest()
            said = await workers.finish(total=total, give_up=due + spread + PATIENCE)
        ends: dict[str, list[float]] = {}
        for words in said:
            for name, times in words["ended"].items():
                ends.setdefault(name, []).extend(times)
        late = sorted(
            min(ends[name]) - due - spread * number / total
            for number in range(total)
            if (name := f"timer-{first + number}") in ends
        )
        idle = [words["idle"] for words in said if words["idle"]]
        return {
            "once": len(ends) == total and all(len(times) == 1 for times in ends.values()),
            "p50": late[len(late) // 2],
            "p99": late[min(len(late) - 1, len(late) * 99 // 100)],
            "last": max(max(times) for times in ends.values()) - due,
            "bytes": max(each["bytes"] for each in idle) / total,
            "used": sum(words["used"] for words in said) / total,
            "operations_per_second": max(each["rate"] for each in idle),
        }

    async def _set_timers(self, total: int, spread: float, lead: float) -> tuple[float, int]:
        """Creates executions that wait; when the first is due, and its number. Nobody in this process follows them."""
        runner = self._runner(workloads.timer())
        first = self._timers
        self._timers += total
        due = time.time() + lead + total / self._created
        waiting: dict[str, asyncio.Event] = {}

        async def one(number: int) -> None:
            name = f"timer-{first + number}"
            waits = waiting[name] = asyncio.Event()
            until = datetime.fromtimestamp(due + spread * number / total, UTC).isoformat()
            running = asyncio.create_task(runner.run({"until": until}, execution_id=name))
            halted = asyncio.create_task(waits.wait())
            await asyncio.wait([halted, running], return_when=asyncio.FIRST_COMPLETED)
            halted.cancel()
            running.cancel()
            await asyncio.wait([running])

        deaf = self._runtime.subscribe(lambda event: waiting[event.data["execution_id"]].set(), events=["step.halted"])
        try:
            self._created = (await drive(one, total=total, in_flight=100))["per_second"] / 1.5
        finally:
            deaf()
        if time.time() > due:
            raise RuntimeError(f"creating {total} executions took longer than the first one waits")
        return due, first

    async def fill(self, total: int, needles: int) -> dict[str, Any]:
        """More executions that are over, `needles` of them, evenly spread, of the rare kind."""
        store = self._runtime.store
        numbers = range(self._rows, self._rows + total)
        rare = set(numbers[:: total // needles][:needles]) if needles else set()
        self._rows += total

        async def all_of_them() -> None:
            for start in range(0, total, TOGETHER):
                some = numbers[start : start + TOGETHER]
                await asyncio.gather(*(store.commit(creation(number, needle=number in rare)) for number in some))

        return await clock(all_of_them(), total)

    async def find(self, kind: str, times: int) -> dict[str, Any]:
        """Milliseconds that a page takes, as the quickest fifth has it: what other programs do lengthens the rest."""
        wanted = KINDS[kind]
        took = []
        for _ in range(times):
            begun = time.perf_counter()
            page = await self._runtime.store.find(**wanted, limit=50)
            took.append((time.perf_counter() - begun) * 1000)
            assert page
            assert all(execution.status == wanted["status"] for execution in page)
        return {"ms": sorted(took)[len(took) // 5], "found": len(page)}


@asynccontextmanager
async def open_ours(url: str, folder: Path) -> AsyncIterator[Handlers]:
    async with AsyncExitStack() as stack:
        meter = await open_meter(url)
        stack.push_async_callback(meter.close)
        growing = Growing(meter)
        website = Website()
        stack.push_async_callback(website.close)
        services = {
            "work": {
                "noop": workloads.noop,
                "echo": workloads.echo,
                "kilobyte": growing.kilobyte,
                "fetch": website.fetch,
            }
        }
        store: str | Store = url
        if url == "-":
            store = await stack.enter_async_context(NullStore())
        ours = Ours(await stack.enter_async_context(Runtime(store, services=services)), growing, website, url)
        yield {name: getattr(ours, name) for name in dir(ours) if not name.startswith("_")}


if __name__ == "__main__":
    serve(open_ours)
