"""`queue`: pausing queues from a terminal."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def store(folder: Path, cli: Cli) -> None:
    cli("run", "hello.yml")


def test_a_queue_is_paused_listed_and_unpaused(store: None, cli: Cli) -> None:
    assert "no queue is paused" in cli("queue", "list").out
    done = cli("queue", "pause", "mail", "--by", "ann", "--reason", "the server is full")
    assert done.code == 0
    assert "mail  by ann  since" in done.out
    assert "the server is full" in cli("queue", "list").out
    cli("queue", "pause", "-")
    assert "executions without a queue" in cli("queue", "list").out
    assert cli("queue", "unpause", "mail").code == 0
    assert "mail" not in cli("queue", "unpause", "-").out


def test_as_json(store: None, cli: Cli) -> None:
    assert cli("queue", "list", "--json").document == {"paused": []}
    done = cli("queue", "pause", "mail", "--by", "ann", "--json").document
    assert done["changed"] is True
    assert [(paused["queue"], paused["by"]) for paused in done["paused"]] == [("mail", "ann")]
    assert cli("queue", "pause", "mail", "--json").document["changed"] is False
    assert cli("queue", "unpause", "mail", "--json").document == {"changed": True, "paused": []}


def test_what_changes_nothing_says_so(store: None, cli: Cli) -> None:
    assert "not paused" in cli("queue", "unpause", "mail").err
    cli("queue", "pause", "mail")
    assert "paused already" in cli("queue", "pause", "mail").err


@pytest.mark.parametrize(
    "arguments", [["list", "mail"], ["pause"], ["unpause"], ["unpause", "a", "--by", "ann"], ["stop", "a"], []]
)
def test_wrong_usage_is_told(store: None, cli: Cli, arguments: list[str]) -> None:
    done = cli("queue", *arguments)
    assert done.code == 2
    assert "durable-flow queue --help" in done.err


def test_a_name_that_is_none_is_told(store: None, cli: Cli) -> None:
    done = cli("queue", "pause", "a\nb")
    assert done.code == 2
    assert "1 to 255 printable characters" in done.err
