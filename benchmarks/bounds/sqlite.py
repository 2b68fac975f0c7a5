"""A thread with a connection, `synchronous=FULL`."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import traceback

from benchmarks.bounds.journal import Entry, Journal

SCHEMA = """
    CREATE TABLE entries (execution INTEGER, seq INTEGER, body TEXT, PRIMARY KEY (execution, seq)) WITHOUT ROWID;
    CREATE TABLE heads (execution INTEGER PRIMARY KEY, seq INTEGER, status TEXT);
"""
ADD_ENTRIES = "INSERT INTO entries VALUES (?, ?, ?)"
SET_HEADS = "INSERT INTO heads VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seq = excluded.seq, status = excluded.status"


class SqliteJournal(Journal):
    def __init__(self, path: str) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.SimpleQueue[tuple[asyncio.Future[None], Entry] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main)
        self._thread.start()

    def put(self, entry: Entry) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.put((future, entry))
        return future

    async def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _take(self) -> list[tuple[asyncio.Future[None], Entry]]:
        """All that wait, at least one; none at the end."""
        taken = []
        while (item := self._waiting.get()) is not None:
            taken.append(item)
            if self._waiting.empty():
                return taken
        if taken:
            self._waiting.put(None)
        return taken

    def _main(self) -> None:
        try:
            self._write()
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # nobody would ever wake those who wait

    def _write(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(SCHEMA)
        while batch := self._take():
            database.execute("BEGIN IMMEDIATE")
            database.executemany(ADD_ENTRIES, [entry[:3] for _, entry in batch])
            heads = {entry.execution: (entry.execution, entry.seq, entry.status) for _, entry in batch}
            database.executemany(SET_HEADS, heads.values())
            database.execute("COMMIT")
            self._loop.call_soon_threadsafe(_wake, [future for future, _ in batch])
        database.close()


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)
