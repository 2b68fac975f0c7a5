"""A service that tests start as a process of its own: `uvicorn tests.web.service:api`. The environment says what on."""

from __future__ import annotations

import os

from starlette.requests import Request

import durable_flow as df
from durable_flow.web.api import Api, EventStreams, Principal

ORDER = """
id: order
name: Order
inputs:
  customer: {type: string, schema: {maxLength: 40}}
  amount: {type: integer, schema: {minimum: 0, maximum: 100000}}
  card: {type: string, default: none, secret: true}
steps:
  - {id: check, type: call, service: Shop, method: check, input: {customer: $input.customer}, next: ask}
  - {id: ask, type: approval, prompt: "Sell to $input.customer?", approvers: [alice, bob], next: ship, on_reject: sorry}
  - {id: ship, type: call, service: Shop, method: ship, input: {customer: $input.customer}, output: result, next: done}
  - {id: sorry, type: assign, set: {result: "sorry"}, next: done}
  - {id: done, type: end, result: $result}
"""

TALK = """
id: talk
name: Talk
steps:
  - {id: listen, type: signal, name: word, output: word, next: ask}
  - {id: ask, type: halt, reason: what now, next: fail}
  - {id: fail, type: call, service: Shop, method: refuse}
"""

TOKENS = {"alice": "token-alice", "bob": "token-bob", "carol": "token-carol"}


class Shop:
    async def check(self, customer: str) -> str:
        return f"{customer} is fine"

    async def ship(self, customer: str) -> str:
        return f"to {customer}"

    async def refuse(self) -> None:
        raise ValueError("no")


async def authorize(request: Request, action: str, execution: df.Execution | None) -> Principal | None:
    """Alice and Bob work for one shop; Carol does for another."""
    given = request.headers.get("authorization", "")
    name = next((name for name, token in TOKENS.items() if given == f"Bearer {token}"), None)
    if name is None:
        return None
    return Principal(name=name, labels={"shop": "east" if name == "carol" else "west"})


def make(store: str | df.Store, **options: object) -> Api:
    runtime = df.Runtime(store, workflows=[ORDER, TALK], services={"Shop": Shop()})
    given = {
        "authorize": authorize,
        "workers": [df.Worker(runtime)],
        "security": {"token": {"type": "http", "scheme": "bearer"}},
        **options,
    }
    return Api(runtime, **given)  # type: ignore[arg-type]


if "SERVICE_STORE" in os.environ:
    # Who calls it in all ways there are waits and listens often, and learns nothing by doing so for long.
    api = make(os.environ["SERVICE_STORE"], max_wait=0.1, streams=EventStreams(lifetime=0.2, heartbeat=0.05))
