"""Where executions are kept. `open_store` finds the store that a URL names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

from durable_flow.codec import Codec
from durable_flow.errors import ConfigError
from durable_flow.model.problem import suggest
from durable_flow.stores.base import Store

ENTRY_POINTS = "durable_flow.stores"
"""The entry-point group by which other packages bring stores: the name is the URL scheme, the object is called with
the URL and the options and returns an unopened `Store`."""

IN_URLS = {"schema": ("postgresql", "postgres"), "prefix": ("redis", "rediss", "unix")}
"""Options that the query of a URL may hold, and the schemes that have them: what tells stores in one place apart."""


def open_store(url: str, *, codec: Codec | None = None, **options: Any) -> Store:
    """The store a URL names, not yet open: use it with ``async with``, or hand it to a Runtime.

    ``sqlite:///relative.db``, ``sqlite:////absolute/path.db``, ``sqlite://:memory:``, ``postgresql://…`` (extra
    ``postgres``) and ``redis://…``, ``rediss://…``, ``unix://…`` (extra ``redis``) are built in; other packages may
    bring other schemes. Options go to the store: ``open_store("sqlite:///flow.db", durability="normal")``. Two of them
    may stand in the URL: ``postgresql://…?schema=shop`` and ``redis://…?prefix=shop``; what else its query holds is for
    the driver. With a `codec` user data is encrypted in the store, and decrypted in everything read through what is
    returned.

    >>> open_store("sqlite:///orders.db")
    SqliteStore('orders.db')
    >>> open_store("sqlite:/orders.db")
    Traceback (most recent call last):
        ...
    durable_flow.errors.ConfigError: 'sqlite:/orders.db' is not a store URL; write sqlite:///relative.db, \
sqlite:////absolute/path.db or sqlite://:memory:
    """
    store = _named(url, options)
    if codec is None:
        return store
    from durable_flow.stores.sealed import SealedStore

    return SealedStore(store, codec)


def _named(url: str, options: Mapping[str, Any]) -> Store:
    scheme, separator, rest = url.partition("://")
    if not separator and url.partition(":")[0] == "sqlite":
        scheme = "sqlite"
    if scheme == "sqlite":
        from durable_flow.stores.sqlite import SqliteStore

        return SqliteStore(_sqlite_path(url, rest), **options)
    if scheme in IN_URLS["schema"]:
        from durable_flow.stores.postgresql import PostgresStore

        url, options = _taken("schema", url, options)
        return PostgresStore(url, **options)
    if scheme in IN_URLS["prefix"]:
        from durable_flow.stores.redis import RedisStore

        url, options = _taken("prefix", url, options)
        return RedisStore(url, **options)
    if not separator or not scheme:
        raise ConfigError(f"{url!r} is not a store URL; write for example sqlite:///durable_flow.db")
    from importlib.metadata import entry_points  # slow to import, and only third-party stores need it

    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if scheme not in found:
        known = sorted({"sqlite", "postgresql", "redis", *found})
        near = suggest(scheme.partition("+")[0], known)  # others name the driver: postgresql+asyncpg://
        install = f"install the package that brings it (entry-point group {ENTRY_POINTS})"
        raise ConfigError(f"no store is known for {scheme}:// URLs; known are: {', '.join(known)} ({near or install})")
    store = found[scheme].load()(url, **options)
    if not isinstance(store, Store):
        raise ConfigError(f"{found[scheme].value}, the store for {scheme}:// URLs, did not return a Store")
    return store


def _taken(name: str, url: str, options: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The URL without this option in its query, and the options with it. What else is in the URL stays as it is."""
    place, mark, query = url.partition("?")
    kept: list[str] = []
    given: list[str] = []
    for part in query.split("&"):
        key, equals, value = part.partition("=")
        (given if equals and unquote_plus(key) == name else kept).append(part)
    if not given:
        return url, options
    values: list[Any] = [unquote_plus(part.partition("=")[2]) for part in given]
    values += [options[name]] if name in options else []
    for value in values[1:]:
        if value != values[0]:
            raise ConfigError(f"{name} is given twice: {values[0]!r} and {value!r:.100}")
    return place + (mark + "&".join(kept) if kept else ""), {**options, name: values[0]}


def _sqlite_path(url: str, rest: str) -> str | None:
    if rest == ":memory:":
        return None
    if "?" in rest:
        raise ConfigError(f"{url!r} is not a store URL: options are keyword arguments of open_store")
    if len(rest) < 2 or rest[0] != "/":
        raise ConfigError(
            f"{url!r} is not a store URL; write sqlite:///relative.db, sqlite:////absolute/path.db or sqlite://:memory:"
        )
    return rest[1:]
