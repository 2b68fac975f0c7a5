"""`cancel`: ends an execution."""

from __future__ import annotations

import click

import durable_flow as df
from durable_flow.cli._bulk import Matching, do_to_all, one_or_many
from durable_flow.cli._host import Host, drive, host_options
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="durable-flow cancel 42 --reason 'ordered twice'")
@one_or_many
@click.option("--reason", metavar="TEXT", help="Why; kept in the audit trail.")
@click.option("--by", metavar="NAME", help="Who cancels.")
@host_options
def command(
    *, execution_id: str, matching: Matching | None, reason: str | None, by: str | None, host: Host, as_json: bool
) -> int:
    """Cancel an execution, wherever it runs, and its children; or all that match.

    What undoes the steps of one runs here if the --services for it are given, else (and with filters) in a worker. The
    exit code is 0 when it is cancelled, or all that match were told to end.
    """
    if matching is not None:
        return do_to_all(
            matching,
            lambda runtime: runtime.cancel_all,
            store=host.store,
            verb="cancel",
            done="cancelled",
            as_json=as_json,
            reason=reason,
            by=by,
        )

    async def work(runtime: df.Runtime) -> df.ExecutionResult:
        runner = await runtime.runner_of(execution_id)
        return await runner.cancel(execution_id, reason=reason, by=by)

    return drive(
        host,
        work,
        as_json=as_json,
        execution_id=execution_id,
        runs_steps=bool(host.services),
        success=df.Status.CANCELLED,
    )
