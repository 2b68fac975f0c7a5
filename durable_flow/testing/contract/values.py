"""Any value, any time, any id comes back as it was, and meets no other."""

from __future__ import annotations

import unicodedata

import pytest

from durable_flow.stores.base import Blob, Store
from durable_flow.testing.contract.build import (
    START,
    advance,
    append,
    create,
    find,
    idle,
    message,
    opening,
    row_of,
    stored,
    vote,
)

VALUES: dict[str, Blob] = {
    "empty text": "",
    "empty bytes": b"",
    "null character": "a\x00b",
    "escaped null character": '"a\\u0000b"',
    "every byte": bytes(range(256)),
    "text as bytes": b"text",
    "large float": "1e22",
    "largest integers": "[9223372036854775807,-9223372036854775808,18446744073709551615]",
    "beyond exact floats": "[9007199254740993,-9007199254740993,0.1,1e-320,-0.0]",
    "digits": "12345678901234567890123456789",
    "deep": "[" * 2000 + "]" * 2000,
    "empty containers": '{"":{},"a":[],"b":null}',
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85",
    "right to left": "שלום \u202e עולם",
    "joined emoji": "👩‍👩‍👧‍👦🏳️‍🌈",
    "a last code point": "\U0010ffff\uffff",
    "a line's end": "a\n",
    "blanks around": "  a  ",
    "looks like a list": "{1,2}",
    "looks like hex": "\\x6869",
    "looks like a number": "1.0",
    "beyond the plane": "😀 𝔘𝔫𝔦",
    "not normalised": "e\u0301",
    "line separators": "a\u2028b\r\nc",
    "quotes": "'\"`; DROP TABLE executions; --",
    "a megabyte": "x" * 1_000_000,
    "a megabyte of bytes": b"\xff" * 1_000_000,
}

ALIKE = [
    "a", "A", "a:", "a:1", "a/", "a%", "a_", "a*", "a'", 'a"', "a\\", "a.", "a{b}", "ä", "a\u0308", "😀", "0", "00",
    "a" * 255, "a" * 254, "a[0]", "a[*]", "a?", "{a}", "{a}:", "a}", "a{", "e", "E", "É", "ß", "ss", "%s", "$1", "a|b",
    "a,b", "a;b", "entries", "a:entries", "a:inbox", "null", "-1", "1e5", "日本語", "é" * 255, "😀" * 255,
]  # fmt: skip


