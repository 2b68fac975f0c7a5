"""`signal`: sends a signal to an execution."""

from __future__ import annotations

from typing import Any

import click

from durable_flow.cli._host import Host, answer, host_options
from durable_flow.cli._options import Json, execution_argument, leave_option
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="""durable-flow signal 42 paid --payload '{"cents": 500}' --services shop""")
@execution_argument
@click.argument("name", metavar="NAME")
@click.option("--payload", type=Json(), metavar="JSON|@FILE|-", help="What comes with it: the output of the step.")
@click.option("--by", metavar="NAME", help="Who sends it; kept in the audit trail.")
@leave_option
@host_options
def command(
    *, execution_id: str, name: str, payload: Any, by: str | None, leave: bool, host: Host, as_json: bool
) -> int:
    """Send the signal NAME to an execution, and drive it on if it waits for that.

    Signals that nothing waits for yet are kept for the step that does.
    """
    return answer(
        host,
        lambda runner: runner.signal(execution_id, name, payload, by=by),
        leave=leave,
        as_json=as_json,
        execution_id=execution_id,
    )
