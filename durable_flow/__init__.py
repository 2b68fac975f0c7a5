"""Durable workflows for asyncio: YAML in, results out, nothing lost in between.

>>> import asyncio, durable_flow as df
>>> workflow = df.load('''
... id: total
... name: Add numbers up
... inputs: {numbers: array}
... steps:
...   - {id: add, type: transform, input: input.numbers, expression: {sum: null}, output: result}
... ''')
>>> async def main():
...     async with df.Runtime("sqlite://:memory:", workflows=[workflow]) as runtime:
...         return await runtime.runner("total").run({"numbers": [1, 2, 3]})
>>> asyncio.run(main()).output
6
"""

from durable_flow.clock import Clock, SystemClock
from durable_flow.codec import AesGcm, Codec
from durable_flow.comparison import Difference, StepRun
from durable_flow.definition.graph import mermaid
from durable_flow.definition.json_schema import language_schema
from durable_flow.definition.loading import load, parse
from durable_flow.errors import (
    ConfigError,
    ConflictError,
    CorruptState,
    DurableFlowError,
    ExecutionNotFound,
    InputError,
    KeyTaken,
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
from durable_flow.expr.condition import Condition
from durable_flow.expr.duration import parse_duration
from durable_flow.expr.reference import Reference, Template
from durable_flow.expr.schema import Schema
from durable_flow.expr.transform import Transform
from durable_flow.extension import Defect, Extension, installed_extensions, load_extension
from durable_flow.limits import Limits
from durable_flow.migration import Migration
from durable_flow.model.event import Event
from durable_flow.model.execution import (
    Action,
    Entry,
    ErrorInfo,
    Execution,
    ExecutionResult,
    Gate,
    Halt,
    Status,
)
from durable_flow.model.fixture import Fixture
from durable_flow.model.frame import Message
from durable_flow.model.problem import suggest
from durable_flow.model.trace import parse_traceparent
from durable_flow.model.workflow import Body, RetryPolicy, WorkflowDef
from durable_flow.position import ChainLink, Iteration, Where
from durable_flow.runners.adapters.base import Adapter
from durable_flow.runners.adapters.inline import InlineAdapter
from durable_flow.runners.adapters.store_queue import StoreQueueAdapter
from durable_flow.runners.adapters.taskiq import TaskiqAdapter
from durable_flow.runners.background import BackgroundRunner
from durable_flow.runners.bulk import BulkReport
from durable_flow.runners.debounce import Debounce
from durable_flow.runners.direct import Runner, Why
from durable_flow.runners.queues import PausedQueue, Queue, QueueState
from durable_flow.runners.schedules import Schedule, ScheduledTick
from durable_flow.runners.stream import StreamRunner
from durable_flow.runners.worker import Worker, WorkerHealth
from durable_flow.runtime import Runtime
from durable_flow.services import StepContext
from durable_flow.steps.base import (
    KEEP,
    BodyDef,
    ChildEnd,
    Done,
    Duration,
    Failed,
    Outcome,
    StepType,
    Suspend,
    TargetName,
    VariableName,
    Visit,
    every_step,
)
from durable_flow.stores import open_store
from durable_flow.stores.base import Page, StepTransaction, Store
from durable_flow.transaction import Transaction

__version__ = "0.1.0"

__all__ = [
    "Action",
    "Adapter",
    "AesGcm",
    "BackgroundRunner",
    "Body",
    "BodyDef",
    "BulkReport",
    "ChainLink",
    "ChildEnd",
    "Clock",
    "Codec",
    "Condition",
    "ConfigError",
    "ConflictError",
    "CorruptState",
    "Debounce",
    "Defect",
    "Difference",
    "Done",
    "DurableFlowError",
    "Duration",
    "Entry",
    "ErrorInfo",
    "Event",
    "Execution",
    "ExecutionNotFound",
    "ExecutionResult",
    "Extension",
    "Failed",
    "Fixture",
    "Gate",
    "Halt",
    "InlineAdapter",
    "InputError",
    "Iteration",
    "KEEP",
    "KeyTaken",
    "LeaseLost",
    "LimitExceeded",
    "Limits",
    "Message",
    "Migration",
    "MissingExtraError",
    "NonRetryableError",
    "NotAllowed",
    "Outcome",
    "OutputError",
    "Page",
    "PausedQueue",
    "Queue",
    "QueueState",
    "Reference",
    "RetryAfter",
    "RetryPolicy",
    "Runner",
    "Runtime",
    "Schedule",
    "ScheduledTick",
    "Schema",
    "SchemaTooNew",
    "Status",
    "StepContext",
    "StepError",
    "StepRun",
    "StepTransaction",
    "StepType",
    "Store",
    "StoreError",
    "StoreQueueAdapter",
    "StoreUnavailable",
    "StreamRunner",
    "Suspend",
    "SystemClock",
    "TargetName",
    "TaskiqAdapter",
    "Template",
    "Transaction",
    "Transform",
    "ValidationError",
    "VariableName",
    "Visit",
    "Where",
    "Why",
    "Worker",
    "WorkerHealth",
    "WorkflowDef",
    "WorkflowFailed",
    "mermaid",
    "language_schema",
    "every_step",
    "installed_extensions",
    "load",
    "load_extension",
    "open_store",
    "parse_duration",
    "parse",
    "parse_traceparent",
    "suggest",
]
