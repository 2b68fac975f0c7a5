"""Durable workflows for asyncio: YAML in, results out, nothing lost in between.

>>> import asyncio, durable_flow as df
>>> workflow = df.load('''
... id: double
... name: Double a number
... inputs: {n: integer}
... steps:
...   - {id: work, type: transform, input: input.numbers, expression: {sum: null}, output: result}
... ''')
>>> workflow.steps[0].id
'work'
"""

from durable_flow.clock import Clock, SystemClock
from durable_flow.errors import (
    ConfigError,
    ConflictError,
    CorruptState,
    DurableFlowError,
    ExecutionNotFound,
    InputError,
    LeaseLost,
    LimitExceeded,
    MissingExtraError,
    NonRetryableError,
    NotAllowed,
    OutputError,
    RetryAfter,
    SchemaTooNew,
    StepError,
    StoreError,
    StoreUnavailable,
    ValidationError,
    WorkflowFailed,
)
from durable_flow.limits import Limits
from durable_flow.loading import load, parse
from durable_flow.model.execution import (
    Action,
    Entry,
    ErrorInfo,
    Event,
    Execution,
    ExecutionResult,
    Halt,
    Status,
)
from durable_flow.model.workflow import WorkflowDef
from durable_flow.runners.direct import Runner, Why
from durable_flow.runtime import Extension, Runtime
from durable_flow.services import StepContext
from durable_flow.stores import open_store
from durable_flow.stores.base import Page, Store

__version__ = "0.1.0"

__all__ = [
    "Action",
    "Clock",
    "ConfigError",
    "ConflictError",
    "CorruptState",
    "DurableFlowError",
    "Entry",
    "ErrorInfo",
    "Event",
    "Execution",
    "ExecutionNotFound",
    "ExecutionResult",
    "Extension",
    "Halt",
    "InputError",
    "LeaseLost",
    "LimitExceeded",
    "Limits",
    "MissingExtraError",
    "NonRetryableError",
    "NotAllowed",
    "OutputError",
    "Page",
    "RetryAfter",
    "Runner",
    "Runtime",
    "SchemaTooNew",
    "Status",
    "StepContext",
    "StepError",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "SystemClock",
    "ValidationError",
    "Why",
    "WorkflowDef",
    "WorkflowFailed",
    "load",
    "open_store",
    "parse",
]
