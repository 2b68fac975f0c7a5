"""A store with a codec: what it refuses, whatever became of the bytes, and what it leaves to the inner store.

The contract itself is tested in test_contract.py, on a sealed store like on any other.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from durable_flow.codec import NONCE, AesGcm, Codec
from durable_flow.errors import ConfigError, CorruptState, MissingExtraError, StoreError, StoreUnavailable
from durable_flow.model.codec import SEALED, encode
from durable_flow.model.execution import Status
from durable_flow.model.frame import Message
from durable_flow.patience import PatientStore
from durable_flow.stores import open_store
from durable_flow.stores.base import Appended, Blob, Store, Stored
from durable_flow.stores.sealed import SealedStore
from tests.stores.build import (
    ANY,
    START,
    SettableClock,
    advance,
    append,
    create,
    creation,
    following,
    idle,
    message,
    opening,
    row_of,
    vote,
)

ONE, TWO = bytes(range(32)), bytes(range(32, 64))
PLAIN = {"definition_hash": hashlib.sha256(b'{"id":"w"}').hexdigest()}
RECORD = '{"action":"started","time":1.0}'


def codec(active: str = "one", **keys: bytes) -> AesGcm:
    return AesGcm(keys=keys or {"one": ONE}, active=active)


@pytest.fixture
async def inner() -> AsyncIterator[Store]:
    """A store as it is on disk, to which sealed ones are put on."""
    async with open_store("sqlite://:memory:") as store:
        store.clock = SettableClock()
        yield store


@pytest.fixture
def sealed(inner: Store) -> SealedStore:
    return SealedStore(inner, codec())


# -- the codec --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"Ada", bytes(range(256)), b"x" * 1_000_000], ids=len)
def test_what_was_encoded_is_decoded(data: bytes) -> None:
    made = codec().encode(data, context="e input")
    assert codec().decode(made, context="e input") == data


def test_the_same_data_never_looks_the_same_and_no_nonce_comes_twice() -> None:
    one = codec()
    made = [one.encode(b"yes", context="e input") for _ in range(10_000)]
    begin = made[0].index(b"one") + 3
    assert len({sealed[begin : begin + NONCE] for sealed in made}) == len(made)
    assert len({sealed[begin + NONCE :] for sealed in made}) == len(made)


def test_every_place_has_a_key_of_its_own() -> None:
    """So the number of nonces that one key sees is bounded by what is written at one place."""
    used: list[bytes] = []
    one = codec()
    real = one._cipher

    def watch(key: bytes) -> Any:
        used.append(key)
        return real(key)

    one._cipher = watch  # type: ignore[assignment]
    for context in ("e input", "e entry 1", "e entry 2", "f input"):
        one.encode(b"data", context=context)
    assert len(set(used)) == 4
    assert ONE not in used


def test_data_is_read_with_the_key_it_names_and_written_with_the_active_one() -> None:
    old = codec("one", one=ONE).encode(b"old", context="e input")
    both = codec("two", one=ONE, two=TWO)
    new = both.encode(b"new", context="e input")
    assert both.decode(old, context="e input") == b"old"
    assert codec("two", two=TWO).decode(new, context="e input") == b"new"
    with pytest.raises(ValueError, match=r"with key 'two', which the codec does not have \(it has 'one'\): add"):
        codec("one", one=ONE).decode(new, context="e input")


def test_no_changed_bit_goes_unnoticed() -> None:
    one = codec()
    made = one.encode(b"pay 10", context="e input")
    for position in range(len(made) * 8):
        changed = bytearray(made)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(ValueError, match=r"changed|does not have|not of a form|cut off"):
            one.decode(bytes(changed), context="e input")


def test_no_missing_byte_goes_unnoticed() -> None:
    one = codec()
    made = one.encode(b"pay 10", context="e input")
    for cut in [made[:length] for length in range(len(made))] + [made[1:], made + b"\0"]:
        with pytest.raises(ValueError, match=r"changed|does not have|not of a form|cut off"):
            one.decode(cut, context="e input")


@pytest.mark.parametrize("context", ["f input", "e info", "e", "", "e input "])
def test_data_at_another_place_is_refused(context: str) -> None:
    one = codec()
    made = one.encode(b"pay 10", context="e input")
    with pytest.raises(ValueError, match="moved here"):
        one.decode(made, context=context)


def test_another_key_under_the_same_id_is_refused() -> None:
    made = codec("k", k=ONE).encode(b"pay 10", context="e input")
    with pytest.raises(ValueError, match="another key 'k'"):
        codec("k", k=TWO).decode(made, context="e input")


def test_the_id_of_the_key_cannot_be_changed_even_to_one_of_the_same_key() -> None:
    same = codec("a", a=ONE, b=ONE)
    made = same.encode(b"pay 10", context="e input")
    with pytest.raises(ValueError, match="changed"):
        same.decode(made.replace(b"\x01a", b"\x01b", 1), context="e input")


@pytest.mark.parametrize(
    ("keys", "active", "said"),
    [
        ({}, "k", "keys are a mapping"),
        ([ONE], "k", "keys are a mapping"),
        ({"k": ONE[:31]}, "k", "key 'k' has 31 bytes; AES-256 needs 32"),
        ({"k": ONE + b"\0"}, "k", "key 'k' has 33 bytes"),
        ({"k": base64.b64encode(ONE).decode()}, "k", "key 'k' must be 32 bytes, not str"),
        ({"k": None}, "k", "key 'k' must be 32 bytes, not NoneType"),
        ({"": ONE}, "", "the id of a key is a short printable text"),
        ({"k" * 65: ONE}, "k", "the id of a key"),
        ({5: ONE}, 5, "the id of a key"),
        ({"k": ONE}, "other", "the active key 'other' is not among the keys .'k'."),
    ],
)
def test_keys_that_are_none_are_told_without_being_shown(keys: Any, active: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        AesGcm(keys=keys, active=active)
    assert not shows_a_key(str(caught.value))


def shows_a_key(text: str) -> bool:
    shapes = [ONE.hex(), base64.b64encode(ONE).decode(), repr(ONE)[2:-1], repr(bytearray(ONE))]
    return any(shape[:16] in text for shape in shapes)


def test_no_key_is_shown() -> None:
    one = codec()
    assert repr(one) == str(one) == "AesGcm(keys=['one'], active='one')"
    assert shows_a_key(repr(ONE))
    with pytest.raises(ValueError, match="changed") as caught:
        one.decode(one.encode(b"Ada", context="a"), context="b")
    assert not shows_a_key(f"{caught.value!r} {caught.value.__cause__!r}")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(MissingExtraError, match=r'pip install "durable-flow\[crypto\]"') as caught:
        codec()
    assert caught.value.extra == "crypto"


def test_the_library_is_imported_by_who_encrypts_only() -> None:
    program = "import durable_flow, sys; sys.exit(any(name.startswith('cryptography') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# -- what is in the inner store ---------------------------------------------------------------------------------------


async def rich(store: Store, execution_id: str = "e") -> None:
    """An execution that has something of everything."""
    await create(
        store,
        execution_id,
        result_seq=1,
        entries=[(1, '"secret 1"')],
        frames=[("f[0]", 1, '"secret 2"')],
        sets=[("", "x", 1)],
        opened=[opening("wait", 2, body='"secret 3"')],
        new={"input": '"secret 4"', "definition": '"secret 5"'},
        root='"secret 6"',
        info='"secret 7"',
    )
    await advance(store, execution_id, rewritten=[("wait", '"secret 8"')])
    assert (
        await append(store, execution_id=execution_id, wait_id="wait", takes=1, body='"secret 9"')
    ).outcome == "accepted"


def blobs(stored: Stored) -> list[Blob]:
    row = stored.row
    assert row.result is not None
    found = [row.input, row.root, row.info, row.result, *row.waits, *stored.entries.values()]
    return found + [body for _, body in (*stored.frames, *stored.inbox)]


async def test_the_inner_store_gets_nothing_but_sealed_bytes(inner: Store, sealed: SealedStore) -> None:
    await rich(sealed)
    stored = await inner.fetch("e")
    assert stored is not None
    found = [*blobs(stored), await inner.definition("hash")]
    assert len(found) == 9
    assert all(isinstance(blob, bytes) and blob.startswith(SEALED) and b"secret" not in blob for blob in found)
    opened = await sealed.fetch("e")
    assert opened is not None
    assert sorted(map(str, blobs(opened))) == [f'"secret {n}"' for n in (1, 1, 2, 4, 6, 7, 8, 9)]
    assert await sealed.definition("hash") == '"secret 5"'


async def test_messages_of_a_commit_are_sealed_for_whom_they_are(inner: Store, sealed: SealedStore) -> None:
    await idle(sealed, "child")
    await create(sealed, "parent")
    told = message("cancel", kind="cancel", execution_id="child", actor="Ada", body={"reason": "secret"})
    await advance(sealed, "parent", messages=[(told, encode(told))])
    ((_, raw),) = await inner.inbox("child")
    assert isinstance(raw, bytes)
    assert raw.startswith(SEALED)
    ((_, opened),) = await sealed.inbox("child")
    assert opened == encode(told)


async def test_the_key_of_an_answer_does_not_show_who_gave_it(inner: Store, sealed: SealedStore) -> None:
    seen: list[Message] = []

    class Watched(type(inner)):  # type: ignore[misc]
        async def append(self, message: Message, body: Blob) -> Appended:
            seen.append(message)
            return await super().append(message, body)  # type: ignore[no-any-return]

    async with Watched(None) as store:
        outer = SealedStore(store, codec())
        await create(outer, opened=[opening("wait", 2)])
        given = message("vote:wait:ada@example.com", wait_id="wait", takes=1, actor="Ada", body={"comment": "Ada"})
        assert (await outer.append(given, encode(given))).outcome == "accepted"
        assert "ada" not in encode(seen[0]).lower()
        assert (await outer.append(given, encode(given))).outcome == "duplicate"


async def test_nobody_votes_twice_because_the_active_key_changed(inner: Store, sealed: SealedStore) -> None:
    await create(sealed, opened=[opening("wait", 3)])
    assert await vote(sealed, "ada") == "accepted"
    rotated = SealedStore(inner, codec("two", one=ONE, two=TWO))
    assert await vote(rotated, "ada") == "duplicate"
    assert await vote(rotated, "bob") == "accepted"


async def test_nobody_votes_twice_because_encryption_was_switched_on(inner: Store) -> None:
    await create(inner, opened=[opening("wait", 3)])
    assert await vote(inner, "ada") == "accepted"
    sealed = SealedStore(inner, AesGcm(keys={"one": ONE}, active="one", accept_plain=True))
    assert await vote(sealed, "ada") == "duplicate"
    assert await vote(sealed, "bob") == "accepted"
    assert await vote(sealed, "bob") == "duplicate"


async def test_the_lost_answer_of_an_append_is_found_again_though_the_bytes_differ(inner: Store) -> None:
    class Deaf(SealedStore):
        """Loses the first answer of an append, which landed."""

        lost = 0

        async def append(self, message: Message, body: Blob) -> Appended:
            appended = await super().append(message, body)
            if not self.lost:
                self.lost += 1
                raise StoreUnavailable("the answer was lost")
            return appended

    deaf = Deaf(inner, codec())
    patient = PatientStore(deaf, SettableClock(), patience=10)
    await create(patient, opened=[opening()])
    given = message("answer", wait_id="wait")
    assert (await patient.append(given, encode(given))).outcome == "accepted"
    assert deaf.lost == 1
    other = message("answer", wait_id="wait", actor="somebody else")
    assert (await patient.append(other, encode(other))).outcome == "closed"
    raw = codec().encode(encode(given).encode(), context="e message")
    assert raw != codec().encode(encode(given).encode(), context="e message")


# -- what cannot be opened --------------------------------------------------------------------------------------------


async def test_one_bad_row_is_listed_and_breaks_no_page(inner: Store, sealed: SealedStore) -> None:
    await idle(sealed, "good", new={"created_at": START})
    foreign = SealedStore(inner, codec("two", two=TWO))
    await idle(foreign, "bad", new={"created_at": START + 1, "labels": {"team": "a"}}, status="halted")
    await idle(sealed, "better", new={"created_at": START + 2})
    page = await sealed.find()
    assert [one.id for one in page] == ["better", "bad", "good"]
    bad = page[1]
    assert (bad.workflow_id, bad.status) == ("w", Status.HALTED)
    assert bad.error is not None
    assert "'bad'" in bad.error
    assert "encrypted with key 'two', which the codec does not have (it has 'one'): add it to the keys" in bad.error
    assert page[0].error is page[2].error is None
    assert page[0].input == {"n": 1}


async def test_what_cannot_be_opened_is_refused_with_id_and_reason(inner: Store, sealed: SealedStore) -> None:
    await idle(sealed, entries=[(1, RECORD)], sets=[("", "x", 1)])
    foreign = SealedStore(inner, codec("two", two=TWO))
    reason = "'e' cannot be read: an? .*: it is encrypted with key 'one', which the codec does not have"
    with pytest.raises(CorruptState, match=reason) as caught:
        await foreign.load("e")
    assert caught.value.execution_id == "e"
    with pytest.raises(CorruptState, match="the header: it is encrypted with key 'one'"):
        await foreign.entries("e")
    assert [entry.action for entry in await sealed.entries("e")] == ["started"]


async def test_without_the_codec_it_is_said_that_one_is_needed(inner: Store, sealed: SealedStore) -> None:
    await idle(sealed, entries=[(1, RECORD)])
    for ask in (inner.load, inner.entries):
        with pytest.raises(CorruptState, match=r"it is encrypted: give the Runtime .or open_store. its codec"):
            await ask("e")
    (listed,) = await inner.find()
    assert "it is encrypted" in str(listed.error)


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw[:-1] + b"\0", lambda raw: raw[:8]])
async def test_tampered_bytes_are_refused(inner: Store, sealed: SealedStore, change: Any) -> None:
    await create(sealed)
    raw = await row_of(inner)
    await inner.commit(following(raw, root=change(raw.root), info=change(raw.info), release=True))
    with pytest.raises(CorruptState, match=r"'e' .*(cut off|it was changed)"):
        await sealed.load("e")


async def test_a_blob_of_another_execution_is_refused(inner: Store, sealed: SealedStore) -> None:
    await create(sealed, "rich", new={"input": '{"amount":1000000}'})
    stolen = (await row_of(inner, "rich")).input
    mine = await idle(sealed, "mine")
    raw = await row_of(inner, "mine")
    assert mine.input == '{"n":1}'
    await inner.remove("mine")
    kept = {"root": raw.root, "info": raw.info, "lease_ttl": None}
    await inner.commit(creation("mine", new={"input": stolen}, **kept))
    with pytest.raises(CorruptState, match="'mine' cannot be read: a value: it was changed, moved here"):
        await sealed.load("mine")


async def test_a_blob_of_another_place_of_the_same_execution_is_refused(inner: Store, sealed: SealedStore) -> None:
    paid = '{"action":"noted","time":1.0,"metadata":{"note":"paid"}}'
    await create(sealed, seq=2, entries=[(1, RECORD), (2, paid)])
    (_, (_, stolen)) = await inner.read("e")
    raw = await row_of(inner)
    await inner.commit(following(raw, seq=3, entries=[(3, stolen)]))
    assert [entry.action for entry in await sealed.entries("e", limit=2)] == ["started", "noted"]
    with pytest.raises(CorruptState, match="an entry: it was changed, moved here"):
        await sealed.entries("e")


async def test_plain_text_is_refused_where_there_is_a_codec(inner: Store, sealed: SealedStore) -> None:
    await idle(inner)
    with pytest.raises(CorruptState, match=r"it is not encrypted, .* let the codec accept_plain"):
        await sealed.load("e")


async def test_plain_text_is_read_where_the_codec_accepts_it_and_new_data_is_sealed(inner: Store) -> None:
    await idle(inner)
    sealed = SealedStore(inner, AesGcm(keys={"one": ONE}, active="one", accept_plain=True))
    one = await sealed.load("e")
    assert one is not None
    assert one.input == {"n": 1}
    await sealed.record("e", "secret")
    (*_, (_, raw)) = await inner.read("e")
    assert isinstance(raw, bytes)
    assert raw.startswith(SEALED)


async def test_a_plain_definition_is_accepted_if_it_has_the_hash_it_is_stored_under(
    inner: Store, sealed: SealedStore
) -> None:
    """One that was stored before there was a codec stays as it is for as long as it is used."""
    await idle(inner, new=PLAIN)
    assert await sealed.definition(PLAIN["definition_hash"]) == '{"id":"w"}'
    await idle(inner, "other", new={"definition_hash": "0" * 64})
    refused = await sealed.definition("0" * 64)
    assert refused == b""  # which nobody can decode


async def test_what_could_not_be_opened_is_never_written_back(inner: Store, sealed: SealedStore) -> None:
    await create(sealed)
    foreign = SealedStore(inner, codec("two", two=TWO))
    before = await row_of(inner)
    with pytest.raises(CorruptState, match="'e' cannot be read: root: it is encrypted with key 'one'"):
        await foreign.commit(following(await row_of(foreign)))
    assert await row_of(inner) == before


@pytest.mark.parametrize("owner", ["me", None])
async def test_who_cannot_read_an_execution_takes_no_note_of_it(
    inner: Store, sealed: SealedStore, owner: str | None
) -> None:
    await create(sealed, lease_ttl=30.0 if owner else None)
    before = await inner.fetch("e")
    for blind in (inner, SealedStore(inner, codec("two", two=TWO))):
        with pytest.raises(CorruptState):
            await blind.record("e", "seen")
    assert await inner.fetch("e") == before


# -- codecs of others -------------------------------------------------------------------------------------------------


class Small:
    """Compresses."""

    def encode(self, data: bytes, *, context: str) -> bytes:
        return zlib.compress(data)

    def decode(self, data: bytes, *, context: str) -> bytes:
        return zlib.decompress(data)


class Failing:
    """A codec whose key service may be away."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error

    def encode(self, data: bytes, *, context: str) -> bytes:
        return self.decode(data, context=context)

    def decode(self, data: bytes, *, context: str) -> bytes:
        if self.error is not None:
            raise self.error
        return data


