"""What is a `traceparent`, and what has to be ignored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_flow import ValidationError, parse_traceparent
from durable_flow.model.trace import LONGEST, check_traceparent

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize("flags", ["00", "01", "02", "ff"])
def test_one_of_todays_version_is_kept_as_it_is(flags: str) -> None:
    assert parse_traceparent(f"00-{TRACE}-{PARENT}-{flags}") == f"00-{TRACE}-{PARENT}-{flags}"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (f"01-{TRACE}-{PARENT}-01", GOOD),
        (f"cc-{TRACE}-{PARENT}-03-what-the-future-will-be-like", GOOD),
        (f"fe-{TRACE}-{PARENT}-02-", f"00-{TRACE}-{PARENT}-00"),
    ],
)
def test_one_of_a_version_to_come_becomes_one_of_todays(given: str, kept: str) -> None:
    assert parse_traceparent(given) == kept


WRONG = [
    "",
    "00",
    GOOD.upper(),
    f" {GOOD}",
    f"{GOOD} ",
    f"{GOOD}\n",
    f"{GOOD}-",
    f"{GOOD}-more",
    f"cc-{TRACE}-{PARENT}-01.more",
    f"cc-{TRACE}-{PARENT}-01-\x00",
    f"ff-{TRACE}-{PARENT}-01",
    f"0-{TRACE}-{PARENT}-01",
    f".0-{TRACE}-{PARENT}-01",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE[1:]}-{PARENT}-01",
    f"00-{TRACE}-{PARENT}0-01",
    f"00-{TRACE}-{PARENT}-1",
    f"00-{TRACE}-{PARENT}-g1",
    f"00-{TRACE}-{PARENT}",
    f"00_{TRACE}_{PARENT}_01",
    f"00-{TRACE[1:]}٣-{PARENT}-01",
    f"cc-{TRACE}-{PARENT}-01-{'x' * LONGEST}",
    7,
    GOOD.encode(),
    [GOOD],
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong)[:60])
def test_what_is_malformed_is_ignored_or_refused_where_it_was_said_on_purpose(wrong: object) -> None:
    assert parse_traceparent(wrong) is None
    with pytest.raises(ValidationError, match="a traceparent is 00-<32 hex digits>") as refused:
        check_traceparent(wrong)
    assert len(str(refused.value)) < 250


def test_none_is_none() -> None:
    assert check_traceparent(None) is None
    assert parse_traceparent(None) is None


@given(st.text(alphabet="0123456789abcdefg-", max_size=60) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-.*"))
def test_what_is_kept_is_always_one_of_todays_version(text: str) -> None:
    kept = parse_traceparent(text)
    if kept is not None:
        assert kept[3:52] == text[3:52]
        assert (len(kept), kept[:3]) == (55, "00-")
        assert parse_traceparent(kept) == kept
