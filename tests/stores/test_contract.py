"""What every store must do. Each test is one sentence of the contract in `durable_flow.stores.base`."""

from __future__ import annotations

import asyncio
import itertools
import random
import unicodedata
from typing import Any

import msgspec
import pytest

from durable_flow.errors import ConflictError, LeaseLost, StoreError, ValidationError
from durable_flow.stores.base import Blob, Busy, Filter, Store, Stored
from tests.stores.build import (
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
    pages,
    row_of,
    stored,
    timeout,
    vote,
    without_lease,
)

POISON = "\ud800"
"""Text that no store can encode: only the commit that carries it may fail."""

# -- creating ---------------------------------------------------------------------------------------------------------


async def test_a_created_row_has_what_its_commit_said(store: Store) -> None:
    new = {"parent_id": "p", "root_id": "r", "labels": {"a": "1"}, "trigger": "cli", "queue": "q", "priority": 2}
    row = await create(store, new=new | {"concurrency_key": "c"}, wake_at=START + 5)
    assert (row.id, row.workflow_id, row.workflow_version, row.definition_hash) == ("e", "w", "1.0", "hash")
    assert (row.status, row.version, row.generation, row.nonce, row.seq) == ("running", 1, 1, "nonce-0", 1)
    assert (row.parent_id, row.root_id, row.labels, row.trigger) == ("p", "r", {"a": "1"}, "cli")
    assert (row.queue, row.priority, row.concurrency_key, row.wake_at) == ("q", 2, "c", START + 5)
    assert (row.input, row.root, row.info, row.current_step) == ('{"n":1}', '{"at":"first"}', "{}", "first")
    assert (row.created_at, row.updated_at, row.finished_at, row.recoveries) == (START, START, None, 0)
    assert (row.result_seq, row.result) == (None, None)


async def test_the_first_lease_comes_with_the_creation(store: Store) -> None:
    row = await create(store, owner="me", lease_ttl=7)
    assert (row.owner, row.lease_until) == ("me", START + 7)


async def test_without_a_lease_nobody_owns_what_was_created(store: Store) -> None:
    row = await create(store, owner="me", lease_ttl=None)
    assert (row.owner, row.lease_until) == (None, None)


async def test_creating_and_releasing_at_once_leaves_no_owner(store: Store) -> None:
    committed = await store.commit(creation(release=True))
    assert committed.released
    assert (await row_of(store)).owner is None


async def test_creating_twice_is_a_conflict(store: Store) -> None:
    before = await create(store)
    with pytest.raises(ConflictError, match="'e'"):
        await store.commit(creation(new={"workflow_id": "other"}, entries=[(2, '"again"')]))
    assert await row_of(store) == before
    assert await store.read("e") == [(1, '"started"')]


async def test_of_many_who_create_one_wins(store: Store) -> None:
    attempts = [store.commit(creation(nonce=f"n{i}")) for i in range(20)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    winners = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)]
    assert len(winners) == 1
    assert all(isinstance(outcome, ConflictError) for i, outcome in enumerate(outcomes) if i not in winners)
    assert (await row_of(store)).nonce == f"n{winners[0]}"


async def test_a_definition_is_kept_under_its_hash(store: Store) -> None:
    await create(store, "a", new={"definition_hash": "h1", "definition": "one"})
    await create(store, "b", new={"definition_hash": "h2", "definition": b"two"})
    await create(store, "c", new={"definition_hash": "h1", "definition": "one"})
    assert [await store.definition("h1"), await store.definition("h2")] == ["one", b"two"]


async def test_an_unknown_hash_has_no_definition(store: Store) -> None:
    assert await store.definition("nothing") is None


async def test_what_does_not_exist_is_none_or_empty(store: Store) -> None:
    assert await store.row("e") is None
    assert await store.fetch("e") is None
    assert await store.read("e") == []
    assert await store.inbox("e") == []
    assert await store.claim("e", owner="me", ttl=30, statuses=ANY) is None


# -- compare and set --------------------------------------------------------------------------------------------------


async def test_a_commit_raises_the_version_by_one(store: Store) -> None:
    await create(store)
    assert [(await advance(store)).version for _ in range(3)] == [2, 3, 4]


async def test_a_commit_replaces_the_header(store: Store) -> None:
    await create(store)
    row = await advance(
        store, nonce="n", status="halted", current_step="ask", wake_at=START + 9, root="{2}", updated_at=START + 2
    )
    assert (row.nonce, row.status, row.current_step, row.wake_at) == ("n", "halted", "ask", START + 9)
    assert (row.root, row.updated_at) == ("{2}", START + 2)


async def test_a_finished_execution_can_run_again(store: Store) -> None:
    await create(store)
    row = await advance(store, status="failed", finished_at=START + 1)
    assert (row.status, row.finished_at) == ("failed", START + 1)
    row = await advance(store, status="running", finished_at=None)
    assert (row.status, row.finished_at) == ("running", None)


@pytest.mark.parametrize(("field", "value"), [("version", 0), ("version", 2), ("generation", 0), ("generation", 2)])
async def test_a_commit_with_another_version_or_generation_is_fenced(store: Store, field: str, value: int) -> None:
    row = await create(store)
    with pytest.raises(LeaseLost):
        await store.commit(following(row, **{field: value}))
    assert await row_of(store) == row


async def test_a_fenced_commit_writes_nothing_at_all(store: Store) -> None:
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


async def test_a_commit_to_an_unknown_execution_is_fenced(store: Store) -> None:
    row = await create(store)
    with pytest.raises(LeaseLost):
        await store.commit(following(row, execution_id="nobody"))


async def test_the_generation_fences_whatever_the_owner_is_called(store: Store) -> None:
    row = await create(store, owner="me")
    await store.commit(following(row, owner="somebody"))
    assert (await row_of(store)).owner == "me"


async def test_who_is_fenced_hears_who_drives_it_now(store: Store, clock: SettableClock) -> None:
    row = await create(store, owner="me")
    clock.time += 31
    await store.claim("e", owner="you", ttl=30, statuses=ANY)
    with pytest.raises(LeaseLost) as caught:
        await store.commit(following(row))
    assert caught.value.owner == "you"


async def test_of_two_commits_on_one_version_one_wins(store: Store) -> None:
    row = await create(store)
    attempts = [store.commit(following(row, nonce=nonce)) for nonce in ("left", "right")]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert [isinstance(outcome, LeaseLost) for outcome in outcomes].count(True) == 1
    winner = "left" if not isinstance(outcomes[0], BaseException) else "right"
    assert (await row_of(store)).nonce == winner


async def test_a_repeated_commit_is_fenced_and_known_by_its_nonce(store: Store) -> None:
    commit = following(await create(store), nonce="mine", entries=[(2, "two")], seq=2)
    await store.commit(commit)
    with pytest.raises(LeaseLost):
        await store.commit(commit)
    row = await row_of(store)
    assert (row.nonce, row.version) == ("mine", commit.version + 1)
    assert await store.read("e", after=1) == [(2, "two")]


async def test_a_repeated_creation_conflicts_and_is_known_by_its_nonce(store: Store) -> None:
    await store.commit(creation(nonce="mine"))
    with pytest.raises(ConflictError):
        await store.commit(creation(nonce="mine"))
    assert (await row_of(store)).nonce == "mine"


async def test_commits_of_one_execution_keep_their_order(store: Store) -> None:
    row = await create(store)
    commits = [
        following(row, version=row.version + i, seq=2 + i, nonce=f"n{i}", entries=[(2 + i, str(i))]) for i in range(20)
    ]
    await asyncio.gather(*[store.commit(commit) for commit in commits])
    row = await row_of(store)
    assert (row.version, row.nonce, row.seq) == (21, "n19", 21)


async def test_cancelling_who_waits_does_not_cancel_the_write(store: Store) -> None:
    row = await create(store)
    store.commit(following(row)).cancel()
    await create(store, "behind")
    assert (await row_of(store)).version == row.version + 1


