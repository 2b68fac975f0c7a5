"""`schema`: the JSON Schema of the language, for editors."""

from __future__ import annotations

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._program import command as as_command


@as_command("Definitions", example="durable-flow schema > workflow.schema.json")
def command(*, as_json: bool) -> int:
    """Print the JSON Schema of definitions, which lets editors complete and check them."""
    _render.document(df.language_schema(extensions_here()))
    return 0
