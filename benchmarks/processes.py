"""The measured processes as their parent sees them: what it tells them, and what it knows of their processor time."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).resolve().parents[1]

Answer = dict[str, Any]

START_SECONDS = 120.0
"""How long a subject may take until it is ready: some start servers of their own."""

CLOSE_SECONDS = 20.0


class Failed(Exception):
    """A subject could not do what it was told."""


class Program(NamedTuple):
    """What becomes a subject: its name in the table, its command, and where it keeps its data, given an empty folder.

    The process gets that place (a URL, or "-") and the folder as its last arguments. `place` raises Failed.
    """

    name: str
    command: Sequence[str]
    place: Callable[[Path], AbstractContextManager[str]]


class Subject:
    """A process that is measured, in a session of its own: Ctrl-C reaches the parent, and the parent ends it."""

    def __init__(self, program: Program, place: str, folder: Path) -> None:
        self.name = program.name
        self.folder = folder
        self._busy = True
        self._closed = False
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [*program.command, place, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                text=True,
                start_new_session=True,
            )

    @property
    def waits(self) -> bool:
        """Whether it can be asked."""
        return not self._busy and not self._closed and self.process.poll() is None

    def ready(self) -> None:
        """Waits until it has started. Raises Failed."""
        self._read(START_SECONDS)

    def ask(self, do: str, *, within: float, **arguments: Any) -> Answer:
        """What it answers, and as `others` the share of the processors that other programs used meanwhile.

        Raises Failed, also where it takes longer than `within` seconds.
        """
        before, begun = ours_and_all(), time.perf_counter()
        assert self.process.stdin is not None
        self._busy = True
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._last_words()) from None
        answer = self._read(within)
        answer["others"] = share_of_others(before, time.perf_counter() - begun)
        return answer

    def close(self) -> None:
        """Lets it finish if it waits for orders; kills it, and what it has started, if it does not end by that. May be
        called twice."""
        if self._closed:
            return
        self._closed = True
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if not self._busy:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=CLOSE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, within: float) -> Answer:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], within)
        if not readable:
            raise Failed(f"{self.name} did not answer within {within:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Failed(self._last_words())
        self._busy = False
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error'].strip()}")
        return answer

    def _last_words(self) -> str:
        return f"{self.name} died: {(self.folder / 'log').read_text().strip()[-4000:] or 'it said nothing'}"


def ours_and_all() -> tuple[float, float]:
    """Seconds of processor time of this process with all that descend from it (subjects, servers), and of everything.

    So what other subjects do while they wait for their turn counts as ours.
    """
    return _used_below(os.getpid()), _used_by_all()


def share_of_others(before: tuple[float, float], wall: float) -> float | None:
    """The share of the processors that other programs used, in the `wall` seconds since `ours_and_all` was `before`;
    None where that is too short a time, because the kernel counts in hundredths."""
    ours, everything = (after - at_first for after, at_first in zip(ours_and_all(), before, strict=True))
    return min(1.0, max(0.0, (everything - ours) / wall / (os.cpu_count() or 1))) if wall > 0.2 else None


def _used_by_all() -> float:
    """Seconds that all processors together have worked since the machine was started."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _waiting, *rest = (int(field) for field in file.readline().split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _used_below(root: int) -> float:
    """Seconds of processor time of a process and of all that descend from it, ended ones included."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "stat").read_text()
            except OSError:  # it has ended
                continue
            fields = text.rpartition(")")[2].split()
            parents[int(entry)] = int(fields[1])
            used[int(entry)] = sum(int(field) for field in fields[11:15])
    total = 0
    for process in used:
        above = process
        while above and above != root:
            above = parents.get(above, 0)
        total += used[process] if above else 0
    return total / os.sysconf("SC_CLK_TCK")


class Kept:
    """Subjects that serve one benchmark after the other, by name: where figures mean nothing, starting them is what
    takes time."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.subjects: dict[str, Subject] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()


@contextmanager
def started(
    programs: Iterable[Program], folder: Path, kept: Kept | None = None
) -> Iterator[tuple[list[Subject], dict[str, str]]]:
    """The subjects that started, and of those that did not, why by name. All of them end here, but for those `kept`."""
    with ExitStack() as own:
        stack, subjects = (own, {}) if kept is None else (kept.stack, kept.subjects)
        begun: list[Subject] = []
        failures: dict[str, str] = {}
        for number, program in enumerate(programs):
            subject = subjects.get(program.name)
            if subject is None or not subject.waits:
                room = folder / f"{number}"
                room.mkdir(parents=True)
                try:
                    place = stack.enter_context(program.place(room))
                except Failed as failure:
                    failures[program.name] = str(failure)
                    continue
                subject = subjects[program.name] = Subject(program, place, room)
                stack.callback(subject.close)
            begun.append(subject)
        ready = []
        for subject in begun:
            try:
                if not subject.waits:
                    subject.ready()
            except Failed as failure:
                failures[subject.name] = str(failure)
            else:
                ready.append(subject)
        yield ready, failures
