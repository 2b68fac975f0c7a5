"""A fleet: refunds are started here and driven by processes of taskiq, one of which is killed while it pays.

Needs Redis, which carries the messages: python examples/taskiq_fleet/main.py (REDIS_URL says where, else it is asked
for on this machine)
"""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from durable_flow.testing import wait_until

HERE = Path(__file__).parent


async def main(folder: Path) -> None:
    from fleet import adapter, broker, runtime  # what it needs of the environment is there only now

    await broker.startup()
    async with runtime:
        background = runtime.background("refund", adapter)
        names = [f"refund-{n}" for n in range(1, 7)]
        for n, name in enumerate(names, 1):
            await background.run({"cents": n * 100}, execution_id=name)
        print(f"{len(names)} refunds are stored; this process only sends, and waits")

        asked = folder / "asked"
        await wait_until(lambda: asked.exists() and len(asked.read_text().split()) == len(names), timeout=60)
        refund = await runtime.store.load("refund-1")
        assert refund is not None
        assert refund.owner is not None
        os.kill(int(refund.owner.split(":")[1]), signal.SIGKILL)
        print("a process of the fleet was killed while it paid")
        (folder / "open").touch()

        for name in names:
            result = await background.wait(name, timeout=60)
            assert result is not None
            print(f"{name}: {result.status}, {result.output}")

    keys = asked.read_text().split()
    print(f"the bank was asked for {len(set(keys))} different payments")
    if len(keys) > len(names):
        print(f"{len(keys) - len(names)} of them twice: those steps ran again, with the same key")
    await broker.shutdown()


async def clean() -> None:
    from redis.asyncio import Redis

    async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        await redis.unlink(os.environ["FLEET_QUEUE"])


with tempfile.TemporaryDirectory() as folder:
    os.environ.setdefault("REDIS_URL", "redis://localhost:6379")
    os.environ |= {"FLEET_FOLDER": folder, "FLEET_QUEUE": f"refunds-{secrets.token_hex(4)}"}
    command = ["taskiq", "worker", "fleet:broker", "--workers", "2", "--shutdown-timeout", "15"]
    with Path(folder, "log").open("wb") as log:
        fleet = subprocess.Popen([sys.executable, "-m", *command], cwd=HERE, stdout=log, stderr=log)
    try:
        asyncio.run(main(Path(folder)))
    finally:
        fleet.send_signal(signal.SIGTERM)
        fleet.wait(timeout=60)
        asyncio.run(clean())
