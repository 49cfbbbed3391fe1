from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from spoolkit import lifetime
from spoolkit.engines import thread


@pytest.fixture(autouse=True)
def fresh_pool() -> Iterator[None]:
    """Each test has a pool of its own, with its own settings."""
    yield
    thread.drain(time.monotonic())
    thread._pools.pop(os.getpid(), None)
    lifetime._ends.clear()
