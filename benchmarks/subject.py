"""A measured process: it reads what to do as lines of JSON and answers how long that took.

Only the standard library is imported here, because peers run it in their own environments.
"""

import asyncio
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

Handler = Callable[..., Awaitable[dict[str, Any]]]
Handlers = Mapping[str, Handler]


async def drive(
    one: Callable[[int], Awaitable[object]], *, total: int, in_flight: int, at_most: float | None = None
) -> dict[str, Any]:
    """Awaits `one(i)` for every i below `total`, `in_flight` of them at a time; begins none after `at_most` seconds.

    `done` is how many it were.
    """
    numbers = iter(range(total))
    latencies: list[float] = []
    begun = time.perf_counter()
    last = float("inf") if at_most is None else begun + at_most

    async def caller() -> None:
        for number in numbers:
            start = time.perf_counter()
            await one(number)
            end = time.perf_counter()
            latencies.append(end - start)
            if end > last:
                return

    await asyncio.gather(*(caller() for _ in range(min(in_flight, total))))
    seconds = time.perf_counter() - begun
    latencies.sort()
    return {
        "done": len(latencies),
        "seconds": seconds,
        "per_second": len(latencies) / seconds,
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)],
    }


async def clock(work: Awaitable[object], count: int) -> dict[str, Any]:
    """How long one piece of work takes that is `count` things at once."""
    begun = time.perf_counter()
    await work
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "per_second": count / seconds}


def bytes_written() -> int:
    """What this process has passed to write(2) and its like so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise RuntimeError("there is no count of written bytes on this system")


def resident_bytes(process: int | str = "self") -> int:
    """The memory of a process that is not swapped out, after what is not needed was let go."""
    if process == "self":
        gc.collect()
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def serve(subject: Callable[[str, Path], AbstractAsyncContextManager[Handlers]]) -> None:
    """Does what it is told until its input ends. `subject` gets where to keep its data and an empty folder, and gives
    what it can do, by name."""
    *_, place, folder = sys.argv
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers

    def answer(**said: Any) -> None:
        print(json.dumps(said), file=answers, flush=True)

    async def main() -> None:
        async with subject(place, Path(folder)) as handlers:
            answer(ready=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                request: dict[str, Any] = json.loads(line)
                cpu, begun = time.process_time(), time.perf_counter()
                try:
                    result = await handlers[request.pop("do")](**request)
                except Exception:
                    answer(error=traceback.format_exc())
                else:
                    answer(**result, cpu=time.process_time() - cpu, wall=time.perf_counter() - begun)

    asyncio.run(main())
