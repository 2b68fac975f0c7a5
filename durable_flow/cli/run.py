"""`run`: starts an execution and drives it until it is over or waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import durable_flow as df
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._host import MEMORY, Host, drive, host_options
from durable_flow.cli._options import Json, Label, definition_file
from durable_flow.cli._program import command as as_command
from durable_flow.cli._rehearsal import rehearse


@as_command("Run", example="""durable-flow run order.yml --input @order.json --services shop""")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--input", "given", type=Json(mapping=True), metavar="JSON|@FILE|-", help="The input, a JSON object.")
@click.option(
    "--id", "execution_id", metavar="ID", help="The id of the execution. A second run with it starts nothing new."
)
@click.option(
    "--label", "labels", type=Label(), multiple=True, help="A label to find the execution by. May be repeated."
)
@click.option("--dry-run", is_flag=True, help="Only show what would happen: nothing is called, and nobody is asked.")
@click.option(
    "--fixtures",
    type=Json(mapping=True),
    metavar="JSON|@FILE|-",
    help="What steps get in a dry run, by their ids or paths, before the fixtures of FILE.",
)
@click.option(
    "--watch",
    is_flag=True,
    help="Go on while it waits, and show its steps until it is over, whichever process answers and drives it.",
)
@host_options
def command(
    *,
    file: Path,
    given: dict[str, Any] | None,
    execution_id: str | None,
    labels: tuple[tuple[str, str], ...],
    dry_run: bool,
    fixtures: dict[str, Any] | None,
    watch: bool,
    host: Host,
    as_json: bool,
) -> int:
    """Run the workflow in FILE.

    Ends when the workflow has ended or waits for an answer; then it shows the command that answers. With --watch it
    waits for that as well. A dry run needs no services, and keeps nothing unless a store is named with --store.
    """
    workflow = df.load(definition_file(file), extensions=extensions_here())
    if dry_run:
        source = click.get_current_context().get_parameter_source("store")
        return rehearse(
            workflow,
            given,
            fixtures=fixtures,
            others=host.workflows,
            store=host.store if source is ParameterSource.COMMANDLINE else None,
            execution_id=execution_id,
            labels=dict(labels),
            as_json=as_json,
        )
    if fixtures is not None:
        raise click.UsageError("--fixtures are for a dry run: add --dry-run")

    if watch and host.store == MEMORY:
        raise click.UsageError("--watch waits for answers of other processes, which see no store in memory")

    async def work(runtime: df.Runtime) -> df.ExecutionResult:
        runner = runtime.runner(workflow)
        return await runner.run(given, execution_id=execution_id, labels=dict(labels), trigger="cli")

    return drive(host, work, as_json=as_json, workflow=workflow, execution_id=execution_id, watches=watch)
