"""Two store objects on the same data, as two processes have them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from durable_flow import ConflictError, LeaseLost, SchemaTooNew, Store, SystemClock
from durable_flow.stores.base import Appended, Busy, Committed, Stored
from durable_flow.testing.contract.build import (
    ANY,
    START,
    SettableClock,
    advance,
    answer,
    append,
    create,
    creation,
    find,
    following,
    idle,
    message,
    opening,
    row_of,
    stored,
    vote,
)
from durable_flow.testing.contract.subject import Subject
from durable_flow.testing.waiting import wait_until


class Processes:
    """What one process wrote counts for all others at once."""

    async def test_what_one_process_committed_the_other_reads(self, store: Store, other: Store) -> None:
        await create(store, sets=[("", "x", 1)], frames=[("f", None, "{}")], opened=[opening()])
        assert await stored(other) == await stored(store)
        await advance(other, seq=2, entries=[(2, "two")])
        assert await store.read("e") == [(1, '"started"'), (2, "two")]
        assert await find(store) == await find(other) == ["e"]
        assert await other.definition("hash") == '{"id":"w"}'

    async def test_a_definition_that_two_processes_store_is_kept_once(self, store: Store, other: Store) -> None:
        for name, process in (("a", store), ("b", other), ("c", store)):
            await create(process, name)
        assert await store.definition("hash") == await other.definition("hash") == '{"id":"w"}'

    async def test_of_many_processes_that_create_one_wins(self, store: Store, other: Store) -> None:
        attempts = [process.commit(creation(nonce=f"n{i}")) for i in range(10) for process in (store, other)]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(isinstance(outcome, Committed) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 19

    async def test_of_many_processes_that_claim_one_wins(self, store: Store, other: Store) -> None:
        await idle(store)
        claims = [
            process.claim("e", owner=f"{name}{i}", ttl=30, statuses=ANY)
            for i in range(10)
            for name, process in (("s", store), ("o", other))
        ]
        outcomes = await asyncio.gather(*claims)
        assert sum(isinstance(outcome, Stored) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, Busy) for outcome in outcomes) == 19
        assert (await row_of(store)).generation == 2

    async def test_a_process_that_lost_its_lease_to_another_is_fenced(
        self, store: Store, other: Store, clock: SettableClock
    ) -> None:
        row = await create(store, owner="me")
        clock.time += 31
        await other.claim("e", owner="you", ttl=30, statuses=ANY)
        with pytest.raises(LeaseLost) as caught:
            await store.commit(following(row))
        assert caught.value.owner == "you"
        assert await store.renew("me", ttl=30) == {}
        await advance(other)

    async def test_a_held_lease_is_busy_for_every_process(self, store: Store, other: Store) -> None:
        await create(store, owner="me", lease_ttl=30)
        busy = await other.claim("e", owner="you", ttl=30, statuses=ANY)
        assert busy == Busy(status="running", owner="me", lease_until=START + 30)

    async def test_of_two_processes_that_commit_one_version_one_wins(self, store: Store, other: Store) -> None:
        row = await create(store)
        for _ in range(10):
            commits = [
                process.commit(
                    following(row, nonce=f"{name}{row.version}", seq=row.seq + 1, entries=[(row.seq + 1, name)])
                )
                for name, process in (("s", store), ("o", other))
            ]
            outcomes = await asyncio.gather(*commits, return_exceptions=True)
            assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Committed", "LeaseLost"]
            winner = "so"[isinstance(outcomes[0], LeaseLost)]
            row = await row_of(store)
            assert row.nonce == f"{winner}{row.version - 1}"
            assert await other.read("e", after=row.seq - 1) == [(row.seq, winner)]

    async def test_a_commit_that_another_process_repeats_lands_once(self, store: Store, other: Store) -> None:
        await create(store, "parent")
        told = [(message("child", kind="child", execution_id="parent"), "done")]
        commit = following(await create(store), nonce="mine", seq=2, entries=[(2, "two")], messages=told)
        await store.commit(commit)
        ((inbox_id, _),) = await other.inbox("parent")
        await advance(other, "parent", consumed=[inbox_id])
        with pytest.raises(LeaseLost):
            await other.commit(commit)
        assert (await row_of(other)).nonce == "mine"
        assert await store.inbox("parent") == []

    async def test_a_creation_that_another_process_repeats_lands_once(self, store: Store, other: Store) -> None:
        await store.commit(creation(nonce="mine"))
        with pytest.raises(ConflictError):
            await other.commit(creation(nonce="mine"))
        row = await row_of(other)
        assert (row.nonce, row.version) == ("mine", 1)

    async def test_votes_count_together_whoever_takes_them(self, store: Store, other: Store) -> None:
        await create(store, opened=[opening(needed=7)])
        votes = [vote((store, other)[i % 2], f"k{i}") for i in range(20)]
        outcomes = await asyncio.gather(*votes)
        assert (outcomes.count("accepted"), outcomes.count("closed")) == (7, 13)
        assert len(await store.inbox("e")) == 7

    async def test_nobody_votes_twice_by_asking_two_processes(self, store: Store, other: Store) -> None:
        await create(store, opened=[opening(needed=3)])
        outcomes = await asyncio.gather(*[vote(process, "alice") for process in (store, other) * 5])
        assert (outcomes.count("accepted"), outcomes.count("duplicate")) == (1, 9)

    async def test_the_first_answer_of_all_processes_wins(self, store: Store, other: Store) -> None:
        await create(store, opened=[opening()])
        outcomes = await asyncio.gather(*[answer((store, other)[i % 2], f"k{i}") for i in range(20)])
        assert sorted(outcomes) == ["accepted"] + ["closed"] * 19

    async def test_messages_of_each_process_stay_in_order(self, store: Store, other: Store) -> None:
        await create(store)

        async def tell(process: Store, name: str) -> None:
            for i in range(15):
                await append(process, f"{name}{i}", kind="note", body=f"{name}{i}")

        await asyncio.gather(tell(store, "s"), tell(other, "o"))
        inbox = await store.inbox("e")
        assert inbox == await other.inbox("e") == sorted(inbox)
        for name in "so":
            assert [body for _, body in inbox if str(body).startswith(name)] == [f"{name}{i}" for i in range(15)]

    async def test_an_inbox_number_is_used_by_one_process_only(self, store: Store, other: Store) -> None:
        await create(store)
        numbers = []
        for process in (store, other, store, other):
            await append(process, kind="note")
            ((inbox_id, _),) = await store.inbox("e")
            numbers.append(inbox_id)
            await advance(process, consumed=[inbox_id])
        assert numbers == sorted(set(numbers))

    async def test_mail_from_another_process_is_told(self, store: Store, other: Store) -> None:
        await create(store, owner="me")
        assert await store.mail("me") == []
        await append(other, kind="note")
        assert await store.mail("me") == ["e"]

    async def test_no_wake_up_is_lost_between_who_releases_and_who_appends(self, store: Store, other: Store) -> None:
        row = await create(store, owner="me")
        for i in range(25):
            committed, appended = await asyncio.gather(
                store.commit(following(row, release=True)), append(other, f"k{i}", kind="note")
            )
            assert isinstance(committed, Committed)
            assert isinstance(appended, Appended)
            row = await row_of(store)
            inbox = await store.inbox("e")
            assert [appended.outcome, len(inbox)] == ["accepted", 1]
            if committed.released:
                assert appended.owner is None, "nobody reads the message, and nobody knows"
                claimed = await store.claim("e", owner="me", ttl=30, statuses=ANY)
                assert isinstance(claimed, Stored)
                row = claimed.row
            assert row.owner == "me"
            row = await advance(store, consumed=[inbox[0][0]])

    async def test_a_cursor_of_one_process_goes_on_in_the_other(self, store: Store, other: Store) -> None:
        for i in range(5):
            await create(store, f"e{i}", new={"created_at": START + i})
        first = await store.find(limit=2)
        rest = await other.find(limit=10, cursor=first.next_cursor)
        assert [execution.id for execution in (*first, *rest)] == ["e4", "e3", "e2", "e1", "e0"]

    async def test_what_another_process_removed_can_be_created_anew(self, store: Store, other: Store) -> None:
        row = await idle(store, sets=[("", "x", 1)], opened=[opening(needed=2)])
        await vote(store, "alice")
        assert await other.remove("e")
        with pytest.raises(LeaseLost):
            await store.commit(following(row))
        assert await store.row("e") is None
        await create(store, opened=[opening(needed=2)])
        assert ((await stored(store)).sets, await vote(store, "alice")) == ([], "accepted")

    async def test_closing_one_store_leaves_the_other_open(self, subject: Subject, store: Store, other: Store) -> None:
        await other.close()
        await create(store)
        async with subject.make() as third:
            assert await find(third) == ["e"]

    async def test_what_was_written_is_there_after_opening_again(self, subject: Subject, closed_store: Store) -> None:
        if not subject.shared:
            pytest.skip("the data of this store go with it")
        async with closed_store:
            await idle(closed_store, sets=[("", "x", 1)], frames=[("f", None, "{}")], opened=[opening()])
            await append(closed_store, kind="note", body="hello")
            before = await stored(closed_store)
        async with subject.make() as again:
            assert await stored(again) == before

    async def test_many_can_open_new_data_at_once(self, subject: Subject) -> None:
        stores = [subject.make() for _ in range(5 if subject.shared else 1)]
        opened = await asyncio.gather(*[store.open() for store in stores], return_exceptions=True)
        try:
            assert opened == [None] * len(stores)
            await create(stores[0])
            assert [await find(store) for store in stores] == [["e"]] * len(stores)
        finally:
            for store in stores:
                await store.close()

    async def test_a_newer_schema_is_refused_and_left_alone(self, subject: Subject, closed_store: Store) -> None:
        if subject.newer is None:
            pytest.skip("the subject does not say how data of a later release look")
        async with closed_store:
            await create(closed_store)
        await subject.newer()
        for _ in range(2):
            store = subject.make()
            with pytest.raises(SchemaTooNew):
                await store.open()
            await store.close()

    # -- time and wake-ups --------------------------------------------------------------------------------------------

    async def test_a_lease_runs_out_by_the_stores_own_time(self, subject: Subject) -> None:
        store = subject.make()
        assert isinstance(store.clock, SystemClock)
        async with store:
            held = await create(store, owner="me", lease_ttl=0.2)

            async def claimed() -> Stored | None:
                found = await store.claim("e", owner="you", ttl=30, statuses=ANY)
                return found if isinstance(found, Stored) else None

            taken = await wait_until(claimed)
            assert held.lease_until is not None
            assert taken is not None
            assert taken.row.lease_until is not None
            assert taken.row.lease_until >= held.lease_until + 29
            assert isinstance(await store.claim("e", owner="him", ttl=30, statuses=ANY), Busy)

    async def test_a_deadline_passes_by_the_stores_own_time(self, subject: Subject) -> None:
        async with subject.make() as store:
            now = store.clock.now()
            await create(store, opened=[opening("past", deadline=now - 3600), opening("ahead", deadline=now + 3600)])
            assert await answer(store, wait_id="past") == "closed"
            assert await answer(store, wait_id="ahead") == "accepted"

    async def test_a_store_that_tells_of_other_processes_says_so(self, subject: Subject, store: Store) -> None:
        assert store.wakes is subject.wakes

    async def test_a_message_from_another_process_is_heard(self, subject: Subject, store: Store, other: Store) -> None:
        heard = _listened(subject, store)
        await create(store, owner="me")
        await append(other, kind="note")
        await wait_until(lambda: "e" in heard)

    async def test_a_message_of_a_commit_of_another_process_is_heard(
        self, subject: Subject, store: Store, other: Store
    ) -> None:
        heard = _listened(subject, store)
        await create(store, "parent")
        await create(store, "child")
        await advance(other, "child", messages=[(message(kind="child", execution_id="parent"), "done")])
        await wait_until(lambda: "parent" in heard)

    async def test_a_queue_that_another_process_holds_is_held_here(self, store: Store, other: Store) -> None:
        await idle(store, status="pending", new={"queue": "mail"})
        await other.set_queue("mail", "hold", "{}")
        assert await store.take("me", ttl=30, limit=1) == []
        assert (await store.queues(["mail"]))["mail"].hold == "{}"
        await other.set_queue("mail", "hold", None)
        assert len(await store.take("me", ttl=30, limit=1)) == 1

    async def test_limits_of_another_process_are_kept_here(self, store: Store, other: Store) -> None:
        for number in range(3):
            await idle(store, f"e{number}", status="pending", new={"queue": "mail"})
        await other.set_queue("mail", "declared", "[2,null,1.0]")
        assert len(await other.take("you", ttl=30, limit=1)) == 1
        assert len(await store.take("me", ttl=30, limit=5)) == 1
        assert (await store.queues())["mail"] == (await other.queues())["mail"]

    async def test_of_takers_in_several_processes_no_more_begin_than_may(self, store: Store, other: Store) -> None:
        await store.set_queue("mail", "declared", "[7,null,1.0]")
        await store.set_queue("print", "declared", "[null,5,60.0]")
        for number in range(40):
            await idle(store, f"e{number}", status="pending", new={"queue": ("mail", "print")[number % 2]})
        taken: list[Stored] = []
        for turn in range(10):
            takes = [process.take(f"{turn}", ttl=30, limit=3) for _ in range(4) for process in (store, other)]
            taken += [one for share in await asyncio.gather(*takes) for one in share]
        assert sorted(one.row.queue or "" for one in taken) == ["mail"] * 7 + ["print"] * 5

    async def test_limits_that_another_process_lifts_are_heard(
        self, subject: Subject, store: Store, other: Store
    ) -> None:
        heard = _listened(subject, store)

        async def lifted() -> bool:  # a store that has just been opened may not know yet that somebody listens
            await other.set_queue("mail", "decided", "[1,null,1.0]")
            await other.set_queue("mail", "decided", None)
            return "" in heard

        await wait_until(lifted)

    async def test_a_queue_that_another_process_lets_go_is_heard(
        self, subject: Subject, store: Store, other: Store
    ) -> None:
        heard = _listened(subject, store)
        await other.set_queue("mail", "hold", "{}")
        await other.set_queue("mail", "hold", None)
        await wait_until(lambda: "" in heard)

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "halted"])
    async def test_an_end_or_a_halt_in_another_process_is_heard(
        self, subject: Subject, store: Store, other: Store, status: str
    ) -> None:
        heard = _listened(subject, store)
        row = await create(other)
        await other.commit(following(row, status=status, release=True))
        await wait_until(lambda: "e" in heard)

    async def test_who_no_longer_listens_hears_nothing(self, subject: Subject, store: Store, other: Store) -> None:
        first: list[str] = []
        deaf = store.listen(first.append)
        heard = _listened(subject, store)
        deaf()
        await create(store)
        await append(other, kind="note")
        await wait_until(lambda: "e" in heard)
        assert first == []


def _listened(subject: Subject, store: Store) -> Sequence[str]:
    if not subject.wakes:
        pytest.skip("this store does not tell what other processes do")
    heard: list[str] = []
    store.listen(heard.append)
    return heard
