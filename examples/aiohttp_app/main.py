"""What clients of `app.py` see. It runs as a process of its own here, and is killed.

python examples/aiohttp_app/main.py
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

APP = Path(__file__).parent / "app.py"


class Website:
    """The pages that are fetched, and how often each was asked for. Those with orders may have to wait."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.orders = asyncio.Event()
        self.orders.set()

    @asynccontextmanager
    async def online(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/{page:.*}", self.page)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield site.name
        finally:
            await runner.cleanup()

    async def page(self, request: web.Request) -> web.Response:
        page = request.match_info["page"]
        self.asked[page] += 1
        kind, _, user = page.partition("/")
        await asyncio.sleep(0.2)
        if kind == "orders":
            await self.orders.wait()
        return web.json_response({"profile": {"name": user.title()}, "orders": [30, 12], "weather": "sunny"}[kind])


@asynccontextmanager
async def serving(folder: str, pages: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, aiohttp.ClientSession]]:
    settings = {
        "DURABLE_FLOW_STORE": f"sqlite:///{folder}/dashboards.db",
        "PAGES": pages,
        "PORT": "0",
        "LEASE_TTL": "1",  # so that nobody has to wait for 30 seconds after the kill
        "PYTHONUNBUFFERED": "1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(APP),
        env=os.environ | settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().split()[3]  # ======== Running on http://127.0.0.1:… ========
    try:
        async with aiohttp.ClientSession(url) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def told(client: aiohttp.ClientSession, name: str) -> AsyncIterator[tuple[str, str]]:
    """The events of an execution, and where: an EventSource in a few lines."""
    while (response := await client.get(f"/dashboards/{name}/events")).status == 404:  # noqa: ASYNC110 - over HTTP
        await asyncio.sleep(0.05)  # it is about to be created
    async with response:
        async for line in response.content:
            if line.startswith(b"data:"):
                event = json.loads(line.removeprefix(b"data:"))
                yield event["type"], event["data"].get("path") or ""


async def half_done(client: aiohttp.ClientSession, name: str) -> None:
    """Returns when everything is fetched but the orders."""
    missing = {"fetch/profile", "fetch/weather"}
    async for kind, path in told(client, name):
        if kind == "step.completed":
            missing.discard(path)
        if not missing:
            return


async def main() -> None:
    website = Website()
    with tempfile.TemporaryDirectory(prefix="durable-flow-") as folder:
        async with website.online() as pages:
            async with serving(folder, pages) as (process, client):
                await while_it_runs(client)
                await a_client_that_goes_away(client, website)

                print("\nThe service is killed when all but the orders is there:")
                website.asked.clear()
                website.orders.clear()
                name = {"Idempotency-Key": "di-1"}
                async with client.post("/dashboards/start", json={"user": "di"}, headers=name):
                    await half_done(client, "di-1")
                process.kill()
                await process.wait()
                website.orders.set()
            async with serving(folder, pages) as (_, client):
                await show_end(client, "di-1", website)
                async with client.post("/dashboards", json={"usr": "ed"}) as response:
                    print(f"\nA mistake: {response.status} {response.content_type}, {await response.json()}")


async def while_it_runs(client: aiohttp.ClientSession) -> None:
    async def fetch(user: str) -> str:
        async with client.post("/dashboards", json={"user": user}) as response:
            return f"POST /dashboards: {response.status} {await response.text()}"

    begun = time.perf_counter()
    print(await fetch("ada"))
    one = time.perf_counter() - begun
    begun = time.perf_counter()
    await asyncio.gather(*(fetch(f"user{letter}") for letter in "abcdefghijklmnopqrst"))
    print(f"one takes {one:.2f} s, 20 at once take {time.perf_counter() - begun:.2f} s")

    name = {"Idempotency-Key": "bo-1"}
    async with client.post("/dashboards/start", json={"user": "bo"}, headers=name) as response:
        print(f"\nPOST /dashboards/start: {response.status}, Location: {response.headers['Location']}")
    async for kind, path in told(client, "bo-1"):
        print(f"  {kind:<20} {path}".rstrip())


async def a_client_that_goes_away(client: aiohttp.ClientSession, website: Website) -> None:
    print("\nA client goes away when all but the orders is there:")
    website.asked.clear()
    website.orders.clear()
    name = {"Idempotency-Key": "cy-1"}
    waiting = asyncio.create_task(client.post("/dashboards", json={"user": "cy"}, headers=name))
    await half_done(client, "cy-1")
    waiting.cancel()  # which closes its connection
    await asyncio.wait([waiting])
    while website.asked["orders/cy"] < 2:  # noqa: ASYNC110 - a demonstration
        await asyncio.sleep(0.05)
    website.orders.set()
    await show_end(client, "cy-1", website)


async def show_end(client: aiohttp.ClientSession, name: str, website: Website) -> None:
    async for _ in told(client, name):
        pass
    async with client.get(f"/dashboards/{name}") as response:
        print(f"  {await response.text()}")
    print(f"  asked for: {dict(website.asked)}")


asyncio.run(main())
