"""Clients of a service that runs as several processes, one of which may be killed: each request is sent until it is
answered, to one process after the other, with the same Idempotency-Key."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from benchmarks.processes import ROOT, START_SECONDS, Answer, Failed, ours_and_all, share_of_others
from benchmarks.service.ledger import create_ledger, rows_of, verdict
from tests.servers.process import HOST, free_port

PAUSES = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds between the tries of a request; the last one again and again."""

PATIENCE = 150.0
"""Seconds after which a request that is not answered is lost."""


class Served:
    """One process of the service, on a port of its own."""

    def __init__(self, command: Sequence[str], url: str, last: str, log: Path) -> None:
        self._port = free_port()
        self._command = [*command, url, str(self._port), last]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self._port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    async def ready(self) -> None:
        """Returns when it takes requests. Raises Failed."""
        end = time.perf_counter() + START_SECONDS
        while True:
            assert self._process is not None
            if self._process.poll() is not None or time.perf_counter() > end:
                raise Failed(f"it did not start: {self._log.read_text().strip()[-2000:]}")
            try:
                _, writer = await asyncio.open_connection(HOST, self._port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                await writer.wait_closed()
                return

    def kill(self) -> None:
        """As a lack of memory does. May be called twice."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Clients:
    """Sends requests to processes, so many at a time, and knows what became of each."""

    def __init__(self, served: Sequence[Served], session: aiohttp.ClientSession, ledger: asyncpg.Pool) -> None:
        self._served = served
        self._session = session
        self._ledger = ledger
        self._took: list[float] = []
        self.answered: dict[str, int] = {}
        self.retries = 0
        self.answers = asyncio.Condition()

    async def send(self, names: Sequence[str], *, in_flight: int) -> Answer:
        """Sends all of them, and says how long they took."""
        self._took.clear()
        left = iter(enumerate(names))

        async def client() -> None:
            for number, name in left:
                await self._one(number, name)

        before, begun = ours_and_all(), time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(in_flight, len(names))):
                tasks.create_task(client())
        seconds = time.perf_counter() - begun
        took = sorted(self._took)
        return {
            "seconds": seconds,
            "per_second": len(names) / seconds,
            "others": share_of_others(before, seconds),
            "p50": took[len(took) // 2],
            "p99": took[min(len(took) - 1, len(took) * 99 // 100)],
        }

    async def _one(self, number: int, name: str) -> None:
        begun = time.perf_counter()
        attempt = 0
        while time.perf_counter() - begun < PATIENCE:
            address = self._served[(number + attempt) % len(self._served)].address
            if await self._try(address, name):
                break
            self.retries += 1
            await asyncio.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
            attempt += 1
        self._took.append(time.perf_counter() - begun)
        async with self.answers:
            self.answers.notify_all()

    async def _try(self, address: str, name: str) -> bool:
        item = f"item of {name}"
        try:
            async with self._session.post(
                f"{address}/orders", json={"item": item}, headers={"Idempotency-Key": name}
            ) as response:
                if response.status != 200:
                    return False
                right = await response.json() == {"id": name, "output": item}
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return False
        if right:
            self.answered[name] = await self._ledger.fetchval("SELECT last_value FROM public.ledger_number_seq")
        return right


async def measured(
    command: Sequence[str],
    lasts: Sequence[str],
    url: str,
    folder: Path,
    *,
    in_flight: int,
    total: int,
) -> dict[str, Any]:
    """What a service of `len(lasts)` processes says to `total` requests, `in_flight` at a time: as it is, and while one
    of its processes is killed when two fifths are answered, and started again."""
    await create_ledger(url)
    served = [Served(command, url, last, folder / f"{number}.log") for number, last in enumerate(lasts)]
    try:
        for each in served:
            each.start()
            await each.ready()
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncpg.create_pool(url, min_size=1, max_size=2) as pool,
        ):
            clients = Clients(served, session, pool)
            warm = [f"warm-{number}" for number in range(max(2, in_flight // 2))]
            await clients.send(warm, in_flight=in_flight)
            calm = [f"calm-{number}" for number in range(total)]
            told: dict[str, Any] = {"calm": await clients.send(calm, in_flight=in_flight)}

            killed = [f"killed-{number}" for number in range(total)]
            before = len(clients.answered)
            sending = asyncio.create_task(clients.send(killed, in_flight=in_flight))
            try:
                async with clients.answers:
                    await clients.answers.wait_for(lambda: len(clients.answered) - before >= total * 2 // 5)
                served[0].kill()
                served[0].start()
                told["killed"] = await sending
            finally:
                sending.cancel()
            told["retries"] = clients.retries
            asked = [*warm, *calm, *killed]
    finally:
        for each in served:
            each.kill()
    told["verdict"] = verdict(await rows_of(url), asked, clients.answered)
    return told
