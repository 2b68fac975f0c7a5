"""A commit is several statements: a process that dies between two of them leaves nothing of it.

While a workflow runs on a file, the database and its log are copied before every statement of the writing thread, as
they would be found after a kill at that moment. Each copy is opened: what is in it must be an execution that its audit
entries tell, at a version that was committed.
"""

import asyncio
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import durable_flow as df
from durable_flow.stores import sqlite
from durable_flow.testing import Fold
from durable_flow.testing.trail import decoded
from tests.reference import SCENARIOS

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
COPIED = ("", "-wal")


async def look(folder: Path, execution_id: str) -> tuple[int, list[str]]:
    """The version of the execution in a copy, and where it is not what its entries tell."""
    async with df.open_store(f"sqlite:///{folder}/flows.db") as store:
        stored = await store.fetch(execution_id)
        entries = await store.read(execution_id)
    if stored is None:
        return 0, ["there are entries of an execution that is not there"] if entries else []
    fold = Fold()
    for seq, entry in decoded(entries):
        fold.add(seq, entry, [path for path, _ in stored.frames])
    return stored.row.version, fold.differences(stored)


@pytest.mark.parametrize("name", ["w01", "w02", "w03"])
def test_every_statement_of_every_commit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = BY_NAME[name]
    copies: list[Path] = []
    failed: list[Exception] = []
    writers: list[sqlite3.Connection] = []
    connect = sqlite._connect

    def copy(statement: str) -> None:
        try:
            copy_to(tmp_path / f"copy{len(copies)}")
        except Exception as error:  # SQLite would not tell anybody
            failed.append(error)

    def copy_to(folder: Path) -> None:
        folder.mkdir()
        for suffix in COPIED:
            file = tmp_path / f"flows.db{suffix}"
            if file.exists():
                shutil.copy(file, folder / file.name)
        copies.append(folder)

    def traced(path: Path | None, store: Any) -> sqlite3.Connection:
        database = connect(path, store)
        if path == tmp_path / "flows.db" and not writers:  # the first one writes; the others read, in other threads
            writers.append(database)
            database.set_trace_callback(copy)
        return database

    async def main() -> None:
        clock: Any = df.SystemClock()
        async with df.open_store(f"sqlite:///{tmp_path}/flows.db") as store:
            monkeypatch.undo()
            runtime = df.Runtime(store, workflows=[scenario.workflow], services=scenario.services(clock))
            async with runtime:
                await runtime.runner(scenario.workflow).run(scenario.input, execution_id="x")

    monkeypatch.setattr(sqlite, "_connect", traced)
    asyncio.run(main())
    assert not failed
    assert len(copies) > 50
    last, _ = asyncio.run(look(tmp_path, "x"))
    versions = []
    for folder in copies:
        version, differences = asyncio.run(look(folder, "x"))
        assert not differences
        versions.append(version)
        shutil.rmtree(folder)
    assert versions == sorted(versions)
    assert set(versions) >= set(range(max(versions) + 1))
    assert max(versions) >= last - 1 >= 2
