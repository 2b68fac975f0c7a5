"""What is wrong with a definition that can be read: by asking the step types, never switching on them."""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec.structs import replace

from durable_flow.definition.document import MappingNode, Node, Position, ScalarNode, SequenceNode
from durable_flow.definition.fixtures import fixture_problems
from durable_flow.definition.flow import EVERYTHING, LAST_ERROR, OUTCOME, Flow, Scope
from durable_flow.definition.flow import Node as FlowNode
from durable_flow.definition.parser import Draft
from durable_flow.definition.reader import ROOTS, SchemaForm, fields_of, holds, key_path, locate
from durable_flow.definition.schedules import schedule_problems
from durable_flow.expr.condition import Condition
from durable_flow.expr.reference import (
    Reference,
    ReferenceSyntaxError,
    Template,
    compile_reference,
    compile_template,
)
from durable_flow.expr.schema import Schema, compile_schema
from durable_flow.expr.transform import Transform
from durable_flow.limits import Limits
from durable_flow.model.problem import Problem, suggest
from durable_flow.model.workflow import Body, StepDef, WorkflowDef
from durable_flow.steps.base import VariableName, walk

MAX_COMPARISONS = 20_000
"""Looking for near words takes about 10 µs for each: after so many, hints are left out."""


class Findings(msgspec.Struct, kw_only=True):
    """What validation found; warnings do not keep a definition from running."""

    problems: list[Problem] = []
    warnings: list[Problem] = []


def validate(workflow: WorkflowDef, *, limits: Limits | None = None) -> list[Problem]:
    """Everything wrong with a definition, without the places inside of its steps, which only `load` knows."""
    return examine(workflow, limits=limits).problems


def examine(workflow: WorkflowDef, *, limits: Limits | None = None, draft: Draft | None = None) -> Findings:
    """Problems and warnings. With the draft it comes from, they say where in a step they are."""
    steps = _Validator(workflow, limits or Limits(), draft, elsewhere=workflow.finally_)
    found = steps.run()
    if workflow.finally_ is not None:
        rest = replace(workflow, body=workflow.finally_, finally_=None, on_error=None)
        after = _Validator(rest, limits or Limits(), draft, elsewhere=workflow.body, steps=steps).run()
        found = Findings(problems=found.problems + after.problems, warnings=found.warnings + after.warnings)
    found.problems += _wrong_fixtures(workflow, _Places(draft))
    if workflow.schedules:
        tree, file = (None, workflow.source) if draft is None else (draft.tree, draft.file)
        found.problems += schedule_problems(workflow, tree, file, limits=limits or Limits())
    return found


def _wrong_fixtures(workflow: WorkflowDef, places: _Places) -> Iterator[Problem]:
    for key, message, hint in fixture_problems(workflow, workflow.fixtures):
        at = places.document("fixtures", key)
        told = f"fixtures.{key:.100}: {message}"
        yield Problem(file=workflow.source, line=at.line, column=at.column, message=told, hint=hint)


