"""`StreamRunner`: executions with their events as they come; and those of an execution wherever it is driven."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any, Protocol

from durable_flow.engine import POLL, Engine
from durable_flow.errors import ConflictError, ExecutionNotFound, ValidationError
from durable_flow.events import Asked, Subject, event_of
from durable_flow.model.codec import decode_info, decode_record, decode_value
from durable_flow.model.event import Event
from durable_flow.model.execution import Action, Status
from durable_flow.model.workflow import WorkflowDef
from durable_flow.runners.direct import Runner
from durable_flow.stores.base import Row, Store, check_id, masks_of, result_of

CHUNK = 500
"""Entries that are read at once, at most."""

FIRST = 20
"""Entries that are read before it is known how large they are."""

AHEAD = 256 * 1024
"""Bytes that are read at once, about: whoever takes their time over an event holds the rest of them."""


class Subscribe(Protocol):
    """`Runtime.subscribe`."""

    def __call__(
        self, handler: Callable[[Event], object], /, *, events: Iterable[str] | None = None
    ) -> Callable[[], None]: ...


class StreamRunner(Runner):
    """A Runner that tells what happens while it drives an execution: `stream` in a loop, `subscribe` to a handler.

    >>> import durable_flow as df
    >>> workflow = df.load({"id": "hello", "name": "Hello", "steps": [
    ...     {"id": "greet", "type": "assign", "set": {"result": "Hello, $input.name!"}}]})
    >>> async def main():
    ...     async with df.Runtime("sqlite://:memory:") as runtime:
    ...         return [event.type async for event in runtime.stream(workflow).stream({"name": "Ada"})]
    >>> asyncio.run(main())
    ['workflow.started', 'step.completed', 'workflow.completed']
    """

    def __init__(self, engine: Engine, workflow: WorkflowDef, *, subscribe: Subscribe) -> None:
        super().__init__(engine, workflow)
        self._subscribe = subscribe

    def subscribe(
        self, handler: Callable[[Event], object], *, events: Iterable[str] | None = None
    ) -> Callable[[], None]:
        """Calls `handler` with every event of executions of this workflow that its runtime drives, whoever started
        them; else it is `Runtime.subscribe`."""
        given: Any = handler
        workflow_id = self.workflow.id

        def only(event: Event) -> None:
            if event.data["workflow_id"] == workflow_id:
                given(event)

        async def only_later(event: Event) -> None:
            if event.data["workflow_id"] == workflow_id:
                await given(event)

        if not callable(given):
            return self._subscribe(given, events=events)  # which says what is wrong with it
        return self._subscribe(only_later if inspect.iscoroutinefunction(given) else only, events=events)

    async def stream(
        self,
        input: Mapping[str, Any] | None = None,
        *,
        execution_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        queue: str | None = None,
        traceparent: str | None = None,
        trigger: str = "api",
        dry_run: bool = False,
        fixtures: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Starts an execution as `run` does, and gives its events, durable and transient ones in the order in which
        they come, until it is over or waits for somebody. What `run` would raise is raised here.

        However long the loop takes over an event, the execution does not wait for it. Leaving the loop early ends
        only the telling: the execution goes on in this runtime. Cancelling the task that loops leaves the execution at
        its last finished step with no owner, as cancelling `run` does.

        Told is what happens in this process. Where another one drives the execution already (it was started with the
        same `execution_id`), `runtime.events` tells of it.
        """
        execution_id = self._engine.ids.execution() if execution_id is None else check_id(execution_id)
        told: deque[Event] = deque()
        something = asyncio.Event()

        def hear(event: Event) -> None:
            if event.data["execution_id"] == execution_id:
                told.append(event)
                something.set()

        deaf = self._subscribe(hear)
        run = asyncio.ensure_future(
            self.run(
                input,
                execution_id=execution_id,
                labels=labels,
                queue=queue,
                traceparent=traceparent,
                trigger=trigger,
                dry_run=dry_run,
                fixtures=fixtures,
            )
        )
        run.add_done_callback(lambda _: something.set())
        reader = asyncio.current_task()
        try:
            while told or not run.done():
                while told:
                    event = told.popleft()
                    yield event
                    reader = asyncio.current_task()
                something.clear()
                if not run.done():
                    await something.wait()
            run.result()
        finally:
            deaf()
            # A reader that is cancelled while it works on an event gets GeneratorExit, like one that has seen enough.
            if not run.done() and reader is not None and (reader.cancelled() or reader.cancelling()):
                run.cancel()
                await self._engine.uninterrupted(_ended(run))
            self._engine.adopt(run)


