"""`unpause`: lets a paused execution go on."""

from __future__ import annotations

import click

import durable_flow as df
from durable_flow.cli._bulk import Matching, do_to_all, one_or_many
from durable_flow.cli._host import Host, drive, host_options
from durable_flow.cli._options import leave_option
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="durable-flow unpause 42 --services shop")
@one_or_many
@click.option("--by", metavar="NAME", help="Who does that; kept in the audit trail.")
@leave_option
@host_options
def command(
    *, execution_id: str, matching: Matching | None, by: str | None, leave: bool, host: Host, as_json: bool
) -> int:
    """Let a paused execution go on, with the children that were paused with it, and drive it on.

    With --leave the exit code is 0 as soon as workers can take it up. All that match are left to workers.
    """
    if matching is not None:
        return do_to_all(
            matching,
            lambda runtime: runtime.unpause_all,
            store=host.store,
            verb="unpause",
            done="unpaused",
            as_json=as_json,
            by=by,
        )

    async def work(runtime: df.Runtime) -> df.ExecutionResult:
        runner = await runtime.runner_of(execution_id)
        return await runner.unpause(execution_id, by=by, drive=not leave)

    success = tuple(df.Status) if leave else (df.Status.COMPLETED,)
    return drive(host, work, as_json=as_json, execution_id=execution_id, runs_steps=not leave, success=success)