async def test_info_stays_until_it_is_replaced(store: Store) -> None:
    await create(store, info="one")
    assert (await advance(store, info=None)).info == "one"
    assert (await advance(store, info=b"two")).info == b"two"


async def test_a_row_comes_with_the_entry_of_its_result(store: Store) -> None:
    await create(store)
    row = await advance(store, seq=3, entries=[(2, "two"), (3, "three")], result_seq=2)
    assert (row.result_seq, row.result) == (2, "two")
    rows, _ = await store.search(Filter(), limit=10, cursor=None)
    assert rows == [row]


# -- entries ----------------------------------------------------------------------------------------------------------


async def test_entries_are_read_in_order(store: Store) -> None:
    await create(store)
    await advance(store, seq=4, entries=[(2, "b"), (3, "c"), (4, "d")])
    assert await store.read("e") == [(1, '"started"'), (2, "b"), (3, "c"), (4, "d")]


async def test_entries_are_read_in_pieces(store: Store) -> None:
    await create(store, entries=[(seq, str(seq)) for seq in range(1, 11)], seq=10)
    assert [seq for seq, _ in await store.read("e", after=3, limit=4)] == [4, 5, 6, 7]
    assert await store.read("e", after=10) == []


async def test_entries_are_read_by_their_numbers(store: Store) -> None:
    await create(store, entries=[(seq, str(seq)) for seq in range(1, 11)], seq=10)
    assert await store.read("e", seqs=[7, 2, 99]) == [(2, "2"), (7, "7")]
    assert await store.read("e", seqs=[]) == []


# -- frames and variables ---------------------------------------------------------------------------------------------


async def test_frames_are_set_replaced_and_deleted(store: Store) -> None:
    await create(store, frames=[("a", None, "1"), ("b", None, b"2")])
    await advance(store, frames=[("a", None, "3"), ("b", None, None), ("c", None, "4")])
    assert (await stored(store)).frames == [("a", "3"), ("c", "4")]


async def test_deleting_a_frame_that_is_not_there_does_nothing(store: Store) -> None:
    await create(store, frames=[("a", None, "1")])
    await advance(store, frames=[("b", None, None)])
    assert (await stored(store)).frames == [("a", "1")]


async def test_variables_are_set_replaced_and_deleted(store: Store) -> None:
    await create(store, sets=[("", "x", 1), ("", "y", 1)])
    await advance(store, entries=[(2, "two")], seq=2, sets=[("", "x", 2), ("", "y", 0), ("", "z", 1)])
    assert (await stored(store)).sets == [("", "x", 2), ("", "z", 1)]


async def test_variables_of_different_frames_do_not_meet(store: Store) -> None:
    await create(store, sets=[("", "x", 1), ("f", "x", 1), ("f[1]", "x", 1)])
    await advance(store, sets=[("f", "x", 0)])
    assert (await stored(store)).sets == [("", "x", 1), ("f[1]", "x", 1)]


@pytest.mark.parametrize("path", ["a[0]", "a[12]", "a/b", "a/b[3]", "a[0]/c", "a[0]/c/d[1]"])
async def test_dropping_a_step_drops_every_frame_below_it(store: Store, path: str) -> None:
    await create(store, frames=[(path, None, "{}")], sets=[(path, "x", 1)])
    await advance(store, dropped=["a"])
    found = await stored(store)
    assert (found.frames, found.sets) == ([], [])


@pytest.mark.parametrize(
    "path", ["", "a", "a2", "a2[0]", "a#2[0]", "a#2/b", "ab", "ab/c", "A[0]", "b/a[0]", "a.b", "a-[0]"]
)
async def test_dropping_a_step_leaves_every_other_frame(store: Store, path: str) -> None:
    await create(store, frames=[(path, None, "{}")], sets=[(path, "x", 1)])
    await advance(store, dropped=["a"])
    found = await stored(store)
    assert (found.frames, found.sets) == ([(path, "{}")], [(path, "x", 1)])


@pytest.mark.parametrize("step", ["%", "_", "a%b", "*", "a'b", "ü", "a\\"])
async def test_a_step_is_dropped_by_its_name_and_not_by_a_pattern(store: Store, step: str) -> None:
    await create(store, frames=[(f"{step}[1]", None, "{}"), ("other[1]", None, "{}"), ("axb[1]", None, "{}")])
    await advance(store, dropped=[step])
    assert [path for path, _ in (await stored(store)).frames] == ["axb[1]", "other[1]"]


async def test_what_is_dropped_goes_before_what_is_set(store: Store) -> None:
    await create(
        store, frames=[("a[0]", None, "old"), ("a[1]", None, "old")], sets=[("a[0]", "x", 1), ("a[1]", "x", 1)]
    )
    await advance(store, dropped=["a"], frames=[("a[0]", None, "new")], sets=[("a[0]", "y", 1)])
    found = await stored(store)
    assert (found.frames, found.sets) == ([("a[0]", "new")], [("a[0]", "y", 1)])


async def test_dropping_touches_no_other_execution(store: Store) -> None:
    await create(store, "e", frames=[("a[0]", None, "{}")])
    await create(store, "f", frames=[("a[0]", None, "{}")])
    await advance(store, "e", dropped=["a"])
    assert (await stored(store, "f")).frames == [("a[0]", "{}")]


async def test_fetch_brings_the_entries_that_frames_and_variables_point_to(store: Store) -> None:
    await create(
        store,
        entries=[(seq, f"body {seq}") for seq in range(1, 7)],
        seq=6,
        sets=[("", "x", 2), ("f", "y", 4), ("f", "z", 2)],
        frames=[("f", 5, "{}"), ("g", None, "{}")],
    )
    assert (await stored(store)).entries == {2: "body 2", 4: "body 4", 5: "body 5"}


async def test_fetch_brings_the_row_and_the_inbox(store: Store) -> None:
    row = await create(store)
    await append(store, "k", kind="note", body="hello")
    found = await stored(store)
    assert found.row == row
    assert [body for _, body in found.inbox] == ["hello"]


# -- values and ids ---------------------------------------------------------------------------------------------------

