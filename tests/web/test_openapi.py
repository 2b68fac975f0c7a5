"""The OpenAPI document is true: schemathesis calls a service in every way it allows, and in many it does not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.web.conftest import Opened, on_every_store
from tests.web.service import TOKENS
from tests.web.serving import ROOT, Served, processes

LIMIT = 240
"""Real seconds after which schemathesis has not come to an end."""


@on_every_store
async def test_schemathesis_finds_nothing(store_url: str, tmp_path: Path) -> None:
    service = Served("tests.web.service:api", environment={"SERVICE_STORE": store_url}, folder=tmp_path)
    async with processes(service):
        done = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {TOKENS['alice']}", "--request-timeout", "5", "--no-color"),
            *("--checks", "all", "--max-examples", "5", "--seed", "1", "--continue-on-failure"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await asyncio.wait_for(done.communicate(), LIMIT)
    assert done.returncode == 0, told.decode()
    assert "Traceback" not in service.log.read_text()


async def test_every_operation_but_those_of_unknown_workflows_is_in_it(served: Opened) -> None:
    async with served() as http:
        document = (await http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert {"/executions/{execution_id}/approve", "/health/ready", "/workflows/order/executions"} <= set(
        document["paths"]
    )
    start = document["paths"]["/workflows/order/executions"]["post"]
    taken = start["requestBody"]["content"]["application/json"]["schema"]["properties"]["input"]
    assert taken["required"] == ["customer", "amount"]
    assert taken["properties"]["card"] == {"type": "string", "writeOnly": True}
    assert document["security"] == [{"token": []}]


@pytest.mark.parametrize("path", ["/openapi.json", "/workflows"])
async def test_the_default_of_a_secret_input_is_not_told(path: str, served: Opened) -> None:
    async with served() as http:
        assert '"none"' not in (await http.get(path)).text


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (
            "import sys; sys.modules['starlette'] = None; import durable_flow.web.api",
            'starlette is not installed; run: pip install "durable-flow[web]"',
        ),
        ('import sys, durable_flow; sys.exit(f\'{sys.modules.keys() & {"starlette", "uvicorn"}}\')', "set()"),
    ],
    ids=["told", "not imported"],
)
def test_what_the_api_needs_is_told_and_not_imported_without_it(program: str, printed: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert printed in done.stderr
