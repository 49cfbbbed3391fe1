"""What did the jobs of a benchmark do? Each run of a job appends one record of fixed size to a file."""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

FORMAT = struct.Struct("<qdd")
VARIABLE = "BENCH_RECORDS"


class Record(NamedTuple):
    """One run of one job."""

    #: The number of the job.
    number: int
    #: When it was enqueued or, if it was delayed, when it was due; seconds since 1970.
    stamp: float
    #: When it ran, seconds since 1970.
    at: float


def ran(number: int, stamp: float) -> int:
    """Append a record of this run. Every task of every rival does this and nothing else."""
    # Opened anew at each job: a rival may run it in any process, and some close what they inherit.
    descriptor = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, FORMAT.pack(number, stamp, time.time()))
    os.close(descriptor)
    return number


def count(path: str | Path) -> int:
    """How many runs the file holds."""
    try:
        return os.stat(path).st_size // FORMAT.size
    except FileNotFoundError:
        return 0


def read(path: str | Path, first: int = 0) -> list[Record]:
    """The runs in the file, in the order in which they were written, without the first ones."""
    whole = Path(path).read_bytes()[first * FORMAT.size :]
    return [Record(*values) for values in FORMAT.iter_unpack(whole[: len(whole) // FORMAT.size * FORMAT.size])]


def verdict(numbers: Iterable[int], expected: Iterable[int]) -> str:
    """Whether each job ran exactly once: an empty text, or what is wrong."""
    runs, wanted = Counter(numbers), set(expected)
    wrong = {
        "did not run": len(wanted - runs.keys()),
        "ran more than once": sum(times > 1 for times in runs.values()),
        "ran but were not due": len(runs.keys() - wanted),
    }
    return ", ".join(f"{jobs} {what}" for what, jobs in wrong.items() if jobs)
