"""`pause`: lets no further step of an execution begin."""

from __future__ import annotations

import click

import durable_flow as df
from durable_flow.cli._bulk import Matching, do_to_all, one_or_many
from durable_flow.cli._host import Host, drive
from durable_flow.cli._options import store_option
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="durable-flow pause 42 --reason 'the bank is down'")
@one_or_many
@click.option("--reason", metavar="TEXT", help="Why; shown until it goes on, and kept in the audit trail.")
@click.option("--by", metavar="NAME", help="Who pauses it.")
@store_option
def command(
    *, execution_id: str, matching: Matching | None, reason: str | None, by: str | None, store: str, as_json: bool
) -> int:
    """Pause an execution, wherever it runs, and its children, or all that match: no step begins until 'unpause'.

    Steps under way end; until then it is running still. Answers, signals and timeouts are taken meanwhile.
    """
    if matching is not None:
        return do_to_all(
            matching,
            lambda runtime: runtime.pause_all,
            store=store,
            verb="pause",
            done="paused",
            as_json=as_json,
            reason=reason,
            by=by,
        )

    async def work(runtime: df.Runtime) -> df.ExecutionResult:
        runner = await runtime.runner_of(execution_id)
        return await runner.pause(execution_id, reason=reason, by=by)

    host = Host(store=store, services=(), workflows=(), secrets=(), quiet=True)
    paused = (df.Status.HALTED, df.Status.RUNNING)
    return drive(host, work, as_json=as_json, execution_id=execution_id, runs_steps=False, success=paused)
