"""`StoreContract`: all tests of the contract in one class."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from durable_flow import Store
from durable_flow.testing.contract.batches import Batches
from durable_flow.testing.contract.build import SettableClock
from durable_flow.testing.contract.commits import Committing
from durable_flow.testing.contract.creating import Creating
from durable_flow.testing.contract.deleting import Deleting
from durable_flow.testing.contract.due import DueWork
from durable_flow.testing.contract.frames import Frames
from durable_flow.testing.contract.holding import Holding
from durable_flow.testing.contract.inbox import Inboxes
from durable_flow.testing.contract.leases import Leases
from durable_flow.testing.contract.limiting import Limiting
from durable_flow.testing.contract.lines import Lines
from durable_flow.testing.contract.opening import Opening
from durable_flow.testing.contract.processes import Processes
from durable_flow.testing.contract.running import Running
from durable_flow.testing.contract.scheduling import Scheduling
from durable_flow.testing.contract.searching import Searching
from durable_flow.testing.contract.subject import Subject
from durable_flow.testing.contract.values import Values
from durable_flow.testing.contract.waits import Waits


class StoreContract(
    Creating,
    Committing,
    Frames,
    Values,
    Leases,
    DueWork,
    Holding,
    Limiting,
    Lines,
    Inboxes,
    Waits,
    Scheduling,
    Searching,
    Deleting,
    Batches,
    Opening,
    Processes,
    Running,
):
    """What every store must do: each test is one sentence of the contract in `durable_flow.stores.base`.

    A class that inherits from it overrides the fixture `subject`. In the tests a clock that stands still takes the
    place of the store's time, where they do not ask for that time itself.
    """

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def subject(self) -> Subject:
        """The store under test; its data must be empty."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `subject` that returns a Subject")

    @pytest.fixture
    def clock(self) -> SettableClock:
        return SettableClock()

    @pytest.fixture
    def closed_store(self, subject: Subject, clock: SettableClock) -> Store:
        """The store, empty and not yet open."""
        store = subject.make()
        store.clock = clock
        return store

    @pytest_asyncio.fixture
    async def store(self, closed_store: Store) -> AsyncIterator[Store]:
        """The store, empty and open."""
        async with closed_store:
            yield closed_store

    @pytest_asyncio.fixture
    async def other(self, subject: Subject, store: Store, clock: SettableClock) -> AsyncIterator[Store]:
        """Another store object on the data of `store`: what a second process has."""
        if not subject.shared:
            pytest.skip("nobody else sees the data of this store")
        second = subject.make()
        second.clock = clock
        async with second:
            yield second
