"""The trail is the truth: what an execution is, computed from its audit entries alone.

`Fold` reads entries as they are stored (JSON with the fields of a record) and knows nothing of the engine. Whatever a
commit wrote beside the entries must be what the fold gives.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from durable_flow.stores.base import Stored

Seen = dict[str, Any]
"""An entry as it is stored, decoded."""

STEP_OVER = ("completed", "answered", "failed")
DONE = ("completed", "skipped")

AFTER = "~"
"""The path below which everything is that happens after the steps."""


class Place(msgspec.Struct):
    """What the entries say of one frame."""

    at: str | None = None
    known: bool = False
    """Whether any entry told the cursor; a frame that only waits or tries stands where it began."""
    state: str = "running"
    tries: int = 0
    memo: Any = None
    wait_id: str | None = None


class Fold:
    """An execution as its entries tell it."""

    def __init__(self) -> None:
        self.seq = 0
        self.status = "pending"
        self.finished = False
        self.pause: str | None = None
        self.closing = False
        """Whether the steps are over, and only what comes after them still runs."""
        self.frames: dict[str, Place] = {"": Place()}
        self.sets: dict[tuple[str, str], int] = {}
        self.values: dict[int, Seen] = {}

    def add(self, seq: int, entry: Seen, known: Collection[str] = ()) -> None:
        """Takes the next entry; `known` are the paths of frames that exist. Raises ValueError at a gap."""
        if seq != self.seq + 1:
            raise ValueError(f"entry {seq} follows entry {self.seq}")
        self.seq = seq
        self.values[seq] = entry
        if not entry.get("step"):
            self._of_workflow(seq, entry)
        elif is_settlement(entry):
            self._settled(seq, entry)
        elif entry["action"] == "started":
            self._began(seq, entry, known)
        else:
            self._of_step(seq, entry)

    def _of_workflow(self, seq: int, entry: Seen) -> None:
        if "frame" in (entry.get("metadata") or {}):
            self._restored(seq, entry)
        match entry["action"]:
            case "started" | "resumed" | "recovered":
                self.status = "running"
            case "retried":
                self.status, self.finished = "running", False
                memos = (entry.get("metadata") or {}).get("memos") or {}
                for path, place in self.frames.items():
                    if place.state in ("failed", "cancelled", "waiting"):
                        place.state, place.tries, place.wait_id = "running", 0, None
                        if path in (entry.get("metadata") or {}).get("forgotten", ()):
                            place.memo = None
                        if path in memos:
                            place.memo = {**(place.memo or {}), **memos[path]}
                    elif place.state == "running":
                        place.tries = 0
            case "halted":
                self.status = "halted"
            case "migrated":
                self.frames[""].at, self.frames[""].known = entry.get("at"), True
            case "paused":
                self.pause = entry["metadata"]["wait_id"]
            case "unpaused":
                self.pause = None
            case "noted" if entry.get("frame"):
                for name in entry.get("changes") or ():
                    self.sets[entry["frame"], name] = seq
            case "noted" if "closing" in (entry.get("metadata") or {}):
                self.status, self.closing, self.pause = "running", True, None
            case "finished":
                self.status, self.finished = entry["metadata"]["status"], True
                self.closing, self.pause = False, None
                self._drop(AFTER)

    def _restored(self, seq: int, entry: Seen) -> None:
        """A frame of a fork is as it was in the original when this one begins."""
        frame, told = entry.get("frame", ""), entry["metadata"]["frame"]
        self.frames[frame] = Place(
            at=entry.get("at"), known=True, state=told.get("state", "running"), memo=told.get("memo")
        )
        for name in entry.get("changes") or ():
            self.sets[frame, name] = seq

    def _began(self, seq: int, entry: Seen, known: Collection[str]) -> None:
        """A step that takes many transitions: its memo stands in the frame the step is in, what it keeps below it."""
        owner = self.frames.setdefault(owner_of(entry["path"], {*self.frames, *known}), Place())
        owner.memo = entry["metadata"]["memo"]
        for name in entry.get("changes") or ():
            self.sets[entry["frame"], name] = seq

    def _settled(self, seq: int, entry: Seen) -> None:
        """A body ended: its outcome stays, what it set goes where the entry says."""
        path, parent = entry["path"], entry.get("frame", "")
        place = self.frames.setdefault(path, Place())
        place.state = entry["action"]
        place.at, place.known = entry.get("at"), True
        if place.state in DONE:
            place.tries, place.memo, place.wait_id = 0, None, None
        memo = (entry.get("metadata") or {}).get("memo")
        if memo is not None:
            self.frames.setdefault(parent, Place()).memo = memo
        self._merge(parent, entry)
        if path.endswith("]") and place.state in DONE:
            for key in [key for key in self.sets if key[0] == path]:
                del self.sets[key]

    def _of_step(self, seq: int, entry: Seen) -> None:
        frame, action = entry.get("frame", ""), entry["action"]
        place = self.frames.setdefault(frame, Place())
        place.at, place.known = entry.get("at"), True
        self._merge(frame, entry)
        for name in entry.get("same") or ():
            self.sets[frame, name] = seq
        for name in entry.get("changes") or ():
            self.sets[frame, name] = seq
        if "compensate" in (entry.get("metadata") or {}):
            self.sets[f"{AFTER}[undo]", entry["path"]] = seq
        match action:
            case "halted":
                place.state, place.wait_id = "waiting", entry["metadata"]["wait_id"]
            case "retried":
                place.tries += 1
                if "wait_id" in entry["metadata"]:
                    place.state, place.wait_id = "waiting", entry["metadata"]["wait_id"]
            case "resumed":
                place.state, place.wait_id = "running", None
                if (entry.get("metadata") or {}).get("anew"):
                    place.tries, place.memo = 0, None
            case "cancelled":
                place.state, place.wait_id = "cancelled", None
            case "failed" if not entry.get("changes"):
                place.state, place.wait_id = "failed", None
            case "answered" if place.wait_id is not None and entry.get("at") == step_of(entry) and is_vote(entry):
                pass
            case _:
                self.sets.pop(("[signals]", (entry.get("metadata") or {}).get("signal", "")), None)
                place.state, place.tries, place.memo, place.wait_id = "running", 0, None, None
                self._drop(entry["path"])

    def _merge(self, frame: str, entry: Seen) -> None:
        for name, source in (entry.get("merged") or {}).items():
            self.sets[frame, name] = source

    def _drop(self, step_path: str) -> None:
        below = (f"{step_path}[", f"{step_path}/")
        for key in [key for key in self.sets if key[0].startswith(below)]:
            del self.sets[key]
        for path in [path for path in self.frames if path.startswith(below)]:
            del self.frames[path]

    def variables(self, frame: str = "") -> dict[str, Any]:
        """The variables of a frame with their values."""
        return {name: value_in(self.values[seq], name) for (path, name), seq in self.sets.items() if path == frame}

    def differences(self, stored: Stored) -> list[str]:
        """Where a stored execution is not what its entries tell."""
        row = stored.row
        found: list[str] = []

        def compare(what: str, told: Any, kept: Any) -> None:
            if told != kept:
                found.append(f"{what}: the entries tell {told!r}, stored is {kept!r}")

        compare("seq", self.seq, row.seq)
        compare("status", self.status, row.status)
        top = self.frames[""]
        if top.known:
            compare("current_step", None if top.at is None or top.at.startswith("__") else top.at, row.current_step)
        compare("finished_at", self.finished, row.finished_at is not None)
        kept_sets = {(frame, name): seq for frame, name, seq in stored.sets}
        if self.sets != kept_sets:
            for key in sorted(self.sets.keys() | kept_sets.keys()):
                compare(f"variable {key[1]!r} of frame {key[0]!r}", self.sets.get(key), kept_sets.get(key))
        bodies = {path: msgspec.json.decode(blob) for path, blob in [("", row.root), *stored.frames]}
        # A heartbeat has no entry, and may come in the first step of a frame: then none has spoken of the frame yet.
        silent = {path for path in bodies.keys() - self.frames.keys() if "beat" in bodies[path]}
        compare("frames", sorted(self.frames), sorted(bodies.keys() - silent))
        for path in self.frames.keys() & bodies.keys():
            place, body = self.frames[path], bodies[path]
            if place.known:
                compare(f"cursor of frame {path!r}", place.at, body.get("at"))
            compare(f"state of frame {path!r}", place.state, body.get("state", "running"))
            compare(f"failed attempts in frame {path!r}", place.tries, body.get("tries", 0))
            compare(f"memo of frame {path!r}", place.memo, body.get("memo"))
            compare(f"wait of frame {path!r}", place.wait_id, (body.get("wait") or {}).get("wait_id"))
        if not self.finished:
            waits = [msgspec.json.decode(body)["wait_id"] for body in row.waits]
            told = [
                place.wait_id for path, place in self.frames.items() if not self.closing or path.startswith(f"{AFTER}/")
            ]
            compare("waits", sorted(filter(None, (self.pause, *told))), sorted(waits))
        if self.status == "completed":
            kept = self.sets.get(("", "result"))
            compare("result", kept, row.result_seq)
        return found


def is_settlement(entry: Mapping[str, Any]) -> bool:
    """Whether an entry says how a body of its step ended, rather than what became of the step itself."""
    path = entry.get("path", "")
    return path.endswith("]") or step_of(entry) != entry.get("step")


def step_of(entry: Mapping[str, Any]) -> str:
    """The step that the path of an entry ends with."""
    path: str = entry.get("path", "")
    return path.rpartition("/")[2].partition("#")[0]


def is_vote(entry: Mapping[str, Any]) -> bool:
    """Whether an answer leaves its wait open: votes of an approval do until there are enough."""
    return not entry.get("same") and not entry.get("changes")


def owner_of(step_path: str, frames: Collection[str]) -> str:
    """The frame in which a step stands: the longest frame path that its path goes on from."""
    path = step_path
    if path in frames:
        return path
    while path:
        path = path.rpartition("/")[0]
        if path in frames or path.endswith("]"):
            return path
    return ""


def value_in(entry: Mapping[str, Any], name: str) -> Any:
    """The value that an entry gave a variable."""
    if name in (entry.get("same") or ()):
        return entry.get("output")
    return (entry.get("changes") or {}).get(name)


def decoded(entries: Sequence[tuple[int, str | bytes]]) -> list[tuple[int, Seen]]:
    """Stored entries as mappings."""
    return [(seq, msgspec.json.decode(blob)) for seq, blob in entries]
