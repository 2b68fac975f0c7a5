"""Commands that people can copy: the next thing to type, with the options it needs."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable

import click
import msgspec
from click.core import ParameterSource

import durable_flow as df
from durable_flow.cli._codec import NOTED
from durable_flow.cli._url import shown

APPROVAL = "approval"
SIGNAL = "signal"
PAUSE = "pause"
BLOCKED = ("error", "uncertain")
BY_TIME = ("timer", "retry", "gate")
"""Types of waits that nobody ends: a worker goes on when their time has come."""

CARRIED = {
    "store": "--store",
    "codec": "--codec",
    "services": "--services",
    "gates": "--gates",
    "workflows": "--workflows",
    "secrets": "--secret",
}
"""Options that a following command needs too, where they were given on the command line."""


class Hints(msgspec.Struct, frozen=True):
    """The name of the program, and the options to repeat: those of the store, and those that driving needs."""

    program: str
    store: tuple[str, ...]
    host: tuple[str, ...]

    @classmethod
    def here(cls) -> Hints:
        """The hints of the command that runs now."""
        context = click.get_current_context()
        store: list[str] = []
        host: list[str] = []
        for name, option in CARRIED.items():
            if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
                continue
            value = context.meta[NOTED] if name == "codec" else context.params[name]
            if name == "store":
                value = shown(value)
            for one in (value,) if isinstance(value, str) else value:
                (store if name in ("store", "codec") else host).extend([option, str(one)])
        return cls(context.find_root().command_path, tuple(store), tuple(host))

    def look(self, command: str, *arguments: str) -> str:
        """A command that only reads, or that runs no step."""
        return self._line(command, arguments, self.store)

    def drive(self, command: str, *arguments: str) -> str:
        """A command that goes on with an execution."""
        return self._line(command, arguments, (*self.store, *self.host))

    async def answers(self, result: df.ExecutionResult, store: df.Store) -> dict[str, list[str]]:
        """The commands that answer the waits of an execution, by wait id."""
        several = len(result.halts) > 1
        return {
            halt.wait_id: self._answers(
                halt, execution_id=result.execution_id, several=several, voters=await _voters(halt, store)
            )
            for halt in result.halts
        }

    def _answers(self, halt: df.Halt, *, execution_id: str, several: bool, voters: Collection[str]) -> list[str]:
        which = ("--wait-id", halt.wait_id) if several else ()
        resume = self.drive("resume", execution_id, "--response", "JSON", *which)
        if halt.type in BY_TIME:
            return [self.drive("worker")]
        if halt.type == PAUSE:
            asked = halt.data if isinstance(halt.data, dict) else {}
            return [self.drive("unpause", str(asked.get("above") or halt.execution_id))]
        if halt.type == SIGNAL:
            return [self.drive("signal", halt.execution_id, str(halt.data["name"]), "--payload", "JSON")]
        if halt.type in BLOCKED:
            return [self.drive("retry", execution_id), resume, self.drive("fail", execution_id, "--reason", "WHY")]
        if halt.type != APPROVAL:
            return [resume]
        asked = halt.data if isinstance(halt.data, dict) else {}
        by: tuple[str, ...] = ()
        if asked.get("approvers"):
            by = ("--by", str(next((name for name in asked["approvers"] if name not in voters), "NAME")))
        elif asked.get("required", 1) > 1:
            by = ("--by", "NAME")
        return [
            self.drive("approve", execution_id, *by, *which),
            self.drive("reject", execution_id, *by, *which, "--comment", "WHY"),
        ]

    def _line(self, command: str, arguments: Iterable[str], options: Iterable[str]) -> str:
        return f"{self.program} {shlex.join([command, *arguments, *options])}"


async def _voters(halt: df.Halt, store: df.Store) -> set[str]:
    """Who answered this wait before."""
    one = await store.load(halt.execution_id) if halt.type == APPROVAL else None
    waits = [] if one is None else one.blocked_on
    return {vote.by for wait in waits if wait.wait_id == halt.wait_id for vote in getattr(wait, "votes", ())}
