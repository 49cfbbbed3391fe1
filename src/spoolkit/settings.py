"""Which settings do ``SPOOLKIT_*`` in an application's configuration and in the environment give?"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import is_
from typing import Any, NamedTuple

from spoolkit.errors import ConfigurationError, shown
from spoolkit.system import published, sandbox

SPOOL_FOLDER = "my_spools"
"""The default spool directory, relative to the folder of the code."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


QUEUES_SUFFIX = "-queues"
"""What follows the path of the spool directory in that of the folder with the directories of other queues."""

MAX_PROCESSES = 64
"""The most spooler processes of one queue."""

DEFAULT_QUEUE = "default"
"""The name of the queue whose directory is the spool directory."""

_QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def is_queue_name(text: str) -> bool:
    """Return whether ``text`` has the form of a queue's name: letters, digits, ``-`` and ``_``."""
    return _QUEUE_NAME.fullmatch(text) is not None


class Queue(NamedTuple):
    """A spool directory with a name, and with spoolers of its own."""

    #: Its name.
    name: str
    #: Its directory, absolute. Empty: ``<spool>-queues/<name>``.
    path: str = ""
    #: How many spooler processes ``flask spool run`` starts for it, and ``flask spool ini`` writes down.
    processes: int = 1
    #: How many of its jobs may wait; a call beyond that is refused. ``None``: ``SPOOLKIT_MAX_WAITING``.
    max_waiting: int | None = None


@dataclass(frozen=True)
class Settings:
    """Where and how jobs are kept and run."""

    #: The spool directory, absolute. Under uWSGI, the directory that uWSGI serves is used instead.
    spool: str
    #: Whether each job is written through to the disk before the call returns, so that it survives a power cut.
    fsync: bool = False
    #: Bytes that the arguments of a job may take.
    max_body: int = 64 * 1024 * 1024
    #: Seconds before a failed job of another library runs again.
    retry_delay: float = 5.0
    #: Whether ``flask run`` also runs jobs, in a process beside it.
    dev_runner: bool = True
    #: The SQLite file in which jobs are recorded, absolute. Empty: ``spoolkit.db`` in the spool directory.
    store: str = ""
    #: Bytes that the result of a job may take.
    max_result: int = 1024 * 1024
    #: Seconds after a task's ``timeout`` at which its process is killed.
    timeout_grace: float = 10.0
    #: The grace period: seconds for which a stop waits for requests and jobs before it interrupts them.
    grace: float = 30.0
    #: Seconds for which a job that this version of the code cannot run is left for another version.
    unknown_grace: float = 600.0
    #: Seconds for which the record of a job that is done or cancelled is kept.
    keep_done: float = 7 * 86400.0
    #: Seconds for which a dead job is kept, with its file.
    keep_dead: float = 90 * 86400.0
    #: Seconds that a job may be due and still wait, in a site that is ready.
    max_due_age: float = 300.0
    #: How many jobs a spooler runs before another one takes its place; 0: any number.
    spooler_max_jobs: int = 0
    #: Bytes of memory beyond which another spooler takes its place after the running job; 0: any number.
    spooler_max_memory: int = 0
    #: How many jobs of ``@thread`` run at once in one process.
    threads: int = 8
    #: How many more jobs of ``@thread`` may wait in one process.
    thread_queue: int = 1000
    #: Seconds that the jobs of ``@thread`` get to finish when their process is asked to exit.
    thread_grace: float = 10.0
    #: The queues besides the default one.
    queues: tuple[Queue, ...] = ()
    #: How many jobs of a queue may wait; a call beyond that is refused. ``None``: any number.
    max_waiting: int | None = None
    #: The names of the headers that each log line of a job has, if the job has them.
    log_headers: tuple[str, ...] = ("request_id",)
    #: Whether a call waits for the commit of the transaction in progress without being asked to: ``"auto"``.
    after_commit: bool = False
    #: What a job with a limit or a rate does while the store cannot be written: ``wait``, or ``run`` without the limit.
    limits_without_store: str = "wait"
    #: What carries the jobs of ``@spool`` to where they run: ``spool``, or ``celery``.
    engine: str = "spool"
    #: Seconds of silence after which an attempt in a worker of Celery counts as lost.
    celery_lost: float = 20.0
    #: How many attempts may follow the first one of a job that was declared with a name of ``spoolkit.compat``.
    compat_retries: int = 5

    @classmethod
    def load(cls, config: Mapping[str, object], root: str) -> Settings:
        """Read the settings from a configuration, else from the environment, else take the defaults.

        Args:
            config: The configuration of an application, ``app.config``.
            root: The folder of the application's top package or module. A relative path refers to it. Where no
                ``SPOOLKIT_SPOOL`` is given, the spool directory is the one that the last spooler of this user published
                for this folder, else ``my_spools`` in it.

        Returns:
            The settings.

        Raises:
            ConfigurationError: A setting has a value that cannot be used.
        """
        values = [*map(config.get, _READERS)]
        # As it is encoded: os.environ itself would encode each name at each look-up.
        environment = getattr(os.environ, "_data", os.environ)
        latest = _latest.get(root)
        # By identity: 1 and True are equal, but only one of them is a number of threads.
        if latest is None or latest.environment != environment or not all(map(is_, latest.values, values)):
            latest = _Latest(values, dict(environment), _read(values, root))
            if len(_latest) >= _ROOTS:
                _latest.clear()
            _latest[root] = latest
        parsed = latest.settings
        if not sandbox.is_test_run():
            return parsed
        store = parsed.store and sandbox.private(parsed.store)
        queues = tuple(one._replace(path=one.path and sandbox.private_directory(one.path)) for one in parsed.queues)
        return replace(parsed, spool=sandbox.private_directory(parsed.spool), store=store, queues=queues)


