"""Whatever is done in whatever order, what is seen is what the reference model says.

Two processes work on one store. Each rule does one thing to them, and to the model; then everything that can be seen
is compared: what was raised, status, waits, variables, votes, output, error, and how often each effect happened.
`python -m tests.reliability.sequences --runs 10000` is the long form.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import durable_flow as df
from durable_flow.engine import LINGER
from durable_flow.model.frame import Message
from durable_flow.runners.worker import PROBATION
from durable_flow.stores.base import Appended, Blob
from durable_flow.testing.trail import Fold, decoded
from tests.engine.aid import Clock, Dead, Ids, Wire, idle
from tests.reliability.model import DEAD, FLOWS, Twin, World
from tests.reliability.table import Case, Table

TTL = 30.0
STEP = 1.0
"""Seconds of the clock between two looks."""

LATE = 3.0
"""Seconds after its lease in which an execution of a dead process must be taken over, where somebody cares."""

NAMES = ("A", "B")
SLOTS = ("e1", "e2")


class Post(Wire):
    """The connection of a process, which keeps what was posted."""

    def __init__(self, store: df.Store, posted: list[tuple[Message, Blob]]) -> None:
        super().__init__(store)
        self.posted = posted

    async def append(self, message: Message, body: Blob) -> Appended:
        appended = await super().append(message, body)
        if appended.outcome == "accepted":
            self.posted.append((message, body))
        return appended


class Service:
    """Does what the mood says, and counts."""

    def __init__(self) -> None:
        self.mood = "fine"
        self.effects: Counter[str] = Counter()
        self.deadlines: dict[str, float | None] = {}
        self.waiting: list[asyncio.Future[bool]] = []

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)

        async def act(value: Any, *, context: df.StepContext) -> Any:
            self.effects[context.idempotency_key] += 1
            self.deadlines[context.execution_id] = context.deadline
            fine = self.mood == "fine"
            if self.mood == "hangs":
                self.waiting.append(held := asyncio.get_running_loop().create_future())
                fine = await held
            if not fine:
                raise ValueError("out of order")
            return value

        return act

    def release(self, *, fine: bool) -> None:
        for held in self.waiting:
            if not held.done():
                held.set_result(fine)
        self.waiting.clear()


class Process:
    """A runtime, the calls made in it, and a worker where one is on."""

    def __init__(self, wire: Post, runtime: df.Runtime) -> None:
        self.wire = wire
        self.runtime = runtime
        self.calls: dict[int, asyncio.Task[Any]] = {}
        self.worker: df.Worker | None = None
        self.working: asyncio.Task[None] | None = None

    @property
    def owner(self) -> str:
        return self.runtime.engine.owner

    async def end(self) -> None:
        tasks = [*self.calls.values(), *([self.working] if self.working else [])]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(BaseException):
                await task
        with suppress(Dead):
            await self.runtime.close()


process = st.sampled_from(NAMES)
which = st.integers(0, 3)
moods = st.sampled_from(["fine", "fails", "hangs"])
flows = st.sampled_from(sorted(FLOWS))
people = st.sampled_from(["ann", "bob", "cid", "ann", "bob", "cid", "eve", None])
answers = st.one_of(
    st.builds(lambda value: {"response": value}, st.sampled_from([1, "text", None, False, {"approved": True}])),
    st.builds(lambda approved, by: {"approved": approved, "by": by}, st.sampled_from([True, True, False]), people),
    st.builds(lambda by: {"approved": "true", "by": by}, people),
)


class Sequences(RuleBasedStateMachine):
    """Rules of callers, services, processes and time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.ids = Ids()
        self.service = Service()
        self.posted: list[tuple[Message, Blob]] = []
        self.numbers = 0
        self.named = 0
        self.model = World(self.clock.now())
        self.processes: dict[str, Process] = {}
        self.taken: dict[str, int] = {}
        self.play(self.open())

    def play(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def open(self) -> None:
        self.store = df.open_store("sqlite://:memory:")
        self.store.clock = self.clock
        await self.store.open()
        for name in NAMES:
            await self.begin(name)

    async def begin(self, name: str) -> None:
        wire = Post(self.store, self.posted)
        runtime = df.Runtime(
            wire,
            workflows=list(DEFINITIONS.values()),
            services={"desk": self.service},
            clock=self.clock,
            ids=self.ids,
            grace=0.0,
            lease_ttl=TTL,
            max_recoveries=1000,
        )
        await runtime.__aenter__()
        self.processes[name] = Process(wire, runtime)

    def teardown(self) -> None:
        try:
            self.play(self.close())
        finally:
            self.loop.close()

    async def close(self) -> None:
        for name in self.model.all:
            stored = await self.store.fetch(name)
            assert stored is not None
            fold = Fold()
            for seq, entry in decoded(await self.store.read(name)):
                fold.add(seq, entry)
            assert not fold.differences(stored), f"{name}: {fold.differences(stored)}"
        for process in self.processes.values():
            await process.end()
        await self.store.close()

    # -- one rule ------------------------------------------------------------------------------------------------------

    def twin(self, number: int) -> Twin:
        return self.twins[number % len(self.twins)]

    def call(
        self,
        name: str,
        twin: Twin | None,
        flow: str,
        refused: type[Exception] | None,
        make: Callable[[df.Runner], Coroutine[Any, Any, Any]],
        *,
        follows: bool = True,
    ) -> None:
        """Makes a call in a process, which must raise what the model says, or be under way."""

        async def work() -> None:
            process = self.processes[name]
            self.numbers += 1
            task = self.loop.create_task(make(process.runtime.runner(flow)))
            process.calls[self.numbers] = task
            await idle()
            if refused is not None:
                assert task.done(), f"it should have raised {refused.__name__}, and waits"
                error = task.exception()
                assert type(error) is refused, f"it should have raised {refused.__name__}: {error or task.result()!r}"
                del process.calls[self.numbers]
            elif twin is not None:
                twin.callers[self.numbers] = follows
            await self.check()

        self.play(work())

    async def check(self) -> None:
        """What is seen is what the model says."""
        await idle()
        if self.model.workers:
            await self.clock.advance(0.1)
        self.model.pass_to(self.clock.now())
        while True:
            await self.observe()
            if self.model.pass_to(self.clock.now()) < self.clock.now() - 0.2 and not self.unsettled():
                break
            await self.clock.advance(0.25)
            self.model.pass_to(self.clock.now())
        for twin in self.model.all.values():
            await self.compare(twin)
            self.returned(twin)
            twin.seen = {twin.status}

    def unsettled(self) -> bool:
        """Whether something is just about to happen."""
        return any(
            (twin.owner == DEAD and self.model.attended(twin) and self.model.free(twin)) or self.lingers(twin)
            for twin in self.twins
        )

    def lingers(self, twin: Twin) -> bool:
        """Whether it may be kept in memory, because what it waits for is only a moment away."""
        ends = [wait.due - self.clock.now() for wait in twin.waits.values() if wait.over_by_time and wait.due]
        return any(-0.3 < left < LINGER + 0.3 for left in ends)

    @property
    def twins(self) -> list[Twin]:
        return list(self.model.all.values())

    async def observe(self) -> None:
        """Who drives what, and since when: the model does not say, but it says who must not."""
        owners = {process.owner: name for name, process in self.processes.items()}
        for twin in self.twins:
            row = await self.store.row(twin.id)
            assert row is not None, f"{twin.id} is not stored"
            if twin.owner == DEAD and row.owner is None and row.generation > self.taken[twin.id] and row.recoveries > 1:
                # A worker gave it back: it looks at one at a time of those that may be what kills their processes.
                assert self.model.workers, f"{twin.id} was given back by nobody"
                self.taken[twin.id], twin.lease = row.generation, self.clock.now() + PROBATION
            elif twin.owner == DEAD and row.generation > self.taken[twin.id]:
                assert self.model.attended(twin), f"{twin.id} was taken over by nobody"
                assert self.model.free(twin), f"{twin.id} was taken over before its lease ran out"
                self.model.nudge(twin)
            elif twin.owner == DEAD and self.model.attended(twin) and twin.lease is not None:
                assert self.clock.now() < twin.lease + LATE, f"{twin.id} is not taken over"
            if twin.owner != DEAD:
                self.taken[twin.id] = row.generation
                if twin.flying and twin.owner is not None:
                    assert row.owner in owners, f"{twin.id} should be driven, and its owner is {row.owner}"
                    twin.owner = owners[row.owner]
                    twin.due = nearly(twin.due, self.service.deadlines[twin.id], twin.id)
                elif not self.lingers(twin):
                    assert row.owner is None, f"{twin.id} should be nobody's, and its owner is {row.owner}"

    async def compare(self, twin: Twin) -> None:
        seen = await self.store.load(twin.id)
        assert seen is not None
        kinds = {wait.path: wait.__struct_config__.tag for wait in seen.blocked_on}
        status = str(seen.status)
        told = (status, kinds, plain(seen.ctx), seen.error_info.type if seen.error_info else None)
        kept = (twin.status, {path: wait.kind for path, wait in twin.waits.items()}, twin.variables, twin.error)
        assert told == kept, f"{twin.id}: {told}, and the model says {kept}"
        assert plain(seen.result) == twin.output, f"{twin.id}: {seen.result}, and the model says {twin.output}"
        for wait in seen.blocked_on:
            asked = twin.waits[wait.path]
            assert wait.wait_id.partition("~")[0] == f"{twin.id}:{wait.path}"
            twin.ids[wait.path] = wait.wait_id
            asked.due = nearly(asked.due, wait.deadline.timestamp() if wait.deadline else None, wait.wait_id)
            if asked.kind == "approval":
                assert {vote.by: vote.approved for vote in wait.votes} == asked.votes, wait.wait_id
        effects = {key: count for key, count in self.service.effects.items() if key.partition(":")[0] == twin.id}
        assert effects == twin.effects, f"{twin.id}: {effects}, and the model says {dict(twin.effects)}"

    def returned(self, twin: Twin) -> None:
        """Calls that should have returned have, with a status that the execution had; the others have not."""
        for process in self.processes.values():
            for number in process.calls.keys() & twin.callers.keys():
                task = process.calls[number]
                if not task.done():
                    assert not twin.rests, f"a call for {twin.id} waits, which is {twin.status}"
                    continue
                result = task.result()
                assert result is None or result.status in twin.seen, f"{result.status} is not among {twin.seen}"
                assert result is None or result.status != "running"
                del process.calls[number], twin.callers[number]

    # -- callers -------------------------------------------------------------------------------------------------------

    @initialize(flow=flows, other=flows, mood=moods)
    def begin_two(self, flow: str, other: str, mood: str) -> None:
        self.change(mood)
        self.begin_with("A", SLOTS[0], flow, 1)
        self.begin_with("B", SLOTS[1], other, 1)

    @rule(name=process, slot=st.sampled_from(SLOTS), flow=flows, given=st.sampled_from([1, 1, 1, 2]))
    def start(self, name: str, slot: str, flow: str, given: int) -> None:
        if slot in self.model.all and given == 1:
            flow = self.model.all[slot].flow
        self.begin_with(name, slot, flow, given)

    def begin_with(self, name: str, slot: str, flow: str, given: int) -> None:
        refused = self.model.start(slot, flow, given)
        make = lambda runner: runner.run({"n": given}, execution_id=slot)  # noqa: E731
        self.call(name, self.model.all[slot], flow, refused, make)

    @precondition(lambda self: self.named < 1)
    @rule(name=process, flow=flows)
    def start_without_id(self, name: str, flow: str) -> None:
        self.named += 1
        refused = self.model.start(f"test-execution-{self.named}", flow, 1)
        twin = self.model.all[f"test-execution-{self.named}"]
        self.call(name, twin, flow, refused, lambda runner: runner.run({"n": 1}))

    @rule(name=process, number=which, by=people, times=st.sampled_from([1, 1, 2]), what=st.integers(0, 3))
    def help_on(self, name: str, number: int, by: str | None, times: int, what: int) -> None:
        """Whatever brings an execution on, perhaps twice."""
        twin = self.twin(number)
        path, wait = next(iter(twin.waits.items()), (None, None))
        if wait is None or path is None:
            if twin.status == "failed":
                self.order(name, number, "retry")
            elif twin.flying and twin.owner != DEAD:
                self.release(what != 0, self.model.mood)
            elif not twin.over:
                self.let_time_pass((8, 45, 45, 45)[what])
                self.order(name, number, "recover")
            return
        for _ in range(times):
            match wait.kind:
                case "halt":
                    self.resume(name, number, {"response": what}, path)
                case "approval":
                    self.resume(name, number, {"approved": what != 0, "by": by}, path)
                case "signal":
                    self.signal(name, number, what)
                case "timer" | "retry":
                    self.let_time_pass(14)
                    self.order(name, number, "recover")
                case _:
                    self.order(name, number, ("retry", "retry", "fail", "cancel")[what])

    # So often, because everything else only matters on the way.
    further_on = still_further_on = on_and_on = to_the_end = help_on

    @rule(name=process, number=which, answer=answers, path=st.sampled_from([None, 0, 0, 1, "wrong"]))
    def resume(self, name: str, number: int, answer: dict[str, Any], path: Any) -> None:
        twin = self.twin(number)
        open_ = list(twin.waits) or [twin.at]
        chosen = open_[path % len(open_)] if isinstance(path, int) else path
        given = {} if chosen is None else {"wait_id": twin.ids.get(chosen, f"{twin.id}:{chosen}")}
        refused = self.model.resume(twin, twin.flow, chosen, **answer)
        self.call(name, twin, twin.flow, refused, lambda runner: runner.resume(twin.id, **given, **answer))

    @rule(name=process, number=which, payload=st.integers(0, 9))
    def signal(self, name: str, number: int, payload: int) -> None:
        twin = self.twin(number)
        refused = self.model.signal(twin, twin.flow, payload)
        make = lambda runner: runner.signal(twin.id, "go", payload)  # noqa: E731
        self.call(name, twin, twin.flow, refused, make, follows=False)

    @rule(name=process, number=which, what=st.sampled_from(["cancel", "retry", "retry", "fail", "recover", "recover"]))
    def order(self, name: str, number: int, what: str) -> None:
        twin = self.twin(number)
        if what == "retry":
            self.posted[:] = [(message, body) for message, body in self.posted if message.execution_id != twin.id]
        refused = getattr(self.model, what)(twin, twin.flow)
        self.call(name, twin, twin.flow, refused, lambda runner: getattr(runner, what)(twin.id))

    @rule(name=process, number=which, what=st.sampled_from(["cancel", "retry", "fail", "recover", "result", "resume"]))
    def go_astray(self, name: str, number: int, what: str) -> None:
        """What is asked of the wrong workflow, or of an execution that there is not."""
        twin = self.twin(number)
        flow = "ask" if twin.flow != "ask" else "mail"
        self.call(name, None, flow, df.ConflictError, lambda runner: getattr(runner, what)(twin.id))
        self.call(name, None, "ask", df.ExecutionNotFound, lambda runner: getattr(runner, what)("nobody"))

    @rule(number=which)
    def give_up(self, number: int) -> None:
        """A caller is cancelled: what it drove is left to others."""
        twin = self.twin(number)
        if self.model.workers or len(twin.callers) != 1:
            return
        (call,) = twin.callers
        process = next(process for process in self.processes.values() if call in process.calls)

        async def work() -> None:
            task = process.calls.pop(call)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), "a cancelled call came to something else"
            twin.callers.clear()
            if twin.flying and twin.owner != DEAD:
                self.model.leave(twin)
            await self.check()

        self.play(work())

    # -- the world -----------------------------------------------------------------------------------------------------

    @rule(mood=moods)
    def change(self, mood: str) -> None:
        self.service.mood = self.model.mood = mood

    @precondition(lambda self: any(twin.flying for twin in self.model.all.values()))
    @rule(fine=st.sampled_from([True, True, False]), mood=moods)
    def release(self, fine: bool, mood: str) -> None:
        async def work() -> None:
            self.change(mood)
            self.model.release(fine=fine)
            self.service.release(fine=fine)
            await self.check()

        self.play(work())

    @rule(seconds=st.sampled_from([3, 8, 14, 22, 45]))
    def let_time_pass(self, seconds: int) -> None:
        async def work() -> None:
            for _ in range(seconds):
                await self.clock.advance(STEP)
                self.model.pass_to(self.clock.now())
                await self.observe()
            await self.check()

        self.play(work())

    @rule(seconds=st.sampled_from([14, 45, 130]))
    def sleep_through(self, seconds: int) -> None:
        """Where nobody takes care of anything, time may go by at once."""
        if any(self.model.attended(twin) or twin.callers for twin in self.twins if not twin.rests):
            return
        if self.model.workers:
            return

        async def work() -> None:
            await self.clock.leap(seconds)
            await self.check()

        self.play(work())

    @rule(name=process)
    def crash(self, name: str) -> None:
        """A process dies, and another one begins. What it drove is its own until the lease runs out."""

        async def work() -> None:
            process = self.processes[name]
            process.wire.cut = True
            await process.end()
            self.model.workers.discard(name)
            for twin in self.twins:
                for call in process.calls:
                    twin.callers.pop(call, None)
                if twin.flying and twin.owner == name:
                    row = await self.store.row(twin.id)
                    assert row is not None
                    assert row.lease_until is not None
                    assert self.clock.now() < row.lease_until <= self.clock.now() + TTL
                    twin.owner, twin.lease, twin.due = DEAD, row.lease_until, None
            await self.begin(name)
            await self.check()

        self.play(work())

    @precondition(lambda self: any(twin.flying and twin.owner in NAMES for twin in self.model.all.values()))
    @rule()
    def crash_in_flight(self) -> None:
        """A process dies while a service is at work for it."""
        self.crash(next(twin.owner for twin in self.twins if twin.flying and twin.owner in NAMES))

    @rule(name=process)
    def worker_on(self, name: str) -> None:
        async def work() -> None:
            process = self.processes[name]
            if process.worker is not None:
                return
            process.worker = df.Worker(process.runtime)
            process.working = self.loop.create_task(process.worker.run())
            self.model.workers.add(name)
            for twin in self.twins:
                self.model.nudge(twin)
            await self.check()

        self.play(work())

    @rule(name=process)
    def worker_off(self, name: str) -> None:
        async def work() -> None:
            process = self.processes[name]
            if process.worker is None or process.working is None or process.worker.active:
                return
            process.worker.stop()
            await self.clock.advance(0.1)
            assert process.working.done(), "a worker with nothing to do does not stop"
            process.worker = process.working = None
            self.model.workers.discard(name)
            await self.check()

        self.play(work())

    @precondition(lambda self: self.posted)
    @rule(number=st.integers(0, 20))
    def post_again(self, number: int) -> None:
        """A message arrives once more."""

        async def work() -> None:
            message, body = self.posted[-1 - number % len(self.posted)]
            if message.kind in ("signal", "cancel"):
                inbox = await self.store.inbox(message.execution_id)
                if all(msgspec.json.decode(found)["key"] != message.key for _, found in inbox):
                    return
            await self.store.append(message, body)
            self.store.heard(message.execution_id)
            await self.check()

        self.play(work())


