"""The short form of every benchmark runs. What it says about speed means nothing, and nothing is asserted of it."""

import doctest
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import compare, peers, table
from benchmarks.measure import SHORT, Session, failed, take_turns
from benchmarks.null import NullStore
from benchmarks.processes import Failed, Program, started
from benchmarks.servers import Servers
from benchmarks.service import ledger
from benchmarks.service.ledger import STEPS, Row, verdict
from benchmarks.stores import STORES

ROOT = Path(__file__).parents[2]

WORKLOADS = {
    "fan_out": "fan-out",
    "find": "find",
    "growth": "growth",
    "halted": "halted",
    "import": "cold import",
    "overhead": "engine: call",
    "parallel_fetch": "3 branches",
    "sequential": "10 steps",
    "service": "10 requests in flight",
    "timers": "timers",
}
"""How the first line of each benchmark begins."""


def test_the_store_that_keeps_nothing_has_every_verb() -> None:
    assert not NullStore.__abstractmethods__


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="it counts memory and bytes as Linux does")
def test_every_benchmark_prints_a_line_for_every_store(tmp_path: Path) -> None:
    done = run("--short", "--folder", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    lines = done.stdout.splitlines()
    for name, workload in WORKLOADS.items():
        assert f"{name} …" in done.stderr
        assert any(line.startswith(workload) for line in lines), workload
    for case in STORES:
        # two sizes of the sequential workload, two kinds of pages, and one line of each of the others
        assert len([line for line in lines if f"| durable_flow, {case.name} " in line]) >= 8, case.name
    assert list(tmp_path.iterdir()) == []


def test_every_benchmark_is_looked_for() -> None:
    assert set(WORKLOADS) == {path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py")}


@pytest.mark.parametrize("module", [compare, ledger, table], ids=lambda module: module.__name__)
def test_the_examples_in_docstrings_hold(module: ModuleType) -> None:
    found = doctest.testmod(module)

    assert found.attempted
    assert not found.failed


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    done = run("nothing")

    assert done.returncode == 2
    assert "sequential" in done.stderr


def test_peers_say_that_they_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)

    found, missing = peers.peers("sqlite", Servers(tmp_path))

    assert found == []
    assert missing["dbos, sqlite file"] == "not installed (benchmarks/peers/setup installs it)"


def script(folder: Path, text: str) -> Program:
    """A subject that is a few lines of Python, and can do `work`."""
    path = folder / "script.py"
    path.write_text(
        "import asyncio, os\n"
        "from contextlib import asynccontextmanager\n"
        "from benchmarks.subject import serve\n"
        f"async def work():\n    {text}\n"
        "@asynccontextmanager\n"
        "async def subject(place, folder):\n    yield {'work': work}\n"
        "serve(subject)\n"
    )
    return Program("script", (sys.executable, str(path)), lambda folder: nullcontext("-"))


def session(folder: Path) -> Session:
    return Session(SHORT, folder, Servers(folder / "servers"), 0.0)


def test_a_subject_that_dies_leaves_the_lines_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "well").mkdir()
    well = script(tmp_path / "well", "return {'per_second': 7.0}")._replace(name="well")
    dying = script(tmp_path, "os._exit(3)")

    with started([dying, well], tmp_path / "run") as (playing, failures):
        results = take_turns(session(tmp_path), playing, failures, "work")

    assert results.values("well", "per_second") == [7.0]
    assert failures == {"script": "script died: it said nothing"}


def test_a_subject_that_never_answers_is_given_up_and_ends(tmp_path: Path) -> None:
    hanging = script(tmp_path, "await asyncio.Event().wait()")

    with started([hanging], tmp_path / "run") as ([subject], _), pytest.raises(Failed, match="did not answer"):
        subject.ask("work", within=0.1)

    assert subject.process.returncode == -signal.SIGKILL


def test_a_line_of_a_program_that_cannot_start_says_why(tmp_path: Path) -> None:
    missing = Program(
        "missing", (sys.executable, "-c", "raise SystemExit('no such thing')"), lambda _: nullcontext("-")
    )

    with started([missing], tmp_path / "run") as (playing, failures):
        assert playing == []

    (line,) = failed("some work", failures)
    assert line.failed
    assert line.details == "missing died: no such thing"


@pytest.mark.skipif(sys.platform != "linux", reason="it looks for processes as Linux shows them")
def test_ctrl_c_ends_subjects_and_servers_and_prints_what_there_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "import", "sequential", "--short", "--folder", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        while process.stderr.readline() != "sequential …\n":
            pass
        wait_for(lambda: len(below(process.pid)) > 2)
        inside = below(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert "cold import" in out
    wait_for(lambda: not any(Path(f"/proc/{each}").exists() for each in inside))
    assert list(tmp_path.iterdir()) == []


def calls(request: str, steps: Sequence[int], *, first: int = 1) -> list[Row]:
    """Calls of these steps, one after the other."""
    return [Row(first + place, request, step, f"{request}:{step}") for place, step in enumerate(steps)]


ALL = list(range(STEPS))


def test_a_step_that_was_under_way_may_be_made_again() -> None:
    rows = calls("a", [*ALL[:4], *ALL[3:]])

    assert verdict(rows, ["a"], {"a": 11}) == (0, 0, 1, 0)


def test_a_step_that_is_made_again_after_a_later_one_is_found() -> None:
    rows = calls("a", [*ALL[:4], 2, *ALL[4:]])

    assert verdict(reversed(rows), ["a"], {"a": 11}) == (0, 1, 0, 0)


def test_a_step_that_is_made_again_after_the_answer_is_found() -> None:
    rows = calls("a", [*ALL, ALL[-1]])

    assert verdict(rows, ["a"], {"a": 10}) == (0, 1, 0, 0)


def test_a_step_that_is_made_again_with_another_key_is_found() -> None:
    again = Row(5, "a", 3, "another")

    assert verdict([*calls("a", ALL[:4]), again, *calls("a", ALL[4:], first=6)], ["a"], {"a": 20}) == (0, 0, 1, 1)


def test_requests_without_an_answer_or_with_a_step_that_was_never_made_are_lost() -> None:
    rows = [*calls("a", ALL), *calls("b", ALL, first=20), *calls("c", ALL[1:], first=40)]

    assert verdict(rows, ["a", "b", "c", "d"], {"a": 60, "c": 60, "d": 60}).lost == 3


def below(process: int) -> list[int]:
    """All processes that descend from one."""
    found = [process]
    for each in found:
        try:
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
        except FileNotFoundError:
            continue
    return found[1:]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
