"""`migrate`: creates the schema of a store, or brings it up to date."""

from __future__ import annotations

import asyncio

import click

import durable_flow as df
from durable_flow.cli import _render
from durable_flow.cli._hints import Hints
from durable_flow.cli._host import MEMORY, OWN_SCHEMES, Missing, opened
from durable_flow.cli._mistake import Mistake
from durable_flow.cli._options import url_option
from durable_flow.cli._program import command as as_command
from durable_flow.cli._url import shown

OUTDATED = 1


@as_command("Store", example="durable-flow migrate --store 'postgresql://db/app?schema=shop' --check")
@click.option("--check", is_flag=True, help="Change nothing; the exit code is 1 if there is something to migrate.")
@click.option("--sql", is_flag=True, help="Change nothing; print what a role that may create things has to run.")
@url_option
def command(*, check: bool, sql: bool, store: str, as_json: bool) -> int:
    """Create the schema of the store, or bring it up to date.

    'run' and 'worker' do that by themselves, if the role they use may. --sql is for PostgreSQL.
    """
    if check and sql:
        raise Mistake("--check and --sql do not go together")
    if store == MEMORY:
        raise Mistake("a store in memory has nothing to migrate", kind="ConfigError")
    if sql:
        return _sql(store, as_json=as_json)
    if check:
        return _check(store, as_json=as_json)
    return _migrate(store, as_json=as_json)


def _migrate(url: str, *, as_json: bool) -> int:
    hint = Hints.here().look("migrate", "--sql")
    opening = df.open_store(url)
    try:
        found, current = asyncio.run(_versions(opening, url, creates=True))
    except (df.StoreUnavailable, df.SchemaTooNew):
        raise
    except df.StoreError as error:
        if not hasattr(opening, "migration_sql"):
            raise
        raise Mistake(str(error), hint=f"'{hint}' prints what a role that may has to run", kind="StoreError") from error
    if found == current:
        state, said = "up_to_date", f"is up to date (version {current})"
    elif found:
        state, said = "migrated", f"migrated from {found} to {current}"
    else:
        state, said = "created", f"created (version {current})"
    if as_json:
        _render.document({"store": shown(url), "state": state, "found": found, "version": current})
    else:
        _render.schema(f"{shown(url)} {said}", good=True)
    return 0


def _check(url: str, *, as_json: bool) -> int:
    hints = Hints.here()
    found, current, looked = _look(url)
    state = "up_to_date" if found == current else "outdated" if found else "missing"
    commands = []
    if found < current:
        commands = [hints.look("migrate")]
        if hasattr(looked, "migration_sql"):
            commands.append(hints.look("migrate", "--sql"))
    if as_json:
        _render.document(
            {"store": shown(url), "state": state, "found": found, "version": current, "commands": commands}
        )
    else:
        said = {
            "up_to_date": f"is up to date (version {current})",
            "outdated": f"has version {found}, this release of durable-flow needs {current}",
            "missing": f"has no schema yet, this release of durable-flow needs version {current}",
        }
        _render.schema(f"{shown(url)} {said[state]}", good=not commands, commands=commands)
    return OUTDATED if commands else 0


def _sql(url: str, *, as_json: bool) -> int:
    write = getattr(df.open_store(url), "migration_sql", None)
    if write is None:
        raise Mistake(
            f"--sql is for PostgreSQL; {shown(url)} is no database that runs SQL for others",
            hint=f"'{Hints.here().look('migrate')}' does what there is to do",
            kind="ConfigError",
        )
    found, current, _ = _look(url)
    text: str = "" if found == current else write(found)
    if as_json:
        _render.document({"store": shown(url), "found": found, "version": current, "sql": text})
    elif text:
        click.echo(text, nl=False)
    else:
        _render.note(f"{shown(url)} is up to date (version {current}): there is nothing to run")
    return 0


def _look(url: str) -> tuple[int, int, df.Store]:
    """The version that is there (0: none), the one of this release, and the store, which is not open."""
    if url.partition(":")[0] not in OWN_SCHEMES:
        raise Mistake(f"the store at {shown(url)} cannot be looked at without migrating it", kind="ConfigError")
    opening = df.open_store(url, auto_migrate=False)
    try:
        found, current = asyncio.run(_versions(opening, url, creates=False))
    except Missing as missing:
        found, current = missing.found, missing.current
    return found, current, opening


async def _versions(store: df.Store, url: str, *, creates: bool) -> tuple[int, int]:
    async with opened(store, url, creates=creates):
        return store.versions
