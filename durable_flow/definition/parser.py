"""A tree of nodes -> a WorkflowDef. Which keys a step has, and what they hold, is asked of its type."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from durable_flow.definition.document import MappingNode, Node, Position, ScalarNode, SequenceNode, regraft
from durable_flow.definition.reader import (
    BAD,
    STEP_ID,
    BodyForm,
    Field,
    ListForm,
    Reader,
    StructForm,
    TableForm,
    TargetForm,
    VariableForm,
    Version,
    bad_variable,
    build,
    check_keys,
    fields_of,
    find_name,
    form_of,
    holds,
    key_path,
    kind_of,
    locate,
    read_fields,
)
from durable_flow.definition.source import Source, compose_source
from durable_flow.errors import ConfigError, ValidationError
from durable_flow.expr.reference import ReferenceSyntaxError, Template, compile_template
from durable_flow.expr.schema import Schema, check_type
from durable_flow.extension import Extension, Language
from durable_flow.limits import Limits
from durable_flow.model.frame import RESERVED_TARGETS
from durable_flow.model.problem import Problem
from durable_flow.model.value import type_name
from durable_flow.model.workflow import Body, Concurrency, InputDef, RetryPolicy, ScheduleDef, StepDef, WorkflowDef
from durable_flow.model.workflow import Position as StepPosition
from durable_flow.steps import step_types
from durable_flow.steps.base import Duration, Interval, StepType, TargetName, VariableName, walk

MAX_PROBLEMS = 1_000
"""A document with more problems than this is answered with the first so many."""


PRINTABLE = msgspec.Meta(pattern=r"[^\x00-\x1f\x7f]{1,255}", description="1 to 255 printable characters")


class RetryKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `retry`. `max_attempts` counts the first try."""

    max_attempts: Annotated[int, msgspec.Meta(ge=1)] = 3
    initial_interval: Interval = Interval(1)
    backoff: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    max_interval: Interval = Interval(60)
    max_elapsed: Duration | None = None
    jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    retry_on: list[str] = []
    no_retry_on: list[str] = []
    on_exhausted: Literal["fail", "halt"] = "fail"


class StepKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys steps have in common. Not every type takes every one: `common_fields` asks it."""

    id: Annotated[
        str,
        msgspec.Meta(pattern=STEP_ID, description="a step id: a letter or _, then letters, digits, _ and -, up to 128"),
    ]
    type: str
    next: TargetName | None = None
    on_error: TargetName | None = None
    description: str = ""
    timeout: Duration | None = None
    retry: RetryKeys | None = None


class InputKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one input; it may also be written as its type alone."""

    shorthand = "type"

    type: Literal["any", "string", "integer", "number", "boolean", "array", "object"] = "any"
    required: bool | None = None
    default: Any = msgspec.UNSET
    description: str = ""
    schema: Schema | None = None
    secret: bool = False


class ConcurrencyKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of `concurrency`."""

    key: Annotated[str, msgspec.Meta(pattern=r"[\s\S]*\S[\s\S]*", description="a text such as $input.customer_id")]
    limit: Annotated[int, msgspec.Meta(ge=1)] = 1
    on_conflict: Literal["queue", "reject", "cancel_running", "return_existing"] = "queue"


class ScheduleKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one of the `schedules`."""

    id: Annotated[
        str,
        msgspec.Meta(
            pattern=STEP_ID, description="the id of a schedule: a letter or _, then letters, digits, _ and -, up to 128"
        ),
    ] = "default"
    cron: str | None = None
    every: Annotated[Duration, msgspec.Meta(ge=1)] | None = None
    timezone: str = "UTC"
    start: str | None = None
    end: str | None = None
    input: Template | None = None
    overlap: Literal["skip", "buffer_one", "allow_all", "cancel_other"] = "skip"
    catch_up: Literal["all", "latest", "none"] | Annotated[Duration, msgspec.Meta(ge=10)] = "latest"
    queue: Annotated[str, PRINTABLE] | None = None
    priority: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5
    labels: dict[str, Annotated[str, PRINTABLE]] = {}
    description: str = ""


class DocumentKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of a document."""

    id: Annotated[
        str,
        msgspec.Meta(
            pattern=r"[A-Za-z_][A-Za-z0-9_.-]{0,127}",
            description="a workflow id: a letter or _, then letters, digits, _, - and ., up to 128",
        ),
    ]
    name: str
    version: Version = Version("1.0")
    description: str = ""
    timeout: Duration | None = None
    inputs: dict[str, InputKeys] = {}
    schedules: list[ScheduleKeys] = []
    steps: Body
    on_error: TargetName | None = None
    concurrency: ConcurrencyKeys | None = None
    finally_: Body | None = msgspec.field(name="finally", default=None)
    fixtures: dict[str, Any] = {}


class UnknownConfig(msgspec.Struct, frozen=True):
    """Nothing is known about a step of an unknown type."""


class Unknown(StepType[UnknownConfig]):
    """Stands for a type that does not exist, so that the step still takes part in what is checked after reading."""

    name = "?"
    summary = ""
    Config = UnknownConfig


class Draft(msgspec.Struct, kw_only=True):
    """What could be made of a document that may have problems.

    `workflow` is None where there is not even a list of steps; it may be used only if there are no problems. `nodes`
    are the nodes of its steps; `vague` are the steps of which it is not known where they lead or what they set. Both
    are by `id()` of the StepDef.
    """

    file: str
    tree: MappingNode
    language: Language
    workflow: WorkflowDef | None
    problems: list[Problem]
    nodes: dict[int, MappingNode]
    vague: frozenset[int]


def parse(
    source: Source,
    *,
    limits: Limits | None = None,
    extensions: Iterable[Extension | str] | Language = (),
    base: str | os.PathLike[str] | None = None,
) -> WorkflowDef:
    r"""Reads a definition without validating it: a path, YAML or JSON text, or a mapping. Raises ValidationError.

    A text contains a line break or begins with `{`; any other string is a path, below `base` if that is given.
    `extensions` are those whose step types and keys it may use, or their names where they are installed.
    What a step refers to is not checked: an undefined variable is null when the step runs.

    >>> parse("id: hello\nname: Hello\nsteps: [{id: done, type: end, result: Hi}]\n").steps[0].type.name
    'end'
    """
    return finished(draft(source, limits=limits, extensions=extensions, base=base))


def parse_plain(
    document: Mapping[str, Any], *, limits: Limits | None = None, extensions: Iterable[Extension | str] | Language = ()
) -> WorkflowDef:
    """The definition an execution was started with, from the `document` that was stored: what extensions made of it
    before it was read is in it, and is not done again. Raises ValidationError."""
    return finished(draft(document, limits=limits, extensions=extensions, pinned=True))


def language(extensions: Iterable[Extension | str] | Language = ()) -> Language:
    """The language with what these extensions add. Raises ConfigError where they cannot be used together."""
    if isinstance(extensions, Language):
        return extensions
    made = Language(extensions, types=step_types().values(), keys=[field.key for field in fields_of(DocumentKeys)])
    for key, annotation in made.keys.items():
        if holds(form_of(annotation, f"the document key {key!r}"), BodyForm, TargetForm, VariableForm):
            raise ConfigError(f"the document key {key!r} of an extension cannot hold steps, their ids or variables")
    return made


def draft(
    source: Source,
    *,
    limits: Limits | None = None,
    extensions: Iterable[Extension | str] | Language = (),
    base: str | os.PathLike[str] | None = None,
    pinned: bool = False,
) -> Draft:
    """Reads as much as can be read. Raises ValidationError where there is no tree to read from. What is `pinned` is
    read as it is: no extension changes it."""
    spoken, limits = language(extensions), limits or Limits()
    try:
        name, tree = compose_source(source, limits=limits, base=base)
        hooks = _Hooks(() if pinned else spoken.extensions, name, limits)
        return _Parser(name, spoken, hooks).document(hooks.before_parse(tree))
    except RecursionError:  # only where the limits were raised beyond what Python's own stack holds
        raise ValidationError([Problem(file="<source>", message="nested too deeply to be read")]) from None


def finished(read: Draft) -> WorkflowDef:
    """The workflow of a draft without problems. Raises ValidationError."""
    if read.problems or read.workflow is None:
        raise ValidationError(ordered(read.problems))
    return read.workflow


def ordered(problems: Iterable[Problem]) -> list[Problem]:
    """The problems in the order of the document, not endlessly many of them."""
    found = sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0))
    if len(found) > MAX_PROBLEMS:
        more = Problem(file=found[0].file, message=f"and {len(found) - MAX_PROBLEMS:,} more problems")
        found = [*found[:MAX_PROBLEMS], more]
    return found


def common_fields(kind: StepType[Any]) -> list[Field]:
    """The common keys that steps of a type take."""
    left_out = set() if kind.works_outside or kind.performs else {"timeout", "retry"}
    if not kind.reaches_next:
        left_out.add("next")
    own = {field.key for field in fields_of(kind.Config)}
    return [field for field in fields_of(StepKeys) if field.key not in left_out | own]


class _Hooks:
    """What extensions make of a document before it is read. What they leave alone stands where it stood."""

    def __init__(self, extensions: Iterable[Extension], file: str, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._documents = [(one, one.before_parse) for one in extensions if one.before_parse is not None]
        self._steps = [(one, one.transform_step) for one in extensions if one.transform_step is not None]
        self._done: dict[int, Node] = {}

    def before_parse(self, tree: MappingNode) -> MappingNode:
        for extension, hook in self._documents:
            tree = self._changed(tree, extension, "before_parse", hook)
        return tree

    def transform_step(self, node: Node) -> None:
        """Changes the node of a step, once however often an alias brings it."""
        if not self._steps or not isinstance(node, MappingNode) or id(node) in self._done:
            return
        self._done[id(node)] = node
        for extension, hook in self._steps:
            made = self._changed(node, extension, "transform_step", hook)
            if made is not node:
                items, keys = dict(made.items), dict(made.keys)
                node.items.clear()
                node.keys.clear()
                node.items.update(items)
                node.keys.update(keys)

    def _changed(
        self, node: MappingNode, extension: Extension, name: str, hook: Callable[[dict[str, Any]], Any]
    ) -> MappingNode:
        try:
            made = hook(node.plain())
        except ValidationError:
            raise
        except Exception as error:
            raise ConfigError(f"{name} of {extension} raised {type(error).__name__}: {error}") from error
        if not isinstance(made, Mapping):
            raise ConfigError(f"{name} of {extension} gave {type_name(made)}, not a mapping")
        return regraft(node, dict(made), name=self._file, limits=self._limits)


class _Parser(Reader):
    """Reads one document."""

    def __init__(self, file: str, language: Language, hooks: _Hooks) -> None:
        super().__init__(file)
        self._language = language
        self._hooks = hooks
        kinds = self._kinds = language.types
        self._common = {name: common_fields(kind) for name, kind in kinds.items()}
        self._keys = {
            name: [field.key for field in (*self._common[name], *fields_of(kind.Config))]
            for name, kind in kinds.items()
        }
        self._telling = {name: telling_keys(kind) for name, kind in kinds.items()}
        self._ids: dict[str, Position] = {}
        self._nodes: dict[int, MappingNode] = {}
        self._vague: set[int] = set()
        self._telling[_UNKNOWN.name] = frozenset()
        self._top = True
        self._not_used: str | None = None

    def document(self, tree: MappingNode) -> Draft:
        fields = [*fields_of(DocumentKeys), *extra_fields(self._language)]
        known = [field.key for field in fields]
        check_keys(self, tree, known, hint=None if tree.keys.keys() <= set(known) else self._unused())
        values = read_fields(self, tree, fields)
        extras = self._extras(tree, values)
        inputs = self._inputs(tree, values.get("inputs") or {})
        schedules = self._schedules(tree, values.get("schedules") or [])
        body = values.get("steps")
        workflow = None
        if body is not None:
            plain = tree.plain()
            if "version" in values:
                plain["version"] = values["version"]  # `version: 1.10` must not become "1.1" when it is read again
            workflow = WorkflowDef(
                id=values.get("id", "?"),
                name=values.get("name", ""),
                version=values.get("version", "1.0"),
                description=values.get("description", ""),
                timeout=_seconds(values.get("timeout")),
                inputs=inputs,
                schedules=schedules,
                on_error=_text(values.get("on_error")),
                body=body,
                concurrency=self._concurrency(tree, values.get("concurrency")),
                finally_=values.get("finally_"),
                fixtures=values.get("fixtures") or {},
                extras=extras,
                document=plain,
                hash=definition_hash(plain),
                source=self.file,
            )
        return Draft(
            file=self.file,
            tree=tree,
            language=self._language,
            workflow=workflow,
            problems=self.problems,
            nodes=self._nodes,
            vague=frozenset(self._vague),
        )

    def _concurrency(self, tree: MappingNode, keys: ConcurrencyKeys | None) -> Concurrency | None:
        if keys is None or type(keys.key) is not str:
            return None
        try:
            key = compile_template(keys.key)
        except ReferenceSyntaxError as error:
            self.problem(locate(tree.items["concurrency"], ["key"]), str(error), key="concurrency.key")
            return None
        return Concurrency(key=key, limit=keys.limit, on_conflict=keys.on_conflict)

    # -- extensions ----------------------------------------------------------------------------------------------------

    def _extras(self, tree: MappingNode, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """What stands under the keys of extensions. What is in a list and has an id has one of its own."""
        found: dict[str, Any] = {}
        for field in extra_fields(self._language):
            value = values.get(field.name, _EMPTY.get(type(field.form)))
            if isinstance(field.form, ListForm) and isinstance(field.form.item, StructForm):
                self._check_ids(tree.items.get(field.key), field.key)
            found[field.key] = _frozen(value)
        return MappingProxyType(found)

    def _check_ids(self, node: Node | None, key: str) -> None:
        first: dict[str, Position] = {}
        for index, item in enumerate(node.items if isinstance(node, SequenceNode) else ()):
            written = item.items.get("id") if isinstance(item, MappingNode) else None
            if not isinstance(written, ScalarNode) or not isinstance(written.value, str):
                continue
            if written.value in first:
                at = first[written.value]
                where = "" if at.line is None else f", first at line {at.line}, column {at.column}"
                self.problem(written, f"duplicate id {written.value!r:.100}{where}", key=f"{key}[{index}].id")
            first.setdefault(written.value, written.at)

    def _unused(self) -> str | None:
        """The hint for what nothing known has: an extension may be there that does."""
        if self._not_used is None:
            names = self._language.without()
            called = f"extension{'s' * (len(names) > 1)} {', '.join(map(repr, names))}"
            self._not_used = f"installed, but not used: {called}" if names else ""
        return self._not_used or None

    # -- inputs --------------------------------------------------------------------------------------------------------

    def _inputs(self, tree: MappingNode, declared: Mapping[str, InputKeys]) -> tuple[InputDef, ...]:
        found = []
        nodes = tree.items.get("inputs")
        for name, keys in declared.items():
            at = locate(nodes, [name, "default"]) if nodes is not None else tree.at
            found.append(self._input(name, keys, at))
        return tuple(found)

    def _input(self, name: str, keys: InputKeys, at: Position) -> InputDef:
        given = keys.default is not msgspec.UNSET
        key = f"inputs.{name}.default"
        if given and not check_type(keys.default, keys.type):
            self.problem(at, f"expected {keys.type}, got {type_name(keys.default)}", key=key)
        elif given and keys.schema is not None:
            for problem in keys.schema.problems(keys.default, mask=keys.secret):
                self.problem(at, problem, key=key)
        return InputDef(
            name=name,
            type=keys.type,
            required=not given if keys.required is None else keys.required,
            default=keys.default,
            description=keys.description,
            schema=None if keys.schema is None else keys.schema.source,
            secret=keys.secret,
        )

    # -- schedules -----------------------------------------------------------------------------------------------------

    def _schedules(self, tree: MappingNode, declared: Sequence[ScheduleKeys]) -> tuple[ScheduleDef, ...]:
        found: list[ScheduleDef] = []
        for index, keys in enumerate(declared):
            if any(keys.id == other.id for other in found):
                at = locate(tree, ["schedules", index, "id"])
                self.problem(at, f"duplicate id {keys.id!r}: give each schedule its own", key=f"schedules[{index}]")
            made = ScheduleDef(
                id=keys.id,
                cron=keys.cron,
                every=_seconds(keys.every),
                timezone=keys.timezone,
                start=keys.start,
                end=keys.end,
                input=keys.input,
                overlap=keys.overlap,
                catch_up=keys.catch_up if isinstance(keys.catch_up, str) else float(keys.catch_up),
                queue=keys.queue,
                priority=keys.priority,
                labels=keys.labels,
                description=keys.description,
            )
            found.append(made)
        return tuple(found)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def body(self, node: Node, key: str) -> Body | None:
        assert isinstance(node, SequenceNode)
        top, self._top = self._top, False
        if not node.items:
            self.problem(node, "needs at least one step", key=key)
        steps = []
        for item in node.items:
            self._hooks.transform_step(item)
        for index, item in enumerate(node.items):
            follow = None if top or index + 1 == len(node.items) else _id_in(node.items[index + 1])
            step = self.single(item, f"{key}[{index}]", follow=follow)
            if step is not None:
                steps.append(step)
        return Body(steps) if steps else None

    def single(self, node: Node, key: str, *, follow: str | None = None) -> StepDef | None:
        if not isinstance(node, MappingNode):
            self.expected("a step, which is a mapping with 'id' and 'type'", node, key)
            return None
        self._hooks.transform_step(node)
        outer = self.step, self.doubtful
        self.step, self.doubtful = None, set()
        try:
            return self._step(node, key, follow)
        finally:
            self.step, self.doubtful = outer

    def _step(self, node: MappingNode, key: str, follow: str | None) -> StepDef:
        identifier = self._id(node, key)
        kind = self._kind(node)
        if kind is None:
            kind, config = _UNKNOWN, BAD
            common = read_fields(self, node, [field for field in fields_of(StepKeys) if not field.required])
        else:
            self._check_step_keys(node, kind)
            common = read_fields(self, node, [field for field in self._common[kind.name] if not field.required])
            fields = fields_of(kind.Config)
            config = build(kind.Config, fields, read_fields(self, node, fields))
            if not self.doubtful:
                self._check_config(node, kind, config)
        retry = self._retry(node, kind, config, common.get("retry"))
        once = config is not BAD and config is not None and kind.at_most_once(config)
        if once and retry is not None and retry.max_attempts > 1:
            self.problem(node, "what is delivered at most once is not tried again: give it no more than one attempt")
        goes_on = _text(common.get("next"))
        step = StepDef(
            id=identifier,
            type=kind,
            config=None if config is BAD else config,
            next=goes_on,
            follow=(goes_on or follow) if kind.reaches_next else None,
            on_error=_text(common.get("on_error")),
            description=common.get("description", ""),
            timeout=_seconds(common.get("timeout")),
            retry=retry,
            at_most_once=once,
            compensate=None if config is BAD or config is None else kind.compensation(config),
            position=StepPosition(line=node.at.line, column=node.at.column),
            needs_history=not self.doubtful and _reads_history(kind, config),
        )
        self._nodes[id(step)] = node
        if config is BAD or self.doubtful & self._telling[kind.name]:
            self._vague.add(id(step))
        return step

    def _id(self, node: MappingNode, key: str) -> str:
        written = node.items.get("id")
        if written is None:
            self.problem(node, f"{key}: missing key 'id'")
        elif not isinstance(written, ScalarNode) or not isinstance(written.value, str):
            self.problem(written, f"expected the id of the step as text, got {kind_of(written)}", key="id")
        else:
            sound = _STEP_ID.fullmatch(written.value) is not None
            self.step = written.value if sound else None
            if self.claim(written.value, written.at) or sound:
                return written.value
        return f"?{len(self._nodes)}"  # no document can refer to it

    def claim(self, identifier: str, at: Position) -> bool:
        if not _STEP_ID.fullmatch(identifier):
            shown = identifier if len(identifier) <= 80 else identifier[:77] + "..."
            self.problem(at, f"{shown!r} is not a step id: a letter or _, then letters, digits, _ and -, up to 128")
            return False
        if identifier in RESERVED_TARGETS:
            self.problem(at, f"{identifier!r} is a reserved target and cannot be the id of a step")
            return False
        if identifier in self._ids:
            first = self._ids[identifier]
            where = "" if first.line is None else f", first at line {first.line}, column {first.column}"
            self.problem(at, f"duplicate id {identifier!r}{where}")
            return False
        self._ids[identifier] = at
        return True

    def _kind(self, node: MappingNode) -> StepType[Any] | None:
        written = node.items.get("type")
        if written is None:
            self.problem(node, "missing key 'type'", hint=f"one of {', '.join(self._kinds)}")
        elif not isinstance(written, ScalarNode) or not isinstance(written.value, str):
            self.problem(written, f"expected the type of the step as text, got {kind_of(written)}", key="type")
        elif written.value not in self._kinds:
            shown = written.value if len(written.value) <= 80 else written.value[:77] + "..."
            hint = self.suggest(written.value, self._kinds) or f"one of {', '.join(self._kinds)}"
            if not hint.startswith("did you mean") and (unused := self._unused()) is not None:
                hint = f"{hint}; {unused}"
            self.problem(written, f"unknown step type {shown!r}", hint=hint)
        else:
            return self._kinds[written.value]
        return None

    def _check_step_keys(self, node: MappingNode, kind: StepType[Any]) -> None:
        allowed = self._keys[kind.name]
        if "next" not in node.keys or "next" in allowed:
            check_keys(self, node, allowed)
            return
        check_keys(self, node, [*allowed, "next"])
        if kind.ends:
            message = f"a step of type {kind.name!r} has no 'next': nothing follows it"
        else:
            message = f"a step of type {kind.name!r} has no 'next': {_leading_keys(kind)} say where it goes"
        self.problem(node.keys["next"], message)

    def _check_config(self, node: MappingNode, kind: StepType[Any], config: Any) -> None:
        for key, message in kind.check(config):
            self.problem(locate(node, key_path(key)), message, key=key)
        read = {value for _, value in walk(config) if isinstance(value, VariableName)}
        locals_ = frozenset[str]().union(*(body.locals for body in kind.bodies(config)))
        for name in sorted((kind.writes(config) | locals_) - read):
            wrong = bad_variable(name)
            if wrong is not None:
                inside = frozenset(id(inner) for inner in self._nodes.values())
                self.problem(find_name(node, name, inside) or node.at, wrong)

    def _retry(self, node: MappingNode, kind: StepType[Any], config: Any, keys: RetryKeys | None) -> RetryPolicy | None:
        own = None if config is BAD or config is None else kind.retry_policy(config)
        if own is not None:
            if keys is not None:
                self.problem(node.keys["retry"], "'retry' and its short form cannot both be used", key="retry")
            for message in _policy_problems(own):
                self.problem(node, message)
            return own
        if keys is None:
            return None
        return RetryPolicy(
            max_attempts=keys.max_attempts,
            initial_interval=float(keys.initial_interval),
            backoff=keys.backoff,
            max_interval=float(keys.max_interval),
            max_elapsed=_seconds(keys.max_elapsed),
            jitter=keys.jitter,
            retry_on=tuple(keys.retry_on),
            no_retry_on=tuple(keys.no_retry_on),
            halts=keys.on_exhausted == "halt",
        )


def extra_fields(language: Language) -> list[Field]:
    """The document keys that extensions add."""
    return [
        Field(key, key, form_of(annotation, f"the document key {key!r}"), required=False)
        for key, annotation in language.keys.items()
    ]


_EMPTY: Mapping[type, Any] = MappingProxyType({ListForm: (), TableForm: MappingProxyType({})})


def _frozen(value: Any) -> Any:
    """What was read, so that nobody changes it. (Structs are frozen themselves.)"""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return MappingProxyType({name: _frozen(item) for name, item in value.items()})
    return value


def definition_hash(document: Mapping[str, Any]) -> str:
    """The SHA-256 of the document's JSON. The order of keys counts: `assign` and `transform` go by it."""
    return sha256(msgspec.json.encode(document)).hexdigest()


