"""`TaskiqAdapter`: word of executions goes through a message broker, to workers on other machines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from durable_flow.errors import ConfigError, MissingExtraError, StoreError, ValidationError
from durable_flow.journal import Journal
from durable_flow.model.execution import Status
from durable_flow.runners.worker import Host as WorkerHost
from durable_flow.runners.worker import Worker
from durable_flow.stores.base import check_id

if TYPE_CHECKING:
    from taskiq import AsyncBroker, TaskiqState

logger = Journal("durable_flow.taskiq")

TASK = "durable_flow:wake"
"""The name of the one task there is, whatever the workflow."""


class Host(WorkerHost, Protocol):
    """What the adapter needs of a runtime."""

    async def __aenter__(self) -> object: ...

    async def close(self) -> None: ...


class TaskiqAdapter:
    """Sends the ids of executions through a broker of taskiq (RabbitMQ, NATS JetStream, Redis Streams, …) to processes
    that `receive` them: those of the command `taskiq worker`.

    A message wakes a `Worker` there, which takes what is due from the store: so paused queues, limits and priorities
    count as they always do, and what no message came of is found as well. Such a process needs no other worker.

    `labels(queue, priority)` gives the labels of a message, by which brokers route: `{"queue_name": "mail"}`. Several
    stores behind one broker need a `task_name` each. A broker that does not take a message within `patience` seconds is
    not waited for. Starting the broker is the host's affair, as with every task of taskiq.

    Raises MissingExtraError without taskiq, and ConfigError for a broker that unpickles what it receives.

    >>> import asyncio, durable_flow as df
    >>> from taskiq import InMemoryBroker
    >>> workflow = {"id": "hello", "name": "Hello", "steps": [
    ...     {"id": "greet", "type": "assign", "set": {"result": "Hello, $input.name!"}}]}
    >>> async def main():
    ...     broker = InMemoryBroker()
    ...     adapter = df.TaskiqAdapter(broker)
    ...     async with df.Runtime("sqlite://:memory:", workflows=[workflow]) as runtime:
    ...         adapter.receive(runtime)
    ...         await broker.startup()
    ...         background = runtime.background("hello", adapter)
    ...         result = await background.wait(await background.run({"name": "Ada"}))
    ...         await broker.shutdown()
    ...         return result.output
    >>> asyncio.run(main())
    'Hello, Ada!'
    """

    def __init__(
        self,
        broker: AsyncBroker,
        *,
        labels: Callable[[str | None, int], Mapping[str, str | int]] | None = None,
        task_name: str = TASK,
        patience: float = 2.0,
    ) -> None:
        try:
            import taskiq
        except ImportError:
            raise MissingExtraError("taskiq", "taskiq") from None
        if not isinstance(broker, taskiq.AsyncBroker):
            raise ConfigError(f"broker is a broker of taskiq, not {broker!r:.100}")
        if labels is not None and not callable(labels):
            raise ConfigError(f"labels is a function of (queue, priority), not {labels!r:.100}")
        if isinstance(patience, bool | str) or not patience > 0:
            raise ConfigError(f"patience must be more than 0 seconds, got {patience!r:.100}")
        self.broker = broker
        self.task_name = task_name
        self.patience = patience
        self._labels = labels
        self._make: Callable[[], Worker] | None = None
        self._runtime: Host
        self._opened = False
        self._worker: Worker | None = None
        self._work: asyncio.Task[None] | None = None
        self._check_serializer()

    def _check_serializer(self) -> None:
        from taskiq.serializers import PickleSerializer

        if isinstance(self.broker.serializer, PickleSerializer):
            raise ConfigError(
                "this broker unpickles messages, so whoever can send one can run code here; "
                "give it another serializer: broker.with_serializer(JSONSerializer())"
            )

    async def submit(self, execution_id: str, *, queue: str | None, priority: int) -> None:
        """Sends the id. Raises whatever the broker does, and TimeoutError."""
        from taskiq.kicker import AsyncKicker

        self._check_serializer()
        labels = {} if self._labels is None else dict(self._labels(queue, priority))
        kicker: AsyncKicker[[str], None] = AsyncKicker(self.task_name, self.broker, labels)
        with anyio.move_on_after(self.patience) as scope:
            await kicker.kiq(execution_id)
        if scope.cancelled_caught:
            raise TimeoutError(f"the broker did not take the message within {self.patience:g} s")

    def receive(
        self,
        runtime: Host,
        *,
        queues: Collection[str | None] | None = None,
        concurrency: int = 100,
        queue_concurrency: Mapping[str, int] | None = None,
    ) -> None:
        """Makes the process that serves this broker (`taskiq worker`) one that drives executions: when the broker is
        started there, a `Worker` begins, and the runtime is opened, if it is not open; when it is shut down, both end
        in order: steps that run have the `grace` of the runtime, as far as `--shutdown-timeout` of taskiq lets them.

        Call it where the broker is made. In processes that only send it does nothing. `queues`, `concurrency` and
        `queue_concurrency` are those of `Worker`. What comes without being the id of an execution in this store is
        dropped, and logged.
        """
        from taskiq import TaskiqEvents

        def make() -> Worker:
            return Worker(runtime, queues=queues, concurrency=concurrency, queue_concurrency=queue_concurrency)

        make()  # what is wrong with the arguments is to be told here
        if self.broker.find_task(self.task_name) is not None:
            raise ConfigError(
                f"this broker has a task {self.task_name!r} already; several stores need several: "
                "TaskiqAdapter(broker, task_name=…)"
            )
        self._runtime, self._make = runtime, make

        async def wake(*args: Any, **kwargs: Any) -> None:  # taskiq gives what it registers another name
            await self._receive(args, kwargs)

        self.broker.register_task(wake, task_name=self.task_name)
        self.broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, self._begin)
        self.broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, self._end)

    # -- the process that receives -------------------------------------------------------------------------------------

    async def _receive(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A message came. It may be anything: whoever reaches the broker can send one."""
        try:
            execution_id = check_id(args[0] if len(args) == 1 and not kwargs else None)
        except ValidationError:
            logger.warning("a message was dropped: it is not the id of an execution: %.200r", kwargs or args)
            return
        engine = self._runtime.engine
        try:
            row = await engine.store.row(execution_id)
        except StoreError as error:
            logger.warning("a message came while the store could not be read; it is looked at later: %s", error)
            return
        if row is None:
            logger.warning("a message was dropped: there is no execution %s in this store", execution_id)
        elif not Status(row.status).over:
            engine.heard(execution_id)

    async def _begin(self, state: TaskiqState) -> None:
        """The broker starts; it may do so again after it lost its connection."""
        if self._work is not None or self._make is None:
            return
        self._check_serializer()
        if not self._runtime.engine.opened:
            await self._runtime.__aenter__()
            self._opened = True
        self._worker = self._make()
        self._work = asyncio.get_running_loop().create_task(self._worker.run(), name="durable_flow.worker")

    async def _end(self, state: TaskiqState) -> None:
        worker, work = self._worker, self._work
        if worker is None or work is None:
            return
        self._worker = self._work = None
        worker.stop()
        try:
            await asyncio.wait([work])
        finally:
            work.cancel()  # where taskiq did not give it the time: what runs is given back at once
            with anyio.CancelScope(shield=True):
                await asyncio.wait([work])
                if self._opened:
                    self._opened = False
                    await self._runtime.close()
