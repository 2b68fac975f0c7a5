"""`approval`: waits for people to approve or reject."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import msgspec

from durable_flow.clock import moment
from durable_flow.errors import StepError
from durable_flow.expr.reference import Template, to_text
from durable_flow.model.execution import ApprovalWait, ErrorInfo, Vote
from durable_flow.model.fixture import Fixture
from durable_flow.model.frame import Message
from durable_flow.steps.base import (
    Done,
    Duration,
    Failed,
    Outcome,
    StepType,
    Suspend,
    TargetName,
    Visit,
    decision,
    wrong_decision,
)


class ApprovalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`approvers` limits who may answer, `required` is how many must approve; the first rejection rejects."""

    prompt: Template
    context: Template | None = None
    approvers: Template | None = None
    required: int = 1
    options: Template | None = None
    on_reject: TargetName | None = None
    timeout: Duration | None = None
    on_timeout: TargetName | None = None


class Approval(StepType[ApprovalConfig]):
    name = "approval"
    summary = "Suspends until enough people approved, one rejected, or time is up."
    Config = ApprovalConfig
    instant = True
    can_wait = True
    asks = True
    decides = True

    def check(self, config: ApprovalConfig) -> Iterable[tuple[str, str]]:
        if config.required < 1:
            yield "required", "must be at least 1"
        if config.approvers is not None and config.approvers.constant:
            people = config.approvers.source
            if not _texts(people):
                yield "approvers", "expected a list of names"
            elif len(set(people)) < config.required:
                yield "required", f"{config.required} approvals are required of {len(set(people))} approvers"
        if config.options is not None and config.options.constant and not isinstance(config.options.source, list):
            yield "options", "expected a list"

    def carries_over(self, old: ApprovalConfig, new: ApprovalConfig, *, waits: bool) -> str | None:
        if waits and old.required != new.required:
            return f"people were asked for {old.required} approvals, not for {new.required}"
        return super().carries_over(old, new, waits=waits)

    def evaluate(self, visit: Visit, config: ApprovalConfig) -> Outcome:
        approvers = visit.resolve(config.approvers)
        if approvers is not None and not _texts(approvers):
            raise StepError("approvers must be a list of names", kind="ApprovalError")
        if approvers is not None and len(set(approvers)) < config.required:
            raise StepError(
                f"{config.required} approvals are required of {len(set(approvers))} approvers", kind="ApprovalError"
            )
        options = visit.resolve(config.options)
        if options is not None and not isinstance(options, list):
            raise StepError("options must be a list", kind="ApprovalError")
        now = visit.now
        prompt = visit.resolve(config.prompt)
        shown: dict[str, Any] = {
            "type": "approval",
            "prompt": prompt,
            "context": visit.resolve(config.context),
            "approvers": approvers,
            "options": options,
            "required": config.required,
            "timeout": None if config.timeout is None else float(config.timeout),
            "requested_at": to_text(moment(now)),
        }
        wait = ApprovalWait(
            wait_id=visit.wait_id,
            path=visit.path,
            step_id=visit.step_id,
            since=moment(now),
            deadline=None if config.timeout is None else moment(now + config.timeout),
            data=shown,
            prompt=prompt if isinstance(prompt, str) else msgspec.json.encode(prompt).decode(),
            approvers=approvers,
            options=options,
            required=config.required,
            shown=sha256(msgspec.json.encode(shown, order="deterministic")).hexdigest(),
        )
        return Suspend(wait, needed=config.required)

    def answered(self, visit: Visit, config: ApprovalConfig, wait: ApprovalWait, message: Message) -> Outcome:
        name = f"approvals.{visit.step_id}"
        if message.kind == "timeout":
            decision = _decision(False, wait.votes, timed_out=True)
            if config.on_timeout is None:
                error = f"not approved within {config.timeout:g} s"
                return _refused(wait, "TimeoutError", error, {name: decision})
            return Done(decision, (name,), next=config.on_timeout)
        approved = message.body["approved"]
        vote = Vote(
            by=message.actor,
            approved=approved,
            comment=message.body.get("comment"),
            selections=message.body.get("selections"),
            at=moment(message.time),
        )
        votes = [*wait.votes, vote]
        if not approved:
            if config.on_reject is None:
                by = f" by {vote.by}" if vote.by else ""
                why = f": {vote.comment}" if vote.comment else ""
                return _refused(wait, "ApprovalRejected", f"rejected{by}{why}", {name: _decision(False, votes)})
            return Done(_decision(False, votes), (name,), next=config.on_reject)
        if len(votes) < config.required:
            return Suspend(msgspec.structs.replace(wait, votes=votes))
        return Done(_decision(True, votes), (name,))

    def deed(self, visit: Visit, config: ApprovalConfig) -> tuple[str, Any]:
        asked = {"prompt": visit.resolve(config.prompt), "approvers": visit.resolve(config.approvers)}
        return "ask for approval", {name: value for name, value in asked.items() if value is not None}

    def wrong_fixture(self, config: ApprovalConfig, answer: Any) -> Iterable[str]:
        yield from wrong_decision(answer, optional={"by", "comment", "selections"})
        if isinstance(answer, dict):
            for name in ("by", "comment"):
                if not isinstance(answer.get(name), str | None):
                    yield f"{name} must be text"
            if not isinstance(answer.get("selections"), list | None):
                yield "selections must be a list"

    def assumed(self, wait: ApprovalWait, fixture: Fixture | None) -> tuple[str | None, dict[str, Any]]:
        said: dict[str, Any] = {"approved": True} if fixture is None else decision(fixture)
        voted = {vote.by for vote in wait.votes}
        first = None if voted else said.get("by")
        if first is not None and wait.approvers is not None and first not in wait.approvers:
            raise StepError(
                f"{first!r} may not answer; approvers are {', '.join(wait.approvers)}: mend the fixture",
                kind="NotAllowed",
            )
        others = (name for name in wait.approvers or () if name not in voted)
        body = {name: said[name] for name in ("approved", "comment", "selections") if said.get(name) is not None}
        return first or next(others, None), body


def _refused(wait: ApprovalWait, kind: str, message: str, changes: dict[str, Any]) -> Failed:
    return Failed(ErrorInfo(type=kind, message=message, step=wait.step_id, path=wait.path), changes)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _decision(approved: bool, votes: list[Vote], *, timed_out: bool = False) -> dict[str, Any]:
    decision: dict[str, Any] = {"approved": approved, "votes": msgspec.to_builtins(votes)}
    if timed_out:
        decision["timed_out"] = True
    return decision
