"""Which figures are there, and by which labels? Values only: :mod:`~spoolkit.metrics.text` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spoolkit import registry
from spoolkit.admin import stats
from spoolkit.admin.stats import QueueFigures
from spoolkit.job import State
from spoolkit.spooldir import held, spoolers
from spoolkit.store import locations
from spoolkit.store.totals import Totals
from spoolkit.system import clock, files

UNREAD = "?"
"""Stands for the task of a job that is counted by the name of its file alone."""


@dataclass(frozen=True)
class Figures:
    """The figures of one moment."""

    #: The tasks that are declared or recorded.
    tasks: Sequence[str]
    #: The number of jobs by task and state. The task of a job whose file was not read is :data:`UNREAD`.
    jobs: Mapping[tuple[str, State], int]
    #: What all attempts tell that have ended.
    totals: Totals
    #: The figures of each queue.
    queues: Sequence[QueueFigures]
    #: How many jobs wait for a commit, by queue.
    held: Mapping[str, int]
    #: Whether spoolers fail to load the application, by queue.
    is_broken: Mapping[str, bool]
    #: How many jobs wait because their task is paused, by task.
    paused: Mapping[str, int]
    #: The most bytes of memory that a process had while it ran a job that was done in the last hour, by task.
    memory: Mapping[str, int]


def gather() -> Figures:
    """Return the figures of now. They are all there or none: what cannot be seen is an error, and not a zero.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: This process cannot read the store.
    """
    store = locations.store()
    store.check_usable()
    totals = store.totals()
    found = stats.gather(known_done=totals.done, run_times=False)
    recorded = {task for task, _ in (*found.counts, *totals.attempts)} - {UNREAD}
    return Figures(
        tasks=sorted({*registry.this_process.tasks, *recorded}),
        jobs=found.counts,
        totals=totals,
        queues=found.queues,
        held={queue.queue: _held(queue.directory) for queue in found.queues},
        is_broken={queue.queue: spoolers.load_error(queue.directory) is not None for queue in found.queues},
        paused=found.paused_tasks,
        memory=store.memory_by_task(clock.now() - stats.HOUR, stats.MAX_DURATIONS),
    )


def _held(spool_dir: str) -> int:
    try:
        return len(held.names(spool_dir))
    except OSError as error:
        raise files.unavailable(spool_dir, error) from error