class _Validator:
    """Examines the steps of a workflow; or, with the one that did so, those of its `finally`."""

    def __init__(
        self,
        workflow: WorkflowDef,
        limits: Limits,
        draft: Draft | None,
        *,
        elsewhere: Body | None,
        steps: _Validator | None = None,
    ) -> None:
        self._workflow = workflow
        self._steps = steps
        self._limits = limits
        self._vague = frozenset[int]() if draft is None else draft.vague
        self._places = _Places(draft)
        self._flow = Flow(workflow, self._vague)
        self._found = Findings(problems=[], warnings=[])
        self._inside = {node.step.id: node for node in self._flow.nodes if node.scope.owner is not None}
        self._inputs = {declared.name: declared for declared in workflow.inputs}
        self.writers: Writers = {}
        self.approvals: set[str] = set()
        self._elsewhere = frozenset(_ids(elsewhere))
        self._meant: list[FlowNode] = []
        self._comparisons = 0

    def run(self) -> Findings:
        flow = self._flow
        self._handler()
        if self._steps is None:
            self._concurrency()
        for node in flow.nodes:
            self._targets(node)
            self._place(node)
            if self._steps is not None:
                self._place_in_finally(node)
        flow.solve(self._given())
        for meant in self._meant:
            flow.assume(meant)
        self._unreachable()
        self._cycles()
        self.writers = _writers(flow, {} if self._steps is None else self._steps.writers)
        self._schemas = _Schemas(self._workflow, self.writers)
        self._local_to = {
            name: node.step.id
            for node in flow.nodes
            for scope in node.scopes
            if scope.definition is not None
            for name in scope.definition.locals
        }
        self.approvals = {node.step.id for node in flow.nodes if node.step.type.decides or node.vague}
        self.approvals |= set() if self._steps is None else self._steps.approvals
        for node in flow.nodes:
            if node.step.config is not None:
                self._reads(node)
                self._overlaps(node)
        return self._found

    def _given(self) -> int:
        """What is set at the beginning: of `finally`, whatever some step may have set by then."""
        if self._steps is None:
            return 0
        if self._vague:
            return EVERYTHING
        return self._flow.mask({*self._steps.writers, "result", OUTCOME, LAST_ERROR})

    # -- telling -------------------------------------------------------------------------------------------------------

    def _problem(
        self, step: StepDef | None, at: Position, message: str, *, key: str = "", hint: str | None = None
    ) -> None:
        self._found.problems.append(self._told(step, at, message, key, hint))

    def _told(self, step: StepDef | None, at: Position, message: str, key: str, hint: str | None) -> Problem:
        return Problem(
            file=self._workflow.source,
            line=at.line,
            column=at.column,
            step=None if step is None else step.id,
            message=f"{key}: {message}" if key else message,
            hint=hint,
        )

    def _suggest(self, word: str, options: Iterable[str]) -> str | None:
        if self._comparisons > MAX_COMPARISONS:
            return None
        known = list(options)
        self._comparisons += len(known)
        return suggest(word, known)

    # -- targets and places --------------------------------------------------------------------------------------------

    def _handler(self) -> None:
        target = self._workflow.on_error
        if target is None or target in self._flow.top.nodes:
            return
        at = self._places.document("on_error")
        message, hint = self._unknown(target, self._flow.top)
        self._problem(None, at, message, key="on_error", hint=hint)

    def _concurrency(self) -> None:
        limited = self._workflow.concurrency
        for reference in () if limited is None else limited.key.references:
            at, key = self._places.document("concurrency", "key"), "concurrency.key"
            if reference.root != "input":
                message = f"{reference.text} cannot be read here: it is resolved before an execution is there"
                self._problem(None, at, message, key=key, hint="only $input can")
                continue
            name = reference.path[0] if reference.path else ""
            near = self._near_input(name) if name and name not in self._inputs else None
            if near is not None:
                hint = f"did you mean {near!r}?"
                self._problem(None, at, f"there is no input {name!r}", key=key, hint=hint)

    def _targets(self, node: FlowNode) -> None:
        step = node.step
        for key, target in self._flow.outgoing(node):
            if key == "on_error" and target == step.id:
                self._problem(step, self._places.key(step, key), "leads back to the step itself", key=key)
                continue
            problem = self._flow.reach(node, target).problem
            if problem:
                self._problem(step, self._places.key(step, key), problem, key=key)
            elif problem is not None:
                message, hint = self._unknown(target, node.scope)
                self._problem(step, self._places.key(step, key), message, key=key, hint=hint)

    def _unknown(self, target: str, scope: Scope) -> tuple[str, str | None]:
        """(message, hint) for a target that cannot be reached from a body."""
        shown = target if len(target) <= 80 else target[:77] + "..."
        if (inside := self._inside.get(target)) is not None and inside.scope.owner is not None:
            owner = inside.scope.owner
            self._meant.append(owner)
            return f"step {shown!r} is inside of {owner.step.id!r} and cannot be reached from here", None
        if target in self._elsewhere:
            return (
                f"step {shown!r} cannot be reached from here: 'steps' and 'finally' do not lead into each other",
                None,
            )
        hint = self._suggest(target, _visible(scope))
        if hint is not None:
            self._meant += [node for node in _nodes(scope) if repr(node.step.id) in hint]
        return f"there is no step {shown!r}", hint

    def _place_in_finally(self, node: FlowNode) -> None:
        """Whether a step can do its work where nobody may be there to answer, and the outcome is settled."""
        step = node.step
        kind = repr(step.type.name)
        if step.type.asks:
            message = f"a step of type {kind} cannot stand in 'finally': nobody may be there to answer"
            self._problem(step, self._places.step(step), message)
        if step.type.ends:
            message = f"a step of type {kind} cannot stand in 'finally': the outcome is settled before"
            hint = "'next' may be '__FINISHED__'"
            self._problem(step, self._places.step(step), message, hint=hint)
        if step.retry is not None and step.retry.halts:
            at = self._places.key(step, "retry.on_exhausted")
            self._problem(step, at, "nobody may be there to decide in 'finally'", key="retry.on_exhausted")
        if step.at_most_once:
            at = self._places.key(step, "delivery")
            self._problem(step, at, "nobody may be there to find out in 'finally' whether it happened", key="delivery")
        if step.compensate is not None:
            at = self._places.key(step, "compensate")
            self._problem(step, at, "what 'finally' does is not undone", key="compensate")

    def _place(self, node: FlowNode) -> None:
        """Whether a step of this type may stand here, with so many bodies."""
        step = node.step
        if step.type.entry and node.scope.parent is None and node.index > 0:
            message = f"a step of type {step.type.name!r} can only be the first step of the workflow"
            self._problem(step, self._places.step(step), message)
        scope = _isolated(node.scope) if step.type.ends else None
        if scope is not None and scope.owner is not None:
            message = f"a step of type {step.type.name!r} cannot stand in a branch or concurrent body"
            hint = "end the branch with a step whose 'next' is '__FINISHED__'"
            self._problem(step, self._places.step(step), f"{message} of {scope.owner.step.id!r}", hint=hint)
        if len(node.scopes) > self._limits.branches and node.scopes[0].definition is not None:
            key = node.scopes[0].definition.key.partition("[")[0]
            message = f"{len(node.scopes):,} are more than {self._limits.branches:,}"
            self._problem(step, self._places.key(step, key), message, key=key, hint="raise it with Limits(branches=…)")

    # -- reachability --------------------------------------------------------------------------------------------------

    def _unreachable(self) -> None:
        doubtful = self._doubtful_scopes()
        before: FlowNode | None = None
        for node in self._flow.nodes:
            if node.state is None and id(node.scope) not in doubtful and self._owner_runs(node):
                self._problem(
                    node.step,
                    self._places.step(node.step),
                    "unreachable: no step leads here",
                    hint=None if self._steps is not None else _no_next(before, node),
                )
            before = node

    def _doubtful_scopes(self) -> set[int]:
        """The bodies (by `id()`) that have vague steps, inside of others too: any step of them may be meant."""
        found: set[int] = set()
        for node in self._flow.nodes:
            scope: Scope | None = node.scope if node.vague else None
            while scope is not None and id(scope) not in found:
                found.add(id(scope))
                scope = scope.parent
        return found

    def _owner_runs(self, node: FlowNode) -> bool:
        return node.scope.owner is None or node.scope.owner.state is not None

    def _cycles(self) -> None:
        for nodes in self._flow.endless():
            names = [node.step.id for node in nodes]
            listed = ", ".join(repr(name) for name in names[:5]) + (", …" if len(names) > 5 else "")
            what = f"the steps {listed} form a cycle" if len(names) > 1 else "the step follows itself"
            message = f"{what} that never ends: nothing in it waits, ends the workflow or leads out"
            if len(names) == 1:
                message = f"{what} for ever: nothing in it waits, ends the workflow or leads out"
            self._problem(nodes[0].step, self._places.step(nodes[0].step), message)

    # -- references ----------------------------------------------------------------------------------------------------

    def _reads(self, node: FlowNode) -> None:
        step = node.step
        told: set[Reference] = set()
        secret = False
        after = frozenset(step.type.references_after(step.config))
        for reference in (*step.type.references(step.config), *after):
            secret = secret or reference.root == "secrets"
            if reference in told:
                continue
            found = self._root(node, reference) if reference.root in ROOTS else None
            if reference.root not in ROOTS:
                if reference in after and node.sets & self._flow.bit(reference.root):
                    continue
                if not self._is_set(node, reference.root):
                    found = self._unset(node, reference)
                elif reference.path:
                    reason = self._schemas.contradiction(node, reference)
                    found = None if reason is None else (f"{reference.text}: {reason}", None)
            if found is not None:
                told.add(reference)
                at, key = self._places.reference(step, reference)
                self._problem(step, at, found[0], key=key, hint=found[1])
        if secret:
            self._secrets(node)

    def _is_set(self, node: FlowNode, name: str) -> bool:
        """Whether a variable is set when a step begins; for one that is never reached, whether anything sets it."""
        if node.state is None:
            return bool(self._vague) or name in self._flow.bits
        return bool(node.state & self._flow.bit(name))

    def _root(self, node: FlowNode, reference: Reference) -> tuple[str, str | None] | None:
        match reference.root, reference.path:
            case "input", (name, *_) if self._inputs and name not in self._inputs:
                near = self._near_input(name)
                return None if near is None else (f"there is no input {name!r}", f"did you mean {near!r}?")
            case "approvals", (name, *_) if name not in self.approvals:
                return f"there is no approval step {name!r}", self._suggest(name, self.approvals)
            case "secrets", ():
                return "name one secret, such as $secrets.api_key", None
            case _:
                reason = self._schemas.contradiction(node, reference)
                return None if reason is None else (f"{reference.text}: {reason}", None)

    def _near_input(self, name: str) -> str | None:
        """The input that was meant by a misspelt name. Others pass: a caller may give more than is declared."""
        close = difflib.get_close_matches(name, self._inputs, n=1, cutoff=0.75) if len(name) <= 128 else []
        return close[0] if close and _DIGITS.sub("", close[0]) != _DIGITS.sub("", name) else None

    def _unset(self, node: FlowNode, reference: Reference) -> tuple[str, str | None]:
        """(message, hint) for a variable that may not be set."""
        name = reference.root
        writers = [writer.step for writer, _ in self.writers.get(name, ())[:5]]
        if writers:
            if all(writer is node.step for writer in writers):
                hint = "only this step sets it"
            else:
                others = [repr(writer.id) for writer in writers if writer is not node.step]
                hint = f"set by {', '.join(others[:3])}" + (", …" if len(others) > 3 else "")
            return f"${name} is not set on every path to this step", hint
        if name == LAST_ERROR:
            return f"${name} is only set where 'on_error' leads", None
        if name in self._inputs:
            return f"nothing sets ${name}", f"did you mean $input.{'.'.join((name, *reference.path))}?"
        if (owner := self._local_to.get(name)) is not None:
            return f"${name} is only set in the body of {owner!r}", None
        near = self._suggest(name, itertools.chain(self.writers, _locals(node.scope), ROOTS))
        if near is None and (meant := self._near_input(name)) is not None:
            near = f"did you mean $input.{meant}?"
        return f"nothing sets ${name}", near

    def _secrets(self, node: FlowNode) -> None:
        """Secrets exist only while a service is called."""
        step = node.step
        may = step.type.works_outside or step.type.performs
        where = "the 'input' of a step that calls a service"
        if may and step.type.reveals != {"input"}:
            where = " and ".join(repr(key) for key in sorted(step.type.reveals)) or "other steps"
        for key, value in walk(step.config):
            if isinstance(value, Reference):
                references: tuple[Reference, ...] = (value,)
            elif isinstance(value, Template | Condition | Transform):
                references = value.references
            else:
                continue
            if may and key.partition(".")[0].partition("[")[0] in step.type.reveals:
                continue
            for reference in references:
                if reference.root == "secrets":
                    message = f"{reference.text}: secrets can only be used in {where}"
                    self._problem(step, self._places.reference(step, reference, under=key)[0], message, key=key)

    # -- warnings ------------------------------------------------------------------------------------------------------

    def _overlaps(self, node: FlowNode) -> None:
        """Two branches that set one variable: the later one in the document wins."""
        branches = [scope for scope in node.scopes if scope.isolated and scope.definition and scope.definition.merges]
        if len(branches) < 2:
            return
        first: dict[str, Scope] = {}
        for scope in branches:
            for name in sorted(_set_in(scope)):
                if name in first:
                    message = f"{_called(first[name])} and {_called(scope)} both set ${name}; the later branch wins"
                    at = self._places.step(node.step)
                    self._found.warnings.append(self._told(node.step, at, message, "", None))
                first[name] = scope


