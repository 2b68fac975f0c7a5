"""What is removed or purged leaves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from durable_flow import ConflictError, LeaseLost
from durable_flow.stores.base import Store
from durable_flow.testing.contract.build import (
    ANY,
    START,
    SettableClock,
    advance,
    append,
    create,
    find,
    following,
    idle,
    opening,
    row_of,
    stored,
    vote,
)


async def ended(store: Store, name: str, after: float, status: str = "completed", **changes: Any) -> None:
    await idle(store, name, status=status, finished_at=START + after, **changes)


class Deleting:
    """What is removed or purged leaves nothing."""

    async def test_removing_what_is_not_there_is_false(self, store: Store) -> None:
        assert await store.remove("e") is False

    async def test_a_removed_execution_leaves_nothing_to_its_successor(self, store: Store) -> None:
        everything = {
            "new": {"labels": {"a": "b"}},
            "frames": [("f", 1, "{}")],
            "sets": [("", "x", 1)],
            "opened": [opening(needed=2)],
        }
        await idle(store, **everything)  # type: ignore[arg-type]
        await vote(store, "a")
        await append(store, "note", kind="note")
        assert await store.remove("e") is True
        assert await store.row("e") is None
        assert await find(store) == await find(store, labels={"a": "b"}) == []
        assert (await append(store, "note", kind="note")).outcome == "unknown"
        await idle(store, entries=[])
        found = await stored(store)
        assert (found.frames, found.sets, found.entries, found.inbox) == ([], [], {}, [])
        assert found.row.labels == {}
        assert await store.read("e") == []
        assert await vote(store, "b") == "closed"
        await advance(store, opened=[opening(needed=2)])
        assert await vote(store, "a") == "accepted"

    async def test_a_driven_execution_is_not_removed(self, store: Store, clock: SettableClock) -> None:
        row = await create(store)
        with pytest.raises(ConflictError):
            await store.remove("e")
        assert await row_of(store) == row
        clock.time += 31
        assert await store.remove("e") is True

    async def test_removing_touches_no_other_execution(self, store: Store) -> None:
        for name in "ab":
            await idle(store, name, sets=[("", "x", 1)], frames=[("f", None, "{}")], opened=[opening(f"{name}/w")])
            await append(store, execution_id=name, kind="note")
        before = await stored(store, "b")
        await store.remove("a")
        assert await stored(store, "b") == before
        assert (await append(store, "x", execution_id="b", wait_id="b/w")).outcome == "accepted"

    async def test_who_drove_a_removed_execution_is_fenced(self, store: Store, clock: SettableClock) -> None:
        row = await create(store)
        clock.time += 31
        await store.remove("e")
        with pytest.raises(LeaseLost):
            await store.commit(following(row))
        assert await store.row("e") is None

    async def test_purging_deletes_what_ended_before(self, store: Store) -> None:
        for i in range(5):
            await ended(store, f"e{i}", i)
        await idle(store, "alive")
        assert await store.purge_rows(before=START + 3, statuses=ANY, limit=100) == 3
        assert await find(store) == ["e4", "e3", "alive"]

    async def test_purging_keeps_other_statuses(self, store: Store) -> None:
        await ended(store, "good", 1)
        await ended(store, "bad", 1, status="failed")
        assert await store.purge_rows(before=START + 9, statuses=["completed"], limit=100) == 1
        assert await find(store) == ["bad"]

    async def test_purging_stops_at_its_limit(self, store: Store) -> None:
        for i in range(5):
            await ended(store, f"e{i}", i, status=("completed", "failed")[i % 2])
        counts = [await store.purge_rows(before=START + 9, statuses=["completed", "failed"], limit=2) for _ in range(4)]
        assert counts == [2, 2, 1, 0]

    async def test_purging_leaves_what_is_driven(self, store: Store, clock: SettableClock) -> None:
        await ended(store, "e", 1, lease_ttl=30)
        assert await store.purge_rows(before=START + 9, statuses=ANY, limit=100) == 0
        clock.time += 31
        assert await store.purge_rows(before=START + 9, statuses=ANY, limit=100) == 1

    async def test_a_purged_execution_leaves_nothing_to_its_successor(self, store: Store) -> None:
        await ended(store, "e", 1, frames=[("f", 1, "{}")], sets=[("", "x", 1)], opened=[opening(needed=2)])
        await vote(store, "a")
        await store.purge_rows(before=START + 9, statuses=ANY, limit=100)
        await idle(store, entries=[])
        found = await stored(store)
        assert (found.frames, found.sets, found.entries, found.inbox) == ([], [], {}, [])
