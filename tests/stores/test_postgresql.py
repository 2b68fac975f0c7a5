"""What is particular to PostgreSQL: the schema and its view, batches and locks, plans, lost connections, wake-ups,
poolers."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from durable_flow import Runtime, load
from durable_flow.errors import ConfigError, LeaseLost, MissingExtraError, SchemaTooNew, StoreError, StoreUnavailable
from durable_flow.stores import open_store
from durable_flow.stores.base import Appended, Committed, Filter, QueueRow, Slot, Stored
from durable_flow.testing import wait_until
from durable_flow.testing.contract import StoreContract, Subject
from durable_flow.testing.contract.batches import Batches
from durable_flow.testing.contract.commits import Committing
from durable_flow.testing.contract.inbox import Inboxes
from durable_flow.testing.contract.opening import Opening
from durable_flow.testing.contract.processes import Processes
from durable_flow.testing.contract.running import Running
from tests.servers.binaries import NotInstalled, postgres_folder
from tests.servers.postgres import PostgresServer
from tests.servers.process import HOST, Server, unprivileged
from tests.servers.proxy import Proxy, executing
from tests.stores.build import (
    ANY,
    POISON,
    START,
    advance,
    append,
    create,
    creation,
    find,
    following,
    idle,
    message,
    row_of,
    stored,
)

asyncpg = pytest.importorskip("asyncpg")

from durable_flow.stores import _postgresql_schema as ddl  # noqa: E402
from durable_flow.stores.postgresql import PostgresStore, _arguments, search_sql  # noqa: E402

Make = Callable[..., PostgresStore]


@pytest.fixture
def make(postgres_url: str, postgres_schema: str) -> Make:
    """Makes stores on one new schema, not yet open."""

    def make_one(url: str | None = postgres_url, **options: Any) -> PostgresStore:
        return PostgresStore(url, **{"schema": postgres_schema} | options)

    return make_one


@pytest.fixture
async def store(make: Make) -> AsyncIterator[PostgresStore]:
    async with make() as opened:
        yield opened


@pytest.fixture
async def other(make: Make, store: PostgresStore) -> AsyncIterator[PostgresStore]:
    async with make() as opened:
        yield opened


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[Any]:
    """A connection beside the store."""
    async with connected(postgres_url) as connection:
        yield connection


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may restart."""
    try:
        postgres_folder()
    except NotInstalled as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))
    with PostgresServer.start(fsync=False) as server:
        yield server


