"""What a store tells of other processes is acted on at once; where it does not tell, or a hint is lost, a look is."""

from __future__ import annotations

from durable_flow.engine import BACKSTOP, POLL
from tests.engine.aid import Far, World, flow, idle

WORK = """
- {id: work, type: call, service: desk, method: work, output: result, next: ask}
- {id: ask, type: halt}
"""


class Deaf(Far):
    """The same for a store that cannot tell."""

    wakes = False


async def test_who_follows_an_execution_hears_of_its_end_without_any_time_going_by(world: World) -> None:
    world.desk.hold("work")
    first = await world.start(WORK)
    wire = Far(world.store)
    async with world.process(wire) as other:
        follower = world.spawn(other.runner("flow").run(execution_id="e"))
        await idle()
        world.desk.release()
        assert (await first).halted
        await idle()
        assert not follower.done()
        wire.heard("e")
        await idle()
        assert follower.done()
        assert (await follower).halted


async def test_a_hint_about_another_execution_wakes_nobody(world: World) -> None:
    world.desk.hold("work")
    await world.start(WORK)
    wire = Far(world.store)
    looks: list[str] = []
    async with world.process(wire) as other:
        follower = world.spawn(other.runner("flow").run(execution_id="e"))
        await idle()
        wire.watchers.append(looks.append)
        wire.heard("f")
        await idle()
        assert looks == []
        assert not follower.done()
        world.desk.release()


async def test_a_lost_hint_costs_no_more_than_the_backstop(world: World) -> None:
    world.desk.hold("work")
    first = await world.start(WORK)
    async with world.process(Far(world.store)) as other:
        follower = world.spawn(other.runner("flow").run(execution_id="e"))
        await idle()
        world.desk.release()
        assert (await first).halted
        await world.clock.advance(POLL)
        assert not follower.done()
        await world.clock.advance(BACKSTOP - POLL)
        assert (await follower).halted


async def test_a_store_that_does_not_tell_is_asked_often(world: World) -> None:
    world.desk.hold("work")
    first = await world.start(WORK)
    async with world.process(Deaf(world.store)) as other:
        follower = world.spawn(other.runner("flow").run(execution_id="e"))
        await idle()
        world.desk.release()
        assert (await first).halted
        await world.clock.advance(POLL)
        assert (await follower).halted


async def test_the_owner_reads_its_mail_when_it_hears_of_it(world: World) -> None:
    world.desk.hold("work")
    world.know(flow(WORK))
    wire = Far(world.store)
    async with world.process(wire) as owner:
        first = world.spawn(owner.runner("flow").run(execution_id="e"))
        await idle()
        cancelling = world.spawn(world.runner().cancel("e"))
        await idle()
        assert not first.done()
        wire.heard("e")
        await idle()
        assert (await first).cancelled
        await world.clock.advance(BACKSTOP)
        await cancelling


async def test_nobody_listens_to_a_store_after_its_runtime_was_left(world: World) -> None:
    wire = Far(world.store)
    async with world.process(wire):
        pass
    reads: list[str] = []
    wire.watchers.append(reads.append)
    wire.heard("e")
    await idle()
    assert reads == []


async def test_those_who_follow_in_two_processes_do_not_keep_each_other_awake(world: World) -> None:
    workflow = """
        - {id: go, type: signal, name: go, next: pause}
        - {id: pause, type: wait, for: 60}
    """
    await world.run(workflow, execution_id="e")
    async with world.process(world.store) as other:
        await world.runner().signal("e", "go")
        following = [
            world.spawn(runtime.runner("flow").run(execution_id="e"))
            for runtime in (world.runtime, other)
            for _ in range(5)
        ]
        await idle()
        for runtime in (other, world.runtime, other):
            world.spawn(runtime.runner("flow").signal("e", "go"))
            await idle()
        await world.clock.advance(61)
        assert all(done.done() and done.result().completed for done in following)
