"""`pause` and `unpause`: what is said of an execution that stands still, and what makes it go on."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def waiting(folder: Path, cli: Cli) -> None:
    assert cli("run", "halt.yml", "--id", "q").code == 3


def test_a_paused_execution_says_so_everywhere(waiting: None, cli: Cli) -> None:
    done = cli("pause", "q", "--by", "ann", "--reason", "the bank is down")
    assert done.code == 0
    assert "pause  the bank is down" in done.out
    assert "→ durable-flow unpause q" in done.out
    assert "paused" in cli("list").out
    shown = " ".join(cli("show", "q").out.split())
    assert "paused by ann, " in shown
    assert ": the bank is down" in shown
    why = cli("why", "q").out
    assert "paused by ann: the bank is down" in why
    assert "→ durable-flow unpause q" in why


def test_an_answer_is_taken_and_it_goes_on_when_it_is_unpaused(waiting: None, cli: Cli) -> None:
    cli("pause", "q")
    answered = cli("resume", "q", "--response", '"Main St"', "--json")
    assert (answered.code, [halt["type"] for halt in answered.document["halts"]]) == (3, ["pause"])
    assert answered.document["halts"][0]["commands"] == ["durable-flow unpause q"]
    done = cli("unpause", "q", "--by", "bob", "--json")
    assert (done.code, done.document["output"]) == (0, "Main St")
    trail = cli("show", "q", "--entries").out
    assert "paused" in trail
    assert "by bob" in trail


def test_it_can_be_left_to_workers(waiting: None, cli: Cli) -> None:
    cli("pause", "q")
    cli("resume", "q", "--response", "1")
    assert cli("unpause", "q", "--leave").code == 0
    assert cli("recover", "q", "--json").document["output"] == 1


def test_what_is_over_cannot_be_paused(folder: Path, cli: Cli) -> None:
    cli("run", "hello.yml", "--id", "h")
    done = cli("pause", "h")
    assert (done.code, "cannot be paused any more" in done.err) == (2, True)
    assert cli("pause", "nobody").code == 2
