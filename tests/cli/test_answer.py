import re
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Cli


def test_approve_drives_on(cli: Cli) -> None:
    cli("run", "approval.yml", "--id", "e")
    done = cli("approve", "e", "--by", "bob", "--comment", "fine", "--select", "cash")
    assert (done.code, done.out.splitlines()[1]) == (0, "bob")
    votes = cli("show", "e", "--json").document["execution"]["result"], cli("show", "e", "--entries").out
    assert votes[0] == "bob"
    assert '"comment": "fine", "selections": ["cash"]' in votes[1]


def test_reject_without_a_way_on_fails_the_execution(cli: Cli) -> None:
    cli("run", "approval.yml", "--id", "e")
    done = cli("reject", "e", "--by", "alice", "--comment", "too much")
    assert done.code == 1
    assert "ApprovalRejected: rejected by alice: too much\n  at review\n" in done.out


def test_selections_are_json_or_text(cli: Cli, folder: Path) -> None:
    (folder / "pick.yml").write_text(
        "id: pick\nname: Pick\nsteps:\n"
        "  - {id: p, type: approval, prompt: Which?, options: [1, 'a b', {x: 1}], next: e}\n"
        "  - {id: e, type: end, result: $approvals.p.votes.0.selections}\n"
    )
    cli("run", "pick.yml", "--id", "p")
    done = cli("approve", "p", "--select", "1", "--select", "a b", "--select", '{"x": 1}', "--json")
    assert done.document["output"] == [1, "a b", {"x": 1}]


def test_resume_takes_any_json(cli: Cli) -> None:
    for number, response in enumerate(("false", "null", '"text"', '{"a": [1]}')):
        cli("run", "halt.yml", "--id", f"q{number}")
        assert cli("resume", f"q{number}", "--response", response, "--json").code == 0
    outputs = [one["result"] for one in cli("list", "--json").document["executions"]]
    assert outputs == [{"a": [1]}, "text", None, False]


def test_one_of_several_waits_is_answered_by_step_or_wait_id(cli: Cli) -> None:
    cli("run", "two.yml", "--id", "t")
    assert cli("approve", "t", "--step", "left").code == 3
    assert cli("resume", "t", "--wait-id", "t:both/right", "--response", "1").code == 0


def test_an_answer_given_twice_is_a_conflict(cli: Cli) -> None:
    cli("run", "two.yml", "--id", "t")
    cli("approve", "t", "--step", "left")
    again = cli("approve", "t", "--step", "left")
    assert again.code == 2
    assert "does not wait for" in again.err


def test_votes_are_counted(cli: Cli, folder: Path) -> None:
    (folder / "votes.yml").write_text(
        "id: votes\nname: Votes\nsteps:\n  - {id: v, type: approval, prompt: Sure?, required: 2}\n"
    )
    assert "approve v --by NAME" in cli("run", "votes.yml", "--id", "v").out
    first = cli("approve", "v", "--by", "alice")
    assert first.code == 3
    assert "approval (1 of 2): Sure?" in cli("why", "v").out
    assert cli("show", "v", "--json").document["steps"][0]["state"] == "waiting"
    assert "alice" in cli("approve", "v", "--by", "alice").err
    assert cli("approve", "v", "--by", "bob").code == 0


def test_who_has_voted_is_not_asked_again(cli: Cli, folder: Path) -> None:
    (folder / "both.yml").write_text(
        "id: both\nname: Both\nsteps:\n"
        "  - {id: b, type: approval, prompt: Sure?, approvers: [alice, bob], required: 2}\n"
    )
    assert "approve b --by alice" in cli("run", "both.yml", "--id", "b").out
    assert "approve b --by bob" in cli("approve", "b", "--by", "alice").out
    assert "approve b --by bob" in cli("why", "b").out


def test_a_wait_whose_time_is_up_says_so(cli: Cli, folder: Path) -> None:
    (folder / "late.yml").write_text(
        "id: late\nname: Late\nsteps:\n  - {id: l, type: approval, prompt: Now?, timeout: 1ms}\n"
    )
    assert cli("run", "late.yml", "--id", "l").code in (1, 3)
    assert cli("approve", "l").code == 2
    done = cli("show", "l", "--json").document["execution"]
    assert done["error"].startswith("TimeoutError: ")


