"""`resume`: answers a halt."""

from __future__ import annotations

from typing import Any

import click

from durable_flow.cli._host import Host, answer, host_options
from durable_flow.cli._options import Json, execution_argument, leave_option, wait_options
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="""durable-flow resume 42 --response '{"address": "…"}' --services shop""")
@execution_argument
@click.option("--response", type=Json(), metavar="JSON|@FILE|-", help="The answer; the workflow sees it as $response.")
@click.option("--by", metavar="NAME", help="Who answers.")
@wait_options
@leave_option
@host_options
def command(
    *,
    execution_id: str,
    response: Any,
    by: str | None,
    step: str | None,
    wait_id: str | None,
    leave: bool,
    host: Host,
    as_json: bool,
) -> int:
    """Answer a halted execution and drive it on.

    Where it waits for a decision about a step, the response takes the place of what the step would have given.
    """
    return answer(
        host,
        lambda runner: runner.resume(execution_id, by=by, step=step, wait_id=wait_id, response=response),
        leave=leave,
        as_json=as_json,
        execution_id=execution_id,
    )
