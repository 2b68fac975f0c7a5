"""Time travel: a new execution that begins where another one once was.

The trail of the other one is folded up to the moment when it came to a step; what was there then (positions, variables,
what loops and signals keep) becomes the first entries of the new one, in the commit that creates it. What was under way
beside that step begins anew: waits have ids of their own, children are started again, attempts count from one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from durable_flow import machine
from durable_flow.definition.reader import bad_variable
from durable_flow.errors import ConflictError, CorruptState, LimitExceeded, OutputError, ValidationError
from durable_flow.history import History, step_id_of, step_path_of
from durable_flow.limits import Limits
from durable_flow.machine import CLOSING, SIGNALS, kept_path
from durable_flow.model.codec import decode_info, decode_record, decode_value, value_of
from durable_flow.model.execution import Action
from durable_flow.model.frame import Frame, FrameState, Record
from durable_flow.model.mask import secret_texts
from durable_flow.model.problem import suggest
from durable_flow.model.value import normalise
from durable_flow.steps.base import every_step

if TYPE_CHECKING:
    from durable_flow.engine import Engine
    from durable_flow.live import Run
    from durable_flow.stores.base import Row

CHUNK = 1000
"""Entries that are read at once."""


class Target:
    """The step that a fork begins at, as the caller names it: a step of the workflow itself, or the path of a step
    inside others; `#2` behind it names one visit, else the last one is meant."""

    def __init__(self, text: object) -> None:
        if type(text) is not str or not 0 < len(text) <= 1000:
            raise ValidationError([f"from_step is the id of a step, or its path, not {text!r:.100}"])
        self.text = text
        if text.startswith(CLOSING):
            problem = f"from_step {text!r:.100}: what undoes steps and 'finally' belong to the end of an execution"
            raise ValidationError([f"{problem}; fork from one of its steps"])
        above, slash, last = text.rpartition("/")
        self.step_id, mark, number = last.partition("#")
        if mark and not (number.isascii() and number.isdigit() and int(number) > 0):
            raise ValidationError([f"from_step {text!r:.100}: behind # comes the number of a visit, such as poll#2"])
        self.path = f"{above}{slash}{self.step_id}" + (f"#{int(number)}" if mark and int(number) > 1 else "")
        self.nested = bool(slash)
        self._any_visit = not mark

    def fits(self, path: str) -> bool:
        """Whether a visit of a step is the one that is meant, or one of them."""
        return path == self.path or (
            self._any_visit and path.startswith(f"{self.path}#") and "/" not in path[len(self.path) :]
        )

    def holds(self, path: str) -> bool:
        """Whether a path is that of the step (at its first visit), or of something inside it."""
        return path == self.path or path.startswith((f"{self.path}/", f"{self.path}["))


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """An execution as it was when it came to a step: its history until then, and the path of the step's visit."""

    history: History
    path: str


def checked(changes: object, *, limits: Limits) -> dict[str, Any]:
    """The variables that a fork sets, as they can be stored. Raises ValidationError for all that is wrong with them."""
    if changes is None:
        return {}
    if not isinstance(changes, Mapping):
        raise ValidationError([f"set is a mapping of names to values, not {changes!r:.100}"])
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in changes.items():
        problem = bad_variable(name) if type(name) is str else f"{name!r:.100} is not the name of a variable"
        if problem is None:
            try:
                values[name] = normalise(value, limits=limits, what=name)
            except OutputError as error:
                problem = f"{error.path.replace('$', name, 1)}: {error.reason}"
            except LimitExceeded as error:
                problem = str(error)
        if problem is not None:
            problems.append(f"set: {problem}")
    if problems:
        raise ValidationError(problems)
    return values


def fingerprint(origin: str, target: Target, changes: Mapping[str, Any]) -> str:
    """What tells one fork from another, and from what was started with an input."""
    asked = msgspec.json.encode(["fork", origin, target.text, changes], order="deterministic")
    return hashlib.sha256(asked).hexdigest()


