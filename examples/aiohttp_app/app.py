"""A service of aiohttp with durable workflows in it: copy it, and put your own workflow in the place of the dashboard.

Run it as it is: DURABLE_FLOW_STORE=sqlite:///dashboards.db PAGES=https://pages.example python app.py

    POST /dashboards                 runs the workflow while the client waits, and answers with its result
    POST /dashboards/start           starts it, and answers at once
    GET  /dashboards/{id}            how it stands
    GET  /dashboards/{id}/events     its events as they come, as server-sent events

A client that does not know whether its POST got through sends it again with the same `Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web

import durable_flow as df

HERE = Path(__file__).parent

SHUTDOWN = 5.0
"""Seconds that requests, and then steps, may still take when the service is told to stop. aiohttp waits for a request
twice as long: all is over after 15, and what gives processes up after less must be told."""

HEARTBEAT = 15.0
"""Seconds after which a stream without events says that it is there: proxies close what is silent."""

RUNTIME = web.AppKey("runtime", df.Runtime)
WORKER = web.AppKey("worker", df.Worker)
STREAMS = web.AppKey("streams", set[asyncio.Task[Any]])

logger = logging.getLogger(__name__)


class Pages:
    """What the workflow calls."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def get(self, path: str) -> Any:
        async with self.session.get(path) as response:
            if response.status == HTTPStatus.NOT_FOUND:
                raise df.NonRetryableError(f"there is no page {path}")
            response.raise_for_status()
            return await response.json()


# -- the application --------------------------------------------------------------------------------------------------


def application(*, store: str, pages: str, lease_ttl: float = 30.0) -> web.Application:
    """`store` is the URL of a store, `pages` the one of the server whose pages are fetched. `lease_ttl` are the seconds
    after which other processes go on with what this one drove when it died."""

    async def durable(app: web.Application) -> AsyncIterator[None]:
        """The runtime, and a worker that goes on with what nobody waits for, from the start of the service to its
        end."""
        async with aiohttp.ClientSession(pages) as session:
            services = {"Pages": Pages(session)}
            workflows = [HERE / "workflow.yml"]
            async with df.Runtime(
                store, workflows=workflows, services=services, lease_ttl=lease_ttl, grace=SHUTDOWN
            ) as runtime:
                app[RUNTIME], app[WORKER] = runtime, df.Worker(runtime)
                working = asyncio.create_task(app[WORKER].run())
                yield
                app[WORKER].stop()
                await working

    app = web.Application(middlewares=[problems])
    app[STREAMS] = set()
    app.cleanup_ctx.append(durable)
    app.on_shutdown.append(leave)
    app.add_routes(routes)
    return app


async def leave(app: web.Application) -> None:
    """Nothing new is begun. Streams end: they would last as long as the executions they tell of, and their clients
    connect again, to another process."""
    app[WORKER].stop()
    for stream in app[STREAMS]:
        stream.cancel()


# -- the endpoints ----------------------------------------------------------------------------------------------------

routes = web.RouteTableDef()


@routes.post("/dashboards")
async def run(request: web.Request) -> web.Response:
    """Where the client goes away in the middle, aiohttp cancels this (see `handler_cancellation` below): the execution
    is left as it is, at its last finished step, and the worker goes on with it."""
    runner = request.app[RUNTIME].runner("dashboard")
    return answer(await runner.run(await body(request), execution_id=key(request)))


@routes.post("/dashboards/start")
async def start(request: web.Request) -> web.Response:
    background = request.app[RUNTIME].background("dashboard")
    execution_id = await background.run(await body(request), execution_id=key(request))
    return web.json_response(
        {"id": execution_id, "status": await background.status(execution_id)},
        status=HTTPStatus.ACCEPTED,
        headers={"Location": f"/dashboards/{quote(execution_id, safe='')}"},
    )


@routes.get("/dashboards/{id}")
async def status(request: web.Request) -> web.Response:
    return answer(await request.app[RUNTIME].runner("dashboard").result(request.match_info["id"]))


