"""Turns the events of a runtime into progress, and remembers what a summary needs."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._hints import Hints

LOOK = 1.0
"""Seconds between two looks at whether an execution that waits is to be driven on here: its time may be up."""

VISIT = re.compile(r"#\d+$")


class Watch:
    """Hears every event of a runtime. `execution_id` is the execution that was asked for, as soon as it is known;
    `driven` are the executions that go on in this process."""

    def __init__(self, progress: _render.Progress, execution_id: str | None) -> None:
        self.execution_id = execution_id
        self.driven: set[str] = set()
        self._progress = progress
        self._last: str | None = None
        self._begun: dict[tuple[str, str], datetime] = {}

    def hear(self, event: df.Event) -> None:
        data = event.data
        if event.type == "workflow.started" and self.execution_id is None:
            self.execution_id = data["execution_id"]
        if event.id is not None and data["execution_id"] == self.execution_id:
            self._last = event.id
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

    async def follow(self, runtime: df.Runtime, result: df.ExecutionResult, hints: Hints) -> df.ExecutionResult:
        """Tells what happens in an execution that waits until it is over, with what would answer each of its waits, and
        drives it on when its time has come and nobody else does. How it ended."""
        tasks = [
            asyncio.ensure_future(self._tell(runtime, result, hints)),
            asyncio.ensure_future(_drive_on(await runtime.runner_of(result.execution_id), result.execution_id)),
        ]
        try:
            for ended in asyncio.as_completed(tasks):  # the one that ends first has failed, or it is over
                await ended
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return await (await runtime.runner_of(result.execution_id)).result(result.execution_id)

    async def _tell(self, runtime: df.Runtime, result: df.ExecutionResult, hints: Hints) -> None:
        runner = await runtime.runner_of(result.execution_id)
        told = await self._ask(runtime, result, hints, set())
        async for event in runtime.events(result.execution_id, after=self._last):
            self.hear(event)
            if event.type == "workflow.halted":
                told = await self._ask(runtime, await runner.result(result.execution_id), hints, told)

    async def _ask(self, runtime: df.Runtime, result: df.ExecutionResult, hints: Hints, told: set[str]) -> set[str]:
        """Shows what answers the waits that were not `told`; those that are open."""
        answers = await hints.answers(result, runtime.store)
        for wait_id, commands in answers.items():
            if wait_id not in told:
                self._progress.asked(commands)
        return set(answers)


async def _drive_on(runner: df.Runner, execution_id: str) -> None:
    """Drives an execution where nobody else does and its time is up, until it is over."""
    clock = df.SystemClock()
    over = False
    while not over:
        with contextlib.suppress(df.ConflictError, df.LeaseLost):  # somebody else was faster
            over = (await runner.follow(execution_id)).status.over
        await clock.sleep(0 if over else LOOK)


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
