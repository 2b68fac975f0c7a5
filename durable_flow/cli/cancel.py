"""`cancel`: ends an execution."""

from __future__ import annotations

import click

import durable_flow as df
from durable_flow.cli._host import Host, drive
from durable_flow.cli._options import execution_argument, store_option
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="durable-flow cancel 42 --reason 'ordered twice'")
@execution_argument
@click.option("--reason", metavar="TEXT", help="Why; kept in the audit trail.")
@click.option("--by", metavar="NAME", help="Who cancels.")
@store_option
def command(*, execution_id: str, reason: str | None, by: str | None, store: str, as_json: bool) -> int:
    """Cancel an execution, wherever it runs, and its children.

    The exit code is 0 when it is cancelled.
    """

    async def work(runtime: df.Runtime) -> df.ExecutionResult:
        runner = await runtime.runner_of(execution_id)
        return await runner.cancel(execution_id, reason=reason, by=by)

    host = Host(store=store, services=(), workflows=(), secrets=(), quiet=True)
    return drive(host, work, as_json=as_json, execution_id=execution_id, runs_steps=False, success=df.Status.CANCELLED)
