"""When schedules tick: on the clocks of a zone, in the time that passes, and when clocks change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from durable_flow.clock import moment
from durable_flow.expr.ticks import SPANS, Bounded, Cron, Interval, Ticks, local_time, zone

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0

# Each with a day before its clocks are set forward, and one before they are set back.
CHANGES = {
    "Europe/Berlin": (datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)),
    "America/New_York": (datetime(2026, 3, 7, 12, tzinfo=UTC), datetime(2026, 10, 31, 12, tzinfo=UTC)),
    "Australia/Lord_Howe": (datetime(2026, 10, 3, 0, tzinfo=UTC), datetime(2026, 4, 3, 12, tzinfo=UTC)),
    "America/Santiago": (datetime(2026, 9, 5, 12, tzinfo=UTC), datetime(2026, 4, 4, 12, tzinfo=UTC)),
    "Africa/Casablanca": (datetime(2026, 3, 21, 12, tzinfo=UTC), datetime(2026, 2, 14, 12, tzinfo=UTC)),
}


def listed(ticks: Ticks, start: datetime, hours: float) -> list[float]:
    """The ticks of so many hours."""
    found, time = [], ticks.after(start.timestamp())
    while time is not None and time <= start.timestamp() + hours * HOUR:
        found.append(time)
        time = ticks.after(time)
    return found


def local(times: list[float], name: str) -> list[str]:
    return [moment(time).astimezone(zone(name)).strftime("%d %H:%M%z") for time in times]


@pytest.mark.parametrize(
    ("name", "text", "forward", "back"),
    [
        (
            "Europe/Berlin",
            "30 2 * * *",
            ["29 03:00+0200", "30 02:30+0200"],
            ["25 02:30+0200", "26 02:30+0100"],
        ),
        (
            "America/New_York",
            "15 1,2 * * *",
            ["08 01:15-0500", "08 03:00-0400"],
            ["01 01:15-0400", "01 02:15-0500"],
        ),
        (
            "Australia/Lord_Howe",
            "10 2 * * *",
            ["04 02:30+1100", "05 02:10+1100"],
            ["04 02:10+1100", "05 02:10+1030"],
        ),
        (
            "Europe/Berlin",
            "0,30 2 * * *",
            ["29 03:00+0200", "30 02:00+0200", "30 02:30+0200"],
            ["25 02:00+0200", "25 02:30+0200", "26 02:00+0100", "26 02:30+0100"],
        ),
        (
            "Europe/Berlin",
            "0 2-3 * * *",
            ["29 03:00+0200", "30 02:00+0200", "30 03:00+0200"],
            ["25 02:00+0200", "25 03:00+0100", "26 02:00+0100", "26 03:00+0100"],
        ),
    ],
)
def test_clock_changes(name: str, text: str, forward: list[str], back: list[str]) -> None:
    ticks = Cron(text, zone(name))
    spring, autumn = CHANGES[name]
    assert local(listed(ticks, spring, 40), name) == forward
    assert local(listed(ticks, autumn, 40), name) == back


# Where clocks change by half an hour, a full hour comes after half of one.
@pytest.mark.parametrize("name", sorted(set(CHANGES) - {"Australia/Lord_Howe"}))
@pytest.mark.parametrize(("text", "step"), [("*/15 * * * *", 15 * MINUTE), ("0 * * * *", HOUR), ("@hourly", HOUR)])
def test_what_follows_the_time_that_passes_leaves_nothing_out(name: str, text: str, step: float) -> None:
    for start in CHANGES[name]:
        found = listed(Cron(text, zone(name)), start, 48)
        assert {later - earlier for earlier, later in pairwise(found)} == {step}
        assert len(found) == 48 * HOUR / step


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.integers(2, max(2, high // 2)).map(lambda step: f"*/{step}"),
        st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}"),
        st.lists(number, min_size=2, max_size=3, unique=True).map(lambda numbers: ",".join(map(str, numbers))),
    )


EXPRESSIONS = st.builds(
    lambda *fields: " ".join(fields), field(0, 59), field(0, 23), st.just("*"), st.just("*"), field(0, 6)
)


def matches(text: str, low: int, high: int) -> set[int]:
    """What a field of an expression stands for."""
    found: set[int] = set()
    for part in text.split(","):
        if part.startswith("*"):
            found |= set(range(low, high + 1, int(part[2:] or 1)))
        else:
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return found


def expected(text: str, name: str, start: datetime, hours: int) -> Iterator[float]:
    """The ticks of so many hours, by looking at every minute."""
    minutes, hours_of, _, _, days = text.split()
    minute, hour, day = matches(minutes, 0, 59), matches(hours_of, 0, 23), matches(days, 0, 6)

    def fits(time: datetime) -> bool:
        return time.minute in minute and time.hour in hour and (time.weekday() + 1) % 7 in day

    place = zone(name)
    found = set()
    if minutes.startswith("*") or hours_of.startswith("*"):
        for number in range(1, hours * 60 + 1):
            time = start + timedelta(minutes=number)
            if fits(time.astimezone(place)):
                found.add(time.timestamp())
    else:
        # Every minute that a clock on the wall could show, on its first showing, or right after the gap it fell into.
        wall = start.astimezone(place).replace(tzinfo=None) - timedelta(hours=3)
        for number in range((hours + 6) * 60):
            shown = wall + timedelta(minutes=number)
            if fits(shown):
                while (there := shown.replace(tzinfo=place)).astimezone(UTC).astimezone(place) != there:
                    shown += timedelta(minutes=1)
                found.add(there.timestamp())
    end = start.timestamp() + hours * HOUR
    yield from sorted(time for time in found if start.timestamp() < time <= end)


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, st.sampled_from(sorted(CHANGES)), st.integers(0, 1), st.integers(-600, 900))
def test_ticks_are_those_of_a_clock_on_the_wall(text: str, name: str, change: int, shift: int) -> None:
    # The island where clocks change by half an hour has its note in docs/schedules.md.
    assume(name != "Australia/Lord_Howe" or not any(part.startswith("*") for part in text.split()[:2]))
    start = CHANGES[name][change] + timedelta(minutes=shift)
    assert listed(Cron(text, zone(name)), start, 36) == list(expected(text, name, start, 36))


@settings(max_examples=100, deadline=None)
@given(EXPRESSIONS, st.sampled_from(sorted(CHANGES)), st.integers(0, 1), st.integers(0, 3000), st.integers(0, 3000))
def test_the_latest_is_the_last_of_them(text: str, name: str, change: int, after: int, until: int) -> None:
    ticks, start = Cron(text, zone(name)), CHANGES[name][change].timestamp()
    low, high = start + after * MINUTE, start + (after + until) * MINUTE
    found = [time for time in listed(ticks, moment(low), until / 60 + 1) if time <= high]
    assert ticks.latest(low, high) == (found[-1] if found else None)


@given(st.floats(1, 100_000, allow_nan=False), st.integers(-(10**9), 10**9), st.floats(0, 2e9, allow_nan=False))
def test_intervals_have_one_length_and_stand_still(seconds: float, anchor: int, time: float) -> None:
    ticks = Interval(seconds, anchor=anchor)
    first = ticks.after(time)
    assert first is not None
    assert first > time
    second = ticks.after(first)
    assert second is not None
    assert second - first == pytest.approx(round(seconds, 3), abs=0.002)
    assert ticks.latest(first, second) == second
    assert ticks.latest(second, second + seconds / 2) is None


def test_bounds_are_kept_from_the_first_moment_to_the_last() -> None:
    ticks = Bounded(Interval(60), start=120, end=240)
    assert [ticks.after(time) for time in (0, 119, 120, 239, 240)] == [120, 120, 180, 240, None]
    assert (ticks.latest(0, 1_000), ticks.latest(0, 130), ticks.latest(0, 100)) == (240, 120, None)


def test_what_is_rare_is_found_however_far_back_it_is() -> None:
    ticks = Cron("0 0 29 2 *", UTC)
    now = datetime(2099, 1, 1, tzinfo=UTC).timestamp()
    assert ticks.latest(0, now) == datetime(2096, 2, 29, tzinfo=UTC).timestamp()
    assert SPANS[-1] > 50 * 366 * DAY


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cron("* * * *", UTC), "no cron expression: write five fields"),
        (lambda: Cron("0 0 0 * * *", UTC), "six fields"),
        (lambda: Cron("61 * * * *", UTC), "bad minute"),
        (lambda: Cron("@dayly", UTC), "did you mean '@daily'"),
        (lambda: Cron("0 0 30 2 *", UTC), "bad day-of-month"),
        (lambda: Cron("x" * 10_000, UTC), "no cron expression"),
        (lambda: zone("Europe/Berln"), "did you mean 'Europe/Berlin'"),
        (lambda: zone("/etc/passwd"), "no time zone"),
        (lambda: zone("../../etc/passwd"), "no time zone"),
        (lambda: zone(""), "no time zone"),
        (lambda: zone("\x00"), "no time zone"),
        (lambda: local_time("soon", UTC), "is not a time"),
    ],
)
def test_what_says_nothing_about_when_is_told(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("text", ["@daily", "@Midnight", "0 0 * * *", " 0  0 * * * "])
def test_names_stand_for_fields(text: str) -> None:
    assert Cron(text, UTC).after(0) == DAY


def test_there_is_an_end_of_time() -> None:
    assert Cron("* * * * *", UTC).after(1e15) is None
    assert Interval(60).after(1e15) is None
