"""`queue`: pausing queues from a terminal."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def store(folder: Path, cli: Cli) -> None:
    cli("run", "hello.yml")


def test_a_queue_is_paused_listed_and_unpaused(store: None, cli: Cli) -> None:
    assert "no queue is paused or limited" in cli("queue", "list").out
    done = cli("queue", "pause", "mail", "--by", "ann", "--reason", "the server is full")
    assert done.code == 0
    assert "paused by ann since" in done.out
    assert "the server is full" in cli("queue", "list").out
    cli("queue", "pause", "-")
    assert "executions without a queue" in cli("queue", "list").out
    assert cli("queue", "unpause", "mail").code == 0
    assert "mail" not in cli("queue", "unpause", "-").out


def test_a_queue_is_limited_listed_and_reset(store: None, cli: Cli) -> None:
    assert "mail  0 pending  0 of 5 under way  decided" in cli("queue", "limit", "mail", "--concurrency", "5").out
    assert "0 under way  at most 100 in 1 min" in cli("queue", "limit", "mail", "--rate", "100/1m").out
    assert cli("queue", "limit", "mail", "--none", "--json").document["queues"][0]["decided"] is not None
    assert "mail" not in cli("queue", "reset", "mail").out


def test_as_json(store: None, cli: Cli) -> None:
    assert cli("queue", "list", "--json").document == {"queues": []}
    done = cli("queue", "pause", "mail", "--by", "ann", "--json").document
    assert done["changed"] is True
    assert [(one["queue"], one["paused"]["by"]) for one in done["queues"]] == [("mail", "ann")]
    assert cli("queue", "pause", "mail", "--json").document["changed"] is False
    assert cli("queue", "unpause", "mail", "--json").document == {"changed": True, "queues": []}
    (queue,) = cli("queue", "limit", "mail", "--concurrency", "2", "--rate", "9/30s", "--json").document["queues"]
    assert queue["limits"] == queue["decided"] == {"concurrency": 2, "rate": 9, "per": 30.0}
    assert (queue["declared"], queue["pending"], queue["under_way"]) == (None, 0, 0)


def test_what_changes_nothing_says_so(store: None, cli: Cli) -> None:
    assert "not paused" in cli("queue", "unpause", "mail").err
    cli("queue", "pause", "mail")
    assert "paused already" in cli("queue", "pause", "mail").err
    cli("queue", "limit", "mail", "--concurrency", "2")
    assert "limited so already" in cli("queue", "limit", "mail", "--concurrency", "2").err
    cli("queue", "reset", "mail")
    assert "nothing was decided" in cli("queue", "reset", "mail").err


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "mail"], ["pause"], ["unpause"], ["unpause", "a", "--by", "ann"], ["stop", "a"], [], ["limit", "a"],
        ["limit", "a", "--none", "--concurrency", "2"], ["pause", "a", "--concurrency", "2"], ["reset"],
        ["reset", "a", "--none"], ["limit", "-", "--concurrency", "2"], ["limit", "a", "--rate", "100"],
        ["limit", "a", "--rate", "x/1m"], ["limit", "a", "--rate", "5/"],
    ],
)  # fmt: skip
def test_wrong_usage_is_told(store: None, cli: Cli, arguments: list[str]) -> None:
    done = cli("queue", *arguments)
    assert done.code == 2
    assert "durable-flow queue --help" in done.err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--concurrency", "0"], "1 to 10,000"),
        (["--rate", "20000/1h"], "give a shorter time"),
        (["--rate", "5/soon"], "not a duration"),
    ],
)
def test_limits_that_are_none_are_told(store: None, cli: Cli, option: list[str], said: str) -> None:
    done = cli("queue", "limit", "mail", *option)
    assert done.code == 2
    assert said in done.err


def test_a_name_that_is_none_is_told(store: None, cli: Cli) -> None:
    done = cli("queue", "pause", "a\nb")
    assert done.code == 2
    assert "1 to 255 printable characters" in done.err