VALUES: dict[str, Blob] = {
    "empty text": "",
    "empty bytes": b"",
    "null character": "a\x00b",
    "escaped null character": '"a\\u0000b"',
    "every byte": bytes(range(256)),
    "text as bytes": b"text",
    "large float": "1e22",
    "largest integers": "[9223372036854775807,-9223372036854775808,18446744073709551615]",
    "digits": "12345678901234567890123456789",
    "looks like a number": "1.0",
    "beyond the plane": "😀 𝔘𝔫𝔦",
    "not normalised": "e\u0301",
    "line separators": "a\u2028b\r\nc",
    "quotes": "'\"`; DROP TABLE executions; --",
    "a megabyte": "x" * 1_000_000,
    "a megabyte of bytes": b"\xff" * 1_000_000,
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
async def test_a_value_comes_back_as_it_was_stored(store: Store, value: Blob) -> None:
    await create(
        store,
        new={"input": value, "definition": value},
        root=value,
        info=value,
        entries=[(1, value)],
        result_seq=1,
        frames=[("f", None, value)],
        sets=[("", "x", 1)],
    )
    await append(store, kind="note", body=value)
    found = await stored(store)
    row = found.row
    seen = [row.input, row.root, row.info, row.result, found.entries[1], found.frames[0][1], found.inbox[0][1]]
    seen += [await store.definition("hash"), (await store.read("e"))[0][1]]
    assert all(type(one) is type(value) and one == value for one in seen)


@pytest.mark.parametrize("time", [0.0, 1.5, START + 0.1 + 0.2, 4_102_444_800.000001])
async def test_times_come_back_exactly(store: Store, time: float) -> None:
    row = await create(store, new={"created_at": time}, updated_at=time, finished_at=time, wake_at=time)
    assert {row.created_at, row.updated_at, row.finished_at, row.wake_at} == {time}


ALIKE = [
    "a", "A", "a:", "a:1", "a/", "a%", "a_", "a*", "a'", 'a"', "a\\", "a.", "a{b}", "ä", "a\u0308", "😀", "0", "00",
    "a" * 255,
]  # fmt: skip


async def test_executions_with_similar_ids_do_not_meet(store: Store) -> None:
    assert len({unicodedata.normalize("NFC", name) for name in ALIKE}) < len(ALIKE)
    for i, name in enumerate(ALIKE):
        await idle(
            store,
            name,
            new={"created_at": START + i},
            entries=[(1, name)],
            sets=[("", name, 1)],
            frames=[(name, None, name)],
            opened=[opening(f"{name}/wait")],
        )
    for name in ALIKE:
        appended = await store.append(message(name, execution_id=name, wait_id=f"{name}/wait"), name)
        assert appended.outcome == "accepted"
    for name in ALIKE:
        found = await stored(store, name)
        assert (found.row.id, found.entries, found.frames, found.sets) == (
            name, {1: name}, [(name, name)], [("", name, 1)],
        )  # fmt: skip
        assert [body for _, body in found.inbox] == [name]
    assert await find(store) == ALIKE[::-1]
    for gone, name in enumerate(ALIKE, 1):
        assert await store.remove(name)
        assert len(await find(store)) == len(ALIKE) - gone


@pytest.mark.parametrize("label", ["", "a:b", "a=b,c=d", "%", "'", "😀", "x" * 255])
async def test_labels_are_any_text(store: Store, label: str) -> None:
    await create(store, "with", new={"labels": {label: label, "k": label}})
    await create(store, "without", new={"labels": {"k": label + "x"}})
    assert await find(store, labels={label: label}) == ["with"]
    assert await find(store, labels={"k": label}) == ["with"]


# -- leases -----------------------------------------------------------------------------------------------------------


async def test_claiming_gives_the_lease_and_everything_to_go_on(store: Store) -> None:
    await idle(store, sets=[("", "x", 1)], frames=[("f", None, "{}")])
    await append(store, kind="note")
    claimed = await store.claim("e", owner="me", ttl=30, statuses=ANY)
    assert isinstance(claimed, Stored)
    assert (claimed.row.owner, claimed.row.lease_until, claimed.row.generation) == ("me", START + 30, 2)
    assert claimed == await stored(store)


async def test_every_claim_raises_the_generation(store: Store, clock: SettableClock) -> None:
    await idle(store)
    generations = []
    for i in range(4):
        clock.time += 100
        claimed = await store.claim("e", owner=f"o{i}", ttl=30, statuses=ANY)
        assert isinstance(claimed, Stored)
        generations.append(claimed.row.generation)
    assert generations == [2, 3, 4, 5]


async def test_claiming_changes_nothing_but_the_lease(store: Store) -> None:
    row = await idle(store)
    await store.claim("e", owner="me", ttl=30, statuses=ANY)
    assert without_lease(await row_of(store)) == without_lease(row)


async def test_a_held_lease_cannot_be_claimed(store: Store) -> None:
    row = await create(store, owner="me", lease_ttl=30)
    busy = await store.claim("e", owner="you", ttl=30, statuses=ANY)
    assert busy == Busy(status="running", owner="me", lease_until=START + 30)
    assert await row_of(store) == row


async def test_the_holder_cannot_claim_again(store: Store) -> None:
    await create(store, owner="me")
    assert isinstance(await store.claim("e", owner="me", ttl=30, statuses=ANY), Busy)


async def test_a_lease_holds_to_its_last_moment(store: Store, clock: SettableClock) -> None:
    await create(store, lease_ttl=30)
    clock.time = START + 29.999
    assert isinstance(await store.claim("e", owner="you", ttl=30, statuses=ANY), Busy)
    clock.time = START + 30
    assert isinstance(await store.claim("e", owner="you", ttl=30, statuses=ANY), Stored)


async def test_only_what_has_one_of_the_statuses_is_claimed(store: Store) -> None:
    await idle(store, status="halted")
    busy = await store.claim("e", owner="me", ttl=30, statuses=["running", "pending"])
    assert busy == Busy(status="halted", owner=None, lease_until=None)
    assert isinstance(await store.claim("e", owner="me", ttl=30, statuses=["halted"]), Stored)


async def test_of_many_who_claim_one_wins(store: Store) -> None:
    await idle(store)
    claims = [store.claim("e", owner=f"o{i}", ttl=30, statuses=ANY) for i in range(20)]
    outcomes = await asyncio.gather(*claims)
    winners = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Stored)]
    assert len(winners) == 1
    assert (await row_of(store)).owner == f"o{winners[0]}"


async def test_who_lost_the_lease_can_commit_nothing(store: Store, clock: SettableClock) -> None:
    old = await create(store, owner="me")
    clock.time += 31
    await store.claim("e", owner="you", ttl=30, statuses=ANY)
    with pytest.raises(LeaseLost):
        await store.commit(following(old))
    await advance(store)


async def test_an_expired_lease_that_nobody_took_still_commits(store: Store, clock: SettableClock) -> None:
    row = await create(store, owner="me")
    clock.time += 1000
    await store.commit(following(row))


async def test_taking_over_a_running_execution_is_counted(store: Store, clock: SettableClock) -> None:
    await create(store, owner="o0")
    for i in range(1, 4):
        clock.time += 31
        claimed = await store.claim("e", owner=f"o{i}", ttl=30, statuses=ANY)
        assert isinstance(claimed, Stored)
        assert claimed.row.recoveries == i


async def test_a_commit_sets_recoveries_to_zero(store: Store, clock: SettableClock) -> None:
    await create(store)
    clock.time += 31
    await store.claim("e", owner="you", ttl=30, statuses=ANY)
    assert (await row_of(store)).recoveries == 1
    assert (await advance(store)).recoveries == 0


async def test_a_released_execution_was_not_recovered(store: Store) -> None:
    await create(store, owner="me")
    await store.release("e", owner="me", generation=1)
    claimed = await store.claim("e", owner="you", ttl=30, statuses=ANY)
    assert isinstance(claimed, Stored)
    assert claimed.row.recoveries == 0


async def test_an_execution_that_was_not_running_was_not_recovered(store: Store, clock: SettableClock) -> None:
    await create(store, status="halted")
    clock.time += 31
    claimed = await store.claim("e", owner="you", ttl=30, statuses=ANY)
    assert isinstance(claimed, Stored)
    assert claimed.row.recoveries == 0


async def test_renewing_extends_every_lease_of_the_owner(store: Store, clock: SettableClock) -> None:
    for name in "abc":
        await create(store, name, owner="me")
    await idle(store, "d")
    clock.time += 10
    assert await store.renew("me", ttl=30) == {"a": 1, "b": 1, "c": 1}
    assert [(await row_of(store, name)).lease_until for name in "abcd"] == [START + 40] * 3 + [None]


async def test_renewing_touches_no_other_owner(store: Store, clock: SettableClock) -> None:
    await create(store, "a", owner="me")
    await create(store, "b", owner="you")
    clock.time += 10
    assert await store.renew("me", ttl=30) == {"a": 1}
    assert (await row_of(store, "b")).lease_until == START + 30


async def test_renewing_tells_what_was_lost(store: Store, clock: SettableClock) -> None:
    await create(store, "a", owner="me")
    await create(store, "b", owner="me")
    clock.time += 31
    await store.claim("a", owner="you", ttl=30, statuses=ANY)
    assert await store.renew("me", ttl=30) == {"b": 1}


async def test_renewing_without_leases_is_empty(store: Store) -> None:
    await idle(store)
    assert await store.renew("me", ttl=30) == {}


async def test_releasing_gives_the_lease_back(store: Store) -> None:
    row = await create(store, owner="me")
    await store.release("e", owner="me", generation=1)
    assert await row_of(store) == msgspec.structs.replace(row, owner=None, lease_until=None)


