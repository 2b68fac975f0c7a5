"""Servers in containers, where a Docker engine answers."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.servers.process import PATIENCE, ServerFailed, pause


class Image(NamedTuple):
    """What is run: `{address}` in `url` becomes where it listens."""

    name: str
    port: int
    url: str
    command: Sequence[str]
    environment: dict[str, str]


POSTGRES = Image(
    "postgres:17-alpine",
    5432,
    "postgresql://postgres@{address}/postgres",
    ("postgres", "-c", "fsync=off"),
    {"POSTGRES_HOST_AUTH_METHOD": "trust"},
)
REDIS = Image("redis:7-alpine", 6379, "redis://{address}/0", ("redis-server", "--save", ""), {})


def engine_answers(*, timeout: float = 2.0) -> bool:
    """Whether there is a Docker engine, found out within `timeout` seconds or little more."""
    sockets = [Path("/var/run/docker.sock"), Path.home() / ".docker/run/docker.sock"]
    if not os.environ.get("DOCKER_HOST") and not any(path.exists() for path in sockets):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import docker

            client = docker.from_env(timeout=timeout, version="1.40")
        except Exception:  # no docker package, or an address nobody understands
            return False
        try:
            return bool(client.ping())
        except Exception:  # it raises whatever its HTTP client does
            return False
        finally:
            client.close()


USUAL = {"redis": 6379, "rediss": 6379, "amqp": 5672, "nats": 4222}


@contextmanager
def container(image: Image, answers: Callable[[str], bool]) -> Iterator[str]:
    """The URL of a server in a new container, which is removed at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from testcontainers.core.container import DockerContainer

        made = DockerContainer(image.name).with_exposed_ports(image.port).with_command(list(image.command))
        made.with_envs(**image.environment)
        made.start()
    try:
        address = f"{made.get_container_host_ip()}:{made.get_exposed_port(image.port)}"
        url = image.url.format(address=address)
        end = time.monotonic() + PATIENCE
        while not answers(url):
            if time.monotonic() > end:
                raise ServerFailed(f"{image.name} does not answer at {address}")
            pause()
        yield url
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made.stop()


def greets(url: str, *, question: bytes, answers: bytes) -> bool:
    """Whether what listens at a URL answers a question with one of the given first bytes."""
    try:
        with socket.create_connection(address_of(url), timeout=3.0) as connection:
            connection.settimeout(3.0)
            connection.sendall(question)
            first = connection.recv(1)
    except OSError:
        return False
    return bool(first) and first in answers


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a URL, with the port that is usual where it names none."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or USUAL.get(parts.scheme, 5432)
