"""The proxy, between plain sockets and a server that says back what it hears, a line at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from durable_flow.testing import wait_until
from tests.servers.proxy import Proxy, containing, executing

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that keeps every line it heard and answers it with itself."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while line := await reader.readline():
                self.heard.append(line)
                writer.write(line)
                await writer.drain()
        except ConnectionError:
            self.heard.append(b"reset")
        finally:
            writer.close()
            self.tasks.discard(task)


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, int]]:
    told = Echo()
    server = await asyncio.start_server(told.serve, "127.0.0.1", 0)
    yield told, server.sockets[0].getsockname()[1]
    server.close()
    await asyncio.gather(*told.tasks, return_exceptions=True)


@pytest.fixture
async def proxy(echo: tuple[Echo, int]) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", echo[1], counting=containing(b"commit")) as between:
        yield between


class Client:
    def __init__(self, pair: Pair) -> None:
        self.reader, self.writer = pair

    async def say(self, line: bytes) -> None:
        self.writer.write(line)
        await self.writer.drain()

    async def ask(self, line: bytes) -> bytes:
        await self.say(line)
        return await self.reader.readline()


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    made = Client(await asyncio.open_connection("127.0.0.1", proxy.port))
    yield made
    made.writer.close()


async def another(proxy: Proxy) -> Client:
    return Client(await asyncio.open_connection("127.0.0.1", proxy.port))


async def test_it_passes_on_what_both_sides_say(client: Client, proxy: Proxy) -> None:
    assert await client.ask(b"hello\n") == b"hello\n"
    assert (proxy.open, proxy.accepted) == (1, 1)


async def test_a_cut_resets_every_connection_and_takes_new_ones(client: Client, proxy: Proxy) -> None:
    await client.ask(b"hello\n")
    proxy.cut()
    with pytest.raises(ConnectionError):
        await client.reader.readexactly(1)
    later = await another(proxy)
    assert await later.ask(b"again\n") == b"again\n"
    later.writer.close()


async def test_a_cut_is_a_reset_for_the_server_too(client: Client, proxy: Proxy, echo: tuple[Echo, int]) -> None:
    await client.ask(b"hello\n")
    proxy.cut()
    await wait_until(lambda: echo[0].heard == [b"hello\n", b"reset"])


async def test_new_connections_are_refused_and_old_ones_go_on(client: Client, proxy: Proxy) -> None:
    await client.ask(b"hello\n")
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await another(proxy)
    assert await client.ask(b"still there\n") == b"still there\n"


async def test_it_takes_connections_again_on_the_same_port(proxy: Proxy) -> None:
    port = proxy.port
    proxy.refuse()
    await proxy.accept()
    later = await another(proxy)
    assert (await later.ask(b"hello\n"), proxy.port) == (b"hello\n", port)
    later.writer.close()


async def test_a_black_hole_answers_nobody_until_it_ends(client: Client, proxy: Proxy, echo: tuple[Echo, int]) -> None:
    await client.ask(b"hello\n")
    proxy.black_hole()
    await client.say(b"anybody?\n")
    later = await another(proxy)  # is taken
    await later.say(b"me too\n")
    await wait_until(lambda: proxy.accepted == 2)
    assert echo[0].heard == [b"hello\n"]
    proxy.flow()
    assert (await client.reader.readline(), await later.reader.readline()) == (b"anybody?\n", b"me too\n")
    later.writer.close()


async def test_connections_in_a_black_hole_can_be_cut(client: Client, proxy: Proxy) -> None:
    await client.ask(b"hello\n")
    proxy.black_hole()
    await client.say(b"anybody?\n")
    proxy.cut()
    with pytest.raises(ConnectionError):
        await client.reader.readexactly(1)
    await wait_until(lambda: proxy.open == 0)


async def test_what_was_sent_into_a_black_hole_arrives_late_also_from_who_has_left(
    client: Client, proxy: Proxy, echo: tuple[Echo, int]
) -> None:
    await client.ask(b"hello\n")
    proxy.black_hole()
    await client.say(b"commit\n")
    client.writer.close()
    await client.writer.wait_closed()
    proxy.flow()
    await wait_until(lambda: echo[0].heard[:2] == [b"hello\n", b"commit\n"])
    await wait_until(lambda: proxy.open == 0)


async def test_connections_that_are_held_hold_up_no_new_ones(
    client: Client, proxy: Proxy, echo: tuple[Echo, int]
) -> None:
    await client.ask(b"hello\n")
    proxy.hold()
    await client.say(b"late\n")
    later = await another(proxy)
    assert await later.ask(b"in time\n") == b"in time\n"
    proxy.flow()
    assert await client.reader.readline() == b"late\n"
    assert echo[0].heard == [b"hello\n", b"in time\n", b"late\n"]
    later.writer.close()


async def test_what_is_delayed_arrives_later_and_whole(client: Client, proxy: Proxy) -> None:
    loop = asyncio.get_running_loop()
    proxy.delay = 0.05
    start = loop.time()
    assert await client.ask(b"hello\n") == b"hello\n"
    assert loop.time() - start >= 0.1


async def test_the_server_gets_the_request_whose_answer_is_lost(
    client: Client, proxy: Proxy, echo: tuple[Echo, int]
) -> None:
    lost = proxy.lose_answer(2)
    assert await client.ask(b"commit 1\n") == b"commit 1\n"
    assert await client.ask(b"read\n") == b"read\n"
    await client.say(b"commit 2\n")
    with pytest.raises(ConnectionError):
        await client.reader.readexactly(1)
    await asyncio.wait_for(lost.wait(), 5)
    assert echo[0].heard[:3] == [b"commit 1\n", b"read\n", b"commit 2\n"]
    assert proxy.requests == 2


async def test_a_lost_request_never_reaches_the_server(client: Client, proxy: Proxy, echo: tuple[Echo, int]) -> None:
    lost = proxy.lose_request()
    await client.say(b"commit 1\n")
    with pytest.raises(ConnectionError):
        await client.reader.readexactly(1)
    await asyncio.wait_for(lost.wait(), 5)
    assert b"commit 1\n" not in echo[0].heard


async def test_only_the_connection_of_the_lost_request_is_cut(client: Client, proxy: Proxy) -> None:
    later = await another(proxy)
    await later.ask(b"hello\n")
    proxy.lose_answer()
    await client.say(b"commit\n")
    with pytest.raises(ConnectionError):
        await client.reader.readexactly(1)
    assert await later.ask(b"commit again\n") == b"commit again\n"
    later.writer.close()


async def test_a_client_that_leaves_is_gone_on_the_other_side(client: Client, proxy: Proxy) -> None:
    await client.ask(b"hello\n")
    client.writer.close()
    await wait_until(lambda: proxy.open == 0)


async def test_a_server_that_is_not_there_ends_the_connection(unused_tcp_port: int) -> None:
    async with Proxy("127.0.0.1", unused_tcp_port) as proxy:
        client = await another(proxy)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.reader.readexactly(1)
        client.writer.close()


async def test_its_end_ends_all_connections(echo: tuple[Echo, int]) -> None:
    async with Proxy("127.0.0.1", echo[1]) as proxy:
        client = await another(proxy)
        await client.ask(b"hello\n")
    with pytest.raises(ConnectionError):
        await client.reader.readexactly(1)
    assert proxy.open == 0


def test_a_url_gets_the_address_of_the_proxy() -> None:
    proxy = Proxy.to("postgresql://me:secret@db.example:5433/test?x=1")
    proxy.port = 7
    assert (proxy.host, proxy.server_port) == ("db.example", 5433)
    assert proxy.url("postgresql://me:secret@db.example:5433/test?x=1") == "postgresql://me:secret@127.0.0.1:7/test?x=1"


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_word_is_counted_wherever_it_is_cut_in_two(cut: int) -> None:
    text = b"ab EVALSHA cd EVALSHA"
    count = containing(b"EVALSHA")()
    assert count(text[:cut]) + count(text[cut:]) == 2


def said(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4) + body


GREETING = said(b"", b"\x04\xd2\x16\x2f") + said(b"", b"\x00\x03\x00\x00user\x00me\x00\x00")
PREPARED = said(b"P", b"s1\x00SELECT flow_commit($1)\x00\x00\x00") + said(b"P", b"s2\x00SELECT 1\x00\x00\x00")


def bound(name: bytes) -> bytes:
    return said(b"B", b"\x00" + name + b"\x00\x00\x00\x00\x00\x00\x00") + said(b"E", b"\x00\x00\x00\x00\x00")


def test_executions_of_a_prepared_statement_are_counted_not_its_text() -> None:
    count = executing(b"flow_commit")()
    assert count(GREETING + PREPARED) == 0
    assert count(bound(b"s1") + bound(b"s2") + bound(b"s1")) == 2


def test_a_name_that_is_given_to_another_statement_no_longer_counts() -> None:
    count = executing(b"flow_commit")()
    count(GREETING + PREPARED + said(b"P", b"s1\x00SELECT 2\x00\x00\x00"))
    assert count(bound(b"s1")) == 0


def test_simple_statements_count_by_their_text() -> None:
    count = executing(b"COMMIT")()
    assert count(GREETING + said(b"Q", b"COMMIT;\x00") + said(b"Q", b"BEGIN;\x00")) == 1


def test_messages_may_be_cut_anywhere() -> None:
    whole = GREETING + PREPARED + bound(b"s1") * 3
    for cut in range(1, len(whole)):
        count = executing(b"flow_commit")()
        assert count(whole[:cut]) + count(whole[cut:]) == 3
