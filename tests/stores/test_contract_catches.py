"""The contract is worth something: for each mistake a store could make there is a test that fails."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from durable_flow import LeaseLost, Message, open_store
from durable_flow.stores.base import (
    Appended,
    Blob,
    Busy,
    Commit,
    Committed,
    Filter,
    Mark,
    QueueSetting,
    Row,
    ScheduleRow,
    Stored,
)
from durable_flow.stores.sqlite import SqliteStore
from durable_flow.testing.contract import StoreContract
from tests.stores.build import SettableClock


class Later(SqliteStore):
    """A store whose commits may do something before or after."""

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return asyncio.ensure_future(self.committed(commit))

    async def committed(self, commit: Commit) -> Committed:
        return await super().commit(commit)


class IgnoresTheGeneration(Later):
    async def committed(self, commit: Commit) -> Committed:
        row = await self.row(commit.execution_id)
        return await super().committed(commit if row is None else replace(commit, generation=row.generation))


class IgnoresTheVersion(Later):
    async def committed(self, commit: Commit) -> Committed:
        row = await self.row(commit.execution_id)
        return await super().committed(commit if row is None else replace(commit, version=row.version))


class SwallowsTheFence(Later):
    async def committed(self, commit: Commit) -> Committed:
        try:
            return await super().committed(commit)
        except LeaseLost:
            return Committed()


class WritesEntriesApart(Later):
    async def committed(self, commit: Commit) -> Committed:
        if commit.new is not None or not commit.entries:
            return await super().committed(commit)
        await super().committed(replace(commit, entries=()))
        return await super().committed(replace(commit, version=commit.version + 1))


class AlwaysReleases(Later):
    async def committed(self, commit: Commit) -> Committed:
        done = await super().committed(commit)
        if commit.release and not done.released and commit.owner:
            await self.release(commit.execution_id, owner=commit.owner, generation=commit.generation)
            return Committed(released=True)
        return done


class ForgetsMessages(Later):
    async def committed(self, commit: Commit) -> Committed:
        return await super().committed(replace(commit, messages=()))


class KeepsTheDefinition(Later):
    async def committed(self, commit: Commit) -> Committed:
        return await super().committed(replace(commit, definition=None))


class GivesTheDefinitionApart(Later):
    async def committed(self, commit: Commit) -> Committed:
        if commit.definition is None:
            return await super().committed(commit)
        row = await self.row(commit.execution_id)
        version = commit.version if row is None else row.version
        await super().committed(replace(commit, version=version, entries=()))
        return await super().committed(replace(commit, version=commit.version + 1, definition=None))


class KeepsItsClock(SqliteStore):
    async def claim(
        self, execution_id: str, *, owner: str, ttl: float, statuses: Collection[str]
    ) -> Stored | Busy | None:
        clock, self.clock = self.clock, SettableClock()
        try:
            return await super().claim(execution_id, owner=owner, ttl=ttl, statuses=statuses)
        finally:
            self.clock = clock


class ClaimsAnyStatus(SqliteStore):
    async def claim(
        self, execution_id: str, *, owner: str, ttl: float, statuses: Collection[str]
    ) -> Stored | Busy | None:
        return await super().claim(execution_id, owner=owner, ttl=ttl, statuses=("running", "halted"))


class RenewsForAll(SqliteStore):
    async def renew(self, owner: str, *, ttl: float) -> Mapping[str, int]:
        return {**await super().renew("me", ttl=ttl), **await super().renew("you", ttl=ttl)}


class TakesAnswersTwice(SqliteStore):
    numbers = itertools.count()

    async def append(self, message: Message, body: Blob) -> Appended:
        return await super().append(replace(message, key=f"{message.key} {next(self.numbers)}"), body)


class TakesLateAnswers(SqliteStore):
    async def append(self, message: Message, body: Blob) -> Appended:
        told = await super().append(message, body)
        if told.outcome == "closed":
            return await super().append(replace(message, kind="child"), body)
        return told


class ReversesTheInbox(SqliteStore):
    async def inbox(self, execution_id: str) -> Sequence[tuple[int, Blob]]:
        return list(await super().inbox(execution_id))[::-1]


class DecodesText(SqliteStore):
    async def row(self, execution_id: str) -> Row | None:
        row = await super().row(execution_id)
        if row is None or isinstance(row.info, str):
            return row
        return replace(row, info=row.info.decode())


class CutsOffAtNull(SqliteStore):
    async def read(
        self, execution_id: str, *, after: int = 0, limit: int | None = None, seqs: Sequence[int] | None = None
    ) -> Sequence[tuple[int, Blob]]:
        found = await super().read(execution_id, after=after, limit=limit, seqs=seqs)
        return [(seq, body.split("\x00")[0] if isinstance(body, str) else body) for seq, body in found]


class PagesByOffset(SqliteStore):
    async def search(self, filter: Filter, *, limit: int, cursor: str | None) -> tuple[Sequence[Row], str | None]:
        rows, _ = await super().search(filter, limit=10_000, cursor=None)
        start = int(cursor or 0)
        return rows[start : start + limit], str(start + limit) if start + limit < len(rows) else None


class IgnoresCase(SqliteStore):
    async def search(self, filter: Filter, *, limit: int, cursor: str | None) -> tuple[Sequence[Row], str | None]:
        rows, following = await super().search(filter, limit=limit, cursor=cursor)
        return sorted(rows, key=lambda row: (row.created_at, row.id.lower()), reverse=True), following


Queues = Collection[str | None] | None


class Takes(SqliteStore):
    """A store that takes what is due in another way."""

    async def take(
        self,
        owner: str,
        *,
        ttl: float,
        limit: int,
        queues: Queues = None,
        without: Collection[str] = (),
        room: Mapping[str, int] | None = None,
    ) -> Sequence[Stored]:
        self.room = room
        return await self.taken(owner, ttl, limit, queues, without)

    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        return await super().take(owner, ttl=ttl, limit=limit, queues=queues, without=without, room=self.room)

    @asynccontextmanager
    async def unset(self, *settings: QueueSetting) -> AsyncIterator[None]:
        """Meanwhile these settings of queues are not there."""
        before = {
            (queue, name): getattr(row, name) for queue, row in (await self.queues()).items() for name in settings
        }
        for queue, name in before:
            await self.set_queue(queue, name, None)
        try:
            yield
        finally:
            for (queue, name), value in before.items():
                await self.set_queue(queue, name, value)


class TakesWhatIsNotDue(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        clock, self.clock = self.clock, SettableClock()
        self.clock.time = clock.now() + 3600
        try:
            return await super().taken(owner, ttl - 3600, limit, queues, without)
        finally:
            self.clock = clock


class TakesFromAllQueues(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        return await super().taken(owner, ttl, limit, None, without)


class TakesAnyDefinition(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        return await super().taken(owner, ttl, limit, queues, ())


class TakesWithoutLimit(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        return await super().taken(owner, ttl, 10_000, queues, without)


class TakesInOrderOfNames(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        found = await super().taken(owner, ttl, limit, queues, without)
        return sorted(found, key=lambda stored: stored.row.id)


class GivesTheSameToTwo(Takes):
    """Looks, lets others look, and takes what it saw."""

    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        found = await super().taken(owner, ttl, limit, queues, without)
        for stored in found:
            await self.release(stored.row.id, owner=owner, generation=stored.row.generation)
        await asyncio.sleep(0)
        return found


class LeavesLateWaitsOpen(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        found = await super().taken(owner, ttl, limit, queues, without)
        assert self._inline is not None
        self._inline.connection.cursor.execute("UPDATE waits SET remaining = 1 WHERE remaining < 0")
        return [replace(stored, late=()) for stored in found]


class CountsEveryTakeAsARecovery(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        found = await super().taken(owner, ttl, limit, queues, without)
        return [replace(stored, row=replace(stored.row, recoveries=1)) for stored in found]


class TakesFromHeldQueues(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        async with self.unset("hold"):
            return await super().taken(owner, ttl, limit, queues, without)


class TakesMoreThanTheLimits(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        async with self.unset("declared", "decided"):
            return await super().taken(owner, ttl, limit, queues, without)


class TakesBeyondTheRoom(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        self.room = None
        return await super().taken(owner, ttl, limit, queues, without)


class RefusesWhatGoesOn(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        full = [
            queue
            for queue, row in (await self.queues()).items()
            if row.limits.concurrency is not None and row.under_way >= row.limits.concurrency
        ]
        found = await super().taken(owner, ttl, limit, queues, without)
        return [stored for stored in found if stored.row.queue not in full]


class ForgetsWhatBegan(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        found = await super().taken(owner, ttl, limit, queues, without)
        assert self._inline is not None
        self._inline.connection.cursor.execute("DELETE FROM begins")
        return found


class KeepsTheRateOfWhatDidNotBegin(SqliteStore):
    async def release(self, execution_id: str, *, owner: str, generation: int) -> None:
        assert self._inline is not None
        cursor = self._inline.connection.cursor
        began = cursor.execute("SELECT * FROM begins").fetchall()
        await super().release(execution_id, owner=owner, generation=generation)
        cursor.execute("DELETE FROM begins")
        cursor.executemany("INSERT INTO begins VALUES (?, ?, ?)", began)


class DeclaresOverDecisions(SqliteStore):
    async def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        return await super().set_queue(queue, "decided" if setting == "declared" else setting, value)


class HoldsBackWhatBegan(Takes):
    async def taken(
        self, owner: str, ttl: float, limit: int, queues: Queues, without: Collection[str]
    ) -> Sequence[Stored]:
        held = [queue for queue, row in (await self.queues()).items() if row.hold is not None]
        found = await super().taken(owner, ttl, limit, queues, without)
        return [stored for stored in found if stored.row.queue not in held]


class SaysThatHeldQueuesAreDue(Takes):
    settings: tuple[QueueSetting, ...] = ("hold",)

    async def next_due(
        self, *, queues: Queues = None, without: Collection[str] = (), room: Mapping[str, int] | None = None
    ) -> float | None:
        async with self.unset(*self.settings):
            return await super().next_due(queues=queues, without=without, room=room)


class SaysThatFullQueuesAreDue(SaysThatHeldQueuesAreDue):
    settings = ("declared", "decided")


class TakesNoQueueForAnEmptyName(SqliteStore):
    async def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        return await super().set_queue(queue or None, setting, value)


class HoldsAnew(SqliteStore):
    async def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        if value is not None:
            await super().set_queue(queue, setting, None)
        return await super().set_queue(queue, setting, value)


class LetsEverybodyIn(SqliteStore):
    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return super().commit(replace(commit, slot=None))


class OvertakesWhoWaits(SqliteStore):
    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        if commit.slot is not None and not commit.slot.waits:
            commit = replace(commit, slot=replace(commit.slot, key=f"{commit.slot.key}'"))
        return super().commit(commit)


class ForgetsWhoIsNext(SqliteStore):
    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return super().commit(replace(commit, frees=None))


class KnowsEverybody(SqliteStore):
    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return super().commit(commit if commit.slot is None else replace(commit, slot=replace(commit.slot, known=None)))


class MarksForAnybody(SqliteStore):
    async def mark(self, mark: Mark) -> bool:
        _, rows = await self.schedules()
        found = next((row.nonce for row in rows if row.id == mark.schedule_id), None)
        return await super().mark(replace(mark, expected=found))


class CreatesWithoutItsMark(Later):
    async def committed(self, commit: Commit) -> Committed:
        if commit.mark is None:
            return await super().committed(commit)
        done = await super().committed(replace(commit, mark=None))
        await self.mark(commit.mark)
        return done


class MarksBeforeItCreates(Later):
    async def committed(self, commit: Commit) -> Committed:
        if commit.mark is not None and not await self.mark(commit.mark):
            raise LeaseLost(commit.execution_id)
        return await super().committed(replace(commit, mark=None))


class ForgetsWhatIsAwaited(SqliteStore):
    async def mark(self, mark: Mark) -> bool:
        return await super().mark(replace(mark, awaits=None))


class KnowsNoLimitOfSchedules(SqliteStore):
    async def schedules(
        self, *, workflows: Collection[str] | None = None, limit: int | None = None
    ) -> tuple[float, Sequence[ScheduleRow]]:
        return await super().schedules(workflows=workflows)


class RemovesWhatIsDriven(SqliteStore):
    async def remove(self, execution_id: str) -> bool:
        row = await self.row(execution_id)
        if row is not None and row.owner is not None:
            await self.release(execution_id, owner=row.owner, generation=row.generation)
        return await super().remove(execution_id)


class PurgesEverything(SqliteStore):
    async def purge_rows(self, *, before: float, statuses: Collection[str], limit: int) -> int:
        return await super().purge_rows(before=before, statuses=("completed", "failed"), limit=limit)


class PurgesWithoutLimit(SqliteStore):
    async def purge_rows(self, *, before: float, statuses: Collection[str], limit: int) -> int:
        return await super().purge_rows(before=before, statuses=statuses, limit=10_000)


MISTAKES: dict[type[SqliteStore], str] = {
    IgnoresTheGeneration: "who_lost_the_lease_can_commit_nothing",
    IgnoresTheVersion: "a_repeated_commit_is_fenced_and_known_by_its_nonce",
    SwallowsTheFence: "a_repeated_commit_delivers_no_message_twice",
    WritesEntriesApart: "a_commit_that_cannot_be_written_fails_alone_and_whole",
    AlwaysReleases: "a_commit_keeps_the_lease_while_there_is_unread_mail",
    ForgetsMessages: "a_commit_delivers_its_messages",
    KeepsTheDefinition: "a_commit_gives_another_definition",
    GivesTheDefinitionApart: "a_fenced_commit_gives_no_other_definition",
    KeepsItsClock: "a_lease_holds_to_its_last_moment",
    ClaimsAnyStatus: "only_what_has_one_of_the_statuses_is_claimed",
    RenewsForAll: "renewing_touches_no_other_owner",
    TakesAnswersTwice: "nobody_votes_twice",
    TakesLateAnswers: "the_first_answer_wins",
    ReversesTheInbox: "messages_are_read_in_the_order_they_came",
    DecodesText: "info_stays_until_it_is_replaced",
    CutsOffAtNull: "a_value_comes_back_as_it_was_stored",
    PagesByOffset: "pages_miss_and_repeat_nothing_while_everything_changes",
    IgnoresCase: "a_hundred_of_one_moment_have_one_order_on_all_pages",
    TakesWhatIsNotDue: "what_waits_is_due_at_its_time",
    TakesFromAllQueues: "only_the_queues_that_are_asked_for_are_served",
    TakesAnyDefinition: "definitions_that_cannot_be_served_are_left_alone",
    TakesWithoutLimit: "no_more_are_taken_than_asked_for_and_the_longest_due_come_first",
    TakesInOrderOfNames: "what_began_comes_before_what_is_pending_and_that_by_priority",
    GivesTheSameToTwo: "of_many_takers_each_gets_others",
    LeavesLateWaitsOpen: "claiming_closes_waits_whose_time_is_up",
    CountsEveryTakeAsARecovery: "firing_a_timer_is_no_recovery",
    TakesFromHeldQueues: "nothing_pending_is_taken_from_a_queue_that_is_held",
    HoldsBackWhatBegan: "what_began_goes_on",
    SaysThatHeldQueuesAreDue: "nothing_pending_of_it_is_due",
    TakesNoQueueForAnEmptyName: "nothing_pending_is_taken_from_a_queue_that_is_held",
    HoldsAnew: "the_first_who_holds_a_queue_counts",
    TakesMoreThanTheLimits: "of_many_takers_at_once_no_more_begin_than_may",
    TakesBeyondTheRoom: "a_taker_begins_no_more_of_a_queue_than_it_has_room_for",
    RefusesWhatGoesOn: "what_goes_on_is_not_refused",
    ForgetsWhatBegan: "no_more_begin_within_a_period_than_the_rate_says",
    KeepsTheRateOfWhatDidNotBegin: "what_was_given_back_before_it_began_is_not_counted_by_the_rate",
    DeclaresOverDecisions: "what_was_decided_counts_more_than_what_was_declared",
    SaysThatFullQueuesAreDue: "of_a_full_queue_nothing_is_due_before_something_happens",
    LetsEverybodyIn: "so_many_hold_a_key_as_may_and_the_others_wait",
    OvertakesWhoWaits: "nobody_overtakes_who_waits",
    ForgetsWhoIsNext: "the_end_of_one_lets_the_next_one_in_the_order_in_which_they_came",
    KnowsEverybody: "who_says_whom_it_knows_is_refused_where_there_are_others",
    MarksForAnybody: "only_who_knows_its_nonce_changes_a_record",
    CreatesWithoutItsMark: "nothing_is_created_where_the_mark_does_not_apply",
    MarksBeforeItCreates: "nothing_is_marked_where_the_execution_exists",
    ForgetsWhatIsAwaited: "a_record_is_due_when_what_it_awaits_is_over",
    KnowsNoLimitOfSchedules: "the_soonest_come_first_and_those_that_are_never_due_last",
    RemovesWhatIsDriven: "a_driven_execution_is_not_removed",
    PurgesEverything: "purging_keeps_other_statuses",
    PurgesWithoutLimit: "purging_stops_at_its_limit",
}
"""Stores that make one mistake each, and the test that finds it."""


def cases(test: Any) -> list[dict[str, Any]]:
    """What a test of the contract is run with, besides its fixtures."""
    found: list[dict[str, Any]] = [{}]
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names, values = mark.args[:2]
            split = names.split(",") if isinstance(names, str) else names
            found = [dict(zip(split, value if len(split) > 1 else [value], strict=True)) for value in values]
    return found


async def passes(store: SqliteStore, name: str) -> AsyncIterator[bool]:
    """Whether the store passes a test, for each of its cases."""
    test = getattr(StoreContract(), f"test_{name}")
    for case in cases(test):
        clock = SettableClock()
        fresh = type(store)(None)
        fresh.clock = clock
        async with fresh:
            fixtures = {"store": fresh, "clock": clock}
            wanted = {word: fixtures[word] for word in inspect.signature(test).parameters if word in fixtures}
            try:
                await test(**wanted, **case)
            except (Exception, pytest.fail.Exception):
                yield False
            else:
                yield True


@pytest.mark.parametrize(("mistaken", "name"), MISTAKES.items(), ids=lambda value: getattr(value, "__name__", None))
async def test_a_mistake_is_found(mistaken: type[SqliteStore], name: str) -> None:
    good = open_store("sqlite://:memory:")
    assert isinstance(good, SqliteStore)
    assert all([passed async for passed in passes(good, name)])
    assert not all([passed async for passed in passes(mistaken(None), name)])
