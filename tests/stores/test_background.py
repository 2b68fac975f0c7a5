"""Whoever waits for an execution hears of what another process does, on each of our stores."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import durable_flow as df
from durable_flow import engine as machinery
from durable_flow.testing import wait_until
from durable_flow.testing.contract import Subject
from tests.engine.aid import Desk, flow, working
from tests.stores.conftest import STORES

ASK = flow("""
    - {id: ask, type: halt, next: work}
    - {id: work, type: call, service: desk, method: work, input: $response, output: result}
""", id="ask")  # fmt: skip

Processes = tuple[df.Runtime, df.Runtime]


@pytest.fixture(params=[name for name in STORES if not name.startswith("sealed")])
def subject(request: pytest.FixtureRequest) -> Subject:
    return STORES[request.param](request.getfixturevalue)


@pytest.fixture
async def processes(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Processes]:
    """Two runtimes on the same data; where the store tells, they hear of each other in no other way."""
    one = subject.make()
    other = subject.make() if subject.shared else one
    async with one:
        if other is not one:
            await other.open()
        try:
            if subject.wakes:
                monkeypatch.setattr(machinery, "BACKSTOP", 10_000.0)
            async with (
                df.Runtime(one, workflows=[ASK], lease_ttl=100_000) as web,
                df.Runtime(other, workflows=[ASK], lease_ttl=100_000, services={"desk": Desk()}) as back,
            ):
                yield web, back
        finally:
            if other is not one:
                await other.close()


async def test_waiting_hears_of_each_outcome_in_another_process(processes: Processes) -> None:
    web, back = processes
    background = web.background("ask")
    async with working(back) as worker:
        await background.run(execution_id="e")
        first = await background.wait("e", timeout=20)
        assert first is not None
        assert first.halted
        await background.resume("e", response="yes")
        last = await background.wait("e", timeout=20)
        assert last is not None
        assert last.output == "yes"
        await wait_until(lambda: worker.active == 0)
    assert await background.status("e") == "completed"


async def test_those_of_one_queue_are_begun_by_priority(processes: Processes) -> None:
    web, back = processes
    background = web.background("ask")
    for name, priority in (("a", 9), ("b", 5), ("c", 1)):
        await background.run(execution_id=name, queue="mail", priority=priority)
    taken = [(await back.store.take("me", ttl=30, limit=1, queues=["mail"]))[0].row.id for _ in range(3)]
    assert taken == ["c", "b", "a"]
