"""`examples/aiohttp_app` as its clients see it: a process that serves HTTP, and pages that it fetches from the test."""

from __future__ import annotations

import asyncio
import io
import json
import os
import runpy
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

import durable_flow as df
from durable_flow.testing import wait_until

ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "aiohttp_app" / "app.py"
ADA = {"user": "ada"}
DASHBOARD = {"name": "Ada", "orders": [30, 12], "weather": "sunny"}
FOREVER = 3600.0
"""Seconds of a lease that no test lives to see the end of: who goes on got it back."""


class Website:
    """What the service fetches. `closed` are kinds of pages that are not answered until they are opened."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.open_requests = 0
        self.closed: set[str] = set()
        self.changed = asyncio.Condition()

    async def page(self, request: web.Request) -> web.Response:
        page = request.match_info["page"]
        kind, _, user = page.partition("/")
        self.asked[page] += 1
        self.open_requests += 1
        try:
            async with self.changed:
                await self.changed.wait_for(lambda: kind not in self.closed)
        finally:
            self.open_requests -= 1
        if user == "nobody":
            raise web.HTTPNotFound
        return web.json_response({"profile": {"name": user.title()}, "orders": [30, 12], "weather": "sunny"}[kind])

    async def open(self) -> None:
        async with self.changed:
            self.closed.clear()
            self.changed.notify_all()


@pytest.fixture
async def website() -> Website:
    return Website()


@pytest.fixture
async def pages(website: Website) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{page:.*}", website.page)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield site.name
    await website.open()
    await runner.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/dashboards.db"
    return f"{request.getfixturevalue('postgres_url')}?schema={request.getfixturevalue('postgres_schema')}"


class Service:
    """The example as a process."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, client: aiohttp.ClientSession) -> None:
        self.process = process
        self.url = url
        self.client = client

    async def post(
        self, path: str, body: Any, *, key: str | None = None
    ) -> tuple[aiohttp.ClientResponse, dict[str, Any]]:
        headers = {} if key is None else {"Idempotency-Key": key}
        async with self.client.post(path, json=body, headers=headers) as response:
            return response, json.loads(await response.text())

    async def get(self, path: str) -> dict[str, Any]:
        async with self.client.get(path) as response:
            told: dict[str, Any] = json.loads(await response.text())
            return told

    async def over(self, name: str) -> dict[str, Any]:
        """How an execution ended."""
        async for _ in self.events(name):
            pass
        return await self.get(f"/dashboards/{name}")

    async def events(self, name: str, *, after: str | None = None) -> AsyncIterator[df.Event]:
        headers = {} if after is None else {"Last-Event-ID": after}
        async with self.client.get(f"/dashboards/{name}/events", headers=headers) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
            async for line in response.content:
                if line.startswith(b"data:"):
                    told = json.loads(line.removeprefix(b"data:"))
                    yield df.Event(type=told["type"], data=told["data"], timestamp=told["timestamp"], id=told["id"])

    async def half_done(self, name: str) -> None:
        """Returns when everything is stored that does not wait for orders."""
        missing = {"fetch/profile", "fetch/weather"}
        async for event in self.events(name):
            if event.type == "step.completed":
                missing.discard(event.data["path"])
            if not missing:
                return

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


Start = Callable[..., Any]


@pytest.fixture
async def start(store: str, pages: str) -> AsyncIterator[Start]:
    """Starts the service, as often as a test wants to."""
    async with AsyncExitStack() as stack:

        async def one(*, lease_ttl: float = FOREVER) -> Service:
            return await stack.enter_async_context(serving(store, pages, lease_ttl=lease_ttl))

        yield one