DEFINITIONS = {name: df.load(flow) for name, flow in FLOWS.items()}


def nearly(expected: float | None, seen: float | None, what: str) -> float | None:
    """The time that was seen, if it is the expected one; what happened in between two looks is known to a second."""
    assert (expected is None) == (seen is None), f"{what}: it ends at {seen}, not at {expected}"
    assert expected is None or seen is None or abs(expected - seen) <= 2 * STEP, f"{what}: {seen}, not {expected}"
    return seen


def plain(variables: Any) -> Any:
    """Variables as the model tells them."""
    if not isinstance(variables, dict):
        return variables
    shown = {name: value for name, value in variables.items() if name != "result"}
    if "_last_error" in shown:
        shown["_last_error"] = shown["_last_error"]["class"]
    if "decision" in shown:
        votes = {vote["by"]: vote["approved"] for vote in shown["decision"]["votes"]}
        shown["decision"] = (shown["decision"]["approved"], votes)
    return shown


def explore(first: int, runs: int, rules: int, *, shrink: bool = True) -> None:
    """Plays so many sequences of so many rules; a seed always gives the same ones. Raises AssertionError with the
    shortest sequence that is not as the model says."""
    was = logging.root.manager.disable
    logging.disable()
    try:
        run_state_machine_as_test(
            seed(first)(type("Sequences", (Sequences,), {})),
            settings=settings(
                max_examples=runs,
                stateful_step_count=rules,
                database=None,
                deadline=None,
                phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
                print_blob=False,
            ),
        )
    except Exception as error:
        told = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
        raise AssertionError(
            "\n".join([*told, f"again: {AGAIN.format(seed=first, runs=runs, rules=rules)}"])
        ) from error
    finally:
        logging.disable(was)