_DIGITS = re.compile(r"\d+")


def _nodes(scope: Scope | None) -> Iterator[FlowNode]:
    """The steps that a step of this body can go to."""
    while scope is not None:
        yield from scope.nodes.values()
        scope = None if scope.isolated else scope.parent


def _visible(scope: Scope) -> Iterator[str]:
    return (node.step.id for node in _nodes(scope))


def _isolated(scope: Scope | None) -> Scope | None:
    """The nearest body around that runs side by side with others."""
    while scope is not None and not scope.isolated:
        scope = scope.parent
    return scope


def _locals(scope: Scope | None) -> Iterator[str]:
    while scope is not None:
        if scope.definition is not None:
            yield from scope.definition.locals
        scope = scope.parent


def _no_next(before: FlowNode | None, node: FlowNode) -> str | None:
    """The usual reason: at the top level, steps do not follow one another by themselves."""
    if node.scope.parent is not None or before is None:
        return None
    while before.scope.owner is not None:
        before = before.scope.owner
    step = before.step
    if step.next is not None or step.type.ends or not step.type.reaches_next:
        return None
    return f"{step.id!r} before it has no 'next'"


def _ids(body: Body | None) -> Iterator[str]:
    """The ids of the steps of a body, as far as it could be read."""
    for step in body or ():
        yield step.id
        if step.config is not None:
            for inner in step.type.bodies(step.config):
                yield from _ids(inner.body)


