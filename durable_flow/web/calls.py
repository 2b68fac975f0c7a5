"""What becomes of one request."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

import durable_flow as df
from durable_flow.web.documents import (
    Act,
    Alive,
    Body,
    Decision,
    EntryList,
    ExecutionList,
    ExecutionSummary,
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
    summary,
    whole,
)
from durable_flow.web.doorkeeper import Principal
from durable_flow.web.operations import Operation, openapi
from durable_flow.web.problems import HEADERS, Fault, Refused, told
from durable_flow.web.query import Query, is_text

if TYPE_CHECKING:
    from durable_flow.web.api import Api

logger = logging.getLogger("durable_flow.web")

JSON = "application/json"

PAGE_BYTES = 4 * 1024 * 1024
"""A page of the audit trail ends with the entry with which it is longer than this."""

CHUNK = 50
"""Entries that are read at once."""

SEEN_WITHIN = 5.0
"""Seconds within which a store that is ready answers."""

JSON_TYPE = re.compile(r'application/(?:json|[\w.-]+\+json)\s*(?:;\s*charset="?utf-8"?\s*)?;?\s*', re.IGNORECASE)
KEY = re.compile(r"[\x21-\x7e]{1,255}")
PREFERRED = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)
POINTED = re.compile(r"[.\[]")

Given = TypeVar("Given", bound=Body)


class Call:
    """One request: what it is about, who sends it, and what is done with it."""

    def __init__(self, api: Api, request: Request, operation: Operation, names: Mapping[str, str]) -> None:
        self.api = api
        self.runtime = api.runtime
        self.request = request
        self.operation = operation
        self.names = names
        self.query = Query(request, operation)
        self.principal = Principal()
        self.headers: dict[str, str] = {}

    async def answered(self) -> Response:
        """Does what is asked for."""
        execution = await self._execution()
        if execution is None and "execution_id" in self.names:
            raise df.ExecutionNotFound(self.names["execution_id"])
        if self.operation.method == "POST":
            self.api.doorkeeper.check_origin(self.request)
        self.query.check()
        handler = getattr(self, f"on_{self.operation.name}")
        response: Response = await (handler() if execution is None else handler(execution))
        return response

    async def _execution(self) -> df.Execution | None:
        """The execution the request is about, if whoever sends it may know that it is there."""
        execution_id = self.names.get("execution_id")
        execution = None
        if execution_id is not None and is_text(execution_id):
            execution = await self.runtime.store.load(execution_id)
        self.principal = await self._identify(self.operation.action, execution)
        if execution is not None and not await self._belongs(execution):
            return None
        return execution

    async def _identify(self, action: str, execution: df.Execution | None) -> Principal:
        self.request.scope["path_params"] = dict(self.names)
        return await self.api.doorkeeper.identify(self.request, action, execution)

    async def _belongs(self, execution: df.Execution) -> bool:
        """Whether an execution has the labels of the principal; a child is judged by what it was started by."""
        wanted = self.principal.labels
        if wanted and execution.parent_id is not None and execution.root_id not in (None, execution.id):
            root = await self.runtime.store.load(str(execution.root_id))
            return root is not None and wanted.items() <= root.labels.items()
        return wanted.items() <= execution.labels.items()

    # -- what can be asked for -----------------------------------------------------------------------------------------

    async def on_alive(self) -> Response:
        return self._json(Alive())

    async def on_ready(self) -> Response:
        faults = []
        try:
            async with asyncio.timeout(SEEN_WITHIN):
                await self.runtime.store.find(limit=1)
        except TimeoutError:
            faults.append(f"the store has not answered for {SEEN_WITHIN:g} s")
        except df.StoreError as error:
            logger.warning("not ready: %s", error)
            faults.append("the store cannot be reached")
        healths = [worker.health for worker in self.api.workers]
        for number, health in enumerate(healths, 1):
            if not health.running:
                faults.append(f"worker {number} does not run")
            elif health.overdue > self.api.patience:
                faults.append(f"worker {number} has not been able to look at the store for {health.overdue:.0f} s")
        if self.api.streams.closed:
            faults.append("the process is about to end")
        if faults:
            raise Refused(503, "not-ready", "; ".join(faults), errors=[Fault(detail=one) for one in faults])
        return self._json(Ready(workers=healths))

    async def on_describe(self) -> Response:
        root = quote(self.request.scope.get("root_path", ""))
        api = self.api
        return self._json(openapi(self.runtime.workflows, title=api.title, root=root, security=api.security))

    async def on_workflows(self) -> Response:
        known = sorted(self.runtime.workflows.items())
        return self._json(WorkflowList(workflows=[_workflow(one) for _, one in known]))

    async def on_workflow(self) -> Response:
        return self._json(_workflow(self._known()))

    def _known(self) -> df.WorkflowDef:
        workflow = self.runtime.workflows.get(self.names["workflow_id"])
        if workflow is None:
            raise Refused(404, "workflow-not-found", "There is no such workflow here.")
        return workflow

    async def on_start(self) -> Response:
        given = await self._body(Start)
        workflow = self._known()
        labels, priority = self._labels(given.labels), int(given.priority)
        key = self._key()
        background = self.runtime.background(workflow, self.api.adapter)
        execution_id = None if key is None else self._derived(workflow.id, key)
        try:
            execution_id = await background.run(
                whole(workflow, given.input),
                execution_id=execution_id,
                labels=labels,
                queue=given.queue,
                priority=priority,
                traceparent=self._trace(),
            )
        except df.ConflictError:
            if execution_id is None or await self.runtime.store.load(execution_id) is None:
                raise
            raise _other_request() from None
        if key is not None:
            there = await self.runtime.store.load(execution_id)
            asked = (labels, given.queue, priority)
            if there is not None and (there.labels, there.queue, there.priority) != asked:
                raise _other_request()
        root = quote(self.request.scope.get("root_path", ""))
        self.headers["Location"] = f"{root}/executions/{quote(execution_id, safe='')}"
        return await self._outcome(background, execution_id)

    def _trace(self) -> str | None:
        """The trace that the request is part of; what is none is ignored, as W3C Trace Context asks for."""
        given = self.request.headers.getlist("traceparent")
        return df.parse_traceparent(given[0]) if len(given) == 1 else None

    def _labels(self, given: Mapping[str, str]) -> dict[str, str]:
        for name, value in self.principal.labels.items():
            if given.get(name, value) != value:
                raise Refused(403, "not-allowed", f"You may not give the label {name!r} this value.")
        return {**given, **self.principal.labels}

    def _derived(self, workflow_id: str, key: str) -> str:
        """The id of the execution that this key stands for: of this principal and this workflow, and nobody else's."""
        principal = self.principal
        parts = [principal.name, sorted(principal.labels.items()), workflow_id, key]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    async def on_list(self) -> Response:
        query, store = self.query, self.runtime.store
        labels, parent_id = query.labels(), query.text("parent_id")
        own = dict(self.principal.labels)
        if parent_id is not None:
            parent = await store.load(parent_id) if is_text(parent_id) else None
            self.principal = await self._identify("read", parent)
            if parent is None or not await self._belongs(parent):
                raise df.ExecutionNotFound(parent_id)
            own = {}  # children have no labels: they belong to whom their parent does
        workflow_id = query.text("workflow_id")
        contradicted = any(labels.get(name, value) != value for name, value in own.items())
        texts = [text for text in (workflow_id, parent_id, *labels, *labels.values()) if text]
        statuses, limit = query.statuses(), query.number("limit", least=1, most=500, default=50)
        after, before = query.time("created_after"), query.time("created_before")
        if contradicted or not all(is_text(text) for text in texts):
            return self._json(ExecutionList(executions=[], next_cursor=None))  # there can be none
        try:
            page = await store.find(
                workflow_id=workflow_id,
                status=statuses,
                labels={**labels, **own},
                parent_id=parent_id,
                created_after=after,
                created_before=before,
                limit=limit,
                cursor=query.text("cursor"),
            )
        except df.ValidationError as error:
            raise Refused(404, "no-such-page", f"There is no page at this cursor: {error}.") from None
        shown = [summary(one, ExecutionSummary) for one in page if await self._may_read(one)]
        return self._json(ExecutionList(executions=shown, next_cursor=page.next_cursor))

    async def _may_read(self, execution: df.Execution) -> bool:
        try:
            await self._identify("read", execution)
        except (df.NotAllowed, Refused, HTTPException) as error:
            if told(error)[0].status >= 500:
                raise
            return False
        return True

    async def on_execution(self, execution: df.Execution) -> Response:
        seconds = self._patience()
        if seconds:
            await self._settled(await self.runtime.background_of(execution.id), execution.id, seconds)
        return self._json(await self._view(execution.id))

    async def on_entries(self, execution: df.Execution) -> Response:
        after = self.query.number("after", default=0, least=0, most=10**15)
        limit = self.query.number("limit", default=50, least=1, most=500)
        shown: list[df.Entry] = []
        size, more = 0, True
        while more and len(shown) < limit and size < PAGE_BYTES:
            wanted = min(CHUNK, limit - len(shown))
            chunk = await self.runtime.store.entries(
                execution.id, after=shown[-1].seq if shown else after, limit=wanted
            )
            more = len(chunk) == wanted
            for entry in chunk:
                shown.append(entry)
                size += len(msgspec.json.encode(entry))
                if size >= PAGE_BYTES:
                    more = True
                    break
        return self._json(EntryList(entries=shown, next_after=shown[-1].seq if more and shown else None))

    async def on_why(self, execution: df.Execution) -> Response:
        runner = await self.runtime.runner_of(execution.id)
        return self._json(WhyList(reasons=await runner.why(execution.id)))

    async def on_events(self, execution: df.Execution) -> Response:
        last = self.request.headers.get("last-event-id")
        after = self.query.number("after", default=0, least=0, most=10**15)
        if self.request.method == "HEAD":
            return Response(status_code=200, headers=HEADERS, media_type="text/event-stream")
        try:
            return await self.api.streams.response(
                self.runtime, execution.id, after=last or after, client=self._client()
            )
        except df.ValidationError as error:
            raise Refused(404, "event-not-found", f"There is no such event of it: {error}.") from None

    async def on_resume(self, execution: df.Execution) -> Response:
        given = await self._body(Resume)
        return await self._answer(execution, given, response=given.response)

    async def on_approve(self, execution: df.Execution) -> Response:
        given = await self._body(Vote)
        return await self._answer(execution, given, approved=True, selections=given.selections)

    async def on_reject(self, execution: df.Execution) -> Response:
        given = await self._body(Vote)
        return await self._answer(execution, given, approved=False, selections=given.selections)

    async def _answer(self, execution: df.Execution, given: Decision, **answer: Any) -> Response:
        by = self._by(given.by)
        background = await self._background(execution)
        try:
            await background.resume(
                execution.id, by=by, comment=given.comment, step=given.step, wait_id=given.wait_id, **answer
            )
        except df.ValidationError as error:  # the body is in order: it is another answer that is waited for
            faults = [Fault(detail=str(one)) for one in error.problems]
            raise Refused(409, "answer-does-not-fit", str(error), errors=faults) from None
        return await self._outcome(background, execution.id)

    async def on_signal(self, execution: df.Execution) -> Response:
        given = await self._body(Signal)
        background = await self._background(execution)
        await background.signal(
            execution.id, given.name, given.payload, by=self._by(given.by), signal_id=given.signal_id or self._key()
        )
        return await self._outcome(background, execution.id)

    async def on_cancel(self, execution: df.Execution) -> Response:
        given = await self._body(Reason)
        background = await self._background(execution)
        await background.cancel(execution.id, reason=given.reason, by=self._by(given.by))
        return await self._outcome(background, execution.id)

    async def on_retry(self, execution: df.Execution) -> Response:
        given = await self._body(Act)
        background = await self._background(execution)
        await background.retry(execution.id, by=self._by(given.by))
        return await self._outcome(background, execution.id)

    async def on_fail(self, execution: df.Execution) -> Response:
        given = await self._body(Reason)
        background = await self._background(execution)
        await background.fail(execution.id, reason=given.reason, by=self._by(given.by))
        return await self._outcome(background, execution.id)

    async def on_pause(self, execution: df.Execution) -> Response:
        given = await self._body(Reason)
        background = await self._background(execution)
        await background.pause(execution.id, reason=given.reason, by=self._by(given.by))
        return await self._outcome(background, execution.id)

    async def on_unpause(self, execution: df.Execution) -> Response:
        given = await self._body(Act)
        background = await self._background(execution)
        await background.unpause(execution.id, by=self._by(given.by))
        return await self._outcome(background, execution.id)

    # -- how -----------------------------------------------------------------------------------------------------------

    async def _background(self, execution: df.Execution) -> df.BackgroundRunner:
        return await self.runtime.background_of(execution.id, self.api.adapter)

    def _by(self, given: str | None) -> str | None:
        """Who decides: who sends it, unless that may speak for others."""
        principal = self.principal
        if given is None or given == principal.name:
            return principal.name
        if not principal.on_behalf:
            raise Refused(403, "not-allowed", "You may not decide in the name of somebody else (by).")
        return given

    def _key(self) -> str | None:
        keys = self.request.headers.getlist("idempotency-key")
        if not keys:
            return None
        key = keys[0]
        if len(key) > 2 and key.startswith('"') and key.endswith('"'):  # as structured fields have it
            key = key[1:-1]
        if len(keys) > 1 or not KEY.fullmatch(key):
            raise Refused(
                400, "idempotency-key", "An Idempotency-Key is given once, with 1 to 255 visible ASCII characters."
            )
        return key

    def _client(self) -> str:
        """Whose connections are counted together."""
        host = self.request.client.host if self.request.client is not None else ""
        return host if self.principal.name is None else f"principal {self.principal.name}"

    async def _body(self, kind: type[Given]) -> Given:
        """The body of the request. Raises Refused for what is none, before anything is done."""
        declared = self.request.headers.get("content-type", "")
        if not JSON_TYPE.fullmatch(declared):
            raise Refused(415, None, "Send JSON, with Content-Type: application/json.", headers={"Accept": JSON})
        data = bytearray()
        length = self.request.headers.get("content-length", "")
        too_large = Refused(413, None, f"A body has at most {self.api.max_body:,} bytes here.")
        if length.isdecimal() and (len(length) > 15 or int(length) > self.api.max_body):
            raise too_large
        try:
            async with asyncio.timeout(self.api.body_timeout), aclosing(self.request.stream()) as stream:
                async for chunk in stream:
                    data += chunk
                    if len(data) > self.api.max_body:
                        raise too_large
        except TimeoutError:
            raise Refused(408, None, f"The body did not come within {self.api.body_timeout:g} s.") from None
        try:
            return msgspec.json.decode(bytes(data), type=kind)
        except msgspec.ValidationError as error:
            detail, _, place = str(error).partition(" - at ")
            if "unknown field" in detail and not place:
                detail += f" (there are: {', '.join(kind.__struct_fields__)})"
            pointer = POINTED.sub("/", place.strip("`").removeprefix("$")).replace("]", "")
            fault = Fault(detail=detail, pointer=f"#{pointer}" if place else None)
            raise Refused(422, "invalid", detail, errors=[fault]) from None
        except (msgspec.DecodeError, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise Refused(400, "malformed", f"The body is not JSON that can be read: {why}.") from None

    def _patience(self) -> float:
        """For how many seconds the caller wants to wait, as far as the API allows."""
        seconds = float(self.query.number("wait", least=0, most=3600, default=0))
        if not seconds:
            preferred = PREFERRED.search(self.request.headers.get("prefer", ""))
            if preferred is not None:
                seconds = min(float(preferred[1]), self.api.max_wait)
                self.headers["Preference-Applied"] = f"wait={seconds:g}"
        return min(seconds, self.api.max_wait)

    async def _outcome(self, background: df.BackgroundRunner, execution_id: str) -> Response:
        """How an execution stands after it was started or changed."""
        seconds = self._patience()
        await self._settled(background, execution_id, seconds)
        view = await self._view(execution_id)
        going = view.status in (df.Status.PENDING, df.Status.RUNNING)
        return self._json(view, status=202 if going or not seconds else 200)

    async def _settled(self, background: df.BackgroundRunner, execution_id: str, seconds: float) -> None:
        """Waits until an execution is over or waits for somebody, for so long at most."""
        if not seconds:
            return
        with self.api.streams.slot(self._client()) as slot:
            ended = asyncio.ensure_future(slot.ended.wait())
            waiting = asyncio.ensure_future(background.wait(execution_id, timeout=seconds))
            try:
                await asyncio.wait({ended, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    waiting.result()
            finally:
                ended.cancel()
                waiting.cancel()

    async def _view(self, execution_id: str) -> ExecutionView:
        execution = await self.runtime.store.load(execution_id)
        if execution is None:
            raise df.ExecutionNotFound(execution_id)
        result = await (await self.runtime.runner_of(execution_id)).result(execution_id)
        return summary(
            execution,
            ExecutionView,
            status=result.status,
            error=result.error,
            error_info=result.error_info,
            input=execution.input,
            output=result.output,
            halts=result.halts,
            compensated=result.compensated,
        )

    def _json(self, document: object, *, status: int = 200) -> Response:
        return Response(msgspec.json.encode(document), status, {**HEADERS, **self.headers}, JSON)


def _workflow(workflow: df.WorkflowDef) -> WorkflowView:
    return WorkflowView(
        id=workflow.id,
        name=workflow.name,
        version=workflow.version,
        description=workflow.description,
        input_schema=input_schema(workflow),
    )


def _other_request() -> Refused:
    return Refused(409, "idempotency-key-reused", "This Idempotency-Key stands for another request already.")