AGAIN = ".venv/bin/python -m tests.reliability.sequences --seed {seed} --runs {runs} --rules {rules}"
CHUNK = 8
"""Runs of one seed: later ones resemble earlier ones, so that many seeds see more than many runs."""

RUNS, RULES = 200, 50
SHORT = 160, 40


def cases(full: bool) -> Iterable[Case]:
    first = secrets.randbelow(1_000_000) if full else 0
    runs, rules = (RUNS, RULES) if full else SHORT
    if full:
        TABLE.figures.append(f"sequences: {runs} runs of {rules} rules, from seed {first} on, {CHUNK} for each")
    for number in range(first, first + runs // CHUNK):
        name = f"{CHUNK} sequences of {rules} rules, seed {number}"
        yield Case(name, partial(explore, number, CHUNK, rules), weight=CHUNK)


TABLE = Table("whatever is done in whatever order, what is seen is what a short reference model says", cases)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.sequences", description=explore.__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rules", type=int, default=RULES)
    parser.add_argument("--seed", type=int, default=None, help="of the first runs; each batch has the next one")
    given = parser.parse_args()
    first = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    print(f"{given.runs:,} sequences of {given.rules} rules from seed {first}", flush=True)
    with ProcessPoolExecutor() as pool:
        counts = [min(CHUNK, given.runs - done) for done in range(0, given.runs, CHUNK)]
        alone = partial(explore, rules=given.rules, shrink=given.seed is not None)  # to make a case short takes minutes
        played = [pool.submit(alone, number, runs) for number, runs in enumerate(counts, first)]
        bad = 0
        for one in played:
            if (error := one.exception()) is not None:
                bad += 1
                print(error, flush=True)
    print(f"{given.runs:,} sequences, {bad} of {len(played)} batches bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
