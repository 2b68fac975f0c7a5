"""A sample of the crash suite; `make crash` plays all of it."""

import logging

import pytest

from durable_flow.testing import ERRORS, FILE, KILLS
from tests.crash import suite


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "durable_flow")


@pytest.mark.parametrize("name", suite.names())
def test_an_execution_survives_a_fault_anywhere(name: str) -> None:
    every = 1 if name in ("w01", "w02") else 3 if name in suite.SMALL else 29
    suite.singles([name], every=every).raise_for_bad()


@pytest.mark.parametrize("name", ["w01", "w03"])
def test_an_execution_survives_a_fault_anywhere_on_disk(name: str) -> None:
    suite.singles([name], url=FILE, modes=(*KILLS, *ERRORS), every=5).raise_for_bad()


def test_every_operation_is_hurt_in_every_way() -> None:
    report = suite.singles(["w01", "w02"])
    assert report.sites
    assert report.covered == report.sites


def test_an_execution_survives_two_deaths() -> None:
    suite.pairs(["w01"], every=4).raise_for_bad()


def test_faults_drawn_by_chance_change_nothing() -> None:
    suite.random_pairs(["w05", "w08", "w10"], count=12, seed=2).raise_for_bad()


@pytest.mark.parametrize("name", ["w01", "w04"])
def test_a_caller_can_be_cancelled_at_any_await(name: str) -> None:
    suite.turns([name], every=9).raise_for_bad()
