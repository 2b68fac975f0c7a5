"""`simulate`: plays a workflow with a fault at every point and says what differs."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._extensions import extensions_here
from durable_flow.cli._options import Json, definition_file, definition_files, places_options
from durable_flow.cli._program import command as as_command
from durable_flow.cli._services import load_gates, load_services
from durable_flow.testing import Expire, Move, simulate


@as_command("Definitions", example="durable-flow simulate order.yml --services shop --input @order.json")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "given",
    type=Json(mapping=True),
    metavar="JSON|@FILE|-",
    help="The input, a JSON object; else one is made of what the workflow declares.",
)
@click.option(
    "--answers",
    type=Json(mapping=True),
    metavar="JSON|@FILE|-",
    help="What steps are answered, by their ids: an object such as "
    '\'{"review": false, "charge": {"paid": 5}}\'. Else approvals are approved, and halts and signals get true.',
)
@click.option(
    "--expire", "expired", multiple=True, metavar="STEP", help="Let the time of this wait run out. May be repeated."
)
@click.option(
    "--crash",
    type=click.Choice(["everywhere", "kills", "none"]),
    default="everywhere",
    show_default=True,
    help="Every kind of fault, only deaths of the process, or no fault at all.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="PATH",
    help="A value that need not be the same, such as output.total or variables.total. May be repeated.",
)
@click.option("--most", type=click.IntRange(min=1), metavar="N", help="End after so many differences.")
@places_options(
    services="Where services come from: they are really called. What is missing is stood in for. May be repeated.",
    gates="Where the resolvers of gates come from; what is missing is open. May be repeated.",
)
@click.option("-q", "--quiet", is_flag=True, help="Do not show how far it is.")
def command(
    *,
    file: Path,
    given: dict[str, Any] | None,
    answers: dict[str, Any] | None,
    expired: tuple[str, ...],
    crash: str,
    ignore: tuple[str, ...],
    most: int | None,
    workflows: tuple[Path, ...],
    services: tuple[str, ...],
    gates: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> int:
    """Prove that the workflow in FILE ends the same with and without a crash at any point.

    Nothing is stored, and waiting takes no time. Services named with --services are really called, again and again; a
    function that makes them gives each case fresh ones. The exit code is 0 if nothing differs, 1 if something does.
    """
    extensions = extensions_here()
    workflow = df.load(definition_file(file), extensions=extensions)
    known = [df.load(other, extensions=extensions) for other in definition_files(workflows)]
    others = [one for one in known if one.id != workflow.id]
    expire: dict[str, Move] = dict.fromkeys(expired, Expire())
    tally = _render.tally(quiet=quiet or as_json)
    # What services print is not the report.
    with contextlib.redirect_stdout(sys.stderr), contextlib.closing(tally):
        found = load_gates(gates)
        report = simulate(
            workflow,
            services=lambda: load_services(services),
            gates=found,
            input=given,
            answers={**(answers or {}), **expire},
            crash=crash,  # type: ignore[arg-type]  # one of the choices
            others=others,
            most=most,
            ignore=ignore,
            progress=tally.count,
            extensions=extensions,
        )
    if as_json:
        _render.document({"proven": report.proven, **msgspec.to_builtins(report)})
    else:
        _render.simulation(report)
    return 0 if report.proven else 1
