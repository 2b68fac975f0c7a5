"""What a step type is: the questions the parser, the validator, the diagram, the docs and the engine ask it.

A step type is one class in one file. Its `Config` is a msgspec Struct whose annotations say what each key holds; from
them the parser reads the document, the JSON Schema is generated, and the default answers below are derived:

=================  ==================================================================================================
annotation         the key holds
=================  ==================================================================================================
`Template`         any value, with references in it, resolved when the step runs
`Reference`        one variable path, with or without the dollar
`Condition`        a condition
`Transform`        a pipeline of operations
`Schema`           a JSON Schema
`Duration`         seconds or text such as ``15m``, more than zero; an `Interval` may be zero
`TargetName`       the id of a step, or a reserved target
`VariableName`     the name of a variable the step sets
`Body`             a list of steps
a Struct           a mapping with those keys; one with `shorthand = "key"` may also be written as that key's value, one
                   of an `id` and a `Body` also as a single step; a `Schema` describes the `VariableName` next to it
list[X], X | None  as they say; plain Python types and `Literal` are checked as they are, within `msgspec.Meta` bounds
                   where they are `Annotated`
=================  ==================================================================================================

It runs in one of these ways. An *instant* type computes its outcome at once from the variables (`evaluate`); its
transition may share a commit with what follows. A *working* type does something outside (`run`), is given `timeout` and
`retry`, and starts only when all before it is durable. A *composite* type drives bodies (`run` with `visit.body` and
`visit.group`). One that `performs` does its work in pieces (`run` with `visit.perform`), to each of which `timeout` and
`retry` apply.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import msgspec

from durable_flow.errors import StepError
from durable_flow.expr.condition import Condition
from durable_flow.expr.reference import Reference, Template
from durable_flow.expr.transform import Transform
from durable_flow.limits import Limits
from durable_flow.model.execution import Action, AnyWait, ErrorInfo, Gate
from durable_flow.model.fixture import Fixture
from durable_flow.model.frame import FrameState, Message
from durable_flow.model.workflow import Body, RetryPolicy, StepDef, WorkflowDef

ConfigT = TypeVar("ConfigT", bound=msgspec.Struct)

KEEP: Any = msgspec.UNSET
"""The output of a step that has none: the frame's output stays that of the step before."""


class TargetName(str):
    """The id of a step to go to, or a reserved target."""

    __slots__ = ()


class VariableName(str):
    """The name of a variable."""

    __slots__ = ()


class Duration(float):
    """Seconds, written as a number or as text such as ``30s``, ``15m``, ``PT15M``."""

    __slots__ = ()


class Interval(Duration):
    """A duration that may be zero."""

    __slots__ = ()


class Done(msgspec.Struct, frozen=True):
    """The step completed. `same` are variables that get the output, `changes` others; `next` overrides where it goes.

    `merge` are the keys of bodies whose variables are taken over, in this order (before `same` and `changes`).
    `normal` says that the output is made of values that were stored before.
    `metadata` is kept in the audit entry (tokens, cost, the route that was taken).
    """

    output: Any = KEEP
    same: tuple[str, ...] = ()
    changes: dict[str, Any] | None = None
    next: str | None = None
    merge: tuple[int | str, ...] = ()
    metadata: dict[str, Any] | None = None
    normal: bool = False


class Suspend(msgspec.Struct, frozen=True):
    """The step waits. `needed` is how many answers close the wait (any rejection or timeout closes it too).

    `quietly`: where it waited for the same before, no entry is written that it still does.
    """

    wait: AnyWait
    needed: int = 1
    quietly: bool = False


class Failed(msgspec.Struct, frozen=True):
    """The step failed with an error that came from below (a child frame or a child execution), or that leaves
    something behind: `changes` are variables that the handler finds."""

    error: ErrorInfo
    changes: dict[str, Any] | None = None


Outcome = Done | Suspend | Failed


class Again(msgspec.Struct, frozen=True):
    """What `answered` of a working type gives when its `run` is to be called again."""


