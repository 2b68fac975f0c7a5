"""`Interleaver`: two workers and a client on one store, in every order in which they can do things."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random  # noqa: TID251 - of seeds that are given
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from durable_flow import (
    ConflictError,
    ExecutionNotFound,
    ExecutionResult,
    Halt,
    Runner,
    Status,
    Store,
    Worker,
    open_store,
)
from durable_flow.testing.clock import FakeClock, SkippingLoop
from durable_flow.testing.ground import CENTURY, MEMORY
from durable_flow.testing.ledger import Lanes, nodes
from durable_flow.testing.oracle import scrubbed
from durable_flow.testing.process import Item, Process
from durable_flow.testing.referee import Order, Referee
from durable_flow.testing.scenario import Answer, Cancel, Move, Scenario, Send
from durable_flow.testing.schedule import Schedule, Turn
from durable_flow.testing.store import at_once
from durable_flow.testing.story import TTL
from durable_flow.testing.trail import Fold

WORKERS = "AB"
CLIENT = "C"

TICKS = 20
"""How often the time of a lease may pass until everything is over, once nothing goes wrong any more."""

LONGEST, IDLE = 400, 40
"""After how many moves, or moments in which nobody can do anything, a schedule calms down that does not say when."""

ENOUGH = 20_000
"""Moves after which the processes keep each other busy without getting anywhere."""

PAUSE = 5.0
"""Seconds between two looks of somebody who has nothing to do before something happens."""

DEVIATIONS = ("switch", "tick", "kill")
"""What an exhaustive search puts everywhere."""

HOUR = 3600.0


class Interleaving(msgspec.Struct):
    """What came of one schedule. `schedule` is as it was played: without moves that were none. `options` are, for every
    move, the deviations that would have made a difference."""

    schedule: Schedule
    trace: list[str]
    problems: list[str]
    options: list[tuple[str, ...]]
    order: Order
    statuses: Mapping[str, str]
    referee: Referee
    shut_out: bool
    """Whether a process was kept from writing something because its lease had been lost."""

    @property
    def hash(self) -> str:
        """What the trace comes to: the same for the same schedule."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


class Failure(msgspec.Struct):
    """A schedule and what was wrong with it."""

    scenario: str
    schedule: Schedule
    problems: list[str]
    trace: list[str]
    seed: int | None = None

    def __str__(self) -> str:
        told = "\n".join(f"  {problem}" for problem in self.problems)
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.scenario}{seed}, schedule: {self.schedule}\n{told}\n" + "\n".join(self.trace)


class Tally(msgspec.Struct):
    """`cases` were played, `bad` of them broke a rule; in `shut_out` of them somebody came too late to write."""

    cases: int = 0
    bad: list[Failure] = []
    shut_out: int = 0

    def add(self, other: Tally) -> None:
        """Takes over what another tally counted."""
        self.cases += other.cases
        self.bad += other.bad
        self.shut_out += other.shut_out

    def __str__(self) -> str:
        return f"{self.cases:,} schedules / {len(self.bad)} bad / {self.shut_out:,} with somebody shut out"

    def raise_for_bad(self) -> None:
        """Raises AssertionError with the first bad schedule, if there is one."""
        if self.bad:
            raise AssertionError(f"{self}\n{self.bad[0]}")


Chooser = Callable[["Contest", int], Turn | None]
"""Says what deviates from the default at a move."""


