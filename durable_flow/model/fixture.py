"""Fixtures: what stands in, in a dry run, for what a step would get from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

ERROR_KEYS = frozenset({"type", "message"})


class Fixture(msgspec.Struct, frozen=True, kw_only=True):
    """What a step gets in a dry run instead of what it would get from outside. `key` is the step id or the path under
    which it was given; where `error` (the class name of an error) is set, the step fails with it and `message`."""

    key: str
    answer: Any = None
    error: str | None = None
    message: str = ""

    @property
    def expires(self) -> bool:
        """Whether it says that time runs out."""
        return self.error == "TimeoutError"


def fixture(key: str, value: Any) -> Fixture:
    """The fixture that is written as this value: the answer itself, or `{error: {type, message}}`.

    >>> fixture("charge", {"id": "c-1"}).answer
    {'id': 'c-1'}
    >>> fixture("charge", {"error": {"type": "CardDeclined"}}).error
    'CardDeclined'
    """
    told = _error(value)
    if told is None:
        return Fixture(key=key, answer=value)
    return Fixture(key=key, error=told.get("type", "Exception"), message=told.get("message", ""))


def malformed(value: Any) -> str | None:
    """What is wrong with the way in which an error is written."""
    for name, text in (_error(value) or {}).items():
        if not isinstance(text, str) or (name == "type" and not 0 < len(text) <= 255):
            return f"error.{name} must be text"
    return None


def _error(value: Any) -> Mapping[str, Any] | None:
    inner = value.get("error") if isinstance(value, Mapping) and len(value) == 1 else None
    return inner if isinstance(inner, Mapping) and inner and inner.keys() <= ERROR_KEYS else None
