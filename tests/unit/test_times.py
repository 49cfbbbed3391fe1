"""The time before which a job does not start: which values are read, and which are refused."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import times
from spoolkit.errors import ScheduleError

NOW = 1_790_000_000.25


@pytest.mark.parametrize(
    ("at", "delay", "expected"),
    [
        (None, None, None),
        (NOW + 5, None, NOW + 5),
        (1_790_000_010, None, 1_790_000_010.0),
        (5, None, 5.0),
        (datetime(1970, 1, 1, tzinfo=UTC), None, 0.0),
        (datetime(2026, 9, 21, 14, 13, 21, tzinfo=UTC), None, 1_790_000_001.0),
        (datetime(2026, 9, 21, 16, 13, 21, tzinfo=ZoneInfo("Europe/Rome")), None, 1_790_000_001.0),
        (None, 30, NOW + 30),
        (None, 0, NOW),
        (None, 0.5, NOW + 0.5),
        (None, timedelta(minutes=1), NOW + 60),
        (None, timedelta(days=2), NOW + 172_800),  # a library lost the days of a timedelta once
    ],
)
def test_run_at_gives_the_unix_time_of_at_or_delay(at: object, delay: object, expected: float | None) -> None:
    assert times.run_at(at, delay, now=NOW) == expected


@pytest.mark.parametrize(
    ("at", "delay", "argument"),
    [
        *((at, None, "at") for at in (datetime(2026, 1, 1), "1790000000", b"1", True, -1, math.nan, math.inf, [])),
        *(
            (at, None, "at")
            for at in (
                1_790_000_000_000,
                10**400,
                Decimal(5),
                datetime.max.replace(tzinfo=UTC),
                datetime(1960, 1, 1, tzinfo=UTC),  # before the epoch, as -1 is
            )
        ),
        *((None, delay, "delay") for delay in ("5", True, -1, -0.1, math.nan, math.inf, 10**9, timedelta(seconds=-1))),
        (5, 5, "delay"),
    ],
)
def test_run_at_refuses_an_unusable_at_or_delay_by_its_name(at: object, delay: object, argument: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        times.run_at(at, delay, now=NOW)
    assert refused.value.argument == argument
    assert argument in str(refused.value)


@pytest.mark.parametrize(
    ("expires", "expected"),
    [
        (60, NOW + 60),
        (0, NOW),  # at once, and not never
        (0.5, NOW + 0.5),
        (timedelta(minutes=1), NOW + 60),
        (datetime.fromtimestamp(NOW + 5, UTC), NOW + 5),
        (datetime.fromtimestamp(NOW - 5, UTC), NOW - 5),
    ],
)
def test_expires_at_counts_from_now_or_is_the_time_itself(expires: object, expected: float) -> None:
    assert times.expires_at(expires, now=NOW) == expected


@pytest.mark.parametrize(
    "expires", [datetime(2026, 1, 1), "5", True, -1, math.nan, math.inf, NOW, timedelta(seconds=-1), Decimal(5), []]
)
def test_expires_at_refuses_what_is_no_time_by_its_name(expires: object) -> None:
    with pytest.raises(ScheduleError, match="expires is") as refused:
        times.expires_at(expires, now=NOW)
    assert refused.value.argument == "expires"


@given(st.floats(0, times.MAX_AHEAD / 2))
def test_run_at_counts_a_delay_from_now(delay: float) -> None:
    assert times.run_at(None, delay, now=NOW) == NOW + delay


@given(st.text() | st.binary())
def test_seconds_from_text_gives_a_number_or_raises_for_any_text(text: str | bytes) -> None:
    try:
        seconds = times.seconds_from_text(text)
    except ScheduleError:
        return
    assert 0 <= seconds < 1e20


@pytest.mark.parametrize(("text", "seconds"), [("30", 30.0), (b"1790000000", 1_790_000_000.0), ("1.5", 1.5)])
def test_seconds_from_text_reads_digits(text: str | bytes, seconds: float) -> None:
    assert times.seconds_from_text(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " 5", "5 ", "-5", "+5", "1e9", "nan", "٣", "5.", ".5", "1_000", b"\xff", "9" * 21]
)
def test_seconds_from_text_refuses_anything_else(text: str | bytes) -> None:
    with pytest.raises(ScheduleError, match="delay is") as refused:
        times.seconds_from_text(text, argument="delay")
    assert refused.value.argument == "delay"


def test_run_at_refuses_times_more_than_ten_years_ahead() -> None:
    assert times.run_at(None, times.MAX_AHEAD, now=0.0) == 315_576_000.0
    with pytest.raises(ScheduleError):
        times.run_at(None, math.nextafter(times.MAX_AHEAD, math.inf), now=0.0)


def test_run_at_has_no_negative_zero() -> None:
    assert str(times.run_at(-0.0, None, now=NOW)) == "0.0"


def test_run_at_refuses_milliseconds_with_an_error_that_says_so() -> None:
    for text in ("1790000000000", "1790000000000000000"):
        with pytest.raises(ScheduleError, match="seconds, not milliseconds"):
            times.run_at(times.seconds_from_text(text), None, now=NOW)
