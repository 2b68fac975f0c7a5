"""Parameters in the query of a request, each of which is known and right: one that is not would give another list than
the one that was meant."""

from __future__ import annotations

import re
from datetime import datetime

import msgspec
from starlette.requests import Request

import durable_flow as df
from durable_flow.web.operations import Operation
from durable_flow.web.problems import Refused

DIGITS = re.compile(r"[0-9]{1,15}")
LABEL = re.compile(r"labels\[([^\[\]]+)\]", re.DOTALL)
STATUSES = frozenset(str(status) for status in df.Status)


def is_text(value: str) -> bool:
    """Whether something can be an id or a label: 1 to 255 printable characters, which every store can hold."""
    return 0 < len(value) <= 255 and value.isprintable()


class Query:
    """The query of a request for an operation. Everything raises Refused for what is wrong."""

    def __init__(self, request: Request, operation: Operation) -> None:
        self._given = request.query_params
        self._known = {one.name: one for one in operation.parameters if one.place == "query"}

    def check(self) -> None:
        """Raises Refused for parameters that the operation does not have, or has once."""
        for name in self._given:
            if name not in self._known and not ("labels" in self._known and LABEL.fullmatch(name)):
                known = ", ".join(sorted(self._known)) or "none"
                raise _wrong(f"There is no parameter {name!r:.100} here (there are: {known})")
            many = name in self._known and self._known[name].many
            if not many and len(self._given.getlist(name)) > 1:
                raise _wrong(f"{name!r:.100} is given several times")
        if "labels" in self._given:
            raise _wrong("labels are given one by one: labels[name]=value")

    def text(self, name: str) -> str | None:
        """An id."""
        return self._given.get(name)

    def statuses(self) -> list[str] | None:
        """Statuses that an execution can have."""
        found = self._given.getlist("status")
        for status in found:
            if status not in STATUSES:
                raise _wrong(f"{status!r:.100} is not a status; there are {', '.join(df.Status)}")
        return found or None

    def labels(self) -> dict[str, str]:
        """Labels with their values."""
        given = self._given.items()
        return {label[1]: value for name, value in given if (label := LABEL.fullmatch(name)) is not None}

    def number(self, name: str, *, least: int, most: int, default: int) -> int:
        """A whole number."""
        value = self._given.get(name)
        if value is None:
            return default
        if not DIGITS.fullmatch(value) or not least <= int(value) <= most:
            raise _wrong(f"{name} is a number from {least} to {most:,}, not {value!r:.100}")
        return int(value)

    def time(self, name: str) -> datetime | None:
        """A time with its zone."""
        value = self._given.get(name)
        if value is None:
            return None
        try:
            found = msgspec.convert(value, datetime)
        except msgspec.ValidationError:
            found = None
        if found is None or found.tzinfo is None:
            raise _wrong(f"{name} is a time with its zone, such as 2026-03-01T12:00:00Z, not {value!r:.100}")
        return found


def _wrong(detail: str) -> Refused:
    return Refused(400, "parameter", f"{detail}.")
