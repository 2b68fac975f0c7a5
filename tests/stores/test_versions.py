"""A store says which version of the schema it found, and which one it has."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from durable_flow.clock import SystemClock
from durable_flow.codec import AesGcm
from durable_flow.errors import SchemaTooNew, StoreError
from durable_flow.patience import PatientStore
from durable_flow.stores import open_store
from durable_flow.stores.base import Store
from durable_flow.stores.sqlite import APPLICATION_ID

Make = Callable[..., Store]


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes a store object on the same data, empty before the test."""
    match request.param:
        case "sqlite":
            url = f"sqlite:///{tmp_path}/flow.db"
        case "postgresql":
            url = request.getfixturevalue("postgres_url")
            url += f"{'&' if '?' in url else '?'}schema={request.getfixturevalue('postgres_schema')}"
        case _:
            url = request.getfixturevalue("redis_url")
            url += f"{'&' if '?' in url else '?'}prefix={request.getfixturevalue('redis_prefix')}"
    return lambda **options: open_store(url, **options)


async def test_the_first_to_open_finds_none_and_the_next_one_what_it_made(make: Make) -> None:
    async with make() as store:
        found, current = store.versions
        assert found == 0 < current
    async with make() as store:
        assert store.versions == (current, current)


async def test_what_may_not_migrate_says_what_it_found_and_changes_nothing(make: Make) -> None:
    for _ in range(2):
        store = make(auto_migrate=False)
        with pytest.raises(StoreError, match="durable-flow migrate"):
            await store.open()
        assert store.versions[0] == 0 < store.versions[1]
    async with make() as store:
        assert store.versions[0] == 0


async def test_stores_around_a_store_say_what_it_says(make: Make) -> None:
    async with make(codec=AesGcm(keys={"k": bytes(32)}, active="k")) as sealed:
        assert sealed.versions[0] == 0 < sealed.versions[1]
        assert PatientStore(sealed, SystemClock(), patience=1).versions == sealed.versions


def test_a_store_without_versions_needs_to_say_nothing() -> None:
    assert Store.versions == (0, 0)


async def test_an_older_file_that_may_not_be_migrated_is_not_even_touched(tmp_path: Path) -> None:
    path = tmp_path / "flow.db"
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.close()
    before = path.read_bytes()
    store = open_store(f"sqlite:///{path}", auto_migrate=False)
    with pytest.raises(StoreError):
        await store.open()
    assert path.read_bytes() == before


async def test_a_newer_file_is_refused_with_its_version(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/flow.db") as store:
        current = store.versions[1]
    with sqlite3.connect(tmp_path / "flow.db") as database:
        database.execute(f"PRAGMA user_version = {current + 1}")
    database.close()
    with pytest.raises(SchemaTooNew):
        await open_store(f"sqlite:///{tmp_path}/flow.db").open()
