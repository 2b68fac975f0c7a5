"""What the crash harness plays: every fault at every point, pairs of them, and a cancellation at every await.

A `Job` is a part of it that one process can play. Its figures are `cases / bad / sites × modes covered`.
"""

import asyncio
import os
import random
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from durable_flow import open_store
from durable_flow.testing import CANCELS, ERRORS, FILE, KILLS, MEMORY, NETWORK, Case, Explorer, Mode, Plan, Report
from tests.reference import SCENARIOS
from tests.servers.provide import POSTGRES_KIND, REDIS_KIND, Unreachable, provided

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
SMALL = ("w01", "w02", "w03", "w04")
LARGE = tuple(name for name in BY_NAME if name not in SMALL)
URLS = {"memory": MEMORY, "file": FILE}
SERVERS = {"postgresql": POSTGRES_KIND, "redis": REDIS_KIND}
STORES = (*URLS, *SERVERS)
OPTIONS: dict[str, Callable[[str], dict[str, Any]]] = {
    "postgresql": lambda space: {"schema": space, "writers": 1, "readers": 1},
    "redis": lambda space: {"prefix": space},
}
SEEDS = Path(__file__).parents[1] / "seeds.txt"
TESTS = ("one fault", "two faults", "cancellation", "planted mistakes")


class Job(msgspec.Struct, frozen=True):
    """One scenario on one store. `what` is each (one fault at every point), pairs (two deaths, all of them), seeded
    (two random faults, from `first` on), turns (a cancellation in every round of the loop) or plan (one, given)."""

    test: str
    scenario: str
    store: str
    what: Literal["each", "pairs", "seeded", "turns", "plan"]
    modes: tuple[Mode, ...] = tuple(Mode)
    first: int = 0
    count: int = 0
    plan: str = ""


