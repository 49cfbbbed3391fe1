"""What time is it, and how much time is left? All of spoolkit reads the clock here."""

from __future__ import annotations

import time
from collections.abc import Callable

SAMPLE_TIME = 0.05
"""Seconds for which the value of a :class:`Sampled` is believed, unless it says otherwise."""

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


class Sampled:
    """A condition that is dear to look at, and asked for more often than it changes.

    Args:
        look: Returns whether it is true.
        seconds: How long the answer is believed.
    """

    def __init__(self, look: Callable[[], bool], seconds: float = SAMPLE_TIME) -> None:
        self._look = look
        self._seconds = seconds
        self._until = 0.0
        self._seen = False

    def __call__(self) -> bool:
        """Return whether it was true when it was last looked at."""
        if (now := time.monotonic()) >= self._until:
            self._seen, self._until = self._look(), now + self._seconds
        return self._seen


def now() -> float:
    """Return the current time: unix time in seconds (UTC)."""
    return time.time()
