"""Real processes, as those who start them see them: what became of them, what they printed, and a sure end."""

from __future__ import annotations

import asyncio
import atexit
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from durable_flow.testing import wait_until

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which what a process should have done is not expected any more."""

TAIL = 1500
"""How much of what a process printed is told."""

ROOT = Path(__file__).resolve().parents[2]


class Trouble(AssertionError):
    """Something did not hold; the message has what each process printed."""


async def all_of(cases: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What they give, side by side, each to its end. Raises Trouble with all that went wrong."""
    outcomes = await asyncio.gather(*cases, return_exceptions=True)
    wrong = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if wrong:
        told = "\n".join(str(error) if isinstance(error, Trouble) else repr(error) for error in wrong[:5])
        raise Trouble(f"{len(wrong)} of {len(outcomes)}: {told}") from wrong[0]
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


class Hand:
    """A process."""

    def __init__(self, name: str, log: Path) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.log = log
        self.started: asyncio.Future[int] = loop.create_future()
        self.over: asyncio.Future[int] = loop.create_future()
        self.halted = asyncio.Event()

    @property
    def pid(self) -> int:
        return self.started.result()

    @property
    def running(self) -> bool:
        return not self.over.done()

    def signal(self, number: signal.Signals) -> None:
        if number == signal.SIGCONT:
            self.halted.clear()
        os.kill(self.pid, number)

    async def stopped(self) -> None:
        """Returns when a signal has stopped it. Raises AssertionError where it ends instead."""
        try:
            await wait_until(lambda: self.halted.is_set() or not self.running, timeout=PATIENCE)
        except TimeoutError:
            raise AssertionError(f"{self.name} was not stopped within {PATIENCE:g} s") from None
        assert self.halted.is_set(), f"{self.name} ended with {self.over.result()} and was to be stopped"

    async def ended(self, *, within: float = PATIENCE) -> int:
        """Its exit code; below zero the signal that ended it."""
        try:
            return await asyncio.wait_for(asyncio.shield(self.over), within)
        except TimeoutError:
            raise AssertionError(f"{self.name} did not end within {within:g} s") from None

    async def done(self) -> None:
        """Returns when it has ended in good order."""
        code = await self.ended()
        assert code == 0, f"{self.name} ended with {code}"

    @property
    def printed(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def __str__(self) -> str:
        if not self.started.done():
            how = "did not start"
        elif self.running:
            how = f"process {self.pid}, stopped" if self.halted.is_set() else f"process {self.pid}, runs"
        else:
            how = f"process {self.pid}, ended with {self.over.result()}"
        return f"--- {self.name} ({how}) printed:\n{self.printed[-TAIL:].strip() or 'nothing'}"


class Forks:
    """The program that everything is forked off. It ends with this process, and takes all that it started along."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.forks"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.orders, self.told = self.process.stdin, self.process.stdout
        assert self.told.readline(), "the program that forks did not start"
        os.set_blocking(self.told.fileno(), False)
        self.numbers = itertools.count()
        self.said = b""
        atexit.register(self.close)

    def close(self) -> None:
        self.orders.close()
        self.process.wait()
        self.told.close()


@functools.cache
def forks() -> Forks:
    return Forks()


class Crew:
    """Starts processes, each forked off one that has everything imported already; all of them end with the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hands: dict[int, Hand] = {}

    async def __aenter__(self) -> Self:
        self._forks = await asyncio.to_thread(forks)
        asyncio.get_running_loop().add_reader(self._forks.told, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._end(self.hands.values())
        finally:
            asyncio.get_running_loop().remove_reader(self._forks.told)

    async def _end(self, hands: Iterable[Hand]) -> None:
        ends = []
        for hand in hands:
            if hand.running:
                ends.append(hand.over)
                if hand.started.done():
                    with suppress(ProcessLookupError):
                        os.killpg(hand.pid, signal.SIGKILL)
        if ends:
            await asyncio.wait(ends, timeout=PATIENCE)

    async def start(
        self, call: Callable[..., object], /, *, name: str | None = None, folder: Path | None = None, **given: Any
    ) -> Hand:
        """Runs a function of a module (plain or async) in a process of its own, with arguments that JSON can say."""
        number = next(self._forks.numbers)
        hand = self.hands[number] = Hand(name or call.__name__, self.folder / f"{number}.log")
        order = {
            "number": number,
            "call": f"{call.__module__}:{call.__name__}",
            "given": given,
            "log": str(hand.log),
            "folder": None if folder is None else str(folder),
        }
        self._forks.orders.write(json.dumps(order).encode() + b"\n")
        self._forks.orders.flush()
        await asyncio.wait_for(asyncio.shield(hand.started), PATIENCE)
        return hand

    @asynccontextmanager
    async def watched(self, what: str) -> AsyncIterator[list[Hand]]:
        """What goes wrong in the block is told with what the processes printed that it puts into the list. They end
        with it."""
        mine: list[Hand] = []
        try:
            yield mine
        except Exception as error:
            told = "\n".join(map(str, mine))
            raise Trouble(f"{what}: {type(error).__name__}: {error}\n{told}") from error
        finally:
            await self._end(mine)

    def _read(self) -> None:
        piece = self._forks.told.read() or b""
        *lines, self._forks.said = (self._forks.said + piece).split(b"\n")
        for line in lines:
            told = json.loads(line)
            hand = self.hands.get(told["number"])
            if hand is None:  # of a crew that has gone
                continue
            if "pid" in told:
                hand.started.set_result(told["pid"])
            elif "stopped" in told:
                hand.halted.set()
            else:
                hand.over.set_result(told["ended"])
