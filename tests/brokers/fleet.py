"""What `taskiq worker tests.brokers.fleet:broker` serves in the tests of processes; the environment says with what."""

from __future__ import annotations

import os
from pathlib import Path

import durable_flow as df
from durable_flow.testing import wait_until
from tests.brokers.kinds import KINDS

FLOW = {
    "id": "work",
    "name": "Work",
    "steps": [
        {"id": "first", "type": "call", "service": "Work", "method": "first", "next": "nap"},
        {"id": "nap", "type": "wait", "for": "0.1s", "next": "second"},
        {"id": "second", "type": "call", "service": "Work", "method": "second", "output": "result"},
    ],
}


class Work:
    """Notes each call in a file, with the key of the step and the process; a call waits while its name is held."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def first(self, context: df.StepContext) -> str:
        return await self._call("first", context)

    async def second(self, context: df.StepContext) -> str:
        return await self._call("second", context)

    async def _call(self, name: str, context: df.StepContext) -> str:
        with (self.folder / "calls").open("a") as calls:
            calls.write(f"{name} {context.idempotency_key} {os.getpid()} {context.traceparent}\n")
        await wait_until(lambda: not (self.folder / f"hold-{name}").exists(), timeout=600)
        return name


if "FLEET" in os.environ:
    kind, url, queue, folder, lease = os.environ["FLEET"].split(" ")
    runtime = df.Runtime(
        f"sqlite:///{folder}/flows.db", services={"Work": Work(Path(folder))}, lease_ttl=float(lease), grace=20.0
    )
    broker = KINDS[kind](url, queue)
    df.TaskiqAdapter(broker).receive(runtime)
