"""What `cancel`, `retry`, `pause` and `unpause` have in common: one execution, or all that match."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import wraps
from typing import Any, TypeVar

import click
import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._host import read
from durable_flow.cli._mistake import Mistake
from durable_flow.cli._options import filter_options

Function = TypeVar("Function", bound=Callable[..., Any])


class Matching(msgspec.Struct, frozen=True, kw_only=True):
    """The filters a command was given instead of an id, as arguments of `Runtime.cancel_all` and its like."""

    filters: dict[str, Any]
    dry_run: bool
    yes: bool


def one_or_many(function: Function) -> Function:
    """Adds the argument ID and the filters. The command gets an `execution_id`, or (then that is empty) `matching`."""

    @click.argument("execution_id", metavar="[ID]", required=False)
    @filter_options
    @click.option("--everything", is_flag=True, help="All executions, where no filter is given.")
    @click.option("--limit", type=click.IntRange(1), help="How many at most, the newest first.")
    @click.option("--dry-run", is_flag=True, help="Only say how many match.")
    @click.option("-y", "--yes", is_flag=True, help="Do not ask whether so many are meant.")
    @wraps(function)
    def choose(
        *,
        execution_id: str | None,
        workflow_id: str | None,
        statuses: tuple[str, ...],
        labels: tuple[tuple[str, str], ...],
        since: datetime | None,
        before: datetime | None,
        everything: bool,
        limit: int | None,
        dry_run: bool,
        yes: bool,
        **options: Any,
    ) -> Any:
        filters = {
            "workflow_id": workflow_id,
            "status": list(statuses) or None,
            "labels": dict(labels) or None,
            "created_after": since,
            "created_before": before,
        }
        narrowed = any(value is not None for value in filters.values())
        if execution_id is not None:
            if narrowed or everything or limit is not None or dry_run or yes:
                raise click.UsageError("an ID stands for one execution; filters are for many")
            return function(execution_id=execution_id, matching=None, **options)
        if not narrowed and not everything:
            raise click.UsageError("name an execution, or say which ones with filters such as --workflow or --status")
        if narrowed and everything:
            raise click.UsageError("--everything is for where no filter is given")
        matching = Matching(filters={**filters, "everything": everything, "limit": limit}, dry_run=dry_run, yes=yes)
        return function(execution_id="", matching=matching, **options)

    return choose  # type: ignore[return-value]


def do_to_all(
    matching: Matching,
    call: Callable[[df.Runtime], Callable[..., Awaitable[df.BulkReport]]],
    *,
    store: str,
    verb: str,
    done: str,
    as_json: bool,
    **options: Any,
) -> int:
    """Does something to all that match, once it is clear that so many are meant. The exit code is 1 where it could not
    be done to some."""

    async def work(opened: df.Store) -> int:
        async with df.Runtime(opened, extensions=extensions_here()) as runtime:
            many = call(runtime)
            found = await many(**matching.filters, **options, dry_run=True)
            if matching.dry_run or not found.matched:
                report = found
            else:
                if not matching.yes:
                    confirm(f"{verb} {_count(found)}?")
                report = await many(**matching.filters, **options)
        if as_json:
            _render.document(report)
        elif report.dry_run and not matching.dry_run:
            _render.line("no execution matches")
        elif report.dry_run:
            _render.line(f"{_count(report)} would be {done}")
        else:
            _render.line(f"{len(report.done):,} execution{'s' * (len(report.done) != 1)} {done}")
            for execution_id, reason in report.skipped.items():
                _render.note(f"{execution_id} is not {done}: {reason.partition(': ')[2] or reason}")
        if report.more and not as_json:
            _render.note("there are more that match: --limit was reached")
        return 1 if report.skipped else 0

    return read(store, work)


def _count(report: df.BulkReport) -> str:
    return f"{len(report.matched):,} execution{'s' * (len(report.matched) != 1)}"


def confirm(question: str) -> None:
    """Raises Mistake unless somebody at a terminal says yes."""
    if not sys.stdin.isatty():
        raise Mistake(f"{question} Nobody can be asked here", hint="nothing was done; --yes means that it is so")
    if not click.confirm(question, err=True):
        raise Mistake("nothing was done", kind="Declined")
