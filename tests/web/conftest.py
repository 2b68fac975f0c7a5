"""What tests of the API have: a served one on every store, and clients that say who they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.web.service import TOKENS, make
from tests.web.serving import serving

STORES = ("sqlite", "postgresql", "redis")


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store; of which kind a test says with `on_every_store`, else SQLite."""
    kind = getattr(request, "param", "sqlite")
    if kind == "postgresql":
        url, schema = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_schema")
        return f"{url}{'&' if '?' in url else '?'}schema={schema}"
    if kind == "redis":
        url, prefix = request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix")
        return f"{url}{'&' if '?' in url else '?'}prefix={prefix}"
    return f"sqlite:///{tmp_path / 'flows.db'}"


on_every_store = pytest.mark.parametrize("store_url", STORES, indirect=True)


def client(url: str, who: str | None = "alice", **options: Any) -> httpx2.AsyncClient:
    """A client that says who it is."""
    headers = {} if who is None else {"Authorization": f"Bearer {TOKENS[who]}"}
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=30, **options)


Opened = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
def served(store_url: str) -> Opened:
    """Serves an API with these options, and gives a client of it."""

    @asynccontextmanager
    async def served(who: str | None = "alice", **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
        async with serving(make(store_url, **options)) as url, client(url, who) as opened:
            yield opened

    return served
