"""`Api`: starting, watching and answering executions over HTTP, as an ASGI application.

>>> import durable_flow as df
>>> from durable_flow.web.api import Api, Principal
>>> async def authorize(request, action, execution):
...     if request.headers.get("authorization") == "Bearer abc":
...         return Principal(name="ada", labels={"team": "shop"})
>>> runtime = df.Runtime("sqlite://:memory:")
>>> api = Api(runtime, authorize=authorize, workers=[df.Worker(runtime)], hosts=["api.example.com"])

`uvicorn service:api` serves it alone: then it opens the runtime and runs the workers. Mounted in another application
(`app.mount("/flows", api)`) it leaves that to its host, whose lifespan can be `api.lifespan`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

import durable_flow as df
from durable_flow.web.calls import Call
from durable_flow.web.doorkeeper import Authorize, Doorkeeper, Principal
from durable_flow.web.operations import OPERATIONS, Operation, matched
from durable_flow.web.problems import problem_response
from durable_flow.web.streams import EventStreams

__all__ = ["Api", "Authorize", "EventStreams", "Principal", "problem_response"]


class Api:
    """An ASGI application over a runtime, which may be given as a function that returns it.

    `authorize` is an async function of (request, action, execution) that returns a `Principal` (or a name), or None for
    somebody it does not know, or raises `df.NotAllowed`. The actions are describe, health, workflows, start, list,
    read, answer, signal, cancel, retry, fail and pause; `execution` is what the request is about, or None. Without one,
    only requests that come straight from this machine are answered.

    `hosts` and `origins` are the names it goes by and the origins of pages that may send changes; those of this machine
    and its own always may. `workers` are those without which it is not ready, and which it runs where it has a lifespan
    of its own; one that could not look at the store for `patience` seconds is in trouble. `adapter` is that of
    `runtime.background`. `max_body` are bytes, `max_wait` and `body_timeout` seconds. `security` are security schemes
    for the OpenAPI document.
    """

    def __init__(
        self,
        runtime: df.Runtime | Callable[[], df.Runtime],
        *,
        authorize: Authorize | None = None,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
        workers: Sequence[df.Worker] = (),
        adapter: df.Adapter | None = None,
        streams: EventStreams | None = None,
        max_body: int = 2 * 1024 * 1024,
        max_wait: float = 60.0,
        body_timeout: float = 30.0,
        patience: float = 30.0,
        title: str = "durable_flow",
        security: Mapping[str, Any] | None = None,
    ) -> None:
        if max_body < 2 or max_wait < 0 or body_timeout <= 0 or patience <= 0:
            raise df.ConfigError(
                "max_body is 2 bytes or more, max_wait 0 seconds or more, the rest more than 0 seconds"
            )
        self._runtime = runtime
        self.doorkeeper = Doorkeeper(authorize, hosts=hosts, origins=origins)
        self.workers = tuple(workers)
        self.adapter = adapter
        self.streams = EventStreams() if streams is None else streams
        self.max_body = max_body
        self.max_wait = max_wait
        self.body_timeout = body_timeout
        self.patience = patience
        self.title = title
        self.security = dict(security or {})
        self._alone = Router(lifespan=self.lifespan)

    @property
    def operations(self) -> Sequence[Operation]:
        """Everything it can be asked for."""
        return OPERATIONS

    @property
    def runtime(self) -> df.Runtime:
        """The runtime it is about."""
        return self._runtime if isinstance(self._runtime, df.Runtime) else self._runtime()

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:
        """Opens the runtime, runs the workers, and in the end lets both finish what is under way. A runtime that is
        given as a function is opened by who made it."""
        async with AsyncExitStack() as stack:
            if isinstance(self._runtime, df.Runtime):
                await stack.enter_async_context(self._runtime)
            stack.enter_context(self.streams.ending_at_signals())
            working = [asyncio.create_task(worker.run()) for worker in self.workers]
            try:
                yield
            finally:
                self.streams.close()
                for worker in self.workers:
                    worker.stop()
                if working:
                    await asyncio.wait(working)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request (ASGI)."""
        if scope["type"] == "lifespan":
            await self._alone.lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "there is no websocket here"})
        else:
            request = Request(scope, receive)
            with suppress(ClientDisconnect):
                response = await self._respond(request)
                await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        try:
            self.doorkeeper.admit(request)
            operation, names = matched(request)
            return await Call(self, request, operation, names).answered()
        except ClientDisconnect:
            raise
        except Exception as error:
            return problem_response(error)
