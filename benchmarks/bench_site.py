"""The site that the benchmarks run: one task that does almost nothing, with or without the store."""

from __future__ import annotations

import os
import struct
import time

from flask import Flask

from spoolkit import SpoolKit, registry, spool
from spoolkit.attempt import in_process
from spoolkit.spooling import execute

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

    def untracked(job, content, file, store, config, working_directory):  # type: ignore[no-untyped-def]
        declared = registry.find(job.task)
        result = in_process.attempt_untracked(job, declared, config, 1)
        execute.settle_file(file, result)
        return result

    execute.execute_job = untracked
