"""What `approve` and `reject` have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from durable_flow.cli._host import Host, answer, host_options
from durable_flow.cli._options import Json, execution_argument, leave_option, wait_options

Function = TypeVar("Function", bound=Callable[..., Any])


def decision_options(function: Function) -> Function:
    """The options of an answer to an approval."""
    for option in (
        host_options,
        leave_option,
        wait_options,
        click.option(
            "--select",
            "selections",
            type=Json(lenient=True),
            multiple=True,
            metavar="VALUE",
            help="One of the options that were offered, as JSON or as text. May be repeated.",
        ),
        click.option("--comment", metavar="TEXT", help="Why; kept in the audit trail."),
        click.option("--by", metavar="NAME", help="Who answers; needed where approvers are named."),
        execution_argument,
    ):
        function = option(function)
    return function


def decide(
    approved: bool,
    *,
    execution_id: str,
    by: str | None,
    comment: str | None,
    selections: tuple[Any, ...],
    step: str | None,
    wait_id: str | None,
    leave: bool,
    host: Host,
    as_json: bool,
) -> int:
    """Answers an approval and drives the execution on."""
    return answer(
        host,
        lambda runner: runner.resume(
            execution_id,
            approved=approved,
            by=by,
            comment=comment,
            selections=list(selections) or None,
            step=step,
            wait_id=wait_id,
        ),
        leave=leave,
        as_json=as_json,
        execution_id=execution_id,
    )
