"""Where tests get their servers from, and what happens where there is none."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import provide
from tests.servers.binaries import NotInstalled
from tests.servers.containers import POSTGRES, engine_answers
from tests.servers.process import Server
from tests.servers.provide import (
    POSTGRES_KIND,
    REDIS_KIND,
    Kind,
    Unreachable,
    postgres_answers,
    provided,
    redis_answers,
)
from tests.servers.proxy import Proxy


def missing() -> Server:
    raise NotInstalled("install it")


NOWHERE = Kind("Nosuchdb", "DURABLE_FLOW_TEST_NOWHERE", POSTGRES, missing, postgres_answers)


@pytest.fixture(autouse=True)
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provide, "engine_answers", lambda: False)


async def test_postgresql_answers(postgres_url: str) -> None:
    assert postgres_answers(postgres_url)
    assert not redis_answers(postgres_url)


async def test_redis_answers(redis_url: str) -> None:
    assert redis_answers(redis_url)


SCHEMAS: dict[str, str] = {}


@pytest.mark.parametrize("turn", ["first", "second"])
async def test_a_schema_belongs_to_one_test_and_goes_with_it(
    postgres_url: str, postgres_schema: str, turn: str
) -> None:
    asyncpg = pytest.importorskip("asyncpg")
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f'CREATE SCHEMA "{postgres_schema}" CREATE TABLE t (n int)')
    there = await connection.fetch("SELECT nspname FROM pg_namespace")
    await connection.close()
    names = {row["nspname"] for row in there}
    assert not names & set(SCHEMAS.values())
    SCHEMAS[turn] = postgres_schema


PREFIXES: dict[str, str] = {}


@pytest.mark.parametrize("turn", ["first", "second"])
async def test_keys_below_a_prefix_belong_to_one_test_and_go_with_it(
    redis_url: str, redis_prefix: str, turn: str
) -> None:
    redis = pytest.importorskip("redis.asyncio")
    async with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        await client.set(f"{redis_prefix}:a", 1)
        await client.set(f"{{{redis_prefix}}}:b", 1)
        for earlier in PREFIXES.values():
            assert not [key async for key in client.scan_iter(match=f"*{earlier}*")]
    PREFIXES[turn] = redis_prefix


@pytest.mark.parametrize("kind", [POSTGRES_KIND, REDIS_KIND], ids=lambda kind: kind.name)
def test_the_environment_comes_first(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    with kind.own() as server:
        monkeypatch.setenv(kind.variable, server.url)
        with provided(kind) as url:
            assert url == server.url


def test_a_server_in_the_environment_that_does_not_answer_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setenv(REDIS_KIND.variable, f"redis://127.0.0.1:{unused_tcp_port}/0")
    with pytest.raises(Unreachable, match="DURABLE_FLOW_TEST_REDIS"), provided(REDIS_KIND):
        raise AssertionError


def test_where_there_is_none_it_is_said_what_to_install_or_to_set() -> None:
    with pytest.raises(Unreachable, match="Nosuchdb: install it; or set DURABLE_FLOW_TEST_NOWHERE"), provided(NOWHERE):
        raise AssertionError


def test_a_container_that_does_not_start_is_replaced_by_a_server_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_image(*_: object) -> Iterator[str]:
        raise RuntimeError("no such image")

    monkeypatch.setattr(provide, "engine_answers", lambda: True)
    monkeypatch.setattr(provide, "container", no_image)
    with provided(REDIS_KIND) as url:
        assert redis_answers(url)
    with pytest.raises(Unreachable, match=r"no such image.*install it"), provided(NOWHERE):
        raise AssertionError


async def test_an_engine_that_never_answers_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Proxy("127.0.0.1", 1) as hole:
        hole.black_hole()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{hole.port}")
        assert not await asyncio.wait_for(asyncio.to_thread(engine_answers, timeout=0.2), 20)


TESTS = """
import pytest
from tests.servers import fixtures, provide
from tests.servers.test_fixtures import NOWHERE
from tests.servers.fixtures import _reach, _serve, pytest_terminal_summary, pytest_testnodedown

@pytest.fixture(scope="session")
def nowhere(request):
    yield from _serve(NOWHERE, request)

@pytest.fixture(scope="session")
def broker(request):
    return _reach(request, "NoBroker", usual="nats://127.0.0.1:PORT", question=b"", answers=b"I")
"""


def played(test: str, folder: Path, *options: str, port: int = 1, **environment: str) -> str:
    """What pytest prints of a test that asks for a server which is not there."""
    (folder / "conftest.py").write_text(TESTS.replace("PORT", str(port)))
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\n")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(folder)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root), "DOCKER_HOST": ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("processes", [(), ("-n", "1")], ids=["", "in processes of their own"])
@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_a_server_that_is_not_there_skips_at_home_and_fails_in_ci(
    ci: str, outcome: str, processes: tuple[str, ...], tmp_path: Path
) -> None:
    printed = played("def test_it(nowhere): pass\n", tmp_path, *processes, CI=ci)
    assert outcome in printed, printed
    assert "not tested — Nosuchdb: install it" in printed


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_broker_that_is_not_there_skips_visibly_in_ci_too(ci: str, tmp_path: Path, unused_tcp_port: int) -> None:
    printed = played("def test_it(broker): pass\n", tmp_path, port=unused_tcp_port, CI=ci)
    assert "1 skipped" in printed, printed
    assert f"not tested — NoBroker: nothing that is one answers at nats://127.0.0.1:{unused_tcp_port}" in printed


def test_a_broker_that_the_environment_names_has_to_be_there(tmp_path: Path, unused_tcp_port: int) -> None:
    named = f"nats://127.0.0.1:{unused_tcp_port}"
    printed = played("def test_it(broker): pass\n", tmp_path, DURABLE_FLOW_TEST_NOBROKER=named)
    assert "1 error" in printed, printed
    assert f"not tested — NoBroker: nothing that is one answers at {named}" in printed
