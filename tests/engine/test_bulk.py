"""What is done to many executions at once is done to each for itself, and told of each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import durable_flow as df
from durable_flow.runners import bulk
from tests.engine.aid import START, World, flow, working

ASK = flow("""
    - {id: ask, type: halt, next: work}
    - {id: work, type: call, service: desk, method: work, output: result}
""")
WORK = flow("- {id: work, type: call, service: desk, method: work, output: result}\n", id="job")
PARENT = flow(
    """
    - {id: sub, type: workflow, workflow_id: flow, on_error: sorry, next: __FINISHED__}
    - {id: sorry, type: call, service: desk, method: sorry}
    """,
    id="parent",
)


async def halted(world: World, *names: str, **labels: str) -> None:
    for name in names:
        await world.runner(ASK).run(None, execution_id=name, labels=labels)


async def failed(world: World, *names: str) -> None:
    world.desk.answers["work"] = ValueError("no")
    for name in names:
        assert (await world.runner(WORK).run(None, execution_id=name)).failed
    del world.desk.answers["work"]


async def statuses(world: World, *names: str) -> list[str]:
    return [str((await world.load(name)).status) for name in names]


async def test_all_that_match_are_cancelled(world: World) -> None:
    await halted(world, "a", "b", team="red")
    await halted(world, "c", team="blue")
    report = await world.runtime.cancel_all(labels={"team": "red"}, reason="ordered twice", by="ann")
    assert (sorted(report.matched), sorted(report.done), report.skipped, report.more) == (
        ["a", "b"],
        ["a", "b"],
        {},
        False,
    )
    assert await statuses(world, "a", "b", "c") == ["cancelled", "cancelled", "halted"]
    end = (await world.entries("a"))[-1]
    assert (end.actor, end.metadata["reason"]) == ("ann", "ordered twice")


async def test_what_is_over_is_not_meant_unless_it_is_named(world: World) -> None:
    await halted(world, "a")
    await failed(world, "x")
    assert (await world.runtime.cancel_all(everything=True)).matched == ["a"]
    report = await world.runtime.cancel_all(status=["failed"])
    assert (report.done, report.skipped) == ([], {"x": "ConflictError: it is failed"})


async def test_each_filter_counts(world: World) -> None:
    await halted(world, "a")
    world.clock.time += 60
    await halted(world, "b", team="red")
    world.desk.hold("work")
    await world.start(WORK, execution_id="c")

    async def found(**filters: Any) -> list[str]:
        return sorted((await world.runtime.cancel_all(dry_run=True, **filters)).matched)

    middle = datetime.fromtimestamp(START + 30, UTC)
    assert await found(workflow_id="job") == ["c"]
    assert await found(labels={"team": "red"}) == ["b"]
    assert await found(status="running") == ["c"]
    assert await found(created_before=middle) == ["a"]
    assert await found(created_after=middle) == ["b", "c"]
    assert await found(created_after=middle, workflow_id="flow") == ["b"]
    assert await found(everything=True) == ["a", "b", "c"]
    assert await statuses(world, "a", "b", "c") == ["halted", "halted", "running"]


@pytest.mark.parametrize("call", ["cancel_all", "retry_all", "pause_all", "unpause_all"])
@pytest.mark.parametrize("filters", [{}, {"labels": {}}, {"limit": 3}, {"everything": 1}])
async def test_everything_has_to_be_said(world: World, call: str, filters: dict[str, Any]) -> None:
    await halted(world, "a")
    with pytest.raises(df.ValidationError, match="everything=True"):
        await getattr(world.runtime, call)(**filters)
    assert await statuses(world, "a") == ["halted"]


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": "3"}, {"by": ""}, {"reason": 3}, {"status": "gone"}])
async def test_what_is_no_filter_is_refused_before_anything_is_done(world: World, wrong: dict[str, Any]) -> None:
    await halted(world, "a")
    with pytest.raises(df.ValidationError):
        await world.runtime.cancel_all(**({"workflow_id": "flow"} | wrong))
    assert await statuses(world, "a") == ["halted"]


async def test_no_more_than_the_limit_the_newest_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PAGE", 2)
    for name in "abcde":
        world.clock.time += 1
        await halted(world, name)
    report = await world.runtime.cancel_all(workflow_id="flow", limit=3)
    assert (report.matched, report.more) == (["e", "d", "c"], True)
    report = await world.runtime.cancel_all(workflow_id="flow", limit=3)
    assert (report.matched, report.more) == (["b", "a"], False)


async def test_all_pages_are_gone_through_though_they_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PAGE", 3)
    names = [f"e{number}" for number in range(20)]
    await halted(world, *names)
    assert sorted((await world.runtime.cancel_all(workflow_id="flow")).done) == sorted(names)
    assert set(await statuses(world, *names)) == {"cancelled"}


async def test_what_is_driven_is_told_and_not_waited_for(world: World) -> None:
    world.desk.hold("work")
    here = await world.start(WORK, execution_id="here")
    async with world.process(world.store) as other:
        there = world.spawn(other.runner(WORK).run(None, execution_id="there"))
        await world.clock.advance()
        report = await world.runtime.cancel_all(workflow_id="job")
        assert sorted(report.done) == ["here", "there"]
        await world.clock.advance(5)
        assert (await here).cancelled
        assert (await there).cancelled


async def test_one_that_cannot_be_read_keeps_no_other_from_it(world: World) -> None:
    await halted(world, "a", "b", "c")
    world.store._inline.connection.cursor.execute(  # type: ignore[attr-defined]
        "UPDATE info SET body = 'broken' WHERE n = (SELECT n FROM executions WHERE id = 'b')"
    )
    report = await world.runtime.cancel_all(workflow_id="flow")
    assert (sorted(report.done), list(report.skipped)) == (["a", "c"], ["b"])
    assert report.skipped["b"].startswith("CorruptState: ")


async def test_a_parent_is_cancelled_before_its_children(world: World) -> None:
    world.know(ASK, PARENT)
    await world.runtime.runner("parent").run(None, execution_id="e")
    report = await world.runtime.cancel_all(everything=True)
    assert sorted(report.matched) == ["e", "e.sub"]
    assert report.done == ["e"]
    assert report.skipped == {"e.sub": "ConflictError: it is cancelled"}
    assert await statuses(world, "e", "e.sub") == ["cancelled", "cancelled"]
    assert world.desk.called == []


async def test_failed_executions_are_retried_by_workers(world: World) -> None:
    await failed(world, "a", "b")
    await halted(world, "c")
    async with working(world.runtime, concurrency=1):
        report = await world.runtime.retry_all(everything=True, by="ann")
        assert sorted(report.done) == ["a", "b"]
        await world.clock.advance(1)
    assert await statuses(world, "a", "b", "c") == ["completed", "completed", "halted"]
    assert [entry.actor for entry in await world.entries("a") if entry.action == "retried"] == ["ann"]


async def test_nothing_is_driven_by_who_retries(world: World) -> None:
    await failed(world, "a", "b")
    world.desk.calls.clear()
    await world.runtime.retry_all(workflow_id="job")
    assert world.desk.called == []
    for name in "ab":
        stored = await world.load(name)
        assert (stored.status, stored.owner) == ("running", None)
    assert (await world.runner(WORK).recover("a")).completed


async def test_those_that_wait_for_a_decision_are_retried(world: World) -> None:
    once = flow(
        "- {id: work, type: call, service: desk, method: work, retry: {max_attempts: 1, on_exhausted: halt}}\n",
        id="job",
    )
    world.desk.answers["work"] = [ValueError("no"), "yes"]
    await world.runner(once).run(None, execution_id="a")
    await halted(world, "b")
    async with working(world.runtime):
        report = await world.runtime.retry_all(status="halted")
        assert (report.done, list(report.skipped)) == (["a"], ["b"])
        await world.clock.advance(5)
    assert await statuses(world, "a") == ["completed"]


async def test_what_was_undone_is_not_retried(world: World) -> None:
    undone = flow("""
        - {id: one, type: call, service: desk, method: one, compensate: {service: desk, method: undo}, next: work}
        - {id: work, type: call, service: desk, method: work}
    """, id="job")  # fmt: skip
    world.desk.answers["work"] = ValueError("no")
    await world.runner(undone).run(None, execution_id="a")
    report = await world.runtime.retry_all(workflow_id="job")
    assert report.skipped == {"a": "ConflictError: it was undone when it failed; start a new one"}


async def test_all_that_match_are_paused_and_unpaused(world: World) -> None:
    await halted(world, "a", "b")
    world.desk.hold("work")
    task = await world.start(WORK, execution_id="c")
    report = await world.runtime.pause_all(everything=True, reason="the bank is down", by="ann")
    assert sorted(report.done) == ["a", "b", "c"]
    assert (await world.runner(ASK).resume("a", response=1)).halted
    world.desk.release()
    assert (await task).completed
    report = await world.runtime.unpause_all(workflow_id="flow", by="bob")
    assert sorted(report.done) == ["a", "b"]
    async with working(world.runtime):
        await world.clock.advance(1)
    assert await statuses(world, "a", "b") == ["completed", "halted"]
    assert list((await world.runtime.unpause_all(workflow_id="flow")).skipped) == ["b"]
