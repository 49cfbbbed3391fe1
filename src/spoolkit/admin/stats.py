"""How is the site doing: jobs by task and state, the oldest due job, and the run times of the last hour?"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spoolkit import application
from spoolkit.admin import lookup
from spoolkit.admin.lookup import Files
from spoolkit.coordination import limits, pauses
from spoolkit.job import FINAL, State
from spoolkit.spooldir import gate, later, parked, spoolers
from spoolkit.store import locations
from spoolkit.system import clock

MAX_EXAMINED = 1000
"""How many waiting jobs, and how many dead ones, are read by default; the others are counted by their names alone."""

HOUR = 3600.0
"""Seconds."""

PERCENTILES = (50, 90, 99)
"""Per cent of the jobs whose longest run time is reported."""

MAX_KEYS = 10
"""How many keys of limits are reported."""

MAX_DURATIONS = 10_000
"""How many of the jobs that were done in the last hour are read for their run times, at most."""


@dataclass(frozen=True)
class QueueFigures:
    """The figures of one queue."""

    #: Its name; its spool directory where it has none.
    queue: str
    #: Its spool directory.
    directory: str
    #: How many jobs wait, are delayed or run.
    jobs: int
    #: How many of its spoolers run a job.
    running: int
    #: How many spoolers it has.
    spoolers: int
    #: ``open``, ``paused``, or ``drained``: until the next start of uWSGI.
    state: str
    #: How long the oldest due job has been waiting, in seconds, as :attr:`Statistics.oldest_due`.
    oldest_due: float | None = None
    #: How many of the jobs wait for room under their limit.
    parked: int = 0
    #: How many of the jobs are due and wait for nothing but a spooler.
    due: int = 0


@dataclass(frozen=True)
class Statistics:
    """The figures of one moment. Ages and durations are in seconds, ``None`` where there is nothing to measure."""

    #: The number of jobs by task and state.
    counts: dict[tuple[str, State], int]
    #: How long the oldest due job has been waiting (of those that were enqueued first, see :data:`MAX_EXAMINED`). A job
    #: whose task is paused is not due.
    oldest_due: float | None
    #: How many jobs were done in the last hour.
    done: int
    #: The run time that so many per cent of these jobs (of the last 10,000) did not exceed.
    percentiles: dict[int, float]
    #: The spool directories in which no job starts, each with ``paused`` or ``drained``.
    paused: dict[str, str]
    #: The tasks that are paused, in any spool directory, each with the number of jobs that wait for that reason alone.
    paused_tasks: dict[str, int] = field(default_factory=dict, kw_only=True)
    #: The spool directories for which no new spooler starts, each with the reason.
    broken: dict[str, str] = field(default_factory=dict)
    #: How many jobs wait for room under their limit, by its key: for the keys with the most of them.
    parked: dict[str, int] = field(default_factory=dict)
    #: False where not all waiting jobs were read: the rest is counted as ``queued``, with the task ``?``. Their number
    #: is exact all the same.
    complete: bool = True
    #: The figures of each queue, the default one first.
    queues: list[QueueFigures] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The figures as a dictionary for ``json.dumps()``."""
        return {
            "counts": [{"task": task, "state": str(state), "count": n} for (task, state), n in self.counts.items()],
            "oldest_due": self.oldest_due,
            "done_last_hour": self.done,
            "run_time": {f"p{share}": seconds for share, seconds in self.percentiles.items()},
            "paused": self.paused,
            "paused_tasks": self.paused_tasks,
            "broken": self.broken,
            "parked": self.parked,
            "complete": self.complete,
            "queues": [vars(queue) for queue in self.queues],
        }


def gather(
    *,
    max_examined: int = MAX_EXAMINED,
    files: Files | None = None,
    known_done: Mapping[str, int] | None = None,
    run_times: bool = True,
) -> Statistics:
    """Count the jobs now.

    Args:
        max_examined: How many waiting jobs, and how many dead ones, are read; the rest is counted by name alone.
        files: The result of :func:`lookup.list_files`; ``None``: all files are listed now.
        known_done: How many jobs are done, by task; ``None``: they are counted now.
        run_times: Whether anybody asks for the percentiles, for which 10,000 records are read; if not, there are none.

    Returns:
        The figures.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: This process may not read the store.
    """
    now = clock.now()
    locations.check_readable()
    # SQLite counts the finished jobs, of which there may be a million.
    ended = FINAL if known_done is None else FINAL - {State.DONE}
    counts = Counter(lookup.from_store(lambda: locations.store().counts(ended)) or {})
    counts.update({(task, State.DONE): number for task, number in (known_done or {}).items() if number})
    files = files or lookup.list_files()
    not_final = frozenset(State) - FINAL
    others = lookup.jobs(states=not_final, max_examined=max_examined, files=files)
    counts.update((status.task or "?", status.state) for status in others)
    if not others.complete:
        for known, number in (lookup.from_store(lambda: locations.store().counts(not_final)) or {}).items():
            counts[known] = max(counts[known], number)
        without_file = lookup.from_store(lambda: locations.store().counts(lookup.UNFINISHED, engine="thread")) or {}
        counted = sum(n for (_, state), n in counts.items() if state in lookup.UNFINISHED)
        counts["?", State.QUEUED] += max(0, len(files.waiting) - counted + sum(without_file.values()))
    running = {status.id for status in others if status.state is State.RUNNING}
    done = lookup.from_store(lambda: locations.store().done_since(now - HOUR)) or 0
    took = list[float]()
    if run_times:
        took = lookup.from_store(lambda: locations.store().durations(now - HOUR, MAX_DURATIONS)) or []
    queues = _queues(now, files, running, max_examined)
    return Statistics(
        dict(sorted(counts.items())),
        max((queue.oldest_due for queue in queues if queue.oldest_due is not None), default=None),
        done,
        percentiles(took),
        _paused(),
        _broken(),
        _parked(),
        others.complete,
        queues,
        paused_tasks=_paused_tasks(),
    )