class Values:
    """What is stored comes back as it was."""

    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
    async def test_a_value_comes_back_as_it_was_stored(self, store: Store, value: Blob) -> None:
        await create(
            store,
            new={"input": value, "definition": value},
            root=value,
            info=value,
            entries=[(1, value)],
            result_seq=1,
            frames=[("f", None, value)],
            sets=[("", "x", 1)],
            opened=[opening(body=value)],
        )
        await append(store, kind="note", body=value)
        found = await stored(store)
        row = found.row
        seen = [
            row.input,
            row.root,
            row.info,
            row.result,
            row.waits[0],
            found.entries[1],
            found.frames[0][1],
            found.inbox[0][1],
        ]
        seen += [await store.definition("hash"), (await store.read("e"))[0][1]]
        assert all(type(one) is type(value) and one == value for one in seen)

    @pytest.mark.parametrize("time", [0.0, 1.5, START + 0.1 + 0.2, 4_102_444_800.000001])
    async def test_times_come_back_exactly(self, store: Store, time: float) -> None:
        row = await create(store, new={"created_at": time}, updated_at=time, finished_at=time, wake_at=time)
        assert {row.created_at, row.updated_at, row.finished_at, row.wake_at} == {time}

    async def test_executions_with_similar_ids_do_not_meet(self, store: Store) -> None:
        assert len({unicodedata.normalize("NFC", name) for name in ALIKE}) < len(ALIKE)
        for i, name in enumerate(ALIKE):
            await idle(
                store,
                name,
                new={"created_at": START + i},
                entries=[(1, name)],
                sets=[("", name, 1)],
                frames=[(name, None, name)],
                opened=[opening(f"{name}/wait")],
            )
        for name in ALIKE:
            appended = await store.append(message(name, execution_id=name, wait_id=f"{name}/wait"), name)
            assert appended.outcome == "accepted"
        for name in ALIKE:
            found = await stored(store, name)
            assert (found.row.id, found.entries, found.frames, found.sets) == (
                name, {1: name}, [(name, name)], [("", name, 1)],
            )  # fmt: skip
            assert [body for _, body in found.inbox] == [name]
        assert await find(store) == ALIKE[::-1]
        for gone, name in enumerate(ALIKE, 1):
            assert await store.remove(name)
            assert len(await find(store)) == len(ALIKE) - gone

    @pytest.mark.parametrize("label", ["", "a:b", "a=b,c=d", "%", "'", "😀", "x" * 255])
    async def test_labels_are_any_text(self, store: Store, label: str) -> None:
        await create(store, "with", new={"labels": {label: label, "k": label}})
        await create(store, "without", new={"labels": {"k": label + "x"}})
        assert await find(store, labels={label: label}) == ["with"]
        assert await find(store, labels={"k": label}) == ["with"]

    async def test_leases_of_executions_with_similar_ids_do_not_meet(self, store: Store) -> None:
        for i, name in enumerate(ALIKE):
            await create(store, name, owner=("me", "you")[i % 2])
        mine = ALIKE[::2]
        assert await store.renew("me", ttl=60) == dict.fromkeys(mine, 1)
        for name in mine:
            await append(store, execution_id=name, kind="note")
            await store.release(name, owner="me", generation=1)
        assert await store.mail("me") == await store.mail("you") == []
        assert {name for name in ALIKE if (await row_of(store, name)).owner == "you"} == set(ALIKE[1::2])

    async def test_similar_names_within_an_execution_do_not_meet(self, store: Store) -> None:
        await create(
            store,
            entries=[(seq, name) for seq, name in enumerate(ALIKE, 1)],
            seq=len(ALIKE),
            frames=[(name, None, name) for name in ALIKE],
            sets=[(frame, name, seq) for seq, name in enumerate(ALIKE, 1) for frame in ("", "f")],
            opened=[opening(name, seq=seq, body=name) for seq, name in enumerate(ALIKE, 1)],
        )
        for name in ALIKE:
            assert await vote(store, name, name) == "accepted"
        found = await stored(store)
        assert dict(found.frames) == {name: name for name in ALIKE}
        assert {(frame, name): seq for frame, name, seq in found.sets} == {
            (frame, name): seq for seq, name in enumerate(ALIKE, 1) for frame in ("", "f")
        }
        assert found.row.waits == ALIKE
        gone = ALIKE[::2]
        await advance(
            store,
            closed=gone,
            frames=[(name, None, None) for name in gone],
            sets=[("f", name, 0) for name in gone],
            consumed=[number for number, _ in found.inbox[::2]],
        )
        left = await stored(store)
        assert {name for name, _ in left.frames} == set(ALIKE[1::2])
        assert {name for frame, name, _ in left.sets if frame == "f"} == set(ALIKE[1::2])
        assert left.row.waits == ALIKE[1::2]
        assert len(left.inbox) == len(ALIKE[1::2])

    @pytest.mark.parametrize("owner", ["me:", "me*", "m%", "M", "ME", "", "me ", "m_", "mé", "{me}"])
    async def test_owners_with_similar_names_do_not_meet(self, store: Store, owner: str) -> None:
        await create(store, "a", owner="me")
        await create(store, "b", owner=owner)
        await append(store, execution_id="a", kind="note")
        assert await store.renew(owner, ttl=60) == {"b": 1}
        assert await store.mail(owner) == []
        await store.release("a", owner=owner, generation=1)
        assert [(await row_of(store, name)).owner for name in "ab"] == ["me", owner]

    async def test_a_thousand_entries_come_back_whole_and_in_order(self, store: Store) -> None:
        bodies = [(seq, f"body {seq} " + "😀" * (seq % 7)) for seq in range(1, 1001)]
        await create(store, entries=bodies, seq=1000, sets=[("", f"x{seq:04}", seq) for seq, _ in bodies])
        assert await store.read("e") == bodies
        found = await stored(store)
        assert sorted(found.entries.items()) == bodies
        assert sorted(seq for _, _, seq in found.sets) == [seq for seq, _ in bodies]
