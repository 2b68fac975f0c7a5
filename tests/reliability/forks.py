"""A program that imports everything once and forks for whatever is to run: `python -m tests.reliability.forks`.

It reads a JSON object from each line of standard input: the number of a process, a function (`module:name`) with its
arguments by name, the file that takes what the process prints, and the folder it runs in. It writes what becomes of
each: that it was started, stopped by a signal, and ended. When its input ends, so do it and all that it has started.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import logging
import os
import resource
import select
import signal
import sys
import traceback
from contextlib import suppress
from typing import Any

MODULES = (
    "durable_flow.cli",
    "durable_flow.cli.worker",
    "durable_flow.stores.postgresql",
    "durable_flow.stores.redis",
    "tests.reliability.tables",
)
"""What the processes need."""


def main() -> None:
    logging.disable()
    for module in MODULES:
        with suppress(ImportError):  # the driver of a server is not there: neither is the server
            importlib.import_module(module)
    waking, woken = os.pipe()
    for end in waking, woken:
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    children: dict[int, int] = {}
    said = b""
    tell(ready=True)
    try:
        while True:
            readable, _, _ = select.select([0, waking], [], [])
            if waking in readable:
                os.read(waking, 4096)
                look_at(children)
            if 0 in readable:
                piece = os.read(0, 65_536)
                if not piece:
                    return
                *lines, said = (said + piece).split(b"\n")
                for line in lines:
                    begin(children, **json.loads(line))
    finally:
        for pid in children:
            kill(pid)
            os.waitpid(pid, 0)


def tell(**facts: Any) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def kill(pid: int) -> None:
    """Ends a process and all that it has started."""
    for end in os.killpg, os.kill:  # it may not have a group of its own yet
        with suppress(ProcessLookupError):
            end(pid, signal.SIGKILL)


def look_at(children: dict[int, int]) -> None:
    """Tells which children were stopped and which have ended, and how."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            tell(number=children[pid], stopped=True)
        else:
            tell(number=children.pop(pid), ended=os.waitstatus_to_exitcode(status))


def begin(
    children: dict[int, int], *, number: int, call: str, given: dict[str, Any], log: str, folder: str | None
) -> None:
    pid = os.fork()
    if pid:
        children[pid] = number
        tell(number=number, pid=pid)
        return
    code = 1
    try:
        prepare(log, folder)
        code = perform(call, given)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def prepare(log: str, folder: str | None) -> None:
    """A session of its own, nothing to read, one file for all that is printed."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # some of them are meant to crash
    nothing = os.open(os.devnull, os.O_RDONLY)
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for old, new in ((nothing, 0), (printed, 1), (printed, 2)):
        os.dup2(old, new)
    if folder is not None:
        os.chdir(folder)
    logging.disable(logging.NOTSET)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(relativeCreated)d ms %(name)s: %(message)s")


def perform(call: str, given: dict[str, Any]) -> int:
    module, _, name = call.partition(":")
    result = getattr(importlib.import_module(module), name)(**given)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
