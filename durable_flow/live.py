"""An execution in memory while this process drives it: frames with their values, and what is not yet committed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import anyio
from msgspec.structs import replace

from durable_flow.errors import ConflictError
from durable_flow.machine import CLOSING, COMPENSATE, SIGNALS, UNDO, kept_path, signalled, undoing
from durable_flow.model.codec import (
    Info,
    decode_frame,
    decode_info,
    decode_message,
    decode_record,
    decode_value,
    decode_wait,
    encode,
    value_of,
)
from durable_flow.model.execution import AnyWait, PauseWait, Status, UncertainWait
from durable_flow.model.fixture import Fixture, fixture
from durable_flow.model.frame import PAUSE, Beat, Frame, FrameState, Message, Record, Transition
from durable_flow.model.mask import secret_texts
from durable_flow.model.workflow import Body, WorkflowDef
from durable_flow.stores.base import Commit, Mark, New, Slot, Stored, line_of

CLOCK = 0
"""The number of a message that no inbox holds: time itself closed the wait."""


def timeout_of(wait_id: str, *, now: float) -> Message:
    """What tells a wait that its time is up."""
    return Message(
        kind="timeout",
        execution_id=wait_id.rpartition(":")[0],
        key=f"timeout:{wait_id}",
        time=now,
        wait_id=wait_id,
    )


class Stopped(Exception):
    """Unwinds a run whose `stop_reason` is set."""


class AlreadyExists(ConflictError):
    """There is an execution with this id already."""


def signal_ids(records: Iterable[Record]) -> set[str]:
    """The ids that senders gave to the signals which these entries tell of."""
    found: set[str] = set()
    for record in records:
        told = record.metadata or {}
        answer = told.get("answer")
        known = told.get("signal_id", answer.get("signal_id") if isinstance(answer, dict) else None)
        if known is not None:
            found.add(known)
    return found


def _got_on(frame: Frame) -> Frame:
    """A frame that got somewhere: the deaths of processes before that are not held against it."""
    if frame.beat is None or not frame.beat.recoveries:
        return frame
    return replace(frame, beat=replace(frame.beat, recoveries=0))


class LiveFrame:
    """A frame and its variables. `seqs` has, for every variable the frame itself set, the entry with its value.

    `shadows` are the names its parent step gave it (a loop's item): they hide outer ones and end with the frame.
    """

    __slots__ = ("base", "body", "cut_reason", "output", "parent", "record", "seqs", "shadows", "values", "wake")

    def __init__(self, record: Frame, body: Body, parent: LiveFrame | None, *, base: str) -> None:
        self.record = record
        self.body = body
        self.parent = parent
        self.base = base
        self.values: dict[str, Any] = {}
        self.seqs: dict[str, int] = {}
        self.shadows: frozenset[str] = frozenset()
        self.output: Any = None
        self.wake: asyncio.Event | None = None
        self.cut_reason: str | None = None

    def step_path(self, step_id: str) -> str:
        """The path of the current visit of one of its steps."""
        visit = self.record.visit
        return f"{self.base}{step_id}" if visit == 1 else f"{self.base}{step_id}#{visit}"

    def chain(self) -> list[LiveFrame]:
        """From the outermost frame to this one."""
        frames: list[LiveFrame] = []
        frame: LiveFrame | None = self
        while frame is not None:
            frames.append(frame)
            frame = frame.parent
        frames.reverse()
        return frames

    def cut(self) -> str | None:
        """Why this frame is being cancelled, if one of the groups around it was."""
        frame: LiveFrame | None = self
        while frame is not None:
            if frame.cut_reason is not None:
                return frame.cut_reason
            frame = frame.parent
        return None


class Run:
    """One execution driven by this process.

    Transitions are applied with `emit` and wait in a buffer; `batch` makes one commit of them. At most one commit
    is under way; what comes meanwhile shares the next one.
    """

    # With so many attributes every instance would have a dict of its own.
    __slots__ = (
        "_bodies", "_closed", "_consumed", "_dropped", "_entries", "_frames", "_info_changed", "_messages", "_opened",
        "_records", "_rewritten", "_sets", "_steps", "active", "asked", "bar", "begins_at", "cancelled_for",
        "child_memos", "created", "created_at", "cut_by", "definition", "delayed", "draining", "durable", "ending",
        "entered", "farewells", "finished_at", "frames", "free", "generation", "history", "id", "inflight",
        "inflight_commit", "inflight_records", "info", "inherited", "input", "kept", "lease_ttl", "leased_at", "line",
        "lives", "loose_mail", "mailbox", "mark", "masks", "new", "over", "overdue", "owner", "parent_id", "parked",
        "paused", "queue", "quieting", "read_mail", "recoveries", "released", "releasing", "result_seq", "root",
        "root_id", "scope", "seq", "signal_ids", "signals", "slot", "standing", "status", "stop_actor", "stop_detail",
        "stop_mail", "stop_reason", "stored_records", "stored_sets", "sweep", "taken_over", "task", "undo", "undone",
        "unsaved", "unseated", "updated_at", "version", "visits", "waiting", "woken",
    )  # fmt: skip

    def __init__(self, execution_id: str, definition: WorkflowDef, *, owner: str, generation: int) -> None:
        self.id = execution_id
        self.definition = definition
        self.owner = owner
        self.generation = generation
        self.version = 0
        self.seq = 0
        self.durable = 0
        self.status = Status.RUNNING
        self.info = Info()
        self.input: Any = None
        self.new: New | None = None
        self.begins_at: float | None = None
        self.line: str | None = None
        self.slot: Slot | None = None
        self.unseated = False
        self.lease_ttl: float | None = None
        self.leased_at = 0.0
        self.parent_id: str | None = None
        self.queue: str | None = None
        self.root_id = execution_id
        self.created_at = 0.0
        self.updated_at = 0.0
        self.finished_at: float | None = None
        self.result_seq: int | None = None
        self.root = LiveFrame(Frame(at=definition.body.first), definition.body, None, base="")
        self.frames: dict[str, Frame] = {}
        self.lives: dict[str, LiveFrame] = {"": self.root}
        self.stored_sets: dict[str, dict[str, int]] = {}
        self.stored_records: dict[int, Record] = {}
        self.mailbox: dict[str, list[tuple[int, Message]]] = {}
        self.read_mail: set[int] = set()
        self.history: list[dict[str, Any]] | None = None
        self.masks: tuple[str, ...] = ()
        self.asked: list[Any] = []
        # control
        self.active = 1
        self.quieting: asyncio.Event | None = None
        """Set for as long as it is being halted."""
        self.scope: anyio.CancelScope | None = None
        self.task: asyncio.Task[None] | None = None
        self.stop_reason: str | None = None
        self.stop_detail: str | None = None
        self.stop_actor: str | None = None
        self.stop_mail: tuple[int, ...] = ()
        self.inflight: asyncio.Future[Any] | None = None
        self.bar: asyncio.Event | None = None
        self.undone = False
        self.unsaved = False
        self.inflight_records: list[Record] = []
        self.over: asyncio.Event = asyncio.Event()
        self.created: asyncio.Event = asyncio.Event()
        self.cancelled_for: Callable[[], str | None] = lambda: None
        self.releasing = False
        self.draining = False
        self.paused: PauseWait | None = None
        self.standing: list[asyncio.Event] = []
        self.released = False
        self.ending = False
        self.woken: dict[str, bool] = {}
        self.parked: dict[str, LiveFrame] = {}
        self.farewells: list[str] = []
        self.overdue = False
        self.cut_by: tuple[str, str | None] | None = None
        self.sweep: anyio.CancelScope | None = None
        self.inherited: set[str] = set()
        self.entered: set[str] = set()
        self.undo: dict[str, dict[str, Any]] = {}
        self.free = 0
        self.child_memos: dict[str, str] = {}
        self.recoveries = 0
        self.taken_over = 0
        self.inflight_commit: Commit | None = None
        self.mark: Mark | None = None
        self.kept: dict[str, dict[str, Any]] = {}
        self.loose_mail: list[tuple[int, Message]] = []
        self.waiting: dict[str, AnyWait] = {}
        self.signal_ids: set[str] | None = None
        self.signals: dict[str, list[tuple[str, Any]]] = {}
        self.delayed: dict[str, float] = {}
        self.visits: Counter[str] = Counter()
        """In a dry run: how often this process came to a step, by its path without the number of the visit."""
        self._bodies: dict[str, dict[str, None]] = {}
        self._steps: dict[str, dict[str, None]] = {}
        # not yet committed
        self._records: list[Record] = []
        self._entries: list[tuple[int, str]] = []
        self._frames: dict[str, Frame | None] = {}
        self._sets: dict[tuple[str, str], int] = {}
        self._dropped: list[str] = []
        self._opened: dict[str, tuple[int, int, AnyWait]] = {}
        self._rewritten: dict[str, AnyWait] = {}
        self._closed: dict[str, None] = {}
        self._consumed: list[int] = []
        self._messages: list[Message] = []
        self._info_changed = True

    # -- from the store ------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, stored: Stored, definition: WorkflowDef, *, owner: str) -> Run:
        """The execution as it was committed last."""
        row = stored.row
        run = cls(row.id, definition, owner=owner, generation=row.generation)
        run.version, run.seq, run.durable = row.version, row.seq, row.seq
        run.status = Status(row.status)
        run.info = decode_info(row.info, execution_id=row.id)
        run._info_changed = False
        run.input = decode_value(row.input, execution_id=row.id)
        run.parent_id, run.root_id, run.queue = row.parent_id, row.root_id, row.queue
        if row.concurrency_key is not None:
            run.line = line_of(row.workflow_id, row.concurrency_key)
        else:
            run.line = run.info.debounced
        run.created_at, run.updated_at = row.created_at, row.updated_at
        run.result_seq = row.result_seq
        run.root.record = decode_frame(row.root, execution_id=row.id)
        run.frames = {path: decode_frame(blob, execution_id=row.id) for path, blob in stored.frames}
        run.stored_records = {seq: decode_record(blob, execution_id=row.id) for seq, blob in stored.entries.items()}
        for frame, name, seq in stored.sets:
            run.stored_sets.setdefault(frame, {})[name] = seq
        waiting: dict[str, Frame] = {}
        for record in (run.root.record, *run.frames.values()):
            if record.wait is not None:
                waiting[record.wait.wait_id] = record
            if record.due is not None and record.state is FrameState.RUNNING:
                run.delayed[record.path] = record.due
            run._note_child(record)
        for blob in row.waits:  # in the order in which they were opened
            wait = decode_wait(blob, execution_id=row.id)
            if isinstance(wait, PauseWait):
                run.paused = run.waiting[PAUSE] = wait
            elif (found := waiting.get(wait.wait_id)) is not None and found.wait is not None:
                run.waiting[found.path] = found.wait
        run.inherited = {
            record.path
            for record in (run.root.record, *run.frames.values())
            if isinstance(record.wait, UncertainWait)
            or (record.state is FrameState.RUNNING and run.status is Status.RUNNING)
        }
        for path in run.frames:
            step_path = path[: path.rindex("[")] if path.endswith("]") else path.rpartition("/")[0]
            owner = step_path if step_path in run.frames else step_path.rpartition("/")[0]
            run._place(path, step_path, owner if owner in run.frames else "")
            while path := path.rpartition("/")[0]:  # a frame whose first step has frames may not be written itself
                around = path[: path.rindex("[")] if path.endswith("]") else path
                if around in run.entered:
                    break
                run.entered.add(around)
        run._fill(run.root)
        run.take_mail(stored.inbox)
        for key, seq in sorted(run.stored_sets.pop(SIGNALS, {}).items(), key=lambda pair: pair[1]):
            payload = value_of(run.stored_records[seq], key)
            run.signals.setdefault(key.partition(":")[2], []).append((key, payload))
        for path, seq in sorted(run.stored_sets.pop(UNDO, {}).items(), key=lambda pair: pair[1]):
            run.undo[path] = (run.stored_records[seq].metadata or {})["compensate"]
        for wait_id in stored.late:
            run.mailbox.setdefault(wait_id, []).append((CLOCK, timeout_of(wait_id, now=row.updated_at)))
        run.masks = secret_texts(run.input, run.info.secrets)
        return run

    def deadline(self, begun: float) -> float | None:
        """When an execution that began then is out of time. In a dry run no time counts."""
        timeout = self.definition.timeout
        return None if timeout is None or self.info.dry_run else begun + timeout

    def fixture(self, path: str, step_id: str) -> Fixture | None:
        """What stands in for a visit of a step in a dry run: what was given with it before what the document says, and
        the path of a visit before the id of its step. What undoes a step is another call, and goes by its path only."""
        first = f"{path}#1" if "#" not in path.rpartition("/")[2] else path
        keys = (path, first) if path.startswith(COMPENSATE) else (path, first, step_id)
        for given in (self.info.fixtures, self.definition.fixtures):
            for key in keys:
                if key in given:
                    return fixture(key, given[key])
        return None

    def _note_child(self, record: Frame) -> None:
        """Keeps track of which frames have a child execution that ends with them."""
        memo = record.memo
        if memo is not None and memo.get("wait") is True and "child" in memo:
            self.child_memos[memo["path"]] = memo["child"]

    def _place(self, path: str, step_path: str, owner: str) -> None:
        """Remembers which step a frame belongs to, and which frame that step: what has to go when the step ends."""
        self._bodies.setdefault(step_path, {})[path] = None
        self._steps.setdefault(owner, {})[step_path] = None

    def _fill(self, live: LiveFrame) -> None:
        for name, seq in self.stored_sets.get(live.record.path, {}).items():
            live.values[name] = value_of(self.stored_records[seq], name)
            live.seqs[name] = seq

    def take_mail(self, inbox: Iterable[tuple[int, str | bytes]]) -> None:
        """Sorts messages that were not seen before: to the waits they answer, the others to `loose_mail`."""
        new = [
            (number, decode_message(blob, execution_id=self.id))
            for number, blob in inbox
            if number not in self.read_mail
        ]  # all or, where one cannot be decoded, none: it must not count as read
        rest: list[tuple[int, Message]] = []
        for number, message in new:
            self.read_mail.add(number)
            if message.wait_id is None:
                rest.append((number, message))
            else:
                self.mailbox.setdefault(message.wait_id, []).append((number, message))
        self.loose_mail.extend(rest)

    def open_frame(
        self, path: str, body: Body, parent: LiveFrame, *, step_path: str, base: str, given: Mapping[str, Any]
    ) -> LiveFrame:
        """The live frame of a body: as it was stored, or at its first step."""
        record = self.frames.get(path)
        live = LiveFrame(record or Frame(path=path, at=body.first), body, parent, base=base)
        live.values.update(given)
        live.shadows = frozenset(given)
        if record is not None:
            self._fill(live)
            live.output = self.output_of(record)
        self.lives[path] = live
        self._place(path, step_path, parent.record.path)
        return live

    def bodies_of(self, step_path: str) -> list[tuple[str, Frame]]:
        """The frames of a composite step that were begun, with their paths."""
        return [(path, self.frames[path]) for path in self._bodies.get(step_path, ()) if path in self.frames]

    # -- transitions ---------------------------------------------------------------------------------------------------

    def emit_undoing(self, transition: Transition, undo: dict[str, Any] | None) -> None:
        """Applies the transition of a step that this undoes."""
        if undo is not None:
            path = transition.record.path
            transition = undoing(transition, path, undo, seq=self.seq + 1)
            self.undo.pop(path, None)  # in the order of the last completions
            self.undo[path] = undo
        self.emit(transition)

    def emit(self, transition: Transition, *, needed: int = 1) -> None:
        """Applies a transition to the header and the buffer. Variables are the caller's: it has the values."""
        record = transition.record
        entry = encode(record)
        self.seq += 1
        self._records.append(record)
        self._entries.append((self.seq, entry))
        for step_path in transition.dropped:
            self._drop(step_path)
        frame = transition.frame
        if frame is not None:
            self._keep(_got_on(frame), needed)
        for other in transition.others:
            self._keep(_got_on(other))
        for path, name, seq in transition.sets:
            self._sets[path, name] = seq
        if transition.consumed:
            self._consumed.extend(transition.consumed)
        if transition.messages:
            self._messages.extend(transition.messages)
        if transition.status is not None:
            self.status = transition.status
            if transition.status.over:
                self.finished_at = record.time
                self.result_seq = transition.result
            elif record.action == "retried":
                self.finished_at = None
            if transition.error != self.info.error and (transition.status.over or self.finished_at is None):
                self.change_info(error=transition.error)
        self.updated_at = record.time

    def _keep(self, frame: Frame, needed: int = 1) -> None:
        path = frame.path
        if path:
            self.frames[path] = frame
            self._frames[path] = frame
        if self.inherited:
            self.inherited.discard(path)
        if frame.wait is not (known := self.waiting.get(path)):
            self._wait(path, known, frame.wait, needed)
        if frame.due is not None and frame.state is FrameState.RUNNING:
            self.delayed[path] = frame.due
        elif path in self.delayed:
            del self.delayed[path]
        live = self.lives.get(path)
        if live is not None:
            if live.record.memo is not None and frame.memo is None:
                self.child_memos.pop(live.record.memo.get("path", ""), None)
            live.record = frame
        if frame.memo is not None:
            self._note_child(frame)

    def _wait(self, path: str, known: AnyWait | None, wait: AnyWait | None, needed: int) -> None:
        """A frame waits, waits for something else, shows something else, or waits no more."""
        if known is not None and (wait is None or wait.wait_id != known.wait_id):
            self._close(path)
            known = None
        if wait is None:
            return
        self.waiting[path] = wait
        if known is None:
            self._opened[wait.wait_id] = self.seq, needed, wait
        elif (opened := self._opened.get(wait.wait_id)) is not None:
            self._opened[wait.wait_id] = *opened[:2], wait
        else:
            self._rewritten[wait.wait_id] = wait

    def wait_on(self, frame: Frame, wait: AnyWait) -> None:
        """A frame goes on waiting for the same, until another time. This is no transition: there is no entry for it."""
        path = frame.path
        self.waiting.pop(path, None)
        self._keep(replace(frame, wait=wait))

    def beat(self, frame: Frame, beat: Beat) -> None:
        """The step at the cursor of a frame still lives. This is no transition: there is no entry for it."""
        self._keep(replace(frame, beat=beat))
        self.unsaved = True

    @property
    def waited_out(self) -> int:
        """Deaths of processes that heartbeats hide from the row."""
        frames = (self.root.record, *self.frames.values())
        return max((frame.beat.recoveries for frame in frames if frame.beat is not None), default=0)

    def forgive(self) -> None:
        """Somebody takes it up again on purpose: the deaths of processes before that do not count."""
        for frame in (self.root.record, *self.frames.values()):
            if (after := _got_on(frame)) is not frame:
                self._keep(after)
        self.recoveries = 0

    def pause(self, wait: PauseWait) -> None:
        """The entry emitted last says that no step begins any more."""
        self.paused = wait
        self._wait(PAUSE, None, wait, 1)

    def unpause(self) -> None:
        """Steps may begin again: the frames that stand still go on."""
        self.paused = None
        if PAUSE in self.waiting:
            self._close(PAUSE)
        self.active += len(self.standing)
        for call in self.standing:
            call.set()
        self.standing.clear()

    def _close(self, path: str) -> None:
        wait_id = self.waiting.pop(path).wait_id
        self._opened.pop(wait_id, None)
        self._rewritten.pop(wait_id, None)
        self._closed[wait_id] = None

    def _drop(self, step_path: str) -> None:
        starts = (f"{step_path}[", f"{step_path}/")
        for key in [key for key in self._sets if key[0].startswith(starts)]:
            del self._sets[key]
        if step_path == CLOSING:
            self.undo.clear()
            for path in [path for path in self.frames if path.startswith(starts)]:
                self._forget_frame(path)
        self._forget(step_path)
        self._dropped.append(step_path)

    def _forget(self, step_path: str) -> None:
        self.child_memos.pop(step_path, None)
        kept = kept_path(step_path)
        self.kept.pop(kept, None)
        self.stored_sets.pop(kept, None)
        for path in self._bodies.pop(step_path, ()):
            self._forget_frame(path)
            for inner in self._steps.pop(path, ()):
                self._forget(inner)

    def _forget_frame(self, path: str) -> None:
        for mapping in (self.frames, self._frames, self.lives, self.stored_sets, self.delayed):
            mapping.pop(path, None)
        if path in self.waiting:
            self._close(path)

    def frame(self, path: str) -> Frame | None:
        """The frame with this path."""
        return self.frames.get(path) if path else self.root.record

    def change_info(self, **changes: Any) -> None:
        """Changes the rarely changing part of the header with the next commit."""
        self.info = replace(self.info, **changes)
        self._info_changed = True

    @property
    def key(self) -> str:
        """The concurrency key; empty where it has none."""
        return "" if self.line is None else self.line.partition(":")[2]

    def send(self, messages: Iterable[Message]) -> None:
        """Messages that go with the next commit."""
        self._messages.extend(messages)

    def consume(self, numbers: Iterable[int]) -> None:
        """Inbox rows that the next commit takes away without an entry."""
        self._consumed.extend(numbers)

    def keep_signal(self, number: int, message: Message) -> None:
        """A signal came that nothing waits for: it is kept until something does."""
        name, payload = message.body["name"], message.body["payload"]
        key = f"{self.seq + 1}:{name}"
        self.signals.setdefault(name, []).append((key, payload))
        self.emit(signalled(message, key, payload, seq=self.seq + 1, consumed=(number,)))

    def early_signal(self, name: str) -> tuple[str, Any] | None:
        """Takes the first of the signals that were kept under this name; the commit of what follows takes it away."""
        kept = self.signals.get(name)
        if not kept:
            return None
        key, payload = kept.pop(0)
        self._sets[SIGNALS, key] = 0
        return key, payload

    def unwritten(self) -> list[Record]:
        """The entries that no commit made durable yet."""
        return [*self.inflight_records, *self._records]

    def unread(self) -> tuple[int, ...]:
        """Messages that were read and answer nothing any more."""
        numbers = [number for queue in self.mailbox.values() for number, _ in queue]
        numbers += [number for number, _ in self.loose_mail]
        self.mailbox.clear()
        self.loose_mail.clear()
        return tuple(numbers)

    def close_waits(self) -> None:
        """Nothing waits any more: late answers find their wait closed."""
        self.paused = None
        for path in list(self.waiting):
            self._close(path)

    def has_bodies(self, step_path: str) -> bool:
        """Whether a step has frames or kept values that must go when it ends."""
        if step_path in self._bodies:
            return True
        return bool(self.kept or self.stored_sets) and (
            kept_path(step_path) in self.kept or kept_path(step_path) in self.stored_sets
        )

    def body_of(self, path: str) -> LiveFrame:
        """A body whose variables are asked for: live, or as it was stored when it ended."""
        live = self.lives.get(path)
        if live is None:
            live = LiveFrame(self.frames[path], self.root.body, None, base="")
            self._fill(live)
        return live

    def lift_bar(self) -> None:
        """Commits may be made again."""
        if self.bar is not None:
            self.bar.set()
            self.bar = None

    @property
    def cutting(self) -> bool:
        """Whether its tasks were unwound because it was cancelled or timed out, and it is being brought to its end."""
        return self.cut_by is not None

    @property
    def leaving(self) -> bool:
        """Whether the lease is being given back: whoever has something for the execution must wait and claim it."""
        return self.releasing or self.ending

    @property
    def buffered(self) -> int:
        return len(self._entries)

    def batch(self, *, nonce: str, release: bool, wake_at: float | None) -> Commit:
        """Everything buffered as one commit; the buffer is empty afterwards, and shares nothing with the commit: that
        may be written by another thread while the next one is filled."""
        at = self.root.record.at
        # Most commits have nothing but a header and entries. (From 16 keywords on Python puts them into a dict first,
        # which takes four times as long: what is rare is added below.)
        commit = Commit(
            execution_id=self.id,
            owner=self.owner,
            generation=self.generation,
            version=self.version,
            nonce=nonce,
            seq=self.seq,
            status=str(self.status),
            current_step=at if at in self.root.body.by_id else None,
            updated_at=self.updated_at,
            finished_at=self.finished_at,
            wake_at=wake_at,
            root=encode(self.root.record),
            info=encode(self.info) if self._info_changed else None,
            result_seq=self.result_seq,
            entries=self._entries,
        )
        self.inflight_records = self._records
        self._records, self._entries = [], []
        self._info_changed = False
        self.unsaved = False
        more = self._take_more()
        if release:
            more["release"] = True
        if self.new is not None:
            more |= {"new": self.new, "lease_ttl": self.lease_ttl, "mark": self.mark}
            self.new = None
        if self.slot is not None:
            more["slot"], self.slot = self.slot, None
        elif self.line is not None and self.status.over:
            more["frees"] = self.line
        return replace(commit, **more) if more else commit

    def _take_more(self) -> dict[str, Any]:
        """What few commits have, taken out of the buffer."""
        more: dict[str, Any] = {}
        if self._frames:
            more["frames"] = [
                (path, None, None) if frame is None else (path, frame.out, encode(frame))
                for path, frame in self._frames.items()
            ]
            self._frames = {}
        if self._sets:
            more["sets"] = [(path, name, seq) for (path, name), seq in self._sets.items()]
            self._sets = {}
        if self._dropped:
            more["dropped"], self._dropped = self._dropped, []
        if self._opened:
            more["opened"] = [
                (wait_id, seq, needed, wait.deadline.timestamp() if wait.deadline else None, encode(wait))
                for wait_id, (seq, needed, wait) in self._opened.items()
            ]
            self._opened = {}
        if self._rewritten:
            more["rewritten"] = [(wait_id, encode(wait)) for wait_id, wait in self._rewritten.items()]
            self._rewritten = {}
        if self._closed:
            more["closed"], self._closed = tuple(self._closed), {}
        if self._consumed:
            more["consumed"] = tuple(number for number in self._consumed if number != CLOCK)
            self._consumed = []
        if self._messages:
            more["messages"], self._messages = [(message, encode(message)) for message in self._messages], []
        return more

    def kept_value(self, path: str, name: str) -> Any:
        """A value that a step keeps between commits."""
        values = self.kept.get(path)
        if values is None:
            seqs = self.stored_sets.get(path, {})
            values = self.kept[path] = {key: value_of(self.stored_records[seq], key) for key, seq in seqs.items()}
        return values.get(name)

    def output_of(self, frame: Frame) -> Any:
        """The output of a frame that ended before this process drove the execution, or in it."""
        if frame.out is None:
            return None
        record = self.stored_records.get(frame.out)
        return None if record is None else record.output
