"""Four branches that complete in every order: what they set is merged in branch order, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations
from typing import Any

import durable_flow as df
from durable_flow.testing import FakeClock
from tests.reliability.stage import document, idle, stage
from tests.reliability.table import Case, Table, fake_time

BRANCHES = "abcd"
WAITS: tuple[str | int, ...] = ("all", "any", 2)
EVENTS = ("ok", "one fails", "one halts")
FAILS, HALTS = "b", "c"


def racing(wait: str | int, event: str) -> dict[str, Any]:
    def branch(name: str) -> dict[str, Any]:
        first: dict[str, Any] = {"id": f"{name}_work", "type": "call", "service": "desk", "method": name, "input": name}
        if event == "one halts" and name == HALTS:
            first = {"id": f"{name}_work", "type": "halt", "reason": "?"}
        found = {"items": [name], "by": {name: "$shared.from"}}
        told = {"log": found, f"own_{name}": f"{name}!", "shared": {"from": name}}
        return {"id": name, "do": [first, {"id": f"{name}_told", "type": "assign", "set": told}]}

    branches = [branch(name) for name in BRANCHES]
    return document(
        "flow",
        [
            {"id": "before", "type": "assign", "set": {"shared": {"from": "fork"}, "kept": 1}, "next": "race"},
            {"id": "race", "type": "parallel", "branches": branches, "wait": wait, "output": "outputs", "next": "end"},
            {"id": "end", "type": "end"},
        ],
    )


def expected(order: str, wait: str | int, event: str) -> tuple[dict[str, Any] | None, str]:
    """The variables at the end (None: the step fails), and which branches have succeeded by then."""
    needed = {"all": 4, "any": 1}.get(str(wait), 2)
    won = ""
    for name in order:
        if len(won) < needed and not (event == "one fails" and name == FAILS):
            won += name
    if len(won) < needed:
        return None, won
    variables: dict[str, Any] = {"shared": {"from": "fork"}, "kept": 1, "outputs": []}
    for name in BRANCHES:
        variables["outputs"].append(None)
        if name in won:
            variables["outputs"][-1] = {"from": name}
            # every branch sees the fork, whoever was faster
            variables |= {f"own_{name}": f"{name}!", "shared": {"from": name}}
            variables["log"] = {"items": [name], "by": {name: "fork"}}
            if event == "one halts" and name == HALTS:
                variables["response"] = "answer"
    return variables, won


async def race(clock: FakeClock, order: str, wait: str | int, event: str) -> None:
    async with stage(clock, racing(wait, event)) as play:
        play.desk.hold(*BRANCHES)
        if event == "one fails":
            play.desk.answers[FAILS] = ValueError("boom")
        task = play.spawn(play.runner().run({}, execution_id="e"))
        await idle()
        for name in order:
            if task.done() and not task.result().halted:
                break
            if event == "one halts" and name == HALTS:
                play.spawn(play.runner().resume("e", response="answer", step=f"{HALTS}_work"))
            else:
                play.desk.release(name)
            await idle()
        await task
        result = await play.runner().result("e")
        variables, won = expected(order, wait, event)
        if variables is None:
            assert result.failed, f"it is {result.status}"
            assert result.error == "ValueError: boom"
        else:
            assert result.completed, f"it is {result.status}: {result.error}"
            execution = await play.store.load("e")
            assert execution is not None
            found = {name: value for name, value in execution.ctx.items() if name != "result"}
            assert found == variables, f"{found} instead of {variables}"
            assert result.output == variables, f"{result.output} instead of {variables}"
        ended = [
            entry for entry in await play.store.entries("e") if entry.path in {f"race/{name}" for name in BRANCHES}
        ]
        done = [entry.path[-1] for entry in ended if entry.action == df.Action.COMPLETED]
        assert done == list(won), f"joined on {done} instead of {list(won)}"


def cases(full: bool) -> Iterable[Case]:
    for wait in WAITS:
        for event in EVENTS:
            for order in map("".join, permutations(BRANCHES)):

                async def check(clock: FakeClock, order: str = order, wait: Any = wait, event: str = event) -> None:
                    await race(clock, order, wait, event)

                yield Case(f"{order}, wait {wait}, {event}", fake_time(check))


TABLE = Table("what branches set is merged in branch order, in whatever order they complete", cases)