async def test_a_codec_may_do_anything_that_can_be_undone(inner: Store) -> None:
    small = SealedStore(inner, Small())
    await idle(small, new={"input": '{"text":"' + "x" * 100_000 + '"}'})
    assert len((await row_of(inner)).input) < 1_000
    one = await small.load("e")
    assert one is not None
    assert one.input == {"text": "x" * 100_000}


@pytest.mark.parametrize("error", [TypeError("broken"), KeyError("k"), ValueError("not mine"), zlib.error("-3")])
async def test_whatever_a_codec_raises_breaks_no_listing(inner: Store, sealed: SealedStore, error: Exception) -> None:
    await idle(sealed)
    (listed,) = await SealedStore(inner, Failing(error)).find()
    assert str(error) in str(listed.error)


async def test_a_codec_that_is_unavailable_is_asked_again(inner: Store) -> None:
    away = Failing(StoreUnavailable("the key service is away"))
    store = SealedStore(inner, away)
    with pytest.raises(StoreUnavailable):
        await store.commit(creation())
    away.error = None
    await create(store)

    class Clock(SettableClock):
        async def sleep(self, seconds: float) -> None:
            away.error = None

    away.error = StoreUnavailable("the key service is away")
    row = await PatientStore(store, Clock(), patience=10).row("e")
    assert row is not None
    assert row.input == '{"n":1}'


