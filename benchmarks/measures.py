"""One function for each figure: it takes a contender that runs, and gives values by the names of figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import machine, records
from benchmarks.contenders import Running
from benchmarks.figures import Figure, percentile


@dataclass(frozen=True)
class Size:
    """How much is measured in one round."""

    #: Jobs of a figure that is a rate.
    jobs: int = 2000


def steady(running: Running, size: Size) -> dict[str, float]:
    """Enqueue jobs one directly after the other, while the consumers run them."""
    first, cpu = records.count(running.file), running.cpu()
    answer = running.call(size.jobs)
    running.wait()
    cpu = running.cpu() - cpu
    runs = records.read(running.file, first)
    return {
        "enqueue": statistics.median(answer["took"]) * 1e6,
        "enqueue_p99": percentile(answer["took"], 99) * 1e6,
        "enqueue_cpu": answer["cpu"] / size.jobs * 1e6,
        "steady": size.jobs / (max(run.at for run in runs) - answer["began"]),
        "steady_cpu": cpu / size.jobs * 1e6,
    }


def drain(running: Running, size: Size) -> dict[str, float]:
    """Enqueue jobs while the consumers are paused, and let them continue."""
    first = records.count(running.file)
    machine.pause(running.consumers)
    try:
        answer = running.call(size.jobs)
        cpu, began = running.cpu(), time.time()
    finally:
        machine.resume(running.consumers)
    running.wait()
    cpu = running.cpu() - cpu
    runs = records.read(running.file, first)
    return {
        "enqueue_paused": statistics.median(answer["took"]) * 1e6,
        "drain": size.jobs / (max(run.at for run in runs) - began),
        "cpu": cpu / size.jobs * 1e6,
    }


@dataclass(frozen=True)
class Measure:
    """A function that measures, and what it measures."""

    run: Callable[[Running, Size], dict[str, float]]
    figures: tuple[Figure, ...]


MEASURES = {
    "enqueue": Measure(
        steady,
        (
            Figure("enqueue", "Enqueue, consumers on, p50", "µs"),
            Figure("enqueue_p99", "Enqueue, consumers on, p99", "µs"),
            Figure("enqueue_cpu", "CPU of the caller for a call", "µs"),
            Figure("steady", "Steady: enqueued and run", "jobs/s", more_is_better=True),
            Figure("steady_cpu", "CPU of consumers and broker for a job, steady", "µs"),
        ),
    ),
    "drain": Measure(
        drain,
        (
            Figure("enqueue_paused", "Enqueue, consumers paused, p50", "µs"),
            Figure("drain", "Drain", "jobs/s", more_is_better=True),
            Figure("cpu", "CPU of consumers and broker for a job, drain", "µs"),
        ),
    ),
}
