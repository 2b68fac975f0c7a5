"""`Adapter`: what a background runner needs of a queue."""

from __future__ import annotations

from typing import Protocol


class Adapter(Protocol):
    """Carries the word that an execution has something to be done about it.

    A message is no more than that: an id. What is to be done stands in the store, where a lease lets one process do it,
    and workers find it there without any message. So an adapter may deliver a message twice, late, in any order, or not
    at all. What `submit` raises is logged, and the caller of the runner does not hear of it.
    """

    async def submit(self, execution_id: str, *, queue: str | None, priority: int) -> None:
        """Called after the commit that there is something to do about. `queue` and `priority` (1 is most urgent) are
        those of the execution."""
