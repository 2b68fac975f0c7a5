"""What the documents show is run: definitions with the inputs and outputs below them, Python as programs."""

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import durable_flow as df
from durable_flow.definition.parser import common_fields
from durable_flow.definition.reader import fields_of
from durable_flow.steps import step_types

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LANGUAGE = ROOT / "docs" / "language.md"
FENCE = re.compile(r"^```(\S+)?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block. `after` is the block that follows with nothing but a blank line between."""

    file: Path
    line: int
    language: str
    words: str
    text: str
    after: "Block | None"

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}"


def blocks(file: Path) -> Iterator[Block]:
    text = file.read_text()
    found: list[Block] = []
    begins_next = len(text)
    for match in reversed(list(FENCE.finditer(text))):
        close = not text[match.end() : begins_next].strip()
        after = found[0] if found and close else None
        line = text.count("\n", 0, match.start()) + 1
        found.insert(0, Block(file, line, match[1] or "", match[2].strip(), match[3], after))
        begins_next = match.start()
    return iter(found)


BLOCKS = [block for file in DOCUMENTS for block in blocks(file)]
DEFINITIONS = [block for block in BLOCKS if block.language == "yaml" and "\nsteps:" in block.text]
PROGRAMS = [block for block in BLOCKS if block.language == "python" and not block.words]
FILE_NAME = re.compile(r"[\w-]+\.\w+")
FILES = [block for block in BLOCKS if FILE_NAME.fullmatch(block.words)]
"""Blocks with the name of a file: the sessions of their page have them in their folder."""


def shop() -> dict[str, Any]:
    """The services and gates that the language page shows."""
    (source,) = (block.text for block in blocks(LANGUAGE) if block.words == "services")
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102 - our own page
    return {"services": names["services"], "gates": names["gates"]}


def runs() -> Iterator[Any]:
    for block in DEFINITIONS:
        if block.after is not None and block.after.language == "json":
            for line in block.after.text.splitlines():
                yield pytest.param(block, json.loads(line), id=f"{block}-{line[:40]}")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_definitions_are_valid(block: Block) -> None:
    if block in DEFINITIONS:
        df.load(block.text)
    else:
        yaml.safe_load(block.text)


@pytest.mark.parametrize(("block", "run"), list(runs()))
async def test_definitions_do_what_stands_below_them(block: Block, run: dict[str, Any]) -> None:
    assert run.keys() <= {"input", "answers", "output", "error", "raises", "dry_run", "fixtures"}
    page_last = sorted(DEFINITIONS, key=lambda other: other.file == block.file)  # pages may use the same ids
    definitions = {definition.id: definition for definition in (df.load(other.text) for other in page_last)}
    runtime = df.Runtime("sqlite://:memory:", workflows=definitions.values(), **shop())
    async with runtime:
        runner = runtime.runner(df.load(block.text).id)
        refused = pytest.raises(getattr(df, run["raises"])) if "raises" in run else nullcontext()
        with refused:
            result = await runner.run(run.get("input"), dry_run=run.get("dry_run", False), fixtures=run.get("fixtures"))
            for answer in run.get("answers", []):
                assert result.halted
                if "signal" in answer:
                    await runner.signal(result.execution_id, answer["signal"], answer["payload"])
                    result = await runner.result(result.execution_id)
                else:
                    result = await runner.resume(result.execution_id, **answer)
    if "raises" in run:
        return
    if "error" in run:
        assert result.failed
        assert result.error == run["error"]
    else:
        assert result.completed, result.error
        assert result.output == run["output"]


@pytest.mark.parametrize("block", [block for block in BLOCKS if "/" in block.words], ids=str)
def test_a_file_is_shown_as_it_is(block: Block) -> None:
    """The tests of examples run it."""
    assert block.text == (ROOT / block.words).read_text()


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_programs_run(block: Block, tmp_path: Path) -> None:
    """With the examples in reach; in an empty folder; printing what the block below says, if it is a text."""
    program = tmp_path / "program.py"
    program.write_text(block.text)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(program)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    if block.after is not None and block.after.language == "text":
        assert done.stdout == block.after.text


TIME = re.compile(r"\b\d[\d.]* (?:ms|s|min)\b")


def plain(line: str) -> str:
    """A line of output without times and columns."""
    return " ".join(TIME.sub("…", line).split())


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "console"], ids=str)
def test_sessions_go_as_shown(block: Block, tmp_path: Path) -> None:
    """Commands have the exit code they name (else 0); the lines shown below are among what they print."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for other in FILES:
        if other.file == block.file:
            (tmp_path / other.words).write_text(other.text)
    script = ""
    shown = []
    for line in block.text.splitlines():
        if not line.startswith("$ "):
            shown.append(plain(line))
            continue
        code = re.search(r"# exit code (\d+)", line)
        script += f"{line[2:]}\n[ $? = {code[1] if code else 0} ] || {{ echo {shlex.quote(line)}; exit 1; }}\n"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DURABLE_FLOW_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = {plain(line) for line in done.stdout.splitlines()}
    assert not [line for line in shown if line and line not in printed], done.stdout


@pytest.mark.parametrize("block", FILES, ids=str)
def test_files_are_used_by_a_session_of_their_page(block: Block) -> None:
    sessions = [other.text for other in BLOCKS if other.file == block.file and other.language == "console"]
    others = [other.text for other in FILES if other.file == block.file and other is not block]
    name = block.words.partition(".")[0]
    word = "pytest" if name == "conftest" or name.startswith("test_") else name
    assert any(re.search(rf"\b{word}\b", text) for text in sessions + others)


def table() -> str:
    """Every step type, its keys (a star for those it must have) and what it does."""
    lines = ["| type | keys | |", "|---|---|---|"]
    for name, kind in step_types().items():
        own = [f"`{field.key}`{'*' if field.required else ''}" for field in fields_of(kind.Config)]
        more = [f"`{field.key}`" for field in common_fields(kind) if field.key in ("timeout", "retry")]
        lines.append(f"| [`{name}`](#{name}) | {' '.join(own + more) or '–'} | {kind.summary} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_step_types_is_complete() -> None:
    assert table() in LANGUAGE.read_text(), f"docs/language.md needs this table:\n\n{table()}"


@pytest.mark.parametrize("name", list(step_types()))
def test_every_step_type_has_a_section_with_an_example(name: str) -> None:
    _, heading, rest = LANGUAGE.read_text().partition(f"\n### {name}\n")
    assert heading
    section = re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]
    assert f"type: {name}\n" in section.replace(",", "\n")
    assert "```json" in section


LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    for target in LINK.findall(FENCE.sub("", file.read_text())):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (file.parent / path) if path else file
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", linked.read_text()).lower(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}, target


def test_every_public_name_stands_on_the_page_about_python() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    runtime = {name for name in vars(df.Runtime) if not name.startswith("_")}
    runners = {name for kind in (df.Runner, df.StreamRunner, df.BackgroundRunner) for name in vars(kind)}
    arguments = set(inspect.signature(df.Runtime).parameters)
    wanted = {*df.__all__, *runtime, *arguments, *(name for name in runners if not name.startswith("_"))}
    known = set(re.findall(r"\w+", page))
    assert sorted(wanted - known) == []
