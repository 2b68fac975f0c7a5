"""The stores that keep the contract. A new store is one more line of STORES."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable_flow import AesGcm, open_store
from durable_flow.testing.contract import Subject
from tests.stores.build import SettableClock

Get = Callable[[str], Any]
"""Gets a fixture by its name."""


def codec() -> AesGcm:
    return AesGcm(keys={"k": bytes(range(32))}, active="k")


def file(folder: Path, **options: Any) -> Subject:
    path = folder / "flow.db"

    async def newer() -> None:
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version = 99")

    return Subject(lambda: open_store(f"sqlite:///{path}", durability="normal", **options), newer=newer)


def postgresql(get: Get, **options: Any) -> Subject:
    url, schema = get("postgres_url"), get("postgres_schema")

    async def newer() -> None:
        import asyncpg

        connection = await asyncpg.connect(url)
        await connection.execute(f'UPDATE "{schema}".schema_version SET version = 99')
        await connection.close()

    return Subject(lambda: open_store(url, schema=schema, **options), wakes=True, newer=newer)


def redis(get: Get, **options: Any) -> Subject:
    url, prefix = get("redis_url"), get("redis_prefix")

    async def newer() -> None:
        from redis.asyncio import Redis

        async with Redis.from_url(url) as client:
            await client.set(f"{{{prefix}}}:schema", 99)

    return Subject(lambda: open_store(url, prefix=prefix, **options), wakes=True, newer=newer)


STORES: dict[str, Callable[[Get], Subject]] = {
    "sqlite-memory": lambda get: Subject(lambda: open_store("sqlite://:memory:"), shared=False, wakes=True),
    "sqlite-file": lambda get: file(get("tmp_path")),
    "sealed-memory": lambda get: Subject(
        lambda: open_store("sqlite://:memory:", codec=codec()), shared=False, wakes=True
    ),
    "sealed-file": lambda get: file(get("tmp_path"), codec=codec()),
    "postgresql": postgresql,
    "redis": redis,
}


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()
