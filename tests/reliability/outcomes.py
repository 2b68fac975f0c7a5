"""Commits whose outcome is unknown: a proxy loses the answer to a request of a real store, or the request; every one.

The workflow has a loop, branches and an approval. Each time everything must have happened exactly once: the same audit
trail and the same calls of services as without a loss, and no execution may be called failed.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from tests.crash import suite
from tests.reliability.table import Case, Table
from tests.servers.provide import POSTGRES_KIND, REDIS_KIND, Kind, provided
from tests.servers.proxy import Proxy, containing, executing
from tests.stores.test_unknown_outcome import Place, Scene, drive, staged

FIGURES: list[str] = []

Lose = Callable[[Proxy, int], asyncio.Event]


def in_postgresql(url: str, space: str) -> Place:
    return Place(url, {"schema": space}, executing(space.encode()))


def in_redis(url: str, space: str) -> Place:
    return Place(url, {"prefix": space}, containing(b"EVALSHA"))


async def one_loss(scene: Scene, lose: Lose, number: int) -> tuple[bool, str | None]:
    """Whether the n-th request was reached, and what was wrong then."""
    lost = lose(scene.proxy, number)
    name = f"e{number}"
    try:
        await drive(scene.runtime, name)
        await scene.check(name)
    except Exception as error:
        return True, f"request {number}: {type(error).__name__}: {error}"
    return lost.is_set(), None


async def every_loss(place: Place, lose: Lose, step: int, told: str) -> int:
    wrong: list[str] = []
    async with staged(place, timeout=2.0) as scene:
        for number in itertools.count(1, step):
            reached, found = await one_loss(scene, lose, number)
            wrong += [] if found is None else [found]
            if not reached:
                break
    tried = (number - 1) // step
    FIGURES.append(f"{told} lost, {tried} of {number - 1} requests: {len(wrong)} with a double transition or a failure")
    assert not wrong, "; ".join(wrong)
    assert tried
    return tried


def verify(store: str, kind: Kind, place: Callable[[str, str], Place], lose: Lose, step: int, told: str) -> int:
    space = f"crash_{secrets.token_hex(6)}"
    with provided(kind) as url:
        try:
            return asyncio.run(every_loss(place(url, space), lose, step, told))
        finally:
            suite.clear(store, suite.Place(url, space))


KINDS: dict[str, tuple[Kind, Callable[[str, str], Place]]] = {
    "postgresql": (POSTGRES_KIND, in_postgresql),
    "redis": (REDIS_KIND, in_redis),
}
LOSSES: dict[str, Any] = {"answers": Proxy.lose_answer, "requests": Proxy.lose_request}


def cases(full: bool) -> Iterable[Case]:
    for store, (kind, place) in KINDS.items():
        for what, lose in LOSSES.items() if full else [("answers", Proxy.lose_answer)]:
            told = f"{store}: {what}"
            yield Case(told, partial(verify, store, kind, place, lose, 1 if full else 5, told))


TABLE = Table("the outcome of a commit is found out, never guessed", cases, FIGURES)
