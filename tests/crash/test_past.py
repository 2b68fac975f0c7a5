"""A fork is an execution like any other: whatever happens while it is made, it is there as a whole or not at all, its
trail tells it from the first version on, and nothing it does is lost or done twice."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from durable_flow.testing import CANCELS, ERRORS, FILE, KILLS, MEMORY, NETWORK, Explorer, Mode, Scenario, answer
from tests.reference import loop, people, workflow


def forking(step: str, changes: dict[str, Any]) -> Any:
    """Makes a fork when the execution is over, and answers what it asks, as often as it takes."""

    async def epilogue(runtime: df.Runtime, execution_id: str) -> None:
        runner = await runtime.runner_of(execution_id)
        result = await runner.fork(execution_id, from_step=step, set=changes, execution_id="fork")
        for _ in range(3):
            if result.halted:
                approves = {"approved": True, "by": "ann"} if result.halts[0].type == "approval" else {"response": "up"}
                result = await runner.resume("fork", wait_id=result.halts[0].wait_id, **approves)
        assert result.completed, result

    return epilogue


PACKING = Scenario(
    name="a fork inside loops",
    workflow=workflow("w03_loop"),
    services=loop,
    input={"orders": [{"lines": ["a", "b"]}, {"lines": ["c"]}]},
    epilogue=forking("orders[0]/lines[1]/pack", {"parcel": "another"}),
)
ASKING = Scenario(
    name="a fork beside waits",
    workflow=workflow("w04_people"),
    services=people,
    input={"amount": 10},
    moves={
        "ask": [answer(approved=True, by="ann"), answer(approved=True, by="cid")],
        "where": answer(response="the cellar"),
        "again": answer(approved=False, comment="too damp"),
    },
    epilogue=forking("where", {}),
)


@pytest.mark.parametrize("modes", [KILLS, ERRORS, CANCELS, NETWORK], ids=["kills", "errors", "cancels", "network"])
def test_faults_make_no_difference(modes: tuple[Mode, ...]) -> None:
    explorer = Explorer(PACKING, url=MEMORY)
    assert set(explorer.reference.folds) == {"x", "fork"}
    explorer.each(modes).raise_for_bad()


def test_what_is_asked_beside_it_is_asked_again() -> None:
    Explorer(ASKING, url=MEMORY).each(KILLS).raise_for_bad()


def test_deaths_on_a_file_make_none_either() -> None:
    Explorer(PACKING, url=FILE).each(KILLS).raise_for_bad()


def test_cancellations_in_any_round_make_none_either() -> None:
    Explorer(PACKING, url=MEMORY).turns((Mode.CANCEL_BEFORE,)).raise_for_bad()
