"""A dry run of a definition: what would happen, step by step."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._codec import codec_here
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._hints import Hints
from durable_flow.cli._host import EXIT_CODES, MEMORY, opened, store_at
from durable_flow.cli._options import definition_files
from durable_flow.cli._steps import STATES

POLL = 0.05
"""Seconds between two looks at children that nobody waits for."""

ENDS = frozenset({df.Action.COMPLETED, df.Action.ANSWERED, df.Action.FAILED, df.Action.COMPENSATED})


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a dry run, or of a child of one. `would` is what it would have done outside, with this `input`;
    `made_up`: what it got is from no fixture. The `output` of an approval is whether it was given."""

    execution_id: str
    workflow_id: str
    path: str
    step_type: str
    state: str
    would: str | None = None
    input: Any = None
    output: Any = None
    fixture: str | None = None
    made_up: bool = False
    route: str | int | None = None
    error: str | None = None


def rehearse(
    workflow: df.WorkflowDef,
    given: dict[str, Any] | None,
    *,
    fixtures: Mapping[str, Any] | None,
    others: tuple[Path, ...],
    store: str | None,
    execution_id: str | None,
    labels: Mapping[str, str],
    as_json: bool,
) -> int:
    """Does a dry run and shows it; the exit code is that of its status. Without a `store` nothing is kept of it."""
    url = MEMORY if store is None else store
    hints = Hints.here()
    with contextlib.redirect_stdout(sys.stderr):
        codec = None if store is None else codec_here()

    async def main() -> tuple[df.ExecutionResult, list[Rehearsed]]:
        at = store_at(url, codec=codec, creates=True)
        async with (
            opened(at, url, creates=True),
            df.Runtime(at, workflows=definition_files(others), extensions=extensions_here()) as runtime,
        ):
            runner = runtime.runner(workflow)
            result = await runner.run(
                given, execution_id=execution_id, labels=labels, trigger="cli", dry_run=True, fixtures=fixtures
            )
            return result, [step async for step in _steps(runtime, result.execution_id)]

    result, steps = asyncio.run(main())
    if as_json:
        _render.document(
            {
                "execution_id": result.execution_id,
                "workflow_id": workflow.id,
                "dry_run": True,
                "status": result.status,
                "output": result.output,
                "error": result.error,
                "error_info": result.error_info,
                "compensated": result.compensated,
                "steps": steps,
            }
        )
    else:
        look = [] if store is None else [hints.look("show", result.execution_id)]
        _render.rehearsal(steps, workflow_id=workflow.id, result=result, next_commands=look)
    return EXIT_CODES[result.status]


async def _steps(runtime: df.Runtime, execution_id: str) -> AsyncIterator[Rehearsed]:
    """The steps that ended, each followed by those of the child that it started."""
    workflow = (await runtime.runner_of(execution_id)).workflow
    types = {step.id: step.type for step in df.every_step(workflow)}
    children = {child.id: child for child in await runtime.store.find(parent_id=execution_id, limit=1_000)}
    after = 0
    while found := await runtime.store.entries(execution_id, after=after, limit=1_000):
        after = found[-1].seq
        for entry in found:
            name = entry.path.rpartition("/")[2].partition("#")[0]
            if entry.action not in ENDS or name != entry.step_id:
                continue
            if (child := children.pop(f"{execution_id}.{entry.path}", None)) is not None:
                await _until_over(runtime, child.id)
                async for step in _steps(runtime, child.id):
                    yield step
            told, kind = entry.metadata, types[entry.step_id]
            yield Rehearsed(
                execution_id=execution_id,
                workflow_id=workflow.id,
                path=entry.path,
                step_type=entry.step_type,
                state=STATES[entry.action],
                would=told.get("would"),
                input=entry.input,
                output=entry.output["approved"] if kind.decides and entry.output else entry.output,
                fixture=told.get("fixture"),
                made_up="would" in told and "fixture" not in told and (kind.works_outside or kind.asks),
                route=told.get("route"),
                error=entry.error,
            )


async def _until_over(runtime: df.Runtime, execution_id: str) -> None:
    """Returns when a child is over that nobody waits for; it is driven in this process."""
    clock = df.SystemClock()
    while (one := await runtime.store.load(execution_id)) is not None and not one.status.over:
        await clock.sleep(POLL)
