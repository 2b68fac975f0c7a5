"""Calculator: a router chooses the step, a plain Python class does the work.

python examples/calculator/main.py
"""

import asyncio
from pathlib import Path

import durable_flow as df

HERE = Path(__file__).parent


class Calculator:
    """A service: any object with methods. A mapping `input` arrives as keyword arguments."""

    def add(self, left: float, right: float) -> float:
        return left + right

    def subtract(self, left: float, right: float) -> float:
        return left - right

    async def multiply(self, left: float, right: float) -> float:  # sync or async, the workflow does not care
        return left * right

    async def divide(self, left: float, right: float) -> float:
        return left / right


async def main() -> None:
    async with df.Runtime(
        "sqlite://:memory:", workflows=[HERE / "workflow.yml"], services={"Calculator": Calculator()}
    ) as runtime:
        runner = runtime.runner("calculator")
        for left, operator, right in [(6, "+", 7), (6, "-", 7), (6, "*", 7), (6, "/", 7), (6, "/", 0)]:
            result = await runner.run({"left": left, "operator": operator, "right": right})
            taken = [entry.step_id for entry in await runtime.store.entries(result.execution_id) if entry.step_id]
            print(f"{left} {operator} {right} = {result.output!s:<24} by way of {' → '.join(taken)}")


asyncio.run(main())
