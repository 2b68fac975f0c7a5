"""When a schedule ticks: cron expressions in a time zone, and intervals."""

from __future__ import annotations

import math
from datetime import UTC, datetime, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo, available_timezones

from durable_flow.clock import moment
from durable_flow.model.problem import suggest

NAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""What may be written instead of five fields."""

FIELDS = "write five fields: minute hour day-of-month month day-of-week"

SPANS = (3_600.0, 86_400.0, 32 * 86_400.0, 366 * 86_400.0, 9 * 366 * 86_400.0, 51 * 366 * 86_400.0)
"""How far back, in seconds, the tick before a time is looked for, one after the other."""

LAST = datetime(9900, 1, 1, tzinfo=UTC).timestamp()
"""No schedule ticks later: the calendar of Python ends soon after."""


class Ticks(Protocol):
    """The times, in epoch seconds, at which something is to happen."""

    def after(self, time: float) -> float | None:
        """The first one behind a time; None where there is none any more."""

    def latest(self, after: float, until: float) -> float | None:
        """The last one behind `after` that is not behind `until`."""


class Interval:
    """Every so many `seconds`, counted from `anchor`.

    >>> Interval(3600).after(7200), Interval(3600).latest(0, 9000), Interval(60, anchor=5).after(0)
    (10800.0, 7200.0, 5.0)
    """

    def __init__(self, seconds: float, *, anchor: float = 0.0) -> None:
        # In whole milliseconds: the tick after a tick must not be that tick again.
        self._step = max(1, round(seconds * 1_000))
        self._anchor = round(anchor * 1_000)

    def after(self, time: float) -> float | None:
        if not time < LAST:
            return None
        return self._tick(self._count(time) + 1)

    def latest(self, after: float, until: float) -> float | None:
        found = self._tick(self._count(until))
        return found if found > after else None

    def _tick(self, count: int) -> float:
        return (self._anchor + count * self._step) / 1_000

    def _count(self, time: float) -> int:
        """The number of the last tick that is not behind a time."""
        count = int((time * 1_000 - self._anchor) // self._step)  # or one beside it: a float is not quite its number
        while self._tick(count) > time:
            count -= 1
        while self._tick(count + 1) <= time:
            count += 1
        return count


class Cron:
    """The times of a cron expression on the clocks of a zone.

    When clocks change it does what Debian's cron does: a time of day that is left out comes right after the change, one
    that comes twice counts the first time; where the minute or the hour is `*` or begins with it, ticks follow the time
    that really passes. Raises ValueError for what is no cron expression, and for one that never comes true.

    >>> cron = Cron("30 2 * * *", zone("Europe/Berlin"))
    >>> [moment(cron.after(datetime(2026, 3, day, 12, tzinfo=UTC).timestamp())).isoformat() for day in (27, 28, 29)]
    ['2026-03-28T01:30:00+00:00', '2026-03-29T01:00:00+00:00', '2026-03-30T00:30:00+00:00']
    """

    def __init__(self, text: str, zone: tzinfo) -> None:
        from cronsim import CronSim, CronSimError  # only who has schedules waits for its import

        self._simulate = CronSim
        self._zone = zone
        self._text = NAMES.get(text.strip().lower(), text)
        fields = self._text.split()
        if len(fields) == 6:
            raise ValueError(f"{text!r} has six fields; {FIELDS} (for seconds there is 'every')")
        if len(fields) != 5:
            hint = suggest(text.strip().lower(), NAMES) if text.strip().startswith("@") else None
            raise ValueError(f"{text[:80]!r} is no cron expression{f' ({hint})' if hint else ''}: {FIELDS}")
        try:
            found = self.after(0.0)
        except CronSimError as error:
            raise ValueError(f"{text[:80]!r} is no cron expression: {str(error).lower()}; {FIELDS}") from None
        if found is None:
            raise ValueError(f"{text[:80]!r} never comes true: there is no such day")

    def after(self, time: float) -> float | None:
        if not time < LAST:
            return None
        # An expression of fixed times of day goes by the clocks on the wall: where they are set back, what it gives
        # first may have been before.
        start = moment(math.ceil(time) - 1).astimezone(self._zone)
        for found in self._simulate(self._text, start):
            seconds = found.timestamp()
            if seconds > time:
                return seconds
        return None

    def latest(self, after: float, until: float) -> float | None:
        for span in SPANS:
            low = max(after, until - span)
            found = None
            time = self.after(low)
            while time is not None and time <= until:
                found = time
                time = self.after(time)
            if found is not None or low == after:
                return found
        return None


class Bounded:
    """Those ticks that are not before `start` and not behind `end`."""

    def __init__(self, ticks: Ticks, *, start: float | None, end: float | None) -> None:
        self._ticks = ticks
        self._start = -math.inf if start is None else math.nextafter(start, -math.inf)
        self._end = math.inf if end is None else end

    def after(self, time: float) -> float | None:
        found = self._ticks.after(max(time, self._start))
        return found if found is not None and found <= self._end else None

    def latest(self, after: float, until: float) -> float | None:
        return self._ticks.latest(max(after, self._start), min(until, self._end))


def zone(name: str) -> tzinfo:
    """The time zone of this name. Raises ValueError, with what may be meant.

    >>> zone("Europe/Berln")
    Traceback (most recent call last):
    ValueError: there is no time zone 'Europe/Berln' (did you mean 'Europe/Berlin'?)
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # of what is no name, no file, or not there
        pass
    known = available_timezones()
    if not known:
        raise ValueError(f"this system knows no time zones, not {name[:80]!r} either: install the package tzdata")
    hint = suggest(name, known)
    raise ValueError(f"there is no time zone {name[:80]!r}{f' ({hint})' if hint else ''}")


def local_time(text: str, of: tzinfo) -> float:
    """Epoch seconds of a time in RFC 3339; one without an offset is read on the clocks of a zone. Raises ValueError.

    >>> local_time("2026-07-01T00:00:00", zone("Europe/Berlin")) == local_time("2026-06-30T22:00:00Z", UTC)
    True
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is not a time: write 2031-05-01T09:00:00, or with an offset") from None
    try:
        return (time if time.tzinfo is not None else time.replace(tzinfo=of)).timestamp()
    except (OverflowError, OSError):
        raise ValueError(f"{text[:80]!r} is too far away") from None
