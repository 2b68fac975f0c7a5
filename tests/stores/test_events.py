"""Following an execution from another process, on every store."""

from __future__ import annotations

import asyncio

import pytest

import durable_flow as df
from durable_flow.testing import wait_until
from durable_flow.testing.contract import Subject
from tests.stores.conftest import STORES

WORKFLOW = df.load("""
id: two
name: Two questions
inputs: {pin: {type: string, secret: true}}
steps:
  - id: each
    type: loop
    over: [1, 2, 3]
    do: [{id: keep, type: assign, set: {last: "é\\u2028 $item $input.pin"}}]
    next: ask
  - {id: ask, type: halt, reason: first, next: again}
  - {id: again, type: approval, prompt: second, next: done}
  - {id: done, type: end, result: $response}
""")


@pytest.fixture(params=STORES)
def subject(request: pytest.FixtureRequest) -> Subject:
    return STORES[request.param](request.getfixturevalue)


async def test_another_process_sees_every_event_once_and_as_it_was_told(subject: Subject) -> None:
    told: list[df.Event] = []
    seen: list[df.Event] = []
    first = subject.make()
    second = subject.make() if subject.shared else first
    async with first:
        if subject.shared:
            await second.open()
        try:
            async with df.Runtime(first, workflows=[WORKFLOW]) as here, df.Runtime(second) as there:
                here.subscribe(told.append)

                async def follow() -> None:
                    while not seen or seen[-1].type != "workflow.completed":
                        async for event in there.events("e", after=seen[-1].id if seen else None):
                            seen.append(event)
                            if event.type == "step.halted":
                                break  # and connects again

                runner = here.runner("two")
                assert (await runner.run({"pin": "4711"}, execution_id="e")).halted
                following = asyncio.ensure_future(follow())
                await wait_until(lambda: bool(seen) and seen[-1].type == "workflow.halted")
                assert (await runner.resume("e", response="4711 it is")).halted
                await wait_until(lambda: seen[-1].id == told[-1].id)
                assert (await runner.resume("e", approved=True)).completed
                await following
        finally:
            if subject.shared:
                await second.close()
    durable = [event.to_sse() for event in told if event.id is not None]
    assert [event.to_sse() for event in seen] == durable
    assert "4711" not in repr(seen)
