"""Executions that are over, written as a store takes them: `find` has to choose among many of them."""

from __future__ import annotations

from typing import Any

from durable_flow.model.codec import Info, encode
from durable_flow.model.execution import Action, Status
from durable_flow.model.frame import Frame, Record
from durable_flow.stores.base import Commit, New

START = 1_700_000_000.0

COMMON: dict[str, Any] = {"workflow_id": "orders", "status": Status.COMPLETED, "labels": {"team": "a"}}
RARE: dict[str, Any] = {"workflow_id": "orders", "status": Status.FAILED, "labels": {"team": "b"}}

KINDS = {"common": COMMON, "rare": RARE}
"""What `find` is asked for. A quarter of all executions are of the common kind. Many meet two conditions of the rare
kind; only needles meet all three."""

OTHERS: tuple[dict[str, Any], ...] = (
    COMMON,
    {"workflow_id": "orders", "status": Status.FAILED, "labels": {"team": "a"}},
    {"workflow_id": "orders", "status": Status.COMPLETED, "labels": {"team": "b"}},
    {"workflow_id": "refunds", "status": Status.FAILED, "labels": {"team": "b"}},
)

ROOT, INFO = encode(Frame()), encode(Info())


def creation(number: int, *, needle: bool) -> Commit:
    """The commit that makes the execution of this number, which nobody owns."""
    kind = RARE if needle else OTHERS[number % len(OTHERS)]
    time = START + number * 0.01
    execution_id = f"found-{number}"
    return Commit(
        execution_id=execution_id,
        owner=None,
        generation=1,
        version=0,
        nonce=f"made-{number}",
        seq=1,
        status=str(kind["status"]),
        current_step=None,
        updated_at=time,
        finished_at=time,
        root=ROOT,
        info=INFO,
        entries=[(1, encode(Record(action=Action.FINISHED, time=time)))],
        new=New(
            workflow_id=kind["workflow_id"],
            workflow_version="1.0",
            definition_hash="0" * 64,
            definition="{}",
            input="{}",
            created_at=time,
            root_id=execution_id,
            labels=kind["labels"],
        ),
    )
