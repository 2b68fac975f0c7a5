"""The service with durable_flow: `python -m benchmarks.service.ours <url> <port> <lease in seconds>`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, Header

import durable_flow as df
from benchmarks.service.ledger import STEPS, open_ledger


def document() -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"id": f"s{number}", "type": "call", "service": "Shop", "method": "note", "input": {"step": number}}
        | {"next": f"s{number + 1}" if number + 1 < STEPS else "over"}
        for number in range(STEPS)
    ]
    return {
        "id": "order",
        "name": "Order",
        "inputs": {"item": "string"},
        "steps": [*steps, {"id": "over", "type": "end", "result": "$input.item"}],
    }


def application(url: str, lease_ttl: float) -> FastAPI:
    state: dict[str, df.Runner] = {}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_ledger(url) as ledger:

            async def note(step: int, context: df.StepContext) -> None:
                await ledger.note(context.execution_id, step, context.idempotency_key)

            async with df.Runtime(
                url, workflows=[document()], services={"Shop": {"note": note}}, lease_ttl=lease_ttl
            ) as runtime:
                state["runner"] = runtime.runner("order")
                worker = df.Worker(runtime, concurrency=1000)
                working = asyncio.create_task(worker.run())
                yield
                worker.stop()
                await working

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders")
    async def order(item: Annotated[str, Body(embed=True)], idempotency_key: Annotated[str, Header()]) -> Any:
        result = await state["runner"].run({"item": item}, execution_id=idempotency_key)
        result.raise_for_status()
        return {"id": result.execution_id, "output": result.output}

    return app


if __name__ == "__main__":
    _, place, port, lease = sys.argv
    uvicorn.run(application(place, float(lease)), port=int(port), log_level="warning", access_log=False)