@routes.get("/dashboards/{id}/events")
async def events(request: web.Request) -> web.StreamResponse:
    """A browser's EventSource connects again by itself, with the id of the last event it got. It misses none, and sees
    none twice; and it stops when it is told that there is nothing more (204)."""
    runtime, execution_id = request.app[RUNTIME], request.match_info["id"]
    result = await runtime.runner("dashboard").result(execution_id)
    over = result.status.over
    async with aclosing(runtime.events(execution_id, after=request.headers.get("Last-Event-ID"))) as told:
        first = await anext(told, None) if over else None
        if over and first is None:
            return web.Response(status=HTTPStatus.NO_CONTENT)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        stream = asyncio.current_task()
        assert stream is not None
        request.app[STREAMS].add(stream)
        beating = asyncio.create_task(beat(response))
        try:
            if first is not None:
                await response.write(first.to_sse().encode())
            async for event in told:
                await response.write(event.to_sse().encode())
        finally:
            beating.cancel()
            request.app[STREAMS].discard(stream)
    return response


async def beat(response: web.StreamResponse) -> None:
    with suppress(ConnectionError):
        while True:
            await asyncio.sleep(HEARTBEAT)
            await response.write(b": still here\n\n")


def key(request: web.Request) -> str | None:
    """The same key is the same execution. (With users who log in, the id should have the user in it, too.)"""
    return request.headers.get("Idempotency-Key")


async def body(request: web.Request) -> Any:
    try:
        return await request.json()
    except (ValueError, LookupError, RecursionError) as error:  # no JSON, in no encoding there is, or too deep
        raise web.HTTPBadRequest(text=f"the body is not JSON: {error}") from error


def answer(result: df.ExecutionResult) -> web.Response:
    """A workflow that failed is no mistake of the request: it is its result."""
    told = {"id": result.execution_id, "status": result.status, "output": result.output, "error": result.error}
    return web.json_response({name: value for name, value in told.items() if value is not None})


# -- errors, as RFC 9457 has them -------------------------------------------------------------------------------------

STATUSES: Mapping[type[df.DurableFlowError], HTTPStatus] = {
    df.ExecutionNotFound: HTTPStatus.NOT_FOUND,
    df.ValidationError: HTTPStatus.UNPROCESSABLE_ENTITY,
    df.NotAllowed: HTTPStatus.FORBIDDEN,
    df.ConflictError: HTTPStatus.CONFLICT,
    df.LimitExceeded: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    df.LeaseLost: HTTPStatus.SERVICE_UNAVAILABLE,
    df.StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}


@web.middleware
async def problems(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        headers = {name: value for name, value in error.headers.items() if name == "Allow"}
        return problem(HTTPStatus(error.status), error.text or "", headers)
    except df.DurableFlowError as error:
        status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), None)
        if status is None:
            logger.exception("%s %s", request.method, request.path)
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR)
        more = {"problems": [str(each) for each in error.problems]} if isinstance(error, df.ValidationError) else {}
        again = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        return problem(status, str(error), again, **more)
    except Exception:
        logger.exception("%s %s", request.method, request.path)
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR)
    return response


def problem(
    status: HTTPStatus, detail: str = "", headers: Mapping[str, str] | None = None, **more: Any
) -> web.Response:
    told = {"type": "about:blank", "title": status.phrase, "status": status, "detail": detail, **more}
    return web.Response(
        status=status, headers=headers, text=json.dumps(told), content_type="application/problem+json", charset="utf-8"
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    web.run_app(
        application(
            store=os.environ["DURABLE_FLOW_STORE"],
            pages=os.environ["PAGES"],
            lease_ttl=float(os.environ.get("LEASE_TTL", "30")),
        ),
        host=os.environ.get("HOST", "127.0.0.1"),
        port=int(os.environ.get("PORT", "8080")),
        shutdown_timeout=SHUTDOWN,
        handler_cancellation=True,
    )
