"""The store that the contract is asked of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from durable_flow import Store


class Subject(NamedTuple):
    """A store under test, on data that no other test has, and what it can do."""

    make: Callable[[], Store]
    """Makes a store object that is not open. A second call makes another one on the same data, as a second process
    would."""

    shared: bool = True
    """Whether there is a second one: False where the data belong to one store object, as in memory."""

    wakes: bool = False
    """Whether the store tells at once what another process did (`Store.heard`)."""

    newer: Callable[[], Awaitable[object]] | None = None
    """Changes the stored data (there are some) so that they look as if a later release had migrated them. None: their
    schema has no version."""
