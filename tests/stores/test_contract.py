"""What every store must do, on each of ours."""

from __future__ import annotations

import pytest

from durable_flow.testing.contract import StoreContract, Subject
from tests.stores.conftest import STORES


class TestContract(StoreContract):
    @pytest.fixture(params=STORES)
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        return STORES[request.param](request.getfixturevalue)
