"""The one source of time."""

from __future__ import annotations

import time


def now() -> float:
    """The present, as unix time in seconds (UTC)."""
    return time.time()
