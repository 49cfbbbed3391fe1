"""What follows from the end of a batch's member? The callback once all have ended, and a request to stop after a death.

It follows from what the store says, at each end of a member and at each sweep: a kill at any moment delays it only.
"""

from __future__ import annotations

from spoolkit import application, registry
from spoolkit.coordination import successors
from spoolkit.encoding import packet
from spoolkit.errors import ArgumentError, DecodeError, NewerJobError, SpoolkitError, StoreUnavailableError
from spoolkit.job import JobSpec, State, replaced
from spoolkit.settings import Settings
from spoolkit.spooldir import batches, running, waiting
from spoolkit.store import Store, existence, locations
from spoolkit.system import clock, log


def member_ended(batch: str, state: State | None, store: Store, config: Settings) -> None:
    """Do what follows from the recorded end of a member. Never raises: a sweep does what could not be done.

    Args:
        batch: The id of the batch.
        state: In which state the member ended.
        store: Where it is recorded.
        config: The settings in force.
    """
    try:
        if state is State.DEAD:
            for id, queue, pid in store.asked_to_stop(batch):
                running.ask_to_stop(locations.spool_dir_of(queue, config), id, pid)
        call_back(store, config)
        wake_waiters(batch, config)
    except (SpoolkitError, OSError) as error:
        _complain(error)


def wake_waiters(batch: str, config: Settings) -> None:
    """Wake the processes that wait for a batch."""
    waiting.wake_waiters(locations.spool_dir_of(None, config), batch)


def call_back(store: Store, config: Settings) -> None:
    """Write the callbacks of all batches that are complete and have not called back.

    One that cannot be written holds up no other: it is logged, and tried again later.

    Raises:
        StoreUnavailableError: The store cannot be read or written.
    """
    for batch in store.to_call_back():
        written: list[JobSpec] = []

        def write(id: str, data: bytes, written: list[JobSpec] = written) -> None:
            content = packet.load(data)
            packet.check_understood(content)
            job = replaced(packet.head(content), id=id, enqueued_at=clock.now())
            if not successors.exists(job, store, config):
                successors.write(job, packet.arguments(content), config)
            written.append(job)

        try:
            store.call_back(batch, write)
        except NewerJobError as error:
            log.complain("the callback of the batch %s is left for a newer version of spoolkit: %s", batch, error)
        except (ArgumentError, DecodeError, OSError) as error:
            log.complain("the callback of the batch %s cannot be written, and is tried again later", batch, error=error)
        for job in written:
            log.debug("the batch %s is complete: job %s of %s is accepted", batch, job.id, job.task)
            successors.announce(job, config)
        wake_waiters(batch, config)


def sweep(spool_dir: str) -> None:
    """Do what processes left undone that were killed, in a spool directory that this process serves. Never raises."""
    config = application.settings(registry.code_folder())
    store = locations.store(config)
    try:
        _publish(store, spool_dir, config)
        _end_members(store, config)
        call_back(store, config)
    except (SpoolkitError, OSError) as error:
        _complain(error)


def _publish(store: Store, spool_dir: str, config: Settings) -> None:
    for batch in batches.staged(spool_dir):
        if store.batch(batch) is not None:
            batches.publish(spool_dir, batch, fsync=config.fsync)
        elif batches.is_stray(spool_dir, batch):
            store.forget_unless_accepted(batch, lambda batch=batch: batches.refuse(spool_dir, batch))  # type: ignore[misc]
    batches.sweep(spool_dir)


def _end_members(store: Store, config: Settings) -> None:
    """Note the ends of members of which the store was not told: it could not be written, or somebody took the file."""
    suspects = {suspect.job: suspect for suspect in store.suspects()}
    if not suspects:
        return
    # Also those that this process does not know otherwise: another one has named the directory, or the queue.
    named = {suspect.queue for suspect in suspects.values()} - {None}
    spool_dirs = list(
        dict.fromkeys([*locations.spool_dirs(config), *(locations.spool_dir_of(queue, config) for queue in named)])
    )
    missing, dead = existence.without_file(spool_dirs, suspects)
    ends = dict.fromkeys((suspects[job] for job in dead), State.DEAD)
    for job in missing:
        if not any(running.is_running(spool_dir, job) for spool_dir in spool_dirs):
            # As a query for the job answers: the file of one that runs is removed only when the job is done.
            ends[suspects[job]] = State.DONE if suspects[job].state is State.RUNNING else State.LOST
    if ends:
        noted = store.end_members(ends)
        if noted:
            ids = ", ".join(sorted(suspect.job for suspect in ends)[:5])
            log.warning("%d members of batches have ended without a record: %s", noted, ids)


def _complain(error: Exception) -> None:
    if isinstance(error, StoreUnavailableError):
        log.unrecorded(error)
    else:
        log.complain("what follows from the end of a batch's member could not be done, and is tried again", error=error)
