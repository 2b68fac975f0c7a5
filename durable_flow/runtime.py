"""`Runtime`: the one object that holds what an application shares."""

from __future__ import annotations

import inspect
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from durable_flow.clock import Clock, SystemClock
from durable_flow.codec import Codec
from durable_flow.definition.loading import load
from durable_flow.definition.parser import language, parse_plain
from durable_flow.engine import Engine
from durable_flow.errors import ConfigError, CorruptState, ExecutionNotFound, StoreError, ValidationError
from durable_flow.events import seq_of
from durable_flow.extension import Extension
from durable_flow.ids import Ids, RandomIds
from durable_flow.journal import Journal
from durable_flow.limits import Limits
from durable_flow.model.codec import decode_value
from durable_flow.model.event import EVENT_TYPES, Event
from durable_flow.model.execution import Status
from durable_flow.model.problem import suggest
from durable_flow.model.workflow import WorkflowDef
from durable_flow.runners import bulk, schedules
from durable_flow.runners import queues as queueing
from durable_flow.runners.adapters.base import Adapter
from durable_flow.runners.adapters.store_queue import StoreQueueAdapter
from durable_flow.runners.background import BackgroundRunner
from durable_flow.runners.bulk import BulkReport
from durable_flow.runners.direct import Runner
from durable_flow.runners.queues import PausedQueue, Queue, QueueState
from durable_flow.runners.schedules import Schedule
from durable_flow.runners.stream import StreamRunner, followed
from durable_flow.services import Gates, Services
from durable_flow.steps.base import every_step
from durable_flow.stores import open_store
from durable_flow.stores.base import Store, check_id
from durable_flow.stores.sealed import SealedStore

Service = TypeVar("Service")

logger = Journal("durable_flow.runtime")


