"""A queue that is paused begins nothing, in any process; what began goes on."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import durable_flow as df
from durable_flow.codec import AesGcm
from durable_flow.runners.queues import check_queue
from durable_flow.stores.sealed import SealedStore
from tests.engine.aid import START, World, flow, working

WORK = flow("- {id: work, type: call, service: desk, method: work, output: result}\n")

PARENT = flow("""
    - {id: sub, type: workflow, workflow_id: flow, output: result}
""", id="parent")  # fmt: skip


async def pending(world: World, execution_id: str, queue: str | None) -> None:
    """An execution that waits in a queue."""
    await world.runtime.background(WORK).run(execution_id=execution_id, queue=queue)


async def statuses(world: World, *names: str) -> list[str]:
    return [str((await world.load(name)).status) for name in names]


async def test_nothing_of_a_paused_queue_begins_until_it_is_unpaused(world: World) -> None:
    world.know(WORK)
    await world.runtime.pause_queue("mail", by="ann", reason="the server is full")
    for name, queue in (("a", "mail"), ("b", "print"), ("c", None)):
        await pending(world, name, queue)
    async with working(world.runtime):
        await world.clock.advance(60)
        assert await statuses(world, "a", "b", "c") == ["pending", "completed", "completed"]
        assert await world.runtime.unpause_queue("mail")
        await world.clock.advance(0.1)
        assert await statuses(world, "a") == ["completed"]


async def test_executions_without_a_queue_can_be_paused(world: World) -> None:
    world.know(WORK)
    await world.runtime.pause_queue(None)
    await pending(world, "a", "mail")
    await pending(world, "b", None)
    async with working(world.runtime):
        await world.clock.advance(60)
        assert await statuses(world, "a", "b") == ["completed", "pending"]


async def test_a_worker_of_another_process_leaves_it_alone_and_hears_when_it_is_unpaused(world: World) -> None:
    world.know(WORK)
    await world.runtime.pause_queue("mail")
    await pending(world, "a", "mail")
    async with world.process(world.store) as other, working(other, queues=["mail"]):
        await world.clock.advance(60)
        assert await statuses(world, "a") == ["pending"]
        await world.runtime.unpause_queue("mail")
        await world.clock.advance(0.1)
        assert await statuses(world, "a") == ["completed"]


async def test_what_began_goes_on(world: World) -> None:
    ask = flow("""
        - {id: nap, type: wait, for: 60s, next: work}
        - {id: work, type: call, service: desk, method: work}
    """)
    world.know(ask)
    task = world.spawn(world.runner().run(None, execution_id="e", queue="mail"))
    await world.clock.advance()
    task.cancel()
    await world.clock.advance()
    await world.runtime.pause_queue("mail")
    async with working(world.runtime, queues=["mail"]):
        await world.clock.advance(61)
    assert (await world.load()).status == "completed"


async def test_paused_queues_are_told_with_who_paused_them(world: World) -> None:
    assert await world.runtime.paused_queues() == []
    assert await world.runtime.pause_queue("mail", by="ann", reason="full")
    world.clock.time += 60
    assert not await world.runtime.pause_queue("mail", by="bob")
    await world.runtime.pause_queue(None)
    assert await world.runtime.paused_queues() == [
        df.PausedQueue(queue=None, since=datetime.fromtimestamp(START + 60, UTC)),
        df.PausedQueue(queue="mail", since=datetime.fromtimestamp(START, UTC), by="ann", reason="full"),
    ]
    assert not await world.runtime.unpause_queue("print")
    assert await world.runtime.unpause_queue(None)
    await world.restart()
    assert [paused.queue for paused in await world.runtime.paused_queues()] == ["mail"]


async def test_who_paused_a_queue_is_encrypted_and_a_key_that_is_gone_hides_only_that(world: World) -> None:
    sealed = SealedStore(world.store, AesGcm(keys={"k": bytes(32)}, active="k"))
    async with world.process(sealed) as other:
        await other.pause_queue("mail", by="ann")
        assert [paused.by for paused in await other.paused_queues()] == ["ann"]
    assert b"ann" not in bytes((await world.store.held())["mail"])  # type: ignore[arg-type]
    assert await world.runtime.paused_queues() == [df.PausedQueue(queue="mail")]
    assert await world.runtime.unpause_queue("mail")


@pytest.mark.parametrize("queue", ["", "x" * 256, "a\nb", 7, b"mail"])
async def test_what_cannot_name_a_queue_is_refused(world: World, queue: object) -> None:
    for call in (world.runtime.pause_queue, world.runtime.unpause_queue):
        with pytest.raises(df.ValidationError, match="1 to 255 printable characters"):
            await call(queue)  # type: ignore[operator]
    with pytest.raises(df.ValidationError):
        await world.runner(WORK).run(None, execution_id="e", queue=queue)  # type: ignore[arg-type]
    assert await world.store.row("e") is None
    assert await world.runtime.paused_queues() == []


def test_names_of_queues_may_hold_blanks() -> None:
    assert check_queue("print on paper") == "print on paper"


async def test_a_caller_drives_what_it_starts_in_a_paused_queue(world: World) -> None:
    await world.runtime.pause_queue("mail")
    assert (await world.runner(WORK).run(None, execution_id="e", queue="mail")).completed
    assert (await world.load()).queue == "mail"


async def test_children_are_in_the_queue_of_their_parent(world: World) -> None:
    world.know(WORK, PARENT)
    world.desk.hold("work")
    world.spawn(world.runtime.runner("parent").run(None, execution_id="e", queue="mail"))
    await world.clock.advance()
    await world.after_the_lease()
    world.desk.release()
    assert (await world.load("e.sub")).queue == "mail"
    async with working(world.runtime, queues=["mail"]):
        await world.clock.advance(5)
    assert (await world.load()).status == "completed"
