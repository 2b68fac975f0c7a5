"""The tables of `python -m tests.reliability`, in their short form: one test for each case."""

from __future__ import annotations

import pytest

from tests.reliability.table import Case
from tests.reliability.tables import TABLES


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=f"{name}: {case.name}") for name, table in TABLES.items() for case in table.cases(False)],
)
def test_promise(case: Case) -> None:
    case.verify()