def test_cancel_is_done_when_it_is_cancelled(cli: Cli) -> None:
    cli("run", "halt.yml", "--id", "q")
    done = cli("cancel", "q", "--reason", "changed my mind", "--by", "ann")
    assert done.code == 0
    assert "■ cancelled  question  q" in done.out
    assert "by ann" in cli("show", "q", "--entries").out
    assert cli("cancel", "q").code == 2


def test_recover_returns_what_is_over_or_waits(cli: Cli) -> None:
    cli("run", "hello.yml", "--id", "h")
    cli("run", "halt.yml", "--id", "q")
    assert cli("recover", "h").code == 0
    assert cli("recover", "q").code == 3


DIES = """
import asyncio, os, pathlib
import durable_flow as df

class Shop:
    async def charge(self, total):
        os._exit(9)

async def main():
    async with df.Runtime("sqlite:///durable_flow.db", services={"Shop": Shop()}, lease_ttl=LEASE) as runtime:
        await runtime.runner(df.load(pathlib.Path("pay.yml"))).run(execution_id="gone")

asyncio.run(main())
"""


def abandon(folder: Path, *, lease: float) -> None:
    """Leaves the execution `gone`, whose process died in its only step, and whose lease runs for so many seconds."""
    (folder / "money").touch()
    done = subprocess.run(
        [sys.executable, "-c", DIES.replace("LEASE", str(lease))],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr


def test_recover_says_until_when_somebody_may_be_alive(cli: Cli, folder: Path) -> None:
    abandon(folder, lease=3_600)
    done = cli("recover", "gone", "--services", "shop")
    assert done.code == 2
    assert "execution 'gone' is being driven by " in done.err
    assert re.search(r"whose lease runs out in (1 h|59 min)", done.err)
    assert "--wait" in done.err
    shown = cli("show", "gone").out
    assert re.search(r"driven by  \S+ \(lease runs out in (1 h|59 min)", shown)
    assert "▶ charge" in shown


def test_who_is_driven_elsewhere_needs_no_services_here(cli: Cli, folder: Path) -> None:
    abandon(folder, lease=3_600)
    assert "is being driven by" in cli("recover", "gone").err


def test_recover_waits_for_the_lease(cli: Cli, folder: Path) -> None:
    abandon(folder, lease=0.5)
    done = cli("recover", "gone", "--wait", "--services", "shop")
    assert (done.code, done.out.splitlines()[1]) == (0, "paid 5")


ASK_AND_PAY = """
id: sale
name: Sale
steps:
  - {id: ask, type: approval, prompt: Pay it?, approvers: [ann], next: listen}
  - {id: listen, type: signal, name: paid, next: where}
  - {id: where, type: halt, reason: Where to?, next: charge}
  - {id: charge, type: call, service: Shop, method: charge, input: {total: 5}, output: result}
"""


def test_answers_may_be_left_to_workers_where_their_services_are_not_here(cli: Cli, folder: Path) -> None:
    (folder / "sale.yml").write_text(ASK_AND_PAY)
    cli("run", "sale.yml", "--id", "s", "--services", "shop.py")
    refused = cli("approve", "s", "--by", "ann")
    assert (refused.code, "or leave it to workers with --leave" in refused.err) == (2, True)
    for answer in (["approve", "s", "--by", "ann"], ["signal", "s", "paid"], ["resume", "s", "--response", "1"]):
        left = cli(*answer, "--leave")
        assert (left.code, "durable-flow approve" in left.out) == (0, False)
        why = cli("why", "s").out
        assert "a worker to go on with what" in why
        assert "→ durable-flow recover s" in why
        cli("recover", "s", "--services", "shop.py")
    assert cli("list", "--json").document["executions"][0]["error"] == "CardDeclined: no money for 5"

    (folder / "money").touch()
    assert cli("retry", "s", "--leave").code == 0
    assert cli("recover", "s", "--services", "shop.py", "--json").document["output"] == "paid 5"


def test_a_wrong_answer_is_told_also_where_it_is_left(cli: Cli) -> None:
    cli("run", "approval.yml", "--id", "e")
    wrong = cli("approve", "e", "--by", "carol", "--leave")
    assert (wrong.code, "approvers are alice, bob" in wrong.err) == (2, True)
