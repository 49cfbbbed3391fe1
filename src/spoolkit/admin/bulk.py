"""How is one thing done to many jobs? To each of them, also after it was refused for one.

Beside a store that stays locked they wait for it once, and not each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from spoolkit.admin import actions
from spoolkit.admin.lookup import UNFINISHED, Listing
from spoolkit.errors import JobStateError, SpoolkitError, StoreUnavailableError, UnknownJobError
from spoolkit.job import FINISHED, State
from spoolkit.store import database


@dataclass(frozen=True)
class BulkResult:
    """What an action did to the jobs of a selection."""

    #: How many jobs it was done to.
    done: int = 0
    #: Why it was refused for the others, by their ids.
    refused: dict[str, SpoolkitError] = field(default_factory=dict)
    #: Whether these were all jobs of the selection; otherwise do it again. Not where the store became unavailable.
    complete: bool = True
    #: The ids of the jobs that it was not tried for, because the store became unavailable.
    not_tried: tuple[str, ...] = ()


def cancel(found: Listing, *, force: bool = False) -> BulkResult:
    """Cancel those jobs that are not finished, as :func:`actions.cancel` does each."""
    return _each(found, UNFINISHED, lambda id: actions.cancel(id, force=force))


def retry(found: Listing) -> BulkResult:
    """Requeue those jobs that are dead, the oldest first, as :func:`actions.retry` does each."""
    return _each(found, {State.DEAD}, actions.retry)


def purge(found: Listing) -> BulkResult:
    """Delete the records of those jobs that are finished, and the files of the dead ones."""
    return _each(found, FINISHED, actions.purge_job)


def _each(found: Listing, states: Iterable[State], act: Callable[[str], object]) -> BulkResult:
    done, refused = 0, dict[str, SpoolkitError]()
    ids = [status.id for status in reversed(found) if status.state in states]
    with database.waiting_once():
        for index, id in enumerate(ids):
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
