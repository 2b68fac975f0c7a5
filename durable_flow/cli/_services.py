"""What `--services MODULE[:NAME]` brings."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import durable_flow as df
from durable_flow.cli._mistake import Mistake

DEFAULT = "services"


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


def missing_services(workflow: df.WorkflowDef, services: Mapping[str, Any]) -> list[str]:
    """The services that steps of the workflow call and that are not there."""
    return sorted({name for name in _called(workflow.body) if name not in services})


def _called(body: Any) -> Iterator[str]:
    for step in body:
        name = getattr(step.config, "service", None)
        if isinstance(name, str):
            yield name
        for inner in step.type.bodies(step.config):
            yield from _called(inner.body)


def _services_of(source: str) -> Mapping[str, Any]:
    place, name = _split(source)
    module = _import_file(Path(place), source) if place.endswith(".py") else _import_module(place, source)
    if name is None and not hasattr(module, DEFAULT):
        return _public(module, source, named=Path(place).stem if place.endswith(".py") else place.rpartition(".")[2])
    return _named(module, name or DEFAULT, source)


def _split(source: str) -> tuple[str, str | None]:
    place, separator, name = source.rpartition(":")
    if not separator:
        return source, None
    if not place or not name.isidentifier():
        raise Mistake(f"--services {source}: write MODULE or MODULE:NAME, for example shop.services:services")
    return place, name


def _import_module(name: str, source: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise Mistake(
            f"--services {source}: {name!r} is not the name of a module",
            hint="write it with dots (shop.services), or give the path of a .py file",
        )
    _importable(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(source, error) from error
        raise Mistake(
            f"--services {source}: there is no module {error.name!r}",
            hint=f"looked in {os.getcwd()} and where Python looks; the path of a .py file may be given too",
            kind="ConfigError",
        ) from error
    except (Exception, SystemExit) as error:
        raise _broken(source, error) from error


def _import_file(path: Path, source: str) -> ModuleType:
    if not path.is_file():
        raise Mistake(f"--services {source}: there is no file {path}", kind="ConfigError")
    path = path.resolve()
    _importable(str(path.parent))
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if known is not None or name in sys.stdlib_module_names:
        name = f"durable_flow_services_{name}"  # somebody else's name must not be taken from him
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Mistake(f"--services {source}: {path} cannot be imported", kind="ConfigError")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _broken(source, error) from error
    return module


def _importable(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _broken(source: str, error: BaseException) -> Mistake:
    """A module of the user's that cannot be imported: what it raised, and where."""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    else:
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")
        ]
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
    what = error.msg if isinstance(error, SyntaxError) else str(error)
    return Mistake(
        f"--services {source}: importing it failed: {type(error).__name__}: {what}",
        hint=f"at {place}; --debug shows the whole traceback",
        kind="ConfigError",
    )


def _named(module: ModuleType, name: str, source: str) -> Mapping[str, Any]:
    if not hasattr(module, name):
        mappings = [
            key for key, value in vars(module).items() if isinstance(value, Mapping) and not key.startswith("_")
        ]
        hint = (
            f"mappings it has: {', '.join(mappings)}" if mappings else "define a mapping: services = {'Name': object}"
        )
        raise Mistake(f"--services {source}: module {module.__name__} has no {name!r}", hint=hint, kind="ConfigError")
    value = getattr(module, name)
    if inspect.isfunction(value):
        try:
            inspect.signature(value).bind()
        except TypeError:
            raise Mistake(
                f"--services {source}: {name} takes parameters",
                hint="name a mapping of services, or a function without parameters that gives one",
                kind="ConfigError",
            ) from None
        try:
            value = value()
        except Exception as error:
            raise _broken(source, error) from error
        if not isinstance(value, Mapping):
            raise Mistake(
                f"--services {source}: {name}() gave {type(value).__name__}, not a mapping of services",
                kind="ConfigError",
            )
    elif not isinstance(value, Mapping):
        return {name: value}
    wrong = [key for key in value if not isinstance(key, str) or not key or key.startswith("_")]
    if wrong:
        raise Mistake(f"--services {source}: {wrong[0]!r} is not a name for a service", kind="ConfigError")
    return value


def _public(module: ModuleType, source: str, *, named: str) -> Mapping[str, Any]:
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
            f"--services {source}: module {module.__name__} has no services",
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
