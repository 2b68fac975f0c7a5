"""A process whose clock is ahead of the time by which the store judges."""

from collections.abc import Callable
from typing import Any

import durable_flow as df
from durable_flow.testing import FakeClock, Gate, Point, Reply, Scripted, WatchedStore, run

AHEAD = 10.0


class AheadClock:
    """A clock that shows too much."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def now(self) -> float:
        return self.clock.now() + AHEAD

    def monotonic(self) -> float:
        return self.clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self.clock.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Any:
        return self.clock.call_later(seconds, callback)


class Bounded(Gate):
    """Lets so many operations pass."""

    def enter(self, kind: str, name: str, where: str) -> Point:
        assert len(self.points) < 200, "it goes round in circles"
        return super().enter(kind, name, where)


def played(clock: FakeClock, main: Callable[[df.Runtime], Any], workflow: df.WorkflowDef, **services: Any) -> Any:
    """What `main` gives with a runtime that is ahead of its store."""

    async def whole() -> Any:
        inner = df.open_store("sqlite://:memory:")
        async with inner:
            inner.clock = clock
            store = WatchedStore(inner, gate=Bounded({}), watch=None, clock=clock, inline=True)
            async with df.Runtime(store, workflows=[workflow], services=services, clock=AheadClock(clock)) as runtime:
                return await main(runtime)

    return run(whole, clock)


def flow(*steps: Any) -> df.WorkflowDef:
    return df.load({"id": "flow", "name": "flow", "steps": list(steps)})


HALT = {"id": "short", "type": "halt", "timeout": 2, "on_timeout": "tell", "next": "tell"}
TELL = {"id": "tell", "type": "call", "service": "Desk", "method": "tell"}


def test_a_wait_times_out_when_the_store_agrees_also_beside_a_branch_that_works() -> None:
    clock = FakeClock()
    began = clock.now()
    told: list[float] = []
    desk = Scripted(clock, work=Reply("done", takes=60), tell=lambda given: told.append(clock.now() - began))
    work = {"id": "busy", "type": "call", "service": "Desk", "method": "work"}
    branches = {"id": "both", "type": "parallel", "branches": [{"id": "nobody", "do": [HALT, TELL]}, work]}
    result = played(clock, lambda runtime: runtime.runner("flow").run(), flow(branches), Desk=desk)
    assert result.completed
    assert AHEAD + 2 <= told[0] < AHEAD + 5  # the deadline was reckoned by the clock that is ahead


def test_who_follows_what_waits_does_not_go_round_in_circles_until_the_store_agrees() -> None:
    clock = FakeClock()
    desk = Scripted(clock, tell="told")

    async def main(runtime: df.Runtime) -> None:
        runner = runtime.runner("flow")
        assert (await runner.run(execution_id="x")).halted
        clock.jump(5)  # the deadline has passed by the clock of the process, and not by that of the store
        assert (await runner.run(execution_id="x")).halted
        clock.jump(20)
        assert (await runner.run(execution_id="x")).completed

    played(clock, main, flow(HALT, TELL), Desk=desk)
