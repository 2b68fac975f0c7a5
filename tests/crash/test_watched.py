"""The store that crash tests put between an engine and a store is one too: it keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_flow import Clock, Store, open_store
from durable_flow.testing import FakeClock, Gate, WatchedStore
from durable_flow.testing.contract import StoreContract, Subject


class Behind(WatchedStore):
    """Opens and closes the store behind it, which has the same clock."""

    def __init__(self, inner: Store, *, inline: bool) -> None:
        super().__init__(inner, gate=Gate({}), watch=None, clock=FakeClock(), inline=inline)

    @property
    def clock(self) -> Clock:  # type: ignore[override]
        return self.inner.clock

    @clock.setter
    def clock(self, clock: Clock) -> None:
        self.inner.clock = clock

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await super().close()
        await self.inner.close()


class TestInMemory(StoreContract):
    @pytest.fixture
    def subject(self) -> Subject:
        return Subject(lambda: Behind(open_store("sqlite://:memory:"), inline=True), shared=False, wakes=True)


class TestOnFile(StoreContract):
    @pytest.fixture
    def subject(self, tmp_path: Path) -> Subject:
        url = f"sqlite:///{tmp_path}/flow.db"
        return Subject(lambda: Behind(open_store(url, durability="normal"), inline=False))
