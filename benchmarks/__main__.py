"""`python -m benchmarks [names…] [--short] [--folder F]`."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from benchmarks.measure import FULL, ROOT, SHORT, Failed, Line, Session
from benchmarks.table import table

BENCHMARKS = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures durable_flow and prints a table."
    )
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"which benchmarks: {', '.join(BENCHMARKS)} (default: all)"
    )
    parser.add_argument("--short", action="store_true", help="tiny sizes, without peers: to see that everything runs")
    parser.add_argument("--folder", type=Path, default=ROOT / "build", help="where databases are made (default: build)")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=options.folder))
    size = SHORT if options.short else FULL
    lines: list[Line] = []
    failed = False
    begun = time.perf_counter()
    try:
        sync = [_sync_time(folder)]
        for name in options.names or BENCHMARKS:
            run: Callable[[Session], Iterator[Line]] = import_module(f"benchmarks.bench_{name}").run
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                lines.extend(run(Session(size, folder / name)))
            except Failed as failure:
                print(failure, file=sys.stderr)
                lines.append(Line(workload=name, who="failed: see above"))
                failed = True
        sync.append(_sync_time(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(lines))
    print(
        f"\nPython {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} processors; "
        f"a write of 4 KiB is on the disk after {sync[0] * 1e6:.0f} µs ({sync[1] * 1e6:.0f} µs at the end); "
        f"median of {size.rounds} rounds; {time.perf_counter() - begun:.0f} s in all"
    )
    return int(failed)


def _sync_time(folder: Path) -> float:
    """Seconds that a small write takes to be safe on the disk below this folder."""
    took = []
    descriptor = os.open(folder / "sync", os.O_RDWR | os.O_CREAT)
    try:
        for _ in range(100):
            begun = time.perf_counter()
            os.write(descriptor, bytes(4096))
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - begun)
    finally:
        os.close(descriptor)
    return statistics.median(took)


if __name__ == "__main__":
    sys.exit(main())
