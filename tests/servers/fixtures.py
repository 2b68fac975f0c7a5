"""Fixtures of real servers: `postgres_url`, `postgres_schema`, `redis_url`, `redis_prefix`, `rabbitmq_url`, `nats_url`.

A server is started when the first test asks for it, and serves all tests of the session. Where there is none, a test
that asks for it fails in CI, and at home is skipped; the summary says what to install.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.servers.containers import greets
from tests.servers.provide import POSTGRES_KIND, REDIS_KIND, Kind, Unreachable, provided

MISSING = pytest.StashKey[list[str]]()


def _note(request: pytest.FixtureRequest, missing: str) -> None:
    """The summary tells what was not there."""
    request.config.stash.setdefault(MISSING, []).append(missing)
    # Where tests run in several processes, the one that prints the summary hears of it this way.
    getattr(request.config, "workeroutput", {}).setdefault("missing", []).append(missing)


def _serve(kind: Kind, request: pytest.FixtureRequest) -> Iterator[str]:
    with ExitStack() as stack:
        try:
            url = stack.enter_context(provided(kind))
        except Unreachable as missing:
            _note(request, str(missing))
            if os.environ.get("CI") == "true" or os.environ.get(kind.variable):
                pytest.fail(str(missing), pytrace=False)
            pytest.skip(str(missing))
        yield url


def _reach(request: pytest.FixtureRequest, name: str, *, usual: str, question: bytes, answers: bytes) -> str:
    """The URL of a broker that runs here, or where the environment says. Only where it says so it has to be there."""
    variable = f"DURABLE_FLOW_TEST_{name.upper()}"
    url = os.environ.get(variable)
    if greets(url or usual, question=question, answers=answers):
        return url or usual
    missing = f"{name}: nothing that is one answers at {url or usual}; start one, or set {variable} to its URL"
    _note(request, missing)
    if url:
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def rabbitmq_url(request: pytest.FixtureRequest) -> str:
    """A RabbitMQ server that somebody else runs."""
    greeting = b"AMQP\x00\x00\x09\x01"
    return _reach(request, "RabbitMQ", usual="amqp://guest:guest@127.0.0.1:5672", question=greeting, answers=b"\x01")


@pytest.fixture(scope="session")
def nats_url(request: pytest.FixtureRequest) -> str:
    """A NATS server that somebody else runs, with JetStream."""
    return _reach(request, "NATS", usual="nats://127.0.0.1:4222", question=b"", answers=b"I")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    node.config.stash.setdefault(MISSING, []).extend(getattr(node, "workeroutput", {}).get("missing", ()))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for missing in sorted(set(config.stash.get(MISSING, []))):
        terminalreporter.write_line(f"not tested — {missing}", yellow=True)


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database on a PostgreSQL server. It survives no loss of power (`fsync=off`)."""
    yield from _serve(POSTGRES_KIND, request)


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A Redis server that keeps nothing on disk."""
    yield from _serve(REDIS_KIND, request)


@pytest.fixture
async def postgres_schema(postgres_url: str) -> AsyncIterator[str]:
    """The name of a schema that no other test has. It does not exist yet; it is dropped after the test."""
    asyncpg = pytest.importorskip("asyncpg")
    schema = f"test_{secrets.token_hex(6)}"
    yield schema
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("SET client_min_messages = error")
        await connection.execute("SET lock_timeout = '20s'")  # what still holds a table then is a leak of the test
        await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
    finally:
        await connection.close()


@pytest.fixture
async def redis_prefix(redis_url: str) -> AsyncIterator[str]:
    """What no other test's keys begin with. All keys that do are removed after the test."""
    redis = pytest.importorskip("redis.asyncio")
    prefix = f"test-{secrets.token_hex(6)}"
    yield prefix
    async with redis.Redis.from_url(redis_url) as client:
        found = [key async for key in client.scan_iter(match=f"{prefix}*", count=1000)]
        found += [key async for key in client.scan_iter(match=f"{{{prefix}*", count=1000)]
        if found:
            await client.unlink(*found)
