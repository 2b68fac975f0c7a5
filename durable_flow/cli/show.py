"""`show`: one execution, with its steps as a tree."""

from __future__ import annotations

from typing import Any

import click
import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._host import found, read
from durable_flow.cli._options import execution_argument, store_option
from durable_flow.cli._program import command as as_command
from durable_flow.cli._steps import tree

CHUNK = 1_000


@as_command("Look", example="durable-flow show 42 --vars")
@execution_argument
@click.option("--vars", "variables", is_flag=True, help="Show the variables, too.")
@click.option("--entries", "with_entries", is_flag=True, help="Show the audit trail, too.")
@click.option("--all", "all_steps", is_flag=True, help="Show every iteration of a long loop.")
@store_option
def command(
    *, execution_id: str, variables: bool, with_entries: bool, all_steps: bool, store: str, as_json: bool
) -> int:
    """Show an execution: where it stands, and its steps with states, times and attempts."""

    async def work(opened: df.Store) -> int:
        one = await found(opened, execution_id)
        entries = await _entries(opened, execution_id)
        children = await opened.find(parent_id=execution_id)
        name, types, waits_for = await _definition(opened, one)
        nodes = tree(one, entries, types=types)
        if as_json:
            document: dict[str, Any] = {
                "execution": msgspec.to_builtins(one),
                "steps": [node.document() for node in nodes],
            }
            if waits_for is not None:
                document["waits_for"] = waits_for
            document["children"] = [{"id": child.id, "status": child.status} for child in children]
            if with_entries:
                document["entries"] = msgspec.to_builtins(entries)
            _render.document(document)
            return 0
        _render.execution(
            one,
            name=name,
            nodes=nodes,
            children=children,
            waits_for=waits_for,
            variables=variables,
            all_steps=all_steps,
        )
        if with_entries:
            _render.entries(entries)
        return 0

    return read(store, work)


async def _definition(store: df.Store, one: df.Execution) -> tuple[str, dict[str, str], str | None]:
    """The name of the workflow, and the types of its steps by id, from the definition that is pinned; and what an
    execution waits for that has not begun."""
    async with df.Runtime(store, extensions=extensions_here()) as runtime:
        try:
            runner = await runtime.runner_of(one.id)
        except (df.CorruptState, df.ValidationError):
            return one.workflow_id, {}, None
        waits_for = None
        if one.status is df.Status.PENDING and one.owner is None:
            waits_for = "; ".join(why.reason for why in await runner.why(one.id))
        workflow = runner.workflow
        return workflow.name, {step.id: step.type.name for step in df.every_step(workflow)}, waits_for


async def _entries(store: df.Store, execution_id: str) -> list[df.Entry]:
    found: list[df.Entry] = []
    while True:
        chunk = await store.entries(execution_id, after=found[-1].seq if found else 0, limit=CHUNK)
        found += chunk
        if len(chunk) < CHUNK:
            return found
