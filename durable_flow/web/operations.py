"""What the API can be asked for: every operation with its path, its parameters, its body and its answers, in one table
that requests are matched with and that the OpenAPI document is made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.requests import Request

import durable_flow as df
from durable_flow.web.documents import (
    Act,
    Alive,
    EntryList,
    ExecutionList,
    ExecutionView,
    Ready,
    Reason,
    Resume,
    Signal,
    Start,
    Vote,
    WhyList,
    WorkflowList,
    WorkflowView,
    input_schema,
)
from durable_flow.web.problems import MEDIA_TYPE, Problem, Refused


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter in the query or a header. `many`: it may stand there several times; `deep`: as `name[key]=value`."""

    name: str
    schema: Mapping[str, Any]
    about: str
    place: str = "query"
    many: bool = False
    deep: bool = False


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One thing the API does. `action` is what `authorize` is asked about; `answers` are the types of what comes with a
    status (None: nothing); `problems` the statuses of problems, besides those that all operations have."""

    name: str
    method: str
    path: str
    action: str
    about: str
    answers: Mapping[int, tuple[str, Any]]
    parameters: Sequence[Parameter] = ()
    body: type[msgspec.Struct] | None = None
    problems: Sequence[int] = ()

    @property
    def segments(self) -> tuple[str, ...]:
        """The parts of the path; what is a parameter has braces."""
        return tuple(self.path.strip("/").split("/"))


TEXT = {"type": "string"}
ID = {"type": "string", "minLength": 1}
TIME = {"type": "string", "format": "date-time"}
NUMBER = {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}

LIMIT = Parameter(
    name="limit", schema={"type": "integer", "minimum": 1, "maximum": 500, "default": 50}, about="How many at most."
)
WAIT = Parameter(
    name="wait",
    schema={"type": "integer", "minimum": 0, "maximum": 3600},
    about="For how many seconds to wait until the execution is over or waits for somebody, at most as long as the "
    "server allows. `Prefer: wait=N` says the same.",
)
PREFER = Parameter(
    name="Prefer",
    schema={"type": "string"},
    about="`wait=N` (RFC 7240): as the parameter `wait`. What is not understood is ignored.",
    place="header",
)
KEY = Parameter(
    name="Idempotency-Key",
    schema={"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]+$"},
    about="A text of the caller's choice that stands for this request: sent again with the same key, it is done once.",
    place="header",
)
AFTER = Parameter(name="after", schema=NUMBER, about="Only what is behind the entry with this number.")
LAST = Parameter(
    name="Last-Event-ID",
    schema={"type": "string", "pattern": r"^(?:(?:.+:)?[0-9]{1,18})?$"},
    about="The id of the last event that is known already.",
    place="header",
)
FILTERS = (
    Parameter(name="workflow_id", schema=TEXT, about="Only of this workflow."),
    Parameter(
        name="status", schema={"type": "string", "enum": list(df.Status)}, about="Only with this status.", many=True
    ),
    Parameter(
        name="labels",
        schema={
            "type": "object",
            "propertyNames": {"minLength": 1, "pattern": r"^[^\[\]]+$"},
            "additionalProperties": {"type": "string"},
        },
        about="Only with these labels: `labels[customer]=A-1`.",
        deep=True,
    ),
    Parameter(name="parent_id", schema=TEXT, about="Only children of this execution."),
    Parameter(name="created_after", schema=TIME, about="Only those that were started after this."),
    Parameter(name="created_before", schema=TIME, about="Only those that were started before this."),
    LIMIT,
    Parameter(name="cursor", schema={"type": "string"}, about="Where the last list ended."),
)

SENT_EVENT = {
    "description": "What each server-sent event has; `data` is JSON.",
    "type": "object",
    "properties": {"id": TEXT, "event": TEXT, "data": TEXT},
}

SETTLED = {
    200: ("What you waited for: it is over, or waits for somebody.", ExecutionView),
    202: ("It is done, and the execution goes on.", ExecutionView),
}


def _change(name: str, action: str, about: str, body: type[msgspec.Struct], *more: Parameter) -> Operation:
    return Operation(
        name=name,
        method="POST",
        path=f"/executions/{{execution_id}}/{name}",
        action=action,
        about=about,
        answers=SETTLED,
        parameters=(WAIT, PREFER, *more),
        body=body,
        problems=(404, 409),
    )


OPERATIONS = (
    Operation(
        name="alive",
        method="GET",
        path="/health/live",
        action="health",
        about="Whether the process answers.",
        answers={200: ("It does.", Alive)},
    ),
    Operation(
        name="ready",
        method="GET",
        path="/health/ready",
        action="health",
        about="Whether the store can be reached and the workers of this process look at it.",
        answers={200: ("They do.", Ready)},
    ),
    Operation(
        name="describe",
        method="GET",
        path="/openapi.json",
        action="describe",
        about="This document.",
        answers={200: ("An OpenAPI document.", dict[str, Any])},
    ),
    Operation(
        name="workflows",
        method="GET",
        path="/workflows",
        action="workflows",
        about="The workflows that can be started here.",
        answers={200: ("All of them.", WorkflowList)},
    ),
    Operation(
        name="workflow",
        method="GET",
        path="/workflows/{workflow_id}",
        action="workflows",
        about="One workflow.",
        answers={200: ("The workflow.", WorkflowView)},
        problems=(404,),
    ),
    Operation(
        name="start",
        method="POST",
        path="/workflows/{workflow_id}/executions",
        action="start",
        about="Starts an execution, which workers drive. With an `Idempotency-Key` the same request gives the same "
        "execution, however often it is sent.",
        answers={
            200: ("What you waited for: it is over, or waits for somebody.", ExecutionView),
            202: ("It is stored, and will be driven.", ExecutionView),
        },
        parameters=(KEY, WAIT, PREFER),
        body=Start,
        problems=(404, 409),
    ),
    Operation(
        name="list",
        method="GET",
        path="/executions",
        action="list",
        about="Executions that match everything that is given, newest first. A page may have fewer than `limit`.",
        answers={200: ("A page of them.", ExecutionList)},
        parameters=FILTERS,
        problems=(400, 404),
    ),
    Operation(
        name="execution",
        method="GET",
        path="/executions/{execution_id}",
        action="read",
        about="An execution as it is now, or (with `wait`) as soon as it is over or waits for somebody.",
        answers={200: ("The execution.", ExecutionView)},
        parameters=(WAIT, PREFER),
        problems=(400, 404),
    ),
    Operation(
        name="entries",
        method="GET",
        path="/executions/{execution_id}/entries",
        action="read",
        about="The audit trail of an execution, oldest first. A page may have fewer than `limit`.",
        answers={200: ("A part of it.", EntryList)},
        parameters=(AFTER, LIMIT),
        problems=(400, 404),
    ),
    Operation(
        name="why",
        method="GET",
        path="/executions/{execution_id}/why",
        action="read",
        about="What an execution waits for, since when, and what would make it go on.",
        answers={200: ("The reasons.", WhyList)},
        problems=(404,),
    ),
    Operation(
        name="events",
        method="GET",
        path="/executions/{execution_id}/events",
        action="read",
        about="The durable events of an execution as server-sent events: those that were, then those that come, until "
        "it is over. Who connects again with `Last-Event-ID` misses none and gets none twice.",
        answers={200: ("Events.", "text/event-stream"), 204: ("It is over, and there are no more events.", None)},
        parameters=(AFTER, LAST),
        problems=(400, 404),
    ),
    _change("resume", "answer", "Answers a halt, or stands in for a step about which a person is to decide.", Resume),
    _change("approve", "answer", "Approves.", Vote),
    _change("reject", "answer", "Rejects.", Vote),
    _change("signal", "signal", "Sends a signal. An `Idempotency-Key` counts as its `signal_id`.", Signal, KEY),
    _change("cancel", "cancel", "Cancels an execution and its children.", Reason),
    _change("retry", "retry", "Takes a failed execution up again at the step that failed.", Act),
    _change("fail", "fail", "Lets the step fail about which a person is to decide.", Reason),
    _change("pause", "pause", "Pauses an execution: no step begins.", Reason),
    _change("unpause", "pause", "Lets a paused execution go on.", Act),
)


def matched(request: Request) -> tuple[Operation, dict[str, str]]:
    """The operation that a request is for, and the names in its path. Raises Refused where there is none."""
    parts = _parts(request)
    fitting = [operation for operation in OPERATIONS if _fits(operation.segments, parts)]
    exact = [operation for operation in fitting if operation.segments == parts] or fitting
    if not exact:
        raise Refused(404, None, "There is nothing at this path.")
    method = "GET" if request.method == "HEAD" else request.method
    for operation in exact:
        if operation.method == method:
            names = zip(operation.segments, parts, strict=True)
            return operation, {part[1:-1]: name for part, name in names if part.startswith("{")}
    allowed = {method for one in exact for method in ((one.method, "HEAD") if one.method == "GET" else (one.method,))}
    allow = ", ".join(sorted(allowed))
    raise Refused(405, None, f"At this path there is {allow}.", headers={"Allow": allow})


def _fits(segments: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    return len(segments) == len(parts) and all(
        part if segment.startswith("{") else segment == part for segment, part in zip(segments, parts, strict=True)
    )


def _parts(request: Request) -> tuple[str, ...]:
    """The parts of the path of a request below where the API is mounted. Ids may have slashes in them, which only the
    path as it was sent tells from those between parts."""
    path, root = request.scope["path"], request.scope.get("root_path", "")
    if root and path.startswith(f"{root}/"):
        path = path[len(root) :]
    raw = request.scope.get("raw_path")
    if raw is not None:
        sent = raw.decode("latin-1").partition("?")[0].split("/")
        for count in range(1, min(DEEPEST, len(sent)) + 1):
            parts = tuple(unquote(part) for part in sent[-count:])
            if "/" + "/".join(parts) == path:
                return parts
    return tuple(path.removeprefix("/").split("/"))


DEEPEST = 5
"""The parts a path may have, and one more."""

COMMON = {
    400: "The request cannot be understood.",
    401: "Nobody is known to have sent this.",
    403: "Whoever sends this may not do that.",
    404: "There is no such thing, for whoever asks.",
    409: "It is not in the state that this needs, or somebody else was first. Nothing was changed.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not JSON, or not said to be.",
    422: "What is asked for is wrong; `errors` says everything that is.",
    503: "The store cannot be reached, or the process is not ready.",
}


def openapi(
    workflows: Mapping[str, df.WorkflowDef],
    *,
    title: str,
    root: str,
    security: Mapping[str, Any],
) -> dict[str, Any]:
    """The OpenAPI document of the API at the path `root`. Starting has a path for each workflow, with its input."""
    types = {
        kind
        for operation in OPERATIONS
        for kind in (operation.body, *(kind for _, kind in operation.answers.values()))
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    }
    kinds = sorted(types | {Problem}, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        if operation.name == "start":
            for workflow in workflows.values():
                path = operation.path.replace("{workflow_id}", workflow.id)
                paths.setdefault(path, {})["post"] = _start(operation, workflow)
        else:
            paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": df.__version__},
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }
    if security:
        document["components"]["securitySchemes"] = dict(security)
        document["security"] = [{name: []} for name in security]
    return document


def _start(operation: Operation, workflow: df.WorkflowDef) -> dict[str, Any]:
    described = _described(operation)
    taken = input_schema(workflow)
    body = {
        "allOf": [{"$ref": "#/components/schemas/Start"}],
        "properties": {"input": taken},
        **({"required": ["input"]} if "required" in taken else {}),
    }
    described["operationId"] = f"start_{workflow.id}"
    described["summary"] = f"Starts {workflow.name}"
    described["requestBody"]["content"]["application/json"]["schema"] = body
    described["parameters"] = [one for one in described["parameters"] if one["in"] != "path"]
    return described


def _described(operation: Operation) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": ID}
        for part in operation.segments
        if part.startswith("{")
    ]
    for parameter in operation.parameters:
        schema = {"type": "array", "items": parameter.schema} if parameter.many else parameter.schema
        told: dict[str, Any] = {
            "name": parameter.name,
            "in": parameter.place,
            "description": parameter.about,
            "schema": schema,
        }
        if parameter.deep:
            told |= {"style": "deepObject", "explode": True}
        parameters.append(told)
    problems = {401, 403, 503, *operation.problems}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.about.split(". ")[0].rstrip("."),
        "description": operation.about,
        "parameters": parameters,
    }
    if operation.body is not None:
        problems |= {400, 408, 413, 415, 422}
        schema = {"$ref": f"#/components/schemas/{operation.body.__name__}"}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    elif operation.parameters:
        problems |= {400}
    responses: dict[str, Any] = {}
    for status, (about, kind) in operation.answers.items():
        responses[str(status)] = {"description": about, **_content(kind)}
        if operation.name == "start":
            responses[str(status)]["headers"] = {"Location": {"required": True, "schema": {"type": "string"}}}
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status in sorted(problems):
        responses[str(status)] = {"description": COMMON[status], "content": problem}
    described["responses"] = responses
    return described


def _content(kind: Any) -> dict[str, Any]:
    if kind is None:
        return {}
    if isinstance(kind, str):
        return {"content": {kind: {"schema": SENT_EVENT}}}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        schema: dict[str, Any] = {"$ref": f"#/components/schemas/{kind.__name__}"}
    else:
        schema = {"type": "object"}
    return {"content": {"application/json": {"schema": schema}}}
