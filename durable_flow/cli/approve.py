"""`approve`: answers an approval with yes."""

from __future__ import annotations

from typing import Any

from durable_flow.cli._decide import decide, decision_options
from durable_flow.cli._program import command as as_command


@as_command("Answer and repair", example="durable-flow approve 42 --by alice@example.com --services shop")
@decision_options
def command(**answer: Any) -> int:
    """Approve what an execution waits for, and drive it on."""
    return decide(True, **answer)
