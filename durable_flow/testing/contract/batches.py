"""Many writes at once: one that fails hurts no other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable_flow import ConflictError, LeaseLost, StoreError
from durable_flow.stores.base import Store
from durable_flow.testing.contract.build import (
    ANY,
    POISON,
    START,
    append,
    create,
    creation,
    find,
    following,
    idle,
    message,
    row_of,
    stored,
)

POISONED: dict[str, dict[str, Any]] = {
    "entry": {"entries": [(2, "good"), (3, POISON)]},
    "entry number": {"entries": [(2, "good"), (2, "again")]},
    "frame": {"entries": [(2, "good")], "frames": [("f", None, POISON)]},
    "variable": {"entries": [(2, "good")], "sets": [("", POISON, 2)]},
    "root": {"entries": [(2, "good")], "root": POISON},
    "message": {"entries": [(2, "good")], "messages": [(message(kind="note", execution_id="e0"), POISON)]},
    "huge number": {"entries": [(2, "good")], "result_seq": 1 << 70},
}


class Batches:
    """Writes that happen at once."""

    async def test_commits_at_once_all_land(self, store: Store) -> None:
        await asyncio.gather(*[store.commit(creation(f"e{i}")) for i in range(50)])
        rows = [await row_of(store, f"e{i}") for i in range(50)]
        await asyncio.gather(*[store.commit(following(row, seq=2, entries=[(2, row.id)])) for row in rows])
        for row in rows:
            assert await store.read(row.id, after=1) == [(2, row.id)]

    async def test_a_fenced_commit_does_not_hurt_its_neighbours(self, store: Store) -> None:
        rows = [await create(store, f"e{i}") for i in range(10)]
        commits = [following(row, generation=7 if i == 4 else row.generation) for i, row in enumerate(rows)]
        outcomes = await asyncio.gather(*map(store.commit, commits), return_exceptions=True)
        assert [i for i, outcome in enumerate(outcomes) if isinstance(outcome, LeaseLost)] == [4]
        assert [(await row_of(store, f"e{i}")).version for i in range(10)] == [2, 2, 2, 2, 1, 2, 2, 2, 2, 2]

    @pytest.mark.parametrize("changes", POISONED.values(), ids=POISONED.keys())
    async def test_a_commit_that_cannot_be_written_fails_alone_and_whole(
        self, store: Store, changes: dict[str, Any]
    ) -> None:
        rows = [await create(store, f"e{i}") for i in range(5)]
        before = await stored(store, "e2")
        commits = [following(row, **(changes if i == 2 else {"entries": [(2, "x")]})) for i, row in enumerate(rows)]
        outcomes = await asyncio.gather(*map(store.commit, commits), return_exceptions=True)
        assert [isinstance(outcome, BaseException) for outcome in outcomes] == [False, False, True, False, False]
        assert isinstance(outcomes[2], StoreError)
        assert str(outcomes[2])
        assert await stored(store, "e2") == before
        assert await store.read("e2") == [(1, '"started"')]
        assert [len(await store.read(row.id)) for row in rows] == [2, 2, 1, 2, 2]
        await store.commit(following(rows[2], entries=[(2, "better")]))

    async def test_a_creation_that_cannot_be_written_leaves_its_definition_to_the_next(self, store: Store) -> None:
        with pytest.raises(StoreError):
            await store.commit(creation("bad", sets=[("", POISON, 1)]))
        assert await store.row("bad") is None
        await create(store, "good")
        assert await store.definition("hash") == '{"id":"w"}'

    async def test_a_message_that_cannot_be_written_fails_alone(self, store: Store) -> None:
        row = await create(store)
        outcomes = await asyncio.gather(
            store.commit(following(row)),
            append(store, "good", kind="note"),
            append(store, "bad", kind="note", body=POISON),
            store.renew("me", ttl=60),
            return_exceptions=True,
        )
        assert [isinstance(outcome, StoreError) for outcome in outcomes] == [False, False, True, False]
        assert len(await store.inbox("e")) == 1
        assert (await row_of(store)).lease_until == START + 60

    async def test_different_verbs_at_once_do_not_hurt_each_other(self, store: Store) -> None:
        rows = [await create(store, f"e{i}") for i in range(4)]
        await idle(store, "free")
        await idle(store, "gone")
        outcomes = await asyncio.gather(
            store.commit(following(rows[0])),
            store.remove("e1"),
            store.remove("gone"),
            store.commit(following(rows[2], version=9)),
            store.claim("free", owner="you", ttl=30, statuses=ANY),
            append(store, execution_id="e3", kind="note"),
            store.release("e3", owner="me", generation=1),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], ConflictError)
        assert isinstance(outcomes[3], LeaseLost)
        assert outcomes[2] is True
        assert sorted(await find(store)) == ["e0", "e1", "e2", "e3", "free"]
        assert [(await row_of(store, name)).owner for name in ("e0", "e2", "e3", "free")] == ["me", "me", None, "you"]
