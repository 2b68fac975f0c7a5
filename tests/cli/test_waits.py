"""Executions that wait for a signal, for time, or for a decision: what is said of them, and what makes them go on."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli

SIGNAL = """
id: sig
name: Signal
steps:
  - {id: paid, type: signal, name: paid, timeout: 3d, output: payment, next: done}
  - {id: done, type: end, result: $payment}
"""

NAP = """
id: nap
name: Nap
steps:
  - id: fork
    type: parallel
    branches:
      - {id: nap, type: wait, for: 2h}
      - {id: ask, type: halt, reason: Well?}
"""

DECIDE = """
id: decide
name: Decide
steps:
  - id: charge
    type: call
    service: Shop
    method: charge
    input: {total: 5}
    output: result
    retry: {max_attempts: 1, on_exhausted: halt}
    next: done
  - {id: done, type: end, result: $result}
"""

LATER = DECIDE.replace(
    "{max_attempts: 1, on_exhausted: halt}", "{max_attempts: 2, initial_interval: 2h, max_interval: 2h}"
)

ONCE = """
id: once
name: Once
steps:
  - {id: pay, type: call, service: Bank, method: pay, delivery: at_most_once, output: result}
"""

BANK = """
import os
from pathlib import Path

class Bank:
    async def pay(self):
        if not Path("money").exists():
            os._exit(9)
        return "paid"

services = {"Bank": Bank()}
"""

SHORT_LEASE = """
import sys
import durable_flow as df
from durable_flow.cli import main

df.Runtime.__init__.__kwdefaults__["lease_ttl"] = 0.2
sys.exit(main(["run", "once.yml", "--id", "o", "--services", "bank", "--quiet"]))
"""

LATER_STEPS = """
import asyncio
import durable_flow as df
from durable_flow.cli._services import load_services

async def main():
    async with df.Runtime("sqlite:///durable_flow.db", services=load_services(["shop"])) as runtime:
        task = asyncio.create_task(runtime.runner(df.load(open("later.yml").read())).run(execution_id="l"))
        while not [one for one in await runtime.store.find(status="halted") if one.owner is None]:
            await asyncio.sleep(0.01)
        task.cancel()

