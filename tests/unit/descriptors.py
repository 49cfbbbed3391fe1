"""Which descriptors this process has open."""

from __future__ import annotations

import gc
import os


def descriptors() -> list[str]:
    """The numbers of the open descriptors, without those of earlier tests' garbage, which is collected at any time."""
    gc.collect()
    return os.listdir("/proc/self/fd")
