"""Executions through the brokers of taskiq: Redis Streams, RabbitMQ, NATS JetStream; and workers that are killed."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from taskiq import AsyncBroker
from taskiq.receiver import Receiver

import durable_flow as df
from durable_flow import engine as machinery
from durable_flow.testing import wait_until
from tests.brokers.fleet import FLOW
from tests.brokers.kinds import KINDS, SERVERS, remove
from tests.engine.aid import Desk, flow

PATIENCE = 60.0
"""Seconds after which something that does not happen is not waited for any more."""

ROOT = Path(__file__).parents[2]

ASK = flow("""
    - {id: first, type: call, service: desk, method: first, input: $input.n, next: ask}
    - {id: ask, type: halt, next: second}
    - {id: second, type: call, service: desk, method: second, input: $input.n, output: result}
""", id="ask")  # fmt: skip


class Place:
    """A broker on a server, and a folder with the store."""

    def __init__(self, kind: str, url: str, folder: Path) -> None:
        self.kind = kind
        self.url = url
        self.name = f"df-test-{secrets.token_hex(6)}"
        self.folder = folder

    def broker(self, *, serves: bool) -> AsyncBroker:
        made = KINDS[self.kind](self.url, self.name)
        made.is_worker_process = serves
        return made

    def runtime(self, **options: Any) -> df.Runtime:
        store = df.open_store(f"sqlite:///{self.folder}/flows.db", durability="normal")
        return df.Runtime(store, **options)

    @asynccontextmanager
    async def sending(self, **options: Any) -> AsyncIterator[df.Runtime]:
        """A runtime whose store is open, as a web service has it."""
        runtime = self.runtime(**options)
        async with runtime.store, runtime:
            yield runtime

    @asynccontextmanager
    async def adapter(self) -> AsyncIterator[df.TaskiqAdapter]:
        """What sends."""
        broker = self.broker(serves=False)
        await broker.startup()
        try:
            yield df.TaskiqAdapter(broker, patience=10)
        finally:
            await broker.shutdown()

    @asynccontextmanager
    async def receiving(self, desk: Desk) -> AsyncIterator[None]:
        """What `taskiq worker` does, in this process."""
        runtime = self.runtime(services={"desk": desk}, grace=0.0)
        broker = self.broker(serves=True)
        df.TaskiqAdapter(broker).receive(runtime)
        enough = asyncio.Event()
        async with runtime.store:
            listening = asyncio.create_task(Receiver(broker, max_async_tasks=100).listen(enough))
            try:
                await wait_until(lambda: runtime.engine.opened, timeout=PATIENCE)
                yield
            finally:
                enough.set()
                await listening
                await broker.shutdown()

    @contextmanager
    def worker(self, *, lease: float) -> Iterator[subprocess.Popen[bytes]]:
        """`taskiq worker`, a process of its own, with a child that works."""
        told = f"{self.kind} {self.url} {self.name} {self.folder} {lease}"
        command = [sys.executable, "-m", "taskiq", "worker", "tests.brokers.fleet:broker", "--workers", "1"]
        command += ["--shutdown-timeout", "30", "--max-async-tasks", "10"]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"FLEET": told, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            kill(process)

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def kill(process: subprocess.Popen[bytes]) -> None:
    """All of it, at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(request.param, request.getfixturevalue(SERVERS[request.param]), tmp_path)
    yield made
    await remove(made.kind, made.url, made.name)