asyncio.run(main())
"""


@pytest.fixture
def waits(folder: Path) -> Path:
    for name, text in {"sig": SIGNAL, "nap": NAP, "decide": DECIDE, "later": LATER, "once": ONCE}.items():
        (folder / f"{name}.yml").write_text(text)
    (folder / "bank.py").write_text(BANK)
    return folder


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def commands(text: str) -> list[str]:
    return [line[2:] for line in lines(text) if line.startswith("→ ")]


# -- signals ----------------------------------------------------------------------------------------------------------


def test_a_signal_drives_on_the_execution_that_waits_for_it(waits: Path, cli: Cli) -> None:
    assert cli("run", "sig.yml", "--id", "s").code == 3
    done = cli("signal", "s", "paid", "--payload", '{"cents": 5}', "--by", "bank", "--json")
    assert (done.code, done.document["output"]) == (0, {"cents": 5})
    assert "by bank" in cli("show", "s", "--entries").out


def test_a_signal_that_nothing_waits_for_yet_is_kept(waits: Path, cli: Cli) -> None:
    (waits / "first.yml").write_text(
        "id: first\nname: First\nsteps:\n  - {id: ask, type: halt, next: paid}\n"
        "  - {id: paid, type: signal, name: paid, output: result}\n"
    )
    cli("run", "first.yml", "--id", "f")
    assert cli("signal", "f", "paid", "--payload", "7").code == 3
    assert cli("resume", "f", "--json").document["output"] == 7


def test_a_signal_needs_no_payload(waits: Path, cli: Cli) -> None:
    cli("run", "sig.yml", "--id", "s")
    assert cli("signal", "s", "paid", "--json").document["output"] is None


def test_who_waits_for_a_signal_is_told_the_command_that_sends_it(waits: Path, cli: Cli) -> None:
    command = "durable-flow signal s paid --payload JSON"
    run = cli("run", "sig.yml", "--id", "s")
    assert lines(run.out)[1:3] == ["signal paid", "step paid"]
    assert commands(run.out) == commands(cli("why", "s").out) == [command]
    assert "paid (signal)" in cli("list").out
    assert "waiting for the signal paid until 20" in cli("show", "s").out
    assert cli("why", "s", "--json").document["why"][0]["type"] == "signal"


def test_a_wait_of_a_child_is_answered_by_a_signal_to_the_child(waits: Path, cli: Cli) -> None:
    (waits / "parent.yml").write_text(
        "id: parent\nname: Parent\nsteps:\n  - {id: sub, type: workflow, workflow_id: sig, output: result}\n"
    )
    run = cli("run", "parent.yml", "--id", "p", "--workflows", "sig.yml")
    (command,) = commands(run.out)
    words = command.replace("JSON", "1").split()[1:]
    assert words[:1] + words[2:3] == ["signal", "paid"]
    assert cli(*words).code == 0
    assert cli("recover", "p").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["s"], "Missing argument 'NAME'"),
        (["s", ""], "the name of a signal is text of at most 255 characters"),
        (["s", "paid", "--payload", "five"], "the value is not JSON"),
        (["none", "paid"], "there is no execution 'none'"),
        (["h", "paid"], "execution 'h' is over; the signal 'paid' changed nothing"),
    ],
)
def test_a_signal_that_cannot_be_sent_says_why(waits: Path, cli: Cli, arguments: list[str], said: str) -> None:
    cli("run", "sig.yml", "--id", "s")
    cli("run", "hello.yml", "--id", "h")
    done = cli("signal", *arguments)
    assert done.code == 2
    assert said in done.err


def test_what_waits_for_a_signal_cannot_be_resumed_and_says_how_it_goes_on(waits: Path, cli: Cli) -> None:
    cli("run", "sig.yml", "--id", "s")
    assert "is for the signal 'paid'; send that with 'signal'" in cli("resume", "s", "--response", "1").err


# -- time -------------------------------------------------------------------------------------------------------------


def test_what_waits_for_time_says_until_when_and_that_a_worker_goes_on(waits: Path, cli: Cli) -> None:
    run = cli("run", "nap.yml", "--id", "n")
    assert run.code == 3
    worker, resume = "durable-flow worker", "durable-flow resume n --response JSON --wait-id n:fork/ask"
    assert commands(run.out) == commands(cli("why", "n").out) == [worker, resume]
    assert "timer\n  step   fork/nap\n  until  20" in run.out
    assert "to go on  nothing to do: it goes on by itself" in cli("why", "n").out
    assert "fork/nap (timer), fork/ask" in cli("list").out
    assert "waiting until 20" in cli("show", "n").out
    waiting = cli("show", "n", "--json").document["steps"][0]["steps"]
    assert [(one["path"], one["state"], one["waits_for"]) for one in waiting] == [
        ("fork/nap", "waiting", "timer"),
        ("fork/ask", "waiting", "halt"),
    ]


def test_an_attempt_that_is_made_later_says_when_and_why(waits: Path, cli: Cli) -> None:
    subprocess.run([sys.executable, "-c", LATER_STEPS], cwd=waits, check=True, capture_output=True)
    why = cli("why", "l").out
    assert "⏸ attempt 2, after CardDeclined: no money for 5" in why
    assert "tried again  20" in why
    assert "to go on" in why
    assert "charge (retry)" in cli("list").out
    assert "tried again 20" in cli("show", "l").out
    refused = cli("resume", "l", "--services", "shop")
    assert (refused.code, "is ended by time" in refused.err) == (2, True)


GATE = """
id: checks
name: Checks
steps:
  - {id: ask, type: gate, resolver: checks, poll_interval: 10ms, output: result, next: done}
  - {id: done, type: end, result: $result}
"""

RESOLVER = """
import durable_flow as df
from pathlib import Path

def checks(params, context):
    return (df.Gate.APPROVED, "green") if Path("green").exists() else df.Gate.PENDING

