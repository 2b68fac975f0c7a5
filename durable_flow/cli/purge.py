"""`purge`: deletes executions that ended long ago."""

from __future__ import annotations

from datetime import timedelta

import click

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._bulk import confirm
from durable_flow.cli._host import read
from durable_flow.cli._options import Duration, store_option
from durable_flow.cli._program import command as as_command

OVER = tuple(status for status in df.Status if status.over)


@as_command("Store", example="durable-flow purge --older-than 90d --status completed --yes")
@click.option(
    "--older-than", type=Duration(with_unit=True), required=True, help="How long ago they must have ended: 12h, 90d."
)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([str(status) for status in OVER]),
    help="Only executions with this status (default: every one that is over). May be repeated.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask whether that is meant.")
@store_option
def command(*, older_than: timedelta, statuses: tuple[str, ...], yes: bool, store: str, as_json: bool) -> int:
    """Delete executions that ended, with everything that belongs to them."""

    async def work(opened: df.Store) -> int:
        if not yes:
            which = f"{' or '.join(statuses)} " if statuses else ""
            ago = _render.span(older_than.total_seconds())
            confirm(f"delete every {which}execution that ended more than {ago} ago?")
        count = await opened.purge(older_than=older_than, statuses=[df.Status(one) for one in statuses] or OVER)
        if as_json:
            _render.document({"deleted": count})
        else:
            _render.line(f"{count:,} execution{'s' * (count != 1)} deleted")
        return 0

    return read(store, work)
