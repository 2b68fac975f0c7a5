"""The same work on other libraries, each in an environment of its own that `benchmarks/peers/setup` makes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import Program
from benchmarks.servers import Servers
from benchmarks.stores import Place, database, file, nowhere

FOLDER = Path(__file__).resolve().parent
ENVIRONMENTS = FOLDER / ".venv"


class Peer(NamedTuple):
    """A library on a store. It is measured beside ours on the store of `family`. `modules` are what it needs."""

    library: str
    store: str
    family: str
    place: Place
    modules: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.library}, {self.store}"


LANGGRAPH = ("langgraph", "langgraph.checkpoint.sqlite", "langgraph.checkpoint.postgres")

PEERS = [
    Peer("dbos", "sqlite file", "sqlite", file, ("dbos",)),
    Peer("langgraph", "sqlite file", "sqlite", file, LANGGRAPH),
    Peer("dbos", "postgresql", "postgresql", database, ("dbos",)),
    Peer("langgraph", "postgresql", "postgresql", database, LANGGRAPH),
    Peer("absurd", "postgresql", "postgresql", database, ("absurd_sdk", "absurdctl")),
    Peer("restate", "own server", "postgresql", nowhere, ("restate", "hypercorn")),
]


def peers(family: str, servers: Servers) -> tuple[list[Program], dict[str, str]]:
    """The subjects that are other libraries, and of those that are not there, why."""
    found: list[Program] = []
    missing: dict[str, str] = {}
    for peer in PEERS:
        if peer.family != family:
            continue
        python = ENVIRONMENTS / peer.library / "bin" / "python"
        if not has(python, peer.modules):
            missing[peer.name] = "not installed (benchmarks/peers/setup installs it)"
            continue
        command = (str(python), str(FOLDER / f"{peer.library}_peer.py"))
        found.append(Program(peer.name, command, lambda folder, place=peer.place: place(servers, folder)))  # type: ignore[misc]
    return found, missing


def has(python: Path, modules: tuple[str, ...]) -> bool:
    """Whether there is this interpreter, with these modules."""
    if not python.exists():
        return False
    code = "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(name) is None for name in sys.argv[1:]))"
    return subprocess.run([str(python), "-c", code, *modules], check=False).returncode == 0
