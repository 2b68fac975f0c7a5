"""The reference workflows leave nothing out."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

import durable_flow as df
from durable_flow.steps import CORE
from durable_flow.testing import Explorer, Plan
from tests.crash.suite import BY_NAME, STORES, exploring
from tests.reference import FOLDER, SCENARIOS

NESTINGS = {
    "loop/parallel",
    "loop/loop",
    "loop/workflow",
    "loop/approval",
    "parallel/loop",
    "parallel/parallel",
    "parallel/workflow",
    "parallel/halt",
    "loop/parallel/workflow",
    "loop/parallel/loop",
    "parallel/loop/workflow",
    "loop/parallel/loop/approval",
}
ENDS = {"w13": df.Status.CANCELLED, "w18": df.Status.FAILED, "w30": df.Status.FAILED, "w31": df.Status.CANCELLED}
WORKFLOWS = {workflow.id: workflow for scenario in SCENARIOS for workflow in (scenario.workflow, *scenario.others)}


def chains(value: Any, outer: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The types of every step, with those of the steps around it."""
    if isinstance(value, Mapping):
        here = outer
        if isinstance(value.get("type"), str) and "id" in value:
            here = (*outer, value["type"])
            yield here
        for inner in value.values():
            yield from chains(inner, here)
    elif isinstance(value, list):
        for inner in value:
            yield from chains(inner, outer)


STEPS = [chain for workflow in WORKFLOWS.values() for chain in chains(workflow.document["steps"])]


@pytest.mark.parametrize("kind", [kind.name for kind in CORE])
def test_every_step_type_is_in_one(kind: str) -> None:
    assert any(chain[-1] == kind for chain in STEPS)


@pytest.mark.parametrize("nesting", sorted(NESTINGS))
def test_every_nesting_is_in_one(nesting: str) -> None:
    types = tuple(nesting.split("/"))
    assert any(chain[-len(types) :] == types for chain in STEPS)


def test_every_file_is_used() -> None:
    assert {path.stem for path in FOLDER.glob("*.yml")} == set(WORKFLOWS)


def test_every_operation_of_a_store_is_a_point_of_one() -> None:
    """Opening and closing are done around the points: what happens there is a matter of the store's own tests. What
    schedules do has faults of its own, in `tests/crash/test_schedules.py`."""
    used = {point.name for scenario in SCENARIOS for point in Explorer(scenario).points}
    changed = next(scenario for scenario in SCENARIOS if scenario.later is not None)
    for plan in ("3 kill-after", "3 cancel-after"):
        used |= {point.name for life in Explorer(changed).tell(Plan.parse(plan)).lives for point in life}
    assert used >= df.Store.__abstractmethods__ - {"open", "close", "mark", "schedules"}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("name", BY_NAME)
def test_it_ends_as_it_should(name: str, store: str, places: Any) -> None:
    with exploring(name, store, places(store)) as explorer:
        explorer.report.raise_for_bad()
        result = explorer.reference.result
    assert result is not None
    assert result.status == ENDS.get(name, df.Status.COMPLETED)
