"""docs/guarantees.md says of each of its sentences which tests hold it. Here is looked whether it does.

A section ends with a block that readers fold away: one line for each claim, with its words and the tests that would
fail if it were not true. A sentence that is no claim about this software stands in a line that says so.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.reliability.tables import TABLES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
OPEN, CLOSE = "<details><summary>Held by</summary>", "</details>"
NO_CLAIM = "No claim of ours:"
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
QUOTATION = re.compile(r"“([^”]+)”")
LINK = re.compile(r"\[`([^`]+)`\]\(([^)#]+)\)")
END_OF_SENTENCE = re.compile(r"(?:(?<=[.!?])|(?<=[.!?]\*\*)) (?=[A-Z`*\[])")
PLACES = (ROOT / "tests", ROOT / "durable_flow" / "testing" / "contract")
"""Where tests are."""


class Section(NamedTuple):
    """A heading, the paragraphs below it, and the lines of its block."""

    title: str
    paragraphs: list[str]
    lines: list[str]


def sections(page: str) -> Iterator[Section]:
    parts = HEADING.split(page)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        prose, opened, block = CODE.sub("", body).partition(OPEN)
        block, closed, behind = block.partition(CLOSE)
        complete = opened and closed and not behind.strip()
        yield Section(title, list(paragraphs(prose)), list(items(block)) if complete else [])


def items(text: str) -> Iterator[str]:
    """The paragraphs, items of lists and rows of tables, each as one line."""
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\| )", text):
        line = " ".join(paragraph.split())
        if line:
            yield line.removeprefix("- ")


def paragraphs(prose: str) -> Iterator[str]:
    """What says something: not the heads of tables and the lines below them."""
    head = True
    for item in items(prose):
        if not item.startswith("|"):
            head = True
            yield item
        elif head:
            head = False
        elif set(item) - set("|- "):
            yield item


@cache
def module(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def named(path: Path) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """The tests of a file by name; those of classes by their own name and with that of the class before it."""
    found = {}
    for node in module(path).body:
        inside = [(f"{node.name}.", inner) for inner in node.body] if isinstance(node, ast.ClassDef) else [("", node)]
        for prefix, inner in inside:
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and inner.name.startswith("test_"):
                found[inner.name] = found[prefix + inner.name] = inner
    return found


def words_of(path: Path) -> set[str]:
    """What the parameters of a file may be called in the ids of tests."""
    found = set()
    for node in ast.walk(module(path)):
        match node:
            case ast.Constant(value=str() | int() as value):
                found.add(str(value))
            case ast.Name(id=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
    return found


def problem_of(name: str, target: str) -> str | None:
    """What is wrong with a link to a test."""
    path = (PAGE.parent / target).resolve()
    if not any(path.is_relative_to(place) for place in PLACES) or not path.is_file():
        return f"there is no file of tests {target}"
    name, _, parameter = name.removesuffix("]").partition("[")
    if "test_" not in name:
        if name not in TABLES:
            return f"there is no table {name}"
        if TABLES[name].cases.__module__ != ".".join(path.relative_to(ROOT).with_suffix("").parts):
            return f"table {name} is not in {target}"
        return None
    if name not in named(path):
        return f"there is no {name} in {target}"
    if parameter and parameter not in words_of(path):
        return f"{name} has no case {parameter}"
    return None


def problems(page: str) -> list[str]:
    found = []
    for section in sections(page):
        if not section.lines:
            found.append(f"{section.title}: does not end with '{OPEN} … {CLOSE}'")
            continue
        text, quoted = "\n".join(section.paragraphs), []
        for line in section.lines:
            quotations = QUOTATION.findall(line)
            quoted += quotations
            found += [f"{section.title}: does not say “{it}”" for it in quotations if it not in text]
            links = LINK.findall(line)
            found += [f"{section.title}: {told}" for told in (problem_of(*link) for link in links) if told]
            if not quotations or (not links) != line.startswith(NO_CLAIM):
                found.append(f"{section.title}: a line has words of the section and tests: {line}")
        found += [
            f"{section.title}: nothing is said of: {sentence}"
            for paragraph in section.paragraphs
            for sentence in END_OF_SENTENCE.split(paragraph)
            if not any(it in sentence or sentence in it for it in quoted)
        ]
    return found


def test_every_sentence_names_the_tests_that_hold_it() -> None:
    page = PAGE.read_text()
    assert len(list(sections(page))) > 10
    assert not problems(page), "\n".join(problems(page))


SOUND = f"""
# Page

## First

A *promise* of a line
and another. Advice that nobody can test.

- A point.

| this | that |
|---|---|
| one | is one |

```text
What a program prints.
```

{OPEN}

- “A *promise* of a line and another”: [`test_links_lead_somewhere`](../tests/examples/test_docs.py),
  [`test_the_first_answer_wins`](../durable_flow/testing/contract/waits.py),
  [`Waits.test_the_first_answer_wins`](../durable_flow/testing/contract/waits.py)
- “A point”, “one | is”: [`kills`](../tests/reliability/kills.py),
  [`test_a_step_that_fails_takes_it_back[misfits]`](../tests/engine/test_transaction.py)
- {NO_CLAIM} “Advice that”

{CLOSE}
"""


def test_a_sound_page_has_no_problems() -> None:
    assert problems(SOUND) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("_lead_somewhere", "_lead_nowhere", "there is no test_links_lead_nowhere in ../tests/examples/test_docs.py"),
        ("test_docs.py", "test_dogs.py", "there is no file of tests ../tests/examples/test_dogs.py"),
        ("Waits.", "Leases.", "there is no Leases.test_the_first_answer_wins"),
        ("[misfits]", "[fits]", "test_a_step_that_fails_takes_it_back has no case fits"),
        ("`kills`", "`thrills`", "there is no table thrills"),
        ("`kills`", "`drains`", "table drains is not in ../tests/reliability/kills.py"),
        ("A *promise* of a line\n", "A *threat* of a line\n", "does not say “A *promise* of a line and another”"),
        ("- A point.", "- A point. More is promised.", "nothing is said of: More is promised."),
        ("- A point.", "- A point.\n- Another one.", "nothing is said of: Another one."),
        ("| one | is one |", "| one | is one |\n| two | are more |", "nothing is said of: | two | are more |"),
        (NO_CLAIM, "", "a line has words of the section and tests: “Advice that”"),
        (CLOSE, f"{CLOSE}\n\nAnd more.", "First: does not end with"),
        (CLOSE, f"{CLOSE}\n\n## Second\n\nA promise.", "Second: does not end with"),
    ],
)
def test_what_no_longer_fits_is_found(old: str, new: str, told: str) -> None:
    assert old in SOUND
    found = problems(SOUND.replace(old, new))
    assert any(told in problem for problem in found), found


def test_a_change_of_the_page_itself_is_found() -> None:
    page = PAGE.read_text()
    for old, new in (
        ("was committed is not run again", "was committed is seldom run again"),
        ("](../tests/engine/test_recovery.py)", "](../tests/engine/test_parallel.py)"),
    ):
        assert len(problems(page.replace(old, new, 1))) in (1, 2)  # words that are not there, and a sentence without
