from __future__ import annotations

from importlib import metadata
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from durable_flow import stores
from durable_flow.errors import ConfigError
from durable_flow.stores import open_store
from durable_flow.stores.base import Store
from durable_flow.stores.postgresql import PostgresStore
from durable_flow.stores.redis import RedisStore
from durable_flow.stores.sqlite import SqliteStore


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///flow.db", Path("flow.db")),
        ("sqlite:///data/flow.db", Path("data/flow.db")),
        ("sqlite:////var/flow.db", Path("/var/flow.db")),
        ("sqlite:///with space & ümlaut%20.db", Path("with space & ümlaut%20.db")),
        ("sqlite://:memory:", None),
    ],
)
def test_a_url_names_a_file_or_memory(url: str, path: Path | None) -> None:
    store = open_store(url)
    assert isinstance(store, SqliteStore)
    assert store.path == path


def test_options_go_to_the_store() -> None:
    store = open_store("sqlite://:memory:", durability="normal", busy_timeout=1.5, auto_migrate=False)
    assert isinstance(store, SqliteStore)
    assert (store.durability, store.busy_timeout, store.auto_migrate) == ("normal", 1.5, False)


@pytest.mark.parametrize(
    "query", ["schema=my+shop", "schema=my%20shop", "schema=my shop", "schema=my+shop&schema=my+shop"]
)
def test_a_url_may_name_the_schema(query: str) -> None:
    store = open_store(f"postgresql://ann@db/app?sslmode=require&{query}&application_name=a%2Bb+c")
    assert isinstance(store, PostgresStore)
    assert store.schema == "my shop"
    assert store._door.url == "postgresql://ann@db/app?sslmode=require&application_name=a%2Bb+c"


@pytest.mark.parametrize("url", ["redis://cache/2?prefix=shop", "unix:///tmp/r.sock?db=2&prefix=shop"])
def test_a_url_may_name_the_prefix(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, RedisStore)
    assert (store.prefix, store.server.settings["db"]) == ("shop", 2)


def test_a_url_without_them_has_the_usual_ones() -> None:
    store = open_store("postgresql://db/app?search_path=schema")
    assert isinstance(store, PostgresStore)
    assert (store.schema, store._door.url) == ("durable_flow", "postgresql://db/app?search_path=schema")


def test_what_the_url_and_an_option_say_must_be_the_same() -> None:
    assert isinstance(open_store("postgresql://db/app?schema=a", schema="a"), PostgresStore)
    with pytest.raises(ConfigError, match="schema is given twice: 'a' and 'b'"):
        open_store("postgresql://db/app?schema=a", schema="b")
    with pytest.raises(ConfigError, match="prefix is given twice: 'a' and 'b'"):
        open_store("redis://cache?prefix=a&prefix=b")


def test_an_empty_name_in_a_url_is_none() -> None:
    with pytest.raises(ConfigError, match="a schema name has 1 to 63 bytes"):
        open_store("postgresql://db/app?schema=")
    with pytest.raises(ConfigError, match="a prefix is printable text"):
        open_store("redis://cache?prefix=")


def test_an_unknown_durability_is_refused() -> None:
    with pytest.raises(ConfigError, match="'full' or 'normal'"):
        open_store("sqlite://:memory:", durability="none")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite://flow.db",
        "sqlite:flow.db",
        "sqlite:/flow.db",
        "sqlite:///f.db?a=1",
    ],
)
def test_a_misspelt_sqlite_url_says_how_it_is_written(url: str) -> None:
    with pytest.raises(ConfigError, match="not a store URL"):
        open_store(url)


@pytest.mark.parametrize("url", ["", "flow.db", "/var/flow.db", "://flow.db"])
def test_what_is_no_url_says_what_one_looks_like(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///durable_flow\.db"):
        open_store(url)


def test_an_unknown_scheme_says_which_are_known() -> None:
    with pytest.raises(ConfigError, match="known are: postgresql, redis, sqlite"):
        open_store("mongodb://localhost")


def install(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    points = EntryPoints([EntryPoint("elsewhere", f"{__name__}:{target}", stores.ENTRY_POINTS)])
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: points.select(group=group))
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.attr])


def elsewhere(url: str, **options: str) -> Store:
    return SqliteStore(url.removeprefix("elsewhere://"), **options)  # type: ignore[arg-type]


def nowhere(url: str, **options: str) -> object:
    return url


def test_another_package_brings_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "elsewhere")
    store = open_store("elsewhere://flow.db", durability="normal")
    assert isinstance(store, SqliteStore)
    assert (store.path, store.durability) == (Path("flow.db"), "normal")


def test_what_another_package_brings_must_be_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "nowhere")
    with pytest.raises(ConfigError, match="did not return a Store"):
        open_store("elsewhere://flow.db")
