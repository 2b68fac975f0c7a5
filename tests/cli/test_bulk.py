"""`cancel`, `retry`, `pause` and `unpause` of all executions that match."""

import io
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def three(folder: Path, cli: Cli) -> None:
    for name, label in (("a", "red"), ("b", "red"), ("c", "blue")):
        assert cli("run", "halt.yml", "--id", name, "--label", f"team={label}").code == 3


def status(cli: Cli, name: str) -> str:
    return str(cli("why", name, "--json").document["status"])


def test_all_that_match_are_cancelled(three: None, cli: Cli) -> None:
    done = cli("cancel", "--label", "team=red", "--reason", "ordered twice", "--by", "ann", "--yes")
    assert (done.code, done.out.strip()) == (0, "2 executions cancelled")
    assert [status(cli, name) for name in "abc"] == ["cancelled", "cancelled", "halted"]
    assert "by ann" in cli("show", "a", "--entries").out


def test_a_dry_run_only_counts(three: None, cli: Cli) -> None:
    done = cli("cancel", "--workflow", "question", "--dry-run")
    assert (done.code, done.out.strip()) == (0, "3 executions would be cancelled")
    document = cli("cancel", "--everything", "--dry-run", "--json").document
    assert (sorted(document["matched"]), document["done"], document["dry_run"]) == (["a", "b", "c"], [], True)
    assert status(cli, "a") == "halted"


def test_where_nobody_can_be_asked_nothing_is_done(three: None, cli: Cli) -> None:
    done = cli("cancel", "--status", "halted")
    assert done.code == 2
    assert "cancel 3 executions?" in done.err
    assert "--yes" in done.err
    assert status(cli, "a") == "halted"


@pytest.mark.parametrize(("said", "code", "left"), [("y\n", 0, "cancelled"), ("n\n", 2, "halted"), ("", 130, "halted")])
def test_somebody_at_a_terminal_is_asked(
    three: None, cli: Cli, monkeypatch: pytest.MonkeyPatch, said: str, code: int, left: str
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(said))
    assert cli("cancel", "--label", "team=blue").code == code
    assert status(cli, "c") == left


def test_no_more_than_the_limit(three: None, cli: Cli) -> None:
    done = cli("cancel", "--workflow", "question", "--limit", "2", "-y")
    assert done.out.strip() == "2 executions cancelled"
    assert "there are more" in done.err


def test_what_could_not_be_done_is_told(three: None, cli: Cli) -> None:
    cli("cancel", "a")
    done = cli("cancel", "--label", "team=red", "--status", "halted", "--status", "cancelled", "--yes")
    assert (done.code, done.out.strip()) == (1, "1 execution cancelled")
    assert "a is not cancelled: it is cancelled" in done.err


def test_failed_ones_are_left_to_workers(folder: Path, cli: Cli) -> None:
    for name in "ab":
        assert cli("run", "pay.yml", "--id", name, "--services", "shop").code == 1
    Path("money").touch()
    done = cli("retry", "--workflow", "pay", "--since", "1h", "--by", "ann", "--yes", "--json")
    assert (done.code, sorted(done.document["done"])) == (0, ["a", "b"])
    assert status(cli, "a") == "running"
    assert cli("recover", "a", "--services", "shop").code == 0


def test_all_that_match_are_paused_and_unpaused(three: None, cli: Cli) -> None:
    assert (
        cli("pause", "--label", "team=red", "--reason", "the bank is down", "-y").out.strip() == "2 executions paused"
    )
    assert "the bank is down" in cli("why", "b").out
    done = cli("unpause", "--workflow", "question", "-y")
    assert (done.code, done.out.strip()) == (1, "2 executions unpaused")
    assert "c is not unpaused: it is not paused" in done.err


def test_nothing_matches(three: None, cli: Cli) -> None:
    done = cli("cancel", "--workflow", "none")
    assert (done.code, done.out.strip()) == (0, "no execution matches")


@pytest.mark.parametrize(
    "arguments",
    [[], ["a", "--workflow", "question"], ["a", "--yes"], ["--everything", "--status", "halted"], ["--limit", "3"]],
)
@pytest.mark.parametrize("command", ["cancel", "retry", "pause", "unpause"])
def test_wrong_usage_is_told_and_changes_nothing(three: None, cli: Cli, command: str, arguments: list[str]) -> None:
    done = cli(command, *arguments)
    assert done.code == 2
    assert f"durable-flow {command} --help" in done.err
    assert status(cli, "a") == "halted"
