"""The price of a job of a unique task beside that of a plain one, in turn, in one process: enqueued and run.

    .venv/bin/python -m benchmarks.unique [JOBS] [ROUNDS]

Each job has a key of its own. Prints the microseconds of CPU per job of each, the median of all rounds, and the median
of their ratios, which must be at most 1.3 for the whole of a job.
"""

from __future__ import annotations

import itertools
import logging
import os
import statistics
import sys
import tempfile

from flask import Flask

from benchmarks import machine
from benchmarks.many import cpu
from spoolkit import SpoolKit, application, spool
from spoolkit.admin import keys
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations

BAR = 1.3
"""The greatest ratio of a job that is enqueued and run."""


def main() -> int:
    jobs, rounds = (int(text) for text in (sys.argv[1:] + ["2000", "5"][len(sys.argv) - 1 :]))
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=machine.directory()) as folder:
        app = Flask(__name__)
        app.config.update(SPOOLKIT_SPOOL=os.path.join(folder, "spool"))
        SpoolKit(app)

        @spool(name="plain")
        def plain(number: int, text: str) -> None: ...

        @spool(name="unique", unique=("number",))
        def unique(number: int, text: str) -> None: ...

        def remove_keys() -> None:
            """What spoolers do from time to time."""
            for _ in range(jobs // 200):
                keys.last_removal.set(-keys.INTERVAL)
                keys.remove_some(locations.store(), application.settings())

        numbers = itertools.count()
        spooler = Spooler(os.path.join(folder, "spool"))
        prices: dict[str, list[tuple[float, float]]] = {"enqueue": [], "run": [], "both": []}
        with app.app_context():
            for task in (plain, unique):
                task(0, "the first job makes the folders")
            spooler.run_due()
            for _ in range(rounds):
                pairs = []
                for task in (plain, unique):
                    enqueued = cpu(lambda task=task: [task(next(numbers), "short") for _ in range(jobs)], jobs)  # type: ignore[misc]
                    ran = cpu(spooler.run_due, jobs)
                    pairs.append((enqueued, ran + cpu(remove_keys, jobs)))
                prices["enqueue"].append((pairs[0][0], pairs[1][0]))
                prices["run"].append((pairs[0][1], pairs[1][1]))
                prices["both"].append((sum(pairs[0]), sum(pairs[1])))
    print(f"{jobs} jobs, {rounds} rounds in turn, CPU per job")
    for what, measured in prices.items():
        one, other = (statistics.median(column) for column in zip(*measured, strict=True))
        ratio = statistics.median(other / one for one, other in measured)
        print(f"{what:8} plain {one:6.0f} µs, unique {other:6.0f} µs, ratio {ratio:5.2f}")
    return int(ratio > BAR)


if __name__ == "__main__":
    sys.exit(main())
