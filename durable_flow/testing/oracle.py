"""The rules a case must keep, beside those that are watched while it runs.

========  ============================================================================================================
O1        status, output and variables are those of a run without faults
O2        so is the audit trail: the same entries, in order within each frame, numbered without a gap
O3        folding the entries gives the stored execution, at every version
O4        no effect is lost
O5        effects repeat only where a fault licensed it
O6        every repetition of an effect has its idempotency key, and no other effect has it
O7        a task begins nothing new, and does not end, before its last effect is durable
O8        nothing is left behind: leases, transactions, tasks
O9        it ends, with no more recoveries than faults
P10       a cancellation reaches the caller
========  ============================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durable_flow.testing.scenario import Scenario
from durable_flow.testing.story import Story
from durable_flow.testing.trail import Fold, Seen, is_settlement

VOLATILE = frozenset(
    (
        "requested_at", "deadline", "at", "since", "timestamp", "attempts", "memo", "memos", "next_attempt_in", "shown",
        "forked_at", "wait_id", "sent_at",
    )
)  # fmt: skip
"""Keys whose values depend on when something happened, or on how often it was tried."""

INJECTED = "injected at point"


def judge(story: Story, reference: Story | None, scenario: Scenario) -> list[str]:
    """Where a story breaks the rules; `reference` is that of the same scenario without faults."""
    found = list(story.problems)
    racing = tuple(scenario.racing)
    if reference is None or went_elsewhere(story):
        return found + story.ledger.problems(None)
    found += story.ledger.problems(reference.counts, racing=racing)
    _compare(found, "O1", "result", _result(story), _result(reference))
    _compare(found, "O1", "executions", sorted(story.folds), sorted(reference.folds))
    timed = any(_waits_for_time(fold) for one in (story, reference) for fold in one.folds.values())
    for name in sorted(story.folds.keys() & reference.folds.keys()):
        got, expected = story.folds[name], reference.folds[name]
        _compare(found, "O1", f"status of {name}", got.status, expected.status)
        _compare(found, "O1", f"variables of {name}", scrubbed(got.variables()), scrubbed(expected.variables()))
        ours, theirs = lanes(got, racing, timed=timed), lanes(expected, racing, timed=timed)
        for lane in sorted(ours.keys() | theirs.keys()):
            _compare(found, "O2", f"entries of {name}:{lane}", ours.get(lane, []), theirs.get(lane, []))
    return found


def _result(story: Story) -> Any:
    result = story.result
    if result is None:
        return None
    return str(result.status), result.output, result.error


def _compare(found: list[str], rule: str, what: str, got: Any, expected: Any) -> None:
    if got == expected:
        return
    if isinstance(got, list) and isinstance(expected, list):
        more = [item for item in got if item not in expected]
        less = [item for item in expected if item not in got]
        found.append(f"{rule} {what}: {len(got)} instead of {len(expected)}; too much: {more}; missing: {less}")
    else:
        found.append(f"{rule} {what}: {got!r} instead of {expected!r}")


def went_elsewhere(story: Story) -> bool:
    """Whether a planted failure of a service used its attempts up: then the workflow rightly took another way."""
    return any(
        entry["action"] == "failed" and INJECTED in entry["error"]["message"] and "Connection" in entry["error"]["type"]
        for fold in story.folds.values()
        for entry in fold.values.values()
    )


TIMES = {"timer", "retry"}
"""What only time ends."""


def _waits_for_time(fold: Fold) -> bool:
    return any(_blocked_on(entry) & TIMES for entry in fold.values.values())


def _blocked_on(entry: Seen) -> set[str]:
    """What an execution waits for that came to a halt."""
    told = (entry.get("metadata") or {}).get("blocked_on", ())
    return set(told) if entry["action"] == "halted" and not entry.get("path") else set()


def lanes(fold: Fold, racing: tuple[str, ...] = (), *, timed: bool = False) -> dict[str, list[Any]]:
    """The entries of an execution by the frame they happened in, without what differs from run to run: where time ends
    some of the waits (`timed`), that is how often it came to a halt, and how many waits were open then."""
    found: dict[str, list[Any]] = {}
    planted: dict[str, int] = {}
    for entry in fold.values.values():
        path = entry.get("path", "")
        if any(path.startswith((f"{race}/", f"{race}[")) for race in racing):
            continue
        if entry["action"] in ("recovered", "noted", "resumed"):
            continue
        if (blocked := _blocked_on(entry)) and (timed or blocked <= TIMES):
            continue  # a planted failure waits for its next attempt, or something else for its time
        if entry["action"] == "retried" and not path:
            planted.clear()
        if entry["action"] == "retried" and INJECTED in (entry.get("error") or {}).get("message", ""):
            planted[path] = planted.get(path, 0) + 1
            continue
        if path in racing:
            found.setdefault(entry.get("frame", ""), []).append((entry["action"], path, entry.get("at")))
            continue
        lane = f"{path} (end)" if is_settlement(entry) else entry.get("frame", "")
        found.setdefault(lane, []).append(_plain(entry, 0 if is_settlement(entry) else planted.get(path, 0)))
    return found


def _plain(entry: Seen, planted: int) -> dict[str, Any]:
    plain = {name: scrubbed(value) for name, value in entry.items() if name not in ("time", "ms", "at", "merged")}
    plain["at"] = entry.get("at")
    plain["attempt"] = entry.get("attempt", 1) - planted
    plain["merged"] = sorted(entry.get("merged") or ())
    return plain


def scrubbed(value: Any) -> Any:
    """A value without what differs from run to run."""
    if isinstance(value, Mapping):
        return {name: scrubbed(inner) for name, inner in value.items() if name not in VOLATILE}
    if isinstance(value, list):
        return [scrubbed(inner) for inner in value]
    return value
