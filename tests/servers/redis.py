"""A Redis server (or a Valkey one) of our own."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

from tests.servers.binaries import redis_program
from tests.servers.process import HOST, PATIENCE, Server, ServerFailed, pause


class RedisServer(Server):
    """Redis on 127.0.0.1 without a password. It keeps nothing on disk unless the settings say so (`appendonly=True`,
    `appendfsync="always"`); `kill` and `restart` then go on with what was written."""

    def __init__(self, folder: Path | None, settings: dict[str, Any]) -> None:
        self.program = redis_program()
        super().__init__(folder, settings)

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def ask(self, *words: str) -> bytes:
        """Sends one command and returns the answer as it comes, in the server's own protocol."""
        with socket.create_connection((HOST, self.port), timeout=PATIENCE) as connection:
            return ask(connection, *words)

    def replica(self, folder: Path | None = None, **settings: Any) -> RedisServer:
        """Starts a server that follows this one, and waits until it has what this one has."""
        copy = RedisServer.start(folder, replicaof=f"{HOST} {self.port}", **settings)
        while b"master_link_status:up" not in copy.ask("INFO", "replication"):
            if not copy.running:
                raise ServerFailed(copy.log.read_text())
            pause()
        return copy

    def _command(self) -> list[str]:
        settings = {"bind": HOST, "port": self.port, "dir": str(self.folder), "save": "", "repl_diskless_sync_delay": 0}
        settings |= self.settings
        given = [(f"--{name.replace('_', '-')}", *_words(value)) for name, value in settings.items()]
        return [str(self.program), *(word for words in given for word in words)]

    def _ready(self) -> bool:
        try:
            told = self.ask("INFO")
        except OSError:
            return False
        facts = dict(re.findall(rb"^(process_id|loading):(\d+)", told, re.MULTILINE))
        return facts == {b"process_id": str(self.pid).encode(), b"loading": b"0"}


def ask(connection: socket.socket, *words: str) -> bytes:
    """One command and its answer: a line, or a text of the length that the line says."""
    parts = [word.encode() for word in words]
    connection.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
    with connection.makefile("rb") as answers:
        line = answers.readline()
        return answers.read(int(line[1:]) + 2) if line[:1] == b"$" and line != b"$-1\r\n" else line


def _words(value: Any) -> list[str]:
    text = ("no", "yes")[value] if isinstance(value, bool) else str(value)
    return text.split(" ") if " " in text else [text]
