"""What is logged changes nothing."""

from __future__ import annotations

import logging

import pytest

import durable_flow as df
from durable_flow.journal import Journal


class Full(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left on device")


def test_a_record_says_where_it_comes_from_and_what_was_raised(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("a reason")
    except ValueError:
        Journal("durable_flow.test").exception("it failed: %s", "so")
    (record,) = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == ("durable_flow.test", "ERROR", "it failed: so")
    assert record.funcName == "test_a_record_says_where_it_comes_from_and_what_was_raised"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_a_handler_that_raises_does_not_keep_a_store_from_being_opened_or_a_step_from_running() -> None:
    logger, handler = logging.getLogger("durable_flow"), Full()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        flow = {"id": "flow", "name": "flow", "steps": [{"id": "end", "type": "end", "result": 1}]}

        def raising(event: df.Event) -> None:
            raise RuntimeError("not interested")

        async with df.Runtime("sqlite://:memory:", workflows=[flow]) as runtime:
            runtime.subscribe(raising)
            assert (await runtime.runner("flow").run()).output == 1
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
