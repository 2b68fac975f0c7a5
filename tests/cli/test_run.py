import io
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def test_a_completed_run_prints_the_output_and_ends_with_0(cli: Cli) -> None:
    done = cli("run", "hello.yml", "--input", '{"name": "Ada"}')
    assert done.code == 0
    first, second = done.out.splitlines()
    assert first.startswith("✔ completed  hello  ")
    assert second == "Hello, Ada!"


def test_steps_are_told_on_standard_error_as_plain_lines(cli: Cli) -> None:
    done = cli("run", "hello.yml")
    assert [line.split()[1:] for line in done.err.splitlines()] == [["completed", "greet"]]
    assert cli("run", "hello.yml", "--quiet").err == ""


def test_json_is_one_document_and_nothing_else(cli: Cli) -> None:
    done = cli("run", "hello.yml", "--json", "--id", "h1")
    assert done.err == ""
    assert done.document == {
        "execution_id": "h1",
        "workflow_id": "hello",
        "status": "completed",
        "output": "Hello, you!",
        "error": None,
        "error_info": None,
        "compensated": False,
        "dry_run": False,
        "halts": [],
    }


def test_input_comes_from_a_file_or_from_standard_input(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "input.json").write_text('{"name": "Bo"}')
    assert "Hello, Bo!" in cli("run", "hello.yml", "--input", "@input.json").out
    monkeypatch.setattr("sys.stdin", io.StringIO('{"name": "Cy"}'))
    assert "Hello, Cy!" in cli("run", "hello.yml", "--input", "-").out


def test_a_run_with_the_same_id_starts_nothing_new(cli: Cli) -> None:
    assert cli("run", "hello.yml", "--id", "once").code == 0
    assert cli("run", "hello.yml", "--id", "once").code == 0
    assert [one["id"] for one in cli("list", "--json").document["executions"]] == ["once"]


def test_labels_and_the_trigger_are_kept(cli: Cli) -> None:
    cli("run", "hello.yml", "--id", "h", "--label", "team=red", "--label", "env=prod=1")
    kept = cli("show", "h", "--json").document["execution"]
    assert (kept["labels"], kept["trigger"]) == ({"team": "red", "env": "prod=1"}, "cli")


def test_a_halted_run_ends_with_3_and_says_what_to_type(cli: Cli) -> None:
    done = cli("run", "halt.yml", "--id", "q1")
    assert done.code == 3
    assert "⏸ waiting  question  q1" in done.out
    assert "halt  Which address?" in done.out
    assert "known  Main St" in done.out
    assert "  → durable-flow resume q1 --response JSON\n" in done.out


def test_an_approval_names_who_may_answer(cli: Cli) -> None:
    done = cli("run", "approval.yml", "--id", "e1")
    assert "approvers  alice, bob" in done.out
    assert "  → durable-flow approve e1 --by alice\n" in done.out
    assert "  → durable-flow reject e1 --by alice --comment WHY\n" in done.out


def test_the_commands_to_type_repeat_store_and_services(cli: Cli) -> None:
    store = "sqlite:///my flows.db"
    done = cli("run", "halt.yml", "--id", "q", "--store", store, "--services", "shop")
    assert "resume q --response JSON --store 'sqlite:///my flows.db' --services shop\n" in done.out
    why = cli("why", "q", "--store", store)
    assert "resume q --response JSON --store 'sqlite:///my flows.db'\n" in why.out


def test_several_waits_are_told_apart_by_their_ids(cli: Cli) -> None:
    done = cli("run", "two.yml", "--id", "t", "--json")
    commands = [command for halt in done.document["halts"] for command in halt["commands"]]
    assert sorted(commands) == [
        "durable-flow approve t --wait-id t:both/left",
        "durable-flow reject t --wait-id t:both/left --comment WHY",
        "durable-flow resume t --response JSON --wait-id t:both/right",
    ]


def test_a_failed_run_ends_with_1_and_says_where_and_how_to_retry(cli: Cli) -> None:
    done = cli("run", "pay.yml", "--services", "shop", "--id", "p1")
    assert done.code == 1
    assert "✖ failed  pay  p1" in done.out
    assert "CardDeclined: no money for 5\n  at charge\n" in done.out
    assert "  → durable-flow retry p1 --services shop\n" in done.out


