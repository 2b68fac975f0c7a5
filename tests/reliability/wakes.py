"""No wake-up is lost for good: what nobody was told of is found by looking, within one interval of the backstop.

Half of the waiters are in another process than what they wait for: they follow executions to their end. The others
want an execution cancelled that another process drives, which has to notice. What stores tell each other is kept back:
all of it, half of it, or said twice; or the connection it comes by is killed, or there in name only.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import durable_flow as df
from durable_flow.engine import BACKSTOP
from durable_flow.testing import FakeClock, wait_until
from tests.crash import suite
from tests.engine.aid import Far
from tests.reliability.stage import document
from tests.reliability.table import Case, Table, fake_time
from tests.servers.provide import provided
from tests.servers.proxy import Proxy

FIGURES: list[str] = []

SLACK = 1.0
"""Seconds of real time that everything else may take, on a machine that has other things to do."""

WORK = df.load(
    document(
        "work",
        [{"id": "hold", "type": "call", "service": "desk", "method": "hold", "output": "result"}],
    )
)

Told = Callable[[str], object]
Filter = Callable[[Told], Told]
"""Makes of what a store says to an engine what arrives there."""


def everything(told: Told) -> Told:
    return told


def nothing(told: Told) -> Told:
    return lambda execution_id: None


def half(told: Told) -> Told:
    rng = random.Random(26)
    return lambda execution_id: told(execution_id) if rng.random() < 0.5 else None


def twice(told: Told) -> Told:
    return lambda execution_id: (told(execution_id), told(execution_id))


class Desk:
    """A service that lets nobody go before the gate opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.inside = 0

    async def hold(self) -> str:
        self.inside += 1
        await self.gate.wait()
        return "done"


Until = Callable[[Callable[[], bool]], Awaitable[object]]


async def wait_for_them(
    near: df.Runtime, far: df.Runtime, desk: Desk, count: int, now: Callable[[], float], until: Until
) -> tuple[float, float]:
    """`count` waiters in the far process; after how many seconds the last follower and the last canceller went on."""
    names = [f"e{number}" for number in range(count)]
    runs = [asyncio.ensure_future(near.runner(WORK).run(execution_id=name)) for name in names]
    await until(lambda: desk.inside == count)
    went_on: list[str] = []

    async def follow(name: str) -> None:
        result = await far.runner(WORK).run(execution_id=name)
        assert result.output == "done", result
        went_on.append(name)

    async def cancel(name: str) -> None:
        result = await far.runner(WORK).cancel(name)
        assert result.cancelled, result
        went_on.append(name)

    following = [asyncio.ensure_future(follow(name)) for name in names[::2]]
    await until(lambda: len(far.engine._followed) == len(following))
    began = now()
    await asyncio.gather(*[cancel(name) for name in names[1::2]])
    cancelled = now() - began
    desk.gate.set()
    await asyncio.gather(*runs[::2])
    began = now()  # from when all have ended
    await asyncio.gather(*following)
    followed = now() - began
    await asyncio.gather(*runs)
    assert sorted(went_on) == sorted(names)
    return followed, cancelled


def judged(what: str, count: int, took: tuple[float, float], slack: float) -> None:
    """One look finds the end of an execution; its owner needs one to notice a cancellation, and its caller another."""
    followed, cancelled = took
    FIGURES.append(
        f"{what}: {count:,} waiters went on, followers within {followed:.2f} s, cancellers within {cancelled:.2f} s"
    )
    assert followed <= BACKSTOP + slack, f"the last of {count // 2} followers went on after {followed:.2f} s"
    assert cancelled <= 2 * BACKSTOP + slack, f"the last of {count // 2} cancellers went on after {cancelled:.2f} s"


# -- in memory, by a clock that is exact ------------------------------------------------------------------------------


def in_memory(filter: Filter, count: int, what: str) -> Callable[[], int]:
    async def check(clock: FakeClock) -> None:
        desk = Desk()
        store = df.open_store("sqlite://:memory:")
        store.clock = clock
        async with store:
            wires = [Far(store), Far(store)]
            for wire, other in zip(wires, reversed(wires), strict=True):
                wire.watchers.append(lambda verb: None)
                tell_others(wire, filter(other.heard))
            runtimes = [
                df.Runtime(wire, workflows=[WORK], services={"desk": desk}, clock=clock, grace=0.0) for wire in wires
            ]
            async with runtimes[0] as near, runtimes[1] as far:

                async def until(condition: Callable[[], bool]) -> None:
                    while not condition():
                        await clock.sleep(0.01)

                took = await wait_for_them(near, far, desk, count, clock.monotonic, until)
        judged(f"in memory, {what}", count, took, 0.1)

    def verify() -> int:
        fake_time(check)()
        return count

    return verify


