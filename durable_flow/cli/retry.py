"""`retry`: goes on with a failed execution."""

from __future__ import annotations

import click

from durable_flow.cli._bulk import Matching, do_to_all, one_or_many
from durable_flow.cli._host import Host, answer, host_options
from durable_flow.cli._options import leave_option
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="durable-flow retry 42 --services shop")
@one_or_many
@click.option("--by", metavar="NAME", help="Who retries; kept in the audit trail.")
@leave_option
@host_options
def command(
    *, execution_id: str, matching: Matching | None, by: str | None, leave: bool, host: Host, as_json: bool
) -> int:
    """Go on with a failed execution at the step that failed. Finished steps stay finished.

    So it does with one that waits for a decision about a step that failed, or that may have happened. All failed ones
    that match are left to workers.
    """
    if matching is not None:
        return do_to_all(
            matching,
            lambda runtime: runtime.retry_all,
            store=host.store,
            verb="retry",
            done="retried",
            as_json=as_json,
            by=by,
        )

    return answer(
        host,
        lambda runner: runner.retry(execution_id, by=by),
        leave=leave,
        as_json=as_json,
        execution_id=execution_id,
    )
