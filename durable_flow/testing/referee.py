"""`Referee`: what must hold after every move, where several processes work on one store.

========  ============================================================================================================
T1        generations never go back, and rise only where a lease is taken that was free or had expired
T2        versions are numbered without a gap, and entries tell the row (O2, O3 of the other rules)
T3        every frame goes through its steps in the order of a run without faults
T4        one process at most has the token that is current, and it is the owner
T5        a process whose token is stale changes nothing
T6        an execution that is over does not change
T7        a wait is answered once
T8        an effect repeats only where a lease was taken over while it was under way; a process that lost its lease
          finishes what it was about to do, and begins nothing after it; at most once is at most once
T9        an execution that nobody owns is due, or waits for somebody
T10       nothing takes a negative time
T11       none is taken that would begin where as many of its queue are under way as may be
========  ============================================================================================================
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from durable_flow import LeaseLost, Message, Status, Store
from durable_flow.testing.clock import FakeClock
from durable_flow.testing.ledger import Effect, Ledger
from durable_flow.testing.process import Process
from durable_flow.testing.store import Watch, at_once
from durable_flow.testing.trail import Seen, decoded, is_settlement, is_vote

if TYPE_CHECKING:
    from durable_flow.stores.base import Appended, Commit, Row, Stored

Order = Mapping[tuple[str, str], Sequence[tuple[str, bool]]]
"""The steps of each frame (execution and path) with whether they failed, in the order in which they ended."""

ENDS = frozenset({"completed", "answered", "failed", "skipped"})


class Effects(Ledger):
    """The ledger of several processes at once: an effect happens under the lease that its process believes to have."""

    def __init__(self, referee: Referee) -> None:
        super().__init__()
        self.referee = referee

    def perform(self, effect: Effect) -> None:
        """An effect happens, under a lease that is current or was."""
        if self.referee.may_perform(effect):
            super().perform(effect)
        else:
            self.effects.append(effect)
            self.licences[effect.identity] += 1


class Referee(Watch):
    """Looks at every row after every operation that may have changed it. `order` is that of a run without faults (None:
    this is one), `racing` are paths that do not count for it; `limits` are those of queues."""

    def __init__(
        self,
        store: Store,
        world: FakeClock,
        *,
        order: Order | None = None,
        racing: Collection[str] = (),
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.effects = Effects(self)
        super().__init__(self.effects)
        self.store = store
        self.world = world
        self.processes: list[Process] = []
        self.rows: dict[str, Row] = {}
        self.order = order
        self.racing = tuple(racing)
        self.limits = dict(limits or {})
        self.done: defaultdict[tuple[str, str], list[tuple[str, bool]]] = defaultdict(list)
        self.answers: Counter[str] = Counter()
        self.heard_of: set[str] = set()
        """The actors of all messages that were accepted."""
        self.shut_out = False
        """Whether somebody was kept from writing something because its lease had been lost."""
        self._late: Counter[tuple[int, str, int, str]] = Counter()

    # -- what processes do ---------------------------------------------------------------------------------------------

    def operated(self, process: Process, verb: str, about: str, outcome: object) -> None:
        """An operation other than a commit was done."""
        if verb in ("claim", "release"):
            self._look(process, verb, about)
            if verb == "claim" and getattr(outcome, "owner", None) == process.owner and process.unsure:
                self.effects.license([about])  # it stopped by its own clock, because it could not know
            if isinstance(late := getattr(outcome, "late", None), Sequence):
                self.answers.update(dict.fromkeys(late, 1))
        elif verb == "append":
            self._look(process, verb, about.partition(" ")[0])
        else:
            before = dict(self.rows)
            for name in before:
                self._look(process, verb, name)
            for stored in outcome if verb == "take" and isinstance(outcome, Sequence) else ():
                self.answers.update(dict.fromkeys(stored.late, 1))
            begun = [name for name, row in before.items() if row.status == Status.PENDING and row.owner is None]
            self._count(process, verb, [self.rows[name] for name in begun if name in self.rows])

    def committed(self, process: Process, commit: Commit, outcome: object) -> None:
        """A commit landed, or was refused."""
        name = commit.execution_id
        before = self.rows.get(name)
        if isinstance(outcome, Exception):
            self.shut_out |= isinstance(outcome, LeaseLost)
            self._look(process, "commit", name)
            return
        if before is None:
            process.tokens[name] = commit.generation
        elif not commit.generation == before.generation == process.tokens.get(name):
            self._blame(
                f"T5 {process.owner} committed version {commit.version + 1} of {name} in generation "
                f"{commit.generation}, where {before.owner} has generation {before.generation}"
            )
        stored = at_once(self.store.fetch(name))
        assert stored is not None
        for wait_id in (*commit.closed, *(opened[0] for opened in commit.opened)):
            self.answers.pop(wait_id, None)
        self.landed(stored, decoded(at_once(self.store.read(name, after=self.seen(name)))))
        self._changed(process, "commit", name, before, stored.row)
        for message, _ in commit.messages:
            self._look(process, "append", message.execution_id)

    def appended(self, process: Process, message: Message, outcome: Appended) -> None:
        """A message arrived, or was refused."""
        wait_id = message.wait_id
        if outcome.outcome != "accepted":
            return
        if message.actor is not None:
            self.heard_of.add(message.actor)
        if wait_id is None or message.kind == "child":
            return
        row = self.rows[message.execution_id]
        wait = next((wait for body in row.waits if (wait := msgspec.json.decode(body))["wait_id"] == wait_id), None)
        self.answers[wait_id] += 1
        if wait is None:
            self._blame(f"T7 {message.kind} of {process.owner} to {wait_id} was accepted, which was not open")
        elif self.answers[wait_id] > wait.get("required", 1):
            self._blame(f"T7 {wait_id} was answered {self.answers[wait_id]} times, last by {process.owner}")

    def notify(self, process: Process, execution_id: str) -> None:
        """The process says that something happened to an execution: the others hear of it, sooner or later."""
        for other in self.processes:
            if other is not process:
                other.hear(execution_id)

    # -- what must hold ------------------------------------------------------------------------------------------------

    def _blame(self, what: str) -> None:
        self.wrong.append(what)

    def _look(self, process: Process, verb: str, name: str) -> None:
        row = at_once(self.store.row(name))
        if row is not None:
            self._changed(process, verb, name, self.rows.get(name), row)
        elif name in self.rows:
            self._blame(f"T6 {name} is gone after {verb} of {process.owner}")
            del self.rows[name]

    def _changed(self, process: Process, verb: str, name: str, before: Row | None, row: Row) -> None:
        self.rows[name] = row
        if before is None:
            if verb != "commit" or row.owner not in (None, process.owner):
                self._blame(f"T4 {name} was created for {row.owner} by {verb} of {process.owner}")
            return
        if row.generation != before.generation:
            self._taken(process, verb, name, before, row)
        elif verb in ("renew", "release", "take", "claim"):
            held = before.owner == process.owner and process.tokens.get(name) == before.generation
            if not held and (row.owner, row.lease_until) != (before.owner, before.lease_until):
                self._blame(f"T5 {verb} of {process.owner} changed the lease of {name}, which {before.owner} had")
        if verb != "commit" and (row.version, row.seq, row.status) != (before.version, before.seq, before.status):
            self._blame(f"T5 {verb} of {process.owner} changed {name}")
        if Status(before.status).over and _end(row) != _end(before):
            self._blame(f"T6 {name} was {before.status}, and is changed by {verb} of {process.owner}: {row.status}")
        if row.owner is not None:
            holders = [other.owner for other in self.processes if other.tokens.get(name) == row.generation]
            if holders != [row.owner]:
                self._blame(f"T4 {name} is owned by {row.owner}; generation {row.generation} have {holders}")
        elif self._forgotten(row):
            self._blame(f"T9 {name} has mail and nobody owns it, and it is not due, after {verb} of {process.owner}")

    def _count(self, process: Process, verb: str, rows: Sequence[Row]) -> None:
        """Whether any of these began where it had to wait."""
        for queue in {row.queue for row in rows if row.owner is not None and row.parent_id is None}:
            busy = [name for name, row in self.rows.items() if row.queue == queue and _under_way(row)]
            if queue in self.limits and len(busy) > self.limits[queue]:
                self._blame(f"T11 {', '.join(busy)} of queue {queue} are under way after {verb} of {process.owner}")

    def _forgotten(self, row: Row) -> bool:
        """Whether something came for an execution that waits, and nobody is going to look at it."""
        due = row.wake_at is not None and row.wake_at <= self.world.now()
        return row.status == Status.HALTED and not due and bool(at_once(self.store.inbox(row.id)))

    def _taken(self, process: Process, verb: str, name: str, before: Row, row: Row) -> None:
        """A lease was given: to one process, where nobody had one."""
        if verb not in ("claim", "take") or row.generation != before.generation + 1 or row.owner != process.owner:
            self._blame(
                f"T1 {verb} of {process.owner} made generation {row.generation} (of {row.owner}) of {name} out of "
                f"{before.generation}"
            )
        elif before.owner is not None and (before.lease_until or 0.0) > self.world.now():
            self._blame(f"T1 {process.owner} took {name}, which {before.owner} has a lease of")
        process.tokens[name] = row.generation
        self.effects.license([name])

    def landed(self, stored: Stored, entries: Sequence[tuple[int, Seen]]) -> None:
        """A commit landed."""
        super().landed(stored, entries)
        name = stored.row.id
        for _, entry in entries:
            if (entry.get("ms") or 0.0) < 0:
                self._blame(f"T10 {name}:{entry['path']} took {entry['ms']} ms")
            if not entry.get("step") or entry["action"] not in ENDS or self._races(entry["path"]):
                continue
            if entry["action"] == "answered" and is_vote(entry) and entry.get("at") == entry["step"]:
                continue
            frame = f"{entry['path']} (end)" if is_settlement(entry) else entry.get("frame", "")
            steps = self.done[name, frame]
            steps.append((entry["path"], entry["action"] == "failed"))
            if self.order is not None and list(self.order.get((name, frame), ()))[: len(steps)] != steps:
                self._blame(f"T3 the steps of {name}:{frame} are {[path for path, _ in steps]}")

    def _races(self, path: str) -> bool:
        return any(path == race or path.startswith((f"{race}/", f"{race}[")) for race in self.racing)

    def may_perform(self, effect: Effect) -> bool:
        """Whether an effect happens under the current lease. One that happens under an older one was about to happen
        when the lease was lost: in each lane one may be."""
        name = effect.execution_id
        process = next(process for process in self.processes if process.life == effect.life)
        token, row = process.token, self.rows[name]
        if token == row.generation and row.owner == process.owner:
            return True
        if token is None or token == row.generation:
            self._blame(f"T8 {process.owner} performed {effect.path} of {name} without a lease")
            return False
        self._late[effect.life, name, token, effect.lane] += 1
        if self._late[effect.life, name, token, effect.lane] > 1:
            self._blame(f"T8 {process.owner} went on with {effect.path} of {name} after it had lost its lease")
        return False


def _under_way(row: Row) -> bool:
    status = Status(row.status)
    return not status.over and row.parent_id is None and (row.owner is not None or status is Status.RUNNING)


def _end(row: Row) -> Any:
    return row.status, row.version, row.seq, row.result_seq, row.finished_at
