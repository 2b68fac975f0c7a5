"""A fork is an execution like any other: whatever happens while it is made, it is there as a whole or not at all, its
trail tells it from the first version on, and nothing it does is lost or done twice. An execution that is migrated has
one definition or the other."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from durable_flow.testing import (
    CANCELS,
    ERRORS,
    FILE,
    KILLS,
    MEMORY,
    NETWORK,
    Explorer,
    Mode,
    Reply,
    Scenario,
    Scripted,
    answer,
)
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


PAY = """
id: pay
name: Pay
steps:
  - {id: begin, type: assign, set: {x: 1}, next: pay}
  - id: pay
    type: call
    service: Bank
    method: METHOD
    input: {amount: $x}
    output: result
    retry: {max_attempts: 4, initial_interval: 0.1, jitter: 0, no_retry_on: [ValueError]}
"""
DECLINED, ACCEPTED = (df.load(PAY.replace("METHOD", method)) for method in ("declined", "accepted"))


async def migrate_and_retry(runtime: df.Runtime, execution_id: str) -> None:
    """What somebody does about an execution that failed because of its definition, as often as it takes."""
    engine = runtime.engine
    deployed = df.Runtime(runtime.store, workflows=[ACCEPTED], clock=engine.clock, ids=engine.ids, grace=0.0)
    deployed.engine.services = engine.services
    async with deployed:
        runner = deployed.runner("pay")
        one = await runtime.store.load(execution_id)
        assert one is not None
        if one.status is df.Status.FAILED:
            if one.definition_hash == DECLINED.hash:
                await runner.migrate(execution_id, by="ann")
            result = await runner.retry(execution_id)
        else:
            result = await runner.recover(execution_id)
        assert result.output == "paid 1", result


PAYING = Scenario(
    name="a migration",
    workflow=DECLINED,
    services=lambda clock: {
        "Bank": Scripted(
            clock,
            declined=Reply(fails=99, error=ValueError("declined")),
            accepted=Reply(lambda given: f"paid {given['amount']}", takes=0.05),
        )
    },
    epilogue=migrate_and_retry,
)

EVERY = pytest.mark.parametrize(
    "modes", [KILLS, ERRORS, CANCELS, NETWORK], ids=["kills", "errors", "cancels", "network"]
)


@EVERY
def test_faults_make_no_difference_to_a_migration(modes: tuple[Mode, ...]) -> None:
    explorer = Explorer(PAYING, url=MEMORY)
    actions = [entry["action"] for entry in explorer.reference.folds["x"].values.values()]
    assert actions.count("migrated") == 1
    explorer.each(modes).raise_for_bad()


def test_deaths_on_a_file_make_none_to_it_either() -> None:
    Explorer(PAYING, url=FILE).each(KILLS).raise_for_bad()


@EVERY
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
