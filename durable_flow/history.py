"""The past of an execution: what it was at any of its entries, computed from the audit trail and the definition alone.

`History` takes records in order and keeps frames and, for every variable, the number of the entry that holds its value;
the values themselves stay where they are. It is the reverse of `machine`: what a transition makes of a frame is found
again from what its record says. Entries that say nothing of positions and variables only count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from msgspec.structs import replace

from durable_flow.machine import CLOSING, SIGNALS, kept_path, moved
from durable_flow.model.execution import Action, Status
from durable_flow.model.frame import Frame, FrameState, Record
from durable_flow.model.workflow import Body, StepDef, WorkflowDef

ENDED = {
    Action.COMPLETED: FrameState.COMPLETED,
    Action.SKIPPED: FrameState.SKIPPED,
    Action.CANCELLED: FrameState.CANCELLED,
}
"""What became of a body, by the entry that says so; any other says that it failed."""


class History:
    """An execution as its entries tell it, up to the last one that was added.

    `frames` are its frames by path, `sets` the numbers of the entries with the values of their variables, by frame
    path and name. `handled`: the workflow's own `on_error` was entered.
    """

    def __init__(self, definition: WorkflowDef) -> None:
        self.seq = 0
        self.status = Status.PENDING
        self.handled = False
        self.frames: dict[str, Frame] = {"": Frame(at=definition.body.first)}
        self.sets: dict[str, dict[str, int]] = {}
        self.below: dict[str, dict[str, None]] = {}
        self.steps_in: dict[str, dict[str, None]] = {}
        self.redefine(definition)

    def redefine(self, definition: WorkflowDef) -> None:
        """The entries that follow are those of another definition: the execution was migrated to it."""
        self.definition = definition
        self.places = dict(_places(definition.body))

    def copy(self) -> Self:
        """The same, and nothing added to one is seen in the other."""
        made = type(self)(self.definition)
        made.seq, made.status, made.handled = self.seq, self.status, self.handled
        made.frames = dict(self.frames)
        made.sets = {frame: dict(names) for frame, names in self.sets.items()}
        made.below = {step: dict(frames) for step, frames in self.below.items()}
        made.steps_in = {frame: dict(steps) for frame, steps in self.steps_in.items()}
        return made

    def add(self, seq: int, record: Record) -> str | None:
        """Takes the next entry. The path of the step (with its visit) that a frame came to by it, if one did. Raises
        ValueError where an entry is missing."""
        if seq != self.seq + 1:
            raise ValueError(f"entry {seq} follows entry {self.seq}")
        self.seq = seq
        if not record.step:
            return self._of_workflow(seq, record)
        if record.path.startswith(f"{CLOSING}/"):
            return None  # what happens behind the end is no position
        if record.step not in self.places:
            if is_piece(record.path):
                self._of_piece(seq, record)
            return None
        if is_end_of_body(record):
            self._ended(record)
            return None
        if record.action is Action.STARTED:
            self._began(seq, record)
            return None
        return self._of_step(seq, record)

    def arrival(self, frame: Frame) -> str | None:
        """The path of the step that a frame stands at, with its visit; None for one that is over."""
        if frame.at is None or frame.at not in self.places:
            return None
        body = self.places[frame.at]
        base = f"{step_path_of(frame.path)}/" if body.bare else f"{frame.path}/" if frame.path else ""
        return f"{base}{frame.at}" if frame.visit == 1 else f"{base}{frame.at}#{frame.visit}"

    def step_of(self, path: str) -> StepDef:
        """The step that a path ends with. Raises KeyError."""
        step_id = step_id_of(path)
        return self.places[step_id].by_id[step_id]

    def frame_of(self, path: str) -> str:
        """The path of the frame in which the step with this path stands. Raises KeyError."""
        if self.places[step_id_of(path)].bare:
            above, slash, name = path.rpartition("/")
            return f"{above}{slash}{name.partition('#')[0]}"
        return path.rpartition("/")[0]

    # -- entries -------------------------------------------------------------------------------------------------------

    def _of_workflow(self, seq: int, record: Record) -> str | None:
        told = record.metadata or {}
        match record.action:
            case Action.STARTED | Action.RESUMED | Action.RECOVERED:
                self.status = Status.RUNNING
            case Action.HALTED:
                self.status = Status.HALTED
            case Action.FINISHED:
                self.status = Status(told["status"])
            case Action.RETRIED:
                self.status = Status.RUNNING
                self._revived(told)
            case Action.MIGRATED:
                self.frames[""] = replace(self.frames[""], at=record.at)
            case _:
                pass
        if "frame" in told:
            self._put(restored_frame(record, seq))
        for name in record.changes or ():
            self._set(record.frame, name, seq)
        return self.arrival(self.frames[""]) if record.action is Action.STARTED else None

    def _revived(self, told: dict[str, Any]) -> None:
        memos, forgotten = told.get("memos") or {}, told.get("forgotten", ())
        for path, frame in self.frames.items():
            if frame.state in (FrameState.FAILED, FrameState.CANCELLED, FrameState.WAITING):
                memo = None if path in forgotten else frame.memo
                if path in memos:
                    memo = {**(frame.memo or {}), **memos[path]}
                self.frames[path] = Frame(path=path, at=frame.at, visit=frame.visit, memo=memo, out=frame.out)
            elif frame.state is FrameState.RUNNING:
                self.frames[path] = replace(frame, tries=0, first_try=None, due=None)

    def _began(self, seq: int, record: Record) -> None:
        """A step that takes many transitions: what it remembers is in its frame, what it keeps is below its path."""
        frame = self._standing(self.frame_of(record.path), record)
        self._put(replace(frame, memo=(record.metadata or {})["memo"]))
        for name in record.changes or ():
            self._set(record.frame, name, seq)

    def _ended(self, record: Record) -> None:
        """A body of a step ended: its outcome stays, and its variables where the step wants them."""
        path, told = record.path, record.metadata or {}
        frame = self.frames.get(path) or Frame(path=path)
        state = ENDED.get(record.action, FrameState.FAILED)
        if state in (FrameState.FAILED, FrameState.CANCELLED):
            self._put(replace(frame, state=state, error=record.error, settled=True))
        else:
            self._put(Frame(path=path, at=record.at, state=state, out=frame.out, error=record.error, settled=True))
        if "memo" in told:
            parent = self.frames.get(record.frame) or Frame(path=record.frame, at=record.step)
            self._put(replace(parent, memo=told["memo"]))
        self._merge(record)
        if path.endswith("]"):  # an iteration's are merged or dropped, a branch's wait for the join
            self.sets.pop(path, None)

    def _of_piece(self, seq: int, record: Record) -> None:
        """A piece of a step's work got on; one that failed may have been taken for done (it is skipped)."""
        frame, told = self._standing(record.frame, record), record.metadata or {}
        match record.action:
            case Action.COMPLETED:
                frame = Frame(path=frame.path, out=seq)
            case Action.ANSWERED if not told.get("waiting"):
                frame = Frame(path=frame.path, out=seq)
            case Action.HALTED:
                frame = replace(frame, state=FrameState.WAITING, due=None)
            case Action.RETRIED:
                waits = FrameState.WAITING if "wait_id" in told else frame.state
                frame = replace(frame, tries=frame.tries + 1, state=waits)
            case Action.RESUMED:
                frame = replace(frame, state=FrameState.RUNNING, tries=0 if told.get("anew") else frame.tries)
            case Action.CANCELLED:
                frame = replace(frame, state=FrameState.CANCELLED)
            case Action.FAILED:
                frame = replace(frame, state=FrameState.FAILED, error=record.error)
            case _:
                pass
        self._put(frame)

    def _of_step(self, seq: int, record: Record) -> str | None:
        frame, told = self._standing(record.frame, record), record.metadata or {}
        self._merge(record)
        for name in (*record.same, *(record.changes or ())):
            self._set(record.frame, name, seq)
        match record.action:
            case Action.HALTED:
                frame = replace(frame, state=FrameState.WAITING, due=None)
            case Action.RETRIED:
                waits = FrameState.WAITING if "wait_id" in told else frame.state
                frame = replace(frame, tries=frame.tries + 1, state=waits)
            case Action.RESUMED if told.get("anew"):
                frame = replace(frame, state=FrameState.RUNNING, tries=0, memo=None)
            case Action.RESUMED:
                frame = replace(frame, state=FrameState.RUNNING)
            case Action.CANCELLED:
                frame = replace(frame, state=FrameState.CANCELLED)
            case Action.ANSWERED if told.get("waiting"):
                pass
            case Action.FAILED if record.changes is None:
                frame = replace(frame, state=FrameState.FAILED, error=record.error)
            case Action.COMPLETED | Action.ANSWERED | Action.FAILED | Action.SKIPPED:
                return self._moved(seq, record, frame)
            case _:
                pass
        self._put(frame)
        return None

    def _moved(self, seq: int, record: Record, frame: Frame) -> str | None:
        step = self.step_of(record.path)
        if record.action is Action.FAILED:
            self.handled |= record.frame == "" and step.on_error is None
        elif record.output is not None or record.null:
            frame = replace(frame, out=seq)
        if (key := (record.metadata or {}).get("signal")) is not None and SIGNALS in self.sets:
            self.sets[SIGNALS].pop(key, None)
        self._drop(record.path)
        frame = moved(frame, step, self.places[step.id], record.at, frame.out)
        self._put(frame)
        return self.arrival(frame)

    # -- frames and variables ------------------------------------------------------------------------------------------

    def _standing(self, path: str, record: Record) -> Frame:
        """The frame an entry is about, at the visit of the step it names."""
        frame = self.frames.get(path) or Frame(path=path, at=record.step)
        visit = record.path.rpartition("#")[2] if "#" in record.path.rpartition("/")[2] else "1"
        return frame if str(frame.visit) == visit else replace(frame, visit=int(visit))

    def _put(self, frame: Frame) -> None:
        path = frame.path
        if path and path not in self.frames:
            step_path = step_path_of(path)
            self.below.setdefault(step_path, {})[path] = None
            self.steps_in.setdefault(self.frame_of(step_path), {})[step_path] = None
        self.frames[path] = frame

    def _set(self, frame: str, name: str, seq: int) -> None:
        self.sets.setdefault(frame, {})[name] = seq

    def _merge(self, record: Record) -> None:
        for name, source in (record.merged or {}).items():
            self._set(record.frame, name, source)

    def _drop(self, step_path: str) -> None:
        self.sets.pop(kept_path(step_path), None)
        for path in self.below.pop(step_path, ()):
            self.frames.pop(path, None)
            self.sets.pop(path, None)
            for inner in self.steps_in.pop(path, ()):
                self._drop(inner)