async def test_what_a_codec_cannot_encode_is_not_stored(inner: Store) -> None:
    store = SealedStore(inner, Failing(TypeError("broken")))
    landing = store.commit(creation())
    with pytest.raises(StoreError, match="could not encode root of execution 'e': TypeError: broken"):
        await landing
    assert await inner.row("e") is None


# -- around it --------------------------------------------------------------------------------------------------------


async def test_time_and_wake_ups_are_those_of_the_inner_store(inner: Store, sealed: SealedStore) -> None:
    sealed.clock = clock = SettableClock()
    assert inner.clock is clock
    inner.clock = other = SettableClock()
    assert sealed.clock is other
    assert sealed.wakes is True
    inner.wakes = False
    assert sealed.wakes is False
    heard: list[str] = []
    deafen = sealed.listen(heard.append)
    inner.heard("e")
    sealed.heard("f")
    deafen()
    inner.heard("g")
    assert heard == ["e", "f"]


async def test_a_lease_is_judged_by_the_time_given_to_the_sealed_store() -> None:
    async with open_store("sqlite://:memory:", codec=codec()) as store:
        store.clock = clock = SettableClock()
        await create(store)
        assert not isinstance(await store.claim("e", owner="you", ttl=30, statuses=ANY), Stored)
        clock.time += 31
        assert isinstance(await store.claim("e", owner="you", ttl=30, statuses=ANY), Stored)


