"""All tables, in the order in which they are printed. One more is one module with a `Table`, and one line here."""

from __future__ import annotations

from tests.reliability import (
    approvals,
    bounds,
    contract,
    drains,
    drift,
    interleavings,
    kills,
    losses,
    memory,
    nesting,
    orders,
    outcomes,
    poison,
    programs,
    resumes,
    sequences,
    stops,
    timeouts,
    values,
    wakes,
)
from tests.reliability.table import Table

TABLES: dict[str, Table] = {
    "resumes": resumes.TABLE,
    "approvals": approvals.TABLE,
    "nesting": nesting.TABLE,
    "concurrent": nesting.CONCURRENT,
    "orders": orders.TABLE,
    "timeouts": timeouts.TABLE,
    "programs": programs.TABLE,
    "sequences": sequences.TABLE,
    "bounds": bounds.TABLE,
    "drift": drift.TABLE,
    "values": values.TABLE,
    "memory": memory.TABLE,
    "outcomes": outcomes.TABLE,
    "contract": contract.TABLE,
    "losses": losses.TABLE,
    "wakes": wakes.TABLE,
    "kills": kills.TABLE,
    "stopped": stops.STOPPED,
    "blocked": stops.BLOCKED,
    "drains": drains.TABLE,
    "poison": poison.TABLE,
    "interleavings": interleavings.TABLE,
    "cancellations": interleavings.CANCELLED_TABLE,
    "clocks": interleavings.SKEWED_TABLE,
}
