"""What an execution should do, in a few words: a reference model without store, lease, event loop or recovery.

`World` knows everything that happened and computes what everybody must see. It is told which process drives, because
that is nobody's promise; what follows from it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import durable_flow as df
from tests.reliability.stage import document

Step = dict[str, Any]
DEAD, SOMEBODY = "dead", "somebody"
OVER = ("completed", "failed", "cancelled")
BY_TIME = ("timer", "retry")
DECISION = "$approvals.sign"
PEOPLE = ["ann", "bob", "cid"]


def call(id: str, **keys: Any) -> Step:
    return {"id": id, "type": "call", "service": "desk", "method": id, "input": {"of": "$execution.id"}, **keys}


END: Step = {"id": "end", "type": "end"}
FLOWS: dict[str, dict[str, Any]] = {
    flow["id"]: flow
    for flow in (
        document(
            "ask",
            [
                {"id": "ask", "type": "halt", "timeout": 40.17, "on_timeout": "late", "next": "work"},
                call("work", output="x", next="end"),
                {"id": "late", "type": "assign", "set": {"x": "late"}, "next": "end"},
                END,
            ],
        ),
        document(
            "sign",
            [
                {"id": "sign", "type": "approval", "prompt": "?", "approvers": PEOPLE, "required": 2, "timeout": 50.23}
                | {"on_reject": "back", "next": "note"},
                {"id": "note", "type": "assign", "set": {"decision": DECISION}, "next": "ship"},
                call("ship", output="x", timeout=20.31, next="end"),
                {"id": "back", "type": "assign", "set": {"x": "back", "decision": DECISION}, "next": "end"},
                END,
            ],
        ),
        document(
            "work",
            [
                call("first", output="x", next="last")
                | {"retry": {"max_attempts": 3, "initial_interval": 15.41, "backoff": 1, "jitter": 0}}
                | {"on_error": "sorry"},
                {"id": "sorry", "type": "assign", "set": {"y": "sorry"}, "next": "last"},
                call("last", output="z", next="end"),
                END,
            ],
            timeout=120.11,
        ),
        document(
            "risk",
            [
                call("once", output="y", delivery="at_most_once", on_error="again", next="again"),
                call("again", output="z", next="end")
                | {"retry": {"max_attempts": 2, "initial_interval": 12.47, "jitter": 0, "on_exhausted": "halt"}},
                END,
            ],
        ),
        document(
            "mail",
            [
                {"id": "one", "type": "signal", "name": "go", "output": "x", "timeout": 40.29, "on_timeout": "late"}
                | {"next": "pause"},
                {"id": "late", "type": "assign", "set": {"x": "late"}, "next": "pause"},
                {"id": "pause", "type": "wait", "for": 25.53, "next": "two"},
                {"id": "two", "type": "signal", "name": "go", "output": "y", "next": "work"},
                call("work", next="end"),
                END,
            ],
            timeout=150.37,
        ),
        document(
            "both",
            [
                {
                    "id": "both",
                    "type": "parallel",
                    "branches": [{"id": "left", "type": "halt"}, {"id": "right", "type": "halt"}],
                    "output": "x",
                    "next": "work",
                },
                call("work", next="end"),
                END,
            ],
        ),
    )
}


@dataclass
class Wait:
    """`step` waits for an answer of some `kind`, until `due`."""

    kind: str
    step: Step
    due: float | None = None
    votes: dict[str, bool] = field(default_factory=dict)

    @property
    def over_by_time(self) -> bool:
        return self.kind in BY_TIME


@dataclass
class Twin:
    """What should be seen of one execution, and who could go on with it."""

    id: str
    flow: str
    given: Any
    at: str
    ends: float | None
    status: str = "running"
    variables: dict[str, Any] = field(default_factory=dict)
    waits: dict[str, Wait] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    decision: tuple[bool, dict[str, bool]] | None = None
    signals: list[Any] = field(default_factory=list)
    effects: Counter[str] = field(default_factory=Counter)
    tries: int = 0
    output: Any = None
    error: str | None = None
    cancelling: bool = False
    flying: bool = False
    """A service is at work for it, or was when its process went away."""
    due: float | None = None
    """When the attempt times out."""
    owner: str | None = None
    """The process that drives it; DEAD where that is no more, and its lease runs on until `lease`."""
    lease: float | None = None
    callers: dict[int, bool] = field(default_factory=dict)
    """The calls that wait for it, and whether they go on with it when nobody does."""
    seen: set[str] = field(default_factory=set)
    ids: dict[str, str] = field(default_factory=dict)
    """The ids of the last waits, by path."""

    @property
    def over(self) -> bool:
        return self.status in OVER

    @property
    def rests(self) -> bool:
        """Whether calls return: it is over, or waits for somebody."""
        return self.over or (self.owner is None and any(not wait.over_by_time for wait in self.waits.values()))


class World:
    """Everything that is known, and what follows from it. Methods of callers give the error that they must get."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.all: dict[str, Twin] = {}
        self.mood = "fine"
        self.workers: set[str] = set()

    def attended(self, twin: Twin) -> bool:
        return bool(self.workers) or (any(twin.callers.values()) and not twin.rests)

    def free(self, twin: Twin) -> bool:
        """Whether anybody may take it: nobody has its lease."""
        return twin.owner is None or (twin.owner == DEAD and (twin.lease or 0) <= self.now)

    # -- what callers do -----------------------------------------------------------------------------------------------

    def start(self, name: str, flow: str, given: Any) -> type[Exception] | None:
        if (twin := self.all.get(name)) is not None:
            if (twin.flow, twin.given) != (flow, given):
                return df.ConflictError
            self.nudge(twin)
            return None
        timeout, first = FLOWS[flow].get("timeout"), FLOWS[flow]["steps"][0]["id"]
        self.all[name] = twin = Twin(name, flow, given, first, None if timeout is None else self.now + timeout)
        self.go(twin)
        return None

    def resume(self, twin: Twin, flow: str, path: str | None, **answer: Any) -> type[Exception] | None:
        if twin.flow != flow or twin.over:
            return df.ConflictError
        if twin.ends is not None and self.now >= twin.ends:
            self.nudge(twin)
            return df.ConflictError
        if path not in twin.waits if path else len(twin.waits) != 1:
            return df.ConflictError
        path = path or next(iter(twin.waits))
        wait = twin.waits[path]
        if wait.kind in ("timer", "retry", "signal"):
            return df.ConflictError
        if (wait.kind == "approval") != ("approved" in answer):
            return df.ValidationError
        if wait.kind == "approval":
            by = answer.get("by")
            if type(answer["approved"]) is not bool:
                return df.ValidationError
            if by not in PEOPLE:
                return df.NotAllowed
        if wait.due is not None and self.now >= wait.due:
            self.nudge(twin)
            return df.ConflictError
        if wait.kind == "approval":
            if by in wait.votes:
                return df.ConflictError
            wait.votes[by] = answer["approved"]
            self.nudge(twin)
            if answer["approved"] and len(wait.votes) < 2:
                return None
            twin.decision = (answer["approved"], wait.votes)
            self.answered(twin, path, wait.step["next"] if answer["approved"] else wait.step["on_reject"])
        elif wait.kind == "halt":
            if path == twin.at:
                twin.variables["response"] = answer["response"]
            else:
                twin.answers[path] = answer["response"]
            self.answered(twin, path, wait.step.get("next"))
        else:
            twin.variables[wait.step["output"]] = answer["response"]
            self.answered(twin, path, wait.step["next"])
        return None

    def signal(self, twin: Twin, flow: str, payload: Any) -> type[Exception] | None:
        if twin.flow != flow or twin.over:
            return df.ConflictError
        self.nudge(twin)
        twin.signals.append(payload)
        wait = twin.waits.get(twin.at)
        if wait is not None and wait.kind == "signal" and self.free(twin):
            twin.variables[wait.step["output"]] = twin.signals.pop(0)
            self.answered(twin, twin.at, wait.step["next"])
        return None

    def cancel(self, twin: Twin, flow: str) -> type[Exception] | None:
        if twin.flow != flow or twin.over:
            return df.ConflictError
        twin.cancelling = True
        if twin.owner != DEAD or self.free(twin):
            self.end(twin, *(("failed", "TimeoutError") if self.late(twin) else ("cancelled", None)))
        return None

    def retry(self, twin: Twin, flow: str) -> type[Exception] | None:
        if twin.flow == flow and twin.status == "failed":
            timeout = FLOWS[twin.flow].get("timeout")
            twin.ends = None if timeout is None else self.now + timeout
            twin.status, twin.error, twin.tries, twin.flying = "running", None, 0, False
            self.go(twin)
            return None
        return self.decide(twin, flow, "retry")

    def fail(self, twin: Twin, flow: str) -> type[Exception] | None:
        return self.decide(twin, flow, "fail")

    def decide(self, twin: Twin, flow: str, what: str) -> type[Exception] | None:
        wait = twin.waits.get(twin.at)
        if twin.flow != flow or wait is None or wait.kind not in ("error", "uncertain"):
            return df.ConflictError
        self.nudge(twin)
        if twin.over:
            return None
        twin.waits.clear()
        if what == "fail":
            self.broken(twin, wait.step, "ValueError" if wait.kind == "error" else "Uncertain")
        else:
            twin.tries, twin.status = 0, "running"
        self.go(twin)
        return None

    def recover(self, twin: Twin, flow: str) -> type[Exception] | None:
        if twin.flow != flow or (twin.owner is not None and not self.free(twin)):
            return df.ConflictError
        self.nudge(twin)
        return None

    # -- what happens by itself ----------------------------------------------------------------------------------------

    def pass_to(self, moment: float) -> float:
        """Time goes by. When something happened last."""
        last = 0.0
        while True:
            due = [(when, twin) for twin in self.all.values() if (when := self.next(twin)) is not None]
            when, twin = min(due, key=lambda pair: pair[0], default=(moment + 1, None))
            if twin is None or when > moment:
                self.now = max(self.now, moment)
                return last
            last = self.now = max(self.now, when)
            self.happen(twin)

    def next(self, twin: Twin) -> float | None:
        """When time makes something happen here, if anybody takes care of it."""
        if twin.over or twin.owner == DEAD or (twin.owner is None and not self.attended(twin)):
            return None
        times = [twin.due, twin.ends] if twin.flying else [twin.ends, *(wait.due for wait in twin.waits.values())]
        return min((time for time in times if time is not None), default=None)

    def happen(self, twin: Twin) -> None:
        """Everything about an execution that is due now."""
        if self.late(twin):
            self.end(twin, "failed", "TimeoutError")
        elif twin.flying and twin.due is not None and twin.due <= self.now:
            twin.flying = False
            self.failed(twin, self.step(twin), "TimeoutError")
            self.go(twin)
        for path, wait in list(twin.waits.items()):
            if wait.due is None or wait.due > self.now:
                continue
            if wait.kind == "retry":
                del twin.waits[path]
                self.go(twin)
            elif wait.kind == "timer":
                self.answered(twin, path, wait.step["next"])
            elif "on_timeout" in wait.step:
                self.answered(twin, path, wait.step["on_timeout"])
            else:
                twin.waits.clear()
                self.broken(twin, wait.step, "TimeoutError")

    def late(self, twin: Twin) -> bool:
        return twin.ends is not None and twin.ends <= self.now

    def nudge(self, twin: Twin) -> None:
        """Somebody looks at it: whatever can go on does."""
        if twin.over or not self.free(twin):
            return
        if self.late(twin):
            self.end(twin, "failed", "TimeoutError")
        elif twin.cancelling:
            self.end(twin, "cancelled", None)
        elif twin.waits:
            self.happen(twin)
        else:
            self.take_over(twin)

    def take_over(self, twin: Twin) -> None:
        """Somebody goes on where the process before stopped."""
        twin.owner = twin.lease = None
        if twin.flying:
            twin.flying = False
            step = self.step(twin)
            if "delivery" in step:
                twin.waits[twin.at] = Wait("uncertain", step)
        self.go(twin)

    def leave(self, twin: Twin) -> None:
        """The process that drives it gives it back."""
        twin.owner = None
        if self.attended(twin):
            self.nudge(twin)

    def release(self, *, fine: bool) -> None:
        """All services that are at work come to an end."""
        for twin in self.all.values():
            if twin.flying and twin.owner not in (None, DEAD):
                twin.flying, twin.owner, step = False, None, self.step(twin)
                self.done(twin, step) if fine else self.failed(twin, step, "ValueError")
                self.go(twin)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def step(self, twin: Twin) -> Step:
        return next(step for step in FLOWS[twin.flow]["steps"] if step["id"] == twin.at)

    def go(self, twin: Twin) -> None:
        """Step by step until it is over, waits, or a service is at work."""
        while not (twin.over or twin.waits or twin.flying):
            step = self.step(twin)
            match step["type"]:
                case "assign":
                    for name, value in step["set"].items():
                        twin.variables[name] = twin.decision if value == DECISION else value
                    twin.at = step["next"]
                case "end":
                    twin.output = {**twin.variables}
                    self.end(twin, "completed", None)
                case "call":
                    self.attempt(twin, step)
                case "signal" if twin.signals:
                    twin.variables[step["output"]] = twin.signals.pop(0)
                    twin.at = step["next"]
                case "parallel":
                    open_ = {f"both/{branch['id']}": branch for branch in step["branches"]}
                    twin.waits = {path: Wait("halt", b) for path, b in open_.items() if path not in twin.answers}
                    if not twin.waits:
                        twin.variables |= {step["output"]: list(map(twin.answers.get, open_))}
                        twin.variables["response"] = twin.answers["both/right"]
                        twin.at = step["next"]
                case kind:
                    timeout = step.get("for", step.get("timeout"))
                    due = None if timeout is None else self.now + timeout
                    twin.waits[twin.at] = Wait("timer" if kind == "wait" else kind, step, due)
        twin.status = twin.status if twin.over else "running" if twin.flying else "halted"
        twin.owner = twin.owner if twin.flying else None
        twin.seen.add(twin.status)

    def attempt(self, twin: Twin, step: Step) -> None:
        twin.effects[f"{twin.id}:{step['id']}"] += 1
        if self.mood == "hangs":
            twin.flying, twin.owner = True, SOMEBODY
            twin.due = self.now + step["timeout"] if "timeout" in step else None
        elif self.mood == "fine":
            self.done(twin, step)
        else:
            self.failed(twin, step, "ValueError")

    def done(self, twin: Twin, step: Step) -> None:
        if "output" in step:
            twin.variables[step["output"]] = {"of": twin.id}
        twin.at, twin.tries = step["next"], 0

    def failed(self, twin: Twin, step: Step, kind: str) -> None:
        twin.tries += 1
        policy = step.get("retry")
        if policy is not None and twin.tries < policy["max_attempts"]:
            twin.waits[twin.at] = Wait("retry", step, self.now + policy["initial_interval"])
        elif policy is not None and policy.get("on_exhausted") == "halt":
            twin.waits[twin.at] = Wait("error", step)
        else:
            self.broken(twin, step, kind)

    def broken(self, twin: Twin, step: Step, kind: str) -> None:
        if "on_error" not in step:
            self.end(twin, "failed", kind)
            return
        twin.variables["_last_error"] = kind
        twin.at, twin.tries = step["on_error"], 0

    def answered(self, twin: Twin, path: str, target: str | None) -> None:
        del twin.waits[path]
        if path == twin.at:
            twin.at, twin.tries = target or "", 0
        elif twin.waits:
            return
        self.go(twin)

    def end(self, twin: Twin, status: str, error: str | None) -> None:
        twin.status, twin.error, twin.owner, twin.lease = status, error, None, None
        twin.flying, twin.cancelling = False, False
        twin.waits.clear()
        twin.seen.add(status)
