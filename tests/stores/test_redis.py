"""What is particular to the Redis store: keys, servers and their settings, connections that break, batches."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.sentinel import Sentinel

from durable_flow.errors import (
    ConfigError,
    LeaseLost,
    MissingExtraError,
    SchemaTooNew,
    StoreError,
    StoreUnavailable,
)
from durable_flow.stores import open_store
from durable_flow.stores.base import QueueRow, Slot, Stored
from durable_flow.stores.redis import BATCH, RedisStore
from durable_flow.testing import wait_until
from tests.servers.binaries import NotInstalled, redis_program
from tests.servers.proxy import Proxy, containing
from tests.servers.redis import RedisServer
from tests.stores.build import (
    ANY,
    POISON,
    START,
    SettableClock,
    advance,
    answer,
    append,
    create,
    creation,
    find,
    following,
    idle,
    message,
    opening,
    row_of,
    stored,
    vote,
)

Client = redis.asyncio.Redis


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with redis.asyncio.Redis.from_url(redis_url) as opened:
        yield opened


@pytest.fixture
async def store(redis_url: str, redis_prefix: str) -> AsyncIterator[RedisStore]:
    async with RedisStore(redis_url, prefix=redis_prefix) as opened:
        yield opened


@pytest.fixture
def own() -> Iterator[Callable[..., RedisServer]]:
    """Starts a server with settings of its own."""
    started: list[RedisServer] = []

    def start(**settings: Any) -> RedisServer:
        started.append(RedisServer.start(**settings))
        return started[-1]

    try:
        redis_program()
    except NotInstalled as missing:
        pytest.skip(str(missing))
    yield start
    for server in started:
        server.close()


async def keys_of(client: Client, prefix: str) -> set[str]:
    return {key.decode() async for key in client.scan_iter(match=f"*{prefix}*", count=1000)}


async def rich(store: RedisStore) -> None:
    """One of everything a store keeps, in several executions."""
    labels = {"team": "blue", "region": "north"}
    await create(
        store,
        "rich",
        new={"labels": labels, "parent_id": "parent", "concurrency_key": "k"},
        frames=[("a[0]", 1, "{}"), ("a[0]/b", None, b"{}")],
        sets=[("", "x", 1), ("a[0]", "y", 1)],
        opened=[opening(needed=3), opening("late", 1, START + 5)],
        result_seq=1,
        owner="me",
    )
    await vote(store, "one")
    await append(store, "hello", kind="note", execution_id="rich")
    await store.append(message("v", execution_id="rich", wait_id="wait", takes=1), "{}")
    await idle(store, "halted", status="halted", new={"labels": labels}, opened=[opening()])
    await idle(store, "over", status="completed", finished_at=START + 9, new={"labels": {"": ""}})


# -- keys -------------------------------------------------------------------------------------------------------------


async def test_every_key_begins_with_the_prefix_as_a_hash_tag(
    store: RedisStore, client: Client, redis_prefix: str
) -> None:
    await rich(store)
    found = await keys_of(client, redis_prefix)
    assert len(found) > 20
    assert all(key.startswith(f"{{{redis_prefix}}}:") for key in found)


async def test_nothing_expires(store: RedisStore, client: Client, redis_prefix: str) -> None:
    await rich(store)
    found = await keys_of(client, redis_prefix)
    assert {await client.ttl(key) for key in found} == {-1}


async def test_deleted_executions_leave_nothing(store: RedisStore, client: Client, redis_prefix: str) -> None:
    empty = await keys_of(client, redis_prefix)
    await rich(store)
    await store.release("rich", owner="me", generation=1)
    for name in ("rich", "halted", "over"):
        assert await store.remove(name)
    assert await keys_of(client, redis_prefix) == empty


async def test_purged_executions_leave_nothing(store: RedisStore, client: Client, redis_prefix: str) -> None:
    empty = await keys_of(client, redis_prefix)
    await rich(store)
    row = await row_of(store, "rich")
    await store.commit(following(row, status="failed", finished_at=START + 1))
    await store.release("rich", owner="me", generation=1)
    await advance(store, "halted", status="cancelled", finished_at=START + 2)
    assert await store.purge_rows(before=START + 10, statuses=ANY, limit=10) == 3
    assert await keys_of(client, redis_prefix) == empty


async def test_an_execution_that_ran_to_its_end_leaves_nothing_in_between(
    store: RedisStore, client: Client, redis_prefix: str
) -> None:
    """Whatever was opened, claimed, answered and dropped on the way has no key once it is over."""
    await rich(store)
    before = await keys_of(client, redis_prefix)
    held = await stored(store, "rich")
    await advance(
        store,
        "rich",
        frames=[("a[0]/b", None, None)],
        sets=[("a[0]", "y", 0)],
        dropped=["a"],
        closed=["wait", "late"],
        consumed=[number for number, _ in held.inbox],
        release=True,
    )
    gone = before - await keys_of(client, redis_prefix)
    kinds = {key.partition("}:")[2].partition(":")[0] for key in gone}
    assert kinds == {"n", "w", "a", "i", "m", "owner", "mail"}


async def test_the_document_stays_while_one_execution_has_it(store: RedisStore) -> None:
    await idle(store, "a", new={"definition_hash": "h", "definition": "one"})
    await idle(store, "b", new={"definition_hash": "h", "definition": "two"})
    await store.remove("a")
    assert await store.definition("h") == "one"
    await store.remove("b")
    assert await store.definition("h") is None


async def test_two_prefixes_do_not_meet(redis_url: str, redis_prefix: str, store: RedisStore) -> None:
    async with RedisStore(redis_url, prefix=f"{redis_prefix}-2") as other:
        await create(store)
        assert await other.row("e") is None
        assert await find(other) == []


@pytest.mark.parametrize("prefix", ["", "a b", "{a}", "a}", "a\n"])
def test_a_prefix_that_is_no_hash_tag_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="prefix"):
        RedisStore("redis://localhost", prefix=prefix)


# -- what it is made from ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://", "RedisStore('redis://localhost:6379/0', prefix='durable_flow')"),
        ("redis://:secret@h:7000/3", "RedisStore('redis://h:7000/3', prefix='durable_flow')"),
        ("rediss://user:secret@h", "RedisStore('redis://h:6379/0', prefix='durable_flow')"),
        ("unix:///run/redis.sock", "RedisStore('unix:///run/redis.sock/0', prefix='durable_flow')"),
    ],
)
def test_a_url_names_a_server_and_the_store_shows_no_password(url: str, shown: str) -> None:
    assert repr(open_store(url)) == shown


def test_options_go_to_the_store() -> None:
    store = open_store("redis://h", prefix="p", timeout=2.5, auto_migrate=False)
    assert isinstance(store, RedisStore)
    assert (store.prefix, store.server.timeout, store.auto_migrate) == ("p", 2.5, False)


@pytest.mark.parametrize("options", [{}, {"url": "redis://h", "client": object()}, {"client": object()}])
def test_it_takes_one_url_or_one_client(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RedisStore(**options)


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="URL"):
        RedisStore("http://localhost")


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_is_above_zero(timeout: float) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        RedisStore("redis://h", timeout=timeout)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "durable_flow.stores.redis")
    for name in [name for name in sys.modules if name.split(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r"durable-flow\[redis\]"):
        open_store("redis://localhost")


@pytest.mark.parametrize("options", [{}, {"decode_responses": True}, {"protocol": 2}, {"socket_timeout": 0.001}])
async def test_a_client_says_where_to_connect_and_stays_open(
    redis_url: str, redis_prefix: str, options: dict[str, Any]
) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        given = redis.asyncio.Redis.from_url(redis_url, **options)
        async with RedisStore(client=given, prefix=redis_prefix) as store:
            await create(store, root=b"\xff")
            assert (await row_of(store)).root == b"\xff"
        assert await client.ping()
        await given.aclose()


async def test_the_client_of_a_sentinel_is_shown_by_the_name_of_its_service() -> None:
    client = Sentinel([("127.0.0.1", 1)]).master_for("orders")
    assert repr(RedisStore(client=client)) == "RedisStore('redis://sentinel/orders/0', prefix='durable_flow')"
    with pytest.raises(StoreUnavailable, match="No master found for 'orders'"):
        await RedisStore(client=client).open()
    await client.aclose()


async def test_a_client_that_is_not_asynchronous_is_refused() -> None:
    import redis as blocking

    with blocking.Redis() as client, pytest.raises(ConfigError, match=r"redis\.asyncio"):
        RedisStore(client=client)


# -- opening ----------------------------------------------------------------------------------------------------------


async def test_a_newer_schema_is_refused_before_anything_is_written(
    redis_url: str, client: Client, redis_prefix: str
) -> None:
    await client.set(f"{{{redis_prefix}}}:schema", 99)
    with pytest.raises(SchemaTooNew, match="99"):
        await RedisStore(redis_url, prefix=redis_prefix).open()
    assert await keys_of(client, redis_prefix) == {f"{{{redis_prefix}}}:schema"}


async def test_a_store_of_the_first_version_is_brought_up_to_date(
    redis_url: str, client: Client, redis_prefix: str
) -> None:
    prefix = f"{{{redis_prefix}}}:"
    clock = SettableClock()
    store = RedisStore(redis_url, prefix=redis_prefix)
    store.clock = clock
    async with store:
        await store.set_queue("mail", "hold", "{}")
        await idle(store, "waits", status="pending", new={"queue": "mail"})
        await create(store, "taken", status="pending", new={"queue": "mail"})
        await create(store, "driven", new={"queue": "mail"})
        await create(store, "child", new={"queue": "mail", "parent_id": "driven"})
        await idle(store, "halted", status="halted", new={"queue": "mail"})
    # What the first version did not have, or had under another name.
    await client.rename(f"{prefix}hold", f"{prefix}holds")
    (q,) = await client.zrange(f"{prefix}exempt", 0, -1)
    pending, exempt = (f"{prefix}{name}:{q.decode()}" for name in ("pending", "exempt"))
    await client.zunionstore(pending, [pending, exempt])
    await client.delete(f"{prefix}exempt", exempt, f"{prefix}way:.mail")
    await client.hdel(f"{prefix}x:child", "p")
    await client.set(f"{prefix}schema", 1)

    with pytest.raises(StoreError, match="schema 1, this release needs 3"):
        await RedisStore(redis_url, prefix=redis_prefix, auto_migrate=False).open()
    store = RedisStore(redis_url, prefix=redis_prefix)
    store.clock = clock
    async with store:
        assert store.versions == (1, 3)
        assert await store.queues() == {"mail": QueueRow(hold="{}", pending=1, under_way=2)}
        await store.set_queue("mail", "hold", None)
        await store.set_queue("mail", "declared", "[2,null,1.0]")
        assert await store.take("you", ttl=30, limit=10) == []
        clock.time += 31
        taken = {one.row.id for one in await store.take("you", ttl=30, limit=10)}
        assert taken == {"taken", "driven", "child"}


async def test_a_store_that_a_later_release_has_migrated_meanwhile_is_left_alone(
    store: RedisStore, client: Client, redis_prefix: str
) -> None:
    await create(store)
    await client.set(f"{{{redis_prefix}}}:schema", 99)
    for call in (store.take("me", ttl=30, limit=1), store.row("e"), create(store, "other")):
        with pytest.raises(StoreError, match="later release"):
            await call
    await client.set(f"{{{redis_prefix}}}:schema", 3)
    assert await store.row("other") is None


async def test_without_auto_migrate_a_new_prefix_is_refused(redis_url: str, client: Client, redis_prefix: str) -> None:
    with pytest.raises(StoreError, match="auto_migrate"):
        await RedisStore(redis_url, prefix=redis_prefix, auto_migrate=False).open()
    assert await keys_of(client, redis_prefix) == set()
    async with RedisStore(redis_url, prefix=redis_prefix):
        pass
    async with RedisStore(redis_url, prefix=redis_prefix, auto_migrate=False) as store:
        await create(store)


async def test_of_many_who_open_at_once_all_do(redis_url: str, redis_prefix: str) -> None:
    stores = [RedisStore(redis_url, prefix=redis_prefix) for _ in range(8)]
    await asyncio.gather(*[store.open() for store in stores])
    await asyncio.gather(*[create(store, f"e{i}") for i, store in enumerate(stores)])
    assert len(await find(stores[0])) == 8
    await asyncio.gather(*[store.close() for store in stores])


async def test_opening_twice_is_an_error(store: RedisStore) -> None:
    with pytest.raises(StoreError, match="open already"):
        await store.open()


async def test_where_nobody_listens_it_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1"):
        await RedisStore("redis://127.0.0.1:1").open()


async def test_a_server_that_is_too_old_is_refused_before_anything_is_written(
    redis_url: str, client: Client, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def facts(store: RedisStore, line: object) -> dict[str, str]:
        return {"redis_version": "6.0.16"}

    monkeypatch.setattr(RedisStore, "_facts", facts)
    with pytest.raises(StoreError, match=r"version 6\.0\.16; Redis 6\.2"):
        await RedisStore(redis_url, prefix=redis_prefix).open()
    assert await keys_of(client, redis_prefix) == set()


PERSISTENCE = [
    ({"appendonly": False}, "appendonly is off"),
    ({"appendonly": True, "appendfsync": "everysec"}, "up to a second of acknowledged work"),
    ({"appendonly": True, "appendfsync": "no"}, "never syncs"),
    ({"appendonly": True, "appendfsync": "always"}, None),
    ({"appendonly": True, "appendfsync": "always", "maxmemory_policy": "allkeys-lru"}, "throws keys away"),
    ({"appendonly": True, "appendfsync": "always", "maxmemory_policy": "volatile-lru"}, None),
    ({"rename_command": "CONFIG none"}, "appendonly is off"),
    ({"appendonly": True, "rename_command": "CONFIG none"}, "cannot be found out"),
    ({"maxmemory_policy": "allkeys-random", "rename_command": "CONFIG none"}, "throws keys away"),
]


@pytest.mark.parametrize(("settings", "warning"), PERSISTENCE)
async def test_opening_says_what_the_server_may_lose(
    own: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture, settings: dict[str, Any], warning: str | None
) -> None:
    server = own(**settings)
    caplog.clear()
    async with RedisStore(server.url):
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    if warning is None:
        assert told == []
    else:
        assert any(warning in text for text in told), told
        assert all(f":{server.port}" in text for text in told)


async def test_who_has_no_rights_hears_what_is_needed(redis_url: str, own: Callable[..., RedisServer]) -> None:
    server = own()
    server.ask("CONFIG", "SET", "requirepass", "secret")
    for url in (server.url, server.url.replace("//", "//:wrong@")):
        with pytest.raises(StoreError, match="user and password") as caught:
            await RedisStore(url).open()
        assert not isinstance(caught.value, StoreUnavailable)
        assert "wrong" not in str(caught.value)
    async with RedisStore(server.url.replace("//", "//:secret@")) as store:
        await create(store)


async def test_a_user_without_scripts_hears_what_is_needed(own: Callable[..., RedisServer]) -> None:
    server = own()
    server.ask("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+ping")
    with pytest.raises(StoreError, match="needs the commands") as caught:
        await RedisStore(server.url.replace("//", "//reader:pw@")).open()
    assert not isinstance(caught.value, StoreUnavailable)


async def test_a_user_without_channels_and_without_settings_can_work(
    own: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = own()
    server.ask("ACL", "SETUSER", "app", "on", ">pw", "~{durable_flow}:*", "resetchannels", "+@all", "-@admin", "+info")
    async with RedisStore(server.url.replace("//", "//app:pw@")) as store:
        assert not store.wakes
        await idle(store, opened=[opening()])
        assert await answer(store) == "accepted"
        assert (await advance(store, status="completed", finished_at=START)).status == "completed"
    assert "no wake-ups" in caplog.text


# -- values -----------------------------------------------------------------------------------------------------------


async def test_text_of_a_class_of_its_own_comes_back_as_text(store: RedisStore) -> None:
    class Target(str):
        pass

    assert type((await create(store, current_step=Target("next"))).current_step) is str


async def test_a_null_character_in_a_name_stays_where_it_is(store: RedisStore) -> None:
    await create(store, sets=[("a[0]", "x\0y", 1), ("", "\0", 1)])
    assert (await stored(store)).sets == [("", "\0", 1), ("a[0]", "x\0y", 1)]
    await advance(store, dropped=["a"])
    assert (await stored(store)).sets == [("", "\0", 1)]


async def test_a_null_character_in_a_path_is_refused(store: RedisStore) -> None:
    with pytest.raises(StoreError, match="null character"):
        await create(store, frames=[("a\0b", None, "{}")])
    assert await store.row("e") is None


async def test_an_entry_that_leaves_a_gap_is_refused(store: RedisStore) -> None:
    row = await create(store)
    with pytest.raises(StoreError, match="number 3 cannot be next"):
        await store.commit(following(row, entries=[(3, "three")]))
    with pytest.raises(StoreError, match="number 2 cannot be next"):
        await store.commit(creation("other", entries=[(2, "two")]))
    assert await row_of(store) == row
    assert await store.row("other") is None


async def test_entries_that_are_many_or_large_are_read_whole(store: RedisStore) -> None:
    bodies = [(seq, str(seq)) for seq in range(1, 2501)] + [(seq, "x" * 1_000_000) for seq in range(2501, 2511)]
    await create(store, entries=bodies[:2500], seq=2500)
    for seq, body in bodies[2500:]:
        await advance(store, entries=[(seq, body)], seq=seq)
    assert await store.read("e") == bodies
    assert await store.read("e", after=990, limit=1020) == bodies[990:2010]
    assert await store.read("e", limit=0) == []
    assert await store.read("e", seqs=range(3, 2510, 2)) == bodies[2:2509:2]


async def test_thousands_of_frames_and_variables_come_and_go(store: RedisStore) -> None:
    frames = [(f"loop[{i}]", 1, f"{i}") for i in range(6000)]
    sets = [(f"loop[{i}]", "x", 1) for i in range(6000)]
    await create(store, frames=[*frames, ("other[1]", None, "stays")], sets=[*sets, ("", "x", 1)])
    assert len((await stored(store)).frames) == 6001
    await advance(store, dropped=["loop"])
    found = await stored(store)
    assert (found.frames, found.sets) == ([("other[1]", "stays")], [("", "x", 1)])


# -- searching --------------------------------------------------------------------------------------------------------


async def test_ties_are_told_apart_by_bytes_on_every_page(store: RedisStore) -> None:
    names = ["a", "A", "ä", "z", "Z", "é", "😀", "\uffff", "a-", "a.", "0", "10", "9"] + [f"n{i}" for i in range(500)]
    await asyncio.gather(*[store.commit(creation(name, lease_ttl=None)) for name in names])
    expected = sorted(names, key=str.encode, reverse=True)
    assert await find(store, limit=1000) == expected
    for limit in (1, 7, 250):
        found: list[str] = []
        page = await store.find(limit=limit)
        while len(found) < 30:
            found += [execution.id for execution in page]
            page = await store.find(limit=limit, cursor=page.next_cursor)
        assert found == expected[: len(found)]


async def test_pages_are_exact_while_statuses_change(store: RedisStore) -> None:
    """What was on a page does not come again, and what still matches behind it does come, whatever it was before."""
    for i in range(30):
        await idle(store, f"e{i:02}", new={"created_at": START + i}, status=("running", "halted")[i % 2])
    page = await store.find(limit=10, status=["running"])
    assert [execution.id for execution in page] == [f"e{i:02}" for i in range(28, 8, -2)]
    await advance(store, "e28", status="halted")
    await advance(store, "e09", status="running")
    await advance(store, "e07", status="running")
    await advance(store, "e06", status="failed")
    await advance(store, "e29", status="running")
    page = await store.find(limit=10, status=["running"], cursor=page.next_cursor)
    assert [execution.id for execution in page] == ["e09", "e08", "e07", "e04", "e02", "e00"]
    assert page.next_cursor is None


async def test_what_few_of_many_have_is_found_in_several_calls(store: RedisStore) -> None:
    """Two labels that many have and only a few have both of: more candidates than one call of the script looks at."""
    for first in range(0, 9000, 300):
        await asyncio.gather(
            *[
                store.commit(
                    creation(
                        f"e{i:05}",
                        lease_ttl=None,
                        entries=[],
                        new={
                            "created_at": START + i // 7,
                            "labels": {"left": "y" if i % 2 or i % 1500 == 0 else "n", "right": "yn"[i % 2]},
                        },
                    )
                )
                for i in range(first, first + 300)
            ]
        )
    both = {"left": "y", "right": "y"}
    expected = [f"e{i:05}" for i in range(7500, -1, -1500)]
    assert await find(store, labels=both) == expected
    page = await store.find(labels=both, limit=3)
    assert [execution.id for execution in page] == expected[:3]
    page = await store.find(labels=both, limit=3, cursor=page.next_cursor)
    assert ([execution.id for execution in page], page.next_cursor) == (expected[3:], None)


async def test_a_page_can_be_larger_than_one_call(store: RedisStore) -> None:
    names = [f"e{i:04}" for i in range(450)]
    await asyncio.gather(*[store.commit(creation(name)) for name in names])
    assert await find(store, limit=1000) == names[::-1]
    assert await find(store, limit=450) == names[::-1]
    assert len(await store.find(limit=449)) == 449


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy.to(redis_url, counting=containing(b"EVALSHA")) as opened:
        yield opened


@pytest.fixture
async def behind(proxy: Proxy, redis_url: str, redis_prefix: str) -> AsyncIterator[RedisStore]:
    """A store whose network can break."""
    async with RedisStore(proxy.url(redis_url), prefix=redis_prefix, timeout=5) as opened:
        yield opened


async def test_what_is_concurrent_shares_round_trips(behind: RedisStore, proxy: Proxy) -> None:
    before = proxy.requests
    await asyncio.gather(*[behind.commit(creation(f"e{i}", lease_ttl=None)) for i in range(100)])
    assert proxy.requests - before == 1
    claims = [behind.claim(f"e{i}", owner="me", ttl=30, statuses=ANY) for i in range(100)]
    appends = [append(behind, execution_id=f"e{i}", kind="note") for i in range(50)]
    outcomes = await asyncio.gather(*claims, *appends)
    assert all(isinstance(outcome, Stored) for outcome in outcomes[:100])
    assert proxy.requests - before == 2
    rows = await asyncio.gather(*[row_of(behind, f"e{i}") for i in range(50)])
    assert [row.owner for row in rows] == ["me"] * 50
    assert proxy.requests - before == 3


async def test_a_batch_has_an_end(behind: RedisStore, proxy: Proxy) -> None:
    before = proxy.requests
    await asyncio.gather(*[behind.commit(creation(f"e{i}")) for i in range(BATCH + 1)])
    assert proxy.requests - before == 2
    before = proxy.requests
    await asyncio.gather(*[behind.commit(creation(f"big{i}", root="x" * 400_000)) for i in range(6)])
    assert proxy.requests - before == 3


async def test_each_member_of_a_batch_has_its_own_answer(behind: RedisStore, proxy: Proxy) -> None:
    rows = [await create(behind, f"e{i}") for i in range(4)]
    before = proxy.requests
    outcomes = await asyncio.gather(
        behind.commit(following(rows[0])),
        behind.commit(following(rows[1], version=7)),
        behind.commit(creation("e2")),
        behind.commit(following(rows[2], root=POISON)),
        behind.commit(following(rows[3], release=True)),
        return_exceptions=True,
    )
    assert proxy.requests - before == 1
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Committed", "LeaseLost", "ConflictError", "StoreError", "Committed",
    ]  # fmt: skip


# -- connections that break -------------------------------------------------------------------------------------------


async def test_a_lost_answer_is_an_unknown_outcome_and_nothing_is_sent_twice(behind: RedisStore, proxy: Proxy) -> None:
    row = await create(behind)
    before = proxy.requests
    lost = proxy.lose_answer()
    with pytest.raises(StoreUnavailable):
        await behind.commit(following(row, nonce="mine"))
    await asyncio.wait_for(lost.wait(), 5)
    assert proxy.requests - before == 1
    assert (await row_of(behind)).nonce == "mine"


async def test_a_lost_request_has_not_happened(behind: RedisStore, proxy: Proxy) -> None:
    row = await create(behind)
    proxy.lose_request()
    with pytest.raises(StoreUnavailable):
        await behind.commit(following(row))
    assert await row_of(behind) == row
    await behind.commit(following(row))


async def test_a_connection_that_was_closed_while_idle_costs_nothing(behind: RedisStore, proxy: Proxy) -> None:
    row = await create(behind)
    assert behind._writes is not None
    assert behind._writes.wire is not None
    proxy.cut()
    await wait_until(behind._writes.wire.closed)
    await behind.commit(following(row))
    assert (await row_of(behind)).version == 2


async def test_a_network_that_swallows_everything_is_unavailable(
    proxy: Proxy, redis_url: str, redis_prefix: str
) -> None:
    async with RedisStore(proxy.url(redis_url), prefix=redis_prefix, timeout=0.2) as store:
        row = await create(store)
        proxy.black_hole()
        with pytest.raises(StoreUnavailable, match=r"within 0\.2 s"):
            await store.commit(following(row))
        with pytest.raises(StoreUnavailable):
            await store.row("e")
        proxy.flow()
        assert (await row_of(store)).version in (1, 2)


async def test_a_cancelled_caller_takes_no_answer_away(behind: RedisStore, proxy: Proxy) -> None:
    for name in ("a", "b"):
        await create(behind, name)
    proxy.delay = 0.02
    for _ in range(5):
        reading = asyncio.ensure_future(behind.row("a"))
        writing = asyncio.ensure_future(append(behind, execution_id="a", kind="note"))
        await asyncio.sleep(0)
        reading.cancel()
        writing.cancel()
        assert (await row_of(behind, "b")).id == "b"
        assert (await append(behind, "other", execution_id="b", kind="cancel")).outcome in ("accepted", "duplicate")
        outcomes = await asyncio.gather(reading, writing, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
    assert len(await behind.inbox("a")) == 1


async def test_who_waits_for_a_commit_hears_of_it_when_the_loop_ends(redis_url: str, redis_prefix: str) -> None:
    """Futures of commits cannot be cancelled: without an answer the program would hang."""

    def main() -> list[BaseException | None]:
        told: list[BaseException | None] = []

        async def forget() -> None:
            async with Proxy.to(redis_url) as proxy:
                store = RedisStore(proxy.url(redis_url), prefix=redis_prefix, timeout=60)
                await store.open()
                proxy.black_hole()

                async def commit() -> None:
                    future = store.commit(creation())
                    future.add_done_callback(lambda done: told.append(done.exception()))
                    await future

                asyncio.get_running_loop().create_task(commit())
                await asyncio.sleep(0)

        asyncio.run(forget())
        return told

    (error,) = await asyncio.to_thread(main)
    assert isinstance(error, StoreUnavailable)


async def test_it_goes_on_after_scripts_were_flushed(store: RedisStore, client: Client) -> None:
    row = await create(store)
    await client.script_flush()
    commits = [following(row), *(creation(f"e{i}") for i in range(10))]
    await asyncio.gather(*map(store.commit, commits))
    await client.script_flush()
    assert (await row_of(store)).version == 2


async def test_batches_keep_their_order_when_the_script_is_missing(store: RedisStore, client: Client) -> None:
    row = await create(store)
    count = 2 * BATCH
    await client.script_flush()
    commits = [following(row, version=row.version + i, nonce=f"n{i}") for i in range(count)]
    await asyncio.gather(*[store.commit(commit) for commit in commits])
    assert (await row_of(store)).nonce == f"n{count - 1}"


# -- servers that cannot ----------------------------------------------------------------------------------------------


async def test_a_server_that_is_restarted_goes_on_with_what_it_confirmed(own: Callable[..., RedisServer]) -> None:
    server = own(appendonly=True, appendfsync="always")
    async with RedisStore(server.url) as store:
        row = await create(store, entries=[(1, "one")])
        row = await advance(store, seq=2, entries=[(2, "two")], sets=[("", "x", 2)])
        before = await stored(store)
        server.kill()
        with pytest.raises(StoreUnavailable):
            await store.commit(following(row))
        server.restart()
        assert await stored(store) == before
        assert (await advance(store)).version == row.version + 1


async def test_a_full_server_refuses_whole_commits_and_keeps_what_it_has(own: Callable[..., RedisServer]) -> None:
    server = own(maxmemory_policy="noeviction")
    async with RedisStore(server.url) as store:
        row = await create(store, frames=[("a[0]", None, "{}")], opened=[opening()])
        before = await stored(store)
        server.ask("CONFIG", "SET", "maxmemory", "1mb")
        server.ask("CONFIG", "SET", "maxmemory", "1")
        change = following(row, entries=[(2, "x")], dropped=["a"], closed=["wait"], frames=[("b[0]", None, "{}")])
        with pytest.raises(StoreUnavailable, match="OOM"):
            await store.commit(change)
        with pytest.raises(StoreUnavailable, match="OOM"):
            await store.commit(creation("other"))
        with pytest.raises(StoreUnavailable, match="OOM"):
            await append(store, kind="note")
        assert await stored(store) == before
        assert await store.row("other") is None
        server.ask("CONFIG", "SET", "maxmemory", "0")
        await store.commit(change)
        assert (await stored(store)).frames == [("b[0]", "{}")]


async def test_a_replica_is_unavailable_for_writing_until_it_is_the_master(own: Callable[..., RedisServer]) -> None:
    server = own()
    async with RedisStore(server.url) as store:
        row = await create(store)
    with server.replica() as copy:
        async with RedisStore(copy.url) as store:
            assert await row_of(store) == row
            with pytest.raises(StoreUnavailable, match="READONLY"):
                await store.commit(following(row))
            copy.ask("REPLICAOF", "NO", "ONE")
            await store.commit(following(row))
            assert (await row_of(store)).version == 2


async def test_a_disk_that_fails_makes_it_unavailable(own: Callable[..., RedisServer], tmp_path: Path) -> None:
    server = own()
    async with RedisStore(server.url) as store:
        row = await create(store)
        server.ask("CONFIG", "SET", "save", "1 1")
        server.ask("CONFIG", "SET", "dbfilename", "dump.rdb")
        blocked = server.folder / "dump.rdb"
        blocked.mkdir()
        server.ask("BGSAVE")
        await wait_until(lambda: b"rdb_last_bgsave_status:err" in server.ask("INFO", "persistence"))
        with pytest.raises(StoreUnavailable, match="MISCONF"):
            await store.commit(following(row))
        server.ask("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
        server.ask("CONFIG", "SET", "save", "")
        await store.commit(following(row))


async def test_a_server_that_still_loads_is_unavailable(own: Callable[..., RedisServer]) -> None:
    server = own(enable_debug_command="local")
    async with RedisStore(server.url) as store:
        rows = [await create(store, f"e{i}", root=str(i) * 4000) for i in range(20)]
        server.ask("CONFIG", "SET", "loading-process-events-interval-bytes", "1024")
        server.ask("CONFIG", "SET", "key-load-delay", "20000")
        loading = asyncio.create_task(asyncio.to_thread(server.ask, "DEBUG", "RELOAD"))
        heard: list[str] = []

        async def loaded() -> bool:
            try:
                await store.commit(following(rows[0], version=9))
            except StoreUnavailable as error:
                heard.append(str(error))
            except LeaseLost:
                pass
            return loading.done()

        await wait_until(loaded, timeout=30)
        assert b"OK" in loading.result()
        assert any("LOADING" in text for text in heard), heard
        assert await row_of(store, "e0") == rows[0]


async def test_a_user_whose_rights_end_hears_what_is_needed(own: Callable[..., RedisServer]) -> None:
    server = own()
    server.ask("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all")
    async with RedisStore(server.url.replace("//", "//app:pw@")) as store:
        row = await create(store)
        server.ask("ACL", "SETUSER", "app", "-evalsha")
        with pytest.raises(StoreError, match="needs the commands"):
            await store.commit(following(row))
        server.ask("ACL", "SETUSER", "app", "+evalsha", "-hset")
        with pytest.raises(StoreError):
            await store.commit(following(row))
        server.ask("ACL", "SETUSER", "app", "+hset")
        await store.commit(following(row))


async def test_it_runs_on_a_cluster_in_one_slot(own: Callable[..., RedisServer]) -> None:
    server = own(cluster_enabled=True)
    server.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    await wait_until(lambda: b"cluster_state:ok" in server.ask("CLUSTER", "INFO"))
    async with RedisStore(server.url) as store:
        await rich(store)
        assert len(await find(store)) == 3
    cluster = redis.asyncio.RedisCluster.from_url(server.url)
    try:
        async with RedisStore(client=cluster) as store:
            assert len(await find(store)) == 3
        assert await cluster.ping()
    finally:
        await cluster.aclose()


async def test_it_follows_its_slot_to_another_node(own: Callable[..., RedisServer]) -> None:
    left, right = own(cluster_enabled=True), own(cluster_enabled=True)
    for server in (left, right):
        server.ask("CLUSTER", "SET-CONFIG-EPOCH", "1" if server is left else "2")
    right.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    left.ask("CLUSTER", "MEET", "127.0.0.1", str(right.port))
    for server in (left, right):
        await wait_until(lambda server=server: b"cluster_state:ok" in server.ask("CLUSTER", "INFO"), timeout=20)
    async with RedisStore(left.url) as store:
        await create(store)
        await append(store, kind="note")
        assert len(await store.inbox("e")) == 1
    assert b":1" in right.ask("EXISTS", "{durable_flow}:x:e")


async def test_a_cluster_that_is_down_is_unavailable(own: Callable[..., RedisServer]) -> None:
    server = own(cluster_enabled=True)
    with pytest.raises(StoreUnavailable, match="CLUSTERDOWN"):
        await RedisStore(server.url).open()


# -- wake-ups ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def other(redis_url: str, redis_prefix: str, store: RedisStore) -> AsyncIterator[RedisStore]:
    """A second store object on the same data."""
    async with RedisStore(redis_url, prefix=redis_prefix) as opened:
        yield opened


async def test_what_another_store_does_is_heard(store: RedisStore, other: RedisStore) -> None:
    heard: list[str] = []
    for name in ("noted", "ends", "halts", "parent"):
        await create(store, name, opened=[opening()])
    store.listen(heard.append)
    assert store.wakes
    await append(other, execution_id="noted", kind="note")
    await wait_until(lambda: heard == ["noted"])
    await advance(other, "ends", status="completed", finished_at=START)
    await wait_until(lambda: heard == ["noted", "ends"])
    await advance(other, "halts", status="halted", messages=[(message(kind="note", execution_id="parent"), "x")])
    await wait_until(lambda: len(heard) == 4)
    assert set(heard[2:]) == {"halts", "parent"}


async def test_what_a_store_does_itself_is_not_heard(store: RedisStore, other: RedisStore) -> None:
    heard: list[str] = []
    await create(store)
    store.listen(heard.append)
    await append(store, "own", kind="note")
    await append(other, "last", kind="note", execution_id="e")
    await wait_until(lambda: heard)
    assert heard == ["e"]


async def test_a_message_that_was_not_accepted_is_not_heard(store: RedisStore, other: RedisStore) -> None:
    heard: list[str] = []
    await create(store)
    store.listen(heard.append)
    assert await answer(other) == "closed"
    assert (await append(other, execution_id="nobody")).outcome == "unknown"
    await create(other, "end")
    await append(other, execution_id="end", kind="note")
    await wait_until(lambda: heard)
    assert heard == ["end"]


async def test_wake_ups_come_back_after_the_connection_broke(
    behind: RedisStore, proxy: Proxy, redis_url: str, redis_prefix: str
) -> None:
    heard: list[str] = []
    behind.listen(heard.append)
    proxy.cut()
    await wait_until(lambda: not behind.wakes)
    await wait_until(lambda: behind.wakes)
    async with RedisStore(redis_url, prefix=redis_prefix) as writer:
        await create(writer)
        await append(writer, kind="note")
        await wait_until(lambda: heard == ["e"])


async def test_who_hears_nothing_for_long_looks_whether_the_connection_is_there(
    proxy: Proxy, redis_url: str, redis_prefix: str
) -> None:
    async with RedisStore(proxy.url(redis_url), prefix=redis_prefix, timeout=0.1) as store:
        proxy.black_hole()
        await wait_until(lambda: not store.wakes)
        proxy.flow()
        await wait_until(lambda: store.wakes)


async def test_a_listener_that_fails_does_not_end_the_others(
    store: RedisStore, other: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str) -> None:
        raise RuntimeError(name)

    heard: list[str] = []
    await create(store)
    end = store.listen(fail)
    await append(other, "a", kind="note")
    await wait_until(lambda: "a listener failed" in caplog.text)
    end()
    store.listen(heard.append)
    await append(other, "b", kind="note")
    await wait_until(lambda: heard == ["e"])


async def test_what_is_no_message_of_ours_is_not_heard(store: RedisStore, other: RedisStore, client: Client) -> None:
    heard: list[str] = []
    store.listen(heard.append)
    await client.publish(f"{{{store.prefix}}}:heard", b"\xff what?")
    await create(other)
    await append(other, kind="note")
    await wait_until(lambda: heard == ["e"])


# -- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_after_a_fork_the_store_belongs_to_the_parent(store: RedisStore) -> None:
    await create(store)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.commit(creation("f"))
        except StoreError as error:
            code = 0 if "another process" in str(error) else 2
        finally:
            os._exit(code)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (await row_of(store)).version == 1


async def test_who_waits_for_a_key_is_not_read_by_who_comes_or_goes(
    own: Callable[..., RedisServer], redis_prefix: str
) -> None:
    url = own().url
    async with RedisStore(url, prefix=redis_prefix) as store, redis.asyncio.Redis.from_url(url) as client:

        async def calls(work: Callable[[], Awaitable[object]]) -> int:
            await client.config_resetstat()
            await work()
            found = await client.info("commandstats")
            return sum(stats["calls"] for name, stats in found.items() if name.startswith(("cmdstat_h", "cmdstat_z")))

        efforts = []
        for number in range(100):
            await idle(store, f"e{number}", status="pending", slot=Slot(key="k", waits=True))
            if number in (10, 99):
                more = idle(store, f"more{number}", status="pending", slot=Slot(key="k", waits=True))
                efforts.append(await calls(lambda more=more: more))  # type: ignore[misc]
                efforts.append(await calls(lambda name=f"e{number // 50}": store.remove(name)))  # type: ignore[misc]
        assert efforts[:2] == efforts[2:]
