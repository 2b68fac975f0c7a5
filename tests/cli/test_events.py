"""`events` and `watch`: what happens in an execution, told in another process."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import durable_flow as df
from durable_flow.testing import wait_until
from tests.cli.conftest import Cli

LATE = """
id: late
name: Late
steps:
  - {id: first, type: assign, set: {x: 1}, next: ask}
  - {id: ask, type: halt, reason: Well?, timeout: 50ms, on_timeout: late, next: late}
  - {id: late, type: end, result: too late}
"""

PROGRAM = [sys.executable, "-m", "durable_flow"]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Begins a command in a process of its own."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PROGRAM, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_events_are_lines(cli: Cli) -> None:
    cli("run", "hello.yml", "--id", "e")
    told = cli("events", "e")
    assert told.code == 0
    lines = [line.split(maxsplit=4) for line in told.out.splitlines()]
    assert [(line[0], line[2], line[3]) for line in lines] == [
        ("1", "workflow.started", "hello"),
        ("2", "step.completed", "greet"),
        ("3", "workflow.completed", "hello"),
    ]
    assert lines[2][4] == "Hello, you!"


def test_events_as_json_are_an_object_a_line_and_go_on_behind_any_of_them(cli: Cli) -> None:
    cli("run", "halt.yml", "--id", "e")
    found = [json.loads(line) for line in cli("events", "e", "--json").out.splitlines()]
    assert [event["id"] for event in found] == ["e:1", "e:2", "e:3"]
    assert found[-1]["type"] == "workflow.halted"
    assert found[-1]["data"]["halt"] == [found[1]["data"]["halt"]]
    for after in ("e:2", "2"):
        rest = cli("events", "e", "--json", "--after", after).out.splitlines()
        assert [json.loads(line) for line in rest] == found[2:]


@pytest.mark.parametrize("arguments", [("nope",), ("e", "--after", "f:1"), ("e", "--after", "99")])
def test_what_is_not_there_is_told(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli("run", "hello.yml", "--id", "e")
    assert cli("events", *arguments).code == 2


def test_a_pipe_gets_an_event_of_another_process_as_soon_as_there_is_one(cli: Cli, start: Start) -> None:
    cli("run", "halt.yml", "--id", "e")
    process = start("events", "e", "--follow", "--json")
    assert process.stdout is not None
    before = [json.loads(next(process.stdout))["type"] for _ in range(3)]
    assert before == ["workflow.started", "step.halted", "workflow.halted"]
    assert cli("resume", "e", "--response", '"here"').code == 0
    behind = [json.loads(line)["type"] for line in process.stdout]
    assert behind == ["workflow.resumed", "step.completed", "step.completed", "workflow.completed"]
    assert process.wait() == 0


def test_watching_shows_the_steps_of_another_process_and_how_it_ended(cli: Cli, start: Start) -> None:
    cli("run", "halt.yml", "--id", "e")
    process = start("watch", "e")
    assert process.stderr is not None
    assert "waiting    ask  Which address?" in next(process.stderr)
    assert cli("resume", "e", "--response", '"here"').code == 0
    out, err = process.communicate()
    assert process.returncode == 0
    assert [line.split()[1:] for line in err.splitlines()] == [["completed", "ask"], ["completed", "answer"]]
    assert out.splitlines()[0].startswith("✔ completed  question  e")
    assert out.splitlines()[1] == "here"


def test_watching_what_failed_ends_with_its_exit_code(cli: Cli) -> None:
    cli("run", "pay.yml", "--id", "e", "--services", "shop")
    watched = cli("watch", "e")
    assert watched.code == 1
    assert "CardDeclined: no money for 5" in watched.out
    assert "durable-flow show e" in watched.out
    document = cli("watch", "e", "--json").document
    assert (document["status"], document["error"]) == ("failed", "CardDeclined: no money for 5")


def test_a_run_that_is_watched_goes_on_when_another_process_answers(start: Start, cli: Cli) -> None:
    process = start("run", "halt.yml", "--id", "e", "--watch")
    assert process.stderr is not None
    before = [next(process.stderr) for _ in range(2)]
    assert "waiting    ask  Which address?" in before[0]
    assert before[1] == "  → python -m durable_flow resume e --response JSON\n"
    assert cli("resume", "e", "--response", '"here"').code == 0
    out, err = process.communicate()
    assert process.returncode == 0
    assert [line.split()[1:] for line in err.splitlines()] == [["completed", "ask"], ["completed", "answer"]]
    assert out.splitlines()[0].startswith("✔ completed  question  e")
    assert out.splitlines()[1] == "here"


def test_a_run_that_is_watched_is_told_once_of_each_step_and_its_time_runs_out(start: Start, folder: Path) -> None:
    (folder / "late.yml").write_text(LATE)
    process = start("run", "late.yml", "--id", "e", "--watch")
    out, err = process.communicate()
    told = [line.split()[1:3] for line in err.splitlines() if "→" not in line]
    assert told == [["completed", "first"], ["waiting", "ask"], ["completed", "ask"], ["completed", "late"]]
    assert (process.returncode, out.splitlines()[1]) == (0, "too late")


def test_a_run_that_is_watched_ends_with_the_exit_code_of_what_somebody_else_made_of_it(start: Start, cli: Cli) -> None:
    async def until_it_waits() -> subprocess.Popen[str]:
        async with df.open_store("sqlite:///durable_flow.db") as store:
            process = start("run", "halt.yml", "--id", "e", "--watch", "--json")
            await wait_until(lambda: store.find(status="halted"), timeout=30)
            return process

    process = asyncio.run(until_it_waits())
    assert cli("cancel", "e").code == 0
    out, err = process.communicate()
    assert (process.returncode, json.loads(out)["status"], err) == (1, "cancelled", "")


def test_a_run_that_is_watched_and_interrupted_says_what_it_waits_for(start: Start) -> None:
    process = start("run", "halt.yml", "--id", "e", "--watch")
    assert process.stderr is not None
    assert len([next(process.stderr) for _ in range(2)]) == 2
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "execution e waits for an answer" in err


def test_nobody_else_could_answer_a_run_in_memory(cli: Cli) -> None:
    done = cli("run", "halt.yml", "--watch", "--store", "sqlite://:memory:")
    assert done.code == 2
    assert "see no store in memory" in done.err


def test_a_run_that_does_not_wait_is_watched_as_ever(cli: Cli) -> None:
    done = cli("run", "hello.yml", "--watch")
    assert (done.code, done.out.splitlines()[1]) == (0, "Hello, you!")
