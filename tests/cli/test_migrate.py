"""`migrate`, and commands on stores that are servers."""

import asyncio
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_flow.stores import sqlite
from tests.cli.conftest import Cli


def with_query(url: str, query: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{query}"


@pytest.fixture
def postgres(postgres_url: str, postgres_schema: str) -> str:
    return with_query(postgres_url, f"schema={postgres_schema}")


@pytest.fixture
def redis(redis_url: str, redis_prefix: str) -> str:
    return with_query(redis_url, f"prefix={redis_prefix}")


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """A store that is not there yet."""
    return "sqlite:///new.db" if request.param == "sqlite" else str(request.getfixturevalue(request.param))


def test_migrate_creates_the_store_and_says_so_and_then_that_there_is_nothing_to_do(url: str, cli: Cli) -> None:
    done = cli("migrate", "--store", url, "--json")
    version = done.document["version"]
    assert (done.code, done.document["state"], done.document["found"]) == (0, "created", 0)
    again = cli("migrate", "--store", url)
    assert again.code == 0
    assert again.out.endswith(f" is up to date (version {version})\n")
    assert cli("list", "--store", url).code == 0


def test_check_says_what_to_do_and_does_nothing(url: str, cli: Cli, folder: Path) -> None:
    for _ in range(2):
        done = cli("migrate", "--store", url, "--check")
        assert done.code == 1
        assert " has no schema yet, this release of durable-flow needs version " in done.out
        assert "→ durable-flow migrate --store " in done.out
    assert not list(folder.glob("new.db*"))
    cli("migrate", "--store", url)
    done = cli("migrate", "--store", url, "--check", "--json")
    assert (done.code, done.document["state"], done.document["commands"]) == (0, "up_to_date", [])


def test_looking_creates_no_store(url: str, cli: Cli) -> None:
    for command in (
        ["list"],
        ["show", "x"],
        ["purge", "--older-than", "1d", "--yes"],
        ["cancel", "x"],
        ["recover", "x"],
    ):
        done = cli(*command, "--store", url, "--json")
        assert (done.code, done.document["error"]["type"]) == (2, "StoreNotFound")
    assert cli("migrate", "--store", url, "--check").code == 1


def test_an_older_store_is_migrated_by_migrate_and_not_by_looking(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("run", "halt.yml", "--id", "q")
    old = len(sqlite.MIGRATIONS)
    monkeypatch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, ("CREATE TABLE later (x)",)))
    said = f"has version {old} of the schema, this release of durable-flow needs {old + 1}"
    for command in (["list"], ["resume", "q"]):
        done = cli(*command)
        assert done.code == 2
        assert said in done.err
        assert "'durable-flow migrate' migrates it" in done.err
    checked = cli("migrate", "--check")
    assert (checked.code, f"has version {old}, this release" in checked.out) == (1, True)
    assert cli("migrate").out.endswith(f" migrated from {old} to {old + 1}\n")
    assert cli("resume", "q").code == 0


def test_a_newer_store_is_left_alone(cli: Cli, folder: Path) -> None:
    cli("migrate")
    with sqlite3.connect(folder / "durable_flow.db") as database:
        database.execute(f"PRAGMA user_version = {len(sqlite.MIGRATIONS) + 1}")
    database.close()
    for options in ([], ["--check"]):
        done = cli("migrate", *options)
        assert (done.code, "upgrade durable-flow before opening it" in done.err) == (2, True)


def test_sql_is_what_an_administrator_runs_for_a_role_that_may_create_nothing(
    role: Any, postgres: str, postgres_schema: str, cli: Cli
) -> None:
    store = role.url(postgres)
    refused = cli("migrate", "--store", store)
    assert refused.code == 2
    assert "permission denied" in refused.err
    assert "migrate --store" not in refused.err.splitlines()[0]
    assert "migrate --sql --store" in refused.err
    assert "secret" not in refused.out + refused.err
    assert cli("migrate", "--store", store, "--check").code == 1
    written = cli("migrate", "--store", store, "--sql")
    assert written.code == 0
    role.administrator(
        written.out,
        f"GRANT USAGE ON SCHEMA {postgres_schema} TO {role.name}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {postgres_schema} TO {role.name}",
    )
    assert cli("migrate", "--store", store, "--check").code == 0
    assert "there is nothing to run" in cli("migrate", "--store", store, "--sql").err
    assert cli("migrate", "--store", store, "--sql", "--json").document["sql"] == ""
    assert cli("run", "hello.yml", "--store", store).code == 0


class Role:
    """A role that may connect, and may create nothing."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = f"app_{secrets.token_hex(4)}"

    def url(self, url: str) -> str:
        """The URL with this role in it."""
        scheme, _, rest = url.partition("://")
        place = rest.rpartition("@")[2] if "@" in rest.partition("/")[0] else rest
        return f"{scheme}://{self.name}:secret@{place}"

    def administrator(self, *statements: str) -> None:
        import asyncpg

        async def run() -> None:
            connection = await asyncpg.connect(self._url)
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(run())


@pytest.fixture
def role(postgres_url: str, postgres_schema: str) -> Iterator[Role]:
    made = Role(postgres_url)
    made.administrator(f"CREATE ROLE {made.name} LOGIN PASSWORD 'secret'")
    yield made
    made.administrator(f"DROP SCHEMA IF EXISTS {postgres_schema} CASCADE", f"DROP ROLE {made.name}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sql"], "--sql is for PostgreSQL"),
        (["--sql", "--store", "redis://127.0.0.1"], "--sql is for PostgreSQL"),
        (["--sql", "--check"], "--check and --sql do not go together"),
        (["--store", "sqlite://:memory:"], "a store in memory has nothing to migrate"),
        (["--store", "nowhere"], "is not a store URL"),
        (["--store", "redis://127.0.0.1:1?password=secret"], "check that it can be reached"),
    ],
)
def test_what_cannot_be_migrated_says_why(cli: Cli, folder: Path, arguments: list[str], said: str) -> None:
    done = cli("migrate", *arguments)
    assert done.code == 2
    assert said in done.err
    assert "secret" not in done.err
    assert not list(folder.glob("*.db"))


# -- listing and purging on servers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_servers_are_listed_and_purged_like_files(kind: str, request: pytest.FixtureRequest, cli: Cli) -> None:
    store = ("--store", str(request.getfixturevalue(kind)))
    for number in range(3):
        assert cli("run", "hello.yml", "--id", f"h{number}", "--label", f"n={number}", *store).code == 0
    assert cli("run", "halt.yml", "--id", "q", *store).code == 3
    page = cli("list", "--limit", "2", "--json", *store).document
    assert [one["id"] for one in page["executions"]] == ["q", "h2"]
    rest = cli("list", "--cursor", page["next_cursor"], "--json", *store).document
    assert [one["id"] for one in rest["executions"]] == ["h1", "h0"]
    assert [one["id"] for one in cli("list", "--label", "n=1", "--json", *store).document["executions"]] == ["h1"]
    assert "halted" in cli("list", "--status", "halted", *store).out
    assert cli("purge", "--older-than", "1h", "--yes", *store).out == "0 executions deleted\n"
    assert cli("purge", "--older-than", "1ms", "--status", "completed", "--yes", *store).out == "3 executions deleted\n"
    assert [one["id"] for one in cli("list", "--json", *store).document["executions"]] == ["q"]
