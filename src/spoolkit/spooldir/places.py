"""Which folders does a spool directory have? One table, for everything that lists, checks or sweeps the directory.

A folder is made when it is first used. None has a name that begins with a digit: uWSGI would take it for a priority.
"""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A folder of a spool directory, in which spoolkit alone writes: for its owner, on the same file system."""

    #: Its name, and that of the module or package which is about it.
    name: str
    #: Whether its files are spool files; otherwise they are small files of other kinds.
    spool_files: bool = False
    #: Whether these are accepted jobs that wait: they are listed, counted and cancelled like those that uWSGI scans.
    waits: bool = False
    #: Whether it has folders in it: of priorities, for example.
    has_folders: bool = False


PLACES = (
    Place("batches", spool_files=True, has_folders=True),
    Place("checkpoints"),
    Place("chunks", spool_files=True, has_folders=True),
    Place("compat"),
    Place("dead", spool_files=True),
    Place("held", spool_files=True, has_folders=True),
    Place("later", spool_files=True, waits=True, has_folders=True),
    Place("parked", spool_files=True, waits=True, has_folders=True),
    Place("running"),
    Place("schedules"),
    Place("sent", spool_files=True, waits=True, has_folders=True),
    Place("signing"),
    Place("spoolers"),
    Place("stacks"),
    Place("threads"),
    Place("unique"),
    Place("waiting"),
)
"""All of them, by name."""

NAMES = frozenset(place.name for place in PLACES)

WAITING = tuple(place.name for place in PLACES if place.waits)
"""The names of those that hold jobs which wait."""
