"""Who drives an execution, until when, and what becomes of those who did."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from durable_flow import LeaseLost
from durable_flow.stores.base import Busy, Store, Stored
from durable_flow.testing.contract.build import (
    ANY,
    START,
    SettableClock,
    advance,
    append,
    create,
    following,
    idle,
    row_of,
    stored,
    without_lease,
)


class Leases:
    """One owner at a time, under a lease."""

    async def test_claiming_gives_the_lease_and_everything_to_go_on(self, store: Store) -> None:
        await idle(store, sets=[("", "x", 1)], frames=[("f", None, "{}")])
        await append(store, kind="note")
        claimed = await store.claim("e", owner="me", ttl=30, statuses=ANY)
        assert isinstance(claimed, Stored)
        assert (claimed.row.owner, claimed.row.lease_until, claimed.row.generation) == ("me", START + 30, 2)
        assert claimed == await stored(store)

    async def test_every_claim_raises_the_generation(self, store: Store, clock: SettableClock) -> None:
        await idle(store)
        generations = []
        for i in range(4):
            clock.time += 100
            claimed = await store.claim("e", owner=f"o{i}", ttl=30, statuses=ANY)
            assert isinstance(claimed, Stored)
            generations.append(claimed.row.generation)
        assert generations == [2, 3, 4, 5]

    async def test_claiming_changes_nothing_but_the_lease(self, store: Store) -> None:
        row = await idle(store)
        await store.claim("e", owner="me", ttl=30, statuses=ANY)
        assert without_lease(await row_of(store)) == without_lease(row)

    async def test_a_held_lease_cannot_be_claimed(self, store: Store) -> None:
        row = await create(store, owner="me", lease_ttl=30)
        busy = await store.claim("e", owner="you", ttl=30, statuses=ANY)
        assert busy == Busy(status="running", owner="me", lease_until=START + 30)
        assert await row_of(store) == row

    async def test_the_holder_cannot_claim_again(self, store: Store) -> None:
        await create(store, owner="me")
        assert isinstance(await store.claim("e", owner="me", ttl=30, statuses=ANY), Busy)

    async def test_a_lease_holds_to_its_last_moment(self, store: Store, clock: SettableClock) -> None:
        await create(store, lease_ttl=30)
        clock.time = START + 29.999
        assert isinstance(await store.claim("e", owner="you", ttl=30, statuses=ANY), Busy)
        clock.time = START + 30
        assert isinstance(await store.claim("e", owner="you", ttl=30, statuses=ANY), Stored)

    async def test_only_what_has_one_of_the_statuses_is_claimed(self, store: Store) -> None:
        await idle(store, status="halted")
        busy = await store.claim("e", owner="me", ttl=30, statuses=["running", "pending"])
        assert busy == Busy(status="halted", owner=None, lease_until=None)
        assert isinstance(await store.claim("e", owner="me", ttl=30, statuses=["halted"]), Stored)

    async def test_of_many_who_claim_one_wins(self, store: Store) -> None:
        await idle(store)
        claims = [store.claim("e", owner=f"o{i}", ttl=30, statuses=ANY) for i in range(20)]
        outcomes = await asyncio.gather(*claims)
        winners = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Stored)]
        assert len(winners) == 1
        assert (await row_of(store)).owner == f"o{winners[0]}"

    async def test_who_lost_the_lease_can_commit_nothing(self, store: Store, clock: SettableClock) -> None:
        old = await create(store, owner="me")
        clock.time += 31
        await store.claim("e", owner="you", ttl=30, statuses=ANY)
        with pytest.raises(LeaseLost):
            await store.commit(following(old))
        await advance(store)

    async def test_an_expired_lease_that_nobody_took_still_commits(self, store: Store, clock: SettableClock) -> None:
        row = await create(store, owner="me")
        clock.time += 1000
        await store.commit(following(row))

    async def test_taking_over_a_running_execution_is_counted(self, store: Store, clock: SettableClock) -> None:
        await create(store, owner="o0")
        for i in range(1, 4):
            clock.time += 31
            claimed = await store.claim("e", owner=f"o{i}", ttl=30, statuses=ANY)
            assert isinstance(claimed, Stored)
            assert claimed.row.recoveries == i

    async def test_a_commit_sets_recoveries_to_zero(self, store: Store, clock: SettableClock) -> None:
        await create(store)
        clock.time += 31
        await store.claim("e", owner="you", ttl=30, statuses=ANY)
        assert (await row_of(store)).recoveries == 1
        assert (await advance(store)).recoveries == 0

    async def test_a_released_execution_was_not_recovered(self, store: Store) -> None:
        await create(store, owner="me")
        await store.release("e", owner="me", generation=1)
        claimed = await store.claim("e", owner="you", ttl=30, statuses=ANY)
        assert isinstance(claimed, Stored)
        assert claimed.row.recoveries == 0

    async def test_an_execution_that_was_not_running_was_not_recovered(
        self, store: Store, clock: SettableClock
    ) -> None:
        await create(store, status="halted")
        clock.time += 31
        claimed = await store.claim("e", owner="you", ttl=30, statuses=ANY)
        assert isinstance(claimed, Stored)
        assert claimed.row.recoveries == 0

    async def test_renewing_extends_every_lease_of_the_owner(self, store: Store, clock: SettableClock) -> None:
        for name in "abc":
            await create(store, name, owner="me")
        await idle(store, "d")
        clock.time += 10
        assert await store.renew("me", ttl=30) == {"a": 1, "b": 1, "c": 1}
        assert [(await row_of(store, name)).lease_until for name in "abcd"] == [START + 40] * 3 + [None]

    async def test_renewing_touches_no_other_owner(self, store: Store, clock: SettableClock) -> None:
        await create(store, "a", owner="me")
        await create(store, "b", owner="you")
        clock.time += 10
        assert await store.renew("me", ttl=30) == {"a": 1}
        assert (await row_of(store, "b")).lease_until == START + 30

    async def test_renewing_tells_what_was_lost(self, store: Store, clock: SettableClock) -> None:
        await create(store, "a", owner="me")
        await create(store, "b", owner="me")
        clock.time += 31
        await store.claim("a", owner="you", ttl=30, statuses=ANY)
        assert await store.renew("me", ttl=30) == {"b": 1}

    async def test_renewing_without_leases_is_empty(self, store: Store) -> None:
        await idle(store)
        assert await store.renew("me", ttl=30) == {}

    async def test_releasing_gives_the_lease_back(self, store: Store) -> None:
        row = await create(store, owner="me")
        await store.release("e", owner="me", generation=1)
        assert await row_of(store) == msgspec.structs.replace(row, owner=None, lease_until=None)

    @pytest.mark.parametrize(("owner", "generation"), [("you", 1), ("me", 2), ("me", 0)])
    async def test_releasing_what_one_does_not_hold_does_nothing(
        self, store: Store, owner: str, generation: int
    ) -> None:
        row = await create(store, owner="me")
        await store.release("e", owner=owner, generation=generation)
        await store.release("unknown", owner=owner, generation=generation)
        assert await row_of(store) == row

    async def test_a_commit_can_release(self, store: Store) -> None:
        row = await create(store)
        assert (await store.commit(following(row, release=True))).released
        assert (await row_of(store)).owner is None

    async def test_a_commit_that_does_not_release_keeps_the_lease(self, store: Store) -> None:
        row = await create(store)
        assert not (await store.commit(following(row))).released
        assert (await row_of(store)).owner == "me"

    async def test_a_commit_keeps_the_lease_while_there_is_unread_mail(self, store: Store) -> None:
        row = await create(store)
        await append(store, kind="note")
        assert not (await store.commit(following(row, release=True))).released
        row = await row_of(store)
        assert (row.owner, row.version) == ("me", 2)

    async def test_a_commit_releases_when_it_consumes_the_last_message(self, store: Store) -> None:
        row = await create(store)
        await append(store, kind="note")
        ((inbox_id, _),) = await store.inbox("e")
        assert (await store.commit(following(row, consumed=[inbox_id], release=True))).released
