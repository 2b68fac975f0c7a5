"""`Process`: one of several on a store, which does nothing before it is told to.

Whatever it wants to do outside (an operation on the store, a call of a service, what a timer or a wake-up sets going)
waits as an `Item` until a scheduler lets it happen.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio.lowlevel

from durable_flow import Message, Runtime, Store
from durable_flow.testing.clock import FakeClock
from durable_flow.testing.ids import CountedIds
from durable_flow.testing.ledger import Lanes, Ledger
from durable_flow.testing.points import READS, Gate, Point
from durable_flow.testing.scenario import Scenario
from durable_flow.testing.services import Door
from durable_flow.testing.store import WatchedStore, about, at_once

if TYPE_CHECKING:
    from durable_flow.stores.base import Appended, Blob, Commit, Committed

T = TypeVar("T")

LOOKS = READS | {"next_due"}
"""The operations of a store after which everything is as it was."""


class Item:
    """Something a process wants to do: `act` does it, when it stands in the `line`. One called off is `dropped`."""

    __slots__ = ("act", "dropped", "kind", "line", "name", "where")

    def __init__(self, line: list[Item], kind: str, name: str, where: str, act: Callable[[], None]) -> None:
        self.line = line
        self.kind = kind
        self.name = name
        self.where = where
        self.act = act
        self.dropped = False

    def cancel(self) -> None:
        """It need not happen any more."""
        self.dropped = True
        if self in self.line:
            self.line.remove(self)

    def __str__(self) -> str:
        return f"{self.kind:6} {self.name:10} {self.where}".rstrip()


class Listener(Protocol):
    """Who is told what processes do."""

    def operated(self, process: Process, verb: str, about: str, outcome: object) -> None:
        """An operation that may change something was done. Raised exceptions are outcomes, too."""

    def committed(self, process: Process, commit: Commit, outcome: object) -> None:
        """A commit landed, or was refused."""

    def appended(self, process: Process, message: Message, outcome: Appended) -> None:
        """A message arrived, or was refused."""

    def notify(self, process: Process, execution_id: str) -> None:
        """The process says that something happened to an execution."""


class ProcessClock:
    """The clock of one process: the time of the world, and how far it is off. Its timers go off when their time has
    come and the process moves."""

    def __init__(self, world: FakeClock) -> None:
        self.world = world
        self.off = 0.0
        self.items: list[Item] = []
        self._timers: list[tuple[float, int, Item]] = []
        self._made = 0

    def now(self) -> float:
        """Wall-clock seconds since the epoch, as this process believes."""
        return self.world.now() + self.off

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return self.world.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Returns after so many seconds."""
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        over = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: None if over.done() else over.set_result(None))
        try:
            await over
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Item:
        """Calls back after so many seconds."""
        self._made += 1
        item = Item(self.items, "timer", "", "", lambda: _call(callback))
        if seconds <= 0:
            self.items.append(item)
        else:
            heapq.heappush(self._timers, (self.monotonic() + seconds, self._made, item))
        return item

    def ring(self) -> None:
        """Time has passed: what is due by now waits for the process to move."""
        now = self.monotonic()
        while self._timers and self._timers[0][0] <= now:
            item = heapq.heappop(self._timers)[2]
            if not item.dropped:
                self.items.append(item)

    def forget(self) -> None:
        """Calls everything off."""
        self._timers.clear()
        self.items.clear()

    @property
    def sleeping(self) -> list[float]:
        """In how many seconds its timers will go off."""
        return [when - self.monotonic() for when, _, item in sorted(self._timers)[:5] if not item.dropped]


class Turnstile(Gate):
    """A gate at which every call of a service waits twice: before it happens, and with its answer."""

    def __init__(self, process: Process) -> None:
        super().__init__({}, clock=process.clock)
        self.process = process

    def enter(self, kind: str, name: str, where: str) -> Point:
        """The operation that is about to happen. Raises Killed where the process is dead."""
        self.check()
        return Point(0, kind, name, where)

    async def before(self, point: Point) -> None:
        name = point.where.rpartition(":")[0]
        token = self.process.tokens.get(name)
        await self.process.wait_for_turn(point.kind, point.name, point.where)
        self.process.token = token

    async def after(self, point: Point) -> None:
        self.check()
        await self.process.wait_for_turn("answer", point.name, point.where)


