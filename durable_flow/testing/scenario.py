"""`Scenario`: a workflow with everything around it that a crash test needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from durable_flow import Halt, Runtime, WorkflowDef
from durable_flow.testing.clock import FakeClock


class Answer(msgspec.Struct, frozen=True):
    """Answers a wait with the arguments of `Runner.resume`."""

    arguments: Mapping[str, Any]


class Expire(msgspec.Struct, frozen=True):
    """Lets the deadline of a wait pass, and recovers the execution."""


class Pass(msgspec.Struct, frozen=True):
    """Lets so much time pass, and recovers the execution."""

    seconds: float


class Cancel(msgspec.Struct, frozen=True):
    """Cancels the execution."""

    by: str | None = None


class Send(msgspec.Struct, frozen=True):
    """Sends a signal."""

    name: str
    payload: Any = None


class Pause(msgspec.Struct, frozen=True):
    """Pauses the execution. It goes on waiting for what it waits for, and for the move under ``""``."""

    by: str | None = None


class Unpause(msgspec.Struct, frozen=True):
    """Lets a paused execution go on."""

    by: str | None = None


class Retry(msgspec.Struct, frozen=True):
    """Has a failed step tried again that a person is asked about."""


class Fail(msgspec.Struct, frozen=True):
    """Lets the step fail that a person is asked about."""


class Decide(msgspec.Struct, frozen=True):
    """Does about a step that may have happened what a person does who can look: where the call was made, answers with
    what it gave, else has it made."""


Move = Answer | Expire | Pass | Cancel | Send | Retry | Fail | Decide | Pause | Unpause


def answer(**arguments: Any) -> Answer:
    """What is handed to `Runner.resume`: ``answer(approved=True, by="ann")``."""
    return Answer(arguments)


def no_services(clock: FakeClock) -> Mapping[str, Any]:
    """The services of a workflow that calls none."""
    return {}


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow, its input, its services and the people who answer it.

    `services` is called once for each case, so that nothing is left of the one before; `others` are workflows that are
    started by it. `moves` says what is done about a wait, by the id of its step (``""`` for that of a paused
    execution); a list has one move for each time it is asked, as an approval by two people is. `otherwise` is called
    with a wait that none of them is about, and how often something was done about it before, and says what is done now
    (None: that is too often). `retries` is how often a failed execution is retried by hand, `patience` after how many
    seconds a call that has not returned hangs.

    `racing` are paths of steps whose outcome depends on who comes first (`wait: any`): what is below them may differ
    from run to run, what comes after may not. `beside` are the names of the pieces (`Visit.perform`) that steps do side
    by side; all others are done one after the other. `later` is what processes after the first know under the same id:
    a new version of the definition, of which a running execution must not notice anything. `restart` is how
    the next process takes over: with `Runner.recover`, or by a `run` with the same id; with `background` each process,
    the first one too, starts it by a `BackgroundRunner` and waits for it, which takes a `worker`. `epilogue` is called
    at the end, possibly more than once. `gates` are made for each case like services; with `worker` one works in each
    process. `dry_run`: it is one, and none of its services is called.

    With a `queue`, of which only an `Interleaver` knows, `many` executions are put into it by a `BackgroundRunner`, of
    which so many may be under way at once as its `limit` says.
    """

    name: str
    workflow: WorkflowDef
    input: Mapping[str, Any] = {}
    services: Callable[[FakeClock], Mapping[str, Any]] = no_services
    others: Sequence[WorkflowDef] = ()
    moves: Mapping[str, Move | Sequence[Move]] = {}
    otherwise: Callable[[Halt, int], Move | None] | None = None
    retries: int = 0
    patience: float = 600.0
    racing: Sequence[str] = ()
    beside: Sequence[str] = ()
    later: WorkflowDef | None = None
    restart: Literal["recover", "run", "background"] = "recover"
    epilogue: Callable[[Runtime, str], Awaitable[None]] | None = None
    options: Mapping[str, Any] = {}
    gates: Callable[[FakeClock], Mapping[str, Any]] = no_services
    worker: bool = False
    dry_run: bool = False
    queue: str | None = None
    limit: int = 1
    many: int = 1
    execution_id: str = "x"
