"""Queues that are held back."""

from __future__ import annotations

import pytest

from durable_flow.stores.base import Blob, Store, Stored
from durable_flow.testing.contract.build import ANY, START, SettableClock, create, idle, row_of


async def taken(store: Store, *, queues: list[str | None] | None = None, limit: int = 10) -> list[str]:
    return [one.row.id for one in await store.take("you", ttl=30, limit=limit, queues=queues)]


async def holds(store: Store) -> dict[str | None, Blob]:
    return {queue: row.hold for queue, row in (await store.queues()).items() if row.hold is not None}


class Holding:
    """Of a queue that is held nothing begins; what began goes on."""

    @pytest.mark.parametrize("queue", ["mail", None, "", ".", "a b", "ü:{x}*%"])
    async def test_nothing_pending_is_taken_from_a_queue_that_is_held(self, store: Store, queue: str | None) -> None:
        for name, its in (("held", queue), ("free", "other")):
            await idle(store, name, status="pending", new={"queue": its})
        assert await store.set_queue(queue, "hold", "{}")
        assert await taken(store) == ["free"]
        assert await taken(store, queues=[queue]) == []
        assert await taken(store, queues=[queue, "other"]) == []
        assert (await row_of(store, "held")).owner is None

    async def test_a_queue_that_is_let_go_is_served_again(self, store: Store) -> None:
        await idle(store, status="pending", new={"queue": "mail"})
        await store.set_queue("mail", "hold", "{}")
        assert await store.set_queue("mail", "hold", None)
        assert await store.next_due() == await store.next_due(queues=["mail"]) == 0
        assert await taken(store) == ["e"]

    async def test_what_began_goes_on(self, store: Store, clock: SettableClock) -> None:
        await store.set_queue("mail", "hold", "{}")
        await idle(store, "running", new={"queue": "mail"})
        await idle(store, "halted", status="halted", wake_at=START, new={"queue": "mail"})
        await create(store, "lost", new={"queue": "mail"})
        assert sorted(await taken(store)) == ["halted", "running"]
        clock.time += 31
        assert sorted(await taken(store, queues=["mail"])) == ["halted", "lost", "running"]

    async def test_what_was_taken_and_lost_before_it_began_is_not_taken_again(
        self, store: Store, clock: SettableClock
    ) -> None:
        await idle(store, status="pending", new={"queue": "mail"})
        assert await taken(store) == ["e"]
        await store.set_queue("mail", "hold", "{}")
        clock.time += 31
        assert await taken(store) == await taken(store, queues=["mail"]) == []
        assert await store.next_due() is None
        await store.set_queue("mail", "hold", None)
        assert await taken(store) == ["e"]

    async def test_nothing_pending_of_it_is_due(self, store: Store) -> None:
        await idle(store, "now", status="pending", new={"queue": "mail"})
        await idle(store, "later", status="pending", wake_at=START + 60, new={"queue": "other"})
        await store.set_queue("mail", "hold", "{}")
        assert await store.next_due() == 60
        assert await store.next_due(queues=["mail"]) is None
        await store.set_queue("other", "hold", "{}")
        assert await store.next_due() is None

    async def test_what_is_held_takes_no_place_in_a_batch(self, store: Store) -> None:
        for number in range(20):
            await idle(store, f"held{number}", status="pending", new={"queue": "mail", "priority": 1})
        await idle(store, "free", status="pending", new={"queue": "other", "priority": 9})
        await store.set_queue("mail", "hold", "{}")
        assert await taken(store, limit=5) == ["free"]

    async def test_one_of_it_can_be_claimed_all_the_same(self, store: Store) -> None:
        await idle(store, status="pending", new={"queue": "mail"})
        await store.set_queue("mail", "hold", "{}")
        assert isinstance(await store.claim("e", owner="me", ttl=30, statuses=ANY), Stored)

    @pytest.mark.parametrize("body", ["{}", "ü\x00", b"\x00\xff bytes"])
    async def test_the_held_queues_are_told_with_what_was_kept(self, store: Store, body: Blob) -> None:
        assert await holds(store) == {}
        for queue in "mail", None:
            await store.set_queue(queue, "hold", body)
        assert await holds(store) == {"mail": body, None: body}
        await store.set_queue(None, "hold", None)
        assert await holds(store) == {"mail": body}

    async def test_the_first_who_holds_a_queue_counts(self, store: Store) -> None:
        assert await store.set_queue("mail", "hold", "first")
        assert not await store.set_queue("mail", "hold", "second")
        assert await holds(store) == {"mail": "first"}
        assert await store.set_queue("mail", "hold", None)
        assert not await store.set_queue("mail", "hold", None)
