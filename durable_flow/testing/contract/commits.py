"""Compare and set, and what a commit writes."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from durable_flow import ConflictError, LeaseLost
from durable_flow.stores.base import Filter, Store
from durable_flow.testing.contract.build import (
    ANY,
    START,
    SettableClock,
    advance,
    answer,
    append,
    create,
    creation,
    following,
    idle,
    message,
    opening,
    row_of,
    stored,
)


class Committing:
    """Commits apply to exactly the version and generation they name, or not at all."""

    async def test_a_commit_raises_the_version_by_one(self, store: Store) -> None:
        await create(store)
        assert [(await advance(store)).version for _ in range(3)] == [2, 3, 4]

    async def test_a_commit_replaces_the_header(self, store: Store) -> None:
        await create(store)
        row = await advance(
            store, nonce="n", status="halted", current_step="ask", wake_at=START + 9, root="{2}", updated_at=START + 2
        )
        assert (row.nonce, row.status, row.current_step, row.wake_at) == ("n", "halted", "ask", START + 9)
        assert (row.root, row.updated_at) == ("{2}", START + 2)

    async def test_a_commit_may_have_no_entries(self, store: Store) -> None:
        """As a heartbeat has none: a frame changes, and the number of the last entry stays."""
        row = await create(store)
        entries = await store.read("e")
        await store.commit(following(row, seq=row.seq, entries=[], frames=[("a/b", None, "{alive}")], root="{alive}"))
        kept = await stored(store)
        assert (kept.row.version, kept.row.seq, kept.row.root) == (row.version + 1, row.seq, "{alive}")
        assert list(kept.frames) == [("a/b", "{alive}")]
        assert await store.read("e") == entries

    async def test_a_finished_execution_can_run_again(self, store: Store) -> None:
        await create(store)
        row = await advance(store, status="failed", finished_at=START + 1)
        assert (row.status, row.finished_at) == ("failed", START + 1)
        row = await advance(store, status="running", finished_at=None)
        assert (row.status, row.finished_at) == ("running", None)

    @pytest.mark.parametrize(("field", "value"), [("version", 0), ("version", 2), ("generation", 0), ("generation", 2)])
    async def test_a_commit_with_another_version_or_generation_is_fenced(
        self, store: Store, field: str, value: int
    ) -> None:
        row = await create(store)
        with pytest.raises(LeaseLost):
            await store.commit(following(row, **{field: value}))
        assert await row_of(store) == row

    async def test_a_fenced_commit_writes_nothing_at_all(self, store: Store) -> None:
        await create(store, "other")
        row = await create(store, opened=[opening()])
        await append(store, "note", kind="note")
        ((inbox_id, _),) = await store.inbox("e")
        before = await stored(store)
        with pytest.raises(LeaseLost):
            await store.commit(
                following(
                    row,
                    version=7,
                    info="changed",
                    entries=[(2, "two")],
                    frames=[("f", 2, "{}")],
                    sets=[("", "x", 2)],
                    closed=["wait"],
                    opened=[opening("second")],
                    consumed=[inbox_id],
                    messages=[(message("m", kind="note", execution_id="other"), "m")],
                    release=True,
                )
            )
        assert await stored(store) == before
        assert await store.read("e") == [(1, '"started"')]
        assert await store.inbox("other") == []
        assert await answer(store, wait_id="second") == "closed"
        assert await answer(store, wait_id="wait") == "accepted"

    async def test_a_commit_to_an_unknown_execution_is_fenced(self, store: Store) -> None:
        row = await create(store)
        with pytest.raises(LeaseLost):
            await store.commit(following(row, execution_id="nobody"))

    async def test_the_generation_fences_whatever_the_owner_is_called(self, store: Store) -> None:
        row = await create(store, owner="me")
        await store.commit(following(row, owner="somebody"))
        assert (await row_of(store)).owner == "me"

    async def test_who_is_fenced_hears_who_drives_it_now(self, store: Store, clock: SettableClock) -> None:
        row = await create(store, owner="me")
        clock.time += 31
        await store.claim("e", owner="you", ttl=30, statuses=ANY)
        with pytest.raises(LeaseLost) as caught:
            await store.commit(following(row))
        assert caught.value.owner == "you"

    async def test_of_two_commits_on_one_version_one_wins(self, store: Store) -> None:
        row = await create(store)
        attempts = [store.commit(following(row, nonce=nonce)) for nonce in ("left", "right")]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert [isinstance(outcome, LeaseLost) for outcome in outcomes].count(True) == 1
        winner = "left" if not isinstance(outcomes[0], BaseException) else "right"
        assert (await row_of(store)).nonce == winner

    async def test_a_repeated_commit_is_fenced_and_known_by_its_nonce(self, store: Store) -> None:
        commit = following(await create(store), nonce="mine", entries=[(2, "two")], seq=2)
        await store.commit(commit)
        with pytest.raises(LeaseLost):
            await store.commit(commit)
        row = await row_of(store)
        assert (row.nonce, row.version) == ("mine", commit.version + 1)
        assert await store.read("e", after=1) == [(2, "two")]

    async def test_a_repeated_creation_conflicts_and_is_known_by_its_nonce(self, store: Store) -> None:
        await store.commit(creation(nonce="mine"))
        with pytest.raises(ConflictError):
            await store.commit(creation(nonce="mine"))
        assert (await row_of(store)).nonce == "mine"

    async def test_commits_of_one_execution_keep_their_order(self, store: Store) -> None:
        row = await create(store)
        commits = [
            following(row, version=row.version + i, seq=2 + i, nonce=f"n{i}", entries=[(2 + i, str(i))])
            for i in range(20)
        ]
        await asyncio.gather(*[store.commit(commit) for commit in commits])
        row = await row_of(store)
        assert (row.version, row.nonce, row.seq) == (21, "n19", 21)

    async def test_cancelling_who_waits_does_not_cancel_the_write(self, store: Store) -> None:
        row = await create(store)
        store.commit(following(row)).cancel()
        await create(store, "behind")
        assert (await row_of(store)).version == row.version + 1

    async def test_info_stays_until_it_is_replaced(self, store: Store) -> None:
        await create(store, info="one")
        assert (await advance(store, info=None)).info == "one"
        assert (await advance(store, info=b"two")).info == b"two"

    async def test_a_commit_gives_another_definition(self, store: Store) -> None:
        await create(store, new={"labels": {"team": "red"}})
        row = await advance(store, definition=("other", "2.0", '{"id":"w","new":1}'))
        assert (row.definition_hash, row.workflow_version) == ("other", "2.0")
        assert await store.definition("other") == '{"id":"w","new":1}'
        assert await advance(store) == msgspec.structs.replace(row, version=3, nonce="nonce-2", updated_at=START + 2)
        assert (await stored(store)).row.definition_hash == "other"
        rows, _ = await store.search(Filter(labels={"team": "red"}), limit=10, cursor=None)
        assert [row.definition_hash for row in rows] == ["other"]

    async def test_a_fenced_commit_gives_no_other_definition(self, store: Store) -> None:
        row = await create(store)
        with pytest.raises(LeaseLost):
            await store.commit(following(row, version=7, definition=("other", "2.0", "{}")))
        assert await row_of(store) == row
        assert await store.definition("other") is None

    async def test_a_definition_that_was_left_stays_as_long_as_the_execution(self, store: Store) -> None:
        await create(store)
        for name in ("other", "third", "other"):
            await advance(store, definition=(name, "2.0", f'{{"id":"{name}"}}'))
        await create(store, "second", new={"definition_hash": "third", "definition": '{"id":"third"}'})
        assert await store.definition("hash") == '{"id":"w"}'
        await advance(store, release=True)
        await store.remove("e")
        assert await store.definition("third") == '{"id":"third"}'

    @pytest.mark.parametrize("status", ["pending", "running", "halted"])
    async def test_what_is_due_is_found_by_the_definition_it_has_now(self, store: Store, status: str) -> None:
        await create(store, status=status, wake_at=START - 1, new={"queue": "mail", "priority": 3})
        await advance(store, definition=("other", "2.0", "{}"), release=True)
        for _ in range(2):
            assert await store.next_due(without=("other",)) is None
            assert await store.take("you", ttl=30, limit=5, without=("other",)) == []
        assert await store.next_due(without=("hash",), queues=["mail"]) is not None
        (taken,) = await store.take("you", ttl=30, limit=5, without=("hash",), queues=["mail"])
        assert taken.row.definition_hash == "other"

    async def test_of_many_that_change_their_definition_together_each_has_it(self, store: Store) -> None:
        names = [f"e{number}" for number in range(20)]
        rows = [await create(store, name) for name in names]
        commits = [
            following(row, definition=("other", "2.0", "{}") if number % 2 else None) for number, row in enumerate(rows)
        ]
        await asyncio.gather(*[store.commit(commit) for commit in commits], create(store, "new"))
        found = [(await row_of(store, name)).definition_hash for name in names]
        assert found == ["hash", "other"] * 10

    async def test_a_row_comes_with_the_entry_of_its_result(self, store: Store) -> None:
        await create(store)
        row = await advance(store, seq=3, entries=[(2, "two"), (3, "three")], result_seq=2)
        assert (row.result_seq, row.result) == (2, "two")
        rows, _ = await store.search(Filter(), limit=10, cursor=None)
        assert rows == [row]

    async def test_entries_are_read_in_order(self, store: Store) -> None:
        await create(store)
        await advance(store, seq=4, entries=[(2, "b"), (3, "c"), (4, "d")])
        assert await store.read("e") == [(1, '"started"'), (2, "b"), (3, "c"), (4, "d")]

    async def test_entries_are_read_in_pieces(self, store: Store) -> None:
        await create(store, entries=[(seq, str(seq)) for seq in range(1, 11)], seq=10)
        assert [seq for seq, _ in await store.read("e", after=3, limit=4)] == [4, 5, 6, 7]
        assert await store.read("e", after=10) == []

    async def test_entries_are_read_by_their_numbers(self, store: Store) -> None:
        await create(store, entries=[(seq, str(seq)) for seq in range(1, 11)], seq=10)
        assert await store.read("e", seqs=[7, 2, 99]) == [(2, "2"), (7, "7")]
        assert await store.read("e", seqs=[]) == []

    async def test_a_repeated_commit_delivers_no_message_twice(self, store: Store) -> None:
        await create(store, "parent")
        told = [(message("child", kind="child", execution_id="parent"), "done")]
        commit = following(await create(store), messages=told)
        await store.commit(commit)
        ((inbox_id, _),) = await store.inbox("parent")
        await advance(store, "parent", consumed=[inbox_id])
        with pytest.raises(LeaseLost):
            await store.commit(commit)
        assert await store.inbox("parent") == []

    async def test_a_repeated_commit_that_released_takes_no_lease(self, store: Store) -> None:
        commit = following(await create(store), release=True, nonce="mine")
        assert (await store.commit(commit)).released
        with pytest.raises(LeaseLost):
            await store.commit(commit)
        row = await row_of(store)
        assert (row.owner, row.nonce) == (None, "mine")

    async def test_of_the_same_commit_many_times_at_once_one_lands(self, store: Store) -> None:
        commit = following(await create(store), nonce="mine", seq=2, entries=[(2, "two")])
        outcomes = await asyncio.gather(*[store.commit(commit) for _ in range(10)], return_exceptions=True)
        assert sum(isinstance(outcome, LeaseLost) for outcome in outcomes) == 9
        assert await store.read("e") == [(1, '"started"'), (2, "two")]
        assert (await row_of(store)).version == 2

    async def test_the_nonce_tells_whose_commit_it_was(self, store: Store) -> None:
        row = await create(store)
        await store.commit(following(row, nonce="theirs"))
        with pytest.raises(LeaseLost):
            await store.commit(following(row, nonce="mine"))
        assert (await row_of(store)).nonce == "theirs"

    async def test_a_claim_keeps_the_nonce_of_the_last_commit(self, store: Store) -> None:
        await idle(store, nonce="mine")
        await store.claim("e", owner="you", ttl=30, statuses=ANY)
        assert (await row_of(store)).nonce == "mine"