def restored_frame(record: Record, seq: int) -> Frame:
    """The frame that an entry puts as it is, because the execution did not begin at its beginning."""
    told = (record.metadata or {})["frame"]
    return Frame(
        path=record.frame,
        at=record.at,
        visit=told.get("visit", 1),
        state=FrameState(told.get("state", "running")),
        memo=told.get("memo"),
        out=seq if told.get("out") else None,
        error=record.error,
        settled=told.get("settled", False),
    )


def is_piece(path: str) -> bool:
    """Whether a path is that of a piece of a step's work: no step or branch can be called so.

    >>> is_piece("support/turn(3)"), is_piece("support/turn")
    (True, False)
    """
    return path.endswith(")")


def is_end_of_body(record: Record) -> bool:
    """Whether an entry says how a body of its step ended, rather than what became of the step itself."""
    return record.path.endswith("]") or step_id_of(record.path) != record.step


def step_id_of(path: str) -> str:
    """The id of the step that a path ends with.

    >>> step_id_of("orders[3]/charge#2")
    'charge'
    """
    return path.rpartition("/")[2].partition("#")[0]


def step_path_of(frame_path: str) -> str:
    """The path of the step whose body a frame is.

    >>> [step_path_of(path) for path in ("orders[3]", "both/left")]
    ['orders', 'both']
    """
    return frame_path[: frame_path.rindex("[")] if frame_path.endswith("]") else frame_path.rpartition("/")[0]


def _places(body: Body) -> Iterator[tuple[str, Body]]:
    """The body that every step stands in, by the step's id."""
    for step in body:
        yield step.id, body
        for inner in step.type.bodies(step.config):
            yield from _places(inner.body)
