"""Frames and variables: what is set, replaced, deleted and dropped."""

from __future__ import annotations

import pytest

from durable_flow.stores.base import Store
from durable_flow.testing.contract.build import (
    advance,
    append,
    create,
    stored,
)


class Frames:
    """Frames and variables, and what `fetch` brings of them."""

    async def test_frames_are_set_replaced_and_deleted(self, store: Store) -> None:
        await create(store, frames=[("a", None, "1"), ("b", None, b"2")])
        await advance(store, frames=[("a", None, "3"), ("b", None, None), ("c", None, "4")])
        assert (await stored(store)).frames == [("a", "3"), ("c", "4")]

    async def test_deleting_a_frame_that_is_not_there_does_nothing(self, store: Store) -> None:
        await create(store, frames=[("a", None, "1")])
        await advance(store, frames=[("b", None, None)])
        assert (await stored(store)).frames == [("a", "1")]

    async def test_variables_are_set_replaced_and_deleted(self, store: Store) -> None:
        await create(store, sets=[("", "x", 1), ("", "y", 1)])
        await advance(store, entries=[(2, "two")], seq=2, sets=[("", "x", 2), ("", "y", 0), ("", "z", 1)])
        assert (await stored(store)).sets == [("", "x", 2), ("", "z", 1)]

    async def test_variables_of_different_frames_do_not_meet(self, store: Store) -> None:
        await create(store, sets=[("", "x", 1), ("f", "x", 1), ("f[1]", "x", 1)])
        await advance(store, sets=[("f", "x", 0)])
        assert (await stored(store)).sets == [("", "x", 1), ("f[1]", "x", 1)]

    @pytest.mark.parametrize("path", ["a[0]", "a[12]", "a/b", "a/b[3]", "a[0]/c", "a[0]/c/d[1]"])
    async def test_dropping_a_step_drops_every_frame_below_it(self, store: Store, path: str) -> None:
        await create(store, frames=[(path, None, "{}")], sets=[(path, "x", 1)])
        await advance(store, dropped=["a"])
        found = await stored(store)
        assert (found.frames, found.sets) == ([], [])

    @pytest.mark.parametrize(
        "path", ["", "a", "a2", "a2[0]", "a#2[0]", "a#2/b", "ab", "ab/c", "A[0]", "b/a[0]", "a.b", "a-[0]"]
    )
    async def test_dropping_a_step_leaves_every_other_frame(self, store: Store, path: str) -> None:
        await create(store, frames=[(path, None, "{}")], sets=[(path, "x", 1)])
        await advance(store, dropped=["a"])
        found = await stored(store)
        assert (found.frames, found.sets) == ([(path, "{}")], [(path, "x", 1)])

    @pytest.mark.parametrize("step", ["%", "_", "a%b", "*", "a'b", "ü", "a\\"])
    async def test_a_step_is_dropped_by_its_name_and_not_by_a_pattern(self, store: Store, step: str) -> None:
        await create(store, frames=[(f"{step}[1]", None, "{}"), ("other[1]", None, "{}"), ("axb[1]", None, "{}")])
        await advance(store, dropped=[step])
        assert [path for path, _ in (await stored(store)).frames] == ["axb[1]", "other[1]"]

    async def test_what_is_dropped_goes_before_what_is_set(self, store: Store) -> None:
        await create(
            store, frames=[("a[0]", None, "old"), ("a[1]", None, "old")], sets=[("a[0]", "x", 1), ("a[1]", "x", 1)]
        )
        await advance(store, dropped=["a"], frames=[("a[0]", None, "new")], sets=[("a[0]", "y", 1)])
        found = await stored(store)
        assert (found.frames, found.sets) == ([("a[0]", "new")], [("a[0]", "y", 1)])

    async def test_dropping_touches_no_other_execution(self, store: Store) -> None:
        await create(store, "e", frames=[("a[0]", None, "{}")])
        await create(store, "f", frames=[("a[0]", None, "{}")])
        await advance(store, "e", dropped=["a"])
        assert (await stored(store, "f")).frames == [("a[0]", "{}")]

    async def test_fetch_brings_the_entries_that_frames_and_variables_point_to(self, store: Store) -> None:
        await create(
            store,
            entries=[(seq, f"body {seq}") for seq in range(1, 7)],
            seq=6,
            sets=[("", "x", 2), ("f", "y", 4), ("f", "z", 2)],
            frames=[("f", 5, "{}"), ("g", None, "{}")],
        )
        assert (await stored(store)).entries == {2: "body 2", 4: "body 4", 5: "body 5"}

    async def test_fetch_brings_the_row_and_the_inbox(self, store: Store) -> None:
        row = await create(store)
        await append(store, "k", kind="note", body="hello")
        found = await stored(store)
        assert found.row == row
        assert [body for _, body in found.inbox] == ["hello"]
