"""Whether an execution can go on with another definition of its workflow, from the place at which it stands.

It can where every step it is in stands in the same place of the new definition, with the same type, and can go on from
what it remembers or waits for. What is behind it does not matter, and what is before it is the new definition's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from durable_flow.errors import ValidationError
from durable_flow.history import is_piece, step_id_of, step_path_of
from durable_flow.model.codec import Info
from durable_flow.model.frame import Frame, FrameState
from durable_flow.model.problem import suggest
from durable_flow.model.workflow import Body, StepDef, WorkflowDef
from durable_flow.position import body_at
from durable_flow.steps.base import every_step

CURRENT, SAFE, NEEDS_MAPPING, MUST_FINISH = "current", "safe", "needs_mapping", "must_finish"


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of an execution where its workflow has another definition now.

    `verdict` is current (it has that definition), safe (it can go on with it), needs_mapping (it stands at a step that
    has another name now, if anything: `mapping` proposes one) or must_finish (only its own definition can finish it).
    `reasons` say why it cannot simply go on.
    """

    execution_id: str
    workflow_id: str
    verdict: str
    from_hash: str
    from_version: str
    to_hash: str
    to_version: str
    mapping: dict[str, str] = {}
    reasons: tuple[str, ...] = ()

    @property
    def safe(self) -> bool:
        """Whether it can be migrated, or is already."""
        return self.verdict in (CURRENT, SAFE)


class Place(msgspec.Struct, frozen=True):
    """Where a step stands in a definition: in which body of which step (both empty at the top)."""

    step: StepDef
    body: Body
    above: str = ""
    within: str = ""


def checked_mapping(mapping: object, old: WorkflowDef, new: WorkflowDef) -> dict[str, str]:
    """A mapping of the steps of one definition to those of another. Raises ValidationError."""
    if mapping is None:
        return {}
    if not isinstance(mapping, Mapping):
        raise ValidationError([f"mapping is a mapping of old steps to new ones, not {mapping!r:.100}"])
    problems = []
    for names, definition, what in ((mapping, old, "old"), (mapping.values(), new, "new")):
        for name in names:
            if not isinstance(name, str) or name not in definition.body.by_id:
                hint = suggest(name, definition.body.by_id) if isinstance(name, str) else None
                problems.append(
                    f"mapping: {name!r:.100} is no step of the {what} definition itself{f' ({hint})' if hint else ''}"
                )
    if problems:
        raise ValidationError(problems)
    return dict(mapping)


def judged(
    execution_id: str,
    old: WorkflowDef,
    new: WorkflowDef,
    *,
    frames: Mapping[str, Frame],
    undo: Mapping[str, Mapping[str, Any]],
    mapping: Mapping[str, str],
    info: Info,
) -> Migration:
    """The verdict about an execution with these frames, of which `undo` says by path what undoes its steps. `mapping`
    gives steps of the workflow itself another name."""
    verdict = Migration(
        execution_id=execution_id,
        workflow_id=old.id,
        verdict=SAFE,
        from_hash=old.hash,
        from_version=old.version,
        to_hash=new.hash,
        to_version=new.version,
    )
    if old.hash == new.hash:
        return replace(verdict, verdict=CURRENT)
    if info.closing is not None or info.compensated:
        reason = "its end has begun: what undoes its steps, and 'finally', are those of its own definition"
        return replace(verdict, verdict=MUST_FINISH, reasons=(reason,))
    before, after = dict(_places(old.body)), dict(_places(new.body))
    at = frames[""].at
    if at in before and at not in mapping and at not in after and (found := _proposed(before[at], old, new)):
        reason = f"step {at!r}, at which it stands, is not in the new definition"
        return replace(verdict, verdict=NEEDS_MAPPING, mapping={at: found}, reasons=(reason,))
    reasons = tuple(dict.fromkeys((*_obstacles(frames, before, after, mapping), *_undoing(undo, new))))
    return replace(verdict, verdict=MUST_FINISH, reasons=reasons) if reasons else verdict