@pytest.mark.parametrize(("owner", "generation"), [("you", 1), ("me", 2), ("me", 0)])
async def test_releasing_what_one_does_not_hold_does_nothing(store: Store, owner: str, generation: int) -> None:
    row = await create(store, owner="me")
    await store.release("e", owner=owner, generation=generation)
    await store.release("unknown", owner=owner, generation=generation)
    assert await row_of(store) == row


async def test_a_commit_can_release(store: Store) -> None:
    row = await create(store)
    assert (await store.commit(following(row, release=True))).released
    assert (await row_of(store)).owner is None


async def test_a_commit_that_does_not_release_keeps_the_lease(store: Store) -> None:
    row = await create(store)
    assert not (await store.commit(following(row))).released
    assert (await row_of(store)).owner == "me"


async def test_a_commit_keeps_the_lease_while_there_is_unread_mail(store: Store) -> None:
    row = await create(store)
    await append(store, kind="note")
    assert not (await store.commit(following(row, release=True))).released
    row = await row_of(store)
    assert (row.owner, row.version) == ("me", 2)


async def test_a_commit_releases_when_it_consumes_the_last_message(store: Store) -> None:
    row = await create(store)
    await append(store, kind="note")
    ((inbox_id, _),) = await store.inbox("e")
    assert (await store.commit(following(row, consumed=[inbox_id], release=True))).released


# -- the inbox --------------------------------------------------------------------------------------------------------


async def test_a_message_to_nobody_is_unknown(store: Store) -> None:
    appended = await append(store, execution_id="nobody")
    assert (appended.outcome, appended.owner) == ("unknown", None)


async def test_who_appends_hears_who_drives_the_execution(store: Store) -> None:
    await create(store, "driven", owner="me", lease_ttl=30)
    await idle(store, "idle")
    appended = await append(store, execution_id="driven", kind="note")
    assert (appended.outcome, appended.owner, appended.lease_until) == ("accepted", "me", START + 30)
    appended = await append(store, execution_id="idle", kind="note")
    assert (appended.outcome, appended.owner, appended.lease_until) == ("accepted", None, None)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_a_message_to_an_execution_that_is_over_is_closed(store: Store, status: str) -> None:
    await create(store, status=status, finished_at=1.0)

    told = await append(store, kind="cancel")

    assert told.outcome == "closed"
    assert await store.inbox("e") == []


async def test_messages_are_read_in_the_order_they_came(store: Store) -> None:
    await create(store)
    for key in "cabed":
        await append(store, key, kind="note", body=key)
    inbox = await store.inbox("e")
    assert [body for _, body in inbox] == list("cabed")
    assert sorted(inbox) == inbox


async def test_reading_the_inbox_does_not_empty_it(store: Store) -> None:
    await create(store)
    await append(store, kind="note")
    assert await store.inbox("e") == await store.inbox("e") != []


async def test_a_key_that_is_unread_is_a_duplicate(store: Store) -> None:
    await create(store)
    await append(store, "cancel", kind="cancel", body="first")
    assert (await append(store, "cancel", kind="cancel", body="second")).outcome == "duplicate"
    assert [body for _, body in await store.inbox("e")] == ["first"]


async def test_a_key_may_come_again_once_it_was_read(store: Store) -> None:
    await create(store)
    await append(store, "cancel", kind="cancel")
    ((inbox_id, _),) = await store.inbox("e")
    await advance(store, consumed=[inbox_id])
    assert (await append(store, "cancel", kind="cancel")).outcome == "accepted"


async def test_the_same_key_for_two_executions_is_no_duplicate(store: Store) -> None:
    await create(store, "a")
    await create(store, "b")
    outcomes = [(await append(store, execution_id=name, kind="note")).outcome for name in "ab"]
    assert outcomes == ["accepted", "accepted"]


async def test_only_what_was_consumed_goes(store: Store) -> None:
    await create(store)
    for key in "abc":
        await append(store, key, kind="note", body=key)
    (first, _), _, (third, _) = await store.inbox("e")
    await advance(store, consumed=[first, third])
    assert [body for _, body in await store.inbox("e")] == ["b"]


async def test_an_inbox_number_is_never_used_again(store: Store) -> None:
    await create(store)
    seen = set()
    for _ in range(3):
        await append(store, kind="note")
        ((inbox_id, _),) = await store.inbox("e")
        assert inbox_id not in seen
        seen.add(inbox_id)
        await advance(store, consumed=[inbox_id])


async def test_nothing_of_another_execution_is_consumed(store: Store) -> None:
    await create(store, "a")
    await create(store, "b")
    await append(store, execution_id="b", kind="note")
    ((inbox_id, _),) = await store.inbox("b")
    await advance(store, "a", consumed=[inbox_id])
    assert len(await store.inbox("b")) == 1


# -- waits ------------------------------------------------------------------------------------------------------------


async def test_an_answer_needs_an_open_wait(store: Store) -> None:
    await create(store)
    assert await answer(store) == "closed"
    assert await store.inbox("e") == []


async def test_the_first_answer_wins(store: Store) -> None:
    await create(store, opened=[opening()])
    assert [await answer(store, key) for key in "abc"] == ["accepted", "closed", "closed"]
    assert len(await store.inbox("e")) == 1


async def test_of_many_who_answer_at_once_one_wins(store: Store) -> None:
    await create(store, opened=[opening()])
    outcomes = await asyncio.gather(*[answer(store, f"k{i}") for i in range(20)])
    assert sorted(outcomes) == ["accepted"] + ["closed"] * 19


async def test_the_wait_of_another_execution_is_closed(store: Store) -> None:
    await create(store, "e")
    await create(store, "f", opened=[opening()])
    assert await answer(store) == "closed"
    assert (await append(store, execution_id="f", wait_id="wait")).outcome == "accepted"


async def test_waits_of_two_executions_under_one_id_do_not_meet(store: Store) -> None:
    for name in "ab":
        await create(store, name, opened=[opening(needed=2)])
    outcomes = [(await append(store, "v", execution_id=name, wait_id="wait", takes=1)).outcome for name in "abab"]
    assert outcomes == ["accepted", "accepted", "duplicate", "duplicate"]
    await advance(store, "a", closed=["wait"])
    assert (await append(store, "w", execution_id="b", wait_id="wait", takes=1)).outcome == "accepted"


async def test_a_wait_that_the_owner_closed_is_closed(store: Store) -> None:
    await create(store, opened=[opening()])
    await advance(store, closed=["wait"])
    assert await answer(store) == "closed"


async def test_waits_do_not_close_each_other(store: Store) -> None:
    await create(store, opened=[opening("one"), opening("two")])
    assert await answer(store, "a", "one") == "accepted"
    assert await answer(store, "b", "two") == "accepted"


async def test_a_wait_takes_as_many_votes_as_it_needs(store: Store) -> None:
    await create(store, opened=[opening(needed=3)])
    assert [await vote(store, key) for key in "abcd"] == ["accepted", "accepted", "accepted", "closed"]


async def test_nobody_votes_twice(store: Store) -> None:
    await create(store, opened=[opening(needed=3)])
    assert [await vote(store, key) for key in "aaba"] == ["accepted", "duplicate", "accepted", "duplicate"]


async def test_nobody_votes_twice_after_the_first_vote_was_read(store: Store) -> None:
    await create(store, opened=[opening(needed=3)])
    await vote(store, "a")
    ((inbox_id, _),) = await store.inbox("e")
    await advance(store, consumed=[inbox_id])
    assert [await vote(store, key) for key in "abc"] == ["duplicate", "accepted", "accepted"]


async def test_who_voted_hears_closed_when_the_wait_is_over(store: Store) -> None:
    await create(store, opened=[opening(needed=2)])
    assert [await vote(store, key) for key in "aba"] == ["accepted", "accepted", "closed"]


