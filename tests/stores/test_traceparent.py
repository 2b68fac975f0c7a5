"""The trace of an execution is kept by each of our stores, through a queue, waits, a dead process and children."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import durable_flow as df
from durable_flow.testing.contract import Subject
from tests.engine.aid import Desk, flow, working
from tests.stores.conftest import STORES

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

CHILD = flow("""
    - {id: ask, type: halt, next: work}
    - {id: work, type: call, service: desk, method: work, input: $response, output: result}
""", id="child")  # fmt: skip

PARENT = flow("""
    - {id: first, type: call, service: desk, method: first, next: nap}
    - {id: nap, type: wait, for: 0.1s, next: sub}
    - {id: sub, type: workflow, workflow_id: child, output: result}
""", id="parent")  # fmt: skip


@pytest.fixture(params=STORES)
def subject(request: pytest.FixtureRequest) -> Subject:
    return STORES[request.param](request.getfixturevalue)


async def test_it_goes_through_queue_wait_death_and_child(subject: Subject) -> None:
    desk = Desk()

    def runtime(store: df.Store) -> df.Runtime:
        return df.Runtime(store, workflows=[PARENT, CHILD], services={"desk": desk})

    async with subject.make() as store:
        other: Callable[[], df.Store] = subject.make if subject.shared else lambda: store
        async with runtime(store) as web:
            background = web.background("parent")
            await background.run(execution_id="e", queue="mail", traceparent=TRACE)
            async with runtime(another := other()) as back:
                if another is not store:
                    await another.open()
                async with working(back, queues=["mail"]):
                    halted = await background.wait("e", timeout=20)
                if another is not store:
                    await another.close()
            assert halted is not None
            assert halted.halt is not None
            child_id = halted.halt.execution_id
            await background.resume("e", response=1)
            await store.claim(child_id, owner="somebody who dies", ttl=0.0, statuses=("halted",))
            async with working(web):
                done = await background.wait("e", timeout=20)
        assert done is not None
        assert done.output == 1
        assert [context.traceparent for context in desk.contexts] == [TRACE, TRACE]
        assert [execution.traceparent for execution in await store.find()] == [TRACE, TRACE]
