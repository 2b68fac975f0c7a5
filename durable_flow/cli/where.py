"""`where`: the steps at which an execution stands."""

from __future__ import annotations

from typing import Any

import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._host import found, read
from durable_flow.cli._options import execution_argument, store_option
from durable_flow.cli._program import command as as_command


@as_command("Look", example="durable-flow where 42")
@execution_argument
@store_option
def command(*, execution_id: str, store: str, as_json: bool) -> int:
    """Show the innermost steps at which an execution stands, down through its children."""

    async def work(opened: df.Store) -> int:
        one = await found(opened, execution_id)
        async with df.Runtime(opened, extensions=extensions_here()) as runtime:
            places = await (await runtime.runner_of(execution_id)).where(execution_id)
        if as_json:
            about = {"execution_id": execution_id, "status": one.status, "dry_run": one.dry_run}
            _render.document({**about, **_document(places)})
        else:
            _render.places(places, status=str(one.status))
            if one.dry_run:
                _render.note("it is a dry run")
        return 0

    return read(store, work)


def _document(places: list[df.Where]) -> dict[str, Any]:
    """The places, and the items of each loop once."""
    loops = {(place.execution_id, place.loop): place.items for place in places if place.loop is not None}
    shown = [msgspec.to_builtins(place) for place in places]
    for place in shown:
        del place["items"]
    return {
        "places": shown,
        "loops": [
            {"execution_id": name, "path": path, "items": msgspec.to_builtins(items)}
            for (name, path), items in loops.items()
        ],
    }
