"""`fork`, `diff`, `where` and `migrate-executions`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

ORDER = """
id: order
name: Order
version: "{version}"
inputs: {{orders: array}}
steps:
  - {{id: limit, type: assign, set: {{most: 2}}, next: each}}
  - id: each
    type: loop
    over: $input.orders
    on_item_error: skip
    output: paid
    do:
      - {{id: pay, type: call, service: till, method: pay, input: {{amount: $item, most: $most}}}}
      - {{id: sign, type: halt, reason: Sign it}}
    next: {following}
  - {{id: {last}, type: end, result: $paid}}
"""

TILL = """
async def pay(amount, most):
    if amount > most:
        raise ValueError(f"{amount} is more than {most}")
    return amount
"""


def documents(folder: Path) -> None:
    (folder / "v1.yml").write_text(ORDER.format(version="1", following="done", last="done"))
    (folder / "v2.yml").write_text(ORDER.format(version="2", following="over", last="over"))
    (folder / "till.py").write_text(TILL)


def waiting(cli: Cli, folder: Path, execution_id: str = "o") -> None:
    documents(folder)
    run = ("run", "v1.yml", "--services", "till", "--id", execution_id, "--input", '{"orders": [1, 9, 2]}')
    assert cli(*run).code == 3


def finished(cli: Cli, folder: Path) -> None:
    waiting(cli, folder)
    cli("resume", "o", "--response", '"a"', "--services", "till")
    assert cli("resume", "o", "--response", '"b"', "--services", "till").code == 0


# --- fork -------------------------------------------------------------------------------------------------------------


def test_a_fork_is_driven_and_told_like_a_run(cli: Cli, folder: Path) -> None:
    finished(cli, folder)
    done = cli("fork", "o", "--from", "each", "--set", "most=10", "--id", "f", "--services", "till", "--by", "ann")
    assert done.code == 3
    assert "waiting  order  f" in done.out
    assert "durable-flow resume f --response JSON --services till" in done.out
    shown = cli("show", "f", "--json", "--entries").document
    assert shown["execution"]["forked_from"] == "o"
    assert shown["entries"][0]["actor"] == "ann"
    assert shown["entries"][0]["changes"] == {"most": 10}
    assert "forked from  o\n" in cli("show", "f").out


def test_a_fork_as_json_and_with_labels(cli: Cli, folder: Path) -> None:
    finished(cli, folder)
    done = cli("fork", "o", "--from", "done", "--label", "try=2", "--services", "till", "--json")
    assert (done.code, done.document["status"], done.document["output"]) == (0, "completed", ["a", None, "b"])
    (one,) = cli("list", "--label", "try=2", "--json").document["executions"]
    assert (one["id"], one["forked_from"]) == (done.document["execution_id"], "o")


def test_a_fork_at_a_step_inside_a_loop(cli: Cli, folder: Path) -> None:
    finished(cli, folder)
    done = cli("fork", "o", "--from", "each[2]/sign", "--id", "f", "--services", "till")
    assert done.code == 3
    assert cli("resume", "f", "--response", '"c"', "--services", "till", "--json").document["output"] == [
        "a",
        None,
        "c",
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--from", "eech"), "has no step 'eech' (did you mean 'each'?)"),
        (("--from", "sign"), "stands inside another one"),
        (("--from", "each", "--set", "mots=1"), "'mots' is no variable of this workflow (did you mean 'most'?)"),
        (("--from", "each", "--set", "most"), "'most' sets nothing: write NAME=JSON"),
        (("--from", "each", "--set", "most=many"), "is not JSON"),
        ((), "Missing option '--from'"),
    ],
)
def test_what_cannot_be_forked_is_said_and_starts_nothing(
    cli: Cli, folder: Path, options: tuple[str, ...], told: str
) -> None:
    waiting(cli, folder)
    done = cli("fork", "o", *options, "--services", "till")
    assert done.code == 2
    assert told in done.err
    assert len(cli("list", "--json").document["executions"]) == 1


def test_a_fork_needs_the_services_of_its_workflow(cli: Cli, folder: Path) -> None:
    waiting(cli, folder)
    done = cli("fork", "o", "--from", "each")
    assert done.code == 2
    assert "calls the service 'till', which nothing provides" in done.err
    assert cli("fork", "nobody", "--from", "each", "--services", "till").code == 2


# --- diff -------------------------------------------------------------------------------------------------------------


def test_diff_shows_what_a_fork_did_otherwise(cli: Cli, folder: Path) -> None:
    finished(cli, folder)
    cli("fork", "o", "--from", "each", "--set", "most=10", "--id", "f", "--services", "till")
    done = cli("diff", "o", "f")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "1 same, 3 changed, 4 only in o"
    assert "  = limit  assign" in lines
    assert "  ~ each[0]/pay  call  input" in lines
    assert '    - input  {"amount": 1, "most": 2}' in lines
    assert '    + input  {"amount": 1, "most": 10}' in lines
    assert "  - done  end" in lines
    found = cli("diff", "f", "o", "--json").document
    assert (found["a"], found["b"]) == ("f", "o")
    states = {step["path"]: step["state"] for step in found["steps"]}
    assert (states["limit"], states["each[0]/pay"], states["done"]) == ("same", "changed", "only_b")


def test_diff_of_what_is_not_there_or_another_workflow(cli: Cli, folder: Path) -> None:
    finished(cli, folder)
    cli("run", "hello.yml", "--id", "h")
    assert "belongs to workflow 'hello'" in cli("diff", "o", "h").err
    assert cli("diff", "o", "nobody", "--json").document["error"]["type"] == "ExecutionNotFound"


# --- where ------------------------------------------------------------------------------------------------------------


def test_where_shows_the_steps_and_the_items(cli: Cli, folder: Path) -> None:
    waiting(cli, folder)
    cli("resume", "o", "--response", '"a"', "--services", "till")
    done = cli("where", "o")
    assert done.code == 0
    assert done.out.splitlines() == [
        "⏸ each[2]/sign  halt  waiting",
        "each  1 completed, 1 skipped, 1 waiting",
        "  [1]  skipped: ValueError: 9 is more than 2",
    ]
    found = cli("where", "o", "--json").document
    assert found["status"] == "halted"
    assert [(place["path"], place["loop"]) for place in found["places"]] == [("each[2]/sign", "each")]
    assert [item["state"] for item in found["loops"][0]["items"]] == ["completed", "skipped", "waiting"]


def test_where_leads_down_to_a_child(cli: Cli, folder: Path) -> None:
    (folder / "up.yml").write_text(
        "id: up\nname: Up\nsteps:\n  - {id: down, type: workflow, workflow_id: question, output: result}\n"
    )
    assert cli("run", "up.yml", "--workflows", "halt.yml", "--id", "u").code == 3
    assert cli("where", "u").out.splitlines() == ["⏸ ask  halt  waiting", "  in  u: down → u.down"]


def test_where_of_what_is_over_and_of_what_is_not_there(cli: Cli, folder: Path) -> None:
    cli("run", "hello.yml", "--id", "h")
    done = cli("where", "h")
    assert (done.code, done.out, done.err) == (0, "", "it is completed and stands nowhere\n")
    assert cli("where", "nobody").code == 2


# --- migrate-executions -----------------------------------------------------------------------------------------------


def test_the_plan_says_what_would_become_of_each_and_changes_nothing(cli: Cli, folder: Path) -> None:
    waiting(cli, folder, "o1")
    waiting(cli, folder, "o2")
    done = cli("migrate-executions", "--plan", "v1.yml", "v2.yml")
    assert (done.code, done.out) == (0, "✔ o2  can go on\n✔ o1  can go on\n")
    found = cli("migrate-executions", "--plan", "v1.yml", "v2.yml", "--json").document
    assert [(one["execution_id"], one["verdict"], one["migrated"]) for one in found["executions"]] == [
        ("o2", "safe", False),
        ("o1", "safe", False),
    ]
    assert (found["workflow_id"], found["from"]["version"], found["to"]["version"]) == ("order", "1", "2")
    assert cli("show", "o1", "--json").document["execution"]["workflow_version"] == "1"


def test_they_are_migrated_and_go_on_with_the_new_one(cli: Cli, folder: Path) -> None:
    waiting(cli, folder)
    done = cli("migrate-executions", "v1.yml", "v2.yml", "--by", "ann")
    assert (done.code, done.out) == (0, "✔ o  migrated\n")
    cli("resume", "o", "--response", '"a"', "--services", "till")
    cli("resume", "o", "--response", '"b"', "--services", "till")
    shown = cli("show", "o", "--json", "--entries").document
    assert shown["execution"]["workflow_version"] == "2"
    assert shown["execution"]["status"] == "completed"
    assert [entry["actor"] for entry in shown["entries"] if entry["action"] == "migrated"] == ["ann"]
    assert shown["steps"][-1]["path"] == "over"
    again = cli("migrate-executions", "v1.yml", "v2.yml")
    assert (again.code, again.err) == (0, "no execution has the old definition\n")


def test_what_must_stay_says_why_and_the_exit_code_too(cli: Cli, folder: Path) -> None:
    waiting(cli, folder)
    (folder / "v3.yml").write_text((folder / "v2.yml").read_text().replace("id: each", "id: every").replace(
        "next: each", "next: every"))  # fmt: skip
    for options in (("--plan",), ()):
        done = cli("migrate-executions", *options, "v1.yml", "v3.yml")
        assert done.code == 1
        assert done.out.startswith("✖ o  must finish as it began\n  why  step 'each', at which it stands, is not in")
    assert cli("show", "o", "--json").document["execution"]["workflow_version"] == "1"


def test_a_step_with_another_name_is_proposed_and_mapped(cli: Cli, folder: Path) -> None:
    cli("run", "halt.yml", "--id", "q")
    (folder / "new.yml").write_text((folder / "halt.yml").read_text().replace("id: ask", "id: asking"))
    done = cli("migrate-executions", "halt.yml", "new.yml")
    assert done.code == 1
    assert "  try  --map ask=asking\n" in done.out
    assert cli("migrate-executions", "halt.yml", "new.yml", "--map", "ask=asking").out == "✔ q  migrated\n"
    assert cli("where", "q").out == "⏸ asking  halt  waiting\n"
    assert _steps(cli, "q") == [("asking", "asking", "waiting")]
    assert cli("resume", "q", "--response", '"x"').code == 0
    assert _steps(cli, "q")[0] == ("asking", "asking", "completed")


def _steps(cli: Cli, execution_id: str) -> list[tuple[str, str, str]]:
    steps = cli("show", execution_id, "--json").document["steps"]
    return [(step["path"], step["name"], step["state"]) for step in steps]


def test_failed_ones_only_where_that_is_asked_for(cli: Cli, folder: Path) -> None:
    cli("run", "pay.yml", "--id", "p", "--services", "shop")
    (folder / "new.yml").write_text((folder / "pay.yml").read_text().replace("total: 5", "total: 6"))
    assert "no execution" in cli("migrate-executions", "pay.yml", "new.yml").err
    assert cli("migrate-executions", "--failed", "pay.yml", "new.yml").out == "✔ p  migrated\n"
    (folder / "money").touch()
    assert cli("retry", "p", "--services", "shop", "--json").document["output"] == "paid 6"


def test_those_with_a_third_definition_are_counted(cli: Cli, folder: Path) -> None:
    waiting(cli, folder)
    (folder / "v0.yml").write_text((folder / "v1.yml").read_text().replace('"1"', '"0"'))
    done = cli("migrate-executions", "v0.yml", "v2.yml")
    assert done.err == ("no execution has the old definition\n1 live execution has neither of the two definitions\n")


def test_two_workflows_are_a_mistake(cli: Cli, folder: Path) -> None:
    waiting(cli, folder)
    done = cli("migrate-executions", "v1.yml", "hello.yml")
    assert (done.code, "they must be one" in done.err) == (2, True)
