"""Event streams (server-sent events), and everything else that keeps a connection waiting."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from types import FrameType
from typing import Any

import anyio
import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

import durable_flow as df
from durable_flow.web.problems import HEADERS

logger = logging.getLogger("durable_flow.web")

STREAM_HEADERS = {**HEADERS, "X-Accel-Buffering": "no"}  # nginx would keep events back otherwise


class Slot(msgspec.Struct, eq=False):
    """A connection that waits. When it is `ended`, it is to answer with what it has."""

    client: str
    ended: asyncio.Event


class EventStreams:
    """The connections of a process that stay open: streams of events, and requests that wait for an outcome.

    At most `limit` of them, and `per_client` of one client. Where there is one more, the client's oldest one ends, or
    the oldest one of whoever has most: a browser connects again by itself and misses nothing. A stream says every
    `heartbeat` seconds that it lives, asks clients to connect again after `retry` seconds, ends after `lifetime`
    seconds (then who reads it is asked again who it is), and after `stall` seconds in which its client took nothing.

    `close` ends them all, which is for when the server shuts down: one that waits for its connections to end would wait
    for ever. `ending_at_signals` does that by itself.
    """

    def __init__(
        self,
        *,
        limit: int = 1000,
        per_client: int = 50,
        heartbeat: float = 15.0,
        retry: float = 2.0,
        lifetime: float = 3600.0,
        stall: float = 60.0,
    ) -> None:
        if limit < 1 or per_client < 1:
            raise df.ConfigError("limit and per_client are numbers from 1")
        if min(heartbeat, lifetime, stall) <= 0 or retry < 0:
            raise df.ConfigError("heartbeat, lifetime and stall are more than 0 seconds, retry at least 0")
        self.limit = limit
        self.per_client = per_client
        self.heartbeat = heartbeat
        self.retry = retry
        self.lifetime = lifetime
        self.stall = stall
        self.closed = False
        self._slots: dict[Slot, None] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def close(self) -> None:
        """Ends all of them, and from now on each as soon as it begins."""
        self.closed = True
        for slot in list(self._slots):
            self._end(slot)

    @contextmanager
    def ending_at_signals(self, *signals: signal.Signals) -> Generator[None]:
        """Closes as soon as SIGTERM or SIGINT (or these signals) arrive, and then lets them take their course: for the
        lifespan of an application, inside which the server's own handlers are in place. Main thread only; in another
        one it does nothing."""
        loop = asyncio.get_running_loop()
        before: dict[signal.Signals, Any] = {}

        def leave(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.close)
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            elif handler == signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        try:
            for one in signals or (signal.SIGTERM, signal.SIGINT):
                before[one] = signal.signal(one, leave)
        except ValueError:  # not the main thread
            before.clear()
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    @contextmanager
    def slot(self, client: str) -> Generator[Slot]:
        """A place for a connection of this client; where there is none left, an older one ends."""
        own = [slot for slot in self._slots if slot.client == client]
        if len(own) >= self.per_client:
            self._end(own[0])
        elif len(self._slots) >= self.limit:
            self._end(self._oldest_of_whoever_has_most())
        slot = Slot(client, asyncio.Event())
        self._slots[slot] = None
        if self.closed:
            self._end(slot)
        try:
            yield slot
        finally:
            self._slots.pop(slot, None)

    def _oldest_of_whoever_has_most(self) -> Slot:
        by_client: dict[str, list[Slot]] = {}
        for slot in self._slots:
            by_client.setdefault(slot.client, []).append(slot)
        return max(by_client.values(), key=len)[0]

    def _end(self, slot: Slot) -> None:
        self._slots.pop(slot, None)
        slot.ended.set()

    async def response(
        self, runtime: df.Runtime, execution_id: str, *, after: str | int | None = None, client: str = ""
    ) -> Response:
        """The durable events of an execution from behind `after` (what the client sent as `Last-Event-ID`), replayed
        and followed. Where it is over and there is nothing more to tell, the answer is a 204, on which a browser stops
        connecting again. `client` is whose connection it is.

        Raises ExecutionNotFound, and ValidationError for an `after` that is not one of its events.
        """
        execution = await runtime.store.load(execution_id)
        if execution is None:
            raise df.ExecutionNotFound(execution_id)
        # What was over before its events were read has told all of them.
        replay = runtime.events(execution_id, after=after, follow=False)
        first = await anext(replay, None)
        if first is None and execution.status.over:
            return Response(status_code=204, headers=STREAM_HEADERS)

        async def events() -> AsyncGenerator[df.Event]:
            last = after
            async with aclosing(replay):
                if first is not None:
                    yield first
                    last = first.id
                async for event in replay:
                    yield event
                    last = event.id
            async with aclosing(runtime.events(execution_id, after=last)) as coming:
                async for event in coming:
                    yield event

        return _EventStream(self._told(events(), client), stall=self.stall)

    async def _told(self, events: AsyncGenerator[df.Event], client: str) -> AsyncGenerator[str]:
        with self.slot(client) as slot:
            yield f"retry: {round(self.retry * 1000)}\n\n"
            async with aclosing(events):
                async for event in self._followed(events, slot):
                    yield ": still there\n\n" if event is None else event.to_sse()

    async def _followed(self, events: AsyncGenerator[df.Event], slot: Slot) -> AsyncGenerator[df.Event | None]:
        """Events as they come, and None whenever it is time to say that nothing did."""
        clock = df.SystemClock()
        until = clock.monotonic() + self.lifetime
        ended = asyncio.ensure_future(slot.ended.wait())
        coming = asyncio.ensure_future(anext(events, None))
        try:
            while (left := until - clock.monotonic()) > 0 and not slot.ended.is_set():
                await asyncio.wait(
                    {coming, ended}, timeout=min(left, self.heartbeat), return_when=asyncio.FIRST_COMPLETED
                )
                if coming.done():
                    try:
                        event = coming.result()
                    except df.DurableFlowError as error:
                        logger.info("a stream of events ended: %s", error)  # its client connects again, and is told
                        return
                    if event is None:
                        return
                    yield event
                    coming = asyncio.ensure_future(anext(events, None))
                elif not ended.done():
                    yield None
        finally:
            ended.cancel()
            coming.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({ended, coming})
            if not coming.cancelled():
                coming.exception()


class _EventStream(StreamingResponse):
    """A stream whose client must take what it is sent, in time."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncGenerator[str], *, stall: float) -> None:
        super().__init__(content, headers=STREAM_HEADERS)
        self._content = content
        self._stall = stall

    async def stream_response(self, send: Send) -> None:
        async def patiently(message: Any) -> None:
            async with asyncio.timeout(self._stall):
                await send(message)

        async with aclosing(self._content):
            try:
                await super().stream_response(patiently)
            except TimeoutError:
                logger.info("a stream of events ended: its client took nothing for %g s", self._stall)
