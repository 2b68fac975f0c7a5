"""What is told of the reference workflows while they run is what their audit trails tell afterwards."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from msgspec.structs import replace

import durable_flow as df
from durable_flow.testing import Explorer, Plan, Scenario
from tests.reference import SCENARIOS

DEATHS = 5
"""About so many commits of a workflow are each the last thing its process does."""


class Heard:
    """What runtimes told while they drove executions, and what `events` gave when one of them ended in order."""

    def __init__(self) -> None:
        self.live: dict[str, list[df.Event]] = defaultdict(list)
        self.read: dict[str, list[df.Event]] = {}

    def runtime(self) -> type[df.Runtime]:
        """A class of runtimes that take note of it."""
        heard = self

        class Listening(df.Runtime):
            async def __aenter__(self) -> Any:
                self.subscribe(heard.hear)
                return await super().__aenter__()

            async def close(self) -> None:
                for execution_id in heard.live:
                    heard.read[execution_id] = [event async for event in self.events(execution_id, follow=False)]
                    for number, event in enumerate(heard.read[execution_id], 1):
                        rest = self.events(execution_id, after=event.id, follow=False)
                        assert [event async for event in rest] == heard.read[execution_id][number:]
                await super().close()

        return Listening

    def hear(self, event: df.Event) -> None:
        if event.id is not None:
            self.live[event.data["execution_id"]].append(event)


def texts(events: dict[str, list[df.Event]]) -> dict[str, list[str]]:
    """What goes to a reader, byte for byte."""
    return {name: [event.to_sse() for event in found] for name, found in events.items()}


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    made = Heard()
    monkeypatch.setattr("durable_flow.testing.story.Runtime", made.runtime())
    return made


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_trail_tells_the_same_events_as_were_told_live(scenario: Scenario, heard: Heard) -> None:
    Explorer(replace(scenario, epilogue=None)).close()
    assert heard.read
    assert texts(heard.read) == texts(heard.live)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_after_deaths_of_processes_the_trail_tells_what_was_told_and_what_was_not(
    scenario: Scenario, heard: Heard
) -> None:
    with Explorer(replace(scenario, epilogue=None)) as explorer:
        commits = [point.number for point in explorer.points if point.name == "commit"]
        for number in commits[:: max(1, len(commits) // DEATHS)]:
            heard.live.clear()
            heard.read.clear()
            explorer.tell(Plan.parse(f"{number} kill-after"))
            for execution_id, live in heard.live.items():
                read = {event.id: event.to_sse() for event in heard.read[execution_id]}
                assert list(read) == [event.id for event in heard.read[execution_id]]
                assert [event.to_sse() for event in live] == [read[event.id] for event in live]
