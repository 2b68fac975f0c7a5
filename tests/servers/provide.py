"""The servers for tests of behaviour: one that the environment names, else a container, else one of our own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from tests.servers.binaries import NotInstalled
from tests.servers.containers import POSTGRES, REDIS, Image, container, engine_answers, greets
from tests.servers.postgres import PostgresServer
from tests.servers.process import Server, ServerFailed
from tests.servers.redis import RedisServer


class Unreachable(Exception):
    """There is no server to test with. The message says what was tried, and what to install or to set."""


class Kind(NamedTuple):
    """One kind of server, and how to get one. `own` starts a private one."""

    name: str
    variable: str
    image: Image
    own: Callable[[], Server]
    answers: Callable[[str], bool]


def postgres_answers(url: str) -> bool:
    """Asks for TLS, which needs no user: PostgreSQL says yes or no."""
    return greets(url, question=b"\x00\x00\x00\x08\x04\xd2\x16\x2f", answers=b"NS")


def redis_answers(url: str) -> bool:
    """A pong, or the wish for a password."""
    return greets(url, question=b"PING\r\n", answers=b"+-")


POSTGRES_KIND = Kind(
    "PostgreSQL",
    "DURABLE_FLOW_TEST_POSTGRES",
    POSTGRES,
    lambda: PostgresServer.start(fsync=False, max_connections=200),
    postgres_answers,
)
REDIS_KIND = Kind("Redis", "DURABLE_FLOW_TEST_REDIS", REDIS, lambda: RedisServer.start(), redis_answers)


@contextmanager
def provided(kind: Kind) -> Iterator[str]:
    """The URL of a server that runs while the block does. Raises Unreachable."""
    url = os.environ.get(kind.variable)
    if url:
        if not kind.answers(url):
            raise Unreachable(f"{kind.name}: nothing that is one answers at ${kind.variable}")
        yield url
        return
    tried = []
    with ExitStack() as stack:
        if engine_answers():
            try:
                url = stack.enter_context(container(kind.image, kind.answers))
            except Exception as error:  # no image without a network, no space: a server of our own may do
                tried.append(f"a container did not start ({error!r:.200})")
            else:
                yield url
                return
        try:
            server = stack.enter_context(kind.own())
        except (NotInstalled, ServerFailed, OSError) as error:
            tried.append(str(error))
            wish = f"or set {kind.variable} to the URL of a server"
            raise Unreachable(f"{kind.name}: {'; '.join(tried)}; {wish}") from error
        yield server.url
