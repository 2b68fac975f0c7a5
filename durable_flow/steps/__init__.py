"""The step types of the core: one file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def step_types() -> Mapping[str, StepType[Any]]:
    """The step types of the core, by name."""
    return {kind.name: kind() for kind in CORE}
