"""What clients of `app.py` see. It runs as a process of its own here, and is killed.

python examples/fastapi_app/main.py
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@contextmanager
def serving(folder: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "DURABLE_FLOW_STORE": f"sqlite:///{folder}/orders.db",
        "LEASE_TTL": "1",  # so that nobody has to wait for 30 seconds after the kill
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "app:application", "--app-dir", str(HERE)]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "warning", "--timeout-graceful-shutdown", "5"],
        env=os.environ | settings,
        stderr=subprocess.DEVNULL,
    )
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.05)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


class Client:
    def __init__(self, port: int, user: str) -> None:
        self.base = f"http://localhost:{port}"
        self.headers = {"Authorization": f"Bearer token-of-{user}"}

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(
            self.base + path, data, {**self.headers, "Content-Type": "application/json", **named}, method=method
        )
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def events(self, path: str, after: str | None = None) -> Iterator[dict[str, Any]]:
        """The events of a stream until it ends, from behind the one with the id `after`."""
        headers = self.headers | ({} if after is None else {"Last-Event-ID": after})
        with urllib.request.urlopen(urllib.request.Request(f"{self.base}{path}", headers=headers)) as response:
            for line in response:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bo, alice = Client(port, "bo"), Client(port, "alice")
    order = {"items": [{"name": f"chair {number}", "cents": 600} for number in range(1, 21)]}
    seen: list[str] = []
    last = None
    with tempfile.TemporaryDirectory(prefix="durable-flow-") as folder:
        with serving(folder, port) as process:
            for _ in range(2):  # as if the first answer had got lost
                status, told = bo.call("POST", "/orders", order, Idempotency_Key="chairs-1")
                print(f"POST /orders: {status}, {told['id'][:8]}…")
            path = f"/orders/{told['id']}"
            for event in bo.events(f"{path}/events"):
                last = event["id"]
                seen.append(event["data"].get("path", event["type"]))
                if len(seen) == 10:
                    break
            process.kill()
            print(f"The service is killed after {seen[-1]}, and started again:")
        with serving(folder, port):
            for event in bo.events(f"{path}/events", after=last):
                seen.append(event["data"].get("path", event["type"]))
                if event["type"] == "workflow.halted":
                    last = event["id"]
                    break
            packed = [step for step in seen if step.endswith("/wrap")]
            print(f"  {len(packed)} events of chairs that were packed, {len(set(packed))} chairs")
            print(f"  {bo.call('GET', path)[1]['waits_for']}")
            print("Mistakes:")
            for client, method, where, body in (
                (bo, "POST", f"{path}/approval", {"approved": True}),
                (Client(port, "cy"), "GET", path, None),
                (Client(port, "nobody"), "GET", path, None),
                (alice, "POST", f"{path}/approval", {"approved": "perhaps"}),
                (bo, "GET", f"/flows/executions/{told['id']}", None),
            ):
                status, problem = client.call(method, where, body)
                print(f"  {status} {problem.get('detail')}")
            print(f"Alice approves: {alice.call('POST', f'{path}/approval', {'approved': True})[0]}")
            *_, end = bo.events(f"{path}/events", after=last)
            print(f"  {end['type']}: {bo.call('GET', path)[1]['output']['receipt'].split(' (')[0]}")
            reasons = alice.call("GET", f"/flows/executions/{told['id']}/why")[1]["reasons"]
            print(f"  {reasons[0]['reason']}")


main()
