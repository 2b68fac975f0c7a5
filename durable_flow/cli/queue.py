"""`queue`: pauses queues, and says which are paused."""

from __future__ import annotations

import click
import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._host import read
from durable_flow.cli._options import store_option
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="durable-flow queue pause mail --reason 'the server is full'")
@click.argument("action", metavar="list|pause|unpause", type=click.Choice(["list", "pause", "unpause"]))
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--reason", metavar="TEXT", help="Why it is paused; shown until it is not.")
@click.option("--by", metavar="NAME", help="Who pauses it.")
@store_option
def command(*, action: str, name: str | None, reason: str | None, by: str | None, store: str, as_json: bool) -> int:
    """Pause a queue, let it go on, or list those that are paused.

    Workers begin nothing that waits in a paused queue; what began goes on. NAME is a queue, or - for executions without
    one.
    """
    if (action == "list") is not (name is None):
        raise click.UsageError("'queue list' takes no name" if action == "list" else f"'queue {action}' needs a name")
    if action != "pause" and (reason is not None or by is not None):
        raise click.UsageError("--reason and --by are for 'queue pause'")
    queue = None if name == "-" else name

    async def work(opened: df.Store) -> int:
        changed = False
        async with df.Runtime(opened) as runtime:
            if action == "pause":
                changed = await runtime.pause_queue(queue, by=by, reason=reason)
            elif action == "unpause":
                changed = await runtime.unpause_queue(queue)
            paused = await runtime.paused_queues()
        if as_json:
            told = {} if action == "list" else {"changed": changed}
            _render.document({**told, "paused": msgspec.to_builtins(paused)})
            return 0
        what = "executions without a queue" if queue is None else f"queue {queue!r}"
        if action == "pause" and not changed:
            _render.note(f"{what}: paused already")
        if action == "unpause" and not changed:
            _render.note(f"{what}: not paused")
        _render.queues(paused)
        return 0

    return read(store, work)