async def tables(admin: Any, schema: str) -> int:
    return int(await admin.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = $1", schema))


async def others(admin: Any) -> int:
    """How many connections there are beside this one."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    return int(await admin.fetchval(query + " AND application_name = 'durable_flow'"))


# -- options ----------------------------------------------------------------------------------------------------------


def test_a_url_names_this_store() -> None:
    store = open_store("postgresql://flow:secret@db.example/flows?password=other&sslmode=require", schema="s")
    assert isinstance(store, PostgresStore)
    assert repr(store) == "PostgresStore('postgresql://flow@db.example/flows?sslmode=require', schema='s')"


def test_without_asyncpg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "durable_flow.stores.postgresql")
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(MissingExtraError, match=r"durable-flow\[postgres\]"):
        open_store("postgresql://localhost/flows")


@pytest.mark.parametrize(
    "options",
    [
        {"schema": ""},
        {"schema": "x" * 64},
        {"schema": "a\nb"},
        {"schema": "pg_flow"},
        {"schema": 5},
        {"writers": 0},
        {"timeout": 0},
        {"pool": object()},
    ],
)
def test_wrong_options_are_refused_before_connecting(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PostgresStore("postgresql://localhost/flows", **options)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        store = PostgresStore(f"postgresql://postgres@{HOST}:{taken.getsockname()[1]}/postgres")
        with pytest.raises(StoreUnavailable):
            await store.open()
        await store.close()


# -- the schema -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ['a "quoted" name', "with {braces}", "it's", "ÜBER", "select"])
async def test_any_name_can_be_that_of_the_schema(make: Make, admin: Any, name: str) -> None:
    try:
        async with make(schema=name) as store:
            await idle(store, new={"labels": {"a": "b", "c": "d"}})
            assert await find(store, labels={"a": "b", "c": "d"}) == ["e"]
            assert store.migration_sql()
    finally:
        await admin.execute(f"DROP SCHEMA {ddl.quoted(name)} CASCADE")


async def test_two_schemas_do_not_meet(make: Make, admin: Any, postgres_schema: str) -> None:
    second = postgres_schema + "_2"
    try:
        async with make() as one, make(schema=second) as two:
            await idle(one, "a")
            await idle(two, "b")
            assert (await find(one), await find(two)) == (["a"], ["b"])
    finally:
        await admin.execute(f"DROP SCHEMA {ddl.quoted(second)} CASCADE")


async def test_ten_stores_migrate_one_new_schema_at_once(make: Make, admin: Any, postgres_schema: str) -> None:
    stores = [make() for _ in range(10)]
    try:
        assert await asyncio.gather(*[store.open() for store in stores]) == [None] * 10
        assert await admin.fetch(f"SELECT * FROM {postgres_schema}.schema_version") == [(len(ddl.MIGRATIONS),)]
    finally:
        await asyncio.gather(*[store.close() for store in stores])


async def test_an_older_schema_is_brought_up_to_date(
    make: Make, admin: Any, postgres_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(ddl, "MIGRATIONS", ddl.MIGRATIONS[:1])
        async with make() as store:
            await idle(store, status="pending", new={"queue": "mail"})
            await create(store, "driven", new={"queue": "mail"})
            await create(store, "child", new={"queue": "mail", "parent_id": "driven"})
        await admin.execute(f"CREATE TABLE {postgres_schema}.holds (queue text PRIMARY KEY, body bytea NOT NULL)")
        await admin.execute(f"INSERT INTO {postgres_schema}.holds VALUES ('.mail', '{{}}')")
        await admin.execute(f"UPDATE {postgres_schema}.schema_version SET version = 2")
    async with make() as store:
        assert store.versions == (2, len(ddl.MIGRATIONS))
        assert (await store.queues())["mail"] == QueueRow(hold="{}", pending=1, under_way=1)
        assert await store.take("me", ttl=30, limit=1) == []
        await store.set_queue("mail", "hold", None)
        assert len(await store.take("me", ttl=30, limit=1)) == 1
    assert await admin.fetch(f"SELECT * FROM {postgres_schema}.schema_version") == [(len(ddl.MIGRATIONS),)]


async def test_without_auto_migrate_nothing_is_created(make: Make, admin: Any, postgres_schema: str) -> None:
    with pytest.raises(StoreError, match="durable-flow migrate"):
        await make(auto_migrate=False).open()
    assert await tables(admin, postgres_schema) == 0


async def test_without_auto_migrate_a_current_schema_opens(make: Make, store: PostgresStore) -> None:
    async with make(auto_migrate=False) as second:
        await idle(second)
    assert await find(store) == ["e"]


async def test_a_newer_schema_is_refused_before_anything_is_written(
    make: Make, store: PostgresStore, admin: Any, postgres_schema: str
) -> None:
    await admin.execute(f"UPDATE {postgres_schema}.schema_version SET version = 99")
    before = await tables(admin, postgres_schema)
    with pytest.raises(SchemaTooNew) as caught:
        await make().open()
    assert (caught.value.found, caught.value.supported) == (99, len(ddl.MIGRATIONS))
    assert await admin.fetchval(f"SELECT version FROM {postgres_schema}.schema_version") == 99
    assert await tables(admin, postgres_schema) == before


async def test_a_role_without_rights_works_on_what_the_sql_created(
    make: Make, admin: Any, postgres_url: str, postgres_schema: str
) -> None:
    role = f"{postgres_schema}_role"
    await admin.execute(make().migration_sql())
    await admin.execute(f"CREATE ROLE {role} LOGIN")
    try:
        await admin.execute(
            f"GRANT USAGE ON SCHEMA {postgres_schema} TO {role};"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {postgres_schema} TO {role}"
        )
        parts = urlsplit(postgres_url)
        url = parts._replace(netloc=f"{role}@{parts.hostname}:{parts.port}").geturl()
        async with make(url) as store:
            await idle(store)
            await append(store, kind="note")
            assert isinstance(await store.claim("e", owner="me", ttl=30, statuses=ANY), Stored)
            assert await store.renew("me", ttl=30) == {"e": 2}
            await advance(store, release=True, dropped=["a"])
            await store.release("e", owner="me", generation=2)
            assert await store.remove("e")
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_role_that_may_not_create_hears_what_to_do(
    make: Make, admin: Any, postgres_url: str, postgres_schema: str
) -> None:
    role = f"{postgres_schema}_role"
    await admin.execute(f"CREATE ROLE {role} LOGIN")
    try:
        parts = urlsplit(postgres_url)
        with pytest.raises(StoreError, match="migration_sql"):
            await make(parts._replace(netloc=f"{role}@{parts.hostname}:{parts.port}").geturl()).open()
    finally:
        await admin.execute(f"DROP ROLE {role}")


async def test_a_store_that_is_opened_again_expects_nothing_to_be_there(
    make: Make, admin: Any, postgres_schema: str
) -> None:
    store = make()
    for _ in range(2):
        async with store:
            await idle(store)
            assert await store.definition("hash") == '{"id":"w"}'
        await admin.execute(f"DROP SCHEMA {postgres_schema} CASCADE")


async def test_a_definition_that_the_server_lost_is_stored_again(
    make: Make, admin: Any, postgres_url: str, postgres_schema: str
) -> None:
    async with (
        Proxy.to(postgres_url, counting=executing(b"commits(")) as proxy,
        make(proxy.url(postgres_url)) as store,
    ):
        row = await create(store, "before")
        proxy.lose_request()
        with pytest.raises(StoreUnavailable):
            await store.commit(following(row))
        await admin.execute(f"TRUNCATE {postgres_schema}.definitions")
        await idle(store, "after")
        assert await store.definition("hash") == '{"id":"w"}'


# -- the view ---------------------------------------------------------------------------------------------------------


async def test_people_see_user_data_as_json(store: PostgresStore, admin: Any, postgres_schema: str) -> None:
    entry = {"action": "completed", "time": 0, "output": {"n": 1}, "same": ["x"], "changes": {"y": [2], "result": "r"}}
    await create(
        store,
        new={"input": '{"big":1e22,"text":"ü"}', "labels": {"a": "b"}},
        info='{"error":{"type":"E","message":"m"}}',
        entries=[(1, json.dumps(entry))],
        sets=[("", "x", 1), ("", "y", 1), ("f[1]", "z", 1), ("", "step.inner", 1)],
        result_seq=1,
        finished_at=START,
    )
    row = await admin.fetchrow(f"SELECT * FROM {postgres_schema}.executions")
    seen = {name: json.loads(row[name]) for name in ("input", "ctx", "result", "labels", "error")}
    assert seen == {
        "input": {"big": 1e22, "text": "ü"},
        "ctx": {"x": {"n": 1}, "y": [2]},
        "result": "r",
        "labels": {"a": "b"},
        "error": {"type": "E", "message": "m"},
    }
    assert (row["id"], row["status"], row["created_at"].timestamp()) == ("e", "running", START)
    assert (row["owner"], row["wake_at"]) == ("me", None)


ODD = {
    "null characters": ('{"a":"x\\u0000y"}', {"a": "x\ufffdy"}),
    "an escaped backslash before what looks like one": ('{"a":"\\\\u0000"}', {"a": "\\u0000"}),
    "a lone surrogate": ('"\\ud800"', '"\\ud800"'),
    "no JSON": ("{nonsense", "{nonsense"),
    "nothing": ("", ""),
    "encrypted": (b"\x00\xff\xfe", None),
    "nested too deeply": ("[" * 100_000, "[" * 100_000),
}


@pytest.mark.parametrize(("blob", "shown"), ODD.values(), ids=ODD.keys())
async def test_an_odd_row_does_not_break_the_view(
    store: PostgresStore, admin: Any, postgres_schema: str, blob: str | bytes, shown: object
) -> None:
    await idle(store, "good", new={"input": '{"a":1}'})
    await idle(
        store,
        "odd",
        new={"input": blob, "created_at": 1e300},
        info=blob,
        entries=[(1, blob)],
        sets=[("", "x", 1)],
        result_seq=1,
        wake_at=float("inf"),
    )
    rows = {row["id"]: row for row in await admin.fetch(f"SELECT * FROM {postgres_schema}.executions")}
    assert json.loads(rows["good"]["input"]) == {"a": 1}
    given = rows["odd"]["input"]
    assert (None if given is None else json.loads(given)) == shown
    assert rows["odd"]["created_at"] is None


# -- batches ----------------------------------------------------------------------------------------------------------


async def transactions(admin: Any, schema: str) -> int:
    """How many transactions have written heads."""
    return int(await admin.fetchval(f"SELECT count(DISTINCT xmin::text) FROM {schema}.heads"))


async def test_concurrent_commits_share_transactions(store: PostgresStore, admin: Any, postgres_schema: str) -> None:
    await asyncio.gather(*[store.commit(creation(f"e{i:03}")) for i in range(100)])
    rows = [await row_of(store, f"e{i:03}") for i in range(100)]
    await asyncio.gather(*[store.commit(following(row)) for row in rows])
    assert await transactions(admin, postgres_schema) <= 10


async def test_a_commit_cannot_be_cancelled(store: PostgresStore) -> None:
    row = await create(store)
    landing = store.commit(following(row))
    assert not landing.cancel()
    assert isinstance(await landing, Committed)


async def test_a_reader_that_is_cancelled_leaves_its_connection_to_the_next(make: Make) -> None:
    async with make(readers=1) as store:
        await idle(store)
        reading = asyncio.ensure_future(store.row("e"))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert (await row_of(store)).id == "e"


async def test_a_message_to_what_its_batch_creates_arrives(store: PostgresStore) -> None:
    told = [(message(kind="note", execution_id="new"), "hello")]
    row = await create(store, "sender")
    await asyncio.gather(store.commit(creation("new")), store.commit(following(row, messages=told)))
    assert [body for _, body in await store.inbox("new")] == ["hello"]


async def test_processes_that_write_to_each_other_do_not_block_each_other(own_server: PostgresServer) -> None:
    async def drive(process: PostgresStore, mine: Sequence[str], theirs: Sequence[str]) -> None:
        for turn in range(15):
            rows = [await row_of(process, name) for name in mine]
            messages = [
                [(message(f"{row.id}:{turn}", kind="note", execution_id=name), "x") for name in theirs] for row in rows
            ]
            await asyncio.gather(
                *[process.commit(following(row, messages=told)) for row, told in zip(rows, messages, strict=True)],
                *[append(process, f"{turn}", kind="note", execution_id=name) for name in theirs],
            )

    names = [f"e{i}" for i in range(8)]
    async with (
        PostgresStore(own_server.url, schema="mutual") as store,
        PostgresStore(own_server.url, schema="mutual") as other,
    ):
        for name in names:
            await create(store, name)
        await asyncio.gather(drive(store, names[:4], names[::-1]), drive(other, names[4:], names[3::-1] + names[4:]))
        # From each of eight in each of fifteen turns, and those of the two processes, which have the same keys.
        assert [len(await store.inbox(name)) for name in names] == [15 * 8 + 15] * 8
    assert "deadlock detected" not in own_server.log.read_text()


async def test_a_row_that_somebody_holds_keeps_only_itself_waiting(
    store: PostgresStore, postgres_url: str, postgres_schema: str
) -> None:
    rows = [await create(store, f"e{i}") for i in range(4)]
    await idle(store, "free")
    async with connected(postgres_url) as holder:
        await holder.execute("BEGIN")
        await holder.execute(f"SELECT 1 FROM {postgres_schema}.heads WHERE id = 'e0' FOR UPDATE")
        told = [(message(kind="note", execution_id="e0"), "x")]
        held = [
            store.commit(following(rows[0])),
            store.commit(following(rows[1], messages=told)),
            asyncio.ensure_future(append(store, execution_id="e0", kind="note")),
            asyncio.ensure_future(store.claim("e0", owner="you", ttl=30, statuses=ANY)),
        ]
        free = await asyncio.gather(
            store.commit(following(rows[2])),
            store.commit(creation("new")),
            append(store, execution_id="e3", kind="note"),
            store.claim("free", owner="you", ttl=30, statuses=ANY),
            store.renew("me", ttl=60),
        )
        assert [type(one) for one in free] == [Committed, Committed, Appended, Stored, dict]
        assert free[-1].keys() >= {"e0", "e1", "e2", "e3"}
        assert not any(one.done() for one in held)
        await holder.execute("COMMIT")
        await asyncio.gather(*held)
    assert [(await row_of(store, f"e{i}")).version for i in range(4)] == [2, 2, 2, 1]
    assert len(await store.inbox("e0")) == 1


async def test_commits_behind_one_that_waits_keep_their_order(
    store: PostgresStore, postgres_url: str, postgres_schema: str
) -> None:
    row = await create(store)
    async with connected(postgres_url) as holder:
        await holder.execute("BEGIN")
        await holder.execute(f"SELECT 1 FROM {postgres_schema}.heads FOR UPDATE")
        commits = [store.commit(following(row, version=row.version + i)) for i in range(5)]
        await idle(store, "free")
        await holder.execute("COMMIT")
        await asyncio.gather(*commits)
    assert (await row_of(store)).version == row.version + 5


async def test_a_row_that_stays_held_makes_its_commit_fail_and_no_other(
    make: Make, postgres_url: str, postgres_schema: str
) -> None:
    async with make(timeout=2) as store:
        rows = [await create(store, name) for name in "ab"]
        async with connected(postgres_url) as holder:
            await holder.execute("BEGIN")
            await holder.execute(f"SELECT 1 FROM {postgres_schema}.heads WHERE id = 'a' FOR UPDATE")
            outcomes = await asyncio.gather(*[store.commit(following(row)) for row in rows], return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, Committed]
        await store.commit(following(rows[0]))


async def test_a_member_that_cannot_be_written_does_not_hurt_claims_beside_it(store: PostgresStore) -> None:
    await idle(store, "a")
    outcomes = await asyncio.gather(
        store.claim("a", owner="me", ttl=30, statuses=ANY),
        store.claim(POISON, owner="me", ttl=30, statuses=ANY),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Stored, StoreError]


# -- storage ----------------------------------------------------------------------------------------------------------


async def test_steps_are_rewritten_in_place(store: PostgresStore, admin: Any, postgres_schema: str) -> None:
    row = await create(store)
    for i in range(100):
        await store.commit(following(row, version=row.version + i, root=f"step {i}", wake_at=START + i))
    query = (
        "SELECT n_tup_upd AS all, n_tup_hot_upd AS hot FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = $2"
    )

    async def counted() -> Any:
        found = await admin.fetchrow(query, postgres_schema, "heads")
        return found if found["all"] >= 100 else None

    await store.close()  # the last statistics of a connection are sent when it ends
    found = await wait_until(counted, timeout=20)
    assert found["hot"] >= 0.9 * found["all"]


CONDITIONS = [
    {**workflow, **statuses, **labels, **times}
    for workflow, statuses, labels, times in itertools.product(
        [{}, {"workflow_id": "w1"}],
        [{}, {"statuses": ["running"]}],
        [{}, {"labels": {"team": "t1"}}, {"labels": {"team": "t1", "kind": "k"}}, {"parent_id": "p1"}],
        [{}, {"created_after": START + 10, "created_before": START + 900}],
    )
]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


async def fill(admin: Any, schema: str, count: int) -> None:
    """So many executions, without asking the store."""
    await admin.execute(
        f"""INSERT INTO {schema}.heads (id, workflow_id, status, parent_id, created_at, updated_at, priority,
                version, generation, nonce, seq, root)
            SELECT 'x{count}-' || i, 'w' || i % 3, (ARRAY['running', 'halted', 'completed'])[i % 3 + 1], 'p' || i % 100,
                {START} + i, 0, 5, 1, 1, '', 0, '' FROM generate_series(1, {count}) i;
            INSERT INTO {schema}.facts SELECT n, '', '', '', '', NULL, '{{}}', '', '' FROM {schema}.heads
            ON CONFLICT DO NOTHING;
            INSERT INTO {schema}.labels
            SELECT n, key, value, workflow_id, status, created_at, id FROM {schema}.heads,
                LATERAL (VALUES ('team', 't' || n % 10), ('kind', 'k')) AS l (key, value)
            ON CONFLICT DO NOTHING"""
    )


async def plan_of(admin: Any, schema: str, conditions: dict[str, Any], position: Any = None) -> dict[str, Any]:
    """The plan of a search under the settings of the store's connections."""
    filter = Filter(**conditions)
    sql, *values = search_sql(ddl.quoted(schema), filter, list(filter.labels.items()), position, 51)
    for i, kind in enumerate(("text", "double precision"), 1):
        sql = sql.replace(f"${i}[", f"(${i}::{kind}[])[")
    async with admin.transaction():
        await admin.execute("".join(f"SET LOCAL {name} = {value};" for name, value in ddl.SETTINGS.items()))
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"
        explained = await admin.fetchval(explain, *values[: 1 + ("$2::" in sql)])
    plan: dict[str, Any] = json.loads(explained)[0]["Plan"]
    return plan


async def rows_read(admin: Any, schema: str, *statements: tuple[Any, ...]) -> int:
    """How many rows of heads and of lines these statements read, under the settings of the store's connections, in a
    transaction that is rolled back."""
    transaction = admin.transaction()
    await transaction.start()
    try:
        await admin.execute("".join(f"SET LOCAL {name} = {value};" for name, value in ddl.SETTINGS.items()))
        for statement, *values in statements:
            await admin.fetch(statement, *values)
        found = await admin.fetchval(
            "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables "
            "WHERE schemaname = $1 AND relname IN ('heads', 'line')",
            schema,
        )
    finally:
        await transaction.rollback()
    return int(found)


@pytest.mark.parametrize("analyzed", [False, True])
async def test_a_queue_that_is_full_is_not_read_by_who_looks_for_work(
    store: PostgresStore, admin: Any, postgres_schema: str, analyzed: bool
) -> None:
    full = "full " * 50  # in a larger index
    await store.set_queue(full, "declared", "[1,null,1.0]")
    for name in (full, *(f"q{number}" for number in range(5))):
        await idle(store, name, status="pending", wake_at=START - 1, new={"queue": name})
    assert len(await store.take("me", ttl=30, limit=1, queues=[full])) == 1
    await admin.execute(
        f"""INSERT INTO {postgres_schema}.heads (id, workflow_id, status, created_at, updated_at, queue, priority,
                version, generation, nonce, seq, root)
            SELECT 'x' || i, 'w', 'pending', {START} - 5 - i * 0.001, 0, '{full}', 5, 1, 1, '', 0, ''
            FROM generate_series(1, 3000) i"""
    )
    if analyzed:
        await admin.execute(f"ANALYZE {postgres_schema}.heads")
    schema, nobody = postgres_schema, ([], [])
    looks = (
        (f"SELECT {schema}.takes($1, 'me', 30, 10, NULL, '{{}}', $2, $3)", START, *nobody),
        (f"SELECT {schema}.next_due($1, NULL, '{{}}', $2, $3)", START, *nobody),
    )
    assert await rows_read(admin, schema, *looks) < 300


async def test_who_waits_for_a_key_is_not_read_by_who_comes(
    store: PostgresStore, admin: Any, postgres_schema: str
) -> None:
    slot = Slot(key="k", waits=True)
    await idle(store, status="pending", slot=slot)
    await admin.execute(
        f"""INSERT INTO {postgres_schema}.line (key, n, id, most, held)
            SELECT 'k', -i, 'x' || i, 1, false FROM generate_series(1, 3000) i"""
    )
    late = creation("late", status="pending", lease_ttl=None, slot=slot)
    arguments = ("k", 1, True, None, False, None, True, START, *_arguments([late], ()))
    assert await rows_read(admin, postgres_schema, (store._line_sql, *arguments)) < 20


@pytest.mark.parametrize("analyzed", [False, True])
async def test_every_search_is_a_range_of_an_index(
    store: PostgresStore, admin: Any, postgres_schema: str, analyzed: bool
) -> None:
    await fill(admin, postgres_schema, 20_000)
    if analyzed:
        for table in ("heads", "facts", "labels", "leases", "entries", "waits"):
            await admin.execute(f"ANALYZE {postgres_schema}.{table}")
    for conditions, position in itertools.product(CONDITIONS, (None, (START + 5000, "x"))):
        for node in nodes(await plan_of(admin, postgres_schema, conditions, position)):
            assert "Seq Scan" not in node["Node Type"], (conditions, node)
            if node.get("Relation Name") in ("heads", "labels"):
                assert "Index Cond" in node, (conditions, node)
            if node["Node Type"] == "Sort":
                assert node["Actual Rows"] <= 51 * 7, (conditions, node)
            if len(conditions.get("labels", {})) < 2 and not {"parent_id", "workflow_id"} <= conditions.keys():
                assert not node.get("Rows Removed by Filter"), (conditions, node)


async def test_a_page_costs_the_same_however_many_executions_there_are(
    store: PostgresStore, admin: Any, postgres_schema: str
) -> None:
    async def buffers(conditions: dict[str, Any]) -> int:
        plan = await plan_of(admin, postgres_schema, conditions)
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    asked: list[dict[str, Any]] = [{}, {"workflow_id": "w1"}, {"labels": {"team": "t1"}}, {"parent_id": "p1"}]
    for count in (1_000, 99_000):
        await fill(admin, postgres_schema, count)
        read = [await buffers(conditions) for conditions in asked]
        assert max(read) <= 51 * 15, (count, read)
    assert len(await find(store, workflow_id="w1", limit=50)) == 50


@pytest.mark.parametrize("how", ["own", "pool", "pooler"])
async def test_every_call_has_the_settings_that_plans_need(make: Make, postgres_url: str, how: str) -> None:
    async with (
        asyncpg.create_pool(postgres_url, min_size=0, max_size=4) as pool,
        make(pool=pool, url=None) if how == "pool" else make(pooler=how == "pooler") as store,
    ):
        for name, value in ddl.SETTINGS.items():
            ((shown,),) = await store._read(f"SHOW {name}")
            assert shown == value


# -- warnings and refusals --------------------------------------------------------------------------------------------


async def test_a_server_that_forgets_commits_is_warned_of_once(
    make: Make, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "durable_flow"):
        async with make(server_settings={"synchronous_commit": "off"}):
            pass
    said = [record.getMessage() for record in caplog.records if "durable" in record.getMessage()]
    assert len(said) == 1
    assert "= off" in said[0]


async def test_a_standby_is_refused_and_a_server_that_becomes_one_is_unavailable(own_server: PostgresServer) -> None:
    async with PostgresStore(own_server.url, schema="standby") as store:
        await create(store)
        with own_server.standby() as standby, pytest.raises(StoreUnavailable, match="connect to the primary"):
            await PostgresStore(standby.url, schema="standby").open()
        async with connected(own_server.url) as admin:
            await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await admin.execute("SELECT pg_reload_conf()")
            try:

                async def refused() -> bool:
                    try:
                        await advance(store)
                    except StoreUnavailable as error:
                        return "connect to the primary" in str(error)
                    return False

                await wait_until(refused)
            finally:
                await admin.execute("SET default_transaction_read_only = off")
                await admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
                await admin.execute("SELECT pg_reload_conf()")

        async def written() -> bool:
            try:
                await advance(store)
            except StoreUnavailable:
                return False
            return True

        await wait_until(written)


async def test_after_a_fork_the_store_refuses(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    row = await create(store)
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: -1)
        with pytest.raises(StoreError, match="after a fork"):
            await store.commit(following(row))
        with pytest.raises(StoreError, match="after a fork"):
            await store.row("e")
        await store.close()
    await advance(store)


async def test_closing_leaves_no_task_and_no_connection(make: Make, admin: Any) -> None:
    before = await others(admin), len(asyncio.all_tasks())
    store = make()
    await store.open()
    await asyncio.gather(*[store.commit(creation(f"e{i}")) for i in range(10)], *[store.row("e") for _ in range(10)])
    await store.release("e0", owner="me", generation=1)
    assert await others(admin) > before[0]
    await store.close()
    await store.close()
    await wait_until(lambda: _same(others(admin), before[0]))
    assert len(asyncio.all_tasks()) == before[1]


async def _same(counting: Any, count: int) -> bool:
    return bool(await counting == count)


# -- lost connections -------------------------------------------------------------------------------------------------

VERBS: dict[str, Callable[[PostgresStore], Any]] = {
    "commit": lambda store: advance(store),
    "append": lambda store: append(store, kind="note"),
    "claim": lambda store: store.claim("e", owner="you", ttl=30, statuses=ANY),
    "renew": lambda store: store.renew("me", ttl=30),
    "release": lambda store: store.release("e", owner="me", generation=1),
    "remove": lambda store: store.remove("nothing"),
    "purge": lambda store: store.purge_rows(before=START, statuses=ANY, limit=10),
    "mail": lambda store: store.mail("me"),
    "inbox": lambda store: store.inbox("e"),
    "fetch": lambda store: stored(store),
    "read": lambda store: store.read("e"),
    "search": lambda store: find(store),
    "definition": lambda store: store.definition("hash"),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
async def test_a_lost_connection_is_followed_by_a_new_one(
    make: Make, postgres_url: str, verb: Callable[[PostgresStore], Any]
) -> None:
    async with Proxy.to(postgres_url) as proxy, make(proxy.url(postgres_url), writers=1, readers=1) as store:
        await create(store)
        await verb(store)
        proxy.cut()

        async def again() -> bool:
            try:
                await verb(store)
            except StoreUnavailable:
                return False
            return True

        await wait_until(again)


async def test_a_connection_that_the_server_ends_is_followed_by_a_new_one(store: PostgresStore, admin: Any) -> None:
    row = await create(store)
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'durable_flow' AND datname = current_database()"
    )

    async def again() -> bool:
        try:
            return (await row_of(store)).version == row.version
        except StoreUnavailable:
            return False

    await wait_until(again)
    await advance(store)
    await wait_until(lambda: store.wakes)


async def test_a_commit_whose_answer_is_lost_is_unavailable_and_has_landed(make: Make, postgres_url: str) -> None:
    async with (
        Proxy.to(postgres_url, counting=executing(b"commits(")) as proxy,
        make(proxy.url(postgres_url)) as store,
    ):
        row = await create(store)
        lost = proxy.lose_answer()
        with pytest.raises(StoreUnavailable):
            await store.commit(following(row, nonce="mine"))
        await lost.wait()

        async def landed() -> bool:
            return (await row_of(store)).nonce == "mine"

        await wait_until(landed)


async def test_a_network_that_swallows_everything_hangs_nobody(make: Make, postgres_url: str) -> None:
    async with Proxy.to(postgres_url) as proxy, make(proxy.url(postgres_url), timeout=0.3) as store:
        row = await create(store)
        proxy.black_hole()
        outcomes = await asyncio.gather(
            store.commit(following(row)),
            store.row("e"),
            append(store, kind="note"),
            store.renew("me", ttl=30),
            store.release("x", owner="me", generation=1),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 5
        with pytest.raises(StoreUnavailable):  # this time already when it connects
            await store.row("e")
        proxy.cut()
        proxy.flow()
        assert (await row_of(store)).id == "e"


async def test_a_workflow_survives_restarts_of_the_server(own_server: PostgresServer) -> None:
    steps = "".join(f"\n  - {{id: s{i}, type: call, service: S, method: work, next: s{i + 1}}}" for i in range(20))
    workflow = load(f"id: w\nname: W\nsteps:{steps}\n  - {{id: s20, type: end}}\n")
    done = []

    class Service:
        async def work(self) -> None:
            done.append(1)
            if len(done) in (5, 12):
                await asyncio.to_thread(own_server.restart)

    async with (
        PostgresStore(own_server.url, schema="restarts") as store,
        Runtime(store, services={"S": Service()}) as runtime,
    ):
        result = await runtime.runner(workflow).run()
    assert result.completed, result.error
    assert len(done) == 20


# -- wake-ups ---------------------------------------------------------------------------------------------------------


async def test_what_a_store_does_itself_it_does_not_hear(store: PostgresStore, other: PostgresStore) -> None:
    heard: dict[str, list[str]] = {"store": [], "other": []}
    store.listen(heard["store"].append)
    other.listen(heard["other"].append)
    await create(store, "mine")
    await create(other, "theirs")
    await wait_until(lambda: _told(store, other))
    await append(store, execution_id="mine", kind="note")
    await append(other, execution_id="theirs", kind="note")
    await wait_until(lambda: heard == {"store": ["theirs"], "other": ["mine"]})


def _told(*stores: PostgresStore) -> bool:
    return all(store._wire is not None and store._wire.company for store in stores)


async def test_more_than_one_payload_of_ids_is_heard(store: PostgresStore, other: PostgresStore) -> None:
    heard: set[str] = set()
    other.listen(heard.add)
    await wait_until(lambda: _told(store))
    names = {f"{i:03}{'ü' * 200}" for i in range(60)}
    await asyncio.gather(*[store.commit(creation(name, status="halted")) for name in names])
    await wait_until(lambda: heard == names)


async def test_nothing_is_told_while_nobody_else_listens(store: PostgresStore) -> None:
    await create(store, status="completed", finished_at=START)
    assert store._wire is not None
    assert not store._wire.waiting


async def test_what_is_not_understood_and_listeners_that_raise_change_nothing(
    store: PostgresStore, other: PostgresStore, admin: Any
) -> None:
    assert store._wire is not None
    heard: list[str] = []

    def listener(name: str) -> None:
        heard.append(name)
        raise RuntimeError("a mistake of the listener")

    store.listen(listener)
    for payload in ("", "nonsense", "[]", "[1]", '["x"]'):
        await admin.execute("SELECT pg_notify($1, $2)", store._wire.channel, payload)
    await create(store)
    await append(other, "a", kind="note")
    await append(other, "b", kind="note")
    await wait_until(lambda: len(heard) >= 1)
    assert store.wakes


async def test_listening_comes_back_by_itself(make: Make, postgres_url: str, other: PostgresStore) -> None:
    async with Proxy.to(postgres_url) as proxy, make(proxy.url(postgres_url)) as store:
        heard: list[str] = []
        store.listen(heard.append)
        await create(other)
        assert store.wakes
        proxy.refuse()
        proxy.cut()
        await wait_until(lambda: not store.wakes)
        await proxy.accept()
        await wait_until(lambda: store.wakes)
        await append(other, kind="note")
        await wait_until(lambda: heard == ["e"])


# -- pools and poolers ------------------------------------------------------------------------------------------------


async def test_the_pool_of_a_user_stays_open_and_its_connections_are_in_good_order(
    make: Make, postgres_url: str
) -> None:
    async with asyncpg.create_pool(postgres_url, min_size=0, max_size=4) as pool:
        async with make(None, pool=pool) as store:
            row = await create(store)
            outcomes = await asyncio.gather(
                *[store.commit(creation(f"e{i}")) for i in range(20)],
                *[store.row("e") for _ in range(20)],
                store.commit(following(row, entries=[(1, "again")])),
                return_exceptions=True,
            )
            assert [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)] == [StoreError]
        assert pool.get_size() == pool.get_idle_size()
        async with pool.acquire() as connection:
            assert not connection.is_in_transaction()
            assert await connection.fetchval("SHOW synchronous_commit") == "on"


async def test_a_pool_with_one_connection_will_do(make: Make, postgres_url: str, other: PostgresStore) -> None:
    heard: list[str] = []
    other.listen(heard.append)
    async with asyncpg.create_pool(postgres_url, min_size=0, max_size=1) as pool, make(None, pool=pool) as store:
        assert not store.wakes
        await asyncio.gather(*[store.commit(creation(f"e{i}")) for i in range(20)])
        assert len(await find(store)) == 20
        await append(store, execution_id="e7", kind="note")
        await wait_until(lambda: heard == ["e7"])


async def test_a_pool_whose_transactions_are_serializable_will_do(make: Make, postgres_url: str) -> None:
    settings = {"default_transaction_isolation": "serializable"}
    async with (
        asyncpg.create_pool(postgres_url, min_size=0, max_size=4, server_settings=settings) as pool,
        make(None, pool=pool) as store,
    ):
        assert await store._read("SHOW transaction_isolation") == [("read committed",)]
        await asyncio.gather(*[store.commit(creation(f"e{i}")) for i in range(20)])
        assert len(await find(store)) == 20


async def test_a_pool_whose_network_swallows_everything_gets_its_connections_back(
    make: Make, postgres_url: str
) -> None:
    async with Proxy.to(postgres_url) as proxy:
        pool = await asyncpg.create_pool(proxy.url(postgres_url), min_size=0, max_size=4)
        try:
            async with make(None, pool=pool, timeout=0.5) as store:
                row = await create(store)
                proxy.black_hole()
                outcomes = await asyncio.gather(
                    store.commit(following(row)), store.row("e"), append(store, kind="note"), return_exceptions=True
                )
                assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
                proxy.cut()
                proxy.flow()

                async def again() -> bool:
                    try:
                        return (await row_of(store)).id == "e"
                    except StoreUnavailable:
                        return False

                await wait_until(again)
            assert pool.get_size() == pool.get_idle_size()
        finally:
            pool.terminate()


class PgBouncer(Server):
    """A pooler in transaction mode in front of a server."""

    def __init__(self, target: str) -> None:
        super().__init__(None, {}, user=unprivileged())
        self.target = urlsplit(target)

    @property
    def url(self) -> str:
        return f"postgresql://{self.target.username}@{HOST}:{self.port}{self.target.path}"

    def _command(self) -> list[str]:
        database = self.target.path.strip("/")
        file = self.folder / "pgbouncer.ini"
        (self.folder / "users").write_text(f'"{self.target.username}" ""\n')
        file.write_text(
            f"[databases]\n{database} = host={self.target.hostname} port={self.target.port} dbname={database}\n"
            f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = trust\n"
            f"auth_file = {self.folder}/users\npool_mode = transaction\ndefault_pool_size = 3\n"
        )
        program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        assert program is not None
        return [program, str(file)]

    def _ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0


@pytest.fixture(scope="module")
def pooled_url(postgres_url: str) -> Iterator[str]:
    """The database behind a pooler in transaction mode."""
    if shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        message = "PgBouncer is not installed: apt-get install pgbouncer"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    bouncer = PgBouncer(postgres_url)
    try:
        bouncer._launch()
        yield bouncer.url
    finally:
        bouncer.close()


class TestBehindAPooler(Batches, Committing, Inboxes, Opening, Processes, Running):
    """The parts of the contract in which connections matter, through PgBouncer, with more connections than it has."""

    clock = StoreContract.clock
    closed_store = StoreContract.closed_store
    store = StoreContract.store
    other = StoreContract.other

    @pytest.fixture
    def subject(self, pooled_url: str, make: Make, admin: Any, postgres_schema: str) -> Subject:
        async def newer() -> None:
            await admin.execute(f"UPDATE {postgres_schema}.schema_version SET version = 99")

        return Subject(lambda: make(pooled_url), newer=newer)


async def test_a_pooler_is_noticed_and_said_once(make: Make, pooled_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "durable_flow"):
        async with make(pooled_url) as store:
            assert not store.wakes
            await create(store)
            await advance(store)
    assert [record.getMessage().count("polling") for record in caplog.records if "pooler" in record.getMessage()] == [1]


async def test_without_a_pooler_none_is_noticed(store: PostgresStore, caplog: pytest.LogCaptureFixture) -> None:
    assert store.wakes
    assert not any("pooler" in record.getMessage() for record in caplog.records)


async def test_who_listens_hears_what_is_done_through_a_pooler(
    make: Make, pooled_url: str, store: PostgresStore
) -> None:
    heard: list[str] = []
    store.listen(heard.append)
    await create(store)
    async with make(pooled_url) as through:
        await append(through, kind="note")
        await wait_until(lambda: heard == ["e"])


async def test_a_fenced_commit_through_a_pooler_leaves_no_transaction_open(
    make: Make, pooled_url: str, admin: Any
) -> None:
    async with make(pooled_url) as store:
        row = await create(store)
        for _ in range(10):
            with pytest.raises(LeaseLost):
                await store.commit(following(row, version=9))
            with pytest.raises(StoreError):
                await store.commit(following(row, entries=[(1, "again")]))
        await advance(store)
        query = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        assert await admin.fetchval(query) == 0
