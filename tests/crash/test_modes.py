"""What the modes of a fault do to a store: a change that arrives twice, an answer that is late, none at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import durable_flow as df
from durable_flow.stores.base import Busy
from durable_flow.testing import FILE, KILLS, MEMORY, NETWORK, Explorer, FakeClock, Gate, Mode, Plan, WatchedStore, run
from durable_flow.testing.points import LATE, UNANSWERED, Point
from tests.crash.suite import BY_NAME
from tests.stores.build import ANY, create, creation, following, idle, message, opening, row_of

Verb = Callable[[df.Store], Any]

CHANGES: dict[str, Verb] = {
    "append": lambda store: store.append(message(wait_id="wait"), "{}"),
    "claim": lambda store: store.claim("e", owner="me", ttl=30, statuses=ANY),
    "renew": lambda store: store.renew("me", ttl=30),
    "release": lambda store: store.release("e", owner="me", generation=1),
    "remove": lambda store: store.remove("e"),
    "purge_rows": lambda store: store.purge_rows(before=1, statuses=["completed"], limit=1),
}


class Counting:
    """Notes the changes that arrive at a store."""

    def __init__(self, store: df.Store) -> None:
        self.arrived: list[str] = []
        for name in (*CHANGES, "commit", "row"):
            setattr(store, name, self.noting(name, getattr(store, name)))

    def noting(self, name: str, verb: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **keywords: Any) -> Any:
            self.arrived.append(name)
            return verb(*arguments, **keywords)

        return noted


def faulty(mode: Mode, check: Callable[[df.Store, Counting, FakeClock], Any]) -> None:
    """Runs a check on a store with a fault at its first operation. Somebody waits in an execution "e"."""
    clock = FakeClock()

    async def main() -> None:
        inner = df.open_store(MEMORY)
        inner.clock = clock
        async with inner:
            await idle(inner, opened=[opening()])
            counting = Counting(inner)
            gate = Gate({1: mode}, clock=clock)
            await check(WatchedStore(inner, gate=gate, watch=None, clock=clock, inline=True), counting, clock)

    run(main, clock)


@pytest.mark.parametrize("verb", CHANGES)
def test_a_duplicate_arrives_twice_and_is_answered_once(verb: str) -> None:
    async def check(store: df.Store, counting: Counting, clock: FakeClock) -> None:
        first = await CHANGES[verb](store)
        assert counting.arrived == [verb, verb]
        if verb in ("append", "claim", "remove"):
            assert "duplicate" not in str(first)
            assert not isinstance(first, Busy)
            assert first

    faulty(Mode.DUPLICATE, check)


def test_a_commit_that_arrives_twice_lands_once() -> None:
    async def check(store: df.Store, counting: Counting, clock: FakeClock) -> None:
        await store.commit(creation("f"))
        assert counting.arrived == ["commit", "commit"]
        assert (await row_of(store, "f")).version == 1

    faulty(Mode.DUPLICATE, check)


def test_the_answer_of_a_commit_comes_late_while_others_go_on() -> None:
    async def check(store: df.Store, counting: Counting, clock: FakeClock) -> None:
        began = clock.now()
        landing = store.commit(creation("f"))
        assert await store.row("f") is not None
        assert not landing.done()
        await landing
        assert clock.now() == began + LATE

    faulty(Mode.DELAY, check)


@pytest.mark.parametrize("mode", [Mode.STALL_BEFORE, Mode.STALL_AFTER])
def test_where_the_network_is_gone_nothing_is_answered_from_then_on(mode: Mode) -> None:
    async def check(store: df.Store, counting: Counting, clock: FakeClock) -> None:
        for _ in range(2):
            began = clock.now()
            with pytest.raises(df.StoreUnavailable):
                await store.commit(creation("f"))
            assert clock.now() == began + UNANSWERED
        with pytest.raises(df.StoreUnavailable):
            await store.row("f")
        assert counting.arrived == ([] if mode is Mode.STALL_BEFORE else ["commit"])

    faulty(mode, check)


def test_modes_are_planned_only_where_they_can_happen() -> None:
    points = [
        Point(1, "effect", "Bank.charge", "x:pay"),
        Point(2, "store", "row", "x"),
        Point(3, "store", "claim", "x"),
    ]
    fitting = [[mode for mode in NETWORK if mode.fits(point)] for point in points]
    assert fitting[0] == [Mode.DELAY]
    assert Mode.DUPLICATE not in fitting[1]
    assert fitting[2] == list(NETWORK)


def test_a_stall_that_the_engine_did_not_notice_would_be_reported() -> None:
    """An engine that waits for ever hangs: the harness says so, and does not hang with it."""

    async def patient(self: Any, *arguments: Any, **keywords: Any) -> None:
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("durable_flow.engine.Engine._settle_unknown", patient)
        patch.setattr("durable_flow.engine.Engine._beat", patient)
        explorer = Explorer(BY_NAME["w01"])
        story = explorer.play(Plan.parse("3 stall-before"))
    assert any(problem.startswith("O9 call did not return") for problem in story.problems)


def test_a_store_that_is_in_use_is_not_emptied(tmp_path: Any) -> None:
    url = FILE.replace("{folder}", str(tmp_path))

    async def fill() -> None:
        async with df.open_store(url) as store:
            await create(store, "mine")

    asyncio.run(fill())
    with pytest.raises(df.ConfigError, match="'mine'"):
        Explorer(BY_NAME["w01"], make=lambda: df.open_store(url))

    async def look() -> None:
        async with df.open_store(url) as store:
            row = await row_of(store, "mine")
            await store.commit(following(row))

    asyncio.run(look())


def test_a_url_of_one_store_for_all_cases_is_refused() -> None:
    with pytest.raises(df.ConfigError, match="make="):
        Explorer(BY_NAME["w01"], url="sqlite:///flows.db")


def test_a_store_that_stays_open_plays_as_one_in_memory_does(tmp_path: Any) -> None:
    url = FILE.replace("{folder}", str(tmp_path))
    expected = Explorer(BY_NAME["w03"]).each(KILLS)
    with Explorer(BY_NAME["w03"], make=lambda: df.open_store(url), name="kept") as explorer:
        report = explorer.each(KILLS)
    report.raise_for_bad()
    assert (report.cases, len(report.covered)) == (expected.cases, len(expected.covered))
