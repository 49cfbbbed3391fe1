"""What is there around a job: why does it wait, what has it stored, and which other jobs belong to it?"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass

from spoolkit import registry
from spoolkit.admin import lookup, words
from spoolkit.coordination import chains, limits
from spoolkit.encoding import codec, redact
from spoolkit.errors import DecodeError, StoreUnavailableError, UnknownJobError, counted
from spoolkit.job import BatchStatus, State, Status
from spoolkit.spooldir import checkpoints, gate, spoolers
from spoolkit.store import locations
from spoolkit.system import clock

MAX_SAME_TIME = 20
"""Ids of the same nanosecond among which the job before another one in its chain is looked for."""

ID_TIME = 16
"""Characters of an id that are its time; the jobs of one chain have the same ones."""


@dataclass(frozen=True)
class Chain:
    """The jobs beside a job in its chain; ``None`` where there is none, or its record was deleted."""

    #: The one whose end made this one.
    before: str | None = None
    #: The one that this one's end has made.
    after: str | None = None


def reasons_to_wait(status: Status, *, with_keys: bool = True) -> list[str]:
    """Return why a job does not run now, the strongest reason first; nothing unless it waits.

    Args:
        status: The job.
        with_keys: Whether the key of its limit is told, which is made of arguments.
    """
    if status.state not in (State.QUEUED, State.RETRYING):
        return []
    now, found = clock.now(), []
    if status.expires_at is not None and status.expires_at <= now:
        found.append("it has expired, and ends as cancelled when a spooler looks at it")
    if status.task is not None and registry.this_process.get(status.task) is None:
        found.append(f"its task {status.task} is not declared in this process")
    if status.paused:
        found.append("its task is paused")
    if not status.has_file:
        return [*found, "a thread of its process has to be free"]
    spool_dir = locations.spool_dir_of(status.queue)
    if (closed := gate.state(spool_dir)) is not None:
        found.append("its queue is paused" if closed == "paused" else "its queue is drained until the next start")
    if status.parked_for is not None:
        key = limits.shown_key(status.parked_for) if with_keys else "its task"
        found.append(f"it waits for room under the limit of {key}")
    if status.slot_at is not None and status.slot_at > now:
        found.append(f"it waits for its slot under the rate of its task, {words.ago(status.slot_at)}")
    elif status.run_at is not None and status.run_at > now:
        found.append(f"it is due {words.ago(status.run_at)}")
    if found:
        return found
    present = spoolers.pids(spool_dir)
    if not present:
        return ["no spooler serves its queue"]
    if len(spoolers.busy([spool_dir], present)) == len(present):
        return [f"{counted(len(present), 'spooler')} of its queue run other jobs"]
    return ["a spooler is about to take it"]


def chain(id: str) -> Chain:
    """Return the jobs beside a job in its chain."""
    after = chains.next_id(id)
    same = lookup.from_store(lambda: locations.store().ids(id[:ID_TIME], MAX_SAME_TIME)) or []
    before = next((one for one in same if chains.next_id(one) == id), None)
    with contextlib.suppress(UnknownJobError):
        return Chain(before, lookup.find(after).id)
    return Chain(before)


def batch(status: Status) -> BatchStatus | None:
    """Return the batch of a job; ``None`` if it has none, or its record was deleted."""
    id = status.batch
    return None if id is None else lookup.from_store(lambda: locations.store().batch(id))


def checkpoint(status: Status) -> str | None:
    """Return what a job has stored for its next attempt, as it may be shown; ``None`` if it has nothing."""
    for spool_dir in lookup.directories(status):
        try:
            if (stored := checkpoints.read(spool_dir, status.id)) is None:
                continue
            value, steps = stored
            tree = redact.value(json.loads(codec.encode(value)))
        except (DecodeError, StoreUnavailableError) as error:
            return f"it cannot be read here: {error}"
        shown = [] if value is None else [json.dumps(tree, ensure_ascii=False)]
        shown += [f"{counted(done, 'step')} of steps()" for done in steps]
        return ", ".join(shown)
    return None
