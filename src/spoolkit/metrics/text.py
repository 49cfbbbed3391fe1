"""How are the figures written for Prometheus? By prometheus-client, the extra ``spoolkit[metrics]``.

Each time a new registry is filled with values that are read then. No process counts anything, so there is nothing to
add up over the processes of uWSGI, and nothing is lost with one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from spoolkit.job import State
from spoolkit.metrics import figures
from spoolkit.metrics.figures import Figures
from spoolkit.store.totals import MICROSECONDS, Histogram

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""The ``Content-Type`` of :func:`render`."""

Key = TypeVar("Key", tuple[str], tuple[str, str])

ALWAYS = ("done", "failed")
"""Endings that each task has, also while there is no such attempt: a counter that begins with 1 has not increased."""


def render() -> bytes:
    """Return the figures of now in Prometheus' text format.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: This process cannot read the store.
    """
    return generate_latest(_registry(figures.gather()))


def samples() -> list[dict[str, object]]:
    """Return the same as a list, each sample with its ``name``, ``labels`` and ``value``."""
    return [
        {"name": sample.name, "labels": sample.labels, "value": sample.value}
        for metric in _registry(figures.gather()).collect()
        for sample in metric.samples
    ]


def _registry(found: Figures) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(found))
    return registry


class _Collector(Collector):
    def __init__(self, found: Figures) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        found = self._found
        kinds = {*found.jobs, *((task, state) for task in found.tasks for state in State)}
        yield _gauge(
            "spoolkit_jobs",
            "Jobs that are recorded or have a file.",
            ("task", "state"),
            {(task, state): found.jobs.get((task, state), 0) for task, state in kinds},
        )
        yield from _of_queues(found)
        paused = {(task,): number for task, number in found.paused.items()}
        yield _gauge("spoolkit_paused_task_jobs", "Jobs that wait because their task is paused.", ("task",), paused)
        ends = {(task, ending): 0 for task in found.tasks for ending in ALWAYS} | dict(found.totals.attempts)
        attempts = CounterMetricFamily(
            "spoolkit_attempts", "Attempts that have ended, also of jobs that were deleted.", labels=("task", "ending")
        )
        for labels, number in sorted(ends.items()):
            attempts.add_metric([_label(label) for label in labels], number)
        yield attempts
        yield _histogram(
            "spoolkit_attempt_seconds", "How long attempts took whose end was seen.", found.tasks, found.totals.run
        )
        yield _histogram(
            "spoolkit_wait_seconds",
            "How long jobs that are done had waited, from when they were due until their first attempt.",
            found.tasks,
            found.totals.wait,
        )
        cpu = CounterMetricFamily("spoolkit_cpu_seconds", "Processor time of attempts, where known.", labels=("task",))
        for task in found.tasks:
            cpu.add_metric([_label(task)], found.totals.cpu.get(task, 0) / MICROSECONDS)
        yield cpu
        memory = {(task,): size for task, size in found.memory.items()}
        yield _gauge("spoolkit_memory_bytes", "The most memory of a job of the last hour.", ("task",), memory)


def _of_queues(found: Figures) -> Iterator[Metric]:
    queues = found.queues
    for name, text, values in (
        ("oldest_due_seconds", "How long the oldest job that is due has been waiting.", [q.oldest_due for q in queues]),
        ("queue_jobs", "Jobs that wait, are delayed or run.", [q.jobs for q in queues]),
        ("parked_jobs", "Jobs that wait for room under their limit.", [q.parked for q in queues]),
        ("held_jobs", "Jobs that wait for a commit.", [found.held[q.queue] for q in queues]),
        ("queue_paused", "Whether the queue is paused or drained.", [q.state != "open" for q in queues]),
        (
            "queue_broken",
            "Whether no new spooler starts, because the application cannot be loaded.",
            [found.is_broken[q.queue] for q in queues],
        ),
    ):
        of_queues = {(queue.queue,): value or 0 for queue, value in zip(queues, values, strict=True)}
        yield _gauge(f"spoolkit_{name}", text, ("queue",), of_queues)
    busy = {(queue.queue, "true"): queue.running for queue in queues}
    idle = {(queue.queue, "false"): max(0, queue.spoolers - queue.running) for queue in queues}
    yield _gauge("spoolkit_spoolers", "Spoolers that are alive.", ("queue", "busy"), busy | idle)


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[Key, float]) -> Metric:
    metric = GaugeMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        metric.add_metric([_label(label) for label in key], value)
    return metric


def _histogram(name: str, text: str, tasks: Iterable[str], found: Mapping[str, Histogram]) -> Metric:
    metric = HistogramMetricFamily(name, text, labels=("task",))
    for task in tasks:
        histogram = found.get(task) or Histogram()
        buckets = zip(map(floatToGoString, histogram.buckets), accumulate(histogram.buckets.values()), strict=True)
        metric.add_metric([_label(task)], [*buckets], histogram.microseconds / MICROSECONDS)
    return metric


def _label(text: str) -> str:
    # The path of a queue without a name may have bytes that are not UTF-8, which the format is written in.
    return text.encode("utf-8", "backslashreplace").decode()
