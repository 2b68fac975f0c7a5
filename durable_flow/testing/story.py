"""One case of a crash test: processes that live and die on one store until the execution is over."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import msgspec

from durable_flow import (
    ConflictError,
    ExecutionNotFound,
    ExecutionResult,
    Halt,
    LeaseLost,
    Runner,
    Runtime,
    Store,
    StoreError,
    StoreUnavailable,
    Worker,
)
from durable_flow.testing.clock import SkippingLoop
from durable_flow.testing.ground import Ground
from durable_flow.testing.ids import CountedIds
from durable_flow.testing.ledger import Lanes, Ledger
from durable_flow.testing.points import Gate, Killed, Plan, Point, first_error
from durable_flow.testing.scenario import (
    Answer,
    Cancel,
    Decide,
    Expire,
    Fail,
    Move,
    Pass,
    Pause,
    Retry,
    Scenario,
    Send,
    Unpause,
)
from durable_flow.testing.services import Door
from durable_flow.testing.store import Watch, WatchedStore
from durable_flow.testing.trail import Fold

TTL = 30.0
"""Seconds of a lease: how long a dead process keeps others away."""

LIVES = 20
"""How many processes may work on one execution."""

MOVES = 1000
"""How many waits are answered in one process."""

REPAIR = 3600.0
"""Seconds until somebody retries an execution that failed: time in which a service may come back."""


class Over(Exception):
    """This process is dead, or cut off; the next one may begin."""


class Story(msgspec.Struct):
    """What happened in one case. `lives` are the points of each process, `met` the faults that were reached,
    `workflows` the ids of the workflows of the executions there were, `raised` what a call raised that should not."""

    plan: Plan
    lives: list[list[Point]]
    met: list[Point]
    turns: int
    problems: list[str]
    result: ExecutionResult | None
    raised: Exception | None
    folds: Mapping[str, Fold]
    workflows: Mapping[str, str]
    counts: Counter[tuple[str, str]]
    injected: Counter[tuple[str, str]]
    ledger: Ledger

    @property
    def trace(self) -> str:
        """Every point of every process, the faulty ones marked."""
        told = []
        for number, points in enumerate(self.lives, 1):
            told.append(f"process {number}:")
            told += [str(point) for point in points]
        return "\n".join(told)


class Teller:
    """Plays one case. Must run on a `SkippingLoop`."""

    def __init__(self, scenario: Scenario, plan: Plan, *, ground: Ground, guard: bool = True) -> None:
        self.scenario = scenario
        self.plan = plan
        self.ground = ground
        self.guard = guard
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SkippingLoop)
        self.loop = loop
        self.clock = loop.clock
        self.ledger = Ledger()
        self.watch = Watch(self.ledger)
        self.services = scenario.services(self.clock)
        self.gates = scenario.gates(self.clock)
        self.lanes = Lanes([scenario.workflow, *scenario.others], beside=scenario.beside)
        self.clock.on_skip = self._asleep
        self.problems: list[str] = []
        self.raised: Exception | None = None
        self.lives: list[list[Point]] = []
        self.met: list[Point] = []
        self.result: ExecutionResult | None = None
        self.turns = 0
        self.begun = False
        self.faults = 0
        self.recoveries = 0
        self.retried = self.mended = 0
        self.made: Counter[str] = Counter()
        self.unsure: set[str] = set()
        self.workflow = scenario.workflow
        self.runtime: Runtime
        # of the call that is under way
        self.gate = Gate({})
        self.task: asyncio.Task[Any] | None = None
        self.scope: anyio.CancelScope | None = None
        self.asked: str | None = None
        self.asked_at = 0

    async def tell(self) -> Story:
        """The whole case."""
        self.loop.set_exception_handler(self._noise)
        try:
            for _ in range(LIVES):
                if await self._live():
                    break
            else:
                self.problems.append(f"O9 not over after {LIVES} processes")
            await self._leftovers()
        finally:
            await self._close()
        return Story(
            plan=self.plan,
            lives=self.lives,
            met=self.met,
            turns=self.turns,
            problems=self.problems + self.watch.wrong,
            result=self.result,
            raised=self.raised,
            folds=self.watch.folds,
            workflows=self.watch.workflows,
            counts=self.ledger.counts(),
            injected=self.ledger.injected,
            ledger=self.ledger,
        )

    # -- one process ---------------------------------------------------------------------------------------------------

    async def _live(self) -> bool:
        number = len(self.lives) + 1
        faults = self.plan.lives[number - 1] if number <= len(self.plan.lives) else {}
        self.gate = gate = Gate(faults, guard=self.guard, clock=self.clock)
        self.lives.append(gate.points)
        gate.on_kill.append(self.ledger.license)
        gate.cancel = self._cancel
        inner = await self._open()
        store = WatchedStore(inner, gate=gate, watch=self.watch, clock=self.clock, inline=self.ground.inline)
        scenario = self.scenario
        store.alone = not scenario.worker  # the processes before this one are dead
        workflow = scenario.later if scenario.later is not None and self.watch.folds else scenario.workflow
        options: dict[str, Any] = {"lease_ttl": TTL, "grace": 0.0, "gates": self.gates, **scenario.options}
        if "secrets" in options:
            options["secrets"] = self._secrets(options["secrets"])
        runtime = Runtime(
            store,
            workflows=[workflow, *scenario.others],
            services={
                name: Door(
                    name, service, gate=gate, ledger=self.ledger, lanes=self.lanes, clock=self.clock, life=number
                )
                for name, service in self.services.items()
            },
            clock=self.clock,
            ids=CountedIds(f"life{number}"),
            **options,
        )
        first = self.loop.turns
        if number == 1 and self.plan.turns:
            self.loop.on_turn = lambda turn: self._turned(turn - first)
        dead = False
        self.runtime, self.workflow = runtime, workflow
        try:
            await runtime.__aenter__()
            worker = self.loop.create_task(Worker(runtime).run(), name="worker") if scenario.worker else None
            await self._drive()
            if worker is not None:
                worker.cancel()
                await asyncio.wait([worker])
        except Over:
            dead = True
        finally:
            self.loop.on_turn = None
            if number == 1:
                self.turns = self.loop.turns - first
            self.met += gate.met
            self.faults += len(gate.met) + (len(self.plan.turns) if number == 1 else 0)
        if not gate.dead:
            await self._quit(runtime)
        if dead:
            self.ledger.license()
        await self._bury(dead)
        if dead:
            await self._close(died=True)
            self.clock.jump(TTL + 1)
        return not dead

    async def _quit(self, runtime: Runtime) -> None:
        """The process ends in order, also where the store gives no answer."""
        closing = self.loop.create_task(runtime.close(), name="close")
        if not await self._ends(closing):
            return
        if not closing.cancelled() and (error := closing.exception()) is not None:
            self.problems.append(f"O1 closing the runtime raised {type(error).__name__}: {error}")

    async def _bury(self, dead: bool) -> None:
        """No task of a dead process may be left; one that ended well leaves none by itself."""
        here = asyncio.current_task()
        # What a store is doing at this moment it finishes, whoever asked for it is dead or not.
        if writes := [task for task in asyncio.all_tasks() if task.get_name() == "commit"]:
            await asyncio.wait(writes)
        for _ in range(100):
            left = [task for task in asyncio.all_tasks() - set(self.loop.apart) if task is not here]
            if not left:
                break
            if not dead:
                self.problems.append(f"O8 tasks were left behind: {sorted(task.get_name() for task in left)}")
                dead = True
            for task in left:
                task.cancel()
            with self.clock.held():
                await asyncio.wait(left, timeout=0.01)
        else:
            self.problems.append("O8 tasks cannot be ended")
        self.clock.forget()

    async def _open(self) -> Store:
        return await self.ground.enter(self.clock)

    async def _close(self, *, died: bool = False) -> None:
        with self.clock.held():
            await self.ground.leave(died=died)

    def _secrets(self, source: Any) -> Any:
        async def secret(name: str) -> Any:
            point = self.gate.enter("secret", "secret", name)
            await self.gate.before(point)
            value = source(name) if callable(source) else source.get(name)
            if inspect.isawaitable(value):
                value = await value
            await self.gate.after(point)
            return value

        return secret

    def _asleep(self) -> None:
        # A store that does not answer is a reason to wait.
        if not any(point.mode is not None and point.kind == "store" for point in self.gate.met):
            self.ledger.rest("when everybody slept")

    def _noise(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException) and isinstance(first_error(error), Killed):
            return
        if not self.faults and not len(self.plan):
            self.problems.append(f"O8 {context.get('message')}: {error!r}")

    # -- interruptions -------------------------------------------------------------------------------------------------

    def _turned(self, turn: int) -> None:
        mode = self.plan.turns.get(turn)
        if mode is None:
            return
        if mode.kind == "kill":
            self.gate.dead = True
            self.ledger.license()
            if self.task is not None:
                self.task.cancel()
        else:
            self._cancel(mode.kind)

    def _cancel(self, kind: str) -> bool:
        """Cancels the call that is under way: the task, the scope around it, or both."""
        if self.task is None or self.task.done():
            return False
        self.asked, self.asked_at = kind, self.loop.turns
        if kind in ("scope", "both") and self.scope is not None:
            self.scope.cancel()
        if kind in ("cancel", "both") or self.scope is None:
            self.asked = "cancel" if kind == "scope" else kind
            self.task.cancel()
        return True

    async def _call(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """What a call gave, or the exception it raised; None if it was cancelled. Raises Over if the process died."""
        gave: list[Any] = []

        async def scoped() -> None:
            with anyio.CancelScope() as scope:
                self.scope = scope
                gave.append(await work())

        self._nobody_asked()
        task = self.loop.create_task(scoped(), name="call")
        self.task = task
        ended = await self._ends(task)
        self.task = None
        if not ended:
            raise Over
        if self.gate.dead:
            if not task.cancelled():
                task.exception()
            raise Over
        if self.gate.stalled and not gave:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(first_error(error), StoreError | LeaseLost):
                self.problems.append(f"O1 cut off from the store a call raised {type(error).__name__}: {error}")
            raise Over
        if self.asked is not None:
            self.ledger.license()
            await self._check_cancelled(task, bool(gave))
            if task.cancelled() or not gave:
                if not task.cancelled() and (failed := task.exception()) is not None:
                    return first_error(failed)
                return None
        if task.cancelled():
            if not any(told.startswith("O9") for told in self.problems):
                self.problems.append("P10 the call was cancelled by nobody")
            return None
        error = task.exception()
        if error is not None:
            return first_error(error)
        self.ledger.rest("when the call returned", apart=self.watch.apart)
        return gave[0]

    def _nobody_asked(self) -> None:
        self.scope, self.asked = None, None

    async def _ends(self, task: asyncio.Task[Any]) -> bool:
        """Waits for a task; whether it ended. One that hangs is cancelled, and left alone if that does not help."""
        for patience in (self.scenario.patience, REPAIR):
            late = self.loop.create_future()
            watchdog = self.clock.call_later(patience, lambda late=late: late.set_result(None))  # type: ignore[misc]
            try:
                await asyncio.wait([task, late], return_when=asyncio.FIRST_COMPLETED)
            finally:
                watchdog.cancel()
            if task.done():
                return True
            self.problems.append(f"O9 {task.get_name()} did not return within {patience:g} s")
            task.cancel()
        return False

    async def _check_cancelled(self, task: asyncio.Task[Any], gave: bool) -> None:
        late = self.loop.turns - self.asked_at <= 2
        if self.asked == "cancel" and not task.cancelled():
            self.problems.append(f"P10 the cancellation was swallowed: {_end_of(task)}")
        elif self.asked in ("scope", "both") and not task.cancelled():
            if task.exception() is not None and not late:
                self.problems.append(f"P10 a cancelled scope raised: {_end_of(task)}")
            elif gave and not (late and self.asked == "scope"):
                self.problems.append("P10 the cancellation was swallowed: the call returned")
        if not self.scenario.worker:  # which goes on with what its callers left
            await self._check_free("after a cancellation")

    async def _check_free(self, when: str) -> None:
        """Nobody drives anything: no lease may be held, except of children that outlive their parents."""
        store = await self._open()
        for name in self.watch.folds:
            with self.clock.held():
                row = await store.row(name)
            held = row is not None and row.owner is not None and (row.lease_until or 0) > self.clock.now()
            if held and name not in self.watch.apart:
                self.problems.append(f"O8 {name} is still owned {when}")

    # -- the people and programs around it -----------------------------------------------------------------------------

    async def _drive(self) -> None:
        result: Any = self.result
        recover = len(self.lives) > 1
        for _ in range(MOVES):
            if result is None:
                result = await self._begin(recover=recover)
                recover = True
            elif isinstance(result, ExecutionResult) and result.halted:
                result = await self._move(result)
            elif isinstance(result, ExecutionResult) and result.failed and self.retried < self.scenario.retries:
                if self.retried == self.mended:
                    self.mended += 1
                    self.clock.jump(REPAIR)
                result = await self._ask(lambda runner, name: runner.retry(name))
                self.retried += isinstance(result, ExecutionResult)
            elif isinstance(result, ExecutionResult):
                break
            else:
                self._blame(result)
                return
        else:
            self.problems.append("O9 the execution does not end")
            return
        self.result = result
        for other in list(self.watch.folds):
            await self._finish(other)
        await self._epilogue()

    async def _ask(self, work: Callable[[Runner, str], Awaitable[Any]], *, of: str | None = None) -> Any:
        """What a runner of the execution (or of another) gave, as `_call`."""
        name = of or self.scenario.execution_id

        async def asked() -> Any:
            if self.workflow is self.scenario.workflow and of is None:
                return await work(self.runtime.runner(self.workflow), name)
            return await work(await self.runtime.runner_of(name), name)

        return await self._call(asked)

    async def _begin(self, *, recover: bool) -> Any:
        self.recoveries += recover
        if recover and self.scenario.restart == "recover":
            ended = await self._ask(_recover)
            if not isinstance(ended, ExecutionNotFound):
                return ended
            if self.watch.folds:
                self.problems.append("O1 an execution that was there is not found")
        scenario = self.scenario
        if scenario.restart == "background":
            return await self._call(self._queue)
        return await self._call(
            lambda: self.runtime.runner(self.workflow).run(
                scenario.input, execution_id=scenario.execution_id, dry_run=scenario.dry_run
            )
        )

    async def _queue(self) -> ExecutionResult | None:
        """Leaves the execution to the worker, and waits for it."""
        background = self.runtime.background(self.workflow)
        scenario = self.scenario
        name = await background.run(scenario.input, execution_id=scenario.execution_id, dry_run=scenario.dry_run)
        return await background.wait(name, timeout=None)

    async def _move(self, result: ExecutionResult, *, of: str | None = None) -> Any:
        """What somebody does about the first wait."""
        if not result.halts:
            self.problems.append("O9 it is halted and waits for nobody")
            return LookupError("no halt")
        halt = min(result.halts, key=lambda halt: halt.wait_id)
        wait_id = halt.wait_id
        move = self._next(halt)
        if move is None:
            self.problems.append(f"O1 {wait_id} asks once more after all answers were given")
            return LookupError(wait_id)
        unsure = wait_id in self.unsure
        self.unsure.add(wait_id)
        match move:
            case Answer(arguments):
                ended = await self._ask(lambda runner, name: runner.resume(name, wait_id=wait_id, **arguments), of=of)
            case Expire():
                assert halt.deadline is not None
                self.clock.jump(max(0.0, halt.deadline.timestamp() - self.clock.now()) + 1)
                ended = await self._ask(_recover, of=of)
            case Pass(seconds):
                self.clock.jump(seconds)
                # With a worker, somebody may be driving it already: then it is followed.
                followed = self.scenario.worker and of is None
                ended = await (self._begin(recover=True) if followed else self._ask(_recover, of=of))
            case Send(name, payload):
                ended = await self._send(wait_id, name, payload, of=of)
            case Pause(by):
                ended = await self._ask(lambda runner, name: runner.pause(name, by=by), of=of)
            case Unpause(by):
                ended = await self._ask(lambda runner, name: runner.unpause(name, by=by), of=of)
            case Cancel(by):
                ended = await self._ask(lambda runner, name: runner.cancel(name, by=by), of=of)
            case Retry():
                ended = await self._ask(lambda runner, name: runner.retry(name), of=of)
            case Fail():
                ended = await self._ask(lambda runner, name: runner.fail(name), of=of)
            case Decide():
                ended = await self._decide(halt, of=of)
        arrived = isinstance(ended, ConflictError) and unsure
        if isinstance(ended, ExecutionResult) or arrived:
            self.made[wait_id] += 1
            self.unsure.discard(wait_id)
        return None if arrived else ended

    def _next(self, halt: Halt) -> Move | None:
        """What is done about a wait now; None where all has been done."""
        made = self.made[halt.wait_id]
        given = self.scenario.moves.get(halt.step_id)
        if given is not None:
            moves = [given] if isinstance(given, Move) else list(given)
            return moves[made] if made < len(moves) else None
        if self.scenario.otherwise is None:
            raise LookupError(f"scenario {self.scenario.name!r} has no move for step {halt.step_id!r}")
        return self.scenario.otherwise(halt, made)

    async def _decide(self, halt: Halt, *, of: str | None) -> Any:
        effect = halt.execution_id, halt.path
        if effect not in self.ledger.answers:
            return await self._ask(lambda runner, name: runner.retry(name), of=of)
        gave = self.ledger.answers[effect]
        return await self._ask(lambda runner, name: runner.resume(name, wait_id=halt.wait_id, response=gave), of=of)

    async def _send(self, wait_id: str, name: str, payload: Any, *, of: str | None) -> Any:
        """Sends a signal, once for each wait: who does not know whether it arrived sees whether it comes about."""
        waiting = wait_id.rpartition(":")[0]

        async def send(runner: Runner, execution_id: str) -> ExecutionResult:
            await runner.recover(execution_id)
            entries = self.watch.folds[waiting].values.values()
            if not any(entry.get("actor") == wait_id for entry in entries):
                told = runner if waiting == execution_id else await self.runtime.runner_of(waiting)
                await told.signal(waiting, name, payload, by=wait_id)
            return await runner.recover(execution_id)

        return await self._ask(send, of=of)

    async def _finish(self, name: str) -> None:
        """An execution that outlives the one it was started by is driven to its end too."""

        async def drive() -> ExecutionResult:
            return await (await self.runtime.runner_of(name)).recover(name)

        ended: Any = None
        for _ in range(MOVES):
            if isinstance(ended, ExecutionResult) and ended.halted and self.scenario.otherwise is not None:
                ended = await self._move(ended, of=name)
            else:
                ended = await self._call(drive)
            if isinstance(ended, ConflictError):
                await self.clock.sleep(1.0)  # this process does it already
            elif isinstance(ended, ExecutionNotFound):
                return  # an epilogue deleted it, in a process that died
            elif isinstance(ended, Exception):
                self._blame(ended)
                return
            elif self.asked is None and isinstance(ended, ExecutionResult) and ended.status.over:
                return

    async def _epilogue(self) -> None:
        epilogue = self.scenario.epilogue
        if epilogue is None:
            return
        for _ in range(5):
            ended = await self._call(lambda: epilogue(self.runtime, self.scenario.execution_id))
            if isinstance(ended, Exception):
                if self._blame(ended, outside=True):
                    return
            elif self.asked is None:
                return

    def _blame(self, ended: object, *, outside: bool = False) -> bool:
        """Whether what a call raised is a fault of the engine; the store's own are, unless the call went to the store
        itself (`outside`): one that passes must not be heard of."""
        if outside and isinstance(ended, StoreUnavailable) and self.gate.met:
            return False
        self.problems.append(f"O1 a call raised {type(ended).__name__}: {ended}")
        if isinstance(ended, Exception):
            self.raised = ended
        return True

    async def _leftovers(self) -> None:
        """When all is over nobody owns anything, no transaction is open, and recoveries were no more than faults."""
        store = await self._open()
        await self._check_free("at the end")
        with self.clock.held():
            try:
                await store.renew("nobody", ttl=1.0)
            except StoreError as error:
                self.problems.append(f"O8 the store cannot be written any more: {error}")
            for name, fold in self.watch.folds.items():
                row = await store.row(name)
                if row is None:
                    if self.scenario.epilogue is None:
                        self.problems.append(f"O1 {name} is gone")
                elif not fold.finished:
                    self.problems.append(f"O9 {name} is {row.status}")
        if self.recoveries > self.faults + 1:
            self.problems.append(f"O9 {self.recoveries} recoveries after {self.faults} faults")


def _end_of(task: asyncio.Task[Any]) -> str:
    error = None if task.cancelled() else task.exception()
    return "it returned" if error is None else f"it raised {error!r}"


async def _recover(runner: Runner, execution_id: str) -> ExecutionResult:
    return await runner.recover(execution_id)
