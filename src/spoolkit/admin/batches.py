"""What is known of a batch, for people?"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

from spoolkit.admin import lookup
from spoolkit.encoding import batch, packet
from spoolkit.errors import BatchStateError, DecodeError, NewerJobError, UnknownBatchError, UnknownJobError, shown
from spoolkit.job import FINISHED, BatchStatus, State
from spoolkit.spooldir import held, spoolfile
from spoolkit.store import locations

MAX_SHOWN = 20
"""Dead members that are named."""

MAX_NAMES = 1000
"""Names of files that are read for a batch that is not recorded."""


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


def find(id: str) -> BatchStatus | None:
    """Return what is known of the batch ``id``: what is recorded, or what its file says that was just committed.

    Raises:
        BatchStateError: It waits for a commit in this process.
        StoreUnavailableError: The store cannot be read.
    """
    # First: once it is held no more, it has a file.
    if held.find(id) is not None:
        raise BatchStateError(
            f"the batch {id} waits for the commit of its transaction: nothing is accepted, and there is nothing to ask "
            "or to wait for, before that",
            batch=id,
        )
    store = locations.store()
    # The store once more: meanwhile a spooler may have recorded it, and removed the file.
    return store.batch(id) or _in_file(id) or store.batch(id)


def _in_file(id: str) -> BatchStatus | None:
    """The batch whose transaction is committed, but whose members are not enqueued yet."""
    for spool_dir in filter(os.path.isdir, locations.spool_dirs()) if spoolfile.is_id(id) else ():
        with contextlib.suppress(OSError, DecodeError, NewerJobError):
            path = spoolfile.locate(spool_dir, id, max_entries=MAX_NAMES)
            data = None if path is None else spoolfile.peek(path)
            if data is not None and batch.is_batch(content := packet.load(data)):
                return batch.unpack(content).batch
    return None


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
    found = find(ids[0] if ids else id)
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
