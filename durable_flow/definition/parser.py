"""A tree of nodes -> a WorkflowDef. Which keys a step has, and what they hold, is asked of its type."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Any, Literal, Protocol

import msgspec

from durable_flow.definition.document import MappingNode, Node, Position, ScalarNode, SequenceNode
from durable_flow.definition.reader import (
    BAD,
    STEP_ID,
    BodyForm,
    Field,
    Reader,
    TableForm,
    TargetForm,
    VariableForm,
    Version,
    bad_variable,
    build,
    check_keys,
    fields_of,
    find_name,
    holds,
    key_path,
    kind_of,
    locate,
    read_fields,
)
from durable_flow.definition.source import Source, compose_source
from durable_flow.errors import ValidationError
from durable_flow.expr.schema import Schema, check_type
from durable_flow.limits import Limits
from durable_flow.model.frame import RESERVED_TARGETS
from durable_flow.model.problem import Problem
from durable_flow.model.value import type_name
from durable_flow.model.workflow import Body, InputDef, RetryPolicy, StepDef, WorkflowDef
from durable_flow.model.workflow import Position as StepPosition
from durable_flow.steps import step_types
from durable_flow.steps.base import Duration, Interval, StepType, TargetName, VariableName, walk

MAX_PROBLEMS = 1_000
"""A document with more problems than this is answered with the first so many."""


class Extension(Protocol):
    """What an extension brings to the language."""

    @property
    def step_types(self) -> Iterable[StepType[Any]]: ...


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
    steps: Body
    on_error: TargetName | None = None
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
    workflow: WorkflowDef | None
    problems: list[Problem]
    nodes: dict[int, MappingNode]
    vague: frozenset[int]


def parse(
    source: Source,
    *,
    limits: Limits | None = None,
    extensions: Iterable[Extension] = (),
    base: str | os.PathLike[str] | None = None,
) -> WorkflowDef:
    r"""Reads a definition without validating it: a path, YAML or JSON text, or a mapping. Raises ValidationError.

    A text contains a line break or begins with `{`; any other string is a path, below `base` if that is given.
    What a step refers to is not checked: an undefined variable is null when the step runs.

    >>> parse("id: hello\nname: Hello\nsteps: [{id: done, type: end, result: Hi}]\n").steps[0].type.name
    'end'
    """
    return finished(draft(source, limits=limits, extensions=extensions, base=base))


def parse_plain(
    document: Mapping[str, Any], *, limits: Limits | None = None, extensions: Iterable[Extension] = ()
) -> WorkflowDef:
    """The definition an execution was started with, from the `document` that was stored. Raises ValidationError."""
    return parse(document, limits=limits, extensions=extensions)


def draft(
    source: Source,
    *,
    limits: Limits | None = None,
    extensions: Iterable[Extension] = (),
    base: str | os.PathLike[str] | None = None,
) -> Draft:
    """Reads as much as can be read. Raises ValidationError where there is no tree to read from."""
    kinds = step_types(_instance(kind) for extension in extensions for kind in extension.step_types)
    try:
        name, tree = compose_source(source, limits=limits or Limits(), base=base)
        return _Parser(name, kinds).document(tree)
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


def _instance(kind: Any) -> StepType[Any]:
    made: StepType[Any] = kind() if isinstance(kind, type) else kind
    return made


def common_fields(kind: StepType[Any]) -> list[Field]:
    """The common keys that steps of a type take."""
    left_out = set() if kind.works_outside else {"timeout", "retry"}
    if not kind.reaches_next:
        left_out.add("next")
    own = {field.key for field in fields_of(kind.Config)}
    return [field for field in fields_of(StepKeys) if field.key not in left_out | own]


class _Parser(Reader):
    """Reads one document."""

    def __init__(self, file: str, kinds: Mapping[str, StepType[Any]]) -> None:
        super().__init__(file)
        self._kinds = kinds
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

    def document(self, tree: MappingNode) -> Draft:
        fields = fields_of(DocumentKeys)
        check_keys(self, tree, [field.key for field in fields])
        values = read_fields(self, tree, fields)
        inputs = self._inputs(tree, values.get("inputs") or {})
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
                on_error=_text(values.get("on_error")),
                body=body,
                finally_=values.get("finally_"),
                fixtures=values.get("fixtures") or {},
                document=plain,
                hash=definition_hash(plain),
                source=self.file,
            )
        return Draft(
            file=self.file,
            tree=tree,
            workflow=workflow,
            problems=self.problems,
            nodes=self._nodes,
            vague=frozenset(self._vague),
        )

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

    # -- steps ---------------------------------------------------------------------------------------------------------

    def body(self, node: Node, key: str) -> Body | None:
        assert isinstance(node, SequenceNode)
        top, self._top = self._top, False
        if not node.items:
            self.problem(node, "needs at least one step", key=key)
        steps = []
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
