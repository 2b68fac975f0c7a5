"""`fork`: a new execution that begins where another one once was."""

from __future__ import annotations

from typing import Any

import click

import durable_flow as df
from durable_flow.cli._host import Host, drive, host_options
from durable_flow.cli._options import Assignment, Label, execution_argument
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="durable-flow fork 42 --from charge --set amount=70 --services shop")
@execution_argument
@click.option(
    "--from",
    "from_step",
    required=True,
    metavar="STEP",
    help="The step it begins at, or its path: charge, orders[3]/charge, or poll#2 for the second visit.",
)
@click.option(
    "--set",
    "changes",
    type=Assignment(),
    multiple=True,
    metavar="NAME=JSON",
    help="A variable with another value. May be repeated.",
)
@click.option("--id", "new_id", metavar="ID", help="The id of the new execution. A second fork with it starts nothing.")
@click.option(
    "--label", "labels", type=Label(), multiple=True, help="A label, instead of those of ID. May be repeated."
)
@click.option("--by", metavar="NAME", help="Who forks; kept in the audit trail.")
@host_options
def command(
    *,
    execution_id: str,
    from_step: str,
    changes: tuple[tuple[str, Any], ...],
    new_id: str | None,
    labels: tuple[tuple[str, str], ...],
    by: str | None,
    host: Host,
    as_json: bool,
) -> int:
    """Begin a new execution with the state as it was when ID came to a step, and drive it.

    ID stays as it is. What is before the step is not done again.
    """

    async def work(runtime: df.Runtime) -> df.ExecutionResult:
        runner = await runtime.runner_of(execution_id)
        return await runner.fork(
            execution_id,
            from_step=from_step,
            set=dict(changes),
            execution_id=new_id,
            labels=dict(labels) or None,
            by=by,
        )

    return drive(host, work, as_json=as_json, like=execution_id)
