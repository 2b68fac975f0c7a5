"""Order fulfilment: one workflow, six customers, six outcomes; and the shop's books afterwards.

python examples/order_fulfillment/main.py

`demo.py` next to it (`make demo`) shows the same workflow surviving a killed process.
"""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import shop

import durable_flow as df

HERE = Path(__file__).parent

CARD = "4242 4242 4242 4242"
ORDERS: list[tuple[str, str, str, list[dict[str, Any]], str]] = [
    ("A-1", "an ordinary order", "GB", [{"sku": "gear", "quantity": 3}], CARD),
    ("A-2", "the bank hangs up once", "GB", [{"sku": "gear", "quantity": 1}], "4000 0000 0000 0119"),
    ("A-3", "the card is declined", "GB", [{"sku": "gear", "quantity": 5}], "4000 0000 0000 0002"),
    ("A-4", "sold out", "GB", [{"sku": "abacus", "quantity": 1}], CARD),
    ("A-5", "nobody delivers there", "AQ", [{"sku": "card", "quantity": 80}], CARD),
]


async def main(folder: Path) -> None:
    database = shop.Database(folder / "shop.db")
    async with df.Runtime(
        f"sqlite:///{folder}/flows.db", workflows=[HERE / "workflow.yml"], services=shop.services_on(database)
    ) as runtime:
        runner = runtime.runner("order_fulfillment")

        async def show(what: str, result: df.ExecutionResult) -> None:
            taken = [
                entry.step_id + (" ↻" if entry.action is df.Action.RETRIED else "")
                for entry in await runtime.store.entries(result.execution_id)
                if entry.step_id
            ]
            outcome = result.output["outcome"] if result.completed else result.status
            print(f"{what:<24} {outcome:<9} {' → '.join(taken)}")

        for order_id, what, country, items, card in ORDERS:
            customer = {"name": "Ada Lovelace", "country": country}
            order = {"order_id": order_id, "customer": customer, "items": items, "card": card}
            # The order's number is the execution's id: starting the same order twice starts it once.
            result = await runner.run(order, execution_id=f"order-{order_id}")
            await show(what, result)

        large = json.loads((HERE / "order.json").read_text())
        result = await runner.run(large)
        await show("a large one", result)
        result = await runner.resume(result.execution_id, approved=False, by="bob", comment="no, thank you")
        await show("… is rejected", result)
        print(f"{'':<24} because it was {result.output['reason']}")

        execution = await runtime.store.load(result.execution_id)
        assert execution is not None
        print(f"\nThe card is a secret: the stored input shows {execution.input['card']!r}.")

    print("\nThe shop's own books:")
    for row in database.rows("SELECT order_id, cents, refunded FROM charges"):
        refunded = "  and refunded" if row["refunded"] else ""
        print(f"  charged   {row['order_id']:<6} {row['cents'] / 100:>7.2f} EUR{refunded}")
    for row in database.rows("SELECT order_id, tracking FROM parcels"):
        print(f"  shipped   {row['order_id']:<6} {row['tracking']}")
    for row in database.rows("SELECT * FROM reservations"):
        print(f"  reserved  {row['order_id']:<6} {row['quantity']} × {row['sku']}")


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(Path(folder)))
