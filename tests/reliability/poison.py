"""An execution that kills whoever drives it is given up after a few deaths, and keeps nobody else from going on; nor
does a row that nobody can read.

A supervisor starts a worker again whenever it dies, as systemd or Kubernetes would. Beside the poison there are twenty
healthy executions, which the worker takes together with it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

import durable_flow as df
from durable_flow.stores.base import Commit, Stored
from durable_flow.testing import wait_until
from tests.reliability.crew import PATIENCE, Crew, Hand, all_of
from tests.reliability.duty import Journal, Noting, Post, leave
from tests.reliability.grounds import STORES, scene
from tests.reliability.table import Case, Table

TTL = 1.0
MAX_RECOVERIES = 3
HEALTHY = [f"healthy-{number}" for number in range(20)]
POISON = "poison"

WORK = df.load("""
id: work
name: Two calls
steps:
  - {id: work, type: call, service: Desk, method: work, output: a, next: rest}
  - {id: rest, type: call, service: Desk, method: rest, output: b, next: done}
  - {id: done, type: end, result: [$a, $b]}
""")


def deadly(method: str) -> df.WorkflowDef:
    return df.load({
        "id": "deadly",
        "name": "deadly",
        "steps": [
            {"id": "fine", "type": "call", "service": "Desk", "method": "rest", "next": "die"},
            {"id": "die", "type": "call", "service": "Desk", "method": method},
        ],
    })  # fmt: skip


# -- in a process of its own ------------------------------------------------------------------------------------------


def leaves(given: Any, context: df.StepContext) -> None:
    os._exit(7)


def kills(given: Any, context: df.StepContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def overflows(given: Any, context: df.StepContext) -> None:
    """Calls itself through C until the stack is full."""
    sys.setrecursionlimit(10**9)
    deeper: Callable[[], None] = ctypes.CFUNCTYPE(None)(lambda: deeper())
    deeper()
    os.kill(os.getpid(), signal.SIGSEGV)  # this Python counts what goes through C, too


DEATHS: dict[str, tuple[Callable[..., None], int]] = {
    "leaves": (leaves, 7),
    "kills": (kills, -signal.SIGKILL),
    "overflows": (overflows, -signal.SIGSEGV),
}


def desk(notes: Journal, meanwhile: Callable[[str, df.StepContext], Awaitable[object]] | None = None) -> Noting:
    done = {method: lambda given, context: "done" for method in ("work", "rest")}
    return Noting(notes, {**done, **{name: death for name, (death, _) in DEATHS.items()}}, meanwhile=meanwhile)


async def begin(*, post: dict[str, Any], journal: str, method: str, first: bool) -> None:
    """Drives all of them, and dies of the poison while the healthy ones are in a call: their leases end together."""
    inside: list[str] = []
    begun = asyncio.Event()

    async def meanwhile(called: str, context: df.StepContext) -> None:
        if called == "work":
            inside.append(context.execution_id)
            await asyncio.Event().wait()
        elif called == "rest":
            begun.set()
        else:
            await wait_until(lambda: len(inside) == len(HEALTHY), timeout=PATIENCE)

    services = {"Desk": desk(Journal(journal), meanwhile)}
    async with (
        msgspec.convert(post, Post).open() as store,
        df.Runtime(store, services=services, lease_ttl=TTL) as runtime,
    ):

        async def poison() -> None:
            await runtime.runner(deadly(method)).run(execution_id=POISON)

        async def healthy() -> None:
            await asyncio.gather(*[runtime.runner(WORK).run(execution_id=name) for name in HEALTHY])

        if first:
            dying = asyncio.ensure_future(poison())
            await begun.wait()
            await asyncio.gather(dying, healthy())
        working = asyncio.ensure_future(healthy())
        await wait_until(lambda: len(inside) == len(HEALTHY), timeout=PATIENCE)
        await asyncio.gather(poison(), working)


async def work(*, post: dict[str, Any], journal: str) -> None:
    async def meanwhile(called: str, context: df.StepContext) -> None:
        if called == "work":
            await df.SystemClock().sleep(0.05)  # so that they are in a call when the poison is

    place = msgspec.convert(post, Post)
    options: dict[str, Any] = {"lease_ttl": TTL, "max_recoveries": MAX_RECOVERIES}
    async with (
        place.open() as store,
        df.Runtime(store, services={"Desk": desk(Journal(journal), meanwhile)}, **options) as runtime,
    ):
        await df.Worker(runtime).run()


# -- the cases --------------------------------------------------------------------------------------------------------


async def supervised(crew: Crew, post: Post, notes: Journal, hands: list[Any], *names: str) -> list[int]:
    """Starts a worker, and another one whenever it dies, until these executions are over. How the workers ended."""
    deaths: list[int] = []
    worker = await crew.start(work, name="worker", post=post.given, journal=str(notes.path))
    hands.append(worker)
    async with post.open() as store:

        async def over() -> bool:
            nonlocal worker
            if not worker.running:
                deaths.append(await worker.ended())
                worker = await crew.start(work, name="worker", post=post.given, journal=str(notes.path))
                hands.append(worker)
            found = [await store.row(name) for name in names]
            return all(row is not None and df.Status(row.status).over for row in found)

        await wait_until(over, timeout=PATIENCE)
    return deaths


async def all_healthy(store: df.Store) -> None:
    for name in HEALTHY:
        done = await store.load(name)
        assert done is not None
        assert (done.status, done.result) == ("completed", ["done", "done"]), f"{name} is {done.status}: {done.error}"


async def one_poison(crew: Crew, store: str, method: str, first: bool) -> None:
    what = f"{store}, a step that {method}, {'older' if first else 'younger'} than the others"
    async with scene(store, crew.folder) as (post, notes), crew.watched(what) as hands:
        given: dict[str, Any] = {"journal": str(notes.path), "post": post.given, "method": method, "first": first}
        starter: Hand = await crew.start(begin, name="who begins it", **given)
        hands.append(starter)
        assert await starter.ended() == DEATHS[method][1]
        deaths = await supervised(crew, post, notes, hands, POISON, *HEALTHY)
        assert deaths == [DEATHS[method][1]] * MAX_RECOVERIES, f"workers ended with {deaths}"
        calls = [line for line in notes.lines("effect") if line["execution"] == POISON and line["path"] == "die"]
        assert len(calls) == 1 + MAX_RECOVERIES, f"{len(calls)} starts"
        assert len({line["key"] for line in calls}) == 1
        async with post.open() as looking:
            await all_healthy(looking)
            (found,) = await looking.find(workflow_id="deadly")
            assert (found.id, found.status) == (POISON, "failed")
            assert found.error is not None
            assert found.error.startswith("Poisoned: "), found.error
            steps = [entry.path for entry in await looking.entries(POISON) if entry.action is df.Action.COMPLETED]
            assert steps == ["fine"]


# -- rows that nobody can read ----------------------------------------------------------------------------------------

DEEP = "[" * 10_000 + "]" * 10_000
BROKEN: dict[str, dict[str, Any]] = {
    "garbage": {"root": b"\x00\xfe\x80 garbage"},
    "half": {"root": '{"at":"work","sta'},
    "deep": {"root": f'{{"at":"work","memo":{{"x":{DEEP}}}}}'},
    "deep-header": {"info": DEEP},
    "unknown-state": {"root": '{"at":"work","state":"entangled"}'},
    "wrong-types": {"root": '{"at":5,"tries":"many"}', "info": "[1,2]"},
}
"""What stands in a row instead of what belongs there: by a bug, or by a version that is still to come."""


async def damage(store: df.Store, name: str, broken: dict[str, Any]) -> None:
    """Writes to the row what the engine would not."""
    claimed = await store.claim(name, owner="vandal", ttl=30.0, statuses=("running",))
    assert isinstance(claimed, Stored)
    row = claimed.row
    await store.commit(
        Commit(**{
            "execution_id": name, "owner": "vandal", "generation": row.generation, "version": row.version,
            "nonce": "x", "seq": row.seq, "status": row.status, "current_step": row.current_step,
            "updated_at": row.updated_at, "root": row.root, "release": True, **broken,
        })
    )  # fmt: skip


async def broken_rows(crew: Crew, store: str) -> None:
    async with scene(store, crew.folder) as (post, notes), crew.watched(f"{store}, rows that are damaged") as hands:
        await leave(post, WORK, [*BROKEN, *HEALTHY])
        async with post.open() as looking:
            for name, broken in BROKEN.items():
                await damage(looking, name, broken)
            before = {name: await blobs(looking, name) for name in BROKEN}
            assert await supervised(crew, post, notes, hands, *HEALTHY) == [], "a worker died"
            await all_healthy(looking)
            found = {execution.id: execution.status for execution in await looking.find(workflow_id="work")}
            assert found == dict.fromkeys(BROKEN, "running") | dict.fromkeys(HEALTHY, "completed")
            assert not [line for line in notes.lines("effect") if line["execution"] in BROKEN], "a broken row ran"
            assert {name: await blobs(looking, name) for name in BROKEN} == before, "a broken row was written"


async def blobs(store: df.Store, name: str) -> tuple[Any, ...]:
    """What stands in a row, apart from its lease."""
    row = await store.row(name)
    assert row is not None
    return row.version, row.status, row.root, row.info


def verify(store: str, poisons: list[tuple[str, bool]]) -> int:
    with tempfile.TemporaryDirectory(prefix="durable-flow-") as folder:

        async def main() -> int:
            async with Crew(Path(folder)) as crew:
                cases = [one_poison(crew, store, method, first) for method, first in poisons]
                return len(await all_of([*cases, broken_rows(crew, store)])) + len(BROKEN) - 1

        return asyncio.run(main())


def cases(full: bool) -> Iterable[Case]:
    poisons = [(method, first) for method in DEATHS for first in (True, False)]
    for store in STORES:
        some = poisons if full else poisons[::2] if store == "sqlite" else poisons[-1:]
        yield Case(f"{store}: steps that kill, and rows that are damaged", partial(verify, store, some))


TABLE = Table("what kills its process is given up, what cannot be read is left; both keep nobody from going on", cases)
