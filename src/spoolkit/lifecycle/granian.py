"""Under Granian: which process is a worker, and what runs before it exits?"""

from __future__ import annotations

import sys
from collections.abc import Callable


def is_worker() -> bool:
    """Whether this process, or the one that forked it, is a worker of Granian. Its main process only starts workers."""
    if "granian.server.mp" not in sys.modules:
        return False
    from multiprocessing import current_process  # 17 modules, which other sites need not load

    return current_process().name == "granian-worker"


def at_worker_end(end: Callable[[], None]) -> None:
    """Call ``end()`` when this worker exits gracefully."""
    from multiprocessing import util

    # A process of multiprocessing leaves without the functions of atexit before Python 3.14. These it calls.
    util.Finalize(None, end, exitpriority=0)
