"""Approval: the workflow halts, the process ends, another one takes the answer. Only approvers may answer, and once.

python examples/approval/main.py
"""

import asyncio
import tempfile
from pathlib import Path

import durable_flow as df

HERE = Path(__file__).parent


def open_runtime(folder: str) -> df.Runtime:
    return df.Runtime(f"sqlite:///{folder}/flows.db", workflows=[HERE / "workflow.yml"])


async def main(folder: str) -> None:
    async with open_runtime(folder) as runtime:
        result = await runtime.runner("expense").run({"employee": "Carol", "amount": 120, "purpose": "a better chair"})
        assert result.halt is not None
        print(f"{result.status}: {result.halt.prompt}")
        print(f"  approvers: {', '.join(result.halt.data['approvers'])}   until: {result.halt.deadline:%Y-%m-%d %H:%M}")

    print("\nThe runtime is closed: nothing is left in memory. Days later, another process:\n")

    async with open_runtime(folder) as runtime:
        runner = runtime.runner("expense")
        try:
            await runner.resume(result.execution_id, approved=True, by="carol@example.com")
        except df.NotAllowed as error:
            print(f"Carol answers:   NotAllowed: {error}")
        try:
            await runner.resume(result.execution_id, approved="yes", by="alice@example.com")
        except df.ValidationError as error:
            print(f"Alice says yes:  ValidationError: {error}")

        result = await runner.resume(result.execution_id, approved=True, by="alice@example.com", comment="a good chair")
        print(f"Alice approves:  {result.status}: {result.output}")

        try:
            await runner.resume(result.execution_id, approved=False, by="bob@example.com")
        except df.ConflictError as error:
            print(f"Bob is too late: ConflictError: {error}")

        print("\nThe audit trail keeps who, when and why:")
        for entry in await runtime.store.entries(result.execution_id):
            if entry.action is df.Action.ANSWERED:
                answer = entry.metadata["answer"]
                print(f"  {entry.timestamp:%H:%M:%S} {entry.actor} {entry.action} {entry.path}: {answer}")


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(folder))
