"""Where the jobs of this process lie, and where they are recorded."""

from __future__ import annotations

import os

from spoolkit import bridge, instance, registry, settings
from spoolkit.settings import Settings
from spoolkit.store import Store

STORE = "spoolkit.db"

_stores: dict[str, Store] = {}


def directory(config: Settings | None = None) -> str:
    """The spool directory in use: the first that uWSGI serves, elsewhere that of the settings."""
    served = bridge.directories()
    return served[0] if served else (config or _current()).spool


def directories(config: Settings | None = None) -> list[str]:
    """All spool directories that are known here: those of the settings, and of the uWSGI that serves them."""
    here = (config or _current()).spool
    served = bridge.directories()
    if not bridge.is_uwsgi() and (running := instance.read(here)):
        served = list(running.directories)
    return list(dict.fromkeys([*served, here]))


def store(config: Settings | None = None) -> Store:
    """The store of the settings in force: ``SPOOLKIT_STORE``, else a file in the spool directory."""
    config = config or _current()
    path = config.store or os.path.join(directory(config), STORE)
    # One per file: SQLite's locks are the process's, and two connections' more than one open at will can keep apart.
    found = _stores.get(path)
    return found if found is not None else _stores.setdefault(path, Store(path))


def _current() -> Settings:
    return settings.current(registry.home())
