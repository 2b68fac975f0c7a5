"""`schedule`: which schedules there are, and what people do with them."""

from __future__ import annotations

from datetime import datetime

import click
import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._host import read
from durable_flow.cli._options import Moment, store_option
from durable_flow.cli._program import command as as_command

ACTIONS = ("list", "show", "pause", "unpause", "trigger", "backfill")
OVERLAPS = ("skip", "buffer_one", "allow_all", "cancel_other")


@as_command("Answer and repair", example="durable-flow schedule pause report:nightly --reason 'the disk is full'")
@click.argument("action", metavar="|".join(ACTIONS), type=click.Choice(ACTIONS))
@click.argument("schedule_id", metavar="[ID]", required=False)
@click.option("--reason", metavar="TEXT", help="Why it is paused; shown until it is not.")
@click.option("--by", metavar="NAME", help="Who pauses it.")
@click.option("--from", "start", type=Moment(), help="The first time of a backfill: 2026-03-01, or 2d: two days ago.")
@click.option("--to", "end", type=Moment(), help="The last time of a backfill.")
@click.option("--overlap", type=click.Choice(OVERLAPS), help="What to do about executions of it that go on.")
@click.option("--id", "execution_id", metavar="ID", help="The id of the execution that is triggered.")
@store_option
def command(
    *,
    action: str,
    schedule_id: str | None,
    reason: str | None,
    by: str | None,
    start: datetime | None,
    end: datetime | None,
    overlap: str | None,
    execution_id: str | None,
    store: str,
    as_json: bool,
) -> int:
    """List schedules, show one, pause it, let it go on, start it now, or make up for times that have been.

    ID is that of the workflow and that of the schedule in it: report:nightly. A schedule is known since a worker ran
    that knows its workflow; what is triggered or made up for is started by workers.
    """
    if (action == "list") is not (schedule_id is None):
        raise click.UsageError(
            "'schedule list' takes no ID" if action == "list" else f"'schedule {action}' needs an ID"
        )
    if action != "pause" and (reason is not None or by is not None):
        raise click.UsageError("--reason and --by are for 'schedule pause'")
    if action == "backfill" and (start is None or end is None):
        raise click.UsageError("'schedule backfill' needs --from and --to")
    if action != "backfill" and (start is not None or end is not None):
        raise click.UsageError("--from and --to are for 'schedule backfill'")
    if overlap is not None and action not in ("trigger", "backfill"):
        raise click.UsageError("--overlap is for 'schedule trigger' and 'schedule backfill'")
    if execution_id is not None and action != "trigger":
        raise click.UsageError("--id is for 'schedule trigger'")

    async def work(opened: df.Store) -> int:
        told: dict[str, object] = {}
        async with df.Runtime(opened) as runtime:
            name = schedule_id or ""
            if action == "pause":
                told["changed"] = await runtime.pause_schedule(name, by=by, reason=reason)
            elif action == "unpause":
                told["changed"] = await runtime.unpause_schedule(name)
            elif action == "trigger":
                told["execution_id"] = await runtime.trigger_schedule(name, overlap=overlap, execution_id=execution_id)
            elif action == "backfill" and start is not None and end is not None:
                told["ticks"] = await runtime.backfill_schedule(name, start=start, end=end, overlap=overlap)
            found = await runtime.schedules()
        if schedule_id is not None:
            found = [one for one in found if one.id == schedule_id]
            if not found:
                raise df.ValidationError([f"there is no schedule {schedule_id!r} in this store"])
        if as_json:
            _render.document({**told, "schedules": msgspec.to_builtins(found)})
            return 0
        if told.get("changed") is False:
            _render.note(f"schedule {schedule_id}: {'paused already' if action == 'pause' else 'not paused'}")
        if "execution_id" in told:
            _render.line(f"{told['execution_id']} is started by the next worker")
        if "ticks" in told:
            _render.line(f"{told['ticks']:,} ticks, of which those without an execution are started by workers")
        if action == "list":
            _render.schedules(found)
        elif action in ("show", "pause", "unpause"):
            _render.schedule(found[0])
        return 0

    return read(store, work)
