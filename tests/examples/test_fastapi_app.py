"""`examples/fastapi_app` as its clients see it: processes of uvicorn that serve HTTP, and are killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import durable_flow as df
from durable_flow.testing import wait_until
from tests.web.serving import ROOT, Message, Served, messages, processes

APP = ROOT / "examples" / "fastapi_app"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        url, schema = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_schema")
        return f"{url}{'&' if '?' in url else '?'}schema={schema}"
    return f"sqlite:///{tmp_path / 'orders.db'}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'orders.db'}"


def service(store: str, folder: Path, *, lease_ttl: float = 1.0) -> Served:
    return Served(
        "app:application",
        environment={"DURABLE_FLOW_STORE": store, "LEASE_TTL": str(lease_ttl)},
        folder=folder,
        options=("--factory", "--app-dir", str(APP), "--timeout-graceful-shutdown", "10"),
    )


def client(served: Served, user: str | None = "bo") -> httpx2.AsyncClient:
    headers = {} if user is None else {"Authorization": f"Bearer token-of-{user}"}
    return httpx2.AsyncClient(base_url=served.url, headers=headers, timeout=30)


def order(items: int, *, cents: int = 1) -> dict[str, Any]:
    return {"items": [{"name": f"n{number}", "cents": cents} for number in range(items)]}


async def ordered(http: httpx2.AsyncClient, body: dict[str, Any], key: str = "order-1") -> str:
    response = await http.post("/orders", json=body, headers={"Idempotency-Key": key})
    assert response.status_code == 202, response.text
    return str(response.headers["location"])


async def told(http: httpx2.AsyncClient, path: str, seen: list[Message]) -> AsyncIterator[Message]:
    """Events until the stream ends or its server is gone, from behind those that were seen, which they are added to."""
    headers = {"Last-Event-ID": seen[-1]["id"]} if seen else {}
    try:
        async with http.stream("GET", f"{path}/events", headers=headers) as response:
            assert response.status_code in (200, 204)
            async for message in messages(response):
                seen.append(message)
                yield message
    except httpx2.TransportError:
        return


async def read(http: httpx2.AsyncClient, path: str, seen: list[Message], *, until: str = "", count: int = 0) -> None:
    """Reads on until an event of this type, or until there are so many; a stream that ends is asked for again."""
    while True:
        async for message in told(http, path, seen):
            if message["event"] == until or 0 < count <= len(seen):
                return


async def durable(store: str, order_id: str) -> list[str]:
    async with df.Runtime(store) as runtime:
        return [str(event.id) async for event in runtime.events(order_id, follow=False)]


async def test_a_server_that_is_killed_in_the_middle_goes_on_where_it_was(store_url: str, tmp_path: Path) -> None:
    served = service(store_url, tmp_path)
    seen: list[Message] = []
    async with processes(served), client(served) as http:
        path = await ordered(http, order(40))
        await read(http, path, seen, count=15)
        served.kill()
        await served.start()
        assert await ordered(http, order(40)) == path
        await read(http, path, seen, until="workflow.completed")
        state = (await http.get(path)).json()
    assert state["status"] == "completed"
    assert state["output"]["receipt"].startswith("bo paid 40 cents")
    assert [message["id"] for message in seen] == await durable(store_url, path.rpartition("/")[2])
    packed = [message["data"] for message in seen if '/wrap"' in message["data"]]
    assert len(packed) == 40


async def test_another_server_of_the_store_goes_on_and_tells_the_rest(store_url: str, tmp_path: Path) -> None:
    first, second = service(store_url, tmp_path), service(store_url, tmp_path)
    seen: list[Message] = []
    async with processes(first, second), client(first) as one, client(second) as other:
        path = await ordered(one, order(40))
        await read(one, path, seen, count=15)
        first.kill()
        second_seen = list(seen)
        await read(other, path, second_seen, until="workflow.completed")
    assert [message["id"] for message in second_seen] == await durable(store_url, path.rpartition("/")[2])


async def test_a_server_that_is_told_to_stop_ends_its_streams_and_gives_back_what_it_drives(
    store_url: str, tmp_path: Path
) -> None:
    served = service(store_url, tmp_path, lease_ttl=3600)  # nobody lives to see the lease run out
    seen: list[Message] = []
    async with processes(served), client(served) as http:
        waiting = await ordered(http, order(1, cents=20_000), "large")
        large: list[Message] = []
        await read(http, waiting, large, until="workflow.halted")
        listening = asyncio.create_task(read_once(http, waiting, large))
        path = await ordered(http, order(100))
        await read(http, path, seen, count=15)
        assert await asyncio.to_thread(served.stop) in (0, -15)
        await listening
        assert "timeout graceful shutdown exceeded" not in served.log.read_text()
        assert "Traceback" not in served.log.read_text()
        await served.start()
        await read(http, path, seen, until="workflow.completed")
    assert [message["id"] for message in seen] == await durable(store_url, path.rpartition("/")[2])


async def read_once(http: httpx2.AsyncClient, path: str, seen: list[Message]) -> None:
    async for _ in told(http, path, seen):
        pass


async def test_an_approval_is_by_who_is_logged_in(sqlite_url: str, tmp_path: Path) -> None:
    served = service(sqlite_url, tmp_path)
    async with processes(served), client(served) as bo, client(served, "alice") as alice:
        path = await ordered(bo, order(2, cents=6000))
        seen: list[Message] = []
        await read(bo, path, seen, until="workflow.halted")
        assert (await bo.get(path)).json()["waits_for"] == "Sell for 12000 cents to bo?"
        assert (await bo.post(f"{path}/approval", json={"approved": True})).status_code == 403
        assert (await alice.post(f"{path}/approval", json={"approved": False, "comment": "no"})).status_code == 200
        await read(bo, path, seen, until="workflow.completed")
        assert (await bo.get(path)).json()["output"] == {"sold": False}
        assert (await alice.post(f"{path}/approval", json={"approved": True})).status_code == 409
        entries = (await alice.get(f"/flows/executions/{path.rpartition('/')[2]}/entries")).json()["entries"]
        assert {entry["actor"] for entry in entries if entry["actor"]} == {"alice"}


async def test_mistakes_are_problems_and_store_nothing(sqlite_url: str, tmp_path: Path) -> None:
    served = service(sqlite_url, tmp_path)
    async with processes(served), client(served) as http, client(served, None) as nobody, client(served, "cy") as cy:
        path = await ordered(http, order(1))
        named = {"Idempotency-Key": "other"}
        tried = [
            (await nobody.post("/orders", json=order(1), headers=named), 401),
            (await nobody.get(path), 401),
            (await nobody.get("/flows/executions"), 401),
            (await cy.get(path), 404),
            (await cy.get(f"{path}/events"), 404),
            (await cy.post(f"{path}/approval", json={"approved": True}), 404),
            (await cy.get("/flows/executions"), 403),
            (await http.post("/orders", json=order(1)), 422),
            (await http.post("/orders", json={"items": "chair"}, headers=named), 422),
            (await http.post("/orders", json=order(0), headers=named), 422),
            (await http.post("/orders", content=b"{", headers=named), 422),
            (await http.post("/orders", json=order(2), headers={"Idempotency-Key": "order-1"}), 409),
            (await http.get("/orders/nothing"), 404),
            (await http.get(f"{path}/events", headers={"Last-Event-ID": "x"}), 422),
            (await http.delete(path), 405),
            (await http.get("/nothing"), 404),
        ]
        for response, status in tried:
            assert (response.status_code, response.json()["status"]) == (status, status)
            assert response.headers["content-type"] == "application/problem+json"
        async with client(served, "alice") as alice:
            assert len((await alice.get("/flows/executions")).json()["executions"]) == 1


async def test_it_says_whether_it_is_ready_without_being_asked_who(sqlite_url: str, tmp_path: Path) -> None:
    served = service(sqlite_url, tmp_path)
    async with processes(served), client(served, None) as http:
        await wait_until(lambda: _ready(http))


async def _ready(http: httpx2.AsyncClient) -> bool:
    return (await http.get("/flows/health/ready")).status_code == 200
