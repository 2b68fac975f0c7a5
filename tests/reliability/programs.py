"""Workflows made by chance: they do what a short interpreter says they mean, with and without faults.

`program` makes a definition from a seed; `meaning` says what comes of it, without engine, store or event loop. Each is
then played on the engine, and again with faults, by the crash harness, which also folds the audit trail after every
commit and compares it with what is stored.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import durable_flow as df
from durable_flow.testing import (
    CANCELS,
    ERRORS,
    KILLS,
    Expire,
    Explorer,
    FakeClock,
    Pass,
    Plan,
    Reply,
    Scenario,
    Scripted,
    Send,
    answer,
)
from tests.reliability.table import Case, Table

Step = dict[str, Any]

VARIABLES = ("a", "b", "c", "xs")
METHODS = ("quick", "slow", "flaky", "bad")
CAREFUL = {"gate": 0.5, "call": 0.5, "loop": 0.4, "parallel": 0.4, "workflow": 0.4, "approval": 0.6}
"""How often a step of a type has a handler."""


# -- programs ----------------------------------------------------------------------------------------------------------


class Author:
    """Writes steps, as chance has it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.children: dict[str, list[Step]] = {}
        self.count = 0
        self.left = 25

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def value(self, depth: int = 0) -> Any:
        roll = self.chance.random()
        if roll < 0.35 and depth < 2:
            return [self.value(depth + 1) for _ in range(self.chance.randint(0, 2))]
        if roll < 0.7:
            return self.chance.choice(("$a", "$b", "$c", "$input.n", "$item", "$index", "$response", "x $a y", "$loop"))
        return self.chance.choice((0, 1, 2, True, False, None, "t", "$$a"))

    def body(self, depth: int, *, loop: bool = False, leaves: bool = True) -> list[Step]:
        """`loop`: it may break and go on with the next; `leaves`: it may end the workflow."""
        steps = []
        for _ in range(self.chance.randint(1, 4)):
            steps.append(self.step(depth, loop=loop, leaves=leaves))
            if steps[-1]["type"] == "approval":  # the time of a vote must not become the output of a body
                steps.append(self.a_assign(depth, leaves))
        if self.chance.random() < 0.12:
            steps = self.again(steps)
        for index, step in enumerate(steps):
            after = [later["id"] for later in steps[index + 1 :] if not later["id"].endswith(("_sum", "_route"))]
            out = ["__CONTINUE__", *(["__BREAK__"] if leaves else [])] if loop else []
            if step["type"] == "router" and "routes" not in step:
                targets = after + out or (["__FINISHED__"] if leaves and not loop else [])
                if not targets:
                    steps[index] = {"id": step["id"], "type": "assign", "set": {"c": 1}}
                    continue
                step["routes"] = [{"when": self.condition(), "then": self.chance.choice(targets)}]
                step["default"] = self.chance.choice(targets)
            elif after and self.chance.random() < CAREFUL.get(step["type"], 0):
                step["on_error"] = self.chance.choice(after)
        return steps

    def again(self, steps: list[Step]) -> list[Step]:
        """The same steps once more: each visit is a new one."""
        name = self.name("lap")
        times = {"field": name, "op": "lte", "value": self.chance.randint(0, 1)}
        return [
            {"id": f"{name}_zero", "type": "assign", "set": {name: 0}},
            *steps,
            {"id": f"{name}_pair", "type": "assign", "set": {"pair": [f"${name}", 1]}},
            {"id": f"{name}_sum", "type": "transform", "input": "pair", "expression": {"sum": None}, "output": name},
            {
                "id": f"{name}_route",
                "type": "router",
                "routes": [{"when": times, "then": steps[0]["id"]}],
                "default": f"{name}_end",
            },
            {"id": f"{name}_end", "type": "assign", "set": {"pair": []}},
        ]

    def condition(self) -> Any:
        field = self.chance.choice(("a", "b", "c", "input.n"))
        test = {"field": field, "op": self.chance.choice(("truthy", "falsy", "exists", "empty"))}
        return self.chance.choice((test, {"not": test}))

    def step(self, depth: int, *, loop: bool, leaves: bool) -> Step:
        self.left -= 1
        kinds = [
            "assign",
            "assign",
            "call",
            "call",
            "call",
            "router",
            "halt",
            "approval",
            "wait",
            "signal",
            "gate",
            "late",
        ]
        if depth < 3 and self.left > 0:
            kinds += ["loop", "loop", "while", "crowd", "parallel", "parallel", "workflow"]
        if loop and leaves:
            kinds.append("flag")
        if leaves and depth:
            kinds.append("end")
        return getattr(self, f"a_{self.chance.choice(kinds)}")(depth, leaves)  # type: ignore[no-any-return]

    def a_assign(self, depth: int, leaves: bool) -> Step:
        names = self.chance.sample(VARIABLES[:3], self.chance.randint(1, 2))
        return {"id": self.name("set"), "type": "assign", "set": {name: self.value() for name in names}}

    def a_flag(self, depth: int, leaves: bool) -> Step:
        return {"id": self.name("flag"), "type": "assign", "set": {"break_loop": self.chance.choice((True, False))}}

    def a_call(self, depth: int, leaves: bool) -> Step:
        method = self.chance.choices(METHODS, (5, 2, 2, 1))[0]
        step: Step = {"id": self.name("call"), "type": "call", "service": "S", "method": method, "input": self.value()}
        if self.chance.random() < 0.7:
            step["output"] = self.chance.choice(VARIABLES[:3])
        if method == "flaky":
            step["retry"] = {"max_attempts": 3, "initial_interval": 0.1, "jitter": 0}
        return step

    def a_router(self, depth: int, leaves: bool) -> Step:
        return {"id": self.name("route"), "type": "router"}

    def a_end(self, depth: int, leaves: bool) -> Step:
        step: Step = {"id": self.name("end"), "type": "end", "result": self.value()}
        return step

    def a_halt(self, depth: int, leaves: bool) -> Step:
        return {"id": self.name("halt"), "type": "halt", "reason": "?"}

    def a_approval(self, depth: int, leaves: bool) -> Step:
        return {"id": self.name(self.chance.choice(("sign", "refuse"))), "type": "approval", "prompt": "?"}

    def a_wait(self, depth: int, leaves: bool) -> Step:
        return {"id": self.name("wait"), "type": "wait", "for": self.chance.choice((0.2, 5, 90))}

    def a_signal(self, depth: int, leaves: bool) -> Step:
        name = self.name("signal")
        return {"id": name, "type": "signal", "name": name, "output": self.chance.choice(VARIABLES[:3])}

    def a_gate(self, depth: int, leaves: bool) -> Step:
        step: Step = {"id": self.name("gate"), "type": "gate", "resolver": "opens", "params": {"of": self.value()}}
        return step | {"output": self.chance.choice(VARIABLES[:3])}

    def a_late(self, depth: int, leaves: bool) -> Step:
        """An approval that nobody gives in time."""
        return {"id": self.name("late"), "type": "approval", "prompt": "?", "timeout": "1h"}

    def a_loop(self, depth: int, leaves: bool) -> Step:
        return {
            "id": self.name("loop"),
            "type": "loop",
            "over": [self.chance.choice((0, 1, "i", "$a")) for _ in range(self.chance.randint(0, 3))],
            "on_item_error": self.chance.choice(("fail", "skip", "collect")),
            "output": self.chance.choice(("xs", "a", "c")),
            "do": self.body(depth + 1, loop=True, leaves=leaves),
        }

    def a_crowd(self, depth: int, leaves: bool) -> Step:
        """Which of several failures is the first is chance, so they are not fatal here. Nor is it told which of several
        iterations takes a signal that all of them wait for, so they wait for an answer instead."""
        loop = self.a_loop(depth, False) | {"concurrency": 2, "on_item_error": self.chance.choice(("skip", "collect"))}
        for step in walk(loop["do"]):
            if step.get("type") == "signal":
                step |= {"type": "halt", "reason": step.pop("name")}
                step.pop("output")
        return loop

    def a_while(self, depth: int, leaves: bool) -> Step:
        step: Step = {
            "id": self.name("while"),
            "type": "loop",
            "while": {"field": "iteration", "op": "lte", "value": self.chance.randint(0, 3)},
            "max": self.chance.randint(1, 3),
            "do": self.body(depth + 1, loop=True, leaves=leaves),
        }
        return step

    def a_parallel(self, depth: int, leaves: bool) -> Step:
        branches: list[Step] = []
        for _ in range(self.chance.randint(1, 3)):
            if self.chance.random() < 0.5:
                branches.append({"id": self.name("branch"), "do": self.body(depth + 1, leaves=False)})
            else:
                branches.append(self.chance.choice((self.a_assign, self.a_call, self.a_halt))(depth, False))
        step: Step = {"id": self.name("both"), "type": "parallel", "branches": branches}
        if self.chance.random() < 0.7:
            step["output"] = self.chance.choice(("xs", "b"))
        if self.chance.random() < 0.3:
            step["max_concurrency"] = 1
        return step

    def a_workflow(self, depth: int, leaves: bool) -> Step:
        child = self.name("child")
        self.children[child] = []
        self.children[child] = self.body(depth + 1)
        step = {"id": self.name("sub"), "type": "workflow", "workflow_id": child, "input": {"n": self.value()}}
        return step | ({"output": self.chance.choice(VARIABLES[:3])} if self.chance.random() < 0.7 else {})


