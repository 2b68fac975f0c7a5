"""A process that answers a wait with many tasks at once: `python -m tests.reliability.racer STORE TASKS`.

It reads lines of its name, an execution's id and a wait's, and writes what became of each answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys

import durable_flow as df


async def answer(runtime: df.Runtime, execution_id: str, wait_id: str, name: str) -> str:
    try:
        runner = await runtime.runner_of(execution_id)
        given = {"approved": True} if wait_id.endswith(":approve") else {"response": name}
        result = await runner.resume(execution_id, wait_id=wait_id, by=name, **given)
    except df.DurableFlowError as error:
        return type(error).__name__
    return f"{result.status}: {result.output}"


async def main(store: str, tasks: int) -> None:
    logging.disable()
    loop = asyncio.get_running_loop()
    async with df.Runtime(store) as runtime:
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            process, execution_id, wait_id = line.split()
            answers = (answer(runtime, execution_id, wait_id, f"{process}-{task}") for task in range(tasks))
            print(json.dumps(await asyncio.gather(*answers)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
