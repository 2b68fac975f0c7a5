"""What the processes of a fleet share: `taskiq worker fleet:broker` drives executions, main.py starts them."""

import asyncio
import os
from pathlib import Path

from taskiq_redis import RedisStreamBroker

import durable_flow as df

FOLDER = Path(os.environ["FLEET_FOLDER"])


class Bank:
    """Pays when it is open."""

    async def pay(self, cents: int, context: df.StepContext) -> None:
        with (FOLDER / "asked").open("a") as asked:
            asked.write(f"{context.idempotency_key}\n")
        while not (FOLDER / "open").exists():  # noqa: ASYNC110 - who opens it is another process
            await asyncio.sleep(0.05)


broker = RedisStreamBroker(
    os.environ["REDIS_URL"],
    queue_name=os.environ["FLEET_QUEUE"],
    consumer_id="0",  # what was sent before the first process listened counts too
    socket_timeout=None,  # with one, Python 3.11 may not hear that the process is to end
)

runtime = df.Runtime(
    f"sqlite:///{FOLDER}/flows.db",  # on several machines: postgresql://… or redis://…
    workflows=[Path(__file__).parent / "workflow.yml"],
    services={"Bank": Bank()},
    lease_ttl=3,  # seconds until what a dead process had is taken over: 30 by default, an example has less patience
)

adapter = df.TaskiqAdapter(broker)
adapter.receive(runtime)
