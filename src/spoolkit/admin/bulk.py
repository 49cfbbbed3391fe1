"""How is one thing done to many jobs? To each of them, also after it was refused for one.

Beside a store that stays locked they wait for it once, and not each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from spoolkit.admin import actions
from spoolkit.admin.lookup import UNFINISHED, Listing
from spoolkit.errors import JobStateError, SpoolkitError, StoreUnavailableError, UnknownJobError
from spoolkit.job import FINISHED, State
from spoolkit.store import database

WAITING = frozenset({State.QUEUED, State.RETRYING})
"""The states of a job that waits for its next attempt."""


@dataclass(frozen=True)
class BulkResult:
    """What an action did to the jobs of a selection."""

    #: How many jobs it was done to.
    done: int = 0
    #: Why it was refused for the others, by their ids.
    refused: dict[str, SpoolkitError] = field(default_factory=dict)
    #: Whether these were all jobs of the selection; otherwise do it again. Not where the store became unavailable.
    complete: bool = True
    #: The ids of the jobs that it was not tried for: the store became unavailable, or the time was over.
    not_tried: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manner:
    """How an action is done to many jobs."""

    #: Who does it, for the history of each job; ``None``: not known.
    by: str | None = None
    #: Seconds after which no further job is tried; ``None``: no limit.
    seconds: float | None = None


def cancel(found: Listing, manner: Manner = Manner(), *, force: bool = False) -> BulkResult:
    """Cancel those jobs that are not finished, as :func:`actions.cancel` does each."""
    return _each(found, UNFINISHED, partial(actions.cancel, force=force, by=manner.by), manner)


def retry(found: Listing, manner: Manner = Manner()) -> BulkResult:
    """Requeue those jobs that are dead, the oldest first, as :func:`actions.retry` does each."""
    return _each(found, {State.DEAD}, partial(actions.retry, by=manner.by), manner)


def run_now(found: Listing, manner: Manner = Manner()) -> BulkResult:
    """Make those jobs due that wait, the oldest first, as :func:`actions.run_now` does each."""
    return _each(found, WAITING, partial(actions.run_now, by=manner.by), manner)


def purge(found: Listing, manner: Manner = Manner()) -> BulkResult:
    """Delete the records of those jobs that are finished, and the files of the dead ones."""
    return _each(found, FINISHED, actions.purge_job, manner)


def _each(found: Listing, states: Iterable[State], act: Callable[[str], object], manner: Manner) -> BulkResult:
    done, refused, begun = 0, dict[str, SpoolkitError](), time.monotonic()
    ids = [status.id for status in reversed(found) if status.state in states]
    with database.waiting_once():
        for index, id in enumerate(ids):
            if manner.seconds is not None and time.monotonic() - begun > manner.seconds:
                return BulkResult(done, refused, complete=False, not_tried=tuple(ids[index:]))
            try:
                act(id)
            except UnknownJobError:
                pass  # its record was deleted since it was listed
            except StoreUnavailableError as error:
                return BulkResult(done, {**refused, id: error}, complete=False, not_tried=tuple(ids[index + 1 :]))
            except SpoolkitError as error:
                if not _is_done_by_itself(error, states):
                    refused[id] = error
            else:
                done += 1
    return BulkResult(done, refused, found.complete)


def _is_done_by_itself(error: SpoolkitError, states: Iterable[State]) -> bool:
    """Whether the job has left the states since it was listed: it is none of those that are asked for any more."""
    return isinstance(error, JobStateError) and error.state not in set(states)
