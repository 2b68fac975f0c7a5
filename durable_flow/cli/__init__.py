"""The command line. One file is one command; `_render` is the only place with tables and colours."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

import durable_flow as df

LIBRARIES = ("click", "rich")
"""What the extra `cli` brings."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code: 0 done, 1 failed or cancelled, 2 not possible as asked, 3 waiting.

    `arguments` are those of the process (without the name of the program) unless they are given.
    """
    missing = next((name for name in LIBRARIES if find_spec(name) is None), None)
    if missing is not None:
        sys.stderr.write(f"error: {df.MissingExtraError('cli', missing)}\n")
        return 2
    from durable_flow.cli._program import start

    # Not `list(arguments)`: in this package that is the command.
    return start(sys.argv[1:] if arguments is None else [*arguments])
