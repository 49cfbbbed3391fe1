"""Which descriptors this process has open."""

from __future__ import annotations

import gc
import os
from pathlib import Path


def descriptors(below: Path | None = None) -> list[str]:
    """The numbers of the open descriptors, without those of earlier tests.

    Their garbage is collected before. A thread that one of them has left behind may open the store of that test at any
    time, so the files of stores do not count.

    Args:
        below: A folder. The files of stores in it count.
    """
    gc.collect()
    return [fd for fd in os.listdir("/proc/self/fd") if not _is_store_of_another(fd, below)]


def _is_store_of_another(fd: str, below: Path | None) -> bool:
    try:
        path = Path(os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)"))
    except OSError:  # the one of the listing
        return False
    return path.name.startswith("spoolkit.db") and (below is None or below not in path.parents)
