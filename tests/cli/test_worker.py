"""`worker` as a process: it drives what is due, drains when it is told to stop, and leaves the rest to others."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

import durable_flow as df
from tests.cli.conftest import Cli

DESK = '''
import asyncio
import sys
import threading
from pathlib import Path


class Desk:
    async def work(self):
        """Goes on until there is a file `go`, and then for longer than it takes to stop without grace."""
        print("READY", flush=True)
        while not Path("go").exists():
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        return "worked"

    def block(self):
        print("READY", flush=True)
        threading.Event().wait()

    async def rest(self):
        return "rested"


services = {"Desk": Desk()}
'''

FLOW = """
id: {0}
name: Work
steps:
  - {{id: {0}, type: call, service: Desk, method: {0}, next: rest}}
  - {{id: rest, type: call, service: Desk, method: rest, output: result}}
"""

SHORT_LEASE = """
import sys
import durable_flow as df
from durable_flow.cli import main

df.Runtime.__init__.__kwdefaults__["lease_ttl"] = 0.5
sys.exit(main(["run", "work.yml", "--id", "e", "--services", "desk", "--quiet"]))
"""

STORE = "sqlite:///durable_flow.db"


class Process(msgspec.Struct):
    """A durable-flow process whose output is read line by line."""

    inner: subprocess.Popen[str]

    def told(self, wanted: str) -> dict[str, Any]:
        """The next object on standard output whose `event` is this."""
        assert self.inner.stdout is not None
        for line in self.inner.stdout:
            found: dict[str, Any] = json.loads(line)
            if found["event"] == wanted:
                return found
        raise AssertionError(f"it ended without {wanted}")

    def ready(self) -> None:
        """Returns when a service is at work: what it prints goes to standard error."""
        assert self.inner.stderr is not None
        assert any(line == "READY\n" for line in self.inner.stderr)

    def signal(self, number: signal.Signals) -> None:
        self.inner.send_signal(number)

    def ended(self) -> int:
        """Its exit code."""
        self.inner.communicate(timeout=60)
        return self.inner.returncode


class Office(msgspec.Struct):
    """Starts processes that end with the test at the latest."""

    folder: Path
    stack: ExitStack

    def start(self, *command: str) -> Process:
        process = subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        self.stack.enter_context(process)
        self.stack.callback(process.kill)
        return Process(process)

    def worker(self, *options: str) -> Process:
        """A worker that has told that it works."""
        arguments = ("-m", "durable_flow", "worker", "--json", "--services", "desk", *options)
        process = self.start(sys.executable, *arguments)
        process.told("worker.started")
        return process

    def abandoned(self, flow: str = "work") -> None:
        """Leaves the execution `e`, interrupted in its first step."""
        run = self.start(
            sys.executable, "-m", "durable_flow", "run", f"{flow}.yml", "--id", "e", "--services", "desk", "-q"
        )
        run.ready()
        run.signal(signal.SIGINT)
        assert run.ended() == 130


@pytest.fixture
def office(folder: Path) -> Iterator[Office]:
    (folder / "desk.py").write_text(DESK)
    for method in ("work", "block"):
        (folder / f"{method}.yml").write_text(FLOW.format(method))
    with ExitStack() as stack:
        yield Office(folder, stack)


async def completed() -> list[str]:
    """The steps that have completed."""
    async with df.open_store(STORE) as store:
        return [entry.path for entry in await store.entries("e") if entry.action is df.Action.COMPLETED]


async def execution() -> df.Execution:
    async with df.open_store(STORE) as store:
        found = await store.load("e")
    assert found is not None
    return found


async def test_a_worker_finishes_what_a_killed_process_left(office: Office) -> None:
    run = office.start(sys.executable, "-c", SHORT_LEASE)
    run.ready()
    run.signal(signal.SIGKILL)
    assert run.ended() == -signal.SIGKILL
    assert (await execution()).owner is not None
    (office.folder / "go").touch()
    worker = office.worker()
    assert worker.told("workflow.completed")["execution_id"] == "e"
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0
    done = await execution()
    assert (done.status, done.result) == (df.Status.COMPLETED, "rested")


async def test_sigterm_lets_the_step_end_and_another_worker_goes_on_at_once(office: Office) -> None:
    office.abandoned()
    first = office.worker("--grace", "60s")
    first.ready()
    first.signal(signal.SIGTERM)
    assert first.told("worker.stopping")["active"] == 1
    (office.folder / "go").touch()
    first.told("worker.stopped")
    assert first.ended() == 0
    left = await execution()
    assert (left.status, left.owner) == (df.Status.RUNNING, None)
    assert await completed() == ["work"]
    worker = office.worker()
    assert worker.told("workflow.completed")["workflow_id"] == "work"
    assert await completed() == ["work", "rest"]


@pytest.mark.parametrize("flow", ["work", "block"])
async def test_what_has_not_ended_when_the_grace_period_is_over_is_given_back(office: Office, flow: str) -> None:
    office.abandoned(flow)
    worker = office.worker("--grace", "0s")
    worker.ready()
    worker.signal(signal.SIGINT)
    assert worker.ended() == 0
    left = await execution()
    assert (left.status, left.current_step, left.owner) == (df.Status.RUNNING, flow, None)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_second_signal_stops_it_at_once(office: Office, number: signal.Signals, code: int) -> None:
    office.abandoned()
    worker = office.worker("--grace", "1h")
    worker.ready()
    worker.signal(signal.SIGTERM)
    worker.told("worker.stopping")
    worker.signal(number)
    assert worker.ended() == code
    assert (await execution()).owner is None


async def enqueued(queue: str | None) -> None:
    """Puts an execution like `h` into a queue."""
    async with df.open_store(STORE) as store:
        one = await store.load("h")
        assert one is not None
        await store.save(
            msgspec.structs.replace(
                one,
                id=f"in-{queue}",
                queue=queue,
                status=df.Status.PENDING,
                result=None,
                ctx={},
                current_step=None,
                finished_at=None,
            )
        )


def test_executions_of_other_queues_are_left_alone(office: Office, cli: Cli) -> None:
    cli("run", "hello.yml", "--id", "h")
    for queue in ("print", "mail", None):
        asyncio.run(enqueued(queue))
    worker = office.worker("--queues", "mail, -")
    assert {worker.told("workflow.completed")["execution_id"] for _ in range(2)} == {"in-mail", "in-None"}
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0
    assert cli("show", "in-print", "--json").document["execution"]["status"] == "pending"


def test_for_people_it_says_what_it_serves_and_a_line_for_each_end(office: Office) -> None:
    office.abandoned()
    (office.folder / "go").touch()
    options = ["--services", "desk", "--queues", "-,mail", "--queue-concurrency", "mail=5"]
    worker = office.start(sys.executable, "-m", "durable_flow", "worker", *options)
    assert worker.inner.stdout is not None
    line = worker.inner.stdout.readline()
    assert line.split()[1:] == ["✔", "completed", "work", "e"]
    worker.signal(signal.SIGTERM)
    out, err = worker.inner.communicate(timeout=60)
    assert (worker.inner.returncode, out) == (0, "")
    served = "services Desk; workflows those that are stored; queues -, mail; at most 100 at once; 5 of mail"
    assert [line for line in err.splitlines() if line != "READY"] == [
        f"working on {STORE}: {served}",
        "stopping",
        "stopped",
    ]


def test_a_failure_says_why(office: Office) -> None:
    late = df.load("id: late\nname: Late\nsteps:\n  - {id: ask, type: signal, name: never, timeout: 10ms}\n")

    async def leave() -> None:
        async with df.Runtime(f"sqlite:///{office.folder / 'durable_flow.db'}") as runtime:
            await runtime.background(late).run(execution_id="e")

    asyncio.run(leave())
    worker = office.worker()
    told = worker.told("workflow.failed")
    assert (told["execution_id"], told["error"]) == ("e", "TimeoutError: no signal 'never' within 0.01 s")


def test_when_nobody_reads_any_more_it_stops(office: Office) -> None:
    office.abandoned()
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "durable_flow", "worker", "--json", "--services", "desk"],
        cwd=office.folder, stdout=write, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    with process:
        assert process.stderr is not None
        assert any(line == "READY\n" for line in process.stderr)
        os.close(read)
        (office.folder / "go").touch()
        rest = process.stderr.read()
        assert (process.wait(timeout=60), rest) == (141, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--queues", "mail,,print"], "'mail,,print' are no names of queues: write for example mail,print"),
        (["--concurrency", "0"], "0 is not in the range x>=1"),
        (["--queue-concurrency", "mail"], "'mail' is no queue with a number from 1: write for example mail=5"),
        (["--queue-concurrency", "mail=0"], "'mail=0' is no queue"),
        (["--grace", "soon"], "'soon' is not a duration"),
        (["--services", "nowhere"], "there is no module 'nowhere'"),
        (["--workflows", "nowhere.yml"], "there is no file nowhere.yml"),
        (["--store", "postgresql://ann:secret@127.0.0.1:1/x?schema=shop"], "check that it can be reached"),
    ],
)
def test_what_it_cannot_work_with_it_says_at_once(cli: Cli, arguments: list[str], said: str) -> None:
    done = cli("worker", *arguments)
    assert done.code == 2
    assert said in done.err
    assert "secret" not in done.err
