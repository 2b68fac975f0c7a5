"""`recover`: goes on with an execution whose process is gone."""

from __future__ import annotations

import click

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._hints import Hints
from durable_flow.cli._host import Host, drive, found, host_options
from durable_flow.cli._mistake import Mistake
from durable_flow.cli._options import execution_argument
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="durable-flow recover 42 --wait --services shop")
@execution_argument
@click.option("--wait", "waits", is_flag=True, help="Wait until the lease of the process that is gone has run out.")
@host_options
def command(*, execution_id: str, waits: bool, host: Host, as_json: bool) -> int:
    """Go on with an execution whose process died or was stopped.

    A process that dies holds its executions for up to 30 seconds more: only then is it certain that it is gone.
    """
    hints = Hints.here()

    async def work(runtime: df.Runtime) -> df.ExecutionResult:
        await _until_free(runtime.store, execution_id, hints, waits=waits)
        runner = await runtime.runner_of(execution_id)
        return await runner.recover(execution_id)

    return drive(host, work, as_json=as_json, execution_id=execution_id)


async def _until_free(store: df.Store, execution_id: str, hints: Hints, *, waits: bool) -> None:
    """Returns when nobody holds the lease. Raises Mistake where somebody does who is alive, or may be."""
    clock = df.SystemClock()
    first = await found(store, execution_id)
    one = first
    while one.owner is not None and one.lease_until is not None and not one.status.over:
        left = one.lease_until.timestamp() - clock.now()
        if left < 0:
            return
        if (one.owner, one.lease_until) != (first.owner, first.lease_until):
            raise Mistake(
                f"execution {execution_id!r} is being driven by {one.owner}, which is alive",
                hint=f"'{hints.look('show', execution_id)}' shows how far it is",
                kind="ConflictError",
            )
        if not waits:
            raise Mistake(
                f"execution {execution_id!r} is being driven by {one.owner}, "
                f"whose lease runs out in {_render.span(left)}",
                hint="if that process is gone, --wait goes on as soon as it has run out",
                kind="ConflictError",
            )
        await clock.sleep(left + 0.01)
        one = await found(store, execution_id)
