"""Records of schedules."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable_flow import ConflictError, KeyTaken, LeaseLost
from durable_flow.stores.base import Blob, Mark, ScheduleRow, Slot, Store
from durable_flow.testing.contract.build import START, SettableClock, advance, create, creation, idle, row_of


def mark(name: str = "w:daily", expected: str | None = None, **changes: Any) -> Mark:
    """The record of a schedule that is due at once, with a nonce that follows from the expected one."""
    given: dict[str, Any] = {
        "schedule_id": name,
        "workflow_id": name.partition(":")[0],
        "expected": expected,
        "nonce": f"{expected}+",
        "due": START,
        "definition_hash": "hash",
        "body": "{}",
    }
    return Mark(**given | changes)


async def records(store: Store, **which: Any) -> dict[str, ScheduleRow]:
    _, rows = await store.schedules(**which)
    return {row.id: row for row in rows}


class Scheduling:
    """A record changes only for who knows how it is, and an execution is created with it or not at all."""

    @pytest.mark.parametrize("body", ["{}", "ü\x00", b"\x00\xff bytes"])
    async def test_a_record_is_kept_as_it_was_given(self, store: Store, body: Blob) -> None:
        assert await store.mark(mark(body=body, due=START + 0.125, awaits=None, nonce="n", definition_hash="h"))
        expected = ScheduleRow(
            id="w:daily",
            workflow_id="w",
            nonce="n",
            due=START + 0.125,
            awaits=None,
            definition_hash="h",
            body=body,
        )
        assert await store.schedules() == (START, [expected])

    async def test_only_who_knows_its_nonce_changes_a_record(self, store: Store) -> None:
        assert await store.mark(mark(body="first", nonce="1"))
        for stale in (None, "0"):
            assert not await store.mark(mark(expected=stale, body="second"))
            assert not await store.mark(mark(expected=stale, body=None))
        assert await store.mark(mark(expected="1", body="second", nonce="2", due=None))
        found = (await records(store))["w:daily"]
        assert (found.body, found.nonce, found.due) == ("second", "2", None)

    async def test_of_many_who_change_it_at_once_one_does(self, store: Store) -> None:
        await store.mark(mark(nonce="1"))
        changes = [store.mark(mark(expected="1", nonce=f"2.{number}")) for number in range(20)]
        assert sorted(await asyncio.gather(*changes)) == [False] * 19 + [True]

    async def test_a_record_that_is_not_there_changes_for_nobody(self, store: Store) -> None:
        assert not await store.mark(mark(expected="1"))
        assert not await store.mark(mark(expected="1", body=None))
        assert await records(store) == {}

    async def test_a_record_is_deleted_and_may_come_again(self, store: Store) -> None:
        await store.mark(mark(nonce="1"))
        assert await store.mark(mark(expected="1", body=None))
        assert await records(store) == {}
        assert await store.mark(mark(nonce="2"))

    async def test_the_soonest_come_first_and_those_that_are_never_due_last(self, store: Store) -> None:
        for name, due in (("w:c", None), ("w:b", START + 2), ("w:a", START + 1), ("v:d", START)):
            await store.mark(mark(name, due=due))
        assert list(await records(store)) == ["v:d", "w:a", "w:b", "w:c"]
        assert list(await records(store, workflows=["w"])) == ["w:a", "w:b", "w:c"]
        assert list(await records(store, workflows=["w", "v"], limit=2)) == ["v:d", "w:a"]
        assert list(await records(store, limit=10)) == ["v:d", "w:a", "w:b"]
        assert await records(store, workflows=[]) == await records(store, workflows=["x"]) == {}

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    async def test_a_record_is_due_when_what_it_awaits_is_over(self, store: Store, status: str) -> None:
        await create(store, "e")
        await store.mark(mark(due=START + 60, awaits="e"))
        assert (await records(store, limit=1))["w:daily"].due == START + 60
        await advance(store, "e", status=status, finished_at=START)
        found = await records(store, limit=1)
        assert (found["w:daily"].due, found["w:daily"].awaits) == (0, "e")
        assert (await records(store))["w:daily"].due == 0

    async def test_one_that_is_never_due_is_when_what_it_awaits_is_deleted(self, store: Store) -> None:
        await idle(store, "e", status="halted")
        await store.mark(mark(due=None, awaits="e"))
        assert await records(store, workflows=["w"], limit=1) == {}
        await store.remove("e")
        assert (await records(store, workflows=["w"], limit=1))["w:daily"].due == 0

    async def test_an_execution_is_created_with_its_mark(self, store: Store) -> None:
        await store.mark(mark(nonce="1", due=START))
        await store.commit(creation("tick", mark=mark(expected="1", nonce="2", due=START + 60, body="after")))
        assert (await row_of(store, "tick")).status == "running"
        found = (await records(store))["w:daily"]
        assert (found.nonce, found.due, found.body) == ("2", START + 60, "after")

    async def test_nothing_is_created_where_the_mark_does_not_apply(self, store: Store) -> None:
        await store.mark(mark(nonce="2", body="as it was"))
        with pytest.raises(LeaseLost):
            await store.commit(creation("tick", mark=mark(expected="1", nonce="3")))
        with pytest.raises(LeaseLost):
            await store.commit(creation("tick", mark=mark("w:unknown", expected="1", nonce="3")))
        assert await store.row("tick") is None
        assert {row.id: row.body for row in (await records(store)).values()} == {"w:daily": "as it was"}

    async def test_nothing_is_marked_where_the_execution_exists(self, store: Store) -> None:
        await create(store, "tick")
        await store.mark(mark(nonce="1", body="as it was"))
        with pytest.raises(ConflictError):
            await store.commit(creation("tick", mark=mark(expected="1", nonce="2")))
        assert (await records(store))["w:daily"].body == "as it was"

    async def test_a_tick_that_was_started_is_not_started_again_when_its_execution_is_gone(self, store: Store) -> None:
        await store.mark(mark(nonce="1"))
        late = creation("tick", mark=mark(expected="1", nonce="2"), lease_ttl=None)
        await store.commit(late)
        await store.remove("tick")
        with pytest.raises(LeaseLost):
            await store.commit(late)
        assert await store.row("tick") is None

    async def test_of_many_who_start_a_tick_at_once_one_does(self, store: Store, other: Store) -> None:
        await store.mark(mark(nonce="1"))
        started = [
            where.commit(creation(f"tick{number}", mark=mark(expected="1", nonce=f"2.{number}")))
            for number in range(10)
            for where in (store, other)
        ]
        outcomes = await asyncio.gather(*started, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Committed"] + ["LeaseLost"] * 19
        assert len(await store.execution_ids()) == 1

    async def test_a_tick_that_fails_keeps_no_other_commit_of_its_batch_from_landing(self, store: Store) -> None:
        await create(store, "before")
        await store.mark(mark(nonce="1"))
        outcomes = await asyncio.gather(
            store.commit(creation("stale", mark=mark(expected="0", nonce="x"))),
            store.commit(creation("plain")),
            store.commit(creation("tick", mark=mark(expected="1", nonce="2"))),
            store.commit(creation("again", mark=mark(expected="1", nonce="3"))),
            return_exceptions=True,
        )
        assert [type(outcome).__name__ for outcome in outcomes] == ["LeaseLost", "Committed", "Committed", "LeaseLost"]
        assert sorted(await store.execution_ids()) == ["before", "plain", "tick"]

    async def test_an_execution_joins_a_line_with_its_mark_or_not_at_all(self, store: Store) -> None:
        await store.mark(mark(nonce="1"))
        first = creation("a", slot=Slot(key="k"), lease_ttl=None, mark=mark(expected="1", nonce="2"))
        await store.commit(first)
        with pytest.raises(KeyTaken):
            await store.commit(creation("b", slot=Slot(key="k"), mark=mark(expected="2", nonce="3")))
        with pytest.raises(LeaseLost):
            await store.commit(creation("b", slot=Slot(key="k", waits=True), mark=mark(expected="1", nonce="3")))
        assert [one.execution_id for one in await store.line("k")] == ["a"]
        assert (await records(store))["w:daily"].nonce == "2"
        waits = creation("b", slot=Slot(key="k", waits=True), lease_ttl=None, mark=mark(expected="2", nonce="3"))
        await store.commit(waits)
        assert [(one.execution_id, one.holds) for one in await store.line("k")] == [("a", True), ("b", False)]
        assert (await records(store))["w:daily"].nonce == "3"

    async def test_the_definition_of_a_record_is_kept_as_long_as_it_is(self, store: Store) -> None:
        await store.mark(mark(nonce="1", definition_hash="one", definition="first"))
        await create(store, "e", new={"definition_hash": "one", "definition": "first"}, lease_ttl=None)
        await store.remove("e")
        assert await store.definition("one") == "first"
        await store.mark(mark(expected="1", nonce="2", definition_hash="two", definition="second"))
        await store.mark(mark(expected="2", nonce="3", definition_hash="two"))
        assert await store.definition("two") == "second"

    async def test_their_time_is_the_stores(self, store: Store, clock: SettableClock) -> None:
        clock.time += 5
        assert await store.schedules() == (START + 5, [])
