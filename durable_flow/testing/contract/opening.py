"""Opening and closing."""

from __future__ import annotations

import asyncio

import pytest

from durable_flow import StoreError
from durable_flow.stores.base import Store
from durable_flow.testing.contract.build import (
    create,
    creation,
)


class Opening:
    """A store opens, closes, and says when it is not open."""

    async def test_closing_twice_is_fine(self, closed_store: Store) -> None:
        await closed_store.open()
        await closed_store.close()
        await closed_store.close()

    async def test_closing_what_was_never_open_is_fine(self, closed_store: Store) -> None:
        await closed_store.close()

    async def test_a_closed_store_says_so(self, closed_store: Store) -> None:
        async with closed_store:
            await create(closed_store)
        with pytest.raises(StoreError, match="not open"):
            await closed_store.commit(creation("f"))
        with pytest.raises(StoreError, match="not open"):
            await closed_store.row("e")

    async def test_a_store_that_is_not_open_yet_says_so(self, closed_store: Store) -> None:
        with pytest.raises(StoreError, match="not open"):
            await closed_store.row("e")

    async def test_closing_finishes_what_is_under_way(self, closed_store: Store) -> None:
        await closed_store.open()
        pending = [closed_store.commit(creation(f"e{i}")) for i in range(20)]
        await closed_store.close()
        await asyncio.gather(*pending)
