"""What the crash harness has found: each as the smallest workflow and plan that showed it."""

from collections.abc import Mapping
from typing import Any

import durable_flow as df
from durable_flow.testing import (
    CANCELS,
    ERRORS,
    FILE,
    KILLS,
    MEMORY,
    Cancel,
    CountedIds,
    Explorer,
    FakeClock,
    Mode,
    Reply,
    Scenario,
    Scripted,
    answer,
    run,
)

PATIENT = {"max_attempts": 4, "initial_interval": 0.1, "jitter": 0}


def flow(name: str, *steps: Mapping[str, Any]) -> df.WorkflowDef:
    return df.parse({"id": name, "name": name, "steps": list(steps)})


ASK = flow("ask", {"id": "ask", "type": "halt", "next": "done"}, {"id": "done", "type": "end", "result": "$response"})


def answered(**changes: Any) -> Scenario:
    return Scenario(name="found", **({"workflow": ASK, "moves": {"ask": answer(response=1)}} | changes))


def explored(scenario: Scenario, modes: tuple[Mode, ...], *names: str, url: str = MEMORY) -> None:
    """Plays every plan at the points with these names."""
    explorer = Explorer(scenario, url=url)
    for plan in explorer.plans(modes):
        (number,) = plan.lives[0]
        if explorer.points[number - 1].name in names:
            explorer.play(plan)
    assert explorer.report.cases > 1
    explorer.report.raise_for_bad()


def test_a_caller_cancelled_while_it_claims_gives_the_lease_back() -> None:
    explored(answered(), CANCELS, "claim")


def test_cancelling_the_caller_of_cancel_is_not_swallowed() -> None:
    explored(answered(moves={"ask": Cancel()}), CANCELS, "commit", "append", "claim", "row")


def child_of(name: str, workflow_id: str) -> df.WorkflowDef:
    return flow(
        name,
        {"id": "below", "type": "workflow", "workflow_id": workflow_id, "output": "got", "next": "done"},
        {"id": "done", "type": "end", "result": "$got"},
    )


def test_an_answer_to_a_child_is_taken_after_a_crash_when_its_parent_is_recovered() -> None:
    explored(answered(workflow=child_of("parent", "ask"), others=[ASK]), KILLS, "append", "claim", "commit")


def test_a_grandchild_goes_on_when_its_grandparent_is_recovered() -> None:
    others = [ASK, child_of("parent", "ask")]
    explored(answered(workflow=child_of("grandparent", "parent"), others=others), KILLS, "append", "claim", "commit")


def test_a_lost_answer_of_a_claim_or_an_append_is_looked_up() -> None:
    explored(answered(), ERRORS, "claim", "append", "commit")


def test_a_store_that_fails_once_does_not_interrupt_the_other_branches() -> None:
    workflow = flow(
        "branches",
        {
            "id": "both",
            "type": "parallel",
            "branches": [
                {"id": "child", "type": "workflow", "workflow_id": "ask"},
                {"id": "work", "type": "call", "service": "Desk", "method": "work", "retry": PATIENT},
            ],
        },
    )

    def services(clock: FakeClock) -> Mapping[str, Any]:
        return {"Desk": Scripted(clock, work=Reply("done", takes=0.2))}

    explored(answered(workflow=workflow, others=[ASK], services=services), ERRORS, "row")


def test_a_repeated_run_goes_on_with_what_waits_below() -> None:
    parent = child_of("parent", "ask")
    explored(answered(workflow=parent, others=[ASK], restart="run"), KILLS, "append", "claim", "commit")


def test_nothing_is_written_after_a_commit_that_could_not_be_tried() -> None:
    """A store that raises at once, instead of answering with a future, has taken what the commit carried with it."""
    workflow = flow("two", {"id": "one", "type": "halt"})
    explorer = Explorer(answered(workflow=workflow, moves={"one": answer(response=1)}), guard=False)
    explorer.each((Mode.KILL_BEFORE,)).raise_for_bad()


def test_a_commit_shares_nothing_with_the_buffer_it_was_made_from() -> None:
    """While a thread wrote a commit, what the next one drops was added to it."""
    children = [{"id": name, "type": "workflow", "workflow_id": "ask"} for name in ("one", "two")]
    workflow = flow("both", {"id": "both", "type": "parallel", "branches": children})
    explored(answered(workflow=workflow, others=[ASK]), KILLS, "commit", url=FILE)


def test_a_retry_of_a_failed_child_survives_a_crash() -> None:
    """The parent was taken up again durably, but that its child was to be taken up too was only in memory."""
    broken = flow("broken", {"id": "work", "type": "call", "service": "Desk", "method": "work"})

    def services(clock: FakeClock) -> Mapping[str, Any]:
        began = clock.now()

        def work(given: Any) -> str:
            if clock.now() < began + 3600:
                raise ValueError("closed")
            return "done"

        return {"Desk": Scripted(clock, work=work)}

    parent = child_of("parent", "broken")
    scenario = Scenario(name="found", workflow=parent, others=[broken], services=services, retries=1)
    explored(scenario, KILLS, "commit", "claim", "row")


def test_a_retry_gives_a_child_that_timed_out_its_time_again() -> None:
    clock = FakeClock()
    parent = flow("parent", {"id": "below", "type": "workflow", "workflow_id": "ask", "timeout": 10})

    async def main() -> None:
        async with df.Runtime("sqlite://:memory:", workflows=[parent, ASK], clock=clock, ids=CountedIds()) as runtime:
            runner = runtime.runner("parent")
            assert (await runner.run(execution_id="x")).halted
            clock.jump(11)
            assert (await runner.recover("x")).failed
            assert (await runner.retry("x")).halted
            assert (await runner.resume("x", response=1)).completed

    run(main, clock)


def test_a_wait_times_out_at_its_time_also_when_the_clock_was_set_back() -> None:
    clock = FakeClock()
    workflow = flow(
        "both",
        {
            "id": "both",
            "type": "parallel",
            "branches": [
                {"id": "nobody", "do": [{"id": "short", "type": "halt", "timeout": 2, "on_timeout": "tell"},
                                        {"id": "tell", "type": "call", "service": "Desk", "method": "tell"}]},
                {"id": "busy", "type": "call", "service": "Desk", "method": "work"},
            ],
        },
    )  # fmt: skip
    told: list[float] = []
    services = {"Desk": Scripted(clock, work=Reply("done", takes=60), tell=lambda given: told.append(clock.now()))}

    async def main() -> None:
        began = clock.now()
        clock.call_later(1, lambda: clock.turn(-10))
        async with df.Runtime("sqlite://:memory:", workflows=[workflow], services=services, clock=clock) as runtime:
            assert (await runtime.runner("both").run()).completed
        assert 2 <= told[0] - began < 3

    run(main, clock)
