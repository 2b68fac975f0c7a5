"""The ledger of effects: what really happened outside, whatever the engine believes.

An effect is a call of a service, named by execution and step path. It is *dirty* from when it was performed until an
entry about it is durable. A crash, a cancellation or a lost answer while it is dirty licenses one repetition; nothing
else does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from durable_flow import WorkflowDef

Identity = tuple[str, str]
"""An effect: the execution and the path of the step."""


class Effect(msgspec.Struct, frozen=True):
    """One performed call. `lane` is what happens one after the other: the execution, or one of several branches."""

    name: str
    execution_id: str
    path: str
    attempt: int
    key: str
    life: int
    lane: str = ""

    @property
    def identity(self) -> Identity:
        return self.execution_id, self.path


class Lanes:
    """Which steps of some workflows run one after the other, from the definitions."""

    def __init__(self, workflows: Iterable[WorkflowDef], *, beside: Iterable[str] = ()) -> None:
        self._beside = tuple(f"{name}(" for name in beside)
        self._branched: set[tuple[str, str]] = set()
        self._sequential: set[tuple[str, str]] = set()
        for workflow in workflows:
            for node in nodes(workflow.document):
                if "branches" in node:
                    self._branched.add((workflow.id, node["id"]))
                if ("over" in node or "while" in node) and node.get("concurrency", 1) == 1:
                    self._sequential.add((workflow.id, node["id"]))

    def of(self, workflow_id: str, path: str) -> str:
        """The lane of a step: its path up to the last place where several things run side by side."""
        parts = path.split("/")
        names = [part.partition("[")[0].partition("#")[0] for part in parts]
        lane = 0
        for index, part in enumerate(parts):
            if index and (workflow_id, names[index - 1]) in self._branched:
                lane = index + 1
            if part.endswith("]") and (workflow_id, names[index]) not in self._sequential:
                lane = index + 1
            if part.startswith(self._beside):
                lane = index + 1
        return "/".join(parts[:lane])


def nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if isinstance(value.get("id"), str):
            yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


class Ledger:
    """What the services of one case did, over all its processes."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.licences: Counter[Identity] = Counter()
        self.injected: Counter[Identity] = Counter()
        """Failures planted from outside, by effect: the script of a service does not count them."""
        self.answers: dict[Identity, Any] = {}
        """What the last call of each effect gave, whoever heard of it."""
        self.wrong: list[str] = []
        self._dirty: dict[Identity, Effect] = {}
        self._returned: set[Identity] = set()

    def perform(self, effect: Effect) -> None:
        """An effect happens."""
        self.wrong += [
            f"O7 {_told(effect.identity)} began while {_told(other.identity)} was not durable"
            for other in self._dirty.values()
            if (other.execution_id, other.lane) == (effect.execution_id, effect.lane)
        ]
        self.effects.append(effect)
        self._dirty[effect.identity] = effect

    def returned(self, effect: Effect) -> None:
        """The answer of an effect is there."""
        if effect.identity in self._dirty:
            self._returned.add(effect.identity)

    def rest(self, when: str, *, apart: Collection[str] = ()) -> None:
        """Nothing more will happen by itself now, except in executions `apart`: what has returned must be durable."""
        waiting = {identity for identity in self._returned if identity[0] not in apart}
        self.wrong += [f"O7 {_told(identity)} had returned and was not durable {when}" for identity in sorted(waiting)]
        self._returned -= waiting

    def landed(self, execution_id: str, entries: Iterable[Mapping[str, Any]]) -> None:
        """Entries became durable: what they are about is dirty no longer."""
        for entry in entries:
            if entry.get("step") and entry["action"] != "started":
                self._clean((execution_id, entry.get("path", "")))

    def _clean(self, identity: Identity) -> None:
        self._dirty.pop(identity, None)
        self._returned.discard(identity)

    def license(self, executions: Collection[str] | None = None) -> None:
        """Everything in flight (of these executions) may happen once more: the process died, or its call ended."""
        for identity in list(self._dirty):
            if executions is None or identity[0] in executions:
                self.licences[identity] += 1
                self._clean(identity)

    def counts(self) -> Counter[Identity]:
        """How often each effect happened."""
        return Counter(effect.identity for effect in self.effects)

    def problems(self, expected: Counter[Identity] | None, *, racing: Iterable[str] = ()) -> list[str]:
        """Where the rules O4 to O7 are broken; `expected` are the counts of a run without faults."""
        found = list(self.wrong)
        counts = self.counts()
        keys: dict[Identity, str] = {}
        owners: dict[str, Identity] = {}
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


def _told(identity: Identity) -> str:
    return f"{identity[0]}:{identity[1]}"
