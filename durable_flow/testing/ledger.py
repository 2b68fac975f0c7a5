"""The ledger of effects: what really happened outside, whatever the engine believes.

An effect is a call of a service, named by execution and step path. It is *dirty* from when it was performed until an
entry about it is durable. A crash, a cancellation or a lost answer while it is dirty licenses one repetition; nothing
else does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec


class Effect(msgspec.Struct, frozen=True):
    """One performed call."""

    name: str
    execution_id: str
    path: str
    attempt: int
    key: str
    life: int

    @property
    def identity(self) -> tuple[str, str]:
        return self.execution_id, self.path


class Ledger:
    """What the services of one case did, over all its processes."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.licences: Counter[tuple[str, str]] = Counter()
        self.injected: Counter[tuple[str, str]] = Counter()
        """Failures planted from outside, by effect: the script of a service does not count them."""
        self.wrong: list[str] = []
        self.unwinding = False
        """Whether the tasks are being cancelled from outside: they may end before their effects are durable."""
        self._dirty: dict[tuple[str, str], asyncio.Task[Any] | None] = {}
        self._watched: set[asyncio.Task[Any]] = set()

    def perform(self, effect: Effect) -> None:
        """An effect happens, in the task that is running."""
        task = asyncio.current_task()
        for identity, other in self._dirty.items():
            if other is task and task is not None:
                self.wrong.append(f"O7 {_told(effect.identity)} began while {_told(identity)} was not durable")
        self.effects.append(effect)
        self._dirty[effect.identity] = task
        if task is not None and task not in self._watched:
            self._watched.add(task)
            task.add_done_callback(self._ended)

    def landed(self, execution_id: str, entries: Iterable[Mapping[str, Any]]) -> None:
        """Entries became durable: what they are about is dirty no longer."""
        for entry in entries:
            if entry.get("step") and entry["action"] != "started":
                self._dirty.pop((execution_id, entry.get("path", "")), None)

    def license(self) -> None:
        """Everything in flight may happen once more: the process died, or its call was cancelled."""
        self.licences.update(self._dirty.keys())
        self._dirty.clear()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._watched.discard(task)
        if task.cancelled() or self.unwinding:
            return
        for identity, other in self._dirty.items():
            if other is task:
                self.wrong.append(f"O7 the task of {_told(identity)} ended before it was durable")

    def counts(self) -> Counter[tuple[str, str]]:
        """How often each effect happened."""
        return Counter(effect.identity for effect in self.effects)

    def problems(self, expected: Counter[tuple[str, str]] | None, *, racing: Iterable[str] = ()) -> list[str]:
        """Where the rules O4 to O7 are broken; `expected` are the counts of a run without faults."""
        found = list(self.wrong)
        counts = self.counts()
        keys: dict[tuple[str, str], str] = {}
        owners: dict[str, tuple[str, str]] = {}
        for effect in self.effects:
            first = keys.setdefault(effect.identity, effect.key)
            if first != effect.key:
                found.append(f"O6 {_told(effect.identity)} was called with the keys {first!r} and {effect.key!r}")
            owner = owners.setdefault(effect.key, effect.identity)
            if owner != effect.identity:
                found.append(f"O6 {_told(owner)} and {_told(effect.identity)} share the key {effect.key!r}")
        loose = tuple(racing)
        found += [f"O7 {_told(identity)} happened and never became durable" for identity in self._dirty]
        if expected is None:
            return found
        for identity, times in expected.items():
            if counts[identity] < times and not identity[1].startswith(loose):
                found.append(f"O4 {_told(identity)} happened {counts[identity]} times of {times}")
        for identity, times in counts.items():
            allowed = expected[identity] + self.licences[identity] + identity[1].startswith(loose)
            if times > allowed:
                found.append(f"O5 {_told(identity)} happened {times} times, {allowed} were allowed")
        return found


def _told(identity: tuple[str, str]) -> str:
    return f"{identity[0]}:{identity[1]}"
