"""Turns the events of a runtime into progress, and remembers what a summary needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import durable_flow as df
from durable_flow.cli import _render

VISIT = re.compile(r"#\d+$")


class Watch:
    """Hears every event of a runtime. `execution_id` is the execution that was asked for, as soon as it is known;
    `driven` are the executions that go on in this process."""

    def __init__(self, progress: _render.Progress, execution_id: str | None) -> None:
        self.execution_id = execution_id
        self.driven: set[str] = set()
        self._progress = progress
        self._begun: dict[tuple[str, str], datetime] = {}

    def hear(self, event: df.Event) -> None:
        data = event.data
        if event.type == "workflow.started" and self.execution_id is None:
            self.execution_id = data["execution_id"]
        what, _, happened = event.type.partition(".")
        if what == "workflow":
            change = self.driven.add if happened in ("started", "resumed") else self.driven.discard
            change(data["execution_id"])
        if what != "step":
            return
        key = (data["execution_id"], data["path"])
        shown = data["path"] if key[0] == self.execution_id else f"{data['workflow_id']} ▸ {data['path']}"
        if happened == "started":
            self._begun[key] = event.timestamp
            self._progress.started(shown, data["step_type"], attempt=data["attempt"], at=event.timestamp.timestamp())
            return
        if happened == "completed" and _is_body(data):
            return
        begun = self._begun.pop(key, None)
        self._progress.ended(
            shown,
            "waiting" if happened == "halted" else happened,
            data["step_type"],
            seconds=None if begun is None else max(0.0, (event.timestamp - begun).total_seconds()),
            said=_said(happened, data),
            at=event.timestamp,
        )


def _is_body(data: Mapping[str, Any]) -> bool:
    """Whether it is an iteration or a branch that ended: its steps have been told."""
    name: str = VISIT.sub("", data["path"].rpartition("/")[2])
    return name != str(data["step_id"])


def _said(happened: str, data: Mapping[str, Any]) -> str:
    if "error" in data:
        tries = f"attempt {data['attempt']}: " if happened == "retried" else ""
        return f"{tries}{data['error']}"
    asked = data.get("halt")
    if happened == "halted" and isinstance(asked, Mapping):
        said = asked.get("prompt") or asked.get("reason") or _render.asked_for(asked)
        return said if isinstance(said, str) else ""
    return ""
