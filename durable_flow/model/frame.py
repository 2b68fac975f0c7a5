"""What is durable about a running execution: frames, transitions, messages.

A frame is a running list of steps: the workflow itself (path ``""``), an iteration of a loop (``orders[3]``) or a
branch of a parallel (``fetch/profile``). Its cursor names the step it is at; a frame whose cursor is not one of its own
steps is over, and the cursor says how: None (it ran to its end), a reserved target, or the id of a step outside.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from durable_flow.model.execution import Action, AnyWait, ErrorInfo, Status

FINISHED = "__FINISHED__"
BREAK = "__BREAK__"
CONTINUE = "__CONTINUE__"
RESERVED_TARGETS = frozenset({FINISHED, BREAK, CONTINUE})

PAUSE = "~pause"
"""Where a pause stands among the waits: the path of no frame."""


class FrameState(StrEnum):
    """`running` frames are driven, `waiting` ones wait for a message, the others are over."""

    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class Beat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last heartbeat of the step at a frame's cursor: when it came (epoch seconds), and what it said.

    `recoveries` are deaths of processes that the row does not count any more, because the heartbeat was committed
    since: that a step still says something is no progress.
    """

    time: float
    details: Any = None
    recoveries: int = 0


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The position of one frame.

    `visit` goes up each time the cursor moves backwards, so (path, step, visit) names a visit of a step once and for
    all without a counter per step: between two backward moves the cursor only goes forward, so no step comes twice.
    `tries` counts the attempts of the step at the cursor that already failed; `first_try` and `due` are epoch seconds:
    when the first of them began, and before when the next must not begin.
    `memo` is what the step at the cursor remembers between commits (a loop's counters).
    `beat` is the last heartbeat of the step at the cursor, of this attempt or of an earlier one.
    `out` is the entry that holds the output of the last step that had one. `settled`: its parent step took note of its
    end.
    """

    path: str = ""
    at: str | None = None
    visit: int = 1
    state: FrameState = FrameState.RUNNING
    tries: int = 0
    first_try: float | None = None
    due: float | None = None
    memo: dict[str, Any] | None = None
    wait: AnyWait | None = None
    beat: Beat | None = None
    out: int | None = None
    error: ErrorInfo | None = None
    settled: bool = False


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An audit entry as it is written. `Entry` is what readers get.

    A value is written once: `same` names the variables whose value is the `output`, `merged` those that were taken
    over from an earlier entry (its seq). `frame` is the frame whose variables changed, `at` its cursor afterwards.
    `null` tells an output that is null from none.
    """

    action: Action
    time: float
    step: str = ""
    path: str = ""
    type: str = ""
    attempt: int = 1
    ms: float | None = None
    input: Any = None
    output: Any = None
    null: bool = False
    frame: str = ""
    at: str | None = None
    same: tuple[str, ...] = ()
    changes: dict[str, Any] | None = None
    merged: dict[str, int] | None = None
    error: ErrorInfo | None = None
    actor: str | None = None
    metadata: dict[str, Any] | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something told to the owner of an execution through its inbox.

    `kind` is answer, timeout, signal, cancel, child, pause, unpause or note. `wait_id` makes it an answer to one wait,
    which it closes by `takes` (1 for one vote, 0 for all of it); `key` makes it unique within its execution.
    """

    kind: str
    execution_id: str
    key: str
    time: float
    wait_id: str | None = None
    takes: int = 0
    actor: str | None = None
    body: dict[str, Any] = {}


class Hold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept with a queue that somebody paused."""

    time: float
    actor: str | None = None
    reason: str | None = None


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One step of an execution from one durable state to the next. It carries only what changed.

    `frame` is the frame afterwards; `sets` are variables (frame path, name, seq of the entry that holds the value; 0 to
    forget it); `dropped` are paths below which all frames and variables go; `status` and the rest change the header.
    """

    record: Record
    frame: Frame | None = None
    others: tuple[Frame, ...] = ()
    sets: tuple[tuple[str, str, int], ...] = ()
    dropped: tuple[str, ...] = ()
    consumed: tuple[int, ...] = ()
    messages: tuple[Message, ...] = ()
    status: Status | None = None
    error: ErrorInfo | None = None
    result: int | None = None