def test_a_retry_goes_on_at_the_step_that_failed(cli: Cli, folder: Path) -> None:
    cli("run", "pay.yml", "--services", "shop", "--id", "p1")
    (folder / "money").touch()
    done = cli("retry", "p1", "--services", "shop")
    assert (done.code, done.out.splitlines()[1]) == (0, "paid 5")


def test_what_a_service_prints_does_not_get_into_the_document(cli: Cli, folder: Path) -> None:
    (folder / "chat.yml").write_text(
        "id: chat\nname: Chat\nsteps:\n  - {id: a, type: call, service: Shop, method: chatter, output: result}\n"
    )
    done = cli("run", "chat.yml", "--services", "shop", "--json")
    assert done.document["output"] == "said"
    assert done.err == "what a service prints\n"


def test_a_store_in_memory_says_that_nothing_is_left(cli: Cli, folder: Path) -> None:
    done = cli("run", "halt.yml", "--store", "sqlite://:memory:")
    assert done.code == 3
    assert "→" not in done.out
    assert "in memory" in done.err
    assert not list(folder.glob("*.db"))


def test_store_and_services_come_from_the_environment(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_FLOW_STORE", "sqlite:///other.db")
    monkeypatch.setenv("DURABLE_FLOW_SERVICES", "shop")
    done = cli("run", "pay.yml", "--id", "p")
    assert "→ durable-flow retry p\n" in done.out
    assert (folder / "other.db").exists()
    assert not (folder / "durable_flow.db").exists()


def test_secrets_are_named_environment_variables(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "secret.yml").write_text(
        "id: secret\nname: Secret\nsteps:\n"
        "  - {id: a, type: call, service: keys, method: length, input: {key: $secrets.API_KEY}, output: result}\n"
    )
    (folder / "keys.py").write_text("def length(key):\n    return len(key)\n")
    monkeypatch.setenv("API_KEY", "hunter2")
    done = cli("run", "secret.yml", "--services", "keys", "--secret", "API_KEY", "--id", "s")
    assert done.out.splitlines()[1] == "7"
    assert "hunter2" not in cli("show", "s", "--entries", "--vars").out


def test_child_workflows_come_from_workflows(cli: Cli, folder: Path) -> None:
    (folder / "parent.yml").write_text(
        "id: parent\nname: Parent\nsteps:\n  - {id: ask, type: workflow, workflow_id: question, output: result}\n"
    )
    done = cli("run", "parent.yml", "--workflows", "halt.yml", "--id", "top")
    assert done.code == 3
    assert "question ▸ ask" in done.err
    assert "→ durable-flow resume top --response JSON --workflows halt.yml" in done.out
    done = cli("resume", "top", "--response", '"Side St"', "--workflows", "halt.yml")
    assert (done.code, done.out.splitlines()[1]) == (0, "Side St")
    shown = cli("show", "top", "--json").document
    assert [child["status"] for child in shown["children"]] == ["completed"]


def test_children_that_nobody_waits_for_are_given_their_time(cli: Cli, folder: Path) -> None:
    (folder / "parent.yml").write_text(
        "id: parent\nname: Parent\nsteps:\n  - {id: go, type: workflow, workflow_id: hello, wait: false}\n"
    )
    assert cli("run", "parent.yml", "--workflows", "hello.yml", "--id", "top").code == 0
    assert [child["status"] for child in cli("show", "top", "--json").document["children"]] == ["completed"]


def test_output_that_is_no_text_is_shown_as_json(cli: Cli, folder: Path) -> None:
    (folder / "list.yml").write_text("id: l\nname: L\nsteps:\n  - {id: a, type: assign, set: {result: [1, null]}}\n")
    done = cli("run", "list.yml")
    assert json.loads(done.out.split("\n", 1)[1]) == [1, None]


def test_data_cannot_steer_the_terminal(cli: Cli, folder: Path) -> None:
    done = cli("run", "hello.yml", "--id", "x", "--input", r'{"name": "\u001b[2J\u009b\u202e"}')
    assert done.out.splitlines()[1] == r"Hello, \x1b[2J\x9b\u202e!"
    shown = cli("show", "x", "--vars", "--entries").out
    assert not {"\x1b", "\x9b", "\u202e"} & set(shown)
