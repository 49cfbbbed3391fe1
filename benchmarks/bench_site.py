"""The site that the benchmarks run: one task that does almost nothing, with or without the store."""

from __future__ import annotations

import os
import struct
import time

from flask import Flask

from spoolkit import SpoolKit, spool
from spoolkit.attempt import runner

app = Flask(__name__)
SpoolKit(app)

_clock = os.open(os.environ["BENCH_CLOCK"], os.O_RDWR | os.O_CREAT, 0o600)


@spool
def nothing(number: int) -> None:
    """Note when the first job ran, and when the last."""
    now = struct.pack("d", time.monotonic())
    if os.fstat(_clock).st_size == 0:
        os.pwrite(_clock, now, 0)
    os.pwrite(_clock, now, 8)


if os.environ.get("BENCH_UNTRACKED"):

    def untracked(job, declared, *_):  # type: ignore[no-untyped-def]
        return runner.Ended(runner.attempt_untracked(job, declared))

    runner.attempt = untracked
