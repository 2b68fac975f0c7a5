"""Events over HTTP: every durable one exactly once, however often the connection breaks, and no connection for ever."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
from itertools import pairwise
from typing import Any

import httpx2
import pytest

import durable_flow as df
from durable_flow.testing import wait_until
from durable_flow.web.api import Api, EventStreams
from tests.web.conftest import Opened, client, on_every_store
from tests.web.service import make
from tests.web.serving import Message, messages, serving
from tests.web.test_api import started

LONG = {
    "id": "long",
    "name": "Long",
    "steps": [
        {
            "id": "each",
            "type": "loop",
            "over": "$input.numbers",
            "do": [
                {"id": "wait", "type": "wait", "for": "0.01s"},
                {"id": "count", "type": "assign", "set": {"n": "$item"}},
            ],
        }
    ],
}


async def durable(runtime: df.Runtime, execution_id: str) -> list[str]:
    """The ids of the events of an execution that is over."""
    return [str(event.id) async for event in runtime.events(execution_id, follow=False)]


async def read_on(http: httpx2.AsyncClient, execution_id: str, chance: random.Random) -> tuple[list[Message], int]:
    """Reads a stream as a browser does whose connection breaks now and then; its events, and how often it connected."""
    seen: list[Message] = []
    connections = 0
    while True:
        connections += 1
        headers = {"Last-Event-ID": seen[-1]["id"]} if seen else {}
        take = chance.randint(0, 6)
        async with http.stream("GET", f"/executions/{execution_id}/events", headers=headers) as response:
            if response.status_code == 204:
                return seen, connections
            assert response.status_code == 200
            if not take:
                continue
            async for message in messages(response):
                seen.append(message)
                take -= 1
                if not take:
                    break


@on_every_store
async def test_who_connects_again_and_again_sees_every_event_once(store_url: str) -> None:
    api = make(store_url)
    async with serving(api) as url, client(url) as http:
        api.runtime.background(df.load(LONG))
        body = {"input": {"numbers": list(range(20))}}
        execution_id = (await http.post("/workflows/long/executions", json=body)).json()["id"]
        readers = [read_on(http, execution_id, random.Random(seed)) for seed in range(10)]
        found = await asyncio.gather(*readers)
        told = await durable(api.runtime, execution_id)
        assert len(told) > 20
        for seen, _ in found:
            assert [message["id"] for message in seen] == told
        assert sum(connections for _, connections in found) > 50


async def test_two_servers_on_one_store_tell_the_same(store_url: str) -> None:
    first, second = make(store_url), make(store_url, workers=[])
    async with serving(first) as one, serving(second) as other, client(one) as http, client(other) as elsewhere:
        execution_id = await started(http)
        reading = asyncio.create_task(read_on(elsewhere, execution_id, random.Random(1)))
        await http.post(f"/executions/{execution_id}/approve", json={})
        seen, _ = await reading
        assert [message["id"] for message in seen] == await durable(first.runtime, execution_id)
        assert seen[-1]["event"] == "workflow.completed"


@pytest.mark.parametrize(
    ("query", "last"), [("?after=2", None), ("", "{}:2"), ("", "2"), ("?after=0", "{}:2"), ("?after=2", "")]
)
async def test_a_stream_begins_behind_what_its_reader_knows(query: str, last: str | None, served: Opened) -> None:
    async with served() as http:
        execution_id = await started(http)
        headers = {} if last is None else {"Last-Event-ID": last.format(execution_id)}
        async with http.stream("GET", f"/executions/{execution_id}/events{query}", headers=headers) as response:
            assert (await anext(messages(response)))["id"] == f"{execution_id}:3"


@pytest.mark.parametrize("last", ["somebody:1", "abc", "999", "-1", "{}:\N{SUPERSCRIPT TWO}"])
async def test_an_event_that_is_not_one_of_it_is_not_there(last: str, served: Opened) -> None:
    async with served() as http:
        execution_id = await started(http)
        headers = {"Last-Event-ID": last.format(execution_id).encode("latin-1")}
        response = await http.get(f"/executions/{execution_id}/events", headers=headers)
        assert (response.status_code, response.json()["type"]) == (404, "urn:durable-flow:problem:event-not-found")


async def test_a_stream_says_that_it_lives_and_when_to_come_again(served: Opened) -> None:
    async with served(streams=EventStreams(heartbeat=0.01, retry=0.5)) as http:
        execution_id = await started(http)
        async with http.stream("GET", f"/executions/{execution_id}/events?after=4") as response:
            lines = response.aiter_lines()
            assert [await anext(lines) for _ in range(5)] == ["retry: 500", "", ": still there", "", ": still there"]


async def test_a_stream_ends_with_the_execution_and_is_not_asked_for_again(served: Opened) -> None:
    async with served() as http:
        execution_id = await started(http)
        await http.post(f"/executions/{execution_id}/approve?wait=20", json={})
        path = f"/executions/{execution_id}/events"
        async with http.stream("GET", path) as response:
            told = [message async for message in messages(response)]
        assert (told[0]["event"], told[-1]["event"]) == ("workflow.started", "workflow.completed")
        assert (await http.get(path, headers={"Last-Event-ID": told[-1]["id"]})).status_code == 204


async def test_a_stream_ends_when_its_time_is_over(served: Opened) -> None:
    async with served(streams=EventStreams(lifetime=0.05)) as http:
        execution_id = await started(http)
        assert (await http.get(f"/executions/{execution_id}/events")).status_code == 200


async def test_one_connection_too_many_of_a_client_ends_its_own_oldest() -> None:
    streams = EventStreams(limit=9, per_client=2)
    with streams.slot("a") as first, streams.slot("a") as second, streams.slot("b") as other, streams.slot("a"):
        assert [slot.ended.is_set() for slot in (first, second, other)] == [True, False, False]
        assert len(streams) == 3
    assert len(streams) == 0


async def test_one_connection_too_many_of_all_ends_the_oldest_of_whoever_has_most() -> None:
    streams = EventStreams(limit=3, per_client=2)
    with streams.slot("b") as other, streams.slot("a") as first, streams.slot("a") as second, streams.slot("c"):
        assert [slot.ended.is_set() for slot in (other, first, second)] == [False, True, False]
        assert len(streams) == 3


async def test_a_stream_too_many_ends_another_which_comes_again(served: Opened) -> None:
    async with served(streams=EventStreams(per_client=2)) as http:
        execution_id = await started(http)
        reading = [asyncio.create_task(http.get(f"/executions/{execution_id}/events")) for _ in range(5)]
        await wait_until(lambda: sum(task.done() for task in reading) == 3)
        await http.post(f"/executions/{execution_id}/approve", json={})
        for response in await asyncio.gather(*reading):
            assert response.status_code == 200


async def test_who_waits_is_answered_when_the_server_ends(store_url: str) -> None:
    api = make(store_url, workers=[])
    async with serving(api) as url, client(url) as http:
        body = {"input": {"customer": "Ada", "amount": 1}}
        waiting = asyncio.create_task(http.post("/workflows/order/executions?wait=60", json=body))
        await wait_until(lambda: len(api.streams) == 1)
        api.streams.close()
        assert (await waiting).status_code == 202
        assert (await http.get("/health/ready")).status_code == 503


async def test_a_client_that_takes_nothing_is_let_go(store_url: str) -> None:
    api = make(store_url, streams=EventStreams(stall=0.05))
    text = "x" * 500_000
    steps: list[dict[str, Any]] = [
        {"id": f"s{number}", "type": "assign", "set": {"v": "$input.text"}} for number in range(20)
    ]
    for step, following in pairwise(steps):
        step["next"] = following["id"]
    talk = {"id": "big", "name": "Big", "steps": steps}
    async with serving(api) as url, client(url) as http:
        api.runtime.background(df.load(talk))
        done = await http.post("/workflows/big/executions?wait=20", json={"input": {"text": text}})
        assert done.json()["status"] == "completed"
        with socket.create_connection(("127.0.0.1", httpx2.URL(url).port)) as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.sendall(
                f"GET /executions/{done.json()['id']}/events HTTP/1.1\r\nHost: localhost\r\n"
                "Authorization: Bearer token-alice\r\n\r\n".encode()
            )
            await wait_until(lambda: len(api.streams) == 1)
            await wait_until(lambda: len(api.streams) == 0)


async def test_a_client_that_goes_away_leaves_nothing_behind(store_url: str) -> None:
    api = make(store_url)
    async with serving(api) as url, client(url) as http:
        execution_id = await started(http)
        async with http.stream("GET", f"/executions/{execution_id}/events") as response:
            assert await anext(messages(response))
            assert len(api.streams) == 1
        await wait_until(lambda: len(api.streams) == 0)
        followed: Any = api.runtime.engine._followed
        await wait_until(lambda: not followed.keys() - {""})  # workers listen for schedules


async def test_streams_end_at_a_signal_and_who_handled_it_before_hears_of_it() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        streams = EventStreams()
        with streams.slot("a") as slot, streams.ending_at_signals(signal.SIGUSR1):
            signal.raise_signal(signal.SIGUSR1)
            await asyncio.wait_for(slot.ended.wait(), 5)
            assert heard == [signal.SIGUSR1]
        signal.raise_signal(signal.SIGUSR1)
        assert heard == [signal.SIGUSR1] * 2
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("options", [{"limit": 0}, {"per_client": 0}, {"heartbeat": 0}, {"retry": -1}, {"stall": 0}])
def test_streams_that_are_put_together_wrongly_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(df.ConfigError):
        EventStreams(**options)


def test_an_api_keeps_the_streams_it_is_given_also_while_there_are_none() -> None:
    streams = EventStreams()
    assert Api(df.Runtime("sqlite://:memory:"), streams=streams).streams is streams
