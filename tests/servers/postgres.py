"""A PostgreSQL server of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.servers.binaries import postgres_folder
from tests.servers.process import HOST, Server, ServerFailed, children_of, own_folder, run, unprivileged


class PostgresServer(Server):
    """PostgreSQL on 127.0.0.1, user `postgres` without a password, database `postgres`.

    Its texts are sorted by the rules of English where PostgreSQL can do that: what depends on the order of bytes must
    say so. `fsync` is on unless the settings say otherwise.
    """

    last_signal = "QUIT"  # it takes its children along

    def __init__(self, folder: Path | None, settings: dict[str, Any]) -> None:
        self.programs = postgres_folder()
        super().__init__(folder, settings, user=unprivileged())

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{HOST}:{self.port}/postgres"

    def standby(self, folder: Path | None = None, **settings: Any) -> PostgresServer:
        """Starts a server that follows this one: a copy by pg_basebackup, with streaming replication."""
        copy = PostgresServer(folder, settings)
        try:
            self._run("pg_basebackup", "-D", str(copy.data), "-d", self.url, "-R", "-X", "stream", "-c", "fast")
            copy._launch()
        except BaseException:
            copy.close()
            raise
        return copy

    def promote(self) -> None:
        """Makes a standby a server that takes writes."""
        self._run("pg_ctl", "promote", "-w", "-D", str(self.data))

    def _spawn(self) -> None:
        if not self.data.exists():
            self._fill()
        super()._spawn()

    def _fill(self) -> None:
        common = ["-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        try:
            self._run("initdb", *common, "--locale=C", "--locale-provider=icu", "--icu-locale=en-US")
        except ServerFailed:  # built without ICU
            self._run("initdb", *common, "--locale=C")

    def _run(self, program: str, *arguments: str) -> None:
        run([str(self.programs / program), *arguments], user=self.user, folder=self.folder)

    def _command(self) -> list[str]:
        settings = {"listen_addresses": HOST, "port": self.port, "unix_socket_directories": ""} | self.settings
        given = [f"{name}={_text(value)}" for name, value in settings.items()]
        return [
            str(self.programs / "postgres"),
            "-D",
            str(self.data),
            *(part for setting in given for part in ("-c", setting)),
        ]

    def _ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _victims(self) -> list[int]:
        return children_of(self.pid)


def postgres_server_folder() -> Path:
    """An empty folder that a PostgresServer can use, whoever runs the tests."""
    return own_folder(unprivileged())


def _text(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)