async def moment_of(engine: Engine, row: Row, target: Target) -> Moment:
    """The execution as it was when it came to the step for the last time, or for the time that was named. Raises
    ValidationError for a step that is not in the definition, and ConflictError where it never came to it."""
    info = decode_info(row.info, execution_id=row.id)
    definition = await engine.load_definition(info.began_as or row.definition_hash, row.id)
    history = History(definition)
    found: Moment | None = None
    while history.seq < row.seq:
        chunk = await engine.store.read(row.id, after=history.seq, limit=min(CHUNK, row.seq - history.seq))
        if not chunk:
            break
        for seq, blob in chunk:
            record = decode_record(blob, execution_id=row.id)
            if target.nested and record.step and target.holds(record.path):
                found = _at_first_sign(history, target) or found
            if record.action is Action.MIGRATED:
                history.redefine(await engine.load_definition((record.metadata or {})["to"]["hash"], row.id))
            try:
                path = history.add(seq, record)
            except (ValueError, KeyError, TypeError) as error:
                raise CorruptState(row.id, f"entry {seq} does not follow from those before it: {error!r}") from error
            if path is not None and target.fits(path):
                found = Moment(history=history.copy(), path=path)
    if found is not None:
        return found
    raise _not_there(row.id, target, history)


def _at_first_sign(history: History, target: Target) -> Moment | None:
    """A frame begins without an entry: that it came to its first step shows only when that step did something."""
    if target.step_id not in history.places:
        return None
    path = history.frame_of(target.path)
    if path in history.frames:
        return None
    copy = history.copy()
    copy.frames[path] = Frame(path=path, at=target.step_id)
    return Moment(history=copy, path=target.path)


def _not_there(execution_id: str, target: Target, history: History) -> Exception:
    top = history.definition.body.by_id
    if target.step_id not in history.places:
        around, _, name = target.text.rpartition("/")
        if around and name.partition("#")[0].endswith(")"):
            problem = f"{target.text!r} is a piece of a step: fork from that, {around!r}, which does its pieces again"
            return ValidationError([problem])
        hint = suggest(target.step_id, history.places)
        return ValidationError(
            [f"workflow {history.definition.id!r} has no step {target.step_id!r:.100}{f' ({hint})' if hint else ''}"]
        )
    if not target.nested and target.step_id not in top:
        problem = (
            f"step {target.step_id!r} stands inside another one: name a visit of it by its path, "
            f"such as orders[3]/{target.step_id}, or fork from the step around it"
        )
        return ValidationError([problem])
    top_step = f"; fork from {step_id_of(target.text.partition('/')[0].partition('[')[0])!r}" if target.nested else ""
    return ConflictError(f"execution {execution_id!r} never came to {target.text!r}{top_step}")


async def forked(
    engine: Engine,
    row: Row,
    target: Target,
    changes: Mapping[str, Any],
    *,
    execution_id: str,
    by: str | None,
    labels: Mapping[str, str] | None,
) -> Run:
    """A new execution in memory, with everything that creates it in its buffer."""
    moment = await moment_of(engine, row, target)
    history = moment.history
    frames = dict(_taken_up(history))
    places = {"", SIGNALS, *frames, *_keeps(history, frames)}
    sets = {frame: names for frame, names in history.sets.items() if frame in places and names}
    numbers = {seq for names in sets.values() for seq in names.values()}
    numbers |= {frame.out for frame in frames.values() if frame.out is not None}
    records = await _records(engine, row.id, sorted(numbers))
    values = {
        frame: {name: value_of(records[seq], name) for name, seq in names.items()} for frame, names in sets.items()
    }
    _change(values, changes, moment)

    info = decode_info(row.info, execution_id=row.id)
    run = engine.create(
        history.definition,
        decode_value(row.input, execution_id=row.id),
        execution_id=execution_id,
        trigger="api",
        labels=row.labels if labels is None else labels,
        dry_run=info.dry_run,
        fixtures=info.fixtures,
        begins=False,
    )
    assert run.new is not None
    run.new = replace(run.new, queue=row.queue, priority=row.priority)
    run.change_info(forked_from=row.id, handled=history.handled, secrets=info.secrets or run.info.secrets)
    run.masks = secret_texts(run.input, run.info.secrets)
    now = run.created_at
    root = frames.pop("")
    run.emit(
        machine.restored(
            replace(root, out=None),
            seq=1,
            now=now,
            values=values.pop("", None),
            action=Action.STARTED,
            actor=by,
            metadata={
                "trigger": "api",
                "forked_from": row.id,
                "forked_at": history.seq,
                "from_step": moment.path,
                **({"set": sorted(changes)} if changes else {}),
                **({"dry_run": True} if info.dry_run else {}),
            },
        )
    )
    for key, payload in sorted(values.pop(SIGNALS, {}).items(), key=lambda pair: sets[SIGNALS][pair[0]]):
        seq = run.seq + 1
        run.emit(machine.kept(SIGNALS, {f"{seq}:{key.partition(':')[2]}": payload}, seq=seq, now=now))
    for path, frame in frames.items():
        output = UNSET if frame.out is None else records[frame.out].output
        run.emit(machine.restored(frame, seq=run.seq + 1, now=now, values=values.pop(path, None), output=output))
    for path, kept in values.items():
        run.emit(machine.kept(path, kept, seq=run.seq + 1, now=now))
    return run