gates = {"checks": checks}
none = {"checks": 1}
"""


@pytest.fixture
def gate(waits: Path) -> Path:
    (waits / "checks.yml").write_text(GATE)
    (waits / "resolvers.py").write_text(RESOLVER)
    return waits


def test_a_gate_that_is_shut_says_that_it_is_asked_again(gate: Path, cli: Cli) -> None:
    run = cli("run", "checks.yml", "--id", "g", "--gates", "resolvers")
    assert (run.code, lines(run.out)[1:3]) == (3, ["gate checks", "step ask"])
    assert commands(run.out) == ["durable-flow worker --gates resolvers"]
    assert "asked again  20" in cli("why", "g").out
    assert "waiting for the gate checks, asked again 20" in cli("show", "g").out
    assert "ask (gate)" in cli("list").out
    (gate / "green").touch()
    done = cli("recover", "g", "--gates", "resolvers:gates", "--json")
    assert (done.code, done.document["output"]) == (0, "green")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "workflow 'checks' asks the gate 'checks', which nothing provides"),
        (["--gates", "shop"], "module shop has no 'gates'"),
        (["--gates", "resolvers:checks"], "checks takes parameters"),
        (["--gates", "resolvers:Path"], "Path is type, not a mapping of gates"),
        (["--gates", "resolvers:none"], "'checks' is no function"),
        (["--gates", "resolvers", "--gates", "resolvers"], "there are two gates named 'checks'"),
    ],
)
def test_gates_that_are_missing_or_none_are_told(gate: Path, cli: Cli, options: list[str], said: str) -> None:
    done = cli("run", "checks.yml", "--id", "g", *options)
    assert (done.code, said in done.err) == (2, True), done.err


# -- decisions --------------------------------------------------------------------------------------------------------

DECISIONS = [
    "durable-flow retry {0} --services {1}",
    "durable-flow resume {0} --response JSON --services {1}",
    "durable-flow fail {0} --reason WHY --services {1}",
]


def undecided(folder: Path, cli: Cli, kind: str) -> tuple[str, str]:
    """Leaves an execution that waits for a decision; its id, and the module of its services."""
    if kind == "error":
        done = cli("run", "decide.yml", "--id", "d", "--services", "shop")
        assert (done.code, lines(done.out)[1]) == (3, "error CardDeclined: no money for 5")
        return "d", "shop"
    died = subprocess.run([sys.executable, "-c", SHORT_LEASE], cwd=folder, check=False, capture_output=True)
    assert died.returncode == 9
    done = cli("recover", "o", "--wait", "--services", "bank")
    assert (done.code, lines(done.out)[1].split()[0]) == (3, "uncertain")
    return "o", "bank"


@pytest.mark.parametrize("kind", ["error", "uncertain"])
def test_who_has_to_decide_is_told_what_there_is_to_choose_from(waits: Path, cli: Cli, kind: str) -> None:
    one, services = undecided(waits, cli, kind)
    why = cli("why", one)
    told = [line.format(one, services).removesuffix(f" --services {services}") for line in DECISIONS]
    assert commands(why.out) == told
    assert f"({kind})" in cli("list").out
    assert "waiting for a decision" in cli("show", one).out


@pytest.mark.parametrize("kind", ["error", "uncertain"])
@pytest.mark.parametrize(
    ("decision", "code", "output"),
    [(["retry"], 0, None), (["resume", "--response", '"cash"'], 0, "cash"), (["fail", "--reason", "no"], 0, None)],
)
def test_a_decision_drives_on(waits: Path, cli: Cli, kind: str, decision: list[str], code: int, output: Any) -> None:
    one, services = undecided(waits, cli, kind)
    (waits / "money").touch()
    done = cli(decision[0], one, *decision[1:], "--by", "ann", "--services", services, "--json")
    assert done.code == code
    if decision[0] == "fail":
        assert (done.document["status"], done.document["error"].endswith("(no)")) == ("failed", True)
    else:
        assert done.document["output"] == (output or ("paid 5" if kind == "error" else "paid"))
    assert "by ann" in cli("show", one, "--entries").out


def test_only_what_waits_for_a_decision_can_be_failed(waits: Path, cli: Cli) -> None:
    cli("run", "halt.yml", "--id", "q")
    done = cli("fail", "q")
    assert done.code == 2
    assert "no step of it waits for somebody to decide" in done.err
