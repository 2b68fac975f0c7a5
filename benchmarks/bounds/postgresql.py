"""One connection and one statement, to which a batch is a few arrays."""

from __future__ import annotations

from typing import Any, Self

import asyncpg

from benchmarks.bounds.journal import Entry, LoopJournal

SCHEMA = """
    CREATE TABLE entries (execution bigint, seq bigint, body text, PRIMARY KEY (execution, seq));
    CREATE TABLE heads (execution bigint PRIMARY KEY, seq bigint, status text);
"""
WRITE = """
    WITH added AS (INSERT INTO entries SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[]))
    INSERT INTO heads SELECT * FROM unnest($4::bigint[], $5::bigint[], $6::text[])
    ON CONFLICT (execution) DO UPDATE SET seq = excluded.seq, status = excluded.status
"""


class PostgresJournal(LoopJournal):
    def __init__(self, connection: Any, write: Any) -> None:
        super().__init__()
        self._connection = connection
        self._statement = write

    @classmethod
    async def open(cls, url: str) -> Self:
        connection = await asyncpg.connect(url)
        await connection.execute(SCHEMA)
        return cls(connection, await connection.prepare(WRITE))

    async def write(self, entries: list[Entry]) -> None:
        executions, seqs, bodies, _ = zip(*entries, strict=True)
        heads = {entry.execution: (entry.execution, entry.seq, entry.status) for entry in entries}
        await self._statement.fetch(executions, seqs, bodies, *zip(*heads.values(), strict=True))

    async def close(self) -> None:
        await super().close()
        await self._connection.close()
