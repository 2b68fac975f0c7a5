"""How many bytes a store has written so far, as its own server counts them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from benchmarks.subject import bytes_written


class Meter(ABC):
    @abstractmethod
    async def read(self) -> int:
        """Bytes written since the server was made, or this process began."""

    async def close(self) -> None:  # noqa: B027 - most have nothing to close
        pass


class ProcessMeter(Meter):
    """What this process has passed to write(2): SQLite's log, and the pages it copies into the database."""

    async def read(self) -> int:
        return bytes_written()


class PostgresMeter(Meter):
    """The position in the write-ahead log, images of whole pages included."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def read(self) -> int:
        return int(await self._connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    async def close(self) -> None:
        await self._connection.close()


class RedisMeter(Meter):
    """The length of the append-only file and of what is about to go there. It is not rewritten while it is measured."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def read(self) -> int:
        said = await self._client.info("persistence")
        return int(said["aof_current_size"]) + int(said["aof_buffer_length"])

    async def close(self) -> None:
        await self._client.aclose()


async def open_meter(url: str) -> Meter:
    """The meter of the store that a URL names."""
    match url.partition("://")[0]:
        case "postgresql":
            import asyncpg

            return PostgresMeter(await asyncpg.connect(url))
        case "redis":
            from redis.asyncio import Redis

            client = Redis.from_url(url)
            await client.config_set("auto-aof-rewrite-percentage", 0)
            return RedisMeter(client)
    return ProcessMeter()
