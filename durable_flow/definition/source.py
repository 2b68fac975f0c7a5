"""A path, a text or a mapping -> the tree of a document. The only place where definitions touch the disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from durable_flow.definition.document import MappingNode, compose, compose_plain
from durable_flow.errors import ValidationError
from durable_flow.limits import Limits
from durable_flow.model.problem import Problem

Source: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]
"""A path, YAML or JSON text (it contains a line break or begins with `{`), or a mapping."""

TEXT = "<text>"
MAPPING = "<mapping>"


def compose_source(source: Source, *, limits: Limits, base: str | os.PathLike[str] | None) -> tuple[str, MappingNode]:
    """What problems call the source, and its tree. Raises ValidationError."""
    given: object = source
    if isinstance(source, Mapping):
        return MAPPING, compose_plain(dict(source), name=MAPPING, limits=limits)
    if isinstance(source, str) and is_text(source):
        return TEXT, compose(source, name=TEXT, limits=limits)
    name: object = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(name, str):
        message = f"expected a path, YAML text or a mapping, got {type(source).__name__}"
        raise ValidationError([Problem(file="<source>", message=message)])
    return name, compose(_read(name, limits, base), name=name, limits=limits)


def is_text(source: str) -> bool:
    r"""Whether a string is a document and not the path of one.

    >>> is_text("flow.yml"), is_text("id: a\nname: b"), is_text('{"id": "a"}')
    (False, True, True)
    """
    return "\n" in source or "\r" in source or source.lstrip().startswith("{")


def _read(name: str, limits: Limits, base: str | os.PathLike[str] | None) -> str:
    path = _inside(name, base)
    try:
        # Non-blocking: opening a pipe must not wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        _refuse(name, _why(error))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            _refuse(name, "is a folder; name the file in it")
        if not stat.S_ISREG(mode):
            _refuse(name, "is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limits.document_bytes + 1)
    except OSError as error:
        _refuse(name, _why(error))
    finally:
        os.close(descriptor)
    if len(data) > limits.document_bytes:
        hint = "raise it with Limits(document_bytes=…)"
        _refuse(name, f"more than {limits.document_bytes:,} bytes", hint=hint)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        _refuse(name, f"is not UTF-8 text: {error.reason} at byte {error.start:,}")


def _inside(name: str, base: str | os.PathLike[str] | None) -> str:
    """The path to open; below `base`, symbolic links followed, if that is given."""
    if base is None:
        return name
    try:
        folder = Path(base).resolve()
        path = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        _refuse(name, _why(error))
    if not path.is_relative_to(folder):
        _refuse(name, f"is outside of {os.fspath(base)}")
    return str(path)


def _why(error: Exception) -> str:
    match getattr(error, "errno", None):
        case errno.ENOENT | errno.ENOTDIR:
            return "no such file; YAML text must contain a newline"
        case errno.EISDIR:
            return "is a folder; name the file in it"
        case errno.ENAMETOOLONG:
            return "not the name of a file; YAML text must contain a newline"
        case None:
            return f"not the name of a file ({error}); YAML text must contain a newline"
        case _:
            return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _refuse(name: str, message: str, *, hint: str | None = None) -> NoReturn:
    shown = name if len(name) <= 200 else name[:197] + "..."
    printable = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in shown)
    raise ValidationError([Problem(file=printable or "''", message=message, hint=hint)])
