"""Where an execution stands: the innermost steps that are under way, read from its frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from durable_flow.history import is_piece, step_id_of, step_path_of
from durable_flow.machine import COMPENSATE, FINALLY
from durable_flow.model.frame import Frame, FrameState
from durable_flow.model.workflow import Body, StepDef, WorkflowDef
from durable_flow.steps.base import BodyDef
from durable_flow.steps.compensation import COMPENSATION

OPEN = (FrameState.RUNNING, FrameState.WAITING)
BROKEN = (FrameState.FAILED, FrameState.CANCELLED)


class Iteration(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one iteration of a loop so far: `state` is running, waiting, completed, failed, skipped or
    cancelled. Those that have not begun are not listed."""

    index: int
    state: str
    error: str | None = None


class ChainLink(msgspec.Struct, frozen=True, kw_only=True):
    """An execution on the way to another one: its step at `path` started the next. (The last of a chain is the one that
    the position is in, and has no path.)"""

    execution_id: str
    workflow_id: str
    path: str = ""


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """One place at which an execution, or a child of it, stands.

    `state` is pending, running or waiting, and for an execution that ended failed or cancelled. `chain` leads from the
    outermost execution to the one with this step. `items` are the iterations of the loop around it whose path is
    `loop`: every place inside that loop has the same.
    """

    execution_id: str
    workflow_id: str
    path: str
    step_id: str
    step_type: str
    state: str
    attempt: int = 1
    chain: tuple[ChainLink, ...] = ()
    loop: str | None = None
    items: tuple[Iteration, ...] = ()


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that stands at a step in which nothing else is under way, and the loop around it."""

    path: str
    step: StepDef
    frame: Frame
    loop: str | None = None
    items: tuple[Iteration, ...] = ()


def places_of(definition: WorkflowDef, frames: Mapping[str, Frame]) -> list[Place]:
    """The innermost places of an execution, in the order of its bodies. `frames` are those that are stored, by path:
    one that stands at its first step, which has not ended, need not be."""
    return list(_descend(frames[""], definition.body, "", _below(frames)))


def places_behind(definition: WorkflowDef, frames: Mapping[str, Frame], undo: Sequence[str]) -> list[Place]:
    """The places of an execution of which the steps are over: the compensation that is under way, or the innermost ones
    of `finally`. `undo` are the paths of the steps that are undone, in this order."""
    for undone in undo:
        path = f"{COMPENSATE}{undone}"
        frame = frames.get(path) or Frame(path=path, at=step_id_of(undone))
        if frame.state in OPEN and frame.at is not None:
            return [Place(path=path, step=StepDef(id=frame.at, type=COMPENSATION, config=None), frame=frame)]
    body = definition.closing
    if body is None:
        return []
    frame = frames.get(FINALLY) or Frame(path=FINALLY, at=body.first)
    return list(_descend(frame, body, f"{FINALLY}/", _below(frames)))


def _below(frames: Mapping[str, Frame]) -> dict[str, list[Frame]]:
    """The frames of steps, by the paths of these."""
    below: dict[str, list[Frame]] = {}
    for path, frame in frames.items():
        if path:
            below.setdefault(step_path_of(path), []).append(frame)
    return below


def _descend(frame: Frame, body: Body, base: str, below: Mapping[str, list[Frame]]) -> Iterator[Place]:
    step = body.by_id.get(frame.at) if frame.at is not None else None
    if step is None:
        return
    path = f"{base}{step.id}" if frame.visit == 1 else f"{base}{step.id}#{frame.visit}"
    known = {_key(inner.path): inner for inner in below.get(path, ())}
    bodies = list(step.type.bodies(step.config))
    inner: dict[int | str, list[Place]] = {}
    for key in _open_keys(step, frame, known, bodies):
        inside = body_at(bodies, key)
        if inside is None:
            if (piece := known.get(key)) is not None and piece.at is not None and is_piece(piece.path):
                work = StepDef(id=piece.at, type=step.type, config=step.config)
                inner[key] = [Place(path=piece.path, step=work, frame=piece)]
            continue
        at = f"{path}[{key}]" if isinstance(key, int) else f"{path}/{key}"
        stored = known.get(key) or Frame(path=at, at=inside.body.first)
        inner[key] = list(_descend(stored, inside.body, f"{path}/" if inside.body.bare else f"{at}/", below))
    if not any(inner.values()):
        yield Place(path=path, step=step, frame=frame)
        return
    items = tuple(sorted(_items(known, inner, bodies), key=lambda item: item.index))
    for found in inner.values():
        for place in found:
            yield replace(place, loop=path, items=items) if items and place.loop is None else place


def _open_keys(step: StepDef, frame: Frame, known: Mapping[int | str, Frame], bodies: list[BodyDef]) -> list[int | str]:
    """The bodies to look into, in order: those under way, and of a step that failed those it failed in."""
    settled = {key for key, inner in known.items() if inner.settled}
    keys = {key: None for key, inner in known.items() if not inner.settled}
    if frame.state in OPEN:
        keys.update((key, None) for key, _ in step.type.at_work(step.config, frame.memo, settled))
    else:
        keys.update((key, None) for key, inner in known.items() if inner.state is FrameState.FAILED)
    order = {body.name: index for index, body in enumerate(bodies)}
    return sorted(keys, key=lambda key: key if isinstance(key, int) else order.get(key, 0))


def _items(
    known: Mapping[int | str, Frame], inner: Mapping[int | str, list[Place]], bodies: list[BodyDef]
) -> Iterator[Iteration]:
    for key in {**known, **inner}:
        if not isinstance(key, int):
            continue
        frame, body = known.get(key), body_at(bodies, key)
        state, error = FrameState.RUNNING, None
        if frame is not None:
            state, error = frame.state, frame.error
            if state is FrameState.SKIPPED and body is not None and body.collects:
                state = FrameState.FAILED
        if state in OPEN:
            waits = all(place.frame.state is FrameState.WAITING for place in inner.get(key, ()))
            state = FrameState.WAITING if waits and inner.get(key) else FrameState.RUNNING
        yield Iteration(index=key, state=str(state), error=None if error is None else error.text)


def body_at(bodies: list[BodyDef], key: int | str) -> BodyDef | None:
    """The body whose frames have this key; None where a step has none (any more)."""
    return next((body for body in bodies if body.name == key or (body.name is None and isinstance(key, int))), None)


def _key(path: str) -> int | str:
    return int(path[path.rindex("[") + 1 : -1]) if path.endswith("]") else path.rpartition("/")[2]
