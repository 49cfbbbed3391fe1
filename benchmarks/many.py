"""The caller's price of a row of ``map()`` beside that of a call, in turn, in one process: without and with spoolers.

    .venv/bin/python -m benchmarks.many [JOBS] [ROUNDS]

Prints the microseconds of CPU per job of each, the median of all rounds, and the median of their ratios. Then the same
for the spooler: draining jobs of a chunk beside draining jobs of calls.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

from flask import Flask

from benchmarks import machine
from spoolkit import SpoolKit, spool
from spoolkit.spooling.standalone import Spooler


def cpu(work: Callable[[], object], jobs: int) -> float:
    """Return the microseconds of CPU that ``work`` takes per job."""
    begun = time.process_time()
    work()
    return (time.process_time() - begun) / jobs * 1e6


def main() -> None:
    jobs, rounds = (int(text) for text in (sys.argv[1:] + ["2000", "5"][len(sys.argv) - 1 :]))
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=machine.directory()) as folder:
        app = Flask(__name__)
        app.config.update(SPOOLKIT_SPOOL=os.path.join(folder, "spool"))
        SpoolKit(app)

        @spool(name="nothing")
        def nothing(number: int, text: str) -> None: ...

        rows = [(number, "a short text") for number in range(jobs)]
        spooler = Spooler(os.path.join(folder, "spool"))
        prices: dict[str, list[tuple[float, float]]] = {"enqueue": [], "run": []}
        with app.app_context():
            nothing(0, "the first job makes the directory")
            spooler.run_due()
            for _ in range(rounds):
                calls = cpu(lambda: [nothing(*row) for row in rows], jobs)
                run_calls = cpu(spooler.run_due, jobs)
                mapped = cpu(lambda: nothing.map(rows), jobs)
                prices["enqueue"].append((calls, mapped))
                prices["run"].append((run_calls, cpu(spooler.run_due, jobs)))
    print(f"{jobs} jobs, {rounds} rounds in turn, CPU per job")
    for what, pairs in prices.items():
        one, many = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(many / one for one, many in pairs)
        print(f"{what:8} calls {one:6.0f} µs, map() {many:6.0f} µs, ratio {ratio:5.2f}")


if __name__ == "__main__":
    main()