class Contest:
    """One schedule that is played. Must run on a `SkippingLoop`."""

    def __init__(
        self,
        scenario: Scenario,
        store: Store,
        *,
        choose: Chooser,
        reference: Interleaving | None,
        cancelling: bool,
        answering: str,
        ticks: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SkippingLoop)
        self.loop = loop
        self.world = loop.clock
        self.scenario = scenario
        self.store = store
        self.choose = choose
        self.reference = reference
        self.cancelling = cancelling
        self.answering = answering
        self.ticks = ticks
        self.services = scenario.services(self.world)
        self.lanes = Lanes([scenario.workflow, *scenario.others], beside=scenario.beside)
        self.options: dict[str, Any] = {
            "lease_ttl": TTL, "grace": 0.0, "max_recoveries": 1000, "gates": scenario.gates(self.world),
            **scenario.options,
        }  # fmt: skip
        self.ttl: float = self.options["lease_ttl"]
        self.referee = Referee(
            store, self.world, order=None if reference is None else reference.order, racing=scenario.racing,
            limits={} if scenario.queue is None else {scenario.queue: scenario.limit},
        )  # fmt: skip
        self.processes: dict[str, Process] = {}
        self.present = WORKERS[0]
        self.lives = 0
        self.played: dict[int, Turn] = {}
        self.possible: list[tuple[str, ...]] = []
        self.trace: list[str] = []
        self.problems: list[str] = []
        self.skewed = False
        self.idle = 0
        self.sweeping = False

    @property
    def names(self) -> str:
        return WORKERS + CLIENT if self.cancelling or CLIENT in self.answering else WORKERS

    # -- the whole -----------------------------------------------------------------------------------------------------

    async def play(self) -> Interleaving:
        """Every move, then until everything is over; what came of it."""
        self.loop.set_exception_handler(lambda loop, context: None)
        try:
            for queue, most in self.referee.limits.items():
                await self.store.set_queue(queue, "declared", f"[{most},null,1.0]")
            for name in self.names:
                await self._begin(name)
            await self.loop.rest()
            for number in range(1, LONGEST + 1):
                turn = self.choose(self, number)
                if turn is not None and turn.verb == "calm":
                    self.played[number] = turn
                    break
                self.possible.append(self._deviations())
                if turn is not None and self._do(turn):
                    self.played[number] = turn
                    self.idle = 0
                else:
                    self._go_on()
                await self.loop.rest()
                if self._over() or self.idle == IDLE:
                    break
            await self._calm()
            self._judge()
        finally:
            await self._bury()
        referee = self.referee
        return Interleaving(
            schedule=Schedule(self.played),
            trace=self.trace,
            problems=self.problems + referee.wrong,
            options=self.possible,
            order=referee.done,
            statuses={name: row.status for name, row in referee.rows.items()},
            referee=referee,
            shut_out=referee.shut_out,
        )

    async def _begin(self, name: str) -> None:
        self.lives += 1
        process = Process(
            name, self.lives, self.scenario, world=self.world, inner=self.store, listener=self.referee,
            ledger=self.referee.effects, lanes=self.lanes, services=self.services, options=self.options,
        )  # fmt: skip
        self.processes[name] = process
        self.referee.processes.append(process)
        await process.runtime.__aenter__()
        worker = self.scenario.worker and name != CLIENT
        if worker:
            process.tasks.append(self.loop.create_task(Worker(process.runtime).run(), name=f"{name} worker"))
        if name == CLIENT:
            work = self._client(process)
        elif worker and name != WORKERS[0]:
            return
        elif name != WORKERS[0] and self.scenario.restart == "recover":
            work = self._recoverer(process)
        else:
            work = self._starter(process)
        process.driver = self.loop.create_task(self._drive(process, work), name=f"{name} driver")
        process.tasks.append(process.driver)

    async def _bury(self) -> None:
        """No task is left."""
        for process in self.referee.processes:
            process.die()
        here = asyncio.current_task()
        for _ in range(100):
            left = [task for task in asyncio.all_tasks(self.loop) if task is not here]
            if not left:
                return
            for task in left:
                task.cancel()
            await self.loop.rest()
        self.problems.append("O8 tasks cannot be ended")

    # -- moves ---------------------------------------------------------------------------------------------------------

    def able(self, *, other: bool = False) -> str | None:
        """The process that moves next if nothing deviates; with `other`, if the present one does not."""
        names = self.names
        start = names.index(self.present)
        for step in range(1 if other else 0, len(names)):
            name = names[(start + step) % len(names)]
            if self.processes[name].able:
                return name
        return None

    def _deviations(self) -> tuple[str, ...]:
        found = ["tick"]
        if self.able() == self.present and self.able(other=True) is not None:
            found.append("switch")
        if self.processes[self.present].alive:
            found.append("kill")
        return tuple(found)

    def _go_on(self) -> None:
        """What happens if nothing deviates: who moved last moves on, else another one, else time passes."""
        name = self.able()
        if name is None:
            self.idle += 1
            self._pass("tick/3", self.ttl / 3)
        else:
            self._run(name)

    def _run(self, name: str, number: int = 1) -> None:
        self.present = name
        items = self.processes[name].clock.items
        item = self.processes[name].ready[number - 1]
        items.remove(item)
        self._note(name, item)
        item.act()

    def _note(self, name: str, what: Item | str) -> None:
        self.trace.append(f"{len(self.trace) + 1:4d} {name} {what}")

    def _pass(self, told: str, seconds: float) -> None:
        self._note("-", told)
        self.world.jump(seconds)
        for process in self.processes.values():
            process.ring(self.ttl * 0.9)

    def _do(self, turn: Turn) -> bool:
        """Makes a move that deviates; False where it cannot be made."""
        if turn.verb == "tick":
            self._pass("tick", self.ttl + 1)
            return True
        if turn.verb == "tick/3":
            self._pass("tick/3", self.ttl / 3)
            return True
        if turn.verb == "switch":
            name = self.able(other=True)
            if name is None:
                return False
            self._run(name)
            return True
        name = turn.process or self.present
        process = self.processes.get(name)
        if process is None:
            return False
        match turn.verb:
            case "run" if process.able and len(process.ready) >= turn.number:
                self._run(name, turn.number)
                return True
            case "kill" if process.alive:
                process.die()
            case "restart" if not process.alive:
                self._restart(name)
            case "leave" if process.alive and not process.leaving and not process.stalled:
                self._leave(process)
            case "stall" if process.alive and not process.stalled:
                process.stalled = True
            case "wake" if process.stalled:
                process.stalled = False
            case "skew":
                process.clock.off += turn.seconds
                self.skewed = True
            case "drop" if (lost := next((item for item in process.ready if item.kind == "heard"), None)) is not None:
                lost.cancel()
            case _:
                return False
        self._note("-", f"{turn.verb} {name}")
        if turn.verb == "kill" and not any(self.processes[other].alive for other in WORKERS):
            other = next(worker for worker in WORKERS if worker != name) if name in WORKERS else WORKERS[0]
            self._note("-", f"restart {other}")
            self._restart(other)
        return True

    def _restart(self, name: str) -> None:
        at_once(self._begin(name))

    def _leave(self, process: Process) -> None:
        """The process ends in order, and is gone then."""
        process.leaving = True

        async def leave() -> None:
            for task in process.tasks:
                task.cancel()
            await process.runtime.close()
            process.die()

        self.loop.create_task(leave(), name=f"{process.name} leaves")

    # -- what the processes are for ------------------------------------------------------------------------------------

    async def _drive(self, process: Process, work: Any) -> None:
        try:
            await work
        except ConflictError as error:
            if not process.leaving:
                self.problems.append(f"O1 {process.owner} got {type(error).__name__}: {error}")
        except Exception as error:
            self.problems.append(f"O1 {process.owner} got {type(error).__name__}: {error}")

    def _runner(self, process: Process) -> Runner:
        return process.runtime.runner(self.scenario.workflow)

    def _returned(self, process: Process, result: ExecutionResult) -> bool:
        """Whether a call returned the end; it must be that of the row."""
        row = self.referee.rows[result.execution_id]
        if result.status.over and result.status != row.status:
            self.problems.append(f"O1 {process.owner} was told {result.status} where the row is {row.status}")
        return result.status.over

    async def _starter(self, process: Process) -> None:
        scenario = self.scenario
        if scenario.queue is not None:
            await self._queuer(process, scenario.queue)
            return
        while True:
            result = await self._runner(process).run(scenario.input, execution_id=scenario.execution_id)
            if self._returned(process, result):
                return
            await self._about(process, result)

    async def _queuer(self, process: Process, queue: str) -> None:
        """Puts executions into a queue, and waits for their ends."""
        scenario = self.scenario
        background = process.runtime.background(scenario.workflow)
        names = [scenario.execution_id, *(f"{scenario.execution_id}{number}" for number in range(2, scenario.many + 1))]
        for name in names:
            await background.run(scenario.input, execution_id=name, queue=queue)
        for name in names:
            while not self._returned(process, await self._runner(process).result(name)):
                await process.clock.sleep(PAUSE)

    async def _recoverer(self, process: Process) -> None:
        while True:
            try:
                result = await self._runner(process).recover(self.scenario.execution_id)
            except (ConflictError, ExecutionNotFound):
                await process.clock.sleep(PAUSE)
                continue
            if self._returned(process, result):
                return
            await self._about(process, result)

    async def _client(self, process: Process) -> None:
        runner, name = self._runner(process), self.scenario.execution_id
        while True:
            try:
                result = await runner.result(name)
                if result.status.over:
                    return
                if self.cancelling:
                    result = await runner.cancel(name, by="client")
                    if not result.status.over:
                        self.problems.append(f"O1 {process.owner} cancelled {name}, which is {result.status}")
                    self._returned(process, result)
                    return
                for wait, move in self.scenario.moves.items():
                    if isinstance(move, Send):
                        await self._send(runner, wait, move)
            except (ConflictError, ExecutionNotFound):
                await process.clock.sleep(PAUSE)
                continue
            await self._about(process, result)

    async def _about(self, process: Process, result: ExecutionResult) -> None:
        """What a process does about an execution that waits: answers it, or waits for others to do so."""
        if process.name in self.answering:
            for halt in result.halts:
                move = self._move(halt)
                if move is None:
                    continue
                try:
                    await self._answer(process, halt, move)
                except ConflictError:
                    continue
                return
        await process.clock.sleep(PAUSE)

    def _move(self, halt: Halt) -> Move | None:
        given = self.scenario.moves.get(halt.step_id)
        moves = [given] if given is None or isinstance(given, Move) else list(given)
        return moves[min(self.referee.answers[halt.wait_id], len(moves) - 1)]

    async def _answer(self, process: Process, halt: Halt, move: Move) -> None:
        runner, name = self._runner(process), self.scenario.execution_id
        match move:
            case Answer(arguments):
                self._returned(process, await runner.resume(name, wait_id=halt.wait_id, **arguments))
            case Cancel(by):
                self._returned(process, await runner.cancel(name, by=by))
            case Send():
                await self._send(runner, halt.step_id, move)
                await process.clock.sleep(PAUSE)
            case _:
                await process.clock.sleep(PAUSE)  # time does it

    async def _send(self, runner: Runner, step: str, move: Send) -> None:
        """Sends a signal, once."""
        if step not in self.referee.heard_of:
            await runner.signal(self.scenario.execution_id, move.name, move.payload, by=step)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _over(self) -> bool:
        rows = self.referee.rows
        return (
            bool(rows)
            and all(Status(row.status).over for row in rows.values())
            and all(
                process.driver is None or process.driver.done()
                for process in self.processes.values()
                if process.alive and not process.leaving
            )
        )

    async def _calm(self) -> None:
        """Nothing goes wrong any more: who is dead is replaced, who sleeps wakes up, all move in turn, and time passes
        when nobody can move. Then it is soon over."""
        self._note("-", "calm")
        moves = ticks = 0
        while True:
            for name in self.names:
                self.processes[name].stalled = False
                if not self.processes[name].alive:
                    await self._begin(name)
            await self.loop.rest()
            while (present := self.able(other=True) or self.able()) is not None:
                self._run(present)
                await self.loop.rest()
                moves += 1
                if moves == ENOUGH:
                    self.problems.append(f"O9 not over after {moves} moves; {self._waiting()}")
                    return
            if self._over():
                return
            self._sweep()
            if ticks == self.ticks:
                self.problems.append(f"O9 not over after {ticks} ticks; {self._waiting()}")
                return
            ticks += 1
            self._pass("tick", max(self.ttl + 1, HOUR if self.skewed else 0.0))

    def _sweep(self) -> None:
        """What no caller waits for any more is for a worker to end: there is one, from then on."""
        process = next((process for process in self.processes.values() if not process.leaving), None)
        main = self.referee.rows.get(self.scenario.execution_id)
        if process is None or main is None or self.sweeping or self.scenario.worker:
            return
        if Status(main.status).over:
            self.sweeping = True
            self._note(process.name, "works")
            process.tasks.append(self.loop.create_task(Worker(process.runtime).run(), name="sweeper"))

    def _waiting(self) -> str:
        """What everybody waits for."""
        now = self.world.now()
        told = []
        for name, row in self.referee.rows.items():
            if not Status(row.status).over:
                waits = [msgspec.json.decode(body)["wait_id"] for body in row.waits]
                wake = None if row.wake_at is None else row.wake_at - now
                lease = None if row.lease_until is None else row.lease_until - now
                told.append(
                    f"{name} is {row.status} at {row.current_step}, of {row.owner} for {lease} s, due in {wake} s, "
                    f"waits for {waits or 'nothing'}"
                )
        for process in self.processes.values():
            wants = "; ".join(str(item) for item in process.ready) or f"its timers, in {process.clock.sleeping} s"
            told.append(f"{process.owner} waits for {wants}")
        return " | ".join(told) or "there is no execution"

    def _judge(self) -> None:
        referee, reference, scenario = self.referee, self.reference, self.scenario
        name = scenario.execution_id
        expected = None if reference is None else reference.referee.effects.counts()
        statuses = {other: row.status for other, row in referee.rows.items()}
        cancelled = self.cancelling and statuses.get(name) == Status.CANCELLED
        once = self._at_most_once()
        for told in referee.effects.problems(expected, racing=scenario.racing):
            lost = told.startswith("O4")
            if not lost or not (cancelled or any(told.startswith(f"O4 {effect} ") for effect in once)):
                self.problems.append(told)
        if reference is None or cancelled:
            return
        if statuses != reference.statuses:
            self.problems.append(f"O1 statuses are {statuses} instead of {dict(reference.statuses)}")
        for other, fold in referee.folds.items():
            theirs = reference.referee.folds.get(other)
            ours, expected_ones = self._variables(fold), {} if theirs is None else self._variables(theirs)
            if ours != expected_ones:
                self.problems.append(f"O1 variables of {other}: {ours} instead of {expected_ones}")
        if not self.problems and not referee.wrong and referee.done != reference.order:
            self.problems.append(f"T3 steps that ended: {dict(referee.done)} instead of {dict(reference.order)}")

    def _variables(self, fold: Fold) -> Any:
        racing = {f"approvals.{race.rpartition('/')[2]}" for race in self.scenario.racing}
        return {name: scrubbed(value) for name, value in fold.variables().items() if name not in racing}

    def _at_most_once(self) -> list[str]:
        """The effects that may have been left out, to be sure that none happened twice."""
        steps = {
            node["id"]
            for workflow in (self.scenario.workflow, *self.scenario.others)
            for node in nodes(workflow.document)
            if node.get("delivery") == "at_most_once"
        }
        effects = self.reference.referee.effects if self.reference is not None else self.referee.effects
        once = [key for key in effects.counts() if key[1].rpartition("/")[2].partition("#")[0] in steps]
        for name, path in once:
            if (times := self.referee.effects.counts()[name, path]) > 1:
                self.problems.append(f"T8 {name}:{path} happened {times} times, and was to happen once at most")
        return [f"{name}:{path}" for name, path in once]


