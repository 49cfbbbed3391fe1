"""``at`` and ``delay`` -> the unix time before which a job does not start. Pure."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

from spoolkit.errors import ScheduleError, shown

MAX_AHEAD = 10 * 365.25 * 86400.0
"""Seconds ahead that can still be meant; milliseconds given for seconds are far beyond it."""

_NUMBER_TEXT = re.compile(r"\d{1,20}(\.\d{1,9})?", re.ASCII)
"""Long enough for milliseconds and nanoseconds, which are refused as such."""


def run_at(at: object, delay: object, *, now: float) -> float | None:
    """When a job may start.

    ``at`` is a unix time in seconds (UTC; int or float) or an aware datetime, ``delay`` is seconds (int or float) or
    a timedelta; at most one of the two is given. ``now`` is unix time. Returns unix time, or ``None`` for at once.
    Raises :class:`ScheduleError` for anything that cannot be meant.
    """
    if at is not None and delay is not None:
        raise ScheduleError("at and delay were both given: give one of them", argument="delay")
    if at is not None:
        return _near(_at(at), now, "at", at)
    if delay is not None:
        return _near(now + _delay(delay), now, "delay", delay)
    return None


def seconds_from_text(text: str | bytes, *, argument: str = "at") -> float:
    """A number of seconds that came as text, in uWSGI's packet or in a query string.

    uWSGI's own reading takes ``tomorrow``, ``-5`` and ``1e9`` for some time in the past and runs the job at once;
    here only plain digits, with or without a fraction, pass. Raises :class:`ScheduleError`.
    """
    try:
        plain = text.decode("ascii") if isinstance(text, bytes) else text
    except UnicodeDecodeError:
        plain = ""
    if not _NUMBER_TEXT.fullmatch(plain):
        raise ScheduleError(
            f"{argument} is {shown(text)}: give seconds as digits, such as 30 or 1790000000", argument=argument
        )
    return float(plain)


def _at(at: object) -> float:
    if isinstance(at, datetime):
        if at.utcoffset() is None:
            raise ScheduleError(
                f"at is {shown(at)}, which has no time zone: give datetime.now(timezone.utc) + ..., or unix time",
                argument="at",
            )
        at = at.timestamp()
    return _seconds(at, "at", "unix time in seconds or an aware datetime")


def _delay(delay: object) -> float:
    if isinstance(delay, timedelta):
        return _seconds(delay.total_seconds(), "delay", "a timedelta of zero or more")
    return _seconds(delay, "delay", "seconds or a timedelta")


def _seconds(value: object, argument: str, wanted: str) -> float:
    # bool is an int to Python, but at=True is a mistake.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ScheduleError(f"{argument} is {shown(value)}: give {wanted}", argument=argument)
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not seconds >= 0:
        raise ScheduleError(f"{argument} is {shown(value)}: give {wanted}, zero or more", argument=argument)
    return abs(seconds)  # -0.0 is zero too


def _near(time: float, now: float, argument: str, given: object) -> float:
    if time - now > MAX_AHEAD:
        raise ScheduleError(
            f"{argument} is {shown(given)}, more than ten years ahead: give seconds, not milliseconds",
            argument=argument,
        )
    return time
