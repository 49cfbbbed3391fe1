"""Where are the jobs of this process, and where are they recorded?"""

from __future__ import annotations

import errno
import os

from spoolkit import application, registry
from spoolkit.errors import SpoolUnavailableError, StoreUnavailableError
from spoolkit.settings import DEFAULT_QUEUE, QUEUES_SUFFIX, Settings
from spoolkit.store import Store
from spoolkit.system import files
from spoolkit.uwsgi import bridge, instance

STORE_FILE = "spoolkit.db"
"""The name of the store's file in the spool directory, if ``SPOOLKIT_STORE`` names no other path."""

open_stores: dict[str, Store] = {}
"""The stores that this process has used, by path."""


def spool_dir(config: Settings | None = None) -> str:
    """Return the spool directory in use: the first one that uWSGI serves; without uWSGI, that of the settings.

    Args:
        config: The settings; ``None``: those in force.
    """
    served = bridge.directories()
    return served[0] if served else (config or _current()).spool


def spool_dir_of(queue: str | None, config: Settings | None = None) -> str:
    """Return the spool directory with a job's own files: in ``running/``, ``waiting/`` and ``checkpoints/``.

    It is not the folder of the store, which may be elsewhere. Processes with different spool directories and one store,
    as ``flask spool run`` for each queue, agree on it by what the job itself says. For a job that names no queue they
    agree on the directory of the settings, which processes outside uWSGI know as well, if uWSGI serves it.

    Args:
        queue: The queue of the job: a name or a spool directory; ``None``: the default one.
        config: The settings; ``None``: those in force.

    Returns:
        The directory of ``queue`` if it exists, otherwise the spool directory of the settings if uWSGI serves it,
        otherwise the one in use.
    """
    config = config or _current()
    if queue is not None and os.path.isdir(path := queue if os.path.isabs(queue) else queue_dir(queue, config)):
        return path
    return config.spool if config.spool in bridge.directories() else spool_dir(config)


def queue_dir(name: str, config: Settings | None = None) -> str:
    """Return the spool directory of the queue ``name``, which need not exist, nor be configured any more.

    Args:
        name: The name of the queue.
        config: The settings; ``None``: those in force.
    """
    config = config or _current()
    own = next((queue.path for queue in config.queues if queue.name == name), "")
    return own or f"{spool_dir_of(None, config)}{QUEUES_SUFFIX}/{name}"


def queue_dirs(config: Settings | None = None) -> dict[str, str]:
    """Return the spool directories of all queues by their names, the default one first.

    Args:
        config: The settings; ``None``: those in force.
    """
    config = config or _current()
    named = {queue.name: queue_dir(queue.name, config) for queue in config.queues}
    return {DEFAULT_QUEUE: spool_dir_of(None, config), **named}


def queue_name(path: str, config: Settings | None = None) -> str | None:
    """Return the name of the queue with the spool directory ``path``; ``None`` if it has no name.

    Args:
        path: The spool directory.
        config: The settings; ``None``: those in force.
    """
    return next((name for name, known in queue_dirs(config).items() if known == path), None)


def spool_dirs(config: Settings | None = None) -> list[str]:
    """Return all spool directories that are known: those of the uWSGI that serves the site, and and those of the
    settings: the default one, and those of other queues that exist.

    Args:
        config: The settings; ``None``: those in force.
    """
    config = config or _current()
    configured, served = config.spool, bridge.directories()
    named = [path for queue in config.queues if os.path.isdir(path := queue_dir(queue.name, config))]
    if bridge.is_uwsgi():
        if served and not os.access(configured, os.R_OK | os.X_OK):
            # The settings may name a directory that does not exist: what counts is what uWSGI serves.
            return list(dict.fromkeys([*served, *named]))
    elif running := instance.read(configured):
        served = list(running.directories)
    return list(dict.fromkeys([*served, configured, *named]))


def check_readable() -> None:
    """Raise if this process cannot read the jobs or their records: that must not look as if there were no jobs.

    Raises:
        SpoolUnavailableError: A spool directory cannot be read.
        StoreUnavailableError: The store cannot be read.
    """
    for path in spool_dirs():
        try:
            files.check_readable(path)
        except SpoolUnavailableError as error:
            if error.errno != errno.ENOENT:  # no job has come yet
                raise
    path = store().path
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        uid = os.stat(path).st_uid
        reason = f"may not be read by {files.user_name(os.geteuid())}; it belongs to {files.user_name(uid)}"
        raise StoreUnavailableError(f"the record of jobs {path} {reason}: {files.as_user(uid)}", path=path)


def store(config: Settings | None = None) -> Store:
    """Return the store: the file that ``SPOOLKIT_STORE`` names, otherwise :data:`STORE_FILE` in the spool directory.

    Args:
        config: The settings; ``None``: those in force.
    """
    config = config or _current()
    path = config.store or f"{spool_dir(config)}/{STORE_FILE}"
    # One for each file: SQLite's locks belong to the process, so that connections to one file which are opened and
    # closed independently could release each other's.
    found = open_stores.get(path)
    return found if found is not None else open_stores.setdefault(path, Store(path))


def _current() -> Settings:
    return application.settings(registry.code_folder())
