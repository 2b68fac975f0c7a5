"""`graph`: a definition as a diagram."""

from __future__ import annotations

from pathlib import Path

import click

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._options import definition_file
from durable_flow.cli._program import command as as_command


@as_command("Definitions", example="durable-flow graph order.yml > order.mmd")
@click.argument("file", type=click.Path(path_type=Path))
def command(*, file: Path, as_json: bool) -> int:
    """Draw the workflow in FILE as a Mermaid flowchart."""
    workflow = df.load(definition_file(file), extensions=extensions_here())
    diagram = df.mermaid(workflow)
    if as_json:
        _render.document({"workflow_id": workflow.id, "mermaid": diagram})
    else:
        _render.line(diagram.rstrip("\n"))
    return 0
