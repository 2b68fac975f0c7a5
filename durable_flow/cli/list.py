"""`list`: executions, newest first."""

from __future__ import annotations

from datetime import datetime

import click
import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._host import read
from durable_flow.cli._options import filter_options, store_option
from durable_flow.cli._program import command as as_command


@as_command("Look", example="durable-flow list --status halted --since 2d")
@filter_options
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
@click.option("--cursor", help="Where the next page begins, as the page before said.")
@store_option
def command(
    *,
    workflow_id: str | None,
    statuses: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    since: datetime | None,
    before: datetime | None,
    limit: int,
    cursor: str | None,
    store: str,
    as_json: bool,
) -> int:
    """List executions, newest first."""

    async def work(opened: df.Store) -> int:
        page = await opened.find(
            workflow_id=workflow_id,
            status=statuses or None,
            labels=dict(labels),
            created_after=since,
            created_before=before,
            limit=limit,
            cursor=cursor,
        )
        if as_json:
            _render.document({"executions": [_document(one) for one in page], "next_cursor": page.next_cursor})
        else:
            _render.executions(page, more=page.next_cursor and f"add --cursor {page.next_cursor}")
        return 0

    return read(store, work)


def _document(one: df.Execution) -> dict[str, object]:
    """Without the variables: a listing does not load them."""
    shown: dict[str, object] = msgspec.to_builtins(one)
    del shown["ctx"]
    return shown