def tell_others(wire: Far, told: Told) -> None:
    """What a store tells others of: messages, and executions that have ended."""
    append, commit = wire.append, wire.commit

    async def appended(message: Any, body: Any) -> Any:
        outcome = await append(message, body)
        told(message.execution_id)
        return outcome

    def committed(given: Any) -> Any:
        landing = commit(given)
        if given.status in ("halted", "completed", "failed", "cancelled"):
            landing.add_done_callback(lambda _: told(given.execution_id))
        return landing

    wire.append, wire.commit = appended, committed  # type: ignore[method-assign]


def filter_heard(store: df.Store, filter: Filter) -> None:
    """What the store hears of other processes goes through a filter."""
    heard = store.heard
    told = filter(heard)

    def hear(execution_id: str, *, but: Any = None) -> None:
        if but is None:
            told(execution_id)
        else:
            heard(execution_id, but=but)

    store.heard = hear  # type: ignore[method-assign]


# -- on servers -------------------------------------------------------------------------------------------------------


class Listener:
    """Notices on which connection of a proxy somebody listens."""

    def __init__(self) -> None:
        self.listens = False

    def __call__(self, piece: bytes) -> int:
        self.listens = self.listens or b"LISTEN" in piece or b"SUBSCRIBE" in piece
        return 0


Break = Callable[[Proxy], None]


def listening(proxy: Proxy) -> list[Any]:
    found = [link for link in proxy._links if link._counter.listens]
    assert found, "nobody listens"
    return found


def intact(proxy: Proxy) -> None:
    return None


def cut(proxy: Proxy) -> None:
    """The connection is reset, and so is each that is made instead."""
    for link in listening(proxy):
        link.cut()


def half_open(proxy: Proxy) -> None:
    """Nothing arrives by it any more, and nobody says so."""

    async def never() -> None:
        await asyncio.Event().wait()

    for link in listening(proxy):
        link._on_the_way = never


@asynccontextmanager
async def two_processes(url: str, options: dict[str, Any], filter: Filter) -> AsyncIterator[tuple[Any, ...]]:
    desk = Desk()
    async with Proxy.to(url, counting=Listener) as proxy:
        stores = [df.open_store(proxy.url(url), **options) for _ in range(2)]
        for store in stores:
            filter_heard(store, filter)
        async with stores[0], stores[1]:
            runtimes = [df.Runtime(store, workflows=[WORK], services={"desk": desk}) for store in stores]
            async with runtimes[0] as near, runtimes[1] as far:
                yield proxy, near, far, desk


async def on_server(url: str, options: dict[str, Any], filter: Filter, broken: Break, count: int, what: str) -> None:
    async with two_processes(url, options, filter) as (proxy, near, far, desk):
        await wait_until(lambda: all(runtime.store.wakes for runtime in (near, far)))
        broken(proxy)
        loop = asyncio.get_running_loop()
        until = partial(wait_until, timeout=30)
        took = await asyncio.wait_for(wait_for_them(near, far, desk, count, loop.time, until), 60)
    judged(what, count, took, SLACK)


TROUBLES: dict[str, tuple[Filter, Break]] = {
    "nothing is lost": (everything, intact),
    "all is lost": (nothing, intact),
    "half is lost": (half, intact),
    "all is said twice": (twice, intact),
    "the listening connection is cut": (everything, cut),
    "the listening connection is half-open": (everything, half_open),
}


def served(store: str, troubles: Iterable[str], count: int) -> int:
    tried = 0
    with provided(suite.SERVERS[store]) as url:
        for what in troubles:
            space = f"crash_{secrets.token_hex(6)}"
            options = {"schema": space} if store == "postgresql" else {"prefix": space}
            try:
                asyncio.run(on_server(url, options, *TROUBLES[what], count, f"{store}, {what}"))
                tried += count
            finally:
                suite.clear(store, suite.Place(url, space))
    return tried


def cases(full: bool) -> Iterable[Case]:
    for what in ("nothing is lost", "all is lost", "half is lost", "all is said twice"):
        yield Case(f"in memory, {what}", in_memory(TROUBLES[what][0], 1000 if full else 50, what))
    for store in suite.SERVERS:
        troubles = TROUBLES if full else ("all is lost", "the listening connection is half-open")
        yield Case(f"{store}: hints get lost", partial(served, store, troubles, 250 if full else 20))


TABLE = Table("who waits goes on, also when a wake-up is lost", cases, FIGURES)
