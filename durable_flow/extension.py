"""What an extension is, and how one that is installed is found.

An extension adds to the language and to what its steps can do: step types, document keys, parse hooks, events, and a
resource that lives as long as the runtime. It is a value; nothing is registered anywhere. One that is installed is not
used until it is named: `Runtime(…, extensions=["http"])` finds it by its entry point.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import msgspec

from durable_flow.errors import ConfigError, ValidationError
from durable_flow.model.event import CORE_EVENTS
from durable_flow.model.problem import suggest
from durable_flow.model.workflow import WorkflowDef
from durable_flow.steps.base import StepType

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "durable_flow.extensions"
"""The entry-point group by which packages bring extensions: the name is the extension's, the object an `Extension` or a
function without parameters that gives one."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")
_EVENT = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


class Defect(msgspec.Struct, frozen=True, kw_only=True):
    """Something that `after_parse` finds wrong with a definition. It is told with its position in the document.

    `key` is where it stands, such as `agents[0].tools`: in the step with the id `step`, else in the document. A
    `warning` is logged, and does not keep the definition from running.
    """

    message: str
    key: str = ""
    step: str | None = None
    hint: str | None = None
    warning: bool = False


class Extension(msgspec.Struct, frozen=True, kw_only=True):
    """Adds to the language, and to what its steps can do. Only `name` is needed.

    `step_types`: step types (instances, or classes without parameters). `keys`: keys of the document, each with the
    type of what it holds, as in the config of a step type; `workflow.extra(key)` and `visit.extra(key)` give it.
    `events`: the types of the events that its steps tell with `visit.emit`.

    `before_parse` is given a document as plain data and gives the one to read; `transform_step` is given each step,
    those inside others too. What they make is what is stored with an execution: one that goes on does not see them
    again. `after_parse` says what is wrong with a definition that could be read. `needs` says what a host must have to
    drive a workflow, as (kind, name): a `service`, a `workflow`, a `gate`; a worker that lacks it leaves the execution
    to others.

    `lifespan` makes an async context manager that is entered when a runtime is opened and left when it is closed; what
    it gives is the `visit.resource` of the extension's steps.
    """

    name: str
    step_types: tuple[StepType[Any] | type[StepType[Any]], ...] = ()
    keys: Mapping[str, Any] = {}
    events: tuple[str, ...] = ()
    before_parse: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
    transform_step: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
    after_parse: Callable[[WorkflowDef], Iterable[Defect]] | None = None
    needs: Callable[[WorkflowDef], Iterable[tuple[str, str]]] | None = None
    lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None

    def __post_init__(self) -> None:
        if not _fits(_NAME, self.name):
            raise ConfigError(f"{self.name!r:.100} is not a name for an extension: lower-case letters, digits, _ and -")
        for several in ("step_types", "events"):
            if not isinstance(getattr(self, several), tuple | list):
                raise ConfigError(f"{self}: {several} is a tuple: {several}=(…,)")
        for kind in self.step_types:
            self._check_type(kind)
        for hook in ("before_parse", "transform_step", "after_parse", "needs", "lifespan"):
            if getattr(self, hook) is not None and not callable(getattr(self, hook)):
                raise ConfigError(f"{self}: {hook} is a function, not {getattr(self, hook)!r:.100}")
        for key in self.keys:
            if not _fits(_KEY, key):
                raise ConfigError(f"{self}: {key!r:.100} is not a key for documents: lower-case letters, digits and _")
        for event in self.events:
            if not _fits(_EVENT, event):
                raise ConfigError(f"{self}: {event!r:.100} is not a type of events: write it like agent.tool_use")
            if event.partition(".")[0] in CORE_EVENTS:
                raise ConfigError(f"{self}: events that begin with {event.partition('.')[0]}. are durable_flow's own")

    def _check_type(self, given: object) -> None:
        kind = given if isinstance(given, type) else type(given)
        if not issubclass(kind, StepType):
            raise ConfigError(f"{self}: {kind.__name__} is no step type: it is a subclass of df.StepType")
        if not _fits(_KEY, getattr(kind, "name", None)):
            problem = (
                "has no name: name = 'shout'" if not hasattr(kind, "name") else f"cannot be named {kind.name!r:.100}"
            )
            raise ConfigError(f"{self}: the step type {kind.__name__} {problem} (lower-case letters, digits and _)")
        if not hasattr(kind, "summary"):
            raise ConfigError(
                f"{self}: the step type {kind.__name__} has no summary: one sentence that says what it does"
            )
        config = getattr(kind, "Config", None)
        if not (isinstance(config, type) and issubclass(config, msgspec.Struct)):
            raise ConfigError(f"{self}: the step type {kind.__name__} has no Config: a msgspec.Struct with its keys")
        method = "evaluate" if kind.instant else "run"
        if getattr(kind, method) is getattr(StepType, method):
            how = f"instant = {kind.instant}, so it needs"
            raise ConfigError(f"{self}: the step type {kind.__name__} has {how} a method {method!r}")

    def __str__(self) -> str:
        return f"extension {self.name!r}"


def _fits(pattern: re.Pattern[str], name: object) -> bool:
    return isinstance(name, str) and pattern.fullmatch(name) is not None