class Compensate(msgspec.Struct, frozen=True, kw_only=True):
    """What undoes a step that completed: a call of a service. `input` is resolved when the step completes."""

    service: str
    method: str
    input: Template | None = None


class BodyDef(msgspec.Struct, frozen=True, kw_only=True):
    """A body of a step and how the validator has to see it.

    `key` is the config key it stands in, `name` the key its frames have where the step does not number them, `locals`
    the variables it finds set. `isolated`: no step of it may target one
    outside, or end the workflow. `merges`: what it sets is there after the step; `certain`: the body runs at least once
    whenever the step completes. `loops`: `__BREAK__` and `__CONTINUE__` may be used. `collects`: an error of it is an
    outcome like any other, which counts as failed.
    """

    key: str
    body: Body
    name: str | None = None
    locals: frozenset[str] = frozenset()
    isolated: bool = False
    merges: bool = True
    certain: bool = False
    loops: bool = False
    collects: bool = False


class ChildEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a body ended. `exit` is the target it left by (None: it ran to its end); `error` is set if it failed."""

    key: int | str
    state: FrameState
    exit: str | None = None
    output: Any = None
    error: ErrorInfo | None = None
    breaks: bool = False


class Group(Protocol):
    """Bodies that run side by side; iterating yields their ends as they come."""

    def start(self, key: int | str, body: Body, variables: Mapping[str, Any]) -> None:
        """Starts one body, or takes it up where it stopped."""

    def __aiter__(self) -> AsyncIterator[ChildEnd]: ...

    def cancel(self, reason: str) -> None:
        """Cancels those that still run."""


class Visit(Protocol):
    """What a running step may ask for. It never sees the store or the engine."""

    @property
    def path(self) -> str:
        """The place of this visit, unique in its execution: `orders[3]/charge`, `poll#2`."""

    @property
    def step_id(self) -> str: ...

    @property
    def wait_id(self) -> str:
        """The id a wait of this visit has."""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this visit, whatever crashes in between, and no other visit has it."""

    @property
    def attempt(self) -> int:
        """Counts from 1."""

    @property
    def limits(self) -> Limits: ...

    @property
    def now(self) -> float:
        """Wall-clock seconds."""

    @property
    def memo(self) -> dict[str, Any] | None:
        """What this visit remembered in its last `remember` or `settle`; None on the first run."""

    def lookup(self, root: str) -> Any:
        """A variable or a reserved root; MISSING if there is none."""

    def resolve(self, template: Template | None) -> Any:
        """The template with the variables as they are now; None for None. Values are shared: never change them."""

    def bind(self, variables: Mapping[str, Any]) -> Any:
        """A scope in which these variables shadow the outer ones."""

    def variables(self) -> dict[str, Any]:
        """All variables that can be seen from here."""

    def early_signal(self, name: str) -> tuple[str, Any] | None:
        """Takes the first signal of this name that came before anybody waited for it, as (its key, payload)."""

    @property
    def fixture(self) -> Fixture | None:
        """What stands in for the outside in a dry run; None where nothing was given for this visit."""

    # extensions

    @property
    def resource(self) -> Any:
        """What the `lifespan` of the extension gave that brings this step type; None without one."""

    def extra(self, key: str) -> Any:
        """What the document has under a key of an extension, as `WorkflowDef.extra` does."""

    def emit(self, event: str, data: Any = None) -> None:
        """Tells those who listen now that something happened, which is not durable. Events of this type are declared in
        the extension's `events`; their data have the place of the step, and what is given here under `data`, without
        secrets."""

    # working types

    async def call(self, service: str, method: str, input: Any) -> Any:
        """Calls a registered service with the resolved input. One that is no Template is data, and not resolved."""

    async def reveal(self, **templates: Template | None) -> dict[str, Any]:
        """These templates (without those that are None) resolved for use outside: with the secrets in them. The audit
        entry has them as the input of this attempt, masked, and its output and error are masked as well."""

    def show(self, value: Any) -> None:
        """Puts what this attempt was given into its audit entry. `call` and `reveal` do so by themselves."""

    async def gate(self, resolver: str, params: Template | None) -> tuple[Gate, Any]:
        """What a registered resolver says to the resolved params, and its output."""

    async def child(self, workflow_id: str, input: Any, *, wait: bool, timeout: float | None) -> Any:
        """Starts (or finds) the child execution of this visit and drives it; its result (its id without `wait`)."""

    # types that perform

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
        """Does a piece of the step's work, once: what `work` gives is durable before this returns, and is given again,
        without any work, to whoever asks for the same piece after a crash or a wait. Several may be under way at once.

        A piece is known by its name and number in this visit of its step, so these must not depend on chance. Its path
        is like `support/turn(3)`, and it has the audit entries, events, attempts and idempotency key of a step: `work`
        is called with its Visit, for every attempt, with the `retry` and `timeout` (seconds) of the step unless others
        are given here. It returns a value, or a Done with metadata for the audit entry (tokens, cost).

        A piece that failed for good raises StepError. If the step goes on in spite of that, say that it `may_fail`:
        then its failure is kept like a result, where else a later retry of the execution would do it again.
        """

    # composite types

    def remember(self, memo: dict[str, Any], *, kept: Mapping[str, Any] | None = None) -> None:
        """Makes the memo, and values that are kept until the step ends, durable (with the next commit)."""

    def kept(self, name: str) -> Any:
        """A value given to `remember`."""

    def ended(self) -> Sequence[ChildEnd]:
        """The bodies of this visit that were settled before (a crash or a halt lies between)."""

    async def body(self, key: int | str, body: Body, variables: Mapping[str, Any]) -> ChildEnd:
        """Drives one body to its end, in this task."""

    def group(self) -> AbstractAsyncContextManager[Group]:
        """A group of bodies that run side by side."""

    def begun(self, key: int | str) -> bool:
        """Whether this body was started before."""

    def settle(
        self,
        end: ChildEnd,
        *,
        memo: dict[str, Any] | None = None,
        state: FrameState | None = None,
        variables: Literal["keep", "merge", "drop"] = "keep",
    ) -> None:
        """Records how a body ended, in one transition with the memo and what becomes of the variables it set."""


