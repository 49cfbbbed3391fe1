"""The one source of time."""

from __future__ import annotations

import time

LOOK = 0.1
"""Seconds after which who waits for a :class:`Deadline` looks whether it was brought forward."""


class Deadline:
    """A moment on the monotonic clock, which may be brought forward while others wait for it."""

    def __init__(self, at: float) -> None:
        self.at = at

    @property
    def left(self) -> float:
        """Seconds until then, or 0."""
        return max(0.0, self.at - time.monotonic())

    def bring_forward(self) -> None:
        """Make it now, at the latest."""
        self.at = min(self.at, time.monotonic())


def now() -> float:
    """The present, as unix time in seconds (UTC)."""
    return time.time()
