"""What people (and programs) try with an approval, at the top level, in a loop, in a branch and in a sub-workflow.

Only `approved` given as exactly True or False decides, given to that wait, by somebody who may, while it is open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec

import durable_flow as df
from durable_flow import ConflictError, ExecutionNotFound, NotAllowed, ValidationError
from durable_flow.testing import FakeClock
from tests.reliability.nesting import linked
from tests.reliability.stage import Stage, document, idle, stage
from tests.reliability.table import Case, Table, fake_time

PLACES = ("the top level", "a loop body", "a parallel branch", "a sub-workflow")
Steps = list[dict[str, Any]]
Attempt = Callable[["Scene"], Awaitable[None]]


def call(id: str, method: str, **keys: Any) -> dict[str, Any]:
    return {"id": id, "type": "call", "service": "desk", "method": method, **keys}


def placed(place: str, steps: Steps, *, id: str = "flow", **keys: Any) -> list[dict[str, Any]]:
    """The documents of a workflow with the steps at that place."""
    match place:
        case "the top level":
            return [document(id, linked(steps), **keys)]
        case "a loop body":
            return [document(id, [{"id": "each", "type": "loop", "over": ["only"], "do": steps}], **keys)]
        case "a parallel branch":
            branches = [{"id": "left", "do": steps}, {"id": "right", "type": "assign", "set": {"right": 1}}]
            return [document(id, [{"id": "both", "type": "parallel", "branches": branches}], **keys)]
        case _:
            child = document(f"{id}_child", linked(steps))
            return [child, document(id, [{"id": "sub", "type": "workflow", "workflow_id": child["id"]}], **keys)]


def asking(before: Steps = [], **keys: Any) -> Steps:  # noqa: B006 - nobody changes it
    """Steps that ask whether to ship, and ship or do not."""
    return [
        *before,
        {"id": "ask", "type": "approval", "prompt": "Ship it?", "on_reject": "back", **keys},
        call("ship", "ship", next="after"),
        call("back", "back", next="after"),
        {"id": "after", "type": "assign", "set": {"asked": True}},
    ]


class Scene:
    """An execution `e` at the place, started, and waiting for what the attempt is about."""

    def __init__(self, play: Stage, place: str) -> None:
        self.play = play
        self.place = place

    async def start(self, input: Any = None, *, execution_id: str = "e") -> df.Halt:
        return self.waits(await self.play.runner().run(input or {}, execution_id=execution_id))

    @staticmethod
    def waits(result: df.ExecutionResult) -> df.Halt:
        assert result.halted, f"it is {result.status}: {result.error}"
        assert result.halt is not None
        return result.halt

    async def answer(self, **answer: Any) -> df.ExecutionResult:
        return await self.play.runner().resume("e", **answer)

    async def refused(self, error: type[Exception], *, of: str = "e", **answer: Any) -> None:
        await self.play.untouched(error, lambda: self.play.runner().resume(of, **answer))

    async def open(self) -> None:
        """The wait is still there and takes a proper answer."""
        self.happened()
        result = await self.play.runner().result("e")
        self.waits(result)

    def happened(self, *methods: str) -> None:
        assert self.play.desk.called == list(methods), f"called: {self.play.desk.called}"

    async def trail(self) -> list[df.Entry]:
        """The entries of the approval, wherever it is."""
        return [
            entry
            for name in reversed(await self.play.store.execution_ids())
            for entry in await self.play.store.entries(name)
            if entry.step_id == "ask"
        ]


ATTEMPTS: dict[str, tuple[Attempt, Steps, dict[str, Any]]] = {}
"""What is tried, on which steps, in a document with which other keys."""


def attempt(name: str, steps: Steps | None = None, **keys: Any) -> Callable[[Attempt], Attempt]:
    def add(function: Attempt) -> Attempt:
        ATTEMPTS[name] = function, asking() if steps is None else steps, keys
        return function

    return add


@attempt("approve")
async def approve(scene: Scene) -> None:
    await scene.start()
    assert (await scene.answer(approved=True)).completed
    scene.happened("ship")


@attempt("reject")
async def reject(scene: Scene) -> None:
    await scene.start()
    assert (await scene.answer(approved=False)).completed
    scene.happened("back")


@attempt("reject, then approve")
async def change_of_mind(scene: Scene) -> None:
    halt = await scene.start()
    assert (await scene.answer(approved=False)).completed
    await scene.refused(ConflictError, approved=True)
    await scene.refused(ConflictError, approved=True, wait_id=halt.wait_id)
    scene.happened("back")


def not_an_answer(value: Any) -> None:
    @attempt(f"approved={value!r}")
    async def look_alike(scene: Scene) -> None:
        await scene.start()
        await scene.refused(ValidationError, approved=value)
        await scene.open()
        assert (await scene.answer(approved=True)).completed


for like in ("true", "false", 1, 0, None, "yes"):
    not_an_answer(like)


@attempt("a response instead of a decision")
async def response(scene: Scene) -> None:
    await scene.start()
    for given in (True, "approved", {"approved": True}, None):
        await scene.refused(ValidationError, response=given)
    await scene.refused(ValidationError)
    await scene.refused(ValidationError, response=True, approved=True)
    await scene.open()


@attempt("somebody who is not listed", asking(approvers=["alice", "bob"]))
async def unlisted(scene: Scene) -> None:
    await scene.start()
    for stranger in ("mallory", "Alice", "alice ", "alice,bob"):
        await scene.refused(NotAllowed, approved=True, by=stranger)
        await scene.refused(NotAllowed, approved=False, by=stranger)
    await scene.open()
    assert (await scene.answer(approved=True, by="bob")).completed


@attempt("nobody, where people are listed", asking(approvers=["alice"]))
async def unnamed(scene: Scene) -> None:
    await scene.start()
    await scene.refused(NotAllowed, approved=True)
    await scene.refused(NotAllowed, approved=False)
    await scene.refused(ValidationError, approved=True, by="")
    await scene.open()


@attempt("one person for two", asking(required=2))
async def twice(scene: Scene) -> None:
    await scene.start()
    await scene.refused(ValidationError, approved=True)
    scene.waits(await scene.answer(approved=True, by="alice"))
    await scene.refused(ConflictError, approved=True, by="alice")
    await scene.refused(ConflictError, approved=False, by="alice")
    await scene.open()


@attempt("two people", asking(required=2, approvers=["alice", "bob", "carol"]))
async def two(scene: Scene) -> None:
    await scene.start()
    scene.waits(await scene.answer(approved=True, by="alice"))
    await scene.open()
    assert (await scene.answer(approved=True, by="bob")).completed
    await scene.refused(ConflictError, approved=False, by="carol")
    scene.happened("ship")


@attempt("an answer after the deadline", asking(timeout="1h", on_timeout="back"))
async def late(scene: Scene) -> None:
    halt = await scene.start()
    scene.play.clock.jump(3600)
    try:
        await scene.answer(approved=True, wait_id=halt.wait_id)
    except ConflictError:
        pass
    else:
        raise AssertionError("a late answer was taken")
    assert (await scene.play.runner().recover("e")).completed
    scene.happened("back")
    assert df.Action.ANSWERED not in [entry.action for entry in await scene.trail() if entry.output is True]


@attempt("the id of another wait")
async def another_wait(scene: Scene) -> None:
    halt = await scene.start()
    other = await scene.start(execution_id="f")
    for wait_id in (other.wait_id, halt.wait_id + "#2", "e:nothing", "", "e"):
        await scene.refused(ConflictError, approved=True, wait_id=wait_id)
    await scene.refused(ConflictError, approved=True, step="ship")
    await scene.open()
    scene.waits(await scene.play.runner().result("f"))


@attempt("the same answer again, after a restart")
async def replay(scene: Scene) -> None:
    halt = await scene.start()
    await scene.play.restart()
    assert (await scene.answer(approved=True, by="alice", wait_id=halt.wait_id)).completed
    await scene.play.restart()
    await scene.refused(ConflictError, approved=True, by="alice", wait_id=halt.wait_id)
    await scene.refused(ConflictError, approved=True, by="alice")
    scene.happened("ship")


NAMED: Steps = [
    call("approved", "say", input={"approved": True}, output="approved"),
    {"id": "pretend", "type": "assign", "set": {"approved": True, "ask": {"approved": True}, "response": True}},
]


@attempt("variables, outputs, steps and inputs named approved", asking(NAMED))
async def names(scene: Scene) -> None:
    await scene.start({"approved": True, "ask": True, "response": {"approved": True}})
    scene.happened("say")
    await scene.refused(ValidationError)
    assert (await scene.answer(approved=False)).completed
    scene.happened("say", "back")


@attempt("an earlier halt answered like an approval", asking([{"id": "earlier", "type": "halt", "reason": "?"}]))
async def earlier_halt(scene: Scene) -> None:
    halt = await scene.start()
    await scene.refused(ValidationError, approved=True)
    assert scene.waits(await scene.answer(response={"approved": True}, by="alice")).type == "approval"
    await scene.refused(ConflictError, approved=True, wait_id=halt.wait_id)
    await scene.refused(ValidationError, response=True)
    await scene.open()
    assert (await scene.answer(approved=False)).completed
    scene.happened("back")


AGAIN: Steps = [
    {"id": "ask", "type": "approval", "prompt": "Ship it?"},
    {"id": "count", "type": "assign", "set": {"rounds": "$approvals.ask.approved"}},
    {"id": "second", "type": "approval", "prompt": "Really?", "on_reject": "ask"},
    call("ship", "ship"),
]


@attempt("the answer to an earlier visit, or a double click", AGAIN)
async def stale(scene: Scene) -> None:
    first = await scene.start()
    second = scene.waits(await scene.answer(approved=True, wait_id=first.wait_id))
    assert second.step_id == "second"
    await scene.refused(ConflictError, approved=True, wait_id=first.wait_id)
    again = scene.waits(await scene.answer(approved=False, wait_id=second.wait_id))
    assert again.step_id == "ask"
    assert again.wait_id != first.wait_id
    for old in (first, second):
        await scene.refused(ConflictError, approved=True, wait_id=old.wait_id)
    await scene.open()


@attempt("the wrong execution or workflow")
async def wrong_execution(scene: Scene) -> None:
    halt = await scene.start()
    await scene.refused(ExecutionNotFound, of="nobody", approved=True)
    await scene.refused(ExecutionNotFound, of="nobody", approved=True, wait_id=halt.wait_id)
    other = scene.play.runner("other")
    await scene.play.untouched(ConflictError, lambda: other.resume("e", approved=True))
    await scene.play.untouched(ConflictError, lambda: other.resume("e", approved=True, wait_id=halt.wait_id))
    await scene.open()


@attempt("one that is over", [*asking()[:-1], call("after", "finish")])
async def over(scene: Scene) -> None:
    scene.play.desk.answers["finish"] = [None, ValueError("boom")]
    halts = {name: await scene.start(execution_id=name) for name in ("completed", "failed", "cancelled")}
    runner = scene.play.runner()
    assert (await runner.resume("completed", approved=True)).completed
    assert (await runner.resume("failed", approved=True)).failed
    assert (await runner.cancel("cancelled")).cancelled
    for name, halt in halts.items():
        await scene.refused(ConflictError, of=name, approved=True)
        await scene.refused(ConflictError, of=name, approved=True, wait_id=halt.wait_id)
        await scene.refused(ConflictError, of=name, response=True)


@attempt("one that runs", asking([call("work", "work")]))
async def running(scene: Scene) -> None:
    desk = scene.play.desk
    desk.hold("work", "ship")
    task = scene.play.spawn(scene.play.runner().run({}, execution_id="e"))
    await idle()
    scene.happened("work")
    await scene.refused(ConflictError, approved=True)
    desk.release("work")
    halt = scene.waits(await task)
    task = scene.play.spawn(scene.answer(approved=True, wait_id=halt.wait_id))
    await idle()
    scene.happened("work", "ship")
    await scene.refused(ConflictError, approved=True)
    await scene.refused(ConflictError, approved=False, wait_id=halt.wait_id)
    desk.release("ship")
    assert (await task).completed


SHOWN: dict[str, Any] = {"approvers": ["alice", "bob"], "required": 2, "options": ["air", "sea"], "context": {"n": 3}}


@attempt("who, when, what, why, and what they were shown", asking(**SHOWN))
async def trail(scene: Scene) -> None:
    halt = await scene.start()
    begin = scene.play.clock.now()
    await scene.refused(ValidationError, approved=True, by="alice", selections=["rail"])
    scene.waits(await scene.answer(approved=True, by="alice", comment="fine", selections=["air"]))
    scene.play.clock.jump(60)
    assert (await scene.answer(approved=False, by="bob", comment="too dear")).completed
    scene.happened("back")
    asked, first, second = await scene.trail()
    assert asked.action == df.Action.HALTED
    assert asked.output == halt.data
    digest = hashlib.sha256(msgspec.json.encode(asked.output, order="deterministic")).hexdigest()
    for entry, who, decision, comment in ((first, "alice", True, "fine"), (second, "bob", False, "too dear")):
        assert entry.action == df.Action.ANSWERED
        assert entry.actor == who
        told = (entry.metadata or {})["answer"]
        assert told["approved"] is decision
        assert told["comment"] == comment
        assert told["shown"] == digest
    assert [entry.timestamp.timestamp() - begin < 1 for entry in (first, second)] == [True, False]
    votes = second.output["votes"]
    assert [(vote["by"], vote["approved"], vote["comment"]) for vote in votes] == [
        ("alice", True, "fine"),
        ("bob", False, "too dear"),
    ]
    assert votes[0]["selections"] == ["air"]
    given = [datetime.fromisoformat(vote["at"]).timestamp() for vote in votes]
    assert given[1] - given[0] >= 60


def cases(full: bool) -> Iterable[Case]:
    other = document("other", linked(asking()))
    for name, (function, steps, keys) in ATTEMPTS.items():
        for place in PLACES:

            async def check(
                clock: FakeClock,
                function: Attempt = function,
                steps: Steps = steps,
                keys: dict[str, Any] = keys,
                place: str = place,
            ) -> None:
                async with stage(clock, other, *placed(place, steps, **keys)) as play:
                    await function(Scene(play, place))

            yield Case(f"{name}, in {place}", fake_time(check))


TABLE = Table("an approval is a decision of somebody who may, on that wait, in time", cases)
