"""How executions are let in whose workflow limits how many with one concurrency key are under way.

Whoever starts one of them stores it as pending, in the line of its key, and then it begins as any other that is
pending: at once where it holds the key, else when those before it have ended. So there is one way for all who start
one, and whoever dies on it leaves an execution that a worker begins.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from durable_flow.errors import KeyTaken, StepError
from durable_flow.live import Run
from durable_flow.model.execution import Status
from durable_flow.model.frame import Message
from durable_flow.stores.base import Slot

if TYPE_CHECKING:
    from durable_flow.engine import Engine

SUPERSEDED = "superseded"
"""Why an execution was cancelled in whose place another one begins."""


class Admission:
    """Lets executions in, in the order in which they come."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def enter(
        self,
        make: Callable[[], Run],
        *,
        above: Sequence[str] = (),
        tell: Callable[[str], Coroutine[Any, Any, object]] | None = None,
    ) -> str:
        """Stores what `make` makes, which has not begun, as its workflow says: the id of it, or of the one that is
        there in its place. `above` are the executions that wait for its end; `tell` takes care of one that is to end.

        Raises AlreadyExists, KeyTaken (it is rejected) and StepError (it would wait for one that waits for it)."""
        engine = self._engine
        while True:
            run = make()
            limited, slot = run.definition.concurrency, run.slot
            assert limited is not None
            assert slot is not None
            superseded: list[str] = []
            if limited.on_conflict == "queue":
                run.slot = replace(slot, waits=True)
                if above:
                    holders = [one.execution_id for one in await engine.store.line(slot.key) if one.holds]
                    self._not_itself(run, [name for name in holders if name in above][limited.limit - 1 :], above)
            elif limited.on_conflict == "cancel_running":
                line = [one.execution_id for one in await engine.store.line(slot.key)]
                superseded = line[: max(0, len(line) - limited.limit + 1)]
                self._not_itself(run, superseded, above)
                run.slot = replace(slot, waits=True, known=line)
                run.send(self._cancellation(name) for name in superseded if name != run.id)
            try:
                await engine.enqueue(run)
            except KeyTaken as taken:
                match limited.on_conflict:
                    case "cancel_running":  # others have come since
                        continue
                    case "return_existing":
                        return taken.holders[0]
                raise KeyTaken(run.key, taken.holders) from None
            for name in superseded:
                engine.spawn((tell or engine.tell)(name))
            return run.id

    async def enter_again(self, run: Run) -> None:
        """An execution that was over goes on if it can hold its key at once. Raises KeyTaken, and changes nothing,
        where it cannot."""
        limited = run.definition.concurrency
        if limited is None or run.line is None or run.info.debounced is not None:
            return
        run.slot = Slot(key=run.line, limit=limited.limit)
        try:
            await self._engine.flush(run)
        except KeyTaken as taken:
            raise KeyTaken(run.key, taken.holders) from None

    def _cancellation(self, execution_id: str) -> Message:
        now = self._engine.clock.now()
        body = {"reason": SUPERSEDED}
        return Message(kind="cancel", execution_id=execution_id, key="cancel", time=now, body=body)

    def _not_itself(self, run: Run, others: Sequence[str], above: Sequence[str]) -> None:
        """Raises StepError where an execution would wait for one of these that waits for it."""
        found = next((name for name in others if name in above), None)
        if found is not None:
            raise StepError(
                f"execution {run.id!r} would wait for execution {found!r}, which holds the concurrency key "
                f"{run.key!r} and waits for it",
                kind="KeyTaken",
            )

    async def look(self, run: Run) -> None:
        """Finds out whether a pending execution that is to be cancelled holds its key: else nothing of it may run."""
        if run.status is not Status.PENDING or run.line is None or run.info.debounced is not None:
            return
        if any(message.kind == "cancel" for _, message in run.loose_mail):
            line = await self._engine.store.line(run.line)
            run.unseated = not any(one.holds for one in line if one.execution_id == run.id)
