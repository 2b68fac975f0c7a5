"""Schedules, with a fault at every operation of the store: no tick is lost, and none is started twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

import durable_flow as df
from durable_flow.clock import moment
from durable_flow.stores import open_store
from durable_flow.stores.base import Commit, Committed, Store
from tests.engine.aid import START, Clock, Dead, Desk, Ids, Wire, working

FIRST = START - START % 60 + 60

FAULTS = ("dies before", "dies after", "refused", "answer lost")

FLOWS = {
    "allow_all": "{every: 1m, overlap: allow_all, catch_up: all}",
    "skip": "{every: 1m, overlap: skip, catch_up: all}",
    "buffer_one": "{every: 1m, overlap: buffer_one, catch_up: all}",
    "cancel_other": "{every: 1m, overlap: cancel_other, catch_up: all}",
}


def planned(schedule: str, lasts: int) -> df.WorkflowDef:
    return df.load(f"id: flow\nname: Flow\nschedules: [{schedule}]\nsteps: [{{id: nap, type: wait, for: {lasts}s}}]\n")


class Faulty(Wire):
    """The connection of a process that fails at one operation. `created` counts what landed of every process."""

    alone = True

    def __init__(self, store: Store, created: Counter[str], *, point: int = -1, fault: str = "") -> None:
        super().__init__(store)
        self.created = created
        self.point = point
        self.fault = fault
        self.count = 0

    def begins(self) -> str:
        """What goes wrong with the operation that begins now."""
        if self.cut:
            raise Dead
        self.count += 1
        fault = self.fault if self.count == self.point else ""
        if fault == "dies before":
            self.cut = True
            raise Dead
        if fault == "refused":
            raise df.StoreUnavailable("injected: not done")
        return fault

    def ends(self, fault: str) -> None:
        if fault == "dies after":
            self.cut = True
            raise Dead
        if fault == "answer lost":
            raise df.StoreUnavailable("injected: done, and the answer is lost")

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        try:
            fault = self.begins()
            done = self.store.commit(commit)
            if commit.new is not None and done.exception() is None:
                self.created[commit.execution_id] += 1
            self.ends(fault)
            return done
        except df.StoreUnavailable as error:
            future.set_exception(error)
        return future


def _through(verb: str) -> Any:
    async def passed(self: Faulty, *arguments: Any, **keywords: Any) -> Any:
        fault = self.begins()
        result = await getattr(self.store, verb)(*arguments, **keywords)
        self.ends(fault)
        return result

    return passed


VERBS = ("append", "claim", "take", "next_due", "row", "fetch", "mark", "schedules", "definition", "release", "renew")
for name in VERBS:
    setattr(Faulty, name, _through(name))


class Scene:
    """A store, and one process after the other that works on it."""

    def __init__(self, store: Store, clock: Clock, workflow: df.WorkflowDef) -> None:
        self.store = store
        self.clock = clock
        self.workflow = workflow
        self.created: Counter[str] = Counter()
        self.ids = Ids()
        self.operations = 0

    def runtime(self, wire: Wire) -> df.Runtime:
        return df.Runtime(
            wire, workflows=[self.workflow], clock=self.clock, ids=self.ids, grace=0.0, services={"desk": Desk()}
        )

    async def play(self, until: float, *, point: int = -1, fault: str = "") -> None:
        """Lets workers work until a time, deleting what is over, and what one leaves that dies. The first of them meets
        with a fault."""
        while self.clock.now() < until:
            wire = Faulty(self.store, self.created, point=point, fault=fault)
            point = -1
            runtime = self.runtime(wire)
            await runtime.__aenter__()
            task = asyncio.get_running_loop().create_task(df.Worker(runtime).run())
            while self.clock.now() < until and not wire.cut:
                await self.clock.advance(min(15.0, until - self.clock.now()))
                for execution in await self.store.find(status=["completed", "cancelled"]):
                    await self.store.delete(execution.id)
            self.operations = max(self.operations, wire.count)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
            with suppress(Dead):
                await runtime.close()
            if wire.cut:
                # What a process that died has left is deleted, before the next one looks at anything: that a tick was
                # started must be known from something else.
                await self.clock.advance(31)
                for name in await self.store.execution_ids():
                    await self.store.delete(name)

    def ticks(self) -> list[str]:
        return sorted(name.removeprefix("flow:default:") for name in self.created)


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[Store]:
    async with open_store("sqlite://:memory:") as opened:
        opened.clock = clock
        yield opened


async def played(workflow: df.WorkflowDef, minutes: float, **fault: Any) -> Scene:
    clock = Clock()
    async with open_store("sqlite://:memory:") as store:
        store.clock = clock
        scene = Scene(store, clock, workflow)
        await scene.play(START + 1)  # the schedule is known
        await scene.play(FIRST + minutes * 60 + 5, **fault)
        await scene.play(clock.now() + 1)  # where the first died at the end, another one comes
        return scene


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_crash_at_any_point_loses_no_tick_and_starts_none_twice(fault: str) -> None:
    """Every tick is there, as nothing keeps any from starting."""
    workflow = planned(FLOWS["allow_all"], lasts=20)
    reference = await played(workflow, 4)
    every = [moment(FIRST + 60 * number).isoformat().replace("+00:00", "Z") for number in range(5)]
    assert reference.ticks() == every
    assert reference.operations > 30
    for point in range(1, reference.operations + 1):
        scene = await played(workflow, 4, point=point, fault=fault)
        assert scene.ticks() == every, f"point {point}"
        assert set(scene.created.values()) == {1}, f"point {point}"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("overlap", ["skip", "buffer_one", "cancel_other"])
async def test_a_crash_at_any_point_leaves_one_at_a_time_and_goes_on(overlap: str, fault: str) -> None:
    """What waits for another execution is started when that is over, whatever died when; and ticks go on."""
    workflow = planned(FLOWS[overlap], lasts=70)
    reference = await played(workflow, 4)
    assert len(reference.ticks()) >= 2
    for point in range(1, reference.operations + 1):
        scene = await played(workflow, 9, point=point, fault=fault)
        assert set(scene.created.values()) == {1}, f"point {point}"
        last = max(scene.ticks())
        assert last >= moment(FIRST + 60 * 6).isoformat().replace("+00:00", "Z"), f"point {point}: {scene.ticks()}"


class Stalling(Faulty):
    """The connection of a process that stands still as it starts a tick, until it is let go."""

    def __init__(self, store: Store, created: Counter[str]) -> None:
        super().__init__(store, created)
        self.go = asyncio.Event()
        self.stalled = False

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        if commit.mark is None or self.stalled:
            return super().commit(commit)
        self.stalled = True

        async def later() -> Committed:
            await self.go.wait()
            return await Faulty.commit(self, commit)

        return asyncio.ensure_future(later())


async def test_a_worker_that_stood_still_starts_nothing_again(store: Store, clock: Clock) -> None:
    scene = Scene(store, clock, planned(FLOWS["allow_all"], lasts=1))
    slow = Stalling(store, scene.created)
    async with scene.runtime(slow) as late, working(late):
        await clock.advance(FIRST - START + 1)
        assert slow.stalled
        await scene.play(FIRST + 10 * 60 + 5)
        assert await store.execution_ids() == []
        before = dict(scene.created)
        slow.go.set()
        await clock.advance(5)
        assert dict(scene.created) == before
    assert len(scene.created) == 11
    assert set(scene.created.values()) == {1}
