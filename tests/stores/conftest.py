"""The stores that keep the contract. A new store is one more line of STORES."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from durable_flow.codec import AesGcm
from durable_flow.stores import open_store
from durable_flow.stores.base import Store
from tests.stores.build import SettableClock

STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite-memory": lambda folder: open_store("sqlite://:memory:"),
    "sqlite-file": lambda folder: open_store(f"sqlite:///{folder}/flow.db", durability="normal"),
    "sealed": lambda folder: open_store("sqlite://:memory:", codec=AesGcm(keys={"k": bytes(range(32))}, active="k")),
}


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture(params=STORES)
def closed_store(request: pytest.FixtureRequest, tmp_path: Path, clock: SettableClock) -> Store:
    """Each store of STORES, empty and not yet open."""
    store = STORES[request.param](tmp_path)
    store.clock = clock
    return store


@pytest.fixture
async def store(closed_store: Store) -> AsyncIterator[Store]:
    """Each store of STORES, empty and open."""
    async with closed_store:
        yield closed_store
