"""What the guides give to cron, systemd, Kubernetes and people at a database does what stands beside it."""

from __future__ import annotations

import asyncio
import configparser
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml
from cronsim import CronSim

import durable_flow as df
from durable_flow.testing import wait_until
from tests.examples.test_docs import FILES, ROOT, Block, blocks

WORKERS = ROOT / "docs" / "workers.md"
SCRIPTS = ROOT / "docs" / "scripts.md"
COMMAND = (sys.executable, "-m", "durable_flow")


def the(file: Path, language: str) -> Block:
    """The block of a page in this language that is no file of its sessions."""
    (found,) = (block for block in blocks(file) if block.language == language and not block.words)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of both pages."""
    for block in FILES:
        if block.file in (WORKERS, SCRIPTS):
            (tmp_path / block.words).write_text(block.text)
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "DURABLE_FLOW_STORE": f"sqlite:///{folder}/shop.db"}


@contextmanager
def running(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker that has begun to work."""
    with subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert "working on" in process.stdout.readline()
            yield process
        finally:
            process.kill()


def stops(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=60)


def seconds(command: Sequence[str]) -> float:
    """The grace period that a command line says."""
    return df.parse_duration(command[list(command).index("--grace") + 1])


def test_the_unit_of_systemd_starts_a_worker_and_leaves_it_time_to_stop(folder: Path) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(the(WORKERS, "ini").text)
    service = unit["Service"]
    program, *arguments = shlex.split(service["ExecStart"].replace("%i", "large"))
    assert Path(program).name == "durable-flow"
    assert service["Environment"].startswith("DURABLE_FLOW_STORE=")
    assert float(service["TimeoutStopSec"]) > seconds(arguments)
    with running([*COMMAND, *arguments], folder) as process:
        assert stops(process) == 0


def test_the_manifest_starts_a_worker_and_leaves_it_time_to_stop(folder: Path) -> None:
    manifest = yaml.safe_load(the(WORKERS, "yaml").text)
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["durable-flow"]
    assert pod["terminationGracePeriodSeconds"] >= 2 * seconds(container["args"])
    program, *asks = container["startupProbe"]["exec"]["command"]
    assert program == "durable-flow"

    def probe() -> int:
        done = subprocess.run([*COMMAND, *asks], cwd=folder, env=environment(folder), capture_output=True, check=False)
        return done.returncode

    assert probe() != 0
    with running([*COMMAND, *container["args"]], folder) as process:
        assert probe() == 0
        assert stops(process) == 0


def test_the_line_for_cron_runs_the_job_of_the_day(folder: Path) -> None:
    line = the(SCRIPTS, "crontab").text.strip()
    *when, command = line.split(maxsplit=5)
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert next(CronSim(" ".join(when), now)) == datetime(2026, 3, 2, 3, tzinfo=UTC)
    before = datetime.now(UTC).date().isoformat()
    for day in {before, datetime.now(UTC).date().isoformat()}:
        (folder / f"{day}.csv").write_text("7\n")
    # cron gives the shell what stands behind the times, with \% as %
    command = (
        command.replace("/srv/report", str(folder)).replace("\\%", "%").replace("python", shlex.quote(sys.executable))
    )
    done = subprocess.run(
        ["sh", "-c", command], cwd="/", env=environment(folder), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "completed sent: 7 EUR on " in done.stdout


async def test_a_job_that_is_told_to_end_gives_its_lease_back(folder: Path) -> None:
    day = folder / "2026-03-01.csv"
    os.mkfifo(day)  # the step that reads it is under way until somebody writes
    command = (sys.executable, "job.py", "2026-03-01")
    quiet = asyncio.subprocess.DEVNULL
    job = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment(folder), stderr=quiet)
    writer = await asyncio.to_thread(day.open, "w")  # returns when the step has opened it
    try:
        job.send_signal(signal.SIGTERM)
        async with df.open_store(f"sqlite:///{folder}/jobs.db") as jobs:

            async def left() -> bool:
                found = await jobs.load("report-2026-03-01")
                return found is not None and (found.status, found.owner) == (df.Status.RUNNING, None)

            await wait_until(left, timeout=60)
    finally:
        writer.close()
    assert await job.wait() != 0
    day.unlink()
    day.write_text("7\n")
    pipe = asyncio.subprocess.PIPE
    again = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment(folder), stdout=pipe)
    told, _ = await again.communicate()
    assert b"completed sent: 7 EUR on 2026-03-01" in told


@pytest.fixture
async def store(postgres_url: str, postgres_schema: str) -> df.Store:
    return df.open_store(f"{postgres_url}?schema={postgres_schema}")


def shop() -> dict[str, Any]:
    names: dict[str, Any] = {}
    (source,) = (block.text for block in FILES if block.file == WORKERS and block.words == "shop.py")
    exec(source, names)  # noqa: S102 - our own page
    return {"Stock": names["Stock"](), "Mail": names["Mail"]()}


async def test_the_queries_of_what_to_watch_tell_it(
    folder: Path, store: df.Store, postgres_url: str, postgres_schema: str
) -> None:
    waiting, told, left = (query for query in the(WORKERS, "sql").text.split(";") if query.strip())
    connection = await asyncpg.connect(postgres_url)
    try:
        async with store, df.Runtime(store, workflows=[folder / "order.yml"], services=shop()) as runtime:
            await runtime.background("order").run({"item": "a bed"}, queue="large")
            await runtime.runner("order").run({"item": "pens"})

            async def ask(query: str) -> list[Any]:
                return list(await connection.fetch(query.replace("durable_flow.", f'"{postgres_schema}".')))

            assert [(row["waiting"], row["queue"]) for row in await ask(waiting)] == [(1, "large")]
            assert {tuple(row) for row in await ask(told)} == {("order", "pending", 1), ("order", "completed", 1)}
            assert await ask(left) == []
    finally:
        await connection.close()


async def test_a_process_keeps_no_more_connections_than_is_said(
    folder: Path, postgres_url: str, postgres_schema: str
) -> None:
    """While it works on many executions, and with a worker."""
    assert "a process keeps up to five" in WORKERS.read_text()
    name = f"fleet-{postgres_schema}"
    store = df.open_store(f"{postgres_url}?schema={postgres_schema}&application_name={name}")
    connection = await asyncpg.connect(postgres_url)
    most = 0
    try:
        async with store, df.Runtime(store, workflows=[folder / "order.yml"], services=shop()) as runtime:
            worker = df.Worker(runtime)
            working = asyncio.create_task(worker.run())
            background = runtime.background("order")
            names = [await background.run({"item": f"{number}"}) for number in range(100)]
            for each in names:
                await background.wait(each)
                query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
                most = max(most, await connection.fetchval(query, name))
            worker.stop()
            await working
    finally:
        await connection.close()
    assert 0 < most <= 5
