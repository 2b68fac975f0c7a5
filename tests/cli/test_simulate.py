"""`simulate`: the report, its document, and its exit codes."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PAY = """
id: pay
name: Pay
inputs: {total: {type: integer, default: 5}}
steps:
  - {id: charge, type: call, service: Bank, method: charge, input: {total: $input.total}, output: paid,
     retries: 2, next: ask}
  - {id: ask, type: approval, prompt: Sure?, timeout: 30d, on_timeout: late, on_reject: no_, next: done}
  - {id: done, type: end, result: $paid}
  - {id: no_, type: end, result: "no"}
  - {id: late, type: end, result: late}
"""

BANKS = """
class Bank:
    def __init__(self):
        self.total = 0

    def charge(self, total):
        print("what a service prints")
        self.total += total
        return self.total


class Honest:
    def charge(self, total):
        return total


def fresh():
    return {"Bank": Bank()}


def honest():
    return {"Bank": Honest()}
"""


@pytest.fixture(autouse=True)
def files(folder: Path) -> None:
    (folder / "pay.yml").write_text(PAY)
    (folder / "banks.py").write_text(BANKS)


def test_what_ends_alike_is_proven(cli: Any) -> None:
    done = cli("simulate", "pay.yml")

    assert done.code == 0
    assert done.out.startswith("✔ proven  pay  sqlite://:memory:\n")
    assert "stood in for     Bank" in done.out
    assert "answers          ask: approved" in done.out
    assert "charge  Bank.charge, 2 times, when the process dies after the call of Bank.charge" in done.out
    assert "pay  no_, late" in done.out
    assert done.err == ""


def test_what_differs_is_told_with_the_fault(cli: Any) -> None:
    done = cli("simulate", "pay.yml", "--services", "banks.py:fresh", "--crash", "kills", "--most", "1")

    assert done.code == 1
    assert "✖ the process dies after the call of Bank.charge (step charge), before that is recorded" in done.out
    assert "output is 10 instead of 5" in done.out
    assert "what a service prints" not in done.out


def test_the_document_has_everything(cli: Any) -> None:
    done = cli("simulate", "pay.yml", "--services", "banks.py:fresh", "--crash", "kills", "--json")

    found = json.loads(done.out)
    assert (done.code, found["proven"]) == (1, False)
    assert found["divergences"][0]["problems"][0] == "output is 10 instead of 5"
    assert found["coverage"] == [
        {"workflow_id": "pay", "steps": ["charge", "ask", "done", "no_", "late"], "never": ["no_", "late"]}
    ]


@pytest.mark.parametrize(
    ("options", "output"),
    [
        (["--answers", '{"charge": 7}'], "7"),
        (["--answers", '{"ask": false}'], "no"),
        (["--expire", "ask"], "late"),
        (["--input", '{"total": 9}', "--services", "banks.py:honest"], "9"),
    ],
    ids=str,
)
def test_answers_lead_elsewhere(cli: Any, options: list[str], output: str) -> None:
    done = cli("simulate", "pay.yml", "--crash", "none", *options)

    assert done.code == 0
    assert f"output           {output}\n" in done.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--input", '{"total": "much"}'], "input.total: expected integer"),
        (["--answers", '{"nobody": 1}'], "there is no step 'nobody'"),
        (["--expire", "nobody"], "there is no step 'nobody'"),
        (["--expire", "charge"], "step 'charge' does not wait: no time of it can run out"),
        (["--crash", "sometimes"], "'sometimes' is not one of"),
        (["--services", "nowhere"], "there is no module 'nowhere'"),
    ],
    ids=str,
)
def test_wrong_usage_ends_with_2(cli: Any, options: list[str], said: str) -> None:
    done = cli("simulate", "pay.yml", *options)

    assert done.code == 2
    assert said in done.err


def test_a_wrong_definition_ends_with_2(cli: Any, folder: Path) -> None:
    (folder / "wrong.yml").write_text(PAY.replace("type: call", "type: cal"))

    assert cli("simulate", "wrong.yml").code == 2


def test_a_terminal_sees_how_far_it_is() -> None:
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "durable_flow", "simulate", "pay.yml"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=120, check=False)
    os.close(theirs)
    told = b""
    while b"cases" not in told:
        told += os.read(mine, 4096)
    os.close(mine)

    assert done.returncode == 0
    assert b" of " in told