def _called(scope: Scope) -> str:
    assert scope.definition is not None
    return f"{scope.definition.key} ({next(iter(scope.nodes))!r})"


def _set_in(scope: Scope) -> set[str]:
    """The variables that are set in a body under a name that was chosen in the document."""
    found: set[str] = set()
    for node in scope.nodes.values():
        if node.step.config is not None:
            chosen = {str(value) for _, value in walk(node.step.config) if isinstance(value, VariableName)}
            chosen |= {key.rpartition(".")[2] for key, _ in walk(node.step.config) if "." in key}
            found |= node.step.type.writes(node.step.config) & chosen
        for inner in node.scopes:
            if inner.definition is not None and inner.definition.merges:
                found |= _set_in(inner) - inner.definition.locals
    return found


Writers = Mapping[str, list[tuple[FlowNode, Schema | None]]]


def _writers(flow: Flow, others: Writers) -> Writers:
    """Who sets each variable, with the schema of what is set where there is one; after those that did so before."""
    found: dict[str, list[tuple[FlowNode, Schema | None]]] = {name: list(known) for name, known in others.items()}
    for node in flow.nodes:
        if node.step.config is None:
            continue
        described = _described(node.step)
        for name in node.step.type.writes(node.step.config):
            found.setdefault(name, []).append((node, described.get(name)))
    return found


