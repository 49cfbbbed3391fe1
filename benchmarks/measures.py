"""One function for each figure: it takes a contender that runs, and gives values by the names of figures."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks import machine, records
from benchmarks.contenders import PROJECT, Running
from benchmarks.figures import Figure, percentile

LOAD = 200
"""Jobs per second, for the latency under load."""


@dataclass(frozen=True)
class Size:
    """How much is measured in one round."""

    #: Jobs of a figure that is a rate.
    jobs: int = 2000

    @property
    def few(self) -> int:
        """Jobs of a figure that is a latency."""
        return min(self.jobs, 200)


def memory(running: Running, size: Size) -> dict[str, float]:
    """The memory of the consumers and the broker, which have run some jobs and are idle."""
    return {"memory": machine.pss_bytes(running.consumers + running.broker) / 1024**2}


def steady(running: Running, size: Size) -> dict[str, float]:
    """Enqueue jobs one directly after the other, while the consumers run them."""
    first, cpu = records.count(running.file), running.cpu_when_quiet()
    answer = running.call(size.jobs)
    running.wait()
    cpu = running.cpu_when_quiet() - cpu
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
    running.cpu_when_quiet()  # a consumer that is stopped between two jobs may hold a lock
    with running.paused():
        answer = running.call(size.jobs)
        cpu, began = running.cpu(), time.time()
    running.wait()
    cpu = running.cpu_when_quiet() - cpu
    runs = records.read(running.file, first)
    return {
        "enqueue_paused": statistics.median(answer["took"]) * 1e6,
        "drain": size.jobs / (max(run.at for run in runs) - began),
        "cpu": cpu / size.jobs * 1e6,
    }


def idle(running: Running, size: Size) -> dict[str, float]:
    """Enqueue one job at a time, each some time after the job before has run."""
    first = records.count(running.file)
    running.call(size.few, gap=0.02, wait=20)
    running.wait()
    return _percentiles("idle", _delays(running, first))


def load(running: Running, size: Size) -> dict[str, float]:
    """Enqueue jobs at a fixed rate, whether or not the jobs before have run."""
    first = records.count(running.file)
    running.call(size.jobs // 2, gap=1 / LOAD)
    running.wait()
    return _percentiles("load", _delays(running, first))


def late(running: Running, size: Size) -> dict[str, float]:
    """Enqueue jobs that are due within some seconds, at times that are not whole seconds."""
    first = records.count(running.file)
    running.call(min(size.jobs, 100), delay=[1.0, 5.0])
    running.wait()
    delays = _delays(running, first)
    return {**_percentiles("late", delays), "early": sum(delay < 0 for delay in delays)}


def http(running: Running, size: Size) -> dict[str, float]:
    """Visit a route that enqueues a job and one that does not, in turn."""
    if running.server is None:
        return {}
    seconds = min(2.0, size.jobs / 1000)
    bare, dispatching = [], []
    for _ in range(3):
        bare.append(_visit(running, "/bare", seconds))
        running.order({"numbers_from": running.enqueued})
        dispatching.append(_visit(running, "/dispatch", seconds))
        running.enqueued += dispatching[-1].answered
        running.wait()  # else the jobs would slow down the bare route
    without, rate = (statistics.median(visit.rate for visit in visits) for visits in (bare, dispatching))
    cpu_without, cpu = (statistics.median(visit.cpu for visit in visits) for visits in (bare, dispatching))
    return {
        "http_bare": without,
        "http": rate,
        "http_share": rate / without * 100,
        "http_cpu": (cpu - cpu_without) * 1e6,
    }


class _Visit(NamedTuple):
    """What visitors saw of one route."""

    answered: int
    #: Requests a second.
    rate: float
    #: Processor time of the HTTP process for a request, in seconds.
    cpu: float


def _visit(running: Running, path: str, seconds: float) -> _Visit:
    """Let visitors send requests for so long."""
    assert running.server is not None
    command = [sys.executable, "-m", "benchmarks.visitors", str(running.server.port), path, str(seconds)]
    pids = running.server.worker_pids()
    used = machine.cpu_seconds(pids)
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT).stdout
    used = machine.cpu_seconds(pids) - used
    answered, rate = answer.split()
    return _Visit(int(answered), float(rate), used / int(answered))


def _delays(running: Running, first: int) -> list[float]:
    """The milliseconds from the stamp of each job to its run."""
    return [(run.at - run.stamp) * 1000 for run in records.read(running.file, first)]


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}_p{percent}": percentile(values, percent) for percent in (50, 95, 99)}


def _latencies(name: str, title: str) -> tuple[Figure, ...]:
    return tuple(Figure(f"{name}_p{percent}", f"{title}, p{percent}", "ms") for percent in (50, 95, 99))


@dataclass(frozen=True)
class Measure:
    """A function that measures, and what it measures."""

    run: Callable[[Running, Size], dict[str, float]]
    figures: tuple[Figure, ...]
    #: Whether it is also measured with many delayed jobs pending.
    pending: bool = True


MEASURES = {
    # First, while the processes are still fresh.
    "memory": Measure(memory, (Figure("memory", "Memory of idle consumers and broker", "MB PSS"),)),
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
    "idle": Measure(idle, _latencies("idle", "Latency, idle")),
    "load": Measure(load, _latencies("load", f"Latency at {LOAD} jobs/s")),
    "late": Measure(
        late,
        (*_latencies("late", "Lateness of delayed jobs"), Figure("early", "Delayed jobs that ran early", "jobs")),
    ),
    "http": Measure(
        http,
        (
            Figure("http_bare", "Bare route", "requests/s", more_is_better=True),
            Figure("http", "Dispatching route", "requests/s", more_is_better=True),
            Figure("http_share", "Dispatching route relative to the bare one", "%", more_is_better=True),
            Figure("http_cpu", "CPU of the HTTP process for dispatching, beside a bare request", "µs"),
        ),
        pending=False,  # the stock spooler takes minutes to run the jobs of all visitors beside 50,000 others
    ),
}