async def test_a_message_is_enough(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks of their own accord."""
    desk = Desk()
    async with place.sending(workflows=[ASK]) as web, place.receiving(desk), place.adapter() as adapter:
        background = web.background("ask", adapter)
        await background.run({"n": 0}, execution_id="before")
        await wait_until(lambda: desk.values("first") == [0], timeout=PATIENCE)
        assert await background.wait("before", timeout=PATIENCE)
        monkeypatch.setattr(machinery, "POLL", 10_000.0)
        await background.run({"n": 1}, execution_id="e")
        await wait_until(lambda: desk.values("first") == [0, 1], timeout=PATIENCE)

        async def halted() -> bool:
            return await background.status("e") == "halted"

        await wait_until(halted, timeout=PATIENCE)
        await background.resume("e", response=1)
        await wait_until(lambda: desk.values("second") == [1], timeout=PATIENCE)


async def test_messages_that_are_lost_doubled_and_shuffled_change_nothing(place: Place) -> None:
    chance = random.Random(place.kind)
    desk = Desk()
    sent: list[tuple[str, str | None, int]] = []

    class Noting:
        async def submit(self, execution_id: str, *, queue: str | None, priority: int) -> None:
            sent.append((execution_id, queue, priority))

    async with (
        place.sending(workflows=[ASK]) as web,
        place.receiving(desk),
        place.receiving(desk),
        place.adapter() as adapter,
    ):

        async def deliver() -> None:
            """Each of them 0 to 3 times, in any order."""
            messages = [message for message in sent for _ in range(chance.randint(0, 3))]
            sent.clear()
            chance.shuffle(messages)
            for name, queue, priority in messages:
                await adapter.submit(name, queue=queue, priority=priority)

        background = web.background("ask", Noting())
        names = [await background.run({"n": n}, execution_id=f"e{n}") for n in range(300)]
        await deliver()
        for name in chance.sample(names, len(names)):
            halted = await background.wait(name, timeout=PATIENCE)
            assert halted is not None
            assert halted.halted
            await background.resume(name, response=True)
            if chance.random() < 0.05:
                await deliver()
        await deliver()
        for name in names:
            done = await background.wait(name, timeout=PATIENCE)
            assert done is not None
            assert done.completed
    assert sorted(desk.values("first")) == sorted(desk.values("second")) == list(range(300))


async def test_another_takes_over_from_one_that_was_killed_in_a_step(place: Place) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    hold = place.folder / "hold-second"
    hold.touch()
    async with place.sending(workflows=[FLOW]) as web, place.adapter() as adapter:
        background = web.background("work", adapter)
        await background.run(execution_id="e", traceparent=trace)
        with place.worker(lease=2) as one:
            await wait_until(lambda: len(place.calls()) == 2, timeout=PATIENCE)
            kill(one)
        assert await background.status("e") == "running"
        hold.unlink()
        with place.worker(lease=2):
            result = await background.wait("e", timeout=PATIENCE)
        assert result is not None, (place.folder / "log").read_text()
        assert result.output == "second"
    calls = place.calls()
    assert [name for name, *_ in calls] == ["first", "second", "second"]
    assert len({key for _, key, _, _ in calls}) == 2
    assert len({process for _, _, process, _ in calls}) == 2
    assert {told for *_, told in calls} == {trace}


async def test_one_that_is_told_to_end_lets_the_step_end_and_another_goes_on_at_once(place: Place) -> None:
    hold = place.folder / "hold-first"
    hold.touch()
    async with place.sending(workflows=[FLOW]) as web, place.adapter() as adapter:
        background = web.background("work", adapter)
        await background.run(execution_id="e")
        with place.worker(lease=100_000) as one:
            await wait_until(lambda: len(place.calls()) == 1, timeout=PATIENCE)
            one.send_signal(signal.SIGTERM)
            await wait_until(lambda: "Shutting down the broker" in (place.folder / "log").read_text(), timeout=PATIENCE)
            hold.unlink()
            await wait_until(lambda: one.poll() is not None, timeout=PATIENCE)
        loaded = await web.store.load("e")
        assert loaded is not None
        assert loaded.owner is None
        assert not (await background.wait("e", timeout=0))
        with place.worker(lease=100_000):
            result = await background.wait("e", timeout=PATIENCE)
        assert result is not None, (place.folder / "log").read_text()
        assert result.completed
    assert [name for name, *_ in place.calls()] == ["first", "second"]
