"""A halt, an approval, a handled error and a crash, inside every nesting of loop, parallel and sub-workflow."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import durable_flow as df
from durable_flow.testing import FakeClock
from tests.reliability.stage import Stage, document, stage
from tests.reliability.table import Case, Table, fake_time

KINDS = ("loop", "parallel", "workflow")
SIDE_BY_SIDE = "concurrent loop"
EVENTS = ("halt", "approval", "error", "kill")
Steps = list[dict[str, Any]]

ORDINARY: dict[str, Steps] = {
    "halt": [{"id": "event", "type": "assign", "set": {"response": "go"}}],
    "approval": [{"id": "event", "type": "assign", "set": {"decided": True}}],
    "error": [{"id": "event", "type": "assign", "set": {"caught": "boom"}}],
    "kill": [{"id": "event", "type": "assign", "set": {"got": "done"}}],
}
"""What each event comes to where nothing happens."""

AFTER = "after"

EVENTFUL: dict[str, Steps] = {
    "halt": [{"id": "event", "type": "halt", "reason": "?"}],
    "approval": [
        {"id": "event", "type": "approval", "prompt": "?"},
        {"id": "decide", "type": "assign", "set": {"decided": "$approvals.event.approved"}},
    ],
    "error": [
        {
            "id": "event",
            "type": "call",
            "service": "desk",
            "method": "boom",
            "output": "caught",
            "on_error": "catch",
            "next": AFTER,
        },
        {"id": "catch", "type": "assign", "set": {"caught": "$_last_error.message"}},
    ],
    "kill": [{"id": "event", "type": "call", "service": "desk", "method": "die", "output": "got"}],
}

OUTCOME = {"halt": "$response", "approval": "$decided", "error": "$caught", "kill": "$got"}


def nested(kinds: tuple[str, ...], event: Steps, outcome: str) -> list[dict[str, Any]]:
    """The documents of a workflow `flow` with the event inside the first kind, inside the second, …

    Before and after the event, at every depth, an effect happens.
    """
    documents: list[dict[str, Any]] = []

    def around(depth: int) -> Steps:
        inner = event if depth == len(kinds) else level(depth)
        seen = outcome if depth == len(kinds) else f"$out{depth}"
        return [
            {"id": f"before{depth}", "type": "call", "service": "desk", "method": "note", "input": depth},
            *inner,
            {
                "id": AFTER if depth == len(kinds) else f"after{depth}",
                "type": "call",
                "service": "desk",
                "method": "note",
                "input": depth,
            },
            {"id": f"keep{depth}", "type": "assign", "set": {f"kept{depth}": seen, "result": seen}},
        ]

    def level(depth: int) -> Steps:
        body = around(depth + 1)
        name, output = f"in{depth}", f"out{depth}"
        match kinds[depth]:
            case "loop":
                return [{"id": name, "type": "loop", "over": ["a", "b"], "do": body, "output": output}]
            case "concurrent loop":
                loop = {"id": name, "type": "loop", "over": ["a", "b"], "do": body, "output": output}
                return [{**loop, "concurrency": 2}]
            case "parallel":
                side = {"id": f"side{depth}", "type": "call", "service": "desk", "method": "note", "input": "side"}
                branches = [{"id": f"main{depth}", "do": body}, side]
                return [{"id": name, "type": "parallel", "branches": branches, "output": output}]
            case _:
                documents.append(document(f"child{depth}", linked(body)))
                return [{"id": name, "type": "workflow", "workflow_id": f"child{depth}", "output": output}]

    documents.append(document("flow", linked(around(0))))
    return documents


def linked(steps: Steps) -> Steps:
    """A list of steps as the top level of a document needs it: each names the next."""
    return [
        step if following is None else {"next": following["id"], **step}
        for step, following in zip(steps, [*steps[1:], None], strict=True)
    ]


async def to_its_end(play: Stage) -> tuple[df.ExecutionResult, int, int, set[str]]:
    """Runs `flow`, answering whatever it waits for and taking over whenever its process dies.

    Also gives how often something happened, how often the process died, and the effects that happened again although
    their end was durable or the process lived on.
    """
    happened = deaths = 0
    killed: set[str] = set()
    result: df.ExecutionResult | None = None

    def boom(_: Any) -> None:
        nonlocal happened
        happened += 1
        raise ValueError("boom")

    def die(_: Any) -> str:
        nonlocal happened
        key = play.desk.contexts[-1].idempotency_key
        if key in killed:
            return "done"
        killed.add(key)
        happened += 1
        raise play.die()

    play.desk.answers |= {"boom": boom, "die": die}
    unlicensed: set[str] = set()
    while result is None or not result.completed:
        before = play.effects
        finished = await play.finished_calls()
        call: Any
        if result is None:
            runner = play.runner()
            call = runner.recover("e") if deaths else runner.run({}, execution_id="e")
        else:
            assert result.halt is not None, f"it is {result.status}: {result.error}"
            happened += 1
            answer: dict[str, Any] = {"approved": True} if result.halt.type == "approval" else {"response": "go"}
            call = play.runner().resume("e", wait_id=result.halt.wait_id, **answer)
        try:
            result = await call
        except BaseException:
            if not play.wire.cut:
                raise
            deaths += 1
            result = None
            await play.take_over()
        fresh = play.effects - before
        unlicensed |= finished & set(fresh) | {key for key, times in fresh.items() if times > 1}
    return result, happened, deaths, unlicensed


def shown(execution: df.Execution | None) -> dict[str, Any]:
    assert execution is not None
    return {name: value for name, value in execution.ctx.items() if name not in ("_last_error", "approvals")}


async def the_same(clock: FakeClock, kinds: tuple[str, ...], event: str) -> None:
    async with stage(clock, *nested(kinds, ORDINARY[event], OUTCOME[event])) as quiet:
        expected = await quiet.runner().run({}, execution_id="e")
        variables = shown(await quiet.store.load("e"))
        effects = quiet.effects
    assert expected.completed, expected.error
    async with stage(clock, *nested(kinds, EVENTFUL[event], OUTCOME[event])) as play:
        result, happened, deaths, unlicensed = await to_its_end(play)
        times = 2 ** (kinds.count("loop") + kinds.count(SIDE_BY_SIDE))
        assert happened == times, f"it happened {happened} times, not {times}"
        assert result.output == expected.output
        assert shown(await play.store.load("e")) == variables
        own = {
            key: times for key, times in play.effects.items() if key.rpartition("/")[2].rpartition(":")[2] != "event"
        }
        assert set(own) == set(effects), "effects are missing, or there are others"
        again = {key: times for key, times in play.effects.items() if times > 1}
        if event == "kill":
            assert not unlicensed, f"repeated though finished, or by one process: {unlicensed}"
            lanes = 2 ** (kinds.count("parallel") + kinds.count(SIDE_BY_SIDE))
            repeats = sum(times - 1 for times in again.values())
            assert repeats <= deaths * lanes, f"more was repeated than was in flight: {again}"
        else:
            assert not again, f"repeated: {again}"
        for name in await play.store.execution_ids():
            row = await play.store.row(name)
            assert row is not None
            assert row.status == "completed"
            assert row.owner is None


def every(kinds: Iterable[tuple[str, ...]]) -> Iterable[Case]:
    for nest in kinds:
        for event in EVENTS:

            async def check(clock: FakeClock, nest: tuple[str, ...] = nest, event: str = event) -> None:
                await the_same(clock, nest, event)

            yield Case(f"{event} in {' > '.join(nest)}", fake_time(check))


def cases(full: bool) -> Iterable[Case]:
    for depth in (2, 3):
        yield from every(product(KINDS, repeat=depth))


def side_by_side(full: bool) -> Iterable[Case]:
    for depth in (1, 2, 3):
        yield from every(nest for nest in product((*KINDS, SIDE_BY_SIDE), repeat=depth) if SIDE_BY_SIDE in nest)


TABLE = Table("whatever happens inside any nesting, it goes on at the exact inner step", cases)
CONCURRENT = Table("… and so it does where iterations of loops run side by side", side_by_side)
