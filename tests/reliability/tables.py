"""All tables, in the order in which they are printed."""

from __future__ import annotations

from tests.reliability import nesting
from tests.reliability.table import Table

TABLES: dict[str, Table] = {
    "nesting": nesting.TABLE,
}
