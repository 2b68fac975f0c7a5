"""Who comes in, and who does not: every operation is tried, so none can be forgotten."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

import durable_flow as df
from durable_flow.testing import wait_until
from durable_flow.web.api import Api, Principal
from durable_flow.web.operations import OPERATIONS, Operation
from tests.web.conftest import Opened, client
from tests.web.service import make
from tests.web.serving import serving
from tests.web.test_api import ADA, started

every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
CHANGES = [operation for operation in OPERATIONS if operation.method == "POST"]

BODIES: dict[str, Any] = {"start": ADA, "signal": {"name": "word"}}


def path_of(operation: Operation, execution_id: str = "nobody") -> str:
    return operation.path.replace("{workflow_id}", "order").replace("{execution_id}", execution_id)


async def sent(http: httpx2.AsyncClient, operation: Operation, **options: Any) -> httpx2.Response:
    body = {"json": BODIES.get(operation.name, {})} if operation.method == "POST" else {}
    return await http.request(operation.method, path_of(operation), **{**body, **options})


# -- credentials -------------------------------------------------------------------------------------------------------


async def test_nobody_unknown_gets_anything(served: Opened) -> None:
    async with served(None) as http:
        for operation in OPERATIONS:
            response = await sent(http, operation)
            assert (response.status_code, response.json()["status"]) == (401, 401)
            assert response.headers["www-authenticate"]
            head = await http.head(path_of(operation))
            assert head.status_code == (401 if operation.method == "GET" else 405)


async def test_who_may_not_do_it_is_told_so(served: Opened) -> None:
    asked: list[str] = []

    async def authorize(request: object, action: str, execution: df.Execution | None) -> str:
        asked.append(action)
        raise df.NotAllowed("not today")

    async with served(authorize=authorize) as http:
        for operation in OPERATIONS:
            response = await sent(http, operation)
            assert (response.status_code, response.json()["detail"]) == (403, "not today")
            assert asked.pop() == operation.action


async def test_what_a_hook_raises_for_http_is_the_answer(served: Opened) -> None:
    async def authorize(request: object, action: str, execution: object) -> str:
        raise HTTPException(401, "who?", headers={"WWW-Authenticate": "Basic"})

    async with served(authorize=authorize) as http:
        response = await http.get("/workflows")
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Basic")
        assert response.json()["detail"] == "who?"


@pytest.mark.parametrize("answer", [True, {"name": "x"}, 0])
async def test_a_hook_that_returns_something_else_lets_nobody_in(answer: Any, served: Opened) -> None:
    async def authorize(request: object, action: str, execution: object) -> Any:
        return answer

    async with served(authorize=authorize) as http:
        assert (await http.get("/workflows")).status_code == 500


async def test_there_is_no_websocket(store_url: str) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await make(store_url)({"type": "websocket", "path": "/executions"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


# -- without a hook ----------------------------------------------------------------------------------------------------


def addressed(app: Any, host: str) -> Any:
    """An application that hears its requests from this address."""

    async def from_there(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "client": (host, 4711)} if scope["type"] == "http" else scope, receive, send)

    return from_there


async def test_without_a_hook_this_machine_comes_in(served: Opened) -> None:
    async with served(None, authorize=None) as http:
        for operation in OPERATIONS:
            assert (await sent(http, operation)).status_code not in (401, 403)


@every_operation
@pytest.mark.parametrize(
    "address", ["10.0.0.5", "192.168.1.2", "8.8.8.8", "fe80::1", "::ffff:8.8.8.8", "testclient", ""]
)
async def test_without_a_hook_nothing_comes_in_from_elsewhere(operation: Operation, address: str) -> None:
    api = Api(df.Runtime("sqlite://:memory:"))
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(addressed(api, address)), base_url="http://localhost")
    response = await sent(http, operation)
    assert (response.status_code, response.json()["type"]) == (403, "urn:durable-flow:problem:remote")


@every_operation
@pytest.mark.parametrize(
    "header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Anything", "Via", "X-Real-IP"]
)
async def test_without_a_hook_nothing_that_was_forwarded_comes_in(operation: Operation, header: str) -> None:
    api = Api(df.Runtime("sqlite://:memory:"))
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(addressed(api, "127.0.0.1")), base_url="http://localhost")
    response = await sent(http, operation, headers={header: "127.0.0.1"})
    assert (response.status_code, response.json()["type"]) == (403, "urn:durable-flow:problem:forwarded")


@every_operation
@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"])
async def test_without_a_hook_nothing_comes_in_by_another_name(operation: Operation, name: str) -> None:
    api = Api(df.Runtime("sqlite://:memory:"), hosts=["evil.example"])
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(addressed(api, "127.0.0.1")), base_url=f"http://{name}:80")
    response = await sent(http, operation)
    assert (response.status_code, response.json()["type"]) == (403, "urn:durable-flow:problem:host")


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.8.9.1:1", "[::1]", "[::1]:8000"])
async def test_the_names_of_this_machine_are_known(name: str, store_url: str) -> None:
    async with serving(make(store_url, authorize=None)) as url, client(url, None) as http:
        assert (await http.get("/workflows", headers={"Host": name})).status_code == 200


@pytest.mark.parametrize("name", ["", "user@localhost", "localhost:no", "localhost/x", "[::1", "localhost?x"])
async def test_a_host_that_is_none_is_refused(name: str) -> None:
    api = Api(df.Runtime("sqlite://:memory:"))
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(addressed(api, "127.0.0.1")), base_url="http://localhost")
    assert (await http.get("/workflows", headers={"Host": name})).status_code == 400


# -- with one ----------------------------------------------------------------------------------------------------------


async def test_with_a_hook_only_the_names_that_were_given_are_ours(served: Opened) -> None:
    async with served(hosts=["API.example.com"]) as http:
        for operation in OPERATIONS:
            assert (await sent(http, operation, headers={"Host": "evil.example"})).status_code == 403
            assert (await sent(http, operation, headers={"Host": "api.example.com:8443"})).status_code != 403
    async with served(hosts=["*"]) as http:
        for operation in OPERATIONS:
            assert (await sent(http, operation, headers={"Host": "evil.example"})).status_code != 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
async def test_no_page_of_somebody_else_changes_anything(headers: dict[str, str], served: Opened) -> None:
    async with served() as http:
        execution_id = await started(http)
        for operation in CHANGES:
            body = BODIES.get(operation.name, {})
            response = await http.post(path_of(operation, execution_id), json=body, headers=headers)
            assert (response.status_code, response.json()["type"]) == (403, "urn:durable-flow:problem:origin")
        assert len((await http.get("/executions")).json()["executions"]) == 1
        assert (await http.get(f"/executions/{execution_id}")).json()["status"] == "halted"


async def test_our_own_pages_and_those_that_were_allowed_may_send_changes(served: Opened) -> None:
    async with served(origins=["https://shop.example"]) as http:
        for origin in (str(http.base_url), "https://shop.example"):
            headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            assert (await http.post("/workflows/order/executions", json=ADA, headers=headers)).status_code == 202


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_what_a_form_can_send_changes_nothing(content_type: str | None, served: Opened) -> None:
    async with served() as http:
        execution_id = await started(http)
        headers = {} if content_type is None else {"Content-Type": content_type}
        for operation in CHANGES:
            content = json.dumps(BODIES.get(operation.name, {})).encode()
            response = await http.post(path_of(operation, execution_id), content=content, headers=headers)
            assert response.status_code == 415
        assert (await http.get(f"/executions/{execution_id}")).json()["status"] == "halted"


async def test_reading_changes_nothing_and_other_methods_are_not_there(served: Opened) -> None:
    async with served() as http:
        execution_id = await started(http)
        for operation in OPERATIONS:
            for method in {"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - {operation.method}:
                response = await http.request(method, path_of(operation, execution_id))
                if method == "HEAD" and operation.method == "GET":
                    assert (response.status_code, response.content) == (200, b"")
                elif method == "GET" and operation.path == "/executions":
                    continue
                else:
                    assert response.status_code == 405
                    assert operation.method in response.headers["allow"]
            assert (await http.get(f"/executions/{execution_id}")).json()["status"] == "halted"


# -- what belongs to somebody else -------------------------------------------------------------------------------------

ON_EXECUTIONS = [operation for operation in OPERATIONS if "{execution_id}" in operation.path]


async def test_what_belongs_to_somebody_else_is_not_there(store_url: str) -> None:
    async with serving(make(store_url)) as url, client(url, "alice") as alice, client(url, "carol") as carol:
        execution_id = await started(alice)
        for operation in ON_EXECUTIONS:
            body = {"json": BODIES.get(operation.name, {})} if operation.method == "POST" else {}
            theirs = await carol.request(operation.method, path_of(operation, execution_id), **body)
            nobodys = await carol.request(operation.method, path_of(operation), **body)
            assert theirs.status_code == nobodys.status_code == 404
            assert theirs.json() == nobodys.json()
        assert (await alice.get(f"/executions/{execution_id}")).json()["status"] == "halted"


@pytest.mark.parametrize("query", ["", "?labels[shop]=west", "?labels[shop]=east&labels[shop]=west", "?cursor={}"])
async def test_filters_cannot_widen_a_list(query: str, store_url: str) -> None:
    async with serving(make(store_url)) as url, client(url, "alice") as alice, client(url, "carol") as carol:
        for _ in range(2):
            await started(alice)
        own = await started(carol)
        cursor = (await alice.get("/executions?limit=1")).json()["next_cursor"]
        response = await carol.get("/executions" + query.format(cursor))
        shown = [one["id"] for one in response.json().get("executions", [])]
        assert shown == ([own] if not query else [])


async def test_a_list_shows_nothing_that_may_not_be_read(served: Opened) -> None:
    async def authorize(request: object, action: str, execution: df.Execution | None) -> str:
        if execution is not None and execution.labels.get("private"):
            raise df.NotAllowed("private")
        return "alice"

    async with served(authorize=authorize) as http:
        shown = await started(http)
        await http.post("/workflows/order/executions", json={**ADA, "labels": {"private": "yes"}})
        assert [one["id"] for one in (await http.get("/executions")).json()["executions"]] == [shown]


async def test_nobody_gives_executions_to_somebody_else(served: Opened) -> None:
    async with served("carol") as http:
        response = await http.post("/workflows/order/executions", json={**ADA, "labels": {"shop": "west"}})
        assert response.status_code == 403
        assert (await http.get("/executions")).json()["executions"] == []


async def test_a_child_belongs_to_who_has_its_parent(store_url: str) -> None:
    api = make(store_url)
    parent = {
        "id": "above",
        "name": "Above",
        "steps": [
            {"id": "sell", "type": "workflow", "workflow_id": "order", "input": {"customer": "Ada", "amount": 1}}
        ],
    }
    async with serving(api) as url, client(url, "alice") as alice, client(url, "carol") as carol:
        api.runtime.background(df.load(parent))
        above = (await alice.post("/workflows/above/executions?wait=20", json={})).json()
        child = above["halts"][0]["execution_id"]
        assert child != above["id"]
        listed = (await alice.get("/executions", params={"parent_id": above["id"]})).json()["executions"]
        assert [one["id"] for one in listed] == [child]
        assert (await alice.get("/executions/" + child.replace("/", "%2F"))).status_code == 200
        assert (await carol.get("/executions/" + child.replace("/", "%2F"))).status_code == 404
        assert (await carol.get("/executions", params={"parent_id": above["id"]})).status_code == 404


# -- what is too much --------------------------------------------------------------------------------------------------


async def test_a_body_that_is_too_large_is_refused_also_where_it_does_not_say_so(served: Opened) -> None:
    async def pieces() -> Any:
        for _ in range(20):
            yield b" " * 1000

    async with served(max_body=10_000) as http:
        headers = {"Content-Type": "application/json"}
        for content in (b" " * 10_001, pieces()):
            response = await http.post("/workflows/order/executions", content=content, headers=headers)
            assert (response.status_code, response.json()["status"]) == (413, 413)


async def test_a_body_that_does_not_come_is_not_waited_for(served: Opened) -> None:
    async with served(body_timeout=0.05) as http:
        reader, writer = await asyncio.open_connection("localhost", http.base_url.port, family=socket.AF_INET)
        writer.write(
            b"POST /workflows/order/executions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer token-alice\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        assert b"408 Request Timeout" in await reader.readline()
        writer.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"input": NaN}', 400),
        (b'{"input": {"a":' + b"[" * 100_000, 400),
        (b'{"input":' + b'{"a":' * 70 + b"1" + b"}" * 70 + b"}", 422),
        (b"[]", 422),
        (b"null", 422),
        (b'{"imput": {}}', 422),
        (b'{"input": [1]}', 422),
        (b'{"input": {"customer": "A", "amount": 99999999999999999999999}}', 422),
        (b'{"input": {"customer": "\\ud800", "amount": 1}}', 400),
        (b'{"labels": {"a": 1}}', 422),
        (b'{"labels": {"a\\u0000": "b"}}', 422),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_body_that_is_wrong_is_a_problem(body: bytes, status: int, served: Opened) -> None:
    async with served() as http:
        headers = {"Content-Type": "application/json"}
        response = await http.post("/workflows/order/executions", content=body, headers=headers)
        assert (response.status_code, response.json()["status"]) == (status, status)
        assert response.headers["content-type"] == "application/problem+json"
        assert (await http.get("/executions")).json()["executions"] == []


@pytest.mark.parametrize(
    "path", ["/", "", "/nothing", "/executions/", "/executions//entries", "/../etc/passwd", "/a/b/c/d/e"]
)
async def test_other_paths_lead_nowhere(path: str, served: Opened) -> None:
    async with served() as http:
        response = await http.get(path)
        assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


async def test_answers_are_no_pages(served: Opened) -> None:
    async with served() as http:
        response = await http.get("/workflows")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert response.headers["cache-control"] == "no-store"


# -- mounted -----------------------------------------------------------------------------------------------------------


async def test_it_can_be_mounted_and_its_lifespan_be_that_of_its_host(store_url: str) -> None:
    api = make(store_url)
    app = Starlette(routes=[Mount("/flows", api)], lifespan=api.lifespan)
    async with serving(app) as url, client(url) as http:
        response = await http.post("/flows/workflows/order/executions?wait=20", json=ADA)
        assert response.json()["status"] == "halted"
        assert (await http.get(response.headers["location"])).json()["id"] == response.json()["id"]
        assert (await http.get("/flows/openapi.json")).json()["servers"] == [{"url": "/flows"}]
        assert (await http.get("/flows/nothing")).headers["content-type"] == "application/problem+json"
        await wait_until(lambda: api.workers[0].health.running)
    assert not api.workers[0].health.running


async def test_a_host_may_open_the_runtime_itself(store_url: str) -> None:
    async with df.Runtime(store_url) as runtime:
        api = Api(lambda: runtime)
        async with serving(api) as url, client(url, None) as http:
            assert (await http.get("/workflows")).json() == {"workflows": []}
        assert await runtime.store.find() == []


async def test_a_runtime_that_nobody_opened_is_our_mistake_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    api = make("sqlite://:memory:")
    app = Starlette(routes=[Mount("/flows", api)])
    async with serving(app) as url, client(url) as http:
        response = await http.post("/flows/workflows/order/executions", json=ADA)
    assert response.status_code == 500
    assert "open the runtime first" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"hosts": "api.example.com"},
        {"origins": "https://a.example"},
        {"authorize": "alice"},
        {"max_body": 0},
        {"max_wait": -1},
        {"patience": 0},
    ],
    ids=str,
)
def test_an_api_that_is_put_together_wrongly_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(df.ConfigError):
        Api(df.Runtime("sqlite://:memory:"), **options)


def test_a_principal_has_no_labels_unless_it_is_given_some() -> None:
    assert Principal(name="a") == Principal(name="a", labels={}, on_behalf=False)
