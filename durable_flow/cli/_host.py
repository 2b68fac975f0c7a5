"""What a command works with: the store, and where it drives executions, services and workflows too."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._codec import codec_here
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._hints import Hints
from durable_flow.cli._mistake import Mistake
from durable_flow.cli._options import definition_files, places_options, store_option
from durable_flow.cli._services import load_gates, load_services, missing_gates, missing_services
from durable_flow.cli._url import shown
from durable_flow.cli._watch import Watch

Function = TypeVar("Function", bound=Callable[..., Any])
Drive = Callable[[df.Runtime], Awaitable[df.ExecutionResult]]

POLL = 0.1
"""Seconds between two looks at children that go on after the execution that was asked for."""

MEMORY = "sqlite://:memory:"
OWN_SCHEMES = ("sqlite", "postgresql", "postgres", "redis", "rediss", "unix")
"""The stores that durable_flow brings."""

CREATED = "name it with --store or $DURABLE_FLOW_STORE; 'run' creates one"

INTERRUPTED = 130
TERMINATED = 143
WAITING = 3

EXIT_CODES: Mapping[df.Status, int] = {
    df.Status.COMPLETED: 0,
    df.Status.FAILED: 1,
    df.Status.CANCELLED: 1,
    df.Status.HALTED: WAITING,
    df.Status.RUNNING: WAITING,
    df.Status.PENDING: WAITING,
}


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The options a command that drives executions was given."""

    store: str
    services: tuple[str, ...]
    gates: tuple[str, ...] = ()
    workflows: tuple[Path, ...]
    secrets: tuple[str, ...]
    quiet: bool = False


def host_options(function: Function) -> Function:
    """Adds the options of a Host, and hands it over as `host`."""
    return click.option("-q", "--quiet", is_flag=True, help="Do not show the steps while they run.")(
        working_options(function)
    )


def working_options(function: Function) -> Function:
    """`host_options` for a command that shows no steps."""

    @click.option(
        "--secret",
        "secrets",
        multiple=True,
        metavar="NAME",
        help="An environment variable that the workflow may read as $secrets.NAME. May be repeated.",
    )
    @places_options(
        services="Where services come from: a module or a .py file, and a name in it. May be repeated.",
        gates="Where the resolvers of gates come from, like --services: a mapping, named gates by default.",
    )
    @store_option
    @functools.wraps(function)
    def with_host(
        *,
        store: str,
        services: tuple[str, ...],
        gates: tuple[str, ...],
        workflows: tuple[Path, ...],
        secrets: tuple[str, ...],
        quiet: bool = False,
        **options: Any,
    ) -> Any:
        host = Host(store=store, services=services, gates=gates, workflows=workflows, secrets=secrets, quiet=quiet)
        return function(host=host, **options)

    return with_host  # type: ignore[return-value]


class Missing(Mistake):
    """There is no store at a URL, or one that has an older schema: nothing was opened."""

    def __init__(self, url: str, found: int, current: int, *, migrate: str) -> None:
        self.found = found
        self.current = current
        if found:
            super().__init__(
                f"{shown(url)} has version {found} of the schema, this release of durable-flow needs {current}",
                hint=f"'{migrate}' migrates it",
                kind="StoreOutdated",
            )
        else:
            super().__init__(f"there is no store at {shown(url)}", hint=CREATED, kind="StoreNotFound")


def store_at(url: str, *, codec: df.Codec | None = None, creates: bool) -> df.Store:
    """The store, not yet open. One that `creates` nothing needs one that is there (Mistake), as `opened` says too."""
    if creates:
        return df.open_store(url, codec=codec)
    require_store(url)
    # A store that somebody else brings need not know of the option.
    options: dict[str, Any] = {"auto_migrate": False} if url.partition(":")[0] in OWN_SCHEMES else {}
    return df.open_store(url, codec=codec, **options)


@contextlib.asynccontextmanager
async def opened(store: df.Store, url: str, *, creates: bool) -> AsyncIterator[df.Store]:
    """The store, open. Raises Missing where it is not there, or is older, and may be neither created nor migrated."""
    try:
        await store.open()
    except df.StoreUnavailable:
        raise
    except df.StoreError as error:
        found, current = store.versions
        if found < current and not creates:
            raise Missing(url, found, current, migrate=Hints.here().look("migrate")) from error
        raise
    try:
        yield store
    finally:
        await store.close()