class _Latest(NamedTuple):
    """The settings of an application as they were read last. They are asked for several times per job."""

    #: What the configuration held.
    values: list[object]
    #: The whole environment: to compare it takes half as long as to look up each variable.
    environment: dict[Any, Any]
    #: What was made of it.
    settings: Settings


_ROOTS = 16
"""For how many folders the latest settings are kept."""

_latest: dict[str, _Latest] = {}
"""The latest settings by the folder that relative paths refer to."""


def _read(values: list[object], root: str) -> Settings:
    # An empty variable counts as not set: a compose file or a shell script may pass on one that has no value.
    given = tuple(
        os.environ.get(name) or None if value is None else value for name, value in zip(_READERS, values, strict=True)
    )
    return _parse(given, root)


def _parse(given: tuple[object, ...], root: str) -> Settings:
    values: dict[str, Any] = {}
    for (name, read), value in zip(_READERS.items(), given, strict=True):
        field = name.removeprefix("SPOOLKIT_").lower()
        unset = value is None or (read is _path and not value)
        values[field] = read(name, getattr(Settings, field, SPOOL_FOLDER) if unset else value)
        if read is _path and values[field]:
            found = published.find(root) if unset and name == "SPOOLKIT_SPOOL" else None
            values[field] = found or os.path.realpath(os.path.join(root, values[field]))
    _check_directories(values["spool"], values["queues"])
    return Settings(**values)


def _check_directories(spool: str, queues: tuple[Queue, ...]) -> None:
    """Refuse two queues with one directory, and one within another: a spooler would run the jobs of both, or neither.

    Raises:
        ConfigurationError: There are such queues.
    """
    paths = {spool: DEFAULT_QUEUE}
    for queue in queues:
        path = queue.path or f"{spool}{QUEUES_SUFFIX}/{queue.name}"
        for other, name in paths.items():
            if os.path.commonpath([path, other]) in (path, other):
                raise ConfigurationError(
                    f"SPOOLKIT_QUEUES: the directory of {queue.name!r}, {path}, is that of {name!r}, or one of them is "
                    f"inside the other, {other}: give each queue a path of its own",
                    setting="SPOOLKIT_QUEUES",
                )
        paths[path] = queue.name


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


def _auto(name: str, value: object) -> bool:
    text = (value if isinstance(value, str) else shown(value)).strip().lower()
    if text == "auto":
        return True
    if text in _FALSE:
        return False
    raise ConfigurationError(f'{name} is {shown(value)}: give "auto", or false', setting=name)


def _whole(name: str, value: object) -> int:
    return int(_number(name, value))


