"""Queues with limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable_flow.stores.base import QueueLimits, QueueRow, Store, Stored
from durable_flow.testing.contract.build import ANY, START, SettableClock, advance, create, idle, row_of


def limits(concurrency: int | None = None, rate: int | None = None, period: float = 60.0) -> str:
    """Limits as a store keeps them."""
    values = "null" if concurrency is None else concurrency, "null" if rate is None else rate
    return f"[{values[0]},{values[1]},{period}]"


async def taken(store: Store, owner: str = "you", *, limit: int = 10, ttl: float = 30, **wanted: Any) -> list[str]:
    return [one.row.id for one in await store.take(owner, ttl=ttl, limit=limit, **wanted)]


async def waiting(store: Store, *names: str, queue: str | None = "mail", **new: Any) -> None:
    """Pending executions of a queue, in the order in which they are to begin."""
    for number, name in enumerate(names):
        await idle(store, name, status="pending", wake_at=START - 100 + number, new={"queue": queue} | new)


async def end(store: Store, name: str, status: str = "completed", **changes: Any) -> None:
    finished = None if status == "halted" else START
    await advance(store, name, status=status, finished_at=finished, wake_at=None, release=True, **changes)


async def under_way(store: Store, queue: str | None = "mail") -> int:
    return (await store.queues([queue]))[queue].under_way


class Limiting:
    """Of a queue with limits no more begins than they say; what goes on, goes on."""

    @pytest.mark.parametrize("queue", ["mail", ".", "a b", "ü:{x}*%"])
    async def test_no_more_begin_than_may_be_under_way(self, store: Store, queue: str) -> None:
        await store.set_queue(queue, "declared", limits(2))
        await waiting(store, "a", "b", "c", queue=queue)
        await waiting(store, "z", queue="other")
        assert sorted(await taken(store)) == ["a", "b", "z"]
        assert await taken(store, queues=[queue]) == await taken(store) == []
        assert (await row_of(store, "c")).owner is None

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "halted"])
    async def test_one_that_ends_or_waits_makes_room(self, store: Store, status: str) -> None:
        await store.set_queue("mail", "declared", limits(1))
        await waiting(store, "a", "b", "c")
        assert await taken(store) == ["a"]
        await advance(store, "a", status="running")
        assert await taken(store) == []
        await end(store, "a", status)
        assert await store.next_due() == -99
        assert await taken(store) == ["b"]

    async def test_one_that_goes_on_takes_the_place_of_one_that_would_begin(self, store: Store) -> None:
        await store.set_queue("mail", "declared", limits(2))
        await waiting(store, "a", "b", "c", "d")
        assert await taken(store) == ["a", "b"]
        for name in "ab":
            await advance(store, name, status="halted", wake_at=START - 50, release=True)
        assert await taken(store, limit=3) == ["a", "b"]
        await end(store, "a")
        assert await taken(store) == ["c"]

    async def test_one_that_is_given_back_or_deleted_makes_room(self, store: Store) -> None:
        await store.set_queue("mail", "declared", limits(1))
        await waiting(store, "a", "b")
        await store.take("you", ttl=30, limit=1)
        await store.release("a", owner="you", generation=2)
        assert await under_way(store) == 0
        assert await taken(store) == ["a"]
        await store.release("a", owner="you", generation=3)
        assert await store.remove("a")
        assert await taken(store) == ["b"]

    async def test_what_began_without_a_worker_counts_too(self, store: Store) -> None:
        await store.set_queue("mail", "declared", limits(2))
        await create(store, "called", new={"queue": "mail"})
        await waiting(store, "claimed", "a", "b")
        await store.claim("claimed", owner="me", ttl=30, statuses=ANY)
        assert await under_way(store) == 2
        assert await taken(store) == []
        await end(store, "called")
        assert await taken(store) == ["a"]

    async def test_what_nobody_drives_any_more_counts_until_somebody_ends_it(
        self, store: Store, clock: SettableClock
    ) -> None:
        await store.set_queue("mail", "declared", limits(1))
        await waiting(store, "a", "b")
        await taken(store)
        await advance(store, "a", status="running")
        clock.time += 1000
        assert await under_way(store) == 1
        assert await taken(store, "other") == ["a"]
        await store.release("a", owner="other", generation=3)
        assert await taken(store, "third") == ["a"]

    async def test_what_was_taken_and_lost_before_it_began_keeps_its_place(
        self, store: Store, clock: SettableClock
    ) -> None:
        await store.set_queue("mail", "declared", limits(1))
        await waiting(store, "a", "b")
        assert await taken(store) == ["a"]
        assert await store.next_due() == 30
        clock.time += 31
        assert await taken(store, "other") == ["a"]
        assert await taken(store, "third") == []

    async def test_what_goes_on_is_not_refused(self, store: Store) -> None:
        await store.set_queue("mail", "declared", limits(1))
        await waiting(store, "a")
        assert await taken(store) == ["a"]
        await idle(store, "halted", status="halted", wake_at=START, new={"queue": "mail"})
        await idle(store, "running", new={"queue": "mail"})
        assert sorted(await taken(store)) == ["halted", "running"]
        assert await under_way(store) == 3

    async def test_a_child_takes_no_place_and_waits_for_none(self, store: Store) -> None:
        await store.set_queue("mail", "declared", limits(1, 1))
        await waiting(store, "parent", "next")
        assert await taken(store) == ["parent"]
        await create(store, "driven", new={"queue": "mail", "parent_id": "parent"})
        await waiting(store, "child", parent_id="parent")
        assert await store.next_due() == -100
        assert await under_way(store) == 1
        assert await taken(store) == ["child"]
        assert await under_way(store) == 1

    async def test_a_full_queue_takes_no_place_in_a_batch(self, store: Store) -> None:
        await store.set_queue("mail", "declared", limits(2))
        await waiting(store, *(f"m{number}" for number in range(20)), priority=1)
        await waiting(store, "a", "b", queue="other", priority=9)
        assert sorted(await taken(store, limit=3)) == ["a", "m0", "m1"]
        assert await taken(store, limit=3) == ["b"]

    async def test_of_a_queue_with_limits_the_most_urgent_begin_first(self, store: Store) -> None:
        await store.set_queue("mail", "declared", limits(3))
        await waiting(store, "late", "later", priority=9)
        await waiting(store, "soon", "sooner", priority=1)
        await waiting(store, "other", queue="other", priority=5)
        assert await taken(store) == ["soon", "sooner", "other", "late"]

    async def test_no_more_begin_within_a_period_than_the_rate_says(self, store: Store, clock: SettableClock) -> None:
        await store.set_queue("mail", "declared", limits(None, 2, 60))
        await waiting(store, *"abcdef")
        assert await taken(store, limit=1, ttl=500) == ["a"]
        clock.time += 30
        assert await taken(store, ttl=500) == ["b"]
        for name in "ab":
            await end(store, name)
        assert await store.next_due() == 30
        clock.time += 29
        assert await taken(store) == []
        clock.time = START + 60
        assert (await store.next_due() or 0) <= 0
        assert await taken(store, ttl=500) == ["c"]
        assert await store.next_due() == 30
        clock.time += 60
        assert await taken(store) == ["d", "e"]

    async def test_the_rate_counts_what_was_deleted(self, store: Store, clock: SettableClock) -> None:
        await store.set_queue("mail", "declared", limits(None, 1, 60))
        await waiting(store, "a", "b")
        assert await taken(store, limit=1) == ["a"]
        await end(store, "a")
        assert await store.remove("a")
        await waiting(store, "a")
        assert await taken(store) == []

    async def test_what_was_given_back_before_it_began_is_not_counted_by_the_rate(self, store: Store) -> None:
        await store.set_queue("mail", "declared", limits(None, 1, 60))
        await waiting(store, "a", "b")
        assert await taken(store) == ["a"]
        await store.release("a", owner="you", generation=2)
        assert await taken(store) == ["a"]
        await advance(store, "a", status="running")
        await store.release("a", owner="you", generation=3)
        assert await taken(store) == ["a"]

    async def test_what_is_not_due_before_the_rate_allows_it_is_due_at_its_time(self, store: Store) -> None:
        await store.set_queue("mail", "declared", limits(None, 1, 60))
        await waiting(store, "a")
        assert await taken(store, ttl=1000) == ["a"]
        await idle(store, "b", status="pending", wake_at=START + 100, new={"queue": "mail"})
        assert await store.next_due() == 100

    async def test_of_a_full_queue_nothing_is_due_before_something_happens(self, store: Store) -> None:
        await store.set_queue("mail", "declared", limits(1))
        await waiting(store, "a", "b")
        assert await taken(store, limit=1, ttl=500) == ["a"]
        assert await store.next_due() == await store.next_due(queues=["mail"]) == 500
        await idle(store, "z", status="pending", wake_at=START + 60, new={"queue": "other"})
        assert await store.next_due() == 60

    async def test_what_was_decided_counts_more_than_what_was_declared(self, store: Store) -> None:
        assert await store.set_queue("mail", "declared", limits(1))
        assert await store.set_queue("mail", "decided", limits(2))
        assert not await store.set_queue("mail", "decided", limits(2))
        await waiting(store, *"abcdef")
        assert await taken(store) == ["a", "b"]
        assert await store.set_queue("mail", "declared", limits(4))
        assert await taken(store) == []
        assert await store.set_queue("mail", "decided", None)
        assert not await store.set_queue("mail", "decided", None)
        assert await taken(store) == ["c", "d"]
        assert await store.set_queue("mail", "decided", limits())
        assert await taken(store) == ["e", "f"]

    async def test_limits_count_what_was_under_way_before_there_were_any(self, store: Store) -> None:
        await waiting(store, "a", "b", "c", "d")
        assert await taken(store, limit=2) == ["a", "b"]
        await store.set_queue("mail", "declared", limits(3))
        assert await taken(store) == ["c"]

    async def test_a_held_queue_with_limits_begins_nothing(self, store: Store) -> None:
        await store.set_queue("mail", "declared", limits(5))
        await store.set_queue("mail", "hold", "{}")
        await waiting(store, "a")
        assert await taken(store) == []
        assert await store.next_due() is None
        await store.set_queue("mail", "hold", None)
        assert await taken(store) == ["a"]

    async def test_a_taker_begins_no_more_of_a_queue_than_it_has_room_for(self, store: Store) -> None:
        await waiting(store, "a", "b", "c")
        await waiting(store, "z", queue="other")
        assert sorted(await taken(store, room={"mail": 1}, ttl=500)) == ["a", "z"]
        assert await taken(store, room={"mail": 0}) == []
        assert await store.next_due(room={"mail": 0}) == 500
        assert await store.next_due(room={"mail": 1}) == -99
        await store.set_queue("mail", "declared", limits(2))
        assert await taken(store, room={"mail": 5}) == ["b"]

    async def test_of_many_takers_at_once_no_more_begin_than_may(self, store: Store) -> None:
        await store.set_queue("mail", "declared", limits(5))
        await store.set_queue("print", "declared", limits(None, 3, 60))
        await waiting(store, *(f"m{number}" for number in range(20)))
        await waiting(store, *(f"p{number}" for number in range(20)), queue="print")
        names: list[str] = []
        for _ in range(10):  # a taker may leave out a queue that another one looks at
            shares = await asyncio.gather(*(taken(store, f"w{number}", limit=4) for number in range(8)))
            names += [name for share in shares for name in share]
        assert sorted(names) == ["m0", "m1", "m2", "m3", "m4", "p0", "p1", "p2"]

    async def test_queues_are_told_with_what_is_set_of_them_and_what_is_in_them(self, store: Store) -> None:
        assert await store.queues() == {}
        assert await store.queues(["mail", None]) == {"mail": QueueRow(), None: QueueRow()}
        await waiting(store, "a", "b", "c")
        await waiting(store, "x", "y", queue=None)
        await idle(store, "halted", status="halted", new={"queue": "mail"})
        await create(store, "driven", new={"queue": "print"})
        await create(store, "child", new={"queue": "print", "parent_id": "driven"})
        await create(store, "over", status="completed", finished_at=START, new={"queue": "old"})
        for name in "a", "x":
            assert isinstance(await store.claim(name, owner="me", ttl=30, statuses=ANY), Stored)
        await store.set_queue("mail", "declared", limits(7, 100))
        await store.set_queue("mail", "decided", limits(2))
        await store.set_queue("none", "hold", "{}")
        assert await store.queues() == {
            None: QueueRow(pending=1, under_way=1),
            "mail": QueueRow(declared=limits(7, 100), decided=limits(2), pending=2, under_way=1),
            "none": QueueRow(hold="{}"),
            "print": QueueRow(under_way=1),
        }
        assert list(await store.queues()) == [None, "mail", "none", "print"]
        assert (await store.queues(["mail"]))["mail"].limits == QueueLimits(concurrency=2, period=60.0)