async def _ended(task: asyncio.Future[Any]) -> None:
    await asyncio.wait([task])


async def followed(engine: Engine, execution_id: str, *, after: int, follow: bool) -> AsyncGenerator[Event, None]:
    """The events behind the entry with this number, from the audit trail; with `follow`, up to the end."""
    trail = _Trail(engine.store, execution_id, after=after)
    with engine.follow(execution_id) as changed:
        while True:
            if engine.closing:
                raise ConflictError("the runtime is closed; nothing is followed any more")
            row = await engine.store.row(execution_id)
            if row is None:
                raise ExecutionNotFound(execution_id)
            async for event in trail.until(row):
                yield event
            if not follow or Status(row.status).over:
                return
            # A store tells what an execution came to, not each step of it; what is driven here is heard of at once.
            driven = row.owner is not None and execution_id not in engine.runs
            await changed(engine.clock.now() + POLL if driven else None)


class _Trail:
    """Reads the audit trail of an execution on and on, and says which events it stands for."""

    def __init__(self, store: Store, execution_id: str, *, after: int) -> None:
        self._store = store
        self._execution_id = execution_id
        self._first = self._seen = after
        self._asked = Asked()
        self._asked_until = 0
        self._limit = FIRST
        self._began = False

    async def until(self, row: Row) -> AsyncGenerator[Event, None]:
        """The events up to where the execution was when its row was read. Raises ValidationError where it was never
        as far as the first entry is said to be."""
        if not self._began and self._seen > row.seq:
            told = f"{self._execution_id}:{self._seen}"
            raise ValidationError([f"there is no event {told!r} yet: the last entry of the execution is {row.seq}"])
        self._began = True
        if self._seen >= row.seq:
            return
        subject = Subject(
            execution_id=row.id,
            workflow_id=row.workflow_id,
            masks=masks_of(row),
            input=decode_value(row.input, execution_id=row.id),
            result=result_of(row),
            dry_run=decode_info(row.info, execution_id=row.id).dry_run,
        )
        while self._seen < row.seq:
            chunk = await self._store.read(row.id, after=self._seen, limit=min(self._limit, row.seq - self._seen))
            if not chunk:
                return  # it was deleted meanwhile
            size = sum(len(blob) for _, blob in chunk)
            self._limit = max(1, min(CHUNK, AHEAD * len(chunk) // max(1, size)))
            for seq, blob in chunk:
                record = decode_record(blob, execution_id=row.id)
                asked: list[Any] = []
                if record.action is Action.HALTED and not record.step:
                    await self._look_back(seq)
                    asked = self._asked.data
                if self._asked_until == seq - 1:
                    self._asked.add(record)
                    self._asked_until = seq
                self._seen = seq
                event = event_of(record, seq, subject, asked=asked)
                if event is not None:
                    yield event

    async def _look_back(self, seq: int) -> None:
        """Reads the entries before this one that were not read: what is waited for may stand in any of them."""
        while self._asked_until < seq - 1:
            last = self._asked_until
            chunk = await self._store.read(self._execution_id, after=last, limit=min(CHUNK, seq - 1 - last))
            if not chunk:
                return
            for self._asked_until, blob in chunk:
                self._asked.add(decode_record(blob, execution_id=self._execution_id))
