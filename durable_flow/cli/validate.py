"""`validate`: finds everything that is wrong with definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._options import definition_files
from durable_flow.cli._program import command as as_command


@as_command("Definitions", example="durable-flow validate flows/")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
def command(*, files: tuple[Path, ...], as_json: bool) -> int:
    """Check definitions: FILEs, or folders of them.

    Problems are told as file:line:column. The exit code is 2 if there are any.
    """
    shown: list[tuple[str, str | None, list[str]]] = []
    document: list[dict[str, Any]] = []
    extensions = extensions_here()
    for file in definition_files(files):
        try:
            workflow = df.load(file, extensions=extensions)
        except df.ValidationError as error:
            shown.append((str(file), None, [str(problem) for problem in error.problems]))
            problems = [_problem(problem) for problem in error.problems]
            document.append({"file": str(file), "valid": False, "problems": problems})
        else:
            count = len(workflow.steps)
            shown.append((str(file), f"{workflow.id} {workflow.version}, {count} step{'s' * (count != 1)}", []))
            document.append({"file": str(file), "valid": True, "workflow_id": workflow.id, "problems": []})
    valid = all(one["valid"] for one in document)
    if as_json:
        _render.document({"valid": valid, "files": document})
    else:
        _render.definitions(shown)
    return 0 if valid else 2


def _problem(problem: object) -> dict[str, Any]:
    fields = msgspec.to_builtins(problem) if isinstance(problem, msgspec.Struct) else {}
    return {**fields, "text": str(problem)}