async def test_one_answer_can_take_the_whole_wait(store: Store) -> None:
    await create(store, opened=[opening(needed=3)])
    assert await vote(store, "a") == "accepted"
    assert await answer(store, "reject") == "accepted"
    assert await vote(store, "b") == "closed"


async def test_of_many_votes_at_once_exactly_the_needed_ones_count(store: Store) -> None:
    await create(store, opened=[opening(needed=7)])
    outcomes = await asyncio.gather(*[vote(store, f"k{i}") for i in range(20)])
    assert outcomes.count("accepted") == 7
    assert outcomes.count("closed") == 13


async def test_a_row_has_the_bodies_of_its_waits_in_the_order_of_their_opening(store: Store) -> None:
    await create(store, opened=[opening("z", seq=1, body="first"), opening("b", seq=2, body=b"third")])
    await advance(store, opened=[opening("c", seq=3, body="fourth"), opening("a", seq=2, body="second")])
    bodies = ["first", "second", b"third", "fourth"]
    assert (await row_of(store)).waits == bodies
    assert (await stored(store)).row.waits == bodies
    ((found,), _) = await store.search(Filter(), limit=10, cursor=None)
    assert found.waits == bodies


async def test_rewriting_a_wait_changes_its_body_only(store: Store) -> None:
    await create(store, opened=[opening("a", 2, body="old"), opening("b", body="other")])
    assert await vote(store, "one", "a") == "accepted"
    await advance(store, rewritten=[("a", "new")])
    assert (await row_of(store)).waits == ["new", "other"]
    assert [await vote(store, key, "a") for key in ("one", "two", "three")] == ["duplicate", "accepted", "closed"]


async def test_rewriting_a_wait_that_is_not_open_does_nothing(store: Store) -> None:
    await create(store)
    await advance(store, rewritten=[("a", "new")])
    assert (await row_of(store)).waits == []


async def test_a_closed_wait_is_no_more_in_the_row(store: Store) -> None:
    await create(store, opened=[opening("a"), opening("b", body="stays")])
    await advance(store, closed=["a"])
    assert (await row_of(store)).waits == ["stays"]


async def test_a_wait_that_is_opened_again_starts_anew(store: Store) -> None:
    await create(store, opened=[opening(needed=2)])
    await vote(store, "a")
    ((inbox_id, _),) = await store.inbox("e")
    await advance(store, consumed=[inbox_id], closed=["wait"])
    await advance(store, opened=[opening(needed=2)])
    assert [await vote(store, key) for key in "ab"] == ["accepted", "accepted"]


async def test_a_wait_that_is_opened_while_it_is_open_starts_anew(store: Store) -> None:
    await create(store, opened=[opening(needed=2)])
    await vote(store, "a")
    ((inbox_id, _),) = await store.inbox("e")
    await advance(store, consumed=[inbox_id], opened=[opening(needed=2)])
    assert [await vote(store, key) for key in "abc"] == ["accepted", "accepted", "closed"]


async def test_closing_and_opening_a_wait_in_one_commit_opens_it(store: Store) -> None:
    await create(store, opened=[opening()])
    await answer(store, "a")
    await advance(store, closed=["wait"], opened=[opening()])
    assert await answer(store, "b") == "accepted"


async def test_an_answer_in_time_is_accepted(store: Store, clock: SettableClock) -> None:
    await create(store, opened=[opening("wait", 1, START + 10)])
    clock.time = START + 9.999
    assert await answer(store) == "accepted"


async def test_an_answer_at_the_deadline_is_late(store: Store, clock: SettableClock) -> None:
    await create(store, opened=[opening("wait", 1, START + 10)])
    clock.time = START + 10
    assert await answer(store) == "closed"


async def test_who_voted_in_time_hears_closed_after_the_deadline(store: Store, clock: SettableClock) -> None:
    await create(store, opened=[opening("wait", 2, START + 10)])
    await vote(store, "a")
    clock.time = START + 10
    assert await vote(store, "a") == "closed"


async def test_a_timeout_before_the_deadline_does_nothing(store: Store, clock: SettableClock) -> None:
    await create(store, opened=[opening("wait", 1, START + 10)])
    clock.time = START + 9.999
    assert await timeout(store) == "closed"
    assert await answer(store) == "accepted"


async def test_a_timeout_at_the_deadline_closes_the_wait(store: Store, clock: SettableClock) -> None:
    await create(store, opened=[opening("wait", 3, START + 10)])
    clock.time = START + 10
    assert [await timeout(store), await timeout(store)] == ["accepted", "closed"]
    assert len(await store.inbox("e")) == 1


async def test_a_timeout_after_an_answer_is_closed(store: Store, clock: SettableClock) -> None:
    await create(store, opened=[opening("wait", 1, START + 10)])
    await answer(store)
    clock.time = START + 11
    assert await timeout(store) == "closed"


async def test_a_wait_without_a_deadline_does_not_time_out(store: Store, clock: SettableClock) -> None:
    await create(store, opened=[opening()])
    clock.time += 1e9
    assert await timeout(store) == "closed"


async def test_an_answer_and_a_timeout_at_once_have_one_winner(store: Store, clock: SettableClock) -> None:
    await create(store, opened=[opening("wait", 1, START + 10)])
    clock.time = START + 10
    outcomes = list(await asyncio.gather(answer(store), timeout(store), answer(store, "b")))
    assert outcomes == ["closed", "accepted", "closed"]


async def test_a_child_may_end_before_its_parent_waits_for_it(store: Store) -> None:
    await create(store)
    outcome = await append(store, "child:c", kind="child", wait_id="wait")
    assert outcome.outcome == "accepted"
    assert (await append(store, "child:c", kind="child", wait_id="wait")).outcome == "duplicate"


# -- messages of commits ----------------------------------------------------------------------------------------------


async def test_a_commit_delivers_its_messages(store: Store) -> None:
    await create(store, "parent", opened=[opening()])
    await create(store, "child")
    told = message("child", kind="child", execution_id="parent", wait_id="wait")
    await advance(store, "child", status="completed", messages=[(told, "done")], release=True)
    assert [body for _, body in await store.inbox("parent")] == ["done"]


async def test_a_creation_delivers_its_messages(store: Store) -> None:
    await create(store, "a")
    await create(store, "b", messages=[(message(kind="note", execution_id="a"), "hello")])
    assert [body for _, body in await store.inbox("a")] == ["hello"]


async def test_a_message_to_an_unknown_execution_is_skipped(store: Store) -> None:
    await create(store)
    row = await advance(store, messages=[(message(execution_id="nobody", kind="note"), "x")])
    assert row.version == 2


async def test_a_message_to_a_closed_wait_is_skipped(store: Store) -> None:
    await create(store, "a")
    await create(store, "b")
    await advance(store, "b", messages=[(message(execution_id="a", wait_id="wait"), "x")])
    assert await store.inbox("a") == []


async def test_a_message_that_is_there_already_is_skipped(store: Store) -> None:
    await create(store, "a")
    await create(store, "b")
    for body in ("one", "two"):
        await advance(store, "b", messages=[(message(kind="child", execution_id="a"), body)])
    assert [body for _, body in await store.inbox("a")] == ["one"]


async def test_a_message_to_itself_keeps_the_lease(store: Store) -> None:
    row = await create(store)
    told = [(message(kind="note"), "x")]
    assert not (await store.commit(following(row, messages=told, release=True))).released


# -- mail -------------------------------------------------------------------------------------------------------------


async def test_there_is_no_mail_at_first(store: Store) -> None:
    await create(store, owner="me")
    assert await store.mail("me") == []
    assert await store.mail("me") == []


async def test_mail_names_executions_with_unread_messages(store: Store) -> None:
    for name in "abc":
        await create(store, name, owner="me")
    assert await store.mail("me") == []
    for name in "ca":
        await append(store, execution_id=name, kind="note")
        await append(store, "second", execution_id=name, kind="note")
    assert sorted(await store.mail("me")) == ["a", "c"]
    assert sorted(await store.mail("me")) == ["a", "c"]