def renamed(root: Frame, mapping: Mapping[str, str]) -> Frame:
    """The frame of the workflow itself at its step's new name. A wait keeps its id, so every answer finds it."""
    if root.at is None or root.at not in mapping:
        return root
    name = mapping[root.at]
    wait = root.wait
    if wait is not None:
        path = name if root.visit == 1 else f"{name}#{root.visit}"
        wait = replace(wait, step_id=name, path=path)
    return replace(root, at=name, wait=wait)


def _places(body: Body, above: str = "", within: str = "") -> Iterator[tuple[str, Place]]:
    for step in body:
        yield step.id, Place(step, body, above, within)
        for inner in step.type.bodies(step.config):
            yield from _places(inner.body, step.id, inner.name or inner.key)


def _same_place(one: Place, other: Place | None) -> bool:
    return (
        other is not None
        and (one.above, one.within, one.body.bare) == (other.above, other.within, other.body.bare)
        and one.step.type.name == other.step.type.name
    )


def _proposed(place: Place, old: WorkflowDef, new: WorkflowDef) -> str | None:
    """A step of the new definition that may be what this one is called now."""
    if not place.step.type.instant:
        return None
    fresh = [step.id for step in new.steps if step.type.name == place.step.type.name and step.id not in old.body.by_id]
    near = suggest(place.step.id, fresh)
    if near is not None:
        return next(name for name in fresh if repr(name) in near)
    return fresh[0] if len(fresh) == 1 else None


def _obstacles(
    frames: Mapping[str, Frame], before: Mapping[str, Place], after: Mapping[str, Place], mapping: Mapping[str, str]
) -> Iterator[str]:
    for path, frame in frames.items():
        if path:
            yield from _of_body(path, after)
        at = frame.at
        if frame.settled or at is None or at not in before:
            continue  # it is over
        name = at if path else mapping.get(at, at)
        old, new = before[at], after.get(name)
        where = f"step {at!r}, at which it stands,"
        if new is None:
            yield f"{where} is not in the new definition"
        elif old.step.type.name != new.step.type.name:
            yield f"{where} is of type {new.step.type.name!r} in the new definition, not {old.step.type.name!r}"
        elif name == at and not _same_place(old, new):
            yield f"{where} stands in another place of the new definition"
        elif name != at and new.above:
            yield f"{where} would be step {name!r}, which stands inside another one"
        elif name != at and not old.step.type.instant:
            yield f"{where} cannot get another name: what it does outside carries the one it has"
        else:
            yield from _of_step(frame, old, new)


def _of_step(frame: Frame, old: Place, new: Place) -> Iterator[str]:
    if frame.memo is not None or frame.wait is not None or frame.state is FrameState.FAILED:
        waits = frame.state is FrameState.WAITING
        config: Any = old.step.config
        reason = old.step.type.carries_over(config, new.step.config, waits=waits)
        if reason is not None:
            yield f"step {old.step.id!r} cannot go on: {reason}"
    passed = {name for name, order in old.body.order.items() if order < old.body.order[old.step.id]}
    ahead = {name for name, order in new.body.order.items() if order > new.body.order[new.step.id]}
    for name in sorted(passed & ahead):
        yield f"step {name!r} stood before {old.step.id!r} and now stands behind it: its key would come twice"


def _undoing(undo: Mapping[str, Mapping[str, Any]], new: WorkflowDef) -> Iterator[str]:
    """Whether who can drive the new definition can undo what was done. Workers choose by the definition alone."""
    needs = {need for step in every_step(new) for need in step.type.needs(step.config)}
    for path, undoing in undo.items():
        if ("service", undoing["service"]) not in needs:
            yield f"what undoes step {path!r} calls service {undoing['service']!r}, which the new definition has not"


def _of_body(path: str, after: Mapping[str, Place]) -> Iterator[str]:
    """Whether the body of a frame is still there. (The pieces of a step's work are its own affair.)"""
    if is_piece(path):
        return
    step_id = step_id_of(step_path_of(path))
    key: int | str = 0 if path.endswith("]") else path.rpartition("/")[2]
    new = after.get(step_id)
    if new is not None and body_at(list(new.step.type.bodies(new.step.config)), key) is None:
        yield f"step {step_id!r} has begun with {key!r}, which is not in the new definition"
