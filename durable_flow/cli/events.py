"""`events`: what happened in an execution, and what happens."""

from __future__ import annotations

import click

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._host import read
from durable_flow.cli._options import execution_argument, store_option
from durable_flow.cli._program import command as as_command


@as_command(
    "Look",
    example="durable-flow events 42 --follow",
    json_help="A JSON object on a line of standard output for each event, nothing else.",
)
@execution_argument
@click.option("--after", metavar="EVENT", help="Only what came after this event: its id (42:7), or the number in it.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until the execution is over.")
@store_option
def command(*, execution_id: str, after: str | None, follow: bool, store: str, as_json: bool) -> int:
    """Tell the events of an execution, whichever process drives it."""

    async def work(opened: df.Store) -> int:
        lines = _render.EventLines(as_json=as_json)
        async with df.Runtime(opened, extensions=extensions_here()) as runtime:
            async for event in runtime.events(execution_id, after=after, follow=follow):
                lines.tell(event)
        return 0

    return read(store, work)
