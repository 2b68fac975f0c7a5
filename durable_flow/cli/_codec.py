"""What `--codec MODULE[:NAME]` brings."""

from __future__ import annotations

import inspect

import click

import durable_flow as df
from durable_flow.cli._mistake import Mistake
from durable_flow.cli._modules import called, import_place, split

DEFAULT = "codec"
NOTED = "durable_flow.codec"
"""Where a command's context keeps what its option said: every command that has a store has the option."""


def codec_here() -> df.Codec | None:
    """The codec of the command that runs now, if one is named. Raises Mistake."""
    source = click.get_current_context().meta.get(NOTED)
    return load_codec(source) if source else None


def load_codec(source: str) -> df.Codec:
    """A source is a module that can be imported (the current folder included) or the path of a .py file, and perhaps a
    name in it (else `codec`): a codec, or a function without parameters that gives one. Raises Mistake."""
    given = f"--codec {source}"
    place, name = split(source, given, example="shop.keys:codec")
    module = import_place(place, given)
    name = name or DEFAULT
    if not hasattr(module, name):
        hint = f"define {name} = durable_flow.AesGcm(…), or a function without parameters that gives one"
        raise Mistake(f"{given}: module {module.__name__} has no {name!r}", hint=hint, kind="ConfigError")
    value = getattr(module, name)
    if inspect.isfunction(value):
        value = called(value, name, given, hint="name a codec, or a function without parameters that gives one")
    if isinstance(value, type) or not isinstance(value, df.Codec):
        kind = "a class" if isinstance(value, type) else type(value).__name__
        raise Mistake(f"{given}: {name} is no codec but {kind}: it has no encode and decode", kind="ConfigError")
    return value
