"""What is left to workers survives every fault as what a caller drives does: from the commit that stores it on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from durable_flow.testing import CANCELS, ERRORS, KILLS, NETWORK, Explorer, FakeClock, Mode, Scenario, Scripted, answer
from tests.engine.aid import flow

PAY = flow("""
    - {id: reserve, type: call, service: Bank, method: reserve, next: nap}
    - {id: nap, type: wait, for: 5s, next: ask}
    - {id: ask, type: approval, prompt: Pay?, next: charge}
    - {id: charge, type: call, service: Bank, method: charge, output: result}
""")

ALONE = flow("""
    - {id: reserve, type: call, service: Bank, method: reserve, next: nap}
    - {id: nap, type: wait, for: 5s, next: charge}
    - {id: charge, type: call, service: Bank, method: charge, output: result}
""", id="alone")  # fmt: skip


def bank(clock: FakeClock) -> Mapping[str, Any]:
    return {"Bank": Scripted(clock, reserve="reserved", charge="charged")}


WITH_PERSON = Scenario(
    name="background, with a person",
    workflow=PAY,
    services=bank,
    moves={"ask": answer(approved=True, by="ann")},
    restart="background",
    worker=True,
)
NOBODY = Scenario(name="background", workflow=ALONE, services=bank, restart="background", worker=True)


@pytest.mark.parametrize(
    ("scenario", "modes"),
    [
        (WITH_PERSON, KILLS),
        (WITH_PERSON, CANCELS),
        (WITH_PERSON, NETWORK),
        (WITH_PERSON, ERRORS),
        (NOBODY, (*KILLS, *ERRORS)),
    ],
    ids=["kills", "cancels", "network", "errors", "nobody"],
)
def test_a_fault_at_any_point_makes_no_difference(scenario: Scenario, modes: tuple[Mode, ...]) -> None:
    with Explorer(scenario) as explorer:
        report = explorer.each(modes)
    report.raise_for_bad()
    assert report.sites <= report.covered
    assert report.cases > 50
    print(report)