def telling_keys(kind: StepType[Any]) -> frozenset[str]:
    """The keys without which it is not known where a step leads, what it sets, or what is in it."""
    telling = (TargetForm, VariableForm, BodyForm, TableForm)
    own = {field.key for field in fields_of(kind.Config) if holds(field.form, *telling)}
    return frozenset({"", "id", "next", "on_error", *own})


_UNKNOWN = Unknown()
_STEP_ID = re.compile(STEP_ID)


def _policy_problems(policy: RetryPolicy) -> Iterable[str]:
    if policy.max_attempts < 1:
        yield f"the number of retries must be at least 0, not {policy.max_attempts - 1}"
    if policy.backoff < 1:
        yield f"the backoff of retries must be at least 1, not {policy.backoff:g}"


def _leading_keys(kind: StepType[Any]) -> str:
    """The keys that hold targets, for a message."""
    keys: Sequence[str] = [repr(field.key) for field in fields_of(kind.Config) if holds(field.form, TargetForm)]
    return " and ".join(keys) or "its own keys"


def _reads_history(kind: StepType[Any], config: Any) -> bool:
    read = (*kind.references(config), *kind.references_after(config))
    return any(reference.root == "history" for reference in read)


def _id_in(node: Node) -> str | None:
    """The id of a step that has not been read yet."""
    found = node.items.get("id") if isinstance(node, MappingNode) else None
    return found.value if isinstance(found, ScalarNode) and isinstance(found.value, str) else None


def _seconds(value: float | None) -> float | None:
    return None if value is None else float(value)


def _text(value: str | None) -> str | None:
    return None if value is None else str(value)
