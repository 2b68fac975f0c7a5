"""How long a fresh process takes to import it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.measure import Line, Session
from benchmarks.processes import ROOT

STATEMENTS = {"python alone": "pass", "asyncio": "import asyncio", "durable_flow": "import durable_flow"}
LIMIT = 150.0


def run(session: Session) -> Iterator[Line]:
    took: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for turn in range(session.size.starts + 1):
        for name, statement in STATEMENTS.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True, cwd=ROOT)
            if turn:  # the first fills the caches of the file system
                took[name].append((time.perf_counter() - begun) * 1000)
    cost = {name: statistics.median(times) for name, times in took.items()}
    more = statistics.median(a - b for a, b in zip(took["durable_flow"], took["asyncio"], strict=True))
    yield Line(
        workload="cold import",
        who="durable_flow",
        figure=f"{cost['durable_flow']:.0f} ms",
        details=f"all of it; asyncio alone {cost['asyncio']:.0f} ms, Python alone {cost['python alone']:.0f} ms",
        compared=f"{more:.0f} ms more than asyncio",
        asked=f"< {LIMIT:g} ms",
        met=cost["durable_flow"] < LIMIT,
    )
