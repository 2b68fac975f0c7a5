"""A local web server of which every page takes the same time: it answers with the page's own address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.subject import Handlers, serve


async def page(request: web.Request) -> web.Response:
    await asyncio.sleep(float(request.match_info["seconds"]))
    return web.Response(text=str(request.url))


@asynccontextmanager
async def open_website(place: str, folder: Path) -> AsyncIterator[Handlers]:
    app = web.Application()
    app.router.add_get("/after/{seconds}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()

    async def address() -> dict[str, Any]:
        return {"url": site.name}

    try:
        yield {"address": address}
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    serve(open_website)
