"""The step types of the core: one file each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from durable_flow.errors import ConfigError
from durable_flow.steps.approval import Approval
from durable_flow.steps.assign import Assign
from durable_flow.steps.base import StepType
from durable_flow.steps.call import Call
from durable_flow.steps.end import End
from durable_flow.steps.gate import Gate
from durable_flow.steps.halt import Halt
from durable_flow.steps.loop import Loop
from durable_flow.steps.parallel import Parallel
from durable_flow.steps.router import Router
from durable_flow.steps.signal import Signal
from durable_flow.steps.start import Start
from durable_flow.steps.transform import Transform
from durable_flow.steps.wait import Wait
from durable_flow.steps.workflow import Workflow

CORE: tuple[type[StepType[Any]], ...] = (
    Start,
    End,
    Assign,
    Call,
    Router,
    Loop,
    Parallel,
    Transform,
    Halt,
    Approval,
    Wait,
    Signal,
    Gate,
    Workflow,
)


def step_types(more: Iterable[StepType[Any]] = ()) -> Mapping[str, StepType[Any]]:
    """All step types by name: the core's and `more`. Raises ConfigError where a name is taken twice."""
    types: dict[str, StepType[Any]] = {kind.name: kind() for kind in CORE}
    for kind in more:
        if kind.name in types:
            raise ConfigError(f"there are two step types named {kind.name!r}")
        types[kind.name] = kind
    return types
