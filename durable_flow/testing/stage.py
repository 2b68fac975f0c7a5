"""`fake_time` and `Stage`: a test of a workflow as a plain function, with a runtime on which waiting takes no time."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from durable_flow import (
    ConfigError,
    ExecutionResult,
    Halt,
    Runner,
    Runtime,
    Status,
    Store,
    Worker,
    WorkflowDef,
    open_store,
)
from durable_flow.testing.clock import GLANCE, FakeClock, SkippingLoop, apart_from_here, run
from durable_flow.testing.ground import MEMORY
from durable_flow.testing.ledger import Lanes, Ledger
from durable_flow.testing.points import Gate
from durable_flow.testing.services import Door, Scripted
from durable_flow.testing.store import WatchedStore

BY_ITSELF = frozenset({"timer", "retry"})
"""Waits that nobody has to do anything about."""


def fake_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Makes an async test a plain one, which any test runner can call, on an event loop on which waiting takes no time.

    A parameter `clock` is the `FakeClock` of that loop; all others stay, for fixtures.

    >>> @fake_time
    ... async def test_a_month(clock):
    ...     before = clock.now()
    ...     await clock.sleep(30 * 86_400)
    ...     assert clock.now() == before + 30 * 86_400
    >>> test_a_month()
    """
    signature = inspect.signature(test)

    @functools.wraps(test)
    def play(*arguments: Any, **keywords: Any) -> None:
        clock = FakeClock()
        if "clock" in signature.parameters:
            keywords["clock"] = clock
        run(lambda: test(*arguments, **keywords), clock)

    left = [parameter for name, parameter in signature.parameters.items() if name != "clock"]
    play.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
    del play.__wrapped__  # who looks for the test behind it finds one that must be awaited
    return play


