"""`assign`: sets variables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from durable_flow.expr.reference import Reference, Template
from durable_flow.steps.base import KEEP, Done, Outcome, StepType, Visit


class AssignConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`set` maps variable names to values."""

    set: dict[str, Template]


class Assign(StepType[AssignConfig]):
    name = "assign"
    summary = "Sets variables in order; a later one sees the earlier."
    Config = AssignConfig
    instant = True

    def references(self, config: AssignConfig) -> Iterable[Reference]:
        earlier: set[str] = set()
        for name, template in config.set.items():
            yield from (reference for reference in template.references if reference.root not in earlier)
            earlier.add(name)

    def writes(self, config: AssignConfig) -> frozenset[str]:
        return frozenset(config.set)

    def evaluate(self, visit: Visit, config: AssignConfig) -> Outcome:
        if len(config.set) == 1:
            ((name, template),) = config.set.items()
            return Done(output=visit.resolve(template), same=(name,))
        changes: dict[str, Any] = {}
        scope = visit.bind(changes)
        value = KEEP
        name = ""
        for name, template in config.set.items():
            value = changes[name] = template.resolve(scope)
        changes.pop(name, None)
        return Done(output=value, same=(name,) if name else (), changes=changes)
