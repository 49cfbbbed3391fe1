"""What time is it, and how much time is left? All of spoolkit reads the clock here."""

from __future__ import annotations

import time

DEADLINE_CHECK = 0.1
"""Seconds between two checks, while waiting for a :class:`Deadline`, of whether it was brought forward."""

SAME_SIGNAL = 1.0
"""Seconds within which two signals count as one: a terminal signals a whole group, and a parent passes it on."""


class Deadline:
    """A moment on the monotonic clock, which may be brought forward while threads wait for it.

    Args:
        at: The moment, in seconds as ``time.monotonic()`` counts them.
    """

    def __init__(self, at: float) -> None:
        self.at = at

    @property
    def left(self) -> float:
        """Seconds until the deadline; 0 once it has passed."""
        return max(0.0, self.at - time.monotonic())

    def bring_forward(self) -> None:
        """Let the deadline pass now, unless it has passed already."""
        self.at = min(self.at, time.monotonic())


def now() -> float:
    """Return the current time: unix time in seconds (UTC)."""
    return time.time()
