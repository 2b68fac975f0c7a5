"""What somebody must look at, and when."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable_flow import LeaseLost
from durable_flow.stores.base import Store, Stored
from durable_flow.testing.contract.build import (
    ANY,
    START,
    SettableClock,
    answer,
    append,
    create,
    following,
    idle,
    opening,
    row_of,
    stored,
)


async def taken(store: Store, owner: str = "you", *, limit: int = 10, **wanted: Any) -> list[str]:
    return [one.row.id for one in await store.take(owner, ttl=30, limit=limit, **wanted)]


class DueWork:
    """Executions that somebody must look at are found when it is time, by one worker each."""

    async def test_what_waits_without_a_time_is_never_due(self, store: Store, clock: SettableClock) -> None:
        await idle(store, status="halted")
        clock.time += 1e9
        assert await taken(store) == []
        assert await store.next_due() is None

    async def test_what_waits_is_due_at_its_time(self, store: Store, clock: SettableClock) -> None:
        await idle(store, status="halted", wake_at=START + 10)
        assert await store.next_due() == 10
        clock.time += 9.9
        assert await taken(store) == []
        clock.time = START + 10
        assert await store.next_due() == 0
        assert await taken(store) == ["e"]

    async def test_what_is_driven_is_due_when_the_lease_runs_out(self, store: Store, clock: SettableClock) -> None:
        await create(store, lease_ttl=30, wake_at=START + 5)
        assert await store.next_due() == 30
        clock.time += 29.9
        assert await taken(store) == []
        clock.time = START + 30
        assert await taken(store) == ["e"]

    async def test_what_runs_without_an_owner_is_due_at_once(self, store: Store) -> None:
        await idle(store, wake_at=START + 1000)
        due = await store.next_due()
        assert due is not None
        assert due <= 0
        assert await taken(store) == ["e"]

    async def test_what_is_released_while_it_runs_is_due_at_once(self, store: Store) -> None:
        await create(store)
        assert await taken(store) == []
        await store.release("e", owner="me", generation=1)
        assert await taken(store) == ["e"]

    async def test_what_is_released_with_unread_messages_is_due_at_once(self, store: Store) -> None:
        await idle(store, status="halted")
        await store.claim("e", owner="me", ttl=30, statuses=ANY)
        await append(store, kind="note")
        await store.release("e", owner="me", generation=2)
        assert await store.next_due() == 0
        assert await taken(store) == ["e"]

    async def test_a_release_of_an_old_lease_makes_nothing_due(self, store: Store, clock: SettableClock) -> None:
        await idle(store, status="halted")
        await store.claim("e", owner="me", ttl=30, statuses=ANY)
        clock.time += 31
        await store.claim("e", owner="you", ttl=30, statuses=ANY)
        await append(store, kind="note")
        await store.release("e", owner="me", generation=2)
        assert await store.next_due() == 30

    async def test_what_is_pending_is_due_at_once_or_at_its_time(self, store: Store, clock: SettableClock) -> None:
        await idle(store, "now", status="pending")
        await idle(store, "later", status="pending", wake_at=START + 60)
        assert await taken(store) == ["now"]
        clock.time += 59.9
        assert await taken(store, "other") == ["now"]  # its lease ran out
        clock.time = START + 60
        assert await taken(store, "third") == ["later"]

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    async def test_what_is_over_is_never_due(self, store: Store, clock: SettableClock, status: str) -> None:
        await idle(store, "free", status=status, finished_at=START, wake_at=START)
        await create(store, "held", status=status, finished_at=START)
        clock.time += 1000
        assert await taken(store) == []
        assert await store.next_due() is None

    async def test_a_message_to_what_nobody_drives_makes_it_due(self, store: Store) -> None:
        await idle(store, status="halted", wake_at=START + 1000)
        await append(store, kind="note")
        assert await store.next_due() == 0
        assert await taken(store) == ["e"]

    async def test_a_message_that_is_not_accepted_makes_nothing_due(self, store: Store) -> None:
        await idle(store, status="halted", opened=[opening()])
        await answer(store, wait_id="another")
        assert await store.next_due() is None

    async def test_taking_gives_the_lease_and_raises_the_generation(self, store: Store) -> None:
        await idle(store, status="halted", wake_at=START, entries=[(1, '"started"')], sets=[("", "x", 1)])
        (found,) = await store.take("you", ttl=12, limit=10)
        assert (found.row.owner, found.row.lease_until, found.row.generation) == ("you", START + 12, 2)
        assert (found.sets, found.entries) == ([("", "x", 1)], {1: '"started"'})
        assert (await row_of(store)).owner == "you"
        with pytest.raises(LeaseLost):
            await store.commit(following(await row_of(store), generation=1))

    async def test_taking_after_a_lost_lease_counts_a_recovery(self, store: Store, clock: SettableClock) -> None:
        await create(store)
        clock.time += 31
        (found,) = await store.take("you", ttl=30, limit=1)
        assert found.row.recoveries == 1

    async def test_firing_a_timer_is_no_recovery(self, store: Store) -> None:
        await idle(store, status="halted", wake_at=START)
        (found,) = await store.take("you", ttl=30, limit=1)
        assert found.row.recoveries == 0

    async def test_no_more_are_taken_than_asked_for_and_the_longest_due_come_first(self, store: Store) -> None:
        for name, late in ("b", 3), ("d", 1), ("a", 4), ("c", 2):
            await idle(store, name, status="halted", wake_at=START - late)
        assert await taken(store, limit=3) == ["a", "b", "c"]
        assert await taken(store, limit=3) == ["d"]

    async def test_what_began_comes_before_what_is_pending_and_that_by_priority(self, store: Store) -> None:
        for name, priority, time in ("low", 9, 1), ("late", 1, 3), ("urgent", 1, 2):
            await idle(store, name, status="pending", wake_at=START - 10 + time, new={"priority": priority})
        await idle(store, "timer", status="halted", wake_at=START)
        assert await taken(store) == ["timer", "urgent", "late", "low"]

    async def test_only_the_queues_that_are_asked_for_are_served(self, store: Store) -> None:
        for queue in "a", "b", None:
            await idle(store, f"{queue}-waits", status="halted", wake_at=START, new={"queue": queue})
            await idle(store, f"{queue}-new", status="pending", new={"queue": queue})
        assert await taken(store, queues=["c"]) == []
        assert await store.next_due(queues=["c"]) is None
        assert await taken(store, queues=["a", "c"]) == ["a-waits", "a-new"]
        assert await taken(store, queues=[None]) == ["None-waits", "None-new"]
        assert await store.next_due(queues=["b"]) == 0
        assert await taken(store) == ["b-waits", "b-new"]

    async def test_definitions_that_cannot_be_served_are_left_alone(self, store: Store) -> None:
        for name, status in ("a", "halted"), ("b", "pending"):
            await idle(store, name, status=status, wake_at=START, new={"definition_hash": f"hash-{name}"})
        assert await taken(store, without=["hash-a", "hash-b"]) == []
        assert await store.next_due(without=["hash-a", "hash-b"]) is None
        assert await taken(store, without=["hash-a"]) == ["b"]
        assert await store.next_due(without=["other"]) == 0

    async def test_of_many_takers_each_gets_others(self, store: Store) -> None:
        for number in range(40):
            await idle(store, f"e{number}", status="halted" if number % 2 else "pending", wake_at=START)
        shares = await asyncio.gather(*(store.take(f"w{number}", ttl=30, limit=5) for number in range(12)))
        names = [one.row.id for share in shares for one in share]
        assert sorted(names) == sorted(f"e{number}" for number in range(40))

    async def test_claiming_closes_waits_whose_time_is_up(self, store: Store, clock: SettableClock) -> None:
        waits = [opening("later", 1, START + 20), opening("due", 2, START + 10), opening("never")]
        await idle(store, status="halted", opened=waits, wake_at=START + 10)
        claimed = await store.claim("e", owner="me", ttl=1, statuses=ANY)
        assert isinstance(claimed, Stored)
        assert claimed.late == []
        clock.time += 10
        (found,) = await store.take("you", ttl=30, limit=1)
        assert found.late == ["due"]
        assert await answer(store, "a", wait_id="due") == "closed"
        assert await answer(store, "b", wait_id="later") == "accepted"

    async def test_a_wait_that_time_closed_stays_late_until_a_commit_takes_it_away(
        self, store: Store, clock: SettableClock
    ) -> None:
        await idle(store, status="halted", opened=[opening("due", 1, START)], wake_at=START)
        await store.take("you", ttl=30, limit=1)
        clock.time += 31
        (found,) = await store.take("other", ttl=30, limit=1)
        assert found.late == ["due"]
        await store.commit(following(found.row, closed=["due"]))
        assert (await stored(store)).late == []

    async def test_what_was_answered_in_time_is_not_late(self, store: Store, clock: SettableClock) -> None:
        await idle(store, status="halted", opened=[opening("due", 1, START + 10)], wake_at=START + 10)
        assert await answer(store, wait_id="due") == "accepted"
        clock.time += 10
        (found,) = await store.take("you", ttl=30, limit=1)
        assert found.late == []
        assert len(found.inbox) == 1

    async def test_the_end_of_a_child_does_not_make_a_wait_less_late(self, store: Store, clock: SettableClock) -> None:
        await idle(store, status="halted", opened=[opening("due", 1, START)], wake_at=START)
        await store.take("you", ttl=30, limit=1)
        assert (await append(store, kind="child", wait_id="due")).outcome == "accepted"
        clock.time += 31
        (found,) = await store.take("other", ttl=30, limit=1)
        assert (found.late, len(found.inbox)) == (["due"], 1)
