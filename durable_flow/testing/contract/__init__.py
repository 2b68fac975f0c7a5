"""The tests that every store must pass, for stores of other packages too. They need pytest and pytest-asyncio.

One class with one fixture runs them all:

>>> import pytest
>>> from durable_flow import open_store
>>> from durable_flow.testing.contract import StoreContract, Subject
>>> class TestMyStore(StoreContract):
...     @pytest.fixture
...     def subject(self, tmp_path):
...         return Subject(lambda: open_store(f"sqlite:///{tmp_path}/flow.db"))

See docs/stores.md for how a store is written.
"""

import pkgutil

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from durable_flow.testing.contract.store import StoreContract  # noqa: E402 - its assertions tell more when rewritten
from durable_flow.testing.contract.subject import Subject  # noqa: E402

__all__ = ["StoreContract", "Subject"]
