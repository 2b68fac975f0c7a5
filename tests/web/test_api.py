"""The API over real HTTP: starting, waiting, looking, answering, changing."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

import durable_flow as df
from durable_flow.testing import wait_until
from durable_flow.web.api import Principal
from tests.web.conftest import Opened, client, on_every_store
from tests.web.service import make
from tests.web.serving import serving

ADA = {"input": {"customer": "Ada", "amount": 5}}
OLD_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def started(http: httpx2.AsyncClient, workflow: str = "order", **body: Any) -> str:
    """Starts an execution and waits until it waits for somebody; its id."""
    response = await http.post(f"/workflows/{workflow}/executions?wait=20", json={**ADA, **body})
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


# -- starting ----------------------------------------------------------------------------------------------------------


@on_every_store
async def test_an_execution_is_stored_and_driven_in_the_background(served: Opened) -> None:
    async with served() as http:
        response = await http.post("/workflows/order/executions", json=ADA)
        assert response.status_code == 202
        assert response.json()["status"] in ("pending", "running", "halted")
        place = response.headers["location"]
        assert place == f"/executions/{response.json()['id']}"
        found = (await http.get(f"{place}?wait=20")).json()
        assert (found["status"], found["halts"][0]["prompt"]) == ("halted", "Sell to Ada?")
        assert found["input"] == {"customer": "Ada", "amount": 5, "card": "***"}


@on_every_store
async def test_the_same_key_gives_the_same_execution_however_often_and_at_once(served: Opened) -> None:
    async with served() as http:
        headers = {"Idempotency-Key": '"order-1"'}
        sent = [http.post("/workflows/order/executions", json=ADA, headers=headers) for _ in range(10)]
        found = {response.json()["id"] for response in await asyncio.gather(*sent)}
        plain = await http.post("/workflows/order/executions", json=ADA, headers={"Idempotency-Key": "order-1"})
        assert found == {plain.json()["id"]}
        assert len((await http.get("/executions")).json()["executions"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"input": {"customer": "Bo", "amount": 5}},
        {**ADA, "labels": {"a": "b"}},
        {**ADA, "queue": "q"},
        {**ADA, "priority": 1},
    ],
)
async def test_the_same_key_with_another_body_is_a_conflict(body: dict[str, Any], served: Opened) -> None:
    async with served() as http:
        headers = {"Idempotency-Key": "order-1"}
        assert (await http.post("/workflows/order/executions", json=ADA, headers=headers)).status_code == 202
        response = await http.post("/workflows/order/executions", json=body, headers=headers)
        assert response.status_code == 409
        assert response.json()["type"] == "urn:durable-flow:problem:idempotency-key-reused"
        assert len((await http.get("/executions")).json()["executions"]) == 1


async def test_the_key_of_one_principal_or_workflow_is_not_that_of_another(served: Opened, store_url: str) -> None:
    async with serving(make(store_url)) as url, client(url, "alice") as alice, client(url, "carol") as carol:
        headers = {"Idempotency-Key": "order-1"}
        first = await alice.post("/workflows/order/executions", json=ADA, headers=headers)
        second = await carol.post("/workflows/order/executions", json=ADA, headers=headers)
        third = await alice.post("/workflows/talk/executions", json={}, headers=headers)
        assert len({response.json()["id"] for response in (first, second, third)}) == 3


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, '""'])
async def test_a_key_that_is_none_is_refused(key: str, served: Opened) -> None:
    async with served() as http:
        response = await http.post("/workflows/order/executions", json=ADA, headers={"Idempotency-Key": key})
        assert response.status_code == (202 if key == '""' else 400)


@pytest.mark.parametrize("how", ["query", "prefer"])
async def test_who_waits_gets_the_outcome(how: str, served: Opened) -> None:
    async with served() as http:
        headers = {"Prefer": "respond-async, wait=20"} if how == "prefer" else {}
        query = "?wait=20" if how == "query" else ""
        response = await http.post(f"/workflows/order/executions{query}", json=ADA, headers=headers)
        assert (response.status_code, response.json()["status"]) == (200, "halted")
        assert response.headers.get("preference-applied") == ("wait=20" if how == "prefer" else None)


async def test_who_has_waited_long_enough_is_told_how_it_stands(served: Opened) -> None:
    async with served(workers=[], max_wait=0.01) as http:
        response = await http.post("/workflows/order/executions?wait=3600", json=ADA)
        assert (response.status_code, response.json()["status"]) == (202, "pending")


async def test_bad_input_is_told_at_once_and_nothing_is_stored(served: Opened) -> None:
    async with served() as http:
        response = await http.post("/workflows/order/executions", json={"input": {"amount": "many", "card": 5}})
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["type"] == "urn:durable-flow:problem:invalid-input"
        assert [fault["detail"] for fault in problem["errors"]] == [
            "input.customer: is required",
            "input.amount: expected integer, got text",
            "input.card: expected string, got integer",
        ]
        assert (await http.get("/executions")).json()["executions"] == []


async def test_a_slip_in_a_name_is_told_with_the_names_there_are(served: Opened) -> None:
    async with served() as http:
        body = await http.post("/workflows/order/executions", json={"inputs": {}})
        assert body.json()["detail"] == (
            "Object contains unknown field `inputs` (there are: input, labels, queue, priority)"
        )
        query = await http.get("/executions/x/entries?form=3")
        assert query.status_code == 404  # what is not there has no parameters either
        execution_id = await started(http)
        query = await http.get(f"/executions/{execution_id}/entries?form=3")
        assert query.json()["detail"] == "There is no parameter 'form' here (there are: after, limit)."


async def test_a_traceparent_is_passed_on_and_one_that_is_none_is_ignored(store_url: str) -> None:
    api = make(store_url)
    async with serving(api) as url, client(url) as http:
        for header, kept in ((OLD_TRACE, OLD_TRACE), ("00-zz-1-01", None), ("", None)):
            response = await http.post("/workflows/order/executions", json=ADA, headers={"traceparent": header})
            execution = await api.runtime.store.load(response.json()["id"])
            assert execution is not None
            assert execution.traceparent == kept


async def test_a_whole_number_may_be_written_with_a_point(served: Opened) -> None:
    async with served() as http:
        execution_id = await started(http, input={"customer": "Ada", "amount": 5.0}, priority=3.0)
        assert (await http.get(f"/executions/{execution_id}")).json()["input"]["amount"] == 5


# -- looking -----------------------------------------------------------------------------------------------------------


@on_every_store
async def test_a_list_is_filtered_and_goes_on_at_its_cursor(served: Opened) -> None:
    async with served() as http:
        for number in range(5):
            await started(http, labels={"number": str(number), "even": str(number % 2 == 0)})
        talk = (await http.post("/workflows/talk/executions", json={})).json()["id"]
        everything = (await http.get("/executions", params={"limit": 500})).json()
        assert everything["executions"][0]["id"] == talk
        assert everything["next_cursor"] is None
        found: list[str] = []
        cursor: str | None = None
        while True:
            params = {"workflow_id": "order", "status": "halted", "labels[even]": "True", "limit": "2"}
            page = (await http.get("/executions", params=params | ({"cursor": cursor} if cursor else {}))).json()
            found += [one["labels"]["number"] for one in page["executions"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert found == ["4", "2", "0"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("lable[a]=b", 400),
        ("labels=a", 400),
        ("status=done", 400),
        ("limit=0", 400),
        ("limit=501", 400),
        ("limit=1&limit=2", 400),
        ("limit=%2B5", 400),
        ("created_after=yesterday", 400),
        ("created_after=2026-01-01T00:00:00", 400),
        ("cursor=abc", 404),
        ("parent_id=nobody", 404),
    ],
)
async def test_a_filter_that_is_wrong_is_refused_not_left_out(query: str, status: int, served: Opened) -> None:
    async with served() as http:
        response = await http.get(f"/executions?{query}")
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"


@on_every_store
@pytest.mark.parametrize("text", ["\0", "' OR 1=1 --", "*", "%", "\u202e", "x" * 1000])
async def test_hostile_texts_in_filters_find_nothing(text: str, served: Opened) -> None:
    async with served() as http:
        await started(http)
        for params in ({"workflow_id": text}, {"labels[shop]": text}, {f"labels[{text}]": "west"}):
            response = await http.get("/executions", params=params)
            assert (response.status_code, response.json()["executions"]) == (200, [])
        assert (await http.get("/executions", params={"cursor": text})).status_code == 404
        assert (await http.get("/executions", params={"parent_id": text})).status_code == 404


async def test_the_trail_is_read_in_parts(served: Opened) -> None:
    async with served() as http:
        execution_id = await started(http)
        whole = (await http.get(f"/executions/{execution_id}/entries")).json()
        assert whole["next_after"] is None
        assert [entry["seq"] for entry in whole["entries"]] == [1, 2, 3, 4]
        first = (await http.get(f"/executions/{execution_id}/entries?limit=2")).json()
        assert (len(first["entries"]), first["next_after"]) == (2, 2)
        rest = (await http.get(f"/executions/{execution_id}/entries?after=2")).json()
        assert first["entries"] + rest["entries"] == whole["entries"]


async def test_it_is_told_why_nothing_happens(served: Opened) -> None:
    async with served() as http:
        execution_id = await started(http)
        (reason,) = (await http.get(f"/executions/{execution_id}/why")).json()["reasons"]
        assert reason["reason"] == "approval by alice, bob: Sell to Ada?"


async def test_an_id_with_a_slash_is_one_id(store_url: str) -> None:
    api = make(store_url)
    async with serving(api) as url, client(url) as http:
        await api.runtime.background("order").run(ADA["input"], execution_id="a/b/entries", labels={"shop": "west"})
        found = await http.get("/executions/a%2Fb%2Fentries")
        assert found.json()["id"] == "a/b/entries"
        assert (await http.get("/executions/a%2Fb%2Fentries/entries")).status_code == 200
        assert (await http.get("/executions/a/b/entries")).status_code == 404


async def test_the_workflows_that_are_known_can_be_listed(served: Opened) -> None:
    async with served() as http:
        known = (await http.get("/workflows")).json()["workflows"]
        assert [one["id"] for one in known] == ["order", "talk"]
        assert (await http.get("/workflows/order")).json() == known[0]
        assert known[0]["input_schema"]["required"] == ["customer", "amount"]


# -- answering and changing --------------------------------------------------------------------------------------------


@on_every_store
async def test_an_approval_is_by_who_sends_it(served: Opened) -> None:
    async with served("alice") as http:
        execution_id = await started(http)
        refused = await http.post(f"/executions/{execution_id}/approve", json={"by": "bob"})
        assert (refused.status_code, refused.json()["status"]) == (403, 403)
        response = await http.post(f"/executions/{execution_id}/approve?wait=20", json={"comment": "fine"})
        assert (response.json()["status"], response.json()["output"]) == ("completed", "to Ada")
        entries = (await http.get(f"/executions/{execution_id}/entries")).json()["entries"]
        assert {entry["actor"] for entry in entries if entry["actor"]} == {"alice"}
        again = await http.post(f"/executions/{execution_id}/approve", json={})
        assert (again.status_code, again.json()["type"]) == (409, "urn:durable-flow:problem:conflict")


async def test_who_may_speak_for_others_says_who_decided(served: Opened) -> None:
    async def desk(request: object, action: str, execution: df.Execution | None) -> Principal:
        return Principal(name="desk", on_behalf=True)

    async with served(authorize=desk) as http:
        execution_id = await started(http)
        response = await http.post(f"/executions/{execution_id}/reject?wait=20", json={"by": "bob"})
        assert (response.json()["status"], response.json()["output"]) == ("completed", "sorry")


async def test_only_an_approver_may_approve(served: Opened) -> None:
    async with served("carol") as http:
        execution_id = await started(http)
        response = await http.post(f"/executions/{execution_id}/approve", json={})
        assert (response.status_code, response.json()["type"]) == (403, "urn:durable-flow:problem:not-allowed")


async def test_an_answer_of_another_kind_changes_nothing(served: Opened) -> None:
    async with served() as http:
        execution_id = await started(http)
        response = await http.post(f"/executions/{execution_id}/resume", json={"response": "yes"})
        assert response.status_code == 409
        assert response.json()["type"] == "urn:durable-flow:problem:answer-does-not-fit"
        assert (await http.get(f"/executions/{execution_id}")).json()["status"] == "halted"


@on_every_store
async def test_signals_responses_retries_and_failures_get_through(served: Opened) -> None:
    async with served() as http:
        talk = await started(http, "talk", input={})
        for _ in range(2):  # sent twice, counted once
            sent = await http.post(
                f"/executions/{talk}/signal?wait=20",
                json={"name": "word", "payload": None},
                headers={"Idempotency-Key": "word-1"},
            )
            assert sent.json()["halts"][0]["type"] == "halt"
        failed = await http.post(f"/executions/{talk}/resume?wait=20", json={"response": None})
        assert (failed.json()["status"], failed.json()["error"]) == ("failed", "ValueError: no")
        again = await http.post(f"/executions/{talk}/retry", json={})
        assert again.status_code == 202
        assert (await http.get(f"/executions/{talk}?wait=20")).json()["status"] == "failed"
        assert (await http.post(f"/executions/{talk}/fail", json={})).status_code == 409


@on_every_store
async def test_an_execution_is_paused_unpaused_and_cancelled(served: Opened) -> None:
    async with served() as http:
        execution_id = await started(http)
        paused = await http.post(f"/executions/{execution_id}/pause?wait=20", json={"reason": "lunch"})
        assert {halt["type"] for halt in paused.json()["halts"]} == {"approval", "pause"}
        await http.post(f"/executions/{execution_id}/approve", json={})
        assert (await http.post(f"/executions/{execution_id}/unpause", json={})).status_code == 202
        assert (await http.get(f"/executions/{execution_id}?wait=20")).json()["status"] == "completed"
        other = await started(http)
        gone = await http.post(f"/executions/{other}/cancel?wait=20", json={"reason": "no more"})
        assert gone.json()["status"] == "cancelled"
        assert (await http.post(f"/executions/{other}/cancel", json={})).status_code == 409


# -- health ------------------------------------------------------------------------------------------------------------


async def test_it_is_ready_while_the_store_answers_and_its_workers_run(store_url: str) -> None:
    api = make(store_url)
    async with serving(api) as url, client(url) as http:
        assert (await http.get("/health/live")).json() == {"status": "alive"}
        await wait_until(lambda: api.workers[0].health.last_look is not None)
        ready = await http.get("/health/ready")
        assert ready.status_code == 200
        assert ready.json()["workers"][0]["running"] is True
        api.workers[0].stop()
        stopped = await http.get("/health/ready")
        assert (stopped.status_code, stopped.json()["detail"]) == (503, "worker 1 does not run")


async def test_it_is_not_ready_while_the_store_cannot_be_reached(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make(store_url, patience=0.01)

    async def down(*_: object, **__: object) -> object:
        raise df.StoreUnavailable("no route to postgresql://flows:hunter2@db")

    async with serving(api) as url, client(url) as http:
        monkeypatch.setattr(api.runtime.store, "search", down)
        monkeypatch.setattr(api.runtime.store, "take", down)
        await started_in_vain(http)
        await wait_until(lambda: api.workers[0].health.overdue > 0.01)
        response = await http.get("/health/ready")
        assert response.status_code == 503
        assert [fault["detail"].split(" for ")[0] for fault in response.json()["errors"]] == [
            "the store cannot be reached",
            "worker 1 has not been able to look at the store",
        ]
        assert (await http.get("/health/live")).status_code == 200
        refused = await http.get("/executions")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "hunter2" not in refused.text + response.text


async def started_in_vain(http: httpx2.AsyncClient) -> None:
    assert (await http.post("/workflows/order/executions", json=ADA)).status_code == 202


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (df.StoreUnavailable("at db:5432"), 503, "urn:durable-flow:problem:store-unavailable"),
        (df.SchemaTooNew(9, 8), 503, "urn:durable-flow:problem:schema-too-new"),
        (df.CorruptState("x", "secret bytes"), 500, "urn:durable-flow:problem:corrupt-state"),
        (df.ConfigError("secret"), 500, "about:blank"),
        (RuntimeError("secret"), 500, "about:blank"),
    ],
)
async def test_what_goes_wrong_inside_is_a_problem_without_the_inside(
    error: Exception, status: int, name: str, served: Opened
) -> None:
    async def broken(*_: object) -> None:
        raise error

    async with served(authorize=broken) as http:
        response = await http.get("/workflows")
        assert response.status_code == response.json()["status"] == status
        assert response.json().get("type", "about:blank") == name
        assert "secret" not in response.text
        assert "db:5432" not in response.text
        assert "Traceback" not in response.text