class Runtime:
    """Holds a store, workflows and services, and makes runners. Use it as an async context manager.

    `store` is a URL (`sqlite:///flows.db`) or a store; `workflows` mixes paths of files and folders, mappings and
    WorkflowDefs; `services` maps names to objects, classes, modules or mappings of callables; `service_resolver` is
    asked for a name that is not among them. `gates` maps names to resolvers: plain or async functions of (params,
    context) that return a `Gate`, or a pair of one and an output. `secrets` is a mapping, or a (plain or async)
    function of the name. `extensions` are those whose step types, document keys and events there are, or their names
    where they are installed.
    `codec` encrypts user data in the store (`AesGcm`); read it through `runtime.store` then, which has the codec.
    `queues` are limits of queues, by their names (`Queue`): they are declared in the store when the runtime is opened,
    for every process that uses it; where several declare others, the last one counts (see `limit_queue`).
    `lease_ttl` are seconds: how long after the death of this process others may take its executions over.
    `grace` is how long leaving the runtime lets running steps go on.

    Raises ValidationError for definitions with problems (all of them at once) and ConfigError for anything else that
    is put together wrongly.

    >>> import asyncio
    >>> workflow = {"id": "hello", "name": "Hello", "steps": [
    ...     {"id": "greet", "type": "assign", "set": {"result": "Hello, $input.name!"}}]}
    >>> async def main():
    ...     async with Runtime("sqlite://:memory:", workflows=[workflow]) as runtime:
    ...         return await runtime.runner("hello").run({"name": "Ada"})
    >>> asyncio.run(main()).output
    'Hello, Ada!'
    """

    def __init__(
        self,
        store: str | Store,
        *,
        workflows: Iterable[str | os.PathLike[str] | Mapping[str, Any] | WorkflowDef] = (),
        services: Mapping[str, Any] | None = None,
        service_resolver: Callable[[str], Any] | None = None,
        gates: Mapping[str, Callable[..., Any]] | None = None,
        secrets: Mapping[str, Any] | Callable[[str], Any] | None = None,
        extensions: Iterable[Extension | str] | None = None,
        codec: Codec | None = None,
        queues: Mapping[str, Queue] | None = None,
        limits: Limits | None = None,
        lease_ttl: float = 30.0,
        max_recoveries: int = 10,
        grace: float = 10.0,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        if not _is_number(lease_ttl) or not lease_ttl > 0:
            raise ConfigError(f"lease_ttl must be more than 0 seconds, got {lease_ttl!r:.100}")
        if not _is_number(grace) or not grace >= 0:
            raise ConfigError(f"grace must be at least 0 seconds, got {grace!r:.100}")
        if type(max_recoveries) is not int or max_recoveries < 0:
            raise ConfigError(f"max_recoveries must be a number from 0, got {max_recoveries!r:.100}")
        if not isinstance(store, str | Store):
            raise ConfigError(f"store must be a URL such as sqlite:///flows.db, or an open store, not {store!r:.100}")
        self._owns_store = isinstance(store, str)
        self.store: Store = open_store(store) if isinstance(store, str) else store
        if codec is not None:
            self.store = SealedStore(self.store, codec)
        self._limits = limits or Limits()
        self._language = language(extensions or ())
        self._resources = AsyncExitStack()
        self.grace = grace
        self._queues = queueing.check_queues(queues)
        self._workflows: dict[str, WorkflowDef] = {}
        self._pinned: dict[str, WorkflowDef] = {}
        self._opened = False
        clock = clock or SystemClock()
        self.store.clock = clock
        self.engine = Engine(
            self.store,
            Services(services, service_resolver),
            Gates(gates),
            find_workflow=self._workflows.get,
            load_definition=self._definition,
            secrets=secrets,
            language=self._language,
            limits=self._limits,
            lease_ttl=lease_ttl,
            max_recoveries=max_recoveries,
            clock=clock,
            ids=ids or RandomIds(),
        )
        self._add_all(workflows)

    async def __aenter__(self) -> Self:
        if self._opened:
            raise ConfigError("this runtime was opened before; make a new one")
        self._opened = True
        try:
            if self._owns_store:
                await self.store.open()
            for extension in self._language.extensions:
                if extension.lifespan is not None:
                    resource = await self._resources.enter_async_context(extension.lifespan())
                    self.engine.resources[extension.name] = resource
        except BaseException:
            await self._release()
            raise
        self.engine.open()
        with suppress(StoreError):  # it is looked at again whenever leases are renewed
            await self.engine.go_by_store()
        try:
            await queueing.declare(self.engine, self._queues)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets running steps go on for the grace period, gives the leases back, and closes what extensions opened, and
        the store if it was opened from a URL. May be called twice."""
        try:
            await self.engine.close(self.grace)
        finally:
            await self._release()

    async def _release(self) -> None:
        try:
            await self._resources.aclose()
        finally:
            if self._owns_store:
                await self.store.close()

    @property
    def workflows(self) -> Mapping[str, WorkflowDef]:
        """The workflows this runtime knows, by id."""
        return self._workflows

    def service(self, service: Service) -> Service:
        """Registers a class under its own name; usable as a decorator."""
        name = getattr(service, "__name__", None)
        if not isinstance(name, str):
            raise ConfigError(f"{service!r} has no name of its own; register it with services={{…}}")
        self.engine.services.register(name, service)
        return service

    def runner(self, workflow: str | WorkflowDef) -> Runner:
        """A runner for a workflow this runtime knows, or for a WorkflowDef (which it knows from then on)."""
        return Runner(self.engine, self._known(workflow))

    def background(self, workflow: str | WorkflowDef, adapter: Adapter | None = None) -> BackgroundRunner:
        """A runner that stores executions and leaves driving them to workers; `adapter` says how these hear of them
        (by default they find them in the store). `workflow` is as in `runner`."""
        return BackgroundRunner(self.engine, self._known(workflow), adapter or StoreQueueAdapter())

    def stream(self, workflow: str | WorkflowDef) -> StreamRunner:
        """A runner that also tells of events while it drives an execution. `workflow` is as in `runner`."""
        return StreamRunner(self.engine, self._known(workflow), subscribe=self.subscribe)

    def _known(self, workflow: str | WorkflowDef) -> WorkflowDef:
        if not self._opened:
            raise ConfigError("open the runtime first: async with Runtime(…) as runtime")
        if isinstance(workflow, WorkflowDef):
            self._add(workflow)
            return workflow
        try:
            known = self._workflows.get(workflow)
        except TypeError:
            known = None
        if known is None:
            names = ", ".join(sorted(self._workflows)) or "none"
            raise ConfigError(f"no workflow with id {workflow!r} is known (known: {names})")
        return known

    async def runner_of(self, execution_id: str) -> Runner:
        """A runner for the workflow of an existing execution, from the definition that is pinned to it."""
        row = await self.engine.store.row(execution_id)
        if row is None:
            raise ExecutionNotFound(execution_id)
        return Runner(self.engine, await self._definition(row.definition_hash, execution_id))

    async def background_of(self, execution_id: str, adapter: Adapter | None = None) -> BackgroundRunner:
        """What `runner_of` is, for a runner that leaves driving the execution to workers."""
        pinned = await self.runner_of(execution_id)
        return BackgroundRunner(self.engine, pinned.workflow, adapter or StoreQueueAdapter())

    async def cancel_all(
        self,
        *,
        dry_run: bool = False,
        reason: str | None = None,
        by: str | None = None,
        **filters: Unpack[bulk.Filters],
    ) -> BulkReport:
        """Cancels every execution that is not over and matches all that is given, with its children, as `Runner.cancel`
        does: where nobody drives one, it is ended here, a few side by side; one that is driven is told to end, and not
        waited for. What can be given is `workflow_id`, `labels`, `status` (one or several), `created_after` and
        `created_before`; where nothing is, `everything=True` has to be.

        The report says to which it was done, and why not to the others: what goes wrong with one keeps no other from
        it. `limit` is how many at most, the newest first; with `dry_run` they are only found. Raises ValidationError.
        """
        selection = bulk.Selection(**filters)
        return await bulk.for_all(
            self.engine, selection, bulk.cancelling(by, reason), status=bulk.LIVE, dry_run=dry_run
        )

    async def retry_all(
        self,
        *,
        dry_run: bool = False,
        by: str | None = None,
        **filters: Unpack[bulk.Filters],
    ) -> BulkReport:
        """Takes every failed execution that matches up again, at its failed step, and leaves them to workers, which
        find them at once: nothing is driven here, however many there are. `status="halted"` retries those that wait for
        somebody to decide about a step. All else is as in `cancel_all`."""
        selection = bulk.Selection(**filters)
        return await bulk.for_all(self.engine, selection, bulk.retrying(by), status=(Status.FAILED,), dry_run=dry_run)

    async def pause_all(
        self,
        *,
        dry_run: bool = False,
        reason: str | None = None,
        by: str | None = None,
        **filters: Unpack[bulk.Filters],
    ) -> BulkReport:
        """Pauses every execution that is not over and matches, as `Runner.pause` does. All else is as in
        `cancel_all`."""
        selection = bulk.Selection(**filters)
        return await bulk.for_all(self.engine, selection, bulk.pausing(by, reason), status=bulk.LIVE, dry_run=dry_run)

    async def unpause_all(
        self,
        *,
        dry_run: bool = False,
        by: str | None = None,
        **filters: Unpack[bulk.Filters],
    ) -> BulkReport:
        """Lets every paused execution that matches go on, and leaves them to workers. All else is as in
        `cancel_all`."""
        selection = bulk.Selection(**filters)
        return await bulk.for_all(self.engine, selection, bulk.unpausing(by), status=bulk.LIVE, dry_run=dry_run)

    async def pause_queue(self, queue: str | None, *, by: str | None = None, reason: str | None = None) -> bool:
        """Lets no pending execution of a queue begin (None: of those without a queue), in any process that uses the
        store, until `unpause_queue`; what began goes on. False if it was paused already: who came first counts.

        It is for workers: a call that names an execution by its id drives it all the same. Raises ValidationError for
        what cannot be the name of a queue; that nothing is in it is no mistake.
        """
        return await queueing.pause(self.engine, queue, by=by, reason=reason)

    async def unpause_queue(self, queue: str | None) -> bool:
        """Lets the executions of a paused queue begin, at once where a worker has room. False if it was not paused."""
        return await queueing.unpause(self.engine, queue)

    async def paused_queues(self) -> list[PausedQueue]:
        """The queues that are paused, and by whom."""
        return await queueing.paused(self.engine)

    async def limit_queue(
        self, queue: str, *, concurrency: int | None = None, rate: int | None = None, per: float | str | None = None
    ) -> bool:
        """Decides the limits of a queue for all processes that use the store, whatever code declares (`queues` of a
        runtime), until `reset_queue`; without any, that there are none. False where they were decided so already.

        `concurrency` is how many of its executions may be under way at once: driven by a worker or a caller, or by a
        process that died, until somebody ends them. One that waits (halted) is not, and neither is a child: a tree of
        executions counts once. `rate` is how many workers begin within any time as long as `per`. Limits keep workers
        from beginning more: what began goes on, and comes back from its waits, and a call that names an execution
        drives it all the same. Raises ValidationError.
        """
        return await queueing.decide(self.engine, queue, Queue(concurrency=concurrency, rate=rate, per=per))

    async def reset_queue(self, queue: str) -> bool:
        """Lets the limits of a queue count that code declares. False where nothing else was decided."""
        return await queueing.decide(self.engine, queue, None)

    async def queues(self) -> list[QueueState]:
        """Every queue that is paused or has limits, or in which something is pending or under way: executions without
        one first, then by name."""
        return await queueing.states(self.engine)

    async def schedules(self, *, workflow_id: str | None = None) -> list[Schedule]:
        """The schedules that workers have made known (of one workflow), by id: when they tick next, whether they are
        paused, and what happened last."""
        return await schedules.listed(self.engine, workflow_id)

    async def pause_schedule(self, schedule_id: str, *, by: str | None = None, reason: str | None = None) -> bool:
        """Lets no tick of a schedule start anything until `unpause_schedule`; a tick that waited is given up, and those
        that come meanwhile are not made up for. What goes on goes on. False if it was paused already: who came first
        counts. Raises ValidationError where there is no such schedule."""
        return await schedules.pause(self.engine, schedule_id, by=by, reason=reason)

    async def unpause_schedule(self, schedule_id: str) -> bool:
        """Lets a schedule go on with its next tick. False if it was not paused."""
        return await schedules.unpause(self.engine, schedule_id)

    async def trigger_schedule(
        self, schedule_id: str, *, overlap: str | None = None, execution_id: str | None = None
    ) -> str:
        """Has a worker start what a schedule says now, also where it is paused; the id of the execution. `overlap` is
        what to do instead of what the schedule says about others of it that go on. With an `execution_id` asking again
        changes nothing."""
        return await schedules.trigger(self.engine, schedule_id, overlap=overlap, execution_id=execution_id)

    async def backfill_schedule(
        self, schedule_id: str, *, start: datetime, end: datetime, overlap: str | None = None
    ) -> int:
        """Has workers start the ticks from `start` to `end`, both included, whose executions are not there; how many
        ticks there are. They run one after the other, unless `overlap` says something else. Times need a zone, and are
        not in the future."""
        return await schedules.backfill(self.engine, schedule_id, start=start, end=end, overlap=overlap)

    def subscribe(
        self, handler: Callable[[Event], object], *, events: Iterable[str] | None = None
    ) -> Callable[[], None]:
        """Calls `handler` with every event of executions this runtime drives, after its commit; gives a function that
        ends that. `events` limits it to these types.

        What a handler raises is logged and changes nothing. An async handler gets the events one after the other in a
        task of its own, so it may take its time; a plain one is called in the event loop and must not block it.
        """
        if not callable(handler):
            raise ConfigError(f"a handler of events is a function, not {handler!r:.100}")
        if isinstance(events, str):
            raise ConfigError(f"events is a list of event types: events=[{events!r}]")
        wanted = None if events is None else frozenset(events)
        known = EVENT_TYPES | self._language.events
        for unknown in sorted((wanted or frozenset()) - known):
            hint = suggest(unknown, sorted(known))
            raise ConfigError(f"there is no event type {unknown!r}{f' ({hint})' if hint else ''}")
        call = self._queued(handler) if inspect.iscoroutinefunction(handler) else handler

        def deliver(event: Event) -> None:
            if wanted is None or event.type in wanted:
                call(event)

        self.engine.observers.append(deliver)
        return lambda: self.engine.observers.remove(deliver) if deliver in self.engine.observers else None

    def events(
        self, execution_id: str, *, after: str | int | None = None, follow: bool = True
    ) -> AsyncGenerator[Event, None]:
        """The durable events of an execution, whichever process drives it: first those that its audit trail tells, then
        those that come, until it is over (a failed one may be retried: then there are more). Without `follow` it ends
        with those that are there.

        `after` is the id of the last event that is known already, as `Last-Event-ID` brings it, or the number in it: a
        reader that connects again and gives it misses no event and gets none twice. Events of children are not among
        them; the entries of the step that waits for a child are. They are the ones `subscribe` tells, without those
        that have no id.

        Raises ExecutionNotFound where there is no such execution, or no longer, ValidationError for an `after` that is
        none, and ConflictError when the runtime is closed.
        """
        if not self._opened:
            raise ConfigError("open the runtime first: async with Runtime(…) as runtime")
        check_id(execution_id)
        return followed(self.engine, execution_id, after=seq_of(after, execution_id), follow=follow)

    def _queued(self, handler: Callable[[Event], Awaitable[object]]) -> Callable[[Event], object]:
        """A plain function that leaves events to an async handler, in order."""
        waiting: deque[Event] = deque()

        async def work() -> None:
            while waiting:
                event = waiting[0]
                try:
                    await handler(event)
                except Exception:
                    logger.exception("a subscriber raised on %s", event.type)
                finally:
                    waiting.popleft()

        def deliver(event: Event) -> None:
            waiting.append(event)
            if len(waiting) == 1:
                self.engine.spawn(work())

        return deliver

    def _add_all(self, workflows: Iterable[str | os.PathLike[str] | Mapping[str, Any] | WorkflowDef]) -> None:
        problems: list[object] = []
        for source in _sources(workflows):
            try:
                self._add(
                    source
                    if isinstance(source, WorkflowDef)
                    else load(source, limits=self._limits, extensions=self._language)
                )
            except ValidationError as error:
                problems.extend(error.problems)
        if problems:
            raise ValidationError(problems)

    def _add(self, workflow: WorkflowDef) -> None:
        known = self._workflows.get(workflow.id)
        if known is not None and known.hash != workflow.hash:
            raise ConfigError(f"there are two workflows with id {workflow.id!r}: {known.source} and {workflow.source}")
        self._check_language(workflow)
        self._workflows[workflow.id] = workflow
        self._pinned[workflow.hash] = workflow
        if self._opened and known is None and workflow.schedules:
            self.engine.heard("")

    def _check_language(self, workflow: WorkflowDef) -> None:
        """A definition that was read with other extensions could be started here, and not be taken up again."""
        spoken = self._language
        types = sorted({step.type.name for step in every_step(workflow)} - spoken.types.keys())
        foreign = [f"the step type {name!r}" for name in types]
        foreign += [
            f"the document key {key!r}" for key in workflow.extras if workflow.extras[key] and key not in spoken.keys
        ]
        if foreign:
            raise ConfigError(
                f"workflow {workflow.id!r} uses {', '.join(foreign)}, which no extension of this runtime brings: "
                "give it the extensions that it was loaded with"
            )

    async def _definition(self, definition_hash: str, execution_id: str) -> WorkflowDef:
        """The definition an execution was started with, whatever is on disk now."""
        known = self._pinned.get(definition_hash)
        if known is None:
            blob = await self.engine.store.definition(definition_hash)
            if blob is None:
                raise CorruptState(execution_id, f"its definition {definition_hash[:12]}… is not in the store")
            what = f"its definition {definition_hash[:12]}…"
            document = decode_value(blob, execution_id=execution_id, what=what)
            known = parse_plain(document, limits=self._limits, extensions=self._language)
            self._pinned[definition_hash] = known
        return known


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _sources(
    workflows: Iterable[str | os.PathLike[str] | Mapping[str, Any] | WorkflowDef],
) -> Iterable[str | Path | Mapping[str, Any] | WorkflowDef]:
    if isinstance(workflows, str | os.PathLike | Mapping | WorkflowDef):
        raise ConfigError("workflows must be a list: workflows=[…]")
    for source in workflows:
        if isinstance(source, str) and "\n" in source:
            yield source
        elif isinstance(source, str | os.PathLike):
            path = Path(source)
            if path.is_dir():
                found = sorted(file for pattern in ("*.yml", "*.yaml") for file in path.glob(pattern))
                if not found:
                    raise ConfigError(f"there is no *.yml or *.yaml file in folder {str(path)!r}")
                yield from found
            else:
                yield path
        else:
            yield source
