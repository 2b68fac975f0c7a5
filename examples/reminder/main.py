"""Reminder: orders wait for a signal, a worker lets time pass for all of them, and none of them costs a task.

python examples/reminder/main.py
"""

import asyncio
import tempfile
from pathlib import Path

import durable_flow as df

HERE = Path(__file__).parent


class Mail:
    """Prints what it would send; `sent` tells when somebody has got a reminder."""

    def __init__(self) -> None:
        self.sent: dict[str, asyncio.Event] = {}

    async def send(self, order: str, text: str) -> None:
        print(f"mail about {order}: {text}")
        self.sent[order].set()


async def main(folder: str) -> None:
    mail = Mail()
    store = f"sqlite:///{folder}/flows.db"
    async with df.Runtime(store, workflows=[HERE / "workflow.yml"], services={"Mail": mail}) as runtime:
        ended: dict[str, asyncio.Event] = {}
        runtime.subscribe(lambda event: ended[event.data["execution_id"]].set(), events=["workflow.completed"])
        runner = runtime.runner("unpaid_order")
        for order in ("pens", "desk", "sofa"):
            mail.sent[order], ended[order] = asyncio.Event(), asyncio.Event()
            result = await runner.run({"order": order, "cents": 500}, execution_id=order)
            assert result.halt is not None
            print(f"{order}: {result.status}, waits for the signal {result.halt.data['name']!r}")

        worker = df.Worker(runtime)
        working = asyncio.create_task(worker.run())

        await runner.signal("pens", "paid", {"card": "a card, at once"})
        await mail.sent["desk"].wait()
        await runner.signal("desk", "paid", {"card": "a card, when reminded"})  # it lets time pass: the signal is kept
        for event in ended.values():
            await event.wait()

        worker.stop()
        await working
        print()
        for order in ended:
            print((await runner.result(order)).output)


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(folder))
