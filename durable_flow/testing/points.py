"""Points: the numbered places at which an execution touches the outside, and the faults that can be planted there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from enum import StrEnum

import anyio.lowlevel
import msgspec

from durable_flow import Clock, StoreUnavailable, SystemClock


class Killed(BaseException):
    """The process is dead. Not an Exception: nothing may handle it, as nothing handles a SIGKILL."""


class Mode(StrEnum):
    """What happens at a point.

    *kill*: the process dies before the operation, or after it and before it sees the answer. *error*: the operation
    fails and did not happen, or happened and its answer is lost; *error-late* (commits only) happens after the first
    attempt to find out whether it did. *cancel*, *scope*, *both*: the caller's task is cancelled, the anyio scope
    around it, or both at once.

    *duplicate*: a change arrives at the store twice, as a request does whose sender did not wait for the answer; the
    first answer counts. *delay*: the answer comes late, after others could go on. *stall*: the network is gone, with
    this operation not done or done; it and everything after it is given no answer, which a store reports after a while.
    """

    KILL_BEFORE = "kill-before"
    KILL_AFTER = "kill-after"
    ERROR_BEFORE = "error-before"
    ERROR_AFTER = "error-after"
    ERROR_LATE = "error-late"
    CANCEL_BEFORE = "cancel-before"
    CANCEL_AFTER = "cancel-after"
    SCOPE_BEFORE = "scope-before"
    SCOPE_AFTER = "scope-after"
    BOTH_BEFORE = "both-before"
    BOTH_AFTER = "both-after"
    DUPLICATE = "duplicate"
    DELAY = "delay"
    STALL_BEFORE = "stall-before"
    STALL_AFTER = "stall-after"

    @property
    def kind(self) -> str:
        """kill, error, cancel, scope, both, duplicate, delay or stall."""
        return self.value.partition("-")[0]

    @property
    def before(self) -> bool:
        """Whether it comes before the operation is done."""
        return self.value.endswith("before")

    def fits(self, point: Point) -> bool:
        """Whether it can happen at a point."""
        match self:
            case Mode.ERROR_LATE:
                return point.name in ("commit", "tx commit")
            case Mode.DUPLICATE:
                return point.kind == "store" and point.name not in READS | WITHIN
            case Mode.STALL_BEFORE | Mode.STALL_AFTER:
                return point.kind == "store"
            case _:
                return True


READS = frozenset({"mail", "inbox", "row", "fetch", "read", "search", "definition"})
"""The operations of a store that change nothing."""

WITHIN = frozenset({"tx execute", "tx executemany", "tx fetch", "tx ready", "tx commit"})
"""What happens in the transaction of a service: it has a connection of its own, on which nothing arrives twice."""

KILLS = (Mode.KILL_BEFORE, Mode.KILL_AFTER)
ERRORS = (Mode.ERROR_BEFORE, Mode.ERROR_AFTER, Mode.ERROR_LATE)
CANCELS = (
    Mode.CANCEL_BEFORE,
    Mode.CANCEL_AFTER,
    Mode.SCOPE_BEFORE,
    Mode.SCOPE_AFTER,
    Mode.BOTH_BEFORE,
    Mode.BOTH_AFTER,
)
NETWORK = (Mode.DUPLICATE, Mode.DELAY, Mode.STALL_BEFORE, Mode.STALL_AFTER)

LATE = 0.04
"""Seconds by which an answer is delayed."""

UNANSWERED = 10.0
"""Seconds after which a store reports that it has no answer."""

Life = Mapping[int, Mode]
"""The faults of one process: at which of its points which one."""


class Plan(msgspec.Struct, frozen=True):
    """The faults of one case. `lives` has those of each process in turn; later ones have none.

    `turns` instead counts rounds of the event loop of the first process: with them a task can be cancelled at every
    await, not only where it touches the outside.

    >>> Plan.parse("7 kill-after; 3 error-before")
    Plan(lives=({7: <Mode.KILL_AFTER: 'kill-after'>}, {3: <Mode.ERROR_BEFORE: 'error-before'>}), turns={})
    >>> str(Plan.parse("3 error-before, 9 kill-before; 2 kill-after"))
    '3 error-before, 9 kill-before; 2 kill-after'
    >>> str(Plan.parse("turn 12 cancel-before"))
    'turn 12 cancel-before'
    """

    lives: tuple[Life, ...] = ()
    turns: Life = {}

    @classmethod
    def parse(cls, text: str) -> Plan:
        """The plan that `str` gave. Raises ValueError."""
        lives: list[dict[int, Mode]] = []
        turns: dict[int, Mode] = {}
        for part in text.split(";"):
            life: dict[int, Mode] = {}
            for fault in filter(None, (piece.strip() for piece in part.split(","))):
                found = re.fullmatch(r"(turn )?(\d+) (\S+)", fault)
                if found is None:
                    raise ValueError(f"{fault!r} is not a fault; write for example '7 kill-after'")
                (turns if found[1] else life)[int(found[2])] = Mode(found[3])
            lives.append(life)
        while lives and not lives[-1]:
            lives.pop()
        return cls(tuple(lives), turns)

    def __str__(self) -> str:
        told = "; ".join(", ".join(f"{k} {mode}" for k, mode in sorted(life.items())) for life in self.lives)
        turned = ", ".join(f"turn {turn} {mode}" for turn, mode in sorted(self.turns.items()))
        return ", ".join(filter(None, (turned, told))) or "no fault"

    def __len__(self) -> int:
        return sum(map(len, self.lives)) + len(self.turns)


class Point(msgspec.Struct):
    """One operation: `number` counts within its process, `kind` is store, effect or secret, `name` the operation,
    `where` what it was about."""

    number: int
    kind: str
    name: str
    where: str
    mode: Mode | None = None

    @property
    def site(self) -> str:
        """The place in the program rather than in this run: iterations and visits are left out."""
        where = re.sub(r"\[\d+\]|#\d+", "", self.where)
        return f"{self.name} {where}".strip()

    def __str__(self) -> str:
        mark = f"   <-- {self.mode}" if self.mode is not None else ""
        return f"{self.number:4d} {self.kind:6} {self.name:12} {self.where}{mark}"


class Gate:
    """What every operation of one process passes. It counts them, and does what the plan says.

    After a kill everything that comes to the gate is told `Killed`, so that no `except` or `finally` can write what a
    dead process could not have written. With `guard=False` only the first is told (to show what that is good for).
    """

    def __init__(self, faults: Life, *, guard: bool = True, clock: Clock | None = None) -> None:
        self.faults = faults
        self.clock = clock or SystemClock()
        self.guard = guard
        self.dead = False
        self.stalled = False
        """Whether the network is gone: no operation on the store reaches it, or gives an answer."""
        self.points: list[Point] = []
        self.cancel: Callable[[str], bool] = lambda kind: False
        self.on_kill: list[Callable[[], None]] = []
        self.met: list[Point] = []

    def enter(self, kind: str, name: str, where: str) -> Point:
        """Numbers an operation. Raises Killed where the process is dead."""
        self.check()
        point = Point(len(self.points) + 1, kind, name, where)
        self.points.append(point)
        mode = self.faults.get(point.number)
        if mode is not None and mode.fits(point) and not self.stalled:
            point.mode = mode
            self.met.append(point)
        return point

    def check(self) -> None:
        """Raises Killed where the process is dead."""
        if self.dead and self.guard:
            raise Killed

    def kill(self) -> None:
        """The process dies here."""
        self.dead = True
        for told in self.on_kill:
            told()
        raise Killed

    async def before(self, point: Point) -> None:
        """What happens before the operation."""
        self.start(point)
        if point.mode is not None and point.mode.before and point.mode.kind in INTERRUPTIONS:
            await anyio.lowlevel.checkpoint()
        await self.silence(point)

    async def after(self, point: Point) -> None:
        """What happens after the operation."""
        if point.mode is Mode.DELAY:
            await self.clock.sleep(LATE)
        self.end(point)
        if point.mode is not None and not point.mode.before and point.mode.kind in INTERRUPTIONS:
            await anyio.lowlevel.checkpoint()
        await self.silence(point)

    async def silence(self, point: Point) -> None:
        """Where the network is gone, waits for an answer that never comes. Raises StoreUnavailable."""
        if self.stalled and point.kind == "store":
            await self.clock.sleep(UNANSWERED)
            self.check()
            raise StoreUnavailable(f"no answer at point {point.number}")

    def start(self, point: Point) -> None:
        """`before` for an operation that starts at once."""
        if point.mode is not None and point.mode.before:
            self._do(point)

    def end(self, point: Point) -> None:
        """`after` where nobody can be interrupted."""
        self.check()
        if point.mode is not None and not point.mode.before:
            self._do(point)

    def _do(self, point: Point) -> None:
        assert point.mode is not None
        match point.mode.kind:
            case "kill":
                self.kill()
            case "error" if point.kind == "store":
                raise StoreUnavailable(f"injected at point {point.number}")
            case "error":
                raise ConnectionError(f"injected at point {point.number}")
            case "stall":
                self.stalled = True
            case "cancel" | "scope" | "both" as kind:
                self.cancel(kind)
            case _:  # what arrives twice or late is a matter of who does the operation
                return


INTERRUPTIONS = ("cancel", "scope", "both")


def first_error(error: BaseException) -> BaseException:
    """The cause in a group of exceptions: a kill before anything else, a cancellation last."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [first_error(inner) for inner in error.exceptions]
    causes.sort(key=lambda cause: (not isinstance(cause, Killed), isinstance(cause, asyncio.CancelledError)))
    return causes[0]
