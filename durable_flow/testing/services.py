"""Services for tests: scripted ones, and doors in front of any."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any, get_type_hints

import anyio.to_thread
import msgspec

from durable_flow import ConfigError, StepContext
from durable_flow.testing.clock import FakeClock
from durable_flow.testing.ledger import Effect, Lanes, Ledger
from durable_flow.testing.points import Gate, Mode, Point


class InTurn:
    """What a scripted method answers, one after the other: values, functions of the input, exceptions to raise.

    An attempt that is repeated after a crash gets the answer it got before. When all are given, more calls fail.

    >>> bank = Scripted(charge=InTurn(ConnectionError("down"), {"paid": 5}))
    """

    def __init__(self, *answers: Any) -> None:
        self.answers = answers
        self._given: dict[tuple[str, int], int] = {}

    def __repr__(self) -> str:
        return f"InTurn({', '.join(map(repr, self.answers))})"

    def of(self, key: str, attempt: int) -> Any:
        """The answer to an attempt of the step with this idempotency key."""
        turn = self._given.setdefault((key, attempt), len(self._given))
        if turn >= len(self.answers):
            return LookupError(f"scripted: this is call {turn + 1}, and there are {len(self.answers)} answers")
        return self.answers[turn]


class Reply(msgspec.Struct, frozen=True):
    """What a scripted method does: it takes so many seconds, fails so many attempts, then gives `value`.

    `value` may be a (plain or async) function of the input, an exception to raise, or answers `InTurn`. `error` is what
    the failing attempts raise.
    """

    value: Any = None
    takes: float = 0.0
    fails: int = 0
    error: Exception | type[Exception] = ConnectionError("scripted")


class Scripted(Mapping[str, Callable[..., Any]]):
    """A service whose methods do what a script says: give a value, or what a function makes of the input, raise an
    exception, answer `InTurn`, or what a `Reply` says (which takes a clock if it takes time).

    `calls` lists (method, input) of all calls, `inputs` those of one method. Failures follow from the number of the
    attempt and not from how often it was called, so a repeated attempt ends as it did before.

    >>> from durable_flow.testing import FakeClock
    >>> payments = Scripted(FakeClock(), charge=Reply({"ok": True}, fails=1, takes=2.5), refund=7)
    >>> sorted(payments)
    ['charge', 'refund']
    """

    def __init__(self, clock: FakeClock | None = None, /, **replies: Any) -> None:
        self.clock = clock
        self.calls: list[tuple[str, Any]] = []
        self._replies = {name: reply if isinstance(reply, Reply) else Reply(reply) for name, reply in replies.items()}
        slow = [name for name, reply in self._replies.items() if reply.takes]
        if slow and clock is None:
            raise ConfigError(f"{slow[0]!r} takes time: say on which clock, Scripted(clock, {slow[0]}=Reply(…))")

    def inputs(self, method: str) -> list[Any]:
        """What a method was called with, each time. Raises KeyError for one that is not scripted."""
        if method not in self._replies:
            raise KeyError(method)
        return [given for name, given in self.calls if name == method]

    def __getitem__(self, name: str) -> Callable[..., Any]:
        reply = self._replies[name]

        async def method(given: Any, /, *, context: StepContext) -> Any:
            return await self._answer(name, reply, given, context)

        return method

    def __iter__(self) -> Iterator[str]:
        return iter(self._replies)

    def __len__(self) -> int:
        return len(self._replies)

    async def _answer(self, name: str, reply: Reply, given: Any, context: StepContext) -> Any:
        self.calls.append((name, given))
        if reply.takes and self.clock is not None:
            await self.clock.sleep(reply.takes)
        if context.attempt <= reply.fails:
            raise reply.error
        value = reply.value
        if isinstance(value, InTurn):
            value = value.of(context.idempotency_key, context.attempt)
        if isinstance(value, BaseException) or (isinstance(value, type) and issubclass(value, BaseException)):
            raise value
        if callable(value):
            value = value(given)
        return await value if inspect.isawaitable(value) else value


STEP = "durable_flow_step"
"""The parameter by which a door learns which step it is called for, where the service does not ask for that itself."""


class Door(Mapping[str, Callable[..., Any]]):
    """A service behind a gate: every call of it is a numbered point and stands in the ledger."""

    def __init__(
        self, name: str, service: Any, *, gate: Gate, ledger: Ledger, lanes: Lanes, clock: FakeClock, life: int
    ) -> None:
        self.name = name
        self.service = service
        self.gate = gate
        self.ledger = ledger
        self.lanes = lanes
        self.clock = clock
        self.life = life

    def __getitem__(self, method: str) -> Callable[..., Any]:
        target = _member(self.service, method)
        signature, context_name = _with_context(target)
        asked = context_name != STEP

        async def call(*arguments: Any, **keywords: Any) -> Any:
            context: StepContext = keywords.pop(context_name)

            async def work(shown: StepContext) -> Any:
                if asked:
                    keywords[context_name] = shown
                return await self._perform(target, partial(target, *arguments, **keywords))

            return await self._pass(f"{self.name}.{method}", context, work)

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = {
            name: parameter.annotation
            for name, parameter in signature.parameters.items()
            if parameter.annotation is not parameter.empty
        }
        return call

    def __iter__(self) -> Iterator[str]:
        if isinstance(self.service, Mapping):
            return iter(self.service)
        return iter([name for name in dir(self.service) if not name.startswith("_")])

    def __len__(self) -> int:
        return len(list(iter(self)))

    async def _pass(self, name: str, context: StepContext, work: Callable[[StepContext], Awaitable[Any]]) -> Any:
        gate, ledger = self.gate, self.ledger
        effect = Effect(
            name=name,
            execution_id=context.execution_id,
            path=context.path,
            attempt=context.attempt,
            key=context.idempotency_key,
            life=self.life,
            lane=self.lanes.of(context.workflow_id, context.path),
        )
        point = gate.enter("effect", name, f"{context.execution_id}:{context.path}")
        failing = point.mode is not None and point.mode.kind == "error"
        shown = msgspec.structs.replace(context, attempt=max(1, context.attempt - ledger.injected[effect.identity]))
        if failing and point.mode is Mode.ERROR_BEFORE:
            ledger.injected[effect.identity] += 1
        await gate.before(point)
        ledger.perform(effect)
        try:
            result = await work(shown)
        except Exception:
            await self._answered(effect, point, failing)
            raise
        ledger.answers[effect.identity] = result
        await self._answered(effect, point, failing)
        return result

    async def _answered(self, effect: Effect, point: Point, failing: bool) -> None:
        if failing:
            self.ledger.injected[effect.identity] += 1
            self.ledger.licences[effect.identity] += 1
        if point.mode is Mode.DELAY:
            await self.gate.after(point)
            self.ledger.returned(effect)
        else:
            self.ledger.returned(effect)
            await self.gate.after(point)

    async def _perform(self, target: Callable[..., Any], call: Callable[[], Any]) -> Any:
        if isinstance(self.service, Scripted):
            return await call()
        with self.clock.held():
            if inspect.iscoroutinefunction(target):
                return await call()
            result = await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
            return await result if inspect.isawaitable(result) else result


def _member(service: Any, method: str) -> Callable[..., Any]:
    found: Any
    if isinstance(service, Mapping):
        return service[method]  # type: ignore[no-any-return]
    if isinstance(service, type) and inspect.isfunction(inspect.getattr_static(service, method, None)):
        service = service()
    found = getattr(service, method, None)
    if found is None or not callable(found) or isinstance(found, ModuleType):
        raise KeyError(method)
    return found  # type: ignore[no-any-return]


def _with_context(target: Callable[..., Any]) -> tuple[inspect.Signature, str]:
    """The signature with a parameter for the step, and what that is called."""
    step = inspect.Parameter(STEP, inspect.Parameter.KEYWORD_ONLY, annotation=StepContext)
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        given = inspect.Parameter("given", inspect.Parameter.POSITIONAL_ONLY)
        return inspect.Signature([given, step]), STEP
    try:
        hints = get_type_hints(target)
    except Exception:
        hints = {}
    parameters = [
        parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in signature.parameters.items()
    ]
    for parameter in parameters:
        if parameter.annotation in (StepContext, "StepContext", "df.StepContext"):
            return signature.replace(parameters=parameters), parameter.name
    place = len(parameters)
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        place -= 1
    parameters.insert(place, step)
    return signature.replace(parameters=parameters), STEP
