"""What a first commit makes."""

from __future__ import annotations

import asyncio

import pytest

from durable_flow import ConflictError
from durable_flow.stores.base import Store
from durable_flow.testing.contract.build import (
    ANY,
    START,
    create,
    creation,
    row_of,
)


class Creating:
    """The first commit of an execution."""

    async def test_a_created_row_has_what_its_commit_said(self, store: Store) -> None:
        new = {"parent_id": "p", "root_id": "r", "labels": {"a": "1"}, "trigger": "cli", "queue": "q", "priority": 2}
        row = await create(store, new=new | {"concurrency_key": "c"}, wake_at=START + 5)
        assert (row.id, row.workflow_id, row.workflow_version, row.definition_hash) == ("e", "w", "1.0", "hash")
        assert (row.status, row.version, row.generation, row.nonce, row.seq) == ("running", 1, 1, "nonce-0", 1)
        assert (row.parent_id, row.root_id, row.labels, row.trigger) == ("p", "r", {"a": "1"}, "cli")
        assert (row.queue, row.priority, row.concurrency_key, row.wake_at) == ("q", 2, "c", START + 5)
        assert (row.input, row.root, row.info, row.current_step) == ('{"n":1}', '{"at":"first"}', "{}", "first")
        assert (row.created_at, row.updated_at, row.finished_at, row.recoveries) == (START, START, None, 0)
        assert (row.result_seq, row.result) == (None, None)

    async def test_the_first_lease_comes_with_the_creation(self, store: Store) -> None:
        row = await create(store, owner="me", lease_ttl=7)
        assert (row.owner, row.lease_until) == ("me", START + 7)

    async def test_without_a_lease_nobody_owns_what_was_created(self, store: Store) -> None:
        row = await create(store, owner="me", lease_ttl=None)
        assert (row.owner, row.lease_until) == (None, None)

    async def test_creating_and_releasing_at_once_leaves_no_owner(self, store: Store) -> None:
        committed = await store.commit(creation(release=True))
        assert committed.released
        assert (await row_of(store)).owner is None

    async def test_creating_twice_is_a_conflict(self, store: Store) -> None:
        before = await create(store)
        with pytest.raises(ConflictError, match="'e'"):
            await store.commit(creation(new={"workflow_id": "other"}, entries=[(2, '"again"')]))
        assert await row_of(store) == before
        assert await store.read("e") == [(1, '"started"')]

    async def test_of_many_who_create_one_wins(self, store: Store) -> None:
        attempts = [store.commit(creation(nonce=f"n{i}")) for i in range(20)]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        winners = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)]
        assert len(winners) == 1
        assert all(isinstance(outcome, ConflictError) for i, outcome in enumerate(outcomes) if i not in winners)
        assert (await row_of(store)).nonce == f"n{winners[0]}"

    async def test_a_definition_is_kept_under_its_hash(self, store: Store) -> None:
        await create(store, "a", new={"definition_hash": "h1", "definition": "one"})
        await create(store, "b", new={"definition_hash": "h2", "definition": b"two"})
        await create(store, "c", new={"definition_hash": "h1", "definition": "one"})
        assert [await store.definition("h1"), await store.definition("h2")] == ["one", b"two"]

    async def test_an_unknown_hash_has_no_definition(self, store: Store) -> None:
        assert await store.definition("nothing") is None

    async def test_what_does_not_exist_is_none_or_empty(self, store: Store) -> None:
        assert await store.row("e") is None
        assert await store.fetch("e") is None
        assert await store.read("e") == []
        assert await store.inbox("e") == []
        assert await store.claim("e", owner="me", ttl=30, statuses=ANY) is None