def _taken_up(history: History) -> Iterator[tuple[str, Frame]]:
    """The frames of the new execution. What ended stays ended; what is not over goes on at its step, which begins."""
    for path, frame in history.frames.items():
        state = FrameState.RUNNING if frame.state is FrameState.WAITING else frame.state
        memo = frame.memo if _is_composite(history, frame) else None  # a child, or a call that may have happened
        yield path, replace(frame, state=state, memo=memo, tries=0, first_try=None, due=None, wait=None)


def _is_composite(history: History, frame: Frame) -> bool:
    """Whether the step at the cursor has bodies: what it remembers is about frames, not about what was done outside."""
    if frame.at is None or frame.at not in history.places:
        return False
    step = history.places[frame.at].by_id[frame.at]
    return step.type.performs or any(True for _ in step.type.bodies(step.config))


def _keeps(history: History, frames: Mapping[str, Frame]) -> Iterator[str]:
    """Where steps that go on keep values."""
    for frame in frames.values():
        path = history.arrival(frame)
        if frame.memo is not None and path is not None:
            yield kept_path(path)


async def _records(engine: Engine, execution_id: str, numbers: list[int]) -> dict[int, Record]:
    found: dict[int, Record] = {}
    for start in range(0, len(numbers), CHUNK):
        for seq, blob in await engine.store.read(execution_id, seqs=numbers[start : start + CHUNK]):
            found[seq] = decode_record(blob, execution_id=execution_id)
    missing = next((seq for seq in numbers if seq not in found), None)
    if missing is not None:
        raise CorruptState(execution_id, f"entry {missing} is missing")
    return found


def _change(values: dict[str, dict[str, Any]], changes: Mapping[str, Any], moment: Moment) -> None:
    """Sets variables where the step finds them: in the innermost frame that has them, else in the workflow itself."""
    history = moment.history
    chain = [history.frame_of(moment.path)]
    while chain[-1]:
        chain.append(history.frame_of(step_path_of(chain[-1])))
    known = {name for frame in chain for name in values.get(frame, ()) if "." not in name}
    known |= {
        "result",
        *(name for step in every_step(history.definition.body) for name in step.type.writes(step.config)),
    }
    problems = []
    for name, value in changes.items():
        if name in known:
            frame = next((frame for frame in chain if name in values.get(frame, ())), "")
            values.setdefault(frame, {})[name] = value
        else:
            hint = suggest(name, known)
            what = "an input, which cannot be changed" if name in _inputs(history) else "no variable of this workflow"
            problems.append(f"set: {name!r} is {what}{f' ({hint})' if hint else ''}")
    if problems:
        raise ValidationError(problems)


def _inputs(history: History) -> set[str]:
    return {declared.name for declared in history.definition.inputs}