class StepType(Generic[ConfigT]):
    """Base of every step type; one instance serves all steps of the type, so it keeps nothing."""

    name: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[msgspec.Struct]]

    instant: ClassVar[bool] = False
    works_outside: ClassVar[bool] = False
    reveals: ClassVar[frozenset[str]] = frozenset({"input"})
    """The keys in which `$secrets` may be used, where it works outside or performs: it resolves them with `visit.call`
    or `visit.reveal`."""
    performs: ClassVar[bool] = False
    """Does its work in pieces, with `visit.perform`."""
    ends: ClassVar[bool] = False
    """Never goes to a following step by itself."""
    reaches_next: ClassVar[bool] = True
    can_wait: ClassVar[bool] = False
    decides: ClassVar[bool] = False
    """People decide on it: its outcome is `$approvals.<step id>`."""
    asks: ClassVar[bool] = False
    """Waits for people, or for something outside that may never come."""
    completes_as: ClassVar[Action] = Action.COMPLETED
    """What an audit entry calls its completion."""
    entry: ClassVar[bool] = False
    """Marks the entry: at the top level it may only be the first step."""
    bare: ClassVar[frozenset[str]] = frozenset({"on_timeout"})
    """The keys by whose targets it goes on without having set anything."""

    # -- the definition ------------------------------------------------------------------------------------------------

    def targets(self, config: ConfigT) -> Iterable[tuple[str, str]]:
        """The steps it can lead to besides `next` and `on_error`, as (key, target)."""
        return ((key, value) for key, value in walk(config) if isinstance(value, TargetName))

    def references(self, config: ConfigT) -> Iterable[Reference]:
        """What it reads before it completes, its bodies not included. A condition of a type with bodies sees what they
        find set."""
        seen = frozenset[str]().union(*(body.locals for body in self.bodies(config)))
        undo = self.compensation(config)
        for _, value in walk(config):
            if undo is not None and value is undo.input:
                continue
            if isinstance(value, Reference):
                yield value
            elif isinstance(value, Condition):
                yield from (reference for reference in value.references if reference.root not in seen)
            elif isinstance(value, Template | Transform):
                yield from value.references

    def references_after(self, config: ConfigT) -> Iterable[Reference]:
        """What it reads when it has completed: what it sets is set there."""
        undo = self.compensation(config)
        return () if undo is None or undo.input is None else undo.input.references

    def writes(self, config: ConfigT) -> frozenset[str]:
        """The variables it has set whenever it completes and goes on."""
        return frozenset(str(value) for _, value in walk(config) if isinstance(value, VariableName))

    def bodies(self, config: ConfigT) -> Iterable[BodyDef]:
        """The step lists in it."""
        return ()

    def check(self, config: ConfigT) -> Iterable[tuple[str, str]]:
        """What else is wrong with a config whose keys are right, as (key, message)."""
        return ()

    def at_most_once(self, config: ConfigT) -> bool:
        """Whether an attempt that may have happened must never be repeated by itself."""
        return False

    def heartbeat_timeout(self, config: ConfigT) -> float | None:
        """After how many seconds without a heartbeat an attempt has failed."""
        return None

    def compensation(self, config: ConfigT) -> Compensate | None:
        """What undoes it, if the execution fails or is cancelled after it completed."""
        return None

    def needs(self, config: ConfigT) -> Iterable[tuple[str, str]]:
        """What its host must have for it, as (kind, name): a `service`, a `workflow`, a `gate`."""
        return ()

    def retry_policy(self, config: ConfigT) -> RetryPolicy | None:
        """The retry policy that the type's own keys describe, if it has such keys."""
        return None

    # -- an execution that stands at it --------------------------------------------------------------------------------

    def at_work(
        self, config: ConfigT, memo: Mapping[str, Any] | None, ended: Collection[int | str]
    ) -> Iterable[tuple[int | str, Body]]:
        """The bodies it has under way, by their keys, as what it remembers and the keys of those that `ended` tell."""
        return ()

    def carries_over(self, old: ConfigT, new: ConfigT, *, waits: bool) -> str | None:
        """Why a step that began with one config cannot go on with another, as the end of a sentence about it; None: it
        can. `waits`: it waits for something."""
        if waits and getattr(old, "timeout", None) is not None and getattr(new, "timeout", None) is None:
            return "its timeout was taken away while it waits"
        return None

    # -- running it ----------------------------------------------------------------------------------------------------

    def evaluate(self, visit: Visit, config: ConfigT) -> Outcome:
        """The outcome of an instant step. Raises StepError."""
        raise NotImplementedError(f"step type {self.name!r} is instant but has no evaluate()")

    async def run(self, visit: Visit, config: ConfigT) -> Outcome:
        """The outcome of a working or composite step. Any exception is a step error."""
        raise NotImplementedError(f"step type {self.name!r} has no run()")

    def replaced(self, config: ConfigT, response: Any) -> Outcome:
        """The outcome of a working step that a person answers for, after it failed, or a fixture. Raises StepError."""
        return Done(response, tuple(sorted(self.writes(config))))

    def answered(self, visit: Visit, config: ConfigT, wait: Any, message: Message) -> Outcome | Again:
        """What a message to its wait makes of it: Done, an exception, or a new Suspend with the same wait_id."""
        raise NotImplementedError(f"step type {self.name!r} does not wait")

    # -- rehearsing it -------------------------------------------------------------------------------------------------

    @property
    def takes_fixture(self) -> bool:
        """Whether it gets something from outside, so that in a dry run a fixture can stand in for that."""
        return self.works_outside or self.performs or self.can_wait

    def deed(self, visit: Visit, config: ConfigT) -> tuple[str, Any]:
        """What it would do outside, in a few words, and what it would hand over: a dry run records both."""
        found = {key: visit.resolve(value) for key, value in walk(config) if isinstance(value, Template)}
        return self.name, found or None

    def wrong_fixture(self, config: ConfigT, answer: Any) -> Iterable[str]:
        """What is wrong with an answer that a fixture gives, as messages."""
        return ()

    def rehearse(self, visit: Visit, config: ConfigT) -> Outcome | Again:
        """The outcome in a dry run: nothing is done outside, and nobody is waited for. Raises StepError.

        A working type gets its fixture as if a person answered for it, else null; an instant one that waits is answered
        at once, as `assumed` says. A composite one is asked only where it has a fixture, else it runs as ever.
        """
        given = visit.fixture
        expires = given is not None and given.expires and getattr(config, "timeout", None) is not None
        if given is not None and given.error is not None and not (expires and self.instant):
            raise StepError(given.message, kind=given.error)
        if not self.instant:
            if given is None:
                return Done(None, tuple(sorted(self.writes(config))))
            return self.replaced(config, given.answer)
        outcome: Outcome | Again = self.evaluate(visit, config)
        left = outcome.needed if isinstance(outcome, Suspend) else 0
        while isinstance(outcome, Suspend) and left:
            left -= 1
            wait = outcome.wait
            who, body = (None, {}) if expires else self.assumed(wait, given)
            message = Message(
                kind="timeout" if expires else "answer",
                execution_id=wait.wait_id.rpartition(":")[0],
                key=f"answer:{wait.wait_id}",
                time=visit.now,
                wait_id=wait.wait_id,
                actor=who,
                body=body,
            )
            outcome = self.answered(visit, config, wait, message)
        return outcome

    def assumed(self, wait: Any, fixture: Fixture | None) -> tuple[str | None, dict[str, Any]]:
        """Who answers its wait in a dry run, and the body of that message: what lets it go on."""
        return None, {"response": None if fixture is None else fixture.answer}


