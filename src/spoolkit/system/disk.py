"""Is a disk nearly full?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

MIN_FREE_BYTES = 50 * 1024 * 1024
"""Free bytes below which a disk is nearly full."""

MIN_FREE_SHARE = 0.01
"""The share of a disk's bytes, or of its inodes, below which it is."""


class Shortage(NamedTuple):
    """What a disk has too little of."""

    #: How much is left, for people: ``12 MB`` or ``300 inodes``.
    left: str
    #: The option of ``df`` that shows it.
    option: str


def shortages(path: str) -> Iterator[Shortage]:
    """Yield what the disk of ``path`` has too little of. Raises ``OSError``."""
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    if free < max(MIN_FREE_BYTES, MIN_FREE_SHARE * disk.f_blocks * disk.f_frsize):
        yield Shortage(f"{free >> 20} MB", "-h")
    if disk.f_files and disk.f_favail < MIN_FREE_SHARE * disk.f_files:
        yield Shortage(f"{disk.f_favail} inodes", "-i")
