"""The documents that several tests read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from durable_flow.definition.document import compose
from durable_flow.limits import Limits

HERE = Path(__file__).parent


def correct() -> dict[str, dict[str, Any]]:
    """Correct documents by name."""
    path = HERE / "correct_documents.yml"
    found: dict[str, Any] = compose(path.read_text(), name=path.name, limits=Limits()).plain()
    return found


def wrong() -> dict[str, tuple[str, list[str]]]:
    """Wrong documents by name, with what is said about them."""
    text = (HERE / "wrong_documents.txt").read_text()
    found = {}
    for name, document, problems in re.findall(r"^=== (.*)\n((?:.*\n)*?)--- .*\n((?:.+\n)*)\n", text, re.MULTILINE):
        found[name] = document, problems.splitlines()
    return found


def steps(*lines: str, more: str = "") -> str:
    """A document with these steps, one per line."""
    return "id: w\nname: W\nsteps:\n" + "".join(f"- {line}\n" for line in lines) + more
