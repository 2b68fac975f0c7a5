"""Durations: `30s`, `15m`, `2h`, `1d`, `1h30m`, `PT15M` or plain seconds."""

from __future__ import annotations

import math
import re

CEILING = 100 * 365.25 * 86_400
"""The longest duration, in seconds: a hundred years. Longer ones are mistakes, and dates end in the year 9999."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_NUMBER = r"(?:[0-9]{1,15}(?:\.[0-9]{1,9})?)"
_PLAIN = re.compile(_NUMBER)
# Each unit once, from long to short: "1h30m" and not "30m1h".
_COMPACT = re.compile("".join(rf"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in ("w", "d", "h", "m", "s", "ms")))
_ISO = re.compile(
    rf"P(?:(?P<w>{_NUMBER})W)?(?:(?P<d>{_NUMBER})D)?"
    rf"(?:T(?=[0-9])(?:(?P<h>{_NUMBER})H)?(?:(?P<m>{_NUMBER})M)?(?:(?P<s>{_NUMBER})S)?)?"
)
_ALLOWED = "write seconds (90) or a duration such as 30s, 15m, 2h, 1d, 1h30m or PT15M"


def parse_duration(value: float | str, *, allow_zero: bool = False) -> float:
    """The duration in seconds. Raises `ValueError`, saying what is allowed, for anything that is not one.

    >>> parse_duration("15m"), parse_duration("1h30m"), parse_duration("PT15M"), parse_duration(90)
    (900.0, 5400.0, 900.0, 90.0)
    """
    seconds = _seconds(value)
    if seconds is None or math.isnan(seconds):
        raise ValueError(f"{_short(value)} is not a duration: {_ALLOWED}")
    if seconds < 0 or (seconds == 0 and not allow_zero):
        raise ValueError(
            f"a duration must be {'zero or more' if allow_zero else 'more than zero'}, not {_short(value)}"
        )
    if seconds > CEILING:
        raise ValueError(f"{_short(value)} is longer than 100 years")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return float(value) if abs(value) <= 2**63 else (math.inf if value > 0 else -math.inf)
    if isinstance(value, float):
        return value
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _PLAIN.fullmatch(text):
        return float(text)
    match = _ISO.fullmatch(text) or _COMPACT.fullmatch(text.replace(" ", "").lower())
    if match is None:
        return None
    parts = [(unit, number) for unit, number in match.groupdict().items() if number is not None]
    if not parts:
        return None
    return math.fsum(float(number) * _UNITS[unit] for unit, number in parts)


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) <= 2**63 else "an endless number"
    return text if len(text) <= 80 else text[:77] + "..."


def format_duration(seconds: float) -> str:
    """The duration for people, to the millisecond. What it gives can be parsed again.

    >>> format_duration(5400), format_duration(0.25), format_duration(86_401)
    ('1h30m', '250ms', '1d1s')
    """
    sign = "-" if seconds < 0 else ""
    milliseconds = round(abs(seconds) * 1_000)
    parts = []
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return sign + "".join(parts) if parts else "0s"
