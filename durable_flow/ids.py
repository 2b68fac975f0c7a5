"""The only place that makes identifiers and random numbers: everything else is handed an `Ids`."""

from __future__ import annotations

import os
import random
import time
from typing import Protocol


def token_hex(size: int) -> str:
    """So many random bytes, as hexadecimal text."""
    return os.urandom(size).hex()


class Ids(Protocol):
    """Where the engine gets ids and randomness from. Tests hand in a deterministic one."""

    def execution(self) -> str:
        """A new execution id: 128 bits that sort by the time they were made."""

    def owner(self) -> str:
        """A token for one runtime of one process: never used twice, so a restarted process is somebody else."""

    def nonce(self) -> str:
        """A token for one commit, by which it is recognised when its answer was lost."""

    def jitter(self) -> float:
        """A number in [0, 1) for spreading retries."""


class RandomIds:
    """UUIDv7 (RFC 9562, section 5.7) for executions, random tokens for the rest."""

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(16))
        self._prefix = os.urandom(8).hex()
        self._count = 0

    def execution(self) -> str:
        value = (time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | 0b10 << 62
        value |= self._random.getrandbits(12) << 64 | self._random.getrandbits(62)
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def owner(self) -> str:
        return f"{os.uname().nodename}:{os.getpid()}:{os.urandom(6).hex()}"

    def nonce(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count:x}"

    def jitter(self) -> float:
        return self._random.random()
