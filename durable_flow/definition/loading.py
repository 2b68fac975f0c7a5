"""Reads and validates definitions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import msgspec

from durable_flow.definition.document import Position
from durable_flow.definition.parser import Draft, draft, finished, ordered, parse
from durable_flow.definition.reader import key_path, locate
from durable_flow.definition.source import Source
from durable_flow.definition.validator import examine
from durable_flow.errors import ConfigError, ValidationError
from durable_flow.extension import Defect, Extension, Language
from durable_flow.journal import Journal
from durable_flow.limits import Limits
from durable_flow.model.problem import Problem
from durable_flow.model.workflow import WorkflowDef

__all__ = ["Checked", "check", "load", "parse"]

logger = Journal("durable_flow")


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A definition with everything that can be said about it. `workflow` is None if there are problems."""

    workflow: WorkflowDef | None
    problems: list[Problem]
    warnings: list[Problem]


def load(
    source: Source,
    *,
    limits: Limits | None = None,
    extensions: Iterable[Extension | str] | Language = (),
    base: str | os.PathLike[str] | None = None,
) -> WorkflowDef:
    r"""Reads and validates a definition: a path, YAML or JSON text, or a mapping.

    A text contains a line break or begins with `{`; any other string is a path, below `base` if that is given.
    `extensions` are those whose step types and keys it may use, or their names where they are installed. Raises one
    ValidationError with everything that is wrong; warnings are logged.

    >>> from durable_flow.errors import ValidationError
    >>> try:
    ...     load("id: a\nname: A\nsteps:\n- {id: greet, type: assign, set: {text: Hi $nmae}}\ninputs: {name: string}\n")
    ... except ValidationError as error:
    ...     print(error)
    <text>:4:41: step 'greet': set.text: nothing sets $nmae (did you mean $input.name?)
    """
    checked = check(source, limits=limits, extensions=extensions, base=base)
    if checked.workflow is None:
        raise ValidationError(checked.problems)
    for warning in checked.warnings:
        logger.warning("%s", warning)
    return checked.workflow


def check(
    source: Source,
    *,
    limits: Limits | None = None,
    extensions: Iterable[Extension | str] | Language = (),
    base: str | os.PathLike[str] | None = None,
) -> Checked:
    """Reads and validates a definition and tells all about it. Raises ValidationError if there is nothing to read."""
    read = draft(source, limits=limits, extensions=extensions, base=base)
    if read.workflow is None:
        return Checked(workflow=None, problems=ordered(read.problems), warnings=[])
    found = examine(read.workflow, limits=limits, draft=read)
    defects = [] if read.problems else list(_defects(read, read.workflow))
    wrong = [problem for problem, warning in defects if not warning]
    warnings = [problem for problem, warning in defects if warning]
    problems = ordered([*read.problems, *found.problems, *wrong])
    return Checked(
        workflow=None if problems else finished(read),
        problems=problems,
        warnings=ordered([*found.warnings, *warnings]),
    )


def _defects(read: Draft, workflow: WorkflowDef) -> Iterator[tuple[Problem, bool]]:
    """What extensions find wrong with a definition that can be read, and whether it is only a warning."""
    for extension in read.language.extensions:
        if extension.after_parse is None:
            continue
        try:
            found = list(extension.after_parse(workflow) or ())
        except Exception as error:
            raise ConfigError(f"after_parse of {extension} raised {type(error).__name__}: {error}") from error
        for defect in found:
            if not isinstance(defect, Defect):
                raise ConfigError(f"after_parse of {extension} gave {defect!r:.100}, which is no Defect")
            at = _place(read, workflow, defect)
            message = f"{defect.key}: {defect.message}" if defect.key else defect.message
            problem = Problem(
                file=read.file, line=at.line, column=at.column, step=defect.step, message=message, hint=defect.hint
            )
            yield problem, defect.warning


def _place(read: Draft, workflow: WorkflowDef, defect: Defect) -> Position:
    step = None if defect.step is None else workflow.steps_by_id.get(defect.step)
    return locate(read.tree if step is None else read.nodes[id(step)], key_path(defect.key))
