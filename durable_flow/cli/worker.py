"""`worker`: drives whatever is due in the store, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._codec import codec_here
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._host import (
    INTERRUPTED,
    TERMINATED,
    Host,
    leave,
    named_secrets,
    opened,
    store_at,
    working_options,
)
from durable_flow.cli._options import Duration, QueueNumber, Queues, definition_files
from durable_flow.cli._program import command as as_command
from durable_flow.cli._services import load_gates, load_services
from durable_flow.cli._url import shown

ENDS = ("workflow.completed", "workflow.failed", "workflow.cancelled")

POLL = 0.05
"""Seconds between two looks at children that go on when the worker has drained."""


@as_command(
    "Run",
    example="durable-flow worker --services shop --workflows flows --concurrency 20",
    json_help="What it tells as JSON, an object on a line of standard output each.",
)
@click.option(
    "--queues",
    type=Queues(),
    metavar="NAME,…",
    help="Only executions of these queues; - stands for those without one (default: all).",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    metavar="N",
    help="How many executions it drives at once.",
)
@click.option(
    "--queue-concurrency",
    "queue_concurrency",
    type=QueueNumber(),
    multiple=True,
    metavar="NAME=N",
    help="How many of a queue it drives at once; may be given for several.",
)
@click.option(
    "--grace",
    type=Duration(allow_zero=True),
    default="10s",
    show_default=True,
    help="How long steps that run may go on when it is stopped.",
)
@working_options
def command(
    *,
    queues: tuple[str | None, ...] | None,
    concurrency: int,
    queue_concurrency: tuple[tuple[str, int], ...],
    grace: timedelta,
    host: Host,
    as_json: bool,
) -> int:
    """Drive whatever is due: executions whose process died, timers, timeouts, queues.

    It tells of every execution that ends, and works until Ctrl-C or SIGTERM: then it takes nothing new and lets steps
    that run end. A second signal stops it at once. What is not over goes on in another worker, or when it is started
    again.
    """
    return _Work(
        host,
        queues=queues,
        concurrency=concurrency,
        queue_concurrency=dict(queue_concurrency),
        grace=grace.total_seconds(),
        as_json=as_json,
    ).run()


class _Work:
    def __init__(
        self,
        host: Host,
        *,
        queues: tuple[str | None, ...] | None,
        concurrency: int,
        queue_concurrency: Mapping[str, int],
        grace: float,
        as_json: bool,
    ) -> None:
        self.host = host
        self.queue_concurrency = queue_concurrency
        self.queues = queues
        self.concurrency = concurrency
        self.grace = grace
        self.journal = _render.Journal(as_json=as_json)
        self.clock = df.SystemClock()
        self.stopped_at: float | None = None
        self.cut: int | None = None
        self.reader_gone = False
        self.worker: df.Worker | None = None
        self.working: asyncio.Task[None] | None = None

    def run(self) -> int:
        with contextlib.redirect_stdout(sys.stderr):  # what services print
            codec = codec_here()
            services = load_services(self.host.services)
            gates = load_gates(self.host.gates)
            definitions = definition_files(self.host.workflows)
            secrets = dict(named_secrets(self.host.secrets))
            asyncio.run(self._main(services, gates, definitions, secrets, codec))
        if self.reader_gone:
            raise BrokenPipeError
        if self.cut is None:
            self.journal.about("worker.stopped", "stopped")
        return leave(self.cut or 0)

    async def _main(
        self,
        services: Mapping[str, Any],
        gates: Mapping[str, Any],
        definitions: list[Path],
        secrets: Mapping[str, str],
        codec: df.Codec | None,
    ) -> None:
        store = store_at(self.host.store, codec=codec, creates=True)
        runtime = df.Runtime(
            store,
            workflows=definitions,
            services=services,
            gates=gates,
            secrets=secrets,
            grace=self.grace,
            extensions=extensions_here(),
        )
        async with opened(store, self.host.store, creates=True), runtime:
            runtime.subscribe(self._hear, events=ENDS)
            self.worker = df.Worker(
                runtime,
                queues=self.queues,
                concurrency=self.concurrency,
                queue_concurrency=self.queue_concurrency,
            )
            self.working = asyncio.get_running_loop().create_task(self.worker.run())
            with self._signals():
                self._serving(services, gates, runtime)
                await asyncio.wait([self.working])
                while runtime.engine.runs and self._left() > 0:
                    await self.clock.sleep(POLL)
                runtime.grace = 0.0
            if not self.working.cancelled():
                self.working.result()

    def _left(self) -> float:
        """Seconds of grace that are left."""
        if self.cut is not None or self.stopped_at is None:
            return 0.0
        return self.stopped_at + self.grace - self.clock.monotonic()

    def _serving(self, services: Mapping[str, Any], gates: Mapping[str, Any], runtime: df.Runtime) -> None:
        queues = None if self.queues is None else [name or "-" for name in self.queues]
        facts = [
            f"services {', '.join(sorted(services)) or 'none'}",
            *([f"gates {', '.join(sorted(gates))}"] if gates else []),
            f"workflows {', '.join(sorted(runtime.workflows)) or 'those that are stored'}",
            f"queues {'all' if queues is None else ', '.join(queues)}",
            f"at most {self.concurrency} at once",
            *(f"{most} of {queue}" for queue, most in self.queue_concurrency.items()),
        ]
        self._about(
            "worker.started",
            f"working on {shown(self.host.store)}: {'; '.join(facts)}",
            store=shown(self.host.store),
            services=sorted(services),
            gates=sorted(gates),
            workflows=sorted(runtime.workflows),
            queues=queues,
            concurrency=self.concurrency,
            grace=self.grace,
        )

    # -- stopping -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        for number, code in ((signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)):
            loop.add_signal_handler(number, self._stop, code)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self, code: int) -> None:
        """The first signal drains, the next one ends it."""
        if self.worker is None or self.working is None:
            return
        if self.stopped_at is not None:
            self.cut = self.cut or code
            self.working.cancel()
            return
        self.stopped_at = self.clock.monotonic()
        self.worker.stop()
        active = self.worker.active
        if active:
            what = f"{active} execution{'s' * (active != 1)}"
            text = f"stopping: steps of {what} may go on for {_render.span(self.grace)}; a second signal ends them"
        else:
            text = "stopping"
        self._about("worker.stopping", text, active=active)

    # -- telling ------------------------------------------------------------------------------------------------------

    def _hear(self, event: df.Event) -> None:
        try:
            self.journal.ended(event)
        except BrokenPipeError:
            self._unread()

    def _about(self, event: str, text: str, **facts: object) -> None:
        try:
            self.journal.about(event, text, **facts)
        except BrokenPipeError:
            self._unread()

    def _unread(self) -> None:
        """Nobody reads what it tells: it stops, as other programs do then."""
        self.reader_gone = True
        if self.stopped_at is None and self.worker is not None:
            self.stopped_at = self.clock.monotonic()
            self.worker.stop()
