"""What only a process of its own shows: signals, pipes, terminals, and how the program is called."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-m", "durable_flow"]

BUSY = """
import asyncio
import sys
import threading

class Busy:
    async def work(self):
        print("READY", flush=True)
        await asyncio.get_running_loop().create_future()

    def block(self):
        print("READY", flush=True)
        threading.Event().wait()

services = {"Busy": Busy()}
"""

ONE_CALL = "id: {0}\nname: Busy\nsteps:\n  - {{id: {0}, type: call, service: Busy, method: {0}}}\n"


@pytest.fixture
def busy(folder: Path) -> Path:
    (folder / "busy.py").write_text(BUSY)
    for method in ("work", "block"):
        (folder / f"{method}.yml").write_text(ONE_CALL.format(method))
    return folder


def interrupted(folder: Path, *arguments: str, by: signal.Signals) -> tuple[int, str, str]:
    """Runs a command until its service is at work, sends the signal, and waits for the end."""
    process = subprocess.Popen(
        [*PROGRAM, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert any(line == "READY\n" for line in process.stderr)
    process.send_signal(by)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize("method", ["work", "block"])
def test_ctrl_c_says_how_to_go_on(busy: Path, method: str) -> None:
    code, out, err = interrupted(
        busy, "run", f"{method}.yml", "--services", "busy", "--id", "b", "--quiet", by=signal.SIGINT
    )
    assert (code, out) == (130, "")
    assert "error: interrupted\n  execution b stopped where it was; go on with\n" in err
    assert "  → python -m durable_flow recover b --services busy\n" in err
    shown = subprocess.run([*PROGRAM, "show", "b", "--json"], cwd=busy, capture_output=True, check=True)
    execution = json.loads(shown.stdout)["execution"]
    assert (execution["status"], execution["owner"]) == ("running", None)


def test_a_wait_that_is_slept_through_goes_on_in_a_worker(folder: Path) -> None:
    (folder / "nap.yml").write_text("id: nap\nname: Nap\nsteps:\n  - {id: nap, type: wait, for: 2h}\n")
    process = subprocess.Popen(
        [*PROGRAM, "run", "nap.yml", "--id", "n"], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert any(re.search(r"waiting +nap", line) for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "execution n goes on when its time has come, in a worker\n  → python -m durable_flow worker\n" in err


def test_sigterm_gives_the_lease_back_too(busy: Path) -> None:
    code, _, err = interrupted(busy, "run", "work.yml", "--services", "busy", "--id", "b", by=signal.SIGTERM)
    assert code == 143
    assert "error: terminated\n" in err
    assert "recover b" in err


def test_with_json_an_interruption_is_a_document(busy: Path) -> None:
    code, out, _ = interrupted(busy, "run", "work.yml", "--services", "busy", "--id", "b", "--json", by=signal.SIGINT)
    assert code == 130
    assert json.loads(out)["execution_id"] == "b"
    assert json.loads(out)["error"]["command"] == "python -m durable_flow recover b --services busy"


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    for number in range(3):
        subprocess.run(
            [*PROGRAM, "run", "hello.yml", "--id", f"h{number}"], cwd=folder, capture_output=True, check=True
        )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*PROGRAM, "list", "--json"], cwd=folder, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_without_the_extra_it_says_what_to_install(folder: Path) -> None:
    hide = (
        "import sys; sys.modules['click'] = None; sys.argv = ['durable-flow', 'list']\n"
        "from durable_flow.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", hide], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'error: click is not installed; run: pip install "durable-flow[cli]"\n'


def test_an_encoding_without_our_signs_gets_plainer_ones(folder: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [*PROGRAM, "run", "hello.yml", "--input", '{"name": "Zoë"}'],
        cwd=folder, capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.startswith("v completed  hello")
    assert done.stdout.endswith("Hello, Zo\\xeb!\n")


def on_terminal(folder: Path, *arguments: str, columns: int = 80, **environment: str) -> str:
    """What a command writes to a terminal of this width."""
    leader, follower = pty.openpty()
    try:
        process = subprocess.Popen(
            [*PROGRAM, *arguments], cwd=folder, stdin=follower, stdout=follower, stderr=follower,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40", **environment},
        )  # fmt: skip
        os.close(follower)
        written = b"".join(_read(leader))
        process.wait(timeout=30)
    finally:
        os.close(leader)
    return written.decode().replace("\r\n", "\n")


def _read(leader: int) -> Iterator[bytes]:
    while select.select([leader], [], [], 30)[0]:
        try:
            chunk = os.read(leader, 65_536)
        except OSError:  # the other end is closed
            return
        if not chunk:
            return
        yield chunk


STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_a_terminal_gets_colours_and_progress_that_is_redrawn(folder: Path) -> None:
    written = on_terminal(folder, "run", "pay.yml", "--services", "shop", "--id", "p")
    assert "\x1b[31m✖" in written
    assert "\x1b[?25l" in written  # the cursor is hidden while the lower part is redrawn
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    text = STEERING.sub("", written)
    assert re.search(r"✖ charge +call +\d+ ms\n +CardDeclined: no money for 5\n", text)


def test_no_color_is_heeded(folder: Path) -> None:
    written = on_terminal(folder, "run", "hello.yml", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", written)


def test_a_dumb_terminal_gets_plain_lines(folder: Path) -> None:
    written = on_terminal(folder, "run", "hello.yml", TERM="dumb")
    assert "\x1b" not in written
    assert re.search(r"\d\d:\d\d:\d\d  completed  greet\n", written)


def test_a_pipe_gets_no_colours(folder: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "run", "pay.yml", "--services", "shop"], cwd=folder, capture_output=True, check=False
    )
    assert b"\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["list", "show long", "show long --entries --vars", "why long"])
def test_nothing_is_wider_than_the_terminal_except_what_is_to_be_copied(folder: Path, command: str) -> None:
    text = "sehr " * 40
    (folder / "long.yml").write_text(
        f"id: a_rather_long_id_of_a_workflow_that_somebody_wrote\nname: Long\nsteps:\n"
        f"  - id: a_rather_long_id_of_a_step_that_somebody_wrote\n    type: loop\n    over: [1]\n    do:\n"
        f"      - id: another_rather_long_id_of_a_step_within_it\n        type: halt\n"
        f"        reason: '{text}'\n        data: {{x: '{text}'}}\n"
    )
    subprocess.run([*PROGRAM, "run", "long.yml", "--id", "long"], cwd=folder, capture_output=True, check=False)
    lines = STEERING.sub("", on_terminal(folder, *command.split())).splitlines()
    assert [line for line in lines if len(line) > 80 and "→" not in line and text not in line] == []
    assert any("long" in line for line in lines)
