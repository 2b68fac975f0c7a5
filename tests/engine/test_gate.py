"""`gate` asks a resolver until it says yes or no; a worker does so, without memory and without filling the trail."""

from __future__ import annotations

from typing import Any

import pytest

import durable_flow as df
from durable_flow import Gate
from tests.engine.aid import World, flow

CHECKS = """
- id: checks
  type: gate
  resolver: checks
  params: {pull_request: $input.number}
  poll_interval: 60s
  timeout: 1h
  on_timeout: late
  on_reject: red
  output: found
  next: green
- {id: green, type: end, result: {green: $found}}
- {id: red, type: end, result: {red: $found}}
- {id: late, type: end, result: late}
"""


class Resolver:
    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []
        self.contexts: list[df.StepContext] = []

    async def __call__(self, params: Any, context: df.StepContext) -> Any:
        self.asked.append(params)
        self.contexts.append(context)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def begin(world: World, resolver: Any, steps: str = CHECKS) -> df.ExecutionResult:
    await world.restart(gates={"checks": resolver})
    return await world.run(flow(steps), {"number": 7}, execution_id="e")


async def test_a_gate_that_is_open_is_gone_through_at_once(world: World) -> None:
    resolver = Resolver((Gate.APPROVED, {"runs": 3}))
    assert (await begin(world, resolver)).output == {"green": {"runs": 3}}
    assert resolver.asked == [{"pull_request": 7}]
    assert resolver.contexts[0].idempotency_key == "e:checks"


async def test_a_pending_gate_gives_the_execution_back_to_its_caller(world: World) -> None:
    result = await begin(world, Resolver(Gate.PENDING))
    assert result.halted
    assert result.halt is not None
    assert (result.halt.type, result.halt.data) == (
        "gate",
        {"type": "gate", "resolver": "checks", "params": {"pull_request": 7}},
    )
    assert world.runtime.engine.runs == {}


async def test_a_worker_asks_again_until_it_opens(world: World) -> None:
    resolver = Resolver(Gate.PENDING, Gate.PENDING, Gate.PENDING, Gate.APPROVED)
    await begin(world, resolver)
    task = world.spawn(df.Worker(world.runtime).run())
    for asked in 2, 3, 4:
        await world.clock.advance(61)
        assert len(resolver.asked) == asked
    assert (await world.load()).result == {"green": None}
    task.cancel()


async def test_polls_leave_nothing_in_the_trail(world: World) -> None:
    resolver = Resolver(*[Gate.PENDING] * 20, Gate.APPROVED)
    await begin(world, resolver)
    before = len(await world.entries())
    task = world.spawn(df.Worker(world.runtime).run())
    for _ in range(10):
        await world.clock.advance(61)
    assert len(resolver.asked) >= 10
    assert len(await world.entries()) == before
    task.cancel()


async def test_a_rejection_goes_its_own_way(world: World) -> None:
    assert (await begin(world, Resolver((Gate.REJECTED, "tests fail")))).output == {"red": "tests fail"}


async def test_without_on_reject_a_rejection_is_a_step_error(world: World) -> None:
    result = await begin(world, Resolver(Gate.REJECTED), "- {id: checks, type: gate, resolver: checks}")
    assert result.error == "GateRejected: the gate 'checks' rejected"


async def test_a_gate_that_does_not_open_in_time(world: World) -> None:
    resolver = Resolver(Gate.PENDING)
    await begin(world, resolver)
    task = world.spawn(df.Worker(world.runtime).run())
    await world.clock.advance(3590)
    assert (await world.load()).status == "halted"
    await world.clock.advance(15)
    assert (await world.load()).result == "late"
    task.cancel()


async def test_the_timeout_counts_from_the_first_question_also_after_a_restart(world: World) -> None:
    await begin(world, Resolver(Gate.PENDING))
    await world.clock.leap(3599)
    await world.restart()
    assert (await world.runner().recover("e")).halted
    await world.clock.leap(61)
    assert (await world.runner().recover("e")).output == "late"


async def test_an_error_of_the_resolver_is_a_step_error_that_retries_may_mend(world: World) -> None:
    steps = CHECKS.replace("timeout: 1h", "timeout: 1h\n  retry: {max_attempts: 2, initial_interval: 0}")
    assert (await begin(world, Resolver(ConnectionError("away"), Gate.APPROVED), steps)).output == {"green": None}


async def test_an_answer_that_is_none_is_a_step_error(world: World) -> None:
    result = await begin(world, Resolver("perhaps"), "- {id: checks, type: gate, resolver: checks}")
    assert result.error is not None
    assert "not Gate.APPROVED" in result.error


async def test_a_gate_that_is_not_registered_is_a_step_error(world: World) -> None:
    await world.restart(gates={})
    result = await world.run(flow(CHECKS), {"number": 7})
    assert result.error is not None
    assert "no gate named 'checks'" in result.error


async def test_a_plain_function_will_do(world: World) -> None:
    assert (await begin(world, lambda params, context: Gate.APPROVED)).output == {"green": None}


async def test_nobody_can_answer_a_gate(world: World) -> None:
    await begin(world, Resolver(Gate.PENDING))
    with pytest.raises(df.ConflictError):
        await world.runner().resume("e")


async def test_a_worker_without_the_resolver_leaves_it_alone(world: World) -> None:
    await begin(world, Resolver(Gate.PENDING))
    await world.restart(gates={})
    task = world.spawn(df.Worker(world.runtime).run())
    await world.clock.advance(200)
    assert (await world.load()).status == "halted"
    task.cancel()


def test_a_gate_must_be_a_function() -> None:
    with pytest.raises(df.ConfigError, match="is a function"):
        df.Runtime("sqlite://:memory:", gates={"checks": 3})  # type: ignore[dict-item]
