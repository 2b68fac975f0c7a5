"""A service of FastAPI with durable workflows in it: copy it, and put your own workflow in the place of the order.

Run it as it is: DURABLE_FLOW_STORE=sqlite:///orders.db uvicorn --factory app:application --timeout-graceful-shutdown 5

    POST /orders                  starts an order, and answers at once; the same Idempotency-Key is the same order
    GET  /orders/{id}             how it stands
    POST /orders/{id}/approval    {"approved": true}: the answer of who is logged in
    GET  /orders/{id}/events      its events as they come, as server-sent events
    /flows/…                      the API of durable_flow, for Alice: every execution, its audit trail, cancel, retry, …
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

import durable_flow as df
from durable_flow.web.api import Api, EventStreams, Principal, problem_response

HERE = Path(__file__).parent

TOKENS = {"token-of-alice": "alice", "token-of-bo": "bo", "token-of-cy": "cy"}
"""Instead of your login."""


class Shop:
    """What the workflow calls."""

    async def pack(self, item: str) -> str:
        await asyncio.sleep(0.02)
        return f"{item}, in paper"

    async def charge(self, customer: str, cents: int, context: df.StepContext) -> str:
        # A payment service takes the key along: however often it is called with it, it charges once.
        return f"{customer} paid {cents} cents ({context.idempotency_key})"


# -- what endpoints depend on -----------------------------------------------------------------------------------------


def runtime_of(request: Request) -> df.Runtime:
    runtime: df.Runtime = request.app.state.runtime
    return runtime


def user_of(authorization: Annotated[str, Header()] = "") -> str:
    user = TOKENS.get(authorization.removeprefix("Bearer "))
    if user is None:
        raise HTTPException(401, "say who you are", headers={"WWW-Authenticate": "Bearer"})
    return user


Runtime = Annotated[df.Runtime, Depends(runtime_of)]
User = Annotated[str, Depends(user_of)]


async def order_of(order_id: str, runtime: Runtime, user: User) -> df.Execution:
    """An order that is the user's own; Alice sees all. What belongs to somebody else is not there."""
    order = await runtime.store.load(order_id)
    if order is None or (user != "alice" and order.labels.get("customer") != user):
        raise df.ExecutionNotFound(order_id)
    return order


Order = Annotated[df.Execution, Depends(order_of)]


# -- the endpoints ----------------------------------------------------------------------------------------------------


class Item(BaseModel):
    name: str
    cents: int


class NewOrder(BaseModel):
    items: list[Item]


class Decision(BaseModel):
    approved: bool
    comment: str | None = None


class OrderState(BaseModel):
    id: str
    status: str
    waits_for: str | None = None
    output: Any = None
    error: str | None = None


router = APIRouter()


@router.post("/orders", status_code=202)
async def start(
    order: NewOrder,
    runtime: Runtime,
    user: User,
    response: Response,
    idempotency_key: Annotated[str, Header(min_length=1, max_length=255)],
) -> OrderState:
    # Whoever sends it again, because the answer got lost, gets the same order; nobody gets somebody else's by a key.
    order_id = hashlib.sha256(f"{user} {idempotency_key}".encode()).hexdigest()[:32]
    background = runtime.background("order")
    await background.run(
        {"customer": user, "items": [item.model_dump() for item in order.items]},
        execution_id=order_id,
        labels={"customer": user},
    )
    response.headers["Location"] = f"/orders/{order_id}"
    return OrderState(id=order_id, status=await background.status(order_id))


@router.get("/orders/{order_id}")
async def status(order: Order, runtime: Runtime) -> OrderState:
    result = await runtime.runner("order").result(order.id)
    return OrderState(
        id=order.id,
        status=result.status,
        waits_for=result.halt.prompt if result.halt else None,
        output=result.output,
        error=result.error,
    )


@router.post("/orders/{order_id}/approval")
async def decide(order: Order, decision: Decision, runtime: Runtime, user: User) -> OrderState:
    background = runtime.background("order")
    await background.resume(order.id, approved=decision.approved, by=user, comment=decision.comment)
    return OrderState(id=order.id, status=await background.status(order.id))


@router.get("/orders/{order_id}/events")
async def events(
    order: Order, runtime: Runtime, user: User, request: Request, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    streams: EventStreams = request.app.state.streams
    return await streams.response(runtime, order.id, after=last_event_id, client=user)


# -- the application --------------------------------------------------------------------------------------------------


async def authorize(request: Request, action: str, execution: df.Execution | None) -> Principal | None:
    """Who may use the API under /flows: Alice. Anybody may ask whether the service lives."""
    if action == "health":
        return Principal()
    user = TOKENS.get(request.headers.get("authorization", "").removeprefix("Bearer "))
    if user is None:
        return None
    if user != "alice":
        raise df.NotAllowed("this is for Alice")
    return Principal(name=user)


async def problem(request: Request, error: Exception) -> Response:
    """Every error as RFC 9457 has it."""
    if isinstance(error, RequestValidationError):
        found = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
        return problem_response(df.ValidationError(found))
    return problem_response(error)


def application() -> FastAPI:
    runtime = df.Runtime(
        os.environ["DURABLE_FLOW_STORE"],
        workflows=[HERE / "workflow.yml"],
        services={"Shop": Shop()},
        lease_ttl=float(os.environ.get("LEASE_TTL", "30")),  # how long after a crash other processes go on
        grace=5,
    )
    worker = df.Worker(runtime)
    streams = EventStreams()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """The runtime and a worker, from the start of the service to its end."""
        async with runtime:
            working = asyncio.create_task(worker.run())
            with streams.ending_at_signals():  # uvicorn waits for streams, which would wait for their executions
                yield
            worker.stop()
            await working

    app = FastAPI(title="Orders", lifespan=lifespan)
    app.state.runtime, app.state.streams = runtime, streams
    app.include_router(router)
    # The lifespan of a mounted application does not run: the one above opens what it needs.
    hosts = os.environ.get("HOSTS", "").split()
    app.mount("/flows", Api(runtime, authorize=authorize, hosts=hosts, workers=[worker], streams=streams))
    for kind in (df.DurableFlowError, RequestValidationError, StarletteHTTPException, Exception):
        app.add_exception_handler(kind, problem)
    return app