def linked(steps: list[Step]) -> list[Step]:
    """A list of steps as a top level needs it: each names the next, and the last sets the result."""
    last = {"id": "last", "type": "assign", "set": {"result": ["$a", "$b", "$c", "$xs"]}}
    following = [*(step["id"] for step in steps[1:]), "last"]
    return [
        step if step["type"] in ("router", "end") else {**step, "next": after}
        for step, after in zip(steps, following, strict=True)
    ] + [last]


def program(seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The documents of a workflow `flow` and of its children, and an input."""
    chance = random.Random(f"program {seed}")
    author = Author(chance)
    steps = linked(author.body(0))
    document: dict[str, Any] = {"id": "flow", "name": "flow", "steps": steps}
    if chance.random() < 0.3:
        document["on_error"] = "last"
    documents = [document]
    documents += [{"id": name, "name": name, "steps": linked(body)} for name, body in author.children.items()]
    return documents, {"n": chance.choice((0, 1, "n", None, [1]))}


# -- what they mean ----------------------------------------------------------------------------------------------------


class Broken(Exception):
    """A step error on its way outwards."""

    def __init__(self, kind: str, step: str, text: str) -> None:
        self.kind, self.step, self.text = kind, step, text
        super().__init__(text)


def called(method: str, given: Any) -> Any:
    """What a service gives, if it does: something short that depends on what it was given."""
    if method == "bad":
        raise ValueError("bad")
    return zlib.crc32(json.dumps([method, comparable(given)]).encode()) % 100


def responded(step_id: str) -> Any:
    return zlib.crc32(step_id.encode()) % 5 or None


class Meaning:
    """One run of one workflow."""

    def __init__(self, documents: Mapping[str, Any], given: Any) -> None:
        self.documents = documents
        self.given = given

    def run(self, name: str) -> tuple[Any, dict[str, Any]]:
        """Its result and its variables. Raises Broken where it fails."""
        document = self.documents[name]
        variables: dict[str, Any] = {}
        self.body(document["steps"], [variables], handler=document.get("on_error"), top=True)
        return variables.get("result"), variables

    def body(
        self, steps: list[Step], scope: list[dict[str, Any]], *, handler: str | None = None, top: bool = False
    ) -> tuple[str | None, Any]:
        """By which target it was left, and its output."""
        places = {step["id"]: index for index, step in enumerate(steps)}
        target: str | None = steps[0]["id"]
        output: Any = None
        while target in places:
            index = places[target]
            step = steps[index]
            following = steps[index + 1]["id"] if index + 1 < len(steps) and not top else None
            try:
                goes, value = getattr(self, step["type"])(step, scope)
            except Broken as error:
                goes, handler = step.get("on_error"), handler
                if goes is None:
                    goes, handler = handler, None
                if goes is None:
                    raise
                scope[-1]["_last_error"] = error.kind
                target = goes
                continue
            if value is not KEEP:
                output = value
            target = goes or step.get("next", following)
        return target, output

    def lookup(self, name: str, scope: list[dict[str, Any]]) -> Any:
        if name == "input":
            return self.given
        return next((frame[name] for frame in reversed(scope) if name in frame), None)

    def resolve(self, value: Any, scope: list[dict[str, Any]]) -> Any:
        if isinstance(value, list):
            return [self.resolve(item, scope) for item in value]
        if isinstance(value, dict):
            return {name: self.resolve(item, scope) for name, item in value.items()}
        if value == "$$a":
            return "$a"
        if value == "x $a y":
            return f"x {as_text(self.lookup('a', scope))} y"
        if isinstance(value, str) and value.startswith("$"):
            root, _, path = value[1:].partition(".")
            found = self.lookup(root, scope)
            return found.get(path) if path else found
        return value

    def holds(self, condition: Any, scope: list[dict[str, Any]]) -> bool:
        if "not" in condition:
            return not self.holds(condition["not"], scope)
        value = self.resolve(f"${condition['field']}", scope)
        match condition["op"]:
            case "truthy":
                return bool(value)
            case "falsy":
                return not value
            case "exists":
                return value is not None
            case "lte":
                return bool(value <= condition["value"])
        return value is None or value in ("", []) or value == {}

    # one method for each step type

    def assign(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        value: Any = None
        for name, template in step["set"].items():
            value = scope[-1][name] = self.resolve(template, scope)
        return None, value

    def call(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        given = self.resolve(step["input"], scope)
        try:
            value = called(step["method"], given)
        except ValueError as error:
            raise Broken("ValueError", step["id"], f"ValueError: {error}") from None
        if "output" in step:
            scope[-1][step["output"]] = value
        return None, value

    def transform(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        value = scope[-1][step["output"]] = sum(self.resolve(f"${step['input']}", scope))
        return None, value

    def router(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        (route,) = step["routes"]
        return (route["then"] if self.holds(route["when"], scope) else step["default"]), KEEP

    def end(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        value = scope[-1]["result"] = self.resolve(step["result"], scope)
        return "__FINISHED__", value

    def halt(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        value = scope[-1]["response"] = responded(step["id"])
        return None, value

    def wait(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        return None, KEEP

    def signal(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        value = scope[-1][step["output"]] = responded(step["id"])
        return None, value

    def gate(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        value = scope[-1][step["output"]] = called("gate", self.resolve(step["params"], scope))
        return None, value

    def approval(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        if "timeout" in step:
            raise Broken("TimeoutError", step["id"], "TimeoutError: not approved in time")
        if step["id"].startswith("refuse"):
            raise Broken("ApprovalRejected", step["id"], "ApprovalRejected: rejected by ann")
        return None, {"approved": True}

    def workflow(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        given = self.resolve(step["input"], scope)
        try:
            value, _ = Meaning(self.documents, given).run(step["workflow_id"])
        except Broken as error:
            raise Broken(error.kind, step["id"], error.text) from None
        if "output" in step:
            scope[-1][step["output"]] = value
        return None, value

    def parallel(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        frames: list[dict[str, Any]] = []
        outputs: list[Any] = []
        errors: list[Broken] = []
        for branch in step["branches"]:
            frames.append({})
            try:
                outputs.append(self.body(branch.get("do", [branch]), [*scope, frames[-1]])[1])
            except Broken as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise Broken("ParallelError", step["id"], "ParallelError")
        for frame in frames:
            scope[-1].update(frame)
        if "output" in step:
            scope[-1][step["output"]] = outputs
        return None, outputs

    def loop(self, step: Step, scope: list[dict[str, Any]]) -> tuple[str | None, Any]:
        items = self.resolve(step["over"], scope) if "over" in step else None
        concurrent = step.get("concurrency", 1) > 1
        counts = {"total": 0 if items is None else len(items), "completed": 0, "failed": 0, "skipped": 0}
        outputs: list[Any] = []
        leaves: str | None = None
        number = 0
        while items is None or number < len(items):
            shown = {**counts, **({"completed": 0, "failed": 0, "skipped": 0} if concurrent else {})}
            given: dict[str, Any] = {"loop": shown}
            given |= {"iteration": number + 1} if items is None else {"item": items[number], "index": number}
            if items is None:
                if not self.holds(step["while"], [*scope, given]):
                    break
                if number == step["max"]:
                    raise Broken("LoopError", step["id"], "LoopError")
            frame = dict(given)
            number += 1
            try:
                target, output = self.body(step["do"], [*scope, frame])
            except Broken as error:
                if items is None or step["on_item_error"] == "fail":
                    raise
                skip = step["on_item_error"] == "skip"
                counts["skipped" if skip else "failed"] += 1
                outputs.append(None if skip else error.text)
                continue
            counts["completed"] += 1
            counts["total"] = number if items is None else counts["total"]
            outputs.append(output)
            breaks = frame.pop("break_loop", None) is True
            if not concurrent:
                ends = target == "__FINISHED__"
                scope[-1].update(
                    (name, value) for name, value in frame.items() if name not in given or (ends and name == "result")
                )
            if target not in (None, "__CONTINUE__") or breaks:
                leaves = "__BREAK__" if breaks and target in (None, "__CONTINUE__") else target
                break
        if "output" in step:
            scope[-1][step["output"]] = outputs
        scope[-1]["loop"] = dict(counts)
        return (None if leaves == "__BREAK__" else leaves), outputs


KEEP = object()


def as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, separators=(",", ":"))


# -- both --------------------------------------------------------------------------------------------------------------


def services(clock: FakeClock) -> Mapping[str, Any]:
    made = {
        "quick": Reply(partial(called, "quick")),
        "slow": Reply(partial(called, "slow"), takes=0.3),
        "flaky": Reply(partial(called, "flaky"), fails=1, takes=0.05),
        "bad": Reply(fails=99, error=ValueError("bad")),
    }
    return {"S": Scripted(clock, **made)}


def gates(clock: FakeClock) -> Mapping[str, Any]:
    async def opens(params: Any, context: df.StepContext) -> Any:
        return df.Gate.APPROVED, called("gate", params)

    return {"opens": opens}


def scenario(seed: int) -> Scenario:
    documents, given = program(seed)
    flows = [df.parse(document) for document in documents]
    moves = {}
    for step in walk(documents):
        if step.get("type") == "halt":
            moves[step["id"]] = answer(response=responded(step["id"]), by="ann")
        elif step.get("type") == "approval":
            late = step["id"].startswith("late")
            moves[step["id"]] = Expire() if late else answer(approved=step["id"].startswith("sign"), by="ann")
        elif step.get("type") == "wait":
            moves[step["id"]] = Pass(91)
        elif step.get("type") == "signal":
            moves[step["id"]] = Send(step["id"], responded(step["id"]))
    return Scenario(
        name=f"program {seed}",
        workflow=flows[0],
        others=flows[1:],
        input=given,
        services=services,
        gates=gates,
        moves=moves,
    )


def walk(node: Any) -> Iterable[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(inner)


def plain(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables as both sides tell them."""
    shown = {name: value for name, value in variables.items() if not name.startswith("approvals.")}
    if isinstance(shown.get("_last_error"), dict):
        shown["_last_error"] = shown["_last_error"]["class"]
    return comparable(shown)  # type: ignore[no-any-return]


def comparable(value: Any) -> Any:
    """A value without what the interpreter does not know: when people voted, and the messages of errors."""
    if isinstance(value, dict):
        if "votes" in value:
            return {"approved": value["approved"]}
        return {name: comparable(item) for name, item in value.items()}
    if isinstance(value, str):
        return re.sub(r"^([A-Z]\w+): .*", r"\1", value, flags=re.DOTALL)
    return [comparable(item) for item in value] if isinstance(value, list) else value


def outcome(documents: list[dict[str, Any]], given: Any) -> tuple[str, str | None, str | None, Any, dict[str, Any]]:
    """The status, the error and its step, the output and the variables that the interpreter comes to."""
    try:
        output, variables = Meaning({document["id"]: document for document in documents}, given).run("flow")
    except Broken as error:
        return "failed", error.kind, error.step, None, {}
    return "completed", None, None, comparable(output), comparable(variables)


def verify(seed: int, faults: int) -> None:
    documents, given = program(seed)
    explorer = Explorer(scenario(seed))
    result = explorer.reference.result
    explorer.report.raise_for_bad()
    assert result is not None, "it did not end"
    expected = outcome(documents, given)
    got = (
        str(result.status),
        *((result.error_info.type, result.error_info.step) if result.error_info else (None, None)),
    )
    assert (*got, comparable(result.output)) == expected[:4]
    if result.completed:
        assert plain(explorer.reference.folds["x"].variables()) == expected[4]
    for fold in explorer.reference.folds.values():
        for entry in fold.values.values():
            told = (entry.get("metadata") or {}).get("answer")
            if entry.get("type") in ("halt", "approval") and told is not None and not told.get("timeout"):
                assert entry.get("actor") == "ann", f"nobody knows who answered: {entry}"
    chance = random.Random(f"faults {seed}")
    for _ in range(faults):
        modes = chance.choices((KILLS, CANCELS, ERRORS), (4, 1, 1))[0]
        first, second = (chance.choice(explorer.points).number for _ in range(2))
        explorer.play(Plan(({first: chance.choice(modes)}, {second: chance.choice(KILLS)})))
    explorer.report.raise_for_bad()


def cases(full: bool) -> Iterable[Case]:
    faults = 3
    for seed in range(500 if full else 60):
        yield Case(f"program {seed}", partial(verify, seed, faults), weight=1 + faults)


TABLE = Table("workflows made by chance do what they mean, whatever happens; their trails tell all of it", cases)
