"""The demo (`make demo`): an order is approved from the command line, another one survives the death of its process.

Everything happens in a temporary folder and takes a few seconds. Whatever is not as told ends it with an error.
"""

import asyncio
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shop

import durable_flow as df

HERE = Path(__file__).resolve().parent
SCRIPT = Path(sys.executable).with_name("durable-flow")
PROGRAM = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "durable_flow"]
LEASE = 3.0
"""Seconds until the execution of a dead process may be taken over. 30 by default; a demo has less patience."""

BOLD, DIM, RED, END = ("\033[1m", "\033[2m", "\033[31m", "\033[0m") if sys.stdout.isatty() else ("", "", "", "")


def chapter(title: str) -> None:
    print(f"\n{BOLD}── {title} {'─' * (76 - len(title))}{END}\n")


def tell(text: str) -> None:
    print(textwrap.fill(" ".join(text.split()), 80))


def check(true: bool, claim: str) -> None:
    """Everything this program claims, it has checked."""
    if not true:
        raise SystemExit(f"{RED}The demo failed: it is not true that {claim}.{END}")
    print(f"  ✓ {claim}")


def until(happened: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise SystemExit(f"{RED}The demo failed: waited {seconds:g} s in vain until {what}.{END}")
        time.sleep(0.02)


def durable_flow(arguments: str) -> int:
    """Types a command, as you would in another terminal, and gives its exit code."""
    print(f"{BOLD}$ durable-flow {arguments}{END}", flush=True)
    command = [*PROGRAM, *shlex.split(arguments)]
    code = subprocess.run(command, stderr=subprocess.STDOUT, timeout=60, check=False).returncode
    print()
    return code


def open_runtime(database: shop.Database, **other_services: Any) -> df.Runtime:
    return df.Runtime(
        os.environ["DURABLE_FLOW_STORE"],
        workflows=[HERE / "workflow.yml"],
        services=shop.services_on(database) | other_services,
        lease_ttl=LEASE,
    )


# --- the second order's process ---------------------------------------------------------------------------------------


class PaymentsThatHang(shop.Payments):
    """Charges the card, and then never comes back: the bank has the money, and the workflow does not know."""

    def charge(self, order_id: str, cents: int, card: str, context: df.StepContext) -> dict[str, Any]:
        super().charge(order_id, cents, card, context)
        Path("charged").touch()
        time.sleep(3600)
        raise AssertionError("this process should be dead")


async def doomed(order: dict[str, Any], execution_id: str) -> None:
    database = shop.Database(os.environ["SHOP_DATABASE"])
    async with open_runtime(database, Payments=PaymentsThatHang(database)) as runtime:
        await runtime.runner("order_fulfillment").run(order, execution_id=execution_id)


# --- the demo ---------------------------------------------------------------------------------------------------------


async def start(order: dict[str, Any], database: shop.Database, execution_id: str) -> df.ExecutionResult:
    def show(event: df.Event) -> None:
        print(f"    {event.data['step_id']:<10} {event.type.removeprefix('step.')}")

    async with open_runtime(database) as runtime:
        runtime.subscribe(show, events=["step.completed", "step.halted", "step.failed"])
        return await runtime.runner("order_fulfillment").run(order, execution_id=execution_id)


def books(database: shop.Database, order_id: str) -> tuple[int, int, int]:
    """How often the bank was asked for money for an order, how often it took some, and how many parcels there are."""
    tables = ("requests", "charges", "parcels")
    counts = (database.rows(f"SELECT count(*) AS n FROM {table} WHERE order_id = ?", order_id) for table in tables)
    requests, charges, parcels = (found[0]["n"] for found in counts)
    return requests, charges, parcels


def large_order(order: dict[str, Any], database: shop.Database) -> None:
    chapter("1. An order that a person has to approve")
    tell(
        """A program starts the workflow in examples/order_fulfillment/workflow.yml with the order.json next to it.
        What a step did is on disk before anything else happens."""
    )
    print()
    result = asyncio.run(start(order, database, "order-A-1001"))
    assert result.halt is not None
    print(f"\n  {result.halt.prompt}\n")
    check(result.halted, "the order is too large to go through, and waits for a person")
    print()
    tell("The program has ended. Nothing runs, and nothing is forgotten. In another terminal, tomorrow perhaps:")
    print()
    durable_flow("why order-A-1001")
    tell("Carol is not among the people who may approve it:")
    print()
    code = durable_flow("approve order-A-1001 --by carol")
    check(code == 2, "her approval was refused, and nothing has changed")
    print()
    tell("Alice is:")
    print()
    code = durable_flow("approve order-A-1001 --by alice --comment 'a good customer'")
    check(code == 0, "the order was completed by the process that took the answer")
    check(books(database, "A-1001") == (1, 1, 1), "the card was charged, and one parcel is on its way")


def killed_order(order: dict[str, Any], database: shop.Database) -> None:
    chapter("2. A process that dies at the worst moment")
    tell(
        """A second order, in a process of its own. The bank takes the money and does not answer. There, between the
        effect and the record of it, the process is killed with SIGKILL."""
    )
    print()
    process = subprocess.Popen([sys.executable, __file__, "--doomed", json.dumps(order), "order-A-1002"])
    try:
        until(Path("charged").exists, "the bank has taken the money")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    print(f"  process {process.pid} was killed\n")
    check(books(database, "A-1002") == (1, 1, 0), "the card is charged, and nothing is shipped")
    print()
    durable_flow("show order-A-1002")
    tell(
        f"""The dead process still holds its lease ({LEASE:g} seconds here, 30 by default): it might only be slow, and
        two must not drive one order. Once the lease has run out, anybody may go on:"""
    )
    print()
    code = durable_flow("recover order-A-1002")
    if code != 0:
        code = durable_flow("recover order-A-1002 --wait")
    check(code == 0, "the order went on where it was, and is completed")
    print()
    tell("The audit trail, in which every line was committed together with what it reports:")
    print()
    durable_flow("show order-A-1002 --entries")

    requests, charges, parcels = books(database, "A-1002")
    key = database.rows("SELECT DISTINCT key FROM requests WHERE order_id = 'A-1002'")
    tell(
        """The step `charge` was under way when its process died, so it ran again. It had to: nobody could know how far
        it came. But it ran with the same idempotency key, and the bank knows that key:"""
    )
    print()
    check(requests == 2, "the bank was asked for the money twice")
    check(len(key) == 1, f"both times with the key {key[0]['key']!r}")
    check(charges == 1, "the card was charged exactly once")
    check(parcels == 1, "one parcel is on its way")


def main(folder: Path) -> None:
    os.chdir(folder)
    os.environ |= {
        "DURABLE_FLOW_STORE": f"sqlite:///{folder}/flows.db",
        "DURABLE_FLOW_SERVICES": str(HERE / "shop.py"),
        "SHOP_DATABASE": str(folder / "shop.db"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    database = shop.Database(folder / "shop.db")
    order = json.loads((HERE / "order.json").read_text())
    begun = time.monotonic()
    print(f"{DIM}flows.db keeps the executions, shop.db the shop's own books; both are in {folder}.{END}")
    large_order(order, database)
    killed_order(order | {"order_id": "A-1002", "items": [{"sku": "gear", "quantity": 4}]}, database)
    chapter("That was it")
    tell(
        f"""It took {time.monotonic() - begun:.0f} seconds and leaves nothing behind. Go on with examples/hello,
        docs/language.md and docs/guarantees.md."""
    )


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # whatever the terminal can show
    if sys.argv[1:2] == ["--doomed"]:
        asyncio.run(doomed(json.loads(sys.argv[2]), sys.argv[3]))
    else:
        with tempfile.TemporaryDirectory(prefix="durable_flow_demo_") as temporary:
            main(Path(temporary))
