"""Which jobs does a filter find, a page at a time and newest first, and how many in which state?

A page begins after the id of the last job of the one before, so that no job is skipped, whatever came or went since,
and a late page costs no more than the first one. What no index helps to find is looked for in the next :data:`WINDOW`
records; then the page says how far it has looked, and the next one goes on from there.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from spoolkit import registry
from spoolkit.admin import lookup
from spoolkit.admin.filters import JobFilter
from spoolkit.admin.lookup import UNFINISHED, Files, Listing
from spoolkit.job import State, Status
from spoolkit.spooldir import spoolfile
from spoolkit.store import locations
from spoolkit.store.search import Search

WINDOW = 20_000
"""Records that are read for one page where no index helps."""

MAX_EXAMINED = 500
"""Files of waiting jobs, of dead ones, and records of unfinished jobs that are read for one page."""

MAX_ARGUMENTS = 100
"""Files that are read at once for their arguments, which takes longer."""

MAX_ROUNDS = 20
"""How often one page looks further, at most, while it is not full."""

ROUNDS_TIME = 0.05
"""Seconds after which a page that is not full looks no further."""

SELECT_TIME = 5.0
"""Seconds after which an action on all jobs that match looks for no more of them."""


@dataclass(frozen=True)
class Page:
    """Jobs that a filter has found."""

    #: The jobs, newest first.
    jobs: list[Status]
    #: Older jobs have an id less than this one; ``None``: there are none.
    older: str | None
    #: Whether the page is not full because it has looked at enough records.
    is_cut: bool = False


@dataclass(frozen=True)
class Counts:
    """How many jobs a filter finds."""

    #: By state.
    states: dict[State, int]
    #: The states of which there may be more than were counted.
    at_least: frozenset[State] = field(default=frozenset())

    def of(self, states: Iterable[State]) -> Counts:
        """Return the numbers for these states only."""
        wanted = set(states)
        return Counts({one: n for one, n in self.states.items() if one in wanted}, self.at_least & wanted)

    @property
    def total(self) -> int:
        """How many there are in all states."""
        return sum(self.states.values())

    def text(self, state: State | None = None) -> str:
        """The number of one state, or of all, for people: ``1,234``, or ``1,000+`` where there may be more."""
        number = self.total if state is None else self.states.get(state, 0)
        return f"{number:,}" + ("+" if (self.at_least if state is None else state in self.at_least) else "")


def page(wanted: JobFilter, *, before: str | None, limit: int, files: Files | None = None) -> Page:
    """Return the next jobs that a filter finds.

    Args:
        wanted: The filter.
        before: Only jobs with a smaller id; ``None``: the newest ones.
        limit: How many at most.
        files: The result of :func:`lookup.list_files`; ``None``: all files are listed now.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: This process may not read the store.
    """
    files = files or lookup.list_files()
    found, begun = list[Status](), time.monotonic()
    for _ in range(MAX_ROUNDS):
        listed = _list(wanted, before, limit + 1 - len(found), files)
        found += [status for status in listed if status.id >= listed.floor]
        before = listed.floor or None
        if len(found) > limit:
            return Page(found[:limit], found[limit - 1].id)
        if before is None or time.monotonic() - begun > ROUNDS_TIME:
            break
    return Page(found, before, is_cut=before is not None)


def _list(wanted: JobFilter, before: str | None, limit: int, files: Files) -> Listing:
    also = _search(wanted, before)
    listed = lookup.jobs(
        states=wanted.states,
        task=wanted.task or None,
        tag=wanted.tag or None,
        before=before,
        limit=limit if not wanted.arguments else None,
        max_examined=MAX_ARGUMENTS if wanted.arguments else MAX_EXAMINED,
        files=files,
        also=replace(also, tasks=(), tag=""),
        fits=replace(wanted, task="").fits,  # of a task, those with its earlier names are found too
    )
    if wanted.arguments:
        _keep_by_arguments(wanted, listed, limit)
    return listed


def _search(wanted: JobFilter, before: str | None = None) -> Search:
    """The filter as a search in the records, in a window of them if it is a slow one."""
    also = Search(
        tasks=tuple(registry.names_of(wanted.task)) if wanted.task else (),
        tag=wanted.tag,
        queue=wanted.queue,
        prefix=wanted.id,
        error=wanted.error,
        # Numbers and booleans are written differently by people: see filters._texts().
        texts=tuple(value for _, value in wanted.arguments if value not in ("None", "True", "False")),
    )
    return replace(also, down_to=locations.store().window(before or "", WINDOW)) if also.is_slow else also


def _keep_by_arguments(wanted: JobFilter, listed: Listing, limit: int) -> None:
    """Remove the jobs with other arguments, and what is over the limit."""
    kept = list[Status]()
    for start in range(0, len(listed), lookup.BATCH_SIZE):
        batch = listed[start : start + lookup.BATCH_SIZE]
        known = locations.store().arguments_of([status.id for status in batch])
        for status in batch:
            data = known.get(status.id) or (lookup.arguments_in_file(status) if status.has_file else None)
            if data is not None and _fits(wanted, status.task, data):
                kept.append(status)
                if len(kept) == limit:
                    listed.floor = max(listed.floor, status.id)
                    listed[:] = kept
                    return
    listed[:] = kept


def _fits(wanted: JobFilter, task: str | None, data: bytes) -> bool:
    try:
        args, kwargs = json.loads(data)  # the tagged JSON itself: to decode it would call code of the application
    except (ValueError, RecursionError):  # damaged, or of another format
        return False
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return False
    declared = None if task is None else registry.this_process.get(task)
    return wanted.fits_arguments(args, kwargs, None if declared is None else declared.signature)


def count(wanted: JobFilter, files: Files | None = None, first: Page | None = None) -> Counts:
    """Return how many jobs a filter finds in each state, whichever states it names.

    Args:
        wanted: The filter.
        files: The result of :func:`lookup.list_files`; ``None``: all files are listed now.
        first: Its first page, if that is known: it may be all.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: This process may not read the store.
    """
    if first is not None and first.older is None and not wanted.states:
        return tally(first.jobs)
    files, wanted = files or lookup.list_files(), wanted.with_states(())
    also = _search(wanted)
    at_least = frozenset(State) if also.down_to else frozenset()
    if wanted.arguments:
        # Those in files, and those of which no arguments were kept, would have to be read one by one.
        rows = locations.store().with_arguments(also, MAX_EXAMINED)
        states = Counter(state for _, task, state, data in rows if _fits(wanted, task, data))
        return Counts(dict(states), frozenset(State))
    states = Counter(locations.store().count_states(also))
    if wanted.task or wanted.tag or wanted.queue:
        waiting = _list(wanted.with_states({State.QUEUED}), None, MAX_EXAMINED, files)
        states[State.QUEUED] = len(waiting)
        at_least |= frozenset() if waiting.complete else {State.QUEUED}
    elif not wanted.error:  # by their names: those of which nothing is recorded wait
        named = sum(id.startswith(wanted.id) for id in files.waiting)
        without_file = locations.store().counts(UNFINISHED, engine="thread") if not wanted.id else {}
        recorded = sum(states[state] for state in UNFINISHED) - sum(without_file.values())
        states[State.QUEUED] += max(0, named - recorded)
    return Counts({state: states[state] for state in State if states[state]}, at_least)


def tally(jobs: Iterable[Status]) -> Counts:
    """Return how many of these jobs are in which state."""
    return Counts(dict(Counter(job.state for job in jobs)))


def select(wanted: JobFilter, *, until: str, limit: int) -> Listing:
    """Return the jobs that a filter finds, for an action on all of them.

    Args:
        wanted: The filter.
        until: An id: jobs that came later, with a greater one, are left alone.
        limit: How many at most. Where there are more, the list is not ``complete``.
    """
    found, before, begun = Listing(), None, time.monotonic()
    files = lookup.list_files()
    while True:
        next_page = page(wanted, before=before, limit=limit - len(found), files=files)
        # The file of another library has no id that tells when it came.
        found += [job for job in next_page.jobs if job.id <= until or not spoolfile.is_id(job.id)]
        if next_page.older is None or len(found) >= limit or time.monotonic() - begun > SELECT_TIME:
            found.complete = next_page.older is None
            return found
        before = next_page.older
