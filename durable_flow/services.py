"""Registered services: how a name in a definition becomes a call, and nothing else can."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from types import ModuleType, NoneType, UnionType
from typing import Any, Protocol, Union, get_args, get_origin, get_type_hints

import anyio
import anyio.to_thread
import msgspec

from durable_flow.errors import ConfigError, StepError
from durable_flow.model.execution import Gate
from durable_flow.transaction import MISUSED, AttemptTransaction, TransactionBlock

NO_MAPPINGS = frozenset({str, bytes, int, float, bool, list, tuple, set, frozenset, NoneType})
"""Annotations of parameters that take no mapping."""

THREADS = 40
"""How many synchronous services run at once."""


class StepContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a service may know about the step that calls it: annotate a parameter with this type to receive it.

    `idempotency_key` is the same on every attempt of the step, also after a crash and after `runner.retry`: hand it to
    whatever the service calls, so that it happens once. `path` is the step's place (`orders[3]/charge`), `attempt`
    counts from 1, `deadline` is the wall-clock time (epoch seconds) at which the attempt times out. `heartbeat_timeout`
    is within how many seconds `heartbeat` must be called again, `last_heartbeat` what was said last in an earlier
    attempt, also in a process that died: a service that knows how far it came goes on from there. `traceparent` is what
    the execution (for a child, the one at the top) was started with: hand it to what the service calls.
    """

    execution_id: str
    workflow_id: str
    step_id: str
    path: str
    attempt: int
    idempotency_key: str
    deadline: float | None
    logger: logging.LoggerAdapter[logging.Logger]
    heartbeat_timeout: float | None = None
    traceparent: str | None = None
    last_heartbeat: Any = None
    _attempt: _Attempt | None = None

    def heartbeat(self, details: Any = None) -> None:
        """Says that the step still lives, and how far it has come: JSON-shaped data of at most 16 KiB, which the next
        attempt finds in `last_heartbeat`. Without details those of the heartbeat before stay.

        It may be called as often as you like, in async and in plain services: what is said last is written every five
        seconds (or twice in a `heartbeat_timeout`) and when the attempt fails. Raises OutputError for details that
        cannot be stored.
        """
        if self._attempt is not None:
            self._attempt.heartbeat(details)

    def transaction(self) -> TransactionBlock:
        """A transaction of the database that executions are kept in: ``async with context.transaction() as tx: await
        tx.execute(sql, …)``, in a plain service ``with context.transaction() as tx: tx.execute(sql, …)``.

        What is executed is committed together with the step, exactly once; an exception in the block, a step that
        fails, and a process that dies or loses its lease take it back. A second block of the same attempt goes on with
        the same transaction. Raises StepError where the store has none (Redis).
        """
        if self._attempt is None:
            raise StepError("there is a transaction only while a step runs that calls a service", kind=MISUSED)
        return TransactionBlock(self._attempt.transaction())


class _Attempt(Protocol):
    """What the engine does for the service it calls."""

    def transaction(self) -> AttemptTransaction: ...

    def heartbeat(self, details: Any) -> None: ...


class _Plan(msgspec.Struct, frozen=True):
    """How to call one callable: `style` is none, single or keywords; `context` the parameter that takes the context.

    `single` is the parameter that takes a value which is no mapping; where it is the `only` one, it takes any value
    that its annotation does not rule out.
    """

    function: Callable[..., Any]
    is_async: bool
    style: str
    context: str | None
    required: frozenset[str]
    accepted: frozenset[str] | None
    single: str | None
    only: bool = False


class Gates:
    """The resolvers of gates of one runtime: plain or async functions of (params, context)."""

    def __init__(self, registered: Mapping[Any, Any] | None = None) -> None:
        self._registered: dict[str, Callable[..., Any]] = {}
        for name, resolver in _by_name(registered, "gates").items():
            if not isinstance(name, str) or not name:
                raise ConfigError(f"{name!r} is not a name for a gate")
            if not callable(resolver):
                raise ConfigError(f"the gate {name!r} is a function of (params, context), not {resolver!r:.100}")
            self._registered[name] = resolver

    def has(self, name: str) -> bool:
        return name in self._registered

    async def ask(self, name: str, params: Any, context: StepContext) -> tuple[Gate, Any]:
        """The verdict and its output. Raises StepError for a gate that is not there or an answer that is none."""
        resolver = self._registered.get(name)
        if resolver is None:
            known = ", ".join(sorted(self._registered)) or "none"
            raise StepError(f"no gate named {name!r} is registered (registered: {known})", kind="ServiceNotFound")
        answer = resolver(params, context)
        if inspect.isawaitable(answer):
            answer = await answer
        verdict, output = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
        try:
            return Gate(verdict), output
        except ValueError:
            raise StepError(
                f"the gate {name!r} answered {answer!r:.100}, not Gate.APPROVED, Gate.REJECTED or Gate.PENDING",
                kind="ServiceError",
            ) from None


