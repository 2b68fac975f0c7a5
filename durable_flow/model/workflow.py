"""A parsed definition: what the parser makes of a document and everything else reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from durable_flow.model.codec import encode
from durable_flow.model.frame import FINISHED

if TYPE_CHECKING:
    from durable_flow.expr.reference import Template
    from durable_flow.steps.base import StepType


class Position(msgspec.Struct, frozen=True):
    """Where something stands in its source; lines and columns count from 1, None for definitions given as mappings."""

    line: int | None = None
    column: int | None = None


class InputDef(msgspec.Struct, frozen=True, kw_only=True):
    """One declared input. `schema` is JSON Schema; `secret` values are masked wherever people look."""

    name: str
    type: str = "any"
    required: bool = True
    default: Any = msgspec.UNSET
    description: str = ""
    schema: Any = None
    secret: bool = False


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a failed attempt is tried again. Intervals are seconds; `max_attempts` counts the first try.

    The n-th retry waits `initial_interval * backoff ** (n - 1)`, at most `max_interval`, reduced by up to `jitter`
    (a share of it, 0 to 1). `max_elapsed` bounds the time since the first attempt began. `halts`: when all attempts
    failed, the execution waits for a person instead of failing.
    """

    max_attempts: int = 3
    initial_interval: float = 1.0
    backoff: float = 2.0
    max_interval: float = 60.0
    max_elapsed: float | None = None
    jitter: float = 0.1
    retry_on: tuple[str, ...] = ()
    no_retry_on: tuple[str, ...] = ()
    halts: bool = False


class Concurrency(msgspec.Struct, frozen=True, kw_only=True):
    """How many executions with one `key` may be under way at once, and what becomes of one more: `queue`, `reject`,
    `cancel_running` or `return_existing`."""

    key: Template
    limit: int = 1
    on_conflict: str = "queue"


class StepDef(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `follow` is where it goes when nothing else is said: its `next`, or in a body the following step.
    `compensate` is what undoes it once it has completed, as its type says."""

    id: str
    type: StepType[Any]
    config: Any
    next: str | None = None
    follow: str | None = None
    on_error: str | None = None
    description: str = ""
    timeout: float | None = None
    retry: RetryPolicy | None = None
    position: Position = Position()
    needs_history: bool = False
    at_most_once: bool = False
    compensate: Any = None


class Body:
    """A list of steps with an entry: the workflow's own, a loop's `do`, a branch.

    `bare` is a branch that is a single step: its frame and that step share one path.
    """

    __slots__ = ("bare", "by_id", "first", "order", "steps")

    def __init__(self, steps: Sequence[StepDef], *, bare: bool = False) -> None:
        self.steps = tuple(steps)
        self.by_id = {step.id: step for step in self.steps}
        self.order = {step.id: index for index, step in enumerate(self.steps)}
        self.first = self.steps[0].id
        self.bare = bare

    def __iter__(self) -> Iterator[StepDef]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class ScheduleDef(msgspec.Struct, frozen=True, kw_only=True):
    """When an execution is to start by itself, as the document says; one of `cron` and `every` (seconds) is set.

    `timezone`, `start` and `end` are as written. `input` is a template. `overlap` is what to do while an execution of
    this schedule goes on; `catch_up` which ticks are made up for that came while no worker ran: all, latest, none, or
    those of the last so many seconds.
    """

    id: str
    cron: str | None = None
    every: float | None = None
    timezone: str = "UTC"
    start: str | None = None
    end: str | None = None
    input: Any = None
    overlap: str = "skip"
    catch_up: str | float = "latest"
    queue: str | None = None
    priority: int = 5
    labels: Mapping[str, str] = {}
    description: str = ""

    @property
    def timing(self) -> str:
        """What it says about when, as text."""
        return encode([self.cron, self.every, self.timezone, self.start, self.end])


class WorkflowDef(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A definition, ready to run. `document` is what was written, as plain data, `text` its JSON; `hash` is the SHA-256
    of its canonical JSON form and names it in the store. `fixtures` are for dry runs only, `extras` has what stands
    under the keys of extensions."""

    id: str
    name: str
    body: Body
    document: Mapping[str, Any]
    hash: str
    version: str = "1.0"
    description: str = ""
    timeout: float | None = None
    finally_: Body | None = None
    fixtures: Mapping[str, Any] = {}
    inputs: tuple[InputDef, ...] = ()
    schedules: tuple[ScheduleDef, ...] = ()
    on_error: str | None = None
    concurrency: Concurrency | None = None
    source: str = "<mapping>"
    extras: Mapping[str, Any] = {}

    @property
    def steps(self) -> tuple[StepDef, ...]:
        """The steps of the top level, in document order."""
        return self.body.steps

    def extra(self, key: str) -> Any:
        """What the document has under a key of an extension; empty, or None, if it does not have the key. Raises
        KeyError for a key that no extension has."""
        return self.extras[key]

    @cached_property
    def closing(self) -> Body | None:
        """The steps of `finally` as they run: where one fails the next follows."""
        if self.finally_ is None:
            return None
        return Body([replace(step, on_error=step.on_error or step.follow or FINISHED) for step in self.finally_])

    @cached_property
    def steps_by_id(self) -> Mapping[str, StepDef]:
        """Every step at every depth, those of `finally` included."""
        found: dict[str, StepDef] = {}
        left = [body for body in (self.body, self.finally_) if body is not None]
        while left:
            for step in left.pop():
                found[step.id] = step
                left += [inner.body for inner in step.type.bodies(step.config)]
        return found

    @cached_property
    def text(self) -> str:
        return encode(self.document)

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """The names of the inputs declared `secret`."""
        return tuple(declared.name for declared in self.inputs if declared.secret)