async def test_mail_is_gone_once_it_was_read(store: Store) -> None:
    await create(store, owner="me")
    await append(store, kind="note")
    ((inbox_id, _),) = await store.inbox("e")
    assert await store.mail("me") == ["e"]
    await advance(store, consumed=[inbox_id])
    assert await store.mail("me") == []


async def test_mail_of_others_is_not_told(store: Store) -> None:
    await create(store, "a", owner="me")
    await create(store, "b", owner="you")
    await idle(store, "c")
    for name in "bc":
        await append(store, execution_id=name, kind="note")
    assert await store.mail("me") == []
    assert await store.mail("you") == ["b"]


async def test_mail_that_waited_is_told_to_who_claims(store: Store) -> None:
    await idle(store)
    await append(store, kind="note")
    assert await store.mail("me") == []
    await store.claim("e", owner="me", ttl=30, statuses=ANY)
    assert await store.mail("me") == ["e"]


async def test_a_message_of_a_commit_is_mail(store: Store) -> None:
    await create(store, "a", owner="me")
    await create(store, "b", owner="you")
    assert await store.mail("me") == []
    await advance(store, "b", messages=[(message(kind="child", execution_id="a"), "x")])
    assert await store.mail("me") == ["a"]


# -- searching --------------------------------------------------------------------------------------------------------


async def test_the_newest_comes_first(store: Store) -> None:
    for i, name in enumerate("bdac"):
        await create(store, name, new={"created_at": START + i})
    assert await find(store) == list("cadb")


async def test_of_the_same_moment_the_last_id_comes_first(store: Store) -> None:
    for name in "bdac":
        await create(store, name)
    assert await find(store) == list("dcba")


