"""The settings, read from ``SPOOLKIT_*`` in the application's configuration and in the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from spoolkit.errors import ConfigurationError, shown
from spoolkit.system import published, sandbox

SPOOL_FOLDER = "my_spools"

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


@dataclass(frozen=True)
class Settings:
    """Where and how jobs are kept.

    ``spool``        the spool directory, absolute; under uWSGI the directory that uWSGI serves comes first
    ``fsync``        write each job through to the disk before the call returns
    ``max_body``     bytes that a job's arguments may take
    ``retry_delay``  seconds before a failed job of another library runs again
    ``dev_runner``   run jobs beside ``flask run``
    ``store``        the SQLite file in which jobs are recorded, absolute; empty: ``spoolkit.db`` in the spool directory
    ``max_result``   bytes that a job's result may take
    ``timeout_grace``  seconds after a task's timeout at which its process is ended
    ``grace``        seconds for which a stop waits for the jobs that run
    ``unknown_grace``  seconds for which a job that this version of the code cannot run is left for another version
    ``keep_done``    seconds for which the record of a job that is done or cancelled is kept
    ``keep_dead``    seconds for which a dead job is kept, its file included
    ``threads``      how many jobs of ``@thread`` run at once in one process
    ``thread_queue`` how many more may wait there
    ``thread_grace`` seconds that they get to finish when the process is asked to go
    """

    spool: str
    fsync: bool = False
    max_body: int = 64 * 1024 * 1024
    retry_delay: float = 5.0
    dev_runner: bool = True
    store: str = ""
    max_result: int = 1024 * 1024
    timeout_grace: float = 10.0
    grace: float = 30.0
    unknown_grace: float = 600.0
    keep_done: float = 7 * 86400.0
    keep_dead: float = 90 * 86400.0
    threads: int = 8
    thread_queue: int = 1000
    thread_grace: float = 10.0

    @classmethod
    def load(cls, config: Mapping[str, object], root: str) -> Settings:
        """The settings of an application.

        ``config`` (``app.config``) comes before the environment, the environment before the defaults. ``root`` is the
        folder in which the top package or module of the code lies: a relative ``SPOOLKIT_SPOOL`` refers to it. Where
        none is set, it is what the last spooler of this user published for that folder, else ``my_spools`` in it.
        Raises :class:`ConfigurationError`.
        """

        # Set to nothing, as compose files and shells do with what they do not know, is not set.
        given = tuple(
            config[name] if config.get(name) is not None else os.environ.get(name) or None for name in _READERS
        )
        try:
            parsed = _parsed(given, root)
        except TypeError:  # a value that cannot be hashed is none that can be used: let it be refused by its name
            parsed = _parse(given, root)
        if not sandbox.is_test_run():
            return parsed
        store = parsed.store and sandbox.private(parsed.store)
        return replace(parsed, spool=sandbox.private_directory(parsed.spool), store=store)


def _parse(given: tuple[object, ...], root: str) -> Settings:
    values: dict[str, Any] = {}
    for (name, read), value in zip(_READERS.items(), given, strict=True):
        field = name.removeprefix("SPOOLKIT_").lower()
        unset = value is None or (read is _path and not value)
        values[field] = read(name, getattr(Settings, field, SPOOL_FOLDER) if unset else value)
        if read is _path and values[field]:
            found = published.find(root) if unset and name == "SPOOLKIT_SPOOL" else None
            values[field] = found or os.path.realpath(os.path.join(root, values[field]))
    return Settings(**values)


# Asked for at every job, and seldom changed.
_parsed = lru_cache(maxsize=16)(_parse)


def _path(name: str, value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigurationError(f"{name} is {shown(value)}: give a path", setting=name)
    return os.fspath(value)


def _flag(name: str, value: object) -> bool:
    text = (value if isinstance(value, str) else shown(value)).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ConfigurationError(f"{name} is {shown(value)}: give true or false", setting=name)


def _number(name: str, value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ConfigurationError(f"{name} is {shown(value)}: give a number, zero or more", setting=name)
    return number


def _whole(name: str, value: object) -> int:
    return int(_number(name, value))


def _one_or_more(name: str, value: object) -> int:
    number = _whole(name, value)
    if number < 1:
        raise ConfigurationError(f"{name} is {shown(value)}: give a number, one or more", setting=name)
    return number


_READERS: dict[str, Callable[[str, object], object]] = {
    "SPOOLKIT_SPOOL": _path,
    "SPOOLKIT_FSYNC": _flag,
    "SPOOLKIT_MAX_BODY": _whole,
    "SPOOLKIT_RETRY_DELAY": _number,
    "SPOOLKIT_DEV_RUNNER": _flag,
    "SPOOLKIT_STORE": _path,
    "SPOOLKIT_MAX_RESULT": _whole,
    "SPOOLKIT_TIMEOUT_GRACE": _number,
    "SPOOLKIT_GRACE": _number,
    "SPOOLKIT_UNKNOWN_GRACE": _number,
    "SPOOLKIT_KEEP_DONE": _number,
    "SPOOLKIT_KEEP_DEAD": _number,
    "SPOOLKIT_THREADS": _one_or_more,
    "SPOOLKIT_THREAD_QUEUE": _whole,
    "SPOOLKIT_THREAD_GRACE": _number,
}
