"""`run --dry-run`: what would happen, without a service, and without anything that stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli

ORDER = """
id: order
name: Order
inputs: {item: string, card: {type: string, secret: true}}
fixtures: {reserve: {left: 3}}
steps:
  - {id: reserve, type: call, service: Stock, method: reserve, input: {of: $input.item}, output: stock, next: enough}
  - {id: enough, type: router, routes: [{when: {field: $stock.left, op: gt, value: 2}, then: agree}], default: sorry}
  - {id: agree, type: approval, prompt: Sell it?, next: pay}
  - {id: pay, type: call, service: Bank, method: charge, input: {card: $input.card, key: $secrets.KEY}, next: tell}
  - {id: tell, type: workflow, workflow_id: letter, input: {to: ann}, next: nap}
  - {id: nap, type: wait, for: 3d, next: sold}
  - {id: sold, type: end, result: sold}
  - {id: sorry, type: end, result: sold out}
"""

LETTER = """
id: letter
name: Letter
steps: [{id: write, type: call, service: Post, method: write, input: $input.to}]
"""

GIVEN = ("--input", '{"item": "pen", "card": "sesame"}', "--workflows", "letter.yml")


@pytest.fixture
def order(folder: Path) -> Path:
    (folder / "order.yml").write_text(ORDER)
    (folder / "letter.yml").write_text(LETTER)
    return folder


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_it_shows_what_would_be_called_and_with_what(order: Path, cli: Cli) -> None:
    done = cli("run", "order.yml", "--dry-run", *GIVEN)
    assert (done.code, done.err) == (0, "")
    assert lines(done.out) == [
        '✔ reserve Stock.reserve {"of": "pen"}',
        '= {"left": 3} fixture reserve',
        "✔ enough router takes routes[0]",
        '✔ agree ask for approval {"prompt": "Sell it?"}',
        "= true no fixture",
        '✔ pay Bank.charge {"card": "***", "key": "***"}',
        "= null no fixture",
        '✔ letter ▸ write Post.write "ann"',
        "= null no fixture",
        "✔ tell workflow",
        "✔ nap wait for 3d",
        "✔ sold end",
        "✔ completed order dry run",
        "sold",
    ]


def test_nothing_is_left_behind(order: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_FLOW_STORE", "sqlite:///elsewhere.db")
    before = sorted(order.iterdir())
    cli("run", "order.yml", "--dry-run", *GIVEN)
    assert sorted(order.iterdir()) == before


def test_modules_with_services_are_not_even_imported(order: Path, cli: Cli) -> None:
    (order / "danger.py").write_text("raise SystemExit('imported')")
    assert cli("run", "order.yml", "--dry-run", "--services", "danger", "--gates", "danger", *GIVEN).code == 0


def test_in_a_store_that_is_named_it_stays_and_is_marked(order: Path, cli: Cli) -> None:
    done = cli("run", "order.yml", "--dry-run", "--id", "o", "--store", "sqlite:///kept.db", *GIVEN)
    assert done.out.splitlines()[-1] == "  → durable-flow show o --store sqlite:///kept.db"
    store = ("--store", "sqlite:///kept.db")
    assert "completed (dry)" in cli("list", *store).out
    assert {one["dry_run"] for one in cli("list", "--json", *store).document["executions"]} == {True}
    assert "nothing of it was done outside" in cli("show", "o", *store).out
    assert "dry run" in cli("events", "o", *store).out


def test_json_lists_every_step(order: Path, cli: Cli) -> None:
    document = cli("run", "order.yml", "--dry-run", "--json", "--id", "o", *GIVEN).document
    steps: dict[str, Any] = {step["path"]: step for step in document.pop("steps")}
    assert document == {
        "execution_id": "o",
        "workflow_id": "order",
        "dry_run": True,
        "status": "completed",
        "output": "sold",
        "error": None,
        "error_info": None,
        "compensated": False,
    }
    assert steps["reserve"] == {
        "execution_id": "o",
        "workflow_id": "order",
        "path": "reserve",
        "step_type": "call",
        "state": "completed",
        "would": "Stock.reserve",
        "input": {"of": "pen"},
        "output": {"left": 3},
        "fixture": "reserve",
        "made_up": False,
        "route": None,
        "error": None,
    }
    assert (steps["write"]["execution_id"], steps["pay"]["made_up"], steps["nap"]["made_up"]) == ("o.tell", True, False)


def test_fixtures_come_from_a_file_and_change_the_route(order: Path, cli: Cli) -> None:
    (order / "none.json").write_text('{"reserve": {"left": 0}}')
    done = cli("run", "order.yml", "--dry-run", "--fixtures", "@none.json", *GIVEN)
    assert (done.code, done.out.splitlines()[-1]) == (0, "sold out")


def test_one_that_fails_ends_with_1_and_says_which_call_has_no_fixture(order: Path, cli: Cli) -> None:
    (order / "bare.yml").write_text(ORDER.replace("fixtures: {reserve: {left: 3}}\n", ""))
    done = cli("run", "bare.yml", "--dry-run", *GIVEN)
    assert done.code == 1
    assert "(in this dry run nothing answers 'reserve': give a fixture)" in done.out
    assert "  at enough" in done.out


def test_wrong_fixtures_are_told_with_a_hint(order: Path, cli: Cli) -> None:
    done = cli("run", "order.yml", "--dry-run", "--fixtures", '{"reserv": 1}', *GIVEN)
    assert done.code == 2
    assert "fixtures.reserv: there is no such step (did you mean 'reserve'?)" in done.err


def test_fixtures_without_a_dry_run_are_refused_before_anything_happens(order: Path, cli: Cli) -> None:
    done = cli("run", "hello.yml", "--fixtures", "{}")
    assert done.code == 2
    assert "add --dry-run" in done.err
    assert not (order / "durable_flow.db").exists()


def test_a_child_that_nobody_waits_for_is_shown_too(order: Path, cli: Cli) -> None:
    (order / "apart.yml").write_text(
        "id: apart\nname: Apart\nsteps:\n"
        "- {id: go, type: workflow, workflow_id: letter, wait: false, input: {to: bob}}\n"
    )
    done = cli("run", "apart.yml", "--dry-run", "--workflows", "letter.yml")
    assert lines(done.out)[0] == '✔ letter ▸ write Post.write "bob"'
