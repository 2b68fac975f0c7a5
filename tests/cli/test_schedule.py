"""`schedule`: schedules from a terminal."""

import asyncio
from pathlib import Path

import pytest

import durable_flow as df
from durable_flow.testing import wait_until
from tests.cli.conftest import Cli

REPORT = """
id: report
name: Report
inputs: {day: string}
schedules:
  - {id: nightly, cron: "0 2 * * *", timezone: Europe/Berlin, input: {day: $schedule.date}, description: The numbers.}
steps:
  - {id: done, type: end, result: $input.day}
"""


@pytest.fixture
def store(folder: Path, cli: Cli) -> str:
    """A store in which a worker has made the schedule known."""
    (folder / "report.yml").write_text(REPORT)
    url = f"sqlite:///{folder / 'durable_flow.db'}"

    async def work() -> None:
        async with df.Runtime(url, workflows=[folder / "report.yml"]) as runtime:
            worker = df.Worker(runtime)
            task = asyncio.create_task(worker.run())

            async def known() -> bool:
                return bool(await runtime.schedules())

            await wait_until(known)
            worker.stop()
            await task

    asyncio.run(work())
    return url


def test_schedules_are_listed_and_shown(store: str, cli: Cli) -> None:
    listed = cli("schedule", "list", "--store", store).out
    assert "report:nightly" in listed
    assert "0 2 * * * Europe/Berlin" in listed
    shown = cli("schedule", "show", "report:nightly", "--store", store).out
    assert "The numbers." in shown
    assert "next" in shown


def test_a_schedule_is_paused_and_goes_on(store: str, cli: Cli) -> None:
    done = cli("schedule", "pause", "report:nightly", "--by", "ann", "--reason", "no disk", "--store", store)
    assert done.code == 0
    assert "by ann no disk" in done.out
    assert "paused by ann" in cli("schedule", "list", "--store", store).out
    assert "paused already" in cli("schedule", "pause", "report:nightly", "--store", store).err
    document = cli("schedule", "unpause", "report:nightly", "--store", store, "--json").document
    assert (document["changed"], document["schedules"][0]["paused"]) == (True, False)
    assert "not paused" in cli("schedule", "unpause", "report:nightly", "--store", store).err


def test_what_is_asked_for_waits_for_a_worker(store: str, cli: Cli) -> None:
    asked = cli("schedule", "trigger", "report:nightly", "--id", "now", "--store", store, "--json").document
    assert asked["execution_id"] == "now"
    filled = cli(
        "schedule", "backfill", "report:nightly", "--from", "2026-01-01", "--to", "2026-01-11T00:00Z", "--store", store,
        "--json",
    ).document  # fmt: skip
    assert filled["ticks"] == 10
    assert filled["schedules"][0]["requests"] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "report:nightly"],
        ["show"],
        ["unpause", "report:nightly", "--by", "ann"],
        ["backfill", "report:nightly", "--from", "2d"],
        ["trigger", "report:nightly", "--from", "2d", "--to", "1d"],
        ["show", "report:nightly", "--overlap", "skip"],
        ["show", "report:nightly", "--id", "x"],
        ["show", "report:nightli"],
        ["stop", "report:nightly"],
    ],
)
def test_wrong_usage_is_told(store: str, cli: Cli, arguments: list[str]) -> None:
    assert cli("schedule", *arguments, "--store", store).code == 2


def test_where_there_is_none_it_says_so(folder: Path, cli: Cli) -> None:
    cli("run", "hello.yml")
    assert "no schedule is known" in cli("schedule", "list").out
