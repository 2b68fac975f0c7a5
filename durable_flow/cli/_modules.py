"""Python of the user's that an option names: `MODULE[:NAME]` or `FILE.py[:NAME]`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from durable_flow.cli._mistake import Mistake


def split(source: str, given: str, *, example: str) -> tuple[str, str | None]:
    """The module (or file), and the name in it if there is one. `given` is the option as it was written."""
    place, separator, name = source.rpartition(":")
    if not separator:
        return source, None
    if not place or not name.isidentifier():
        raise Mistake(f"{given}: write MODULE or MODULE:NAME, for example {example}")
    return place, name


def import_place(place: str, given: str) -> ModuleType:
    """The module of this name, or of this .py file. Raises Mistake."""
    return _import_file(Path(place), given) if place.endswith(".py") else _import_module(place, given)


def called(function: Any, name: str, given: str, *, hint: str) -> Any:
    """What a function without parameters gives. Raises Mistake."""
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise Mistake(f"{given}: {name} takes parameters", hint=hint, kind="ConfigError") from None
    try:
        return function()
    except Exception as error:
        raise _broken(given, error) from error


def _import_module(name: str, given: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise Mistake(
            f"{given}: {name!r} is not the name of a module",
            hint="write it with dots (shop.services), or give the path of a .py file",
        )
    _importable(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(given, error) from error
        raise Mistake(
            f"{given}: there is no module {error.name!r}",
            hint=f"looked in {os.getcwd()} and where Python looks; the path of a .py file may be given too",
            kind="ConfigError",
        ) from error
    except (Exception, SystemExit) as error:
        raise _broken(given, error) from error


def _import_file(path: Path, given: str) -> ModuleType:
    if not path.is_file():
        raise Mistake(f"{given}: there is no file {path}", kind="ConfigError")
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
        raise Mistake(f"{given}: {path} cannot be imported", kind="ConfigError")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _broken(given, error) from error
    return module


def _importable(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _broken(given: str, error: BaseException) -> Mistake:
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
        f"{given}: importing it failed: {type(error).__name__}: {what}",
        hint=f"at {place}; --debug shows the whole traceback",
        kind="ConfigError",
    )
