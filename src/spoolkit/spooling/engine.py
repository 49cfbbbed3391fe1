"""How does a call become a job in a spool directory? A job is one file, and is accepted once that file is there."""

from __future__ import annotations

import os
from functools import lru_cache

from spoolkit import application, registry
from spoolkit.encoding import packet
from spoolkit.errors import QueueOptionError, SpoolUnavailableError
from spoolkit.job import AnyJob, JobSpec
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir import spoolers, spoolfile
from spoolkit.store import locations
from spoolkit.system import clock, files, log, sandbox
from spoolkit.uwsgi import bridge


class SpoolEngine:
    """Jobs that survive the process, a reload and a reboot."""

    name = "spool"

    def submit(self, job: AnyJob, declared: Declared) -> AnyJob:
        """Write ``job`` into its spool directory and wake a spooler.

        Raises :class:`ArgumentError` for what cannot cross, :class:`SpoolUnavailableError` where the directory is full,
        read-only or gone, :class:`DuplicateTaskError` where the task was replaced since. Nothing was written then.
        """
        registry.check_not_replaced(declared)
        config = application.settings(declared.home)
        # What is larger than any spooler reads would be accepted, and set aside instead of run.
        limit = min(config.max_body, spoolfile.MAX_SIZE - 4 - packet.LIMIT)
        content = packet.dump(packet.pack(job, max_body=limit, names=declared.positional))
        directory = _directory(job, config)
        try:
            if directory not in bridge.directories():
                _prepare(directory, config)
            folder = directory if job.priority is None else _priority_folder(directory, job.priority)
            spoolfile.write(folder, job.id, content, run_at=job.run_at, fsync=config.fsync)
        except OSError as error:
            raise SpoolUnavailableError(
                f"the spool directory {directory} takes no job ({error.strerror or error}), nothing was accepted: "
                "see that it is there, writable and not full",
                directory=directory,
                errno=error.errno,
            ) from error
        log.debug("job %s of %s is accepted in %s", job.id, job.task, directory)
        if job.run_at is None or job.run_at <= clock.now():
            spoolers.wake(directory)
        return job


def _directory(job: JobSpec, config: Settings) -> str:
    served = bridge.directories()
    if job.queue is None:
        return served[0] if served else config.spool
    if served and job.queue not in served:
        raise QueueOptionError(
            f"spooler is {job.queue!r}, which this uWSGI does not serve; it serves {', '.join(served)}",
            argument="spooler",
        )
    if not served and job.queue not in (known := locations.spool_dirs(config)) and not _is_queue(job.queue):
        raise QueueOptionError(
            f"spooler is {job.queue!r}, which is no spool directory: nobody would run the job. Known are "
            f"{', '.join(known)}; another one is known once `flask spool run` or uWSGI has served it",
            argument="spooler",
        )
    return job.queue


def _is_queue(path: str) -> bool:
    try:
        return sandbox.is_private(path) or spoolfile.is_spool_directory(path)
    except OSError:
        return False


def _priority_folder(directory: str, priority: int) -> str:
    if bridge.has_priorities() is False:
        raise QueueOptionError(
            f"priority is {priority}, but this uWSGI does not look into priority folders and would never run the job: "
            "set spooler-ordered = true in uwsgi.ini",
            argument="priority",
        )
    folder = os.path.join(directory, str(priority))
    files.make_folder(folder)
    return folder


@lru_cache(maxsize=16)
def may_make(directory: str) -> bool:
    """Whether the first job may make the spool directory: it was not there when this process first asked.

    One that goes away later must not come back as an empty one that nobody serves.
    """
    return not os.path.lexists(directory)


def _prepare(directory: str, config: Settings) -> None:
    """See that a job of this process can be run by those who serve the directory. Raises ``OSError``."""
    if directory == config.spool and may_make(directory):
        files.make_spool_directory(directory)
    files.check_user(directory)
