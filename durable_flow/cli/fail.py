"""`fail`: lets a step fail about which somebody has to decide."""

from __future__ import annotations

import click

import durable_flow as df
from durable_flow.cli._host import Host, answer, host_options
from durable_flow.cli._options import execution_argument, leave_option
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="durable-flow fail 42 --reason 'the bank says no' --services shop")
@execution_argument
@click.option("--reason", metavar="TEXT", help="Why; kept in the audit trail.")
@click.option("--by", metavar="NAME", help="Who decides.")
@leave_option
@host_options
def command(*, execution_id: str, reason: str | None, by: str | None, leave: bool, host: Host, as_json: bool) -> int:
    """Let the step fail that an execution waits for a decision about, and drive it on.

    Its on_error follows, if it has one. The exit code is 0 also when the execution has failed then.
    """
    return answer(
        host,
        lambda runner: runner.fail(execution_id, reason=reason, by=by),
        leave=leave,
        as_json=as_json,
        execution_id=execution_id,
        success=df.Status.FAILED,
    )
