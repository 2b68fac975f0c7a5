"""A network that can be broken: a TCP proxy between a store and its server."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

Counter = Callable[[bytes], int]
"""Is fed the bytes of one client, in order; says how many requests that count began in these."""

CHUNK = 65536


class Proxy:
    """Passes on what clients and server say, until told to do something else.

    `counting` makes for each connection a counter of the requests that matter (see `containing` and `executing`);
    `lose_answer` and `lose_request` go by its count.
    """

    def __init__(self, host: str, port: int, *, counting: Callable[[], Counter] | None = None) -> None:
        self.host = host
        self.server_port = port
        self.port = 0
        self.delay = 0.0
        """Seconds that every piece is held back, in both directions."""
        self.accepted = 0
        """How many connections there have been."""
        self.requests = 0
        """How many requests were counted."""
        self._counting = counting
        self._flowing = True
        self._links: set[_Link] = set()
        self._losses: dict[int, tuple[bool, asyncio.Event]] = {}
        self._listener: asyncio.Server | None = None

    @classmethod
    def to(cls, url: str, *, counting: Callable[[], Counter] | None = None) -> Self:
        """A proxy to the server of a URL."""
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"{url} names no host and port")
        return cls(parts.hostname, parts.port, counting=counting)

    def url(self, url: str) -> str:
        """The URL with the proxy in the place of the server."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._links)

    # -- what can go wrong --------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Resets all connections, on both sides. New ones are taken."""
        for link in list(self._links):
            link.cut()

    def refuse(self) -> None:
        """Takes no new connections: who tries is refused. Those there are go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def accept(self) -> None:
        """Takes new connections (again), on the same port."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._connected, "127.0.0.1", self.port, reuse_address=True)
            self.port = self._listener.sockets[0].getsockname()[1]

    def black_hole(self) -> None:
        """From now on nothing arrives, in either direction, and nothing is reset. New connections are taken, and never
        answered."""
        self._flowing = False
        self.hold()

    def hold(self) -> None:
        """A black hole for the connections there are; new ones are as good as ever."""
        for link in self._links:
            link.flowing.clear()

    def flow(self) -> None:
        """Ends black holes: what was sent meanwhile arrives late, as after a partition; also from who has left."""
        self._flowing = True
        for link in self._links:
            link.flowing.set()

    def lose_answer(self, number: int = 1) -> asyncio.Event:
        """The server gets the `number`-th request from now and answers it; the client sees its connection reset
        instead. The event is set when that has happened."""
        return self._lose(number, reached=True)

    def lose_request(self, number: int = 1) -> asyncio.Event:
        """The connection is reset instead of passing on the `number`-th request from now."""
        return self._lose(number, reached=False)

    def _lose(self, number: int, *, reached: bool) -> asyncio.Event:
        assert self._counting is not None, "the proxy was not told which requests count"
        done = asyncio.Event()
        self._losses[self.requests + number] = (reached, done)
        return done

    # -- connections --------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self.cut()
        await asyncio.gather(*(link.over.wait() for link in list(self._links)))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(self, reader, writer, None if self._counting is None else self._counting())
        self._links.add(link)
        if self._flowing:
            link.flowing.set()
        try:
            await link.run()
        finally:
            self._links.discard(link)
            link.over.set()

    def _seen(self, count: int) -> tuple[bool, asyncio.Event] | None:
        """What is to happen to one of the next `count` requests."""
        found = None
        for _ in range(count):
            self.requests += 1
            found = self._losses.pop(self.requests, None) or found
        return found


class _Link:
    """A client, and the connection to the server that was made for it."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: Counter | None
    ) -> None:
        self.over = asyncio.Event()
        self.flowing = asyncio.Event()
        self._proxy = proxy
        self._client = (reader, writer)
        self._counter = counter
        self._writers = [writer]
        self._cut = asyncio.Event()
        self._losing: asyncio.Event | None = None

    def cut(self) -> None:
        self._cut.set()

    async def run(self) -> None:
        cut = asyncio.ensure_future(self._cut.wait())
        work = asyncio.ensure_future(self._pass_on())
        await asyncio.wait([cut, work], return_when=asyncio.FIRST_COMPLETED)
        for task in (cut, work):
            task.cancel()
        await asyncio.gather(cut, work, return_exceptions=True)
        client, *server = self._writers
        if self._cut.is_set() or self._losing is not None:
            _reset(client)
        if self._cut.is_set():
            for writer in server:
                _reset(writer)
        # Whatever else ended it, ends in order: what the other side was sent before, it gets.
        await asyncio.gather(*[_close(writer) for writer in self._writers])
        if self._losing is not None:
            self._losing.set()

    async def _pass_on(self) -> None:
        """Ends when either side is closed: the other is closed then, which no client here minds."""
        await self.flowing.wait()
        try:
            server = await asyncio.open_connection(self._proxy.host, self._proxy.server_port)
        except OSError:
            return
        self._writers.append(server[1])
        pumps = [
            asyncio.ensure_future(self._requests(self._client[0], server[1])),
            asyncio.ensure_future(self._answers(server[0], self._client[1])),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(CHUNK):
            await self._on_the_way()
            loss = None if self._counter is None else self._proxy._seen(self._counter(piece))
            if loss is not None:
                reached, self._losing = loss
                if not reached:
                    return
            writer.write(piece)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(CHUNK):
            await self._on_the_way()
            if self._losing is not None:
                return
            writer.write(piece)
            await writer.drain()

    async def _on_the_way(self) -> None:
        if self._proxy.delay:
            await asyncio.sleep(self._proxy.delay)
        await self.flowing.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), 1.0)
    writer.transport.abort()


def containing(word: bytes) -> Callable[[], Counter]:
    """Counts how often a word is said: `containing(b"EVALSHA")`."""

    def make() -> Counter:
        tail = b""

        def count(piece: bytes) -> int:
            nonlocal tail
            text = tail + piece
            found = text.count(word)
            tail = text[-(len(word) - 1) :] if len(word) > 1 else b""
            return found

        return count

    return make


def executing(word: bytes) -> Callable[[], Counter]:
    """Counts the statements with a word in them that a PostgreSQL client executes, also where it prepared them before:
    then their text is said only once."""

    def make() -> Counter:
        buffer = b""
        greeted = False
        prepared: set[bytes] = set()

        def count(piece: bytes) -> int:
            nonlocal buffer, greeted
            buffer += piece
            found = 0
            while True:
                head = 1 if greeted else 0  # the first message has no type; nor has the wish for TLS
                if len(buffer) < head + 4:
                    return found
                length = head + int.from_bytes(buffer[head : head + 4])
                if len(buffer) < length:
                    return found
                message, buffer = buffer[:length], buffer[length:]
                body = message[head + 4 :]
                if not greeted:
                    greeted = body[:2] == b"\x00\x03"
                    continue
                match message[:1]:
                    case b"P":
                        name, text = body.split(b"\x00", 2)[:2]
                        prepared.discard(name)
                        if word in text:
                            prepared.add(name)
                    case b"B":
                        found += body.split(b"\x00", 2)[1] in prepared
                    case b"Q":
                        found += word in body

        return count

    return make
