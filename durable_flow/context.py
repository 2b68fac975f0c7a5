"""What a running step sees: the one implementation of `steps.base.Visit`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio
import anyio.lowlevel
import msgspec

from durable_flow import machine
from durable_flow.clock import Timer, moment
from durable_flow.errors import OutputError, StepError
from durable_flow.expr.reference import MISSING, Reference, Scope, Template
from durable_flow.journal import StepLogger
from durable_flow.limits import Limits
from durable_flow.live import LiveFrame, Run
from durable_flow.model.execution import ErrorInfo, Gate
from durable_flow.model.fixture import Fixture
from durable_flow.model.frame import Beat, FrameState
from durable_flow.model.mask import MASK, redact, secret_texts
from durable_flow.model.value import copy_value, encode, normalise
from durable_flow.model.workflow import Body, RetryPolicy, StepDef
from durable_flow.services import StepContext
from durable_flow.steps.base import KEEP, Again, ChildEnd, Compensate, Outcome, Visit
from durable_flow.transaction import MISUSED, AttemptTransaction

if TYPE_CHECKING:
    from durable_flow.engine import Engine
    from durable_flow.pieces import Pieces

APPROVALS = "approvals."

PACE = 5.0
"""Seconds between two heartbeats that are written."""

DETAILS = 16 * 1024
"""How many bytes the details of a heartbeat have at most: they are written again with every commit of their frame."""

logger = logging.getLogger("durable_flow.step")


class Fatal(Exception):
    """A body failed with an error that nothing may handle."""

    def __init__(self, error: ErrorInfo) -> None:
        self.error = error
        super().__init__(error.text)


class NotBegun(Exception):
    """A step would begin now where it is only asked what had begun."""


class BoundScope:
    """Variables over an outer scope."""

    __slots__ = ("_outer", "_variables")

    def __init__(self, outer: Scope, variables: Mapping[str, Any]) -> None:
        self._outer = outer
        self._variables = variables

    def lookup(self, root: str) -> Any:
        if root in self._variables:
            return self._variables[root]
        return self._outer.lookup(root)


class StepVisit:
    """One visit of one step: the variables it sees, its memory, and the doors to services and bodies."""

    __slots__ = (
        "_engine", "_live", "_run", "_said", "_saved", "_timer", "_told", "alive", "deadline", "heartbeat_timeout",
        "over", "own", "path", "pieces", "played", "scrub", "shown", "step",
    )  # fmt: skip

    def __init__(self, engine: Engine, run: Run, live: LiveFrame, step: StepDef) -> None:
        self._engine = engine
        self._run = run
        self._live = live
        self.step = step
        self.path = live.step_path(step.id)
        self.shown: Any = None
        self.played: dict[str, Any] | None = None
        """In a dry run: what it would have done outside, as its entry says it."""
        self.scrub: tuple[str, ...] = ()
        self.deadline: float | None = None
        self.over = False
        self.heartbeat_timeout = step.type.heartbeat_timeout(step.config) if step.type.works_outside else None
        self.alive = 0.0
        """When a heartbeat came last, by the steady clock."""
        self._said: Any = None
        self._told = False
        self._saved: float | None = None
        self._timer: Timer | None = None
        self.own: AttemptTransaction | None = None
        """The transaction that a service shares with this attempt, once it asked for one."""
        self.pieces: Pieces | None = None

    @property
    def step_id(self) -> str:
        return self.step.id

    @property
    def wait_id(self) -> str:
        return f"{self._run.id}:{self.path}"

    @property
    def idempotency_key(self) -> str:
        return f"{self._run.id}:{self.path}"

    @property
    def attempt(self) -> int:
        return self._live.record.tries + 1

    @property
    def limits(self) -> Limits:
        return self._engine.limits

    @property
    def now(self) -> float:
        return self._engine.clock.now()

    @property
    def memo(self) -> dict[str, Any] | None:
        return self._live.record.memo

    # -- variables -----------------------------------------------------------------------------------------------------

    def lookup(self, root: str) -> Any:
        frame: LiveFrame | None = self._live
        while frame is not None:
            values = frame.values
            if root in values:
                return values[root]
            frame = frame.parent
        return self._root(root)

    def _root(self, root: str) -> Any:
        run = self._run
        match root:
            case "input":
                return run.input
            case "now":
                return moment(self.now)
            case "execution":
                return {
                    "id": run.id,
                    "workflow_id": run.definition.id,
                    "workflow_version": run.definition.version,
                    "parent_id": run.parent_id,
                    "started_at": None if run.info.started_at is None else moment(run.info.started_at),
                    "step_key": self.path,
                }
            case "history":
                return run.history if run.history is not None else []
            case "approvals":
                return {
                    name[len(APPROVALS) :]: value
                    for frame in self._live.chain()
                    for name, value in frame.values.items()
                    if name.startswith(APPROVALS)
                }
            case "secrets":
                return _Masked()
        return MISSING

    def resolve(self, template: Template | None) -> Any:
        return None if template is None else template.resolve(self)

    def bind(self, variables: Mapping[str, Any]) -> BoundScope:
        return BoundScope(self, variables)

    def variables(self) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for frame in self._live.chain():
            seen.update(
                (name, value) for name, value in frame.values.items() if "." not in name and name not in frame.shadows
            )
        return seen

    def early_signal(self, name: str) -> tuple[str, Any] | None:
        return self._run.early_signal(name)

    # -- extensions ----------------------------------------------------------------------------------------------------

    @property
    def resource(self) -> Any:
        engine = self._engine
        owner = engine.language.owners.get(self.step.type.name)
        return None if owner is None else engine.resources.get(owner)

    def extra(self, key: str) -> Any:
        return self._run.definition.extra(key)

    def emit(self, event: str, data: Any = None) -> None:
        engine, run = self._engine, self._run
        problem = engine.language.tells(self.step.type.name, event)
        if problem is not None:
            raise StepError(problem, kind="ConfigError")
        told = normalise(data, limits=engine.limits, what="event")
        if not self.over:
            masks = (*run.masks, *self.scrub)
            engine.tell_of(run, self, event, data=redact(told, masks) if masks else told)

    # -- working steps -------------------------------------------------------------------------------------------------

    async def call(self, service: str, method: str, input: Any) -> Any:
        if self._run.info.dry_run:
            return self._play(f"{service}.{method}", self.resolve(input) if isinstance(input, Template) else input)
        engine = self._engine
        value = None
        if isinstance(input, Template):
            if input.constant:
                self.shown = input.resolve(self)
                value = copy_value(self.shown)
            else:
                value = await self._resolve_input(input)
        elif input is not None:
            value = normalise(input, limits=engine.limits, what="input")
            self.show(value)
        result = normalise(await engine.services.call(service, method, value, self.context), limits=engine.limits)
        return redact(result, self.scrub) if self.scrub else result

    async def reveal(self, **templates: Template | None) -> dict[str, Any]:
        given = {name: template for name, template in templates.items() if template is not None}
        references = [reference for template in given.values() for reference in template.references]
        value = await self._revealed(
            references, lambda scope: {name: template.resolve(scope) for name, template in given.items()}
        )
        return dict(value)

    async def _resolve_input(self, input: Template) -> Any:
        return await self._revealed(input.references, input.resolve)

    async def _revealed(self, references: Iterable[Reference], resolve: Callable[[Scope], Any]) -> Any:
        """The value to call with, decoupled from the variables; what is recorded of it goes to `shown`."""
        engine = self._engine
        secrets: dict[str, Any] = {}
        for reference in references:
            if reference.root == "secrets" and reference.path and not self._run.info.dry_run:
                secrets[reference.path[0]] = await engine.secret(reference.path[0])
        value = resolve(self)
        # What the service gets must not be a variable itself: it may change it.
        shown = normalise(value, limits=engine.limits, what="input")
        if secrets:
            value = normalise(resolve(self.bind({"secrets": secrets})), limits=engine.limits, what="input")
            self.scrub = secret_texts(secrets, secrets)
        else:
            value = shown
        self._show(shown)
        return value

    def show(self, value: Any) -> None:
        shown = normalise(value, limits=self._engine.limits, what="input")
        self._show(redact(shown, self.scrub) if self.scrub else shown)

    def _show(self, value: Any) -> None:
        """Has the entry of this visit say what was handed over."""
        if masks := self._run.masks:
            value = redact(value, masks)
        text = encode(value)
        if len(text) > self._engine.limits.recorded_input_bytes:
            self.shown = {"truncated": True, "bytes": len(text)}
        else:
            self.shown = msgspec.Raw(text.encode())

    # -- dry runs ------------------------------------------------------------------------------------------------------

    @property
    def fixture(self) -> Fixture | None:
        run = self._run
        return run.fixture(self.path, self.step.id) if run.info.dry_run else None

    def has_fixture(self, step: StepDef) -> bool:
        """Whether something stands in for all visits of a step."""
        return self._run.fixture(step.id, step.id) is not None

    def rehearse(self) -> Outcome | Again:
        """The outcome of this step without anything outside; what it would have done is noted."""
        step = self.step
        self._note(*step.type.deed(self, step.config))
        return step.type.rehearse(self, step.config)

    def _play(self, would: str, input: Any) -> Any:
        """What a step gets that asks something outside in a dry run."""
        self._note(would, input)
        given = self.fixture
        if given is not None and given.error is not None:
            raise StepError(given.message, kind=given.error)
        return None if given is None else given.answer

    def _note(self, would: str, input: Any) -> None:
        given, masks = self.fixture, self._run.masks
        self.played = {"dry_run": True, "would": redact(would, masks)}
        if given is not None:
            self.played["fixture"] = given.key
        if input is not None:
            self._show(normalise(input, limits=self._engine.limits, what="input"))

    def context(self) -> StepContext:
        run, beat = self._run, self._live.record.beat
        self._said = None if beat is None else beat.details
        return StepContext(
            execution_id=run.id,
            workflow_id=run.definition.id,
            step_id=self.step.id,
            path=self.path,
            attempt=self.attempt,
            idempotency_key=self.idempotency_key,
            deadline=self.deadline,
            logger=StepLogger(logger, {"execution_id": run.id, "step": self.path}),
            heartbeat_timeout=self.heartbeat_timeout,
            traceparent=run.info.traceparent,
            last_heartbeat=copy_value(self._said),
            _attempt=self,
        )

    def heartbeat(self, details: Any) -> None:
        engine = self._engine
        if self.over:
            return
        if details is not None:
            details = normalise(details, limits=engine.limits, what="details")
            if (size := len(encode(details))) > DETAILS:
                raise OutputError(f"the details of a heartbeat have {size:,} bytes, more than {DETAILS:,}")
            self._said = redact(details, self.scrub) if self.scrub else details
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # in a thread: the loop is told, if it does not know already
            if not self._told:
                self._told = True
                engine.loop.call_soon_threadsafe(self._beat)
        else:
            self._beat()

    def _beat(self) -> None:
        self._told = False
        if self.over:
            return
        engine, run, record = self._engine, self._run, self._live.record
        self.alive = engine.clock.monotonic()
        hidden = max(run.recoveries, run.waited_out) if run.seq == run.taken_over else 0
        run.beat(record, Beat(time=engine.clock.now(), details=self._said, recoveries=hidden))
        if self._timer is None:
            pace = min(PACE, (self.heartbeat_timeout or PACE * 2) / 2)
            left = 0.0 if self._saved is None else self._saved + pace - self.alive
            if left > 0:
                self._timer = engine.clock.call_later(left, self._save)
            else:
                self._save()

    def _save(self) -> None:
        self._timer = None
        self._saved = self._engine.clock.monotonic()
        self._engine.spawn(self._engine.save(self._run))

    def end(self) -> None:
        """The attempt is over: what its service still says has no effect."""
        self.over = True
        if self._timer is not None:
            self._timer.cancel()

    def undo(self, compensate: Compensate, set_now: Mapping[str, Any]) -> dict[str, Any]:
        """What undoes this step, resolved with the variables as they are, and those it has set now."""
        scope = self.bind(set_now) if set_now else self
        given = None if compensate.input is None else compensate.input.resolve(scope)
        given = normalise(given, limits=self._engine.limits, what="compensate.input")
        return {"service": compensate.service, "method": compensate.method, "input": given}

    def transaction(self) -> AttemptTransaction:
        engine, run = self._engine, self._run
        if self.own is None:
            if self.over:
                raise StepError("the attempt of the step is over", kind=MISUSED)
            self.own = AttemptTransaction(
                lambda: engine.store.begin(hold=engine.lease_ttl / 3),
                reserve=lambda: engine.reserve(run),
                free=run.lift_bar,
                loop=engine.loop,
            )
        return self.own

    async def gate(self, resolver: str, params: Template | None) -> tuple[Gate, Any]:
        if self._run.info.dry_run:
            return Gate.APPROVED, self._play(f"gate {resolver}", self.resolve(params))
        engine = self._engine
        value = None
        if params is not None:
            value = await self._resolve_input(params)
        verdict, output = await engine.gates.ask(resolver, value, self.context())
        output = normalise(output, limits=engine.limits)
        return verdict, redact(output, self.scrub) if self.scrub else output

    async def child(self, workflow_id: str, input: Any, *, wait: bool, timeout: float | None) -> Any:
        children = self._engine.children
        timeout = None if self._run.info.dry_run else timeout
        return await children.result(self._run, self._live, self, workflow_id, input, wait=wait, timeout=timeout)

    # -- steps that do their work in pieces ----------------------------------------------------------------------------

    async def perform(
        self,
        name: str,
        work: Callable[[Visit], Awaitable[Any]],
        *,
        number: int = 1,
        input: Any = KEEP,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        may_fail: bool = False,
    ) -> Any:
        if self.pieces is None:
            raise StepError(f"step type {self.step.type.name!r} does not say performs = True", kind="ConfigError")
        return await self.pieces.perform(
            name, work, number=number, input=input, retry=retry, timeout=timeout, may_fail=may_fail
        )

    # -- composite steps -----------------------------------------------------------------------------------------------

    def remember(self, memo: dict[str, Any], *, kept: Mapping[str, Any] | None = None) -> None:
        run, live = self._run, self._live
        if run.sweep is not None:
            raise NotBegun
        if kept:
            kept = {name: self._storable(value) for name, value in kept.items()}
        run.emit(
            machine.remembered(
                live.record, self.step, seq=run.seq + 1, path=self.path, now=self.now, memo=memo, kept=kept
            )
        )
        if kept:
            run.kept[machine.kept_path(self.path)] = dict(kept)

    def _storable(self, value: Any) -> Any:
        limits = self._engine.limits
        if isinstance(value, list):
            return [normalise(item, limits=limits, what="item") for item in value]
        return normalise(value, limits=limits)

    def kept(self, name: str) -> Any:
        return self._run.kept_value(machine.kept_path(self.path), name)

    def frame_path(self, key: int | str) -> str:
        return f"{self.path}[{key}]" if isinstance(key, int) else f"{self.path}/{key}"

    def ended(self) -> Sequence[ChildEnd]:
        run = self._run
        found = [
            ChildEnd(
                key=_key(path, self.path),
                state=frame.state,
                exit=frame.at,
                output=run.output_of(frame),
                error=frame.error,
            )
            for path, frame in run.bodies_of(self.path)
            if frame.settled
        ]
        found.sort(key=lambda end: end.key if isinstance(end.key, int) else 0)
        return found

    def begun(self, key: int | str) -> bool:
        return self.frame_path(key) in self._run.frames

    async def body(self, key: int | str, body: Body, variables: Mapping[str, Any]) -> ChildEnd:
        return _bearable(await self._engine.body(self._run, self.open(key, body, variables), key))

    def open(self, key: int | str, body: Body, variables: Mapping[str, Any]) -> LiveFrame:
        path = self.frame_path(key)
        base = f"{self.path}/" if body.bare else f"{path}/"
        return self._run.open_frame(path, body, self._live, step_path=self.path, base=base, given=variables)

    def group(self) -> BodyGroup:
        return BodyGroup(self._engine, self._run, self)

    def settle(
        self,
        end: ChildEnd,
        *,
        memo: dict[str, Any] | None = None,
        state: FrameState | None = None,
        variables: Literal["keep", "merge", "drop"] = "keep",
    ) -> None:
        run, parent = self._run, self._live
        path = self.frame_path(end.key)
        live = run.lives[path]
        if end.state is FrameState.CANCELLED:
            return
        merged: list[tuple[str, int]] = []
        forgotten: list[str] = []
        if variables != "keep":
            forgotten = list(live.seqs)
            if variables == "merge":
                merged = self.take_over(live, apart_from="break_loop")
            del run.lives[path]
        run.emit(
            machine.settled(
                parent.record,
                live.record,
                self.step,
                seq=run.seq + 1,
                now=self.now,
                memo=memo,
                state=state or end.state,
                merged=merged,
                forgotten=forgotten,
                error=end.error,
            )
        )

    def take_over(self, live: LiveFrame, *, apart_from: str = "") -> list[tuple[str, int]]:
        """Moves what a body set into the frame of this step, in memory; what was moved, as (name, seq)."""
        parent = self._live
        merged: list[tuple[str, int]] = []
        ends_workflow = live.record.at == "__FINISHED__"
        for name, seq in live.seqs.items():
            if name == apart_from or (name in live.shadows and not (ends_workflow and name == "result")):
                continue
            parent.values[name] = live.values[name]
            parent.seqs[name] = seq
            merged.append((name, seq))
        return merged


class BodyGroup:
    """Bodies that run side by side in one task group. See `steps.base.Group`."""

    def __init__(self, engine: Engine, run: Run, visit: StepVisit) -> None:
        self._engine = engine
        self._run = run
        self._visit = visit
        self._ends: asyncio.Queue[ChildEnd | None] = asyncio.Queue()
        self._cancelled = False
        self._running = 0
        self._frames: list[LiveFrame] = []
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._tasks.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # One cause is enough, and callers expect it bare.
            raise first_error(group) from None
        finally:
            while not self._ends.empty():  # nobody asks for these any more: their shares of `active` go with them
                self._ends.get_nowait()
                self._run.active -= 1

    def start(self, key: int | str, body: Body, variables: Mapping[str, Any]) -> None:
        live = self._visit.open(key, body, variables)
        self._frames.append(live)
        self._running += 1
        self._run.active += 1
        self._tasks.start_soon(self._drive, live, key)

    async def _drive(self, live: LiveFrame, key: int | str) -> None:
        end: ChildEnd | None = None
        try:
            end = await self._engine.body(self._run, live, key)
            await self._engine.flush(self._run)
        finally:
            # The task's share of `active` goes to whoever takes the end from the queue. A body that was cancelled after
            # its last step has ended all the same; None stands for one that has not.
            self._ends.put_nowait(end)

    async def __aiter__(self) -> AsyncIterator[ChildEnd]:
        run, engine = self._run, self._engine
        while self._running:
            if self._ends.empty() and not self._cancelled:
                await engine.flush(run)
            if self._ends.empty():
                run.active -= 1
                if run.active == 0 and not self._cancelled:
                    await engine.waits.quiet(run)
                try:
                    # After `cancel` the bodies unwind, and what they had done by then still counts.
                    with anyio.CancelScope(shield=self._cancelled):
                        end = await self._ends.get()
                except asyncio.CancelledError:
                    run.active += 1
                    raise
            else:
                end = self._ends.get_nowait()
                run.active -= 1
            self._running -= 1
            if end is None:
                if not self._cancelled:
                    await anyio.lowlevel.checkpoint()  # the whole run is being unwound, this task with it
                continue
            if end.error is not None and end.error.fatal:
                self.cancel("limit_exceeded")
                raise Fatal(end.error)
            yield end

    def cancel(self, reason: str) -> None:
        self._cancelled = True
        for live in self._frames:
            if live.record.state in (FrameState.RUNNING, FrameState.WAITING):
                live.cut_reason = reason
        self._tasks.cancel_scope.cancel()


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of these errors that is more than a cancellation."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return first_error(error)
        if not isinstance(error, asyncio.CancelledError):
            return error
    return group.exceptions[0]


def _bearable(end: ChildEnd) -> ChildEnd:
    """The end of a body, unless it failed with an error that its step may not handle."""
    if end.error is not None and end.error.fatal:
        raise Fatal(end.error)
    return end


def _key(path: str, step_path: str) -> int | str:
    text = path[len(step_path) + 1 :]
    return int(text[:-1]) if text.endswith("]") else text


class _Masked(dict[str, Any]):
    """`$secrets` where nothing is called: every secret reads as a mask."""

    def get(self, key: str, default: Any = None) -> Any:
        return MASK

    def __missing__(self, key: str) -> Any:
        return MASK


def step_error(error: BaseException) -> tuple[str, str]:
    """The class name and message by which an exception is known to definitions."""
    try:
        message = str(error)
    except Exception as broken:
        message = f"its text cannot be read: {type(broken).__name__}"
    return error.kind if isinstance(error, StepError) else type(error).__name__, message
