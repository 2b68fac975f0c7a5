"""Where the cases of a crash test are played: event loops, and for each case a store with nothing in it."""

from __future__ import annotations

import asyncio
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from durable_flow import ConfigError, Store, open_store
from durable_flow.testing.clock import FakeClock, SkippingLoop, apart_from_here, run

T = TypeVar("T")

MEMORY = "sqlite://:memory:"
FILE = "sqlite:///{folder}/flows.db"

CENTURY = 3_153_600_000.0
"""Seconds after which no lease of a test is left."""


class Ground(ABC):
    """What the cases of a scenario are played on. `name` is what reports call it, `inline` says that its stores answer
    at once (they have no threads and no connections)."""

    name: str
    inline: bool = False

    @abstractmethod
    def play(self, main: Callable[[], Coroutine[Any, Any, T]], clock: FakeClock) -> T:
        """Runs a case in an event loop on which `clock` needs no waiting. It begins with an empty store."""

    @abstractmethod
    async def enter(self, clock: FakeClock) -> Store:
        """An open store for the next process of the case that is played."""

    @abstractmethod
    async def leave(self, *, died: bool) -> None:
        """The process that `enter` was called for last has ended. May be called twice."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will be played."""


class UrlGround(Ground):
    """A store in memory for each case, or a file (`{folder}` in the URL stands for a folder of the case)."""

    def __init__(self, url: str, *, folder: Path | None = None) -> None:
        if url != MEMORY and "{folder}" not in url:
            raise ConfigError(
                f"{url!r} does not name a store for each case: write {{folder}} into it, or give "
                "make=lambda: open_store(…), whose executions are then deleted"
            )
        self.name = self.url = url
        self.inline = url == MEMORY
        self.folder = folder
        self._store: Store | None = None
        self._path = ""

    def play(self, main: Callable[[], Coroutine[Any, Any, T]], clock: FakeClock) -> T:
        if self.inline:
            return run(main, clock)
        with tempfile.TemporaryDirectory(dir=self.folder) as self._path:
            return run(main, clock)

    async def enter(self, clock: FakeClock) -> Store:
        if self._store is None:
            self._store = open_store(self.url.replace("{folder}", self._path))
            self._store.clock = clock
            with clock.held(), apart_from_here():
                await self._store.open()
        return self._store

    async def leave(self, *, died: bool) -> None:
        if self._store is None or (died and self.inline):
            return
        await self._store.close()
        self._store = None

    def close(self) -> None:
        """There is nothing that stays open."""


class KeptGround(Ground):
    """Stores that stay open: connecting to a server takes longer than many a case.

    There are two, on the same data, and the processes of a case take turns with them. Before the first case the data
    must hold no execution; after each all that there are are deleted.
    """

    def __init__(self, make: Callable[[], Store], *, name: str) -> None:
        self.name = name
        self.make = make
        self._stores: list[Store] = []
        self._present: Store | None = None
        self._runner: asyncio.Runner | None = None
        self._clock = FakeClock()

    def play(self, main: Callable[[], Coroutine[Any, Any, T]], clock: FakeClock) -> T:
        async def case() -> T:
            await self._prepare(clock)
            try:
                return await main()
            finally:
                await self._empty(clock)

        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=lambda: SkippingLoop(self._clock))
        loop = self._runner.get_loop()
        assert isinstance(loop, SkippingLoop)
        loop.clock, loop.heedless = clock, True
        return self._runner.run(case())

    async def _prepare(self, clock: FakeClock) -> None:
        with clock.held(), apart_from_here():
            if not self._stores:
                for _ in range(2):
                    store = self.make()
                    await store.open()
                    self._stores.append(store)
                if found := await self._stores[0].execution_ids(limit=1):
                    raise ConfigError(
                        f"{self._stores[0]!r} is in use (there is an execution {found[0]!r}): crash tests delete "
                        "everything, and need a store of their own"
                    )
        for store in self._stores:
            store.clock = clock

    async def _empty(self, clock: FakeClock) -> None:
        """Deletes all executions, by a clock on which nobody drives one any more."""
        later = FakeClock(clock.now() + CENTURY)
        with clock.held(), apart_from_here():
            for store in self._stores:
                store.clock = later
            store = self._stores[0]
            while found := await store.execution_ids():
                for name in found:
                    await store.delete(name)

    async def enter(self, clock: FakeClock) -> Store:
        if self._present is None:
            self._stores.append(self._stores.pop(0))
            self._present = self._stores[0]
        return self._present

    async def leave(self, *, died: bool) -> None:
        self._present = None

    def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is None:
            return

        async def leave() -> None:
            with self._clock.held():
                for store in self._stores:
                    await store.close()
            self._stores.clear()

        loop = runner.get_loop()
        assert isinstance(loop, SkippingLoop)
        loop.clock = self._clock
        with runner:
            runner.run(leave())