def _one_or_more(name: str, value: object) -> int:
    number = _whole(name, value)
    if number < 1:
        raise ConfigurationError(f"{name} is {shown(value)}: give a number, one or more", setting=name)
    return number


def _bound(name: str, value: object) -> int | None:
    return None if value is None else _one_or_more(name, value)


def _queues(name: str, value: object) -> tuple[Queue, ...]:
    if isinstance(value, str):  # from the environment
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if value == ():
        return ()
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f'{name} is {shown(value)}: give a dict of queues, such as {{"mail": {{"processes": 2}}}}', setting=name
        )
    return tuple(_queue(name, queue, {} if options is None else options) for queue, options in value.items())


def _queue(setting: str, name: object, options: object) -> Queue:
    if not isinstance(name, str) or not is_queue_name(name):
        problem = f"{shown(name)} is no name of a queue: give letters, digits, - and _; a path is the option path"
        raise ConfigurationError(f"{setting}: {problem}", setting=setting)
    if name == DEFAULT_QUEUE:
        problem = f"{name!r} is the queue in SPOOLKIT_SPOOL: give this one another name"
        raise ConfigurationError(f"{setting}: {problem}", setting=setting)
    where = f"{setting}[{name!r}]"
    if not isinstance(options, Mapping):
        problem = f'{shown(options)}: give a dict of options, such as {{"processes": 2}}'
        raise ConfigurationError(f"{where} is {problem}", setting=setting)
    if unknown := options.keys() - _QUEUE_OPTIONS.keys():
        problem = f"has no option {', '.join(sorted(map(shown, unknown)))}: give some of {', '.join(_QUEUE_OPTIONS)}"
        raise ConfigurationError(f"{where} {problem}", setting=setting)
    read = {option: _QUEUE_OPTIONS[option](f"{where}[{option!r}]", value) for option, value in options.items()}
    return Queue(name, **read)


def _absolute(name: str, value: object) -> str:
    path = _path(name, value)
    if not os.path.isabs(path):
        raise ConfigurationError(f"{name} is {shown(value)}: give an absolute path", setting=name)
    return os.path.realpath(path)


def _processes(name: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MAX_PROCESSES:
        raise ConfigurationError(f"{name} is {shown(value)}: give a number, 1 to {MAX_PROCESSES}", setting=name)
    return value


_QUEUE_OPTIONS: dict[str, Callable[[str, object], Any]] = {
    "processes": _processes,
    "path": _absolute,
    "max_waiting": _bound,
}
"""The options of a queue."""


def _names(name: str, value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(one, str) for one in names):
        raise ConfigurationError(f"{name} is {shown(value)}: give names, separated by commas", setting=name)
    return tuple(filter(None, map(str.strip, names)))


def _wait_or_run(name: str, value: object) -> str:
    if value not in ("wait", "run"):
        raise ConfigurationError(f"{name} is {shown(value)}: give wait or run", setting=name)
    return str(value)


def _engine(name: str, value: object) -> str:
    if value not in ("spool", "celery"):
        raise ConfigurationError(f"{name} is {shown(value)}: give spool or celery", setting=name)
    return str(value)


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
    "SPOOLKIT_MAX_DUE_AGE": _number,
    "SPOOLKIT_SPOOLER_MAX_JOBS": _whole,
    "SPOOLKIT_SPOOLER_MAX_MEMORY": _whole,
    "SPOOLKIT_THREADS": _one_or_more,
    "SPOOLKIT_THREAD_QUEUE": _whole,
    "SPOOLKIT_THREAD_GRACE": _number,
    "SPOOLKIT_QUEUES": _queues,
    "SPOOLKIT_MAX_WAITING": _bound,
    "SPOOLKIT_LOG_HEADERS": _names,
    "SPOOLKIT_AFTER_COMMIT": _auto,
    "SPOOLKIT_LIMITS_WITHOUT_STORE": _wait_or_run,
    "SPOOLKIT_ENGINE": _engine,
    "SPOOLKIT_CELERY_LOST": _number,
    "SPOOLKIT_COMPAT_RETRIES": _whole,
}

NAMES = tuple(_READERS)
"""The names of all settings, in an application's configuration and in the environment."""
