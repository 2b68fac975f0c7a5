"""Keys that so many executions may hold at once, and who waits for them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable_flow import ConflictError, KeyTaken, LeaseLost
from durable_flow.stores.base import NEVER, Busy, Slot, Store, Stored
from durable_flow.testing.contract.build import (
    ANY,
    START,
    SettableClock,
    advance,
    append,
    create,
    creation,
    following,
    idle,
    message,
    row_of,
)

KEY = "w:customer 7/ü"


async def enter(store: Store, execution_id: str, *, key: str = KEY, limit: int = 1, **changes: Any) -> None:
    """Creates an execution that is pending, and waits for its turn where it must."""
    given: dict[str, Any] = {"status": "pending", "slot": Slot(key=key, limit=limit, waits=True)}
    await idle(store, execution_id, **given | changes)


async def ends(store: Store, execution_id: str, *, key: str = KEY) -> list[str]:
    """Ends an execution; who holds its key then."""
    row = await row_of(store, execution_id)
    over = following(row, status="completed", finished_at=START + 1, wake_at=None, release=True, frees=key)
    return list((await store.commit(over)).promoted)


async def line(store: Store, key: str = KEY) -> list[str]:
    """Who is in a line, those who hold the key with a star."""
    return [f"{one.execution_id}*" if one.holds else one.execution_id for one in await store.line(key)]


async def taken(store: Store) -> list[str]:
    return [one.row.id for one in await store.take("you", ttl=30, limit=10)]


class Lines:
    """Of the executions with a key, so many begin as may; the others begin in order, each as soon as one has ended."""

    async def test_so_many_hold_a_key_as_may_and_the_others_wait(self, store: Store) -> None:
        for name in "abc":
            await enter(store, name, limit=2)
        assert await line(store) == ["a*", "b*", "c"]
        assert await taken(store) == ["a", "b"]
        assert (await row_of(store, "c")).wake_at == NEVER
        assert await store.next_due() == 30

    async def test_who_waits_is_not_due_and_cannot_be_claimed(self, store: Store, clock: SettableClock) -> None:
        await enter(store, "a")
        await enter(store, "b")
        await taken(store)
        assert isinstance(await store.claim("b", owner="me", ttl=30, statuses=ANY), Busy)
        await ends(store, "a")
        assert isinstance(await store.claim("b", owner="me", ttl=30, statuses=ANY), Stored)

    async def test_waiting_is_due_never(self, store: Store, clock: SettableClock) -> None:
        await create(store, "a", slot=Slot(key=KEY))
        await enter(store, "b")
        await advance(store, "a", status="halted", release=True)
        assert await store.next_due() is None
        clock.time += 1e9
        assert await taken(store) == []

    async def test_the_end_of_one_lets_the_next_one_in_the_order_in_which_they_came(self, store: Store) -> None:
        for name in "cabd":
            await enter(store, name)
        for ended, following_ones in ("c", ["a"]), ("a", ["b"]), ("b", ["d"]), ("d", []):
            assert await taken(store) == [ended]
            assert await ends(store, ended) == following_ones
        assert await line(store) == []

    async def test_the_next_one_is_due_from_the_end_of_the_one_before(self, store: Store, clock: SettableClock) -> None:
        await enter(store, "a")
        await enter(store, "b")
        clock.time += 5
        await ends(store, "a")
        assert (await row_of(store, "b")).wake_at == START + 5
        assert await store.next_due() == 0

    async def test_who_is_to_be_let_in_at_once_or_not_at_all_is_refused(self, store: Store) -> None:
        await enter(store, "a", limit=2)
        await enter(store, "b", limit=2)
        with pytest.raises(KeyTaken) as refused:
            await store.commit(creation("c", slot=Slot(key=KEY, limit=2)))
        assert (refused.value.key, refused.value.holders) == (KEY, ["a", "b"])
        assert await store.row("c") is None
        assert await line(store) == ["a*", "b*"]

    async def test_nobody_overtakes_who_waits(self, store: Store) -> None:
        await enter(store, "a")
        await enter(store, "b")
        with pytest.raises(KeyTaken):
            await store.commit(creation("c", slot=Slot(key=KEY, limit=5)))
        await enter(store, "d", limit=5)
        assert await line(store) == ["a*", "b", "d"]
        assert await ends(store, "a") == ["b", "d"]

    async def test_a_smaller_limit_waits_until_so_few_hold_the_key(self, store: Store) -> None:
        for name in "abc":
            await enter(store, name, limit=3)
        await enter(store, "d", limit=1)
        assert await ends(store, "a") == await ends(store, "c") == []
        assert await ends(store, "b") == ["d"]

    async def test_keys_do_not_meet(self, store: Store) -> None:
        await enter(store, "a")
        await enter(store, "b", key=f"{KEY} ")
        assert await line(store) == ["a*"]
        assert await line(store, f"{KEY} ") == ["b*"]
        assert await ends(store, "b", key=f"{KEY} ") == []
        assert await line(store) == ["a*"]

    async def test_what_is_there_already_is_a_conflict_and_keeps_its_place(self, store: Store) -> None:
        await enter(store, "a")
        with pytest.raises(ConflictError) as refused:
            await enter(store, "a")
        assert not isinstance(refused.value, KeyTaken)
        assert await line(store) == ["a*"]

    async def test_what_is_removed_leaves_its_place_to_the_next(self, store: Store) -> None:
        for name in "abc":
            await enter(store, name)
        await store.remove("b")
        await store.remove("a")
        assert await line(store) == ["c*"]
        assert await taken(store) == ["c"]

    async def test_who_leaves_while_it_waits_lets_nobody_in(self, store: Store) -> None:
        for name in "abc":
            await enter(store, name)
        await append(store, "cancel", kind="cancel", execution_id="b")
        assert await taken(store) == ["a", "b"]
        assert await ends(store, "b") == []
        assert await line(store) == ["a*", "c"]

    async def test_of_all_messages_only_a_cancellation_makes_it_due(self, store: Store) -> None:
        await create(store, "a", slot=Slot(key=KEY))
        await enter(store, "b")
        await append(store, "signal", kind="signal", execution_id="b")
        assert await taken(store) == []
        told = [(message("cancel", kind="cancel", execution_id="b"), "{}")]
        await advance(store, "a", messages=told)
        assert await taken(store) == ["b"]

    async def test_a_message_does_not_begin_what_is_to_begin_later(self, store: Store, clock: SettableClock) -> None:
        await idle(store, status="pending", wake_at=START + 60)
        assert (await append(store, kind="signal")).outcome == "accepted"
        assert isinstance(await store.claim("e", owner="me", ttl=30, statuses=ANY), Busy)
        assert await taken(store) == []
        assert await store.next_due() == 60
        clock.time += 60
        assert await taken(store) == ["e"]

    async def test_a_fenced_end_frees_nothing(self, store: Store) -> None:
        await create(store, "a", slot=Slot(key=KEY))
        await enter(store, "b")
        row = await row_of(store, "a")
        with pytest.raises(LeaseLost):
            await store.commit(following(row, generation=7, status="completed", finished_at=START, frees=KEY))
        assert await line(store) == ["a*", "b"]

    async def test_what_is_over_needs_a_place_to_go_on(self, store: Store) -> None:
        await create(store, "a", slot=Slot(key=KEY))
        await ends(store, "a")
        await enter(store, "b")
        row = await row_of(store, "a")
        again = following(row, status="running", finished_at=None, slot=Slot(key=KEY))
        with pytest.raises(KeyTaken) as refused:
            await store.commit(again)
        assert refused.value.holders == ["b"]
        assert (await row_of(store, "a")) == row
        await ends(store, "b")
        await store.commit(again)
        assert await line(store) == ["a*"]

    async def test_a_fenced_return_takes_no_place(self, store: Store) -> None:
        await create(store, "a", slot=Slot(key=KEY))
        await ends(store, "a")
        row = await row_of(store, "a")
        with pytest.raises(LeaseLost):
            await store.commit(following(row, version=row.version + 1, status="running", slot=Slot(key=KEY)))
        assert await line(store) == []

    async def test_who_says_whom_it_knows_is_refused_where_there_are_others(self, store: Store) -> None:
        await enter(store, "a")
        await enter(store, "b")
        with pytest.raises(KeyTaken):
            await enter(store, "c", slot=Slot(key=KEY, waits=True, known=["a", "x"]))
        assert await store.row("c") is None
        await enter(store, "c", slot=Slot(key=KEY, waits=True, known=["b", "a"]))
        assert await line(store) == ["a*", "b", "c"]

    async def test_until_it_begins_a_place_is_taken_and_then_it_is_not(
        self, store: Store, clock: SettableClock
    ) -> None:
        until_begun = Slot(key=KEY, until_begun=True)
        await idle(store, "a", status="pending", wake_at=START + 5, slot=until_begun)
        with pytest.raises(KeyTaken) as refused:
            await idle(store, "b", status="pending", slot=until_begun)
        assert refused.value.holders == ["a"]
        clock.time += 5
        assert await taken(store) == ["a"]
        await idle(store, "b", status="pending", wake_at=START + 9, slot=until_begun)
        assert await line(store) == ["b*"]
        assert await ends(store, "a") == []
        assert await line(store) == ["b*"]

    async def test_an_execution_that_nobody_has_taken_up_may_get_another_input(self, store: Store) -> None:
        row = await idle(store, status="pending", wake_at=START + 5)
        await store.commit(following(row, input='{"n":2}', wake_at=START + 9))
        changed = await row_of(store)
        assert (changed.input, changed.wake_at, changed.seq) == ('{"n":2}', START + 9, row.seq)
        assert (await store.take("you", ttl=30, limit=1)) == []

    async def test_of_many_who_come_at_once_so_many_hold_the_key_as_may(self, store: Store) -> None:
        names = [f"e{number}" for number in range(20)]
        await asyncio.gather(*(enter(store, name, limit=3) for name in names))
        waiting = await line(store)
        assert sorted(name.rstrip("*") for name in waiting) == sorted(names)
        assert [name.endswith("*") for name in waiting] == [True] * 3 + [False] * 17
        for _ in range(20):
            running = await taken(store)
            holders = [name for name in await line(store) if name.endswith("*")]
            assert len(holders) <= 3
            if not holders:
                break
            await asyncio.gather(*(ends(store, name) for name in running))
        assert await line(store) == []

    async def test_two_processes_let_in_no_more_than_one(self, store: Store, other: Store) -> None:
        attempts = [
            (store if number % 2 else other).commit(creation(f"e{number}", slot=Slot(key=KEY))) for number in range(10)
        ]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(isinstance(outcome, KeyTaken) for outcome in outcomes) == 9
        assert len(await line(store)) == 1

    async def test_ends_in_two_processes_let_in_one_each(self, store: Store, other: Store) -> None:
        for number in range(4):
            await create(store, f"held{number}", slot=Slot(key=KEY, limit=4))
        for number in range(6):
            await enter(store, f"e{number}", limit=4)
        let_in = await asyncio.gather(*(ends(store if number % 2 else other, f"held{number}") for number in range(4)))
        assert sorted(name for names in let_in for name in names) == ["e0", "e1", "e2", "e3"]
        assert await line(other) == ["e0*", "e1*", "e2*", "e3*", "e4", "e5"]
