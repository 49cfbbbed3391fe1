"""Which jobs of a spool directory are more urgent than another one? Those in folders of lower numbers.

``<number>/`` holds the jobs with that priority. Where a task is declared with a priority, normal jobs are in a folder
as well: uWSGI scans folders before files that are in none, so that nothing could be less urgent than these. It lists
the directory once per scan, and would take the jobs that it has found before one that comes later. So a spooler looks
into the folders before each job.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from spoolkit import registry
from spoolkit.job import NORMAL_PRIORITY
from spoolkit.spooldir import spoolfile
from spoolkit.system import files
from spoolkit.uwsgi import bridge, instance

LISTING = 1.0
"""Seconds, at least, between two listings of a spool directory in search of new folders."""

MANY = 100
"""Files of a folder from which on it is not listed before each job."""

SHARE = 20
"""How many times as long as a listing took it is until the next one of the same folder, if that has many files."""

MOST_TRIED = 1000
"""How many names are remembered that were tried already."""


def is_used() -> bool:
    """Return whether a task of this process is declared with a priority."""
    return bool(registry.this_process.priorities)


def are_scanned(spool_dir: str) -> bool:
    """Return whether what runs the jobs of the spool directory looks into the folders of priorities."""
    if (own := bridge.has_priorities()) is not None:
        return own
    now = time.monotonic()
    until, found = _scans.get(spool_dir, (0.0, False))
    if now >= until:
        running = instance.read(spool_dir)
        found = running is None or running.on("spooler-ordered")
        _scans[spool_dir] = now + LISTING, found
    return found


_scans: dict[str, tuple[float, bool]] = {}
"""What :func:`are_scanned` has found for a spool directory, and until when that is believed."""


def scanned(priority: int | None, spool_dir: str) -> int | None:
    """Return the priority in whose folder to write a job that no caller waits for, so that it cannot be refused.

    Args:
        priority: The priority of the job; ``None``: the normal one.
        spool_dir: The spool directory.

    Returns:
        The priority; ``None``: in no folder, where the job runs in any case.
    """
    if priority is None and is_used():
        priority = NORMAL_PRIORITY
    return priority if priority is not None and are_scanned(spool_dir) else None


def folder(spool_dir: str, priority: int | None) -> str:
    """Return the folder for the file of a job, which is made if it is missing. Raises ``OSError``."""
    if priority is None:
        return spool_dir
    path = os.path.join(spool_dir, str(priority))
    files.make_folder(path)
    return path


def of(path: str, spool_dir: str) -> int:
    """Return the priority of the job in the file ``path``, by the folder that it is in."""
    name = os.path.dirname(path).removeprefix(spool_dir).lstrip(os.sep)
    return int(name) if name.isascii() and name.isdigit() else NORMAL_PRIORITY


class Lookahead:
    """Finds the jobs that are more urgent than the next one of a scan.

    Args:
        spool_dir: The spool directory.
    """

    def __init__(self, spool_dir: str) -> None:
        self._spool_dir = spool_dir
        self._numbers: list[int] = []
        self._next_listing: dict[str, float] = {}
        """When a folder may be listed again, on the monotonic clock."""
        self._listed: dict[str, list[str]] = {}
        """The names that the last listing of a folder has found and that were not tried yet; the next one is the last.
        """
        self._tried: set[str] = set()
        """Names of files that were tried: another spooler may run them, for long."""

    def before(self, path: str) -> Iterator[str]:
        """Yield the due files that are more urgent than the file ``path``, the most urgent first, each only once."""
        priority = of(path, self._spool_dir)
        for number in self._folders():
            if number >= priority:
                break
            yield from self._due(f"{self._spool_dir}/{number}")
            if number == NORMAL_PRIORITY:
                # Of an earlier version of the code, or of a script that declares no priority.
                yield from self._due(self._spool_dir)

    def first_before(self, path: str) -> str | None:
        """Return the first of the files that :meth:`before` yields; ``None`` if there is none."""
        return next(self.before(path), None)

    def _folders(self) -> list[int]:
        if time.monotonic() >= self._next_listing.get("", 0.0):
            began = time.thread_time()
            found = {int(os.path.basename(folder)) for folder in spoolfile.priority_folders(self._spool_dir)}
            self._next_listing[""] = time.monotonic() + max(LISTING, SHARE * (time.thread_time() - began))
            self._numbers = sorted(found | registry.this_process.priorities | {NORMAL_PRIORITY})
        return self._numbers

    def _due(self, folder: str) -> Iterator[str]:
        names = self._listed.get(folder)
        if not names and time.monotonic() >= self._next_listing.get(folder, 0.0):
            began = time.thread_time()  # while this process stands still, it does not count
            names = self._listed[folder] = _names(folder)
            if len(names) > MANY:
                self._next_listing[folder] = time.monotonic() + SHARE * (time.thread_time() - began)
        while names:
            name = names.pop()
            if name not in self._tried and spoolfile.is_due(path := f"{folder}/{name}"):
                if len(self._tried) >= MOST_TRIED:
                    self._tried.clear()
                self._tried.add(name)
                yield path


def _names(folder: str) -> list[str]:
    """The names of the jobs in a folder, the first one last."""
    with contextlib.suppress(OSError):
        return sorted(filter(spoolfile.is_name_of_job, os.listdir(folder)), reverse=True)
    return []
