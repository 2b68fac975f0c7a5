"""The reference model finds engines with a mistake planted in them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest
from msgspec.structs import replace

from durable_flow.engine import Engine
from durable_flow.live import Run
from durable_flow.model.frame import Message
from durable_flow.stores.base import Stored
from durable_flow.stores.sqlite import SqliteStore
from tests.mutants import append_again
from tests.reliability.sequences import CHUNK, explore

load = Run.load.__func__  # type: ignore[attr-defined]
adopt = Engine._adopt


def load_without_deadline(cls: type[Run], stored: Stored, definition: Any, *, owner: str) -> Run:
    """The time of a workflow counts from when it was taken up."""
    run: Run = load(cls, stored, definition, owner=owner)
    if run.info.deadline is not None:
        run.info = replace(run.info, deadline=None)
    return run


def load_without_attempts(cls: type[Run], stored: Stored, definition: Any, *, owner: str) -> Run:
    """Who takes an execution up begins to count anew."""
    run: Run = load(cls, stored, definition, owner=owner)
    run.root.record = replace(run.root.record, tries=0)
    return run


async def adopt_without_cancellation(self: Engine, stored: Stored, prepare: Any = None) -> Run:
    """What was asked of a process that died is not asked of the next one."""
    run = await adopt(self, stored, prepare)
    run.consume(number for number, message in run.loose_mail if message.kind == "cancel")
    run.loose_mail = [(number, message) for number, message in run.loose_mail if message.kind != "cancel"]
    return run


def drop_signal(self: Run, number: int, message: Message) -> None:
    """Nobody waits for it."""
    self.consume((number,))


async def no_mark(self: Engine, *given: Any) -> bool:
    """It will not have happened."""
    return True


Plant = Callable[[], AbstractContextManager[Any]]

MISTAKES: dict[str, Plant] = {
    "a second answer of one person counts": lambda: mock.patch.object(SqliteStore, "append", append_again),
    "the timeout of a workflow is forgotten when somebody else takes it up": lambda: mock.patch.object(
        Run, "load", classmethod(load_without_deadline)
    ),
    "attempts are counted anew when somebody else takes it up": lambda: mock.patch.object(
        Run, "load", classmethod(load_without_attempts)
    ),
    "a cancellation that comes while its process is dead is lost": lambda: mock.patch.object(
        Engine, "_adopt", adopt_without_cancellation
    ),
    "a signal that comes early is lost": lambda: mock.patch.object(Run, "keep_signal", drop_signal),
    "a step that must not run twice does": lambda: mock.patch.object(Engine, "_mark", no_mark),
}


def many_sequences() -> None:
    for number in range(60):
        explore(number, CHUNK, 40, shrink=False)


@pytest.mark.parametrize("plant", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_planted_mistake_is_found(plant: Plant) -> None:
    with plant(), pytest.raises(AssertionError, match=r"^AssertionError: "):
        many_sequences()
