"""A dry run that is given what a real run got goes the same way, and ends the same."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import durable_flow as df
from durable_flow.testing import MEMORY, Explorer, Scenario
from tests.reference import SCENARIOS

OUTSIDE = ("call", "workflow", "halt", "signal", "gate", "approval", "compensation")
ENDS = (df.Action.COMPLETED, df.Action.ANSWERED, df.Action.FAILED, df.Action.COMPENSATED)


def fixture_of(entry: df.Entry) -> Any:
    """What a step got, as a fixture says it."""
    if entry.action is df.Action.FAILED:
        kind, _, message = str(entry.error).partition(": ")
        return {"error": {"type": kind, "message": message}}
    if (entry.metadata.get("answer") or {}).get("timeout"):
        return {"error": {"type": "TimeoutError"}}
    if entry.step_type == "gate":
        return {"approved": True, "output": entry.output}
    if entry.step_type == "approval":
        return entry.output["approved"]
    return entry.output


def is_end(entry: df.Entry) -> bool:
    """Whether it tells how a step ended: not of an iteration or a branch, nor of one of several votes."""
    name = entry.path.rpartition("/")[2].partition("#")[0]
    return entry.action in ENDS and name == entry.step_id and not entry.metadata.get("waiting")


def ends(entries: list[df.Entry]) -> dict[str, Any]:
    """How the steps ended, by their paths; the votes of approvals have times, which differ."""
    return {
        entry.path: entry.error or (entry.output["approved"] if entry.step_type == "approval" else entry.output)
        for entry in entries
        if is_end(entry)
    }


async def all_entries(runtime: df.Runtime, execution_id: str) -> list[df.Entry]:
    return await runtime.store.entries(execution_id, limit=10_000)


DECIDED_OTHERWISE = {
    "w10": "time decides a race",
    "w11": "time decides a race",
    "w13": "a person cancels it",
    "w16": "time decides a race",
    "w17": "time decides a race",
    "w18": "its own time runs out",
    "w31": "a person cancels it",
    "w41": "a step that works in pieces is answered as a whole",
}


@pytest.mark.parametrize(
    "scenario", [one for one in SCENARIOS if one.name not in DECIDED_OTHERWISE], ids=lambda scenario: scenario.name
)
def test_with_the_answers_of_a_real_run_it_goes_the_same_way(scenario: Scenario) -> None:
    compared: list[str] = []

    async def rehearse(runtime: df.Runtime, execution_id: str) -> None:
        real = await all_entries(runtime, execution_id)
        one = await runtime.store.load(execution_id)
        assert one is not None
        fixtures = {entry.path: fixture_of(entry) for entry in real if entry.step_type in OUTSIDE and is_end(entry)}
        result = await runtime.runner(scenario.workflow).run(
            scenario.input, execution_id="dry", dry_run=True, fixtures=fixtures
        )
        assert (result.status, result.output) == (one.status, one.result)
        assert ends(await all_entries(runtime, "dry")) == ends(real)
        compared.append(execution_id)

    explorer = Explorer(msgspec.structs.replace(scenario, epilogue=rehearse), url=MEMORY)
    assert [problem for case in explorer.report.bad for problem in case.problems] == []
    assert compared
