"""`migrate-executions`: gives live executions the new definition of their workflow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click
import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._host import read
from durable_flow.cli._mistake import Mistake
from durable_flow.cli._options import Label, definition_file, store_option
from durable_flow.cli._program import command as as_command

LEFT = 1
PAGE = 500


@as_command("Answer and repair", example="durable-flow migrate-executions --plan order-v1.yml order-v2.yml")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--plan", is_flag=True, help="Change nothing; say what would become of each.")
@click.option(
    "--map",
    "mapping",
    type=Label(),
    multiple=True,
    metavar="OLD=NEW",
    help="A step that has another name in NEW. May be repeated.",
)
@click.option("--failed", is_flag=True, help="Failed executions, too: 'retry' goes on with them then.")
@click.option("--by", metavar="NAME", help="Who migrates; kept in the audit trail.")
@store_option
def command(
    *,
    old: Path,
    new: Path,
    plan: bool,
    mapping: tuple[tuple[str, str], ...],
    failed: bool,
    by: str | None,
    store: str,
    as_json: bool,
) -> int:
    """Give the live executions that have the definition OLD the definition NEW, where they can go on with it.

    They are not driven. The exit code is 1 if any must stay with OLD, needs --map, or is being driven.
    """
    extensions = extensions_here()
    before, after = (df.load(definition_file(file), extensions=extensions) for file in (old, new))
    if before.id != after.id:
        raise Mistake(f"{old} is workflow {before.id!r} and {new} is workflow {after.id!r}: they must be one")
    statuses = [df.Status.PENDING, df.Status.RUNNING, df.Status.HALTED, *([df.Status.FAILED] if failed else [])]

    async def work(opened: df.Store) -> int:
        told: list[tuple[df.Migration, str]] = []
        others = 0
        async with df.Runtime(opened, workflows=[after], extensions=extensions) as runtime:
            runner = runtime.runner(after.id)
            async for one in _all(opened, after.id, statuses):
                if one.definition_hash == before.hash != after.hash:
                    told.append(await _one(runner, one, plan, dict(mapping), by))
                else:
                    others += one.definition_hash not in (before.hash, after.hash)
        if as_json:
            _render.document(_document(before, after, told, others))
        else:
            _render.migrations(told, others=others)
        return 0 if all(done in (MIGRATED, CAN) for _, done in told) else LEFT

    return read(store, work)


MIGRATED, CAN, DRIVEN = "migrated", "can go on", "is being driven: try again"
DONE = {"needs_mapping": "needs a mapping", "must_finish": "must finish as it began"}


async def _one(
    runner: df.Runner, one: df.Execution, plan: bool, mapping: dict[str, str], by: str | None
) -> tuple[df.Migration, str]:
    """The verdict about an execution, and what was done."""
    if not plan:
        try:
            return await runner.migrate(one.id, mapping=mapping, by=by), MIGRATED
        except df.ConflictError:
            pass  # told below
    verdict = await runner.migration(one.id, mapping=mapping)
    if not verdict.safe:
        return verdict, DONE[verdict.verdict]
    return verdict, CAN if plan else DRIVEN


async def _all(store: df.Store, workflow_id: str, statuses: list[df.Status]) -> AsyncIterator[df.Execution]:
    cursor: str | None = None
    while True:
        page = await store.find(workflow_id=workflow_id, status=statuses, limit=PAGE, cursor=cursor)
        for one in page:
            yield one
        if page.next_cursor is None:
            return
        cursor = page.next_cursor


def _document(
    before: df.WorkflowDef, after: df.WorkflowDef, told: list[tuple[df.Migration, str]], others: int
) -> dict[str, Any]:
    return {
        "workflow_id": after.id,
        "from": {"hash": before.hash, "version": before.version},
        "to": {"hash": after.hash, "version": after.version},
        "executions": [
            {
                "execution_id": verdict.execution_id,
                "verdict": verdict.verdict,
                "migrated": done == MIGRATED,
                "mapping": verdict.mapping,
                "reasons": msgspec.to_builtins(verdict.reasons),
            }
            for verdict, done in told
        ],
        "others": others,
    }
