"""Executions that processes hear of through a broker of taskiq: what a message does, and what it cannot do."""

from __future__ import annotations

import asyncio
import pickle
import random
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from taskiq import AsyncBroker, BrokerMessage, InMemoryBroker, TaskiqMessage
from taskiq.receiver import Receiver
from taskiq.serializers import PickleSerializer

import durable_flow as df
from durable_flow.engine import BACKSTOP
from durable_flow.runners.adapters.taskiq import TASK
from tests.engine.aid import Far, World, flow, idle

WORK = flow("- {id: work, type: call, service: desk, method: work, input: $input.n, output: result}")

ASK = flow("""
    - {id: ask, type: halt, next: work}
    - {id: work, type: call, service: desk, method: work, input: $response, output: result}
""", id="ask")  # fmt: skip

NAP = flow("""
    - {id: nap, type: wait, for: 60s, next: work}
    - {id: work, type: call, service: desk, method: work, retry: {max_attempts: 2, initial_interval: 60}}
""", id="nap")  # fmt: skip

TWO = flow("""
    - {id: first, type: call, service: desk, method: first, next: second}
    - {id: second, type: call, service: desk, method: second}
""", id="two")  # fmt: skip

SOON = 0.1
"""Seconds in which a worker that was woken has looked, and one that was not has not."""


class Post(AsyncBroker):
    """A broker whose messages lie there until the test delivers them, to whom it likes and as often as it likes."""

    def __init__(self, *, serves: bool = True) -> None:
        super().__init__()
        self.is_worker_process = serves
        self.box: list[BrokerMessage] = []

    async def kick(self, message: BrokerMessage) -> None:
        self.box.append(message)

    async def listen(self) -> AsyncGenerator[bytes, None]:
        await asyncio.get_running_loop().create_future()
        yield b""

    async def deliver(self, *messages: bytes) -> None:
        """These arrive here, or all that was sent through this broker."""
        receiver = Receiver(self)
        for message in messages or [sent.message for sent in self.empty()]:
            await receiver.callback(message)

    def empty(self) -> list[BrokerMessage]:
        sent, self.box = self.box, []
        return sent


@asynccontextmanager
async def serving(runtime: df.Runtime, **options: Any) -> AsyncIterator[Post]:
    """The broker of a process that serves it."""
    broker = Post()
    df.TaskiqAdapter(broker).receive(runtime, **options)
    await broker.startup()
    await idle()
    try:
        yield broker
    finally:
        ending = asyncio.create_task(broker.shutdown())
        clock: Any = runtime.engine.clock
        await clock.advance(1)
        await ending


@pytest.fixture
def web() -> Post:
    """The broker as the process has it that only sends."""
    return Post(serves=False)


@pytest.fixture
async def away(world: World) -> AsyncIterator[df.Runtime]:
    """Another process, which hears of nothing but by messages, or when it looks."""
    world.know(WORK, ASK, NAP, TWO)
    async with world.process(Far(world.store)) as runtime:
        yield runtime


# -- what a message does -----------------------------------------------------------------------------------------------


async def test_a_message_is_no_more_than_an_id_and_comes_after_the_commit(world: World, web: Post) -> None:
    stood: list[str] = []

    class Looking(Post):
        async def kick(self, message: BrokerMessage) -> None:
            stood.append((await world.load("e")).status)
            await super().kick(message)

    looking = Looking(serves=False)
    background = world.runtime.background(WORK, df.TaskiqAdapter(looking))
    await background.run({"n": "a secret"}, execution_id="e", queue="mail", priority=1)
    (sent,) = looking.box
    message = looking.formatter.loads(sent.message)
    assert (message.task_name, message.args, message.kwargs, message.labels) == (TASK, ["e"], {}, {})
    assert b"a secret" not in sent.message
    assert stood == ["pending"]


async def test_the_process_that_gets_it_drives_it_at_once(world: World, web: Post, away: df.Runtime) -> None:
    background = world.runtime.background("flow", df.TaskiqAdapter(web))
    async with serving(away) as there:
        await world.clock.advance(1.5)
        await background.run({"n": 1}, execution_id="e")
        await world.clock.advance(SOON)
        assert await background.status("e") == "pending"
        await there.deliver(*(sent.message for sent in web.empty()))
        await world.clock.advance(SOON)
        assert await background.status("e") == "completed"
    assert world.desk.values("work") == [1]


