"""Messages: their order, their keys, who is told of them, and those that commits send."""

from __future__ import annotations

import pytest

from durable_flow.stores.base import Store
from durable_flow.testing.contract.build import (
    ANY,
    START,
    advance,
    append,
    create,
    following,
    idle,
    message,
    opening,
)


class Inboxes:
    """Messages to the owner of an execution."""

    async def test_a_message_to_nobody_is_unknown(self, store: Store) -> None:
        appended = await append(store, execution_id="nobody")
        assert (appended.outcome, appended.owner) == ("unknown", None)

    async def test_who_appends_hears_who_drives_the_execution(self, store: Store) -> None:
        await create(store, "driven", owner="me", lease_ttl=30)
        await idle(store, "idle")
        appended = await append(store, execution_id="driven", kind="note")
        assert (appended.outcome, appended.owner, appended.lease_until) == ("accepted", "me", START + 30)
        appended = await append(store, execution_id="idle", kind="note")
        assert (appended.outcome, appended.owner, appended.lease_until) == ("accepted", None, None)

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    async def test_a_message_to_an_execution_that_is_over_is_closed(self, store: Store, status: str) -> None:
        await create(store, status=status, finished_at=1.0)

        told = await append(store, kind="cancel")

        assert told.outcome == "closed"
        assert await store.inbox("e") == []

    async def test_messages_are_read_in_the_order_they_came(self, store: Store) -> None:
        await create(store)
        for key in "cabed":
            await append(store, key, kind="note", body=key)
        inbox = await store.inbox("e")
        assert [body for _, body in inbox] == list("cabed")
        assert sorted(inbox) == inbox

    async def test_reading_the_inbox_does_not_empty_it(self, store: Store) -> None:
        await create(store)
        await append(store, kind="note")
        assert await store.inbox("e") == await store.inbox("e") != []

    async def test_a_key_that_is_unread_is_a_duplicate(self, store: Store) -> None:
        await create(store)
        await append(store, "cancel", kind="cancel", body="first")
        assert (await append(store, "cancel", kind="cancel", body="second")).outcome == "duplicate"
        assert [body for _, body in await store.inbox("e")] == ["first"]

    async def test_a_key_may_come_again_once_it_was_read(self, store: Store) -> None:
        await create(store)
        await append(store, "cancel", kind="cancel")
        ((inbox_id, _),) = await store.inbox("e")
        await advance(store, consumed=[inbox_id])
        assert (await append(store, "cancel", kind="cancel")).outcome == "accepted"

    async def test_the_same_key_for_two_executions_is_no_duplicate(self, store: Store) -> None:
        await create(store, "a")
        await create(store, "b")
        outcomes = [(await append(store, execution_id=name, kind="note")).outcome for name in "ab"]
        assert outcomes == ["accepted", "accepted"]

    async def test_only_what_was_consumed_goes(self, store: Store) -> None:
        await create(store)
        for key in "abc":
            await append(store, key, kind="note", body=key)
        (first, _), _, (third, _) = await store.inbox("e")
        await advance(store, consumed=[first, third])
        assert [body for _, body in await store.inbox("e")] == ["b"]

    async def test_an_inbox_number_is_never_used_again(self, store: Store) -> None:
        await create(store)
        seen = set()
        for _ in range(3):
            await append(store, kind="note")
            ((inbox_id, _),) = await store.inbox("e")
            assert inbox_id not in seen
            seen.add(inbox_id)
            await advance(store, consumed=[inbox_id])

    async def test_nothing_of_another_execution_is_consumed(self, store: Store) -> None:
        await create(store, "a")
        await create(store, "b")
        await append(store, execution_id="b", kind="note")
        ((inbox_id, _),) = await store.inbox("b")
        await advance(store, "a", consumed=[inbox_id])
        assert len(await store.inbox("b")) == 1

    async def test_a_commit_delivers_its_messages(self, store: Store) -> None:
        await create(store, "parent", opened=[opening()])
        await create(store, "child")
        told = message("child", kind="child", execution_id="parent", wait_id="wait")
        await advance(store, "child", status="completed", messages=[(told, "done")], release=True)
        assert [body for _, body in await store.inbox("parent")] == ["done"]

    async def test_a_creation_delivers_its_messages(self, store: Store) -> None:
        await create(store, "a")
        await create(store, "b", messages=[(message(kind="note", execution_id="a"), "hello")])
        assert [body for _, body in await store.inbox("a")] == ["hello"]

    async def test_a_message_to_an_unknown_execution_is_skipped(self, store: Store) -> None:
        await create(store)
        row = await advance(store, messages=[(message(execution_id="nobody", kind="note"), "x")])
        assert row.version == 2

    async def test_a_message_to_a_closed_wait_is_skipped(self, store: Store) -> None:
        await create(store, "a")
        await create(store, "b")
        await advance(store, "b", messages=[(message(execution_id="a", wait_id="wait"), "x")])
        assert await store.inbox("a") == []

    async def test_a_message_that_is_there_already_is_skipped(self, store: Store) -> None:
        await create(store, "a")
        await create(store, "b")
        for body in ("one", "two"):
            await advance(store, "b", messages=[(message(kind="child", execution_id="a"), body)])
        assert [body for _, body in await store.inbox("a")] == ["one"]

    async def test_a_message_to_itself_keeps_the_lease(self, store: Store) -> None:
        row = await create(store)
        told = [(message(kind="note"), "x")]
        assert not (await store.commit(following(row, messages=told, release=True))).released

    async def test_there_is_no_mail_at_first(self, store: Store) -> None:
        await create(store, owner="me")
        assert await store.mail("me") == []
        assert await store.mail("me") == []

    async def test_mail_names_executions_with_unread_messages(self, store: Store) -> None:
        for name in "abc":
            await create(store, name, owner="me")
        assert await store.mail("me") == []
        for name in "ca":
            await append(store, execution_id=name, kind="note")
            await append(store, "second", execution_id=name, kind="note")
        assert sorted(await store.mail("me")) == ["a", "c"]
        assert sorted(await store.mail("me")) == ["a", "c"]

    async def test_mail_is_gone_once_it_was_read(self, store: Store) -> None:
        await create(store, owner="me")
        await append(store, kind="note")
        ((inbox_id, _),) = await store.inbox("e")
        assert await store.mail("me") == ["e"]
        await advance(store, consumed=[inbox_id])
        assert await store.mail("me") == []

    async def test_mail_of_others_is_not_told(self, store: Store) -> None:
        await create(store, "a", owner="me")
        await create(store, "b", owner="you")
        await idle(store, "c")
        for name in "bc":
            await append(store, execution_id=name, kind="note")
        assert await store.mail("me") == []
        assert await store.mail("you") == ["b"]

    async def test_mail_that_waited_is_told_to_who_claims(self, store: Store) -> None:
        await idle(store)
        await append(store, kind="note")
        assert await store.mail("me") == []
        await store.claim("e", owner="me", ttl=30, statuses=ANY)
        assert await store.mail("me") == ["e"]

    async def test_a_message_of_a_commit_is_mail(self, store: Store) -> None:
        await create(store, "a", owner="me")
        await create(store, "b", owner="you")
        assert await store.mail("me") == []
        await advance(store, "b", messages=[(message(kind="child", execution_id="a"), "x")])
        assert await store.mail("me") == ["a"]
