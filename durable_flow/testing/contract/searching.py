"""Searches: what is found, in which order, page by page."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from durable_flow import ValidationError
from durable_flow.stores.base import Filter, Store
from durable_flow.testing.contract.build import (
    START,
    advance,
    create,
    creation,
    find,
    idle,
    pages,
)


async def search_page(store: Store, limit: int, cursor: str | None) -> tuple[list[str], str | None]:
    rows, following_cursor = await store.search(Filter(), limit=limit, cursor=cursor)
    return [row.id for row in rows], following_cursor


class Searching:
    """Rows newest first, page by page."""

    async def test_the_newest_comes_first(self, store: Store) -> None:
        for i, name in enumerate("bdac"):
            await create(store, name, new={"created_at": START + i})
        assert await find(store) == list("cadb")

    async def test_of_the_same_moment_the_last_id_comes_first(self, store: Store) -> None:
        for name in "bdac":
            await create(store, name)
        assert await find(store) == list("dcba")

    async def test_nothing_found_is_an_empty_last_page(self, store: Store) -> None:
        assert await pages(store, limit=10) == [[]]

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
    async def test_pages_hold_everything_once(self, store: Store, limit: int) -> None:
        names = [f"e{i:02}" for i in range(20)]
        for i, name in enumerate(names):
            status = ("running", "halted", "completed")[i % 3]
            await create(store, name, status=status, new={"created_at": START + i // 4})
        found = await pages(store, limit=limit)
        assert [name for page in found for name in page] == names[::-1]
        assert all(len(page) == limit for page in found[:-1])
        assert 1 <= len(found[-1]) <= limit

    async def test_a_cursor_stays_valid_while_rows_come_and_go(self, store: Store) -> None:
        for i in range(10):
            await idle(store, f"e{i}", new={"created_at": START + i})
        first = await pages(store, limit=4)
        rows, cursor = await search_page(store, 4, None)
        assert rows == first[0] == ["e9", "e8", "e7", "e6"]
        await create(store, "newer", new={"created_at": START + 99})
        await create(store, "between", new={"created_at": START + 4.5})
        await store.remove("e6")
        await store.remove("e5")
        rows, cursor = await search_page(store, 4, cursor)
        assert rows == ["between", "e4", "e3", "e2"]
        rows, cursor = await search_page(store, 4, cursor)
        assert (rows, cursor) == (["e1", "e0"], None)

    @pytest.mark.parametrize(
        "cursor", ["", "x", "%%%", "bm9wZQ", "e30", "WzEsMl0", "ünicode", "WzEuMCwiYSIsMl0", "'; --"]
    )
    async def test_what_is_no_cursor_is_a_validation_error(self, store: Store, cursor: str) -> None:
        with pytest.raises(ValidationError):
            await find(store, cursor=cursor)

    async def test_searching_brings_whole_rows(self, store: Store) -> None:
        row = await create(store, new={"labels": {"a": "b"}, "parent_id": "p"}, result_seq=1)
        rows, _ = await store.search(Filter(), limit=10, cursor=None)
        assert rows == [row]

    async def test_searching_follows_the_status(self, store: Store) -> None:
        await create(store, new={"labels": {"a": "b"}, "parent_id": "p"})
        for status in ("halted", "running", "failed"):
            await advance(store, status=status)
            for conditions in ({}, {"labels": {"a": "b"}}, {"parent_id": "p"}, {"workflow_id": "w"}):
                assert await find(store, statuses=[status], **conditions) == ["e"]
                assert await find(store, statuses=["pending", "completed"], **conditions) == []

    async def test_times_of_a_search_are_exclusive(self, store: Store) -> None:
        for i in range(5):
            await create(store, f"e{i}", new={"created_at": START + i})
        assert await find(store, created_after=START + 1, created_before=START + 4) == ["e3", "e2"]

    async def test_no_statuses_match_nothing(self, store: Store) -> None:
        await create(store)
        assert await find(store, statuses=[]) == []

    async def test_a_status_given_twice_finds_once(self, store: Store) -> None:
        await create(store)
        assert await find(store, statuses=["running", "running"]) == ["e"]

    async def test_every_combination_of_conditions_finds_what_matches(self, store: Store) -> None:
        rows: dict[str, dict[str, Any]] = {}
        for i in range(60):
            fields: dict[str, Any] = {
                "workflow_id": "uv"[i * 7 % 11 % 2],
                "created_at": START + i * 13 % 20,
                "parent_id": [None, "p", "q"][i * 5 % 7 % 3],
                "labels": {key: "xy"[(i + n) * 11 % 13 % 2] for n, key in enumerate("ab") if (i + 3 * n) % 5 % 4},
            }
            status = ["running", "halted", "completed"][i * 17 % 19 % 3]
            rows[f"e{i:02}"] = fields | {"status": status}
            await create(store, f"e{i:02}", new=fields, status=status)
        choices: list[dict[str, Any]] = [
            dict(itertools.chain.from_iterable(part.items() for part in parts))
            for parts in itertools.product(
                [{}, {"workflow_id": "u"}],
                [{}, {"statuses": ["running"]}, {"statuses": ["halted", "completed"]}],
                [{}, {"labels": {"a": "x"}}, {"labels": {"a": "x", "b": "y"}}],
                [{}, {"parent_id": "p"}],
                [{}, {"created_after": START + 5, "created_before": START + 15}],
            )
        ]
        for conditions in choices:
            expected = [
                name
                for name, row in sorted(rows.items(), key=lambda item: (item[1]["created_at"], item[0]), reverse=True)
                if row["workflow_id"] == conditions.get("workflow_id", row["workflow_id"])
                and row["status"] in conditions.get("statuses", [row["status"]])
                and conditions.get("labels", {}).items() <= row["labels"].items()
                and row["parent_id"] == conditions.get("parent_id", row["parent_id"])
                and row["created_at"] > conditions.get("created_after", 0)
                and row["created_at"] < conditions.get("created_before", 1e99)
            ]
            found = await pages(store, limit=7, **conditions)
            assert [name for page in found for name in page] == expected, conditions

    @pytest.mark.parametrize("conditions", [{}, {"statuses": ["running"]}, {"labels": {"a": "b"}}, {"parent_id": "p"}])
    async def test_pages_miss_and_repeat_nothing_while_everything_changes(
        self, store: Store, conditions: dict[str, Any]
    ) -> None:
        new = {"labels": {"a": "b"}, "parent_id": "p"}
        for i in range(30):
            await idle(store, f"e{i:02}", new=new | {"created_at": START + i // 3})
        staying = {f"e{i:02}" for i in range(30) if i % 5}
        seen: list[str] = []
        cursor = None
        for turn in itertools.count():
            rows, cursor = await store.search(Filter(**conditions), limit=4, cursor=cursor)
            seen += [row.id for row in rows]
            if cursor is None:
                break
            await asyncio.gather(
                create(store, f"n{turn}", new=new | {"created_at": START + 50 + turn}),
                create(store, f"m{turn}", new=new | {"created_at": START + turn}),
                store.remove(f"e{turn * 10 % 30:02}"),
                advance(store, f"e{turn * 3 + 1:02}", root=f"{turn}"),
                return_exceptions=True,
            )
        assert len(seen) == len(set(seen))
        assert staying <= set(seen)

    async def test_who_leaves_a_status_leaves_its_pages(self, store: Store) -> None:
        for i in range(6):
            await idle(store, f"e{i}", new={"created_at": START + i})
        rows, cursor = await store.search(Filter(statuses=["running"]), limit=2, cursor=None)
        assert [row.id for row in rows] == ["e5", "e4"]
        await advance(store, "e5", status="halted")
        await advance(store, "e3", status="halted")
        rows, cursor = await store.search(Filter(statuses=["running"]), limit=2, cursor=cursor)
        assert [row.id for row in rows] == ["e2", "e1"]
        rows, cursor = await store.search(Filter(statuses=["running"]), limit=2, cursor=cursor)
        assert ([row.id for row in rows], cursor) == (["e0"], None)

    async def test_a_hundred_of_one_moment_have_one_order_on_all_pages(self, store: Store) -> None:
        names = [f"{letter}{i}" for i in range(10) for letter in "aBcDéZ0_-:"]
        await asyncio.gather(*[store.commit(creation(name)) for name in names])
        whole = await find(store, limit=1000)
        assert sorted(whole) == sorted(names)
        assert [name for page in await pages(store, limit=7) for name in page] == whole
        assert whole == sorted(names, reverse=True)
