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
    assert b"ann" not in bytes((await world.store.queues())["mail"].hold)  # type: ignore[arg-type]
    assert await world.runtime.paused_queues() == [df.PausedQueue(queue="mail")]
    assert await world.runtime.unpause_queue("mail")


@pytest.mark.parametrize("queue", ["", "x" * 256, "a\nb", 7, b"mail", "mail,print"])
async def test_what_cannot_name_a_queue_is_refused(world: World, queue: object) -> None:
    for call in (world.runtime.pause_queue, world.runtime.unpause_queue):
        with pytest.raises(df.ValidationError, match="1 to 255 printable characters"):
            await call(queue)  # type: ignore[operator]
    with pytest.raises(df.ValidationError):
        await world.runner(WORK).run(None, execution_id="e", queue=queue)  # type: ignore[arg-type]
    assert await world.store.row("e") is None
    assert await world.runtime.paused_queues() == []


async def test_the_sign_for_executions_without_a_queue_names_none(world: World) -> None:
    with pytest.raises(df.ValidationError, match=r"without one \(None\)"):
        await world.runner(WORK).run(None, queue="-")
    with pytest.raises(df.ValidationError, match=r"without one \(None\)"):
        df.Worker(world.runtime, queues=["mail", "-"])


async def test_a_worker_does_not_limit_queues_it_does_not_serve(world: World) -> None:
    with pytest.raises(df.ConfigError, match="queue_concurrency limits 'mial', which is none of queues"):
        df.Worker(world.runtime, queues=["mail"], queue_concurrency={"mial": 5})


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


# -- limits ------------------------------------------------------------------------------------------------------------


class Counter:
    """A service that counts who is in it at once."""

    def __init__(self, world: World, seconds: float = 1.0) -> None:
        self.world = world
        self.seconds = seconds
        self.now = self.most = 0
        self.times: list[float] = []

    async def work(self) -> None:
        self.times.append(self.world.clock.time - START)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.world.clock.sleep(self.seconds)
        finally:
            self.now -= 1


async def test_workers_of_all_processes_together_begin_no_more_than_may_be_under_way(world: World) -> None:
    counter = Counter(world)
    await world.restart(services={"desk": counter}, queues={"mail": df.Queue(concurrency=2)})
    world.know(WORK)
    for number in range(8):
        await pending(world, f"e{number}", "mail")
    async with (
        world.process(world.store) as other,
        working(world.runtime),
        working(other, queues=["mail"]),
    ):
        await world.clock.advance(4.5)  # two at a time, and each is followed at once
    assert counter.most == 2
    assert await statuses(world, *(f"e{number}" for number in range(8))) == ["completed"] * 8


async def test_no_more_begin_within_a_period_than_the_rate_says(world: World) -> None:
    counter = Counter(world)
    await world.restart(services={"desk": counter}, queues={"mail": df.Queue(rate=2, per="1m")})
    world.know(WORK)
    for number in range(5):
        await pending(world, f"e{number}", "mail")
    async with working(world.runtime):
        await world.clock.advance(150)
    assert counter.times == pytest.approx([0, 0, 60, 60, 120], abs=0.1)


async def test_a_full_queue_keeps_no_other_waiting(world: World) -> None:
    await world.restart(queues={"mail": df.Queue(concurrency=1)})
    world.know(WORK)
    world.desk.hold("work")
    for number in range(3):
        await pending(world, f"m{number}", "mail")
        await pending(world, f"p{number}", "print")
    async with working(world.runtime, concurrency=4):
        await world.clock.advance(1)
        assert len(world.desk.calls) == 4
        world.desk.release()
        await world.clock.advance(1)
        assert await statuses(world, "m0", "m1", "m2", "p0", "p1", "p2") == ["completed"] * 6


