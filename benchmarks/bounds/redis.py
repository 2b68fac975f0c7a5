"""One pipelined transaction per batch: each entry goes to the list of its execution, the heads are set together."""

from __future__ import annotations

from redis.asyncio import Redis

from benchmarks.bounds.journal import Entry, LoopJournal


class RedisJournal(LoopJournal):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._redis = Redis.from_url(url)

    async def write(self, entries: list[Entry]) -> None:
        async with self._redis.pipeline(transaction=True) as pipeline:
            for entry in entries:
                pipeline.rpush(f"entries:{entry.execution}", entry.body)
            pipeline.mset({f"head:{entry.execution}": f"{entry.seq} {entry.status}" for entry in entries})
            await pipeline.execute()

    async def close(self) -> None:
        await super().close()
        await self._redis.aclose()