@asynccontextmanager
async def serving(store: str, pages: str, *, lease_ttl: float, app: Path = APP) -> AsyncIterator[Service]:
    settings = {"DURABLE_FLOW_STORE": store, "PAGES": pages, "PORT": "0", "LEASE_TTL": str(lease_ttl)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(app),
        env=os.environ | settings | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().split()[3]
        async with aiohttp.ClientSession(url) as client:
            yield Service(process, url, client)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_workflow_runs_in_the_request(start: Start) -> None:
    service = await start()
    response, told = await service.post("/dashboards", ADA)
    assert response.status == 200
    assert told == {"id": told["id"], "status": "completed", "output": DASHBOARD}
    assert await service.get(f"/dashboards/{told['id']}") == told


async def test_workflows_of_many_requests_run_at_once(start: Start, website: Website) -> None:
    """Nothing is answered before all pages of all of them are asked for."""
    website.closed = {"profile", "orders", "weather"}
    service = await start()
    requests = [asyncio.create_task(service.post("/dashboards", {"user": f"user{chr(97 + n)}"})) for n in range(20)]
    await wait_until(lambda: website.open_requests == 60, timeout=30)
    await website.open()
    for response, told in await asyncio.gather(*requests):
        assert (response.status, told["status"]) == (200, "completed")


async def test_one_that_is_started_is_answered_before_it_is_over(start: Start, website: Website) -> None:
    website.closed = {"orders"}
    service = await start()
    response, told = await service.post("/dashboards/start", ADA, key="a/1")
    assert (response.status, told["id"]) == (202, "a/1")
    assert told["status"] in ("pending", "running")
    assert response.headers["Location"] == "/dashboards/a%2F1"
    await website.open()
    assert (await service.over("a%2F1"))["output"] == DASHBOARD


async def test_the_same_key_is_the_same_execution(start: Start, website: Website) -> None:
    service = await start()
    first = await service.post("/dashboards", ADA, key="ada-1")
    again = await service.post("/dashboards", ADA, key="ada-1")
    assert first[1] == again[1]
    assert set(website.asked.values()) == {1}
    other, told = await service.post("/dashboards", {"user": "bo"}, key="ada-1")
    assert other.status == 409
    assert "was started with another input" in told["detail"]


async def test_a_workflow_that_fails_is_a_result(start: Start) -> None:
    service = await start()
    response, told = await service.post("/dashboards", {"user": "nobody"})
    assert (response.status, told["status"]) == (200, "failed")
    assert "there is no page /profile/nobody" in told["error"] or "/orders/nobody" in told["error"]


async def test_a_stream_that_is_taken_up_again_tells_every_event_once(start: Start) -> None:
    service = await start()
    await service.post("/dashboards", ADA, key="ada-1")
    whole = [event async for event in service.events("ada-1")]
    assert (whole[0].type, whole[-1].type) == ("workflow.started", "workflow.completed")
    for position, event in enumerate(whole[:-1]):
        assert [each async for each in service.events("ada-1", after=event.id)] == whole[position + 1 :]
    headers = {"Last-Event-ID": whole[-1].id}
    async with service.client.get("/dashboards/ada-1/events", headers=headers) as response:
        assert response.status == 204  # an EventSource does not come back after that


async def test_a_stream_tells_what_happens_while_it_is_open(start: Start, website: Website) -> None:
    website.closed = {"orders"}
    service = await start()
    await service.post("/dashboards/start", ADA, key="ada-1")
    seen = []
    async for event in service.events("ada-1"):
        seen.append(event.type)
        if event.type == "step.completed" and website.closed:
            await website.open()
    assert (seen[0], seen[-1]) == ("workflow.started", "workflow.completed")


Mistake = tuple[str, str, dict[str, Any], int, str]


def mistakes() -> list[Mistake]:
    """Requests, their statuses, and what the answers say."""
    return [
        ("POST", "/dashboards", {"data": b"{"}, 400, "the body is not JSON"),
        ("POST", "/dashboards", {"data": b"[" * 100_000}, 400, "the body is not JSON"),
        ("POST", "/dashboards", {"data": b"{}", "headers": {"Content-Type": "text/x; charset=no"}}, 400, "is not JSON"),
        ("POST", "/dashboards", {"data": io.BytesIO(b" " * 2_000_000)}, 413, "Maximum request body size"),
        ("POST", "/dashboards", {"json": {"usr": "ada"}}, 422, "did you mean 'user'"),
        ("POST", "/dashboards/start", {"json": ["ada"]}, 422, "input"),
        ("POST", "/dashboards/start", {"json": {"user": "../admin"}}, 422, "input.user"),
        ("POST", "/dashboards", {"json": ADA, "headers": {"Idempotency-Key": "a b"}}, 422, "an execution id is"),
        ("GET", "/dashboards/nope", {}, 404, "there is no execution 'nope'"),
        ("GET", "/dashboards/nope/events", {}, 404, "there is no execution 'nope'"),
        ("GET", "/nowhere", {}, 404, "Not Found"),
        ("DELETE", "/dashboards/nope", {}, 405, "Method Not Allowed"),
    ]


async def test_mistakes_are_problems_and_store_nothing(start: Start, store: str) -> None:
    service = await start()
    for method, path, sent, status, detail in mistakes():
        async with service.client.request(method, path, **sent) as response:
            told = json.loads(await response.text())
        assert (response.status, response.content_type) == (status, "application/problem+json"), path
        assert told["status"] == status
        assert detail in told["detail"]
        assert ("problems" in told) == (status == 422)
        assert ("Allow" in response.headers) == (status == 405)
    async with df.open_store(store) as opened:
        assert await opened.execution_ids() == []


async def test_an_event_that_is_none_is_a_problem(start: Start) -> None:
    service = await start()
    await service.post("/dashboards", ADA, key="ada-1")
    for after in ("other:1", "ada-1:x", "ada-1:99999"):
        async with service.client.get("/dashboards/ada-1/events", headers={"Last-Event-ID": after}) as response:
            assert (response.status, response.content_type) == (422, "application/problem+json")


@pytest.mark.parametrize(
    ("raised", "status", "again"),
    [
        (df.StoreUnavailable("no route to host 10.1.2.3"), 503, "1"),
        (df.CorruptState("e", "password=secret"), 500, None),
        (RuntimeError("password=secret"), 500, None),
    ],
)
async def test_what_is_not_the_clients_fault_says_so(raised: Exception, status: int, again: str | None) -> None:
    problems = runpy.run_path(str(APP))["problems"]

    async def broken(request: web.Request) -> web.Response:
        raise raised

    response = await problems(make_mocked_request("GET", "/"), broken)
    assert response.status == status
    assert response.headers.get("Retry-After") == again
    assert "secret" not in response.text


async def test_a_client_that_goes_away_leaves_the_execution_to_the_worker(start: Start, website: Website) -> None:
    website.closed = {"orders"}
    service = await start()
    waiting = asyncio.create_task(service.post("/dashboards", ADA, key="ada-1"))
    await wait_until(lambda: website.asked["orders/ada"] == 1, timeout=30)
    await service.half_done("ada-1")
    waiting.cancel()
    await asyncio.wait([waiting])
    await wait_until(lambda: website.asked["orders/ada"] == 2, timeout=30)  # the worker is at it, long before any lease
    assert (await service.get("/dashboards/ada-1"))["status"] == "running"
    await website.open()
    assert (await service.over("ada-1"))["output"] == DASHBOARD
    assert website.asked == {"profile/ada": 1, "weather": 1, "orders/ada": 2}


async def test_who_waits_for_the_same_execution_gets_an_answer_when_the_first_one_goes_away(
    start: Start, website: Website
) -> None:
    website.closed = {"orders"}
    service = await start()
    first = asyncio.create_task(service.post("/dashboards", ADA, key="ada-1"))
    await wait_until(lambda: website.asked["orders/ada"] == 1, timeout=30)
    second = asyncio.create_task(service.post("/dashboards", ADA, key="ada-1"))
    await service.get("/dashboards/ada-1")  # by then the second one is at it, or the worker will be
    first.cancel()
    await asyncio.wait([first])
    await website.open()
    response, told = await second
    assert (response.status, told["output"]) == (200, DASHBOARD)


async def test_what_a_killed_process_left_is_finished_by_the_next_one(start: Start, website: Website) -> None:
    website.closed = {"orders"}
    service = await start(lease_ttl=1.0)
    await service.post("/dashboards/start", ADA, key="started")
    awaited = asyncio.create_task(service.post("/dashboards", {"user": "bo"}, key="awaited"))
    await wait_until(lambda: website.asked["orders/bo"] == 1, timeout=30)
    for name in ("started", "awaited"):
        await service.half_done(name)
    await service.kill()
    with pytest.raises(aiohttp.ClientError):
        await awaited
    await website.open()

    service = await start(lease_ttl=1.0)
    assert (await service.over("started"))["output"] == DASHBOARD
    assert (await service.over("awaited"))["output"] == DASHBOARD | {"name": "Bo"}
    for user in ("ada", "bo"):
        assert (website.asked[f"profile/{user}"], website.asked[f"orders/{user}"]) == (1, 2)
    assert website.asked["weather"] == 2


async def test_a_client_that_asks_again_after_a_kill_gets_the_one_answer(start: Start, website: Website) -> None:
    website.closed = {"orders"}
    service = await start(lease_ttl=1.0)
    waiting = asyncio.create_task(service.post("/dashboards", ADA, key="ada-1"))
    await wait_until(lambda: website.asked["orders/ada"] == 1, timeout=30)
    await service.half_done("ada-1")
    await service.kill()
    await asyncio.wait([waiting])
    await website.open()
    waiting.exception()

    service = await start(lease_ttl=1.0)
    response, told = await service.post("/dashboards", ADA, key="ada-1")
    assert (response.status, told["output"]) == (200, DASHBOARD)
    assert website.asked["profile/ada"] == 1


async def test_a_service_that_is_told_to_stop_answers_the_requests_it_has(start: Start, website: Website) -> None:
    website.closed = {"orders"}
    service = await start()
    waiting = asyncio.create_task(service.post("/dashboards", ADA))
    await wait_until(lambda: website.asked["orders/ada"] == 1, timeout=30)
    service.process.send_signal(signal.SIGTERM)
    await wait_until(lambda: refuses(service), timeout=30)
    await website.open()
    response, told = await waiting
    assert (response.status, told["output"]) == (200, DASHBOARD)
    assert await service.process.wait() == 0


async def test_a_service_that_stops_gives_back_what_it_drives_and_ends_its_streams(
    start: Start, website: Website
) -> None:
    website.closed = {"orders"}
    service = await start()
    await service.post("/dashboards/start", ADA, key="ada-1")
    seen = []
    with suppress(aiohttp.ClientPayloadError):  # what a stream ends with before its time
        async for event in service.events("ada-1"):
            if not seen:
                service.process.send_signal(signal.SIGTERM)
            seen.append(event)
    assert seen[-1].type != "workflow.completed"
    assert await service.process.wait() == 0

    website.closed = set()
    service = await start()  # with a lease that nobody waits for
    seen += [event async for event in service.events("ada-1", after=seen[-1].id)]
    assert (await service.over("ada-1"))["output"] == DASHBOARD
    assert [event.id for event in seen] == [event.id async for event in service.events("ada-1")]


async def refuses(service: Service) -> bool:
    try:
        async with aiohttp.ClientSession() as client, client.get(service.url):
            return False
    except aiohttp.ClientConnectorError:
        return True
