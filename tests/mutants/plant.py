"""Toy bugs, planted one at a time: what an engine of this kind gets wrong when it is written in an afternoon.

Each is a function that changes the engine through `monkeypatch`. The crash harness must find every one of them, or its
silence about the real engine means nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

import durable_flow as df
from durable_flow import machine
from durable_flow.context import BodyGroup, StepVisit
from durable_flow.engine import Engine
from durable_flow.live import LiveFrame, Run
from durable_flow.model.execution import Action, ErrorInfo
from durable_flow.model.frame import Frame
from durable_flow.services import StepContext
from durable_flow.stores.base import Committed
from durable_flow.testing import FakeClock, Killed, Reply, Scenario, Scripted, answer

Plant = Callable[[pytest.MonkeyPatch], None]


def audit_in_a_second_operation(patch: pytest.MonkeyPatch) -> None:
    """The state is committed first, the audit trail after it."""

    def submit(self: Engine, run: Run, *, release: bool) -> None:
        whole = run.batch(nonce=self.ids.nonce(), release=False, wake_at=None)
        state = replace(whole, entries=(), nonce=f"{whole.nonce}-state")
        trail = replace(
            whole, version=whole.version + 1, new=None, frames=(), sets=(), dropped=(), opened=(), closed=(),
            consumed=(), messages=(), info=None, release=release,
        )  # fmt: skip

        async def both() -> Committed:
            await self.store.commit(state)
            return await self.store.commit(trail)

        run.inflight_commit = trail
        run.inflight = asyncio.get_running_loop().create_task(both())

    patch.setattr(Engine, "_submit", submit)


def branches_durable_at_the_join_only(patch: pytest.MonkeyPatch) -> None:
    """What branches did is kept in memory until all of them are done."""
    inside: dict[int, int] = {}
    enter, leave, flush = BodyGroup.__aenter__, BodyGroup.__aexit__, Engine.flush

    async def entered(self: BodyGroup) -> BodyGroup:
        inside[id(self._run)] = inside.get(id(self._run), 0) + 1
        return await enter(self)

    async def left(self: BodyGroup, *error: Any) -> bool | None:
        inside[id(self._run)] -= 1
        return await leave(self, *error)

    async def flushed(self: Engine, run: Run, *, release: bool = False) -> bool:
        return False if inside.get(id(run)) and not release else await flush(self, run, release=release)

    patch.setattr(BodyGroup, "__aenter__", entered)
    patch.setattr(BodyGroup, "__aexit__", left)
    patch.setattr(Engine, "flush", flushed)


def a_lost_answer_is_a_failure(patch: pytest.MonkeyPatch) -> None:
    """A commit whose answer was lost counts as one that did not happen."""

    async def give_up(self: Engine, commit: Any) -> Committed:
        raise df.StoreError("the commit failed")

    patch.setattr(Engine, "_settle_unknown", give_up)


def the_loop_counts_in_memory(patch: pytest.MonkeyPatch) -> None:
    """Which iteration a loop is at is known to the process only."""
    keep, remembered, settled = Run._keep, machine.remembered, machine.settled

    def kept(self: Run, frame: Frame) -> None:
        keep(self, frame)
        if frame.path.endswith("]"):
            self._frames.pop(frame.path, None)

    def forgetful(*given: Any, **named: Any) -> Any:
        transition = remembered(*given, **named)
        return replace(transition, frame=given[0])

    def uncounted(*given: Any, **named: Any) -> Any:
        return settled(*given, **{**named, "memo": None})

    patch.setattr(Run, "_keep", kept)
    patch.setattr(machine, "remembered", forgetful)
    patch.setattr(machine, "settled", uncounted)


def done_before_it_is_done(patch: pytest.MonkeyPatch) -> None:
    """A step is marked as completed before its service is called."""

    async def work(self: Engine, run: Run, live: LiveFrame, step: Any) -> None:
        visit = StepVisit(self, run, live, step)
        self._conclude(run, live, step, visit, df.Done(None))
        await self.flush(run)
        await self.services.call(step.config.service, step.config.method, {}, visit_context(visit, run))

    def visit_context(visit: StepVisit, run: Run) -> Callable[[], StepContext]:
        context = visit.context()
        return lambda: context

    patch.setattr(Engine, "_work", work)


def a_dying_process_writes_failed(patch: pytest.MonkeyPatch) -> None:
    """Whatever ends a step, a handler records it as a failure of the step."""
    work = Engine._work

    async def handled(self: Engine, run: Run, live: LiveFrame, step: Any) -> None:
        try:
            await work(self, run, live, step)
        except Killed:
            visit = StepVisit(self, run, live, step)
            error = ErrorInfo(type="Killed", message="the process was killed", step=step.id, path=visit.path)
            self.fail(run, live, step, visit, error)
            await self.flush(run)
            raise

    patch.setattr(Engine, "_work", handled)


def an_answer_in_two_commits(patch: pytest.MonkeyPatch) -> None:
    """The message is taken out of the inbox first; what it decided is committed after that."""
    answered = Engine._answered

    async def twice(self: Engine, run: Run, live: LiveFrame, step: Any) -> None:
        wait = live.record.wait
        assert wait is not None
        queue = run.mailbox.get(wait.wait_id)
        if queue:
            run.emit(machine.noted(Action.NOTED, now=self.clock.now(), consumed=(queue[0][0],)))
            await self.flush(run)
        await answered(self, run, live, step)

    patch.setattr(Engine, "_answered", twice)


def the_attempt_is_part_of_the_key(patch: pytest.MonkeyPatch) -> None:
    """Every attempt has an idempotency key of its own."""
    context = StepVisit.context

    def numbered(self: StepVisit) -> StepContext:
        made = context(self)
        return msgspec.structs.replace(made, idempotency_key=f"{made.idempotency_key}:{made.attempt}")

    patch.setattr(StepVisit, "context", numbered)


# -- workflows in which each of them shows ----------------------------------------------------------------------------


def services(clock: FakeClock) -> Mapping[str, Any]:
    return {"S": Scripted(clock, a=Reply(1, takes=0.01), b=Reply(2, takes=0.02), c=Reply(3), shaky=Reply(4, fails=1))}


def call(name: str, method: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "type": "call", "service": "S", "method": method, **more}


def scenario(name: str, *steps: Mapping[str, Any], **more: Any) -> Scenario:
    return Scenario(
        name=name, workflow=df.load({"id": name, "name": name, "steps": list(steps)}), services=services, **more
    )


LINE = scenario("line", call("one", "a", next="two"), call("two", "b", next="three"), call("three", "c"))
FORK = scenario(
    "fork",
    {"id": "p", "type": "parallel", "next": "z", "branches": [
        {"id": "l", "do": [call("l1", "a"), call("l2", "b")]}, {"id": "r", "do": [call("r1", "b"), call("r2", "c")]}]},
    call("z", "c"),
)  # fmt: skip
ROUND = scenario("round", {"id": "l", "type": "loop", "over": [1, 2, 3], "do": [call("one", "a"), call("two", "b")]})
ASK = scenario(
    "ask", {"id": "may", "type": "approval", "prompt": "?", "next": "then"}, call("then", "a"),
    moves={"may": answer(approved=True, by="ann")},
)  # fmt: skip
AGAIN = scenario("again", call("one", "shaky", retry={"initial_interval": 0.01, "jitter": 0}))

MUTANTS: Mapping[str, tuple[Plant, Scenario]] = {
    plant.__name__: (plant, shown)
    for plant, shown in (
        (audit_in_a_second_operation, LINE),
        (branches_durable_at_the_join_only, FORK),
        (a_lost_answer_is_a_failure, LINE),
        (the_loop_counts_in_memory, ROUND),
        (done_before_it_is_done, LINE),
        (a_dying_process_writes_failed, LINE),
        (an_answer_in_two_commits, ASK),
        (the_attempt_is_part_of_the_key, AGAIN),
    )
}
