"""Requests as steps: tried again when the other side is in trouble, known by one key, and kept to public hosts."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

from http_step import http

import durable_flow as df

HERE = Path(__file__).parent


class Shop:
    """Another service: it is in trouble at first, and keeps one order for each key."""

    def __init__(self) -> None:
        self.orders: dict[str, str] = {}
        self.asked: Counter[str] = Counter()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"null")
        self.asked[method] += 1
        if method == "POST" and self.asked["POST"] == 1:
            status, more, said = "503 Service Unavailable", "Retry-After: 0\r\n", {}
        elif method == "POST" and headers.get("authorization") == "Bearer s3cret":
            self.orders[body["id"]] = headers["idempotency-key"]
            status, more, said = "201 Created", "", {"key": headers["idempotency-key"]}
        elif (order := path.rpartition("/")[2]) in self.orders:
            status, more, said = "200 OK", "", {"id": order, "status": "packed"}
        else:
            status, more, said = "404 Not Found", "", {}
        text = json.dumps(said)
        start = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{more}Content-Length: {len(text)}\r\n\r\n"
        writer.write(f"{start}{text}".encode())
        await writer.drain()
        writer.close()


async def main() -> None:
    shop = Shop()
    server = await asyncio.start_server(shop.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        df.Runtime(
            "sqlite://:memory:",
            workflows=[HERE / "workflow.yml"],
            # The shop of this example is on this machine; nothing else that is not public can be asked.
            extensions=[http(private=[f"127.0.0.1:{port}"])],
            secrets={"token": "s3cret"},
        ) as runtime,
    ):
        runner = runtime.runner("order_status")
        result = await runner.run({"api": f"http://127.0.0.1:{port}", "order_id": "A-1"}, execution_id="order-A-1")
        print(result.output)
        print(f"the shop was asked {shop.asked['POST']} times to take the order, and has {len(shop.orders)}")
        for entry in await runtime.store.entries(result.execution_id):
            if entry.step_type == "http":
                said = entry.error if entry.error is not None else f"HTTP {(entry.metadata or {})['status']}"
                print(f"  {entry.step_id:<9}{entry.action:<10}attempt {entry.attempt}: {said}")
        stored = (await runtime.store.entries(result.execution_id))[1]
        print(f"what is stored of the request: {json.dumps(stored.input)}".replace(str(port), "…"))

        for api in ("http://169.254.169.254", "http://2130706433", "http://[::ffff:10.0.0.1]", "file:///etc"):
            refused = await runner.run({"api": api, "order_id": "A-1"})
            print(f"{api}: {refused.error}")


if __name__ == "__main__":
    asyncio.run(main())