class Services:
    """The services of one runtime. `resolver` is asked for names that are not registered."""

    def __init__(
        self, registered: Mapping[str, Any] | None = None, resolver: Callable[[str], Any] | None = None
    ) -> None:
        self._registered: dict[str, Any] = {}
        self._resolver = resolver
        self._plans: dict[tuple[str, str], _Plan] = {}
        self._threads: anyio.CapacityLimiter | None = None
        for name, service in _by_name(registered, "services").items():
            self.register(name, service)

    def register(self, name: object, service: Any) -> None:
        """Adds a service. Raises ConfigError for a name that is taken, is not a name, or begins with an underscore."""
        if not isinstance(name, str) or not name or name.startswith("_"):
            raise ConfigError(f"{name!r} is not a name for a service: it must be text that does not begin with '_'")
        if name in self._registered:
            raise ConfigError(f"there are two services named {name!r}")
        if service is None or inspect.isroutine(service):
            what = "None" if service is None else "a function, and steps call a method of a service"
            raise ConfigError(
                f"the service {name!r} is {what}: it is an object, a class or a mapping such as {{'charge': function}}"
            )
        self._registered[name] = service

    def has(self, name: str) -> bool:
        return name in self._registered

    def may_have(self, name: str) -> bool:
        """Whether it has this service, or may get it from its resolver."""
        return self._resolver is not None or name in self._registered

    async def call(self, service: str, method: str, value: Any, context: Callable[[], StepContext]) -> Any:
        """Calls a method with a value. Raises StepError where it cannot be called, and whatever the service raises."""
        plan = self._plans.get((service, method))
        if plan is None:
            plan = self._plan(service, method)
            self._plans[service, method] = plan
        arguments: tuple[Any, ...] = ()
        keywords: dict[str, Any] = {}
        if plan.style == "keywords" and type(value) is dict:
            keywords = self._fit(plan, service, method, value)
        elif plan.style == "single" or (plan.style == "keywords" and plan.single is not None and value is not None):
            if plan.single is not None:
                keywords[plan.single] = value
            else:
                arguments = (value,)
        elif plan.style == "keywords":
            if plan.required or value is not None:
                raise _mismatch(plan, service, method, missing=plan.required, got=value)
        elif value is not None and value != {}:
            raise StepError(f"{service}.{method} takes no parameters, but the step has an input", kind="ServiceError")
        if plan.context is not None:
            keywords[plan.context] = context()
        if plan.is_async:
            return await plan.function(*arguments, **keywords)
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(THREADS)
        result = await anyio.to_thread.run_sync(
            lambda: _keep_stop(plan.function, arguments, keywords), abandon_on_cancel=True, limiter=self._threads
        )
        if inspect.isawaitable(result):
            return await result
        return result

    def _fit(self, plan: _Plan, service: str, method: str, given: dict[str, Any]) -> dict[str, Any]:
        names = given.keys()
        if not plan.required <= names or (plan.accepted is not None and not names <= plan.accepted):
            if plan.only and plan.single is not None and plan.single not in names:
                return {plan.single: given}
            raise _mismatch(
                plan,
                service,
                method,
                missing=plan.required - names,
                unknown=frozenset(names) - (plan.accepted if plan.accepted is not None else frozenset(names)),
                got=given,
            )
        return dict(given)

    def _plan(self, service: str, method: str) -> _Plan:
        target = self._registered.get(service)
        if target is None and self._resolver is not None:
            target = self._resolver(service)
        if target is None:
            known = ", ".join(sorted(self._registered)) or "none"
            raise StepError(f"no service named {service!r} is registered (registered: {known})", kind="ServiceNotFound")
        if method.startswith("_"):
            raise StepError(f"{service}.{method} is private", kind="ServiceError")
        function = _member(target, method)
        if function is None or not callable(function):
            offered = ", ".join(_offered(target)) or "nothing callable"
            raise StepError(f"service {service!r} has no method {method!r} (it has: {offered})", kind="ServiceNotFound")
        return _inspect(function)


