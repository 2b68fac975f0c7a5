"""The stores that are measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.null import NullStore
from durable_flow import Store


class StoreCase(NamedTuple):
    """A store under its name in the table; `open` makes what a Runtime takes, given an empty folder.

    `durable`: what it confirms survives the process. The bound model and the peers are compared with those that are.
    """

    name: str
    open: Callable[[Path], str | Store]
    durable: bool = True


NONE = StoreCase("no store", lambda folder: NullStore(), durable=False)
"""The engine alone."""

STORES = [
    StoreCase("sqlite memory", lambda folder: "sqlite://:memory:", durable=False),
    StoreCase("sqlite file", lambda folder: f"sqlite:///{folder}/executions.db"),
]
