"""Reads and validates definitions."""

from __future__ import annotations

import os
from collections.abc import Iterable

from durable_flow.limits import Limits
from durable_flow.model.workflow import WorkflowDef
from durable_flow.parser import Extension, draft, finished, parse
from durable_flow.source import Source

__all__ = ["load", "parse"]


def load(
    source: Source,
    *,
    limits: Limits | None = None,
    extensions: Iterable[Extension] = (),
    base: str | os.PathLike[str] | None = None,
) -> WorkflowDef:
    """Reads and validates a definition. Raises one ValidationError with everything that is wrong."""
    return finished(draft(source, limits=limits, extensions=extensions, base=base))
