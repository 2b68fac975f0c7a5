"""A log handler of the host that raises changes nothing: not the executions, not the leases, not the workers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import pytest

import durable_flow as df
from durable_flow.journal import StepLogger
from tests.engine.aid import World, flow, working

WORK = flow("""
    - {id: work, type: call, service: desk, method: work, retry: {max_attempts: 2, initial_interval: 0}, next: done}
    - {id: done, type: end, result: fine}
""")


class Raising(logging.Handler):
    """Counts what it is told, and raises."""

    told = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.told += 1
        raise RuntimeError("the disk of the log is full")


@pytest.fixture(params=[logging.getLogger(), logging.getLogger("durable_flow")], ids=["root", "durable_flow"])
def handler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Raising]:
    monkeypatch.setattr(logging.getLogger("durable_flow"), "level", logging.DEBUG)
    raising = Raising()
    request.param.addHandler(raising)
    yield raising
    request.param.removeHandler(raising)
    assert raising.told


async def test_an_execution_goes_on(world: World, handler: Raising) -> None:
    def uninterested(event: df.Event) -> None:
        raise ValueError("not interested")

    world.runtime.subscribe(uninterested)  # it is logged that it raised
    result = await world.run(WORK, execution_id="e")
    assert result.completed
    assert await world.trail() == ["started", "work completed", "done completed", "finished"]


async def test_a_service_that_logs_goes_on(world: World, handler: Raising) -> None:
    def work(value: object) -> str:
        world.desk.contexts[-1].logger.info("at it")
        return "done"

    world.desk.answers["work"] = work
    await world.run(WORK, execution_id="e")
    assert world.desk.called == ["work"]


async def test_leases_are_renewed(world: World, handler: Raising) -> None:
    renew = world.wire.renew
    failures = iter([df.StoreError("no"), ValueError("a bug")])

    async def fails_at_first(owner: str, *, ttl: float) -> Mapping[str, int]:
        if (error := next(failures, None)) is not None:
            raise error
        return await renew(owner, ttl=ttl)

    world.wire.renew = fails_at_first  # type: ignore[method-assign]
    world.desk.hold("work")
    task = await world.start(WORK)
    await world.clock.advance(300)
    async with world.process(world.store) as other:
        with pytest.raises(df.ConflictError, match="is being driven"):
            await other.runner("flow").recover("e")
    world.desk.release()
    assert (await task).completed
    assert world.desk.called == ["work"]


async def test_a_worker_goes_on(world: World, handler: Raising) -> None:
    world.know(WORK)
    for execution_id in ("other", "e"):
        world.desk.hold("work")
        await world.start(WORK, execution_id=execution_id)
        await world.kill()
        await world.begin()
    world.desk.release()
    world.clock.time += 31
    take = world.wire.take
    failures = iter([df.StoreError("no")])

    async def fails_at_first(*arguments: object, **options: object) -> object:
        if (error := next(failures, None)) is not None:
            raise error
        return await take(*arguments, **options)  # type: ignore[arg-type]

    world.wire.take = fails_at_first  # type: ignore[method-assign, assignment]
    async with working(world.runtime):
        await world.clock.advance(10)
    assert [(await world.load(one)).status for one in ("other", "e")] == ["completed"] * 2


def test_a_record_of_a_service_says_where_it_comes_from(caplog: pytest.LogCaptureFixture) -> None:
    StepLogger(logging.getLogger("durable_flow.step"), {"step": "a"}).warning("charged %s", "alice")
    (record,) = caplog.records
    assert (record.getMessage(), record.__dict__["step"]) == ("charged alice", "a")
    assert record.funcName == "test_a_record_of_a_service_says_where_it_comes_from"