def require_store(url: str) -> None:
    """Raises Mistake if there is no store at this URL."""
    if url == MEMORY:
        raise Mistake("a store in memory is empty for every new command", hint=CREATED, kind="StoreNotFound")
    scheme, _, path = url.partition(":///")
    if scheme == "sqlite" and path and not Path(path).is_file():
        raise Mistake(f"there is no store at {url}", hint=CREATED, kind="StoreNotFound")


def read(url: str, work: Callable[[df.Store], Awaitable[int]]) -> int:
    """Runs `work` with a store that must be there."""
    require_store(url)
    with contextlib.redirect_stdout(sys.stderr):
        codec = codec_here()

    async def main() -> int:
        async with opened(store_at(url, codec=codec, creates=False), url, creates=False) as store:
            return await work(store)

    return asyncio.run(main())


async def found(store: df.Store, execution_id: str) -> df.Execution:
    """The execution. Raises ExecutionNotFound."""
    one = await store.load(execution_id)
    if one is None:
        raise df.ExecutionNotFound(execution_id)
    return one


def drive(
    host: Host,
    work: Drive,
    *,
    as_json: bool,
    workflow: df.WorkflowDef | None = None,
    execution_id: str | None = None,
    runs_steps: bool = True,
    success: df.Status | tuple[df.Status, ...] = df.Status.COMPLETED,
    like: str | None = None,
    watches: bool = False,
) -> int:
    """Opens a runtime, lets `work` drive an execution in it with its progress shown, and tells what became of it.

    `workflow` is given by a command that starts an execution, `execution_id` by one that goes on with one, and `like`
    by one that starts another with the definition of an execution. One that `watches` goes on while it waits. What
    services print goes to standard error. An interruption leaves the execution where it can be recovered.
    """
    return _Drive(host, work, as_json, workflow, execution_id, runs_steps, success, like, watches).run()


def answer(
    host: Host,
    do: Callable[[df.Runner | df.BackgroundRunner], Awaitable[object]],
    *,
    leave: bool,
    as_json: bool,
    execution_id: str,
    success: df.Status = df.Status.COMPLETED,
) -> int:
    """Has an execution told something by a runner, and drives it on, or leaves that to workers; tells how it stands."""

    async def work(runtime: df.Runtime) -> df.ExecutionResult:
        runner = await runtime.runner_of(execution_id)
        done = await do(await runtime.background_of(execution_id) if leave else runner)
        if isinstance(done, df.ExecutionResult):
            return done
        result = await runner.result(execution_id)
        # What was answered is still open for as long as no worker has read it: nobody is to answer it again.
        return msgspec.structs.replace(result, halts=[]) if leave else result

    ends = tuple(df.Status) if leave else success
    return drive(host, work, as_json=as_json, execution_id=execution_id, runs_steps=not leave, success=ends)