class Stage:
    """A runtime with a worker on a fake clock: `async with Stage("flows/", services={…}) as stage`.

    It takes workflows as `Runtime` does, and its other options. Its `clock` is that of the loop it runs on
    (`fake_time`, `run`), or one that passes only when it is told to. Services that are not `Scripted` are called as
    they are: while they work, and while a store has something to do on a disk or a server, no time is skipped.

    >>> import durable_flow as df
    >>> ask = {"id": "ask", "name": "Ask", "steps": [
    ...     {"id": "boss", "type": "approval", "prompt": "May I?", "timeout": "30d", "on_timeout": "late"},
    ...     {"id": "late", "type": "end", "result": "nobody answered"}]}
    >>> @fake_time
    ... async def test_nobody_answers():
    ...     async with Stage(ask) as stage:
    ...         asked = await stage.runner().run()
    ...         await stage.clock.advance(days=30)
    ...         print((await stage.until(asked.execution_id)).output)
    >>> test_nobody_answers()
    nobody answered
    """

    def __init__(
        self,
        *workflows: str | os.PathLike[str] | Mapping[str, Any] | WorkflowDef,
        services: Mapping[str, Any] | None = None,
        gates: Mapping[str, Any] | None = None,
        store: str = MEMORY,
        worker: bool = True,
        clock: FakeClock | None = None,
        **options: Any,
    ) -> None:
        self._workflows = workflows
        self._services = dict(services or {})
        self._gates = dict(gates or {})
        self._store = open_store(store)
        self._with_worker = worker
        self._clock = clock
        self._options = options
        self._worker: asyncio.Task[None] | None = None
        self.clock: FakeClock
        self.runtime: Runtime

    def __getattr__(self, name: str) -> Any:
        """What there is only while it is open."""
        if name in ("clock", "runtime"):
            raise AttributeError(f"a stage has its {name} once it is open: async with Stage(…) as stage")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        mine = loop.clock if isinstance(loop, SkippingLoop) else FakeClock()
        clock = self.clock = self._clock or mine
        store: Store = self._store
        if not store.alone:
            store = WatchedStore(self._store, gate=Gate({}), watch=None, clock=clock, inline=False)
            store.wakes = store.alone = True  # nobody else is on a stage: a month must not be spent looking for others
        doors = {name: self._door(name, service) for name, service in self._services.items()}
        gates = {name: self._held(gate) if callable(gate) else gate for name, gate in self._gates.items()}
        options = {"grace": 0.0, **self._options}
        self.runtime = Runtime(store, workflows=self._workflows, services=doors, gates=gates, clock=clock, **options)
        self._store.clock = clock
        with clock.held(), apart_from_here():
            await self._store.open()
        await self.runtime.__aenter__()
        if self._with_worker:
            self._worker = asyncio.create_task(Worker(self.runtime).run(), name="worker")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        worker, self._worker = self._worker, None
        try:
            if worker is not None:
                worker.cancel()
                with suppress(asyncio.CancelledError):
                    await worker
            await self.runtime.close()
        finally:
            with self.clock.held():
                await self._store.close()

    def _door(self, name: str, service: Any) -> Any:
        if isinstance(service, Scripted):
            return service
        return Door(name, service, gate=Gate({}), ledger=Ledger(), lanes=Lanes([]), clock=self.clock, life=1)

    def _held(self, resolver: Callable[..., Any]) -> Callable[..., Any]:
        async def held(params: Any, context: Any) -> Any:
            with self.clock.held():
                answer = resolver(params, context)
                return await answer if inspect.isawaitable(answer) else answer

        return held

    def runner(self, workflow: str | WorkflowDef | None = None) -> Runner:
        """A runner for a workflow; the only one need not be named. Raises ConfigError where there are several."""
        if workflow is not None:
            return self.runtime.runner(workflow)
        known = list(self.runtime.workflows)
        if len(known) != 1:
            raise ConfigError(f"say which workflow: {', '.join(known) or 'there is none'}")
        return self.runtime.runner(known[0])

    async def _left_alone(self, execution_id: str, runner: Runner) -> list[str]:
        """What the worker lacks, where that is why it does not drive an execution whose time has come."""
        lacking = self.runtime.engine.lacks(runner.workflow) if self._with_worker else []
        execution = await self.runtime.store.load(execution_id) if lacking else None
        if execution is None:
            return []
        now = self.clock.now()
        if execution.owner is not None:
            due = execution.lease_until
        elif execution.status is Status.PENDING:
            due = execution.created_at
        else:
            due = execution.wake_at
        return lacking if due is not None and due.timestamp() <= now else []

    def _asks(self, halt: Halt) -> bool:
        """Whether a wait is for somebody, who still has time to answer."""
        late = halt.deadline is not None and halt.deadline.timestamp() <= self.clock.now()
        return halt.type not in BY_ITSELF and not late

    async def until(self, execution_id: str) -> ExecutionResult:
        """How an execution stands when it is over, or waits for somebody; until then time is skipped where nothing else
        is left to do. Raises TimeoutError where nothing more can happen, and ConfigError where the worker leaves it
        alone, because the stage has no such service, and on a loop of somebody else: there time passes by
        `clock.advance`.
        """
        loop = asyncio.get_running_loop()
        if not isinstance(loop, SkippingLoop) or loop.clock is not self.clock:
            raise ConfigError("time is not skipped on this event loop: use fake_time, or stage.clock.advance(…)")
        await loop.rest()  # a task that is to start it may only just have been made
        runner = await self.runtime.runner_of(execution_id)
        while True:
            await loop.rest()
            result = await runner.result(execution_id)
            if result.status.over:
                return result
            if result.status is Status.HALTED and any(self._asks(halt) for halt in result.halts):
                return result
            if self.clock.busy:
                later = asyncio.Event()
                loop.call_later(GLANCE, later.set)
                await later.wait()
            elif lacking := await self._left_alone(execution_id, runner):
                missing = ", ".join(lacking)
                raise ConfigError(f"execution {execution_id!r} is left alone: there is no {missing} on this stage")
            elif not self.clock.skip():
                raise TimeoutError(f"nothing more happens, and execution {execution_id!r} is {result.status}")
