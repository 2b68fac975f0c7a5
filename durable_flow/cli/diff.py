"""`diff`: two executions beside each other."""

from __future__ import annotations

import click
import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._host import read
from durable_flow.cli._options import store_option
from durable_flow.cli._program import command as as_command


@as_command("Look", example="durable-flow diff 42 42-again")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@store_option
def command(*, a: str, b: str, store: str, as_json: bool) -> int:
    """Compare two executions of a workflow step by step, such as a fork with its original."""

    async def work(opened: df.Store) -> int:
        async with df.Runtime(opened, extensions=extensions_here()) as runtime:
            found = await (await runtime.runner_of(a)).diff(a, b)
        if as_json:
            _render.document({"a": a, "b": b, "steps": msgspec.to_builtins(found)})
        else:
            _render.differences(found, a=a, b=b)
        return 0

    return read(store, work)