@pytest.mark.parametrize("how", ["resume", "cancel"])
async def test_so_it_is_with_what_was_halted(world: World, web: Post, away: df.Runtime, how: str) -> None:
    background = world.runtime.background("ask", df.TaskiqAdapter(web))
    async with serving(away) as there:
        await background.run(execution_id="e")
        await world.clock.advance(BACKSTOP)
        assert await background.status("e") == "halted"
        await world.clock.advance(SOON)
        web.empty()
        await (background.resume("e", response=1) if how == "resume" else background.cancel("e"))
        assert await background.status("e") == "halted"
        await there.deliver(*(sent.message for sent in web.empty()))
        await world.clock.advance(SOON)
        assert await background.status("e") == ("completed" if how == "resume" else "cancelled")


async def test_one_that_is_driven_here_takes_its_signal_at_once(world: World, web: Post, away: df.Runtime) -> None:
    both = flow("""
        - id: both
          type: parallel
          branches:
            - {id: work, type: call, service: desk, method: work}
            - id: listen
              do:
                - {id: item, type: signal, name: add, output: item, next: put}
                - {id: put, type: call, service: desk, method: put, input: $item}
    """, id="both")  # fmt: skip
    away.runner(both)
    background = world.runtime.background(both, df.TaskiqAdapter(web))
    world.desk.hold("work")
    async with serving(away) as there:
        await background.run(execution_id="e")
        await world.clock.advance(BACKSTOP)
        web.empty()
        await background.signal("e", "add", "shoe")
        await idle()
        assert world.desk.called == ["work"]
        await there.deliver(*(sent.message for sent in web.empty()))
        await idle()
        assert world.desk.called == ["work", "put"]
        world.desk.release()


async def test_a_message_begins_nothing_from_a_paused_queue(world: World, web: Post, away: df.Runtime) -> None:
    await world.runtime.pause_queue("mail")
    background = world.runtime.background("flow", df.TaskiqAdapter(web))
    async with serving(away) as there:
        await background.run({"n": 1}, execution_id="e", queue="mail")
        await there.deliver(*(sent.message for sent in web.box))
        await world.clock.advance(60)
        assert await background.status("e") == "pending"
        await world.runtime.unpause_queue("mail")
        await there.deliver(*(sent.message for sent in web.box))
        await world.clock.advance(SOON)
        assert await background.status("e") == "completed"


async def test_a_process_takes_from_its_queues_whatever_it_is_told(world: World, web: Post, away: df.Runtime) -> None:
    background = world.runtime.background("flow", df.TaskiqAdapter(web))
    await background.run({"n": 1}, execution_id="e", queue="mail")
    async with serving(away, queues=["print", None]) as there:
        await there.deliver(*(sent.message for sent in web.box))
        await world.clock.advance(60)
        assert await background.status("e") == "pending"
    async with serving(away, queues=["mail"]):
        await world.clock.advance(SOON)
    assert await background.status("e") == "completed"


async def test_it_takes_the_most_urgent_whoever_the_message_is_of(world: World, web: Post, away: df.Runtime) -> None:
    background = world.runtime.background("flow", df.TaskiqAdapter(web))
    async with serving(away, concurrency=1) as there:
        await world.clock.advance(1.5)
        for n, priority in enumerate((9, 5, 1)):
            await background.run({"n": n}, priority=priority)
        await there.deliver(web.box[0].message)
        await world.clock.advance(1)
    assert world.desk.values("work") == [2, 1, 0]


async def test_labels_are_for_the_broker_to_route_by(world: World, web: Post) -> None:
    def labels(queue: str | None, priority: int) -> dict[str, str | int]:
        return {"queue_name": queue or "rest", "priority": 10 - priority}

    background = world.runtime.background(WORK, df.TaskiqAdapter(web, labels=labels))
    await background.run({"n": 1}, queue="mail", priority=2)
    await background.run({"n": 1})
    assert [sent.labels for sent in web.box] == [
        {"queue_name": "mail", "priority": "8"},
        {"queue_name": "rest", "priority": "5"},
    ]


# -- without a message -------------------------------------------------------------------------------------------------


async def test_what_no_message_came_of_is_found(world: World, web: Post, away: df.Runtime) -> None:
    background = world.runtime.background("ask", df.TaskiqAdapter(web))
    async with serving(away):
        await background.run(execution_id="e")
        await world.clock.advance(BACKSTOP + SOON)
        assert await background.status("e") == "halted"
        await background.resume("e", response=1)
        await world.clock.advance(BACKSTOP + SOON)
        assert await background.status("e") == "completed"


