"""What `--services MODULE[:NAME]` brings."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import durable_flow as df
from durable_flow.cli._mistake import Mistake
from durable_flow.cli._modules import called, import_place, split

DEFAULT = "services"
GATES = "gates"


def load_services(sources: Iterable[str]) -> dict[str, Any]:
    """The services of every source, by name. Raises Mistake.

    A source is a module that can be imported (the current folder included) or the path of a .py file, and perhaps a
    name in it: a mapping of services, a function without parameters that gives one, or one service. Without a name
    the module's `services` is meant; if it has none, its public classes and objects, and its functions as one service
    that is named like the module.
    """
    found: dict[str, Any] = {}
    for source in sources:
        for name, service in _services_of(source).items():
            if name in found:
                raise Mistake(f"--services {source}: there are two services named {name!r}", kind="ConfigError")
            found[name] = service
    return found


def load_gates(sources: Iterable[str]) -> dict[str, Any]:
    """The resolvers of gates of every source, by name: of the mapping it names, else of `gates`. Raises Mistake."""
    found: dict[str, Any] = {}
    for source in sources:
        given = f"--gates {source}"
        place, name = split(source, given, example="shop.services:gates")
        for gate, resolver in _named(import_place(place, given), name or GATES, given, what="gates").items():
            if not callable(resolver):
                raise Mistake(f"{given}: {gate!r} is no function", kind="ConfigError")
            if gate in found:
                raise Mistake(f"{given}: there are two gates named {gate!r}", kind="ConfigError")
            found[gate] = resolver
    return found


def missing_gates(workflow: df.WorkflowDef, gates: Mapping[str, Any]) -> list[str]:
    """The gates that steps of the workflow ask and that are not there."""
    return sorted({name for name in _needed(workflow, "gate") if name not in gates})


def missing_services(workflow: df.WorkflowDef, services: Mapping[str, Any]) -> list[str]:
    """The services that steps of the workflow call and that are not there."""
    return sorted({name for name in _needed(workflow, "service") if name not in services})


def _needed(workflow: df.WorkflowDef, kind: str) -> Iterator[str]:
    for step in df.every_step(workflow):
        yield from (name for needed, name in step.type.needs(step.config) if needed == kind)


def _services_of(source: str) -> Mapping[str, Any]:
    given = f"--services {source}"
    place, name = split(source, given, example="shop.services:services")
    module = import_place(place, given)
    if name is None and not hasattr(module, DEFAULT):
        return _public(module, given, named=Path(place).stem if place.endswith(".py") else place.rpartition(".")[2])
    return _named(module, name or DEFAULT, given)


def _named(module: ModuleType, name: str, given: str, *, what: str = "services") -> Mapping[str, Any]:
    if not hasattr(module, name):
        mappings = [
            key for key, value in vars(module).items() if isinstance(value, Mapping) and not key.startswith("_")
        ]
        hint = (
            f"mappings it has: {', '.join(mappings)}"
            if mappings
            else f"define a mapping: {name} = {{'Name': {'object' if what == 'services' else 'function'}}}"
        )
        raise Mistake(f"{given}: module {module.__name__} has no {name!r}", hint=hint, kind="ConfigError")
    value = getattr(module, name)
    if inspect.isfunction(value):
        value = called(
            value, name, given, hint=f"name a mapping of {what}, or a function without parameters that gives one"
        )
        if not isinstance(value, Mapping):
            raise Mistake(f"{given}: {name}() gave {type(value).__name__}, not a mapping of {what}", kind="ConfigError")
    elif not isinstance(value, Mapping):
        if what == "services":
            return {name: value}
        raise Mistake(f"{given}: {name} is {type(value).__name__}, not a mapping of {what}", kind="ConfigError")
    wrong = [key for key in value if not isinstance(key, str) or not key or key.startswith("_")]
    if wrong:
        raise Mistake(f"{given}: {wrong[0]!r} is not a name for a {what.removesuffix('s')}", kind="ConfigError")
    return value


def _public(module: ModuleType, given: str, *, named: str) -> Mapping[str, Any]:
    """What a module offers by itself: what it lists in `__all__`, or the classes and objects it makes. Its functions
    are one service of this name."""
    listed = getattr(module, "__all__", None)
    names = [name for name in vars(module) if not name.startswith("_")] if listed is None else list(listed)
    found: dict[str, Any] = {}
    functions = False
    for name in names:
        value = getattr(module, name, None)
        if inspect.isroutine(value):
            functions = functions or listed is not None or value.__module__ == module.__name__
        elif value is not None and (listed is not None or _is_service(value, module)):
            found[name] = value
    if functions:
        found.setdefault(named, module)
    if not found:
        raise Mistake(
            f"{given}: module {module.__name__} has no services",
            hint="define services = {'Name': object}, or public classes",
            kind="ConfigError",
        )
    return found


def _is_service(value: Any, module: ModuleType) -> bool:
    if isinstance(value, type):
        return value.__module__ == module.__name__ and not issubclass(value, BaseException)
    if isinstance(value, Mapping):
        return bool(value) and all(callable(item) for item in value.values())
    made_by = type(value).__module__.partition(".")[0]
    return made_by not in sys.stdlib_module_names
