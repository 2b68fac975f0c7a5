"""What is written, and who writes it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple


class Entry(NamedTuple):
    """A transition of an execution: its number, its body, and the status that it leaves."""

    execution: int
    seq: int
    body: str
    status: str


class Journal(ABC):
    """Puts entries, and the last seq and status of every execution, where a power cut does not reach them."""

    @abstractmethod
    def put(self, entry: Entry) -> asyncio.Future[None]:
        """A future that is done when the entry would survive."""

    @abstractmethod
    async def close(self) -> None: ...


class LoopJournal(Journal):
    """A journal whose writer is a task: it writes all that wait, then whoever waits for them goes on."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._futures: list[asyncio.Future[None]] = []
        self._wanted = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._main())

    def put(self, entry: Entry) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._entries.append(entry)
        self._futures.append(future)
        self._wanted.set()
        return future

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    @abstractmethod
    async def write(self, entries: list[Entry]) -> None:
        """One transaction, durable when this returns."""

    async def _main(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            entries, futures = self._entries, self._futures
            self._entries, self._futures = [], []
            try:
                await self.write(entries)
            except Exception as error:
                for future in futures:
                    future.set_exception(error)
            else:
                for future in futures:
                    future.set_result(None)


@asynccontextmanager
async def open_journal(url: str) -> AsyncIterator[Journal]:
    """The journal of the store that a URL names, empty."""
    journal: Journal
    match url.partition("://")[0]:
        case "sqlite":
            from benchmarks.bounds.sqlite import SqliteJournal

            journal = SqliteJournal(url.removeprefix("sqlite:///"))
        case "postgresql":
            from benchmarks.bounds.postgresql import PostgresJournal

            journal = await PostgresJournal.open(url)
        case "redis":
            from benchmarks.bounds.redis import RedisJournal

            journal = RedisJournal(url)
        case scheme:
            raise ValueError(f"there is no bound model for {scheme}")
    try:
        yield journal
    finally:
        await journal.close()
