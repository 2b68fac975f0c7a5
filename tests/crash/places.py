"""Fixtures: where on a server the stores of crash tests are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.crash.suite import SERVERS, Place, clear, space_of_its_own

Places = dict[str, Place]


@pytest.fixture(scope="module")
def postgresql_place(postgres_url: str) -> Iterator[Places]:
    yield from placed("postgresql", postgres_url)


@pytest.fixture(scope="module")
def redis_place(redis_url: str) -> Iterator[Places]:
    yield from placed("redis", redis_url)


def placed(store: str, url: str) -> Iterator[Places]:
    place = Place(url, space_of_its_own())
    yield {store: place}
    clear(store, place)


@pytest.fixture
def places(request: pytest.FixtureRequest) -> Callable[[str], Places]:
    """The server of a store, if it has one. Where there is none, the test is skipped, or fails in CI."""
    return lambda store: request.getfixturevalue(f"{store}_place") if store in SERVERS else {}
