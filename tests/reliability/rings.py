"""Two workers share a store in which many timers end and many approvals time out: each does so once, and none is
forgotten.

The timers all end at one moment, so that both workers want them; what follows each is a call that is written down.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

import durable_flow as df
from durable_flow.testing import wait_until
from tests.reliability.crew import PATIENCE, Crew
from tests.reliability.duty import Journal, Noting, Post
from tests.reliability.grounds import STORES, scene
from tests.reliability.kills import LONG
from tests.reliability.table import Case, Table

FIGURES: list[str] = []

WORKERS = 2
TIMEOUT = 2.0

TIMER = df.load("""
id: timer
name: A timer
inputs: {at: string}
steps:
  - {id: pause, type: wait, until: $input.at, next: ring}
  - {id: ring, type: call, service: Desk, method: ring, output: result}
""")

ASK = df.load(f"""
id: ask
name: An approval that nobody gives
steps:
  - {{id: ask, type: approval, prompt: Well?, timeout: {TIMEOUT:g}s, on_timeout: late, next: early}}
  - {{id: late, type: call, service: Desk, method: ring, output: result, next: done}}
  - {{id: done, type: end, result: $result}}
  - {{id: early, type: end, result: nobody could}}
""")


async def work(*, post: dict[str, Any], journal: str) -> None:
    """A worker, until SIGTERM."""
    desk = Noting(Journal(journal), {"ring": lambda given, context: "rang"})
    place = msgspec.convert(post, Post)
    async with place.open() as store, df.Runtime(store, services={"Desk": desk}, lease_ttl=LONG) as runtime:
        worker = df.Worker(runtime)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()


async def begin(post: Post, count: int, at: float) -> tuple[list[str], list[str]]:
    """Lets so many executions come to their waits, and leaves them there."""
    given = {"at": datetime.fromtimestamp(at, UTC).isoformat()}
    timers, asks = ([f"{kind}-{number}" for number in range(count)] for kind in ("timer", "ask"))
    services = {"Desk": {"ring": len}}
    async with post.open() as store, df.Runtime(store, workflows=[TIMER, ASK], services=services, grace=0.0) as runtime:
        waiting = [asyncio.ensure_future(runtime.runner("timer").run(given, execution_id=name)) for name in timers]
        await asyncio.gather(*[runtime.runner("ask").run(execution_id=name) for name in asks])

        async def all_wait() -> bool:
            found = await store.find(workflow_id="timer", status="halted", limit=count)
            return len(found) == count

        await wait_until(all_wait, timeout=PATIENCE)
        for call in waiting:
            call.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return timers, asks


async def ring(crew: Crew, store: str, count: int) -> int:
    async with scene(store, crew.folder) as (post, notes), crew.watched(store) as hands:
        at = time.time() + 2.0 + count / 25
        timers, asks = await begin(post, count, at)
        for number in range(WORKERS):
            given: dict[str, Any] = {"post": post.given, "journal": str(notes.path)}
            hands.append(await crew.start(work, name=f"worker {number}", **given))
        async with post.open() as looking:

            async def all_over() -> bool:
                left = [await looking.find(status=status, limit=1) for status in ("running", "halted", "pending")]
                return not any(left) or not all(hand.running for hand in hands)

            await wait_until(all_over, timeout=PATIENCE)
            for hand in hands:
                hand.signal(signal.SIGTERM)
                await hand.done()
            kinds = {"timer": Counter(["pause", "ring"]), "ask": Counter(["ask", "late", "done"])}
            for name in (*timers, *asks):
                await judge(looking, name, kinds[name.partition("-")[0]])
        rung = notes.lines("effect")
        assert Counter(line["execution"] for line in rung) == Counter([*timers, *asks]), "not each rang once"
        share = Counter(line["pid"] for line in rung)
        late = max(line["at"] for line in rung if line["execution"] in timers) - (at - time.time() + time.monotonic())
        FIGURES.append(
            f"{store}: {count} timers and {count} timeouts, each once; the workers had {sorted(share.values())} of "
            f"them, the last timer rang {late:.2f} s after its time"
        )
    return 2 * count


async def judge(store: df.Store, name: str, steps: Counter[str]) -> None:
    row = await store.row(name)
    assert row is not None
    assert (row.status, row.owner, row.recoveries) == ("completed", None, 0)
    assert not row.waits
    entries = await store.entries(name)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    ended = (df.Action.COMPLETED, df.Action.ANSWERED, df.Action.FAILED)
    told = Counter(entry.path for entry in entries if entry.path and entry.action in ended)
    assert told == steps, f"{name}: {[(entry.path, entry.action.value) for entry in entries]}"
    assert sum(entry.action is df.Action.HALTED and bool(entry.path) for entry in entries) == 1


def verify(store: str, count: int) -> int:
    with tempfile.TemporaryDirectory(prefix="durable-flow-") as folder:

        async def main() -> int:
            async with Crew(Path(folder)) as crew:
                return await ring(crew, store, count)

        return asyncio.run(main())


def cases(full: bool) -> Iterable[Case]:
    for store in STORES:
        yield Case(f"{store}: timers and timeouts of two workers", partial(verify, store, 200 if full else 25))


TABLE = Table("a timer ends once, whoever works", cases, FIGURES)
