"""`run`: starts an execution and drives it until it is over or waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import durable_flow as df
from durable_flow.cli._host import Host, drive, host_options
from durable_flow.cli._options import Json, Label, definition_file
from durable_flow.cli._program import command as as_command


@as_command("Run", example="""durable-flow run order.yml --input @order.json --services shop""")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--input", "given", type=Json(mapping=True), metavar="JSON|@FILE|-", help="The input, a JSON object.")
@click.option(
    "--id", "execution_id", metavar="ID", help="The id of the execution. A second run with it starts nothing new."
)
@click.option(
    "--label", "labels", type=Label(), multiple=True, help="A label to find the execution by. May be repeated."
)
@host_options
def command(
    *,
    file: Path,
    given: dict[str, Any] | None,
    execution_id: str | None,
    labels: tuple[tuple[str, str], ...],
    host: Host,
    as_json: bool,
) -> int:
    """Run the workflow in FILE.

    Ends when the workflow has ended or waits for an answer; then it shows the command that answers.
    """
    workflow = df.load(definition_file(file))

    async def work(runtime: df.Runtime) -> df.ExecutionResult:
        runner = runtime.runner(workflow)
        return await runner.run(given, execution_id=execution_id, labels=dict(labels), trigger="cli")

    return drive(host, work, as_json=as_json, workflow=workflow, execution_id=execution_id)