def every_step(where: Body | WorkflowDef) -> Iterator[StepDef]:
    """The steps of a body and of all bodies below it; of a workflow those of `finally` too."""
    if isinstance(where, WorkflowDef):
        yield from every_step(where.body)
        if where.finally_ is not None:
            yield from every_step(where.finally_)
        return
    for step in where:
        yield step
        for inner in step.type.bodies(step.config):
            yield from every_step(inner.body)


def decision(fixture: Fixture) -> dict[str, Any]:
    """What a fixture decides, as a mapping with `approved`: it may be written as true or false."""
    answer = fixture.answer
    for message in wrong_decision(answer, optional=answer if isinstance(answer, dict) else ()):
        raise StepError(f"fixture {fixture.key!r}: {message}", kind="FixtureError")
    return answer if isinstance(answer, dict) else {"approved": answer}


def wrong_decision(answer: Any, *, optional: Collection[str]) -> Iterator[str]:
    """What is wrong with a fixture that should say yes or no."""
    if isinstance(answer, bool):
        return
    if not isinstance(answer, dict) or not isinstance(answer.get("approved"), bool):
        yield "must be true or false, or a mapping with 'approved' that is"
    else:
        for name in sorted(answer.keys() - {"approved", *optional}):
            yield f"unknown key {name!r} (there are: {', '.join(['approved', *sorted(optional)])})"


def walk(config: msgspec.Struct, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a config and its nested structs and lists, with its dotted key; bodies are not entered."""
    for field in config.__struct_fields__:
        value = getattr(config, field)
        if value is not None:
            yield from _walk(value, f"{key}.{field}" if key else field)


def _walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Template | Condition | Transform | Reference | Body):
        yield key, value
    elif isinstance(value, msgspec.Struct):
        yield from walk(value, key)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _walk(item, f"{key}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _walk(item, f"{key}.{name}")
    elif value is not None:
        yield key, value
