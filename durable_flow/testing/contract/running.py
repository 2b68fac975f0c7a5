"""Workflows on the store: what the engine needs of it, all at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from durable_flow import ConflictError, ExecutionNotFound, Runtime, Status, Store, SystemClock, load
from durable_flow.testing.contract.build import START, SettableClock, creation, find, idle
from durable_flow.testing.contract.subject import Subject

WORKFLOW = """
id: orders
name: Orders
inputs: {orders: array}
steps:
  - {id: each, type: loop, over: $input.orders, as: order, output: prices, next: both, do: [
      {id: price, type: call, service: Shop, method: price, input: {order: $order}, output: price}]}
  - {id: both, type: parallel, output: told, next: ask, branches: [
      {id: mail, type: call, service: Shop, method: tell, input: {who: mail}, output: m},
      {id: chat, type: call, service: Shop, method: tell, input: {who: chat}, output: c}]}
  - {id: ask, type: approval, prompt: "Ship them?", next: done}
  - {id: done, type: assign, set: {result: {prices: $prices, told: $told}}}
"""


class Shop:
    """Services that count their calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def price(self, order: dict[str, Any]) -> float:
        self.calls.append(f"price {order['id']}")
        return float(order["n"]) * 1.5

    async def tell(self, who: str) -> str:
        self.calls.append(f"tell {who}")
        return f"{who} 😀"


ORDERS = [{"id": f"o{i}", "n": i, "text": "\u00e9\u2028\"'\\"} for i in range(4)]
OUTPUT = {"prices": [0.0, 1.5, 3.0, 4.5], "told": ["mail 😀", "chat 😀"]}


class Running:
    """The public verbs, and workflows that run, halt, go on elsewhere and are deleted."""

    async def test_a_workflow_halts_and_goes_on_with_the_answer(self, store: Store) -> None:
        shop = Shop()
        store.clock = SystemClock()
        async with Runtime(store, services={"Shop": shop}) as runtime:
            runner = runtime.runner(load(WORKFLOW))
            result = await runner.run({"orders": ORDERS}, execution_id="e")
            assert result.halted, result.error
            result = await runner.resume("e", approved=True, by="alice")
            assert result.completed, result.error
            assert result.output == OUTPUT
            assert len(shop.calls) == len(set(shop.calls)) == 6
            execution = await store.load("e")
            assert execution is not None
            assert (execution.status, execution.owner, execution.result) == (Status.COMPLETED, None, OUTPUT)
            entries = await store.entries("e")
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))

    async def test_a_workflow_goes_on_in_another_process(self, store: Store, other: Store) -> None:
        shop = Shop()
        store.clock = other.clock = SystemClock()
        workflow = load(WORKFLOW)
        async with Runtime(store, services={"Shop": shop}) as runtime:
            await runtime.runner(workflow).run({"orders": ORDERS}, execution_id="e")
        async with Runtime(other, workflows=[workflow], services={"Shop": shop}) as runtime:
            result = await runtime.runner("orders").resume("e", approved=True, by="alice")
        assert result.output == OUTPUT
        assert len(shop.calls) == len(set(shop.calls)) == 6

    async def test_many_workflows_run_at_once(self, store: Store) -> None:
        shop = Shop()
        store.clock = SystemClock()
        async with Runtime(store, services={"Shop": shop}) as runtime:
            runner = runtime.runner(load(WORKFLOW))
            runs = [runner.run({"orders": [{"id": f"{i}", "n": i}]}, execution_id=f"e{i}") for i in range(10)]
            assert all(result.halted for result in await asyncio.gather(*runs))
            answers = [runner.resume(f"e{i}", approved=True, by="alice") for i in range(10)]
            results = await asyncio.gather(*answers)
        assert [result.output["prices"] for result in results] == [[i * 1.5] for i in range(10)]

    async def test_two_answers_from_two_processes_have_one_winner(self, store: Store, other: Store) -> None:
        store.clock = other.clock = SystemClock()
        workflow = load(WORKFLOW)
        async with (
            Runtime(store, workflows=[workflow], services={"Shop": Shop()}) as here,
            Runtime(other, workflows=[workflow], services={"Shop": Shop()}) as there,
        ):
            await here.runner("orders").run({"orders": []}, execution_id="e")
            answers = [runtime.runner("orders").resume("e", approved=True, by="alice") for runtime in (here, there)]
            outcomes = await asyncio.gather(*answers, return_exceptions=True)
        won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert won
        assert all(result.completed for result in won)
        assert all(isinstance(outcome, ConflictError) for outcome in outcomes if isinstance(outcome, BaseException))
        decided = [entry for entry in await store.entries("e") if entry.actor == "alice"]
        assert len(decided) == 1

    async def test_a_note_is_in_the_trail(self, store: Store) -> None:
        await idle(store, entries=[(1, '{"action":"started","time":0}')])
        await store.record("e", "called the customer", actor="alice", data={"phone": "\u0000😀"})
        entries = await store.entries("e")
        assert [(entry.seq, entry.actor) for entry in entries] == [(1, None), (2, "alice")]
        assert entries[1].metadata == {"note": "called the customer", "data": {"phone": "\u0000😀"}}

    async def test_a_note_for_an_unknown_execution_is_an_error(self, store: Store) -> None:
        with pytest.raises(ExecutionNotFound):
            await store.record("nobody", "hello")

    async def test_purging_goes_on_until_nothing_is_left(self, store: Store, clock: SettableClock) -> None:
        commits = [
            creation(f"e{i}", status="completed", finished_at=START + i % 2 * 1000, lease_ttl=None) for i in range(1100)
        ]
        await asyncio.gather(*[store.commit(commit) for commit in commits])
        clock.time = START + 1500
        assert await store.purge(older_than=timedelta(seconds=1000)) == 550
        assert len(await find(store, limit=2000)) == 550
        assert await store.purge(older_than=timedelta(0)) == 550
        assert await find(store) == []

    async def test_a_finished_execution_is_deleted_with_everything(self, store: Store) -> None:
        store.clock = SystemClock()
        async with Runtime(store, services={"Shop": Shop()}) as runtime:
            runner = runtime.runner(load(WORKFLOW))
            await runner.run({"orders": ORDERS}, execution_id="e")
            await runner.cancel("e", reason="no longer wanted")
        assert await store.delete("e")
        assert await store.load("e") is None
        assert await store.entries("e") == []
        assert await store.delete("e") is False

    async def test_a_store_that_is_handed_over_stays_open(self, subject: Subject, store: Store) -> None:
        async with Runtime(store):
            pass
        await idle(store)
        assert await find(store) == ["e"]