def _described(step: StepDef) -> dict[str, Schema]:
    """The schemas of the variables a step sets: a Schema describes the VariableName that stands next to it."""
    struct: type[msgspec.Struct] = type(step.config)
    if not _has_schemas(struct):
        return {}
    schemas: dict[str, Schema] = {}
    names: list[tuple[str, str]] = []
    for key, value in walk(step.config):
        if isinstance(value, Schema):
            schemas[key.rpartition(".")[0]] = value
        elif isinstance(value, VariableName):
            names.append((key.rpartition(".")[0], value))
    return {name: schemas[group] for group, name in names if group and group in schemas}


@functools.cache
def _has_schemas(struct: type[msgspec.Struct]) -> bool:
    return any(holds(field.form, SchemaForm) for field in fields_of(struct))


class _Schemas:
    """What is known about the inside of variables and roots."""

    def __init__(self, workflow: WorkflowDef, writers: Writers) -> None:
        self._writers = writers
        self._roots: dict[str, Schema] = {}
        self._declared = {declared.name: declared for declared in workflow.inputs}
        self._inputs: dict[str, list[Schema]] = {}

    def contradiction(self, node: FlowNode, reference: Reference) -> str | None:
        """Why there can be nothing at the path of a reference."""
        root, path = reference.root, reference.path
        if root == "input":
            return self._in_input(path)
        if root in _ROOT_SCHEMAS:
            if root not in self._roots:
                self._roots[root] = compile_schema(_ROOT_SCHEMAS[root])
            return self._roots[root].contradicts(path)
        if root in ROOTS or root in set(_locals(node.scope)):
            return None
        schemas = [schema for _, schema in self._writers.get(root, ())]
        reasons = [None if schema is None else schema.contradicts(path) for schema in schemas]
        return reasons[0] if reasons and all(reasons) else None

    def _in_input(self, path: tuple[str, ...]) -> str | None:
        if len(path) < 2 or path[0] not in self._declared:
            return None
        name, *rest = path
        if name not in self._inputs:
            declared = self._declared[name]
            schemas = [] if declared.type == "any" else [compile_schema({"type": declared.type})]
            if declared.schema is not None:
                schemas.append(compile_schema(declared.schema))
            self._inputs[name] = schemas
        reasons = (schema.contradicts(tuple(rest)) for schema in self._inputs[name])
        return next((reason for reason in reasons if reason is not None), None)


