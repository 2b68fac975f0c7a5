"""Where real processes meet: a store of every kind, empty at first, and gone afterwards."""

from __future__ import annotations

import asyncio
import atexit
import functools
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

from tests.crash import suite
from tests.reliability.duty import Journal, Post
from tests.servers.provide import provided

STORES = ("sqlite", *suite.SERVERS)


STARTING = threading.Lock()


def server(store: str) -> str:
    """The URL of a server that serves until this process ends. Raises Unreachable."""
    with STARTING:
        return _started(store)


@functools.cache
def _started(store: str) -> str:
    stack = ExitStack()
    url = stack.enter_context(provided(suite.SERVERS[store]))
    atexit.register(stack.close)
    return url


@contextmanager
def ground(store: str, folder: Path) -> Iterator[Post]:
    """A place of its own: a file in `folder` on the disk, or names that nobody else uses on a server."""
    if store == "sqlite":
        post = Post(store, f"sqlite:///{folder / 'flows.db'}")
        yield post
        with closing(sqlite3.connect(folder / "flows.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return
    place = suite.Place(server(store), suite.space_of_its_own())
    name = {"postgresql": "schema", "redis": "prefix"}[store]
    try:
        yield Post(store, place.url, {name: place.space})
    finally:
        suite.clear(store, place)


@asynccontextmanager
async def scene(store: str, folder: Path) -> AsyncIterator[tuple[Post, Journal]]:
    """A place of its own with a journal, while others play elsewhere."""
    room = Path(tempfile.mkdtemp(dir=folder))
    manager = ground(store, room)
    post = await asyncio.to_thread(manager.__enter__)
    try:
        yield post, Journal(room / "journal")
    except BaseException as error:
        if not await asyncio.to_thread(manager.__exit__, type(error), error, error.__traceback__):
            raise
    else:
        await asyncio.to_thread(manager.__exit__, None, None, None)
