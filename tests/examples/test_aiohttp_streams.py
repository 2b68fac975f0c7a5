"""Clients of the event streams of `examples/aiohttp_app` that read as they like: nobody else notices."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable_flow.testing import wait_until
from tests.examples.test_aiohttp_app import APP, FOREVER, Service, Website, pages, serving, website

__all__ = ["pages", "website"]  # fixtures

ITERATIONS = 500
TEXT = "x" * 8_000
"""In each iteration, so that the events of an execution are more than what sockets hold."""

WORKFLOW = {
    "id": "dashboard",
    "name": "Much to tell",
    "inputs": {"user": "string", "text": "string"},
    "steps": [
        {
            "id": "fetch",
            "type": "call",
            "service": "Pages",
            "method": "get",
            "input": {"path": "/profile/$input.user"},
            "next": "each",
        },
        {
            "id": "each",
            "type": "loop",
            "while": {"field": "iteration", "op": "lte", "value": ITERATIONS},
            "max": ITERATIONS + 1,
            "do": [
                {"id": "tell", "type": "assign", "set": {"told": "$iteration: $input.text"}},
                {"id": "hush", "type": "assign", "set": {"said": None}},  # the loop's output is not to have it all
            ],
            "next": "over",
        },
        {"id": "over", "type": "end", "result": "all told"},
    ],
}
LEAST = ITERATIONS * 2
"""Events that there are at least."""

STUCK = 30


@pytest.fixture
async def service(tmp_path: Path, pages: str) -> AsyncIterator[Service]:
    """The example, with a workflow that has much to tell."""
    folder = tmp_path / "app"
    folder.mkdir()
    shutil.copy(APP, folder)
    (folder / "workflow.yml").write_text(json.dumps(WORKFLOW))
    store = f"sqlite:///{tmp_path}/streams.db"
    async with serving(store, pages, lease_ttl=FOREVER, app=folder / "app.py") as running:
        yield running


class Reader:
    """A client that reads what it is told to, and takes in so many bytes (`window`) before it does."""

    def __init__(self, service: Service, name: str, *, window: int = 65_536) -> None:
        self._address = urlsplit(service.url)
        self._path = f"/dashboards/{name}/events"
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self._socket.setblocking(False)

    async def connect(self) -> None:
        """Returns when the stream has begun."""
        loop = asyncio.get_running_loop()
        assert self._address.hostname is not None
        assert self._address.port is not None
        await loop.sock_connect(self._socket, (self._address.hostname, self._address.port))
        await loop.sock_sendall(self._socket, f"GET {self._path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        assert b" 200 " in await loop.sock_recv(self._socket, 64)

    async def read(self, count: int) -> None:
        """Reads at least so many bytes, or to the end."""
        loop = asyncio.get_running_loop()
        while count > 0 and (some := await loop.sock_recv(self._socket, min(count, 65_536))):
            count -= len(some)

    def close(self) -> None:
        self._socket.close()

    def leave(self, *, abruptly: bool = False) -> None:
        if abruptly:  # a reset instead of an end
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


def resident(service: Service) -> int:
    """The bytes of memory that the service has."""
    pages_in_memory = int(Path(f"/proc/{service.process.pid}/statm").read_text().split()[1])
    return pages_in_memory * os.sysconf("SC_PAGE_SIZE")


async def start(service: Service, website: Website, name: str) -> None:
    """An execution that waits for its page, so that readers can come before there is anything to tell."""
    website.closed = {"profile"}
    before = website.asked["profile/ada"]
    response, _ = await service.post("/dashboards/start", {"user": "ada", "text": TEXT}, key=name)
    assert response.status == 202
    await wait_until(lambda: website.asked["profile/ada"] > before, timeout=30)


Told = list[tuple[str, str]]


async def completed(service: Service, name: str) -> Told:
    """What is told of it as soon as it is over: types and places."""

    async def over() -> bool:
        return (await service.get(f"/dashboards/{name}"))["status"] == "completed"

    await wait_until(over, timeout=60)
    assert (await service.get(f"/dashboards/{name}"))["output"] == "all told"
    events = [event async for event in service.events(name)]
    assert len({event.id for event in events}) == len(events) > LEAST
    return [(event.type, event.data.get("path", "")) for event in events]


async def undisturbed(service: Service) -> Told:
    """The same without anybody who looks on before it is over; asked again, the same execution."""
    await service.post("/dashboards", {"user": "ada", "text": TEXT}, key="undisturbed")
    return await completed(service, "undisturbed")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it looks at memory as Linux shows it")
async def test_clients_that_never_read_cost_no_more_than_what_their_sockets_hold(
    service: Service, website: Website
) -> None:
    expected = await undisturbed(service)
    alone = resident(service)
    await start(service, website, "watched")
    with ExitStack() as stack:
        for _ in range(STUCK):
            await stack.enter_context(closing(Reader(service, "watched", window=4096))).connect()
        await website.open()
        assert await completed(service, "watched") == expected
        more = resident(service) - alone
    assert more < STUCK * 1_000_000  # of the 4 MB that each of them was not told


class Manner(NamedTuple):
    """How a client behaves: it reads so many bytes before the execution goes on, so many afterwards, and leaves."""

    before: int
    after: int
    leaves: str


MANNERS = st.builds(
    Manner,
    before=st.sampled_from([0, 1, 300]),
    after=st.sampled_from([0, 5_000, 200_000]),
    leaves=st.sampled_from(["at once", "in the middle", "abruptly", "in the end"]),
)


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(manners=st.lists(MANNERS, min_size=1, max_size=6))
async def test_whatever_clients_do_the_execution_ends_as_it_would_without_them(
    service: Service, website: Website, manners: list[Manner]
) -> None:
    expected = await undisturbed(service)
    name = f"watched-{website.asked['profile/ada']}"
    await start(service, website, name)
    with ExitStack() as stack:
        readers = [stack.enter_context(closing(Reader(service, name))) for _ in manners]
        for reader, manner in zip(readers, manners, strict=True):
            await reader.connect()
            await reader.read(manner.before)
            if manner.leaves == "at once":
                reader.leave()
        await website.open()
        for reader, manner in zip(readers, manners, strict=True):
            if manner.leaves == "in the middle":
                await reader.read(manner.after // 2)
                reader.leave()
        assert await completed(service, name) == expected
        for reader, manner in zip(readers, manners, strict=True):
            if manner.leaves in ("abruptly", "in the end"):
                await reader.read(manner.after)
                reader.leave(abruptly=manner.leaves == "abruptly")
    assert service.process.returncode is None
