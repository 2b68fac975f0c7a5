"""A workflow as a Mermaid flowchart. Where steps lead and what is in them is asked of their types."""

from __future__ import annotations

from collections.abc import Iterator

from durable_flow.model.frame import BREAK, CONTINUE, FINISHED
from durable_flow.model.workflow import Body, StepDef, WorkflowDef


def mermaid(workflow: WorkflowDef) -> str:
    r"""The flowchart of a workflow. Bodies are subgraphs, the way after an error is dotted.

    >>> from durable_flow.definition.parser import parse
    >>> text = "id: a\nname: A\nsteps:\n- {id: ask, type: halt, next: end}\n- {id: end, type: end}\n"
    >>> print(mermaid(parse(text)))
    flowchart TD
        s0["ask<br/>halt"]
        s1(["end<br/>end"])
        s0 --> s1
    """
    return "\n".join(_Chart(workflow).lines())


class _Chart:
    def __init__(self, workflow: WorkflowDef) -> None:
        self._workflow = workflow
        self._names: dict[str, str] = {}  # step ids may be words of Mermaid, such as `end`
        self._subgraphs = 0
        self._edges: list[str] = []
        self._specials: dict[str, tuple[str, str]] = {}

    def lines(self) -> Iterator[str]:
        self._name(self._workflow.body)
        if self._workflow.finally_ is not None:
            self._name(self._workflow.finally_)
        yield "flowchart TD"
        yield from self._body(self._workflow.body, 1)
        if self._workflow.finally_ is not None:
            yield f'    subgraph g{self._subgraphs} ["finally"]'
            self._subgraphs += 1
            yield from self._body(self._workflow.finally_, 2)
            yield "    end"
        if self._workflow.on_error is not None:
            self._specials[""] = "error", "any error"
            self._edges.append(f"error -.-> {self._target(self._workflow.on_error)}")
        for name, label in self._specials.values():
            yield f'    {name}(("{label}"))'
        for edge in self._edges:
            yield f"    {edge}"

    def _name(self, body: Body) -> None:
        for step in body:
            self._names.setdefault(step.id, f"s{len(self._names)}")
            for inner in step.type.bodies(step.config):
                self._name(inner.body)

    def _body(self, body: Body, depth: int) -> Iterator[str]:
        indent = "    " * depth
        for step in body:
            name = self._names[step.id]
            yield indent + name + _shape(step)
            for inner in step.type.bodies(step.config):
                label = inner.key
                yield f'{indent}subgraph g{self._subgraphs} ["{_escape(step.id)}: {_escape(label)}"]'
                self._subgraphs += 1
                yield from self._body(inner.body, depth + 1)
                yield f"{indent}end"
                self._edges.append(f"{name} --> {self._names[inner.body.first]}")
            self._edges_of(step)

    def _edges_of(self, step: StepDef) -> None:
        name = self._names[step.id]
        if step.follow is not None:
            self._edges.append(f"{name} --> {self._target(step.follow)}")
        for key, target in step.type.targets(step.config):
            self._edges.append(f'{name} -->|"{_escape(key)}"| {self._target(target)}')
        if step.on_error is not None:
            self._edges.append(f'{name} -.->|"on_error"| {self._target(step.on_error)}')

    def _target(self, target: str) -> str:
        if target in self._names:
            return self._names[target]
        known = _RESERVED.get(target, (f"u{len(self._specials)}", _escape(target)))
        return self._specials.setdefault(target, known)[0]


_RESERVED = {FINISHED: ("finished", "finished"), BREAK: ("break_", "break"), CONTINUE: ("continue_", "continue")}


def _shape(step: StepDef) -> str:
    """The node's label in the brackets that draw its shape."""
    label = f'"{_escape(step.id)}<br/>{_escape(step.type.name)}"'
    kind = step.type
    if kind.ends or kind.entry:
        return f"([{label}])"
    if not kind.reaches_next:
        return f"{{{label}}}"
    return f"[[{label}]]" if any(True for _ in kind.bodies(step.config)) else f"[{label}]"


def _escape(text: str) -> str:
    """Text that cannot end its label, begin a tag or pass for Markdown."""
    return "".join(
        character if character.isalnum() or character in " _-.[]:,'()" else f"#{ord(character)};" for character in text
    )
