"""`BackgroundRunner`: starts executions and answers them, and leaves driving them to workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

from durable_flow.answers import GIVEN, Answer, person, remark
from durable_flow.endings import LeftToOthers
from durable_flow.engine import Engine
from durable_flow.errors import ConfigError, ExecutionNotFound, LeaseLost, ValidationError
from durable_flow.journal import Journal
from durable_flow.live import AlreadyExists
from durable_flow.model.execution import ChildWait, ExecutionResult, Status
from durable_flow.model.workflow import WorkflowDef
from durable_flow.runners.adapters.base import Adapter
from durable_flow.runners.correspondence import Correspondent
from durable_flow.runners.debounce import Debounce, beginning, debounced
from durable_flow.runners.signals import message_of
from durable_flow.stores.base import Row, check_id, waits_of

logger = Journal("durable_flow.background")

LEAST_URGENT = 100
"""The greatest number that a priority may be: a worker asks its store for one after the other."""

UNKNOWN = "unknown"
"""The status of what is not there."""


class BackgroundRunner(Correspondent):
    """Starts executions of one workflow, answers them and waits for them, while workers drive them.

    Every call returns as soon as what it says is durable; its outcome is for `wait`. A process that only submits needs
    neither a worker nor the services of the workflow. How workers hear of an execution is the `adapter`'s affair, and
    never the truth: that is the row in the store.

    >>> import asyncio, durable_flow as df
    >>> workflow = {"id": "hello", "name": "Hello", "steps": [
    ...     {"id": "greet", "type": "assign", "set": {"result": "Hello, $input.name!"}}]}
    >>> async def main():
    ...     async with df.Runtime("sqlite://:memory:", workflows=[workflow]) as runtime:
    ...         background = runtime.background("hello")
    ...         await background.run({"name": "Ada"}, execution_id="hello-1")
    ...         print(await background.status("hello-1"), await background.status("hello-2"))
    ...         worker = df.Worker(runtime)
    ...         task = asyncio.create_task(worker.run())
    ...         print((await background.wait("hello-1")).output)
    ...         worker.stop()
    ...         await task
    >>> asyncio.run(main())
    pending unknown
    Hello, Ada!
    """

    def __init__(self, engine: Engine, workflow: WorkflowDef, adapter: Adapter) -> None:
        if isinstance(adapter, type) or not callable(getattr(adapter, "submit", None)):
            raise ConfigError(
                f"an adapter has a method submit(execution_id, *, queue, priority); {adapter!r:.100} has not"
            )
        super().__init__(engine, workflow)
        self.adapter = adapter

    async def run(
        self,
        input: Mapping[str, Any] | None = None,
        *,
        execution_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        queue: str | None = None,
        priority: int = 5,
        traceparent: str | None = None,
        dry_run: bool = False,
        fixtures: Mapping[str, Any] | None = None,
        delay: float | str | None = None,
        start_at: datetime | None = None,
        debounce: Debounce | None = None,
    ) -> str:
        """Stores an execution as `pending`, for a worker of `queue` to begin it; its id. The `timeout` of the workflow
        counts from when it begins. Of those that wait in the queues of a worker, the one with the least `priority` (1
        to 100) is begun first, and of several with the same one that which is there longest. `traceparent` is
        that of `Runner.run`.

        With an `execution_id` starting is idempotent, as with `Runner.run`, whose errors it raises: InputError (nothing
        is stored), ConflictError if the id belongs to another workflow or another input. `dry_run` and `fixtures` are
        those of `Runner.run`, too.

        It begins at once, or after `delay` (seconds, or a duration such as `15m`), or at `start_at`. With `debounce`
        several calls with one key become one execution, which begins with the last input when no further one has come
        for a while; each call gives its id. What is to begin later can be cancelled, and keeps signals until then.

        Where the workflow limits its `concurrency`, the execution begins when it is its turn. Raises KeyTaken where it
        is rejected; where the one that is there is to be returned, that one's id is. Such an execution cannot be told
        to begin later.
        """
        engine = self._engine
        given, fingerprint = self._checked(input, labels=labels, queue=queue, traceparent=traceparent)
        played = self._rehearsal(dry_run, fixtures)
        chosen = execution_id is not None
        execution_id = engine.ids.execution() if execution_id is None else check_id(execution_id)
        if type(priority) is not int or not 1 <= priority <= LEAST_URGENT:
            raise ValidationError(
                [f"priority is a number from 1 (most urgent) to {LEAST_URGENT}, not {priority!r:.100}"]
            )
        at = beginning(engine, delay=delay, start_at=start_at, debounce=debounce)
        limited = self.workflow.concurrency is not None and not dry_run
        if at is not None and limited:
            raise ValidationError(
                [f"workflow {self.workflow.id!r} limits its concurrency: what it starts cannot be told to begin later"]
            )
        if debounce is not None and chosen:
            raise ValidationError(["a debounced execution has no execution_id of its own: its key is what names it"])
        if debounce is not None and dry_run:
            raise ValidationError(["a dry run is not debounced"])
        make = partial(
            engine.create,
            self.workflow,
            given,
            execution_id=execution_id,
            trigger="queue",
            labels=labels or {},
            queue=queue,
            priority=priority,
            fingerprint=fingerprint,
            traceparent=traceparent,
            dry_run=dry_run,
            fixtures=played,
            begins=False,
        )
        try:
            if debounce is not None:
                execution_id = await debounced(engine, debounce, make)
            elif limited:
                execution_id = await engine.admission.enter(make, tell=self._hurry)
            else:
                await engine.enqueue(make(), at=at)
        except AlreadyExists:
            pass
        else:
            await self._submit(execution_id, queue, priority)
            return execution_id
        row = await self._started_with(fingerprint, execution_id, dry_run=dry_run, fixtures=played)
        if not Status(row.status).over:
            await self._submit(execution_id, row.queue, row.priority)
        return execution_id

    async def resume(
        self,
        execution_id: str,
        *,
        response: Any = GIVEN,
        approved: Any = GIVEN,
        by: str | None = None,
        comment: str | None = None,
        selections: Sequence[Any] | None = None,
        step: str | None = None,
        wait_id: str | None = None,
    ) -> None:
        """Answers a wait, as `Runner.resume` does, with its arguments and its errors. A worker goes on with the
        execution, and a `wait` from now on is for what becomes of it then."""
        answer = Answer(response=response, approved=approved, by=by, comment=comment, selections=selections)
        await self._look_after(await self._answer(execution_id, answer, step=step, wait_id=wait_id))

    async def signal(
        self,
        execution_id: str,
        name: str,
        payload: Any = None,
        *,
        by: str | None = None,
        signal_id: str | None = None,
    ) -> None:
        """Sends a signal, as `Runner.signal` does, with its errors. One that is pending keeps it for when it begins."""
        self._check_open()
        message = message_of(self._engine, execution_id, name, payload, by=by, signal_id=signal_id)
        await self._row(execution_id)
        await self._send(message)
        await self._look_after(execution_id)

    async def cancel(self, execution_id: str, *, reason: str | None = None, by: str | None = None) -> None:
        """Tells an execution to end, wherever it runs, and its children. One that is pending is ended here and now,
        also where its queue is paused. ConflictError if it is over already."""
        await self._cancel(execution_id, reason=reason, by=by)
        await self._hurry(execution_id)

    async def pause(self, execution_id: str, *, by: str | None = None, reason: str | None = None) -> None:
        """Pauses an execution, as `Runner.pause` does, with its errors."""
        await self._hold(execution_id, "pause", by, {"reason": reason} if remark(reason, "reason") else {})
        with suppress(LeaseLost):
            await self._engine.nudge(execution_id)
        await self._look_after(execution_id)

    async def unpause(self, execution_id: str, *, by: str | None = None) -> None:
        """Lets a paused execution go on in a worker, as `Runner.unpause` does, with its errors."""
        await self._hold(execution_id, "unpause", by, {})
        await self._look_after(execution_id)

    async def retry(self, execution_id: str, *, by: str | None = None) -> None:
        """Takes a failed execution up again, as `Runner.retry` does, with its errors, and leaves it to workers."""
        self._check_open()
        person(by)
        row = await self._row(execution_id)
        if row.status == Status.HALTED:
            await self._decide(row, "retry", by=by)
            return
        await self._engine.lay_down(await self._revived(row, by=by))
        await self._look_after(execution_id)

    async def fail(self, execution_id: str, *, reason: str | None = None, by: str | None = None) -> None:
        """Lets the step fail about which an execution waits for a person to decide, as `Runner.fail` does, with its
        errors."""
        self._check_open()
        await self._decide(await self._row(execution_id), "fail", by=by, reason=remark(reason, "reason"))

    async def wait(self, execution_id: str, timeout: float | None = 30.0) -> ExecutionResult | None:
        """How the execution stands as soon as it is over or waits for somebody; None after `timeout` seconds (None: it
        waits for as long as it takes). What was answered and not acted on yet is no outcome.

        It drives nothing, and hears of what other processes do. Raises ExecutionNotFound.
        """
        if timeout is not None and (isinstance(timeout, bool | str) or not timeout >= 0):
            raise ValidationError([f"timeout is a number of seconds from 0, or None, not {timeout!r:.100}"])
        clock = self._engine.clock
        end = None if timeout is None else clock.monotonic() + timeout
        with self._engine.follow(check_id(execution_id)) as changed:
            while True:
                self._check_open()
                if (row := await self._settled(await self._row(execution_id))) is not None:
                    return await self._result_of(row)
                left = None if end is None else end - clock.monotonic()
                if left is not None and left <= 0:
                    return None
                await changed(at_most=left)

    async def status(self, execution_id: str) -> str:
        """`pending`, `running`, `halted`, `completed`, `failed` or `cancelled`; `unknown` where there is none."""
        try:
            return (await self._row(execution_id)).status
        except ExecutionNotFound:
            return UNKNOWN

    # -- how ---------------------------------------------------------------------------------------------------------

    async def _hurry(self, execution_id: str) -> None:
        """An execution was told to end: one that is pending ends here."""
        row = await self._engine.store.row(execution_id)
        if row is not None and row.status == Status.PENDING:
            with suppress(LeaseLost, LeftToOthers):  # somebody has begun it, or has what its last steps need
                await self._engine.nudge(execution_id)
        await self._look_after(execution_id)

    async def _look_after(self, execution_id: str) -> None:
        row = await self._engine.store.row(execution_id)
        if row is not None and not Status(row.status).over:
            self._engine.heard(execution_id)
            await self._submit(execution_id, row.queue, row.priority)

    async def _submit(self, execution_id: str, queue: str | None, priority: int) -> None:
        try:
            await self.adapter.submit(execution_id, queue=queue, priority=priority)
        except Exception:
            logger.exception("no message was sent for execution %s; a worker finds it all the same", execution_id)

    async def _settled(self, row: Row) -> Row | None:
        """An execution, as of one moment, that does not go on before somebody does something; None if it does."""
        if Status(row.status).over:
            return row
        if (found := await self._at_rest(row)) is None:
            return None
        waits = await self._open_waits(found)
        return found if any(wait.outside for wait in waits) or not waits else None

    async def _at_rest(self, row: Row) -> Row | None:
        """An execution that is halted, and so are the children it waits for; None if any of them has mail, or is about
        to end: what was answered will go on."""
        if row.status != Status.HALTED or row.owner is not None:
            return None
        stored = await self._engine.store.fetch(row.id)
        if stored is None or stored.row.status != Status.HALTED or stored.row.owner is not None or stored.inbox:
            return None
        for wait in waits_of(stored.row):
            if isinstance(wait, ChildWait):
                child = await self._engine.store.row(wait.execution_id)
                if child is not None and await self._at_rest(child) is None:
                    return None
        return stored.row
