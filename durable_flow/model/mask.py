"""Masking: what was declared secret is not shown to people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

MASK = "***"


def redact(value: Any, masks: Sequence[str]) -> Any:
    """The value with every occurrence of these texts masked, in keys' values and inside longer texts.

    >>> redact({"card": "4111", "note": "card 4111 used"}, ["4111"])
    {'card': '***', 'note': 'card *** used'}
    """
    if isinstance(value, str):
        for mask in masks:
            if mask in value:
                value = value.replace(mask, MASK)
        return value
    if isinstance(value, dict):
        return {redact(name, masks): redact(item, masks) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, masks) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool) and str(value) in masks:
        return MASK
    return value


def secret_texts(given: Any, names: Iterable[str]) -> tuple[str, ...]:
    """The texts that must not be shown: the values of these inputs, and the texts inside them."""
    found: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            for item in value.values():
                collect(item)
        elif isinstance(value, list):
            for item in value:
                collect(item)
        elif isinstance(value, str):
            if len(value) > 1:
                found.append(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append(str(value))

    if isinstance(given, dict):
        for name in names:
            collect(given.get(name))
    return tuple(sorted(set(found), key=len, reverse=True))