def _by_name(registered: object, what: str) -> Mapping[Any, Any]:
    if registered is None:
        return {}
    if not isinstance(registered, Mapping):
        raise ConfigError(f"{what} are a mapping of names to them: {what}={{'Name': …}}, not {registered!r:.100}")
    return registered


def _member(target: Any, method: str) -> Any:
    """A public method of a service. Mappings give their items, modules what they define or list in `__all__`."""
    if isinstance(target, Mapping):
        return target.get(method)
    if isinstance(target, ModuleType):
        value = getattr(target, method, None)
        public = getattr(target, "__all__", None)
        if public is not None:
            return value if method in public else None
        return value if getattr(value, "__module__", None) == target.__name__ else None
    if isinstance(target, type):
        raw = inspect.getattr_static(target, method, None)
        if raw is None or isinstance(raw, classmethod | staticmethod):
            return getattr(target, method, None)
        if inspect.isfunction(raw):
            return getattr(target(), method)
        return None
    return getattr(target, method, None)


def _offered(target: Any) -> list[str]:
    names = target.keys() if isinstance(target, Mapping) else dir(target)
    return sorted(
        name
        for name in names
        if isinstance(name, str)
        and not name.startswith("_")
        and callable(target[name] if isinstance(target, Mapping) else getattr(target, name, None))
    )


def _inspect(function: Callable[..., Any]) -> _Plan:
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return _Plan(function, is_async, "single", None, frozenset(), None, None)
    try:
        hints = get_type_hints(function if not hasattr(function, "__wrapped__") else inspect.unwrap(function))
    except Exception:
        hints = {name: parameter.annotation for name, parameter in parameters.items()}
    context = None
    plain: list[inspect.Parameter] = []
    takes_all = False
    for name, parameter in parameters.items():
        if hints.get(name) is StepContext or parameter.annotation in (StepContext, "StepContext", "df.StepContext"):
            context = name
        elif parameter.kind is parameter.VAR_KEYWORD:
            takes_all = True
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            plain.append(parameter)
    if not plain and not takes_all:
        variadic = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters.values())
        return _Plan(function, is_async, "single" if variadic else "none", context, frozenset(), frozenset(), None)
    if any(parameter.kind is parameter.POSITIONAL_ONLY for parameter in plain):
        return _Plan(function, is_async, "single", context, frozenset(), frozenset(), None)
    required = frozenset(parameter.name for parameter in plain if parameter.default is parameter.empty)
    single = next(iter(required), plain[0].name) if plain and len(required) <= 1 and not takes_all else None
    accepted = None if takes_all else frozenset(parameter.name for parameter in plain)
    only = len(plain) == 1 and _may_be_a_mapping(hints.get(plain[0].name, Any))
    return _Plan(function, is_async, "keywords", context, required, accepted, single, only=only)


def _may_be_a_mapping(annotation: Any) -> bool:
    """Whether a mapping may be what a parameter with this annotation takes.

    >>> _may_be_a_mapping(int | None), _may_be_a_mapping(dict[str, int] | None), _may_be_a_mapping(Any)
    (False, True, True)
    """
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return any(_may_be_a_mapping(one) for one in get_args(annotation))
    return (origin or annotation) not in NO_MAPPINGS


def _mismatch(
    plan: _Plan,
    service: str,
    method: str,
    *,
    missing: frozenset[str] = frozenset(),
    unknown: frozenset[str] = frozenset(),
    got: Any = None,
) -> StepError:
    said: list[str] = []
    if missing:
        said.append("missing " + ", ".join(sorted(missing)))
    if unknown:
        said.append("unknown " + ", ".join(sorted(unknown)))
    if not isinstance(got, dict):
        said.append("the input is not a mapping")
    takes = ", ".join(sorted(plan.accepted or plan.required)) or "any keyword"
    return StepError(f"{service}.{method} takes ({takes}): {'; '.join(said)}", kind="ServiceError")


def _keep_stop(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """StopIteration cannot travel through a future: it becomes a RuntimeError, as in a coroutine."""
    try:
        return function(*arguments, **keywords)
    except StopIteration as stop:
        raise RuntimeError("service raised StopIteration") from stop
