"""Waits: who may answer, how often, and until when."""

from __future__ import annotations

import asyncio

from durable_flow.stores.base import Filter, Store
from durable_flow.testing.contract.build import (
    START,
    SettableClock,
    advance,
    answer,
    append,
    create,
    opening,
    row_of,
    stored,
    timeout,
    vote,
)


class Waits:
    """The first answer wins, in time."""

    async def test_an_answer_needs_an_open_wait(self, store: Store) -> None:
        await create(store)
        assert await answer(store) == "closed"
        assert await store.inbox("e") == []

    async def test_the_first_answer_wins(self, store: Store) -> None:
        await create(store, opened=[opening()])
        assert [await answer(store, key) for key in "abc"] == ["accepted", "closed", "closed"]
        assert len(await store.inbox("e")) == 1

    async def test_of_many_who_answer_at_once_one_wins(self, store: Store) -> None:
        await create(store, opened=[opening()])
        outcomes = await asyncio.gather(*[answer(store, f"k{i}") for i in range(20)])
        assert sorted(outcomes) == ["accepted"] + ["closed"] * 19

    async def test_the_wait_of_another_execution_is_closed(self, store: Store) -> None:
        await create(store, "e")
        await create(store, "f", opened=[opening()])
        assert await answer(store) == "closed"
        assert (await append(store, execution_id="f", wait_id="wait")).outcome == "accepted"

    async def test_waits_of_two_executions_under_one_id_do_not_meet(self, store: Store) -> None:
        for name in "ab":
            await create(store, name, opened=[opening(needed=2)])
        outcomes = [(await append(store, "v", execution_id=name, wait_id="wait", takes=1)).outcome for name in "abab"]
        assert outcomes == ["accepted", "accepted", "duplicate", "duplicate"]
        await advance(store, "a", closed=["wait"])
        assert (await append(store, "w", execution_id="b", wait_id="wait", takes=1)).outcome == "accepted"

    async def test_a_wait_that_the_owner_closed_is_closed(self, store: Store) -> None:
        await create(store, opened=[opening()])
        await advance(store, closed=["wait"])
        assert await answer(store) == "closed"

    async def test_waits_do_not_close_each_other(self, store: Store) -> None:
        await create(store, opened=[opening("one"), opening("two")])
        assert await answer(store, "a", "one") == "accepted"
        assert await answer(store, "b", "two") == "accepted"

    async def test_a_wait_takes_as_many_votes_as_it_needs(self, store: Store) -> None:
        await create(store, opened=[opening(needed=3)])
        assert [await vote(store, key) for key in "abcd"] == ["accepted", "accepted", "accepted", "closed"]

    async def test_nobody_votes_twice(self, store: Store) -> None:
        await create(store, opened=[opening(needed=3)])
        assert [await vote(store, key) for key in "aaba"] == ["accepted", "duplicate", "accepted", "duplicate"]

    async def test_nobody_votes_twice_after_the_first_vote_was_read(self, store: Store) -> None:
        await create(store, opened=[opening(needed=3)])
        await vote(store, "a")
        ((inbox_id, _),) = await store.inbox("e")
        await advance(store, consumed=[inbox_id])
        assert [await vote(store, key) for key in "abc"] == ["duplicate", "accepted", "accepted"]

    async def test_who_voted_hears_closed_when_the_wait_is_over(self, store: Store) -> None:
        await create(store, opened=[opening(needed=2)])
        assert [await vote(store, key) for key in "aba"] == ["accepted", "accepted", "closed"]

    async def test_one_answer_can_take_the_whole_wait(self, store: Store) -> None:
        await create(store, opened=[opening(needed=3)])
        assert await vote(store, "a") == "accepted"
        assert await answer(store, "reject") == "accepted"
        assert await vote(store, "b") == "closed"

    async def test_of_many_votes_at_once_exactly_the_needed_ones_count(self, store: Store) -> None:
        await create(store, opened=[opening(needed=7)])
        outcomes = await asyncio.gather(*[vote(store, f"k{i}") for i in range(20)])
        assert outcomes.count("accepted") == 7
        assert outcomes.count("closed") == 13

    async def test_a_row_has_the_bodies_of_its_waits_in_the_order_of_their_opening(self, store: Store) -> None:
        await create(store, opened=[opening("z", seq=1, body="first"), opening("b", seq=2, body=b"third")])
        await advance(store, opened=[opening("c", seq=3, body="fourth"), opening("a", seq=2, body="second")])
        bodies = ["first", "second", b"third", "fourth"]
        assert (await row_of(store)).waits == bodies
        assert (await stored(store)).row.waits == bodies
        ((found,), _) = await store.search(Filter(), limit=10, cursor=None)
        assert found.waits == bodies

    async def test_rewriting_a_wait_changes_its_body_only(self, store: Store) -> None:
        await create(store, opened=[opening("a", 2, body="old"), opening("b", body="other")])
        assert await vote(store, "one", "a") == "accepted"
        await advance(store, rewritten=[("a", "new")])
        assert (await row_of(store)).waits == ["new", "other"]
        assert [await vote(store, key, "a") for key in ("one", "two", "three")] == ["duplicate", "accepted", "closed"]

    async def test_rewriting_a_wait_that_is_not_open_does_nothing(self, store: Store) -> None:
        await create(store)
        await advance(store, rewritten=[("a", "new")])
        assert (await row_of(store)).waits == []

    async def test_a_closed_wait_is_no_more_in_the_row(self, store: Store) -> None:
        await create(store, opened=[opening("a"), opening("b", body="stays")])
        await advance(store, closed=["a"])
        assert (await row_of(store)).waits == ["stays"]

    async def test_a_wait_that_is_opened_again_starts_anew(self, store: Store) -> None:
        await create(store, opened=[opening(needed=2)])
        await vote(store, "a")
        ((inbox_id, _),) = await store.inbox("e")
        await advance(store, consumed=[inbox_id], closed=["wait"])
        await advance(store, opened=[opening(needed=2)])
        assert [await vote(store, key) for key in "ab"] == ["accepted", "accepted"]

    async def test_a_wait_that_is_opened_while_it_is_open_starts_anew(self, store: Store) -> None:
        await create(store, opened=[opening(needed=2)])
        await vote(store, "a")
        ((inbox_id, _),) = await store.inbox("e")
        await advance(store, consumed=[inbox_id], opened=[opening(needed=2)])
        assert [await vote(store, key) for key in "abc"] == ["accepted", "accepted", "closed"]

    async def test_closing_and_opening_a_wait_in_one_commit_opens_it(self, store: Store) -> None:
        await create(store, opened=[opening()])
        await answer(store, "a")
        await advance(store, closed=["wait"], opened=[opening()])
        assert await answer(store, "b") == "accepted"

    async def test_an_answer_in_time_is_accepted(self, store: Store, clock: SettableClock) -> None:
        await create(store, opened=[opening("wait", 1, START + 10)])
        clock.time = START + 9.999
        assert await answer(store) == "accepted"

    async def test_an_answer_at_the_deadline_is_late(self, store: Store, clock: SettableClock) -> None:
        await create(store, opened=[opening("wait", 1, START + 10)])
        clock.time = START + 10
        assert await answer(store) == "closed"

    async def test_who_voted_in_time_hears_closed_after_the_deadline(self, store: Store, clock: SettableClock) -> None:
        await create(store, opened=[opening("wait", 2, START + 10)])
        await vote(store, "a")
        clock.time = START + 10
        assert await vote(store, "a") == "closed"

    async def test_a_timeout_before_the_deadline_does_nothing(self, store: Store, clock: SettableClock) -> None:
        await create(store, opened=[opening("wait", 1, START + 10)])
        clock.time = START + 9.999
        assert await timeout(store) == "closed"
        assert await answer(store) == "accepted"

    async def test_a_timeout_at_the_deadline_closes_the_wait(self, store: Store, clock: SettableClock) -> None:
        await create(store, opened=[opening("wait", 3, START + 10)])
        clock.time = START + 10
        assert [await timeout(store), await timeout(store)] == ["accepted", "closed"]
        assert len(await store.inbox("e")) == 1

    async def test_a_timeout_after_an_answer_is_closed(self, store: Store, clock: SettableClock) -> None:
        await create(store, opened=[opening("wait", 1, START + 10)])
        await answer(store)
        clock.time = START + 11
        assert await timeout(store) == "closed"

    async def test_a_wait_without_a_deadline_does_not_time_out(self, store: Store, clock: SettableClock) -> None:
        await create(store, opened=[opening()])
        clock.time += 1e9
        assert await timeout(store) == "closed"

    async def test_an_answer_and_a_timeout_at_once_have_one_winner(self, store: Store, clock: SettableClock) -> None:
        await create(store, opened=[opening("wait", 1, START + 10)])
        clock.time = START + 10
        outcomes = list(await asyncio.gather(answer(store), timeout(store), answer(store, "b")))
        assert outcomes == ["closed", "accepted", "closed"]

    async def test_a_child_may_end_before_its_parent_waits_for_it(self, store: Store) -> None:
        await create(store)
        outcome = await append(store, "child:c", kind="child", wait_id="wait")
        assert outcome.outcome == "accepted"
        assert (await append(store, "child:c", kind="child", wait_id="wait")).outcome == "duplicate"
