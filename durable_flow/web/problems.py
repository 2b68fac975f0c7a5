"""Errors as HTTP answers tell them: problem documents (RFC 9457) with what helps the caller, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

import durable_flow as df

logger = logging.getLogger("durable_flow.web")

MEDIA_TYPE = "application/problem+json"

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""What every answer says: it is for this caller, at this moment, and nothing that a browser should show as a page."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong with a request. `pointer` is where in its body (a JSON pointer, as in RFC 9457)."""

    detail: str
    pointer: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong. `type` is `urn:durable-flow:problem:<name>`, or `about:blank` where the status says it all;
    `errors` is everything that was found, where there can be several things."""

    title: str
    status: int
    type: str = "about:blank"
    detail: str | None = None
    errors: list[Fault] = []


class Refused(Exception):
    """A request that cannot be done: the problem, and headers of its answer."""

    def __init__(
        self,
        status: int,
        name: str | None,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.problem = problem(status, name, detail, errors=errors)
        self.headers = dict(headers or {})
        super().__init__(detail)


def problem(status: int, name: str | None, detail: str | None, *, errors: Sequence[Fault] = ()) -> Problem:
    """A problem whose title is the phrase of its status."""
    return Problem(
        type="about:blank" if name is None else f"urn:durable-flow:problem:{name}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        errors=list(errors),
    )


UNAVAILABLE = "The store cannot be reached at the moment. Try again; whether something was done can be looked up."
INSIDE = "Something went wrong on our side. It is in our log."


def told(error: Exception) -> tuple[Problem, dict[str, str]]:
    """What a caller is told of an error, and the headers that go with it. What is our affair is logged instead."""
    match error:
        case Refused():
            return error.problem, error.headers
        case HTTPException():
            return problem(error.status_code, None, str(error.detail)), dict(error.headers or {})
        case df.ValidationError():
            name = "invalid-input" if isinstance(error, df.InputError) else "invalid"
            faults = [Fault(detail=str(one)) for one in error.problems]
            return problem(422, name, str(error.problems[0]) if len(faults) == 1 else None, errors=faults), {}
        case df.LimitExceeded():
            return problem(422, "limit-exceeded", str(error)), {}
        case df.ExecutionNotFound():
            return problem(404, "execution-not-found", "There is no such execution."), {}
        case df.ConflictError() | df.LeaseLost():
            return problem(409, "conflict", str(error)), {}
        case df.NotAllowed():
            return problem(403, "not-allowed", str(error)), {}
        case df.StoreUnavailable():
            logger.warning("a request failed: %s", error)
            return problem(503, "store-unavailable", UNAVAILABLE), {"Retry-After": "1"}
        case df.SchemaTooNew():
            logger.error("a request failed: %s", error)
            return problem(503, "schema-too-new", "The store was written by a newer release than serves it here."), {}
        case df.CorruptState():
            logger.error("a request failed: %s", error)
            return problem(500, "corrupt-state", "The stored state of this execution cannot be read."), {}
        case df.DurableFlowError():
            logger.error("a request failed: %s: %s", type(error).__name__, error)
            return problem(500, None, INSIDE), {}
        case _:
            logger.error("a request failed", exc_info=error)
            return problem(500, None, INSIDE), {}


def answer(found: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """A problem as a response."""
    body = msgspec.json.encode(found)
    return Response(body, found.status, {**HEADERS, **(headers or {})}, MEDIA_TYPE)


def problem_response(error: Exception) -> Response:
    """The response for an error: 404 for ExecutionNotFound, 409 for ConflictError, 422 with everything that is wrong
    for InputError, 503 for StoreUnavailable, and so on. Errors that are nobody's affair outside are logged, and a 500
    says no more than that.

    >>> import durable_flow as df
    >>> response = problem_response(df.ConflictError("execution 'a' is completed; only a failed one can be retried"))
    >>> response.status_code, response.media_type
    (409, 'application/problem+json')
    """
    return answer(*told(error))
