"""Where the cases play: a store in memory, a service that takes notes, and processes that end or die."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

import durable_flow as df
from durable_flow.testing import FakeClock
from tests.engine.aid import Dead, Desk, Ids, Wire, idle

LEASE = 31.0
"""Seconds after which the lease of a dead process has run out."""


def document(id: str, steps: Iterable[Mapping[str, Any]], **keys: Any) -> dict[str, Any]:
    return {"id": id, "name": id, **keys, "steps": [dict(step) for step in steps]}


class Stage:
    """One store and what works with it. `workflows` and `options` are those of every process that is started."""

    def __init__(self, store: df.Store, clock: FakeClock, workflows: Iterable[Any], **options: Any) -> None:
        self.store = store
        self.clock = clock
        self.workflows = [
            workflow if isinstance(workflow, df.WorkflowDef) else df.load(workflow) for workflow in workflows
        ]
        self.options = options
        self.desk = Desk()
        self.ids = Ids()
        self.tasks: list[asyncio.Task[Any]] = []
        self.wire: Wire
        self.runtime: df.Runtime

    async def begin(self) -> None:
        self.wire = Wire(self.store)
        given: dict[str, Any] = {"services": {"desk": self.desk}, "grace": 0.0, "ids": self.ids, **self.options}
        self.runtime = df.Runtime(self.wire, workflows=self.workflows, clock=self.clock, **given)
        await self.runtime.__aenter__()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        for task in self.tasks:
            with suppress(BaseException):
                await task
        self.tasks.clear()
        with suppress(Dead):
            await self.runtime.close()

    async def restart(self) -> None:
        await self.end()
        await self.begin()

    def die(self) -> Dead:
        """From now on nothing this process does has an effect; gives what to raise."""
        self.wire.cut = True
        return Dead()

    async def take_over(self) -> None:
        """Another process begins when the lease of the dead one has run out."""
        await self.end()
        self.clock.jump(LEASE)
        await self.begin()

    def runner(self, workflow: str = "flow") -> df.Runner:
        return self.runtime.runner(workflow)

    def spawn(self, call: Any) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(call)
        self.tasks.append(task)
        return task

    def dump(self) -> str:
        """A hash of everything that is stored: trail, inboxes, waits, votes and leases included."""
        database = self.store._inline.connection.database  # type: ignore[attr-defined]
        return hashlib.sha256("\n".join(database.iterdump()).encode("utf-8", "surrogatepass")).hexdigest()

    async def untouched(self, refused: type[Exception], call: Callable[[], Any]) -> None:
        """The call raises exactly this, and nothing is stored that was not stored before."""
        before = self.dump()
        with pytest.raises(refused) as caught:
            await call()
        assert caught.type is refused, f"raised {caught.value!r}"
        assert self.dump() == before, "a refused call changed what is stored"

    @property
    def effects(self) -> Counter[str]:
        """How often each effect happened, by its idempotency key."""
        return Counter(context.idempotency_key for context in self.desk.contexts)

    async def finished_calls(self) -> set[str]:
        """The idempotency keys of calls whose end is durable."""
        return {
            f"{name}:{entry.path}"
            for name in await self.store.execution_ids(limit=10_000)
            for entry in await self.store.entries(name)
            if entry.step_type == "call" and entry.action == df.Action.COMPLETED
        }


@asynccontextmanager
async def stage(
    clock: FakeClock, *workflows: Any, url: str = "sqlite://:memory:", **options: Any
) -> AsyncIterator[Stage]:
    async with df.open_store(url) as store:
        made = Stage(store, clock, workflows, **options)
        await made.begin()
        try:
            yield made
        finally:
            await made.end()


__all__ = ["LEASE", "Dead", "Desk", "Stage", "document", "idle", "stage"]
