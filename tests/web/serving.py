"""Servers that tests start: in the event loop of a test, or as processes that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from durable_flow.testing import wait_until

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[str]:
    """Serves an application on a port of its own; its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=10, **options)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listening]))
    try:
        await wait_until(lambda: server.started or task.done())
        if task.done():
            task.result()
        yield f"http://localhost:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


class Served:
    """A server process on a port, which may be killed and started again."""

    def __init__(
        self, app: str, *, environment: Mapping[str, str], folder: Path, options: tuple[str, ...] = ()
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.command = [sys.executable, "-m", "uvicorn", app, "--port", str(self.port), "--log-level", "info", *options]
        self.environment = os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment)
        self.folder = folder
        self.log = folder / f"server-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns when it takes connections."""
        self._spawn()
        await wait_until(self._listens, timeout=30)

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def _listens(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(self.log.read_text())
        with socket.socket() as knock:
            return knock.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """As a machine dies."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, *, timeout: float = 20) -> int:
        """As a deploy ends it; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@asynccontextmanager
async def processes(*made: Served) -> AsyncIterator[None]:
    """Starts them, and in the end kills what is left of them."""
    try:
        await asyncio.gather(*(one.start() for one in made))
        yield
    finally:
        for one in made:
            if one.process is not None and one.process.poll() is None:
                one.kill()


class Message(dict[str, str]):
    """A server-sent event: `id`, `event`, `data`."""


async def messages(response: httpx2.Response) -> AsyncIterator[Message]:
    """The events of a stream as a browser reads them: fields until a blank line; what is no event is passed over."""
    fields = Message()
    async for line in response.aiter_lines():
        if not line:
            if "data" in fields:
                yield fields
            fields = Message()
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


Until = Callable[[Message], bool]
