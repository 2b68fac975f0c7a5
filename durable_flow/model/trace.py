"""`traceparent`: in which trace of the outside world an execution is, as the W3C Trace Context says it."""

from __future__ import annotations

import re

from durable_flow.errors import ValidationError

_PARTS = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x20-\x7e]*)?", re.ASCII)

LONGEST = 512
"""Characters of a traceparent: a version to come may have more than the 55 of today's."""


def parse_traceparent(text: object) -> str | None:
    """A `traceparent` as it is kept and passed on; None for what is not one, which a receiver has to ignore.

    One of a version to come is read as far as it says the same, and becomes one of today's version, as the W3C wants.

    >>> parse_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    >>> parse_traceparent("00-00000000000000000000000000000000-b7ad6b7169203331-01") is None
    True
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        return None
    found = _PARTS.fullmatch(text)
    if found is None:
        return None
    version, trace, parent, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None) or not trace.strip("0") or not parent.strip("0"):
        return None
    if version != "00":
        flags = f"{int(flags, 16) & 1:02x}"  # what the other flags mean there is not known here
    return f"00-{trace}-{parent}-{flags}"


def check_traceparent(given: object) -> str | None:
    """A `traceparent` as callers give it, or None. Raises ValidationError for what is not one."""
    if given is None:
        return None
    if (parsed := parse_traceparent(given)) is None:
        form = "00-<32 hex digits>-<16 hex digits>-<2 hex digits>, in lower case, neither id all zeros"
        raise ValidationError([f"a traceparent is {form}, not {given!r:.100}"])
    return parsed