def fast_folder() -> Path | None:
    """Where files are memory: the log of a store is synced in every commit."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and os.access(shm, os.W_OK) else None


class Place(msgspec.Struct, frozen=True):
    """A server, and the beginning of the names of all that is kept on it."""

    url: str
    space: str


@contextmanager
def places(stores: Iterable[str]) -> Iterator[tuple[dict[str, Place], list[str]]]:
    """Servers for the stores that need one, and what was tried in vain for the others. Nothing is left on them."""
    found: dict[str, Place] = {}
    missing: list[str] = []
    with ExitStack() as stack:
        for store in stores:
            try:
                url = stack.enter_context(provided(SERVERS[store]))
            except Unreachable as error:
                missing.append(str(error))
            else:
                found[store] = Place(url, space_of_its_own())
                stack.callback(clear, store, found[store])
        yield found, missing


def space_of_its_own() -> str:
    return f"crash_{secrets.token_hex(6)}"


def clear(store: str, place: Place) -> None:
    """Removes everything that is kept under the names of a place."""
    asyncio.run(CLEARING[store](place))


async def clear_postgresql(place: Place) -> None:
    import asyncpg

    connection = await asyncpg.connect(place.url)
    try:
        await connection.execute("SET client_min_messages = error")
        for (schema,) in await connection.fetch(
            "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, $1)", place.space
        ):
            await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')
    finally:
        await connection.close()


async def clear_redis(place: Place) -> None:
    from redis.asyncio import Redis

    async with Redis.from_url(place.url) as client:
        found = [key async for key in client.scan_iter(match=f"{{{place.space}*", count=1000)]
        if found:
            await client.unlink(*found)


CLEARING = {"postgresql": clear_postgresql, "redis": clear_redis}


@contextmanager
def exploring(name: str, store: str, places: Mapping[str, Place]) -> Iterator[Explorer]:
    """An explorer of a reference workflow on a store. Each process has names of its own on a server."""
    hint = partial(again, store)
    if store in URLS:
        yield Explorer(BY_NAME[name], url=URLS[store], folder=fast_folder(), hint=hint)
        return
    place = places[store]
    options = OPTIONS[store](f"{place.space}_{os.getpid()}")
    with Explorer(BY_NAME[name], make=lambda: open_store(place.url, **options), name=store, hint=hint) as made:
        yield made


def play(job: Job, places: Mapping[str, Place]) -> Report:
    with exploring(job.scenario, job.store, places) as explorer:
        match job.what:
            case "each":
                explorer.each(job.modes)
            case "pairs":
                explorer.pairs(job.modes)
            case "turns":
                explorer.turns(job.modes)
            case "seeded":
                for seed in range(job.first, job.first + job.count):
                    explorer.play(seeded(explorer, seed))
            case "plan":
                explorer.play(Plan.parse(job.plan))
        explorer.report.bad[:1] = [explorer.smallest(case) for case in explorer.report.bad[:1]]
        return explorer.report


def again(store: str, case: Case) -> str:
    return f'again: CRASH="{case.scenario}|{store}|{case.plan}" .venv/bin/python -m pytest tests/crash -k one_plan'


def seeded(explorer: Explorer, seed: int) -> Plan:
    """Two faults chosen by a seed: the second one hits the next process if the first one killed."""
    rng = random.Random(f"{explorer.scenario.name} {seed}")
    points = explorer.points
    modes = [mode for mode in Mode if mode is not Mode.ERROR_LATE]
    one, two = rng.choice(modes), rng.choice(modes)
    first, second = rng.choice(points).number, rng.choice(points).number
    if one in KILLS:
        return Plan(({first: one}, {second: two}))
    return Plan(({first: one, first + second: two},))


def whole() -> Iterator[Job]:
    for name in BY_NAME:
        for store in STORES:
            yield Job("one fault", name, store, "each")
    for name in SMALL:
        yield Job("two faults", name, "memory", "pairs", KILLS)
    for number, name in enumerate(LARGE):
        yield Job("two faults", name, "memory", "seeded", first=1000 * number, count=100)
    for name in SMALL:
        yield Job("two faults", name, "file", "seeded", count=25)
    for name in BY_NAME:
        for store in SERVERS:
            yield Job("two faults", name, store, "seeded", count=10)
    for name in BY_NAME:
        yield Job("cancellation", name, "memory", "turns", TURNS)
    for name in SMALL:
        yield Job("cancellation", name, "file", "turns", TURNS)


def short() -> Iterator[Job]:
    """A sample of the whole that takes a minute or two: every death everywhere, some of the rest."""
    for name in BY_NAME:  # who dies before an operation left what it had left who died after the one before
        yield Job("one fault", name, "memory", "each", KILLS if name in SMALL else (Mode.KILL_AFTER,))
    for name in SMALL:
        yield Job("one fault", name, "file", "each", KILLS)
        yield Job("one fault", name, "memory", "each", NETWORK)
        yield Job("one fault", name, "memory", "each", ERRORS)
        yield Job("cancellation", name, "memory", "turns", (Mode.CANCEL_BEFORE, Mode.BOTH_BEFORE))
    yield Job("one fault", "w05", "memory", "each", (*ERRORS, *CANCELS))
    for store in ("file", *SERVERS):
        yield Job("one fault", "w41", store, "each", (Mode.KILL_AFTER,))
    yield Job("two faults", "w01", "memory", "pairs", KILLS)
    for number, name in enumerate(LARGE):
        yield Job("two faults", name, "memory", "seeded", first=1000 * number, count=6)
    for store in SERVERS:
        for name in SMALL:
            yield Job("one fault", name, store, "each", KILLS)
        yield Job("one fault", "w01", store, "each", (*ERRORS, *CANCELS, *NETWORK))
        for number, name in enumerate(LARGE):
            yield Job("two faults", name, store, "seeded", first=1000 * number, count=2)


TURNS = (Mode.CANCEL_BEFORE, Mode.SCOPE_BEFORE, Mode.BOTH_BEFORE)


def once_bad() -> Iterator[Job]:
    """The plans that found something once: they are played first."""
    for line in SEEDS.read_text().splitlines():
        if line and not line.startswith("#"):
            scenario, store, plan = line.split("|")
            yield Job("one fault", scenario, store, "plan", plan=plan)


def play_all(jobs: Iterable[Job], *, places: Mapping[str, Place], processes: int) -> Iterator[tuple[Job, Report]]:
    """Every job with its report, in the order of the jobs; not those on servers that there are not."""
    listed = [job for job in jobs if job.store in URLS or job.store in places]
    if processes == 1:
        yield from ((job, play(job, places)) for job in listed)
        return
    with ProcessPoolExecutor(processes) as pool, tempfile.TemporaryDirectory():
        yield from zip(listed, pool.map(partial(play, places=places), listed), strict=True)
