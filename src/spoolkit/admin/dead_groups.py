"""Why did so many jobs die? Those of one task, with one error at one place of the application's code, are one group.

The place is in the traceback of the last attempt, of which a record has the text alone. To read that of 100,000 jobs
takes seconds, so the newest :data:`MAX_EXAMINED` jobs are grouped, and whoever shows them says so.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from spoolkit.admin import lookup, redaction, tracebacks
from spoolkit.admin.tracebacks import Frame
from spoolkit.errors import SpoolUnavailableError, UnknownJobError
from spoolkit.job import State, Status
from spoolkit.spooldir import dead, spoolfile
from spoolkit.store import locations
from spoolkit.system import clock, files

MAX_EXAMINED = 1000
"""Records of dead jobs that are read at most, and files without a record."""

USUAL_LENGTH = len(spoolfile.PREFIX) + lookup.ID_LENGTH
"""Characters of the first name of a job's file."""

UNKNOWN = "no error is known"
"""The error of a job of which neither a type nor an ending is known."""


@dataclass
class Group:
    """Dead jobs that died in the same way."""

    #: Names the group as long as the code that failed stays the same.
    key: str
    #: The name of the task; ``None``: not known.
    task: str | None
    #: The name of the type of the error, or how the last attempt ended.
    error: str
    #: The last frame of the application in the newest traceback; ``None``: there is none.
    frame: Frame | None
    #: The jobs, the one that died last first.
    jobs: list[Status] = field(default_factory=list)

    @property
    def newest(self) -> Status:
        """The job that died last."""
        return self.jobs[0]

    @property
    def first(self) -> Status:
        """The job that died first, of those that were read."""
        return self.jobs[-1]

    def to_dict(self) -> dict[str, Any]:
        """The group for JSON, its jobs as ids. Times are unix seconds (UTC)."""
        return {
            "task": self.task,
            "error": self.error,
            "frame": self.frame and vars(self.frame),
            "newest": self.newest.finished_at,
            "first": self.first.finished_at,
            "jobs": [job.id for job in self.jobs],
        }


@dataclass(frozen=True)
class DeadJobs:
    """The dead jobs in groups, the largest one first."""

    #: The groups.
    groups: list[Group]
    #: How many dead jobs there are.
    total: int
    #: Whether the groups hold all of them, and not only the newest.
    complete: bool

    def group(self, key: str) -> Group:
        """Return the group with this key.

        Raises:
            UnknownJobError: There is no such group, or none any more.
        """
        for group in self.groups:
            if group.key == key:
                return group
        raise UnknownJobError("no dead job is in this group: they were retried or deleted, or newer ones came", job=key)


def find(until: float | None = None) -> DeadJobs:
    """Group the dead jobs.

    Args:
        until: Only those that had died by then, unix time in seconds (UTC); ``None``: all.

    Returns:
        The groups of the newest dead jobs, also of those without a record, and of files of other libraries.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: This process may not read the store.
    """
    locations.check_readable()
    until = clock.now() if until is None else until
    folders = lookup.dead_names()
    recorded = lookup.from_store(lambda: locations.store().deaths(until, MAX_EXAMINED)) or []
    named = set[str]().union(*folders.values())
    groups: dict[str, Group] = {}
    for status, traceback in recorded:
        # Without its file, it was moved back by hand, or it is lost.
        if not status.has_file or f"{spoolfile.PREFIX}{status.id}" in named or status.file in named:
            _add(groups, status, traceback)
    others = _unrecorded(folders, {status.id for status, _ in recorded})
    for status, traceback in others:
        if (status.finished_at or 0.0) <= until:
            _add(groups, status, traceback)
    for group in groups.values():
        group.jobs.sort(key=lambda status: status.finished_at or 0.0, reverse=True)
    found = sorted(groups.values(), key=lambda group: (-len(group.jobs), -(group.newest.finished_at or 0.0)))
    grouped = sum(len(group.jobs) for group in found)
    if len(recorded) < MAX_EXAMINED and len(others) < MAX_EXAMINED:
        return DeadJobs(found, grouped, complete=True)
    rows = lookup.from_store(lambda: locations.store().count_of(State.DEAD)) or 0
    return DeadJobs(found, max(len(named), rows, grouped), complete=False)


def _unrecorded(folders: dict[str, list[str]], known: set[str]) -> list[tuple[Status, str | None]]:
    """The dead jobs, and the files of other libraries, of which the store knows nothing: the newest ones."""
    paths: dict[str, str] = {}
    for folder, names in folders.items():
        # Names of the usual length are looked at only if they are among the newest: there may be 100,000.
        usual = [name for name in names if len(name) == USUAL_LENGTH]
        others = [name for name in names if len(name) != USUAL_LENGTH]
        for name in (*heapq.nlargest(MAX_EXAMINED + len(known), usual), *heapq.nlargest(MAX_EXAMINED, others)):
            if (id := lookup.id_of(name)) not in known:
                paths[id] = f"{folder}/{name}"
    ids, recorded = sorted(paths, reverse=True), set[str]()
    for start in range(0, len(ids), lookup.BATCH_SIZE):
        batch = ids[start : start + lookup.BATCH_SIZE]
        recorded |= (lookup.from_store(lambda ids=batch: locations.store().states(ids)) or {}).keys()  # type: ignore[misc]
    return list(_read(paths[id] for id in [id for id in ids if id not in recorded][:MAX_EXAMINED]))


def _read(paths: Iterator[str]) -> Iterator[tuple[Status, str | None]]:
    for path in paths:
        if not files.is_regular(path):
            continue
        report = dead.report(path)
        yield lookup.of_dead_file(path), report.get("traceback")


def _add(groups: dict[str, Group], status: Status, traceback: str | None) -> None:
    frame = tracebacks.last_own_frame(traceback) if isinstance(traceback, str) else None
    error = status.error_type or status.ending or _type_in(traceback) or UNKNOWN
    # Not the number of the line, which the next deploy moves, unless nothing else is known.
    where = None if frame is None else (os.path.basename(frame.file), frame.function, frame.code or frame.line)
    key = blake2b(repr((status.task, error, where)).encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()
    groups.setdefault(key, Group(key, status.task, error, frame)).jobs.append(status)


def _type_in(traceback: str | None) -> str | None:
    """The type of the error in the last line of a traceback."""
    if not isinstance(traceback, str) or not traceback.strip():
        return None
    name = traceback.strip().rpartition("\n")[2].partition(":")[0].rpartition(".")[2]
    return name if name.isidentifier() else None


def message(status: Status) -> str:
    """Return the message of the error of a dead job, as it may be shown: without secret arguments."""
    try:
        shown = redaction.details(lookup.details(status.id, newest=2)).status
    except (UnknownJobError, SpoolUnavailableError):  # it was retried, or deleted, meanwhile
        return ""
    return shown.error_message or ""
