"""The servers that stores are measured on: private ones, on the disk where the SQLite file is too.

PostgreSQL runs with its defaults (`fsync` and `synchronous_commit` are on), Redis with an append-only file.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.processes import Failed
from tests.servers.binaries import NotInstalled
from tests.servers.postgres import PostgresServer
from tests.servers.process import Server, ServerFailed, own_folder, unprivileged
from tests.servers.redis import RedisServer


class Servers:
    """Each server is started when it is first asked for, and ends with `close`, its data with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._running: dict[str, Server] = {}
        self._numbers = itertools.count()

    def close(self) -> None:
        self._stack.close()

    @contextmanager
    def postgresql(self) -> Iterator[str]:
        """A new database. Raises Failed."""
        url = self._server("postgresql", PostgresServer.start, user=unprivileged()).url
        name = f"bench{next(self._numbers)}"
        asyncio.run(_execute(url, f"CREATE DATABASE {name}"))
        try:
            yield f"{url.rpartition('/')[0]}/{name}"
        finally:
            asyncio.run(_execute(url, f"DROP DATABASE {name} WITH (FORCE)"))

    @contextmanager
    def redis(self, appendfsync: str) -> Iterator[str]:
        """A database of Redis, empty. Raises Failed."""
        settings = {"appendonly": True, "appendfsync": appendfsync}
        server = self._server(f"redis-{appendfsync}", RedisServer.start, user=None, **settings)
        url = f"{server.url.rpartition('/')[0]}/{next(self._numbers) % 16}"
        _empty(url)
        try:
            yield url
        finally:
            _empty(url)

    def _server(self, name: str, start: Callable[..., Server], *, user: str | None, **settings: Any) -> Server:
        if name not in self._running:
            folder = self._stack.enter_context(self._room(name, user))
            try:
                self._running[name] = self._stack.enter_context(start(folder, **settings))
            except (NotInstalled, ServerFailed) as error:
                raise Failed(f"{name}: {error}") from error
        return self._running[name]

    @contextmanager
    def _room(self, name: str, user: str | None) -> Iterator[Path]:
        """A folder below ours for a server that runs as `user`; somewhere else where this user cannot get there."""
        folder = self._folder / name
        everybody = all(above.stat().st_mode & stat.S_IXOTH for above in self._folder.resolve().parents)
        if user is None:
            folder.mkdir(parents=True)
        elif everybody:
            folder.mkdir(parents=True)
            self._folder.chmod(0o755)
            shutil.chown(folder, user)
        else:
            folder = own_folder(user)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


async def _execute(url: str, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _empty(url: str) -> None:
    from redis import Redis

    with Redis.from_url(url) as client:
        client.flushdb()
