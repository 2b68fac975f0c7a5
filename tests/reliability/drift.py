"""Definitions that change while an execution waits: it goes on with the one it was started with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import durable_flow as df
from durable_flow.testing import FakeClock
from tests.reliability.stage import document, stage
from tests.reliability.table import Case, Table, fake_time

Document = dict[str, Any]
Edit = Callable[[Document], None]


def original() -> Document:
    return document(
        "flow",
        [
            {"id": "first", "type": "call", "service": "desk", "method": "first", "next": "ask"},
            {"id": "ask", "type": "halt", "reason": "?", "next": "second"},
            {
                "id": "second",
                "type": "call",
                "service": "desk",
                "method": "second",
                "input": "$input.n",
                "next": "third",
            },
            {"id": "third", "type": "call", "service": "desk", "method": "third", "output": "made", "next": "last"},
            {
                "id": "last",
                "type": "assign",
                "set": {"result": ["$response", "$input.n", "$execution.workflow_version"]},
            },
        ],
        version="1",
        inputs={"n": {"type": "integer", "default": 1}},
    )


def step(document: Document, id: str) -> dict[str, Any]:
    found: dict[str, Any] = next(step for step in document["steps"] if step["id"] == id)
    return found


def rename_next(document: Document) -> None:
    step(document, "ask")["next"] = step(document, "second")["id"] = "zweiter"


def rename_waiting(document: Document) -> None:
    step(document, "first")["next"] = step(document, "ask")["id"] = "question"


def remove_next(document: Document) -> None:
    document["steps"].remove(step(document, "second"))
    step(document, "ask")["next"] = "third"


def remove_waiting(document: Document) -> None:
    document["steps"].remove(step(document, "ask"))
    step(document, "first")["next"] = "second"
    step(document, "last")["set"]["result"] = "nobody asked"


def reorder(document: Document) -> None:
    document["steps"].reverse()
    document["steps"].insert(0, document["steps"].pop())
    step(document, "ask")["next"] = "third"
    step(document, "third")["next"] = "second"
    step(document, "second")["next"] = "last"


def retarget(document: Document) -> None:
    step(document, "ask")["next"] = "last"
    step(document, "first")["next"] = "third"
    step(document, "third")["next"] = "second"
    step(document, "second")["next"] = "ask"


def change_service(document: Document) -> None:
    step(document, "second").update(service="other", method="something")


def change_input(document: Document) -> None:
    step(document, "second")["input"] = "something else"


def change_default(document: Document) -> None:
    document["inputs"] = {"n": {"type": "integer", "default": 2}, "m": {"type": "string"}}


def change_version(document: Document) -> None:
    document["version"] = "2"


def change_type(document: Document) -> None:
    step(document, "ask").update(type="approval", prompt="?")
    del step(document, "ask")["reason"]
    step(document, "last")["set"]["result"] = "$approvals.ask.approved"


def insert(document: Document) -> None:
    step(document, "ask")["next"] = "extra"
    document["steps"].append({"id": "extra", "type": "call", "service": "desk", "method": "extra", "next": "second"})


EDITS: dict[str, Edit] = {
    "the next step renamed": rename_next,
    "the waiting step renamed": rename_waiting,
    "the next step removed": remove_next,
    "the waiting step removed": remove_waiting,
    "steps in another order": reorder,
    "steps lead elsewhere": retarget,
    "another service": change_service,
    "another input of a call": change_input,
    "another default, and one more input": change_default,
    "another version": change_version,
    "another type": change_type,
    "one more step": insert,
}


async def deploy(clock: FakeClock, edit: Edit) -> None:
    async with stage(clock, original()) as play:
        result = await play.runner().run({}, execution_id="e")
        assert result.halted
        before = await play.store.load("e")
        edited = deepcopy(original())
        edit(edited)
        play.workflows = [df.load(edited)]
        play.options["services"] = {"desk": play.desk, "other": play.desk}
        await play.restart()
        assert (await play.runner().recover("e")).halted
        result = await play.runner().resume("e", response="go")
        assert result.completed, result.error
        assert result.output == ["go", 1, "1"]
        assert play.desk.calls == [("first", None), ("second", 1), ("third", None)]
        steps = [entry.step_id for entry in await play.store.entries("e") if entry.action in ("completed", "answered")]
        assert steps == ["first", "ask", "second", "third", "last"]
        execution = await play.store.load("e")
        assert execution is not None
        assert before is not None
        assert (execution.definition_hash, execution.workflow_version) == (before.definition_hash, "1")
        assert execution.input == {"n": 1}


def cases(full: bool) -> Iterable[Case]:
    for name, edit in EDITS.items():

        async def check(clock: FakeClock, edit: Edit = edit) -> None:
            await deploy(clock, edit)

        yield Case(name, fake_time(check))


TABLE = Table("an execution goes on with the definition it was started with, whatever is deployed", cases)
