"""Clients of event streams over HTTP whose connections break again and again, to whichever of two servers.

Both serve the same store over sockets. One has the worker that drives the execution, so the other one hears of each
event from the store alone. Every client connects with the id of the last event it got, takes a few, and is gone, until
it is told that there is nothing more.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import httpx2

import durable_flow as df
from durable_flow.web.api import Api
from tests.reliability.grounds import STORES, ground
from tests.reliability.table import Case, Table
from tests.web.serving import messages, serving

FIGURES: list[str] = []

FLOW = df.load("""
id: flow
name: Many events, some time apart
inputs: {numbers: array}
steps:
  - id: each
    type: loop
    over: $input.numbers
    do:
      - {id: pause, type: wait, for: 20ms}
      - {id: count, type: assign, set: {n: $item}}
""")

PATIENCE = 300.0
"""Seconds after which a client will not be told any more."""


async def read(addresses: list[str], execution_id: str, chance: random.Random) -> tuple[list[str], int]:
    """What one client sees, and how often it connected."""
    seen: list[str] = []
    connections = 0
    async with httpx2.AsyncClient(timeout=60) as http:
        while True:
            connections += 1
            headers = {"Last-Event-ID": seen[-1]} if seen else {}
            left = chance.randint(1, 15)
            url = f"{chance.choice(addresses)}/executions/{execution_id}/events"
            async with http.stream("GET", url, headers=headers) as response:
                if response.status_code == 204:
                    return seen, connections
                assert response.status_code == 200, response.status_code
                async for message in messages(response):
                    seen.append(message["id"])
                    left -= 1
                    if not left:
                        break


async def watch(address: str, clients: int, items: int, seed: int) -> int:
    """How often the clients connected."""
    working, telling = (df.Runtime(address, workflows=[FLOW]) for _ in range(2))
    first, second = Api(working, workers=[df.Worker(working)]), Api(telling)
    async with serving(first) as one, serving(second) as other:
        execution_id = await telling.background("flow").run({"numbers": list(range(items))})
        readers = [read([one, other], execution_id, random.Random(f"{seed} {number}")) for number in range(clients)]
        async with asyncio.timeout(PATIENCE):
            found = await asyncio.gather(*readers)
        told = [event.id async for event in working.events(execution_id, follow=False)]
    assert len(told) > items
    for number, (seen, _) in enumerate(found):
        assert seen == told, f"client {number} saw {len(seen)} events, {len(set(seen))} different ones, of {len(told)}"
    return sum(connections for _, connections in found)


def verify(store: str, clients: int, items: int, seed: int) -> int:
    with tempfile.TemporaryDirectory(prefix="durable-flow-") as folder, ground(store, Path(folder)) as post:
        connections = asyncio.run(watch(post.address, clients, items, seed))
    FIGURES.append(f"{store}: {clients} clients, {connections} connections, every event once")
    return connections


def cases(full: bool) -> Iterable[Case]:
    for store in STORES:
        clients, items = (100, 60) if full else (10, 30)
        yield Case(f"{store}, {clients} clients", partial(verify, store, clients, items, 1))


TABLE = Table("clients that connect again and again see every durable event once", cases, FIGURES)
