"""Executions that wait cost no memory."""

from __future__ import annotations

import asyncio
import gc
import resource
import tempfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import durable_flow as df
from tests.reliability.nesting import linked
from tests.reliability.stage import document
from tests.reliability.table import Case, Table

AT_ONCE = 100
MOST = 1024
"""Bytes of memory that an execution may cost."""

FLOW = document(
    "flow",
    linked(
        [
            {"id": "fill", "type": "assign", "set": {"data": {"text": "x" * 2_000, "number": "$input.number"}}},
            {"id": "ask", "type": "halt", "reason": "?"},
        ]
    ),
)


async def halted(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder, 'flows.db')}"
        async with df.Runtime(url, workflows=[FLOW]) as runtime:
            runner = runtime.runner("flow")

            async def some(first: int, number: int) -> None:
                for start in range(first, first + number, AT_ONCE):
                    runs = (runner.run({"number": n}, execution_id=f"e{n}") for n in range(start, start + AT_ONCE))
                    results = await asyncio.gather(*runs)
                    assert all(result.halted for result in results)

            await some(0, AT_ONCE)
            gc.collect()
            before = resident()
            tracemalloc.start()
            try:
                await some(AT_ONCE, count)
                gc.collect()
                traced, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            each = traced / count
            TABLE.figures.append(
                f"memory of a halted execution, {count:,} of them: {each:,.0f} bytes; the process grew by "
                f"{(resident() - before) / count:,.0f} each, what measuring and SQLite's cache take included"
            )
            assert each < MOST, f"{each:,.0f} bytes each"
            assert (await runner.resume(f"e{count}", response=1)).completed


def resident() -> int:
    """The memory this process has now, in bytes (where there is no /proc: the most it has had)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


def cases(full: bool) -> Iterable[Case]:
    count = 10_000 if full else 1_000
    yield Case(f"{count:,} halted executions", lambda: asyncio.run(halted(count)), weight=count)


TABLE = Table("an execution that waits costs less than 1 KB of memory", cases)