async def test_a_caller_is_not_kept_waiting_but_counts(world: World) -> None:
    await world.restart(queues={"mail": df.Queue(concurrency=1)})
    world.know(WORK)
    world.desk.hold("work")
    for name in "a", "b":
        world.spawn(world.runner().run(None, execution_id=name, queue="mail"))
    await world.clock.advance()
    await pending(world, "c", "mail")
    async with working(world.runtime):
        await world.clock.advance(10)
        assert len(world.desk.calls) == 2
        world.desk.release()
        await world.clock.advance(0.1)
        assert await statuses(world, "a", "b", "c") == ["completed"] * 3


async def test_a_parent_and_its_child_need_one_place(world: World) -> None:
    await world.restart(queues={"mail": df.Queue(concurrency=1, rate=2, per="1h")})
    world.know(WORK, PARENT)
    for name in "a", "b":
        await world.runtime.background("parent").run(execution_id=name, queue="mail")
    async with working(world.runtime):
        await world.clock.advance(1)
    assert await statuses(world, "a", "a.sub", "b", "b.sub") == ["completed"] * 4


async def test_what_waits_for_somebody_takes_no_place_and_is_not_refused_when_it_goes_on(world: World) -> None:
    ask = flow("""
        - {id: ask, type: approval, prompt: Go on?, next: work}
        - {id: work, type: call, service: desk, method: work}
    """, id="ask")  # fmt: skip
    await world.restart(queues={"mail": df.Queue(concurrency=1)})
    world.know(WORK, ask)
    await world.runtime.background("ask").run(execution_id="asks", queue="mail")
    await pending(world, "a", "mail")
    world.desk.hold("work")
    async with working(world.runtime):
        await world.clock.advance(1)
        assert await statuses(world, "asks", "a") == ["halted", "running"]
        assert len(world.desk.calls) == 1
        await world.runtime.background("ask").resume("asks", approved=True)
        await world.clock.advance(1)
        assert len(world.desk.calls) == 2
        world.desk.release()
        await world.clock.advance(1)
        assert await statuses(world, "asks", "a") == ["completed"] * 2


async def test_the_place_of_a_dead_process_is_free_when_its_execution_has_ended(world: World) -> None:
    await world.restart(queues={"mail": df.Queue(concurrency=1)})
    world.know(WORK)
    for name in "a", "b":
        await pending(world, name, "mail")
    world.desk.hold("work")
    world.spawn(df.Worker(world.runtime).run())
    await world.clock.advance(1)
    await world.kill()
    await world.begin()
    world.desk.release()
    async with working(world.runtime):
        await world.clock.advance(20)
        assert len(world.desk.calls) == 1
        await world.clock.advance(20)
        assert len(world.desk.calls) == 3
    assert await statuses(world, "a", "b") == ["completed"] * 2


async def test_a_worker_that_cannot_serve_what_it_took_uses_nothing_of_the_rate_up(world: World) -> None:
    await world.restart(queues={"mail": df.Queue(rate=1, per="1h")})
    world.know(WORK)
    await pending(world, "a", "mail")
    async with world.process(world.store, services={}) as other, working(other):
        await world.clock.advance(1)
        assert await statuses(world, "a") == ["pending"]
        async with working(world.runtime):
            await world.clock.advance(5)
    assert await statuses(world, "a") == ["completed"]


async def test_a_worker_begins_no_more_of_a_queue_than_it_may(world: World) -> None:
    world.know(WORK)
    world.desk.hold("work")
    for number in range(5):
        await pending(world, f"m{number}", "mail")
    await pending(world, "p", "print")
    async with (
        world.process(world.store) as other,
        working(world.runtime, queue_concurrency={"mail": 1}),
        working(other, queue_concurrency={"mail": 2}),
    ):
        await world.clock.advance(10)
        assert len(world.desk.calls) == 4
        world.desk.release()
        await world.clock.advance(1)
    assert await statuses(world, *(f"m{number}" for number in range(5))) == ["completed"] * 5


