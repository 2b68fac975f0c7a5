"""Schedules start executions at their ticks, once each, whoever works."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

import durable_flow as df
from durable_flow.clock import moment
from tests.engine.aid import START, World, flow, working

WORK = "- {id: work, type: call, service: desk, method: work, input: {given: $input}, output: result}\n"

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0

FIRST = START - START % 60 + 60
"""The first full minute."""


def planned(*schedules: str, steps: str = WORK, id: str = "flow", more: str = "") -> df.WorkflowDef:
    """A workflow with schedules."""
    listed = "".join(f"  - {one}\n" for one in schedules)
    return df.load(f"id: {id}\nname: {id}\nsteps:\n  {steps}{more}schedules:\n{listed}")


def stamp(time: float) -> str:
    return moment(time).isoformat().replace("+00:00", "Z")


async def started(world: World) -> list[str]:
    """The ids of all executions, without what they begin with in common."""
    return sorted(name.removeprefix("flow:").removeprefix("default:") for name in await world.store.execution_ids())


async def fresh(world: World) -> None:
    """A new process that knows the workflows. Nobody but the processes of the test works with the store, and it tells
    them of each other: time alone has them ask for nothing."""
    await (world.begin() if world.wire.cut else world.restart())
    world.wire.alone = True


def given(world: World) -> list[Any]:
    """The inputs of the executions, in the order in which they worked."""
    return [value["given"] for _, value in world.desk.calls]


async def the(world: World, schedule_id: str = "flow:default") -> df.Schedule:
    return next(one for one in await world.runtime.schedules() if one.id == schedule_id)


async def outcomes(world: World) -> list[tuple[str, float]]:
    """What happened, the oldest first."""
    return [(told.outcome, told.time.timestamp()) for told in reversed((await the(world)).recent)]


async def test_each_tick_starts_an_execution(world: World) -> None:
    world.know(planned("{every: 1m}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(3 * MINUTE)
    assert await started(world) == [stamp(FIRST), stamp(FIRST + 60), stamp(FIRST + 120)]
    loaded = await world.load(f"flow:default:{stamp(FIRST)}")
    assert (loaded.status, loaded.trigger, loaded.labels) == ("completed", "schedule", {"schedule": "flow:default"})


async def test_nothing_starts_where_no_worker_runs(world: World) -> None:
    world.know(planned("{every: 1m}"))
    await fresh(world)
    await world.clock.advance(3 * MINUTE)
    assert await started(world) == []


async def test_the_first_tick_is_the_one_after_it_became_known(world: World) -> None:
    world.know(planned("{every: 1h, catch_up: all, start: '2020-01-01'}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(HOUR)
    assert len(await started(world)) == 1


async def test_two_workers_start_each_tick_once(world: World) -> None:
    world.know(planned("{id: a, every: 10s}", "{id: b, cron: '* * * * *', overlap: allow_all}"))
    await fresh(world)
    async with world.process(world.store) as other, working(world.runtime), working(other):
        for _ in range(60):
            await world.clock.advance(10)
    assert len(await started(world)) == 70
    assert len(world.desk.calls) == 70


async def test_the_input_knows_the_tick(world: World) -> None:
    text = "{id: $schedule.id, at: $schedule.time, day: $schedule.date, before: '${schedule.previous}', n: 5}"
    world.know(planned(f"{{cron: '30 1 * * *', timezone: Asia/Tokyo, input: {text}}}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(DAY)
    assert given(world) == [
        {
            "id": "default",
            "at": "2023-11-16T01:30:00+09:00",
            "day": "2023-11-16",
            "before": "2023-11-15T01:30:00+09:00",
            "n": 5,
        }
    ]


async def test_an_execution_has_the_queue_priority_and_labels_of_its_schedule(world: World) -> None:
    world.know(planned("{every: 1m, queue: night, priority: 2, labels: {team: a}}"))
    await fresh(world)
    async with working(world.runtime, queues=["day"]):
        await world.clock.advance(MINUTE)
    loaded = await world.load(f"flow:default:{stamp(FIRST)}")
    assert (loaded.status, loaded.queue, loaded.priority) == ("pending", "night", 2)
    assert loaded.labels == {"schedule": "flow:default", "team": "a"}


@pytest.mark.parametrize(
    ("catch_up", "made_up"),
    [("latest", [5]), ("none", []), ("all", [1, 2, 3, 4, 5]), ("2h", [4, 5]), ("2h10m", [4, 5]), ("3h", [3, 4, 5])],
)
async def test_what_was_missed_is_made_up_for_as_the_schedule_says(
    world: World, catch_up: str, made_up: Sequence[int]
) -> None:
    world.know(planned(f"{{every: 1h, catch_up: {catch_up}, overlap: allow_all}}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
    hour = START - START % HOUR
    await world.clock.advance(hour + 5.2 * HOUR - world.clock.now())
    async with working(world.runtime):
        await world.clock.advance(1)
    assert await started(world) == [stamp(hour + number * HOUR) for number in made_up]
    assert [name for name, _ in await outcomes(world) if name == "missed"] == ["missed"] * (len(made_up) < 5)


async def test_a_worker_that_is_a_little_late_misses_nothing(world: World) -> None:
    world.know(planned("{every: 10s, catch_up: none, overlap: allow_all}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
    await world.clock.advance(FIRST - world.clock.now() + 35)
    async with working(world.runtime):
        await world.clock.advance(1)
    assert {stamp(FIRST + late) for late in (0, 10, 20, 30)} <= set(await started(world))


@pytest.mark.parametrize(
    ("overlap", "while_one_runs", "afterwards"),
    [
        ("skip", [0], [0]),
        ("buffer_one", [0], [0, 1]),
        ("allow_all", [0, 1, 2, 3], [0, 1, 2, 3]),
    ],
)
async def test_what_becomes_of_ticks_while_an_execution_goes_on(
    world: World, overlap: str, while_one_runs: Sequence[int], afterwards: Sequence[int]
) -> None:
    world.know(planned(f"{{every: 1m, overlap: {overlap}}}", steps="- {id: ask, type: halt}\n"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(FIRST - START + 3 * MINUTE + 1)
        assert await started(world) == [stamp(FIRST + number * MINUTE) for number in while_one_runs]
        await world.runtime.runner("flow").resume(f"flow:default:{stamp(FIRST)}")
        await world.clock.advance(1)
        assert await started(world) == [stamp(FIRST + number * MINUTE) for number in afterwards]


async def test_the_next_tick_cancels_what_goes_on_and_starts_when_that_is_over(world: World) -> None:
    sweep = "finally:\n  - {id: nap, type: wait, for: 10s}\n"
    world.know(planned("{every: 1m, overlap: cancel_other}", steps="- {id: ask, type: halt}\n", more=sweep))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(FIRST - START + MINUTE + 1)
        assert await started(world) == [stamp(FIRST)]
        await world.clock.advance(10)
        assert await started(world) == [stamp(FIRST), stamp(FIRST + MINUTE)]
    loaded = await world.load(f"flow:default:{stamp(FIRST)}")
    assert loaded.status == "cancelled"
    entries = await world.store.entries(loaded.id)
    assert any(entry.actor == "schedule flow:default" for entry in entries)


async def test_what_was_buffered_starts_when_the_execution_is_deleted(world: World) -> None:
    world.know(planned("{every: 1m, overlap: buffer_one}", steps="- {id: ask, type: halt}\n"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(FIRST - START + MINUTE + 1)
        await world.store.delete(f"flow:default:{stamp(FIRST)}")
        await world.clock.advance(MINUTE)
        assert stamp(FIRST + MINUTE) in await started(world)


async def test_a_tick_is_not_started_again_when_its_execution_was_deleted(world: World) -> None:
    world.know(planned("{every: 1m, catch_up: all}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(FIRST - START + 1)
    await world.store.delete(f"flow:default:{stamp(FIRST)}")
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(1)
    assert await started(world) == []


# -- pausing, asking --------------------------------------------------------------------------------------------------


async def test_a_paused_schedule_starts_nothing_and_makes_up_for_nothing(world: World) -> None:
    world.know(planned("{every: 1m, catch_up: all}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
        assert await world.runtime.pause_schedule("flow:default", by="ann", reason="a holiday")
        assert not await world.runtime.pause_schedule("flow:default", by="bob")
        await world.clock.advance(5 * MINUTE)
        assert await started(world) == []
        told = await the(world)
        assert (told.paused, told.paused_by, told.paused_reason, told.next) == (True, "ann", "a holiday", [])
        assert await world.runtime.unpause_schedule("flow:default")
        assert not await world.runtime.unpause_schedule("flow:default")
        await world.clock.advance(MINUTE)
    assert await started(world) == [stamp(FIRST + 5 * MINUTE)]


async def test_what_waits_is_given_up_when_a_schedule_is_paused(world: World) -> None:
    world.know(planned("{every: 1m, overlap: buffer_one}", steps="- {id: ask, type: halt}\n"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(FIRST - START + MINUTE + 1)
        assert (await the(world)).waiting == moment(FIRST + MINUTE)
        await world.runtime.pause_schedule("flow:default")
        await world.runtime.runner("flow").resume(f"flow:default:{stamp(FIRST)}")
        await world.clock.advance(5 * MINUTE)
    assert await started(world) == [stamp(FIRST)]


async def test_a_trigger_starts_one_at_once_also_while_paused(world: World) -> None:
    world.know(planned("{every: 1d, input: {at: $schedule.time}}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
        await world.runtime.pause_schedule("flow:default")
        name = await world.runtime.trigger_schedule("flow:default")
        assert await world.runtime.trigger_schedule("flow:default", execution_id="mine") == "mine"
        await world.clock.advance(1)
        await world.runtime.trigger_schedule("flow:default", execution_id="mine")
        await world.clock.advance(1)
    assert (await world.load(name)).status == "completed"
    assert world.desk.called == ["work", "work"]
    assert sorted(await world.store.execution_ids()) == sorted([name, "mine"])


async def test_a_trigger_goes_by_the_overlap_it_is_given(world: World) -> None:
    world.know(planned("{every: 1d}", steps="- {id: ask, type: halt}\n"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
        for name, overlap in (("a", None), ("b", None), ("c", "allow_all"), ("d", "buffer_one"), ("e", "cancel_other")):
            await world.runtime.trigger_schedule("flow:default", execution_id=name, overlap=overlap)
            await world.clock.advance(1)
        assert await started(world) == ["a", "c", "e"]
        assert [(await world.load(name)).status for name in "ace"] == ["cancelled", "cancelled", "halted"]


async def test_a_backfill_starts_what_is_not_there_one_after_the_other(world: World) -> None:
    world.know(planned("{every: 1h}", steps="- {id: nap, type: wait, for: 1m}\n"))
    await fresh(world)
    hour = START - START % HOUR
    async with working(world.runtime):
        await world.clock.advance(hour + HOUR + 1 - START)
        await world.clock.advance(5 * MINUTE)
        start, end = moment(hour - 2 * HOUR), moment(hour + HOUR)
        assert await world.runtime.backfill_schedule("flow:default", start=start, end=end) == 4
        await world.clock.advance(1)
        assert len(await started(world)) == 2
        await world.clock.advance(5 * MINUTE)
        everything = [stamp(hour + number * HOUR) for number in (-2, -1, 0, 1)]
        assert await started(world) == everything
        await world.runtime.backfill_schedule("flow:default", start=start, end=end)
        await world.clock.advance(5 * MINUTE)
        assert await started(world) == everything
    first, second, third = [(await world.load(f"flow:default:{name}")).created_at for name in everything[:3]]
    assert first is not None
    assert second is not None
    assert third is not None
    assert min((second - first).total_seconds(), (third - second).total_seconds()) >= MINUTE


async def test_a_backfill_may_start_all_at_once(world: World) -> None:
    world.know(planned("{every: 1h}", steps="- {id: nap, type: wait, for: 1m}\n"))
    await fresh(world)
    hour = START - START % HOUR
    async with working(world.runtime):
        await world.clock.advance(0.1)
        await world.runtime.backfill_schedule(
            "flow:default", start=moment(hour - 9 * HOUR), end=moment(hour), overlap="allow_all"
        )
        await world.clock.advance(1)
        assert len(await started(world)) == 10


async def test_a_backfill_goes_on_after_a_crash(world: World) -> None:
    world.know(planned("{every: 1h}", steps="- {id: nap, type: wait, for: 1m}\n"))
    await fresh(world)
    hour = START - START % HOUR
    async with working(world.runtime):
        await world.clock.advance(0.1)
        await world.runtime.backfill_schedule("flow:default", start=moment(hour - 4 * HOUR), end=moment(hour))
        await world.clock.advance(MINUTE)
        await world.kill()
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(10 * MINUTE)
    assert len(await started(world)) == 5


@pytest.mark.parametrize(
    ("start", "end", "overlap", "words"),
    [
        (datetime(2023, 1, 1), datetime(2023, 1, 2, tzinfo=UTC), None, "start is a datetime with a time zone"),
        (datetime(2023, 1, 2, tzinfo=UTC), datetime(2023, 1, 1, tzinfo=UTC), None, "is before the start"),
        (datetime(2023, 1, 2, tzinfo=UTC), datetime(2033, 1, 1, tzinfo=UTC), None, "is yet to come"),
        (datetime(2023, 1, 1, tzinfo=UTC), datetime(2023, 1, 2, tzinfo=UTC), "skp", "did you mean 'skip'"),
        (datetime(1999, 1, 1, tzinfo=UTC), datetime(2023, 1, 2, tzinfo=UTC), None, "more than 100,000 ticks"),
    ],
)
async def test_what_is_no_backfill_is_told_and_changes_nothing(
    world: World, start: datetime, end: datetime, overlap: str | None, words: str
) -> None:
    world.know(planned("{every: 1h}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
        with pytest.raises(df.ValidationError, match=words):
            await world.runtime.backfill_schedule("flow:default", start=start, end=end, overlap=overlap)
    assert (await the(world)).requests == 0


async def test_a_schedule_that_is_not_there_is_told_with_what_may_be_meant(world: World) -> None:
    world.know(planned("{id: nightly, every: 1h}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
        with pytest.raises(df.ValidationError, match="did you mean 'flow:nightly'"):
            await world.runtime.pause_schedule("flow:nightli")


async def test_it_is_told_how_a_schedule_stands(world: World) -> None:
    world.know(planned("{id: nightly, cron: '0 2 * * *', timezone: Europe/Berlin, description: The report.}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(DAY)
    (told,) = await world.runtime.schedules(workflow_id="flow")
    assert await world.runtime.schedules(workflow_id="other") == []
    assert (told.cron, told.timezone, told.description) == ("0 2 * * *", "Europe/Berlin", "The report.")
    assert [time.isoformat() for time in told.next[:2]] == ["2023-11-16T01:00:00+00:00", "2023-11-17T01:00:00+00:00"]
    (tick,) = told.recent
    assert (tick.outcome, tick.execution_id) == ("started", "flow:nightly:2023-11-15T01:00:00Z")


# -- definitions that change ------------------------------------------------------------------------------------------


async def test_the_last_that_was_deployed_counts_also_for_workers_that_were_there_before(world: World) -> None:
    world.know(planned("{every: 1m, input: {v: old}}"))
    await fresh(world)
    async with working(world.runtime) as older:
        await world.clock.advance(FIRST - START + 1)
        new = planned("{every: 1m, input: {v: new}}", id="flow")
        world.workflows["flow"] = new
        async with world.process(world.store) as other, working(other):
            await world.clock.advance(MINUTE)
        await world.clock.advance(MINUTE)
        assert older.active == 0
    assert [one["v"] for one in given(world)] == ["old", "new", "new"]
    assert (await the(world)).definition_hash == new.hash


async def test_two_deploys_side_by_side_start_each_tick_once(world: World) -> None:
    world.know(planned("{every: 1m, overlap: allow_all}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
        world.workflows["flow"] = planned("{every: 1m, overlap: allow_all, input: {v: 2}}")
        async with world.process(world.store) as other, working(other):
            for _ in range(30):
                await world.clock.advance(MINUTE)
    assert len(await started(world)) == 30


async def test_a_schedule_that_its_document_has_no_more_is_gone(world: World) -> None:
    world.know(planned("{id: a, every: 1m}", "{id: b, every: 1m}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
    world.workflows["flow"] = planned("{id: b, every: 1m}")
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(FIRST - START + 1)
    assert [one.id for one in await world.runtime.schedules()] == ["flow:b"]
    assert await started(world) == [f"b:{stamp(FIRST)}"]


async def test_a_schedule_stays_paused_and_knows_what_it_did_when_its_workflow_changes(world: World) -> None:
    world.know(planned("{every: 1m}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(FIRST - START + 1)
        await world.runtime.pause_schedule("flow:default", by="ann")
    world.workflows["flow"] = planned("{every: 2m}")
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(10 * MINUTE)
    told = await the(world)
    assert (told.paused_by, told.every, len(told.recent)) == ("ann", 120.0, 1)


async def test_ticks_of_other_times_begin_when_they_become_known(world: World) -> None:
    world.know(planned("{cron: '0 2 * * *', catch_up: all}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
    await world.clock.advance(3 * DAY)
    world.workflows["flow"] = planned("{every: 1h, catch_up: all}")
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
    assert await started(world) == []


async def test_a_worker_leaves_the_schedules_of_workflows_it_does_not_know(world: World) -> None:
    world.know(planned("{every: 1m}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
    world.workflows.clear()
    world.know(flow(WORK, id="another"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(5 * MINUTE)
    assert await started(world) == []


async def test_what_one_worker_cannot_read_it_leaves_and_serves_the_others(world: World) -> None:
    world.know(planned("{id: a, every: 1m}", "{id: b, every: 1m}"))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(0.1)
        database = world.store._inline.connection.database  # type: ignore[attr-defined]
        database.execute("UPDATE schedules SET body = 'garbage' WHERE id = 'flow:a'")
        await world.clock.advance(3 * MINUTE)
    assert [name[0] for name in await started(world)] == ["b", "b", "b"]
    assert "cannot" in str((await the(world, "flow:a")).error) or (await the(world, "flow:a")).error


async def test_a_workflow_that_becomes_known_while_a_worker_runs_has_its_schedules_served(world: World) -> None:
    async with working(world.runtime):
        await world.clock.advance(0.1)
        world.runtime.runner(planned("{every: 1m}"))
        await world.clock.advance(FIRST - START + 1)
    assert await started(world) == [stamp(FIRST)]


async def test_an_input_that_cannot_be_taken_costs_one_tick(world: World) -> None:
    schema = "inputs:\n  day: {type: string, schema: {pattern: '(0|2|4|6|8)$'}}\n"
    world.know(planned("{cron: '0 1 * * *', input: {day: $schedule.date}}", more=schema))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(4 * DAY)
    assert [outcome for outcome, _ in await outcomes(world)] == ["failed", "started", "failed", "started"]


@pytest.mark.parametrize(
    ("on_conflict", "told"),
    [
        ("reject", ["started", "rejected", "rejected"]),
        ("return_existing", ["started", "rejected", "rejected"]),
        ("queue", ["started", "started", "started"]),
        ("cancel_running", ["started", "started", "started"]),
    ],
)
async def test_a_workflow_that_limits_its_concurrency_does_so_for_its_schedules(
    world: World, on_conflict: str, told: Sequence[str]
) -> None:
    limit = f"concurrency: {{key: all, on_conflict: {on_conflict}}}\n"
    world.know(planned("{every: 1m, overlap: allow_all}", steps="- {id: ask, type: halt}\n", more=limit))
    await fresh(world)
    async with working(world.runtime):
        await world.clock.advance(FIRST - START + 2 * MINUTE + 1)
        assert [outcome for outcome, _ in await outcomes(world)] == told
        going_on = await world.store.find(status=["halted", "pending"])
        assert [one.status for one in going_on] == {"queue": ["pending", "pending", "halted"]}.get(
            on_conflict, ["halted"]
        )


# -- what it costs ----------------------------------------------------------------------------------------------------


async def test_a_worker_asks_the_store_once_a_tick_and_nothing_between(world: World) -> None:
    world.know(planned("{id: a, every: 1h}", "{id: b, every: 1h}"))
    asked: list[str] = []
    async with world.process(world.store) as runtime, working(runtime):
        await world.clock.advance(HOUR)
        looked = world.store.schedules

        async def counted(**which: Any) -> Any:
            asked.append("schedules")
            return await looked(**which)

        world.store.schedules = counted  # type: ignore[method-assign]
        await world.clock.advance(10 * HOUR - 1)
    assert len(await started(world)) == 22
    assert len(asked) <= 25
