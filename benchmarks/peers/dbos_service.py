"""The service with DBOS: `.venv/dbos/bin/python dbos_service.py <url> <port> <executor>`."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from dbos import DBOS, SetWorkflowID
from fastapi import Body, FastAPI, Header

from benchmarks.service.ledger import STEPS, Ledger, open_ledger

state: dict[str, Ledger] = {}


@DBOS.step()
async def note(step: int) -> None:
    assert DBOS.workflow_id is not None
    await state["ledger"].note(DBOS.workflow_id, step, f"{DBOS.workflow_id}:{DBOS.step_id}")


@DBOS.workflow()
async def order_workflow(item: str) -> str:
    for step in range(STEPS):
        await note(step)
    return item


def application(url: str, executor: str) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_ledger(url) as ledger:
            state["ledger"] = ledger
            DBOS.launch()
            yield
            DBOS.destroy()

    DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            "log_level": "ERROR",
            "application_version": "bench",
            "executor_id": executor,
        }
    )
    app = FastAPI(lifespan=lifespan)

    @app.post("/orders")
    async def order(item: Annotated[str, Body(embed=True)], idempotency_key: Annotated[str, Header()]) -> Any:
        with SetWorkflowID(idempotency_key):
            handle = await DBOS.start_workflow_async(order_workflow, item)
        return {"id": idempotency_key, "output": await handle.get_result()}

    return app


if __name__ == "__main__":
    _, place, port, executor = sys.argv
    uvicorn.run(application(place, executor), port=int(port), log_level="warning", access_log=False)
