"""What is known of a batch, for people?"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from spoolkit.admin import lookup
from spoolkit.errors import UnknownBatchError, UnknownJobError, shown
from spoolkit.job import FINISHED, BatchStatus, State
from spoolkit.store import locations

MAX_SHOWN = 20
"""Dead members that are named."""


@dataclass(frozen=True)
class BatchDetails:
    """A batch, and what people ask of it first."""

    #: What is recorded of it.
    status: BatchStatus
    #: The state of its latest callback; ``None``: there is none, or its record was deleted.
    callback_state: State | None
    #: The ids of the first members that are dead.
    dead: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON. Times are unix seconds (UTC)."""
        found = self.status
        return {
            "id": found.id,
            "name": found.name,
            "on_death": found.on_death,
            "created_at": found.created_at,
            "completed_at": found.completed_at,
            "generation": found.generation,
            "callback": found.callback,
            "callback_state": None if self.callback_state is None else str(self.callback_state),
            "total": sum(found.members.values()),
            "ended": sum(number for state, number in found.members.items() if state in FINISHED),
            "members": {str(state): number for state, number in found.members.items()},
            "dead": list(self.dead),
        }


def details(id: str) -> BatchDetails:
    """Return what is known of a batch.

    Args:
        id: The id of the batch, or the beginning of it if no other batch begins so.

    Raises:
        UnknownBatchError: There is no record of the batch, or there are several.
        StoreUnavailableError: The store cannot be read.
    """
    store = locations.store()
    ids = store.batch_ids(id)
    if len(ids) > 1:
        raise UnknownBatchError(f"several batches begin with {shown(id)}: give more characters", batch=id)
    found = store.batch(ids[0]) if ids else None
    if found is None:
        raise UnknownBatchError(
            f"the batch {shown(id)} is unknown: it was never accepted, or its record was deleted", batch=id
        )
    callback_state = None
    if found.callback is not None:
        with contextlib.suppress(UnknownJobError):
            callback_state = lookup.find(found.callback).state
    dead = tuple(job for job, ended in store.batch_members(found.id) if ended is State.DEAD)
    return BatchDetails(found, callback_state, dead[:MAX_SHOWN])
