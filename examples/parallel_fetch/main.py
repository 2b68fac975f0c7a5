"""Parallel fetch: three requests to a (local) web server at once, and the time that saves.

python examples/parallel_fetch/main.py
"""

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import durable_flow as df

HERE = Path(__file__).parent

PAGES: dict[str, tuple[float, Any]] = {
    "/profile/ada": (0.3, {"name": "Ada Lovelace"}),
    "/orders/ada": (0.4, [{"id": 1, "amount": 30}, {"id": 2, "amount": 12}]),
    "/weather": (5.0, "sunny"),
}
"""What the server answers, and how many seconds it takes to."""


class Web:
    """A plain blocking client: synchronous methods run in worker threads, so branches do not wait for each other."""

    def __init__(self, origin: str) -> None:
        self.origin = origin

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.origin + path) as response:
            return json.load(response)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One HTTP request: enough of a server for this example."""
    try:
        request = await reader.readuntil(b"\r\n\r\n")
        seconds, page = PAGES[request.split()[1].decode()]
        await asyncio.sleep(seconds)
        body = json.dumps(page).encode()
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    services = {"Web": Web(f"http://{host}:{port}")}
    async with df.Runtime("sqlite://:memory:", workflows=[HERE / "workflow.yml"], services=services) as runtime:
        result = await runtime.runner("dashboard").run({"user": "ada"})
        print(f"{result.status}: {result.output}\n")

        entries = await runtime.store.entries(result.execution_id)
    server.close()

    calls = [entry for entry in entries if entry.step_type == "call" and entry.duration_ms is not None]
    for entry in calls:
        milliseconds = entry.duration_ms or 0
        print(f"{entry.path:<26} {entry.action:<9} {milliseconds:6.0f} ms  {'█' * round(milliseconds / 10)}")
    one_by_one = sum(entry.duration_ms or 0 for entry in calls)
    together = next(entry.duration_ms or 0 for entry in entries if entry.path == "fetch" and entry.duration_ms)
    print(f"\none after the other  {one_by_one:6.0f} ms")
    print(f"side by side         {together:6.0f} ms, which saves {one_by_one - together:.0f} ms")


asyncio.run(main())
