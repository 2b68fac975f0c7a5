"""Between structs and what stores keep: the only place that encodes and decodes stored data."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from durable_flow.errors import CorruptState
from durable_flow.model.execution import AnyWait, ErrorInfo, Status
from durable_flow.model.frame import Frame, Hold, Message, Record
from durable_flow.model.schedule import ScheduleState

T = TypeVar("T")

SEALED = b"\x00dfs\x01"
"""What everything begins with that a codec made: a byte no JSON has, a name, and the version of the form."""


class Unopened(bytes):
    """Stands, empty, for a blob that a codec could not open: `reason` says why. Whoever decodes it hears that."""

    reason: str

    @classmethod
    def because(cls, reason: str) -> Unopened:
        made = cls()
        made.reason = reason
        return made


class Closing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an execution will have ended, while what comes after its steps still runs. `result` is the entry that holds
    its result, `since` the entry with which this began."""

    status: Status
    result: int | None = None
    error: ErrorInfo | None = None
    reason: str | None = None
    actor: str | None = None
    since: int = 0


class Info(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The part of a row's header that changes rarely. Times are epoch seconds.

    `secrets` are the names of inputs to mask, `depth` how many parents there are, `handled` whether the workflow's
    own `on_error` was entered. `began_as` is the hash of the definition that an execution had before it was migrated.
    `fixtures` are those that a dry run was given beside its document's.
    `parent_wait` is the wait of the parent that this execution's end answers, `given` the SHA-256 of the input as it
    was given, before defaults. `compensated`: steps were undone, so it cannot go on. `debounced` is the line of those
    that would have been this execution, had they come before it began. `traceparent` is what it was
    started with, or the execution at the top.
    """

    error: ErrorInfo | None = None
    recover_to: str | None = None
    started_at: float | None = None
    deadline: float | None = None
    depth: int = 0
    handled: bool = False
    dry_run: bool = False
    fixtures: dict[str, Any] = {}
    forked_from: str | None = None
    began_as: str | None = None
    secrets: tuple[str, ...] = ()
    parent_wait: str | None = None
    given: str = ""
    closing: Closing | None = None
    compensated: bool = False
    debounced: str | None = None
    traceparent: str | None = None


def _plain(value: Any) -> Any:
    """Subclasses of text (the names in a definition) are written as text."""
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be stored")


_encoder = msgspec.json.Encoder(enc_hook=_plain)
_record = msgspec.json.Decoder(Record)
_frame = msgspec.json.Decoder(Frame)
_info = msgspec.json.Decoder(Info)
_message = msgspec.json.Decoder(Message)
_hold = msgspec.json.Decoder(Hold)
_schedule = msgspec.json.Decoder(ScheduleState)
_wait: msgspec.json.Decoder[AnyWait] = msgspec.json.Decoder(AnyWait)
_any = msgspec.json.Decoder()


def encode(value: Any) -> str:
    """Compact JSON of a struct or of JSON-shaped data."""
    return _encoder.encode(value).decode()


def decode_record(blob: str | bytes, *, execution_id: str) -> Record:
    return _decode(_record, blob, execution_id, "an entry")


def decode_frame(blob: str | bytes, *, execution_id: str) -> Frame:
    return _decode(_frame, blob, execution_id, "a frame")


def decode_info(blob: str | bytes, *, execution_id: str) -> Info:
    return _decode(_info, blob, execution_id, "the header")


def decode_message(blob: str | bytes, *, execution_id: str) -> Message:
    return _decode(_message, blob, execution_id, "a message")


def decode_hold(blob: str | bytes, *, execution_id: str) -> Hold:
    return _decode(_hold, blob, execution_id, "who paused it")


def decode_schedule(blob: str | bytes, *, schedule_id: str) -> ScheduleState:
    return _decode(_schedule, blob, schedule_id, "the state of the schedule")


def decode_wait(blob: str | bytes, *, execution_id: str) -> AnyWait:
    return _decode(_wait, blob, execution_id, "a wait")


def decode_value(blob: str | bytes, *, execution_id: str, what: str = "a value") -> Any:
    return _decode(_any, blob, execution_id, what)


def _decode(decoder: msgspec.json.Decoder[T], blob: str | bytes, execution_id: str, what: str) -> T:
    try:
        return decoder.decode(blob)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptState(execution_id, f"{what}: {_locked(blob) or error}") from error


def _locked(blob: str | bytes) -> str | None:
    """Why a blob that a codec made cannot be decoded."""
    if isinstance(blob, Unopened):
        return blob.reason
    if isinstance(blob, bytes) and blob.startswith(SEALED):
        return "it is encrypted: give the Runtime (or open_store) its codec"
    return None


def value_of(record: Record, name: str) -> Any:
    """The value that an entry gave to a variable."""
    if name in record.same:
        return record.output
    return (record.changes or {}).get(name)
