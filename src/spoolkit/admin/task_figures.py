"""How does each task do: how many jobs, how fast, how many of them fail?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spoolkit import registry
from spoolkit.admin import stats
from spoolkit.admin.stats import HOUR, MAX_DURATIONS, Statistics
from spoolkit.job import State
from spoolkit.store import locations
from spoolkit.system import clock


@dataclass(frozen=True)
class TaskFigures:
    """The figures of one task. Those of the last hour are of jobs that ended within it."""

    #: The name of the task; ``?`` stands for jobs of which only the file's name was read.
    task: str
    #: The engine that carries its jobs; ``None``: this process does not declare it.
    engine: str | None
    #: Whether it is paused, in any spool directory.
    paused: bool
    #: How many jobs there are, by state.
    jobs: Mapping[State, int]
    #: How many jobs were done in the last hour.
    done: int
    #: How many jobs died in the last hour.
    died: int
    #: The run time in seconds that so many per cent of those that were done did not exceed.
    percentiles: Mapping[int, float]
    #: The most processor time in seconds that one of those that were done took; ``None``: it is not known.
    cpu: float | None
    #: The most bytes of memory; ``None``: it is not known.
    memory: int | None

    @property
    def failed_share(self) -> float | None:
        """The share of the jobs of the last hour that died, from 0 to 1; ``None``: none ended."""
        ended = self.done + self.died
        return self.died / ended if ended else None


def of_tasks(figures: Statistics) -> list[TaskFigures]:
    """Return the figures of all tasks that are declared here or have jobs, by name.

    Args:
        figures: The result of :func:`~spoolkit.admin.stats.gather`.

    Raises:
        StoreUnavailableError: The store cannot be read.
    """
    since, store = clock.now() - HOUR, locations.store()
    ended = store.ends_by_task(since, (State.DONE, State.DEAD))
    costs = store.costs_by_task(since, MAX_DURATIONS)
    declared = registry.this_process.tasks
    names = {*declared, *(task for task, _ in figures.counts), *figures.paused_tasks}
    found = []
    for name in sorted(names):
        cost = costs.get(name)
        found.append(
            TaskFigures(
                name,
                declared[name].engine if name in declared else None,
                name in figures.paused_tasks,
                {state: figures.counts[name, state] for state in State if (name, state) in figures.counts},
                ended.get((name, State.DONE), 0),
                ended.get((name, State.DEAD), 0),
                stats.percentiles(cost.seconds) if cost else {},
                cost.cpu if cost else None,
                cost.memory if cost else None,
            )
        )
    return found
