"""`retry`: goes on with a failed execution."""

from __future__ import annotations

import click

import durable_flow as df
from durable_flow.cli._host import Host, drive, host_options
from durable_flow.cli._options import execution_argument
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="durable-flow retry 42 --services shop")
@execution_argument
@click.option("--by", metavar="NAME", help="Who retries; kept in the audit trail.")
@host_options
def command(*, execution_id: str, by: str | None, host: Host, as_json: bool) -> int:
    """Go on with a failed execution at the step that failed. Finished steps stay finished.

    So it does with one that waits for a decision about a step that failed, or that may have happened.
    """

    async def work(runtime: df.Runtime) -> df.ExecutionResult:
        runner = await runtime.runner_of(execution_id)
        return await runner.retry(execution_id, by=by)

    return drive(host, work, as_json=as_json, execution_id=execution_id)
