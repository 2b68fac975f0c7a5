"""`python -m benchmarks [names…] [--short] [--family F]… [--rounds N] [--no-peers] [--folder F]`."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks.measure import FULL, SHORT, Line, Session
from benchmarks.processes import ROOT, Kept
from benchmarks.servers import Servers
from benchmarks.stores import FAMILIES
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
    parser.add_argument(
        "--family",
        action="append",
        choices=FAMILIES,
        help="only what keeps its data there (may be given several times)",
    )
    parser.add_argument("--rounds", type=int, default=FULL.rounds, help="how often (default: %(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="without the other libraries")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for ending in (signal.SIGINT, signal.SIGTERM):  # both in order; a shell's background job would ignore Ctrl-C
        signal.signal(ending, signal.default_int_handler)
    size = SHORT if options.short else replace(FULL, peers=not options.no_peers, rounds=options.rounds)
    families = tuple(family for family in FAMILIES if not options.family or family in options.family)
    lines: list[Line] = []
    begun = time.perf_counter()
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=options.folder))
    interrupted = False
    try:
        sync = [_sync_time(folder)]
        with closing(Servers(folder / "servers")) as servers, Kept() as subjects:
            kept = subjects if options.short else None
            for name in options.names or BENCHMARKS:
                print(f"{name} …", file=sys.stderr, flush=True)
                lines.extend(_lines(name, Session(size, folder / name, servers, sync[0], families, kept)))
        sync.append(_sync_time(folder))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(lines))
    if interrupted:
        print("interrupted", file=sys.stderr)
        return 130
    print(
        f"\nPython {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} processors; "
        f"a write of 4 KiB is on the disk after {sync[0] * 1e6:.0f} µs ({sync[1] * 1e6:.0f} µs at the end); "
        f"median of {size.rounds} rounds; {time.perf_counter() - begun:.0f} s in all"
    )
    return int(any(line.failed for line in lines))


def _lines(name: str, session: Session) -> Iterator[Line]:
    """The lines of a benchmark; where it breaks, those it has said before, and one that says so."""
    run: Callable[[Session], Iterator[Line]] = import_module(f"benchmarks.bench_{name}").run
    try:
        for line in run(session):
            if line.failed:
                print(f"{line.who}: {line.details}", file=sys.stderr, flush=True)
            yield line
    except Exception as error:
        traceback.print_exc()
        yield Line(workload=name, who="failed", details=f"{type(error).__name__}: {error}"[:160], failed=True)


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
