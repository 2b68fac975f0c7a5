"""Durations people write."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_flow.expr.duration import CEILING, format_duration, parse_duration


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90),
        (0.5, 0.5),
        ("90", 90),
        ("500ms", 0.5),
        ("30s", 30),
        ("15m", 900),
        ("2h", 7_200),
        ("1d", 86_400),
        ("1w", 604_800),
        ("1h30m", 5_400),
        ("1d 2h", 93_600),
        ("1.5h", 5_400),
        ("2H", 7_200),
        ("PT15M", 900),
        ("P1DT2H", 93_600),
        ("P2W", 1_209_600),
        ("PT0.5S", 0.5),
    ],
)
def test_a_duration_in_any_of_its_forms_is_seconds(written: Any, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "s",
        "m30",
        "30x",
        "30m1h",
        "1h1h",
        "P",
        "PT",
        "P1DT",
        "P1H",
        "P1M",
        "1e3",
        "-5s",
        "½h",
        "３0s",
        "15 minutes",
        "1/2h",
    ],
)
def test_other_text_is_refused_saying_what_is_allowed(written: str) -> None:
    with pytest.raises(ValueError, match="PT15M"):
        parse_duration(written)


@pytest.mark.parametrize("written", [True, False, None, [], {}, math.nan, b"5s"])
def test_what_is_neither_number_nor_text_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(written)


@pytest.mark.parametrize("written", [-1, -0.5, -math.inf])
def test_negative_durations_are_refused(written: float) -> None:
    with pytest.raises(ValueError, match="more than zero"):
        parse_duration(written)


@pytest.mark.parametrize("written", [0, 0.0, "0s", "PT0S"])
def test_zero_is_refused_unless_allowed(written: Any) -> None:
    assert parse_duration(written, allow_zero=True) == 0
    with pytest.raises(ValueError, match="more than zero"):
        parse_duration(written)


@pytest.mark.parametrize("written", [math.inf, 10**400, CEILING + 1, "36600d", "999999999999999w"])
def test_more_than_a_hundred_years_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match="100 years"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.25, "250ms"), (90, "1m30s"), (5_400, "1h30m"), (86_400, "1d"), (-60, "-1m")]
)
def test_a_duration_is_written_with_its_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(1, int(CEILING * 1_000)))
def test_what_is_formatted_can_be_parsed_again(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1_000)) == pytest.approx(milliseconds / 1_000)
