"""The steps of an execution as a tree, read from its audit trail."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

import durable_flow as df

PART = re.compile(r"[^/\[]+|\[\d+\]")
"""A path is made of step ids (with `#visit`) and, for iterations, `[index]`: `orders#2[3]/charge`."""

STATES = {
    df.Action.STARTED: "running",
    df.Action.RETRIED: "retried",
    df.Action.HALTED: "waiting",
    df.Action.COMPLETED: "completed",
    df.Action.ANSWERED: "completed",
    df.Action.FAILED: "failed",
    df.Action.CANCELLED: "cancelled",
    df.Action.SKIPPED: "skipped",
    df.Action.COMPENSATED: "compensated",
}
UNDONE = "~/compensate"
AFTER = {UNDONE: "undone", "~/finally": "finally"}
"""What happened after the steps, by the paths below which it stands."""

OPEN = frozenset({"running", "retried", "waiting", ""})
TRIES = frozenset({df.Action.COMPLETED, df.Action.FAILED, df.Action.RETRIED})


class Node(msgspec.Struct):
    """A step (one visit of it), an iteration or a branch, with what is inside it. `begun` and `ended` are its first
    and last sign of life; nothing has ended that still runs or waits. `wait` is what it waits for."""

    path: str
    name: str
    type: str = ""
    state: str = ""
    attempts: int = 0
    error: str | None = None
    actor: str | None = None
    begun: datetime | None = None
    ended: datetime | None = None
    children: list[Node] = []
    wait: Any = None

    def document(self) -> dict[str, object]:
        """What --json shows of it."""
        return {
            "path": self.path,
            "name": self.name,
            "type": self.type or None,
            "state": self.state,
            "attempts": self.attempts,
            "started_at": self.begun,
            "ended_at": self.ended,
            "error": self.error,
            "actor": self.actor,
            "waits_for": None if self.wait is None else self.wait.__struct_config__.tag,
            "steps": [child.document() for child in self.children],
        }


def tree(execution: df.Execution, entries: Iterable[df.Entry], *, types: Mapping[str, str]) -> list[Node]:
    """The steps of the top level, in the order in which they were first met. `types` are the types of steps by id."""
    nodes: dict[str, Node] = {}
    top: list[Node] = []
    for entry in entries:
        if entry.path:
            _take(_node(entry.path, nodes, top), entry)
        elif entry.action is df.Action.MIGRATED:
            for old, new in entry.metadata.get("renamed", {}).items():
                _rename(old, new, nodes, top)
    waits = {wait.path: wait for wait in execution.blocked_on}
    at = execution.current_step
    in_flight = at is not None and execution.status is df.Status.RUNNING and execution.closing is None
    if in_flight and not any(node.name.partition("#")[0] == at and node.state in OPEN for node in top):
        top.append(Node(path=at or "", name=at or "", state="running"))
    _settle(top, execution, waits, types)
    if execution.closing is not None and not execution.status.over and top and top[-1].path in AFTER:
        after = top[-1]
        if not any(child.state in OPEN for child in after.children):  # between two of its steps
            after.state, after.ended = _open_state(after, execution, set()), None
    return top


def _rename(old: str, new: str, nodes: dict[str, Node], top: Sequence[Node]) -> None:
    """The step of the top level at which an execution stood has another name since it was migrated."""
    for node in reversed(top):
        name, hash_, visit = node.name.partition("#")
        if name == old:
            node.path = node.name = f"{new}{hash_}{visit}"
            nodes[node.path] = node
            return


def _node(path: str, nodes: dict[str, Node], top: list[Node]) -> Node:
    """The node of a path; it and those above it are made where they are missing."""
    found = nodes.get(path)
    if found is not None:
        return found
    if path.startswith(UNDONE) and path != UNDONE:  # one line for each step that was undone, wherever it stood
        found = nodes[path] = Node(path=path, name=path.removeprefix(f"{UNDONE}/"))
        _node(UNDONE, nodes, top).children.append(found)
        return found
    if path in AFTER:
        found = nodes[path] = Node(path=path, name=AFTER[path])
        top.append(found)
        return found
    name = PART.findall(path)[-1]
    above = path[: -len(name)].removesuffix("/")
    found = nodes[path] = Node(path=path, name=name)
    (_node(above, nodes, top).children if above else top).append(found)
    return found


def _take(node: Node, entry: df.Entry) -> None:
    """What an entry says of its node. A branch that is a single step shares its path with that step."""
    began = entry.timestamp - timedelta(milliseconds=entry.duration_ms or 0)
    node.begun = began if node.begun is None else min(node.begun, began)
    node.ended = entry.timestamp
    own = node.path.rpartition("/")[2].partition("#")[0] == entry.step_id
    if own:
        node.type = entry.step_type
        node.attempts += entry.action in TRIES
        node.actor = entry.actor or node.actor
    if (own or not node.type) and not _is_one_of_several_votes(entry):
        node.state = STATES.get(entry.action, node.state)
    node.error = entry.error


def _is_one_of_several_votes(entry: df.Entry) -> bool:
    """Whether it is an answer after which the step goes on waiting: it changes no variable."""
    answer = entry.metadata.get("answer") or {}
    return entry.action is df.Action.ANSWERED and not entry.changes and "timeout" not in answer


def _settle(nodes: Sequence[Node], execution: df.Execution, waits: Mapping[str, Any], types: Mapping[str, str]) -> None:
    """States that only the whole shows: of bodies that have not ended, and of steps nobody drives."""
    for node in nodes:
        _settle(node.children, execution, waits, types)
        node.type = node.type or types.get(node.name.partition("#")[0], "")
        inner = {child.state for child in node.children}
        begun = [child.begun for child in node.children if child.begun is not None]
        ended = [child.ended for child in node.children if child.ended is not None]
        node.begun = min([*begun, *([node.begun] if node.begun else [])], default=None)
        node.ended = max([*ended, *([node.ended] if node.ended else [])], default=None)
        if node.path in AFTER and not inner & OPEN:
            node.state = "failed" if "failed" in inner else "compensated" if node.path == UNDONE else "completed"
        elif node.path in waits:
            node.state = "waiting"
            node.wait = waits[node.path]
        elif node.state in OPEN:
            node.state = _open_state(node, execution, inner)
        if node.state in ("waiting", "running", "retried"):
            node.ended = None


def _open_state(node: Node, execution: df.Execution, inner: set[str]) -> str:
    if execution.status.over:
        return "failed" if "failed" in inner else "cancelled"
    if inner and not inner & {"running", "retried", "stopped"} and "waiting" in inner:
        return "waiting"
    if execution.owner is None:
        return "stopped"
    return "retried" if node.state == "retried" else "running"
