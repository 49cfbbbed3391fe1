"""Which ``retries``, ``backoff`` and ``timeout`` can be used? The same for a task and for one call of it. Pure."""

from __future__ import annotations

from datetime import timedelta

from spoolkit import times
from spoolkit.errors import ArgumentError, ArgumentTypeError, shown
from spoolkit.job import Backoff

MAX_RETRIES = 10_000
"""The most ``retries`` that a job may have."""

MIN_MEMORY, MAX_MEMORY = 1 << 20, 1 << 50
"""The bytes of ``memory``. With fewer no task does anything: a number of megabytes was meant."""

_WANTED = "give seconds or a timedelta, zero or more"


def retries(value: object) -> int:
    """Return the number of attempts after the first one. Raises :class:`ArgumentError`."""
    if type(value) is not int or not 0 <= value <= MAX_RETRIES:
        raise ArgumentError(f"retries is {shown(value)}: give a whole number, 0 to {MAX_RETRIES}", argument="retries")
    return value


def memory(value: object) -> int:
    """Return the bytes that an attempt may take. Raises :class:`ArgumentError`."""
    if type(value) is not int or not MIN_MEMORY <= value <= MAX_MEMORY:
        raise ArgumentError(f"memory is {shown(value)}: give bytes, {MIN_MEMORY} or more", argument="memory")
    return value


def timeout(value: object) -> float:
    """Return the seconds after which an attempt is over. Raises :class:`ArgumentError`."""
    if not (seconds := _seconds(value)):
        raise ArgumentError(
            f"timeout is {shown(value)}: give seconds or a timedelta, more than zero", argument="timeout"
        )
    return seconds


def backoff(value: object) -> float:
    """Return the seconds before the next attempt. Raises :class:`ArgumentError`."""
    if callable(value):
        raise ArgumentTypeError(
            f"backoff is {shown(value)}: a function does not travel with a job, {_WANTED}, or declare the task with it",
            argument="backoff",
            type_name=type(value).__qualname__,
        )
    if (seconds := _seconds(value)) is None:
        raise ArgumentError(f"backoff is {shown(value)}: {_WANTED}", argument="backoff")
    return seconds


def declared_backoff(value: Backoff | timedelta) -> Backoff:
    """Return the ``backoff`` of a task, which may be a function as well. Raises :class:`ArgumentError`."""
    if callable(value):
        return value
    if (seconds := _seconds(value)) is None:
        raise ArgumentError(
            f"backoff is {shown(value)}: {_WANTED}, or a function that returns them", argument="backoff"
        )
    return seconds


def _seconds(value: object) -> float | None:
    """The seconds that ``value`` is; ``None`` if it is no usable time."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= times.MAX_AHEAD:
        return None
    return value