class Language:
    """The step types, document keys and events there are, with all that extensions add. Raises ConfigError where two
    claim the same."""

    def __init__(
        self, extensions: Iterable[Extension | str], *, types: Iterable[StepType[Any]], keys: Iterable[str]
    ) -> None:
        self.extensions = enabled(extensions)
        self.types: dict[str, StepType[Any]] = {kind.name: kind for kind in types}
        self.keys: dict[str, Any] = {}
        self.owners: dict[str, str] = {}
        """The extension that brings a step type, by the name of the type."""
        self._events: dict[str, Extension] = {}
        own_types, own_keys = frozenset(self.types), frozenset(keys)
        names: set[str] = set()
        by_type: dict[str, Extension] = {}
        by_key: dict[str, Extension] = {}
        for extension in self.extensions:
            if extension.name in names:
                raise ConfigError(f"there are two extensions named {extension.name!r}")
            names.add(extension.name)
            for given in extension.step_types:
                kind = given() if isinstance(given, type) else given
                _claim(by_type, own_types, kind.name, extension, "the step type")
                self.types[kind.name], self.owners[kind.name] = kind, extension.name
            for key, annotation in extension.keys.items():
                _claim(by_key, own_keys, key, extension, "the document key")
                self.keys[key] = annotation
            for event in extension.events:
                _claim(self._events, frozenset(), event, extension, "the event type")

    @property
    def events(self) -> frozenset[str]:
        """The types of events that extensions tell."""
        return frozenset(self._events)

    def tells(self, step_type: str, event: str) -> str | None:
        """Why a step of this type cannot tell an event of that type; None: it can."""
        owner = self.owners.get(step_type)
        declared = self._events.get(event)
        if declared is not None and declared.name == owner:
            return None
        of = next((extension for extension in self.extensions if extension.name == owner), None)
        hint = None if of is None else suggest(event, of.events)
        whose = f"step type {step_type!r}" if of is None else str(of)
        return f"{whose} has no event type {event!r:.100}{f' ({hint})' if hint else ''}: declare it in its events="

    def needs(self, workflow: WorkflowDef) -> Iterable[tuple[str, str]]:
        """What extensions need of a host to drive a workflow, as (kind, name)."""
        for extension in self.extensions:
            if extension.needs is None:
                continue
            try:
                yield from extension.needs(workflow)
            except Exception as error:
                raise ValidationError([f"needs of {extension} raised {type(error).__name__}: {error}"]) from error

    def without(self) -> tuple[str, ...]:
        """The extensions that are installed and not used here."""
        used = {extension.name for extension in self.extensions}
        return tuple(name for name in installed_extensions() if name not in used)


def _claim(taken: dict[str, Extension], own: frozenset[str], name: str, extension: Extension, what: str) -> None:
    if name in own:
        raise ConfigError(f"{extension} brings {what} {name!r}, which durable_flow has itself")
    if name in taken and taken[name] is not extension:
        raise ConfigError(f"{taken[name]} and {extension} both bring {what} {name!r}: only one of them can be used")
    if name in taken:
        raise ConfigError(f"{extension} brings {what} {name!r} twice")
    taken[name] = extension


def enabled(extensions: Iterable[Extension | str]) -> tuple[Extension, ...]:
    """The extensions, those that are named by their entry points loaded. Raises ConfigError."""
    if isinstance(extensions, str | Extension | Mapping):
        raise ConfigError("extensions is a list of extensions, or of names of installed ones: extensions=[…]")
    return tuple(load_extension(one) if isinstance(one, str) else _checked(one) for one in extensions)


def installed_extensions() -> tuple[str, ...]:
    """The names of the extensions that installed packages bring, whether they can be loaded or not."""
    return tuple(sorted(_installed()))


def _installed() -> dict[str, list[EntryPoint]]:
    from importlib.metadata import entry_points  # slow to import, and only installed extensions need it

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        known = found.setdefault(point.name, [])
        if point.value not in {other.value for other in known}:  # a path may be searched twice
            known.append(point)
    return found


def load_extension(name: str) -> Extension:
    """The extension that an installed package brings under this name. Raises ConfigError, which names the package."""
    found = _installed()
    points = found.get(name, [])
    if not points:
        hint = suggest(name, found)
        known = f"installed are {', '.join(sorted(found))}" if found else "none is installed"
        raise ConfigError(f"no extension {name!r:.100} is installed ({hint or known})")
    if len(points) > 1:
        raise ConfigError(f"there are two extensions named {name!r}: {' and '.join(map(_origin, points))}")
    point = points[0]
    try:
        given = point.load()
        if callable(given) and not isinstance(given, Extension):
            given = given()
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"extension {name!r} of {_origin(point)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(given, Extension):
        raise ConfigError(f"{point.value}, the extension {name!r} of {_origin(point)}, is no Extension: {given!r:.100}")
    if given.name != name:
        raise ConfigError(f"{_origin(point)} brings {given} under the name {name!r}")
    return given


def _origin(point: EntryPoint) -> str:
    return "an unknown package" if point.dist is None else f"package {point.dist.name} {point.dist.version}"


def _checked(given: object) -> Extension:
    if not isinstance(given, Extension):
        raise ConfigError(f"extensions has {given!r:.100}, which is no Extension and no name of one")
    return given
