"""Engines and stores with a mistake that only shows where two processes work on one store."""

import asyncio
from collections.abc import Collection
from typing import Any

from msgspec.structs import replace

import durable_flow as df
from durable_flow.engine import Engine
from durable_flow.live import Run
from durable_flow.model.frame import Message
from durable_flow.stores.base import Commit
from durable_flow.stores.sqlite import Connection
from tests.mutants import Plant, patched


class Rival:
    """A planted mistake: the match that shows it, the rules of which it breaks at least one, and within how many seeds
    that must be seen."""

    def __init__(self, name: str, told: str, plant: Plant, match: str, rules: set[str], *, within: int) -> None:
        self.name = name
        self.told = told
        self.plant = plant
        self.match = match
        self.rules = rules
        self.within = within


advance, claim, renew, put = Connection._advance, Connection.claim, Connection.renew, Connection._put


def advance_unfenced(self: Connection, commit: Commit) -> int:
    """Whoever commits is right: neither generation nor version matter."""
    row = self.row(commit.execution_id)
    assert row is not None
    n = advance(self, replace(commit, generation=row.generation, version=row.version))
    self.cursor.execute("DELETE FROM entries WHERE n = ? AND seq > ?", (n, commit.entries[0][0] - 1))
    return n


def claim_anyway(self: Connection, execution_id: str, owner: str, ttl: float, statuses: Collection[str]) -> Any:
    """The lease is given to whoever asks last."""
    found = self.row(execution_id)
    if found is None or found.status not in statuses:
        return claim(self, execution_id, owner, ttl, statuses)
    (n,) = self.cursor.execute("SELECT n FROM executions WHERE id = ?", (execution_id,)).fetchone()
    return self._claim(n, execution_id, owner, ttl, expired=False)


def renew_whatever(self: Connection, owner: str, ttl: float) -> Any:
    """Whoever had a lease once gets it back: the generation does not matter."""
    held = self.__dict__.setdefault("once_held", {}).setdefault(owner, {})
    held.update(self.cursor.execute("SELECT id, generation FROM executions WHERE owner = ?", (owner,)).fetchall())
    for name in held:
        self.cursor.execute("UPDATE executions SET owner = ? WHERE id = ? AND finished_at IS NULL", (owner, name))
    return {**renew(self, owner, ttl), **held}


def release_whatever(self: Connection, execution_id: str, owner: str, generation: int) -> None:
    """The lease is free, whoever has it by now."""
    self.cursor.execute("UPDATE executions SET owner = NULL, lease_until = NULL WHERE id = ?", (execution_id,))


landing = Engine._landing


async def land_whatever(self: Engine, run: Run) -> None:
    """A commit that was refused is forgotten: the run goes on."""
    future = run.inflight
    assert future is not None
    if not future.done():
        await asyncio.wait([future])
    if run.inflight is future and isinstance(future.exception(), df.LeaseLost):
        commit = run.inflight_commit
        assert commit is not None
        run.inflight = None
        run.version, run.durable, run.released = commit.version + 1, commit.seq, commit.release
        return
    await landing(self, run)


stop = Engine.stop


def stop_unless_lost(self: Engine, run: Run, reason: str, *, detail: str | None = None) -> None:
    if reason != "lease_lost":
        stop(self, run, reason, detail=detail)


def put_late(self: Connection, n: int, message: Message, body: Any) -> str:
    """A deadline that has passed counts, whether the wait was answered or not."""
    outcome = put(self, n, message, body)
    if message.kind == "timeout" and outcome == "closed":
        self.cursor.execute(
            "INSERT OR IGNORE INTO inbox (n, key, wait_id, body) VALUES (?, ?, ?, ?)",
            (n, message.key, message.wait_id, body),
        )
        return "accepted"
    return outcome


slots = Connection._slots


def slots_of_who_asks(self: Connection, queue: str, limits: Any) -> float:
    """What is under way is what was begun since anybody looked last: the others have made room."""
    return float(limits.concurrency)


def slots_of_the_living(self: Connection, queue: str, limits: Any) -> float:
    """Who has lost its lease is dead, and has left its place."""
    sql = "SELECT count(*) FROM executions WHERE queue = ? AND owner IS NOT NULL AND lease_until <= ?"
    (lost,) = self.cursor.execute(sql, (queue, self.now())).fetchone()
    return slots(self, queue, limits) + float(lost)


def slots_for_ever(self: Connection, queue: str, limits: Any) -> float:
    """A place that was taken stays taken where the process died that had it."""
    sql = "SELECT count(*) FROM executions WHERE queue = ? AND recoveries + generation > 2"
    (lost,) = self.cursor.execute(sql, (queue,)).fetchone()
    return slots(self, queue, limits) - float(lost)


RIVALS = (
    Rival(
        "R1", "a commit checks neither generation nor version", patched(Connection, _advance=advance_unfenced),
        "chain", {"T5"}, within=10,
    ),
    Rival(
        "R2", "a claim does not look whether the lease has expired", patched(Connection, claim=claim_anyway),
        "chain", {"T1"}, within=10,
    ),
    Rival(
        "R3", "a renewal does not look whether the lease was taken over", patched(Connection, renew=renew_whatever),
        "chain", {"T4", "T5"}, within=40,
    ),
    Rival(
        "R4", "an engine goes on when its lease is lost",
        patched(Engine, _landing=land_whatever, stop=stop_unless_lost),
        "chain", {"T8"}, within=20,
    ),
    Rival(
        "R5", "a release of an old lease frees the new one", patched(Connection, release=release_whatever),
        "chain", {"T5"}, within=300,
    ),
    Rival(
        "R6", "a deadline counts though the wait was answered", patched(Connection, _put=put_late),
        "approval with a deadline", {"T7"}, within=40,
    ),
    Rival(
        "R7", "who looks for work does not see what others have under way",
        patched(Connection, _slots=slots_of_who_asks), "one at a time", {"T11"}, within=10,
    ),
    Rival(
        "R8", "what lost its lease is not under way", patched(Connection, _slots=slots_of_the_living),
        "one at a time", {"T11"}, within=100,
    ),
    Rival(
        "R9", "the place of a process that died is not given back", patched(Connection, _slots=slots_for_ever),
        "one at a time", {"O9"}, within=40,
    ),
)  # fmt: skip