class Interleaver:
    """Plays a scenario with two workers, A and B, and with a client C where one answers (is in `answering`) or cancels.

    Each is a process with a `Runtime` of its own on one store. A starts the execution and drives it; B takes over with
    `Runner.recover`, or with `run` if that is the scenario's `restart`; with `worker` there is a `Worker` in both. One
    does one thing at a time, and a `Schedule` says who is next: so every interleaving can be played, and played again.
    After every move the rules of `durable_flow.testing.referee` must hold; in the end it must be over within `ticks`,
    and be what it is without deviations.

    `make` makes the store, whose operations must be done at once: ``df.open_store("sqlite://:memory:")`` unless given.

    >>> import durable_flow as df
    >>> workflow = df.load({"id": "pay", "name": "Pay", "steps": [
    ...     {"id": "charge", "type": "call", "service": "Bank", "method": "charge", "output": "result"}]})
    >>> from durable_flow.testing import Scripted
    >>> services = lambda clock: {"Bank": Scripted(clock, charge="paid")}
    >>> with Interleaver(Scenario(name="pay", workflow=workflow, services=services)) as interleaver:
    ...     interleaver.seeds(range(20))
    ...     len(interleaver.tally.bad)
    ...     interleaver.play(Schedule.parse("5 switch, 6 tick, 20 calm")).problems
    0
    []
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        make: Callable[[], Store] | None = None,
        cancelling: bool = False,
        answering: str = WORKERS,
        skewed: bool = False,
        ticks: int = TICKS,
    ) -> None:
        self.scenario = scenario
        self.cancelling = cancelling
        self.answering = answering
        self.skewed = skewed
        self.ticks = ticks
        self.tally = Tally()
        self.clock = FakeClock()
        self._runner = asyncio.Runner(loop_factory=lambda: SkippingLoop(self.clock))
        self._store = make() if make is not None else open_store(MEMORY)
        try:
            self._runner.run(self._store.open())
            self.reference: Interleaving | None = None
            self.reference = self._reference()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the store. Nothing can be played any more."""
        with self._runner as runner:
            runner.run(self._store.close())

    def _reference(self) -> Interleaving:
        reference = self.play(Schedule())
        self.count(reference)
        return reference

    # -- single schedules ----------------------------------------------------------------------------------------------

    def play(self, schedule: Schedule) -> Interleaving:
        """What comes of a schedule. It is not counted."""
        return self._play(lambda contest, number: schedule.turns.get(number))

    def sown(self, seed: int) -> Interleaving:
        """What comes of the random schedule with this number."""
        rng = random.Random(f"{self.scenario.name} {seed}")
        last = rng.randint(12, 60)
        return self._play(lambda contest, number: self._random(contest, rng) if number < last else Turn("calm"))

    def _play(self, choose: Chooser) -> Interleaving:
        loop = self._runner.get_loop()
        assert isinstance(loop, SkippingLoop)
        loop.clock = self._store.clock = FakeClock()

        async def main() -> Interleaving:
            try:
                return await Contest(
                    self.scenario, self._store, choose=choose, reference=self.reference, ticks=self.ticks,
                    cancelling=self.cancelling and self.reference is not None, answering=self.answering,
                ).play()  # fmt: skip
            finally:
                await self._empty(loop.clock)

        return self._runner.run(main())

    async def _empty(self, clock: FakeClock) -> None:
        """Deletes everything, by a clock on which nobody has a lease any more."""
        self._store.clock = FakeClock(clock.now() + CENTURY)
        for name in await self._store.execution_ids():
            await self._store.delete(name)

    def _random(self, contest: Contest, rng: random.Random) -> Turn | None:
        """Any move that can be made: mostly that somebody does something."""
        names = contest.names
        roll = rng.random()
        for share, turn in self._shares(contest, rng.choice(names)):
            roll -= share
            if roll < 0:
                return turn
        able = [name for name in names if contest.processes[name].able]
        if not able or rng.random() < 0.4:
            return None
        name = rng.choice(able)
        count = len(contest.processes[name].ready)
        number = rng.randint(1, min(count, 4)) if rng.random() < 0.3 else 1
        return None if number == 1 and name == contest.able() else Turn("run", name, number)

    def _shares(self, contest: Contest, name: str) -> Iterator[tuple[float, Turn]]:
        process = contest.processes[name]
        yield 0.12, Turn("tick")
        yield 0.06, Turn("tick/3")
        if process.alive:
            yield 0.03, Turn("kill", name)
            yield 0.02, Turn("leave", name)
            if process.stalled:
                yield 0.20, Turn("wake", name)
            else:
                yield 0.05, Turn("stall", name)
            if any(item.kind == "heard" for item in process.ready):
                yield 0.05, Turn("drop", name)
            if self.skewed:
                yield 0.03, Turn("skew", name, seconds=HOUR)
                yield 0.03, Turn("skew", name, seconds=-HOUR)
        else:
            yield 0.25, Turn("restart", name)

    # -- many of them --------------------------------------------------------------------------------------------------

    def count(self, played: Interleaving, *, seed: int | None = None) -> None:
        """Puts what came of a schedule into the tally."""
        self.tally.cases += 1
        self.tally.shut_out += played.shut_out
        if played.problems:
            self.tally.bad.append(Failure(self.scenario.name, played.schedule, played.problems, played.trace, seed))

    def seeds(self, numbers: Iterable[int], *, most: int | None = None) -> None:
        """Plays random schedules; stops after `most` bad ones."""
        for seed in numbers:
            self.count(self.sown(seed), seed=seed)
            if most is not None and len(self.tally.bad) >= most:
                return

    def schedules(self, depth: int, *, points: int = 20) -> Iterator[Schedule]:
        """Every placement of at most `depth` deviations in the first so many moves; some make no difference."""
        for count in range(depth + 1):
            for places in itertools.combinations(range(1, points + 1), count):
                for verbs in itertools.product(DEVIATIONS, repeat=count):
                    turns = {place: Turn(verb) for place, verb in zip(places, verbs, strict=True)}
                    yield Schedule({**turns, points + 1: Turn("calm")})

    def exhaust(self, depth: int, *, points: int = 20, part: int = 0, parts: int = 1) -> None:
        """Plays every placement of at most `depth` deviations in the first so many moves: each that makes a difference
        once. Of `parts` it plays one."""
        waiting = [(0, Schedule({points + 1: Turn("calm")}))]
        first = 0
        while waiting:
            last, schedule = waiting.pop()
            played = self.play(schedule)
            if last or part == 0:
                self.count(played)
            if len(schedule) > depth:
                continue
            for place, verbs in enumerate(played.options[last:points], last + 1):
                for verb in verbs:
                    first += not last
                    if last or first % parts == part:
                        waiting.append((place, schedule.with_turn(place, verb)))

    def smallest(self, failure: Failure) -> Failure:
        """The failure made smaller: deviations that are not needed dropped, the others as early as it stays bad."""
        shrunk = True
        while shrunk:
            shrunk = False
            for smaller in failure.schedule.smaller():
                played = self.play(smaller)
                if played.problems:
                    failure = Failure(failure.scenario, smaller, played.problems, played.trace)
                    shrunk = True
                    break
        return failure
