"""How does a held file become an accepted job, once its transaction is committed?

At the commit, or in a sweep after it. What counts from the commit on, and not from the call on, belongs here: the key
of a unique task.
"""

from __future__ import annotations

from spoolkit.encoding import packet
from spoolkit.errors import DuplicateJobError
from spoolkit.job import JobSpec
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir import held, spoolfile
from spoolkit.spooling import unique_jobs
from spoolkit.system import files, log


def accept(
    path: str, *, folder: str, spool_dir: str, run_at: float | None, declared: Declared | None, config: Settings
) -> bool:
    """Make a held file an accepted job. After a kill at any point of it, it can be called again.

    Args:
        path: The file.
        folder: Where uWSGI runs it from: the spool directory, or a folder of a priority in it.
        spool_dir: The spool directory.
        run_at: When the job is due, in unix seconds; ``None``: at once, or the file is a chunk.
        declared: The task; ``None``: this process does not declare it.
        config: The settings in force.

    Returns:
        Whether it is a job now. If not, the task is unique and another job has the key: the file is deleted.

    Raises:
        OSError: The file, or a key, cannot be read or written.
        SpoolkitError: Which job has the key cannot be found out.
    """

    def publish(job: JobSpec | None = None) -> None:
        held.accept(path, folder, spool_dir, run_at if job is None else job.run_at, fsync=config.fsync)

    if declared is None or declared.options.unique is None:
        publish()
        return True
    # From the file: the caller may have changed a list among the arguments since.
    content = packet.load(read(path))
    job = packet.unpack(content)
    try:
        holder = unique_jobs.submit(job, packet.arguments(content), declared, spool_dir, config, write=publish)
    except DuplicateJobError as error:
        log.warning("job %s of %s was not accepted at its commit: %s", job.id, job.task, error)
        found = error.holder
    else:
        if holder.id == job.id:
            return True
        log.info("job %s of %s is a duplicate: at its commit, job %s has its key", job.id, job.task, holder.id)
        found = holder.id
    if found == job.id:
        raise FileNotFoundError(path)  # another process has just accepted the same file
    files.remove(path)
    return False


def read(path: str, size: int = spoolfile.MAX_SIZE) -> bytes:
    """Return the beginning of a held file. Raises ``OSError``."""
    with open(files.open_regular(path, linked=True), "rb") as file:
        return file.read(size)
