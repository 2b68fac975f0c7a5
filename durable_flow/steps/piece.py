"""A piece of the work of a step that is done in pieces. No document names this type: a step asks for it with
`visit.perform`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from durable_flow.steps.base import KEEP, Done, Outcome, StepType, Visit


class PieceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`work` does it; `input` is what its audit entry says it was given."""

    work: Callable[[Visit], Awaitable[Any]]
    input: Any = KEEP


class Piece(StepType[PieceConfig]):
    """It has the name of the type of its step."""

    summary = "A piece of the work of a step."
    Config = PieceConfig
    works_outside = True

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    async def run(self, visit: Visit, config: PieceConfig) -> Outcome:
        try:
            made = await config.work(visit)
        finally:
            if config.input is not KEEP:  # rather than what a service that it calls is given
                visit.show(config.input)
        return Done(made.output, metadata=made.metadata) if isinstance(made, Done) else Done(made)
