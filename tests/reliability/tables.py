"""All tables, in the order in which they are printed."""

from __future__ import annotations

from tests.reliability import approvals, bounds, drift, nesting, orders
from tests.reliability.table import Table

TABLES: dict[str, Table] = {
    "approvals": approvals.TABLE,
    "nesting": nesting.TABLE,
    "orders": orders.TABLE,
    "bounds": bounds.TABLE,
    "drift": drift.TABLE,
}