class _Drive:
    def __init__(
        self,
        host: Host,
        work: Drive,
        as_json: bool,
        workflow: df.WorkflowDef | None,
        execution_id: str | None,
        runs_steps: bool,
        success: df.Status | tuple[df.Status, ...],
        like: str | None,
        watches: bool,
    ) -> None:
        self.host = host
        self.work = work
        self.as_json = as_json
        self.workflow = workflow
        self.execution_id = execution_id
        self.like = like
        self.watches = watches
        self.runs_steps = runs_steps
        self.success = success if isinstance(success, tuple) else (success,)
        self.hints = Hints.here()
        self.codec: df.Codec | None = None
        self.terminated = False
        self.orphans: list[str] = []

    def run(self) -> int:
        clock = df.SystemClock()
        begun = clock.monotonic()
        try:
            with contextlib.redirect_stdout(sys.stderr):
                self.codec = codec_here()
                services = load_services(self.host.services)
                gates = load_gates(self.host.gates)
                definitions = definition_files(self.host.workflows)
                secrets = dict(named_secrets(self.host.secrets))
                result, workflow_id, asked = asyncio.run(self._main(services, gates, definitions, secrets))
        except (KeyboardInterrupt, asyncio.CancelledError):
            return self._interrupted()
        self._tell(result, workflow_id, asked, clock.monotonic() - begun)
        return 0 if result.status in self.success else EXIT_CODES[result.status]

    async def _main(
        self,
        services: Mapping[str, Any],
        gates: Mapping[str, Any],
        definitions: list[Path],
        secrets: Mapping[str, str],
    ) -> tuple[df.ExecutionResult, str, list[_render.Asked]]:
        creates = self.workflow is not None
        store = store_at(self.host.store, codec=self.codec, creates=creates)
        runtime = df.Runtime(
            store, workflows=definitions, services=services, gates=gates, secrets=secrets, extensions=extensions_here()
        )
        progress = _render.progress(quiet=self.host.quiet or self.as_json)
        watch = Watch(progress, self.execution_id)
        try:
            async with opened(store, self.host.store, creates=creates), runtime, self._stops_on_sigterm():
                if self.runs_steps:
                    await self._check_services(runtime, services, gates)
                deaf = runtime.subscribe(watch.hear)
                try:
                    result = await self.work(runtime)
                    if self.watches and not result.status.over:
                        deaf()  # from now on its trail tells, wherever it is driven
                        result = await watch.follow(runtime, result, self.hints)
                finally:
                    self.execution_id = watch.execution_id
                workflow_id = (await runtime.runner_of(result.execution_id)).workflow.id
                answers = await self.hints.answers(result, runtime.store)
                await _until_settled(runtime.store, watch.driven)
                self.orphans = await _orphans(runtime.store, result.execution_id)
        finally:
            progress.close()
        asked = [_render.Asked(halt, answers[halt.wait_id]) for halt in result.halts]
        return result, workflow_id, asked

    async def _check_services(self, runtime: df.Runtime, services: Mapping[str, Any], gates: Mapping[str, Any]) -> None:
        """Refuses to drive without the services it takes, before anything happens. Where another process drives the
        execution, they are its business."""
        workflow = self.workflow
        if self.like is not None:
            workflow = (await runtime.runner_of((await found(runtime.store, self.like)).id)).workflow
        elif workflow is None and self.execution_id is not None:
            one = await found(runtime.store, self.execution_id)
            expires = one.lease_until
            if one.owner is not None and expires is not None and expires.timestamp() > df.SystemClock().now():
                return
            workflow = (await runtime.runner_of(one.id)).workflow
        if workflow is None:
            return
        missing = missing_services(workflow, services)
        if missing:
            names = ", ".join(repr(name) for name in missing)
            what = f"calls the service {names}" if len(missing) == 1 else f"calls the services {names}"
            there = f" (--services brings {', '.join(sorted(services)) or 'none'})" if self.host.services else ""
            raise Mistake(
                f"workflow {workflow.id!r} {what}, which nothing provides{there}",
                hint="nothing was done; say where services come from with --services MODULE or $DURABLE_FLOW_SERVICES"
                + (", or leave it to workers with --leave" if "leave" in click.get_current_context().params else ""),
                kind="ConfigError",
            )
        unknown = missing_gates(workflow, gates)
        if unknown:
            raise Mistake(
                f"workflow {workflow.id!r} asks the gate{'s' * (len(unknown) > 1)} "
                f"{', '.join(repr(name) for name in unknown)}, which nothing provides",
                hint="nothing was done; say where gates come from with --gates MODULE or $DURABLE_FLOW_GATES",
                kind="ConfigError",
            )

    @contextlib.asynccontextmanager
    async def _stops_on_sigterm(self) -> AsyncIterator[None]:
        """SIGTERM is an interruption, too: the lease is given back, so that somebody else can go on at once."""
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        if task is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop() -> None:
            self.terminated = True
            task.cancel()

        loop.add_signal_handler(signal.SIGTERM, stop)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    def _tell(self, result: df.ExecutionResult, workflow_id: str, asked: list[_render.Asked], seconds: float) -> None:
        if self.as_json:
            _render.document(
                {
                    "execution_id": result.execution_id,
                    "workflow_id": workflow_id,
                    "status": result.status,
                    "output": result.output,
                    "error": result.error,
                    "error_info": result.error_info,
                    "compensated": result.compensated,
                    "dry_run": result.dry_run,
                    "halts": [{**msgspec.to_builtins(one.halt), "commands": one.commands} for one in asked],
                }
            )
            return
        following = []
        if result.failed and not self._in_memory:
            following = [self.hints.look("show", result.execution_id)]
            if not result.compensated:
                following.insert(0, self.hints.drive("retry", result.execution_id))
        if result.halted and self._in_memory:
            asked = [_render.Asked(one.halt, ()) for one in asked]
        _render.outcome(result, workflow_id=workflow_id, seconds=seconds, asked=asked, next_commands=following)
        for child in self.orphans:
            _render.note(
                f"child execution {child} has begun and nobody drives it: {self.hints.drive('recover', child)}"
            )
        if result.halted and self._in_memory:
            _render.note("the store was in memory: this execution is gone. Give --store to be able to answer")

    @property
    def _in_memory(self) -> bool:
        return self.host.store == MEMORY

    def _interrupted(self) -> int:
        code = TERMINATED if self.terminated else INTERRUPTED
        said = "terminated" if self.terminated else "interrupted"
        execution_id = self.execution_id
        command = None
        if execution_id is None:
            hint = "nothing was started"
        elif self._in_memory:
            hint = "the store was in memory: nothing is left of the execution"
        else:
            hint, command = asyncio.run(self._standing(execution_id))
        _render.failure(said, hint=hint, command=command)
        if self.as_json:
            error = {"type": "Interrupted", "message": said, "hint": hint, "command": command}
            _render.document({"error": error, "execution_id": execution_id})
        return leave(code)

    async def _standing(self, execution_id: str) -> tuple[str, str | None]:
        """Where an interrupted execution stands, and the command that makes it go on."""
        async with df.open_store(self.host.store, codec=self.codec) as store:
            one = await store.load(execution_id)
        if one is None:
            return "nothing was started", None
        if one.status.over:
            return f"execution {execution_id} is {one.status}", self.hints.look("show", execution_id)
        if one.owner is not None:
            return f"execution {execution_id} goes on elsewhere, driven by {one.owner}", None
        if one.status is df.Status.HALTED and one.blocked_on and not any(wait.outside for wait in one.blocked_on):
            return f"execution {execution_id} goes on when its time has come, in a worker", self.hints.drive("worker")
        if one.status is df.Status.HALTED:
            return f"execution {execution_id} waits for an answer", self.hints.look("why", execution_id)
        return f"execution {execution_id} stopped where it was; go on with", self.hints.drive("recover", execution_id)


