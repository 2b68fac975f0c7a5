"""What one definition, value or execution may grow to."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Upper bounds with their defaults. Pass it to `Runtime(limits=…)` or `load(…, limits=…)`.

    Sizes are bytes (of the JSON form for values, of UTF-8 for documents).

    >>> Limits(value_bytes=10_000_000).value_bytes
    10000000
    """

    document_bytes: int = 1024 * 1024
    document_depth: int = 64
    document_nodes: int = 20_000
    value_bytes: int = 1024 * 1024
    value_depth: int = 64
    branches: int = 1_000
    loop_items: int = 100_000
    transitions: int = 1_000_000
    workflow_depth: int = 16
    recorded_input_bytes: int = 4 * 1024