_TEXT = {"type": "string"}
_ROOT_SCHEMAS = {
    "now": _TEXT,
    "history": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"step_id": _TEXT, "path": _TEXT, "action": _TEXT, "timestamp": _TEXT},
            "additionalProperties": False,
        },
    },
    "execution": {
        "type": "object",
        "properties": {
            "id": _TEXT,
            "workflow_id": _TEXT,
            "workflow_version": _TEXT,
            "parent_id": _TEXT,
            "started_at": _TEXT,
            "step_key": _TEXT,
        },
        "additionalProperties": False,
    },
}


class _Places:
    """Where things stand, as far as it is known."""

    def __init__(self, draft: Draft | None) -> None:
        self._draft = draft
        self._nodes: Mapping[int, MappingNode] = {} if draft is None else draft.nodes
        self._inside = frozenset(id(node) for node in self._nodes.values())

    def document(self, *keys: str) -> Position:
        return Position(None, None) if self._draft is None else locate(self._draft.tree, keys)

    def step(self, step: StepDef) -> Position:
        return Position(step.position.line, step.position.column)

    def key(self, step: StepDef, key: str) -> Position:
        node = self._nodes.get(id(step))
        return self.step(step) if node is None else locate(node, key_path(key))

    def reference(self, step: StepDef, reference: Reference, *, under: str = "") -> tuple[Position, str]:
        """(where a reference stands, its key)."""
        node = self._nodes.get(id(step))
        if node is None:
            return self.step(step), ""
        start: Node = node
        for part in key_path(under):
            match start:
                case MappingNode() if part in start.items:
                    start = start.items[str(part)]
                case SequenceNode() if isinstance(part, int) and part < len(start.items):
                    start = start.items[part]
        for key, scalar in self._texts(start, ""):
            if _mentions(scalar, reference):
                return scalar.at, key
        return self.step(step), ""

    def _texts(self, node: Node, key: str) -> Iterator[tuple[str, ScalarNode]]:
        match node:
            case ScalarNode():
                yield key, node
            case SequenceNode():
                for index, item in enumerate(node.items):
                    if id(item) not in self._inside:
                        yield from self._texts(item, f"{key}[{index}]")
            case _:
                for name, item in node.items.items():
                    if id(item) not in self._inside:
                        yield from self._texts(item, f"{key}.{name}" if key else name)


def _mentions(node: ScalarNode, reference: Reference) -> bool:
    text = node.value
    if not isinstance(text, str) or reference.root not in text:
        return False
    try:
        if reference in compile_template(text).references:
            return True
        return compile_reference(text) == reference
    except ReferenceSyntaxError:
        return False