def leave(code: int) -> int:
    """The exit code of a process that was stopped; it ends here and now where a thread would keep it from ending.

    A service that runs in a thread cannot be stopped: its step runs again when the execution is recovered, as after any
    crash.
    """
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


async def _until_settled(store: df.Store, driven: set[str]) -> None:
    """Returns when no execution goes on in this process: children that nobody waits for are given their time, too."""
    clock = df.SystemClock()
    unowned: set[str] = set()
    while driven:
        for execution_id in list(driven):
            one = await store.load(execution_id)
            going = one is not None and not one.status.over and one.status is not df.Status.HALTED
            if not going or (one is not None and one.owner is None and execution_id in unowned):
                driven.discard(execution_id)
            elif one is not None and one.owner is None:
                unowned.add(execution_id)
        if driven:
            await clock.sleep(POLL)


async def _orphans(store: df.Store, execution_id: str) -> list[str]:
    """Children that their parent does not wait for, and that nobody drives."""
    children = await store.find(parent_id=execution_id, status=[df.Status.PENDING, df.Status.RUNNING])
    return [child.id for child in children if child.owner is None]


def named_secrets(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in names:
        value = os.environ.get(name)
        if value is None:
            raise Mistake(f"--secret {name}: there is no environment variable {name!r}", kind="ConfigError")
        yield name, value
