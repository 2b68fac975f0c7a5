"""One thing that is wrong with a definition, and where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a `ValidationError`: people and editors read it as `file:line:column: …`.

    Lines and columns count from 1. A definition given as a Python mapping has neither.

    >>> print(Problem(file="flow.yml", line=3, column=5, step="pay", message="unknown key 'retrys'",
    ...               hint=suggest("retrys", ["retry", "timeout"])))
    flow.yml:3:5: step 'pay': unknown key 'retrys' (did you mean 'retry'?)
    """

    file: str
    message: str
    line: int | None = None
    column: int | None = None
    step: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}:{self.column}"
        step = "" if self.step is None else f"step {self.step!r}: "
        hint = "" if self.hint is None else f" ({self.hint})"
        return f"{place}: {step}{self.message}{hint}"


def suggest(word: str, options: Iterable[str]) -> str | None:
    """The hint for a misspelt word: a question naming the nearest option, or None where nothing is near.

    >>> suggest("paralel", ["loop", "parallel", "call"])
    "did you mean 'parallel'?"
    >>> suggest("xyz", ["loop", "parallel", "call"]) is None
    True
    """
    if len(word) > 128:
        return None  # comparing takes time in the square of the length, and nobody mistypes that much
    lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f"did you mean {lower[near[0]]!r}?" if near else None
