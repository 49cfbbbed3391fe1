"""How is a job written whose id follows from that of another one? Once, however often and by whomever it is done."""

from __future__ import annotations

import contextlib
import os

from spoolkit import signals
from spoolkit.encoding import packet
from spoolkit.job import JobSpec
from spoolkit.settings import Settings
from spoolkit.spooldir import later, priorities, spoolers, spoolfile
from spoolkit.store import Store, existence, locations
from spoolkit.system import clock


def exists(job: JobSpec, store: Store, config: Settings) -> bool:
    """Return whether the job was written before. Raises :class:`StoreUnavailableError` and ``OSError``."""
    return existence.exists(store, dict.fromkeys([spool_dir_of(job, config), *locations.spool_dirs(config)]), job.id)


def write(job: JobSpec, call: bytes, config: Settings) -> None:
    """Write the file of a job unless its name exists: by ``link()``, because a spooler may run the job of that name.

    Args:
        job: The job, without its arguments.
        call: The encoded arguments.
        config: The settings in force.

    Raises:
        TooLargeError: The job does not fit into a packet.
        OSError: The file could not be written.
    """
    spool_dir, data = spool_dir_of(job, config), packet.dump_job(job, call)
    priority = priorities.scanned(job.priority, spool_dir)
    with contextlib.suppress(FileExistsError):
        if job.run_at is not None and job.run_at > clock.now():
            later.write(
                spool_dir,
                job.id,
                data,
                run_at=job.run_at,
                priority=priority,
                fsync=config.fsync,
                exclusive=True,
            )
            return
        folder = priorities.folder(spool_dir, priority)
        spoolfile.write(folder, job.id, data, run_at=job.run_at, fsync=config.fsync, exclusive=True)


def announce(job: JobSpec, config: Settings) -> None:
    """Wake a spooler for a job that was written, and send the signal that it is accepted."""
    signals.accepted([job])
    spoolers.wake(spool_dir_of(job, config), job.id)


def spool_dir_of(job: JobSpec, config: Settings) -> str:
    """The spool directory of a job that no caller waits for."""
    if job.queue is None:
        return locations.spool_dir(config)
    return job.queue if os.path.isabs(job.queue) else locations.queue_dir(job.queue, config)
