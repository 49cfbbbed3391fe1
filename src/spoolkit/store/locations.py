"""Where the jobs of this process lie, and where they are recorded."""

from __future__ import annotations

import errno
import os

from spoolkit import application, registry
from spoolkit.errors import SpoolUnavailableError, StoreUnavailableError
from spoolkit.settings import Settings
from spoolkit.store import Store
from spoolkit.system import files
from spoolkit.uwsgi import bridge, instance

STORE = "spoolkit.db"

_stores: dict[str, Store] = {}


def directory(config: Settings | None = None) -> str:
    """The spool directory in use: the first that uWSGI serves, elsewhere that of the settings."""
    served = bridge.directories()
    return served[0] if served else (config or _current()).spool


def spool_dir_of(queue: str | None, config: Settings | None = None) -> str:
    """The spool directory that holds a job's own files: ``running/<id>``, ``waiting/<id>`` and ``checkpoints/<id>``.

    Not the folder of the store, which may lie elsewhere. Processes with different spool directories and one store, as
    ``flask spool run`` for each queue, agree on it by what the job says itself.

    Args:
        queue: The spool directory that the call named; ``None`` where it named none.
        config: The settings; ``None``: those in force.

    Returns:
        ``queue`` where it exists, else the spool directory in use.
    """
    return queue if queue is not None and os.path.isdir(queue) else directory(config)


def directories(config: Settings | None = None) -> list[str]:
    """All spool directories that are known here: those of the settings, and of the uWSGI that serves them."""
    here = (config or _current()).spool
    served = bridge.directories()
    if bridge.is_uwsgi():
        if served and not os.access(here, os.R_OK | os.X_OK):
            return served  # the settings may name one that is not there: uWSGI's own are those that matter
    elif running := instance.read(here):
        served = list(running.directories)
    return list(dict.fromkeys([*served, here]))


def check_readable() -> None:
    """Raise where this process cannot see the jobs or their record: what cannot be seen must not count as nothing.

    :class:`SpoolUnavailableError` for a spool directory, :class:`StoreUnavailableError` for the store.
    """
    for directory in directories():
        try:
            files.check_readable(directory)
        except SpoolUnavailableError as error:
            if error.errno != errno.ENOENT:  # no job has come yet
                raise
    path = store().path
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        uid = os.stat(path).st_uid
        reason = f"may not be read by {files.user_name(os.geteuid())}; it belongs to {files.user_name(uid)}"
        raise StoreUnavailableError(f"the record of jobs {path} {reason}: {files.as_user(uid)}", path=path)


def store(config: Settings | None = None) -> Store:
    """The store of the settings in force: ``SPOOLKIT_STORE``, else a file in the spool directory."""
    config = config or _current()
    path = config.store or os.path.join(directory(config), STORE)
    # One per file: SQLite's locks are the process's, and two connections' more than one open at will can keep apart.
    found = _stores.get(path)
    return found if found is not None else _stores.setdefault(path, Store(path))


def _current() -> Settings:
    return application.settings(registry.home())
