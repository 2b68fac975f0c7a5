"""Every exception of durable_flow.

The tree (indented = subclass)::

    DurableFlowError
        ConfigError                  the host put the runtime together wrongly
            MissingExtraError        an optional library is not installed
        ValidationError              a definition or an argument is wrong; `.problems` lists everything found
            InputError               the input of an execution does not fit the declared inputs
        ExecutionNotFound            no execution with that id
        ConflictError                the execution is not in the state the call needs
            KeyTaken                 as many executions as may hold its concurrency key
        NotAllowed                   the person may not answer this wait
        LimitExceeded                a configured limit was passed
        LeaseLost                    somebody else drives the execution now
        StoreError                   the store did not do what was asked
            StoreUnavailable         it cannot be reached; trying again may help
            SchemaTooNew             it was written by a newer release
            CorruptState             a row cannot be decoded
        WorkflowFailed               raised by ExecutionResult.raise_for_status()
        StepError                    a step failed; what `on_error` handles
            OutputError              a step produced a value that cannot be stored
        NonRetryableError            a service says: do not try again
        RetryAfter                   a service says: try again, but not before so many seconds

A workflow that fails is a result, not an exception: these are for callers' mistakes, for infrastructure, and for
services to talk to the engine. Each error builds its message from data it keeps as attributes.
"""

from __future__ import annotations

from collections.abc import Sequence


class DurableFlowError(Exception):
    """Base of everything durable_flow raises on purpose."""


class ConfigError(DurableFlowError):
    """The runtime was put together wrongly: an unknown store URL, a service name twice, an unknown workflow."""


class MissingExtraError(ConfigError):
    """A feature needs an optional library. `.extra` names the extra that brings it.

    >>> print(MissingExtraError("postgres", "asyncpg"))
    asyncpg is not installed; run: pip install "durable-flow[postgres]"
    """

    def __init__(self, extra: str, library: str) -> None:
        self.extra = extra
        self.library = library
        super().__init__(f'{library} is not installed; run: pip install "durable-flow[{extra}]"')


class ValidationError(DurableFlowError):
    """A definition or an argument is wrong. `.problems` holds one line of text for each thing found.

    >>> error = ValidationError(["flow.yml:3:5: step 'a': unknown key 'retrys'", "flow.yml:9:3: duplicate id 'a'"])
    >>> len(error.problems)
    2
    """

    def __init__(self, problems: Sequence[object]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InputError(ValidationError):
    """The input does not fit the workflow's declared inputs; nothing was stored."""


class ExecutionNotFound(DurableFlowError):
    """There is no execution with this id. `.execution_id` is the id asked for."""

    def __init__(self, execution_id: str) -> None:
        self.execution_id = execution_id
        super().__init__(f"there is no execution {execution_id!r} in this store")


class ConflictError(DurableFlowError):
    """The execution is not in the state the call needs, or somebody else was first. Nothing was changed."""


class KeyTaken(ConflictError):
    """So many executions hold the concurrency key as may, and this one is not to wait for it. Nothing was stored.

    `.key` is the key, `.holders` are the ids of those that hold it, in the order in which they came to do so.
    """

    def __init__(self, key: str, holders: Sequence[str]) -> None:
        self.key = key
        self.holders = list(holders)
        shown = ", ".join(repr(holder) for holder in self.holders[:5]) + (", …" if len(self.holders) > 5 else "")
        super().__init__(f"the concurrency key {key!r} is held by {shown}")


class NotAllowed(DurableFlowError):
    """This person may not answer this wait. `.by` is who asked, `.wait_id` what they tried to answer."""

    def __init__(self, message: str, *, by: str | None = None, wait_id: str | None = None) -> None:
        self.by = by
        self.wait_id = wait_id
        super().__init__(message)


class LimitExceeded(DurableFlowError):
    """A bound of `durable_flow.Limits` was passed: `.limit` names it, `.allowed` is its value, `.actual` what came."""

    def __init__(self, limit: str, *, allowed: int, actual: int | None = None, where: str = "") -> None:
        self.limit = limit
        self.allowed = allowed
        self.actual = actual
        self.where = where
        met = "" if actual is None else f", met {actual:,}"
        place = f" at {where}" if where else ""
        super().__init__(f"{limit} is limited to {allowed:,}{met}{place}; raise it with Limits({limit}=…)")


class LeaseLost(DurableFlowError):
    """Another process drives this execution now; what this one still tried to write had no effect."""

    def __init__(self, execution_id: str, *, owner: str | None = None) -> None:
        self.execution_id = execution_id
        self.owner = owner
        holder = f" to {owner}" if owner else ""
        super().__init__(f"the lease of execution {execution_id!r} was lost{holder}")


class StoreError(DurableFlowError):
    """The store did not do what was asked."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or is busy. Whether the last write landed may be unknown; the engine finds out."""


class SchemaTooNew(StoreError):
    """The store's schema is newer than this release understands. Nothing was read or written."""

    def __init__(self, found: int, supported: int) -> None:
        self.found = found
        self.supported = supported
        super().__init__(
            f"the store has schema version {found}, this release of durable-flow knows up to {supported}: "
            "upgrade durable-flow before opening it"
        )


class CorruptState(StoreError):
    """A stored row cannot be decoded. Other executions are not affected. `.execution_id` says whose it is."""

    def __init__(self, execution_id: str, detail: str) -> None:
        self.execution_id = execution_id
        self.detail = detail
        super().__init__(f"the stored state of execution {execution_id!r} cannot be read: {detail}")


class WorkflowFailed(DurableFlowError):
    """The execution ended failed or cancelled. `.result` is its ExecutionResult."""

    def __init__(self, result: object, message: str) -> None:
        self.result = result
        super().__init__(message)


class StepError(DurableFlowError):
    """A step failed. `kind` is the class name that `retry_on`, `$_last_error.class` and error texts show.

    >>> StepError("no route matched", kind="RoutingError").kind
    'RoutingError'
    """

    def __init__(self, message: str, *, kind: str = "StepError") -> None:
        self.kind = kind
        super().__init__(message)


class OutputError(StepError):
    """A step produced a value that cannot be stored. `.path` says where in the value, `.reason` why."""

    def __init__(self, reason: str, *, path: str = "") -> None:
        self.path = path
        self.reason = reason
        where = f" at {path}" if path else ""
        super().__init__(f"value cannot be stored{where}: {reason}", kind="OutputError")


class NonRetryableError(DurableFlowError):
    """Raise it in a service: the step fails at once, whatever its `retry` says."""


class RetryAfter(DurableFlowError):
    """Raise it in a service: the next attempt comes no sooner than `.seconds` from now (if attempts are left).

    >>> RetryAfter(30).seconds
    30.0
    """

    def __init__(self, seconds: float, message: str | None = None) -> None:
        self.seconds = float(seconds)
        if not self.seconds < float("inf"):  # nor NaN, which compares with nothing
            raise ValueError(f"RetryAfter takes a number of seconds, not {seconds!r}")
        super().__init__(message or f"try again in {self.seconds:g} s")
