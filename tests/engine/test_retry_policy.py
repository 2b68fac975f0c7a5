"""`retry`: attempts, when the next one comes, and that both survive a crash."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from tests.engine.aid import START, World, flow

BREAKS = ConnectionError("no line")


def retrying(**keys: Any) -> df.WorkflowDef:
    step = {"id": "a", "type": "call", "service": "desk", "method": "work", "output": "result"} | keys
    return df.load({"id": "flow", "name": "flow", "steps": [step]})


async def attempts(world: World, workflow: df.WorkflowDef, seconds: float = 500) -> list[float]:
    """When, from the start, the service was called."""
    times: list[float] = []
    answer = world.desk.answers.get("work")

    def note(_: Any) -> Any:
        times.append(world.clock.time - START)
        given = answer.pop(0) if isinstance(answer, list) else answer
        if isinstance(given, BaseException):
            raise given
        return given

    world.desk.answers["work"] = note
    task = await world.start(workflow)
    await world.clock.advance(seconds)
    assert task.done()
    return times


async def test_max_attempts_counts_the_first_try(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    assert len(await attempts(world, retrying(retry={"max_attempts": 3, "jitter": 0}))) == 3


async def test_the_first_success_ends_it(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "fine"]
    assert len(await attempts(world, retrying(retry={"max_attempts": 5, "jitter": 0}))) == 2
    assert (await world.load()).result == "fine"


async def test_the_interval_grows_by_the_backoff_up_to_its_maximum(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    retry = {"max_attempts": 5, "initial_interval": 2, "backoff": 3, "max_interval": 10, "jitter": 0}
    assert await attempts(world, retrying(retry=retry)) == [0, 2, 8, 18, 28]


async def test_jitter_takes_off_its_share(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    world.ids.share = 0.5
    retry = {"max_attempts": 2, "initial_interval": 10, "jitter": 0.4}
    assert await attempts(world, retrying(retry=retry)) == [0, 8]


async def test_max_elapsed_ends_it(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    retry = {"max_attempts": 100, "initial_interval": 10, "backoff": 1, "max_elapsed": 25, "jitter": 0}
    assert await attempts(world, retrying(retry=retry)) == [0, 10, 20]


async def test_only_the_named_errors_are_tried_again(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, ValueError("other")]
    retry = {"max_attempts": 5, "retry_on": ["ConnectionError"], "jitter": 0}
    assert len(await attempts(world, retrying(retry=retry))) == 2
    assert (await world.load()).error == "ValueError: other"


async def test_errors_that_are_excluded_are_not_tried_again(world: World) -> None:
    world.desk.answers["work"] = [ValueError("one"), BREAKS]
    retry = {"max_attempts": 5, "no_retry_on": ["ConnectionError"], "jitter": 0}
    assert len(await attempts(world, retrying(retry=retry))) == 2


async def test_without_a_policy_there_is_one_attempt(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    assert len(await attempts(world, retrying())) == 1


@pytest.mark.parametrize("delay", [1, 0.5, "500ms", 0])
async def test_the_short_form_counts_retries_after_the_first_try(world: World, delay: Any) -> None:
    world.desk.answers["work"] = BREAKS
    workflow = retrying(retries=2, **({"retry_delay": delay} if delay else {}))
    assert len(await attempts(world, workflow)) == 3


async def test_the_short_form_says_delay_and_backoff(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    assert await attempts(world, retrying(retries=3, retry_delay=0.5, retry_backoff=3)) == [0, 0.5, 2.0, 6.5]


async def test_both_forms_at_once_are_refused() -> None:
    with pytest.raises(df.ValidationError, match="both"):
        retrying(retries=2, retry={"max_attempts": 3})


async def test_a_service_can_say_that_nothing_will_help(world: World) -> None:
    world.desk.answers["work"] = df.NonRetryableError("card stolen")
    assert len(await attempts(world, retrying(retry={"max_attempts": 5}))) == 1
    assert (await world.load()).error == "NonRetryableError: card stolen"


async def test_a_service_can_say_when_to_come_back(world: World) -> None:
    world.desk.answers["work"] = [df.RetryAfter(120), "fine"]
    assert await attempts(world, retrying(retry={"max_attempts": 2, "jitter": 0})) == [0, 120]


async def test_coming_back_later_costs_an_attempt(world: World) -> None:
    world.desk.answers["work"] = df.RetryAfter(5)
    assert await attempts(world, retrying(retry={"max_attempts": 2, "jitter": 0})) == [0, 5]
    assert (await world.load()).error == "RetryAfter: try again in 5 s"


async def test_coming_back_later_without_a_policy_fails(world: World) -> None:
    world.desk.answers["work"] = df.RetryAfter(5)
    assert await attempts(world, retrying()) == [0]


async def test_a_negative_wish_of_a_service_means_at_once(world: World) -> None:
    world.desk.answers["work"] = [df.RetryAfter(-5), "fine"]
    assert await attempts(world, retrying(retry={"max_attempts": 2, "initial_interval": 0, "jitter": 0})) == [0, 0]


async def test_every_failed_attempt_leaves_an_entry(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, ValueError("b"), "fine"]
    await attempts(world, retrying(retry={"max_attempts": 3, "initial_interval": 1, "backoff": 2, "jitter": 0}))
    told = [(entry.action, entry.attempt, entry.error) for entry in await world.entries() if entry.step_id == "a"]
    assert told == [
        ("retried", 1, "ConnectionError: no line"),
        ("retried", 2, "ValueError: b"),
        ("resumed", 3, None),  # the second pause is long enough to be halted for
        ("completed", 3, None),
    ]


async def test_the_entry_says_when_the_next_attempt_comes(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "fine"]
    await attempts(world, retrying(retry={"max_attempts": 2, "initial_interval": 7, "jitter": 0}))
    assert [entry.metadata for entry in await world.entries() if entry.action == "retried"] == [
        {"next_attempt_in": 7.0, "wait_id": "e:a~2"}
    ]


SLOW = retrying(retry={"max_attempts": 3, "initial_interval": 100, "backoff": 1, "max_interval": 100, "jitter": 0})


async def test_a_crash_during_backoff_loses_no_attempt(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    await world.start(SLOW)
    await world.after_the_lease()
    task = world.spawn(world.runner().recover("e"))
    await world.clock.advance(1000)
    assert (await task).error_info.attempts == 3
    assert len(world.desk.called) == 3


async def test_a_crash_during_backoff_does_not_start_it_again(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "fine"]
    await world.start(SLOW)
    await world.after_the_lease()
    task = world.spawn(world.runner().recover("e"))
    await world.clock.advance(68)
    assert world.desk.called == ["work"]
    await world.clock.advance(1)
    assert (await task).output == "fine"


async def test_an_overdue_attempt_is_made_at_once(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "fine"]
    await world.start(SLOW)
    await world.kill()
    world.clock.time += 5000
    await world.begin()
    assert (await world.runner().recover("e")).output == "fine"


async def test_the_time_of_the_next_attempt_is_in_the_row(world: World) -> None:
    world.desk.answers["work"] = BREAKS
    await world.start(SLOW)
    wake_at = (await world.load()).wake_at
    assert wake_at is not None
    assert wake_at.timestamp() == START + 100


async def test_the_policy_applies_in_every_iteration_anew(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "a", BREAKS, "b"]
    workflow = flow("""
        - id: each
          type: loop
          over: [1, 2]
          output: result
          do:
            - {id: a, type: call, service: desk, method: work, retry: {max_attempts: 2, initial_interval: 0}}
    """)
    assert (await world.run(workflow)).output == ["a", "b"]


async def test_a_branch_that_backs_off_does_not_hold_up_another(world: World) -> None:
    world.desk.answers["work"] = [BREAKS, "late"]
    workflow = flow("""
        - id: both
          type: parallel
          output: result
          branches:
            - {id: slow, type: call, service: desk, method: work, retry: {max_attempts: 2, initial_interval: 50}}
            - {id: quick, type: call, service: desk, method: quick, input: now}
    """)
    task = await world.start(workflow)
    assert "both/quick completed" in await world.trail()
    await world.clock.advance(50)
    assert (await task).output == ["late", "now"]
