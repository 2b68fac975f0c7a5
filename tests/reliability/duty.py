"""What the processes of the tables do: a service that writes down what happened outside, and a way to look into the
store at every operation."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

import durable_flow as df
from durable_flow.stores.base import Store
from durable_flow.testing import wait_until
from tests.engine.aid import Wire

Line = dict[str, Any]


class Journal:
    """A file that many processes append to, a line at a time: what happened in the world, whoever dies afterwards."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, event: str, **facts: Any) -> None:
        line = json.dumps({"event": event, "pid": os.getpid(), "at": time.monotonic(), **facts}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            assert os.write(file, line.encode()) == len(line.encode())
        finally:
            os.close(file)

    def lines(self, *events: str) -> list[Line]:
        """Everything of these kinds so far, in the order in which it happened."""
        return [line for line in self._all() if not events or line["event"] in events]

    def _all(self) -> Iterator[Line]:
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                yield json.loads(line)

    def one(self, event: str) -> Line:
        """The only line of its kind."""
        found = self.lines(event)
        assert len(found) == 1, f"{len(found)} lines of {event!r} in the journal instead of one"
        return found[0]


class Post(msgspec.Struct, frozen=True):
    """Where a store is, in words that can be handed to another process."""

    store: str
    url: str
    options: dict[str, Any] = {}

    def open(self) -> df.Store:
        return df.open_store(self.url, **self.options)

    @property
    def address(self) -> str:
        """The same as one URL."""
        return self.url + "".join(f"?{name}={value}" for name, value in self.options.items())

    @property
    def given(self) -> dict[str, Any]:
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built


class Noting(dict[str, Callable[..., Any]]):
    """A service that writes every call down before it does what it was told to do, by method.

    `meanwhile(method, context)` may be awaited in the middle of each call.
    """

    def __init__(
        self,
        journal: Journal,
        answers: dict[str, Callable[..., Any]],
        *,
        meanwhile: Callable[[str, df.StepContext], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__({name: self._method(name, answer) for name, answer in answers.items()})
        self.journal = journal
        self.meanwhile = meanwhile

    def _method(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        async def method(given: Any, /, *, context: df.StepContext) -> Any:
            self.journal.write(
                "effect",
                name=name,
                execution=context.execution_id,
                path=context.path,
                attempt=context.attempt,
                key=context.idempotency_key,
            )
            if self.meanwhile is not None:
                await self.meanwhile(name, context)
            return answer(given, context)

        return method


HEART = frozenset({"mail", "renew", "next_due", "take"})
"""What is done from time to time, and not by an execution."""


SENT = 3
"""Rounds of the event loop after which an operation has been sent to a server, or another thread is busy with it."""


class Passage(Wire):
    """The connection of a process to its store, with somebody who is told before and after each operation, and when it
    is on its way. What executions do is numbered from 1; what is done from time to time has the number 0."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.count = 0
        self.before: Callable[[int, str], None] = lambda number, verb: None
        self.amid: Callable[[int, str], None] = lambda number, verb: None
        self.after: Callable[[int, str, Any], None] = lambda number, verb, answer: None

    async def open(self) -> None:
        await self.store.open()

    async def close(self) -> None:
        await self.store.close()

    def _alive(self, verb: str) -> Store:
        number = 0
        if verb not in HEART:
            self.count += 1
            number = self.count
        self.before(number, verb)
        return _Step(self, number)  # type: ignore[return-value]


class _Step:
    def __init__(self, passage: Passage, number: int) -> None:
        self._passage = passage
        self._number = number

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        passage, number = self._passage, self._number
        method = getattr(passage.store, verb)

        def call(*arguments: Any, **given: Any) -> Any:
            answer = method(*arguments, **given)
            if not isinstance(answer, asyncio.Future):
                return self._awaited(verb, answer)
            answer.add_done_callback(
                lambda done: passage.after(number, verb, None if done.exception() else done.result())
            )
            self._on_its_way(verb)
            return answer

        return call

    def _on_its_way(self, verb: str, turns: int = SENT) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._on_its_way, verb, turns - 1)
        else:
            self._passage.amid(self._number, verb)

    async def _awaited(self, verb: str, answer: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(answer)
        self._on_its_way(verb)
        await asyncio.wait([task])
        self._passage.after(self._number, verb, None if task.exception() else task.result())
        return task.result()


class Shut:
    """A service whose calls never come back."""

    def __init__(self) -> None:
        self.inside = 0

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)

        async def call(given: Any = None) -> None:
            self.inside += 1
            await asyncio.Event().wait()

        return call


async def leave(post: Post, workflow: df.WorkflowDef, names: Sequence[str], **options: Any) -> None:
    """Begins executions and leaves each in its first call, so that nobody owns it: a worker may go on at once."""
    shut = Shut()
    async with post.open() as store:
        options = {"service_resolver": lambda name: shut, "grace": 0.0, **options}
        async with df.Runtime(store, workflows=[workflow], **options) as runtime:
            runs = [asyncio.ensure_future(runtime.runner(workflow).run(execution_id=name)) for name in names]
            await wait_until(lambda: shut.inside == len(names) or any(run.done() for run in runs), timeout=30)
            for run in runs:
                run.cancel()
            for outcome in await asyncio.gather(*runs, return_exceptions=True):
                assert isinstance(outcome, asyncio.CancelledError), f"an execution was not left: {outcome!r}"