async def test_the_last_code_that_declares_limits_counts_and_a_decision_counts_more(world: World) -> None:
    await world.restart(queues={"mail": df.Queue(concurrency=2)})
    async with world.process(world.store, queues={"mail": df.Queue(concurrency=3, rate=5, per=10)}):
        pass
    declared = df.Queue(concurrency=3, rate=5, per=10.0)
    (state,) = await world.runtime.queues()
    assert state == df.QueueState(queue="mail", pending=0, under_way=0, limits=declared, declared=declared)
    assert await world.runtime.limit_queue("mail", concurrency=9)
    assert not await world.runtime.limit_queue("mail", concurrency=9)
    await world.restart(queues={"mail": df.Queue(concurrency=2)})
    (state,) = await world.runtime.queues()
    assert (state.limits, state.decided) == (df.Queue(concurrency=9),) * 2
    assert await world.runtime.limit_queue("mail")
    (state,) = await world.runtime.queues()
    assert state.limits == df.Queue()
    assert await world.runtime.reset_queue("mail")
    assert not await world.runtime.reset_queue("mail")
    (state,) = await world.runtime.queues()
    assert (state.limits, state.decided) == (df.Queue(concurrency=2), None)


async def test_limits_that_are_raised_count_at_once(world: World) -> None:
    await world.restart(queues={"mail": df.Queue(concurrency=1)})
    world.know(WORK)
    world.desk.hold("work")
    for number in range(3):
        await pending(world, f"e{number}", "mail")
    async with working(world.runtime), world.process(world.store) as other:
        await world.clock.advance(1)
        assert len(world.desk.calls) == 1
        await other.limit_queue("mail", concurrency=2)
        await world.clock.advance(0.1)
        assert len(world.desk.calls) == 2
        await world.runtime.limit_queue("mail")
        await world.clock.advance(0.1)
        assert len(world.desk.calls) == 3


async def test_why_an_execution_does_not_begin_is_told(world: World) -> None:
    await world.restart(queues={"mail": df.Queue(concurrency=1), "print": df.Queue(rate=1, per="1m")})
    world.know(WORK)
    world.desk.hold("work")
    for queue in "mail", "print":
        for name in "ab":
            await pending(world, queue + name, queue)
    async with working(world.runtime):
        await world.clock.advance(1)
        (why,) = await world.runner().why("mailb")
        assert why.reason == "a worker of queue 'mail', of which 1 are under way and 1 may be"
        (why,) = await world.runner().why("printb")
        assert why.reason == "a worker of queue 'print', of which 1 may begin within 60 s"


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"concurrency": 0}, "from 1 to 10,000, not 0"),
        ({"concurrency": True}, "not True"),
        ({"concurrency": 2.5}, "not 2.5"),
        ({"rate": 20_000, "per": "1h"}, "give a shorter time"),
        ({"rate": 5}, "belong together"),
        ({"per": "1m"}, "belong together"),
        ({"rate": 5, "per": "soon"}, "not a duration"),
        ({"rate": 5, "per": 0}, "more than zero"),
        ({"rate": 5, "per": float("nan")}, "not a duration"),
    ],
)
async def test_what_cannot_limit_a_queue_is_refused(world: World, limits: dict[str, object], said: str) -> None:
    with pytest.raises(df.ValidationError, match=said):
        df.Queue(**limits)  # type: ignore[arg-type]
    with pytest.raises(df.ValidationError, match=said):
        await world.runtime.limit_queue("mail", **limits)  # type: ignore[arg-type]
    assert await world.runtime.queues() == []


@pytest.mark.parametrize("queues", [["mail"], {"mail": 5}, {None: df.Queue()}, {"a\nb": df.Queue()}, "mail"])
async def test_what_cannot_be_limits_of_queues_is_refused(world: World, queues: object) -> None:
    with pytest.raises(df.ValidationError):
        world.process(world.store, queues=queues)


async def test_limits_need_a_name(world: World) -> None:
    for call in (world.runtime.limit_queue, world.runtime.reset_queue):
        with pytest.raises(df.ValidationError, match="a queue with a name"):
            await call(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"mail": 0}, {"mail": True}, {None: 5}, ["mail"], "mail"])
async def test_what_cannot_limit_a_worker_is_refused(world: World, given: object) -> None:
    with pytest.raises(df.ConfigError, match="queue_concurrency"):
        df.Worker(world.runtime, queue_concurrency=given)  # type: ignore[arg-type]
