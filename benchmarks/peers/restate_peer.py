"""The subject that is Restate: its server, which keeps a log of its own, and a service of its SDK behind hypercorn.

The measured process is the client of both. This file is also what hypercorn serves (`app`). Usage:
`.venv/restate/bin/python restate_peer.py - <folder>`.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import restate

from benchmarks.subject import Handlers, clock, drive, resident_bytes, serve

STEPS = 10
SERVERS = Path(__file__).parent / ".venv/restate/npm/node_modules/@restatedev"
START_SECONDS = 60.0

bench = restate.Service("Bench")
gate = restate.Workflow(
    "Gate", inactivity_timeout=timedelta(milliseconds=10)
)  # a waiting one lets go of its connection


async def noop() -> None:
    return None


@bench.handler()
async def chain(context: restate.Context) -> None:
    for number in range(STEPS):
        await context.run_typed(f"s{number}", noop)


@bench.handler()
async def fan(context: restate.Context, branches: int) -> None:
    await restate.gather(*(context.run_typed(f"b{number}", noop) for number in range(branches)))


@gate.main()
async def run(context: restate.WorkflowContext) -> None:
    await context.run_typed("before", noop)
    await context.promise("approval").value()
    await context.run_typed("after", noop)


@gate.handler()
async def approve(context: restate.WorkflowSharedContext) -> None:
    await context.promise("approval").resolve(True)


app = restate.app([bench, gate])


class Peer:
    def __init__(self, http: aiohttp.ClientSession, ingress: str, admin: str, processes: list[int]) -> None:
        self._http = http
        self._ingress = ingress
        self._admin = admin
        self._processes = processes
        self._halted = range(0)

    async def _call(self, method: str, path: str, body: Any = None) -> None:
        no_type = () if body is not None else ("Content-Type",)  # it refuses a type where it expects no body
        async with self._http.request(
            method, f"{self._ingress}{path}", json=body, skip_auto_headers=no_type
        ) as response:
            response.raise_for_status()
            await response.read()

    async def sequential(self, in_flight: int, total: int) -> dict[str, Any]:
        async def one(number: int) -> None:
            await self._call("POST", "/Bench/chain")

        return await drive(one, total=total, in_flight=in_flight)

    async def fan_out(self, branches: int) -> dict[str, Any]:
        return await clock(self._call("POST", "/Bench/fan", branches), branches)

    async def halt(self, total: int, at_most: float) -> dict[str, Any]:
        first = self._halted.stop

        async def one(number: int) -> None:
            await self._call("POST", f"/Gate/halted-{first + number}/run/send")

        async def all_of_them() -> None:
            nonlocal done
            done = (await drive(one, total=total, in_flight=100, at_most=at_most))["done"]
            while await self._waiting() < done:  # noqa: ASYNC110 - only its server knows
                await asyncio.sleep(0.05)

        done = 0
        before = self._memory()
        took = await clock(all_of_them(), 1)
        self._halted = range(first, first + done)
        return {"done": done, "per_second": done / took["seconds"], "bytes": (self._memory() - before) / done}

    async def resume(self, at_most: float) -> dict[str, Any]:
        async def one(number: int) -> None:
            key = f"halted-{self._halted[number]}"
            await self._call("POST", f"/Gate/{key}/approve")
            await self._call("GET", f"/restate/workflow/Gate/{key}/attach")

        return await drive(one, total=len(self._halted), in_flight=100, at_most=at_most)

    async def _waiting(self) -> int:
        query = {"query": "SELECT count(*) AS found FROM sys_invocation WHERE status = 'suspended'"}
        headers = {"accept": "application/json"}
        async with self._http.post(f"{self._admin}/query", json=query, headers=headers) as response:
            response.raise_for_status()
            return int((await response.json())["rows"][0]["found"])

    def _memory(self) -> int:
        return sum(resident_bytes(process) for process in _tree(self._processes))


def _tree(roots: list[int]) -> list[int]:
    """The processes and their children: hypercorn serves from a child of its own."""
    found = list(roots)
    for process in found:
        for task in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def _until_it_answers(http: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                async with http.get(url) as response:
                    if response.status < 500:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


@asynccontextmanager
async def open_restate(place: str, folder: Path) -> AsyncIterator[Handlers]:
    ports = {name: _free_port() for name in ("ingress", "admin", "node", "service")}
    ingress, admin, service = (f"http://127.0.0.1:{ports[name]}" for name in ("ingress", "admin", "service"))
    settings = {
        "RESTATE_INGRESS__BIND_ADDRESS": ingress.removeprefix("http://"),
        "RESTATE_ADMIN__BIND_ADDRESS": admin.removeprefix("http://"),
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{ports['node']}",
        "RESTATE_LOG_FILTER": "error",
        "DO_NOT_TRACK": "1",
    }
    with ExitStack() as stack:

        def start(command: list[str]) -> int:
            process = subprocess.Popen(command, env=os.environ | settings, cwd=Path(__file__).parent)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process.pid

        data = str(folder / "restate")
        (program,) = SERVERS.glob("restate-server-*/bin/restate-server")
        server = [str(program), "--base-dir", data, "--bind-ip", "127.0.0.1", "--listen-mode", "tcp"]
        app_server = [sys.executable, "-m", "hypercorn", "restate_peer:app", "--log-level", "ERROR", "--bind"]
        processes = [start(server), start([*app_server, service.removeprefix("http://")])]
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http:
            for url in (f"{admin}/health", f"{ingress}/restate/health", f"{service}/health"):
                await _until_it_answers(http, url)
            async with http.post(f"{admin}/deployments", json={"uri": service}) as response:
                response.raise_for_status()
            peer = Peer(http, ingress, admin, processes)
            yield {"sequential": peer.sequential, "fan_out": peer.fan_out, "halt": peer.halt, "resume": peer.resume}


if __name__ == "__main__":
    serve(open_restate)
