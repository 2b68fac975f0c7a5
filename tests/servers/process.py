"""What every private server has: a process of its own, a port of its own, a folder of its own, and a sure end."""

from __future__ import annotations

import atexit
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE = 60.0
"""Seconds after which a server that has not started, or not ended, is given up."""

GUARD = """
read -r word && exit
kill -s "$2" "$1"
turn=0
while kill -0 "$1" 2>/dev/null && [ $turn -lt 20 ]; do sleep 0.1; turn=$((turn + 1)); done
[ -z "$3" ] || rm -rf "$3"
"""
"""Reads a pipe that only we hold open: whatever ends us ends the server, also a SIGKILL, and removes its folder."""

PORTS = range(15_000, 32_000)
"""Below those that the kernel gives to clients: there, somebody who only connects could take the port of a server that
is away for a moment."""


HOST = "127.0.0.1"


class ServerFailed(Exception):
    """A server did not start, or did not end. The message has the end of its log."""


def free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


def unprivileged() -> str | None:
    """Whose name a server that refuses to be root takes; None where we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def own_folder(user: str | None = None, *, prefix: str = "durable-flow-server-") -> Path:
    """A new empty folder that belongs to `user`, on a path this user can walk. (A `tmp_path` is not: pytest keeps it
    to the user who runs the tests.)"""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    if user is not None:
        shutil.chown(folder, user)
    return folder


def pause() -> None:
    time.sleep(0.02)


class Server(ABC):
    """A private server. In a `with` statement it is closed at the end; otherwise call `close`.

    `settings` are the server's own, by their names (with ``_`` for ``-``).
    """

    last_signal = "KILL"
    """What the guard sends where nobody is left to stop the server."""

    def __init__(self, folder: Path | None, settings: dict[str, Any], *, user: str | None = None) -> None:
        self.user = user
        self._owns_folder = folder is None
        self.folder = own_folder(user) if folder is None else folder
        self.settings = settings
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    # -- what a kind of server says -----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def _command(self) -> list[str]:
        """What runs in the foreground and listens on `port`."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether it takes connections, and it is the process we started that does."""

    def _victims(self) -> list[int]:
        """The processes that are to die when the machine "loses power", besides the one we started."""
        return []

    # -- its life -----------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @classmethod
    def start(cls, folder: Path | None = None, **settings: Any) -> Self:
        """Starts a new server, with its data in `folder` (None: in one of its own, removed by `close`)."""
        server = cls(folder, settings)
        try:
            server._launch()
        except BaseException:
            server.close()
            raise
        return server

    def stop(self) -> None:
        """Asks the server to end, and waits for it. Its data stay, so that `restart` goes on with them."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Ends the server and all its processes at once, as a loss of power does (what the kernel has, it keeps)."""
        if self.running:
            os.kill(self.pid, signal.SIGSTOP)  # so that it cannot react to the death of the others
            for victim in [*self._victims(), self.pid]:
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self._end(signal.SIGKILL)

    def restart(self, **settings: Any) -> None:
        """Stops the server if it runs, and starts it again on the same port with the same data. `settings` change
        those it has."""
        self.stop()
        self.settings = self.settings | settings
        self._launch(new=False)

    def close(self) -> None:
        """Ends the server and removes its folder, if it is its own. May be called twice."""
        atexit.unregister(self.close)
        try:
            self.stop()
        finally:
            if self._owns_folder:
                shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- processes ----------------------------------------------------------------------------------------------------

    def _launch(self, *, new: bool = True) -> None:
        for _ in range(5):
            start = self.log.stat().st_size if self.log.exists() else 0
            self._spawn()
            if self._came_up():
                return
            said = self.log.read_bytes()[start:].decode(errors="replace")
            if "in use" not in said or not new:
                break
            self.port = free_port()  # somebody took it since we looked
        raise ServerFailed(f"{self._command()[0]} did not start:\n{said[-3000:]}")

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user,
                start_new_session=True,  # Ctrl-C is for the tests: they end their servers in order
            )
        litter = str(self.folder) if self._owns_folder else ""
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "guard", str(self._process.pid), self.last_signal, litter],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _came_up(self) -> bool:
        end = time.monotonic() + PATIENCE
        while self.running:
            if self._ready():
                return True
            if time.monotonic() > end:
                break
            pause()
        self._end(signal.SIGKILL)
        return False

    def _end(self, how: signal.Signals) -> None:
        process, guard = self._process, self._guard
        self._process = self._guard = None
        if process is not None:
            if process.poll() is None:
                process.send_signal(how)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if guard is not None:
            guard.communicate(b"over\n")


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if listed.exists():
        return [int(child) for child in listed.read_text().split()]
    told = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(child) for child in told.stdout.split()]


def run(command: list[str], *, user: str | None, folder: Path) -> None:
    """Runs a program of a server to its end. Raises ServerFailed with what it said."""
    done = subprocess.run(
        command, user=user, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerFailed(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
