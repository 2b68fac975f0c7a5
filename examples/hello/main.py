"""Hello: load a workflow, run it, look at its audit trail.

python examples/hello/main.py
"""

import asyncio
from pathlib import Path

import durable_flow as df

HERE = Path(__file__).parent


async def main() -> None:
    # A file such as sqlite:///flows.db would outlive this process; memory is enough to say hello.
    async with df.Runtime("sqlite://:memory:", workflows=[HERE / "workflow.yml"]) as runtime:
        runner = runtime.runner("hello")

        result = await runner.run({"name": "Ada"})
        print(result.output)

        print("\nWhat was committed, in order:")
        for entry in await runtime.store.entries(result.execution_id):
            print(f"  {entry.seq}. {entry.step_id or 'the workflow':<12} {entry.action}")

        print("\nBad input is told before anything is stored:")
        try:
            await runner.run({"name": 42})
        except df.InputError as error:
            print(f"  InputError: {error}")


asyncio.run(main())