def test_a_store_with_a_codec_says_so() -> None:
    assert repr(open_store("sqlite:///flow.db", codec=codec())) == "SealedStore(SqliteStore('flow.db'))"


def test_a_codec_needs_both_functions() -> None:
    class Half:
        def encode(self, data: bytes, *, context: str) -> bytes:
            return data

    given: Sequence[Any] = (Half(), object(), ONE)
    for wrong in given:
        with pytest.raises(ConfigError, match="a codec has encode and decode"):
            open_store("sqlite://:memory:", codec=wrong)
    assert isinstance(Small(), Codec)


def test_nothing_is_sealed_twice() -> None:
    with pytest.raises(ConfigError, match="has a codec already"):
        SealedStore(open_store("sqlite://:memory:", codec=codec()), codec())


# -- servers ----------------------------------------------------------------------------------------------------------


async def everything_in_postgresql(url: str, schema: str) -> str:
    import asyncpg

    connection = await asyncpg.connect(url)
    tables = await connection.fetch(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = $1 AND table_type = 'BASE TABLE'", schema
    )
    found = [await connection.fetch(f'SELECT * FROM "{schema}"."{table[0]}"') for table in tables]
    await connection.close()
    return repr(found)


async def everything_in_redis(url: str, prefix: str) -> str:
    from redis.asyncio import Redis

    found: list[Any] = []
    async with Redis.from_url(url) as client:
        readers: dict[bytes, Any] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"set": client.smembers,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
            b"stream": client.xrange,
        }
        async for key in client.scan_iter(f"*{prefix}*"):
            found.append((key, await readers[await client.type(key)](key)))  # noqa: PERF401 - it awaits
    return repr(found)


@pytest.fixture(params=["postgres", "redis"])
def server(request: pytest.FixtureRequest) -> tuple[str, dict[str, str], Any]:
    """A URL, the options for a part of its own, and what reads all that is there."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    if request.param == "postgres":
        return url, {"schema": request.getfixturevalue("postgres_schema")}, everything_in_postgresql
    return url, {"prefix": request.getfixturevalue("redis_prefix")}, everything_in_redis


@pytest.mark.parametrize("sealing", [True, False])
async def test_servers_get_nothing_that_users_gave(server: tuple[str, dict[str, str], Any], *, sealing: bool) -> None:
    """Without a codec all of it is found: what looks for it can see it."""
    url, options, everything = server
    async with open_store(url, codec=codec() if sealing else None, **options) as store:
        await rich(store)
        text = await everything(url, *options.values())
    assert "first" in text  # the step it is at
    found = [n for n in range(1, 10) if f"secret {n}" in text]
    assert found == ([] if sealing else [1, 2, 4, 5, 6, 7, 8, 9])  # the third was overwritten
