"""`watch`: the steps of an execution as they end, in whichever process."""

from __future__ import annotations

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._hints import Hints
from durable_flow.cli._host import EXIT_CODES, found, read
from durable_flow.cli._options import execution_argument, store_option
from durable_flow.cli._program import command as as_command
from durable_flow.cli._watch import Watch


@as_command("Look", example="durable-flow watch 42")
@execution_argument
@store_option
def command(*, execution_id: str, store: str, as_json: bool) -> int:
    """Show the steps of an execution as they end, whichever process drives it.

    Goes on while the execution waits, and ends when it is over, with its exit code.
    """
    hints = Hints.here()

    async def work(opened: df.Store) -> int:
        async with df.Runtime(opened, extensions=extensions_here()) as runtime:
            progress = _render.progress(quiet=as_json)
            watch = Watch(progress, execution_id)
            try:
                async for event in runtime.events(execution_id):
                    watch.hear(event)
            finally:
                progress.close()
            result = await (await runtime.runner_of(execution_id)).result(execution_id)
        one = await found(opened, execution_id)
        if as_json:
            _render.document(
                {
                    "execution_id": execution_id,
                    "workflow_id": one.workflow_id,
                    "status": result.status,
                    "output": result.output,
                    "error": result.error,
                }
            )
        else:
            began, ended = one.created_at, one.finished_at
            _render.outcome(
                result,
                workflow_id=one.workflow_id,
                seconds=0.0 if began is None or ended is None else (ended - began).total_seconds(),
                asked=(),
                next_commands=[] if result.completed else [hints.look("show", execution_id)],
            )
        return EXIT_CODES[result.status]

    return read(store, work)