async def test_timers_and_retries_fire_with_nobody_else_at_work(world: World, web: Post, away: df.Runtime) -> None:
    background = world.runtime.background("nap", df.TaskiqAdapter(web))
    world.desk.answers["work"] = [OSError("not now"), 1]
    async with serving(away):
        await background.run(execution_id="e")
        await world.clock.advance(61 + BACKSTOP)
        assert (await world.load()).blocked_on[0].step_id == "work"
        await world.clock.advance(61)
    assert await background.status("e") == "completed"


async def test_what_a_dead_process_had_is_taken_over(world: World, web: Post, away: df.Runtime) -> None:
    world.desk.hold("work")
    background = world.runtime.background("flow", df.TaskiqAdapter(web))
    await background.run({"n": 1}, execution_id="e")
    world.spawn(world.runtime.runner("flow").follow("e"))
    await idle()
    assert await background.status("e") == "running"
    await world.kill()
    world.desk.release()
    async with serving(away) as there:
        await there.deliver(*(sent.message for sent in web.box * 3))  # a broker delivers again what nobody took
        await world.clock.advance(29)
        assert (await world.load()).status == "running"
        await world.clock.advance(1 + SOON)
    assert (await world.load()).status == "completed"
    assert len(set(world.desk.keys("work"))) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_messages_that_are_lost_doubled_late_and_out_of_order_change_nothing(
    world: World, away: df.Runtime, web: Post, seed: int
) -> None:
    chance = random.Random(seed)
    halting = flow("""
        - {id: first, type: call, service: desk, method: first, input: $input.n, next: ask}
        - {id: ask, type: halt, next: second}
        - {id: second, type: call, service: desk, method: second, input: $input.n, output: result}
    """)
    world.workflows.clear()
    async with world.process(world.store) as sender, world.process(Far(world.store)) as near:
        background = sender.background(halting, df.TaskiqAdapter(web))
        async with serving(near) as one, serving(away) as other:
            held: list[bytes] = []

            async def some() -> None:
                for sent in web.empty():
                    held.extend([sent.message] * chance.randint(0, 3))
                chance.shuffle(held)
                late = chance.randint(0, len(held) // 3)
                now, held[:] = held[late:], held[:late]
                for message in now:
                    await chance.choice((one, other)).deliver(message)

            names = [await background.run({"n": n}, execution_id=f"e{n}") for n in range(300)]
            assert len(web.box) == 300
            await some()
            await world.clock.advance(BACKSTOP * 2)
            for name in chance.sample(names, len(names)):
                await background.resume(name, response=True)
                if chance.random() < 0.1:
                    await some()
            await world.clock.advance(BACKSTOP)
            await some()
            await world.clock.advance(BACKSTOP)
            await some()
        assert {await background.status(name) for name in names} == {"completed"}
    for method in ("first", "second"):
        assert sorted(world.desk.values(method)) == list(range(300))
    for name in names:
        assert (await world.trail(name)).count("started") == 1


# -- what may come -----------------------------------------------------------------------------------------------------


def forged(*args: Any, **kwargs: Any) -> bytes:
    message = TaskiqMessage(task_id="t", task_name=TASK, labels={}, args=list(args), kwargs=kwargs)
    return Post().formatter.dumps(message).message


WRONG = {
    "nothing": forged(),
    "two": forged("e", "e"),
    "by name": forged(execution_id="e"),
    "besides": forged("e", code="import os"),
    "a number": forged(7),
    "null": forged(None),
    "a list": forged(["e"]),
    "a mapping": forged({"id": "e", "state": {"result": 1}, "definition": "id: x"}),
    "empty": forged(""),
    "blanks": forged("e e"),
    "a line": forged("e\nWARNING forged"),
    "huge": forged("e" * 5_000_000),
    "unknown": forged("who"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_no_id_of_an_execution_is_dropped_and_logged(
    world: World, web: Post, away: df.Runtime, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    background = world.runtime.background("flow", df.TaskiqAdapter(web))
    async with serving(away) as there:
        await world.clock.advance(1.5)
        await background.run({"n": 1}, execution_id="e")
        await there.deliver(WRONG[wrong])
        await world.clock.advance(SOON)
        assert await background.status("e") == "pending"
        (told,) = [record for record in caplog.records if record.name == "durable_flow.taskiq"]
        assert "a message was dropped" in told.getMessage()
        assert "\n" not in told.getMessage()
        assert len(told.getMessage()) < 300
        await there.deliver(*(sent.message for sent in web.box))
        await world.clock.advance(SOON)
        assert await background.status("e") == "completed"
    assert "Traceback" not in caplog.text


async def test_a_pickle_is_not_even_opened(world: World, away: df.Runtime, tmp_path: Any) -> None:
    class Mine:
        def __reduce__(self) -> Any:
            return (tmp_path.joinpath("owned").touch, ())

    async with serving(away) as there:
        await there.deliver(pickle.dumps(Mine()))
        await world.clock.advance(SOON)
    assert not list(tmp_path.iterdir())


async def test_a_message_about_what_is_over_has_nothing_looked_for(world: World, web: Post) -> None:
    background = world.runtime.background(WORK, df.TaskiqAdapter(web))
    await background.run({"n": 1}, execution_id="e")
    await world.runtime.runner("flow").follow("e")
    wire = Far(world.store)
    async with world.process(wire) as other, serving(other) as there:
        await world.clock.advance(SOON)
        asked: list[str] = []
        wire.watchers.append(asked.append)
        await there.deliver(*(sent.message for sent in web.box))
        await world.clock.advance(SOON)
        assert asked == ["row"]


async def test_a_message_while_the_store_is_away_is_forgotten(
    world: World, web: Post, caplog: pytest.LogCaptureFixture
) -> None:
    world.know(WORK)
    background = world.runtime.background("flow", df.TaskiqAdapter(web))
    wire = Far(world.store)

    def away(verb: str) -> None:
        raise df.StoreUnavailable("it is away")

    async with world.process(wire, lease_ttl=1) as other, serving(other) as there:
        await background.run({"n": 1}, execution_id="e")
        wire.watchers.append(away)
        delivering = asyncio.create_task(there.deliver(*(sent.message for sent in web.box)))
        await world.clock.advance(5)
        await delivering
        assert "a message came while the store could not be read" in caplog.text
        wire.watchers.clear()
        await world.clock.advance(10)
        assert await background.status("e") == "completed"


# -- a broker that is away ---------------------------------------------------------------------------------------------


async def test_a_broker_that_is_away_fails_no_call(
    world: World, away: df.Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    class Down(Post):
        async def kick(self, message: BrokerMessage) -> None:
            raise OSError("connection refused")

    background = world.runtime.background("flow", df.TaskiqAdapter(Down()))
    await background.run({"n": 1}, execution_id="e")
    assert "no message was sent for execution e" in caplog.text
    async with serving(away):
        await world.clock.advance(SOON)
    assert await background.status("e") == "completed"


async def test_a_broker_that_does_not_answer_is_not_waited_for(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Silent(Post):
        async def kick(self, message: BrokerMessage) -> None:
            await asyncio.get_running_loop().create_future()

    background = world.runtime.background(WORK, df.TaskiqAdapter(Silent(), patience=0.01))
    assert await background.run({"n": 1}, execution_id="e") == "e"
    assert "the broker did not take the message within 0.01 s" in caplog.text


# -- beginning and ending ----------------------------------------------------------------------------------------------


async def test_a_process_that_only_sends_drives_nothing(world: World, web: Post) -> None:
    adapter = df.TaskiqAdapter(web)
    adapter.receive(world.runtime)
    await web.startup()
    background = world.runtime.background(WORK, adapter)
    await background.run({"n": 1}, execution_id="e")
    await world.clock.advance(60)
    assert await background.status("e") == "pending"
    await web.shutdown()


async def test_it_opens_the_runtime_and_closes_it(world: World) -> None:
    runtime = world.process(Far(world.store))
    async with serving(runtime):
        assert runtime.engine.opened
    assert not runtime.engine.opened
    async with serving(world.runtime):
        pass
    assert world.runtime.engine.opened


async def test_a_broker_that_starts_again_has_one_worker(world: World, web: Post, away: df.Runtime) -> None:
    async with serving(away) as there:
        await there.startup()
        assert len(away.engine.watchers) == 1


async def test_a_broker_in_memory_serves_itself(world: World) -> None:
    broker = InMemoryBroker()
    adapter = df.TaskiqAdapter(broker)
    adapter.receive(world.runtime)
    await broker.startup()
    background = world.runtime.background(WORK, adapter)
    await background.run({"n": 1}, execution_id="e")
    await world.clock.advance(1)
    assert await background.status("e") == "completed"
    await broker.shutdown()


async def test_at_its_end_the_step_under_way_ends_and_none_begins(world: World) -> None:
    runtime = world.process(Far(world.store), grace=60)
    world.know(TWO)
    world.desk.hold("first")
    await world.runtime.background("two").run(execution_id="e")
    broker = Post()
    df.TaskiqAdapter(broker).receive(runtime)
    await broker.startup()
    await world.clock.advance(SOON)
    assert world.desk.called == ["first"]
    ending = asyncio.create_task(broker.shutdown())
    await world.clock.advance(30)
    assert not ending.done()
    world.desk.release()
    await world.clock.advance(SOON)
    await ending
    loaded = await world.load()
    assert (loaded.status, loaded.current_step, loaded.owner) == ("running", "second", None)
    assert (world.desk.called, world.desk.cancelled) == (["first"], [])


async def test_where_it_is_not_given_the_time_all_is_given_back_at_once(world: World) -> None:
    runtime = world.process(Far(world.store), grace=60)
    world.know(TWO)
    world.desk.hold("first")
    await world.runtime.background("two").run(execution_id="e")
    broker = Post()
    df.TaskiqAdapter(broker).receive(runtime)
    await broker.startup()
    await world.clock.advance(SOON)
    ending = asyncio.create_task(broker.shutdown())
    await world.clock.advance(1)
    ending.cancel()
    with suppress(asyncio.CancelledError):
        await ending
    loaded = await world.load()
    assert (loaded.status, loaded.current_step, loaded.owner) == ("running", "first", None)
    assert world.desk.cancelled == ["first"]
    assert not runtime.engine.opened


# -- what is put together wrongly --------------------------------------------------------------------------------------


def test_a_broker_that_unpickles_is_refused() -> None:
    with pytest.raises(df.ConfigError, match="unpickles"):
        df.TaskiqAdapter(Post().with_serializer(PickleSerializer()))


async def test_so_is_one_that_came_to_unpickle_later(world: World, caplog: pytest.LogCaptureFixture) -> None:
    broker = Post()
    adapter = df.TaskiqAdapter(broker)
    adapter.receive(world.runtime)
    broker.with_serializer(PickleSerializer())
    with pytest.raises(df.ConfigError, match="unpickles"):
        await broker.startup()
    await world.runtime.background(WORK, adapter).run({"n": 1}, execution_id="e")
    assert broker.box == []
    assert "unpickles" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"broker": "redis://localhost"}, "broker is a broker of taskiq, not 'redis://localhost'"),
        ({"labels": {"queue_name": "mail"}}, "labels is a function"),
        ({"patience": 0}, "patience must be more than 0"),
        ({"patience": float("nan")}, "patience must be more than 0"),
        ({"patience": "2"}, "patience must be more than 0"),
    ],
)
def test_bad_arguments_are_told(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(df.ConfigError, match=told):
        df.TaskiqAdapter(**{"broker": Post(), **arguments})


async def test_so_are_those_of_receive(world: World) -> None:
    broker = Post()
    with pytest.raises(df.ConfigError, match="queues is a list"):
        df.TaskiqAdapter(broker).receive(world.runtime, queues="mail")
    with pytest.raises(df.ConfigError, match="concurrency must be a number"):
        df.TaskiqAdapter(broker).receive(world.runtime, concurrency=0)
    assert broker.local_task_registry == {}
    df.TaskiqAdapter(broker).receive(world.runtime)
    with pytest.raises(df.ConfigError, match="has a task 'durable_flow:wake' already"):
        df.TaskiqAdapter(broker).receive(world.runtime)
    df.TaskiqAdapter(broker, task_name="other:wake").receive(world.runtime)


# -- without taskiq ----------------------------------------------------------------------------------------------------


def test_it_is_imported_where_it_is_used() -> None:
    program = "import sys, durable_flow as df; assert df.TaskiqAdapter; print('taskiq' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.fixture
def no_taskiq(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "taskiq", None)
    return


@pytest.mark.usefixtures("no_taskiq")
def test_without_it_the_error_says_what_to_install() -> None:
    with pytest.raises(df.MissingExtraError) as missing:
        df.TaskiqAdapter(object())  # type: ignore[arg-type]
    assert str(missing.value) == 'taskiq is not installed; run: pip install "durable-flow[taskiq]"'
