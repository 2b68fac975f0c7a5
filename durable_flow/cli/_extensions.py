"""The extensions of a command: every one that is installed, or those that `$DURABLE_FLOW_EXTENSIONS` names."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys

import click

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._mistake import Mistake
from durable_flow.cli._modules import called, import_place, split

VARIABLE = "DURABLE_FLOW_EXTENSIONS"
NOTED = "durable_flow.extensions"
"""Where a command's context keeps what was found."""


def extensions_here() -> list[df.Extension]:
    """The extensions of the command that runs now. One that is installed and cannot be loaded is left out, with a note:
    nobody asked for it. Raises Mistake and ConfigError for those that are named.

    The variable has names of installed extensions and `MODULE:NAME`s, with commas between them; set to nothing, there
    are none.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return _found()
    known: list[df.Extension] | None = context.meta.get(NOTED)
    if known is None:
        with contextlib.redirect_stdout(sys.stderr):  # what modules print
            known = context.meta[NOTED] = _found()
    return known


def _found() -> list[df.Extension]:
    named = os.environ.get(VARIABLE)
    if named is not None:
        return [_named(one) for one in map(str.strip, named.split(",")) if one]
    found = []
    for name in df.installed_extensions():
        try:
            found.append(df.load_extension(name))
        except df.ConfigError as error:
            _render.note(f"{error}; it is left out (${VARIABLE} says which are used)")
    return found


def _named(source: str) -> df.Extension:
    if ":" not in source and not source.endswith(".py"):
        return df.load_extension(source)
    given = f"${VARIABLE}: {source}"
    place, name = split(source, given, example="shop.language:EXTENSION")
    module = import_place(place, given)
    name = name or "EXTENSION"
    value = getattr(module, name, None)
    if inspect.isfunction(value):
        value = called(value, name, given, hint="name an Extension, or a function without parameters that gives one")
    if not isinstance(value, df.Extension):
        what = (
            f"{name} is {type(value).__name__}, not an Extension" if hasattr(module, name) else f"there is no {name!r}"
        )
        raise Mistake(f"{given}: {what}", hint=f"define {name} = durable_flow.Extension(…)", kind="ConfigError")
    return value
