"""What is decided about schedules, against rules that are written down a second time, and simply."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_flow.model.schedule import Occasion, Range, ScheduleState
from durable_flow.model.workflow import ScheduleDef
from durable_flow.schedules import REMEMBERED, WATCHED, Decision, decide, tick_name
from tests.expr.test_ticks import EXPRESSIONS, expected, moment

START = 1_792_800_000.0
"""A Saturday in October: clocks in Europe are set back in the night."""

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Africa/Casablanca")


def plan(**keys: Any) -> ScheduleDef:
    return ScheduleDef(id="s", **{"every": 60.0, **keys})


class Play:
    """A schedule and a worker that is there at some times, and looks when it was told to."""

    def __init__(self, schedule: ScheduleDef, *, lasts: float, dies_in: float, up: list[tuple[float, float]]) -> None:
        self.schedule = schedule
        self.state = ScheduleState(timing=schedule.timing, after=START)
        self.lasts, self.dies_in = lasts, dies_in
        self.up = up
        self.ends: dict[str, float] = {}
        self.started: list[tuple[float, float]] = []
        """(tick, when) of what was started."""

    def play(self) -> list[tuple[float, float]]:
        for begin, end in self.up:
            now = begin
            while now < end:
                now = self.look(now)
        return self.started

    def look(self, now: float) -> float:
        """Does what is to be done; when to look again."""
        while True:
            running = [name for name in self.state.active if self.ends.get(name, now) > now]
            found = decide(self.state, self.schedule, schedule_id="w:s", now=now, running=running)
            # What is kept is what another worker reads.
            self.state = msgspec.json.decode(msgspec.json.encode(found.state), type=ScheduleState)
            for name in found.cancel:
                self.ends[name] = min(self.ends[name], now + self.dies_in)
            if found.start is not None:
                self.started.append((found.start.time, now))
                self.ends[tick_name("w:s", found.start)] = now + self.lasts
            times = [found.due, None if found.awaits is None else self.ends[found.awaits]]
            again = min((time for time in times if time is not None), default=float("inf"))
            if again > now:
                return again


def arrivals(ticks: list[float], up: list[tuple[float, float]], catch_up: str | float) -> list[tuple[float, float]]:
    """(tick, when a worker sees it) of those that are not missed."""
    found: list[tuple[float, float]] = []
    before = START
    for begin, end in up:
        missed = [tick for tick in ticks if before < tick <= begin]
        if catch_up != "all":
            back = 60.0 if isinstance(catch_up, str) else catch_up
            kept = [tick for tick in missed if begin - tick <= back]
            missed = kept or (missed[-1:] if catch_up == "latest" else [])
        found += [(tick, begin) for tick in missed]
        found += [(tick, tick) for tick in ticks if begin < tick < end]
        before = max([begin, *(tick for tick in ticks if tick < end)])
    return found


def meant(
    seen: list[tuple[float, float]], up: list[tuple[float, float]], overlap: str, lasts: float, dies_in: float
) -> list[tuple[float, float]]:
    """(tick, when) of what is to be started."""
    if overlap == "allow_all":
        return seen
    started: list[tuple[float, float]] = []
    over, waiting = 0.0, None  # until when something goes on, and what comes then

    def noticed(time: float) -> float | None:
        return next((max(time, begin) for begin, end in up if time < end), None)

    for tick, now in [*seen, (0.0, float("inf"))]:
        while waiting is not None and (then := noticed(over)) is not None and then <= now:
            started.append((waiting, then))
            over, waiting = then + lasts, None
        if now == float("inf"):
            break
        if over <= now and waiting is None:
            started.append((tick, now))
            over = now + lasts
        elif overlap == "buffer_one":
            waiting = tick if waiting is None else waiting
        elif overlap == "cancel_other":
            over, waiting = min(over, now + dies_in), tick
    return started


@st.composite
def times_at_work(draw: st.DrawFn) -> list[tuple[float, float]]:
    found, time = [], START
    for _ in range(draw(st.integers(1, 4))):
        begin = time + draw(st.integers(0, 400)) * 60 + 7
        time = begin + draw(st.integers(1, 300)) * 60 + 13
        found.append((begin, time))
    return found


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(EXPRESSIONS, st.sampled_from([60.0, 420.0, 3_600.0, 5_000.0])),
    st.sampled_from(ZONES),
    times_at_work(),
    st.sampled_from(["latest", "none", "all", 600.0, 7_200.0]),
    st.sampled_from(["skip", "buffer_one", "allow_all", "cancel_other"]),
    st.sampled_from([1.0, 33.0, 1_000.0, 20_000.0]),
    st.sampled_from([0.5, 90.5]),
)
def test_what_is_started_is_what_the_rules_say(
    timing: str | float,
    zone: str,
    up: list[tuple[float, float]],
    catch_up: str | float,
    overlap: str,
    lasts: float,
    dies_in: float,
) -> None:
    hours = int((up[-1][1] - START) // 3_600) + 2
    if isinstance(timing, str):
        schedule = plan(every=None, cron=timing, timezone=zone, catch_up=catch_up, overlap=overlap)
        ticks = list(expected(timing, zone, moment(START), hours))
    else:
        schedule = plan(every=timing, catch_up=catch_up, overlap=overlap)
        first = START // timing * timing + timing
        ticks = [first + number * timing for number in range(int(hours * 3_600 / timing))]
    seen = arrivals(ticks, up, catch_up)
    played = Play(schedule, lasts=lasts, dies_in=dies_in, up=up).play()
    assert played == meant(seen, up, overlap, lasts, dies_in)
    assert len({tick for tick, _ in played}) == len(played)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["in_order", "skip", "allow_all", "buffer_one"]), st.integers(1, 30), st.integers(0, 3))
def test_a_range_is_gone_through_once(overlap: str, count: int, there: int) -> None:
    schedule = plan(every=3_600.0)
    wanted = Range(after=START - count * 3_600 - 1, until=START - 1, overlap=overlap)
    state = ScheduleState(timing=schedule.timing, after=START, ranges=(wanted,))
    refused: dict[str, tuple[str, str | None]] = {}
    started: list[float] = []
    running: list[str] = []
    for _ in range(3 * count + 3):
        found = decide(state, schedule, schedule_id="w:s", now=START + 1, running=running, refused=refused)
        if found.start is None:
            state = found.state
            if found.awaits is None:
                break
            running = [name for name in running if name != found.awaits]
            continue
        name = tick_name("w:s", found.start)
        if len(refused) < there and len(started) == 1:
            refused[name] = ("exists", None)
            continue
        state, running = found.state, [*running, name]
        started.append(found.start.time)
    assert not state.ranges
    assert sorted(set(started)) == started
    if overlap in ("in_order", "allow_all"):
        assert len(started) + len(refused) == count


def test_what_is_kept_does_not_grow() -> None:
    schedule = plan(overlap="allow_all", catch_up="all")
    state = ScheduleState(timing=schedule.timing, after=START)
    sizes = []
    for number in range(200):
        now = START + 60 * (number + 1)
        state = decide(state, schedule, schedule_id="w:s", now=now, running=state.active).state
        sizes.append(len(msgspec.json.encode(state)))
    assert (len(state.active), len(state.told)) == (WATCHED, REMEMBERED)
    assert sizes[-1] == sizes[50]


def test_a_long_time_without_workers_takes_no_longer_than_a_short_one() -> None:
    schedule = plan(every=1.0, overlap="skip", catch_up="latest")
    state = ScheduleState(timing=schedule.timing, after=START)
    found = decide(state, schedule, schedule_id="w:s", now=START + 10 * 366 * 86_400, running=())
    assert found.start is not None
    for overlap in ("skip", "buffer_one", "cancel_other"):
        busy = msgspec.structs.replace(state, active=("x",))
        other = plan(every=1.0, overlap=overlap, catch_up="all")
        found = decide(busy, other, schedule_id="w:s", now=START + 10 * 366 * 86_400, running=("x",))
        assert found.state.after == START + 10 * 366 * 86_400


def test_the_clock_of_the_store_may_go_back() -> None:
    schedule = plan()
    state = ScheduleState(timing=schedule.timing, after=START)
    ahead = decide(state, schedule, schedule_id="w:s", now=START + 60, running=())
    behind = decide(ahead.state, schedule, schedule_id="w:s", now=START - 600, running=())
    assert (ahead.start, behind.start) == (Occasion(time=START + 60), None)
    assert behind.due == START + 120


@pytest.mark.parametrize(
    ("occasion", "name"),
    [
        (Occasion(time=START), "w:s:2026-10-24T00:00:00Z"),
        (Occasion(time=START + 0.25), "w:s:2026-10-24T00:00:00.250Z"),
        (Occasion(time=START, name="mine"), "mine"),
    ],
)
def test_the_id_of_an_execution_follows_from_its_tick(occasion: Occasion, name: str) -> None:
    assert tick_name("w:s", occasion) == name


def test_ids_of_long_names_are_short_enough_and_differ() -> None:
    names = {tick_name(f"{'w' * 128}:{letter * 128}", Occasion(time=START)) for letter in "ab"}
    assert len(names) == 2
    assert max(map(len, names)) <= 255


def test_a_decision_that_starts_something_says_when_to_look_again() -> None:
    schedule = plan(overlap="allow_all", catch_up="all")
    state = ScheduleState(timing=schedule.timing, after=START)
    found: Decision = decide(state, schedule, schedule_id="w:s", now=START + 120, running=())
    assert (found.start, found.due) == (Occasion(time=START + 60), START + 120)
    found = decide(found.state, schedule, schedule_id="w:s", now=START + 120, running=found.state.active)
    assert (found.start, found.due) == (Occasion(time=START + 120), START + 180)
