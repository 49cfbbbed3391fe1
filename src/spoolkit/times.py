"""When may a job start at the earliest and at the latest, and which values of a call's times are usable? Pure."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

from spoolkit.errors import ScheduleError, shown

MAX_AHEAD = 10 * 365.25 * 86400.0
"""The furthest time of a job, in seconds from now. A time in milliseconds, given by mistake, is far beyond it."""

_NUMBER_TEXT = re.compile(r"\d{1,20}(\.\d{1,9})?", re.ASCII)
"""It matches times in milliseconds and nanoseconds too: they are refused later, by an error that says so."""


def run_at(at: object, delay: object, *, now: float) -> float | None:
    """The time before which a job does not start.

    Args:
        at: Unix time in seconds (UTC), an int or a float, or an aware datetime.
        delay: Seconds from ``now`` on, an int or a float, or a timedelta. At most one of ``at`` and ``delay``.
        now: Unix time in seconds (UTC).

    Returns:
        Unix time in seconds (UTC), or ``None`` if the job may start at once.

    Raises:
        ScheduleError: ``at`` or ``delay`` is of another type, negative, without a time zone, or more than ten years
            ahead; or both are given.
    """
    if at is not None and delay is not None:
        raise ScheduleError("at and delay were both given: give one of them", argument="delay")
    if at is not None:
        return _checked(_at(at), now, "at", at)
    if delay is not None:
        return _checked(now + _delay(delay), now, "delay", delay)
    return None


def expires_at(expires: object, *, now: float) -> float:
    """The time from which on no attempt of a job starts.

    Args:
        expires: Seconds from ``now`` on, an int or a float; a timedelta; or an aware datetime, which may be past.
        now: Unix time in seconds (UTC).

    Returns:
        Unix time in seconds (UTC).

    Raises:
        ScheduleError: ``expires`` is of another type, negative, without a time zone, or more than ten years ahead.
    """
    time = _at(expires, "expires") if isinstance(expires, datetime) else now + _delay(expires, "expires")
    return _checked(time, now, "expires", expires)


def seconds(value: object, argument: str) -> float:
    """The seconds that an argument of a call gives.

    Args:
        value: A number of seconds, or a timedelta.
        argument: The name of the argument, for the error.

    Raises:
        ScheduleError: It is of another type, negative, or more than ten years.
    """
    return _checked(_delay(value, argument), 0.0, argument, value)


def seconds_from_text(text: str | bytes, *, argument: str = "at") -> float:
    """Read a number of seconds from text, such as a value of uWSGI's packet or of a query string.

    uWSGI itself takes ``tomorrow``, ``-5`` and ``1e9`` for a time in the past and runs the job at once. This function
    accepts only digits, with or without a fraction.

    Args:
        text: The text.
        argument: The name of the argument, for the error.

    Returns:
        The seconds.

    Raises:
        ScheduleError: The text is not a number in digits.
    """
    try:
        digits = text.decode("ascii") if isinstance(text, bytes) else text
    except UnicodeDecodeError:
        digits = ""
    if not _NUMBER_TEXT.fullmatch(digits):
        raise ScheduleError(
            f"{argument} is {shown(text)}: give seconds as digits, such as 30 or 1790000000", argument=argument
        )
    return float(digits)


def _at(at: object, argument: str = "at") -> float:
    if isinstance(at, datetime):
        if at.utcoffset() is None:
            raise ScheduleError(
                f"{argument} is {shown(at)}, which has no time zone: give datetime.now(timezone.utc) + ..., or "
                f"{'unix time' if argument == 'at' else 'seconds'}",
                argument=argument,
            )
        at = at.timestamp()
    return _seconds(at, argument, "unix time in seconds or an aware datetime")


def _delay(delay: object, argument: str = "delay") -> float:
    if isinstance(delay, timedelta):
        return _seconds(delay.total_seconds(), argument, "a timedelta of zero or more")
    return _seconds(delay, argument, "seconds or a timedelta" + " or an aware datetime" * (argument == "expires"))


def _seconds(value: object, argument: str, wanted: str) -> float:
    # For Python a bool is an int, but at=True is a mistake.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ScheduleError(f"{argument} is {shown(value)}: give {wanted}", argument=argument)
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not seconds >= 0:
        raise ScheduleError(f"{argument} is {shown(value)}: give {wanted}, zero or more", argument=argument)
    return abs(seconds)  # turns -0.0 into 0.0


def _checked(time: float, now: float, argument: str, given: object) -> float:
    """Return ``time``, unless it is too far ahead."""
    if time - now > MAX_AHEAD:
        raise ScheduleError(
            f"{argument} is {shown(given)}, more than ten years ahead: give seconds, not milliseconds",
            argument=argument,
        )
    return time
