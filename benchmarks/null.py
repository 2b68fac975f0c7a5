"""A store that keeps nothing: what is left of a run is the work of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from durable_flow import Store
from durable_flow.model.frame import Message
from durable_flow.stores.base import (
    Appended,
    Blob,
    Busy,
    Commit,
    Committed,
    Filter,
    InLine,
    Mark,
    QueueRow,
    QueueSetting,
    Row,
    ScheduleRow,
    Stored,
)


class NullStore(Store):
    """Every commit is done at once. What needs an answer from the store does not work."""

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._kept: asyncio.Future[Committed] = loop.create_future()
        self._kept.set_result(Committed(released=False))
        self._released: asyncio.Future[Committed] = loop.create_future()
        self._released.set_result(Committed(released=True))

    async def close(self) -> None: ...

    def commit(self, commit: Commit) -> asyncio.Future[Committed]:
        return self._released if commit.release else self._kept

    async def append(self, message: Message, body: Blob) -> Appended:
        return Appended(outcome="unknown")

    async def claim(
        self, execution_id: str, *, owner: str, ttl: float, statuses: Collection[str]
    ) -> Stored | Busy | None:
        return None

    async def take(
        self,
        owner: str,
        *,
        ttl: float,
        limit: int,
        queues: Collection[str | None] | None = None,
        without: Collection[str] = (),
    ) -> Sequence[Stored]:
        return ()

    async def next_due(
        self, *, queues: Collection[str | None] | None = None, without: Collection[str] = ()
    ) -> float | None:
        return None

    async def set_queue(self, queue: str | None, setting: QueueSetting, value: Blob | None) -> bool:
        return False

    async def queues(self, names: Collection[str | None] | None = None) -> Mapping[str | None, QueueRow]:
        return {}

    async def mark(self, mark: Mark) -> bool:
        return False

    async def schedules(
        self, *, workflows: Collection[str] | None = None, limit: int | None = None
    ) -> tuple[float, Sequence[ScheduleRow]]:
        return 0.0, []

    async def renew(self, owner: str, *, ttl: float) -> Mapping[str, int]:
        return {}

    async def release(self, execution_id: str, *, owner: str, generation: int) -> None: ...

    async def mail(self, owner: str) -> Sequence[str]:
        return ()

    async def inbox(self, execution_id: str) -> Sequence[tuple[int, Blob]]:
        return ()

    async def row(self, execution_id: str) -> Row | None:
        return None

    async def fetch(self, execution_id: str) -> Stored | None:
        return None

    async def read(
        self, execution_id: str, *, after: int = 0, limit: int | None = None, seqs: Sequence[int] | None = None
    ) -> Sequence[tuple[int, Blob]]:
        return ()

    async def search(self, filter: Filter, *, limit: int, cursor: str | None) -> tuple[Sequence[Row], str | None]:
        return (), None

    async def remove(self, execution_id: str) -> bool:
        return False

    async def line(self, key: str) -> Sequence[InLine]:
        return []

    async def definition(self, definition_hash: str) -> Blob | None:
        return None

    async def purge_rows(self, *, before: float, statuses: Collection[str], limit: int) -> int:
        return 0