async def test_nothing_found_is_an_empty_last_page(store: Store) -> None:
    assert await pages(store, limit=10) == [[]]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_pages_hold_everything_once(store: Store, limit: int) -> None:
    names = [f"e{i:02}" for i in range(20)]
    for i, name in enumerate(names):
        status = ("running", "halted", "completed")[i % 3]
        await create(store, name, status=status, new={"created_at": START + i // 4})
    found = await pages(store, limit=limit)
    assert [name for page in found for name in page] == names[::-1]
    assert all(len(page) == limit for page in found[:-1])
    assert 1 <= len(found[-1]) <= limit


async def test_a_cursor_stays_valid_while_rows_come_and_go(store: Store) -> None:
    for i in range(10):
        await idle(store, f"e{i}", new={"created_at": START + i})
    first = await pages(store, limit=4)
    rows, cursor = await search_page(store, 4, None)
    assert rows == first[0] == ["e9", "e8", "e7", "e6"]
    await create(store, "newer", new={"created_at": START + 99})
    await create(store, "between", new={"created_at": START + 4.5})
    await store.remove("e6")
    await store.remove("e5")
    rows, cursor = await search_page(store, 4, cursor)
    assert rows == ["between", "e4", "e3", "e2"]
    rows, cursor = await search_page(store, 4, cursor)
    assert (rows, cursor) == (["e1", "e0"], None)


async def search_page(store: Store, limit: int, cursor: str | None) -> tuple[list[str], str | None]:
    rows, following_cursor = await store.search(Filter(), limit=limit, cursor=cursor)
    return [row.id for row in rows], following_cursor


@pytest.mark.parametrize("cursor", ["", "x", "%%%", "bm9wZQ", "e30", "WzEsMl0", "ünicode", "WzEuMCwiYSIsMl0", "'; --"])
async def test_what_is_no_cursor_is_a_validation_error(store: Store, cursor: str) -> None:
    with pytest.raises(ValidationError):
        await find(store, cursor=cursor)


async def test_searching_brings_whole_rows(store: Store) -> None:
    row = await create(store, new={"labels": {"a": "b"}, "parent_id": "p"}, result_seq=1)
    rows, _ = await store.search(Filter(), limit=10, cursor=None)
    assert rows == [row]


async def test_searching_follows_the_status(store: Store) -> None:
    await create(store, new={"labels": {"a": "b"}, "parent_id": "p"})
    for status in ("halted", "running", "failed"):
        await advance(store, status=status)
        for conditions in ({}, {"labels": {"a": "b"}}, {"parent_id": "p"}, {"workflow_id": "w"}):
            assert await find(store, statuses=[status], **conditions) == ["e"]
            assert await find(store, statuses=["pending", "completed"], **conditions) == []


async def test_times_of_a_search_are_exclusive(store: Store) -> None:
    for i in range(5):
        await create(store, f"e{i}", new={"created_at": START + i})
    assert await find(store, created_after=START + 1, created_before=START + 4) == ["e3", "e2"]


async def test_no_statuses_match_nothing(store: Store) -> None:
    await create(store)
    assert await find(store, statuses=[]) == []


async def test_a_status_given_twice_finds_once(store: Store) -> None:
    await create(store)
    assert await find(store, statuses=["running", "running"]) == ["e"]


async def test_every_combination_of_conditions_finds_what_matches(store: Store) -> None:
    rng = random.Random(7)
    rows: dict[str, dict[str, Any]] = {}
    for i in range(60):
        fields: dict[str, Any] = {
            "workflow_id": rng.choice("uv"),
            "created_at": START + rng.randrange(20),
            "parent_id": rng.choice([None, "p", "q"]),
            "labels": {key: rng.choice("xy") for key in "ab" if rng.random() < 0.7},
        }
        status = rng.choice(["running", "halted", "completed"])
        rows[f"e{i:02}"] = fields | {"status": status}
        await create(store, f"e{i:02}", new=fields, status=status)
    choices: list[dict[str, Any]] = [
        dict(itertools.chain.from_iterable(part.items() for part in parts))
        for parts in itertools.product(
            [{}, {"workflow_id": "u"}],
            [{}, {"statuses": ["running"]}, {"statuses": ["halted", "completed"]}],
            [{}, {"labels": {"a": "x"}}, {"labels": {"a": "x", "b": "y"}}],
            [{}, {"parent_id": "p"}],
            [{}, {"created_after": START + 5, "created_before": START + 15}],
        )
    ]
    for conditions in choices:
        expected = [
            name
            for name, row in sorted(rows.items(), key=lambda item: (item[1]["created_at"], item[0]), reverse=True)
            if row["workflow_id"] == conditions.get("workflow_id", row["workflow_id"])
            and row["status"] in conditions.get("statuses", [row["status"]])
            and conditions.get("labels", {}).items() <= row["labels"].items()
            and row["parent_id"] == conditions.get("parent_id", row["parent_id"])
            and row["created_at"] > conditions.get("created_after", 0)
            and row["created_at"] < conditions.get("created_before", 1e99)
        ]
        found = await pages(store, limit=7, **conditions)
        assert [name for page in found for name in page] == expected, conditions


# -- deleting ---------------------------------------------------------------------------------------------------------


async def test_removing_what_is_not_there_is_false(store: Store) -> None:
    assert await store.remove("e") is False


async def test_a_removed_execution_leaves_nothing_to_its_successor(store: Store) -> None:
    everything = {
        "new": {"labels": {"a": "b"}},
        "frames": [("f", 1, "{}")],
        "sets": [("", "x", 1)],
        "opened": [opening(needed=2)],
    }
    await idle(store, **everything)  # type: ignore[arg-type]
    await vote(store, "a")
    await append(store, "note", kind="note")
    assert await store.remove("e") is True
    assert await store.row("e") is None
    assert await find(store) == await find(store, labels={"a": "b"}) == []
    assert (await append(store, "note", kind="note")).outcome == "unknown"
    await idle(store, entries=[])
    found = await stored(store)
    assert (found.frames, found.sets, found.entries, found.inbox) == ([], [], {}, [])
    assert found.row.labels == {}
    assert await store.read("e") == []
    assert await vote(store, "b") == "closed"
    await advance(store, opened=[opening(needed=2)])
    assert await vote(store, "a") == "accepted"


async def test_a_driven_execution_is_not_removed(store: Store, clock: SettableClock) -> None:
    row = await create(store)
    with pytest.raises(ConflictError):
        await store.remove("e")
    assert await row_of(store) == row
    clock.time += 31
    assert await store.remove("e") is True


async def test_removing_touches_no_other_execution(store: Store) -> None:
    for name in "ab":
        await idle(store, name, sets=[("", "x", 1)], frames=[("f", None, "{}")], opened=[opening(f"{name}/w")])
        await append(store, execution_id=name, kind="note")
    before = await stored(store, "b")
    await store.remove("a")
    assert await stored(store, "b") == before
    assert (await append(store, "x", execution_id="b", wait_id="b/w")).outcome == "accepted"


async def test_who_drove_a_removed_execution_is_fenced(store: Store, clock: SettableClock) -> None:
    row = await create(store)
    clock.time += 31
    await store.remove("e")
    with pytest.raises(LeaseLost):
        await store.commit(following(row))
    assert await store.row("e") is None


async def ended(store: Store, name: str, after: float, status: str = "completed", **changes: Any) -> None:
    await idle(store, name, status=status, finished_at=START + after, **changes)


async def test_purging_deletes_what_ended_before(store: Store) -> None:
    for i in range(5):
        await ended(store, f"e{i}", i)
    await idle(store, "alive")
    assert await store.purge_rows(before=START + 3, statuses=ANY, limit=100) == 3
    assert await find(store) == ["e4", "e3", "alive"]


async def test_purging_keeps_other_statuses(store: Store) -> None:
    await ended(store, "good", 1)
    await ended(store, "bad", 1, status="failed")
    assert await store.purge_rows(before=START + 9, statuses=["completed"], limit=100) == 1
    assert await find(store) == ["bad"]


async def test_purging_stops_at_its_limit(store: Store) -> None:
    for i in range(5):
        await ended(store, f"e{i}", i, status=("completed", "failed")[i % 2])
    counts = [await store.purge_rows(before=START + 9, statuses=["completed", "failed"], limit=2) for _ in range(4)]
    assert counts == [2, 2, 1, 0]


async def test_purging_leaves_what_is_driven(store: Store, clock: SettableClock) -> None:
    await ended(store, "e", 1, lease_ttl=30)
    assert await store.purge_rows(before=START + 9, statuses=ANY, limit=100) == 0
    clock.time += 31
    assert await store.purge_rows(before=START + 9, statuses=ANY, limit=100) == 1


async def test_a_purged_execution_leaves_nothing_to_its_successor(store: Store) -> None:
    await ended(store, "e", 1, frames=[("f", 1, "{}")], sets=[("", "x", 1)], opened=[opening(needed=2)])
    await vote(store, "a")
    await store.purge_rows(before=START + 9, statuses=ANY, limit=100)
    await idle(store, entries=[])
    found = await stored(store)
    assert (found.frames, found.sets, found.entries, found.inbox) == ([], [], {}, [])


# -- batches ----------------------------------------------------------------------------------------------------------


async def test_commits_at_once_all_land(store: Store) -> None:
    await asyncio.gather(*[store.commit(creation(f"e{i}")) for i in range(50)])
    rows = [await row_of(store, f"e{i}") for i in range(50)]
    await asyncio.gather(*[store.commit(following(row, seq=2, entries=[(2, row.id)])) for row in rows])
    for row in rows:
        assert await store.read(row.id, after=1) == [(2, row.id)]


async def test_a_fenced_commit_does_not_hurt_its_neighbours(store: Store) -> None:
    rows = [await create(store, f"e{i}") for i in range(10)]
    commits = [following(row, generation=7 if i == 4 else row.generation) for i, row in enumerate(rows)]
    outcomes = await asyncio.gather(*map(store.commit, commits), return_exceptions=True)
    assert [i for i, outcome in enumerate(outcomes) if isinstance(outcome, LeaseLost)] == [4]
    assert [(await row_of(store, f"e{i}")).version for i in range(10)] == [2, 2, 2, 2, 1, 2, 2, 2, 2, 2]


POISONED: dict[str, dict[str, Any]] = {
    "entry": {"entries": [(2, "good"), (3, POISON)]},
    "entry number": {"entries": [(2, "good"), (2, "again")]},
    "frame": {"entries": [(2, "good")], "frames": [("f", None, POISON)]},
    "variable": {"entries": [(2, "good")], "sets": [("", POISON, 2)]},
    "root": {"entries": [(2, "good")], "root": POISON},
    "message": {"entries": [(2, "good")], "messages": [(message(kind="note", execution_id="e0"), POISON)]},
    "huge number": {"entries": [(2, "good")], "result_seq": 1 << 70},
}


@pytest.mark.parametrize("changes", POISONED.values(), ids=POISONED.keys())
async def test_a_commit_that_cannot_be_written_fails_alone_and_whole(store: Store, changes: dict[str, Any]) -> None:
    rows = [await create(store, f"e{i}") for i in range(5)]
    before = await stored(store, "e2")
    commits = [following(row, **(changes if i == 2 else {"entries": [(2, "x")]})) for i, row in enumerate(rows)]
    outcomes = await asyncio.gather(*map(store.commit, commits), return_exceptions=True)
    assert [isinstance(outcome, BaseException) for outcome in outcomes] == [False, False, True, False, False]
    assert isinstance(outcomes[2], StoreError)
    assert str(outcomes[2])
    assert await stored(store, "e2") == before
    assert await store.read("e2") == [(1, '"started"')]
    assert [len(await store.read(row.id)) for row in rows] == [2, 2, 1, 2, 2]
    await store.commit(following(rows[2], entries=[(2, "better")]))


async def test_a_creation_that_cannot_be_written_leaves_its_definition_to_the_next(store: Store) -> None:
    with pytest.raises(StoreError):
        await store.commit(creation("bad", sets=[("", POISON, 1)]))
    assert await store.row("bad") is None
    await create(store, "good")
    assert await store.definition("hash") == '{"id":"w"}'


async def test_a_message_that_cannot_be_written_fails_alone(store: Store) -> None:
    row = await create(store)
    outcomes = await asyncio.gather(
        store.commit(following(row)),
        append(store, "good", kind="note"),
        append(store, "bad", kind="note", body=POISON),
        store.renew("me", ttl=60),
        return_exceptions=True,
    )
    assert [isinstance(outcome, StoreError) for outcome in outcomes] == [False, False, True, False]
    assert len(await store.inbox("e")) == 1
    assert (await row_of(store)).lease_until == START + 60


async def test_different_verbs_at_once_do_not_hurt_each_other(store: Store) -> None:
    rows = [await create(store, f"e{i}") for i in range(4)]
    await idle(store, "free")
    await idle(store, "gone")
    outcomes = await asyncio.gather(
        store.commit(following(rows[0])),
        store.remove("e1"),
        store.remove("gone"),
        store.commit(following(rows[2], version=9)),
        store.claim("free", owner="you", ttl=30, statuses=ANY),
        append(store, execution_id="e3", kind="note"),
        store.release("e3", owner="me", generation=1),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], ConflictError)
    assert isinstance(outcomes[3], LeaseLost)
    assert outcomes[2] is True
    assert sorted(await find(store)) == ["e0", "e1", "e2", "e3", "free"]
    assert [(await row_of(store, name)).owner for name in ("e0", "e2", "e3", "free")] == ["me", "me", None, "you"]


# -- opening and closing ----------------------------------------------------------------------------------------------


async def test_closing_twice_is_fine(closed_store: Store) -> None:
    await closed_store.open()
    await closed_store.close()
    await closed_store.close()


async def test_closing_what_was_never_open_is_fine(closed_store: Store) -> None:
    await closed_store.close()


async def test_a_closed_store_says_so(closed_store: Store) -> None:
    async with closed_store:
        await create(closed_store)
    with pytest.raises(StoreError, match="not open"):
        await closed_store.commit(creation("f"))
    with pytest.raises(StoreError, match="not open"):
        await closed_store.row("e")


async def test_a_store_that_is_not_open_yet_says_so(closed_store: Store) -> None:
    with pytest.raises(StoreError, match="not open"):
        await closed_store.row("e")


async def test_closing_finishes_what_is_under_way(closed_store: Store) -> None:
    await closed_store.open()
    pending = [closed_store.commit(creation(f"e{i}")) for i in range(20)]
    await closed_store.close()
    await asyncio.gather(*pending)


# -- what is due ------------------------------------------------------------------------------------------------------


async def taken(store: Store, owner: str = "you", *, limit: int = 10, **wanted: Any) -> list[str]:
    return [one.row.id for one in await store.take(owner, ttl=30, limit=limit, **wanted)]


async def test_what_waits_without_a_time_is_never_due(store: Store, clock: SettableClock) -> None:
    await idle(store, status="halted")
    clock.time += 1e9
    assert await taken(store) == []
    assert await store.next_due() is None


async def test_what_waits_is_due_at_its_time(store: Store, clock: SettableClock) -> None:
    await idle(store, status="halted", wake_at=START + 10)
    assert await store.next_due() == 10
    clock.time += 9.9
    assert await taken(store) == []
    clock.time = START + 10
    assert await store.next_due() == 0
    assert await taken(store) == ["e"]


async def test_what_is_driven_is_due_when_the_lease_runs_out(store: Store, clock: SettableClock) -> None:
    await create(store, lease_ttl=30, wake_at=START + 5)
    assert await store.next_due() == 30
    clock.time += 29.9
    assert await taken(store) == []
    clock.time = START + 30
    assert await taken(store) == ["e"]


async def test_what_runs_without_an_owner_is_due_at_once(store: Store) -> None:
    await idle(store, wake_at=START + 1000)
    due = await store.next_due()
    assert due is not None
    assert due <= 0
    assert await taken(store) == ["e"]


async def test_what_is_released_while_it_runs_is_due_at_once(store: Store) -> None:
    await create(store)
    assert await taken(store) == []
    await store.release("e", owner="me", generation=1)
    assert await taken(store) == ["e"]


async def test_what_is_pending_is_due_at_once_or_at_its_time(store: Store, clock: SettableClock) -> None:
    await idle(store, "now", status="pending")
    await idle(store, "later", status="pending", wake_at=START + 60)
    assert await taken(store) == ["now"]
    clock.time += 59.9
    assert await taken(store, "other") == ["now"]  # its lease ran out
    clock.time = START + 60
    assert await taken(store, "third") == ["later"]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_what_is_over_is_never_due(store: Store, clock: SettableClock, status: str) -> None:
    await idle(store, "free", status=status, finished_at=START, wake_at=START)
    await create(store, "held", status=status, finished_at=START)
    clock.time += 1000
    assert await taken(store) == []
    assert await store.next_due() is None


async def test_a_message_to_what_nobody_drives_makes_it_due(store: Store) -> None:
    await idle(store, status="halted", wake_at=START + 1000)
    await append(store, kind="note")
    assert await store.next_due() == 0
    assert await taken(store) == ["e"]


async def test_a_message_that_is_not_accepted_makes_nothing_due(store: Store) -> None:
    await idle(store, status="halted", opened=[opening()])
    await answer(store, wait_id="another")
    assert await store.next_due() is None


async def test_taking_gives_the_lease_and_raises_the_generation(store: Store) -> None:
    await idle(store, status="halted", wake_at=START, entries=[(1, '"started"')], sets=[("", "x", 1)])
    (found,) = await store.take("you", ttl=12, limit=10)
    assert (found.row.owner, found.row.lease_until, found.row.generation) == ("you", START + 12, 2)
    assert (found.sets, found.entries) == ([("", "x", 1)], {1: '"started"'})
    assert (await row_of(store)).owner == "you"
    with pytest.raises(LeaseLost):
        await store.commit(following(await row_of(store), generation=1))


async def test_taking_after_a_lost_lease_counts_a_recovery(store: Store, clock: SettableClock) -> None:
    await create(store)
    clock.time += 31
    (found,) = await store.take("you", ttl=30, limit=1)
    assert found.row.recoveries == 1


async def test_firing_a_timer_is_no_recovery(store: Store) -> None:
    await idle(store, status="halted", wake_at=START)
    (found,) = await store.take("you", ttl=30, limit=1)
    assert found.row.recoveries == 0


async def test_no_more_are_taken_than_asked_for_and_the_longest_due_come_first(store: Store) -> None:
    for name, late in ("b", 3), ("d", 1), ("a", 4), ("c", 2):
        await idle(store, name, status="halted", wake_at=START - late)
    assert await taken(store, limit=3) == ["a", "b", "c"]
    assert await taken(store, limit=3) == ["d"]


async def test_what_began_comes_before_what_is_pending_and_that_by_priority(store: Store) -> None:
    for name, priority, time in ("low", 9, 1), ("late", 1, 3), ("urgent", 1, 2):
        await idle(store, name, status="pending", wake_at=START - 10 + time, new={"priority": priority})
    await idle(store, "timer", status="halted", wake_at=START)
    assert await taken(store) == ["timer", "urgent", "late", "low"]


async def test_only_the_queues_that_are_asked_for_are_served(store: Store) -> None:
    for queue in "a", "b", None:
        await idle(store, f"{queue}-waits", status="halted", wake_at=START, new={"queue": queue})
        await idle(store, f"{queue}-new", status="pending", new={"queue": queue})
    assert await taken(store, queues=["c"]) == []
    assert await store.next_due(queues=["c"]) is None
    assert await taken(store, queues=["a", "c"]) == ["a-waits", "a-new"]
    assert await taken(store, queues=[None]) == ["None-waits", "None-new"]
    assert await store.next_due(queues=["b"]) == 0
    assert await taken(store) == ["b-waits", "b-new"]


async def test_definitions_that_cannot_be_served_are_left_alone(store: Store) -> None:
    for name, status in ("a", "halted"), ("b", "pending"):
        await idle(store, name, status=status, wake_at=START, new={"definition_hash": f"hash-{name}"})
    assert await taken(store, without=["hash-a", "hash-b"]) == []
    assert await store.next_due(without=["hash-a", "hash-b"]) is None
    assert await taken(store, without=["hash-a"]) == ["b"]
    assert await store.next_due(without=["other"]) == 0


async def test_of_many_takers_each_gets_others(store: Store) -> None:
    for number in range(40):
        await idle(store, f"e{number}", status="halted" if number % 2 else "pending", wake_at=START)
    shares = await asyncio.gather(*(store.take(f"w{number}", ttl=30, limit=5) for number in range(12)))
    names = [one.row.id for share in shares for one in share]
    assert sorted(names) == sorted(f"e{number}" for number in range(40))


async def test_claiming_closes_waits_whose_time_is_up(store: Store, clock: SettableClock) -> None:
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
    store: Store, clock: SettableClock
) -> None:
    await idle(store, status="halted", opened=[opening("due", 1, START)], wake_at=START)
    await store.take("you", ttl=30, limit=1)
    clock.time += 31
    (found,) = await store.take("other", ttl=30, limit=1)
    assert found.late == ["due"]
    await store.commit(following(found.row, closed=["due"]))
    assert (await stored(store)).late == []


async def test_what_was_answered_in_time_is_not_late(store: Store, clock: SettableClock) -> None:
    await idle(store, status="halted", opened=[opening("due", 1, START + 10)], wake_at=START + 10)
    assert await answer(store, wait_id="due") == "accepted"
    clock.time += 10
    (found,) = await store.take("you", ttl=30, limit=1)
    assert found.late == []
    assert len(found.inbox) == 1
