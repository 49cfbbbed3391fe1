"""What does a check get (:class:`Site`), and what does it report (:class:`Finding`)?"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from spoolkit.spooldir import dead, places, spoolfile
from spoolkit.spooldir.places import Place
from spoolkit.uwsgi.instance import Instance

Severity = Literal["error", "warning"]

MAX_OF_ONE_KIND = 5
"""Findings of one kind that are reported one by one."""

START_COMMAND = "uwsgi --ini uwsgi.ini  # without uWSGI: flask spool run"
"""The remedy where no spooler runs."""


@dataclass(frozen=True)
class Finding:
    """One problem and how to solve it."""

    #: The short name of the check that found it, as docs/cli.md lists them.
    check: str
    #: What was found, and what it leads to.
    problem: str
    #: One thing to do: lines for uwsgi.ini, or a command.
    remedy: str
    #: ``error``: jobs do not run, or strangers can run code; ``warning``: that may happen later, or jobs are slow.
    severity: Severity = "error"


_PLACES = {place.name: place for place in places.PLACES}


class Entry(NamedTuple):
    """One name in the spool directory or in one of its folders, and what it refers to."""

    #: The absolute path.
    path: str
    #: The last part of the path.
    name: str
    #: The result of ``lstat()``.
    about: os.stat_result
    #: The folder of the spool directory that holds it; ``None``: the spool directory itself.
    folder: str | None

    @property
    def kind(self) -> int:
        """The type of the file, such as ``stat.S_IFREG``."""
        return stat.S_IFMT(self.about.st_mode)

    @property
    def is_scanned(self) -> bool:
        """Whether uWSGI scans it for jobs: it is in the spool directory or in a priority folder."""
        return self.folder is None or is_number(self.folder)

    @property
    def is_delayed(self) -> bool:
        """Whether it is in the folder of delayed jobs, or in the folder of a priority there."""
        return self.place is not None and self.place.name == spoolfile.LATER

    @property
    def place(self) -> Place | None:
        """The folder of spoolkit's own in which it is; ``None`` if it is in none of them."""
        return None if self.folder is None else _PLACES.get(self.folder.partition(os.sep)[0])

    @property
    def is_temporary(self) -> bool:
        """Whether it is a spool file that is being written: to ``dead/`` they are only moved."""
        is_in_place = self.place is not None and self.place.spool_files and self.place.name != dead.FOLDER
        return (self.is_scanned or is_in_place) and self.name.startswith(spoolfile.TEMPORARY)

    @property
    def is_job(self) -> bool:
        """Whether it is the spool file of a job that waits or runs."""
        return (
            (self.is_scanned or (self.place is not None and self.place.waits))
            and self.name.startswith(spoolfile.PREFIX)
            and self.name != spoolfile.TICKET
            and self.kind == stat.S_IFREG
        )

    @property
    def is_priority(self) -> bool:
        """Whether it is a priority folder."""
        return self.is_scanned and is_number(self.name) and self.kind == stat.S_IFDIR


class Site(NamedTuple):
    """What the checks examine."""

    #: The real path of the spool directory.
    spool_dir: str
    #: The path of the store.
    store: str
    #: How long a job may be due and still wait, in seconds.
    max_due_age: float
    #: The time of the examination, unix time in seconds (UTC).
    now: float
    #: The process ids of the living spoolers.
    spoolers: Sequence[int]
    #: The names in the spool directory and in its folders.
    entries: Sequence[Entry] = ()
    #: The options of uWSGI; ``None`` where no uWSGI is known.
    uwsgi: Instance | None = None
    #: The name of the queue whose directory it is; ``None``: it is the default one, or has no name.
    queue: str | None = None
    #: Whether spool files of other libraries are left closed: see :func:`~spoolkit.doctor.examine.examine`.
    only_own: bool = False

    def may_read(self, entry: Entry) -> bool:
        """Return whether a spool file may be opened."""
        return not self.only_own or spoolfile.id_of(entry.name) is not None

    def jobs(self) -> list[Entry]:
        """The spool files."""
        return [entry for entry in self.entries if entry.is_job]

    def due(self, seconds: float) -> list[Entry]:
        """The spool files that have been due for at least ``seconds``, and for which nothing else is to wait."""
        due = [job for job in self.jobs() if job.about.st_mtime <= self.now - seconds]
        return [job for job in due if job.is_scanned or job.is_delayed]

    def written_directories(self) -> dict[str, str]:
        """The directories that spoolkit writes to, each with the setting that names it."""
        found = {self.spool_dir: "SPOOLKIT_SPOOL"}
        found.setdefault(os.path.dirname(os.path.realpath(self.store)), "SPOOLKIT_STORE")
        return {path: setting for path, setting in found.items() if os.path.isdir(path)}


Check = Callable[[Site], Iterator[Finding]]
"""A check: it yields what is wrong with a site, and changes nothing."""


def limit_findings(findings: list[Finding]) -> Iterator[Finding]:
    """The first findings of one kind; the last one counts the rest."""
    yield from findings[:MAX_OF_ONE_KIND]
    if len(findings) > MAX_OF_ONE_KIND:
        rest = len(findings) - MAX_OF_ONE_KIND
        yield replace(findings[MAX_OF_ONE_KIND], problem=f"and {rest} more of the same kind")


def is_number(name: str) -> bool:
    """Whether uWSGI takes the name for a priority."""
    return name.isascii() and name.isdigit()


def printable(path: str) -> str:
    """The path for messages, whatever bytes it holds."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else repr(text)


def quoted(path: str) -> str:
    """The path as a word of a shell command."""
    return shlex.quote(printable(path))
