"""Which descriptors this process has open."""

from __future__ import annotations

import gc
import os

from spoolkit.store import write_behind


def descriptors() -> list[str]:
    """The numbers of the open descriptors, without those of earlier tests' garbage, which is collected at any time."""
    gc.collect()
    # Rows of earlier tests' jobs may still be written, for which a thread opens their store.
    writer = write_behind.writer()
    writer.flush()
    with writer._writing:
        return os.listdir("/proc/self/fd")
