"""A dry run that another process drives on, on every store."""

from __future__ import annotations

import asyncio

import pytest

import durable_flow as df
from durable_flow.testing import wait_until
from durable_flow.testing.contract import Subject
from tests.stores.conftest import STORES

WORKFLOW = df.load("""
id: order
name: Order
fixtures: {reserve: {left: 3}}
steps:
  - {id: reserve, type: call, service: Shop, method: reserve, output: stock, next: pay}
  - {id: pay, type: call, service: Shop, method: charge, output: paid, next: done}
  - {id: done, type: end, result: [$stock.left, $paid]}
""")


@pytest.fixture(params=STORES)
def subject(request: pytest.FixtureRequest) -> Subject:
    return STORES[request.param](request.getfixturevalue)


async def test_a_worker_of_another_process_calls_nothing_and_has_the_fixtures(subject: Subject) -> None:
    calls: list[str] = []

    class Shop:
        def reserve(self) -> None:
            calls.append("reserve")

        def charge(self) -> None:
            calls.append("charge")

    first = subject.make()
    second = subject.make() if subject.shared else first
    async with first:
        if subject.shared:
            await second.open()
        try:
            async with (
                df.Runtime(first, workflows=[WORKFLOW]) as here,
                df.Runtime(second, workflows=[WORKFLOW], services={"Shop": Shop()}) as there,
            ):
                background = here.background("order")
                await background.run(execution_id="e", dry_run=True, fixtures={"pay": {"é": [1.5, None]}})
                work = asyncio.ensure_future(df.Worker(there).run())
                await wait_until(lambda: ended(background), timeout=30)
                work.cancel()
                result = await here.runner("order").result("e")
                assert (result.output, result.dry_run, calls) == ([3, {"é": [1.5, None]}], True, [])
                assert [one.dry_run for one in await first.find()] == [True]
        finally:
            if subject.shared:
                await second.close()


async def ended(background: df.BackgroundRunner) -> bool:
    return await background.status("e") == "completed"
