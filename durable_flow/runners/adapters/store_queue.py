"""`StoreQueueAdapter`: the store is the queue."""

from __future__ import annotations


class StoreQueueAdapter:
    """Does nothing: a `Worker` takes what is due from the store, whose commit wakes it where it has room."""

    async def submit(self, execution_id: str, *, queue: str | None, priority: int) -> None:
        """There is nothing to send."""