class ParkedStore(WatchedStore):
    """A store of one process, on which every operation waits for its turn. The inner one answers at once."""

    def __init__(self, inner: Store, process: Process, listener: Listener) -> None:
        super().__init__(inner, gate=process.gate, watch=None, clock=process.world, inline=True)
        self.process = process
        self.listener = listener

    def heard(self, execution_id: str, *, but: Callable[[str], object] | None = None) -> None:
        super().heard(execution_id, but=but)
        self.listener.notify(self.process, execution_id)

    async def _pass(self, name: str, where: str, work: Callable[[], Awaitable[T]]) -> T:
        self.gate.check()
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        asked = self.fake.monotonic()

        def act() -> None:
            outcome = _outcome(work())
            if name == "renew":
                self.process.renewed = asked
            if name not in LOOKS:
                self.listener.operated(self.process, name, where, outcome)
            _tell(answer, outcome)

        item = self.process.park("store", name, where, act)
        try:
            return await answer
        finally:
            if name in LOOKS:
                item.cancel()  # a change that was asked for may happen also where nobody waits for it any more

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        self.gate.check()
        answer: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()

        def act() -> None:
            outcome = _outcome(_result(self.inner.commit(commit)))
            self.listener.committed(self.process, commit, outcome)
            _tell(answer, outcome)

        self.process.park("store", "commit", about(commit), act)
        return answer

    async def append(self, message: Message, body: Blob) -> Appended:
        async def append() -> Appended:
            appended = await self.inner.append(message, body)
            self.listener.appended(self.process, message, appended)
            return appended

        return await self._pass("append", f"{message.execution_id} {message.kind}", append)


def _call(callback: Callable[[], object]) -> None:
    callback()


async def _result(future: asyncio.Future[T]) -> T:
    return await future


def _outcome(work: Awaitable[T]) -> T | Exception:
    assert isinstance(work, Coroutine)
    done: Coroutine[Any, Any, T] = work
    try:
        return at_once(done)
    except Exception as error:
        return error


def _tell(answer: asyncio.Future[T], outcome: T | Exception) -> None:
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


class Process:
    """A process of the name A, B or C, on the same store as others. `life` is a number that no other one has."""

    def __init__(
        self,
        name: str,
        life: int,
        scenario: Scenario,
        *,
        world: FakeClock,
        inner: Store,
        listener: Listener,
        ledger: Ledger,
        lanes: Lanes,
        services: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.life = life
        self.world = world
        self.clock = ProcessClock(world)
        self.gate = Turnstile(self)
        self.store = ParkedStore(inner, self, listener)
        self.tokens: dict[str, int] = {}
        """The generation of the lease this process was given last, by execution."""
        self.token: int | None = None
        """The one under which it began what it does at this moment."""
        self.renewed = world.monotonic()
        """When it asked for the renewal of its leases that was granted last."""
        self.unsure = False
        """Whether it may have given up leases that it had: it could not renew them for so long."""
        self.stalled = False
        self.leaving = False
        self.driver: asyncio.Task[Any] | None = None
        self.tasks: list[asyncio.Task[Any]] = []
        self.runtime = Runtime(
            self.store,
            workflows=[scenario.workflow, *scenario.others],
            services={
                name: Door(name, service, gate=self.gate, ledger=ledger, lanes=lanes, clock=world, life=life)
                for name, service in services.items()
            },
            clock=self.clock,
            ids=CountedIds(f"{name}{life}"),
            **options,
        )
        self.owner = self.runtime.engine.owner

    @property
    def alive(self) -> bool:
        """Whether it is neither dead nor gone."""
        return not self.gate.dead

    @property
    def ready(self) -> Sequence[Item]:
        """What it wants to do next, in the order in which it came about."""
        return self.clock.items

    @property
    def able(self) -> bool:
        """Whether it can move."""
        return not self.gate.dead and not self.stalled and bool(self.clock.items)

    def park(self, kind: str, name: str, where: str, act: Callable[[], None]) -> Item:
        """Something is to be done when the process moves."""
        item = Item(self.clock.items, kind, name, where, act)
        self.clock.items.append(item)
        return item

    async def wait_for_turn(self, kind: str, name: str, where: str) -> None:
        """Returns when the process moves on from here."""
        over = asyncio.get_running_loop().create_future()
        item = self.park(kind, name, where, lambda: None if over.done() else over.set_result(None))
        try:
            await over
        finally:
            item.cancel()
        self.gate.check()

    def hear(self, execution_id: str) -> None:
        """A wake-up is on its way here; one for the same execution stands for all."""
        if self.alive and not any(item.kind == "heard" and item.where == execution_id for item in self.ready):
            self.park("heard", "wake-up", execution_id, lambda: Store.heard(self.store, execution_id))

    def ring(self, patience: float) -> None:
        """Time has passed. Who could not renew its leases for so many seconds gives them up."""
        self.clock.ring()
        self.unsure |= self.world.monotonic() - self.renewed >= patience

    def die(self) -> None:
        """From now on nothing it does has an effect."""
        self.gate.dead = True
        self.clock.forget()
