"""The stores that are measured, and the limit of each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import Program
from benchmarks.servers import Servers

Place = Callable[[Servers, Path], AbstractContextManager[str]]
"""Where a subject keeps its data, given the servers and an empty folder. Raises Failed."""


class StoreCase(NamedTuple):
    """A store under its name in the table.

    `family`: which subjects are compared with each other. `durable`: what it confirms survives the process; the bound
    model and the peers are compared with the one that is.
    """

    name: str
    family: str
    place: Place
    durable: bool = True


@contextmanager
def nowhere(servers: Servers, folder: Path) -> Iterator[str]:
    yield "-"


@contextmanager
def memory(servers: Servers, folder: Path) -> Iterator[str]:
    yield "sqlite://:memory:"


@contextmanager
def file(servers: Servers, folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder}/data.db"


def database(servers: Servers, folder: Path) -> AbstractContextManager[str]:
    return servers.postgresql()


def everysec(servers: Servers, folder: Path) -> AbstractContextManager[str]:
    return servers.redis("everysec")


def always(servers: Servers, folder: Path) -> AbstractContextManager[str]:
    return servers.redis("always")


NONE = StoreCase("no store", "none", nowhere, durable=False)
"""The engine alone."""

STORES = [
    StoreCase("sqlite memory", "sqlite", memory, durable=False),
    StoreCase("sqlite file", "sqlite", file),
    StoreCase("postgresql", "postgresql", database),
    StoreCase("redis everysec", "redis everysec", everysec),
    StoreCase("redis always", "redis always", always),
]

FAMILIES = tuple(dict.fromkeys(case.family for case in STORES))


def ours(case: StoreCase, servers: Servers) -> Program:
    """The subject that is this library on a store."""
    command = (sys.executable, "-m", "benchmarks.ours")
    return Program(f"durable_flow, {case.name}", command, lambda folder: case.place(servers, folder))


def bound(case: StoreCase, servers: Servers) -> Program:
    """The subject that is the limit on a store."""
    command = (sys.executable, "-m", "benchmarks.bounds")
    return Program(f"bound model, {case.name}", command, lambda folder: case.place(servers, folder))