def queues() -> list[QueueFigures]:
    """Return the figures of each queue, the default one first. No file is opened.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: This process may not read the store.
    """
    locations.check_readable()
    recorded = lookup.from_store(lambda: locations.store().statuses(states=[State.RUNNING])) or []
    running = {status.id for status in recorded if status.pid is not None}
    return _queues(clock.now(), lookup.list_files(), running, MAX_EXAMINED)


@dataclass
class _Folder:
    """A folder with jobs that wait."""

    #: The spool directory.
    spool_dir: str
    #: Whether the jobs wait because their task is paused, for room under a limit, or until they are due.
    is_paused: bool
    is_parked: bool
    is_delayed: bool
    #: The ids of the jobs.
    ids: list[str] = field(default_factory=list)


def _queues(now: float, files: Files, running: set[str], max_examined: int) -> list[QueueFigures]:
    config = application.settings()
    folders = _folders(files, locations.spool_dirs(config))
    found = []
    for spool_dir in locations.spool_dirs(config):
        own = [folder for folder in folders if folder.spool_dir == spool_dir]
        one = QueueFigures(
            locations.queue_name(spool_dir, config) or spool_dir,
            spool_dir,
            sum(len(folder.ids) for folder in own),
            len(spoolers.busy([spool_dir])),
            len(spoolers.pids(spool_dir)),
            gate.state(spool_dir) or "open",
            _oldest_due(now, own, files, running, max_examined),
            sum(len(folder.ids) for folder in own if folder.is_parked),
            _due(own, running),
        )
        found.append(one)
    return found


def _due(folders: Iterable[_Folder], running: set[str]) -> int:
    scanned = [one for one in folders if not (one.is_paused or one.is_parked or one.is_delayed)]
    return sum(len(one.ids) - len(running.intersection(one.ids)) for one in scanned)


def _folders(files: Files, spool_dirs: list[str]) -> Iterable[_Folder]:
    # What is asked of a path is asked once for each folder: there may be 100,000 paths.
    found: dict[str, _Folder] = {}
    for id, path in files.waiting.items():
        name = path[: path.rindex("/")]
        if (folder := found.get(name)) is None:
            spool_dir = next((one for one in spool_dirs if path.startswith(f"{one}/")), "")
            is_paused = pauses.is_parked(path)
            is_parked = not is_paused and parked.group_of(path) is not None
            is_delayed = path.startswith(os.path.join(spool_dir, later.FOLDER, ""))
            folder = found[name] = _Folder(spool_dir, is_paused, is_parked, is_delayed)
        folder.ids.append(id)
    return found.values()


def _paused() -> dict[str, str]:
    states = {spool_dir: gate.state(spool_dir) for spool_dir in locations.spool_dirs()}
    return {spool_dir: state for spool_dir, state in states.items() if state is not None}


def _paused_tasks() -> dict[str, int]:
    found = Counter[str]()
    for spool_dir in locations.spool_dirs():
        found.update(pauses.tasks(spool_dir))
    return dict(found)


def _broken() -> dict[str, str]:
    reasons = {spool_dir: spoolers.load_error(spool_dir) for spool_dir in locations.spool_dirs()}
    return {spool_dir: reason for spool_dir, reason in reasons.items() if reason is not None}


def _parked() -> dict[str, int]:
    found = Counter[str]()
    for spool_dir in locations.spool_dirs():
        found.update(limits.counts(spool_dir, MAX_KEYS))
    shown = Counter[str]()  # of several keys that are secret, none tells which one it is
    for key, count in found.most_common(MAX_KEYS):
        shown[limits.shown_key(key)] += count
    return dict(shown)


def _oldest_due(
    now: float, folders: Iterable[_Folder], files: Files, running: set[str], max_examined: int
) -> float | None:
    due = []
    for is_delayed in (False, True):
        # Apart: thousands of jobs that were enqueued earlier, and are not due yet, must not hide one that is.
        some = (folder.ids for folder in folders if not folder.is_paused and folder.is_delayed is is_delayed)
        ids = (id for id in itertools.chain.from_iterable(some) if id not in running)
        for id in heapq.nsmallest(max_examined, ids):
            with contextlib.suppress(FileNotFoundError):
                due.append(os.lstat(files.waiting[id]).st_mtime)
    oldest = min(due, default=now)
    return now - oldest if oldest < now else None


def percentiles(ascending: list[float]) -> dict[int, float]:
    """Return the number that so many per cent do not exceed, for each of :data:`PERCENTILES`; none of an empty list."""
    if not ascending:
        return {}
    return {share: ascending[min(len(ascending) - 1, len(ascending) * share // 100)] for share in PERCENTILES}
