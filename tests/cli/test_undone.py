"""Executions of which steps were undone: what is said of them, and who undoes."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.test_waits import commands, lines

TRIP = """
id: trip
name: Trip
steps:
  - {id: flight, type: call, service: Agency, method: book, input: flight, next: nights,
     compensate: {service: Agency, method: cancel, input: flight}}
  - id: nights
    type: loop
    over: [1]
    next: ask
    do:
      - {id: room, type: call, service: Agency, method: book, input: room,
         compensate: {service: Agency, method: cancel, input: taken}}
  - {id: ask, type: halt, next: visa}
  - {id: visa, type: call, service: Agency, method: book, input: visa}
finally:
  - {id: tell, type: call, service: Agency, method: tell, input: $outcome.status}
"""

AGENCY = """
class Agency:
    def book(self, what):
        if what == "visa":
            raise ValueError("no visa")

    def cancel(self, what):
        if what == "taken":
            raise ValueError("too late")

    def tell(self, status):
        return status

services = {"Agency": Agency()}
"""


@pytest.fixture
def trip(folder: Path, cli: Cli) -> Cli:
    (folder / "trip.yml").write_text(TRIP)
    (folder / "agency.py").write_text(AGENCY)
    assert cli("run", "trip.yml", "--id", "t", "--services", "agency").code == 3
    return cli


def test_an_execution_that_was_undone_is_not_offered_for_a_retry(trip: Cli) -> None:
    failed = trip("resume", "t", "--services", "agency")
    assert failed.code == 1
    assert commands(failed.out) == ["durable-flow show t"]
    refused = trip("retry", "t", "--services", "agency")
    assert refused.code == 2
    assert "error: execution 't' was undone when it failed; start a new one" in refused.err
    assert commands(trip("why", "t").out) == []


def test_what_was_undone_stands_in_one_place_of_the_tree(trip: Cli) -> None:
    trip("resume", "t", "--services", "agency")
    shown = [line for line in lines(trip("show", "t").out) if "compensation" in line or "undone" in line]
    assert [line.split(" ms")[0].rstrip("0123456789 ") for line in shown] == [
        "undone what its steps did was undone",
        "✖ undone",
        "├─ ✖ nights[0]/room compensation",
        "└─ ↶ flight compensation",
    ]
    steps = trip("show", "t", "--json").document["steps"]
    assert [(step["name"], step["state"]) for step in steps[-2:]] == [("undone", "failed"), ("finally", "completed")]


def test_cancelling_without_the_services_leaves_the_rest_to_a_worker(trip: Cli) -> None:
    refused = trip("cancel", "t")
    assert refused.code == 2
    assert "execution 't' is cancelled, and what follows is left to a worker" in refused.err
    assert "ends cancelled, when what comes after that is done" in lines(trip("show", "t").out)
    assert lines(trip("why", "t").out)[0] == "▶ it stopped at what comes after it was cancelled and nobody drives it"
    assert trip("recover", "t", "--services", "agency").code == 1
    assert trip("show", "t", "--json").document["execution"]["status"] == "cancelled"


def test_cancelling_with_the_services_undoes_the_steps(trip: Cli) -> None:
    cancelled = trip("cancel", "t", "--services", "agency", "--json")
    assert (cancelled.code, cancelled.document["compensated"]) == (0, True)


WATCHED = AGENCY.replace(
    "    def cancel(self, what):\n",
    """    def cancel(self, what):
        seen = subprocess.run([sys.executable, "-m", "durable_flow", "show", "t", "--json"], capture_output=True)
        with open(f"seen-{what}.json", "wb") as file:
            file.write(seen.stdout)
""",
)


def test_while_steps_are_undone_that_runs_and_not_the_step_that_failed(trip: Cli, folder: Path) -> None:
    (folder / "watched.py").write_text("import subprocess, sys\n" + WATCHED)
    assert trip("resume", "t", "--services", "watched").code == 1

    def seen(what: str) -> list[tuple[str, str]]:
        return [
            (step["name"], step["state"]) for step in json.loads((folder / f"seen-{what}.json").read_bytes())["steps"]
        ]

    before = [("flight", "completed"), ("nights", "completed"), ("ask", "completed"), ("visa", "failed")]
    assert seen("taken") == before
    assert seen("flight") == [*before, ("undone", "running")]
